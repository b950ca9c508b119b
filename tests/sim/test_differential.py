"""The simulated engine forms the very batches that vLLM's scheduler class forms, over whole runs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from llmservice_core.policies import NAMES
from tests.serving.engine_room import require_engine_environment, run_inside

pytestmark = [pytest.mark.engine, pytest.mark.timeout(300)]
SCRIPT = Path(__file__).with_name("differential.py")
ROOMY, TIGHT = 3000, 400
"""KV blocks: for all, and so few that requests are pre-empted."""
POLICIES = ("stock", *NAMES)
RUNS = [f"{policy},{blocks},{rate}" for policy in POLICIES for blocks, rate in ((ROOMY, 4), (TIGHT, 6))]


@pytest.fixture(scope="module")
def compared() -> dict[str, dict[str, Any]]:
    require_engine_environment()
    return dict(zip(RUNS, run_inside(SCRIPT, *RUNS, timeout_s=280), strict=True))


@pytest.mark.parametrize("run", RUNS)
def test_batch_for_batch_the_same(compared: dict[str, dict[str, Any]], run: str) -> None:
    seen = compared[run]
    assert seen["first_difference"] is None
    theirs, ours = seen["batches"]
    assert theirs == ours > 1000
    assert seen["preemptions"][0] == seen["preemptions"][1]


def test_the_runs_go_where_it_gets_difficult(compared: dict[str, dict[str, Any]]) -> None:
    """Equal batches would prove little if nothing was ever pre-empted or hidden."""
    for policy in POLICIES:
        assert compared[f"{policy},{TIGHT},6"]["preemptions"][0] > 20
    for policy in ("slai", "slai-published", "slai-plus", "rad", "mlfq"):
        assert compared[f"{policy},{ROOMY},4"]["hidden"] > 1000
