"""(old conditions, facts) -> new conditions. Pure. The transition time moves only when a status flips."""

from collections.abc import Sequence

from llmservice_api.plan_status import timestamp
from llmservice_api.status import Condition
from llmservice_core.contract import (
    CONDITION_ASLEEP,
    CONDITION_PROGRESSING,
    PORT_ENGINE_METRICS,
    PORT_ROUTER_METRICS,
    REASON_ROLLOUT_PAUSE,
)
from llmservice_core.model import Attainment, ClassTraffic, Observation, Reason, ServiceClass
from llmservice_core.planner_sleep import SLEEP
from llmservice_operator.facts import Facts

TRUE, FALSE, UNKNOWN = "True", "False", "Unknown"
OPEN = "open: whoever reaches the routers may use them, for spec.router.access names no API keys"
Verdict = tuple[str, str, str]
"""Status, reason, message."""


def report(old: Sequence[Condition], facts: Facts) -> list[Condition]:
    verdicts = {
        "Ready": _ready(facts),
        "MetricsAvailable": _metrics_available(facts),
        "SLOMet": _slo_met(facts),
        "BudgetLimited": _budget_limited(facts),
        CONDITION_ASLEEP: _asleep(facts, next((c.reason for c in old if c.type == CONDITION_ASLEEP), "")),
        CONDITION_PROGRESSING: progressing(facts),
        "Degraded": _degraded(facts),
    }
    before = {condition.type: condition for condition in old}
    return [_condition(kind, verdict, before.get(kind), facts) for kind, verdict in verdicts.items()]


def _condition(kind: str, verdict: Verdict, before: Condition | None, facts: Facts) -> Condition:
    status, reason, message = verdict
    kept = before is not None and before.status == status
    return Condition(
        type=kind,
        status=status,
        reason=reason,
        message=message[:2048],
        last_transition_time=before.last_transition_time if before and kept else timestamp(facts.now_s),
        observed_generation=facts.service.metadata.generation,
    )


def _ready(facts: Facts) -> Verdict:
    if facts.problem is not None and not facts.pools:
        return UNKNOWN, facts.problem[0], facts.problem[1]
    used = facts.service.pools
    if facts.is_asleep and facts.router_ready:
        return TRUE, str(Reason.SCALED_TO_ZERO), "it sleeps: a router holds requests, and the first one starts engines"
    missing = [f"no {pool.value} engine is ready" for pool in used if facts.seen(pool).ready == 0]
    if missing:
        return FALSE, "EnginesNotReady", "; ".join(missing)
    if facts.router_ready < 1:
        return FALSE, "RouterNotReady", "no router is ready"
    who = "who has an API key may come in" if facts.service.api_keys_secret else OPEN
    return TRUE, "Serving", f"every pool has a ready engine, and a router is ready; {who}"


def _metrics_available(facts: Facts) -> Verdict:
    seen, plan = facts.observation, facts.plan
    if seen is None:
        return UNKNOWN, "NotAsked", "no decision was made yet that needs metrics"
    blind = {p.reason for p in plan.pools} if plan is not None else set()
    if seen.problem is not None:
        reason = Reason.METRICS_STALE if Reason.METRICS_STALE in blind else Reason.METRICS_MISSING
        return FALSE, str(reason), seen.problem
    if plan is not None and Reason.METRICS_STALE in blind:
        return FALSE, str(Reason.METRICS_STALE), plan.message
    if silent := _unscraped(seen):
        return FALSE, str(Reason.METRICS_MISSING), silent
    if plan is not None and Reason.METRICS_MISSING in blind:
        return FALSE, str(Reason.METRICS_MISSING), plan.message
    return TRUE, "MetricsFresh", "metrics are there and fresh"


def _unscraped(seen: Observation) -> str:
    """Prometheus answers, but some of those who serve are not in it: which, and what to look at."""
    pools = [f"{p.unscraped} of {p.ready} Ready {p.pool.value} engines" for p in seen.pools if p.unscraped]
    routers = [f"{seen.unscraped_routers} of the Ready routers"] if seen.unscraped_routers else []
    ports = [f"{PORT_ENGINE_METRICS} of engines"] * bool(pools) + [f"{PORT_ROUTER_METRICS} of routers"] * bool(routers)
    if not ports:
        return ""
    who, where = " and ".join(pools + routers), " and ".join(ports)
    return f"Prometheus has no recent sample of {who}: does it scrape port {where}?"


def _slo_met(facts: Facts) -> Verdict:
    seen = facts.observation
    traffic = {t.name: t for t in seen.classes} if seen is not None else {}
    classes = facts.service.to_goal().classes
    misses = [miss for c in classes if c.name in traffic for miss in _misses(c, traffic[c.name])]
    if misses:
        return FALSE, "TargetMissed", "; ".join(misses)
    if not any(_counted(t.ttft) or _counted(t.tbt) for t in traffic.values()):
        return UNKNOWN, "NoTraffic", "no request was counted in the window"
    return TRUE, "TargetsMet", "every class with traffic is within its targets"


def _counted(attainment: Attainment | None) -> bool:
    return attainment is not None and attainment.events > 0


def _misses(wanted: ServiceClass, seen: ClassTraffic) -> list[str]:
    pairs = (("TTFT", wanted.ttft, seen.ttft), ("TBT", wanted.tbt, seen.tbt))
    return [
        f"{wanted.name}: {100 * share:.1f} % instead of {slo.percentile:g} % within {name} {slo.target_s:g} s"
        for name, slo, attained in pairs
        if attained is not None and (share := attained.share) is not None and share < slo.share
    ]


def _budget_limited(facts: Facts) -> Verdict:
    limited = [p.message for p in facts.plan.pools if p.reason is Reason.BUDGET_LIMITED] if facts.plan else []
    if limited:
        return TRUE, str(Reason.BUDGET_LIMITED), "; ".join(limited)
    return FALSE, "WithinBudget", "no pool is held back by scaling.gpuBudget"


def _asleep(facts: Facts, before: str) -> Verdict:
    """`before`: the reason that stood there; it wakes until every pool has a Ready engine once."""
    if not facts.service.to_goal().may_sleep:
        return FALSE, "NeverSleeps", "minReplicas keeps engines in every pool"
    if facts.is_asleep:
        return TRUE, str(Reason.SCALED_TO_ZERO), _said_of_sleep(facts) or "no request came yet"
    missing = [p.value for p in facts.service.pools if facts.seen(p).ready == 0]
    if missing and before in (Reason.SCALED_TO_ZERO, Reason.WAKING):
        why = f"; {said}" if (said := _said_of_sleep(facts)) else ""
        return FALSE, str(Reason.WAKING), f"requests wait for the first {' and '.join(missing)} engine{why}"
    idle = facts.service.spec.scaling.idle_after
    return FALSE, "Awake", f"sleeps when no request came for {idle}; {_said_of_sleep(facts)}".removesuffix("; ")


def _said_of_sleep(facts: Facts) -> str:
    steps = facts.plan.steps if facts.plan else ()
    return next((step.why for step in steps if step.name == SLEEP), "")


def progressing(facts: Facts) -> Verdict:
    revision, few = f"revision {facts.revision}", _few_gpus(facts)
    if not facts.rolling_out:
        return FALSE, "Settled", "one revision runs"
    if facts.is_paused:
        return TRUE, REASON_ROLLOUT_PAUSE, f"no engine serves until {revision} does{few}: requests wait in the routers"
    if facts.trouble is not None and facts.trouble[2]:
        return FALSE, "RolloutStopped", f"{revision} does not become Ready: see condition Degraded"
    how = (
        f"takes the place of the one that serves, engine by engine{few}" if few else "starts beside the one that serves"
    )
    return TRUE, "RollingOut", f"{revision} {how}"


def _few_gpus(facts: Facts) -> str:
    limit = facts.rollout_limit
    if limit is None:
        return ""
    known = f"{limit} GPUs that the cluster has" if limit.isdigit() else "scaling.gpuBudget"
    return f", for {known} do not hold both"


def _degraded(facts: Facts) -> Verdict:
    if facts.problem is not None:
        return TRUE, facts.problem[0], facts.problem[1]
    if facts.trouble is not None:
        return TRUE, facts.trouble[0], facts.trouble[1]
    waiting = [f"{p.unschedulable} {p.pool.value}" for p in facts.pools if p.unschedulable]
    if waiting:
        sentence = f"{' and '.join(waiting)} pods find no node: see `kubectl describe pod` for what they lack"
        return TRUE, str(Reason.UNSCHEDULABLE), sentence
    if sentence := _locked_out(facts):
        return TRUE, "ApiKeysMissing", sentence
    return FALSE, "AsWanted", "what runs is what is wanted" if not facts.rolling_out else "a new revision starts"


def _locked_out(facts: Facts) -> str:
    """Routers that cannot have their API keys, as far as pods tell: the operator may not read Secrets."""
    secret, namespace = facts.service.api_keys_secret, facts.service.metadata.namespace
    if secret is None:
        return ""
    if facts.routers_bare:
        return (
            f"{facts.routers_bare} router pods cannot mount their volumes: does Secret {secret} exist in namespace"
            f" {namespace}? Create it (docs/access.md); otherwise `kubectl describe pod` tells what is missing"
        )
    if facts.routers_unready and facts.router_ready < 1:
        return (
            f"{facts.routers_unready} router pods run and are not Ready: where their log says keys_unreadable, it tells"
            f" which entry of Secret {secret} to mend (docs/access.md)"
        )
    return ""
