"""Replays the compressed Azure hour on the cluster and keeps what happened. Runs where the cluster can be reached."""

import asyncio
import contextlib
import copy
import os
import subprocess
import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from rich.console import Console

from e2e import kube
from e2e.demo import chat, paced, services
from e2e.demo.reaction import seconds
from e2e.load import Load
from e2e.prometheus.manifests import SCRAPE_INTERVAL_S
from e2e.report import gaps_of
from e2e.scaling.recording import Asked, Change, PodStart, Recording, Sizes
from e2e.scaling.trace import Squeeze
from llmservice_core import contract, metric_names
from llmservice_sim.traces import Row

NAME = "azure"
READY_TIMEOUT_S = 480.0
QUIET_S = 30.0
"""Between Ready and the first request: routers and engines are scraped, the planner has a history."""
LIMITS = {
    "kv_tokens": metric_names.KV_TOKENS,
    "max_batched_tokens": metric_names.MAX_BATCHED_TOKENS,
    "max_seqs": metric_names.MAX_SEQS,
    "tile_tokens": metric_names.TILE_TOKENS,
}


def service() -> dict[str, Any]:
    """The demo's paced service under another name, with the same classes, GPUs and interval."""
    found = copy.deepcopy(services.paced())
    found["metadata"]["name"] = found["spec"]["model"]["servedName"] = NAME
    return found


def portable(manifest: Mapping[str, Any]) -> dict[str, Any]:
    """Without what only this machine needs: pod templates, environment, the model's folder."""
    found = copy.deepcopy(dict(manifest))
    found["spec"]["model"]["name"] = "tiny"
    found["spec"]["engine"].pop("env")
    for pool in found["spec"]["pools"].values():
        pool.pop("template")
    return found


def record(squeeze: Squeeze, rows: Sequence[Row], tail_s: float, console: Console) -> Recording:
    """A fresh service, its load, and `tail_s` seconds more."""
    namespace, began_s = services.NAMESPACE, time.time()
    kube.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace}})
    kube.kubectl("-n", namespace, "delete", "llmsvc", NAME, "--ignore-not-found", "--wait")
    kube.wait_for("the pods of an earlier run to end", lambda: not kube.pods(namespace, NAME), 180)
    kube.apply(service())
    chat.wait_ready(namespace, NAME, READY_TIMEOUT_S)
    ready_s, url = time.time(), kube.expose(namespace, NAME)
    time.sleep(max(0.0, ready_s + QUIET_S - time.time()))
    watch, load = asyncio.run(_play(url, rows, tail_s, console))
    found = _recording(watch, load, ready_s, _facts(squeeze, tail_s, began_s))
    kube.kubectl("-n", namespace, "delete", f"llmsvc/{NAME}", f"service/{NAME}-outside", "--wait")
    return found


async def _play(url: str, rows: Sequence[Row], tail_s: float, console: Console) -> tuple[paced.Watch, Load]:
    load = Load(url=url, model=NAME, classes=paced.SHARES, scale=services.SCALE)
    with contextlib.ExitStack() as stack:
        watch = paced.Watch(NAME, load, paced.screen(console, stack), time.time() + rows[-1].time_s + tail_s)
        watching = asyncio.create_task(watch.run())
        running = asyncio.create_task(load.replay("azure", rows))
        await asyncio.wait({watching, running}, return_when=asyncio.FIRST_COMPLETED)
        if watching.done():
            watching.result()
        await running
        await asyncio.sleep(max(0.0, watch.ends_s - time.time()))
        watching.cancel()
    return watch, load


def _facts(squeeze: Squeeze, tail_s: float, began_s: float) -> dict[str, Any]:
    commit = subprocess.run(["git", "describe", "--always", "--dirty"], capture_output=True, text=True)
    return {
        "recorded": datetime.fromtimestamp(began_s, tz=UTC).isoformat(timespec="seconds"),
        "commit": commit.stdout.strip() or None,
        "cores": os.cpu_count(),
        "load_average": [round(x, 2) for x in os.getloadavg()],
        "trace": {name: getattr(squeeze, name) for name in ("seconds", "rate_rps", "start_s", "span_s", "seed")},
        "tail_s": tail_s,
        "overrun_share": paced.overrun_share(NAME, began_s),
    }


def _recording(watch: paced.Watch, load: Load, ready_s: float, facts: dict[str, Any]) -> Recording:
    zero_s, manifest = load.phase_started_s, service()
    targets = {name: tbt_s for name, (_, tbt_s) in services.CLASSES.items()}
    gaps = {c: gaps_of([s for s in load.samples if s.service_class == c], t) for c, t in targets.items()}
    return Recording(
        facts=facts,
        service=portable(manifest),
        pace=next(e["value"] for e in manifest["spec"]["engine"]["env"] if e["name"] == contract.ENV_PACE),
        scrape_s=float(SCRAPE_INTERVAL_S),
        limits={**_limits(), "kv_bytes_per_token": services.KV_BYTES_PER_TOKEN},
        ready_s=ready_s - zero_s,
        end_s=watch.timeline[-1].time_s - zero_s,
        requests=[
            Asked(
                time_s=s.sent_s - zero_s,
                service_class=s.service_class,
                prompt_tokens=s.prompt_tokens,
                output_tokens=s.asked_tokens,
                ttft_s=s.ttft_s,
                error=s.error,
            )
            for s in sorted(load.samples, key=lambda s: s.sent_s)
        ],
        sizes=_changes(watch, zero_s),
        pods=[
            PodStart(pool=p.pool, created_s=p.created_s - zero_s, ready_s=p.ready_s and p.ready_s - zero_s)
            for p in sorted(watch.pods.values(), key=lambda p: (p.created_s, p.pool))
        ],
        changes=[_change(c, zero_s) for _, c in sorted(watch.history.items())],
        gaps_s={name: g.quantiles_s for name, g in gaps.items()},
        gaps_in_time={name: g.in_time for name, g in gaps.items()},
    )


def _limits() -> dict[str, float]:
    """The smallest of all engines that live."""
    selector = f'{{{metric_names.LLMSERVICE}="{services.NAMESPACE}/{NAME}"}}'
    return {name: kube.prometheus(f"min({metric}{selector})")[0][1] for name, metric in LIMITS.items()}


def _changes(watch: paced.Watch, zero_s: float) -> list[Sizes]:
    """The sizes where anything changed, waiting tokens aside, and every fifth second."""
    kept: list[Sizes] = []
    for m in watch.timeline:
        now = Sizes(
            time_s=m.time_s - zero_s, desired=m.desired, ready=m.ready, held=m.held, waiting_tokens=m.waiting_tokens
        )
        last = kept[-1] if kept else None
        if last is None or now.time_s - last.time_s >= 5.0 or _sizes(now) != _sizes(last):
            kept.append(now)
    return kept


def _sizes(row: Sizes) -> tuple[Mapping[str, int], ...]:
    return row.desired, row.ready, row.held


def _change(told: Mapping[str, Any], zero_s: float) -> Change:
    return Change(
        time_s=seconds(told["time"]) - zero_s,
        before=told["from"],
        after=told["to"],
        reason=told["reason"],
        why=told["message"],
    )
