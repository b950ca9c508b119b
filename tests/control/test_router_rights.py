"""What a router's account may do: read its pods and its own LLMService in its own namespace. The API server says."""

import pytest

from tests.control.support import Api, Operator, eventually, service

pytestmark = [pytest.mark.api, pytest.mark.timeout(300)]
REVIEW = """
apiVersion: authorization.k8s.io/v1
kind: SubjectAccessReview
spec:
  user: {user}
  groups: ["system:serviceaccounts", "system:authenticated"]
  resourceAttributes: {{group: "{group}", resource: {resource}, verb: {verb}, name: "{name}", namespace: "{namespace}"}}
"""
READ = ("get", "list", "watch")
WRITE = ("create", "update", "patch", "delete", "deletecollection")


def may(api: Api, verb: str, resource: str, *, group: str = "", name: str = "", namespace: str | None = None) -> bool:
    where = api.namespace if namespace is None else namespace
    user = f"system:serviceaccount:{api.namespace}:chat-router"
    review = REVIEW.format(user=user, group=group, resource=resource, verb=verb, name=name, namespace=where)
    answer = api.plane.kubectl("create", "-f", "-", "-o", "jsonpath={.status.allowed}", stdin=review)
    return answer.strip() == "true"


def test_a_router_may_read_its_pods_and_its_own_service_and_no_more(running: Operator, api: Api) -> None:
    api.create(service())
    eventually(api.is_ready, 180)
    ours = {"group": "llmservice.dev", "resource": "llmservices"}
    assert all(may(api, verb, "pods") for verb in READ)
    assert all(may(api, verb, **ours, name="chat") for verb in READ)
    for verb in READ:
        assert not may(api, verb, **ours, name="other"), verb
        assert not may(api, verb, **ours), "a list of all of them"
        assert not may(api, verb, "pods", namespace="default"), verb
        assert not may(api, verb, "pods", namespace=""), "of the whole cluster"
        assert not may(api, verb, "secrets"), verb
        assert not may(api, verb, "pods/log"), verb
    for verb in WRITE:
        assert not may(api, verb, "pods"), verb
        assert not may(api, verb, "pods/exec"), verb
        assert not may(api, verb, **ours, name="chat"), verb
        assert not may(api, verb, "deployments", group="apps"), verb
