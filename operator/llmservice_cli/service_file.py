"""An LLMService in a file -> what the simulator needs of it: goal, replica, policy. Reads one file, no cluster."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import yaml

from llmservice_api.resource import LLMService, parse
from llmservice_cli.problems import Problem
from llmservice_core.model import Goal, Pool
from llmservice_core.policies import NAMES as POLICY_NAMES
from llmservice_sim.fleet_settings import Replica
from llmservice_sim.hardware import HardwareError, Wanted, arguments, replica_of


@dataclass(frozen=True, slots=True, kw_only=True)
class Simulated:
    service: LLMService
    goal: Goal
    replica: Replica
    policy: str


def load(path: str, gpu: str, policy: str | None, noise: float = 0.0) -> Simulated:
    service = read(path)
    chosen = policy or service.spec.engine.scheduler.policy
    if chosen not in POLICY_NAMES:
        raise Problem(f"there is no policy {chosen!r}: choose one of {', '.join(POLICY_NAMES)}")
    try:
        replica = replica_of(gpu, wanted(service), noise)
    except HardwareError as error:
        raise Problem(str(error)) from error
    return Simulated(service=service, goal=service.to_goal(), replica=replica, policy=chosen)


def read(path: str) -> LLMService:
    """The only LLMService of the file."""
    try:
        documents = [d for d in yaml.safe_load_all(Path(path).read_text()) if d]
    except (OSError, UnicodeDecodeError) as error:
        raise Problem(f"{path} cannot be read: {getattr(error, 'strerror', None) or error}") from error
    except yaml.YAMLError as error:
        raise Problem(f"{path} is not YAML: {' '.join(str(error).split())}") from error
    found = [d for d in documents if isinstance(d, dict) and d.get("kind") == "LLMService"]
    if len(found) != 1:
        raise Problem(f"{path} holds {len(found)} LLMServices: give a file with exactly one")
    try:
        return parse(found[0])
    except ValueError as error:
        raise Problem(f"{path} is no valid LLMService: {' '.join(str(error).split())}") from error


def wanted(service: LLMService) -> Wanted:
    """The engine's own arguments come last in its command line, so they win."""
    spec = service.spec
    args = arguments(spec.engine.args)
    budget = spec.engine.scheduler.token_budget
    budget_text = args.get("--max-num-batched-tokens") or ("" if budget == "auto" else str(budget))
    model_len = args.get("--max-model-len") or spec.model.max_model_len
    try:
        return Wanted(
            model=spec.model.name,
            gpus_per_replica=max(pool.gpus_per_replica for pool in service.pools.values()),
            max_model_len=int(model_len) if model_len else None,
            max_batched_tokens=int(budget_text) if budget_text else None,
            max_seqs=int(args["--max-num-seqs"]) if "--max-num-seqs" in args else None,
            memory_share=float(args["--gpu-memory-utilization"]) if "--gpu-memory-utilization" in args else None,
        )
    except ValueError as error:
        raise Problem(f"spec.engine.args has a number that is none ({error}): correct it") from error


def per_pool(text: str | None, goal: Goal, option: str) -> dict[Pool, float]:
    """`prefill=3,decode=2` -> numbers of pools that the service has."""
    if not text:
        return {}
    pools = {p.pool.value: p.pool for p in goal.pools}
    return {pools[name]: number for name, number in pairs(text, pools, option).items()}


def pairs(text: str, known: dict[str, Pool] | list[str], option: str) -> dict[str, float]:
    found: dict[str, float] = {}
    for part in text.split(","):
        name, _, number = part.partition("=")
        try:
            value = float(number)
        except ValueError:
            value = -1.0
        if name not in known or not 0 <= value < float("inf"):
            example = ",".join(f"{n}=1" for n in known)
            raise Problem(f"{option} {part!r} makes no sense: write for example {option} {example}")
        found[name] = value
    return found
