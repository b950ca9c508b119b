"""The recorded load once more, in virtual time: same service, same start-up times, same step times, production's code
for routing, ordering, observing and planning. Nothing is fitted to the recording."""

from e2e.scaling.recording import Recording
from llmservice_api.resource import LLMService, parse
from llmservice_core.model import Pool
from llmservice_serving import pace
from llmservice_sim.engine import EngineLimits
from llmservice_sim.fleet import Fleet
from llmservice_sim.fleet_result import FleetResult
from llmservice_sim.fleet_settings import Replica, Scenario, StartUp
from llmservice_sim.hardware import arguments
from llmservice_sim.jobs import Arrival
from llmservice_sim.laws import Rad


def simulated(recording: Recording, seed: int = 0) -> FleetResult:
    """Virtual time 0 is when the service was Ready; times of the result are shifted by `lead_s`."""
    wanted = scenario(recording, seed)
    return Fleet(wanted, Rad(wanted.goal)).run(arrivals(recording))


def lead_s(recording: Recording) -> float:
    """Seconds between Ready and the first request."""
    return -recording.ready_s


def scenario(recording: Recording, seed: int = 0) -> Scenario:
    service = parse(recording.service)
    settings = Scenario(
        goal=service.to_goal(),
        replica=_replica(recording, service),
        policy=service.spec.engine.scheduler.policy,
        start_up=_start_up(recording),
        scrape_s=recording.scrape_s,
        finish_s=service.drain_deadline_s,
        initial=_initial(recording),
        seed=seed,
        max_context_tokens=service.spec.model.max_model_len,
    )
    return settings.with_router_queue()


def arrivals(recording: Recording) -> list[Arrival]:
    classes = {c.name: c for c in parse(recording.service).to_goal().classes}
    return [
        Arrival(
            time_s=lead_s(recording) + r.time_s,
            prompt_tokens=r.prompt_tokens,
            output_tokens=r.output_tokens,
            service_class=r.service_class,
            tbt_s=classes[r.service_class].tbt.target_s,
            ttft_s=classes[r.service_class].ttft.target_s,
        )
        for r in recording.requests
    ]


def _replica(recording: Recording, service: LLMService) -> Replica:
    """An engine as the recorded ones said they are."""
    block, budget = int(arguments(service.spec.engine.args)["--block-size"]), service.spec.engine.scheduler.token_budget
    limits = EngineLimits(
        max_batched_tokens=int(recording.limits["max_batched_tokens"]),
        max_seqs=int(recording.limits["max_seqs"]),
        kv_blocks=int(recording.limits["kv_tokens"]) // block,
        block_tokens=block,
    )
    return Replica(
        step_time=pace.parse(recording.pace).duration_s,
        limits=limits,
        kv_bytes_per_token=int(recording.limits["kv_bytes_per_token"]),
        tile_tokens=int(recording.limits["tile_tokens"]),
        token_budget=None if budget == "auto" else budget,
    )


def _start_up(recording: Recording) -> StartUp:
    """Of each pod as it was; a pod more than were recorded takes their mean."""
    took = sorted((p.created_s, p.pool, p.ready_s - p.created_s) for p in recording.pods if p.ready_s is not None)
    later = {pool: [s for created_s, own, s in took if own == pool and created_s >= recording.ready_s] for pool in Pool}
    known = [s for created_s, _, s in took if created_s < recording.ready_s]
    all_s = [s for _, _, s in took]
    return StartUp(mean_s=sum(all_s) / len(all_s), cv=0.0, recorded=later, known=known)


def _initial(recording: Recording) -> dict[Pool, int]:
    return {Pool(pool): size for pool, size in recording.sizes[0].desired.items()}
