"""Command line of the engine room: python -m e2e.engine {env,lock,models,local,vllm-tests}. Only parses and prints."""

from __future__ import annotations

import argparse

from e2e.engine import env, local, models, vllm_tests


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m e2e.engine", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("env", help="make the engine environment, print its path")
    commands.add_parser("lock", help="rewrite serving/requirements-cpu.txt")
    make = commands.add_parser("models", help="make the model folders, print their paths")
    make.add_argument("names", nargs="*", default=models.NAMES)
    commands.add_parser("vllm-tests", help="vLLM's own scheduler tests, stock against ours")
    local.add_arguments(commands.add_parser("local", help="keep local engines running until interrupted"))
    args = parser.parse_args()
    if args.command == "env":
        print(env.ensure())
    elif args.command == "lock":
        env.write_lock()
    elif args.command == "models":
        print(*(models.ensure(name) for name in args.names), sep="\n")
    elif args.command == "vllm-tests":
        vllm_tests.run()
    else:
        local.run(args)


if __name__ == "__main__":
    main()
