"""One engine pod: its state as the cluster shows it, the engine in it, and what the router has sent there."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, NamedTuple

from llmservice_core.model import Pool
from llmservice_core.routing import Endpoint
from llmservice_sim.engine import Batch
from llmservice_sim.fleet_counters import EngineCounters, Target
from llmservice_sim.fleet_requests import Part, Request


class PodState(StrEnum):
    UNSCHEDULABLE = "unschedulable"
    STARTING = "starting"
    READY = "ready"
    DRAINING = "draining"
    GONE = "gone"


class Process(NamedTuple):
    """What lives from one start of the container to its end."""

    engine: Any
    """An Engine, or one of the fast ones."""
    counters: EngineCounters


@dataclass(slots=True, eq=False)
class Pod:
    name: str
    pool: Pool
    created_s: float
    target: Target
    state: PodState = PodState.UNSCHEDULABLE
    scheduled_s: float | None = None
    """Since when it holds its GPUs."""
    ready_s: float | None = None
    gone_s: float | None = None
    becomes: Pool | None = None
    """It leaves its pool to serve in this one."""
    starts: int = 0
    process: Process | None = None
    batch: Batch | None = None
    """The step under way."""
    parts: dict[Part, None] = field(default_factory=dict)
    """What its engine works on or queues, in the order in which it came."""
    prompts: dict[Request, None] = field(default_factory=dict)
    answers: dict[Request, float] = field(default_factory=dict)
    """What the router has sent here, or reserved here for later, with the tokens expected of what has not begun."""
    prompt_tokens: int = 0
    reserved_tokens: float = 0.0
    link_free_s: float = 0.0

    @property
    def serves(self) -> bool:
        return self.process is not None and self.state in (PodState.READY, PodState.DRAINING)

    @property
    def holds_gpus(self) -> bool:
        return self.scheduled_s is not None and self.gone_s is None

    @property
    def is_idle(self) -> bool:
        """Nothing runs or waits in it, and no KV is on its way to it."""
        return not self.parts and all(r.part is not None for r in self.answers)

    def endpoint(self) -> Endpoint:
        return Endpoint(
            name=self.name,
            url="",
            pool=self.pool,
            ready=self.serves,
            draining=self.state is PodState.DRAINING,
            work_tokens=self._work_tokens(),
            in_flight=len(self.prompts) + len(self.answers),
            prompts=len(self.prompts),
            prompt_tokens=self.prompt_tokens,
        )

    def _work_tokens(self) -> float:
        """Predicted, as the router's leases have it: whole prompts until they are computed, answers token by token."""
        begun = sum(max(0.0, p.request.predicted_output - p.produced) for p in self.parts if not p.is_prompt_only)
        return self.prompt_tokens + self.reserved_tokens + begun

    def take_prompt(self, request: Request) -> None:
        self.prompts[request] = None
        self.prompt_tokens += request.asked.prompt_tokens

    def reserve(self, request: Request) -> None:
        self.answers[request] = request.predicted_output
        self.reserved_tokens += request.predicted_output

    def begin_answer(self, request: Request) -> None:
        """From now on its part says how much is left."""
        self.reserved_tokens -= self.answers[request]
        self.answers[request] = 0.0

    def drop_prompt(self, request: Request) -> None:
        if request in self.prompts:
            del self.prompts[request]
            self.prompt_tokens -= request.asked.prompt_tokens

    def drop_answer(self, request: Request) -> None:
        self.reserved_tokens -= self.answers.pop(request, 0.0)
        if not self.answers:
            self.reserved_tokens = 0.0  # without the rounding of many sums

    def live(self) -> tuple[int, int, int]:
        """Requests waiting, prompts and decodes running."""
        if self.process is None:
            return 0, 0, 0
        running = self.process.engine.running
        decodes = sum(not job.is_prefill for job in running)
        return len(self.parts) - len(running), len(running) - decodes, decodes
