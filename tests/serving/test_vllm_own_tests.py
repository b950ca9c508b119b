"""vLLM's own scheduler tests on our class: none differs in vLLM's queue order, only first-come ones in SLAI's."""

import subprocess
import sys

import pytest

from tests.serving.engine_room import require_engine_environment

pytestmark = [pytest.mark.engine, pytest.mark.timeout(600)]


def test_only_the_tests_that_assert_first_come_first_served_differ() -> None:
    """Fetched at run time, never copied; which may differ is listed in e2e/engine/vllm_tests.py."""
    require_engine_environment()
    done = subprocess.run([sys.executable, "-m", "e2e.engine", "vllm-tests"], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert "vLLM's queue order: 0 tests differ" in done.stdout
