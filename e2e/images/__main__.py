"""Command line of the images: python -m e2e.images {build,template}. Only parses and prints."""

from __future__ import annotations

import argparse

import yaml

from e2e.images import engine_image, engine_template, operator_image, prometheus_image, recipe

RECIPES = {
    "operator": operator_image.recipe,
    "engine": engine_image.recipe,
    "prometheus": prometheus_image.recipe,
}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m e2e.images")
    commands = parser.add_subparsers(dest="command", required=True)
    build = commands.add_parser("build", help="write docker archives into the cache; unchanged ones cost nothing")
    build.add_argument("names", nargs="*", default="all", choices=[*RECIPES, "all"], metavar="IMAGE")
    commands.add_parser("template", help="print the parts of an LLMService that run engines from this machine")
    args = parser.parse_args()
    if args.command == "build":
        _build(list(RECIPES) if "all" in args.names else args.names)
    else:
        print(yaml.safe_dump(_fragment(), sort_keys=False), end="")


def _build(names: list[str]) -> None:
    for name in names:
        built = recipe.build(RECIPES[name]())
        print(f"{built.reference}\t{built.archive}\t{built.megabytes:.0f} MB\t{built.seconds:.1f} s", flush=True)


def _fragment() -> dict[str, object]:
    return {
        "engine": {
            "image": recipe.reference(engine_image.recipe()),
            "env": engine_template.engine_env(),
            "args": engine_template.engine_args(),
        },
        "pools": {"prefill": {"template": engine_template.engine_template()}},
    }


if __name__ == "__main__":
    main()
