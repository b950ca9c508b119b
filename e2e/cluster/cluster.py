"""One interface to a cluster, whichever of the three ways it came by: up, down, status, run in it, load images.

`current()` finds the cluster that is up. A named cluster (kubeconfig and context) is only ever used: its nodes are
not changed and it is not taken down.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from e2e.cluster import commands, enclosure, hermetic, kind_cluster, machine_docker, programs, state
from e2e.cluster.lock import exclusively
from e2e.cluster.state import State, Way


class NoClusterError(RuntimeError):
    """There is no cluster, or not one that can do this; the message says what to do."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Cluster:
    """A cluster that is up."""

    way: Way
    context: str
    kubeconfig: Path

    def command(self, argv: Sequence[str]) -> list[str]:
        """`argv` as it must be started to reach the cluster, together with `environment()`."""
        return enclosure.command(argv) if self.way is Way.HERMETIC else list(argv)

    def environment(self) -> dict[str, str]:
        """This process's environment with kubeconfig and programs (kubectl, helm, ...) of the cluster."""
        own = enclosure.environment() if self.way is Way.HERMETIC else machine_docker.environment()
        return {**os.environ, **own, "KUBECONFIG": str(self.kubeconfig)}

    def run(self, argv: Sequence[str], *, stdin: str | None = None) -> str:
        """Run to the end and return what was printed; a CommandError has the program's words."""
        return commands.run(self.command(argv), extra=self.environment(), stdin=stdin)

    def kubectl(self, *arguments: str, stdin: str | None = None) -> str:
        return self.run(["kubectl", *arguments], stdin=stdin)

    def get(self, *arguments: str) -> Any:
        """`kubectl get ...`, parsed."""
        return json.loads(self.kubectl("get", *arguments, "-o", "json"))

    def load_image(self, archive: Path) -> None:
        """Bring the images of a docker archive to every node."""
        if self.way is Way.NAMED:
            raise NoClusterError("images cannot be loaded into a named cluster: push them to a registry it reaches")
        self.run(["kind", "load", "image-archive", str(archive.absolute()), "--name", kind_cluster.NAME])


def current() -> Cluster:
    """The cluster that is up; raises a sentence that says what to do when there is none."""
    found = state.load()
    if found is None or not found.ready:
        raise NoClusterError("no cluster is up: run `make cluster`")
    if found.way is Way.HERMETIC and not _engine_runs(found):
        raise NoClusterError("the cluster's docker engine has died: run `make cluster` again")
    return Cluster(way=found.way, context=found.context, kubeconfig=state.kubeconfig())


def up(*, kubeconfig: Path | None = None, context: str | None = None) -> Cluster:
    """Make a cluster, or use the named one; one that is up and answers is kept."""
    with exclusively(state.folder(), "makes or removes the cluster"):
        if kubeconfig is not None or context is not None:
            _use(kubeconfig, context)
        elif not _answers():
            _remove()
            if machine_docker.reaches_registry():
                machine_docker.up()
            else:
                hermetic.up()
        return current()


def down() -> None:
    """Take the cluster away if we made it; nothing happens when there is none."""
    if enclosure.contains_us():
        raise NoClusterError("this runs inside the cluster's network, which ends with it: run it outside of `exec`")
    with exclusively(state.folder(), "makes or removes the cluster"):
        _remove()


def _remove() -> None:
    found = state.load()
    if found is None:
        if (owner := enclosure.other_owner(state.folder())) is not None:
            raise NoClusterError(f"the cluster of another cache is up ({owner}): take it down from there first")
        if enclosure.is_open():
            hermetic.down()  # its state was lost
    elif found.way is Way.NAMED:
        state.forget()
    elif found.way is Way.DOCKER:
        machine_docker.down()
    else:
        hermetic.down()


def _use(kubeconfig: Path | None, context: str | None) -> None:
    if kubeconfig is None or context is None:
        raise NoClusterError("name both --kubeconfig and --context: a cluster is never guessed")
    if (found := state.load()) is not None and found.way is not Way.NAMED:
        raise NoClusterError("a cluster of our own is up: run `make cluster-down` first")
    programs.ensure(("kubectl", "helm"))
    view = [str(programs.find("kubectl")), "config", "view", "--minify", "--flatten", "--raw"]
    view += ["--kubeconfig", str(kubeconfig), "--context", context]
    try:
        chosen = commands.run(view)
    except commands.CommandError as problem:
        raise NoClusterError(f"no context {context} in {kubeconfig}: {problem}") from None
    state.save(State(way=Way.NAMED, context=context, ready=True))
    state.kubeconfig().touch(mode=0o600)
    state.kubeconfig().write_text(chosen)


def _answers() -> bool:
    try:
        current().kubectl("get", "--raw", "/readyz")
    except (NoClusterError, commands.CommandError, FileNotFoundError):
        return False
    return True


def _engine_runs(found: State) -> bool:
    return found.engine is not None and found.engine.pid in enclosure.inhabitants()
