"""Who may come in, through the real Service: keys from a Secret, refusals as OpenAI's client sees them, a rotation."""

from collections.abc import Iterator

import httpx
import openai
import pytest
import yaml

from e2e import kube
from e2e.chain import services
from e2e.demo.chat import wait_ready
from llmservice_core import contract

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(400)]

NAME, SECRET = "keyed", "keyed-keys"
TEAM, TEAM_NEW = "sk-team-" + "a" * 40, "sk-team-" + "n" * 40
JOBS, SLOW = "sk-jobs-" + "b" * 40, "sk-slow-" + "c" * 40
ROUTER = {"component": contract.COMPONENT_ROUTER}


def write_keys(team: str) -> None:
    tenants = {
        "team": {"keys": [team]},
        "jobs": {"keys": [JOBS], "classes": ["batch"]},
        "slow": {"keys": [SLOW], "tokensPerMinute": 60},
    }
    kube.apply(
        {
            "apiVersion": "v1",
            "kind": "Secret",
            "metadata": {"name": SECRET, "namespace": services.NAMESPACE},
            "stringData": {name: yaml.safe_dump(said) for name, said in tenants.items()},
        }
    )


@pytest.fixture(scope="module")
def keyed(namespace: str) -> Iterator[str]:
    """A mixed pool behind keys; the URL of its Service's node port."""
    write_keys(TEAM)
    kube.apply(services.mixed(NAME, router={"replicas": 1, "access": {"apiKeysSecret": SECRET}}))
    wait_ready(namespace, NAME, 240)
    yield kube.expose(namespace, NAME)
    kube.kubectl("-n", namespace, "delete", "llmsvc", NAME)
    kube.kubectl("-n", namespace, "delete", "secret", SECRET)


def ask(url: str, key: str, service_class: str | None = None) -> int:
    """Tokens of the answer; OpenAI's own error when it is refused."""
    client = openai.OpenAI(base_url=f"{url}/v1", api_key=key, timeout=60, max_retries=0)
    headers = {contract.HEADER_CLASS: service_class} if service_class else {}
    reply = client.completions.create(model=NAME, prompt="hello " * 5, max_tokens=6, extra_headers=headers)
    assert reply.usage is not None
    return reply.usage.completion_tokens


def ask_often(url: str, key: str) -> None:
    for _ in range(5):
        ask(url, key)


def test_a_key_opens_the_door_and_nothing_else_does(keyed: str) -> None:
    assert ask(keyed, TEAM) > 0
    with pytest.raises(openai.AuthenticationError) as unknown:
        ask(keyed, "sk-nobody-" + "x" * 40)
    assert unknown.value.code == "invalid_api_key"
    bare = httpx.post(f"{keyed}/v1/completions", json={"model": NAME, "prompt": "x"}, timeout=20)
    assert (bare.status_code, bare.headers["WWW-Authenticate"]) == (401, "Bearer")


def test_a_key_keeps_to_its_classes(keyed: str) -> None:
    assert ask(keyed, JOBS) > 0  # no class named: the one that it may
    with pytest.raises(openai.PermissionDeniedError) as refused:
        ask(keyed, JOBS, "interactive")
    assert refused.value.code == "class_not_allowed"


def test_a_tenant_that_used_up_its_minute_is_told_when_to_come_back(keyed: str) -> None:
    """60 tokens a minute, one comes back each second: the wait is as long as the tokens that are short."""
    with pytest.raises(openai.RateLimitError) as late:
        ask_often(keyed, SLOW)
    assert late.value.code == "rate_limit_exceeded"
    assert 1 <= int(late.value.response.headers["Retry-After"]) <= 60
    assert ask(keyed, TEAM) > 0


def test_a_rotated_key_takes_the_place_of_the_old_one_without_a_restart(keyed: str, namespace: str) -> None:
    (before,) = (p for p in kube.pods(namespace, NAME, **ROUTER) if kube.is_ready(p))
    write_keys(TEAM_NEW)
    # A change of the pod makes the kubelet look at its volumes now; it would by itself within a minute and a half.
    kube.kubectl("-n", namespace, "annotate", "pod", before["metadata"]["name"], "tests/looked=now", "--overwrite")
    kube.wait_for("the new key to be let in", lambda: is_let_in(keyed, TEAM_NEW), 120, every_s=0.5)
    assert not is_let_in(keyed, TEAM)
    (after,) = kube.pods(namespace, NAME, **ROUTER)
    lives = [(p["metadata"]["uid"], p["status"]["containerStatuses"][0]["restartCount"]) for p in (before, after)]
    assert lives[0] == lives[1]


def is_let_in(url: str, key: str) -> bool:
    try:
        return ask(url, key) > 0
    except openai.AuthenticationError:
        return False
