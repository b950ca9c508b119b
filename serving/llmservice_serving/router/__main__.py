"""`python -m llmservice_serving.router`: see --help. In a pod LLMSERVICE_SERVICE is enough."""

import logging
import resource
import sys

import uvloop

from llmservice_serving.router import app, settings
from llmservice_serving.router.service_config import BadManifest


def main() -> None:
    try:
        chosen = settings.read(sys.argv[1:])
        logging.basicConfig(level=chosen.log_level.upper(), format="%(asctime)s %(levelname)s %(name)s %(message)s")
        allow_many_connections()
        uvloop.run(app.run(chosen))
    except (BadManifest, OSError, ValueError) as error:
        sys.exit(f"router: {error}")


def allow_many_connections() -> None:
    """As many as the container may have: the usual soft limit of 1024 files is that of interactive shells."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


if __name__ == "__main__":
    main()
