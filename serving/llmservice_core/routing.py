"""Which engine gets a request: filter -> score -> pick. Pure: no clock, no random source, no I/O; a draw is given.

The plan counts on three properties. Two live here: the shortest queue by predicted work wins, and in the router's own
queue (where requests wait only while no engine exists) strict classes go first and late prompts last. In the engines'
queues the order is the scheduler policy's: strict first, but not late last. Engines of different revisions never pair,
because their KV blocks need not fit together.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum

from llmservice_core.model import Pool


class Policy(StrEnum):
    SHORTEST_QUEUE = "jsq"
    RANDOM = "random"
    """Uniform over the usable endpoints, as the RAD paper assumes."""


class RouteReason(StrEnum):
    """Why a request goes where it goes, or why it cannot. Logs and metrics use these constants."""

    PREFILL_DECODE = "PrefillDecode"
    MIXED = "Mixed"
    DECODE_ALONE = "DecodeAlone"
    """One step on a decode engine: a request that two steps cannot serve, and no mixed engine exists."""
    NO_ENDPOINT = "NoEndpoint"
    NO_PAIR = "NoPair"
    """Prefill and decode engines exist, but none of the same revision."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoint:
    """One engine as a router sees it. `work_tokens` is predicted and counts only what this router sent there."""

    name: str
    url: str
    pool: Pool
    revision: str = ""
    ready: bool = True
    draining: bool = False
    """Nothing new goes there: the operator marked it, or it is being deleted."""
    deleted: bool = False
    """It is being deleted and waits, in its hook, for what it has and gets."""
    work_tokens: float = 0.0
    in_flight: int = 0

    @property
    def is_usable(self) -> bool:
        return self.ready and not self.draining

    @property
    def is_last_resort(self) -> bool:
        """An evicted pod may be the only one of its pool, and its successor takes a minute to start."""
        return self.ready and self.deleted


@dataclass(frozen=True, slots=True, kw_only=True)
class Route:
    """Where a request goes. `prefill` None: one step on `decode`, whichever pool that engine belongs to."""

    prefill: Endpoint | None
    decode: Endpoint
    reason: RouteReason


@dataclass(frozen=True, slots=True, kw_only=True)
class NoRoute:
    reason: RouteReason
    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Waiting:
    """A request in the router's queue. Absolute times share one clock."""

    arrived_s: float
    ttft_s: float

    @property
    def deadline_s(self) -> float:
        return self.arrived_s + self.ttft_s


def queue_order(waiting: Waiting, now_s: float) -> tuple[bool, float, float]:
    """Sort key: in time before late, then the strict class, then first come first served.

    A prompt past its target cannot be saved; in front it would only make others late ("hopeless last").
    """
    return now_s > waiting.deadline_s, waiting.ttft_s, waiting.arrived_s


def usable(endpoints: Iterable[Endpoint], pool: Pool, excluded: Collection[str] = ()) -> list[Endpoint]:
    """Filter. Sorted by name, so that one draw means one endpoint whatever the order of discovery."""
    own = [e for e in endpoints if e.pool is pool and e.name not in excluded]
    found = [e for e in own if e.is_usable] or [e for e in own if e.is_last_resort]
    return sorted(found, key=lambda e: e.name)


def score(endpoint: Endpoint, policy: Policy) -> float:
    """Lower is better. Random routing scores all alike and leaves the choice to the draw."""
    return endpoint.work_tokens if policy is Policy.SHORTEST_QUEUE else 0.0


def pick(candidates: Sequence[Endpoint], policy: Policy, draw: float) -> Endpoint:
    """The best score; equals share uniformly by `draw` in [0, 1)."""
    best = min(score(e, policy) for e in candidates)
    equals = [e for e in candidates if score(e, policy) == best]
    return equals[min(int(draw * len(equals)), len(equals) - 1)]


def choose(
    endpoints: Collection[Endpoint],
    *,
    one_step: bool = False,
    policy: Policy = Policy.SHORTEST_QUEUE,
    excluded: Collection[str] = (),
    draw: float = 0.0,
) -> Route | NoRoute:
    """The route of one request. `one_step`: the request cannot be split into prefill and decode.

    Mixed engines come first where they exist: a service has either them or a pair of pools, and both only while it is
    being changed from one to the other, when two-step requests take the pair again once it is whole.
    """
    mixed = usable(endpoints, Pool.MIXED, excluded)
    if one_step and not mixed:
        return _one_step(usable(endpoints, Pool.DECODE, excluded), RouteReason.DECODE_ALONE, policy, draw)
    pair = None if one_step else _pair(endpoints, policy, excluded, draw)
    if isinstance(pair, Route):
        return pair
    if mixed:
        return _one_step(mixed, RouteReason.MIXED, policy, draw)
    return pair or _no_endpoint()


def _one_step(candidates: Sequence[Endpoint], why: RouteReason, policy: Policy, draw: float) -> Route | NoRoute:
    if not candidates:
        return _no_endpoint()
    return Route(prefill=None, decode=pick(candidates, policy, draw), reason=why)


def _pair(endpoints: Collection[Endpoint], policy: Policy, excluded: Collection[str], draw: float) -> Route | NoRoute:
    """The pair of one revision with the least work in front of it; under random routing the prefill draw decides."""
    prefills = usable(endpoints, Pool.PREFILL, excluded)
    decodes = usable(endpoints, Pool.DECODE, excluded)
    if not prefills or not decodes:
        return _no_endpoint()
    shared = {e.revision for e in prefills} & {e.revision for e in decodes}
    if not shared:
        return NoRoute(
            reason=RouteReason.NO_PAIR,
            message="No prefill and decode engine of the same revision are ready; a rollout is under way. Try again.",
        )
    if policy is Policy.RANDOM:
        drawn = pick([e for e in prefills if e.revision in shared], policy, draw)
        shared = {drawn.revision}
    pairs = [
        Route(
            prefill=drawn if policy is Policy.RANDOM else pick(_of(prefills, revision), policy, draw),
            decode=pick(_of(decodes, revision), policy, _second(draw)),
            reason=RouteReason.PREFILL_DECODE,
        )
        for revision in sorted(shared)
    ]
    return min(pairs, key=_work_ahead)


def _second(draw: float) -> float:
    """A second draw out of the first, independent enough for a choice among a few engines."""
    return (draw * 7919.0) % 1.0


def _of(candidates: Iterable[Endpoint], revision: str) -> list[Endpoint]:
    return [e for e in candidates if e.revision == revision]


def _work_ahead(route: Route) -> float:
    return route.decode.work_tokens + (route.prefill.work_tokens if route.prefill else 0.0)


def _no_endpoint() -> NoRoute:
    return NoRoute(
        reason=RouteReason.NO_ENDPOINT,
        message="No engine of this service is ready to take the request; it is starting, scaled to zero or failing.",
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Learned:
    """A ratio of two sums that forget: each observation weighs `keep` times less at the next one."""

    numerator: float
    denominator: float
    keep: float = 0.995

    @property
    def ratio(self) -> float:
        return self.numerator / self.denominator

    def learn(self, numerator: float, denominator: float) -> "Learned":
        if denominator <= 0:
            return self
        return replace(
            self,
            numerator=self.keep * self.numerator + numerator,
            denominator=self.keep * self.denominator + denominator,
        )


PRIOR_TOKENS_PER_BYTE = Learned(numerator=250.0, denominator=1000.0)
"""About four bytes of English per token; one page of text is worth as much as this prior."""
PRIOR_OUTPUT_TOKENS = Learned(numerator=1000.0, denominator=5.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Predictor:
    """Token counts before the engine has counted: prompt from bytes, output per class. Learned from `usage`."""

    tokens_per_byte: Learned = PRIOR_TOKENS_PER_BYTE
    output_tokens: Mapping[str, Learned]

    def prompt(self, prompt_bytes: int) -> float:
        return max(1.0, prompt_bytes * self.tokens_per_byte.ratio)

    def output(self, class_name: str, limit_tokens: int | None) -> float:
        mean = self.output_tokens.get(class_name, PRIOR_OUTPUT_TOKENS).ratio
        return mean if limit_tokens is None else max(0.0, min(mean, limit_tokens))

    def learn_prompt(self, prompt_bytes: int, prompt_tokens: int) -> "Predictor":
        return replace(self, tokens_per_byte=self.tokens_per_byte.learn(prompt_tokens, prompt_bytes))

    def learn_output(self, class_name: str, output_tokens: int) -> "Predictor":
        known = self.output_tokens.get(class_name, PRIOR_OUTPUT_TOKENS)
        return replace(self, output_tokens={**self.output_tokens, class_name: known.learn(output_tokens, 1)})
