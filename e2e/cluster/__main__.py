"""`python -m e2e.cluster ...`: the commands of the room; what they do lies in the modules they come from."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from e2e.cluster import bare_cli, cluster, cluster_cli, commands, processes, programs


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m e2e.cluster", description="Clusters for demo and tests.")
    choices = parser.add_subparsers(required=True, metavar="COMMAND")
    cluster_cli.add_commands(choices)
    bare_cli.add_commands(choices.add_parser("bare", help="API server, controllers and fake nodes only"))
    chosen = parser.parse_args(arguments)
    try:
        return int(chosen.run(chosen))
    except (programs.MissingProgramError, cluster.NoClusterError) as problem:
        print(problem, file=sys.stderr)
    except (commands.CommandError, processes.ProcessDiedError, TimeoutError) as problem:
        print(f"{problem}\nwhat was begun is taken away by `down`, or by the next `up`", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
