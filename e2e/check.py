"""`make test`: every tier on this machine, and a failure if one could not run.

Static checks, then tests without programs, then those with a bare API server, a real Prometheus and real vLLM engines,
and at last the whole chain on kind. Builds what is missing first. Nothing is skipped silently: with
LLMSERVICE_REQUIRE_ALL set, fixtures fail where they would otherwise skip.
"""

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import IO

BIN = Path(sys.executable).parent
PYTEST = [sys.executable, "-m", "pytest", "-q", "--durations=5"]
Job = tuple[str, list[str]]

PREPARE: list[Job] = [
    ("engine environment (cold: 2 min)", [sys.executable, "-m", "e2e.engine", "env"]),
    ("models (cold: 1 min)", [sys.executable, "-m", "e2e.engine", "models"]),
    ("cluster (cold: 13 min)", [sys.executable, "-m", "e2e.cluster", "up"]),
]
STATIC: list[Job] = [
    ("ruff", [str(BIN / "ruff"), "check", "."]),
    ("format", [str(BIN / "ruff"), "format", "--check", "."]),
    ("mypy", [str(BIN / "mypy")]),
    ("import contracts", [str(BIN / "lint-imports")]),
]
FAST: Job = ("tests without programs", [*PYTEST, "-m", "not api and not engine and not prometheus and not cluster"])
PROGRAMS: list[Job] = [
    ("tests with a bare API server or Prometheus", [*PYTEST, "-m", "(api or prometheus) and not engine and not idle"]),
    ("five idle minutes of an operator", [*PYTEST, "-m", "idle"]),
    ("tests with real engines", [*PYTEST, "-m", "engine"]),
]
CHAIN: list[Job] = [
    ("install on kind", [sys.executable, "-m", "e2e.install"]),
    ("tests on kind", [sys.executable, "-m", "e2e.cluster", "exec", "--", *PYTEST, "-m", "cluster and not teardown"]),
    ("cluster down, nothing left", [*PYTEST, "-m", "teardown"]),
]


def start(job: Job, output: IO[bytes] | None = None) -> "subprocess.Popen[bytes]":
    environment = {**os.environ, "LLMSERVICE_REQUIRE_ALL": "1"}
    return subprocess.Popen(job[1], env=environment, stdout=output, stderr=subprocess.STDOUT if output else None)


def end(job: Job, process: "subprocess.Popen[bytes]", started_s: float) -> bool:
    code = process.wait()
    verdict = "ok" if code == 0 else f"FAILED ({code})"
    print(f"=== {job[0]}: {verdict}, {time.monotonic() - started_s:.0f} s", flush=True)
    return code == 0


def run(job: Job) -> bool:
    print(f"\n=== {job[0]}", flush=True)
    started_s = time.monotonic()
    return end(job, start(job), started_s)


def run_together(jobs: Sequence[Job]) -> list[bool]:
    """All mostly wait, so they share the cores; each one's words come in one piece when it has ended."""
    print(f"\n=== side by side: {', '.join(name for name, _ in jobs)}", flush=True)
    started_s = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        files = [Path(folder) / str(number) for number in range(len(jobs))]
        outputs = [file.open("wb") for file in files]
        processes = [start(job, output) for job, output in zip(jobs, outputs, strict=True)]
        results = []
        for job, file, output, process in zip(jobs, files, outputs, processes, strict=True):
            process.wait()
            output.close()
            print(f"\n{file.read_text(errors='replace')}", flush=True)
            results.append(end(job, process, started_s))
    return results


def run_chain() -> dict[str, bool]:
    """Without an install there is nothing to test, and the cluster may be somebody's: what follows did not run."""
    install, *rest = CHAIN
    results = {install[0]: run(install)}
    if not results[install[0]]:
        print("not run: " + ", ".join(name for name, _ in rest), flush=True)
        return results
    return results | {job[0]: run(job) for job in rest}


def main() -> int:
    """Static failures and missing parts stop at once; a failing tier does not hide the ones behind it."""
    if not all(run(job) for job in STATIC):
        return 1
    results = {FAST[0]: run(FAST)}
    if not all(run(job) for job in PREPARE):
        return 1
    results |= dict(zip([name for name, _ in PROGRAMS], run_together(PROGRAMS), strict=True))
    results |= run_chain()
    failed = [name for name, ok in results.items() if not ok]
    print(f"\nfailed: {', '.join(failed)}" if failed else "\nall tiers ran and passed", flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
