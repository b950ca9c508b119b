"""The live table of the demo: what a platform engineer would watch. Renders values, reads nothing."""

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Group
from rich.table import Table
from rich.text import Text

from e2e.demo.reaction import Reaction
from e2e.demo.story import Attained, Check
from e2e.load import Phase, Sample


def percent(share: float | None) -> str:
    return "-" if share is None else f"{100 * share:.1f} %"


def attainment(slo: Mapping[str, Any]) -> str:
    """The status has it in per cent already."""
    share, target = slo.get("attainment"), f"({slo['percentile']:g} % asked)"
    return "-" if share is None else f"{share:.1f} % {target}"


def seconds(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f} s"


def live(service: Mapping[str, Any], phase: Phase | None, left_s: float, samples: Sequence[Sample]) -> Group:
    """`service` is the LLMService as the API server has it now; `left_s` until the end of all phases."""
    status = service.get("status", {})
    failed = sum(s.error is not None for s in samples)
    head = Text(
        f"load: {phase.name if phase else '-'}"
        f" ({phase.rate_rps if phase else 0:g} req/s)   sent {len(samples)}   failed {failed}   "
        f"{max(0, left_s):.0f} s of traffic left   paced: GPU times replayed on CPU",
        style="bold",
    )
    return Group(head, _pools(status), _classes(status), Text(str(status.get("plan", {}).get("message", ""))))


def _pools(status: Mapping[str, Any]) -> Table:
    table = Table(title=None, expand=True)
    for column in ("pool", "ready", "desired", "starting", "reason"):
        table.add_column(column)
    for name, pool in status.get("pools", {}).items():
        bar = "█" * int(pool.get("ready") or 0) + "░" * int(pool.get("starting") or 0)
        row = [str(pool.get(key, "-")) for key in ("ready", "desired", "starting")]
        table.add_row(f"{name:8} {bar}", *row, str(pool.get("reason", "")))
    return table


def _classes(status: Mapping[str, Any]) -> Table:
    table = Table(expand=True)
    for column in ("class", "req/s", "TTFT in target", "TBT in target"):
        table.add_column(column)
    for row in status.get("classes", []):
        rate = row.get("requestsPerSecond")
        table.add_row(
            row["name"],
            "-" if rate is None else f"{rate:.2f}",
            attainment(row["ttft"]),
            attainment(row["tbt"]),
        )
    return table


def line(service: Mapping[str, Any], phase: Phase | None, samples: Sequence[Sample]) -> str:
    """The same in one line, for a log file instead of a terminal."""
    status = service.get("status", {})
    pools = [
        f"{name} {p['ready']}/{p.get('desired', '?')} {p['reason']}" for name, p in status.get("pools", {}).items()
    ]
    waiting = status.get("plan", {}).get("inputs", {}).get("waiting_prompt_tokens")
    failed = sum(s.error is not None for s in samples)
    return (
        f"{phase.name if phase else '-'}: {', '.join(pools)}; sent {len(samples)}, failed {failed}, waiting {waiting}"
    )


def summary(
    checks: Sequence[Check],
    classes: Sequence[Attained],
    lost: Mapping[tuple[str, str], int],
    reactions: Sequence[Reaction],
) -> Group:
    verdicts = Table(title="Did it happen?")
    for column in ("", "line of the story", "seen"):
        verdicts.add_column(column)
    for check in checks:
        verdicts.add_row("yes" if check.ok else "NO", check.name, check.detail)
    users = Table(title="What the clients saw over the whole run, load steps included")
    for column in ("class", "requests", "failed", "TTFT in target", "TTFT p95", "chunk gaps in target"):
        users.add_column(column)
    for row in classes:
        users.add_row(row.service_class, str(row.requests), str(row.failed), percent(row.ttft_share),
                      seconds(row.ttft_p95_s), percent(row.gap_share))  # fmt: skip
    broken = Table(title="Requests that failed (drain on scale-down comes later: this is what is lost until then)")
    for column in ("phase", "what the client was told", "count"):
        broken.add_column(column)
    for (phase, error), count in lost.items():
        broken.add_row(phase, error, str(count))
    times = Table(title="From load step to a new Ready pod")
    for column in ("pool", "until the sample", "until the decision", "until the pod is Ready"):
        times.add_column(column)
    for r in reactions:
        times.add_row(r.pool, seconds(r.metric_s), seconds(r.decision_s), seconds(r.pod_start_s))
    return Group(verdicts, users, broken, times)
