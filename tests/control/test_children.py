"""Rendered children against golden files, and the laws that golden files do not show."""

import copy
import os
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import pytest
import yaml

from llmservice_api.fields import Policy
from llmservice_api.resource import LLMService, parse
from llmservice_core.model import Pool
from llmservice_core.policies import DEFAULT, NAMES
from llmservice_operator import children
from llmservice_operator.errors import Misconfigured
from llmservice_operator.kinds import Manifest, name_of
from llmservice_operator.pod_security import PodTemplate
from llmservice_operator.settings import Settings
from tests.control.bad_manifests import GOOD

ROOT = Path(__file__).parents[2]
GOLDEN = Path(__file__).parent / "golden"
SETTINGS = Settings(engine_image="localhost/engine:1", router_image="localhost/router:1")
SIZES = {Pool.PREFILL: 1, Pool.DECODE: 2, Pool.MIXED: 2}


def example(name: str) -> LLMService:
    body = yaml.safe_load((ROOT / "examples" / f"{name}.yaml").read_text())
    body["metadata"] |= {"namespace": "models", "uid": "00000000-0000-0000-0000-000000000001"}
    return parse(body)


def good(**spec: Any) -> LLMService:
    body = copy.deepcopy(GOOD)
    body["spec"] |= spec
    return parse(body)


def rendered(service: LLMService, **options: Any) -> list[Manifest]:
    return children.render(service, SETTINGS, children.look(service, SETTINGS), SIZES, **options)


def pods(service: LLMService) -> dict[str, Any]:
    look = children.look(service, SETTINGS)
    return {pool.value: template["spec"] for pool, template in look.templates.items()}


def container(service: LLMService, pool: str = "decode") -> Any:
    return pods(service)[pool]["containers"][0]


class _Plain(yaml.SafeDumper):
    def ignore_aliases(self, data: Any) -> bool:
        return True


@pytest.mark.parametrize("name", ["chat", "mixed", "template", "api-keys"])
def test_golden(name: str) -> None:
    """chat: P/D with token secret and cache; mixed: one pool; template: everything that a user may merge in;
    api-keys: a router with its Secret."""
    manifests = rendered(example(name), pod_monitors=name == "chat")
    text = yaml.dump_all(manifests, Dumper=_Plain, sort_keys=False, width=110)
    path = GOLDEN / f"{name}.yaml"
    if os.environ.get("LLMSERVICE_GOLDEN"):
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
    assert text == path.read_text(), "run with LLMSERVICE_GOLDEN=1 and read the difference"


def test_the_resource_offers_the_policies_that_an_engine_knows() -> None:
    assert set(get_args(Policy)) == set(NAMES)
    assert good().spec.engine.scheduler.policy == DEFAULT


def test_every_child_is_owned_and_labelled() -> None:
    for child in rendered(example("chat"), pod_monitors=True):
        (owner,) = child["metadata"]["ownerReferences"]
        assert owner["uid"].endswith("1"), name_of(child)
        assert child["metadata"]["labels"]["llmservice.dev/name"] == "chat"
        assert child["metadata"]["namespace"] == "models"


def test_sizes_do_not_change_the_revision_and_all_else_does() -> None:
    one = children.look(good(), SETTINGS).revision
    assert children.look(good(scaling={"gpuBudget": 11}), SETTINGS).revision == one
    changes: list[dict[str, Any]] = [
        {"model": {"name": "org/model", "maxModelLen": 100}},
        {"engine": {"args": ["--x"]}},
        {"engine": {"env": [{"name": "A", "value": "b"}]}},
        {"engine": {"image": "other:1"}},
        {"engine": {"scheduler": {"policy": "fcfs"}}},
        {"pools": {**GOOD["spec"]["pools"], "prefill": {"maxReplicas": 8, "gpusPerReplica": 2}}},
        {
            "pools": {
                **GOOD["spec"]["pools"],
                "prefill": {"maxReplicas": 8, "template": {"spec": {"priority": 1}}},
            }
        },
    ]
    revisions = {children.look(good(**change), SETTINGS).revision for change in changes}
    assert len(revisions | {one}) == len(changes) + 1


def test_prefill_and_decode_are_the_same_but_for_labels_and_name_of_the_pool() -> None:
    """So that a pod can change its role by a label later."""
    service = example("chat")
    prefill, decode = container(service, "prefill"), container(service, "decode")
    assert prefill["args"] == decode["args"]
    differing = [a["name"] for a, b in zip(prefill["env"], decode["env"], strict=True) if a != b]
    assert differing == ["LLMSERVICE_POOL"]


def test_a_mixed_pool_transfers_no_kv() -> None:
    assert "--kv-transfer-config" not in container(example("mixed"), "mixed")["args"]


def test_the_users_arguments_come_last() -> None:
    assert container(good(engine={"args": ["--a", "1"]}))["args"][-2:] == ["--a", "1"]


def test_every_flag_that_we_set_is_refused_from_users() -> None:
    """The last one on a command line wins, and theirs come last."""
    model = {"name": "m", "revision": "r", "maxModelLen": 100}
    service = good(model=model, engine={"scheduler": {"tokenBudget": 64}})
    flags = [argument for argument in container(service)["args"] if argument.startswith("-")]
    assert len(flags) == 11
    for flag in flags:
        with pytest.raises(ValueError, match="remove this argument"):
            good(engine={"args": [flag]})


def test_no_variable_is_set_twice() -> None:
    """The API server refuses a list with the same key twice."""
    env = [{"name": "HF_TOKEN", "value": "mine"}, {"name": "HF_HOME", "value": "/mine"}]
    service = good(
        model={"name": "m", "tokenSecret": {"name": "s"}, "cache": {"persistentVolumeClaim": "c"}}, engine={"env": env}
    )
    names = [e["name"] for e in container(service)["env"]]
    assert len(names) == len(set(names))
    assert env[0] in container(service)["env"]


def test_several_gpus_are_one_engine() -> None:
    found = container(good())  # gpusPerReplica 2
    assert found["resources"]["limits"] == {"nvidia.com/gpu": "2"}
    assert found["args"][found["args"].index("--tensor-parallel-size") + 1] == "2"


def template(**spec: Any) -> LLMService:
    pools = copy.deepcopy(GOOD["spec"]["pools"])
    pools["decode"]["template"] = {"metadata": spec.pop("metadata", {}), "spec": spec}
    return good(pools=pools)


def test_what_makes_a_pod_ours_cannot_be_changed() -> None:
    theirs = {
        "name": "engine",
        "ports": [{"containerPort": 1}],
        "readinessProbe": {"exec": {"command": ["true"]}},
        "lifecycle": {},
        "env": [{"name": "LLMSERVICE_SERVICE", "value": "other"}, {"name": "MINE", "value": "1"}],
        "resources": {"limits": {"nvidia.com/gpu": "8", "memory": "1Gi"}},
    }
    labels = {"llmservice.dev/name": "other", "team": "search"}
    service = template(metadata={"labels": labels}, containers=[theirs], terminationGracePeriodSeconds=1)
    ours, found = container(good()), container(service)
    for part in ("ports", "readinessProbe", "lifecycle"):
        assert found[part] == ours[part]
    env = {e["name"]: e.get("value") for e in found["env"]}
    assert (env["LLMSERVICE_SERVICE"], env["MINE"]) == ("default/chat", "1")
    assert found["resources"]["limits"] == {"nvidia.com/gpu": "2", "memory": "1Gi"}
    assert pods(service)["decode"]["terminationGracePeriodSeconds"] > 1
    merged = children.look(service, SETTINGS).templates[Pool.DECODE]["metadata"]["labels"]
    assert (merged["llmservice.dev/name"], merged["team"]) == ("chat", "search")


def test_lists_are_merged_by_name_and_path() -> None:
    service = template(
        containers=[
            {
                "name": "engine",
                "command": ["other"],
                "volumeMounts": [{"name": "big", "mountPath": "/dev/shm"}, {"name": "data", "mountPath": "/data"}],
            },
            {"name": "sidecar", "image": "s:1", "ports": [{"containerPort": 1}]},
        ],
        initContainers=[{"name": "fetch", "image": "f:1"}],
        volumes=[{"name": "shm", "emptyDir": {"sizeLimit": "1Gi"}}, {"name": "data", "emptyDir": {}}],
        tolerations=[{"operator": "Exists"}],
        nodeSelector={"a": "b"},
    )
    pod = pods(service)["decode"]
    assert [c["name"] for c in pod["containers"]] == ["engine", "sidecar"]
    assert pod["containers"][1]["ports"] == [{"containerPort": 1}]
    assert pod["containers"][0]["command"] == ["other"]
    assert pod["containers"][0]["volumeMounts"] == [
        {"name": "big", "mountPath": "/dev/shm"},
        {"name": "tmp", "mountPath": "/tmp"},
        {"name": "data", "mountPath": "/data"},
    ]
    assert pod["volumes"] == [
        {"name": "shm", "emptyDir": {"sizeLimit": "1Gi"}},
        {"name": "tmp", "emptyDir": {}},
        {"name": "data", "emptyDir": {}},
    ]
    assert [(c["name"], c["image"]) for c in pod["initContainers"]] == [("fetch", "f:1")]
    assert (pod["tolerations"], pod["nodeSelector"]) == ([{"operator": "Exists"}], {"a": "b"})


@pytest.mark.parametrize("missing", ["engine", "router"])
def test_without_an_image_somebody_must_name_one(missing: str) -> None:
    images = {"engine_image": "e:1", "router_image": "r:1"} | {f"{missing}_image": ""}
    settings, service = Settings(**images), good()
    with pytest.raises(Misconfigured, match=f"spec.{missing}.image"):
        children.render(service, settings, children.look(service, settings), SIZES)


def test_the_router_runs_with_least_rights() -> None:
    (router,) = [c for c in rendered(good()) if name_of(c) == "chat-router" and c["kind"] == "Deployment"]
    pod = router["spec"]["template"]["spec"]
    assert pod["securityContext"]["runAsNonRoot"]
    assert pod["containers"][0]["securityContext"]["readOnlyRootFilesystem"]
    (role,) = [c for c in rendered(good()) if c["kind"] == "Role"]
    assert {verb for rule in role["rules"] for verb in rule["verbs"]} == {"get", "list", "watch"}
    assert role["rules"][1]["resourceNames"] == ["chat"]


def test_a_router_takes_what_its_template_adds_and_keeps_its_account() -> None:
    """The account even where a template may ask for everything: the router lives by its rights."""
    partial = {
        "serviceAccountName": "admin",
        "imagePullSecrets": [{"name": "registry"}],
        "tolerations": [{"operator": "Exists"}],
        "containers": [{"name": "router", "resources": {"limits": {"memory": "1Gi"}}}],
    }
    service = good(router={"template": {"metadata": {"annotations": {"team": "search"}}, "spec": partial}})
    full = replace(SETTINGS, pod_template=PodTemplate.FULL)
    made = children.render(service, full, children.look(service, full), SIZES)
    (router,) = [c for c in made if name_of(c) == "chat-router" and c["kind"] == "Deployment"]
    pod = router["spec"]["template"]["spec"]
    assert (pod["imagePullSecrets"], pod["tolerations"]) == ([{"name": "registry"}], [{"operator": "Exists"}])
    assert pod["containers"][0]["resources"]["limits"] == {"memory": "1Gi"}
    assert pod["containers"][0]["readinessProbe"]
    assert pod["serviceAccountName"] == "chat-router"
    assert router["spec"]["template"]["metadata"]["annotations"] == {"team": "search"}


def router_pod(service: LLMService) -> Any:
    (found,) = [c for c in rendered(service) if name_of(c) == "chat-router" and c["kind"] == "Deployment"]
    return found["spec"]["template"]["spec"]


ACCESS = {"access": {"apiKeysSecret": "chat-keys"}}


def test_api_keys_are_a_mounted_secret_of_the_router_alone() -> None:
    pod, service = router_pod(good(router=ACCESS)), good(router=ACCESS)
    assert {"name": "api-keys", "secret": {"secretName": "chat-keys", "defaultMode": 0o444}} in pod["volumes"]
    (mount,) = [m for m in pod["containers"][0]["volumeMounts"] if m["name"] == "api-keys"]
    assert (mount["mountPath"], mount["readOnly"]) == ("/etc/llmservice/api-keys", True)
    env = {e["name"]: e["value"] for e in pod["containers"][0]["env"]}
    assert env["LLMSERVICE_ROUTER_KEYS_DIR"] == mount["mountPath"]
    assert "chat-keys" not in str(pods(service))
    (role,) = [c for c in rendered(service) if c["kind"] == "Role"]
    assert "secrets" not in str(role), "no right to read any Secret"
    assert pods(service) == pods(good()), "engines do not start anew"


def test_without_api_keys_a_router_is_as_before() -> None:
    assert "api-keys" not in str(router_pod(good()))
    assert "KEYS_DIR" not in str(router_pod(good()))


def test_a_template_cannot_take_the_keys_away() -> None:
    container = {
        "name": "router",
        "env": [{"name": "LLMSERVICE_ROUTER_KEYS_DIR", "value": ""}, {"name": "MINE", "value": "1"}],
        "volumeMounts": [
            {"name": "mine", "mountPath": "/etc/llmservice/api-keys"},
            {"name": "mine", "mountPath": "/mine"},
        ],
    }
    volumes = [{"name": "api-keys", "emptyDir": {}}, {"name": "mine", "emptyDir": {}}]
    theirs = {"template": {"spec": {"containers": [container], "volumes": volumes}}}
    pod = router_pod(good(router={**ACCESS, **theirs}))
    ours = router_pod(good(router=ACCESS))
    assert [v for v in pod["volumes"] if v["name"] == "api-keys"] == [ours["volumes"][-1]]
    mounts = {m["mountPath"]: m["name"] for m in pod["containers"][0]["volumeMounts"]}
    assert mounts == {"/tmp": "tmp", "/mine": "mine", "/etc/llmservice/api-keys": "api-keys"}
    env = {e["name"]: e["value"] for e in pod["containers"][0]["env"]}
    assert (env["LLMSERVICE_ROUTER_KEYS_DIR"], env["MINE"]) == ("/etc/llmservice/api-keys", "1")
