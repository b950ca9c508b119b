"""vLLM's waiting queue, in the order of a key. Decides nothing itself and never looks at a request."""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import count, islice

from vllm.v1.core.sched.request_queue import RequestQueue
from vllm.v1.request import Request

Key = tuple[float, ...]
Entry = tuple[Key, int, Request]


class PromptQueue(RequestQueue):  # type: ignore[misc]
    """Smallest key first, then first added. Prepending is adding: the key decides, not the moment.

    `offer` shows some requests only, in an order of its own, until `offer_all`: vLLM then admits those and no others.
    """

    def __init__(self, key: Callable[[Request], Key]) -> None:
        self._key = key
        self._sorted: list[Entry] = []
        self._entries: dict[Request, Entry] = {}
        self._offered: list[Request] | None = None
        self._count = count()

    def offer(self, requests: Sequence[Request]) -> None:
        self._offered = list(reversed(requests))

    def offer_all(self) -> None:
        self._offered = None

    def first(self, most: int) -> list[Request]:
        """In key order, whatever is offered."""
        return [entry[2] for entry in islice(self._sorted, most)]

    def oldest(self) -> Request | None:
        """The one that was added before all others."""
        return next(iter(self._entries), None)

    def add_request(self, request: Request) -> None:
        entry = (self._key(request), next(self._count), request)
        self._entries[request] = entry
        insort(self._sorted, entry)

    def pop_request(self) -> Request:
        if self._offered is None:
            request = self._sorted.pop(0)[2]
            del self._entries[request]
            return request
        request = self._offered.pop()
        self._forget(request)
        return request

    def peek_request(self) -> Request:
        return self._sorted[0][2] if self._offered is None else self._offered[-1]

    def prepend_request(self, request: Request) -> None:
        self.add_request(request)

    def prepend_requests(self, requests: Iterable[Request]) -> None:
        for request in requests:
            self.add_request(request)

    def remove_request(self, request: Request) -> None:
        self.remove_requests([request])

    def remove_requests(self, requests: Iterable[Request]) -> None:
        for request in set(requests) & self._entries.keys():
            self._forget(request)
            if self._offered is not None and request in self._offered:
                self._offered.remove(request)

    def _forget(self, request: Request) -> None:
        entry = self._entries.pop(request)
        del self._sorted[bisect_left(self._sorted, entry)]

    def __bool__(self) -> bool:
        return bool(self._sorted if self._offered is None else self._offered)

    def __len__(self) -> int:
        return len(self._sorted)

    def __iter__(self) -> Iterator[Request]:
        return (entry[2] for entry in self._sorted)

    def __getitem__(self, index: int) -> Request:
        return self._sorted[index][2]
