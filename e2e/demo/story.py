"""Did the story happen? Pure: a timeline of pool sizes and the client's samples in, a verdict with its reasons out."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from e2e.load import Sample

QUIET, PROMPTS, OUTPUTS, QUIET_AGAIN = "quiet", "prompt-heavy", "output-heavy", "quiet again"


@dataclass(frozen=True, slots=True, kw_only=True)
class Moment:
    """What the cluster showed at one time; `desired` as written on the pools, `ready` pods that serve."""

    time_s: float
    phase: str
    desired: Mapping[str, int]
    ready: Mapping[str, int]
    held: Mapping[str, int] = field(default_factory=dict)
    """Pods that exist, whatever they do."""
    waiting_tokens: float | None = None
    """Prompt tokens that the last plan in the status saw waiting."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    name: str
    ok: bool
    detail: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Attained:
    """Shares over all requests of one class as the client saw them; None without events."""

    service_class: str
    requests: int
    failed: int
    ttft_share: float | None
    ttft_p95_s: float | None
    gap_share: float | None


def first_growth(timeline: Sequence[Moment], pool: str, after_s: float = 0.0) -> float | None:
    """Time at which the pool's desired size first rose above what it was at `after_s`."""
    base = None
    for moment in timeline:
        if moment.time_s < after_s:
            continue
        size = moment.desired[pool]
        base = size if base is None else min(base, size)
        if size > base:
            return moment.time_s
    return None


def peak(timeline: Sequence[Moment], phase: str, pool: str, which: str = "ready") -> int:
    return max((getattr(m, which)[pool] for m in timeline if m.phase == phase), default=0)


def checks(timeline: Sequence[Moment], minimum: Mapping[str, int], overrun_share: float | None) -> list[Check]:
    """The story, line by line: prefill grows first, then decode, then both shrink; the paced clock held."""
    last = timeline[-1] if timeline else None
    return [
        _prefill_first(timeline),
        _grew(timeline, OUTPUTS, "decode", "decode grew under output-heavy load"),
        Check(
            name="both pools shrank to their minimum when it was quiet",
            ok=last is not None and all(last.desired[pool] <= size for pool, size in minimum.items()),
            detail=f"at the end {dict(last.desired) if last else None}",
        ),
        Check(
            name="at most 5 % of paced steps overran",
            ok=overrun_share is not None and overrun_share <= 0.05,
            detail="unknown" if overrun_share is None else f"{overrun_share:.2%}",
        ),
    ]


def _prefill_first(timeline: Sequence[Moment]) -> Check:
    """Whatever decode does later: it must not be what grew first when the prompts grew long."""
    grew = _grew(timeline, PROMPTS, "prefill", "prefill grew first under prompt-heavy load")
    began_s = start(timeline, PROMPTS)
    if began_s is None or not grew.ok:
        return grew
    prefill_s, decode_s = (first_growth(timeline, pool, began_s) for pool in ("prefill", "decode"))
    assert prefill_s is not None
    is_first = decode_s is None or prefill_s < decode_s
    return Check(name=grew.name, ok=is_first, detail=grew.detail + ("" if is_first else ", but decode grew before it"))


def _grew(timeline: Sequence[Moment], phase: str, pool: str, name: str) -> Check:
    """Within its phase the pool was made larger, and more of it than before came to serve."""
    began_s = start(timeline, phase)
    grown_s = None if began_s is None else first_growth([m for m in timeline if m.phase == phase], pool)
    before = next((m.ready[pool] for m in timeline if m.phase == phase), 0)
    most = peak(timeline, phase, pool)
    ok = grown_s is not None and most > before
    return Check(name=name, ok=ok, detail=f"{_after(grown_s, began_s)}, ready {before} -> {most}")


def start(timeline: Sequence[Moment], phase: str) -> float | None:
    return next((m.time_s for m in timeline if m.phase == phase), None)


def failures(samples: Sequence[Sample]) -> dict[tuple[str, str], int]:
    """How many requests failed, by phase and by what the client was told."""
    return dict(Counter((s.phase, s.error[:100]) for s in samples if s.error is not None).most_common())


def _after(event_s: float | None, start_s: float | None) -> str:
    if event_s is None or start_s is None:
        return "never"
    return f"{event_s - start_s:.0f} s after the load changed"


def attained(samples: Sequence[Sample], targets: Mapping[str, tuple[float, float]]) -> list[Attained]:
    """Per class against (ttft_s, tbt_s). A failed request is a TTFT miss; gaps are between chunks, as a client sees."""
    return [_attained(name, [s for s in samples if s.service_class == name], *targets[name]) for name in targets]


def _attained(name: str, samples: Sequence[Sample], ttft_s: float, tbt_s: float) -> Attained:
    failed = sum(s.error is not None for s in samples)
    ttfts = sorted(s.ttft_s for s in samples if s.ttft_s is not None)
    good = sum(s.ttft_s is not None and s.error is None and s.ttft_s <= ttft_s for s in samples)
    gaps = [gap for s in samples for gap in s.gaps_s]
    return Attained(
        service_class=name,
        requests=len(samples),
        failed=failed,
        ttft_share=good / len(samples) if samples else None,
        ttft_p95_s=ttfts[min(len(ttfts) - 1, int(0.95 * len(ttfts)))] if ttfts else None,
        gap_share=sum(gap <= tbt_s for gap in gaps) / len(gaps) if gaps else None,
    )
