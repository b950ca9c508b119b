"""What all requests of one router share. No behaviour beyond learning from `usage`."""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from llmservice_core.line import Waiter
from llmservice_core.picking import Policy
from llmservice_core.prompt_pace import Expected
from llmservice_core.routing import Predictor
from llmservice_serving.router import rules
from llmservice_serving.router.door import Door
from llmservice_serving.router.engines import Engines
from llmservice_serving.router.errors import Shed
from llmservice_serving.router.fleet import Fleet
from llmservice_serving.router.metrics import Metrics
from llmservice_serving.router.rules import Ask
from llmservice_serving.router.service_config import ServiceConfig
from llmservice_serving.router.settings import ON_OFF, Settings
from llmservice_serving.router.waiting_room import STEP_TOKENS, WaitingRoom


@dataclass(slots=True, kw_only=True)
class Shared:
    """`config` None: the LLMService has not been read yet."""

    settings: Settings
    fleet: Fleet
    engines: Engines
    metrics: Metrics
    door: Door
    room: WaitingRoom
    config: ServiceConfig | None = None
    predictor: Predictor = field(default_factory=lambda: Predictor(output_tokens={}))
    are_engines_synced: bool = False
    is_stopping: bool = False
    is_closed: bool = False
    """Nothing new is accepted any more."""
    is_cutting: bool = False
    """The time for open streams is over: they end with an error event."""
    running: set[asyncio.Task[Any]] = field(default_factory=set)
    """Tasks of requests in work; what a stopping router waits for."""

    def use(self, config: ServiceConfig) -> None:
        """A new version of the LLMService is in force for requests from now on."""
        if config != self.config:
            self.config = config
            self.fleet.slack = config.slack
            self.fleet.policy = Policy(self.settings.policy or config.routing)
            self.room.step_tokens = self.settings.step_tokens or config.step_tokens or STEP_TOKENS
            self.room.start_up_s = config.start_up_s
            self.fleet.awaits_engines = config.start_up_s is not None
            self.fleet.on_change()
            self.metrics.start_classes(config.classes)

    @property
    def resumes(self) -> bool:
        """Whether streams go on elsewhere when their engine dies."""
        if self.settings.resume:
            return self.settings.resume == ON_OFF[0]
        return self.config is not None and self.config.resumes

    def configured(self) -> ServiceConfig:
        if self.is_closed:
            raise Shed("Stopping", "This router is stopping; send the request again.")
        if self.config is None:
            raise Shed("NotConfigured", "The router has not read its LLMService yet; try again in a moment.")
        return self.config

    def not_ready(self) -> str | None:
        """Why this router should get no traffic, None when it should."""
        if self.is_stopping:
            return "stopping"
        if self.config is None:
            return "the LLMService has not been read"
        if self.door.state(self.config) == "closed":
            return f"no API keys are in force: {self.door.problem or 'this router was started without them'}"
        return None if self.are_engines_synced else "the list of engines has not been read"

    def predicted_prompt(self, ask: Ask) -> float:
        """Whole tokens: sums that go up and down must come back to exactly 0."""
        exact = ask.prompt_tokens
        return float(exact) if exact is not None else float(round(self.predictor.prompt(ask.prompt_bytes)))

    def waiter(self, ask: Ask, arrived_s: float) -> Waiter:
        """The request as the core's line sees it."""
        return Waiter(
            service_class=ask.service_class.name,
            tenant=ask.tenant,
            arrival_s=arrived_s,
            ttft_s=ask.service_class.ttft.target_s,
            prompt_tokens=int(self.predicted_prompt(ask)),
        )

    def predicted_tokens(self, ask: Ask) -> float:
        """Of prompt and answers together: what a tenant is charged until its request has ended."""
        output = self.predictor.output(ask.service_class.name, ask.limit_tokens)
        return self.predicted_prompt(ask) + float(round(output)) * rules.answers(ask.body)

    def first_token(self, ask: Ask, ttft_s: float, parts: Mapping[str, float], expected: Expected | None) -> None:
        """What the first token of a stream tells: where its time went, and how good the prediction was."""
        self.metrics.observe_ttft(ask.service_class.name, ttft_s, parts)
        if expected is not None:
            self.metrics.observe_prediction(ask.service_class.name, ttft_s - expected.ttft_s)
        if "first_decode" in parts:
            self.room.lag.saw(parts["first_decode"], self.fleet.clock())

    def learn_prompt(self, ask: Ask, usage: dict[str, Any]) -> None:
        """A prefill has ended and says what it was."""
        tokens = usage.get("prompt_tokens")
        if not isinstance(tokens, int):
            return
        service, name = self.metrics.service, ask.service_class.name
        self.metrics.prompts.labels(service, name).inc()
        self.metrics.prompt_tokens.labels(service, name).inc(tokens)
        cached = (usage.get("prompt_tokens_details") or {}).get("cached_tokens")
        self.metrics.cached_tokens.labels(service, name).inc(cached or 0)
        if ask.prompt_tokens is None and not ask.has_media:
            self.predictor = self.predictor.learn_prompt(ask.prompt_bytes, tokens)

    def learn_answer(self, ask: Ask, usage: dict[str, Any]) -> None:
        """An answer has ended whole."""
        tokens = usage.get("completion_tokens")
        if not isinstance(tokens, int):
            return
        service, name = self.metrics.service, ask.service_class.name
        self.metrics.answers.labels(service, name).inc()
        self.metrics.output_tokens.labels(service, name).inc(tokens)
        self.predictor = self.predictor.learn_output(name, tokens)
