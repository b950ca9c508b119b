"""The commands about the cluster: up, down, status, kubeconfig, exec, load-image."""

from __future__ import annotations

import argparse
import os
import sys
import time
from pathlib import Path
from typing import Any

from e2e.cluster import cluster, kind_cluster
from e2e.cluster.cluster import NoClusterError


def add_commands(commands: Any) -> None:
    up = commands.add_parser("up", help="make a cluster with GPU nodes, or use a named one; prints its kubeconfig")
    up.add_argument("--kubeconfig", type=Path, help="use the cluster of this file; --context must be named too")
    up.add_argument("--context", help="the context in --kubeconfig")
    up.set_defaults(run=_up)
    commands.add_parser("down", help="take the cluster away, with all it left").set_defaults(run=_down)
    commands.add_parser("status", help="what is up, and its nodes; exit 1 when nothing is").set_defaults(run=_status)
    commands.add_parser("kubeconfig", help="print the kubeconfig's path").set_defaults(run=_kubeconfig)
    inside = commands.add_parser("exec", help="run a command that reaches services, pods and API: exec -- CMD...")
    inside.add_argument("argv", nargs=argparse.REMAINDER)
    inside.set_defaults(run=_exec)
    load = commands.add_parser("load-image", help="bring the images of docker archives to every node")
    load.add_argument("archive", nargs="+", type=Path)
    load.set_defaults(run=_load)


def _up(arguments: argparse.Namespace) -> int:
    began_s = time.monotonic()
    made = cluster.up(kubeconfig=arguments.kubeconfig, context=arguments.context)
    _say(f"{made.way} cluster ready after {time.monotonic() - began_s:.0f} s, context {made.context}")
    print(made.kubeconfig)
    return 0


def _down(_: argparse.Namespace) -> int:
    began_s = time.monotonic()
    cluster.down()
    _say(f"no cluster is left ({time.monotonic() - began_s:.0f} s)")
    return 0


def _status(_: argparse.Namespace) -> int:
    found = cluster.current()
    print(f"{found.way} cluster, context {found.context}, kubeconfig {found.kubeconfig}")
    gpus = f"GPUS:.status.allocatable.{kind_cluster.GPU.replace('.', chr(92) + '.')}"
    columns = f"NODE:.metadata.name,READY:.status.conditions[-1].status,{gpus},VERSION:.status.nodeInfo.kubeletVersion"
    print(found.kubectl("get", "nodes", "-o", f"custom-columns={columns}"), end="")
    return 0


def _kubeconfig(_: argparse.Namespace) -> int:
    print(cluster.current().kubeconfig)
    return 0


def _exec(arguments: argparse.Namespace) -> int:
    argv = arguments.argv[1:] if arguments.argv[:1] == ["--"] else arguments.argv
    if not argv:
        raise NoClusterError("say what to run: exec -- CMD...")
    found = cluster.current()
    command = found.command(argv)
    try:
        os.execvpe(command[0], command, found.environment())
    except FileNotFoundError:
        raise NoClusterError(f"there is no program {command[0]}") from None


def _load(arguments: argparse.Namespace) -> int:
    found = cluster.current()
    for archive in arguments.archive:
        found.load_image(archive)
        _say(f"loaded {archive}")
    return 0


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
