"""`llmservice`: small commands for people and for make. Thin: parses arguments, calls one function each."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import yaml

from llmservice_api import crd
from llmservice_api.resource import parse
from llmservice_cli import engine, plan_once, simulate
from llmservice_cli.problems import Problem


def _print_crd(arguments: argparse.Namespace) -> int:
    text = crd.as_yaml()
    if arguments.output is None:
        sys.stdout.write(text)
    else:
        Path(arguments.output).write_text(text)
    return 0


def _check(arguments: argparse.Namespace) -> int:
    """Unknown fields pass here as they do at the API server; `kubectl apply` refuses them."""
    failed = False
    for path in arguments.files:
        for document in yaml.safe_load_all(Path(path).read_text()):
            try:
                print(f"{path}: {parse(document).key} is well-formed")
            except ValueError as error:
                failed = True
                print(f"{path}: {error}", file=sys.stderr)
    return int(failed)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="llmservice", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    printer = commands.add_parser("crd", help="print the CustomResourceDefinition")
    printer.add_argument("-o", "--output", help="write to this file instead")
    printer.set_defaults(run=_print_crd)
    checker = commands.add_parser("check", help="check manifests of LLMServices without a cluster")
    checker.add_argument("files", nargs="+")
    checker.set_defaults(run=_check)
    engine.add_to(commands)
    plan_once.add_to(commands)
    simulate.add_to(commands)
    parsed = parser.parse_args(arguments)
    try:
        code: int = parsed.run(parsed)
    except Problem as problem:
        print(f"llmservice: {problem}", file=sys.stderr)
        return 2
    return code


if __name__ == "__main__":
    sys.exit(main())
