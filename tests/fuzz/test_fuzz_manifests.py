"""Generated LLMServices before a real API server, and the accepted ones through the operator.

Each is refused with a sentence, or served, or its status says what is wrong; no fault of ours, no circle of restarts.
"""

import json
import time
from collections import Counter
from typing import Any

import pytest
from hypothesis import HealthCheck, given, seed, settings

from e2e.cluster.bare import ControlPlane
from e2e.cluster.kube_api import ApiError, Client
from llmservice_api.resource import parse
from llmservice_core.contract import GROUP, PLURAL, VERSION
from llmservice_operator import children
from llmservice_operator.errors import Misconfigured
from tests.control.support import Api, Operator, eventually
from tests.control.test_children import SETTINGS
from tests.fuzz import manifests
from tests.fuzz.scale import MANIFESTS, PARTS, SERVICES

pytestmark = [pytest.mark.api, pytest.mark.timeout(7200)]
REFUSALS = (400, 404, 413, 422)
"""404: of a kind or version that is not ours."""
AT_ONCE = 15
MOST_PODS = 8
"""Of one service that is really made."""
WRITES = 12
"""That an LLMService which nobody changes may cost in `QUIET_S`: a status, an Event, a write that is refused again."""
QUIET_S = 10.0
Body = dict[str, Any]


def generated(count: int) -> Any:
    return settings(max_examples=count, database=None, deadline=None, suppress_health_check=list(HealthCheck))


def path(namespace: str = "default") -> str:
    return f"/apis/{GROUP}/{VERSION}/namespaces/{namespace}/{PLURAL}"


def stored(client: Client, body: Body) -> Body | None:
    """As the API server would keep it; None when it refuses."""
    refused: ApiError
    try:
        return client.create(f"{path()}?dryRun=All", body)
    except ApiError as error:
        refused = error
    assert refused.code in REFUSALS, f"{refused.code}: {refused}"
    assert len(str(refused)) > 20, "refused without a sentence"
    return None


def outcome(body: Body) -> str:
    """What the operator would make of an accepted one, without a cluster. Any other exception is a fault of ours."""
    service = parse(body)
    service.to_goal()
    sizes = {pool: spec.min_replicas for pool, spec in service.pools.items()}
    try:
        children.render(service, SETTINGS, children.look(service, SETTINGS), sizes)
    except Misconfigured as told:
        return "degraded" if "spec." in str(told) else f"degraded without a place: {told}"
    return "rendered"


@pytest.mark.parametrize("part", range(PARTS))
def test_each_is_refused_with_a_sentence_or_can_be_rendered(plane: ControlPlane, part: int) -> None:
    """A part is a seed: the same LLMServices in every run, so that a failure can be repeated."""
    client, seen = plane.client(), Counter[str]()

    @seed(part)
    @generated(MANIFESTS // PARTS)
    @given(manifests.bodies())
    def one(body: Body) -> None:
        kept = stored(client, body)
        seen["refused" if kept is None else outcome(kept)] += 1

    began_s = time.monotonic()
    one()
    print(f"{sum(seen.values())} LLMServices in {time.monotonic() - began_s:.0f} s: {dict(seen)}")
    assert set(seen) <= {"refused", "rendered", "degraded"}
    assert seen["refused"] > seen.total() / 10
    assert seen["rendered"] > seen.total() / 10


MOST_SEEDS = 60


def accepted(client: Client, count: int) -> list[Body]:
    """Specs that the API server takes, none of which asks for more pods than a test can have.

    Seed after seed: one alone comes back to what it had the longer it runs.
    """
    found: list[Body] = []

    @generated(1000)
    @given(manifests.bodies())
    def one(body: Body) -> None:
        kept = stored(client, body) if len(found) < count else None
        if kept is not None and _pods(kept["spec"]) <= MOST_PODS and kept["spec"] not in found:
            found.append(kept["spec"])

    for number in range(MOST_SEEDS):
        if len(found) < count:
            seed(number)(one)()
    return found


def _pods(spec: Body) -> int:
    return sum(p["minReplicas"] for p in spec["pools"].values()) + int(spec.get("router", {}).get("replicas", 1))


def verdict(service: Body) -> str:
    """Empty while nothing is said yet."""
    conditions = {c["type"]: c for c in service.get("status", {}).get("conditions", [])}
    ready, degraded = conditions.get("Ready", {}), conditions.get("Degraded", {})
    if degraded.get("status") == "True":
        assert degraded["reason"]
        assert len(degraded["message"]) > 20
        return f"Degraded, {degraded['reason']}"
    return "Ready" if ready.get("status") == "True" else ""


def test_each_that_is_accepted_is_served_or_says_why_not(running: Operator, api: Api, plane: ControlPlane) -> None:
    specs, seen = accepted(plane.client(), SERVICES), Counter[str]()
    assert len(specs) == SERVICES
    process = running.process
    for start in range(0, SERVICES, AT_ONCE):
        names = [f"f{number}" for number in range(start, min(start + AT_ONCE, SERVICES))]
        for name in names:
            body = {"apiVersion": f"{GROUP}/{VERSION}", "kind": "LLMService", "metadata": {"name": name}}
            plane.client().create(path(api.namespace), {**body, "spec": specs[int(name[1:])]})
        seen.update(_told(api, names).values())
        written = len(running.writes())
        time.sleep(QUIET_S)
        assert len(running.writes()) - written <= WRITES * len(names), running.writes()[written:]
        api("delete", "llmsvc", "--all")
        eventually(lambda: not api.items("pods"), 180)
    assert process is not None
    assert process.poll() is None, "the same process went on"
    log = running.log.read_text()
    assert "Traceback" not in log, log[log.index("Traceback") :][:3000]
    print(f"{SERVICES} services: {dict(seen)}")


def _told(api: Api, names: list[str]) -> dict[str, str]:
    """What is said of each, once something is said of all; a failure shows those of which nothing is."""
    try:
        return eventually(lambda: _all_told(api, names), 180)
    except AssertionError as late:
        silent = [s for s in api.items("llmsvc") if not verdict(s)]
        raise AssertionError(f"nothing is said of {len(silent)}: {json.dumps(silent[:3])}") from late


def _all_told(api: Api, names: list[str]) -> dict[str, str] | None:
    told = {s["metadata"]["name"]: verdict(s) for s in api.items("llmsvc")}
    silent = [name for name in names if not told.get(name)]
    return None if silent else {name: told[name] for name in names}
