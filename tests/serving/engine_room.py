"""What tests of the engine share: is the environment there, and a way to run code inside it."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

from e2e.engine import env


def require_engine_environment() -> None:
    """Fails where it would skip if every tier was asked for."""
    if env.is_ready():
        return
    message = "no engine environment (python -m e2e.engine env)"
    if os.environ.get("LLMSERVICE_REQUIRE_ALL"):
        pytest.fail(message)
    pytest.skip(message)


def run_inside(script: Path, *arguments: str, timeout_s: float = 120) -> Any:
    """Run a script in the engine environment; what it prints as its last line is JSON."""
    outer = {k: v for k, v in os.environ.items() if not k.startswith(("PYTHON", "LLMSERVICE_"))}
    inner = {**outer, "PYTHONPATH": str(env.ROOT / "serving"), "VLLM_LOGGING_LEVEL": "ERROR", "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        [str(env.ensure() / "bin" / "python"), str(script), *arguments],
        env=inner, capture_output=True, text=True, timeout=timeout_s, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-4000:]
    return json.loads(done.stdout.splitlines()[-1])
