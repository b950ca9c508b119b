"""`python -m llmservice_serving.router`: see --help. In a pod LLMSERVICE_SERVICE is enough."""

import logging
import sys

import uvloop

from llmservice_serving.router import app, settings
from llmservice_serving.router.service_config import BadManifest


def main() -> None:
    try:
        chosen = settings.read(sys.argv[1:])
        logging.basicConfig(level=chosen.log_level.upper(), format="%(asctime)s %(levelname)s %(name)s %(message)s")
        uvloop.run(app.run(chosen))
    except (BadManifest, OSError, ValueError) as error:
        sys.exit(f"router: {error}")


if __name__ == "__main__":
    main()
