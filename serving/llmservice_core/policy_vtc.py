"""Virtual token counter: tenants get equal shares of served tokens, whoever sends more.

Sheng et al., "Fairness in Serving Large Language Models", OSDI 2024, arXiv 2401.00588. Between two tenants that both
have requests waiting, served tokens differ by no more than 2 max(w_p L_input, w_q M): L_input is the longest prompt, M
the tokens that a batch can hold.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from llmservice_core.steps import Mode, Plain, StepPlan, Task, View, by_arrival, fitting, packed


@dataclass(slots=True)
class Counters:
    """Weighted tokens served to each tenant. `input_weight` w_p, `output_weight` w_q, `shares`: a tenant's weight."""

    input_weight: float = 1.0
    output_weight: float = 2.0
    shares: Mapping[str, float] = field(default_factory=dict)
    served: dict[str, float] = field(default_factory=dict)
    _waiting: dict[str, int] = field(default_factory=dict)
    _last_to_leave: str | None = None

    def of(self, tenant: str) -> float:
        return self.served.get(tenant, 0.0)

    def arrived(self, tenant: str) -> None:
        """A tenant that had nothing waiting is lifted to the least of those that have: it saves nothing up while away.
        With nobody waiting, to the one whose last request left the queue last."""
        if not self._waiting.get(tenant):
            others = [self.of(t) for t, n in self._waiting.items() if n and t != tenant]
            last = self.of(self._last_to_leave) if self._last_to_leave is not None else 0.0
            self.served[tenant] = max(self.of(tenant), min(others) if others else last)
        self._waiting[tenant] = self._waiting.get(tenant, 0) + 1

    def departed(self, tenant: str) -> None:
        """One of its requests waits no longer."""
        self._waiting[tenant] -= 1
        if not self._waiting[tenant]:
            del self._waiting[tenant]
            self._last_to_leave = tenant

    def charge_input(self, tenant: str, tokens: int) -> None:
        self._charge(tenant, self.input_weight * tokens)

    def charge_output(self, tenant: str, tokens: int) -> None:
        self._charge(tenant, self.output_weight * tokens)

    def _charge(self, tenant: str, cost: float) -> None:
        self.served[tenant] = self.of(tenant) + cost / self.shares.get(tenant, 1.0)


class Vtc(Plain):
    """Decodes first, never paused; then started prompts; then the first request of the tenant with the least service,
    counted on within the step. The first that does not fit ends it: nobody passes a tenant whose turn it is."""

    def __init__(self, name: str = "vtc", counters: Counters | None = None) -> None:
        self.name = name
        self.counters = counters or Counters()
        self._queued: set[Task] = set()

    def joined(self, task: Task) -> None:
        self._queued.add(task)
        self.counters.arrived(task.tenant)

    def queue_key(self, task: Task) -> tuple[float, ...]:
        return (task.arrival_s,)

    def queue_group(self, task: Task) -> str:
        return task.tenant

    def admitted(self, task: Task) -> None:
        self._unqueue(task)
        self.counters.charge_input(task.tenant, task.prompt_tokens)

    def served(self, tasks: Sequence[Task], *, now_s: float, kv_usage: float) -> None:
        for task in tasks:
            self.counters.charge_output(task.tenant, 1)

    def left(self, task: Task, *, is_complete: bool) -> None:
        self._unqueue(task)

    def _unqueue(self, task: Task) -> None:
        if task in self._queued:
            self._queued.remove(task)
            self.counters.departed(task.tenant)

    def plan(self, view: View) -> StepPlan:
        left = max(0, view.budget_tokens - len(view.decodes))
        started = sorted(view.started, key=by_arrival)
        for_new = left - sum(p.remaining for p in started)
        fresh = fitting(view, self._turns(view), for_new)
        return StepPlan(
            mode=Mode.MIXED,
            serve=view.decodes,
            chunks=packed([*started, *fresh], left),
            budget_tokens=view.budget_tokens,
        )

    def _turns(self, view: View) -> Iterator[Task]:
        """Whoever lost its cache in mid-answer; then always the next of the tenant that has had least."""
        queues = {head.tenant: view.waiting.of_group(head.tenant) for head in view.waiting.heads()}
        heads = {tenant: next(queue) for tenant, queue in queues.items()}
        counts = {tenant: self.counters.of(tenant) for tenant in heads}
        while heads:
            tenant = min(heads, key=lambda t: (not heads[t].was_running, counts[t], by_arrival(heads[t])))
            task = heads.pop(tenant)
            yield task
            share = self.counters.shares.get(tenant, 1.0)
            counts[tenant] += self.counters.input_weight * task.prompt_tokens / share
            following = next(queues[tenant], None)
            if following is not None:
                heads[tenant] = following
