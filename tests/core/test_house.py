"""The house keeps its shape: no folder that shadows the standard library, no long files, no addresses in locks."""

import subprocess
from pathlib import Path

ROOT = Path(__file__).parents[2]
MOST_LINES, MOST_TEST_LINES = 300, 500
"""A test file holds one subject's whole table; a source file that long holds two subjects."""


def tracked(*patterns: str) -> list[Path]:
    listed = subprocess.run(["git", "ls-files", *patterns], cwd=ROOT, capture_output=True, text=True, check=True)
    return [path for line in listed.stdout.splitlines() if (path := ROOT / line).exists()]


def test_the_layout_folders_are_not_packages() -> None:
    """With operator/__init__.py on the path, `import operator` of the standard library breaks."""
    folders = [ROOT / name for name in ("operator", "serving", "tests", "e2e")]
    folders += [path for path in (ROOT / "tests").iterdir() if path.is_dir()]
    assert [str(f) for f in folders if (f / "__init__.py").exists()] == []


def test_package_roots_hold_a_docstring_and_nothing_else() -> None:
    for path in tracked("operator/*/__init__.py", "serving/*/__init__.py"):
        body = path.read_text().strip()
        assert body.startswith('"""'), path
        assert body.endswith('"""'), path


def test_no_python_file_is_long() -> None:
    lengths = {str(p.relative_to(ROOT)): len(p.read_text().splitlines()) for p in tracked("*.py")}
    limits = {name: MOST_TEST_LINES if name.startswith("tests/") else MOST_LINES for name in lengths}
    assert {name: n for name, n in lengths.items() if n > limits[name]} == {}


def test_locks_name_no_address_and_hash_everything() -> None:
    locks = tracked("tests/requirements-*.txt", "operator/requirements.txt", "serving/requirements-cpu.txt")
    assert len(locks) >= 4
    for lock in locks:
        text = lock.read_text()
        assert "://" not in text, lock
        pins = [line for line in text.splitlines() if "==" in line and not line.startswith("#")]
        assert len(pins) <= text.count("--hash="), lock
