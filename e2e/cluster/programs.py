"""Finds the programs of a cluster, and builds the missing ones from Go modules into the cache.

`python -m e2e.cluster.programs [NAME...]` builds them all or those named. A program that is there is never
built again; builds of several processes wait for each other. Nothing is downloaded but Go modules.
"""

from __future__ import annotations

import os
import re
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from e2e.cluster import commands, paths, versions
from e2e.cluster.lock import exclusively
from e2e.cluster.progress import Progress, Step

BARE = ("kube-apiserver", "etcd", "kube-controller-manager", "kube-scheduler", "kubectl")
GO_MODULES = paths.PACKAGE / "gomod"
BUILD_ENV = {"GOTOOLCHAIN": "local", "CGO_ENABLED": "0", "GOFLAGS": "-trimpath"}
SCRATCH = ".build-"
JOBS = 2  # more needs over 2 GB while the API server is linked


class MissingProgramError(RuntimeError):
    """A program cannot be had here; the message says what to do."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """Programs that are built by one `go` command."""

    title: str
    packages: tuple[str, ...]
    cold_s: float
    module: str | None = None  # folder under gomod/ with go.mod and go.sum; None: `go install package@version`
    version: str = ""
    stamps: tuple[str, ...] = ()  # linker settings NAME=VALUE
    names: tuple[str, ...] = ()

    def programs(self) -> tuple[str, ...]:
        return self.names or tuple(package.rsplit("/", 1)[-1] for package in self.packages)


def _kubernetes_stamps() -> tuple[str, ...]:
    """Unstamped programs call themselves v0.0.0-master, and Helm and kubectl then misjudge them."""
    major, minor, _ = versions.KUBERNETES.removeprefix("v").split(".")
    values = {
        "gitVersion": versions.KUBERNETES,
        "gitMajor": major,
        "gitMinor": minor,
        "gitTreeState": "clean",
    }
    packages = ("k8s.io/component-base/version", "k8s.io/client-go/pkg/version")
    return tuple(f"{package}.{name}={value}" for package in packages for name, value in values.items())


def _kubernetes(title: str, cold_s: float, *names: str) -> Recipe:
    return Recipe(
        title=title,
        cold_s=cold_s,
        module="kubernetes",
        stamps=_kubernetes_stamps(),
        packages=tuple(f"k8s.io/kubernetes/cmd/{name}" for name in names),
    )


def _helm() -> Recipe:
    chart = "helm.sh/helm/v3/pkg/chartutil"
    major, minor, _ = versions.KUBERNETES.removeprefix("v").split(".")
    return Recipe(
        title="helm",
        cold_s=50,
        packages=("helm.sh/helm/v3/cmd/helm",),
        version=versions.HELM,
        stamps=(
            f"helm.sh/helm/v3/internal/version.version={versions.HELM}",
            f"{chart}.k8sVersionMajor={major}",
            f"{chart}.k8sVersionMinor={minor}",
        ),
    )


CONTAINERD_PACKAGE = "github.com/containerd/containerd/v2"
RECIPES = (
    _kubernetes(
        "Kubernetes control plane", 330, "kube-apiserver", "kube-controller-manager", "kube-scheduler", "kubectl"
    ),
    Recipe(title="etcd", cold_s=30, module="etcd", packages=("go.etcd.io/etcd/server/v3",), names=("etcd",)),
    _kubernetes("Kubernetes node programs", 40, "kubelet", "kubeadm", "kube-proxy"),
    Recipe(
        title="containerd",
        cold_s=65,
        module="containerd",
        packages=tuple(f"{CONTAINERD_PACKAGE}/cmd/{name}" for name in ("containerd", "ctr", "containerd-shim-runc-v2")),
        stamps=(f"{CONTAINERD_PACKAGE}/version.Version={versions.CONTAINERD}",),
    ),
    Recipe(title="kind", cold_s=5, packages=("sigs.k8s.io/kind",), version=versions.KIND),
    Recipe(title="coredns", cold_s=120, packages=("github.com/coredns/coredns",), version=versions.COREDNS),
    Recipe(
        title="local-path-provisioner",
        cold_s=60,
        packages=("github.com/rancher/local-path-provisioner",),
        version=versions.LOCAL_PATH_PROVISIONER,
    ),
    _helm(),
)
ALL = tuple(name for recipe in RECIPES for name in recipe.programs())


def find(name: str) -> Path:
    """Where program `name` is: for a bare control plane KUBEBUILDER_ASSETS first (as envtest has it), then ours."""
    for folder in _places(name):
        if os.access(folder / name, os.X_OK):
            return folder / name
    raise MissingProgramError(f"{name} is not built yet: run `python -m e2e.cluster.programs {name}`")


def ours(name: str) -> Path:
    """Where program `name` is that we built: what a node image is made of."""
    return paths.programs() / name


def _places(name: str) -> list[Path]:
    assets = os.environ.get("KUBEBUILDER_ASSETS")
    return [Path(assets), paths.programs()] if assets and name in BARE else [paths.programs()]


def ensure(names: Iterable[str]) -> None:
    """Build what is missing of `names`, with progress; returns at once when nothing is."""
    todo = builds(name for name in names if not _is_found(name))
    if not todo:
        return
    require_go()
    progress = Progress([step for step, _ in todo])
    for step, build in todo:
        with progress.step(step):
            build()


def builds(names: Iterable[str]) -> list[tuple[Step, Callable[[], None]]]:
    """What of ours there is to build now, a step each."""
    wanted = set(names)
    recipes = [recipe for recipe in RECIPES if wanted & set(recipe.programs())]
    return [(build_step(recipe), partial(_build_once, recipe)) for recipe in recipes if _is_missing(recipe)]


def build_step(recipe: Recipe) -> Step:
    return Step(title=f"build {recipe.title} from Go modules", cold_s=recipe.cold_s)


def _is_missing(recipe: Recipe) -> bool:
    return any(not os.access(ours(name), os.X_OK) for name in recipe.programs())


def _is_found(name: str) -> bool:
    return any(os.access(folder / name, os.X_OK) for folder in _places(name))


def _build_once(recipe: Recipe) -> None:
    """Build, unless another process did it while we waited for our turn."""
    with exclusively(paths.programs(), "builds programs for the cluster"):
        for killed in paths.programs().glob(SCRATCH + "*"):
            shutil.rmtree(killed)
        if _is_missing(recipe):
            _build(recipe)


def require_go() -> None:
    """Raise a sentence that says what is missing unless a Go that can build Kubernetes is there."""
    wanted = ".".join(map(str, versions.GO_AT_LEAST))
    if shutil.which("go") is None:
        raise MissingProgramError(f"Go {wanted} or newer is missing: install it and put it on PATH")
    said = commands.run(["go", "env", "GOVERSION"])
    number = re.match(r"go(\d+)\.(\d+)", said)
    if number is None or tuple(map(int, number.groups())) < versions.GO_AT_LEAST:
        raise MissingProgramError(f"Go {wanted} or newer is needed, this machine has {said.strip()}")


def _build(recipe: Recipe) -> None:
    """Build into a scratch folder and move: a program that is in the cache is always whole."""
    with tempfile.TemporaryDirectory(dir=paths.programs(), prefix=SCRATCH) as folder:
        _go(recipe, Path(folder))
        for name in recipe.programs():
            os.replace(Path(folder) / name, paths.programs() / name)


def _go(recipe: Recipe, out: Path) -> None:
    flags = ["-p", str(JOBS), "-ldflags", " ".join(["-s", "-w", *(f"-X {stamp}" for stamp in recipe.stamps)])]
    if recipe.module is None:
        command = ["go", "install", *flags, *(f"{package}@{recipe.version}" for package in recipe.packages)]
        commands.run(command, cwd=GO_MODULES, extra={**BUILD_ENV, "GOBIN": str(out)})
        return
    single = len(recipe.packages) == 1
    target = f"{out}/{recipe.programs()[0]}" if single else f"{out}/"
    commands.run(
        ["go", "build", *flags, "-o", target, *recipe.packages], cwd=GO_MODULES / recipe.module, extra=BUILD_ENV
    )


def main(names: Sequence[str]) -> int:
    unknown = sorted(set(names) - set(ALL))
    if unknown:
        print(f"unknown: {', '.join(unknown)}; there are {', '.join(ALL)}", file=sys.stderr)
        return 2
    try:
        ensure(names or ALL)
    except (MissingProgramError, commands.CommandError) as problem:
        print(problem, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
