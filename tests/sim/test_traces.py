"""Files of requests: what is read, and the sentence for what cannot be."""

import gzip
import random
from pathlib import Path

import pytest

from llmservice_sim import traces, traces_servegen
from llmservice_sim.traces import Lengths, Row, TraceError
from llmservice_sim.workload import Cut, arrivals, rows_of, sample_path
from tests.sim.fleets import LOOSE, STRICT

OWN = "time_s,prompt_tokens,output_tokens,class\n0.5,10,3,strict\n0.5,20,1,\n2,30,2,loose\n"


def written(folder: Path, name: str, text: str) -> Path:
    path = folder / name
    path.write_bytes(gzip.compress(text.encode()) if name.endswith(".gz") else text.encode())
    return path


@pytest.mark.parametrize("name", ["own.csv", "own.csv.gz"])
def test_a_table_of_one_s_own(tmp_path: Path, name: str) -> None:
    assert traces.read(written(tmp_path, name, OWN)) == [
        Row(time_s=0.5, prompt_tokens=10, output_tokens=3, service_class="strict"),
        Row(time_s=0.5, prompt_tokens=20, output_tokens=1),
        Row(time_s=2.0, prompt_tokens=30, output_tokens=2, service_class="loose"),
    ]


def test_lines_of_json(tmp_path: Path) -> None:
    text = '{"time_s": 1, "prompt_tokens": 5, "output_tokens": 2, "class": "strict"}\n\n'
    (row,) = traces.read(written(tmp_path, "own.jsonl", text))  # type: ignore[misc]
    assert row == Row(time_s=1.0, prompt_tokens=5, output_tokens=2, service_class="strict")


def test_azure_as_published(tmp_path: Path) -> None:
    text = (
        "TIMESTAMP,ContextTokens,GeneratedTokens\n2023-11-16 18:15:46.6805900,374,44\n2023-11-16 18:15:47.6805900,3,9\n"
    )
    first, second = traces.read(written(tmp_path, "azure.csv", text))  # type: ignore[misc]
    assert second.time_s - first.time_s == pytest.approx(1.0)
    assert (first.prompt_tokens, first.output_tokens) == (374, 44)


def test_mooncake_s_ticks_are_spread(tmp_path: Path) -> None:
    line = '{{"timestamp": {}, "input_length": 100, "output_length": 7, "hash_ids": [1]}}\n'
    text = "".join(line.format(t) for t in (0, 0, 0, 3000, 9000))
    rows = traces.read(written(tmp_path, "mooncake.jsonl", text))
    assert isinstance(rows, list)
    assert [r.time_s for r in rows] == [0.0, 1.0, 2.0, 3.0, 9.0]


def test_lengths_without_times_arrive_at_a_rate(tmp_path: Path) -> None:
    path = written(tmp_path, "lengths.csv", "num_prefill_tokens,num_decode_tokens\n10,2\n20,4\n")
    assert traces.read(path) == Lengths(pairs=[(10, 2), (20, 4)])
    rows = rows_of(path, Cut(rate_rps=20, seconds=100), 1)
    assert len(rows) == pytest.approx(2000, rel=0.1)
    assert {(r.prompt_tokens, r.output_tokens) for r in rows} == {(10, 2), (20, 4)}


def test_servegen_windows_keep_their_rates_and_lengths(tmp_path: Path) -> None:
    path = written(tmp_path, "m_windows.csv", "t_start_s,rate_rps\n0,10\n600,30\n1200,0\n")
    written(
        tmp_path,
        "m_length_quantiles_6h.csv.gz",
        "t_start_s,field,mean,p0.1,p50,p99.9,rate_coverage\n0,input_tokens,9,10,100,1000,1\n0,output_tokens,9,5,5,5,1\n",
    )
    rows = traces_servegen.read(path, random.Random(1), start_s=0, seconds=1200, rate_rps=None)
    early = sum(r.time_s < 600 for r in rows)
    assert early == pytest.approx(6000, rel=0.1)
    assert len(rows) - early == pytest.approx(18000, rel=0.1)
    assert {r.output_tokens for r in rows} == {5}
    below = sum(r.prompt_tokens <= 100 for r in rows) / len(rows)
    assert below == pytest.approx(0.5, abs=0.02)
    scaled = traces_servegen.read(path, random.Random(1), start_s=600, seconds=600, rate_rps=2)
    assert len(scaled) == pytest.approx(1200, rel=0.15)
    assert 0 <= scaled[0].time_s <= scaled[-1].time_s < 600


@pytest.mark.parametrize("family", ["Gamma", "Weibull"])
def test_servegen_s_clients_are_as_many_and_as_bursty_as_they_were(tmp_path: Path, family: str) -> None:
    path = written(tmp_path, "m_windows.csv", "t_start_s,rate_rps\n" + "".join(f"{600 * i},20\n" for i in range(4)))
    written(
        tmp_path,
        "m_length_quantiles_6h.csv",
        "t_start_s,field,mean,p0.1,p99.9\n0,input_tokens,9,10,10\n0,output_tokens,9,5,5\n",
    )
    clients = "".join(f"1,{600 * i},20,2,{family},0.5,1\n" for i in range(4))
    written(tmp_path, "m_clients.csv", "client,t_start_s,rate_rps,cv,iat_family,shape,scale\n" + clients)
    rows = traces_servegen.read(path, random.Random(2), start_s=0, seconds=2400, rate_rps=None)
    assert len(rows) == pytest.approx(48000, rel=0.05)
    per_second = [0] * 2400
    for r in rows:
        per_second[int(r.time_s)] += 1
    mean = len(rows) / 2400
    assert sum((n - mean) ** 2 for n in per_second) / 2400 > 1.5 * mean


def test_the_sample_in_the_package() -> None:
    rows = rows_of(sample_path(), Cut(), 0)
    assert len(rows) == 2247
    assert rows[0].time_s == 0.0
    assert rows == rows_of(sample_path(), Cut(), 1)


@pytest.mark.parametrize("rate", [2.0, 15.0])
def test_a_rate_makes_more_or_fewer_requests_in_the_same_time(rate: float) -> None:
    rows = rows_of(sample_path(), Cut(rate_rps=rate), 0)
    assert len(rows) == pytest.approx(rate * 480, rel=0.05)
    assert rows[-1].time_s == pytest.approx(480, abs=10)
    assert rows == sorted(rows, key=lambda r: r.time_s)


def test_a_cut_begins_at_zero() -> None:
    rows = rows_of(sample_path(), Cut(start_s=60, seconds=60), 0)
    assert 0 <= rows[0].time_s < 5
    assert rows[-1].time_s < 60


def test_classes_come_from_the_trace_or_by_shares(tmp_path: Path) -> None:
    rows = [Row(time_s=float(i), prompt_tokens=1, output_tokens=1) for i in range(4000)]
    rows += [Row(time_s=4000.0, prompt_tokens=1, output_tokens=1, service_class="strict")]
    found = arrivals(rows, (STRICT, LOOSE), {"strict": 1.0, "loose": 3.0}, 0)
    assert sum(a.service_class == "strict" for a in found[:-1]) == pytest.approx(1000, rel=0.1)
    assert found[-1].service_class == "strict"
    assert {a.tbt_s for a in found if a.service_class == "loose"} == {0.5}
    assert {a.service_class for a in arrivals(rows[:50], (STRICT, LOOSE), {"loose": 1.0}, 0)} == {"loose"}


HEAD = "time_s,prompt_tokens,output_tokens\n"
BAD = {
    "empty": ("", "is empty: give a trace with at least one request"),
    "only a head": (HEAD, "is empty"),
    "backwards": (HEAD + "1,1,1\n3,1,1\n2,1,1\n", "request 3 comes 1 s before the one above it: sort the trace"),
    "no tokens": (HEAD + "1,1,1\n2,0,1\n", "request 2 has prompt_tokens '0': give whole numbers of at least 1"),
    "negative": (HEAD + "1,1,-4\n", "request 1 has output_tokens '-4'"),
    "words": (HEAD + "1,many,4\n", "request 1 has prompt_tokens 'many'"),
    "missing field": (HEAD + "1,2\n", "request 1 has output_tokens None"),
    "time in words": (HEAD + "noon,2,2\n", "request 1 has the time 'noon': give seconds"),
    "not a number": (HEAD + "nan,2,2\n", "give seconds that are not negative"),
    "other columns": ("when,what\n1,2\n", "has the columns when, what: name them time_s, prompt_tokens"),
    "broken JSON": ('{"time_s": 1, "prompt_tokens": 1, "output_tokens": 1}\n{oops\n', "line 2 is no JSON object"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_trace_is_refused_in_one_sentence(tmp_path: Path, name: str) -> None:
    text, words = BAD[name]
    with pytest.raises(TraceError) as caught:
        rows_of(written(tmp_path, "trace.csv", text), Cut(), 0)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("cut", "words"),
    [
        (Cut(start_s=1e6), "no request from second 1e+06 on"),
        (Cut(rate_rps=1e-9), "makes no request at 1e-09 requests/s"),
    ],
)
def test_a_cut_without_requests_is_refused(cut: Cut, words: str) -> None:
    with pytest.raises(TraceError, match=words.replace("+", r"\+")):
        rows_of(sample_path(), cut, 0)


def test_no_such_file_and_no_such_class(tmp_path: Path) -> None:
    with pytest.raises(TraceError, match="there is no file"):
        rows_of(tmp_path / "none.csv", Cut(), 0)
    row = Row(time_s=0.0, prompt_tokens=1, output_tokens=1, service_class="gold")
    with pytest.raises(TraceError, match="class 'gold', the service has strict, loose"):
        arrivals([row], (STRICT, LOOSE), {}, 0)
    path = written(tmp_path, "m_windows.csv", "t_start_s,rate_rps\n0,1\n")
    with pytest.raises(TraceError, match="has no lengths beside it"):
        rows_of(path, Cut(), 0)
    with pytest.raises(TraceError, match="no traffic from second 99999 on"):
        rows_of(path, Cut(start_s=99999), 0)
