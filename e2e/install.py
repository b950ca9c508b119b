"""Brings our product into the cluster that is up, as a user would: images, `helm upgrade --install`, Prometheus.

    python -m e2e.install

May be run again after every change of the code: only changed images are built and loaded, and only what they change is
rolled. It makes no cluster and no LLMService.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import yaml

from e2e.cluster import cluster, state
from e2e.cluster.cluster import Cluster
from e2e.cluster.paths import REPOSITORY
from e2e.images import engine_image, operator_image, prometheus_image, recipe
from e2e.images.recipe import Built
from e2e.prometheus import manifests

OPERATOR_NAMESPACE = "llmservice"
OPERATOR_DEPLOYMENT = "llmservice-operator"
RELEASE = "llmservice"
CHART = REPOSITORY / "charts" / "llmservice"
RECIPES = {"operator": operator_image, "engine": engine_image, "prometheus": prometheus_image}
READY_TIMEOUT = "180s"

T = TypeVar("T")


def install(found: Cluster) -> None:
    """Everything, from whatever is there to operator and Prometheus Ready."""
    built = _step("images built", lambda: {name: recipe.build(kind.recipe()) for name, kind in RECIPES.items()})
    _step("images on every node", lambda: _load(found, built))
    _step("chart installed", lambda: _helm(found, built))
    _step("Prometheus applied", lambda: _prometheus(found, built["prometheus"].reference))
    _step("operator and Prometheus Ready", lambda: _wait(found))


def _step(name: str, do: Callable[[], T]) -> T:
    started_s = time.monotonic()
    done = do()
    print(f"{name} ({time.monotonic() - started_s:.1f} s)", flush=True)
    return done


def _load(found: Cluster, built: dict[str, Built]) -> None:
    """Load the images that this very cluster does not have yet."""
    cluster_id = found.get("namespace", "kube-system")["metadata"]["uid"]
    loaded = _loaded(cluster_id)
    for image in built.values():
        if image.reference not in loaded:
            found.load_image(image.archive)
            loaded.append(image.reference)
            _record_file().write_text(json.dumps({"cluster": cluster_id, "loaded": loaded}, indent=2))


def _loaded(cluster_id: str) -> list[str]:
    """What the cluster was given; nothing when it is another one than last time."""
    record = json.loads(_record_file().read_text()) if _record_file().exists() else {}
    return list(record["loaded"]) if record.get("cluster") == cluster_id else []


def _record_file() -> Path:
    return state.folder() / "images.json"


def _helm(found: Cluster, built: dict[str, Built]) -> None:
    _apply(found, [_namespace()])
    repository, tag = built["operator"].reference.rsplit(":", 1)
    values = {
        "image.repository": repository,
        "image.tag": tag,
        "defaults.engineImage": built["engine"].reference,
        "defaults.prometheusURL": manifests.URL,
        # The engines of this machine mount its vLLM, Python and models by hostPath (engine_template.py).
        "operator.podTemplate": "Full",
    }
    sets = [part for name, value in values.items() for part in ("--set-string", f"{name}={value}")]
    found.run(["helm", "upgrade", "--install", RELEASE, str(CHART), "--namespace", OPERATOR_NAMESPACE, *sets])


def _namespace() -> dict[str, Any]:
    """Pod Security is enforced, so that a chart which needs more than `restricted` fails here."""
    labels = {"pod-security.kubernetes.io/enforce": "restricted"}
    return {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": OPERATOR_NAMESPACE, "labels": labels}}


def _prometheus(found: Cluster, image: str) -> None:
    _apply(found, manifests.manifests(image))


def _apply(found: Cluster, objects: list[dict[str, Any]]) -> None:
    found.kubectl("apply", "--server-side", "--force-conflicts", "-f", "-", stdin=yaml.safe_dump_all(objects))


def _wait(found: Cluster) -> None:
    for namespace, name in ((manifests.NAMESPACE, manifests.NAME), (OPERATOR_NAMESPACE, OPERATOR_DEPLOYMENT)):
        found.kubectl("-n", namespace, "rollout", "status", f"deployment/{name}", f"--timeout={READY_TIMEOUT}")


def main() -> int:
    try:
        install(cluster.current())
    except cluster.NoClusterError as problem:
        print(problem, file=sys.stderr)
        return 1
    except subprocess.CalledProcessError as problem:
        print(f"{' '.join(problem.cmd)} failed: {problem.stderr}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
