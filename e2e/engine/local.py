"""Local engine processes: real vLLM on this machine's CPU, for tests, the bench and whoever needs a pool without pods.

    python -m e2e.engine local --prefill 1 --decode 1 [--mixed 0] [--pace rtx4090-mistral-7b,scale=8] [--policy P]

prints one line per engine (role, URL, metrics URL, pid) when all are ready and keeps them until SIGINT or SIGTERM.
In Python:

    with engine(role="decode", port=8200, metrics_port=9500) as e: ...   # e.url, e.metrics_url, e.pid, e.log

Everything listens on 127.0.0.1. Processes are ended by their own pid and group, never by name.
"""

from __future__ import annotations

import argparse
import ctypes
import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from tempfile import gettempdir
from urllib.error import URLError
from urllib.request import urlopen

from e2e.engine import models
from e2e.engine.options import ROLES, Options, command, environment
from llmservice_core.policies import NAMES

READY_TIMEOUT_S = 240.0
STOP_TIMEOUT_S = 20.0
PR_SET_PDEATHSIG = 1


class EngineDiedError(RuntimeError):
    """The process ended or never became ready; the message carries the end of its log."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Engine:
    options: Options
    process: subprocess.Popen[bytes]
    log: Path

    @property
    def pid(self) -> int:
        return self.process.pid

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.options.port}"

    @property
    def metrics_url(self) -> str:
        return f"http://127.0.0.1:{self.options.metrics_port}/metrics"


def start(o: Options) -> Engine:
    """Start the process and return at once."""
    if o.role not in ROLES:
        raise ValueError(f"role is one of {', '.join(ROLES)}, not {o.role!r}")
    log = Path(gettempdir()) / f"llmservice-engine-{os.getuid()}-{o.port}.log"
    with log.open("wb") as out:
        process = subprocess.Popen(
            command(o),
            env=environment(o),
            stdout=out,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            start_new_session=True,
            preexec_fn=_end_with_parent,
        )
    return Engine(options=o, process=process, log=log)


def _end_with_parent() -> None:
    """In the child: SIGTERM when the starter is gone, however it ended, so that no engine is left behind."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)


def wait_ready(e: Engine, timeout_s: float = READY_TIMEOUT_S) -> None:
    end = time.monotonic() + timeout_s
    while not is_healthy(e.url):
        if e.process.poll() is not None:
            raise EngineDiedError(f"engine on port {e.options.port} ended with {e.process.returncode}:\n{tail(e.log)}")
        if time.monotonic() > end:
            raise EngineDiedError(f"engine on port {e.options.port} not ready after {timeout_s:.0f} s:\n{tail(e.log)}")
        time.sleep(0.25)


def is_healthy(url: str) -> bool:
    try:
        with urlopen(f"{url}/health", timeout=2) as reply:
            return bool(reply.status == 200)
    except (URLError, OSError):
        return False


def tail(log: Path, lines: int = 40) -> str:
    return "\n".join(log.read_text(errors="replace").splitlines()[-lines:])


def stop(e: Engine) -> None:
    """SIGTERM lets vLLM end its EngineCore child; what is left of the group after a while is killed."""
    for sign in (signal.SIGTERM, signal.SIGKILL):
        _signal_group(e.pid, sign)
        try:
            e.process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            continue
        break
    _signal_group(e.pid, signal.SIGKILL)


def _signal_group(leader: int, sign: signal.Signals) -> None:
    try:
        os.killpg(leader, sign)
    except ProcessLookupError:
        return


@contextmanager
def engines(*options: Options) -> Iterator[list[Engine]]:
    """Several engines started together, all ready on entry, all ended on exit."""
    with ExitStack() as stack:
        started = []
        for o in options:
            started.append(start(o))
            stack.callback(stop, started[-1])
        for e in started:
            wait_ready(e)
        yield started


@contextmanager
def engine(**fields: object) -> Iterator[Engine]:
    """One engine; the fields are those of Options, `port` and `metrics_port` free ones if left out."""
    missing = [name for name in ("port", "metrics_port") if name not in fields]
    ports = dict(zip(missing, free_ports(len(missing)), strict=True))
    with engines(Options(**{**ports, **fields})) as started:  # type: ignore[arg-type]
        yield started[0]


def free_ports(count: int) -> list[int]:
    """Ports nobody listens on now, all different.

    From below the kernel's range for outgoing connections: an engine binds them seconds later, and one of those may
    have been taken by then (vLLM stays healthy then, but its KV can never be pulled).
    """
    found: list[int] = []
    with ExitStack() as stack:
        while len(found) < count:
            probe, port = stack.enter_context(socket.socket()), random.randrange(12_000, 32_000)
            with suppress(OSError):
                probe.bind(("127.0.0.1", port))
                found.append(port)
    return found


def core_pid(e: Engine) -> int:
    """The EngineCore child, where scheduler, model and exporter live."""
    for entry in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            name, rest = entry.read_text().rsplit(")", 1)
            if "EngineCor" in name and int(rest.split()[1]) == e.pid:
                return int(entry.parent.name)
    raise EngineDiedError(f"engine on port {e.options.port} has no EngineCore")


@contextmanager
def stopped(pid: int) -> Iterator[None]:
    """The process stands still meanwhile."""
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    for role in ROLES:
        parser.add_argument(f"--{role}", type=int, default=0, metavar="N", help=f"number of {role} engines")
    parser.add_argument("--first-port", type=int, default=8100, help="engines listen from here upwards")
    parser.add_argument("--first-metrics-port", type=int, default=9500)
    parser.add_argument("--first-nixl-port", type=int, default=5600)
    parser.add_argument("--pace", help="step model, for example rtx4090-mistral-7b,scale=8")
    parser.add_argument("--policy", default="slai-plus", choices=NAMES)
    parser.add_argument("--model", default=models.TINY, choices=models.NAMES)
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--max-batched-tokens", type=int, default=512)
    parser.add_argument("--max-seqs", type=int, default=64)
    parser.add_argument("--kv-bytes", type=int, default=64 << 20)
    parser.add_argument("--service", default="local/local", help="value of metric label llmservice")


def plan(args: argparse.Namespace) -> list[Options]:
    roles = [role for role in ROLES for _ in range(getattr(args, role))]
    return [
        Options(
            role=role,
            port=args.first_port + i,
            metrics_port=args.first_metrics_port + i,
            nixl_port=None if role == "mixed" else args.first_nixl_port + i,
            pace=args.pace,
            policy=args.policy,
            model=args.model,
            served_name=args.model,
            dtype=args.dtype,
            service=args.service,
            max_batched_tokens=args.max_batched_tokens,
            max_seqs=args.max_seqs,
            kv_bytes=args.kv_bytes,
        )
        for i, role in enumerate(roles)
    ]


def run(args: argparse.Namespace) -> None:
    """Body of `python -m e2e.engine local`."""
    wanted = plan(args)
    if not wanted:
        sys.exit("nothing to start: give --prefill, --decode or --mixed a number")
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        with engines(*wanted) as started:
            for e in started:
                print(e.options.role, e.url, e.metrics_url, f"pid={e.pid}", f"log={e.log}", flush=True)
            print("ready; SIGINT or SIGTERM ends them", flush=True)
            while all(e.process.poll() is None for e in started):
                time.sleep(0.5)
            dead = next(e for e in started if e.process.poll() is not None)
            sys.exit(f"engine on port {dead.options.port} ended by itself:\n{tail(dead.log)}")
    except KeyboardInterrupt:
        return
