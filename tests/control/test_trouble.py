"""Which pod is told of and why, by table; what of its log may be told; and the whole of it through a keeper."""

from typing import Any

import pytest

from llmservice_operator import last_words, trouble
from llmservice_operator.errors import NotReady
from llmservice_operator.keeper import Keeper
from tests.control.fake_cluster import FakeCluster, seen
from tests.control.test_keeper import become_ready, degraded, minimum, running, shown


@pytest.fixture
def cluster() -> FakeCluster:
    return FakeCluster()


def pod(name: str, revision: str = "new", pool: str = "prefill", **status: Any) -> dict[str, Any]:
    labels = {
        "llmservice.dev/name": "chat",
        "llmservice.dev/component": "engine",
        "llmservice.dev/pool": pool,
        "llmservice.dev/revision": revision,
    }
    meta = {"name": name, "namespace": "ns", "uid": f"uid-{name}", "labels": labels}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": meta, "status": {"phase": "Running", **status}}


def container(state: dict[str, Any], last: Any = None, restarts: int = 0, *, ready: bool = False) -> dict[str, Any]:
    one = {"name": "engine", "ready": ready, "restartCount": restarts, "state": state, "lastState": last or {}}
    return {"containerStatuses": [one]}


def ended(code: int, reason: str = "Error") -> dict[str, Any]:
    return {"terminated": {"exitCode": code, "reason": reason}}


RUNS: dict[str, Any] = {"running": {"startedAt": "2026-01-01T00:00:00Z"}}
LOOPS = {"waiting": {"reason": "CrashLoopBackOff", "message": "back-off 10s"}}
PULL = {"waiting": {"reason": "ImagePullBackOff", "message": 'Back-off pulling image "nowhere/engine:2"'}}
HOMELESS = {
    "phase": "Pending",
    "conditions": [
        {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "0/2 nodes: no GPU"}
    ],
}
TABLE = [
    ("it loads", container(RUNS), None, ""),
    ("it is made", container({"waiting": {"reason": "ContainerCreating"}}), None, ""),
    ("it serves, after a crash", container(RUNS, ended(1), 1, ready=True), None, ""),
    ("it loads after a crash", container(RUNS, ended(1), 1), "EngineCrashed", "exit code 1 (Error), restarted 1 times"),
    ("it loops", container(LOOPS, ended(1), 4), "EngineCrashed", "exit code 1 (Error), restarted 4 times"),
    ("killed for memory", container(LOOPS, ended(137, "OOMKilled"), 2), "EngineCrashed", "137 (OOMKilled)"),
    ("it has just ended", container(ended(2)), "EngineCrashed", "exit code 2"),
    ("no image", container(PULL), "ImageNotPulled", 'ImagePullBackOff: Back-off pulling image "nowhere/engine:2"'),
    (
        "a missing Secret",
        container({"waiting": {"reason": "CreateContainerConfigError", "message": 'secret "hub" not found'}}),
        "ContainerNotStarted",
        'secret "hub" not found',
    ),
    ("no node", HOMELESS, "Unschedulable", "finds no node: 0/2 nodes: no GPU"),
    ("evicted, and replaced", {**container(ended(137)), "phase": "Failed", "reason": "Evicted"}, None, ""),
    (
        "an init container",
        {"initContainerStatuses": [{"name": "fetch", "ready": False, "restartCount": 3, "state": ended(5)}]},
        "EngineCrashed",
        "container fetch ended with exit code 5",
    ),
    (
        "an init container that has done its work",
        {"initContainerStatuses": [{"name": "fetch", "ready": True, "restartCount": 0, "state": ended(0)}]},
        None,
        "",
    ),
]


@pytest.mark.parametrize(("status", "reason", "words"), [row[1:] for row in TABLE], ids=[row[0] for row in TABLE])
def test_what_a_pod_says_of_itself(status: dict[str, Any], reason: str | None, words: str) -> None:
    found = trouble.find([pod("a", **status)], [], "new")
    assert (found.reason if found else None) == reason
    assert words in (found.why if found else "")


def test_the_present_revision_comes_first_and_the_surer_trouble() -> None:
    pods = [
        pod("old", "old", **container(LOOPS, ended(1), 9)),
        pod("waits", **HOMELESS),
        pod("pulls", pool="decode", **container(PULL)),
    ]
    found = trouble.find(pods, [], "new")
    assert found is not None
    assert (found.pod, found.pool, found.others) == ("pulls", "decode", 2)
    leaving = [{**p, "metadata": {**p["metadata"], "deletionTimestamp": "now"}} for p in pods]
    assert trouble.find(leaving, [], "new") is None


def test_a_start_that_takes_too_long_is_told_of_with_its_pod() -> None:
    progress = {"type": "Progressing", "status": "False", "reason": "ProgressDeadlineExceeded"}
    labels = pod("a")["metadata"]["labels"]
    late = {"metadata": {"name": "d", "labels": labels}, "status": {"conditions": [progress]}}
    found = trouble.find([pod("a", **container(RUNS))], [late], "new")
    assert found is not None
    assert (found.reason, found.pod, found.container) == ("ProgressDeadlineExceeded", "a", "engine")
    ready = {"conditions": [{"type": "Ready", "status": "True"}]}
    assert trouble.find([pod("a", **ready)], [late], "new") is None


def router(name: str, **status: Any) -> dict[str, Any]:
    made = pod(name, **status)
    labels = {"llmservice.dev/name": "chat", "llmservice.dev/component": "router"}
    return {**made, "metadata": {**made["metadata"], "labels": labels}}


def test_routers_are_told_of_behind_engines() -> None:
    """One with a nodeSelector that no node has was Pending for ever, and nothing said so."""
    found = trouble.find([router("r", **HOMELESS)], [], "new")
    assert found is not None
    assert (found.reason, found.pool) == ("Unschedulable", "router")
    told = trouble.sentence(found, "", earlier_serves=True)
    assert told == "router pod r: finds no node: 0/2 nodes: no GPU"
    crashed = trouble.find([router("r", **container(LOOPS, ended(1), 4))], [], "new")
    assert crashed is not None
    assert crashed.reason == "RouterCrashed"
    both = trouble.find([router("a", **container(PULL)), pod("b", "old", **HOMELESS)], [], "new")
    assert both is not None
    assert (both.pod, both.others) == ("b", 1)


def test_a_router_that_takes_too_long_is_told_of() -> None:
    progress = {"type": "Progressing", "status": "False", "reason": "ProgressDeadlineExceeded"}
    one = router("r", **container(RUNS))
    late = {"metadata": {"name": "d", "labels": one["metadata"]["labels"]}, "status": {"conditions": [progress]}}
    found = trouble.find([one, pod("a", **container(RUNS))], [late], "new")
    assert found is not None
    assert (found.reason, found.pod, found.container) == ("ProgressDeadlineExceeded", "r", "router")


SECRETS = [
    ("401 for hf_AbCdEfGhIjKlMnOp", "hf_AbCdEfGhIjKlMnOp"),
    ("Authorization: Bearer abc.def", "abc.def"),
    ("HF_TOKEN=s3cr3t-value", "s3cr3t-value"),
    ('{"api_key": "verysecret"}', "verysecret"),
    ("password='two words'", "two words"),
    ("OPENAI sk-proj-abcdef123456", "sk-proj-abcdef123456"),
    ("https://user:pass@hub.example.com/x", "user:pass"),
    ("jwt eyJhbGciOiJIUzI1NiJ9.e30.abc", "eyJhbGci"),
    ("opaque 0123456789abcdef0123456789abcdef01", "0123456789abcdef"),
    ("as the spec has it: topsecret!", "topsecret!"),
]


@pytest.mark.parametrize(("line", "secret"), SECRETS)
def test_nothing_that_looks_like_a_secret_is_told(line: str, secret: str) -> None:
    (told,) = last_words.last_lines(line, ["topsecret!"])
    assert secret not in told
    assert "[redacted]" in told


@pytest.mark.parametrize(
    "line",
    [
        "ValueError: max_num_batched_tokens (16) is smaller than max_model_len (2048)",
        "RuntimeError: Engine core initialization failed. See root cause above.",
        "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 20.00 MiB",
        'File "/usr/lib/python3.12/site-packages/vllm/engine/arg_utils.py", line 81, in create_engine_config',
    ],
)
def test_what_a_person_needs_stays(line: str) -> None:
    assert last_words.last_lines(line) == [line]


def test_few_lines_and_short_ones() -> None:
    log = "\n".join([f"line {i} " + "x" * 999 for i in range(40)] + ["", "\x1b[31mred\x1b[0m end\x07"])
    lines = last_words.last_lines(log)
    assert len(lines) == last_words.LINES
    assert lines[-1] == "red end"
    assert max(map(len, lines)) == last_words.LINE_LENGTH


async def broken_rollout(cluster: FakeCluster, **status: Any) -> tuple[Keeper, Any]:
    """A revision that serves, and a new one whose prefill pod is as `status` says."""
    env = [{"name": "HF_TOKEN", "value": "plain-in-the-spec"}]
    one = await running(cluster)
    become_ready(cluster, one)
    changed = minimum(1, 1, generation=2, engine={"image": "broken:2", "env": env})
    outcome = await one.pass_once(changed)
    cluster.put("Pod/new-1", pod("new-1", outcome.revision or "", **status))
    seen(cluster, one.world.watches)
    return one, changed


async def test_a_rollout_that_cannot_go_on_says_which_pod_why_and_its_last_words_once_read(
    cluster: FakeCluster,
) -> None:
    cluster.logs["new-1"] = "INFO starts\nValueError: no such flag; token plain-in-the-spec"
    one, changed = await broken_rollout(cluster, **container(LOOPS, ended(1), 2))
    await one.pass_once(changed)
    status, message = degraded(cluster)
    assert status == "True"
    assert "prefill pod new-1 of revision" in message
    assert "exit code 1 (Error), restarted 2 times" in message
    assert "its last lines: INFO starts | ValueError: no such flag; token [redacted]" in message
    assert "the earlier revision serves on: correct the spec or apply the one before" in message
    conditions = {c["type"]: (c["status"], c["reason"]) for c in shown(cluster)["conditions"]}
    assert conditions["Progressing"] == ("False", "RolloutStopped")
    assert conditions["Degraded"] == ("True", "EngineCrashed")
    await one.pass_once(changed)
    ((name, options),) = cluster.logs_read
    assert (name, options["container"], options["previous"]) == ("new-1", "engine", "true")
    assert [m for m in cluster.told("EngineCrashed") if "no such flag" in m]


async def test_a_log_that_cannot_be_read_does_not_hide_the_rest(cluster: FakeCluster) -> None:
    one, changed = await broken_rollout(cluster, **container(LOOPS, ended(1), 2))
    await one.pass_once(changed)
    assert "its log cannot be read (pods new-1 not found)" in degraded(cluster)[1]


async def test_the_old_spec_again_ends_the_trouble_with_the_pods_that_served_all_along(cluster: FakeCluster) -> None:
    await running(cluster)
    names = {key for key in cluster.objects if key.startswith("Deployment/")}
    one, _ = await broken_rollout(cluster, **container(PULL))
    assert len([k for k in cluster.objects if k.startswith("Deployment/")]) > len(names)
    back = minimum(1, 1, generation=3)
    await one.pass_once(back)
    one.world.watches.drop(cluster.objects.pop("Pod/new-1"))
    await one.pass_once(back)
    assert {key for key in cluster.objects if key.startswith("Deployment/")} == names
    assert degraded(cluster)[0] == "False"


async def test_other_trouble_is_told_first(cluster: FakeCluster) -> None:
    one, changed = await broken_rollout(cluster, **container(PULL))
    cluster.refuse["PodDisruptionBudget/chat-decode"] = NotReady("webhook away")
    cluster.objects["PodDisruptionBudget/chat-decode"]["spec"]["maxUnavailable"] = 9
    seen(cluster, one.world.watches)
    await one.pass_once(changed)
    assert degraded(cluster) == ("True", "webhook away")
