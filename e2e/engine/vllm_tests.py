"""vLLM's own scheduler tests, run on stock vLLM and on our class, and compared.

    python -m e2e.engine vllm-tests

They come with vLLM's source distribution (44 MB, fetched at run time, pinned by hash, kept in the cache, never copied
into the project). Tests that need models of other people fail alike on both sides. Expected: with the waiting queue in
vLLM's order not one test differs; with SLAI's order exactly those differ that assert first come, first served.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import tarfile
from pathlib import Path

from e2e.cluster.paths import cache
from e2e.engine import env

VERSION = "0.32.0"
SDIST_SHA256 = "d2c957d5eee3d0985012151315ddc62cbe0cd368fc96a5fc3510438d9dddf2ad"
TOOLS = env.ROOT / "tests" / "requirements-vllm-tests.txt"
SUITE = (
    "test_scheduler.py", "test_async_scheduler.py", "test_deferred_block_free.py", "test_priority_preemption_bug.py",
    "test_priority_scheduler_random.py", "test_swa_inflight_window_free.py",
)  # fmt: skip
FIRST_COME_FIRST_SERVED = {
    "tests/v1/core/test_scheduler.py::test_schedule_order[False]",
    "tests/v1/core/test_scheduler.py::test_schedule_order[True]",
    "tests/v1/core/test_scheduler.py::test_fcfs_mixed_blocked_types_remote_load_drains_first",
    "tests/v1/core/test_scheduler.py::test_async_load_reservation_prevents_wedge_e2e",
}
STAND_IN = {  # the configuration of facebook/opt-125m, the model that the tests name; no weights are needed
    "architectures": ["OPTForCausalLM"], "model_type": "opt", "hidden_size": 768, "num_hidden_layers": 12,
    "num_attention_heads": 12, "ffn_dim": 3072, "max_position_embeddings": 2048, "vocab_size": 50272,
    "word_embed_proj_dim": 768, "do_layer_norm_before": True, "torch_dtype": "float16",
}  # fmt: skip


def run() -> None:
    """Prints the differences; exits 1 if they are not the expected ones."""
    home = cache() / "vllm-tests" / VERSION
    source = _fetched(home)
    bad = {mode: _failures(home, source, mode) for mode in ("stock", "plain", "slai")}
    plain, slai = bad["plain"] - bad["stock"], bad["slai"] - bad["stock"]
    print(f"vLLM's queue order: {len(plain)} tests differ from stock", *sorted(plain), sep="\n  ")
    print(f"SLAI's queue order: {len(slai)} tests differ from stock", *sorted(slai), sep="\n  ")
    if plain or slai != FIRST_COME_FIRST_SERVED:
        sys.exit("not the expected differences")


def _fetched(home: Path) -> Path:
    """The unpacked tests, with a hub folder that holds the stand-in."""
    source = home / f"vllm-{VERSION}"
    if not (source / ".complete").exists():
        python, tools = str(env.ensure() / "bin" / "python"), str(home / "tools")
        install = [env.uv(), "pip", "install", "-q", "--python", python, "--target", tools]
        subprocess.run([*install, "--require-hashes", "-r", str(TOOLS)], check=True)
        subprocess.run(
            [python, "-m", "pip", "download", "-q", "--no-deps", "--no-build-isolation", "--no-binary", "vllm",
             "-d", str(home), f"vllm=={VERSION}"], check=True,
            env={**os.environ, "PYTHONPATH": tools, "VLLM_TARGET_DEVICE": "empty", "VLLM_VERSION_OVERRIDE": VERSION},
        )  # fmt: skip
        _unpack(home / f"vllm-{VERSION}.tar.gz", home)
        _write_stand_in(home / "hub")
        (source / ".complete").write_text("")
    return source


def _unpack(archive: Path, target: Path) -> None:
    """Only the tests: the package itself must come from the engine environment."""
    if hashlib.sha256(archive.read_bytes()).hexdigest() != SDIST_SHA256:
        sys.exit(f"{archive} is not the archive that was pinned")
    with tarfile.open(archive) as tar:
        wanted = [m for m in tar.getmembers() if m.name.startswith(f"vllm-{VERSION}/tests/")]
        tar.extractall(target, members=wanted, filter="data")


def _write_stand_in(hub: Path) -> None:
    commit = "0" * 40
    model = hub / "models--facebook--opt-125m"
    (model / "snapshots" / commit).mkdir(parents=True, exist_ok=True)
    (model / "refs").mkdir(exist_ok=True)
    (model / "refs" / "main").write_text(commit)
    (model / "snapshots" / commit / "config.json").write_text(json.dumps(STAND_IN))


def _failures(home: Path, source: Path, mode: str) -> set[str]:
    paths = (env.ROOT / "serving", Path(__file__).parent / "swap", home / "tools", source)
    settings = {
        "LLMSERVICE_SWAP": mode, "HF_HUB_CACHE": str(home / "hub"), "HF_HUB_OFFLINE": "1",
        "VLLM_LOGGING_LEVEL": "ERROR", "PYTHONPATH": os.pathsep.join(map(str, paths)),
    }  # fmt: skip
    command = [str(env.home() / "bin" / "python"), "-m", "pytest", "-q", "-p", "llmservice_swap", "--noconftest",
               "-p", "no:cacheprovider", "-W", "ignore", *(f"tests/v1/core/{name}" for name in SUITE)]  # fmt: skip
    outer = {k: v for k, v in os.environ.items() if not k.startswith("LLMSERVICE_")}
    done = subprocess.run(command, cwd=source, env={**outer, **settings}, capture_output=True, text=True, check=False)
    lines = done.stdout.splitlines()
    print(f"{mode}: {lines[-1] if lines else done.stderr[-2000:]}", flush=True)
    if not lines or "passed" not in lines[-1]:
        sys.exit(done.stdout[-2000:] + done.stderr[-2000:])
    return {line.split()[1] for line in lines if line.startswith(("FAILED", "ERROR"))}
