"""The chart as Helm renders it. Tests that need Helm carry marker `api`: it is built together with the API server."""

import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from e2e.cluster import programs
from e2e.cluster.bare import ControlPlane, control_plane
from e2e.cluster.fake_nodes import Node

ROOT = Path(__file__).parents[2]
CHART = ROOT / "charts" / "llmservice"
IMAGE = "registry.example.com/team/llmservice-operator"
Manifest = dict[str, Any]
Render = Callable[..., list[Manifest]]


def helm(*arguments: str) -> str:
    """Run Helm; a refusal is a CalledProcessError with its words in `stderr`."""
    programs.ensure(["helm"])
    command = [str(programs.find("helm")), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


@pytest.fixture(scope="session")
def render() -> Render:
    """`render("a=b", ...)`: the objects of `helm template` with these values beside the required image."""

    def rendered(*values: str, release: str = "llmservice") -> list[Manifest]:
        sets = [part for value in (f"image.repository={IMAGE}", *values) for part in ("--set", value)]
        text = helm("template", release, str(CHART), "--namespace", "llmservice", *sets)
        return [document for document in yaml.safe_load_all(text) if document]

    return rendered


def the(manifests: list[Manifest], kind: str, name: str | None = None) -> Manifest:
    """The only object of this kind (and name)."""
    (found,) = [m for m in manifests if m["kind"] == kind and name in (None, m["metadata"]["name"])]
    return found


@pytest.fixture(scope="session")
def plane(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControlPlane]:
    folder = tmp_path_factory.mktemp("control-plane")
    with control_plane(folder, nodes=[Node(name="gpu-1", gpus=8)]) as plane:
        yield plane
