"""Continuous streams of two classes through every fault that pods, nodes and people cause; every answer compared.

    python -m e2e.cluster exec -- python -m e2e.soak [--minutes 90] [--scale 1] [--seed 1] [--width 6] [--out DIR]

On the kind cluster with the chart installed (`make soak` does both). `--scale` multiplies how often each fault comes,
never less than once: `--minutes 8 --scale 0.1` has each once. A window begins with its fault and lasts until the next.
Exit 1 when an answer failed, was cut or was altered, but for streams of a router that was killed, or when the service
did not recover from a fault.
"""

import argparse
import json
import random
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from e2e import kube
from e2e.chain import services
from e2e.chain.streams import Streams, streaming
from e2e.demo.chat import wait_ready
from e2e.soak import faults, report
from e2e.soak.counters import RouterCounters, grown, settle
from e2e.soak.record import Window
from e2e.soak.schedule import Planned, schedule
from e2e.soak.site import Site

NAME = "soak"
SIZES = {"prefill": 2, "decode": 2}
ROUTERS = 2
CLASSES = ("interactive", "batch")
START_S = 600.0
WELL_S = 300.0
QUIET_S = 5.0
"""At least so long nothing is done between two faults."""


class Runner:
    """Carries out the plan, one fault after the other, and keeps a window for each."""

    def __init__(self, site: Site, streams: Streams, counters: RouterCounters, seed: int) -> None:
        self._site, self._streams, self._counters = site, streams, counters
        self._random = random.Random(seed)
        self.first_s = time.monotonic()
        self.windows: list[Window] = []

    def run(self, plan: list[Planned]) -> None:
        for number, planned in enumerate(plan):
            end_s = plan[number + 1].at_s if number + 1 < len(plan) else planned.at_s + QUIET_S
            self.windows.append(self._window(planned.kind, self.first_s + end_s))
            self._say(f"{number + 1} of {len(plan)}", self.windows[-1])

    def _window(self, kind: str, end_s: float) -> Window:
        """The fault, the wait until all is well again, and quiet until `end_s`."""
        began_s, counted = time.monotonic(), self._counters.now()
        what, well_s, problem = "", None, ""
        try:
            what = faults.FAULTS[kind](self._site, self._random)
            kube.wait_for("the service to be whole again", self._site.is_whole, WELL_S)
            well_s = time.monotonic()
        except faults.problems() as error:
            problem = faults.words(error)
        time.sleep(max(QUIET_S, end_s - time.monotonic()))
        return Window(
            kind=kind,
            what=what,
            began_s=began_s,
            ended_s=time.monotonic(),
            well_s=well_s,
            problem=problem,
            counters=grown(counted, self._counters.now()),
        )

    def _say(self, number: str, window: Window) -> None:
        streams = self._streams
        well = f"well after {window.well_s - window.began_s:.0f} s" if window.well_s else f"NOT WELL: {window.problem}"
        total = f"{streams.whole} whole, {len(streams.lost)} not" + "".join(f"; {w}" for w in streams.lost[-1:])
        minute = (window.began_s - self.first_s) / 60
        print(f"{minute:5.1f} min, {number}, {window.kind}: {window.what}; {well}; answers: {total}", flush=True)


@contextmanager
def service(namespace: str) -> Iterator[Site]:
    """Made, Ready and whole; deleted at the end."""
    kube.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace}})
    kube.apply(services.leaving(NAME, **SIZES, routers=ROUTERS))
    site = Site(namespace=namespace, name=NAME, sizes=SIZES, routers=ROUTERS)
    try:
        wait_ready(namespace, NAME, START_S)
        kube.wait_for("all pods", site.is_whole, START_S)
        yield site
    finally:
        kube.kubectl("-n", namespace, "delete", "llmsvc", NAME)


def soak(args: argparse.Namespace) -> report.Soak:
    plan = schedule(args.minutes, args.scale, args.seed)
    with service(services.NAMESPACE) as site:
        url = kube.expose(site.namespace, NAME)
        with RouterCounters(site) as counters:
            with streaming(url, NAME, args.width, CLASSES) as streams:
                runner = Runner(site, streams, counters, args.seed)
                with suppress(KeyboardInterrupt):
                    runner.run(plan)
            settle()
            return report.Soak(
                settings={k: v for k, v in vars(args).items() if k != "out"},
                windows=runner.windows,
                answers=list(streams.answers),
                kills=list(site.router_kills),
                counters=grown({}, counters.now()),
                first_s=runner.first_s,
                not_done=len(plan) - len(runner.windows),
            )


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m e2e.soak", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--minutes", type=float, default=90.0)
    parser.add_argument("--scale", type=float, default=1.0)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--width", type=int, default=6, help="streams at any time, of the classes in turns")
    parser.add_argument("--out", type=Path, default=Path("build/soak"), help="folder for soak.json and soak.md")
    args = parser.parse_args()
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # as Ctrl-C: what was seen until then is reported
    done = soak(args)
    args.out.mkdir(parents=True, exist_ok=True)
    (args.out / "soak.json").write_text(json.dumps(report.as_json(done), indent=1) + "\n")
    (args.out / "soak.md").write_text(report.markdown(done))
    print(f"\n{report.markdown(done)}\n{args.out}/soak.json, soak.md", flush=True)
    return 0 if done.is_good else 1


if __name__ == "__main__":
    sys.exit(main())
