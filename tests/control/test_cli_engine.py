"""`llmservice engine explain`: the text that a person reads, and what it says when nobody answers."""

from __future__ import annotations

from typing import Any

import pytest

from llmservice_cli.engine import lines
from llmservice_cli.main import main

REQUEST: dict[str, Any] = {
    "id": "r1", "class": "chat", "place": "waits", "prompt_tokens": 900, "computed_tokens": 905, "produced_tokens": 5,
    "age_s": 1.25, "since_last_token_s": 0.125, "ttft_s": 0.5, "tbt_s": 0.5, "slack_s": 0.375, "steps_sat_out": 2,
}  # fmt: skip
FOUND: dict[str, Any] = {
    "policy": "slai-plus", "step_times": "learned", "steps_last_times_the_model": 1.02, "last_step_s": 0.05,
    "kv_usage": 0.4, "requests": [REQUEST],
    "plan": {"mode": "Prefill", "decodes": 1, "decodes_with_what_is_left": 0, "decodes_that_wait": 1,
             "chunks": [256], "budget_tokens": 256, "predicted_s": 0.03, "slack_s": 0.2},
}  # fmt: skip


def test_what_a_person_reads() -> None:
    head, plan, empty, titles, row = lines(FOUND)
    assert head == "policy slai-plus, step times learned x 1.020, last step 50.0 ms, KV cache 40% used"
    assert plan == (
        "Prefill step: 1 decodes run, 1 wait, 0 take what is left; chunks [256] of 256 tokens; 30.0 ms expected, "
        "200 ms until the first that waits is due"
    )
    assert empty == ""
    assert titles.split()[:3] == ["request", "class", "now"]
    assert row.split() == ["r1", "chat", "waits", "900", "905", "5", "1.250", "0.125", "0.375", "2"]
    assert lines({**FOUND, "plan": None, "steps_last_times_the_model": None})[1].startswith("nothing is held back")


@pytest.mark.parametrize("url", ["localhost:9500", "http://127.0.0.1:9"])
def test_a_wrong_address_is_a_sentence(url: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["engine", "explain", url]) == 2
    said = capsys.readouterr().err
    assert said.startswith(url)
    assert "\n" not in said.strip()
