"""`llmservice plan`: one decision of the operator's planner for a load that a person names, with all its numbers."""

from __future__ import annotations

import argparse
import json
import sys

from llmservice_api.plan_status import plan_status
from llmservice_api.status import PlanStatus
from llmservice_cli.problems import Problem
from llmservice_cli.service_file import Simulated, load, pairs
from llmservice_core.model import ClassTraffic, Observation, Plan, PoolGoal, PoolSeen
from llmservice_core.planner import plan
from llmservice_sim.hardware import DEFAULT_GPU
from llmservice_sim.profile import limits_of, step_stats

WINDOW_S = 60.0
NOW_S = 0.0


def add_to(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = commands.add_parser("plan", help="size the pools of a service for one load, with every step")
    parser.add_argument("service", metavar="SERVICE.yaml")
    parser.add_argument("--rate", type=float, required=True, help="requests per second of all classes")
    parser.add_argument("--prompt", type=int, required=True, help="prompt tokens per request")
    parser.add_argument("--output", type=int, required=True, help="output tokens per request")
    parser.add_argument("--gpu", default=DEFAULT_GPU, help=f"GPU or step model (default {DEFAULT_GPU})")
    parser.add_argument("--share", help="of each class, as interactive=1,batch=3; else equal parts")
    parser.add_argument("--json", action="store_true", help="the record of status.plan as JSON")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    simulated = load(arguments.service, arguments.gpu, None)
    for name in ("rate", "prompt", "output"):
        if not 0 < getattr(arguments, name) < float("inf"):
            raise Problem(f"--{name} is {getattr(arguments, name):g}: give a number above 0")
    decision = decide(simulated, arguments.rate, arguments.prompt, arguments.output, arguments.share)
    status = plan_status(decision)
    if arguments.json:
        print(json.dumps(status.model_dump(mode="json", by_alias=True, exclude_none=True, exclude={"time"}), indent=2))
    else:
        sys.stdout.write(_text(simulated, decision, status))
    return 0


def decide(simulated: Simulated, rate: float, prompt: int, output: int, share: str | None) -> Plan:
    """From minReplicas that serve, with engines that have learned their step times from such requests."""
    held, longest = simulated.replica.kv_tokens, simulated.service.spec.model.max_model_len
    if prompt + output > min(held, longest or held):
        raise Problem(
            f"{prompt} prompt and {output} output tokens are more than a request may have here, which is"
            f" {min(held, longest or held)}: give shorter ones or raise maxModelLen"
        )
    names = [c.name for c in simulated.goal.classes]
    shares = pairs(share, names, "--share") if share else dict.fromkeys(names, 1.0)
    total = sum(shares.values())
    if total <= 0:
        raise Problem("--share gives every class 0: give at least one a share")
    seen = Observation(
        time_s=NOW_S,
        newest_sample_s=NOW_S,
        scrape_gap_s=None,
        window_s=WINDOW_S,
        classes=tuple(_traffic(n, rate * shares.get(n, 0.0) / total, prompt, output) for n in names),
        pools=tuple(_pool(simulated, p, prompt, output) for p in simulated.goal.pools),
        waiting_prompt_tokens=0.0,
        start_up_s=None,
    )
    decision, _ = plan(simulated.goal, seen, None)
    return decision


def _traffic(name: str, rate: float, prompt: int, output: int) -> ClassTraffic:
    lengths = (float(prompt), float(output)) if rate > 0 else (None, None)
    return ClassTraffic(
        name=name, arrivals_rps=rate, prompt_tokens=lengths[0], output_tokens=lengths[1], ttft=None, tbt=None
    )


def _pool(simulated: Simulated, goal: PoolGoal, prompt: int, output: int) -> PoolSeen:
    stats = step_stats(simulated.replica, goal.pool, prompt, output)
    return PoolSeen(
        pool=goal.pool,
        desired=goal.min_replicas,
        ready=goal.min_replicas,
        starting=0,
        draining=0,
        unschedulable=0,
        limits=limits_of(simulated.replica),
        steps=stats,
        recent_steps=stats,
        waiting=0.0,
        running_decodes=0.0,
    )


def _text(simulated: Simulated, decision: Plan, status: PlanStatus) -> str:
    pools = [p.pool.value for p in decision.pools]
    gpus = sum((decision.replicas(g.pool) or 0) * g.gpus_per_replica for g in simulated.goal.pools)
    sizes = ", ".join(f"{p.pool} {p.replicas}" for p in decision.pools)
    lines = [f"{simulated.service.metadata.name}: {sizes} = {gpus} GPUs ({decision.reason})", ""]
    lines.append(f"  {'step':<10} {' '.join(f'{p:>8}' for p in pools)}  why")
    for step in decision.steps:
        numbers = " ".join(f"{step.sizes[p.pool]:8.2f}" for p in decision.pools)
        lines.append(f"  {step.name:<10} {numbers}  {step.why}")
    for title, numbers_of in (("inputs", status.inputs), ("capacity", status.capacity)):
        lines += ["", f"  {title}", *(f"    {name:<24} {value:g}" for name, value in numbers_of.items())]
    lines += ["", *(f"  {p.pool} {p.message}" for p in decision.pools)]
    return "\n".join(lines) + "\n"
