"""First act: a real small model answers through prefill/decode disaggregation, with proof of the way of its KV."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import openai

from e2e import kube
from llmservice_core import contract

QUESTION = "What is the capital of France?"
EXTERNAL = 'source="external_kv_transfer"'
LOCAL = 'source="local_compute"'


@dataclass(frozen=True, slots=True, kw_only=True)
class Proof:
    """Prompt tokens of the decode pod by where their KV came from, and the two nodes."""

    from_prefill_tokens: float
    computed_tokens: float
    prefill_node: str
    decode_node: str

    @property
    def ok(self) -> bool:
        return self.from_prefill_tokens > 0 and self.computed_tokens == 0 and self.prefill_node != self.decode_node


def wait_ready(namespace: str, name: str, timeout_s: float) -> Any:
    return kube.wait_for(
        f"LLMService {namespace}/{name} to be Ready",
        lambda: (s := kube.service(namespace, name)) and kube.condition(s, "Ready") == "True" and s,
        timeout_s,
    )


def ask(url: str, model: str, question: str = QUESTION) -> str:
    client = openai.OpenAI(base_url=f"{url}/v1", api_key="none", timeout=120, max_retries=5)
    reply = client.chat.completions.create(
        model=model, messages=[{"role": "user", "content": question}], max_tokens=40, temperature=0
    )
    return reply.choices[0].message.content or ""


def prompt_tokens(namespace: str, pod: str) -> Mapping[str, float]:
    metrics = kube.pod_metrics(namespace, pod, contract.PORT_ENGINE_HTTP)
    return {
        source: sum(v for k, v in metrics.items() if k.startswith("vllm:prompt_tokens_by_source_total") and source in k)
        for source in (EXTERNAL, LOCAL)
    }


def prove(namespace: str, name: str, url: str, model: str) -> tuple[str, Proof]:
    """Ask one question between two readings of the decode pod's counters."""
    (prefill,) = (p for p in kube.pods(namespace, name, pool="prefill") if kube.is_ready(p))
    (decode,) = (p for p in kube.pods(namespace, name, pool="decode") if kube.is_ready(p))
    pod = decode["metadata"]["name"]
    before = prompt_tokens(namespace, pod)
    answer = ask(url, model)
    after = kube.wait_for(
        "the decode pod's counters to move",
        lambda: (now := prompt_tokens(namespace, pod)) != before and now,
        30,
    )
    return answer, Proof(
        from_prefill_tokens=after[EXTERNAL] - before[EXTERNAL],
        computed_tokens=after[LOCAL] - before[LOCAL],
        prefill_node=prefill["spec"]["nodeName"],
        decode_node=decode["spec"]["nodeName"],
    )
