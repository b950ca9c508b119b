"""`llmservice simulate` and `llmservice plan`, as a person calls them: good input, and a sentence for each bad one."""

import json
import sys
from pathlib import Path

import pytest
import yaml

from llmservice_cli.main import main
from tests.control.bad_manifests import GOOD

EXAMPLES = Path(__file__).parents[2] / "examples"
CHAT, MIXED = str(EXAMPLES / "chat.yaml"), str(EXAMPLES / "mixed.yaml")
SHORT = ["--seconds", "60"]


def test_the_sample_runs_without_any_option(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["simulate", CHAT, *SHORT]) == 0
    text = capsys.readouterr().out
    for words in ("chat on a100: law rad", "Simulated, no GPU ran", "interactive", "batch", "GPU-hours", "prefill"):
        assert words in text


@pytest.mark.parametrize("service", [CHAT, MIXED])
def test_json_is_the_same_bytes_for_the_same_seed(service: str, capsys: pytest.CaptureFixture[str]) -> None:
    texts = []
    for seed in ("1", "1", "2"):
        assert main(["simulate", service, *SHORT, "--seed", seed, "--noise", "0.05", "--json"]) == 0
        texts.append(capsys.readouterr().out)
    assert texts[0] == texts[1]
    assert texts[0] != texts[2]
    (run,) = json.loads(texts[0])["runs"]
    assert [s["name"] for s in run["last_plan"]["steps"]][:2] == ["stale", "demand"]
    assert sum(c["requests"] for c in run["classes"]) == sum(c["outcomes"]["ok"] for c in run["classes"])


def test_laws_are_compared_and_the_page_is_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page = tmp_path / "report.html"
    options = ["--compare", "static,hpa,static-peak", "--replicas", "prefill=2,decode=1", "--html", str(page)]
    assert main(["simulate", CHAT, *SHORT, *options]) == 0
    assert "of the first" in capsys.readouterr().out
    assert "<svg" in page.read_text()


def test_a_terminal_sees_progress(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    assert main(["simulate", CHAT, "--seconds", "20", "--compare", "static-peak"]) == 0
    said = capsys.readouterr()
    assert "rad [" in said.err
    assert "static-peak: run 1 of a search" in said.err
    assert "[" not in said.out.splitlines()[0]


def test_an_own_trace_with_classes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    trace = tmp_path / "own.csv"
    trace.write_text("time_s,prompt_tokens,output_tokens,class\n0,100,5,interactive\n1,9000,5,interactive\n")
    assert main(["simulate", CHAT, "--trace", str(trace), "--policy", "fcfs", "--json"]) == 0
    interactive, batch = json.loads(capsys.readouterr().out)["runs"][0]["classes"]
    assert interactive["outcomes"] == {"ok": 1, "refused": 1}
    assert interactive["ttft_attainment"] == 100.0
    assert batch["ttft_attainment"] is None


def test_one_plan_with_every_step_and_number(capsys: pytest.CaptureFixture[str]) -> None:
    load = ["--rate", "12", "--prompt", "2300", "--output", "440"]
    assert main(["plan", CHAT, *load, "--gpu", "a100"]) == 0
    text = capsys.readouterr().out
    for words in ("chat: prefill 3, decode 3 = 6 GPUs", "prefill.tau_prefill_s", "12.00 req/s x 2300 prompt tokens"):
        assert words in text
    assert main(["plan", CHAT, *load, "--gpu", "a100", "--json"]) == 0
    record = json.loads(capsys.readouterr().out)
    assert [s["name"] for s in record["steps"]] == [
        "stale", "demand", "capacity", "size", "backlog", "feedback", "slack", "unknown", "stabilise", "limits"
    ]  # fmt: skip
    assert record["steps"][-1]["prefill"] == 3


@pytest.mark.parametrize("rate", [0.5, 4, 40, 400])
def test_a_plan_is_never_over_the_budget(rate: float, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", CHAT, "--rate", str(rate), "--prompt", "2300", "--output", "440", "--json"]) == 0
    limits = json.loads(capsys.readouterr().out)["steps"][-1]
    assert limits["prefill"] + limits["decode"] <= 12


PLAN = ["plan", CHAT, "--rate", "1", "--prompt", "10", "--output", "10"]
BAD = {
    "no file": (["simulate", "none.yaml"], "none.yaml cannot be read: No such file"),
    "unknown gpu": (["simulate", CHAT, "--gpu", "tpu"], "no GPU 'tpu' was measured: choose one of"),
    "unknown policy": (["simulate", CHAT, "--policy", "lifo"], "there is no policy 'lifo': choose one of fcfs"),
    "unknown law": (["simulate", CHAT, "--law", "magic"], "there is no law 'magic': choose from rad"),
    "unknown compared law": (["simulate", CHAT, "--compare", "magic"], "there is no law 'magic'"),
    "no trace": (["simulate", CHAT, "--trace", "none.csv"], "there is no file none.csv"),
    "rate 0": (["simulate", CHAT, "--rate", "0"], "--rate is 0: give a number above 0"),
    "start-up below 0": (["simulate", CHAT, "--start-up", "-1"], "--start-up is -1: give a number above 0"),
    "noise below 0": (["simulate", CHAT, "--noise", "-1"], "--noise is -1: give a number of at least 0"),
    "no such class": (["simulate", CHAT, "--share", "gold=1"], "--share 'gold=1' makes no sense"),
    "no share": (["simulate", CHAT, "--share", "batch=0"], "--share gives every class 0"),
    "no such pool": (["simulate", CHAT, "--replicas", "mixed=2"], "--replicas 'mixed=2' makes no sense"),
    "too many": (["simulate", CHAT, "--replicas", "prefill=9"], "has 9 for prefill: the service allows 1 to 8"),
    "over budget": (["simulate", CHAT, "--replicas", "prefill=8,decode=8"], "16 GPUs and scaling.gpuBudget is 12"),
    "hpa target 0": (["simulate", CHAT, "--law", "hpa", "--hpa-target", "prefill=0"], "--hpa-target has a 0"),
    "no folder": (["simulate", CHAT, "--seconds", "5", "--html", "none/x.html"], "none/x.html cannot be written"),
    "past the end": (["simulate", CHAT, "--start", "9999"], "no request from second 9999 on"),
    "plan: rate": (["plan", CHAT, "--rate", "nan", "--prompt", "1", "--output", "1"], "--rate is nan"),
    "plan: prompt": (["plan", CHAT, "--rate", "1", "--prompt", "0", "--output", "1"], "--prompt is 0"),
    "plan: too long": (["plan", CHAT, "--rate", "1", "--prompt", "8000", "--output", "800"], "which is 8192"),
    "plan: share": ([*PLAN, "--share", "batch=x"], "--share 'batch=x' makes no sense"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_one_sentence_and_exit_code_2(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    arguments, words = BAD[name]
    assert main(arguments) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert words in said.err
    assert len(said.err.splitlines()) == 1


POOLS = {"prefill": {"maxReplicas": 2}, "decode": {"maxReplicas": 2}}
MANIFESTS = {
    "70B": ({"model": {"name": "meta-llama/Llama-3.1-70B"}}, "needs 140 GB for its weights"),
    "unmeasured": ({"model": {"name": "Qwen/Qwen2.5-7B"}}, "no step times of Qwen/Qwen2.5-7B on a100 were measured"),
    "context": (
        {"model": {"name": "meta-llama/Llama-3.1-8B", "maxModelLen": 10**6}, "pools": POOLS},
        "set maxModelLen to at most",
    ),
    "no classes": ({"classes": []}, "is no valid LLMService"),
    "bad argument": ({"engine": {"args": ["--max-num-seqs", "many"]}}, "spec.engine.args has a number that is none"),
}


@pytest.mark.parametrize("name", MANIFESTS)
def test_a_service_that_cannot_run_is_one_sentence(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    change, words = MANIFESTS[name]
    path = tmp_path / "service.yaml"
    path.write_text(yaml.safe_dump({**GOOD, "spec": {**GOOD["spec"], **change}}))
    assert main(["simulate", str(path)]) == 2
    error = capsys.readouterr().err
    assert words in error
    assert len(error.splitlines()) == 1


@pytest.mark.parametrize("text", ["", "a: [", "kind: Pod\n", "- 1\n"])
def test_a_file_without_a_service_is_one_sentence(
    text: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "service.yaml"
    path.write_text(text)
    assert main(["plan", str(path), *PLAN[2:]]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1
