"""Facts -> the status that people see, and whether it is worth a write. Pure."""

import re
from collections.abc import Mapping, Sequence

from llmservice_api import durations
from llmservice_api.plan_status import plan_status, rounded, timestamp
from llmservice_api.resource import LLMService
from llmservice_api.status import (
    HISTORY_LENGTH,
    Change,
    ClassStatus,
    Disaggregation,
    ObservedSlo,
    PoolStatus,
    PoolStatuses,
    Sizes,
    Status,
    Summary,
)
from llmservice_core.model import Attainment, ClassTraffic, Plan, Pool, ServiceClass, Slo
from llmservice_core.slack import SHARE
from llmservice_operator import events
from llmservice_operator.conditions import report
from llmservice_operator.facts import Facts

BAND = 0.1
"""Share by which a number must change before it is worth a write."""
EVERY_S = 60.0
"""Numbers alone are written at most this often."""


def build(old: Status, facts: Facts, history: Sequence[Change], memory: str | None) -> Status:
    classes = _classes(facts)
    plan = facts.plan
    return Status(
        observed_generation=facts.service.metadata.generation,
        conditions=report(old.conditions, facts),
        endpoint=f"http://{facts.service.metadata.name}.{facts.service.metadata.namespace}.svc/v1",
        revision=facts.revision,
        disaggregation=_disaggregation(facts.service),
        gpus=facts.gpus,
        load=rounded(plan.load) if plan else None,
        summary=_summary(facts, classes),
        classes=classes,
        pools=PoolStatuses.model_validate({p.value: _pool(facts, p) for p in facts.service.pools}),
        plan=plan_status(plan) if plan else None,
        history=list(history)[-HISTORY_LENGTH:],
        memory=memory,
    )


def _disaggregation(service: LLMService) -> Disaggregation | None:
    """For Auto only: what was decided once is found here by every later pass."""
    if service.spec.disaggregation != "Auto":
        return None
    choice = service.disaggregation
    return Disaggregation(mode="Always" if choice.is_split else "Never", reason=choice.why)


def is_worth_writing(old: Status | None, new: Status, since_written_s: float) -> bool:
    """At once when a size, a reason or a condition changes; for numbers and other words once a minute."""
    if old is None or _signature(old) != _signature(new):
        return True
    if since_written_s < EVERY_S:
        return False
    return _left_band(_numbers(old), _numbers(new)) or _sentences(old) != _sentences(new)


def _signature(status: Status) -> object:
    return (
        status.observed_generation,
        status.revision,
        status.endpoint,
        status.gpus,
        [(c.type, c.status, c.reason, c.observed_generation) for c in status.conditions],
        status.pools.model_dump(exclude={p.value: {"message"} for p in Pool}) if status.pools else None,
        status.plan.reason if status.plan else None,
        bool(status.plan and status.plan.capacity.get(SHARE)),
        [(c.time, c.to) for c in status.history],
        [c.name for c in status.classes],
    )


def _sentences(status: Status) -> list[str]:
    """Of the conditions, without their numbers: those have their bands."""
    return [re.sub(r"[0-9]+([.][0-9]+)?", "#", condition.message) for condition in status.conditions]


def _numbers(status: Status) -> dict[str, float | None]:
    found: dict[str, float | None] = {"load": status.load}
    found[SHARE] = status.plan.capacity.get(SHARE) if status.plan else None
    for c in status.classes:
        found[f"{c.name}.rate"] = c.requests_per_second
        found[f"{c.name}.ttft"] = c.ttft.attainment
        found[f"{c.name}.tbt"] = c.tbt.attainment
    return found


def _left_band(old: Mapping[str, float | None], new: Mapping[str, float | None]) -> bool:
    return any(_differs(old.get(name), value, attainment=name.endswith(("ttft", "tbt"))) for name, value in new.items())


def _differs(old: float | None, new: float | None, *, attainment: bool) -> bool:
    if old is None or new is None:
        return old is not new
    return abs(old - new) > (1.0 if attainment else BAND * max(abs(old), abs(new)))


def _classes(facts: Facts) -> list[ClassStatus]:
    traffic = {t.name: t for t in facts.observation.classes} if facts.observation else {}
    return [_class(c, traffic.get(c.name)) for c in facts.service.to_goal().classes]


def _class(wanted: ServiceClass, seen: ClassTraffic | None) -> ClassStatus:
    return ClassStatus(
        name=wanted.name,
        requests_per_second=rounded(seen.arrivals_rps) if seen else None,
        prompt_tokens=rounded(seen.prompt_tokens) if seen else None,
        output_tokens=rounded(seen.output_tokens) if seen else None,
        ttft=_observed(wanted.ttft, seen.ttft if seen else None),
        tbt=_observed(wanted.tbt, seen.tbt if seen else None),
    )


def _observed(wanted: Slo, seen: Attainment | None) -> ObservedSlo:
    share = seen.share if seen else None
    return ObservedSlo(
        target=durations.written(wanted.target_s),
        percentile=wanted.percentile,
        attainment=None if share is None else rounded(100 * share),
        events=rounded(seen.events) if seen else None,
    )


def _pool(facts: Facts, pool: Pool) -> PoolStatus:
    seen = facts.seen(pool)
    decision = next((p for p in facts.plan.pools if p.pool is pool), None) if facts.plan else None
    return PoolStatus(
        desired=facts.sizes.get(pool),
        planned=decision.replicas if decision else None,
        ready=seen.ready,
        starting=seen.starting,
        draining=seen.draining,
        unschedulable=seen.unschedulable,
        reason=str(decision.reason) if decision else "NotPlanned",
        message=decision.message[:2048] if decision else "",
    )


def change(before: Mapping[Pool, int], after: Mapping[Pool, int], plan: Plan) -> Change:
    """Of the pools whose size was known before."""
    after = {pool: size for pool, size in after.items() if pool in before}
    return Change(
        time=timestamp(plan.time_s),
        from_=Sizes(**{pool.value: size for pool, size in before.items()}),
        to=Sizes(**{pool.value: size for pool, size in after.items()}),
        reason=str(plan.reason),
        message=events.change_text(before, after, plan)[:2048],
    )


def _summary(facts: Facts, classes: Sequence[ClassStatus]) -> Summary:
    parts = {pool: f"{facts.seen(pool).ready}/{facts.sizes.get(pool, '?')}" for pool in facts.service.pools}
    budget = facts.service.spec.scaling.gpu_budget
    rates = [c.requests_per_second for c in classes if c.requests_per_second is not None]
    load = facts.plan.load if facts.plan else None
    return Summary(
        # One mixed pool does both: it is named where a reader looks first.
        prefill=parts.get(Pool.PREFILL) or f"{parts[Pool.MIXED]} mixed",
        decode=parts.get(Pool.DECODE, "-"),
        gpus=f"{facts.gpus}/{budget}" if budget is not None else str(facts.gpus),
        ttft=_worst([c.ttft for c in classes]),
        tbt=_worst([c.tbt for c in classes]),
        load=None if load is None else f"{load:.2f}",
        rate=f"{sum(rates):.3g}" if rates else None,
        reason=str(facts.plan.reason) if facts.plan else str(facts.service.spec.scaling.mode),
    )


def _worst(observed: Sequence[ObservedSlo]) -> str | None:
    """The attainment that is furthest below (or least above) its percentile."""
    known = [(o.attainment - o.percentile, o.attainment) for o in observed if o.attainment is not None]
    return f"{min(known)[1]:.1f}%" if known else None
