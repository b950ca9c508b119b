"""The router's queue: which request goes to an engine next. Pure: no clock, time is an argument.

Between classes the strict one first, a class whose requests are all late behind the others. Inside a class the tenant
with the least service first (`policy_vtc.Counters`: Sheng et al., OSDI 2024, arXiv 2401.00588). Of one tenant the
shortest prompt first, late ones behind all that can still be in time. A guard bounds waiting: one turn in `guard_turns`
belongs to the class, and inside a tenant to the request, that has waited longest, once that is longer than `guard_s`.
It is a share of the turns and not the front of the line, because under overload everything old would stand there.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import takewhile

from llmservice_core.backlog import Backlog
from llmservice_core.policy_vtc import Counters

GUARD_S = 30.0
GUARD_TURNS = 8


@dataclass(slots=True, eq=False, kw_only=True)
class Waiter:
    """A request in the queue. Times share one clock; compared by identity."""

    service_class: str
    tenant: str = ""
    """Empty where nobody has a key: then there is one tenant."""
    arrival_s: float
    ttft_s: float | None = None
    prompt_tokens: int
    """Predicted, or counted where the client sent token ids."""
    is_charged: bool = False
    """It had its turn before, and an engine failed."""
    is_overdue: bool = False
    """Of a queue with a guard of its own; the line's is `GUARD_S`."""

    @property
    def known(self) -> int:
        return self.prompt_tokens

    def is_late(self, now_s: float) -> bool:
        return self.ttft_s is not None and now_s > self.arrival_s + self.ttft_s

    @property
    def strictness(self) -> float:
        return math.inf if self.ttft_s is None else self.ttft_s


@dataclass(frozen=True, slots=True)
class Amount:
    """Prompts and their tokens together."""

    prompts: float = 0.0
    tokens: float = 0.0

    def __add__(self, other: Amount) -> Amount:
        return Amount(self.prompts + other.prompts, self.tokens + other.tokens)


class Services:
    """What tenants were served, class by class. Several lines may share it."""

    def __init__(self) -> None:
        self._of: dict[str, Counters] = {}

    def of(self, service_class: str) -> Counters:
        return self._of.setdefault(service_class, Counters())

    def produced(self, waiter: Waiter, tokens: int) -> None:
        """Tokens of an answer left an engine."""
        self.of(waiter.service_class).charge_output(waiter.tenant, tokens)


def _by_length(waiter: Waiter) -> tuple[float, ...]:
    return (waiter.prompt_tokens, waiter.arrival_s)


def _place(waiter: Waiter, now_s: float) -> tuple[float, ...]:
    return (waiter.is_late(now_s), waiter.strictness, *_by_length(waiter))


@dataclass(slots=True)
class _Group:
    """One tenant's requests of one class."""

    rows: Backlog[Waiter] = field(default_factory=lambda: Backlog(_by_length, late_last=True))
    tokens: int = 0
    turns: int = 0

    def all(self) -> Amount:
        return Amount(len(self.rows), self.tokens)


class Line:
    """One queue in front of engines that can all serve what waits in it."""

    def __init__(
        self, services: Services | None = None, *, guard_s: float = GUARD_S, guard_turns: int = GUARD_TURNS
    ) -> None:
        self.services = services or Services()
        self._guard_s, self._guard_turns = guard_s, guard_turns
        self._classes: dict[str, dict[str, _Group]] = {}
        self._turns = 0

    def __len__(self) -> int:
        return sum(len(g.rows) for groups in self._classes.values() for g in groups.values())

    def __contains__(self, waiter: Waiter) -> bool:
        group = self._classes.get(waiter.service_class, {}).get(waiter.tenant)
        return group is not None and waiter in group.rows

    def add(self, waiter: Waiter) -> None:
        groups = self._classes.setdefault(waiter.service_class, {})
        group = groups.setdefault(waiter.tenant, _Group())
        group.rows.add(waiter)
        group.tokens += waiter.prompt_tokens
        self.services.of(waiter.service_class).arrived(waiter.tenant)

    def remove(self, waiter: Waiter) -> None:
        """It waits no longer: its client left, or it was refused."""
        groups = self._classes[waiter.service_class]
        group = groups[waiter.tenant]
        group.rows.remove(waiter)
        group.tokens -= waiter.prompt_tokens
        self.services.of(waiter.service_class).departed(waiter.tenant)
        if not len(group.rows):
            del groups[waiter.tenant]
        if not groups:
            del self._classes[waiter.service_class]

    def take(self, waiter: Waiter) -> None:
        """It goes to an engine, and its prompt is charged to its tenant, once."""
        self._turns += 1
        self._classes[waiter.service_class][waiter.tenant].turns += 1
        self.remove(waiter)
        if not waiter.is_charged:
            waiter.is_charged = True
            self.services.of(waiter.service_class).charge_input(waiter.tenant, waiter.prompt_tokens)

    def first(self, now_s: float, besides: Collection[Waiter] = ()) -> Waiter | None:
        """Whose turn it is, if those in `besides` cannot go now."""
        names = [name for name in self._classes if self._heads(name, besides)] if besides else list(self._classes)
        if not names:
            return None
        name = self._class_of_turn(names, now_s)
        head = self._head_of(name, now_s, besides)
        oldest = self._oldest_if_guarded(head, now_s)
        return head if oldest is None or oldest in besides else oldest

    def key(self, waiter: Waiter, now_s: float) -> tuple[float, ...]:
        """To compare the first of two lines that share their engines."""
        served = self.services.of(waiter.service_class).of(waiter.tenant)
        return (waiter.is_late(now_s), waiter.strictness, served, *_by_length(waiter))

    def waiting(self, service_class: str) -> Amount:
        groups = self._classes.get(service_class, {}).values()
        return sum((g.all() for g in groups), Amount())

    def by_tenant(self, service_class: str) -> dict[str, int]:
        """Tokens that wait."""
        return {tenant: group.tokens for tenant, group in self._classes.get(service_class, {}).items()}

    def newest(self, service_class: str, tenant: str) -> Waiter | None:
        group = self._classes.get(service_class, {}).get(tenant)
        return max(group.rows, key=lambda w: w.arrival_s) if group else None

    def ahead(self, waiter: Waiter, now_s: float) -> Amount:
        """What goes before a request that is in the line, if nobody else comes."""
        groups = self._classes[waiter.service_class]
        total = self._shorter(groups[waiter.tenant], waiter, now_s)
        mine = self._served_by_then(waiter, total)
        for tenant, group in groups.items():
            if tenant != waiter.tenant:
                total += self._before(group, mine - self.services.of(waiter.service_class).of(tenant))
        for name, others in self._classes.items():
            if name != waiter.service_class:
                for group in others.values():
                    total += self._stricter(group, waiter, now_s)
        return total

    def _heads(self, name: str, besides: Collection[Waiter]) -> dict[str, Waiter]:
        """The next request of each tenant that has one."""
        found = {}
        for tenant, group in self._classes[name].items():
            head = next((w for w in group.rows if w not in besides), None)
            if head is not None:
                found[tenant] = head
        return found

    def _head_of(self, name: str, now_s: float, besides: Collection[Waiter]) -> Waiter:
        """Of the tenant with the least service; of equals the better request. Most tenants are not looked at."""
        served = self.services.of(name).of
        tenants: Collection[str] = self._heads(name, besides) if besides else self._classes[name]
        least = min(map(served, tenants))
        groups = [self._classes[name][tenant] for tenant in tenants if served(tenant) == least]
        for group in groups:
            group.rows.advance(now_s)
        heads = (next(w for w in group.rows if w not in besides) for group in groups)
        return min(heads, key=lambda w: _place(w, now_s))

    def _oldest_if_guarded(self, head: Waiter, now_s: float) -> Waiter | None:
        group = self._classes[head.service_class][head.tenant]
        oldest = group.rows.oldest() if self._is_guarded(group.turns) else None
        return oldest if oldest is not None and oldest.arrival_s < now_s - self._guard_s else None

    def _class_of_turn(self, names: Sequence[str], now_s: float) -> str:
        if self._is_guarded(self._turns):
            oldest_s, name = min((self._oldest_s(name), name) for name in names)
            if oldest_s < now_s - self._guard_s:
                return name
        if len(names) == 1:
            return names[0]
        ranks = {name: self._rank(name, now_s) for name in names}
        tied = [name for name, rank in ranks.items() if rank == min(ranks.values())]
        if len(tied) == 1:
            return tied[0]
        return min(tied, key=lambda name: min(_place(w, now_s) for w in self._heads(name, ()).values()))

    def _rank(self, name: str, now_s: float) -> tuple[bool, float]:
        """Late only if all are: one look at most tenants' first request."""
        strictness = math.inf
        for group in self._classes[name].values():
            group.rows.advance(now_s)
            head = next(iter(group.rows))
            strictness = min(strictness, head.strictness)
            if not head.is_late(now_s):
                return False, head.strictness
        return True, strictness

    def _is_guarded(self, turns: int) -> bool:
        return turns % self._guard_turns == self._guard_turns - 1

    def _oldest_s(self, service_class: str) -> float:
        oldest = (group.rows.oldest() for group in self._classes[service_class].values())
        return min((w.arrival_s for w in oldest if w is not None), default=math.inf)

    @staticmethod
    def _shorter(group: _Group, waiter: Waiter, now_s: float) -> Amount:
        """Of its own tenant, those in front of it; itself excluded."""
        group.rows.advance(now_s)
        before = list(takewhile(lambda w: w is not waiter, group.rows))
        return Amount(len(before), sum(w.prompt_tokens for w in before))

    def _served_by_then(self, waiter: Waiter, own: Amount) -> float:
        """Its tenant's counter when its turn comes: until then others are served up to that level."""
        counters = self.services.of(waiter.service_class)
        return counters.of(waiter.tenant) + counters.input_weight * own.tokens

    @staticmethod
    def _before(group: _Group, level: float) -> Amount:
        """What another tenant may still have until its counter is as high (input weight 1)."""
        if level <= 0:
            return Amount()
        share = min(1.0, level / max(1, group.tokens))
        return Amount(share * len(group.rows), share * group.tokens)

    @staticmethod
    def _stricter(group: _Group, waiter: Waiter, now_s: float) -> Amount:
        """Those of another class that go before: it is stricter, and they are in time; or only they are."""

        def goes_before(other: Waiter) -> bool:
            return (other.is_late(now_s), other.strictness) < (waiter.is_late(now_s), waiter.strictness)

        group.rows.advance(now_s)
        rows: Iterator[Waiter] = takewhile(goes_before, group.rows)
        before = [w.prompt_tokens for w in rows]
        return Amount(len(before), sum(before))
