"""Every knob of the router, read once at start from the command line or the environment. Never changed afterwards."""

import argparse
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

from llmservice_core.affinity import BLOCKS_PER_ENGINE
from llmservice_core.contract import ENV_SERVICE, PORT_ENGINE_HTTP, PORT_ROUTER_HTTP, PORT_ROUTER_METRICS
from llmservice_core.picking import Policy

PREFIX = "LLMSERVICE_ROUTER_"
ON_OFF = ("on", "off")


def _knob(default: object, what: str) -> Any:
    return field(default=default, metadata={"help": what})


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """A field is the flag `--its-name`, or the environment variable LLMSERVICE_ROUTER_ITS_NAME."""

    service: str = _knob("", f"<namespace>/<name> of the LLMService; default from {ENV_SERVICE}")
    config: str = _knob("", "file with the LLMService manifest, instead of reading it through the API server")
    kubeconfig: str = _knob("", "kubeconfig file; default: the pod's ServiceAccount, else KUBECONFIG")
    context: str = _knob("", "context in that kubeconfig; default: its current one")
    prefill: tuple[str, ...] = _knob((), "URL of a prefill engine, instead of watching pods; may be repeated")
    decode: tuple[str, ...] = _knob((), "URL of a decode engine; may be repeated")
    mixed: tuple[str, ...] = _knob((), "URL of a mixed engine; may be repeated")
    keys_dir: str = _knob("", "folder with the API keys, one file per tenant (a mounted Secret); default: open to all")
    host: str = _knob("0.0.0.0", "address to listen on")
    port: int = _knob(PORT_ROUTER_HTTP, "port of the OpenAI API")
    metrics_port: int = _knob(PORT_ROUTER_METRICS, "port of /metrics, /healthz and /readyz")
    engine_port: int = _knob(PORT_ENGINE_HTTP, "port of the engines' HTTP server in watched pods")
    policy: str = _knob("", f"{', '.join(Policy)}; default: spec.router.routing of the LLMService")
    resume: str = _knob("", "on, off: streams whose engine died go on in another; default: spec.router.resume")
    resume_wait_s: float = _knob(60.0, "a stream that has begun waits this long for an engine that goes on with it")
    step_tokens: int = _knob(0, "tokens of an engine's step, two of which it holds; default: tokenBudget, else 2048")
    prefix_blocks: int = _knob(BLOCKS_PER_ENGINE, "blocks of 128 tokens remembered per engine (prefix-affinity)")
    queue_tokens: int = _knob(1_000_000, "predicted prompt tokens of one class that may wait here; then 503")
    log_level: str = _knob("INFO", "DEBUG also logs each good request")
    wait_for_endpoint_s: float = _knob(10.0, "a request waits this long when no engine can take it, then 503")
    wait_for_start_s: float = _knob(900.0, "the same while the LLMService says that engines are on their way")
    exclude_s: float = _knob(2.0, "an engine that failed gets nothing new for this long")
    max_attempts: int = _knob(3, "routes tried per request while nothing was sent to the client")
    connect_timeout_s: float = _knob(2.0, "time to connect to an engine in the same cluster")
    prefill_timeout_s: float = _knob(120.0, "its queue in the engine included; twice the TTFT target if more")
    idle_timeout_s: float = _knob(300.0, "longest silence of a streaming engine; twice the TTFT target if more")
    answer_timeout_s: float = _knob(1800.0, "whole answer of a request that does not stream")
    max_body_bytes: int = _knob(8 << 20, "a larger request is refused with 413")
    max_head_bytes: int = _knob(32 << 10, "request line and headers together; more is refused with 431")
    head_timeout_s: float = _knob(10.0, "from the first byte of a request to the end of its headers, then 408")
    body_timeout_s: float = _knob(60.0, "from its headers to the end of its body, then 408")
    stall_timeout_s: float = _knob(60.0, "a client that takes nothing of its answer for this long is cut off")
    keep_alive_s: float = _knob(75.0, "a connection without a request is closed after this long")
    drain_delay_s: float = _knob(3.0, "after SIGTERM still accepting this long: others learn of it with a delay")
    drain_limit_s: float = _knob(120.0, "after SIGTERM streams get this long to end")

    @property
    def has_static_engines(self) -> bool:
        return bool(self.prefill or self.decode or self.mixed)


def read(argv: Sequence[str], environ: Mapping[str, str] = os.environ) -> Settings:
    """Command line over environment over default."""
    parser = argparse.ArgumentParser(prog="python -m llmservice_serving.router", description=__doc__)
    for f in fields(Settings):
        parser.add_argument(f"--{f.name.replace('_', '-')}", help=f.metadata["help"], **_argument(f.default, f.name))
    given = {name: value for name, value in vars(parser.parse_args(argv)).items() if value is not None}
    chosen: dict[str, Any] = {**_from_environment(environ), **given}
    if chosen.get("policy") and chosen["policy"] not in set(Policy):
        parser.error(f"--policy is one of: {', '.join(Policy)}")
    if chosen.get("resume") and chosen["resume"] not in ON_OFF:
        parser.error(f"--resume is one of: {', '.join(ON_OFF)}")
    values: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in chosen.items()}
    return Settings(**values)


def _argument(default: Any, name: str) -> dict[str, Any]:
    if isinstance(default, tuple):
        return {"action": "append", "metavar": "URL"}
    return {"type": type(default), "metavar": name.rpartition("_")[2].upper()}


def _from_environment(environ: Mapping[str, str]) -> dict[str, Any]:
    found: dict[str, Any] = {"service": environ[ENV_SERVICE]} if environ.get(ENV_SERVICE) else {}
    for f in fields(Settings):
        default: Any = f.default
        text = environ.get(PREFIX + f.name.upper())
        # Kubernetes writes LLMSERVICE_ROUTER_PORT=tcp://... into pods beside a Service called llmservice-router.
        if text and not text.startswith("tcp://"):
            found[f.name] = (
                tuple(text.split(",")) if isinstance(default, tuple) else _parsed(f.name, text, type(default))
            )
    return found


def _parsed(name: str, text: str, kind: type[Any]) -> Any:
    try:
        return kind(text)
    except ValueError as error:
        raise ValueError(f"{PREFIX}{name.upper()} must be of type {kind.__name__}, not {text!r}") from error
