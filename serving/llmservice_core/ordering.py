"""Which requests an engine serves first, and which decodes may wait. No vLLM, no clock: time is an argument.

A policy answers three questions. `waiting_key`: in what order are prompts admitted. `latest_start`: after a decode was
served, until when may its next token wait. `decide`: at a step that has prefill work, which decodes must run now, which
only if budget is left. Whoever drives it (the engine scheduler, the simulator) owns queues, blocks and budgets.

SLAI: Bari, Hegde, de Veciana, "Optimal Scheduling Algorithms for LLM Inference: Theory and Practice", arXiv 2508.01002,
section 6 and Eq. 8; parameters are those of the authors' flagship configuration.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol


class Decode(NamedTuple):
    """One running decode. One is made per decode and step, and a frozen dataclass costs four times a named tuple."""

    latest_start_s: float
    """When its next token must start at the latest (LST); minus infinity: it never waits."""
    arrival: float
    place: int
    """Place in the caller's list; also the last tie-break, so that the result is a function of the input."""


class Started(NamedTuple):
    """A prompt with some chunks done."""

    arrival: float
    place: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Prompt:
    """A request that waits for admission. `tbt_s` None: nobody told us a target."""

    tokens: int
    arrival: float
    tbt_s: float | None = None
    was_running: bool = False
    """It was pre-empted after its first token: it has lost its KV cache, and its client watches a stream."""


class Order(NamedTuple):
    """A decision, as indices of the caller's list: run `critical`, then `started` prompts, then admit; `later` decodes
    share what budget is left."""

    critical: tuple[int, ...]
    started: tuple[int, ...]
    later: tuple[int, ...]


class Policy(Protocol):
    @property
    def name(self) -> str: ...

    def waiting_key(self, prompt: Prompt) -> tuple[float, ...]:
        """Smallest first. Must not depend on anything that changes while the prompt waits."""
        ...

    def latest_start(self, *, served_s: float, tbt_s: float | None, batch_s: float, kv_usage: float) -> float:
        """Until when the token after the one served at `served_s` may wait to be started."""
        ...

    def decide(self, now_s: float, decodes: Sequence[Decode], started: Sequence[Started]) -> Order: ...

    def batch_mean(self) -> Mean:
        """A new estimate of the mean batch duration, for the engine that this policy is to order."""
        ...


class Mean(Protocol):
    """What Eq. 8 calls the mean batch duration, however it is taken."""

    def add(self, seconds: float, *, has_prefill: bool) -> None: ...

    @property
    def seconds(self) -> float: ...


class BatchMean:
    """Mean batch duration of Eq. 8, and the one place where it departs from the authors' code.

    They average over all batches since the start. Batches have two modes (decode only, 25 ms; with a chunk, 115 ms on
    the card of the paper's kind), and the plain mean is far too small just when decodes are about to be hidden behind
    chunks: strict gaps of 300 ms were measured against a target of 120 ms. So: the larger of the mean over all batches
    and the mean over those with prompt tokens, each over the last `memory` batches (an engine in a cluster runs for
    weeks and must follow a change of load).
    """

    __slots__ = ("_count", "_mean", "_memory")

    def __init__(self, memory: int = 512) -> None:
        self._memory = memory
        self._count = {False: 0, True: 0}
        self._mean = {False: 0.0, True: 0.0}

    def add(self, seconds: float, *, has_prefill: bool) -> None:
        self._fold(False, seconds)
        if has_prefill:
            self._fold(True, seconds)

    def _fold(self, only_prefill: bool, seconds: float) -> None:
        self._count[only_prefill] = min(self._count[only_prefill] + 1, self._memory)
        self._mean[only_prefill] += (seconds - self._mean[only_prefill]) / self._count[only_prefill]

    @property
    def seconds(self) -> float:
        return max(self._mean.values())


class RunningMean:
    """Eq. 8's mean to the letter: over all batches since the start. Policy slai-published has it."""

    __slots__ = ("_count", "seconds")

    def __init__(self) -> None:
        self._count, self.seconds = 0, 0.0

    def add(self, seconds: float, *, has_prefill: bool) -> None:
        self._count += 1
        self.seconds += (seconds - self.seconds) / self._count


@dataclass(frozen=True, slots=True, kw_only=True)
class Slai:
    """SLAI as published: shortest prompt first, strict users before others, dynamic offset Theta.

    Departures, each forced by a setting that the paper does not have:
    - more than two classes: "strict first" becomes "smaller TBT target first", the same order when there are two;
    - a request without a target is never delayed (its `latest_start` is minus infinity) and is admitted last;
    - a decode that was pre-empted is admitted before all others: under shortest-first it would wait behind every new
      short prompt while its client watches a frozen stream. A prompt that was evicted goes back into the order;
    - blocks are the engine's: vLLM checks at admission that the whole prompt fits, but takes blocks chunk by chunk; the
      authors take all at once and keep 1 % free. So a started prompt can run dry midway;
    - victims are the engine's: the newest started prompt as published; when there is none, the decode with the latest
      LST (the authors: the critical decode that found no block). Nobody is evicted for a decode that can wait;
    - Eq. 8's mean batch duration comes from `BatchMean`, see there;
    - the authors' limit of decodes per batch is the engine's own limit of requests at once.
    """

    name: str = "slai"
    offset: float = 5.0
    """Theta, in batches, while the KV cache has room."""
    offset_when_full: float = 10.0
    full_from: float = 0.96
    """Share of KV blocks in use from which `offset_when_full` holds."""
    mean: Callable[[], Mean] = BatchMean
    """Makes the estimate of the mean batch duration; `RunningMean` is the one that was published."""

    def waiting_key(self, prompt: Prompt) -> tuple[float, ...]:
        strictness = math.inf if prompt.tbt_s is None else prompt.tbt_s
        return (not prompt.was_running, strictness, prompt.tokens, prompt.arrival)

    def latest_start(self, *, served_s: float, tbt_s: float | None, batch_s: float, kv_usage: float) -> float:
        """Eq. 8: end of the batch that served it + TBT - Theta x mean batch duration."""
        if tbt_s is None:
            return -math.inf
        theta = self.offset_when_full if kv_usage >= self.full_from else self.offset
        return served_s + tbt_s - theta * batch_s

    def decide(self, now_s: float, decodes: Sequence[Decode], started: Sequence[Started]) -> Order:
        """Critical decodes by LST, started prompts first come first served, the other decodes by LST."""
        by_start = sorted(decodes)
        due = sum(d.latest_start_s <= now_s for d in by_start)
        order = [d.place for d in by_start]
        return Order(tuple(order[:due]), tuple(s.place for s in sorted(started)), tuple(order[due:]))

    def batch_mean(self) -> Mean:
        return self.mean()


POLICIES: dict[str, Policy] = {"slai": Slai(), "slai-published": Slai(name="slai-published", mean=RunningMean)}
"""Orders by the name that LLMSERVICE_POLICY gives. `fcfs` is not among them: it means the engine's own order."""
