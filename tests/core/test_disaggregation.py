"""Which pools a service with `disaggregation: Auto` begins with."""

from __future__ import annotations

import pytest

from llmservice_core.disaggregation import choose, gpus


@pytest.mark.parametrize(
    ("tbt_ms", "gpu", "is_split"),
    [
        (50, "a100", False),
        (25, "a100", True),
        (25, "h100", False),
        (10, "h100", True),
        (100, "rtx4090", False),
        (50, "rtx4090", True),
        (50, None, True),
        (100, None, False),
    ],
)
def test_one_mixed_pool_where_a_mixed_step_fits_into_the_strictest_tbt(
    tbt_ms: float, gpu: str | None, is_split: bool
) -> None:
    found = choose(tbt_ms / 1000, gpu)
    assert found.is_split is is_split
    assert f"{0.85 * tbt_ms:.0f} ms" in found.why
    assert ("does not fit" in found.why) is is_split


def test_a_tighter_tbt_never_leads_from_pools_to_one() -> None:
    for gpu in (*gpus(), None):
        split = [choose(ms / 1000, gpu).is_split for ms in range(5, 200, 5)]
        assert split == sorted(split, reverse=True)


def test_a_gpu_that_nobody_measured_is_refused_with_those_that_are() -> None:
    with pytest.raises(ValueError, match="a100, h100, rtx4090"):
        choose(0.05, "tpu")
