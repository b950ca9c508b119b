"""`python -m e2e.install` against a cluster that only writes down what it is asked: what is loaded, what is set."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import pytest

from e2e import install
from e2e.cluster.cluster import Cluster
from e2e.images.recipe import Built


class Noted:
    """Stands in for a Cluster and remembers the commands."""

    def __init__(self, uid: str) -> None:
        self.uid = uid
        self.loaded: list[str] = []
        self.commands: list[list[str]] = []

    def load_image(self, archive: Path) -> None:
        self.loaded.append(archive.name)

    def get(self, *arguments: str) -> Any:
        return {"metadata": {"uid": self.uid}}

    def run(self, argv: Sequence[str], *, stdin: str | None = None) -> str:
        self.commands.append(list(argv))
        return ""

    def kubectl(self, *arguments: str, stdin: str | None = None) -> str:
        return self.run(["kubectl", *arguments], stdin=stdin)


def images(tag: str) -> dict[str, Built]:
    return {
        name: Built(reference=f"localhost/{name}:{tag}", archive=Path(f"{name}_{tag}.tar"), seconds=0.0)
        for name in install.RECIPES
    }


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    install._record_file().parent.mkdir(parents=True)


def load(cluster: Noted, tag: str) -> list[str]:
    before = len(cluster.loaded)
    install._load(cast(Cluster, cluster), images(tag))
    return cluster.loaded[before:]


def test_a_cluster_gets_each_image_once() -> None:
    cluster = Noted("one")
    assert load(cluster, "a") == ["operator_a.tar", "engine_a.tar", "prometheus_a.tar"]
    assert load(cluster, "a") == []
    assert len(load(cluster, "b")) == 3
    assert load(cluster, "a") == []


def test_a_new_cluster_has_nothing_of_the_old_one() -> None:
    load(Noted("one"), "a")
    assert len(load(Noted("two"), "a")) == 3


def test_helm_gets_the_images_and_where_metrics_are() -> None:
    cluster = Noted("one")
    install._helm(cast(Cluster, cluster), images("a"))
    (helm,) = [command for command in cluster.commands if command[0] == "helm"]
    assert {value for value in helm if "=" in value} == {
        "image.repository=localhost/operator",
        "image.tag=a",
        "defaults.engineImage=localhost/engine:a",
        "defaults.prometheusURL=http://prometheus.monitoring:9090",
        "operator.podTemplate=Full",
    }
