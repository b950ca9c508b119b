"""Second act: four phases of load on paced engines while the operator sizes both pools; watched, then judged."""

import asyncio
import contextlib
import time
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

from rich.console import Console
from rich.live import Live

from e2e import kube
from e2e.demo import story, table
from e2e.demo.reaction import Decision, PodTimes, Reaction, decision_in, pod_times, pool_of, reaction, seen_again
from e2e.demo.services import CLASSES, NAMESPACE, SCALE
from e2e.load import Lengths, Load, Phase
from llmservice_core import contract, metric_names

SHORT_ANSWERS = Lengths(output=(1, 300))
LONG_PROMPTS = Lengths(prompt=(2000, 8192), output=(1, 300))
LONG_ANSWERS = Lengths(prompt=(1000, 4000), output=(500, 1024))
PHASES = (
    Phase(name=story.QUIET, seconds=45, rate_rps=1.0, lengths=SHORT_ANSWERS),
    Phase(name=story.PROMPTS, seconds=150, rate_rps=3.0, lengths=LONG_PROMPTS),
    Phase(name=story.OUTPUTS, seconds=150, rate_rps=2.5, lengths=LONG_ANSWERS),
    Phase(name=story.QUIET_AGAIN, seconds=135, rate_rps=0.7, lengths=SHORT_ANSWERS),
)
GROWS = {story.PROMPTS: "prefill", story.OUTPUTS: "decode"}
MINIMUM = {"prefill": 1, "decode": 1}
POLL_S = 1.0
LOG_EVERY_S = 10.0
SHARES = {"interactive": 0.5, "batch": 0.5}


class Watch:
    """Follows one service and keeps what the verdict is made from: sizes, decisions, pod times."""

    def __init__(self, name: str, load: Load, show: Callable[["Watch", Any], None], ends_s: float) -> None:
        self.name, self.load, self.show, self.ends_s = name, load, show, ends_s
        self.history: dict[str, Any] = {}
        """Changes of sizes by their time; the status keeps the last 20 only."""
        self.timeline: list[story.Moment] = []
        self.pods: dict[str, PodTimes] = {}
        self.decisions: dict[str, Decision] = {}
        self.phase_starts: dict[str, float] = {}

    async def run(self) -> None:
        while True:
            service, pods = await asyncio.to_thread(read, self.name)
            self.pods = seen_again(self.pods, pod_times(pods))
            self.history |= {change["time"]: change for change in service["status"].get("history", [])}
            if self.load.phase is not None:
                self._keep(service, pods, self.load.phase.name)
            self.show(self, service)
            await asyncio.sleep(POLL_S)

    def _keep(self, service: Any, pods: Sequence[Any], phase: str) -> None:
        now = moment(service, pods, phase)
        self.phase_starts.setdefault(phase, self.load.phase_started_s)
        pool = GROWS.get(phase)
        if pool and phase not in self.decisions:
            decision = decision_in(service, self.load.phase_started_s, pool)
            self.decisions |= {phase: decision} if decision else {}
        self.timeline.append(now)

    def reactions(self) -> list[Reaction]:
        return [
            reaction(self.phase_starts[phase], self.decisions.get(phase), self.pods.values(), pool)
            for phase, pool in GROWS.items()
            if phase in self.phase_starts
        ]


def read(name: str) -> tuple[Any, list[Any]]:
    """The service and its own pods, in one call."""
    items = kube.get("-n", NAMESPACE, "llmservices,pods")["items"]
    service = next(i for i in items if i["kind"] == "LLMService" and i["metadata"]["name"] == name)
    pods = [i for i in items if i["kind"] == "Pod"]
    return service, [p for p in pods if p["metadata"].get("labels", {}).get(contract.LABEL_NAME) == name]


def moment(service: Any, pods: Sequence[Any], phase: str) -> story.Moment:
    pools = service["status"]["pools"]
    return story.Moment(
        time_s=time.time(),
        phase=phase,
        desired={name: int(pool.get("desired", 0)) for name, pool in pools.items()},  # absent: not known yet
        ready={name: int(pool["ready"]) for name, pool in pools.items()},
        held=dict(Counter(pool_of(pod) for pod in pods if pool_of(pod) in pools)),
        waiting_tokens=service["status"].get("plan", {}).get("inputs", {}).get("waiting_prompt_tokens"),
    )


async def play(name: str, url: str, console: Console) -> tuple[Watch, Load]:
    load = Load(url=url, model=name, classes=SHARES, scale=SCALE)
    with contextlib.ExitStack() as stack:
        watch = Watch(name, load, screen(console, stack), time.time() + sum(phase.seconds for phase in PHASES))
        watching = asyncio.create_task(watch.run())
        running = asyncio.create_task(load.run(PHASES))
        done, _ = await asyncio.wait({watching, running}, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()
        watching.cancel()
    return watch, load


def screen(console: Console, stack: contextlib.ExitStack) -> Callable[[Watch, Any], None]:
    """A live table in a terminal, a line every LOG_EVERY_S elsewhere."""
    if console.is_terminal:
        live = stack.enter_context(Live(console=console, refresh_per_second=2))
        return lambda w, s: live.update(table.live(s, w.load.phase, w.ends_s - time.time(), w.load.samples))
    last_s = [0.0]

    def log(watch: Watch, service: Any) -> None:
        if time.monotonic() - last_s[0] >= LOG_EVERY_S:
            last_s[0] = time.monotonic()
            console.print(table.line(service, watch.load.phase, watch.load.samples), soft_wrap=True)

    return log


def overrun_share(name: str, since_s: float) -> float | None:
    """Overruns per paced step over all engines that lived since then, gone ones included; none is older than that."""
    window_s = int(time.time() - since_s)
    steps, overruns = (
        kube.prometheus(f'sum(max_over_time({metric}{{llmservice="{NAMESPACE}/{name}"}}[{window_s}s]))')
        for metric in (metric_names.PACED_STEPS, metric_names.PACE_OVERRUNS)
    )
    return overruns[0][1] / steps[0][1] if steps and overruns and steps[0][1] else None


def judge(name: str, watch: Watch, load: Load, since_s: float) -> tuple[list[story.Check], list[story.Attained]]:
    checks = story.checks(watch.timeline, MINIMUM, overrun_share(name, since_s))
    return checks, story.attained(load.samples, CLASSES)
