"""Bad manifests before a real API server, by kubectl: each is refused with words that say what to change."""

import copy
import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from e2e.cluster.bare import ControlPlane
from tests.control.bad_manifests import CASES, FREE_ARGS, GOOD, Bad

pytestmark = pytest.mark.api

EXAMPLES = sorted((Path(__file__).parents[2] / "examples").glob("*.yaml"))


def _apply(plane: ControlPlane, body: Any, *options: str) -> Any:
    text = plane.kubectl("create", "--dry-run=server", "-o", "json", *options, "-f", "-", stdin=json.dumps(body))
    return json.loads(text)


@pytest.mark.parametrize("bad", CASES, ids=lambda c: c.name)
def test_it_is_refused_with_a_sentence(plane: ControlPlane, bad: Bad) -> None:
    with pytest.raises(subprocess.CalledProcessError) as refusal:
        _apply(plane, bad.body())
    assert bad.words in refusal.value.stderr


def test_the_good_one_is_accepted(plane: ControlPlane) -> None:
    stored = _apply(plane, GOOD)
    assert stored["spec"]["pools"]["prefill"]["gpusPerReplica"] == 1, "scalar defaults are written out"
    assert stored["spec"]["scaling"]["mode"] == "Auto"


def test_arguments_that_are_the_users_own_are_accepted(plane: ControlPlane) -> None:
    body = copy.deepcopy(GOOD)
    body["spec"]["engine"] = {"args": FREE_ARGS}
    assert _apply(plane, body)["spec"]["engine"]["args"] == FREE_ARGS


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda p: p.name)
def test_examples_are_accepted(plane: ControlPlane, path: Path) -> None:
    plane.kubectl("create", "--dry-run=server", "-f", str(path))


def test_unknown_fields_are_pruned_for_clients_that_are_not_strict(plane: ControlPlane) -> None:
    """A structural schema only prunes: whoever does not ask for strict validation loses the field silently."""
    body = copy.deepcopy(GOOD)
    body["spec"]["scaling"]["gpuBugdet"] = 3
    stored = _apply(plane, body, "--validate=ignore")
    assert "gpuBugdet" not in stored["spec"]["scaling"]
    assert stored["spec"]["scaling"]["gpuBudget"] == 12


def test_templates_keep_fields_that_we_do_not_know(plane: ControlPlane) -> None:
    body = copy.deepcopy(GOOD)
    body["spec"]["pools"]["decode"]["template"] = {"spec": {"runtimeClassName": "nvidia", "newField": {"a": 1}}}
    stored = _apply(plane, body)
    assert stored["spec"]["pools"]["decode"]["template"]["spec"]["newField"] == {"a": 1}


def test_the_short_name_and_columns(plane: ControlPlane) -> None:
    body = GOOD | {"metadata": {"name": "columns", "namespace": "default"}}
    plane.kubectl("create", "-f", "-", stdin=json.dumps(body))
    try:
        head = plane.kubectl("get", "llmsvc", "-o", "wide").splitlines()[0]
        columns = "NAME READY PREFILL DECODE GPUS TTFT TBT REASON AGE LOAD RATE ENDPOINT"
        assert " ".join(head.split()) == columns
        assert "llmservice.llmservice.dev/columns" in plane.kubectl("get", "all", "-o", "name")
    finally:
        plane.kubectl("delete", "llmsvc", "columns")
