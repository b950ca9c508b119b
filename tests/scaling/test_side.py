"""The recorded run beside the simulated one: the file, the way back into virtual time, and a verdict that can say no.

The recording here is made of a simulated run, so it must agree with its own simulation exactly; the one that was
recorded on a real cluster is judged in test_recorded_run.py.
"""

from dataclasses import replace
from pathlib import Path

import pytest

from e2e.demo import services
from e2e.scaling import recording, side, simulate
from e2e.scaling.page import html
from e2e.scaling.record import portable, service
from e2e.scaling.recording import Asked, PodStart, Recording, Sizes
from e2e.scaling.trace import Squeeze, compressed
from llmservice_core import contract

READY_S = -30.0
SQUEEZE = Squeeze(seconds=90.0, rate_rps=9.0)


def blank() -> Recording:
    """What is known before anything ran: load, service, start-ups."""
    manifest = service()
    both = {"prefill": 1, "decode": 1}
    return Recording(
        facts={"recorded": "2026-01-01T00:00:00+00:00", "cores": 2, "overrun_share": 0.01},
        service=portable(manifest),
        pace=next(e["value"] for e in manifest["spec"]["engine"]["env"] if e["name"] == contract.ENV_PACE),
        scrape_s=5.0,
        limits={
            "kv_tokens": 3680.0, "max_batched_tokens": 96.0, "max_seqs": 16.0, "tile_tokens": 16.0,
            "kv_bytes_per_token": 2048,
        },
        ready_s=READY_S,
        end_s=120.0,
        requests=[
            Asked(
                time_s=r.time_s, service_class=r.service_class or "", prompt_tokens=max(1, r.prompt_tokens // 8),
                output_tokens=max(1, r.output_tokens // 8), ttft_s=None, error=None,
            )
            for r in compressed(SQUEEZE)
        ],
        sizes=[Sizes(time_s=0.0, desired=both, ready=both, held=both, waiting_tokens=0.0)],
        pods=[
            PodStart(pool="prefill", created_s=-60.0, ready_s=-31.0),
            PodStart(pool="decode", created_s=-60.0, ready_s=-33.0),
            PodStart(pool="prefill", created_s=40.0, ready_s=62.0),
        ],
        changes=[],
        gaps_s=dict.fromkeys(services.CLASSES, ()),
        gaps_in_time=dict.fromkeys(services.CLASSES),
    )  # fmt: skip


@pytest.fixture(scope="module")
def recorded() -> Recording:
    """The blank one, filled with what its simulation says."""
    start = blank()
    result = simulate.simulated(start)
    ttfts = [r.ttft_s for r in result.requests]
    return replace(
        start,
        requests=[replace(r, ttft_s=t) for r, t in zip(start.requests, ttfts, strict=True)],
        sizes=[
            Sizes(
                time_s=m.time_s + READY_S, desired={str(p): n for p, n in m.desired.items()},
                ready={str(p): n for p, n in m.ready.items()}, held={str(p): n for p, n in m.ready.items()},
                waiting_tokens=None,
            )
            for m in result.moments
        ],
    )  # fmt: skip


def test_a_run_agrees_with_its_own_simulation(recorded: Recording) -> None:
    found = side.sides(recorded, simulate.simulated(recorded))
    assert found.is_agreed
    assert [p.agree for p in found.pools] == [1.0, 1.0]
    assert all(c.p95_off == pytest.approx(0.0, abs=0.01) for c in found.classes if c.requests)
    assert "yes" in side.text(found)


def test_slower_clients_do_not_agree(recorded: Recording) -> None:
    slower = replace(recorded, requests=[replace(r, ttft_s=r.ttft_s and 1.3 * r.ttft_s) for r in recorded.requests])
    found = side.sides(slower, simulate.simulated(recorded))
    assert not found.is_agreed
    assert found.classes[-1].p95_off == pytest.approx(1 / 1.3 - 1, abs=0.01)


def test_a_size_that_comes_two_intervals_later_does_not_agree(recorded: Recording) -> None:
    grown = [(s.time_s, s.desired) for s in recorded.sizes if s.desired != recorded.sizes[0].desired]
    assert grown, "the load needs more than it starts with"
    late = [replace(s, time_s=s.time_s + 11.0) if s.time_s >= grown[0][0] else s for s in recorded.sizes]
    found = side.sides(replace(recorded, sizes=late), simulate.simulated(recorded))
    assert not found.is_agreed
    assert min(p.agree for p in found.pools) < 1.0
    soon = [replace(s, time_s=s.time_s + 4.0) if s.time_s >= grown[0][0] else s for s in recorded.sizes]
    assert [p.agree for p in side.sides(replace(recorded, sizes=soon), simulate.simulated(recorded)).pools] == [1, 1]


def test_recorded_start_ups_are_those_of_the_simulation() -> None:
    start_up = simulate.scenario(blank()).start_up
    assert start_up.known == [27.0, 29.0]
    assert {str(p): s for p, s in start_up.recorded.items() if s} == {"prefill": [22.0]}


def test_the_file_keeps_everything(recorded: Recording, tmp_path: Path) -> None:
    file = tmp_path / "run.json.gz"
    recording.write(file, recorded)
    back = recording.read(file)
    assert side.sides(back, simulate.simulated(back)).is_agreed
    assert back.service == recorded.service
    assert len(back.requests) == len(recorded.requests)
    file.write_bytes(file.read_bytes())
    recording.write(tmp_path / "again.json.gz", back)
    assert (tmp_path / "again.json.gz").read_bytes() == file.read_bytes()


def test_no_path_of_this_machine_is_recorded() -> None:
    text = str(portable(service()))
    assert "/usr" not in text
    assert "hostPath" not in text


def test_the_page_shows_both(recorded: Recording) -> None:
    found = html(recorded, simulate.simulated(recorded))
    assert ">recorded<" in found
    assert ">simulated<" in found


def test_the_hour_is_squeezed_and_thinned() -> None:
    rows = compressed(Squeeze(seconds=720.0, rate_rps=4.5))
    assert len(rows) == pytest.approx(720 * 4.5, rel=0.05)
    assert rows[-1].time_s < 720.0
    assert [r.time_s for r in rows] == sorted(r.time_s for r in rows)
    assert {r.service_class for r in rows} == {"interactive", "batch"}
    first, last = (sum(r.service_class == "interactive" and a <= r.time_s < a + 180 for r in rows) for a in (0, 500))
    assert last > 1.2 * first, "the hour's climb is in it"
