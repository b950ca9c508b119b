"""kind without a registry: builds and fetches what is missing, then makes the cluster in an enclosure.

Safe to interrupt at any point: what was built stays in the cache, what runs is remembered before it is waited for,
and both `up` and `down` begin with what an earlier attempt left.
"""

from __future__ import annotations

import contextlib
import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace

from e2e.cluster import (
    commands,
    debian,
    enclosure,
    host_mounts,
    kind_cluster,
    node_image,
    paths,
    prerequisites,
    programs,
    state,
    tunables,
)
from e2e.cluster.progress import Progress, Step
from e2e.cluster.state import State, Way

ENGINE_STEP = Step(title="start the docker engine", cold_s=2)
CLUSTER_STEP = Step(title="create the cluster (3 nodes)", cold_s=32)
PODS_STEP = Step(title="wait until every system pod is Ready", cold_s=8)


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """A step and what does it."""

    step: Step
    do: Callable[[], None]


def up() -> None:
    """From whatever is cached to a cluster whose system pods are all Ready."""
    prerequisites.require_root()
    programs.require_go()
    down()
    _sweep()
    todo = tasks()
    progress = Progress([task.step for task in todo])
    for task in todo:
        with progress.step(task.step):
            task.do()
    remembered = state.load()
    assert remembered is not None
    state.save(replace(remembered, ready=True))


def tasks() -> list[Task]:
    """Everything that `up` has to do now, in order; what is cached is left out."""
    found = [] if not prerequisites.missing() else [Task(step=prerequisites.STEP, do=prerequisites.install)]
    found += [Task(step=step, do=build) for step, build in programs.builds(programs.ALL)]
    if not debian.has_engine():
        found.append(Task(step=debian.ENGINE_STEP, do=debian.fetch_engine))
    if not debian.has_node():
        found.append(Task(step=debian.NODE_STEP, do=debian.fetch_node))
    found.append(Task(step=ENGINE_STEP, do=_start_engine))
    if not node_image.expected():
        found.append(Task(step=node_image.STEP, do=node_image.ensure))
    found.append(Task(step=CLUSTER_STEP, do=_create))
    found.append(Task(step=PODS_STEP, do=_finish))
    return found


def _sweep() -> None:
    """Remove the scratch folders of attempts that were killed; the caller holds the one lock for `up`."""
    for scratch in (*paths.debian().glob(debian.SCRATCH + "*"), *paths.engine_data().glob(node_image.SCRATCH + "*")):
        shutil.rmtree(scratch)


def _start_engine() -> None:
    begun = State(way=Way.HERMETIC, context=kind_cluster.CONTEXT, tunables=tunables.read())
    state.save(begun)
    enclosure.open_network(state.folder())
    engine = enclosure.start_engine()
    state.save(replace(begun, engine=engine))
    enclosure.wait_for_engine(engine)
    enclosure.forget_containers()


def _create() -> None:
    node_image.ensure()  # the engine may have lost what the marker promised
    config = state.folder() / "kind.json"
    config.write_text(json.dumps(kind_cluster.describe(host_mounts.default_mounts()), indent=2))
    kind_cluster.create(shell, config=config, kubeconfig=state.kubeconfig(), image=node_image.reference())


def _finish() -> None:
    kind_cluster.add_gpus(shell)
    for pods, node in kind_cluster.pod_routes(shell):
        enclosure.run(["ip", "route", "replace", pods, "via", node])
    kind_cluster.wait_for_pods(shell)


def shell(argv: list[str]) -> str:
    """Run a program of ours against the cluster."""
    return enclosure.run(argv, extra={"KUBECONFIG": str(state.kubeconfig())})


def down() -> None:
    """Take everything away: processes, mounts, namespaces, control groups; put the kernel's settings back."""
    remembered = state.load()
    if enclosure.is_open():
        # The engine may be dead already; its books are then cleared at the next start.
        with contextlib.suppress(commands.CommandError):
            kind_cluster.delete(shell)
    enclosure.close(remembered.engine if remembered else None)
    if remembered is not None:
        tunables.restore(remembered.tunables)
    state.forget()
