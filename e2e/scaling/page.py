"""The simulator's own report of a recorded run, with the simulated one beside it. Renders; reads nothing."""

from collections.abc import Sequence

from e2e.demo.story import Moment
from e2e.report import Gaps, Served, run_of
from e2e.scaling.recording import Change, Recording
from llmservice_api.resource import parse
from llmservice_sim.fleet_result import FleetResult
from llmservice_sim.report import page
from llmservice_sim.report_data import as_data


def html(recording: Recording, result: FleetResult) -> str:
    """First the recorded run in full; the simulated one in the tables."""
    goal = parse(recording.service).to_goal()
    runs = [recorded(recording), {**as_data(goal, result), "law": "simulated"}]
    facts = recording.facts
    text = (
        f"Recorded {facts['recorded']} on kind, paced: real vLLM, GPU times replayed on {facts['cores']} CPU cores,"
        f" {100 * (facts['overrun_share'] or 0.0):.1f} % of steps overran. The simulated row is the same load in"
        " virtual time. Good requests are not counted on the cluster."
    )
    return page(f"{recording.service['metadata']['name']}: a run on kind and its simulation", text, runs)


def recorded(recording: Recording) -> dict[str, object]:
    service = parse(recording.service)
    moments = [
        Moment(
            time_s=s.time_s,
            phase="azure",
            desired=s.desired,
            ready=s.ready,
            held=s.held,
            waiting_tokens=s.waiting_tokens,
        )
        for s in recording.sizes
    ]
    requests = [
        Served(time_s=r.time_s, service_class=r.service_class, ttft_s=r.ttft_s, is_whole=r.error is None)
        for r in recording.requests
    ]
    classes = service.to_goal().classes
    gaps = {
        c.name: Gaps(in_time=recording.gaps_in_time[c.name], quantiles_s=[(s, v) for s, v in recording.gaps_s[c.name]])
        for c in classes
    }
    return run_of(moments, requests, classes, gaps, decisions(recording.changes), service.spec.engine.scheduler.policy)


def decisions(changes: Sequence[Change]) -> list[dict[str, object]]:
    return [
        {
            "time_s": round(c.time_s, 1),
            "from": c.before,
            "to": {**c.before, **c.after},
            "reason": c.reason,
            "why": c.why,
        }
        for c in changes
    ]
