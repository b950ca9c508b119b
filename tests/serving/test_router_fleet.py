"""The fleet's books: leases and exclusions."""

from contextlib import suppress
from dataclasses import replace

from llmservice_core.model import Pool
from llmservice_core.routing import Endpoint, Route
from llmservice_core.slack import SHARE
from llmservice_serving.router.fleet import Fleet
from llmservice_serving.router.service_config import from_manifest
from tests.serving.router_fakes import MANIFEST

M1, M2 = (Endpoint(name=n, url=f"http://{n}", pool=Pool.MIXED) for n in ("m1", "m2"))


def loads(fleet: Fleet) -> dict[str, tuple[float, int]]:
    return {e.name: (e.work_tokens, e.in_flight) for e in fleet.snapshot()}


def chosen(fleet: Fleet) -> str:
    route = fleet.choose(one_step=False)
    return route.decode.name if isinstance(route, Route) else route.reason.value


def test_a_lease_counts_while_it_lasts_even_when_its_block_fails() -> None:
    fleet = Fleet()
    fleet.update([M1, M2])
    with suppress(KeyError), fleet.lease(M1, 100), fleet.lease(M1, 50):
        assert loads(fleet) == {"m1": (150, 2), "m2": (0, 0)}
        assert chosen(fleet) == "m2"
        raise KeyError
    assert loads(fleet) == {"m1": (0, 0), "m2": (0, 0)}


def test_progress_lowers_the_work_and_never_below_nothing() -> None:
    fleet = Fleet()
    fleet.update([M1])
    with fleet.lease(M1, 100) as lease, fleet.lease(M1, 7):
        lease.progress(60)
        assert loads(fleet) == {"m1": (47, 2)}
        lease.progress(500)
        assert loads(fleet) == {"m1": (7, 2)}
    assert loads(fleet) == {"m1": (0, 0)}


def test_what_goes_is_a_last_resort_unless_engines_are_on_their_way_in_its_place() -> None:
    fleet = Fleet()
    fleet.update([replace(M1, draining=True, deleted=True)])
    assert chosen(fleet) == "m1"
    assert [e.name for e in fleet.prompt_engines(one_step=False)] == ["m1"]
    fleet.awaits_engines = True
    assert chosen(fleet) == "NoEndpoint"
    assert fleet.prompt_engines(one_step=False) == []
    fleet.update([replace(M1, draining=True, deleted=True), M2])
    assert chosen(fleet) == "m2"


def test_a_moved_lease_takes_its_work_along() -> None:
    fleet = Fleet()
    fleet.update([M1, M2])
    with fleet.lease(M1, 100) as lease:
        lease.progress(40)
        lease.move(M2)
        assert loads(fleet) == {"m1": (0, 0), "m2": (60, 1)}
    assert loads(fleet) == {"m1": (0, 0), "m2": (0, 0)}


def test_a_lease_outlives_its_endpoint_and_counts_again_when_it_is_back() -> None:
    fleet = Fleet()
    fleet.update([M1])
    with fleet.lease(M1, 5):
        fleet.update([])
        assert chosen(fleet) == "NoEndpoint"
        fleet.update([M1])
        assert loads(fleet) == {"m1": (5, 1)}
    assert loads(fleet) == {"m1": (0, 0)}


async def test_an_excluded_engine_is_back_after_its_time() -> None:
    now = [0.0]
    fleet = Fleet(exclude_s=2.0, clock=lambda: now[0])
    fleet.update([M1])
    fleet.exclude("m1")
    assert (chosen(fleet), fleet.state_of(M1)) == ("NoEndpoint", "excluded")
    now[0] = 2.01
    assert (chosen(fleet), fleet.state_of(M1)) == ("m1", "ready")


def test_a_published_slack_sends_short_prompts_to_decode_engines_alone() -> None:
    """As the status has it; a fleet that was told nothing, or a request of unknown length, is served in two steps."""
    prefill, decode = (Endpoint(name=p.value, url="", pool=p) for p in (Pool.PREFILL, Pool.DECODE))
    status = {"plan": {"capacity": {SHARE: 0.5}}}
    config = from_manifest({**MANIFEST, "status": status})
    fleet = Fleet()
    fleet.update([prefill, decode])
    lease = fleet.lease(prefill, 900).open()
    fleet.pace("prefill").began(900, 0.0)

    def reason(**more: float) -> str:
        return fleet.choose(one_step=False, **more).reason.value  # type: ignore[arg-type]

    assert from_manifest(MANIFEST).slack is None
    assert reason(prompt_tokens=100.0) == "PrefillDecode"
    fleet.slack = config.slack
    assert reason(prompt_tokens=100.0) == "DecodeSlack"
    assert reason() == "PrefillDecode"
    lease.close()
