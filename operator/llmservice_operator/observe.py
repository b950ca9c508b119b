"""Asks Prometheus what it knows about one service; core/observation.py makes an `Observation` of the answer.

One query per tick: raw samples of only the names needed. What cannot be read is None and `problem` says why; a failure
is never a zero. Writes nothing.
"""

import asyncio
from collections.abc import Sequence

from llmservice_core import metric_names as names
from llmservice_core import replay
from llmservice_core.model import Goal, Observation, PoolSeen
from llmservice_core.observation import NAMES, NOBODY, ReadySince, nothing_known, observed
from llmservice_core.planner_memory import Memory
from llmservice_core.samples import Series, range_s
from llmservice_core.sources import one_source
from llmservice_operator.observe_prometheus import Prometheus, PrometheusError


async def observe(
    goal: Goal,
    service: str,
    prometheus: Prometheus,
    pools: Sequence[PoolSeen],
    start_up_s: float | None,
    now_s: float,
    ready: ReadySince = NOBODY,
) -> Observation:
    """What is known of `service` ("<namespace>/<name>") at `now_s`; all but Prometheus' part comes from the cluster."""
    try:
        found = await prometheus.range_vector(selector(service, range_s(prometheus.gaps.get(service))))
    except PrometheusError as error:
        return nothing_known(goal, pools, start_up_s, now_s, str(error))
    series = one_source(found)
    seen = observed(goal, series, pools, start_up_s, now_s, ready)
    if seen is None:
        return nothing_known(goal, pools, start_up_s, now_s, _absent(service, series, prometheus.url))
    if seen.scrape_gap_s is not None:
        prometheus.gaps[service] = seen.scrape_gap_s
    return seen


async def remembered(
    goal: Goal,
    service: str,
    prometheus: Prometheus,
    pools: Sequence[PoolSeen],
    start_up_s: float | None,
    memory: Memory | None,
    now_s: float,
    since_s: float,
) -> Memory | None:
    """The memory with what it lacks since its last plan, from Prometheus' history; as it is where that has none."""
    begin_s = replay.begin_s(goal, memory, start_up_s, now_s, since_s)
    back_s = now_s - begin_s + range_s(prometheus.gaps.get(service))
    try:
        series = one_source(await prometheus.range_vector(selector(service, back_s)))
    except PrometheusError:
        return memory
    return await asyncio.to_thread(replay.replayed, goal, series, pools, start_up_s, memory, begin_s, now_s)


def selector(service: str, back_s: float) -> str:
    """One range selector for everything."""
    quoted = service.replace("\\", "\\\\").replace('"', '\\"')
    return f'{{__name__=~"{"|".join(NAMES)}",{names.LLMSERVICE}="{quoted}"}}[{back_s:.0f}s]'


def _absent(service: str, series: Sequence[Series], url: str) -> str:
    if series:
        return f"Prometheus at {url} has engine series of {service} but none of its router: is the router scraped?"
    return f'Prometheus at {url} has no series with {names.LLMSERVICE}="{service}": does it scrape these pods?'
