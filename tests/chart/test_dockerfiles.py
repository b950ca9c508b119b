"""The Dockerfiles for users, read as text: where no registry is reached they cannot be built."""

import re
from pathlib import Path

import pytest

from e2e.images import accounts, wheel
from llmservice_operator import child_engine, pod_security
from tests.chart.conftest import ROOT

FILES = [ROOT / "operator" / "Dockerfile", ROOT / "serving" / "Dockerfile"]
OPERATOR, SERVING = (file.read_text() for file in FILES)


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.parent.name)
def test_copied_paths_exist_and_pass_the_ignore_file(file: Path) -> None:
    copied = re.findall(r"^COPY (?!--from)(.+) \S+$", file.read_text(), re.MULTILINE)
    kept = file.with_name("Dockerfile.dockerignore").read_text().split()
    assert kept[0] == "*"
    for path in " ".join(copied).split():
        assert (ROOT / path).exists()
        assert f"!{path.split('/')[0]}" in kept


@pytest.mark.parametrize("text", [OPERATOR, SERVING], ids=["operator", "serving"])
def test_bases_are_named_with_a_version(text: str) -> None:
    (base,) = re.findall(r"^ARG BASE=(\S+)$", text, re.MULTILINE)
    assert re.search(r":v?\d+\.\d+", base)
    assert set(re.findall(r"^FROM (\S+)", text, re.MULTILINE)) == {"${BASE}"}


def test_the_operator_image_is_the_one_that_the_tests_run() -> None:
    assert f"USER {accounts.UID}:{accounts.UID}" in OPERATOR
    assert f"PYTHONPATH=/{wheel.HOME} PYTHONSAFEPATH=1" in OPERATOR
    assert 'ENTRYPOINT ["/usr/bin/tini", "--"]' in OPERATOR
    assert "--require-hashes" in OPERATOR


def test_the_engine_image_runs_as_the_user_of_engine_pods() -> None:
    assert f"USER {pod_security.USER}:{pod_security.USER}" in SERVING
    assert f"ENV HOME={child_engine.HOME}" in SERVING
    assert accounts.UID == pod_security.USER


def test_the_engine_image_has_the_vllm_that_the_scheduler_is_written_for() -> None:
    pinned = re.search(r'"vllm==([\d.]+)"', (ROOT / "pyproject.toml").read_text())
    assert pinned is not None
    assert f"vllm-openai:v{pinned[1]}" in SERVING
    assert f"startswith('{pinned[1]}')" in SERVING
