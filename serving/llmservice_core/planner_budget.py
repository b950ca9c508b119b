"""Too few GPUs for all: who gets the next one, by what it adds to kept promises. Pure; knows no limits and no pods.

Engines and routers serve strict classes first, so a pool of n replicas keeps the promises of its classes in that order,
each up to what it needs there. A request is good when both pools serve it, so the goodness of sizes is

    G = sum over classes of weight x requests/s x product over pools of min(1, what is left for it / what it needs)

and the next GPU goes to the pool where one more replica adds most to G for each of its GPUs.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from llmservice_core.model import Pool
from llmservice_core.planner_facts import Drafts, Facts


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """One class: `worth` = weight x requests/s, `need` = replicas of each pool at which its promises are kept."""

    name: str
    strictness_s: float
    worth: float
    need: Mapping[Pool, float]


def claims_of(facts: Facts, drafts: Drafts) -> tuple[Claim, ...]:
    """Strict classes first; each needs its share of a pool's wish by its tokens. Empty while the demand is unknown."""
    if facts.demand.unknown is not None or any(d.is_held for d in drafts.values()):
        return ()
    found = []
    for c in sorted(facts.goal.classes, key=lambda c: c.ttft.target_s):
        asked = next((t for t in facts.demand.classes if t.name == c.name), None)
        if asked is not None and asked.arrivals_rps > 0.0:
            shares = {p: asked.share(p, facts.demand) for p in drafts}
            need = {p: d.want * shares[p] for p, d in drafts.items()}
            found.append(
                Claim(name=c.name, strictness_s=c.ttft.target_s, worth=c.weight * asked.arrivals_rps, need=need)
            )
    return tuple(found)


def served(claims: Sequence[Claim], sizes: Mapping[Pool, int]) -> dict[str, float]:
    """The share of each class that all pools serve in time."""
    left = {pool: float(size) for pool, size in sizes.items()}
    found = {}
    for claim in claims:
        parts = []
        for pool, need in claim.need.items():
            parts.append(min(1.0, left[pool] / need) if need > 0.0 else 1.0)
            left[pool] = max(0.0, left[pool] - need)
        found[claim.name] = math.prod(parts)
    return found


def goodness(claims: Sequence[Claim], sizes: Mapping[Pool, int]) -> float:
    shares = served(claims, sizes)
    return sum(c.worth * shares[c.name] for c in claims)


def gain(claims: Sequence[Claim], sizes: Mapping[Pool, int], pool: Pool, gpus: int) -> float:
    """What one more replica of `pool` adds, for each of its GPUs."""
    more = {**sizes, pool: sizes[pool] + 1}
    return (goodness(claims, more) - goodness(claims, sizes)) / gpus


def told(claims: Sequence[Claim], sizes: Mapping[Pool, int], wanted: Mapping[Pool, int]) -> str:
    """What the sizes mean for each class, where they are fewer than wanted."""
    short = [f"{p} {n - sizes[p]}" for p, n in wanted.items() if n > sizes[p]]
    if not short or not claims:
        return ""
    shares = ", ".join(f"{100 * share:.0f} % of {name}" for name, share in served(claims, sizes).items())
    return f"{', '.join(short)} short; by SLO gain per GPU, weights counted: {shares} served in time"
