"""How many tokens one tenant may still use: a token bucket. Pure: no clock, time is an argument.

A request is charged by prediction when it is let in and corrected when its real use is known. The law: right after a
request was let in, all that was used or is predicted is at most `burst + rate x time`. An answer that outgrows its
prediction leaves a debt, which later requests wait for.
"""

from dataclasses import dataclass, replace

SECONDS_PER_MINUTE = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Bucket:
    """State at `at_s`. `level_tokens` may be used now; below 0 it is a debt."""

    rate_per_s: float
    """Tokens per second that come back."""
    burst_tokens: float
    """Most that can be there, so the most that one request may ask for."""
    level_tokens: float
    at_s: float

    def at(self, now_s: float) -> "Bucket":
        """Refilled until now. A clock that goes back gives nothing and takes nothing."""
        passed_s = max(0.0, now_s - self.at_s)
        level = min(self.burst_tokens, self.level_tokens + passed_s * self.rate_per_s)
        return replace(self, level_tokens=level, at_s=max(now_s, self.at_s))

    def wait_s(self, tokens: float, now_s: float) -> float | None:
        """Time until a request of this size could be let in: 0 now, None never."""
        if tokens > self.burst_tokens:
            return None
        return max(0.0, (tokens - self.at(now_s).level_tokens) / self.rate_per_s)

    def take(self, tokens: float, now_s: float) -> "Bucket":
        """After letting a request in, whose `wait_s` was 0."""
        return self._add(-tokens, now_s)

    def settle(self, predicted_tokens: float, used_tokens: float, now_s: float) -> "Bucket":
        """The real use of a request that was taken as `predicted_tokens`; 0 gives all of it back."""
        return self._add(predicted_tokens - used_tokens, now_s)

    def limited_to(self, tokens_per_minute: float, now_s: float) -> "Bucket":
        """The same use under another limit. What is there stays, up to the new most."""
        now = self.at(now_s)
        level = min(now.level_tokens, tokens_per_minute)
        return replace(full(tokens_per_minute, now.at_s), level_tokens=level)

    def _add(self, tokens: float, now_s: float) -> "Bucket":
        now = self.at(now_s)
        return replace(now, level_tokens=min(now.burst_tokens, now.level_tokens + tokens))


def full(tokens_per_minute: float, now_s: float) -> Bucket:
    """A tenant that has used nothing: one minute's tokens at once, then the rate."""
    rate = tokens_per_minute / SECONDS_PER_MINUTE
    return Bucket(rate_per_s=rate, burst_tokens=tokens_per_minute, level_tokens=tokens_per_minute, at_s=now_s)
