"""What one request holds of the engines: work on the one that answers, and a place for its prompt until it is computed.

Given by the waiting room in one piece, so that two requests of one moment see each other's work. Given back once,
whatever becomes of the request.
"""

import asyncio
from types import TracebackType

from llmservice_core.line import Amount
from llmservice_core.routing import Route
from llmservice_serving.router.fleet import Fleet, Lease

GUESS = (0.05, 0.0005)
"""Seconds per prompt and per token while nothing was seen; only for prompts whose end nobody sees."""


class Place:
    """A prompt of ours in an engine."""

    def __init__(self, fleet: Fleet, engine: str, tokens: float):
        self._fleet, self._engine, self._tokens = fleet, engine, tokens
        self._is_open = True
        self._timer: asyncio.TimerHandle | None = None
        fleet.pace(engine).began(tokens, fleet.clock())

    def ended(self) -> None:
        """It is computed: the pace is learned."""
        if self._leave():
            self._fleet.pace(self._engine).ended(self._tokens, self._fleet.clock())
            self._fleet.on_change()

    def close(self) -> None:
        """It failed, or nobody saw its end."""
        if self._leave():
            self._fleet.pace(self._engine).gone(self._tokens)
            self._fleet.on_change()

    def close_by_itself(self) -> None:
        """Without a stream nobody sees where the prompt ends: taken to be over when it should be."""
        pace = self._fleet.pace(self._engine)
        known = pace.is_known(self._fleet.clock())
        seconds = pace.seconds(pace.held) if known else guess_s(pace.held)
        self._timer = asyncio.get_running_loop().call_later(seconds, self.close)

    def _leave(self) -> bool:
        was_open, self._is_open = self._is_open, False
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        return was_open


def guess_s(work: Amount) -> float:
    return GUESS[0] * work.prompts + GUESS[1] * work.tokens


class Grant:
    """`decode`: on the engine that answers; `prefill`: on another one that computes the prompt."""

    def __init__(self, fleet: Fleet, route: Route, prompt_tokens: float, output_tokens: float):
        self.route = route
        self.place = Place(fleet, route.prompt_engine.name, prompt_tokens)
        self.prefill: Lease | None = None
        work_tokens = output_tokens
        if route.prefill is None:
            work_tokens += prompt_tokens
        else:
            self.prefill = fleet.lease(route.prefill, prompt_tokens).open()
        self.decode = fleet.lease(route.decode, work_tokens).open()

    def phase_of(self, engine: str) -> str:
        """What the engine of that name does of the request."""
        return "prefill" if self.route.prefill is not None and self.route.prefill.name == engine else "decode"

    def prompt_done(self) -> None:
        if self.prefill is not None:
            self.prefill.close()
        self.place.ended()

    def __enter__(self) -> "Grant":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        if self.prefill is not None:
            self.prefill.close()
        self.decode.close()
        self.place.close()
