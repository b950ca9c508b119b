"""The step-time model against what was measured, and the shape that makes token budgets matter."""

from __future__ import annotations

import csv
import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmservice_core.latency import StepModel, work
from llmservice_core.step_models import names, step_model

DATA = Path(__file__).parents[2] / "bench" / "data"
SLAI = "rtx4090-mistral-7b"


def chunked_ttft_s(model: StepModel, prompt: int, chunk: int) -> float:
    return sum(model.step_s([(min(chunk, prompt - done), done)]) for done in range(0, prompt, chunk))


def test_the_seven_ttfts_that_slai_measured() -> None:
    """Mean error at most 3 %, none over 4 %: 2,048-token prompts, chunks from 64 to 1,024 tokens."""
    with (DATA / "step-times" / "slai_rtx6000ada_check.csv").open() as table:
        rows = [(int(float(r["chunk_tokens"])), float(r["ttft_measured_ms"]) / 1000) for r in csv.DictReader(table)]
    errors = [abs(chunked_ttft_s(step_model(SLAI), 2048, chunk) / measured - 1) for chunk, measured in rows]
    assert len(errors) == 7
    assert sum(errors) / 7 <= 0.03
    assert max(errors) <= 0.04


def test_one_token_past_a_tile_costs_a_tile() -> None:
    model = step_model(SLAI)
    assert model.step_s([(257, 0)]) / model.step_s([(256, 0)]) > 1.3
    assert model.step_s([(256, 0)]) / model.step_s([(255, 0)]) < 1.01


def test_decodes_count_into_the_tile() -> None:
    """A 512-token chunk with 64 decodes falls off the tile edge; 448 tokens with the same decodes do not."""
    model, decodes = step_model(SLAI), [1500] * 64
    assert model.step_s([(512, 0)], decodes) == pytest.approx(0.0877, rel=0.01)
    assert model.step_s([(448, 0)], decodes) == pytest.approx(0.0761, rel=0.01)


def test_a_mixed_step_has_attention_coefficients_of_its_own() -> None:
    w = work([(512, 0)], [1500] * 64)
    with_mixed, without = step_model(SLAI), step_model("a100-llama-3-8b")
    apart = with_mixed.prefill.layer_us(w) + with_mixed.decode.layer_us(work([], [1500] * 64))
    assert with_mixed.attention_us(w) > 1.2 * apart
    assert without.attention_us(w) == without.prefill.layer_us(w) + without.decode.layer_us(w)


def test_no_tokens_take_no_time_and_long_steps_grow_in_proportion() -> None:
    model = step_model(SLAI)
    assert model.step_s() == 0.0
    assert model.token_us(4096) == pytest.approx(2 * model.token_us(2048))


def test_one_tiny_token_for_eight_is_the_real_step() -> None:
    """Chunks and widths times eight, KV of eight times as many decodes each eight times as long."""
    tiny = work([(32, 16)], [100, 50]).scaled(8)
    assert tiny == work([(256, 128)], [800] * 8 + [400] * 8)


@given(st.sampled_from(names()), st.integers(1, 3000), st.integers(0, 4000), st.integers(0, 64), st.integers(1, 4000))
def test_more_cached_context_or_longer_decodes_never_make_a_step_faster(
    name: str, new: int, cached: int, decodes: int, kv: int
) -> None:
    model = step_model(name)
    base = model.step_s([(new, cached)], [kv] * decodes)
    assert base > 0
    assert model.step_s([(new, cached + 100)], [kv] * decodes) >= base
    assert model.step_s([(new, cached)], [kv + 100] * decodes) >= base


def test_an_unknown_name_says_which_exist() -> None:
    with pytest.raises(KeyError, match=SLAI):
        step_model("rtx9090")


def test_the_package_data_is_what_the_tables_give() -> None:
    printed = _script().printed()
    committed = Path(sys.modules[StepModel.__module__].__file__ or "").parent / "data" / "step_models.json"
    assert committed.read_text(encoding="utf-8") == printed, "run bench/data/make_step_models.py"


def _script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("make_step_models", DATA / "make_step_models.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
