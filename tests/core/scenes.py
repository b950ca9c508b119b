"""Steps to decide on, for the tables of the policies: decodes, prompts, room, step times simple enough to follow."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from llmservice_core.latency import Work
from llmservice_core.steps import Policy, StepPlan, Task, View, backlog_of

STRICT, RELAXED = 0.1, 0.5


@dataclass(slots=True, eq=False, kw_only=True)
class Named(Task):
    name: str = ""


def step_s(w: Work) -> float:
    """5 ms, 0.1 ms per prompt token (76.8 ms for 768), 0.5 ms per decode; mixing is free."""
    return 0.005 + 1e-4 * w.new_tokens + 5e-4 * w.decodes


def decode(
    name: str, *, ago_s: float = 0.0, tbt_s: float | None = RELAXED, kv: int = 500, produced: int = 1, **more: Any
) -> Named:
    """A running decode; now is 0."""
    return Named(
        name=name, prompt_tokens=kv - produced, produced=produced, arrival_s=more.pop("arrival_s", -10.0), tbt_s=tbt_s,
        last_token_s=-ago_s, is_started=True, computed=kv, **more,
    )  # fmt: skip


def prompt(
    name: str, tokens: int, *, computed: int = 0, tbt_s: float | None = RELAXED, waits: float = 0.1, **more: Any
) -> Named:
    """A prompt that came `waits` seconds ago; with computed tokens it has started."""
    return Named(
        name=name, prompt_tokens=tokens, arrival_s=-waits, tbt_s=tbt_s, computed=computed, is_started=computed > 0,
        **more,
    )  # fmt: skip


def view(
    policy: Policy, *decodes: Task, started: Sequence[Task] = (), waiting: Sequence[Task] = (), **room: Any
) -> View:
    queue = backlog_of(policy)
    for task in waiting:
        policy.joined(task)
        queue.add(task)
    queue.advance(0.0)
    free, total = room.pop("free_tokens", 80_000), room.pop("total_tokens", 100_000)
    return View(
        now_s=0.0, decodes=decodes, started=started, waiting=queue, free_tokens=free, total_tokens=total,
        seats=room.pop("seats", 100), budget_tokens=room.pop("budget_tokens", 768), step_s=room.pop("step_s", step_s),
        cached=room.pop("cached", None),
    )  # fmt: skip


def names(tasks: Sequence[Task]) -> list[str]:
    return [task.name for task in tasks if isinstance(task, Named)]


def chunks(plan: StepPlan) -> list[tuple[str, int]]:
    return [(task.name, n) for task, n in plan.chunks if isinstance(task, Named)]


def queued(policy: Policy, *tasks: Task) -> list[str]:
    """Names in the order in which they would be admitted."""
    return names(list(view(policy, waiting=tasks).waiting))
