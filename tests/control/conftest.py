"""One bare control plane with fake GPU nodes per test session, our CRD in it. Tests that use it carry marker `api`."""

import itertools
from collections.abc import Iterator

import pytest

from e2e.cluster.bare import ControlPlane, control_plane
from e2e.cluster.fake_nodes import Node
from tests.control.support import Api, Operator, grant_rights, install_crd

_numbers = itertools.count()


@pytest.fixture(scope="session")
def plane(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControlPlane]:
    nodes = [Node(name=f"gpu-{number}", gpus=8) for number in (1, 2)]
    with control_plane(tmp_path_factory.mktemp("control-plane"), nodes=nodes) as plane:
        install_crd(plane)
        yield plane


@pytest.fixture(scope="session")
def operator(plane: ControlPlane, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Operator]:
    """One operator for all tests; a test may stop and start it."""
    folder = tmp_path_factory.mktemp("operator")
    one = Operator(plane=plane, kubeconfig=grant_rights(plane, folder), log=folder / "operator.log")
    yield one
    one.stop()


@pytest.fixture
def running(operator: Operator) -> Operator:
    operator.start()
    return operator


@pytest.fixture
def api(plane: ControlPlane) -> Iterator[Api]:
    """A namespace of its own; its services are deleted at the end, their children follow in their own time."""
    name = f"test-{next(_numbers)}"
    plane.kubectl("create", "namespace", name)
    one = Api(plane, name)
    yield one
    one("delete", "llmsvc", "--all")
