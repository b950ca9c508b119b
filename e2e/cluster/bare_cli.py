"""`bare up` and `bare down`: a bare control plane that outlives the command, remembered in its folder."""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
import time
from pathlib import Path
from typing import Any

from e2e.cluster import fake_nodes, kube_api, paths, processes
from e2e.cluster.bare import ControlPlane, prepare
from e2e.cluster.fake_nodes import FakeNodes, Node
from e2e.cluster.processes import Process

STATE = "processes.json"


def add_commands(parser: argparse.ArgumentParser) -> None:
    commands = parser.add_subparsers(required=True, metavar="up|down")
    up = commands.add_parser("up", help="start one; prints the kubeconfig's path")
    up.add_argument("--dir", type=Path, required=True, help="its folder: kubeconfig, logs, data")
    _add_node_options(up)
    up.set_defaults(run=_up)
    down = commands.add_parser("down", help="stop what was started in the folder")
    down.add_argument("--dir", type=Path, required=True)
    down.set_defaults(run=_down)
    nodes = commands.add_parser("nodes", help="pretend nodes until stopped (what `up` starts beside it)")
    nodes.add_argument("--kubeconfig", type=Path, required=True)
    _add_node_options(nodes)
    nodes.set_defaults(run=_nodes)


def _add_node_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--nodes", type=int, default=2, help="fake nodes (default 2)")
    parser.add_argument("--gpus", type=int, default=8, help="GPUs of each (default 8)")
    parser.add_argument("--start-s", type=float, default=0.2, help="bound pod -> Ready, in seconds")


def _up(arguments: argparse.Namespace) -> int:
    folder: Path = arguments.dir.absolute()
    _stop(folder)
    began_s = time.monotonic()
    plane = prepare(folder, controllers=True, tied=False)
    try:
        plane.start()
        if arguments.nodes:
            plane.running["fake-nodes"] = _start_nodes(plane, arguments)
    finally:
        _remember(folder, plane)
    print(f"ready after {time.monotonic() - began_s:.1f} s", file=sys.stderr)
    print(plane.kubeconfig)
    return 0


def _start_nodes(plane: ControlPlane, arguments: argparse.Namespace) -> Process:
    command = [sys.executable, "-m", "e2e.cluster", "bare", "nodes", f"--kubeconfig={plane.kubeconfig}"]
    command += [f"--nodes={arguments.nodes}", f"--gpus={arguments.gpus}", f"--start-s={arguments.start_s}"]
    log = plane.layout.folder / "fake-nodes.log"
    return processes.start("fake-nodes", command, log=log, tied=False, env={"PYTHONPATH": str(paths.REPOSITORY)})


def _nodes(arguments: argparse.Namespace) -> int:
    client = kube_api.Client(kube_api.read_kubeconfig(arguments.kubeconfig))
    wanted = [Node(name=f"gpu-{number + 1}", gpus=arguments.gpus) for number in range(arguments.nodes)]
    nodes = FakeNodes(client, wanted, start_s=arguments.start_s)
    nodes.start()
    while True:
        time.sleep(fake_nodes.RENEWAL_S)


def _down(arguments: argparse.Namespace) -> int:
    stopped = _stop(arguments.dir.absolute())
    print(f"stopped {', '.join(stopped) or 'nothing: none ran'}", file=sys.stderr)
    return 0


def _remember(folder: Path, plane: ControlPlane) -> None:
    records = [{**dataclasses.asdict(p), "log": str(p.log)} for p in plane.running.values()]
    (folder / STATE).write_text(json.dumps(records, indent=2))


def _stop(folder: Path) -> list[str]:
    state = folder / STATE
    if not state.exists():
        return []
    records: list[dict[str, Any]] = json.loads(state.read_text())
    found = [Process(**{**record, "log": Path(record["log"])}) for record in records]
    stopped = [process.name for process in found if processes.is_running(process)]
    for process in reversed(found):
        processes.kill(process)
    state.unlink()
    return stopped
