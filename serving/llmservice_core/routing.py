"""Which engine gets a request: filter -> score -> pick. Pure: no clock, no random source, no I/O; a draw is given.

Filter: usable, not excluded, of one revision (KV blocks of two need not fit together), and with room for a prompt: an
engine that holds about two steps of prompts gets no more of them, the others wait in the router (`line.py`), where the
order still can be changed. Score: predicted work in front, less what the engine's cache saves of this prompt. Pick: the
least score, equals by the draw; two policies draw first.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum

from llmservice_core import draining
from llmservice_core.model import Pool
from llmservice_core.picking import UNBOUNDED, Choice, Policy, Room, Saved, pick, pick_with_room
from llmservice_core.slack import Slack, beside


class RouteReason(StrEnum):
    """Why a request goes where it goes, or why it cannot. Logs and metrics use these constants."""

    PREFILL_DECODE = "PrefillDecode"
    MIXED = "Mixed"
    DECODE_ALONE = "DecodeAlone"
    """One step on a decode engine: a request that two steps cannot serve, and no mixed engine exists."""
    DECODE_SLACK = "DecodeSlack"
    """One step on a decode engine that has time for this prompt beside its decodes, and ends it sooner."""
    NO_ENDPOINT = "NoEndpoint"
    FULL = "Full"
    """Engines exist, and each has as many prompts as it may hold: wait, a place becomes free."""
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
    leaving_since_s: float | None = None
    """Since when it is draining or being deleted, in seconds of Unix time. None: it is not, or nobody said when."""
    model: str = ""
    """Its weights: a stream goes on in an engine of the same alone."""
    work_tokens: float = 0.0
    in_flight: int = 0
    prompts: int = 0
    """Sent there and not computed yet; `prompt_tokens` are theirs."""
    prompt_tokens: float = 0.0

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

    @property
    def prompt_engine(self) -> Endpoint:
        """Where the prompt is computed."""
        return self.prefill or self.decode


@dataclass(frozen=True, slots=True, kw_only=True)
class NoRoute:
    reason: RouteReason
    message: str


def usable(endpoints: Iterable[Endpoint], pool: Pool, excluded: Collection[str] = ()) -> list[Endpoint]:
    """Filter. Sorted by name, so that one draw means one endpoint whatever the order of discovery."""
    own = [e for e in endpoints if e.pool is pool and e.name not in excluded]
    found = [e for e in own if e.is_usable] or [e for e in own if e.is_last_resort]
    return sorted(found, key=lambda e: e.name)


def choose(
    endpoints: Collection[Endpoint],
    *,
    one_step: bool = False,
    policy: Policy = Policy.SHORTEST_QUEUE,
    excluded: Collection[str] = (),
    draw: float = 0.0,
    saved: Saved | None = None,
    room: Room = UNBOUNDED,
    slack: Slack | None = None,
    prompt_tokens: float = 0.0,
) -> Route | NoRoute:
    """The route of one request. `one_step`: the request cannot be split into prefill and decode. `slack`: decode
    engines may compute its prompt of `prompt_tokens`, too.

    Mixed engines come first where they exist: a service has either them or a pair of pools, and both only while it is
    being changed from one to the other, when two-step requests take the pair again once it is whole.
    """
    choice = Choice(policy=policy, draw=draw, saved=saved or {}, room=room)
    mixed = usable(endpoints, Pool.MIXED, excluded)
    if one_step and not mixed:
        return _one_step(usable(endpoints, Pool.DECODE, excluded), RouteReason.DECODE_ALONE, choice)
    pair = None if one_step else _pair(endpoints, excluded, choice)
    if slack is not None and pair is not None and not policy.draws:
        pair = _beside(slack, prompt_tokens, endpoints, excluded, choice) or pair
    if isinstance(pair, Route) or (pair is not None and pair.reason is RouteReason.FULL):
        return pair
    if mixed:
        return _one_step(mixed, RouteReason.MIXED, choice)
    return pair or _no_endpoint()


def overdue(endpoints: Collection[Endpoint], now_s: float, deadline_s: float) -> list[Endpoint]:
    """Engines whose time to leave is over and whose requests have somewhere else to go. `now_s`: Unix time.

    One deadline for all steps of a drain, whoever began it. The only engine of its kind keeps what it has until the
    end: its requests could but fail.
    """
    late = (e for e in endpoints if draining.is_over(e.leaving_since_s, now_s, deadline_s))
    return [e for e in late if any(o.is_usable and (o.pool, o.model) == (e.pool, e.model) for o in endpoints)]


def decode_instead(endpoints: Iterable[Endpoint], reserved: Endpoint, excluded: Collection[str] = ()) -> Endpoint:
    """The reserved decode engine as it was, or another of its revision if that one may take nothing any more: the KV
    is not pulled yet. The reserved one, too, when there is no other."""
    able = [e for e in usable(endpoints, Pool.DECODE, excluded) if e.revision == reserved.revision]
    if any(e.name == reserved.name for e in able):
        return reserved
    return min(able, key=lambda e: e.work_tokens, default=reserved)


def _one_step(candidates: Sequence[Endpoint], why: RouteReason, choice: Choice) -> Route | NoRoute:
    if not candidates:
        return _no_endpoint()
    engine = pick_with_room(candidates, choice)
    return _full() if engine is None else Route(prefill=None, decode=engine, reason=why)


def _pair(endpoints: Collection[Endpoint], excluded: Collection[str], choice: Choice) -> Route | NoRoute:
    """The pair of one revision with the least score; policies that draw take the revision of the prefill drawn."""
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
    sets = [[e for e in prefills if e.revision in shared]]
    if not choice.policy.draws:
        sets = [_of(prefills, revision) for revision in sorted(shared)]
    best = (pick_with_room(candidates, choice) for candidates in sets)
    pairs = [_completed(prefill, decodes, choice) for prefill in best if prefill is not None]
    return min(pairs, key=lambda route: _score_of(route, choice), default=_full())


def _beside(
    slack: Slack, prompt_tokens: float, endpoints: Collection[Endpoint], excluded: Collection[str], choice: Choice
) -> Route | None:
    """Alone on a decode engine, where that is sooner than with any prefill engine, one without room included."""
    prefills = usable(endpoints, Pool.PREFILL, excluded)
    saved = max((choice.saved.get(p.name, 0.0) for p in prefills), default=0.0)
    engine = beside(slack, prompt_tokens, prefills, usable(endpoints, Pool.DECODE, excluded), saved)
    return None if engine is None else Route(prefill=None, decode=engine, reason=RouteReason.DECODE_SLACK)


def _completed(prefill: Endpoint, decodes: Sequence[Endpoint], choice: Choice) -> Route:
    decode = pick(_of(decodes, prefill.revision), choice.for_answers())
    return Route(prefill=prefill, decode=decode, reason=RouteReason.PREFILL_DECODE)


def _score_of(route: Route, choice: Choice) -> float:
    return choice.score(route.prompt_engine) + route.decode.work_tokens


def _of(candidates: Iterable[Endpoint], revision: str) -> list[Endpoint]:
    return [e for e in candidates if e.revision == revision]


def _full() -> NoRoute:
    return NoRoute(reason=RouteReason.FULL, message="Each engine has as many prompts as it may hold.")


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
