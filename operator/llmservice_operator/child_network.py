"""NetworkPolicies of one service: who reaches its routers, and who its engines. Pure.

Only what comes in is limited; where pods may go (the hub, NIXL's other end) is left alone. Whether a policy is obeyed
is up to the cluster's network: one that does not implement NetworkPolicies ignores them silently.
"""

from collections.abc import Iterator, Sequence

from llmservice_api.resource import LLMService
from llmservice_core import contract
from llmservice_operator import kinds
from llmservice_operator.child_parts import identity, manifest
from llmservice_operator.kinds import Manifest
from llmservice_operator.settings import Peer, Peers


def policies(service: LLMService, peers: Peers) -> list[Manifest]:
    rules = {
        contract.COMPONENT_ROUTER: _to_routers(peers),
        contract.COMPONENT_ENGINE: _to_engines(service, peers),
    }
    return [
        manifest(
            kinds.NETWORK_POLICY,
            service,
            f"{service.metadata.name}-{component}",
            identity(service, component),
            spec={
                "podSelector": {"matchLabels": identity(service, component)},
                "policyTypes": ["Ingress"],
                "ingress": list(ingress),
            },
        )
        for component, ingress in rules.items()
    ]


def _to_routers(peers: Peers) -> Iterator[Manifest]:
    yield _rule(peers.clients, contract.PORT_ROUTER_HTTP)
    yield _rule(_metrics_readers(peers), contract.PORT_ROUTER_METRICS)


def _to_engines(service: LLMService, peers: Peers) -> Iterator[Manifest]:
    routers, engines = (
        {"podSelector": {"matchLabels": identity(service, component)}}
        for component in (contract.COMPONENT_ROUTER, contract.COMPONENT_ENGINE)
    )
    yield _rule([routers], contract.PORT_ENGINE_HTTP)
    # NIXL agrees on port 5600 and then moves KV over ports that UCX chooses, so all of them.
    yield _rule([engines])
    yield _rule(_metrics_readers(peers), contract.PORT_ENGINE_METRICS)
    if peers.prometheus:
        yield _rule(peers.prometheus, contract.PORT_ENGINE_HTTP)


def _metrics_readers(peers: Peers) -> Sequence[Peer]:
    return [*peers.prometheus, *peers.operator] if peers.prometheus else []


def _rule(sources: Sequence[Peer], port: int | None = None) -> Manifest:
    """An empty list of sources would mean everybody, so it is left out where that is meant."""
    made: Manifest = {"from": [dict(source) for source in sources]} if sources else {}
    return made | ({} if port is None else {"ports": [{"port": port, "protocol": "TCP"}]})
