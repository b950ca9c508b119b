"""vLLM's waiting queue, in the order of a key. Decides nothing itself and never looks at a request."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterable, Iterator
from itertools import count

from vllm.v1.core.sched.request_queue import RequestQueue
from vllm.v1.request import Request

Key = tuple[float, ...]


class PromptQueue(RequestQueue):  # type: ignore[misc]
    """Smallest key first, then first added. Prepending is adding: the key decides, not the moment."""

    def __init__(self, key: Callable[[Request], Key]) -> None:
        self._key = key
        self._entries: list[tuple[Key, int, Request]] = []
        self._count = count()

    def add_request(self, request: Request) -> None:
        heapq.heappush(self._entries, (self._key(request), next(self._count), request))

    def pop_request(self) -> Request:
        return heapq.heappop(self._entries)[2]

    def peek_request(self) -> Request:
        return self._entries[0][2]

    def prepend_request(self, request: Request) -> None:
        self.add_request(request)

    def prepend_requests(self, requests: Iterable[Request]) -> None:
        for request in requests:
            self.add_request(request)

    def remove_request(self, request: Request) -> None:
        self.remove_requests([request])

    def remove_requests(self, requests: Iterable[Request]) -> None:
        gone = set(requests)
        self._entries = [e for e in self._entries if e[2] not in gone]
        heapq.heapify(self._entries)

    def __bool__(self) -> bool:
        return bool(self._entries)

    def __len__(self) -> int:
        return len(self._entries)

    def __iter__(self) -> Iterator[Request]:
        return (entry[2] for entry in sorted(self._entries))

    def __getitem__(self, index: int) -> Request:
        return sorted(self._entries)[index][2]
