"""Runs a program to its end; what it said is in the error when it fails. Starts no daemons (processes.py does)."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

LAST_CHARACTERS = 2000


class CommandError(subprocess.CalledProcessError):
    """A program failed; prints as the end of what it said."""

    def __str__(self) -> str:
        said = (self.stderr or self.stdout or "").strip()[-LAST_CHARACTERS:]
        return f"{' '.join(map(str, self.cmd[:3]))} failed ({self.returncode}): {said}"


def run(
    argv: Sequence[str | Path],
    *,
    cwd: Path | None = None,
    extra: Mapping[str, str] | None = None,
    stdin: str | None = None,
) -> str:
    """What `argv` printed; `extra` is added to this process's environment."""
    command = [str(part) for part in argv]
    made = subprocess.run(
        command,
        cwd=cwd,
        env={**os.environ, **(extra or {})},
        input=stdin,
        capture_output=True,
        text=True,
        errors="replace",
        check=False,
    )
    if made.returncode != 0:
        raise CommandError(made.returncode, command, made.stdout, made.stderr)
    return made.stdout
