"""A docker engine in namespaces of its own: no uplink, own processes, own mounts; ended by killing one pid.

Nothing that runs in it can be reached from outside but through `command()`, and nothing of it survives `close()`.
The images it holds are kept in the cache between runs.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from e2e.cluster import commands, debian, paths, processes
from e2e.cluster.processes import Process

RUN = Path("/run/llmservice-cluster")  # short: a socket's path may have 107 bytes
NETWORK = RUN / "network"  # the network namespace is mounted on this file
OWNER = RUN / "owner"  # the state folder of whoever opened it: there is one enclosure per machine, one state per cache
CGROUP_PARENT = "/llmservice-cluster"
CGROUPS = Path("/sys/fs/cgroup")
READY_TIMEOUT_S = 60.0
GONE_TIMEOUT_S = 20.0
POLL_S = 0.05
CONTAINERD_CONFIG = f"""version = 2
root = "{{data}}/containerd"
state = "{RUN}/containerd"
disabled_plugins = ["io.containerd.grpc.v1.cri"]
[grpc]
  address = "{RUN}/containerd.sock"
"""


def command(argv: Sequence[str]) -> list[str]:
    """`argv` in the enclosure's network, and nothing else of it: `ip netns exec` would hide the cgroup mounts."""
    return ["nsenter", f"--net={NETWORK}", *argv]


def environment() -> dict[str, str]:
    """What programs need to find the engine, and to mistake no other for it."""
    return {
        "DOCKER_HOST": f"unix://{RUN}/docker.sock",
        "PATH": f"{paths.programs()}:{debian.search_path()}",
        "no_proxy": "*",
        "NO_PROXY": "*",
    }


def run(argv: Sequence[str], *, extra: Mapping[str, str] | None = None) -> str:
    """Run a program in the enclosure."""
    return commands.run(command(argv), extra={**environment(), **(extra or {})})


def open_network(owner: Path) -> None:
    """A network namespace with nothing in it but loopback; fine when it is there.

    `ip netns add` would leave a mount of /run/netns behind, so the namespace is mounted on a file of our own.
    """
    RUN.mkdir(mode=0o700, parents=True, exist_ok=True)
    OWNER.write_text(str(owner))
    if not is_open():
        NETWORK.touch()
        commands.run(["unshare", f"--net={NETWORK}", "true"])
    commands.run(command(["ip", "link", "set", "lo", "up"]))


def is_open() -> bool:
    """Whether the network namespace is there."""
    return os.path.ismount(NETWORK)  # Path.is_mount() knows only folders


def other_owner(us: Path) -> Path | None:
    """The state folder of somebody else whose cluster this is; None: nobody's, ours, or its state was lost."""
    if not is_open() or not OWNER.exists():
        return None
    owner = Path(OWNER.read_text())
    return owner if owner != us and (owner / "state.json").exists() else None


def start_engine() -> Process:
    """Start containerd and dockerd; the caller must remember the process before it waits for the engine."""
    for leftover in ("containerd.sock", "docker.sock", "dockerd.pid"):
        (RUN / leftover).unlink(missing_ok=True)
    paths.engine_data().mkdir(parents=True, exist_ok=True)
    (RUN / "containerd.toml").write_text(CONTAINERD_CONFIG.format(data=paths.engine_data()))
    isolated = ["unshare", "--mount", "--propagation=private", "--pid", "--fork", "--kill-child", "--mount-proc"]
    script = paths.PACKAGE / "node" / "engine.sh"
    daemons = ["bash", str(script), str(RUN), str(paths.engine_data()), CGROUP_PARENT]
    return processes.start(
        "docker engine",
        command([*isolated, *daemons]),
        log=RUN / "engine.log",
        tied=False,
        env=environment(),
    )


def wait_for_engine(engine: Process) -> None:
    deadline_s = time.monotonic() + READY_TIMEOUT_S
    while not _engine_answers():
        processes.check(engine)
        if time.monotonic() > deadline_s:
            raise TimeoutError(f"dockerd does not answer:\n{processes.log_tail(RUN / 'dockerd.log')}")
        time.sleep(POLL_S)


def forget_containers() -> None:
    """Remove what an interrupted run left in the engine's books: containers, their volumes,
    and images that have lost their name."""
    containers = run(["docker", "ps", "--all", "--quiet"]).split()
    if containers:
        run(["docker", "rm", "--force", "--volumes", *containers])
    run(["docker", "volume", "prune", "--all", "--force"])
    run(["docker", "image", "prune", "--force"])


def close(engine: Process | None) -> None:
    """Kill the enclosure and take away everything it made; may be called again and again."""
    if engine is not None:
        # The child of unshare is the first process of the PID namespace: all others die with it, and its mounts
        # go. unshare reaps it; killed itself, it would leave that to the machine's init, which may take a while.
        processes.kill_child(engine)
    _kill_inhabitants()
    _remove_cgroups()
    while is_open():
        commands.run(["umount", str(NETWORK)])
    if RUN.exists():
        commands.run(["rm", "-rf", "--one-file-system", str(RUN)])


def inhabitants() -> list[int]:
    """Pids of every process in the enclosure's network: daemons, pods, and what `exec` started."""
    if not is_open():
        return []
    wanted = _identity(NETWORK)
    return [
        int(entry.name)
        for entry in Path("/proc").iterdir()
        if entry.name.isdigit() and _identity(entry / "ns" / "net") == wanted
    ]


def contains_us() -> bool:
    """Whether this very process runs in the enclosure's network."""
    return is_open() and _identity(Path("/proc/self/ns/net")) == _identity(NETWORK)


def cgroups() -> list[Path]:
    """Every control group that the enclosure's containers made, innermost first."""
    parents = [CGROUPS / CGROUP_PARENT.lstrip("/"), *CGROUPS.glob(f"*{CGROUP_PARENT}")]
    found = [folder for parent in parents if parent.is_dir() for folder in _folders(parent)]
    return sorted(found, key=lambda folder: -len(folder.parts))


def _folders(parent: Path) -> list[Path]:
    return [Path(folder) for folder, _, _ in os.walk(parent)]


def _kill_inhabitants() -> None:
    deadline_s = time.monotonic() + GONE_TIMEOUT_S
    while pids := inhabitants():
        if time.monotonic() > deadline_s:
            raise TimeoutError(f"processes {pids} of the enclosure do not die")
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, 9)
        time.sleep(POLL_S)


def _remove_cgroups() -> None:
    """A control group can be removed once its last process is reaped, which takes a moment."""
    deadline_s = time.monotonic() + GONE_TIMEOUT_S
    while left := cgroups():
        for folder in left:
            with contextlib.suppress(OSError):
                folder.rmdir()
        if time.monotonic() > deadline_s:
            raise TimeoutError(f"control groups cannot be removed: {left[:3]}")
        if cgroups():
            time.sleep(POLL_S)


def _identity(path: Path) -> tuple[int, int] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino


def _engine_answers() -> bool:
    if not (RUN / "docker.sock").exists():
        return False
    try:
        commands.run(["docker", "version"], extra=environment())
    except commands.CommandError:
        return False
    return True
