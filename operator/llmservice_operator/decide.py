"""One decision for one service: observe, then plan. Reads only; what to do with the plan is the keeper's business."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

from llmservice_api.resource import LLMService
from llmservice_core import planner, replay
from llmservice_core.model import Calls, Observation, Plan, Pool, PoolSeen
from llmservice_core.observation import nothing_known
from llmservice_core.planner_memory import Memory
from llmservice_operator import observe, observe_pods
from llmservice_operator.kinds import DEPLOYMENT, POD
from llmservice_operator.rollout import engines
from llmservice_operator.world import World

NO_URL = "no Prometheus is known: set spec.metrics.prometheusURL, or start the operator with LLMSERVICE_PROMETHEUS_URL"


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    observation: Observation
    plan: Plan
    memory: Memory


def pools_seen(world: World, service: LLMService, sizes: Mapping[Pool, int]) -> tuple[PoolSeen, ...]:
    """Pods of all revisions, for all serve and all hold GPUs; `desired` is what was decided, not what is written."""
    pods = world.watches.of(POD, service.key)
    seen = observe_pods.pool_seen(pods, engines(world.watches.of(DEPLOYMENT, service.key)))
    return tuple(replace(p, desired=sizes[p.pool]) for p in seen if p.pool in sizes)


async def decide(
    world: World, service: LLMService, pools: tuple[PoolSeen, ...], memory: Memory | None, calls: Calls | None = None
) -> Decision:
    """`calls`: what the routers say now, of a service that may sleep."""
    goal, now_s = service.to_goal(), world.clock()
    pods = world.watches.of(POD, service.key)
    world.start_ups[service.key] = observe_pods.start_ups(pods, world.start_ups.get(service.key, {}))
    start_up_s = observe_pods.start_up_seconds(pods, world.start_ups[service.key])
    prometheus = world.prometheus(service)
    if prometheus is None:
        seen = nothing_known(goal, pools, start_up_s, now_s, NO_URL)
    else:
        since_s = _created_s(service, now_s)
        if replay.is_due(goal, memory, now_s, since_s):
            memory = await observe.remembered(goal, service.key, prometheus, pools, start_up_s, memory, now_s, since_s)
        ready = observe_pods.ready_since(pods)
        seen = await observe.observe(goal, service.key, prometheus, pools, start_up_s, now_s, ready)
    plan, memory = planner.plan(goal, replace(seen, calls=calls), memory)
    return Decision(observation=seen, plan=plan, memory=memory)


def _created_s(service: LLMService, now_s: float) -> float:
    """Samples of before are of another service of this name. Not known: as if it were made now."""
    created = service.metadata.creation_timestamp
    return now_s if created is None else created.timestamp()
