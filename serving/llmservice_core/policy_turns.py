"""A decode step that would be too slow for the strictest of its decodes: the relaxed take turns. Ours (slai-plus)."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from llmservice_core.latency import Work
from llmservice_core.steps import StepTime, Task

Due = Callable[[Task], float]


def take_turns(
    decodes: Sequence[Task], due_s: Due, step_s: StepTime, aim: float
) -> tuple[list[Task], list[Task], float]:
    """Who runs, most urgent first; who waits; how long the step lasts.

    All run if that ends within `aim` of the strictest target. If not: the strictest, those without a target, and of the
    others as many as that time allows, in the order in which they are due. Those left out are the first next time.
    """
    order = sorted(decodes, key=due_s)
    kv_tokens = sum(d.prompt_tokens + d.produced for d in order)
    every_s = step_s(Work(decodes=len(order), decode_kv_tokens=kv_tokens))
    tightest_s = min((d.tbt_s for d in order if d.tbt_s is not None), default=math.inf)
    if every_s <= aim * tightest_s:
        return order, [], every_s
    chosen = [d for d in order if d.tbt_s is None or d.tbt_s <= tightest_s]
    kv, waits = sum(d.known for d in chosen), []
    for d in (d for d in order if d.tbt_s is not None and d.tbt_s > tightest_s):
        with_it_s = step_s(Work(decodes=len(chosen) + 1, decode_kv_tokens=kv + d.known))
        if with_it_s > aim * tightest_s:
            waits.append(d)
            continue
        chosen.append(d)
        kv += d.known
    return chosen, waits, step_s(Work(decodes=len(chosen), decode_kv_tokens=kv))
