"""vLLM's waiting queue, in the order of a policy. Decides nothing itself."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import chain, islice

from vllm.v1.core.sched.request_queue import RequestQueue
from vllm.v1.request import Request

from llmservice_core.backlog import Backlog
from llmservice_core.steps import Policy, Task, backlog_of
from llmservice_serving.engine_seats import Seat


class PromptQueue(RequestQueue):  # type: ignore[misc]
    """Requests whose KV comes from elsewhere, then prompts, each in the policy's order. Prepending is adding: the order
    decides, not the moment.

    `offer` shows some prompts only, in an order of its own, until `offer_all`: vLLM then admits those and no others.
    """

    def __init__(self, policy: Policy, seat: Callable[[Request], Seat]) -> None:
        self.prompts: Backlog[Task] = backlog_of(policy)
        self._remote: Backlog[Task] = backlog_of(policy)
        self._seat = seat
        self._inside: dict[Request, Seat] = {}
        """Whose seats may be gone by the time that vLLM takes them out."""
        self._offered: list[Seat] | None = None

    def offer(self, seats: Sequence[Seat]) -> None:
        self._offered = list(reversed(seats))

    def offer_all(self) -> None:
        self._offered = None

    def add_request(self, request: Request) -> None:
        seat = self._inside[request] = self._seat(request)
        seat.back_in_line()
        (self._remote if seat.is_remote else self.prompts).add(seat)

    def pop_request(self) -> Request:
        seat = self._head()
        if self._offered and seat is self._offered[-1]:
            self._offered.pop()
        (self._remote if seat in self._remote else self.prompts).remove(seat)
        del self._inside[seat.request]
        return seat.request

    def peek_request(self) -> Request:
        return self._head().request

    def _head(self) -> Seat:
        if self._remote:
            (head,) = self._remote.first(1)
        elif self._offered is None:
            (head,) = self.prompts.first(1)
        else:
            head = self._offered[-1]
        assert isinstance(head, Seat)
        return head

    def prepend_request(self, request: Request) -> None:
        self.add_request(request)

    def prepend_requests(self, requests: Iterable[Request]) -> None:
        for request in requests:
            self.add_request(request)

    def remove_request(self, request: Request) -> None:
        self.remove_requests([request])

    def remove_requests(self, requests: Iterable[Request]) -> None:
        for seat in [self._inside.pop(request) for request in set(requests) & self._inside.keys()]:
            (self._remote if seat in self._remote else self.prompts).remove(seat)
            if self._offered is not None and seat in self._offered:
                self._offered.remove(seat)

    @property
    def has_remote(self) -> bool:
        """Somebody waits whose KV comes from another engine."""
        return len(self._remote) > 0

    def settled(self, seat: Seat) -> None:
        """It has started, or left for good."""
        for queue in (self._remote, self.prompts):
            queue.settled(seat)

    def __bool__(self) -> bool:
        return bool(self._remote) or bool(self.prompts if self._offered is None else self._offered)

    def __len__(self) -> int:
        return len(self._remote) + len(self.prompts)

    def __iter__(self) -> Iterator[Request]:
        return (seat.request for seat in chain(self._remote, self.prompts))  # type: ignore[attr-defined]

    def __getitem__(self, index: int) -> Request:
        return next(islice(iter(self), index, None))
