"""A planner's memory rebuilt from the samples that are still there, so that a restarted operator decides as it did.

The recent past is planned once more, on what was known at each moment; only the memory is kept. Sizes and pods of that
time are taken to be those of now: the memory is written with the status whenever one of them changes, so since then
none did, unless the operator was away. Pure: the samples and all times are arguments.
"""

from collections.abc import Sequence

from llmservice_core.model import Goal, PoolSeen
from llmservice_core.observation import observed
from llmservice_core.planner import DEFAULT_STABILIZATION_S, plan
from llmservice_core.planner_facts import MOST_START_UP_S
from llmservice_core.planner_forecast import TREND_S
from llmservice_core.planner_memory import Memory
from llmservice_core.samples import Series, until

MISSED_INTERVALS = 2.0
"""A memory that is older than so many intervals lacks decisions."""
MOST_PLANS = 40
"""A window of one minute is seen from every moment of it; more plans than this add time and no knowledge."""


def is_due(goal: Goal, memory: Memory | None, now_s: float, since_s: float) -> bool:
    """Whether decisions since `since_s`, when the service was made, are missing from the memory."""
    known_s = since_s if memory is None else memory.updated_s
    return now_s - known_s > MISSED_INTERVALS * goal.interval_s


def begin_s(goal: Goal, memory: Memory | None, start_up_s: float | None, now_s: float, since_s: float) -> float:
    """Where the replay begins: after the memory's last plan, and no earlier than any window looks back."""
    longest_s = goal.stabilization_s
    if longest_s is None:
        longest_s = DEFAULT_STABILIZATION_S if start_up_s is None else min(MOST_START_UP_S, start_up_s)
    horizon_s = (start_up_s or DEFAULT_STABILIZATION_S) + 60.0
    known_s = since_s if memory is None else max(since_s, memory.updated_s)
    return max(known_s, now_s - max(longest_s + goal.interval_s, 1.5 * max(TREND_S, horizon_s)))


def replayed(
    goal: Goal,
    series: Sequence[Series],
    pools: Sequence[PoolSeen],
    start_up_s: float | None,
    memory: Memory | None,
    begin_s: float,
    now_s: float,
) -> Memory | None:
    """The memory as of the plan before the one at `now_s`; the given one where no sample tells more."""
    step_s = max(goal.interval_s, (now_s - begin_s) / MOST_PLANS)
    times = [now_s - step_s * k for k in range(int((now_s - begin_s) / step_s), 0, -1)]
    for time_s in times:
        seen = observed(goal, until(series, time_s), pools, start_up_s, time_s)
        if seen is not None:
            _, memory = plan(goal, seen, memory, time_s)
    return memory
