"""`make e2e-scaling`: the compressed Azure hour on paced pods on kind, then the recorded load in the simulator.

    python -m e2e.scaling                        everything, from nothing
    python -m e2e.scaling record FILE.json.gz    on a cluster that is up and installed (inside `e2e.cluster exec`)
    python -m e2e.scaling compare FILE.json.gz   simulates a recording and prints both side by side

Exits non-zero only where something could not run; how well both agree is printed, and judged by a test on the run that
is kept in bench/data/kind-run.
"""

import argparse
import os
import sys
from pathlib import Path
from typing import Any

from rich.console import Console

from e2e.scaling import recording, side, simulate
from e2e.scaling.trace import Squeeze, compressed

OUT = Path(".state") / "scaling"


def everything(args: argparse.Namespace) -> None:
    from e2e.demo.__main__ import inside, module

    file = str(args.file or OUT / "recording.json.gz")
    numbers = [f"--{name}={getattr(args, name)}" for name in ("seconds", "rate", "tail", "seed")]
    module("e2e.engine", "env")()
    module("e2e.engine", "models")()
    module("e2e.cluster", "up")()
    module("e2e.install")()
    inside("e2e.scaling", "record", file, *numbers)()
    module("e2e.scaling", "compare", file)()


def record(args: argparse.Namespace) -> None:
    from e2e.scaling.record import record as recorded

    squeeze = Squeeze(seconds=args.seconds, rate_rps=args.rate, seed=args.seed)
    rows, console, file = compressed(squeeze), Console(), Path(args.file)
    console.print(f"{len(rows)} requests in {args.seconds:.0f} s: {squeeze.faster:.2f} times as fast as they came")
    file.parent.mkdir(parents=True, exist_ok=True)
    recording.write(file, recorded(squeeze, rows, args.tail, console))
    console.print(f"{file}: {file.stat().st_size / 1000:.0f} kB")


def compare(args: argparse.Namespace) -> None:
    from e2e.scaling.page import html

    found = recording.read(Path(args.file))
    result = simulate.simulated(found, args.seed)
    print("recorded:", ", ".join(f"{name} {value}" for name, value in found.facts.items()))
    print(side.text(side.sides(found, result)))
    page = Path(args.file).with_suffix("").with_suffix(".html")
    page.write_text(html(found, result))
    print(f"page: {page}")


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m e2e.scaling", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("act", nargs="?", choices=["all", "record", "compare"], default="all")
    parser.add_argument("file", nargs="?")
    parser.add_argument("--seconds", type=float, default=720.0, help="length of the replay (720)")
    parser.add_argument("--rate", type=float, default=4.5, help="mean requests/s (4.5)")
    parser.add_argument("--tail", type=float, default=120.0, help="seconds to watch after the last request (120)")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    if args.act != "all" and args.file is None:
        sys.exit(f"{args.act} needs the file of a recording")
    os.environ.setdefault("PYTHONUNBUFFERED", "1")
    acts: dict[str, Any] = {"all": everything, "record": record, "compare": compare}
    acts[args.act](args)


if __name__ == "__main__":
    main()
