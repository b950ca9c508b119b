"""`llmservice simulate`: a service, a trace and a GPU in; promises kept, GPU-hours and decisions out. No cluster."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from llmservice_api.plan_status import plan_status
from llmservice_cli import simulate_text
from llmservice_cli.problems import Problem
from llmservice_cli.service_file import Simulated, load, pairs, per_pool
from llmservice_core.model import Plan, Pool
from llmservice_core.policies import NAMES as POLICY_NAMES
from llmservice_sim.fast_fleet import FIDELITIES, FidelityError, fleet_of
from llmservice_sim.fleet import Fleet
from llmservice_sim.fleet_settings import Link, Mishaps, Scenario, StartUp
from llmservice_sim.hardware import DEFAULT_GPU, GPUS
from llmservice_sim.jobs import Arrival
from llmservice_sim.laws import LAWS, Law, law_of
from llmservice_sim.laws_oracle import CLAIRVOYANT, find
from llmservice_sim.report import page
from llmservice_sim.report_data import as_data
from llmservice_sim.run import StuckError
from llmservice_sim.traces import TraceError
from llmservice_sim.workload import Cut, arrivals, rows_of, sample_path


def add_to(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = commands.add_parser("simulate", help="run a service through a trace in virtual time, without a GPU")
    parser.add_argument("service", metavar="SERVICE.yaml")
    parser.add_argument(
        "--trace", help="requests, lengths or ServeGen windows (docs/simulator.md); else a small sample"
    )
    parser.add_argument("--gpu", default=DEFAULT_GPU, help=f"{', '.join(GPUS)} or a step model (default {DEFAULT_GPU})")
    parser.add_argument("--policy", help=f"{', '.join(POLICY_NAMES)} (default: the service's own)")
    parser.add_argument(
        "--law", default="rad", help=f"who sizes the pools: {', '.join((*LAWS, *CLAIRVOYANT))} (default rad)"
    )
    parser.add_argument("--compare", help="further laws for the same requests, as static,hpa")
    parser.add_argument(
        "--fidelity", default="exact", help=f"{' or '.join(FIDELITIES)}: every step, or decodes in closed form (exact)"
    )
    parser.add_argument(
        "--router-queue", action="store_true", help="two steps of prompts in each engine, the rest waits in the router"
    )
    parser.add_argument("--rate", type=float, help="mean requests/s that the trace is scaled to")
    parser.add_argument("--start", type=float, default=0.0, help="second of the trace to begin at")
    parser.add_argument("--seconds", type=float, help="length of the part that is used")
    parser.add_argument("--share", help="of classes that the trace does not name, as interactive=1,batch=3")
    parser.add_argument("--replicas", help="Ready at the start, for ever with static: prefill=3,decode=2")
    parser.add_argument("--hpa-target", help="requests in flight per pod, as prefill=1,decode=60")
    parser.add_argument("--start-up", type=float, default=120.0, help="mean seconds from created to Ready (120)")
    parser.add_argument("--start-up-cv", type=float, default=0.1, help="their coefficient of variation (0.1)")
    parser.add_argument("--kv-gbps", type=float, default=20.8, help="gigabytes/s out of one prefill pod (20.8)")
    parser.add_argument("--noise", type=float, default=0.0, help="relative scatter of step times (0)")
    parser.add_argument("--crash-every", type=float, help="mean seconds between crashes of one pod")
    parser.add_argument("--cluster-gpus", type=int, help="GPUs that exist; pods beyond them find no node")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", action="store_true", help="print the result as JSON")
    parser.add_argument("--html", metavar="FILE", help="write a page with plots")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    _refuse_numbers(args)
    names = [args.law, *(args.compare.split(",") if args.compare else [])]
    _refuse_laws(names)
    simulated = load(args.service, args.gpu, args.policy, args.noise)
    path = Path(args.trace) if args.trace else sample_path()
    scenario = _scenario(args, simulated)
    try:
        make = fleet_of(args.fidelity)
        trace = _trace(args, simulated, path)
        runs = [_run(make, *start, trace) for start in [_law(name, args, scenario, trace, make) for name in names]]
    except (TraceError, StuckError, FidelityError) as error:
        raise Problem(str(error)) from error
    facts = {"service": simulated.service.metadata.name, "gpu": args.gpu, "trace": path.name, "seed": args.seed}
    if args.html:
        _write(Path(args.html), page(simulate_text.title(facts, runs), simulate_text.facts(facts, runs), runs))
    if args.json:
        print(json.dumps({**facts, "runs": runs}, indent=1))
    else:
        sys.stdout.write(simulate_text.table(facts, runs))
    return 0


def _refuse_numbers(args: argparse.Namespace) -> None:
    above = {"rate", "seconds", "start_up", "kv_gbps", "crash_every", "cluster_gpus"}
    for name in (*sorted(above), "start", "start_up_cv", "noise"):
        value = getattr(args, name)
        if value is not None and not (0 if name not in above else 1e-9) <= value < float("inf"):
            wanted = "above 0" if name in above else "of at least 0"
            raise Problem(f"--{name.replace('_', '-')} is {value:g}: give a number {wanted}")


def _refuse_laws(names: list[str]) -> None:
    known = (*LAWS, *CLAIRVOYANT)
    for name in names:
        if name not in known:
            raise Problem(f"there is no law {name!r}: choose from {', '.join(known)}")


def _scenario(args: argparse.Namespace, simulated: Simulated) -> Scenario:
    goal = simulated.goal
    scenario = Scenario(
        goal=goal,
        replica=simulated.replica,
        policy=simulated.policy,
        link=Link(bytes_per_s=args.kv_gbps * 1e9),
        start_up=StartUp(mean_s=args.start_up, cv=args.start_up_cv),
        mishaps=Mishaps(crash_every_s=args.crash_every, cluster_gpus=args.cluster_gpus),
        initial=_initial(args, simulated),
        seed=args.seed,
        max_context_tokens=simulated.service.spec.model.max_model_len,
    )
    return scenario.with_router_queue() if args.router_queue else scenario


def _initial(args: argparse.Namespace, simulated: Simulated) -> Mapping[Pool, int]:
    """Within the limits of the service, which every law has to keep."""
    goal = simulated.goal
    given = per_pool(args.replicas, goal, "--replicas")
    sizes = {p.pool: int(given.get(p.pool, p.min_replicas)) for p in goal.pools}
    for p in goal.pools:
        if not p.min_replicas <= sizes[p.pool] <= p.max_replicas:
            limits = f"{p.min_replicas} to {p.max_replicas}"
            raise Problem(f"--replicas has {sizes[p.pool]} for {p.pool}: the service allows {limits}")
    gpus = sum(sizes[p.pool] * p.gpus_per_replica for p in goal.pools)
    if goal.gpu_budget is not None and gpus > goal.gpu_budget:
        raise Problem(
            f"--replicas needs {gpus} GPUs and scaling.gpuBudget is {goal.gpu_budget}: take fewer or raise it"
        )
    return sizes


def _trace(args: argparse.Namespace, simulated: Simulated, path: Path) -> list[Arrival]:
    rows = rows_of(path, Cut(start_s=args.start, seconds=args.seconds, rate_rps=args.rate), args.seed)
    names = [c.name for c in simulated.goal.classes]
    shares = pairs(args.share, names, "--share") if args.share else {}
    if shares and not any(shares.values()):
        raise Problem("--share gives every class 0: give at least one a share")
    return arrivals(rows, simulated.goal.classes, shares, args.seed)


def _law(
    name: str, args: argparse.Namespace, scenario: Scenario, trace: list[Arrival], make: type[Fleet]
) -> tuple[Scenario, Law]:
    """A law and what it starts from: one that knows the load has its first pods Ready."""
    if name in CLAIRVOYANT:
        bar = simulate_text.Bar(name) if sys.stderr.isatty() else None
        found = find(name, scenario, trace, bar.count if bar else None, make)
        if bar:
            bar.clear()
        if not found.keeps_all:
            print(f"llmservice: no sizes within the limits keep every promise, {name} has the most", file=sys.stderr)
        return found.scenario, found.law
    targets = per_pool(args.hpa_target, scenario.goal, "--hpa-target")
    if not all(targets.values()):
        raise Problem("--hpa-target has a 0: give each pod at least a part of a request")
    return scenario, law_of(name, scenario.goal, scenario.initial, targets)


def _run(make: type[Fleet], scenario: Scenario, law: Law, trace: list[Arrival]) -> dict[str, Any]:
    bar = simulate_text.Bar(law.name) if sys.stderr.isatty() else None
    result = make(scenario, law).run(trace, bar.show if bar else None)
    if bar:
        bar.clear()
    return {**as_data(scenario.goal, result), "last_plan": _record(result.last_plan)}


def _record(plan: Plan | None) -> dict[str, Any] | None:
    """As in status.plan, without the time of day that virtual time is not; None for a law that keeps no record."""
    return (
        plan_status(plan).model_dump(mode="json", by_alias=True, exclude_none=True, exclude={"time"}) if plan else None
    )


def _write(path: Path, text: str) -> None:
    try:
        path.write_text(text)
    except OSError as error:
        raise Problem(f"{path} cannot be written ({error.strerror}): name another file") from error
