"""A cluster that somebody named is used as it is, and is still there after `down`."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from e2e.cluster import __main__ as command_line
from e2e.cluster import cluster, paths
from e2e.cluster.bare import ControlPlane, control_plane
from e2e.cluster.state import Way

pytestmark = [pytest.mark.api, pytest.mark.timeout(90)]


@pytest.fixture
def somebodys(tmp_path: Path) -> Iterator[ControlPlane]:
    with control_plane(tmp_path / "theirs", controllers=False) as cp:
        yield cp


@pytest.fixture(autouse=True)
def own_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(paths, "run_state", lambda name: tmp_path / "ours" / name)


def test_it_is_used_through_the_same_interface_and_survives_down(
    somebodys: ControlPlane, capfd: pytest.CaptureFixture[str]
) -> None:
    named = ["--kubeconfig", str(somebodys.kubeconfig), "--context", "bare"]
    assert command_line.main(["up", *named]) == 0
    found = cluster.current()
    assert (found.way, found.context) == (Way.NAMED, "bare")
    assert found.kubeconfig.stat().st_mode & 0o077 == 0
    assert found.get("namespace", "default")["metadata"]["name"] == "default"
    assert command_line.main(["down"]) == 0
    assert command_line.main(["status"]) == 1
    assert "default" in somebodys.kubectl("get", "namespaces", "-o", "name")


def test_a_context_that_is_not_there_is_refused(somebodys: ControlPlane, capfd: pytest.CaptureFixture[str]) -> None:
    named = ["--kubeconfig", str(somebodys.kubeconfig), "--context", "production"]
    assert command_line.main(["up", *named]) == 1
    assert "no context production" in capfd.readouterr().err
    assert command_line.main(["status"]) == 1
