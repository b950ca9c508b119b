"""A new revision where GPUs do not hold both: a keeper, and the controllers and routers of a cluster in memory."""

import copy
from typing import Any

import pytest

from llmservice_core import contract
from llmservice_core.draining import Work
from llmservice_core.model import Mode
from llmservice_operator import leaving, replace_revision, rollout
from llmservice_operator.keeper import Keeper
from llmservice_operator.kinds import annotations_of, labels_of, name_of
from tests.control.fake_cluster import FakeCluster, keeper, seen
from tests.control.test_keeper import minimum

DONE = Work(requests=0, tokens=0.0, unpulled_blocks=0, is_avoided=True)
BUSY = Work(requests=1, tokens=9.0, unpulled_blocks=0, is_avoided=True)


class Scene:
    """One GPU for each engine. `gpus`: so many pods find a node; `ready`: whether a pod of a revision becomes Ready."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, size: int, budget: int | None, gpus: int = 100) -> None:
        self.cluster, self.now_s, self.size, self.gpus = FakeCluster(), 1e9, size, gpus
        self.scaling: dict[str, Any] = {"interval": "5s", "gpuBudget": budget} if budget else {"interval": "5s"}
        self.generation, self.busy, self.broken, self.most = 1, set[str](), set[str](), 0
        self.history: list[tuple[int, int]] = []
        self.reasons: list[str] = []
        self.keeper: Keeper = keeper(self.cluster, self.service("a"))
        self.keeper.world.clock = lambda: self.now_s
        monkeypatch.setattr(leaving.observe_work, "works", self._works)

    async def _works(self, http: Any, engines: list[Any], routers: list[Any]) -> list[Work]:
        return [BUSY if name_of(e) in self.busy else DONE for e in engines]

    def service(self, image: str) -> Any:
        return minimum(self.size, self.size, generation=self.generation, scaling=self.scaling, engine={"image": image})

    async def roll(self, image: str) -> None:
        self.generation += 1
        self.keeper.service = self.service(image)
        await self.turn()

    async def turn(self, seconds: float = 3.0) -> None:
        await self.keeper.pass_once(self.keeper.service)
        self._controllers()
        self.now_s += seconds
        counts = self.serving()
        self.most = max(self.most, len(self.pods()))
        if not self.history or self.history[-1] != counts:
            self.history.append(counts)
        self.reasons.append(self.condition("Progressing")["reason"])

    async def settle(self, turns: int = 40) -> None:
        for _ in range(turns):
            await self.turn()

    def condition(self, kind: str) -> Any:
        assert self.cluster.status is not None
        return next(c for c in self.cluster.status["conditions"] if c["type"] == kind)

    def deployments(self) -> list[Any]:
        return [o for o in self.cluster.objects.values() if o["kind"] == "Deployment" and rollout.pool_of(o)]

    def pods(self) -> list[Any]:
        return [o for o in self.cluster.objects.values() if o["kind"] == "Pod"]

    def image(self, item: Any) -> str:
        by_revision = {d["metadata"]["labels"][contract.LABEL_REVISION]: d for d in self.seen_ever}
        made = by_revision[labels_of(item)[contract.LABEL_REVISION]]
        return str(made["spec"]["template"]["spec"]["containers"][0]["image"])

    @property
    def seen_ever(self) -> list[Any]:
        self._ever = {**getattr(self, "_ever", {}), **{name_of(d): d for d in self.deployments()}}
        return list(self._ever.values())

    def serving(self) -> tuple[int, int]:
        """Pairs of the old image `a` and of any newer one that routers send to."""
        return self._pairs(True), self._pairs(False)

    def _pairs(self, is_old: bool) -> int:
        open_pods = [p for p in self.pods() if is_ready(p) and contract.ANNOTATION_DRAIN not in annotations_of(p)]
        own = [p for p in open_pods if (self.image(p) == "a") == is_old]
        return min(sum(rollout.pool_of(p) == pool for p in own) for pool in ("prefill", "decode"))

    def _controllers(self) -> None:
        """Deployments make and take pods, the scheduler places them, and they start; the watches see all of it."""
        _ = self.seen_ever
        for pod in self.pods():
            if not any(key_of(d) == key_of(pod) for d in self.deployments()):
                self._remove(pod)
        for d in self.deployments():
            own = sorted((p for p in self.pods() if key_of(p) == key_of(d)), key=_cost)
            for number in range(len(own), d["spec"]["replicas"]):
                self._add(d, f"{name_of(d)}-{self.now_s:.0f}-{number}")
            for pod in own[: max(0, len(own) - d["spec"]["replicas"])]:
                self._remove(pod)
        for pod in self.pods():
            self._start(pod)
        for d in self.deployments():
            count = sum(is_ready(p) for p in self.pods() if key_of(p) == key_of(d))
            noted = [{"type": "Progressing", "reason": "NewReplicaSetAvailable"}]
            was = (d.get("status") or {}).get("conditions") or []
            d["status"] = {"readyReplicas": count, "conditions": noted if count >= d["spec"]["replicas"] > 0 else was}
            self.cluster.put(f"Deployment/{name_of(d)}", d)
        seen(self.cluster, self.keeper.world.watches)

    def _add(self, deployment: Any, name: str) -> None:
        template = deployment["spec"]["template"]
        meta = {"name": name, "namespace": "ns", "labels": template["metadata"]["labels"]}
        pod = {"apiVersion": "v1", "kind": "Pod", "metadata": meta, "spec": copy.deepcopy(template["spec"])}
        self.cluster.put(f"Pod/{name}", pod | {"status": {"phase": "Pending"}})

    def _start(self, pod: Any) -> None:
        placed = [p for p in self.pods() if p["spec"].get("nodeName")]
        if not pod["spec"].get("nodeName"):
            if len(placed) >= self.gpus:
                pod["status"]["conditions"] = pod["status"].get("conditions") or [lost(self.now_s)]
                self.cluster.put(f"Pod/{name_of(pod)}", pod)
                return
            pod["spec"]["nodeName"] = "n"
        works = self.image(pod) not in self.broken
        pod["status"] = {
            "phase": "Running",
            "conditions": [{"type": "Ready", "status": str(works), "lastTransitionTime": "2026-01-01T00:00:00Z"}],
            "containerStatuses": [{"name": "engine", "started": works, "ready": works, "state": {"running": {}}}],
        }
        self.cluster.put(f"Pod/{name_of(pod)}", pod)

    def _remove(self, pod: Any) -> None:
        self.keeper.world.watches.drop(self.cluster.objects.pop(f"Pod/{name_of(pod)}"))


def lost(now_s: float) -> Any:
    since = leaving.timestamp(now_s)
    return {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "lastTransitionTime": since}


def key_of(item: Any) -> Any:
    return rollout.pool_of(item), labels_of(item)[contract.LABEL_REVISION]


def is_ready(pod: Any) -> bool:
    return any(c["type"] == "Ready" and c["status"] == "True" for c in pod["status"].get("conditions") or [])


def _cost(pod: Any) -> tuple[bool, int]:
    return is_ready(pod), int(annotations_of(pod).get(contract.ANNOTATION_COST, "0"))


async def scene(monkeypatch: pytest.MonkeyPatch, size: int, budget: int | None, gpus: int = 100) -> Scene:
    made = Scene(monkeypatch, size, budget, gpus)
    await made.settle(4)
    assert made.serving() == (size, 0)
    made.history.clear(), made.reasons.clear()
    made.most = 0
    return made


async def test_a_budget_for_both_starts_the_new_one_beside_the_old_one(monkeypatch: pytest.MonkeyPatch) -> None:
    one = await scene(monkeypatch, 2, 8)
    await one.roll("b")
    await one.settle()
    assert one.history[-1] == (0, 2)
    assert all(max(pair) == 2 for pair in one.history), "never less than all of one revision"
    assert one.most == 8
    assert set(one.reasons) == {"RollingOut", "Settled"}
    assert not one.cluster.told("DrainStarted")


async def test_no_gpu_more_dips_by_one_pair_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    one = await scene(monkeypatch, 3, 6)
    await one.roll("b")
    await one.settle()
    assert one.history[-1] == (0, 3)
    assert min(sum(pair) for pair in one.history) == 2
    assert one.most == 6
    assert "RolloutPause" not in one.reasons
    assert [name for d in one.deployments() for name in annotations_of(d) if name.endswith("/rollout")] == []
    assert all("makes room for revision" in text for text in one.cluster.told("DrainStarted"))


async def test_a_lone_pair_pauses_and_says_so_before_it_stops_serving(monkeypatch: pytest.MonkeyPatch) -> None:
    one = await scene(monkeypatch, 1, 2)
    one.busy = {name_of(p) for p in one.pods()}
    await one.roll("b")
    paused = one.condition("Progressing")
    assert (paused["status"], paused["reason"]) == ("True", "RolloutPause")
    assert "scaling.gpuBudget do not hold both: requests wait in the routers" in paused["message"]
    await one.settle(5)
    assert len(one.pods()) == 2, "streams end first"
    one.busy.clear()
    await one.settle()
    assert (one.history[-1], one.most) == ((0, 1), 2)
    assert one.reasons[-1] == "Settled"
    (told,) = one.cluster.told("RolloutPause")
    assert "no engine serves until revision" in told


async def test_old_pods_that_leave_without_a_mark_hold_their_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    """Their Deployments were made smaller, and the controllers have not come to them yet."""
    one = await scene(monkeypatch, 1, 2)
    one.generation += 1
    one.keeper.service = one.service("b")
    for old in one.deployments():
        one.keeper.world.watches.put(await one.cluster.scale(old, 0))
    await one.keeper.pass_once(one.keeper.service)
    new = [d for d in one.deployments() if d["spec"]["template"]["spec"]["containers"][0]["image"] == "b"]
    assert [d["spec"]["replicas"] for d in new] == [0, 0]
    await one.settle()
    assert (one.history[-1], one.most) == ((0, 1), 2)


async def test_a_broken_revision_takes_no_more_than_its_first_pair_and_the_old_spec_brings_all_back(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    one = await scene(monkeypatch, 2, 4)
    one.broken = {"b"}
    await one.roll("b")
    await one.settle()
    assert one.serving() == (1, 0)
    kept = {name_of(p) for p in one.pods() if is_ready(p)}
    await one.roll("a")
    await one.settle()
    assert one.serving() == (2, 0)
    assert kept < {name_of(p) for p in one.pods()}
    assert len(one.deployments()) == 2


async def test_with_gpus_left_a_broken_revision_takes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    one = await scene(monkeypatch, 2, 6)
    one.broken = {"b"}
    before = {name_of(p) for p in one.pods()}
    await one.roll("b")
    await one.settle()
    assert one.history == [(2, 0)]
    await one.roll("a")
    await one.settle(4)
    assert {name_of(p) for p in one.pods()} == before, "not one pod was started anew"


async def test_a_cluster_that_is_full_is_found_out_after_a_minute(monkeypatch: pytest.MonkeyPatch) -> None:
    one = await scene(monkeypatch, 2, None, gpus=4)
    await one.roll("b")
    await one.settle(int(replace_revision.UNPLACED_S / 3) - 2)
    assert one.history == [(2, 0)], "a node may still come"
    await one.settle(60)
    assert one.history[-1] == (0, 2)
    assert min(sum(pair) for pair in one.history) == 1
    assert "4 GPUs that the cluster has" not in one.condition("Progressing")["message"]
    assert [d for d in one.deployments() if contract.GROUP + "/rollout" in annotations_of(d)] == []


async def test_an_operator_that_is_killed_at_any_time_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    one = await scene(monkeypatch, 2, 4)
    await one.roll("b")
    for _ in range(40):
        service = one.keeper.service
        one.keeper = keeper(one.cluster, service)
        one.keeper.world.clock = lambda: one.now_s
        await one.turn()
    assert (one.history[-1], one.most) == ((0, 2), 4)
    assert min(sum(pair) for pair in one.history) == 1


async def test_sizes_of_people_survive_a_rollout_step_by_step(monkeypatch: pytest.MonkeyPatch) -> None:
    one = await scene(monkeypatch, 2, 4)
    one.scaling["mode"] = Mode.RECOMMEND
    await one.roll("b")
    await one.settle()
    assert one.history[-1] == (0, 2)
