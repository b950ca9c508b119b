"""`down` leaves nothing on the machine: no process, mount, namespace, control group or changed kernel setting.

Takes down whatever cluster of ours is up. Runs outside of `exec`, on a machine where nothing else makes namespaces.
"""

import contextlib
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import pytest

from e2e.cluster import cluster, debian, enclosure, paths, processes, programs, state, tunables
from e2e.cluster.cluster import NoClusterError
from e2e.cluster.state import Way

pytestmark = [pytest.mark.cluster, pytest.mark.teardown, pytest.mark.slow, pytest.mark.timeout(400)]

COMMAND = [sys.executable, "-m", "e2e.cluster"]
KINDS = ("net", "mnt", "pid", "ipc", "uts", "cgroup")


@dataclass(frozen=True)
class Traces:
    """Everything that a cluster could leave on a machine."""

    processes: frozenset[str]
    namespaces: frozenset[str]
    mounts: tuple[str, ...]
    cgroups: frozenset[str]
    kernel: tuple[tuple[str, str], ...]
    run_folder: bool


def traces() -> Traces:
    return Traces(
        processes=frozenset(processes_of_clusters()),
        namespaces=frozenset(namespaces()),
        mounts=tuple(sorted(line.split()[4] for line in Path("/proc/self/mountinfo").read_text().splitlines())),
        cgroups=frozenset(top_control_groups()),
        kernel=tuple(sorted(tunables.read().items())),
        run_folder=enclosure.RUN.exists(),
    )


def top_control_groups() -> list[str]:
    """The outermost groups of every hierarchy: ours lie in one of their own; deeper ones come and go with others."""
    root = Path("/sys/fs/cgroup")
    return [str(folder) for pattern in ("*", "*/*") for folder in root.glob(pattern) if folder.is_dir()]


def processes_of_clusters() -> list[str]:
    """Processes of kind and of our docker engine, and all that live in a PID namespace of their own."""
    found, ours = [], os.readlink("/proc/self/ns/pid")
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                program, namespace = Path(os.readlink(entry / "exe")), os.readlink(entry / "ns" / "pid")
                engine = program.is_relative_to(debian.engine_root()) or program == programs.ours("kind")
                if engine or namespace != ours:
                    found.append(f"{entry.name} {program}")
    return found


def namespaces() -> set[str]:
    found = set()
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            for kind in KINDS:
                with contextlib.suppress(OSError):
                    found.add(os.readlink(entry / "ns" / kind))
    return found


def call(*arguments: str) -> None:
    subprocess.run([*COMMAND, *arguments], check=True, cwd=paths.REPOSITORY)


def test_nothing_is_left_of_a_cluster_whose_engine_died_nor_of_one_whose_making_was_killed() -> None:
    found = state.load()
    if found is not None and found.way is not Way.HERMETIC:
        pytest.skip("what is counted here are the traces of a hermetic cluster; another kind is up")
    call("down")
    before = traces()

    call("up")
    during = traces()
    assert during.processes - before.processes
    assert len(during.namespaces - before.namespaces) > 10
    assert during.cgroups - before.cgroups
    kill_engine()
    call("down")
    assert traces() == before

    kill_during_up()
    assert traces() != before
    with pytest.raises(NoClusterError):
        cluster.current()
    call("down")
    assert traces() == before

    call("down")
    assert traces() == before


def kill_engine() -> None:
    """Kill the docker engine with everything in it; its books then still hold the nodes."""
    found = state.load()
    assert found is not None
    assert found.engine is not None
    processes.kill_child(found.engine)
    with pytest.raises(NoClusterError, match="died"):
        cluster.current()


def kill_during_up() -> None:
    """Start `up` and kill it with -9 while kind makes the nodes."""
    making = subprocess.Popen([*COMMAND, "up"], cwd=paths.REPOSITORY, start_new_session=True)
    deadline_s = time.monotonic() + 60
    while not any(enclosure.cgroups()):
        assert time.monotonic() < deadline_s, "no container was made"
        time.sleep(0.2)
    time.sleep(3)
    os.killpg(making.pid, signal.SIGKILL)
    making.wait()
    assert (found := state.load()) is not None
    assert not found.ready
