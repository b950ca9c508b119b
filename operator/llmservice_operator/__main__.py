"""`python -m llmservice_operator`: reads the settings, sets up the log, and hands over to kopf."""

import logging
import os

import kopf

from llmservice_operator import handlers, settings


def main() -> None:
    own = settings.read(os.environ)
    logging.basicConfig(level=own.log_level.upper(), format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    # kopf tells of every watch and every event that it passes on; only its trouble is of interest.
    logging.getLogger("kopf").setLevel(logging.DEBUG if own.log_level == "debug" else logging.WARNING)
    logging.getLogger(__name__).info("starts; namespaces: %s", ", ".join(own.watch_namespaces) or "all")
    kopf.run(
        registry=kopf.get_default_registry(),
        standalone=True,
        clusterwide=not own.watch_namespaces,
        namespaces=own.watch_namespaces,
    )


assert handlers  # importing it registers the handlers

if __name__ == "__main__":
    main()
