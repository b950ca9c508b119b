"""docs/conformance.md lists the cases that exist, and only those, each with a public source and a test that runs."""

import ast
import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "conformance.md"
HERE = Path(__file__).parent
CELLS = 4
"""What it is about, the public bug, what a sound autoscaler does, the test."""
BUG = re.compile(r"[\w.-]+/[\w.-]+#\d+|[\w.-]+#\d+")


def rows() -> list[list[str]]:
    lines = [line for line in PAGE.read_text().splitlines() if line.startswith("|")]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    return [row for row in cells if "::" in row[-1]]


def named_tests(row: list[str]) -> list[str]:
    return re.findall(r"`(tests/\S+\.py::\w+)`", row[-1])


def defined(path: Path) -> set[str]:
    found = ast.walk(ast.parse(path.read_text()))
    functions = [n for n in found if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef)]
    return {f.name for f in functions if f.name.startswith("test_")}


def test_each_row_is_whole_and_names_its_source() -> None:
    for row in rows():
        assert len(row) == CELLS, row
        assert all(row), row
        assert BUG.search(row[1]), f"no public bug in {row}"
        assert named_tests(row), row


def test_the_tests_exist() -> None:
    for row in rows():
        for test in named_tests(row):
            file, name = test.split("::")
            assert name in defined(ROOT / file), test


def test_every_case_is_on_the_page_once() -> None:
    named = [test for row in rows() for test in named_tests(row) if test.startswith("tests/conformance/")]
    there = {
        f"tests/conformance/{path.name}::{name}"
        for path in HERE.glob("test_*.py")
        if path.name != Path(__file__).name
        for name in defined(path)
    }
    assert sorted(named) == sorted(there)


def test_the_names_are_unique_and_counted() -> None:
    names = [row[0] for row in rows()]
    assert len(set(names)) == len(names)
    assert f"{len(names)} cases" in PAGE.read_text()
