"""A decision of the core as it stands in `status.plan`, for the operator and for the commands that show one."""

from collections.abc import Mapping
from datetime import UTC, datetime

from llmservice_api.status import PlanStatus, StepSizes
from llmservice_core.model import Plan, Step


def plan_status(plan: Plan) -> PlanStatus:
    return PlanStatus(
        time=timestamp(plan.time_s),
        reason=str(plan.reason),
        message=plan.message[:2048],
        inputs=_known(plan.inputs),
        capacity=_known(plan.capacity),
        steps=[_step(step) for step in plan.steps],
    )


def timestamp(now_s: float) -> str:
    return datetime.fromtimestamp(now_s, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def rounded(value: float | None) -> float | None:
    """Four digits: a status is read by people."""
    return None if value is None else float(f"{value:.4g}")


def _known(numbers: Mapping[str, float | None]) -> dict[str, float]:
    return {name: short for name, value in numbers.items() if (short := rounded(value)) is not None}


def _step(step: Step) -> StepSizes:
    sizes = {pool.value: rounded(size) for pool, size in step.sizes.items()}
    return StepSizes(name=step.name, why=step.why[:2048], **sizes)
