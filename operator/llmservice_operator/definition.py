"""Whether the API server serves LLMServices. kopf looks once per change of a definition, and the API server announces a
definition before it serves it: an operator that looked in between would be deaf until its restart.

So we wait before kopf looks, and ask for a restart when the definition goes away. It only reads.
"""

import asyncio
import logging

from llmservice_operator.cluster import Cluster
from llmservice_operator.errors import NotReady
from llmservice_operator.kinds import LLMSERVICE

WAIT_S = 1.0
LOOK_S = 30.0

log = logging.getLogger(__name__)


async def until_served(cluster: Cluster) -> None:
    said = False
    while await _is_served(cluster) is not True:
        if not said:
            log.warning("waiting for the definition of %s: install the CRD", LLMSERVICE.plural)
            said = True
        await asyncio.sleep(WAIT_S)


async def until_lost(cluster: Cluster) -> None:
    """An API server that does not answer has lost nothing."""
    while await _is_served(cluster) is not False:
        await asyncio.sleep(LOOK_S)
    log.error("the definition of %s was deleted: the operator restarts to wait for it", LLMSERVICE.plural)


async def _is_served(cluster: Cluster) -> bool | None:
    """None: the API server does not say."""
    try:
        return await cluster.serves(LLMSERVICE)
    except NotReady:
        return None
