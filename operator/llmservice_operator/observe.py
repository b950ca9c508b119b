"""Asks Prometheus what it knows about one service; core/observation.py makes an `Observation` of the answer.

One query per tick: raw samples of only the names needed. What cannot be read is None and `problem` says why; a failure
is never a zero. Writes nothing.
"""

from collections.abc import Sequence

from llmservice_core import metric_names as names
from llmservice_core.model import Goal, Observation, PoolSeen
from llmservice_core.observation import NAMES, ReadySince, nothing_known, observation
from llmservice_core.samples import Series, Windows, scrape_gap_s, windows
from llmservice_operator.observe_prometheus import Prometheus, PrometheusError

NOBODY = ReadySince()


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
        series = await prometheus.range_vector(selector(service, windows(prometheus.gaps.get(service))))
    except PrometheusError as error:
        return nothing_known(goal, pools, start_up_s, now_s, str(error))
    routers = [s for s in series if s.name == names.ARRIVALS]
    if not routers:
        return nothing_known(goal, pools, start_up_s, now_s, _absent(service, series, prometheus.url))
    gap_s = scrape_gap_s(routers)
    if gap_s is not None:
        prometheus.gaps[service] = gap_s
    return observation(goal, series, pools, start_up_s, now_s, gap_s, ready)


def selector(service: str, w: Windows) -> str:
    """One range selector for everything."""
    quoted = service.replace("\\", "\\\\").replace('"', '\\"')
    return f'{{__name__=~"{"|".join(NAMES)}",{names.LLMSERVICE}="{quoted}"}}[{w.full_s:.0f}s]'


def _absent(service: str, series: Sequence[Series], url: str) -> str:
    if series:
        return f"Prometheus at {url} has engine series of {service} but none of its router: is the router scraped?"
    return f'Prometheus at {url} has no series with {names.LLMSERVICE}="{service}": does it scrape these pods?'
