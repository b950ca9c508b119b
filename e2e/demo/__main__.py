"""`make demo`: from a clean checkout to a real cluster whose pools follow the load.

Everything is built into the user's cache and reused. Exits non-zero if the story did not happen.
"""

import argparse
import asyncio
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from rich.console import Console

from e2e.demo.services import NAMESPACE

CONSOLE = Console()
REPORT = Path(".state") / "demo" / "report.html"
Step = tuple[str, str, Callable[[], None]]


def module(*command: str) -> Callable[[], None]:
    return lambda: run([sys.executable, "-m", *command])


def run(command: list[str]) -> None:
    done = subprocess.run(command)
    if done.returncode:
        sys.exit(f"failed ({done.returncode}): {' '.join(command)}")


def inside(*command: str) -> Callable[[], None]:
    """The cluster may live in a network namespace of its own: its tool runs our command there."""
    return module("e2e.cluster", "exec", "--", sys.executable, "-m", *command)


STEPS: list[Step] = [
    ("engine environment", "2 s, first time 2 min (6 GB)", module("e2e.engine", "env")),
    ("models", "1 s, first time 1 min", module("e2e.engine", "models")),
    ("cluster", "45 s, first time about 13 min", module("e2e.cluster", "up")),
    ("install operator and Prometheus", "40 s", module("e2e.install")),
    ("chat: one question through two pods", "90 s", inside("e2e.demo", "chat")),
    ("paced: the pools follow the load", "9 min", inside("e2e.demo", "paced")),
]


def everything() -> None:
    started_s = time.monotonic()
    CONSOLE.print("A first run builds Kubernetes and a node image: about 13 minutes more than later ones.")
    for number, (name, usual, action) in enumerate(STEPS, 1):
        CONSOLE.rule(f"[{number}/{len(STEPS)}] {name} (usually {usual})")
        at_s = time.monotonic()
        action()
        left = len(STEPS) - number
        CONSOLE.print(f"{name}: {time.monotonic() - at_s:.0f} s; {left} steps left")
    CONSOLE.print(f"Done in {(time.monotonic() - started_s) / 60:.1f} min. `make cluster-down` removes the cluster.")


def act_chat() -> None:
    from e2e import kube
    from e2e.demo import chat, services

    kube.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}})
    kube.apply(services.chat())
    chat.wait_ready(NAMESPACE, "chat", 240)
    CONSOLE.print(kube.kubectl("-n", NAMESPACE, "get", "llmsvc", "chat"))
    answer, proof = chat.prove(NAMESPACE, "chat", kube.expose(NAMESPACE, "chat"), "chat")
    CONSOLE.print(f"Q: {chat.QUESTION}\nA: {answer}")
    CONSOLE.print(
        f"prompt KV: {proof.from_prefill_tokens:g} tokens pulled from the prefill pod on {proof.prefill_node}, "
        f"{proof.computed_tokens:g} computed by the decode pod on {proof.decode_node}"
    )
    kube.kubectl("-n", NAMESPACE, "delete", "llmsvc/chat", "service/chat-outside", "--wait")
    if not proof.ok:
        sys.exit("the KV did not go from the prefill pod to the decode pod on another node")


def act_paced() -> None:
    from e2e import kube
    from e2e.demo import chat, paced, page, services, story, table

    kube.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}})
    # Sizes, learned capacity and counters of an earlier run would be part of this one's story.
    kube.kubectl("-n", NAMESPACE, "delete", "llmsvc", "paced", "--ignore-not-found", "--wait")
    kube.wait_for("the pods of an earlier run to end", lambda: not kube.pods(NAMESPACE, "paced"), 180)
    began_s = time.time()
    kube.apply(services.paced())
    chat.wait_ready(NAMESPACE, "paced", 240)
    url = kube.expose(NAMESPACE, "paced")
    watch, load = asyncio.run(paced.play("paced", url, CONSOLE))
    checks, classes = paced.judge("paced", watch, load, began_s)
    CONSOLE.print(table.summary(checks, classes, story.failures(load.samples), watch.reactions()))
    CONSOLE.print(kube.kubectl("-n", NAMESPACE, "get", "llmsvc", "paced", "-o", "wide"))
    REPORT.parent.mkdir(parents=True, exist_ok=True)
    REPORT.write_text(page.html(services.paced(), watch, load.samples))
    CONSOLE.print(f"report of this run, as the simulator writes it: {REPORT}")
    if not all(check.ok for check in checks):
        sys.exit("the story did not happen")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m e2e.demo", description=__doc__)
    parser.add_argument("act", nargs="?", choices=["all", "chat", "paced"], default="all")
    act = parser.parse_args().act
    os.environ.setdefault("PYTHONUNBUFFERED", "1")
    {"all": everything, "chat": act_chat, "paced": act_paced}[act]()


if __name__ == "__main__":
    main()
