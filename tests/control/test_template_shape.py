"""Templates of a wrong shape: each is refused with its place and what to write there; a null says nothing."""

import re
from typing import Any

import pytest

from llmservice_core.model import Pool
from llmservice_operator import children
from llmservice_operator.errors import Misconfigured
from tests.control.test_children import GOOD, SETTINGS, good, rendered

ENGINE = "spec.containers[engine]"


def engine(**said: Any) -> dict[str, Any]:
    return {"spec": {"containers": [{"name": "engine", **said}]}}


SHAPES = [
    ({"metadata": {"labels": ["a"]}}, "metadata.labels must be an object of texts"),
    ({"metadata": {"annotations": "a"}}, "metadata.annotations must be an object of texts"),
    ({"spec": {"containers": {"engine": {}}}}, "spec.containers must be a list of {name, image, ...}"),
    ({"spec": {"containers": ["engine"]}}, "spec.containers must be a list of {name, image, ...}"),
    ({"spec": {"containers": [None]}}, "spec.containers must be a list of {name, image, ...}"),
    ({"spec": {"containers": [{"image": "i"}]}}, "spec.containers must be a list of {name, image, ...}"),
    ({"spec": {"containers": [{"name": ["engine"]}]}}, "spec.containers must be a list of {name, image, ...}"),
    ({"spec": {"containers": [{"name": "engine"}] * 2}}, "spec.containers has engine twice: keep one of them"),
    ({"spec": {"initContainers": "fetch"}}, "spec.initContainers must be a list of {name, image, ...}"),
    ({"spec": {"volumes": {"data": {}}}}, "spec.volumes must be a list of {name, ...}"),
    ({"spec": {"tolerations": {"key": "gpu"}}}, "spec.tolerations must be a list of {key, operator, effect}"),
    ({"spec": {"imagePullSecrets": ["registry"]}}, "spec.imagePullSecrets must be a list of {name}"),
    (engine(env={"A": "b"}), f"{ENGINE}.env must be a list of {{name, value}}"),
    (engine(env=[{"A": "b"}]), f"{ENGINE}.env must be a list of {{name, value}}"),
    (engine(volumeMounts=[{"name": "data"}]), f"{ENGINE}.volumeMounts must be a list of {{name, mountPath}}"),
    ({"spec": {"securityContext": "root"}}, "spec.securityContext must be an object"),
    (engine(securityContext=[]), f"{ENGINE}.securityContext must be an object"),
    (engine(resources=[1]), f"{ENGINE}.resources must be an object with limits and requests"),
    (engine(resources={"limits": "1Gi"}), f"{ENGINE}.resources.limits must be an object of amounts"),
    (engine(resources={"requests": 4}), f"{ENGINE}.resources.requests must be an object of amounts"),
]


@pytest.mark.parametrize(("template", "sentence"), SHAPES, ids=[s for _, s in SHAPES])
def test_the_sentence_names_the_place_and_what_to_write(template: dict[str, Any], sentence: str) -> None:
    with pytest.raises(Misconfigured, match=re.escape(f"spec.pools.decode.template.{sentence}")):
        children.look(good(pools=pools(template)), SETTINGS)
    with pytest.raises(Misconfigured, match=re.escape(f"spec.router.template.{sentence}")):
        rendered(good(router={"template": template}))


NULLS = [
    {"metadata": {"labels": None, "annotations": None}},
    {"spec": {"containers": None, "initContainers": None, "volumes": None, "tolerations": None, "affinity": None}},
    engine(env=None, resources=None, volumeMounts=None, args=None, image=None),
    engine(resources={"limits": None, "requests": {"memory": None}}),
]


@pytest.mark.parametrize("template", NULLS)
def test_a_null_says_nothing(template: dict[str, Any]) -> None:
    assert children.look(good(pools=pools(template)), SETTINGS).templates == children.look(good(), SETTINGS).templates


def test_a_null_within_a_volume_is_left_out() -> None:
    template = {"spec": {"volumes": [{"name": "data", "emptyDir": None}]}}
    look = children.look(good(pools=pools(template)), SETTINGS)
    assert {"name": "data"} in look.templates[Pool.DECODE]["spec"]["volumes"]


def pools(template: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = GOOD["spec"]["pools"]
    return {**found, "decode": {**found["decode"], "template": template}}
