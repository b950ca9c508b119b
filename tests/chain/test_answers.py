"""One manifest, one answer: the OpenAI client through router, prefill pod, KV transfer and decode pod on real kind."""

from typing import Any

import openai
import pytest

from e2e import kube
from e2e.demo.chat import EXTERNAL, LOCAL, prompt_tokens
from llmservice_core import contract, metric_names

pytestmark = pytest.mark.cluster


def client(url: str) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{url}/v1", api_key="none", timeout=60, max_retries=0)


def decode_pod(namespace: str) -> str:
    (pod,) = (p for p in kube.pods(namespace, "tiny", pool="decode") if kube.is_ready(p))
    return str(pod["metadata"]["name"])


def test_columns_tell_the_state(tiny: dict[str, Any], namespace: str) -> None:
    header, row = kube.kubectl("-n", namespace, "get", "llmsvc", "tiny").splitlines()
    cells = dict(zip(header.split(), row.split(), strict=False))
    assert (cells["READY"], cells["PREFILL"], cells["DECODE"]) == ("True", "1/1", "1/1")


def test_the_kv_comes_from_the_prefill_pod(url: str, namespace: str) -> None:
    pod = decode_pod(namespace)
    before = prompt_tokens(namespace, pod)
    prompt = "the quick brown fox jumps over the lazy dog " * 7
    reply = client(url).completions.create(model="tiny", prompt=prompt, max_tokens=8, temperature=0)
    assert reply.usage is not None
    after = kube.wait_for("counters", lambda: (now := prompt_tokens(namespace, pod)) != before and now, 20)
    assert after[EXTERNAL] - before[EXTERNAL] == reply.usage.prompt_tokens
    assert after[LOCAL] == before[LOCAL]


def test_streamed_and_whole_answers_are_the_same(url: str) -> None:
    asked = {"model": "tiny", "prompt": "once upon a time " * 9, "max_tokens": 24, "temperature": 0}
    whole = client(url).completions.create(**asked)
    parts = client(url).completions.create(**asked, stream=True)
    assert "".join(part.choices[0].text for part in parts if part.choices) == whole.choices[0].text


def test_a_class_that_does_not_exist_is_refused_with_the_names(url: str) -> None:
    with pytest.raises(openai.BadRequestError, match="interactive"):
        client(url).completions.create(
            model="tiny", prompt="x", max_tokens=1, extra_headers={contract.HEADER_CLASS: "gold"}
        )


def test_prometheus_measures_both_sides_per_class(url: str, namespace: str) -> None:
    for _ in range(3):
        list(client(url).completions.create(model="tiny", prompt="count me " * 9, max_tokens=9, stream=True))
    label = f'{{llmservice="{namespace}/tiny",class="interactive"}}'

    def seen(slo: str) -> float:
        return sum(v for m, v in kube.prometheus(f"{metric_names.SLO_EVENTS}{label}") if m["slo"] == slo)

    kube.wait_for("TTFT events from the router", lambda: seen("ttft") >= 3, 40)
    kube.wait_for("TBT events from the engines", lambda: seen("tbt") >= 24, 40)


def test_a_mixed_pool_answers_too(cluster: None, namespace: str) -> None:
    from e2e.chain import services
    from e2e.demo.chat import wait_ready

    kube.apply(services.mixed("mono"))
    wait_ready(namespace, "mono", 240)
    reply = client(kube.expose(namespace, "mono")).completions.create(model="mono", prompt="hello", max_tokens=4)
    assert reply.usage is not None
    assert reply.usage.completion_tokens == 4
    kube.kubectl("-n", namespace, "delete", "llmsvc", "mono")
