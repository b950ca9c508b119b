"""How often a request may be tried again. Pure: time is an argument."""

from dataclasses import dataclass

MAX_TAKEN = 2
"""So many engines may fail while they have a request, and bring nothing: one that kills engines must not visit all."""

MAX_RESUMES = 8
"""Of one stream, however far each engine came."""


@dataclass(slots=True, kw_only=True)
class Attempts:
    """Of one request."""

    most: int
    """Routes that are tried while nothing was sent to the client."""
    patience_s: float
    """So long a client that has a part of its answer waits for an engine that goes on."""
    retries: int = 0
    resumes: int = 0
    _taken: int = 0
    still_s: float | None = None
    """Since when the stream has stood still."""

    def failed(self, *, had_request: bool, has_begun: bool, came_further: bool, now_s: float) -> bool:
        """An engine failed. Whether another may try."""
        self.retries += 1
        if has_begun and (came_further or self.still_s is None):
            self.still_s = now_s
        if came_further:
            self._taken = 0
            self.resumes += 1
        else:
            self._taken += had_request
        if self._taken >= MAX_TAKEN:
            return False
        if not has_begun:
            return self.retries < self.most
        return self.resumes <= MAX_RESUMES and self.may_wait(now_s)

    def may_wait(self, now_s: float) -> bool:
        """Whether a stream that stands still may wait on for an engine; False for what has not begun."""
        return self.still_s is not None and now_s < self.still_s + self.patience_s
