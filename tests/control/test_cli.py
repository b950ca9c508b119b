"""`llmservice crd` and `llmservice check`, as a person calls them."""

from pathlib import Path

import pytest
import yaml

from llmservice_api import crd
from llmservice_cli.main import main
from tests.control.bad_manifests import CASES, GOOD


def test_crd_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["crd"]) == 0
    assert yaml.safe_load(capsys.readouterr().out) == crd.crd()


def test_crd_is_written(tmp_path: Path) -> None:
    assert main(["crd", "-o", str(tmp_path / "crd.yaml")]) == 0
    assert (tmp_path / "crd.yaml").read_text() == crd.as_yaml()


def test_good_manifests_pass(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "two.yaml"
    path.write_text(yaml.safe_dump_all([GOOD, GOOD | {"metadata": {"name": "other", "namespace": "ns"}}]))
    assert main(["check", str(path)]) == 0
    assert capsys.readouterr().out.splitlines() == [
        f"{path}: default/chat is well-formed",
        f"{path}: ns/other is well-formed",
    ]


def test_a_bad_manifest_fails_with_the_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bad = next(case for case in CASES if case.name == "two defaults")
    path = tmp_path / "bad.yaml"
    path.write_text(yaml.safe_dump(bad.body()))
    assert main(["check", str(path)]) == 1
    assert bad.words in capsys.readouterr().err
