"""Starts daemons and stops them by pid, sure that the pid is still theirs.

A process is known by its pid and the tick it was started at, so a pid that was given to somebody else is never
signalled. Nothing is ever stopped by name.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

STOP_TIMEOUT_S = 15.0
POLL_S = 0.02
LOG_TAIL_LINES = 15

# The kernel ties a child to the *thread* that started it. One thread that lives as long as the interpreter
# starts them all, so that a child never dies early because a helper thread of a test ended.
_spawner = ThreadPoolExecutor(max_workers=1, thread_name_prefix="spawn")


class ProcessDiedError(RuntimeError):
    """A daemon that should be running is not; the message ends with the last lines of its log."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Process:
    """A daemon that was started: enough to find it again from another process."""

    name: str
    pid: int
    started_ticks: int
    log: Path


def start(
    name: str,
    argv: Sequence[str | Path],
    *,
    log: Path,
    tied: bool,
    env: Mapping[str, str] | None = None,
) -> Process:
    """Start `argv` in a session of its own, output to `log`; a tied one is killed when this process ends."""
    command = [str(part) for part in argv]
    if tied:
        command = ["setpriv", "--pdeathsig", "KILL", *command]
    child = _spawner.submit(_spawn, command, log, env).result()
    return Process(name=name, pid=child.pid, started_ticks=started_ticks(child.pid) or 0, log=log)


def _spawn(command: list[str], log: Path, env: Mapping[str, str] | None) -> subprocess.Popen[bytes]:
    with log.open("ab") as output:
        child = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=None if env is None else {**os.environ, **env},
            start_new_session=True,
        )
    child.returncode = 0  # we reap by pid ourselves; keeps Popen from warning that the child still runs
    return child


def started_ticks(pid: int) -> int | None:
    """When `pid` was started, in clock ticks since boot (proc(5), field 22); None when there is none."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return None if fields[0] in "ZX" else int(fields[19])


def is_running(process: Process) -> bool:
    """Whether exactly this process still runs; a child that ended is reaped on the way."""
    running = started_ticks(process.pid) == process.started_ticks
    if not running:
        with contextlib.suppress(ChildProcessError):
            os.waitpid(process.pid, os.WNOHANG)
    return running


def check(process: Process) -> None:
    """Raise with the end of its log when `process` no longer runs."""
    if not is_running(process):
        raise ProcessDiedError(f"{process.name} ended by itself; its last lines:\n{log_tail(process.log)}")


def log_tail(log: Path) -> str:
    """The last lines of a log, empty when there is none."""
    if not log.exists():
        return ""
    return "\n".join(log.read_text(errors="replace").splitlines()[-LOG_TAIL_LINES:])


def stop(process: Process, *, timeout_s: float = STOP_TIMEOUT_S) -> None:
    """End `process` politely, then by force; nothing happens when it is gone."""
    for sign, patience_s in ((signal.SIGTERM, timeout_s), (signal.SIGKILL, timeout_s)):
        _signal(process, sign)
        if _wait_gone(process, patience_s):
            return
    raise TimeoutError(f"{process.name} (pid {process.pid}) survived SIGKILL")


def kill(process: Process) -> None:
    """End `process` without asking; nothing happens when it is gone."""
    _signal(process, signal.SIGKILL)
    _wait_gone(process, STOP_TIMEOUT_S)


def kill_child(process: Process) -> None:
    """End what `process` runs and waits for, so that it reaps it and ends by itself; by force if it does not."""
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        for child in Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split():
            if is_running(process):
                os.kill(int(child), signal.SIGKILL)
    if not _wait_gone(process, STOP_TIMEOUT_S):
        kill(process)


def _signal(process: Process, sign: signal.Signals) -> None:
    if is_running(process):
        with contextlib.suppress(ProcessLookupError):
            os.kill(process.pid, sign)


def _wait_gone(process: Process, patience_s: float) -> bool:
    deadline = time.monotonic() + patience_s
    while is_running(process):
        if time.monotonic() > deadline:
            return False
        time.sleep(POLL_S)
    return True
