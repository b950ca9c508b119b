"""How many tokens a step may have so that its decodes keep their targets (Sarathi's budget, chosen anew for each step).

Sarathi-Serve (OSDI 2024) profiles one budget offline for one TBT target. Here: the largest whole number of tiles whose
step, counted with the decodes in it, ends within `aim` of the tightest target among them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from llmservice_core.latency import Work
from llmservice_core.steps import Policy, StepTime, Task

AIM = 0.85
TILE = 128


def step_budget(
    policy: Policy,
    decodes: Sequence[Task],
    started: Sequence[Task],
    *,
    fixed: int | None,
    step_s: StepTime | None,
    most: int,
    tile: int,
) -> int:
    """Tokens of the next step: `fixed` where somebody set it; all that the engine has where the policy plans the width
    itself or step times are not known yet; else `auto_budget`."""
    if fixed is not None:
        return min(most, fixed)
    if policy.plans_width or step_s is None:
        return most
    return auto_budget(decodes, step_s, most, started=started[0] if started else None, tile=tile)


def auto_budget(
    decodes: Sequence[Task], step_s: StepTime, most: int, *, started: Task | None = None, tile: int = TILE
) -> int:
    """Tokens, decodes included: from one tile of prompt beside the decodes up to `most`. `started`: the prompt that
    goes on, whose cached tokens cost attention. Without a target among the decodes: `most`."""
    tightest_s = min([d.tbt_s for d in decodes if d.tbt_s is not None], default=math.inf)
    if math.isinf(tightest_s):
        return most
    kv = sum([d.prompt_tokens + d.produced for d in decodes])
    cached = started.computed if started is not None else 0
    tiles = range(1, max(1, (most - len(decodes)) // tile) + 1)
    fits = 1
    for n in tiles:
        new = n * tile
        work = Work(
            new_tokens=new,
            attention_tokens2=new * (cached + new / 2),
            context_tokens=cached + new,
            chunks=1,
            decodes=len(decodes),
            decode_kv_tokens=kv,
        )
        if step_s(work) > AIM * tightest_s:
            break
        fits = n
    return min(most, len(decodes) + fits * tile)
