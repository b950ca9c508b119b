"""The chart's files against each other and against the repository: nothing of this needs Helm."""

import copy
import json
import re
import tomllib
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import jsonschema
import pytest
import yaml

from tests.chart.conftest import CHART, ROOT

SCHEMA = json.loads((CHART / "values.schema.json").read_text())
VALUES_TEXT = (CHART / "values.yaml").read_text()
VALUES = yaml.safe_load(VALUES_TEXT)
RESOURCES = VALUES_TEXT[VALUES_TEXT.index("\nresources:") + 1 : VALUES_TEXT.index("\n\n# Seconds that the operator")]
PEER = {"podSelector", "namespaceSelector", "ipBlock"}
OPEN = {"nodeAffinity", "podAffinity", "podAntiAffinity", "valueFrom", "global"} | PEER
"""Parts of the Kubernetes API that the API server checks itself."""


def nodes(schema: Any, name: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    yield name, schema
    for key, below in schema.get("properties", {}).items():
        yield from nodes(below, key)
    if "items" in schema:
        yield from nodes(schema["items"], f"{name}[]")


def test_the_definition_is_the_one_that_the_model_prints() -> None:
    name = "llmservices.llmservice.dev.yaml"
    assert (CHART / "files" / name).read_bytes() == (ROOT / "crds" / name).read_bytes(), (
        f"refresh it: cp crds/{name} charts/llmservice/files/"
    )


def test_chart_and_distribution_have_one_version() -> None:
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert chart["version"] == chart["appVersion"] == project["version"]


def test_every_object_of_the_schema_is_closed() -> None:
    objects = [(name, node) for name, node in nodes(SCHEMA) if node.get("type") == "object" and name not in OPEN]
    assert len(objects) > 10
    assert [name for name, node in objects if node.get("additionalProperties", True) is True] == []


def test_schema_and_values_name_the_same_things() -> None:
    def names(schema: dict[str, Any], values: dict[str, Any]) -> None:
        known = set(schema["properties"]) - {"global"}
        assert set(values) == known
        for key in known:
            below = schema["properties"][key]
            if "properties" in below and values[key]:
                names(below, values[key]) if key != "resources" else None

    names(SCHEMA, VALUES)


def test_every_value_is_explained_in_sentences() -> None:
    """A line that holds a value follows a comment that ends in a full stop; `resources` is explained as a whole."""
    lines = VALUES_TEXT.replace(RESOURCES, "resources: {}").splitlines()
    bare = [
        line
        for before, line in pairwise(lines)
        if re.match(r" *[a-zA-Z]+: \S", line) and not re.match(r" *# .*\.$", before)
    ]
    assert len(lines) > 60
    assert bare == []


def test_default_values_fit_the_schema() -> None:
    jsonschema.validate(VALUES, SCHEMA)


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("imge",), {}),
        (("image", "repo"), "x"),
        (("image", "tag"), "latest"),
        (("image", "repository"), "registry.example.com/operator:1.0"),
        (("image", "pullPolicy"), "Sometimes"),
        (("image", "digest"), "sha256:12"),
        (("operator", "podTemplate"), "restricted"),
        (("networkPolicies", "enable"), True),
        (("networkPolicies", "clients"), [{"namespace": "a"}]),
        (("networkPolicies", "clients"), [{}]),
        (("namespaced",), "team-a"),
        (("watchNamespace",), ["a"]),
        (("watchNamespaces",), "a"),
        (("watchNamespaces",), ["Team_A"]),
        (("watchNamespaces",), ["a", "a"]),
        (("logLevel",), "verbose"),
        (("crds", "keep"), False),
        (("crds", "create"), "yes"),
        (("rbac", "agregate"), True),
        (("metrics", "podMonitor", "enable"), True),
        (("metrics", "podMonitor", "interval"), "15"),
        (("defaults", "prometheusURL"), "prometheus:9090"),
        (("resources", "limit"), {}),
        (("resources", "requests", "memory"), "192 MB"),
        (("terminationGracePeriodSeconds",), "30"),
        (("tolerations",), [{"effect": "NoSchedle"}]),
        (("extraEnv",), [{"vale": "x"}]),
        (("replicas",), 2),
    ],
    ids=lambda part: ".".join(part) if isinstance(part, tuple) else None,
)
def test_a_misspelt_value_is_refused(path: tuple[str, ...], value: Any) -> None:
    values = copy.deepcopy(VALUES)
    place = values
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(values, SCHEMA)
