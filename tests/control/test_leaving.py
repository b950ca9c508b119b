"""Drains as the operator carries them out: passes over pods in memory, killed at any point, refused, taken back."""

import copy
from typing import Any

import pytest

from llmservice_core import contract
from llmservice_core.draining import UNKNOWN, Work
from llmservice_core.model import Pool
from llmservice_operator import observe_work
from llmservice_operator.errors import Misconfigured
from llmservice_operator.keeper import Keeper
from llmservice_operator.kinds import annotations_of, name_of
from tests.control.fake_cluster import FakeCluster, keeper, resource, seen

DONE = Work(requests=0, tokens=0.0, unpulled_blocks=0, is_avoided=True)
BUSY = Work(requests=2, tokens=50.0, unpulled_blocks=0, is_avoided=True)


class Scene:
    """A decode pool of three Ready pods, `work` by pod name, and a clock; `pass_once` is one pass of the operator."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.cluster, self.work, self.now_s = FakeCluster(), dict[str, Work](), 1_800_000_000.0
        self.asked = 0
        self.keeper: Keeper
        self.generation = 1

        async def works(_: object, engines: list[Any], __: object) -> list[Work]:
            self.asked += 1
            return [self.work.get(name_of(e), UNKNOWN) for e in engines]

        monkeypatch.setattr(observe_work, "works", works)

    async def start(self) -> None:
        self.restart(self.service(3))
        await self.pass_once()
        for name in ("a", "b", "c"):
            self.add(name)
            self.work[name] = BUSY
        await self.pass_once()

    def service(self, decode: int, mode: str = "Auto") -> Any:
        self.generation += 1
        pools = {"prefill": {"maxReplicas": 1}, "decode": {"minReplicas": 1, "maxReplicas": decode}}
        if decode > 1:
            pools["decode"]["minReplicas"] = decode
        scaling = {"mode": mode, "scaleDown": {"stabilization": "0s", "drainDeadline": "60s"}}
        return resource(generation=self.generation, pools=pools, scaling=scaling, status=self.cluster.status)

    def restart(self, service: Any) -> None:
        """An operator that knows nothing but what lives."""
        self.keeper = keeper(self.cluster, service)
        self.keeper.world.clock = lambda: self.now_s

    async def pass_once(self, service: Any = None) -> None:
        if service is not None:
            self.keeper.saw(service)
        await self.keeper.pass_once(self.keeper.service)
        self._follow()

    def _follow(self) -> None:
        """What the ReplicaSet controller does: of the Ready pods the cheapest go; then the watches see all of it."""
        pods = sorted(self.pods(), key=lambda p: int(annotations_of(p).get(contract.ANNOTATION_COST, "0")))
        for pod in pods[: max(0, len(pods) - self.replicas)]:
            self.remove(name_of(pod))
        seen(self.cluster, self.keeper.world.watches)

    def pods(self) -> list[Any]:
        return [o for o in self.cluster.objects.values() if o["kind"] == "Pod"]

    def remove(self, name: str) -> None:
        pod = self.cluster.objects.pop(f"Pod/{name}")
        self.keeper.world.watches.drop(copy.deepcopy(pod))

    def add(self, name: str, *, ready: bool = True, started: bool = True) -> None:
        conditions = [{"type": "Ready", "status": str(ready), "lastTransitionTime": "2026-01-01T00:00:00Z"}]
        labels = self.deployment["spec"]["selector"]["matchLabels"]
        pod = {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": name, "namespace": "ns", "labels": labels},
            "spec": self.deployment["spec"]["template"]["spec"],
            "status": {
                "phase": "Running",
                "conditions": conditions,
                "containerStatuses": [{"name": "engine", "started": started}],
            },
        }
        self.cluster.put(f"Pod/{name}", pod)
        seen(self.cluster, self.keeper.world.watches)

    @property
    def deployment(self) -> Any:
        return next(o for k, o in self.cluster.objects.items() if k.startswith("Deployment/chat-decode-"))

    @property
    def replicas(self) -> int:
        return int(self.deployment["spec"]["replicas"])

    @property
    def draining(self) -> list[str]:
        return sorted(name_of(p) for p in self.pods() if contract.ANNOTATION_DRAIN in annotations_of(p))

    @property
    def names(self) -> list[str]:
        return sorted(map(name_of, self.pods()))

    def told(self, what: str) -> list[str]:
        return self.cluster.told(f"Drain{what}")


@pytest.fixture
async def scene(monkeypatch: pytest.MonkeyPatch) -> Scene:
    made = Scene(monkeypatch)
    await made.start()
    return made


async def test_a_pool_that_shrinks_waits_for_the_pod_with_the_fewest_tokens(scene: Scene) -> None:
    assert scene.asked == 0, "nobody leaves, nobody is asked"
    scene.work["b"] = Work(requests=1, tokens=5.0, unpulled_blocks=0, is_avoided=True)
    await scene.pass_once(scene.service(2))
    assert (scene.draining, scene.replicas) == (["b"], 3)
    assert scene.keeper.sizes[Pool.DECODE] == 2, "decided, though the pod is still there"
    scene.now_s += 10
    await scene.pass_once()
    assert (scene.draining, scene.replicas) == (["b"], 3)
    assert scene.cluster.status is not None
    assert scene.cluster.status["pools"]["decode"]["draining"] == 1
    assert scene.cluster.status["gpus"] == 3 + 1, "a pod that drains counts"
    scene.work["b"] = DONE
    await scene.pass_once()
    assert scene.replicas == 3, "first the cost, then the size"
    await scene.pass_once()
    assert (scene.replicas, scene.names) == (2, ["a", "c"])
    (start,), (end,) = scene.told("Started"), scene.told("Ended")
    assert start == "decode b drains, for 2 are enough: 1 requests left, about 5 tokens"
    assert end == "decode b goes after 10 s: 0 requests left"
    assert not scene.cluster.told("Restored")


async def test_load_that_returns_takes_the_drain_back(scene: Scene) -> None:
    await scene.pass_once(scene.service(2))
    (gone,) = scene.draining
    await scene.pass_once(scene.service(3))
    assert (scene.draining, scene.replicas, scene.names) == ([], 3, ["a", "b", "c"])
    assert all(contract.ANNOTATION_COST not in annotations_of(p) for p in scene.pods())
    assert scene.told("TakenBack")[0].startswith(f"decode {gone} stays")


async def test_a_pod_whose_deadline_is_over_goes_with_what_it_has(scene: Scene) -> None:
    await scene.pass_once(scene.service(2))
    scene.now_s += 59
    await scene.pass_once()
    assert scene.replicas == 3
    scene.now_s += 2
    await scene.pass_once()
    await scene.pass_once()
    assert (scene.replicas, scene.names) == (2, ["b", "c"])
    assert scene.told("DeadlineOver") == ["decode a goes after 61 s: 2 requests left, about 50 tokens"]


async def test_work_that_nobody_can_tell_is_not_done(scene: Scene) -> None:
    scene.work = {}
    await scene.pass_once(scene.service(2))
    scene.now_s += 30
    await scene.pass_once()
    assert (len(scene.draining), scene.replicas) == (1, 3)


async def test_a_pod_that_only_starts_goes_first_and_at_once(scene: Scene) -> None:
    scene.add("z", ready=False, started=False)
    await scene.pass_once(scene.service(4))
    await scene.pass_once(scene.service(3))
    assert scene.draining == ["z"]
    await scene.pass_once()
    await scene.pass_once()
    assert (scene.replicas, scene.names) == (3, ["a", "b", "c"])


async def test_an_operator_killed_between_any_two_writes_goes_on(scene: Scene) -> None:
    """A new one before every pass; the result and what was told are the same."""
    wanted = scene.service(1)
    for _ in range(3):
        scene.restart(wanted)
        await scene.pass_once()
    assert (scene.draining, scene.replicas) == (["a", "b"], 3)
    scene.now_s += 10
    scene.work["a"] = DONE
    for _ in range(3):
        scene.restart(wanted)
        await scene.pass_once()
    assert (scene.names, scene.replicas) == (["b", "c"], 2)
    scene.work["b"] = DONE
    for _ in range(3):
        scene.restart(wanted)
        await scene.pass_once()
    assert (scene.names, scene.replicas, scene.draining) == (["c"], 1, [])
    assert [len(scene.told(what)) for what in ("Started", "Ended", "TakenBack")] == [2, 2, 0]


class Killed(BaseException):
    """Nothing of the operator may catch it."""


def killing(cluster: FakeCluster, at: int, *, is_stored: bool) -> list[int]:
    """The operator dies at its write number `at`, before it is stored or before its answer comes."""
    count = [0]

    def dying(write: Any) -> Any:
        async def call(*arguments: Any) -> Any:
            count[0] += 1
            if count[0] == at and not is_stored:
                raise Killed
            answer = await write(*arguments)
            if count[0] == at:
                raise Killed
            return answer

        return call

    for name in ("apply", "annotate", "create", "apply_status"):
        setattr(cluster, name, dying(getattr(cluster, name)))
    return count


@pytest.mark.parametrize("is_stored", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("at", range(1, 16))
async def test_an_operator_killed_at_any_write_loses_and_repeats_nothing(
    scene: Scene, at: int, is_stored: bool
) -> None:
    wanted = scene.service(2)
    count = killing(scene.cluster, at, is_stored=is_stored)
    for turn in range(6):
        try:
            await scene.pass_once(wanted)
        except Killed:
            seen(scene.cluster, scene.keeper.world.watches)
            scene.restart(wanted)
        scene.now_s += 5
        if turn == 2:
            scene.work["a"] = DONE
    assert count[0] >= 5
    assert (scene.names, scene.replicas, scene.draining) == (["b", "c"], 2, [])
    assert [len(scene.told(what)) for what in ("Started", "Ended", "TakenBack")] == [1, 1, 0]


async def test_passes_in_between_write_nothing(scene: Scene) -> None:
    await scene.pass_once(scene.service(2))
    await scene.pass_once()
    applied, annotated, events = len(scene.cluster.applied), len(scene.cluster.annotated), len(scene.cluster.events)
    for _ in range(3):
        scene.now_s += 1
        await scene.pass_once()
    found = len(scene.cluster.applied), len(scene.cluster.annotated), len(scene.cluster.events)
    assert found == (applied, annotated, events)


async def test_a_pod_that_may_not_be_marked_stays_and_degraded_says_why(scene: Scene) -> None:
    for name in scene.names:
        scene.cluster.refuse[f"Pod/{name}"] = Misconfigured("pods is forbidden")
    await scene.pass_once(scene.service(2))
    await scene.pass_once()
    assert (scene.replicas, scene.draining) == (3, [])
    assert scene.keeper.last_problem == ("Misconfigured", "pods is forbidden")
    scene.cluster.refuse.clear()
    await scene.pass_once()
    assert len(scene.draining) == 1


async def test_what_a_stranger_scaled_up_is_put_back_at_once(scene: Scene) -> None:
    scene.deployment["spec"]["replicas"] = 5
    seen(scene.cluster, scene.keeper.world.watches)
    await scene.pass_once()
    assert (scene.replicas, scene.draining) == (3, [])
    assert len(scene.cluster.told("Restored")) == 1


async def test_a_mark_that_is_not_ours_is_taken_away(scene: Scene) -> None:
    scene.cluster.objects["Pod/a"]["metadata"]["annotations"] = {contract.ANNOTATION_DRAIN: "please"}
    seen(scene.cluster, scene.keeper.world.watches)
    await scene.pass_once()
    assert scene.draining == []


async def test_a_pod_of_a_revision_that_is_replaced_serves_until_its_end(scene: Scene) -> None:
    """The new revision may never become Ready, and then the old one has all the load."""
    await scene.pass_once(scene.service(2))
    (marked,) = scene.draining
    scene.cluster.objects[f"Pod/{marked}"]["metadata"]["labels"]["llmservice.dev/revision"] = "before"
    seen(scene.cluster, scene.keeper.world.watches)
    await scene.keeper.pass_once(scene.keeper.service)
    assert (scene.draining, marked in scene.names) == ([], True)
    assert scene.cluster.annotated[-1] == marked


async def test_where_a_person_sets_the_sizes_nothing_drains_and_drains_end(scene: Scene) -> None:
    await scene.pass_once(scene.service(2))
    assert len(scene.draining) == 1
    await scene.pass_once(scene.service(2, mode="Recommend"))
    assert (scene.draining, scene.replicas) == ([], 3)
    scene.deployment["spec"]["replicas"] = 2
    await scene.pass_once()
    assert (scene.draining, len(scene.names)) == ([], 2)
