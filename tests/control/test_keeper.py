"""Passes that meet trouble: refused children, lost answers, a killed operator. Nothing is lost or told twice."""

import copy
from typing import Any

import pytest

from llmservice_core.model import Pool
from llmservice_operator.errors import Misconfigured, NotReady, Unreachable
from llmservice_operator.keeper import Keeper
from tests.control.fake_cluster import FakeCluster, keeper, resource, seen

REFUSAL = Misconfigured("admission webhook denied the request")


@pytest.fixture
def cluster() -> FakeCluster:
    return FakeCluster()


def minimum(prefill: int, decode: int, **options: Any) -> Any:
    pools = {
        "prefill": {"minReplicas": prefill, "maxReplicas": 8},
        "decode": {"minReplicas": decode, "maxReplicas": 8},
    }
    return resource(pools=pools, **options)


async def running(cluster: FakeCluster) -> Keeper:
    """One replica per pool, and the status says so."""
    one = keeper(cluster, minimum(1, 1))
    await one.pass_once(one.service)
    await one.pass_once(one.service)
    assert not cluster.told("AtMinimum")
    return one


def sizes(cluster: FakeCluster) -> dict[str, int]:
    deployments = {k: o for k, o in cluster.objects.items() if k.startswith("Deployment/") and "-router" not in k}
    return {k.split("-")[1]: o["spec"]["replicas"] for k, o in sorted(deployments.items())}


def engine(cluster: FakeCluster, pool: str) -> str:
    return next(key for key in cluster.objects if key.startswith(f"Deployment/chat-{pool}-"))


def shown(cluster: FakeCluster) -> Any:
    assert cluster.status is not None
    return cluster.status


def degraded(cluster: FakeCluster) -> tuple[str, str]:
    (found,) = [c for c in shown(cluster)["conditions"] if c["type"] == "Degraded"]
    return found["status"], found["message"]


@pytest.mark.parametrize("refused", ["PodDisruptionBudget/chat-decode", "ServiceAccount/chat-router"])
async def test_a_refused_child_keeps_nothing_else_from_being_made_or_scaled(cluster: FakeCluster, refused: str) -> None:
    await running(undisturbed := FakeCluster())
    cluster.refuse[refused] = REFUSAL
    one = keeper(cluster, minimum(1, 1))
    await one.pass_once(one.service)
    assert cluster.objects.keys() == undisturbed.objects.keys() - {refused}
    assert degraded(cluster) == ("True", str(REFUSAL))
    assert cluster.applied.count(refused) == 1, "not tried again in the same pass"
    grown = minimum(2, 3, generation=2)
    await one.pass_once(grown)
    assert sizes(cluster) == {"decode": 3, "prefill": 2}
    assert degraded(cluster) == ("True", str(REFUSAL))
    cluster.refuse.clear()
    await one.pass_once(grown)
    assert degraded(cluster)[0] == "False"


async def test_what_was_put_back_is_told_though_another_child_is_refused(cluster: FakeCluster) -> None:
    one = await running(cluster)
    cluster.objects["Service/chat"]["spec"]["selector"] = {}
    one.world.watches.put(copy.deepcopy(cluster.objects["Service/chat"]))
    cluster.objects["PodDisruptionBudget/chat-decode"]["spec"]["maxUnavailable"] = 9
    one.world.watches.put(copy.deepcopy(cluster.objects["PodDisruptionBudget/chat-decode"]))
    cluster.refuse["PodDisruptionBudget/chat-decode"] = REFUSAL
    outcome = await one.pass_once(one.service)
    assert cluster.told("Restored") == ["Service chat was edited by somebody else and is put back"]
    assert outcome.problem == ("Misconfigured", str(REFUSAL))


DELETED = ["Service chat was deleted by somebody else and is put back"]


def deleted_by_somebody(cluster: FakeCluster, one: Keeper, key: str) -> None:
    one.world.watches.drop(cluster.objects.pop(key))


async def test_a_deleted_child_is_told_once_though_the_answer_to_its_repair_is_lost(cluster: FakeCluster) -> None:
    one = await running(cluster)
    deleted_by_somebody(cluster, one, "Service/chat")
    cluster.lost["Service/chat"] = NotReady("the API server broke off an answer")
    await one.pass_once(one.service)
    assert not cluster.told("Restored"), "nobody knows yet whether it is back"
    seen(cluster, one.world.watches)
    await one.pass_once(one.service)
    await one.pass_once(one.service)
    assert cluster.told("Restored") == DELETED


async def test_a_child_deleted_between_our_look_and_our_write_is_told(cluster: FakeCluster) -> None:
    one = await running(cluster)
    shown_still = copy.deepcopy(cluster.objects["Service/chat"])
    shown_still["metadata"]["uid"] = "of the one that was deleted"
    shown_still["spec"]["selector"] = {}
    deleted_by_somebody(cluster, one, "Service/chat")
    one.world.watches.put(shown_still)
    await one.pass_once(one.service)
    assert cluster.told("Restored") == DELETED


async def test_an_event_that_the_api_server_did_not_take_is_sent_with_the_next_pass(cluster: FakeCluster) -> None:
    one = await running(cluster)
    deleted_by_somebody(cluster, one, "Service/chat")
    cluster.refuse["Event"] = NotReady("etcd has no leader")
    await one.pass_once(one.service)
    assert not cluster.told("Restored")
    cluster.refuse.clear()
    await one.pass_once(one.service)
    await one.pass_once(one.service)
    assert cluster.told("Restored") == DELETED


async def test_an_api_server_that_is_away_is_asked_once(cluster: FakeCluster) -> None:
    one = keeper(cluster, minimum(1, 1))
    cluster.refuse["ServiceAccount/chat-router"] = Unreachable("the API server does not answer")
    await one.pass_once(one.service)
    assert cluster.applied == ["ServiceAccount/chat-router"]


async def test_a_pool_that_could_not_be_scaled_does_not_wait_for_the_next_decision(cluster: FakeCluster) -> None:
    one = await running(cluster)
    decode = engine(cluster, "decode")
    cluster.refuse[decode] = NotReady("webhook away")
    grown = minimum(2, 3, generation=2)
    await one.pass_once(grown)
    assert sizes(cluster) == {"decode": 1, "prefill": 2}
    assert shown(cluster)["history"][-1]["to"] == {"prefill": 2, "decode": 1}
    cluster.refuse.clear()
    await one.pass_once(grown)
    assert sizes(cluster) == {"decode": 3, "prefill": 2}
    changes = [c["message"].split(":")[0] for c in shown(cluster)["history"]]
    assert changes == ["prefill 1 -> 2", "decode 1 -> 3"]
    assert len([m for m in cluster.told() if " -> " in m]) == 2


async def test_a_change_whose_answer_was_lost_is_told_once(cluster: FakeCluster) -> None:
    one = await running(cluster)
    cluster.lost[engine(cluster, "decode")] = NotReady("the API server broke off an answer")
    grown = minimum(1, 3, generation=2)
    await one.pass_once(grown)
    seen(cluster, one.world.watches)
    await one.pass_once(grown)
    await one.pass_once(grown)
    (message,) = [m for m in cluster.told() if "->" in m]
    assert message.startswith("decode 1 -> 3, not by this decision; now 3: ")
    assert [c["to"]["decode"] for c in shown(cluster)["history"]] == [3]


@pytest.mark.parametrize("killed", ["before it told", "before the status was written", "after all"])
async def test_a_change_survives_an_operator_that_is_killed(cluster: FakeCluster, killed: str) -> None:
    one = await running(cluster)
    before = shown(cluster)
    grown = minimum(1, 3, generation=2, status=before)
    await one.pass_once(grown)
    if killed == "before it told":
        cluster.events.clear()
    status = shown(cluster) if killed == "after all" else before
    after = keeper(cluster, minimum(1, 3, generation=2, status=status))
    await after.pass_once(after.service)
    assert sizes(cluster) == {"decode": 3, "prefill": 1}
    assert len([m for m in cluster.told() if "decode 1 -> 3" in m]) == 1
    assert [(c["from"]["decode"], c["to"]["decode"]) for c in shown(cluster)["history"]] == [(1, 3)]


async def test_sizes_that_people_set_are_no_changes_of_ours(cluster: FakeCluster) -> None:
    one = await running(cluster)
    scaled = minimum(1, 1, generation=2, scaling={"mode": "Recommend"})
    cluster.objects[engine(cluster, "decode")]["spec"]["replicas"] = 4
    seen(cluster, one.world.watches)
    await one.pass_once(scaled)
    assert shown(cluster)["pools"]["decode"]["desired"] == 4
    assert not [m for m in cluster.told() if "->" in m]
    assert one.teller.told[Pool.DECODE] == 4


async def test_a_missing_secret_of_api_keys_is_told_and_nothing_else_of_it(
    cluster: FakeCluster, caplog: pytest.LogCaptureFixture
) -> None:
    """The pod is as the kubelet reports it while it waits for a Secret to mount."""
    caplog.set_level("DEBUG")
    one = keeper(cluster, minimum(1, 1, router={"access": {"apiKeysSecret": "chat-keys"}}))
    await one.pass_once(one.service)
    assert degraded(cluster)[0] == "False"
    labels = {"llmservice.dev/name": "chat", "llmservice.dev/component": "router"}
    old = {"lastTransitionTime": "2026-01-01T10:00:00Z"}
    states = {"PodScheduled": "True", "Ready": "False", "PodReadyToStartContainers": "False"}
    conditions = [{"type": kind, "status": state, **old} for kind, state in states.items()]
    pod = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "chat-router-1", "namespace": "ns", "labels": labels},
        "status": {"phase": "Pending", "conditions": conditions},
    }
    cluster.put("Pod/chat-router-1", pod)
    seen(cluster, one.world.watches)
    await one.pass_once(one.service)
    assert degraded(cluster)[0] == "True"
    (told,) = cluster.told("ApiKeysMissing")
    assert "does Secret chat-keys exist in namespace ns?" in told
    asked = [key for key in cluster.applied if "Secret" in key]
    assert asked == [], "the operator neither reads nor writes Secrets"


def become_ready(cluster: FakeCluster, one: Keeper) -> None:
    for pool in ("prefill", "decode"):
        deployment = cluster.objects[engine(cluster, pool)]
        noted = [{"type": "Progressing", "reason": "NewReplicaSetAvailable"}]
        deployment["status"] = {"readyReplicas": deployment["spec"]["replicas"], "conditions": noted}
    seen(cluster, one.world.watches)


RESOURCES = {"requests": {"cpu": "1000m", "memory": "1024Mi"}}
TEMPLATE = {"spec": {"containers": [{"name": "engine", "resources": RESOURCES}]}}
TUNED = {"prefill": {"maxReplicas": 8}, "decode": {"maxReplicas": 8, "template": TEMPLATE}}


async def test_values_that_the_api_server_spells_otherwise_are_nobodys_edit_after_a_restart(
    cluster: FakeCluster,
) -> None:
    one = keeper(cluster, resource(pools=TUNED))
    await one.pass_once(one.service)
    written = len(cluster.applied)
    await one.pass_once(one.service)
    assert len(cluster.applied) == written
    after = keeper(cluster, resource(pools=TUNED, status=shown(cluster)))
    await after.pass_once(after.service)
    await after.pass_once(after.service)
    assert cluster.applied[written:] == [engine(cluster, "decode")], "once, to learn how it is spelt"
    assert not cluster.told("Restored")


async def test_what_was_edited_while_no_operator_ran_is_put_back_and_told(cluster: FakeCluster) -> None:
    await running(cluster)
    cluster.objects["Service/chat"]["spec"]["selector"] = {}
    after = keeper(cluster, minimum(1, 1, status=shown(cluster)))
    await after.pass_once(after.service)
    assert cluster.told("Restored") == ["Service chat was edited by somebody else and is put back"]


@pytest.mark.parametrize("mode", ["Off", "Recommend", "Auto"])
async def test_a_failed_first_pass_leaves_no_size_behind(cluster: FakeCluster, mode: str) -> None:
    """It wrote `desired: 0`, which a restart took for a decision: pools of no engines, for good."""
    wrong = {"prefill": {"minReplicas": 2, "maxReplicas": 8, "template": {"spec": {"containers": 5}}}}
    pools = minimum(2, 3).spec.pools.model_dump(by_alias=True, exclude_none=True)
    one = keeper(cluster, resource(scaling={"mode": mode}, pools=pools | wrong))
    await one.pass_once(one.service)
    assert not sizes(cluster)
    after = keeper(cluster, minimum(2, 3, generation=2, scaling={"mode": mode}, status=shown(cluster)))
    await after.pass_once(after.service)
    assert sizes(cluster) == {"decode": 3, "prefill": 2}
