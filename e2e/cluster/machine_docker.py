"""kind on the machine's own docker engine, when that reaches a registry. Removes only the cluster it made."""

from __future__ import annotations

import json
import os
import shutil
import subprocess

from e2e.cluster import commands, host_mounts, kind_cluster, paths, programs, state, versions
from e2e.cluster.progress import Progress, Step
from e2e.cluster.state import State, Way

ASK_TIMEOUT_S = 15.0
PUBLIC_IMAGE = f"kindest/node:{versions.KUBERNETES}"
NEEDED = ("kind", "kubectl", "helm")
CREATE_STEP = Step(title="create the cluster on this machine's docker engine", cold_s=120)
PODS_STEP = Step(title="wait until every system pod is Ready", cold_s=10)


def reaches_registry() -> bool:
    """Whether there is a docker engine and it can get the public node image."""
    if shutil.which("docker") is None or not _succeeds("docker", "info"):
        return False
    return _succeeds("docker", "manifest", "inspect", PUBLIC_IMAGE)


def up() -> None:
    programs.ensure(NEEDED)
    down()
    state.save(State(way=Way.DOCKER, context=kind_cluster.CONTEXT))
    progress = Progress([CREATE_STEP, PODS_STEP])
    with progress.step(CREATE_STEP):
        config = state.folder() / "kind.json"
        config.write_text(json.dumps(kind_cluster.describe(host_mounts.default_mounts()), indent=2))
        kind_cluster.create(shell, config=config, kubeconfig=state.kubeconfig(), image=PUBLIC_IMAGE)
    with progress.step(PODS_STEP):
        kind_cluster.add_gpus(shell)
        kind_cluster.wait_for_pods(shell)
    state.save(State(way=Way.DOCKER, context=kind_cluster.CONTEXT, ready=True))


def down() -> None:
    kind_cluster.delete(shell)
    state.forget()


def environment() -> dict[str, str]:
    """What programs need to find the cluster."""
    return {"KUBECONFIG": str(state.kubeconfig()), "PATH": f"{paths.programs()}:{os.environ['PATH']}"}


def shell(argv: list[str]) -> str:
    """Run a program of ours against the cluster."""
    return commands.run(argv, extra=environment())


def _succeeds(*argv: str) -> bool:
    try:
        return subprocess.run(argv, capture_output=True, timeout=ASK_TIMEOUT_S, check=False).returncode == 0
    except subprocess.TimeoutExpired:
        return False
