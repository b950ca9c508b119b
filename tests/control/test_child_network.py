"""NetworkPolicies of a service: who reaches what, as the records say; the API server's opinion is asked elsewhere."""

from dataclasses import replace
from typing import Any

from llmservice_core import contract
from llmservice_operator import children
from llmservice_operator.kinds import Manifest, name_of
from llmservice_operator.settings import Peers
from tests.control.test_children import SETTINGS, SIZES, good

CLIENT = {"namespaceSelector": {"matchLabels": {"team": "apps"}}}
PROMETHEUS = {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "monitoring"}}}
OPERATOR = {"podSelector": {"matchLabels": {"app.kubernetes.io/name": "llmservice-operator"}}}


def policies(**peers: Any) -> dict[str, Manifest]:
    service, settings = good(), replace(SETTINGS, network=Peers(operator=(OPERATOR,), **peers))
    made = children.render(service, settings, children.look(service, settings), SIZES)
    return {name_of(m): m for m in made if m["kind"] == "NetworkPolicy"}


def sources(policy: Manifest, port: int) -> list[Any] | None:
    """Who reaches this port: None where everybody does."""
    rules = [r for r in policy["spec"]["ingress"] if port in [p["port"] for p in r.get("ports", [{"port": port}])]]
    assert rules, f"nobody reaches {port}"
    return None if any("from" not in r for r in rules) else [s for r in rules for s in r["from"]]


def of(component: str) -> dict[str, Any]:
    labels = {contract.LABEL_NAME: "chat", contract.LABEL_COMPONENT: component}
    return {"podSelector": {"matchLabels": labels}}


def test_none_without_the_setting() -> None:
    service = good()
    made = children.render(service, SETTINGS, children.look(service, SETTINGS), SIZES)
    assert "NetworkPolicy" not in {m["kind"] for m in made}


def test_a_policy_for_routers_and_one_for_engines_that_limit_what_comes_in() -> None:
    made = policies()
    assert set(made) == {"chat-router", "chat-engine"}
    for component in ("router", "engine"):
        spec = made[f"chat-{component}"]["spec"]
        assert spec["podSelector"] == of(component)["podSelector"]
        assert spec["policyTypes"] == ["Ingress"]


def test_engines_are_reached_by_their_own_routers_engines_and_prometheus() -> None:
    engine = policies(clients=(CLIENT,), prometheus=(PROMETHEUS,))["chat-engine"]
    own = [of("engine")]
    assert sources(engine, contract.PORT_ENGINE_HTTP) == [of("router"), *own, PROMETHEUS]
    assert sources(engine, contract.PORT_ENGINE_METRICS) == [*own, PROMETHEUS, OPERATOR]
    assert sources(engine, contract.PORT_NIXL_SIDE_CHANNEL) == own
    assert sources(engine, 45_678) == own, "UCX chooses ports by itself"


def test_the_api_of_engines_is_closed_to_clients_also_where_no_prometheus_is_named() -> None:
    engine = policies()["chat-engine"]
    assert sources(engine, contract.PORT_ENGINE_HTTP) == [of("router"), of("engine")]
    assert sources(engine, contract.PORT_ENGINE_METRICS) is None


def test_routers_are_reached_by_clients_or_everybody() -> None:
    assert sources(policies()["chat-router"], contract.PORT_ROUTER_HTTP) is None
    router = policies(clients=(CLIENT,), prometheus=(PROMETHEUS,))["chat-router"]
    assert sources(router, contract.PORT_ROUTER_HTTP) == [CLIENT]
    assert sources(router, contract.PORT_ROUTER_METRICS) == [PROMETHEUS, OPERATOR]
