"""The tables of a soak, and its JSON. Pure."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from e2e.chain.streams import Answer
from e2e.soak.record import Kill, Tally, Window, by_kind, ended_in, losses, tally

WORST = 40
"""Lost answers that are written out."""
HEAD = "| fault | times | class | answers | whole | failed | cut | altered | with a killed router | longest gap s |"


@dataclass(frozen=True, slots=True, kw_only=True)
class Soak:
    """`first_s`: the time that windows count from. `settings`: as they were given."""

    settings: Mapping[str, Any]
    windows: Sequence[Window]
    answers: Sequence[Answer]
    kills: Sequence[Kill]
    counters: Mapping[str, float]
    first_s: float
    not_done: int = 0
    """Faults of the plan that were left out, because somebody ended the soak."""

    @property
    def losses(self) -> list[Answer]:
        return losses(self.answers, self.kills)

    @property
    def problems(self) -> list[Window]:
        return [w for w in self.windows if w.problem]

    @property
    def is_good(self) -> bool:
        return not self.losses and not self.problems and not self.not_done and bool(self.answers)


def rows(soak: Soak) -> list[tuple[str, int, str, Tally]]:
    """Kind of fault, how often, class, answers that ended in its windows; a total per class at the end."""
    classes = sorted({a.service_class for a in soak.answers})
    made = []
    for kind, windows in by_kind(soak.windows).items():
        for name in classes:
            inside = [a for w in windows for a in ended_in(soak.answers, w) if a.service_class == name]
            made.append((kind, len(windows), name, tally(inside, soak.kills)))
    times = len(soak.windows)
    return made + [
        ("all", times, name, tally([a for a in soak.answers if a.service_class == name], soak.kills))
        for name in classes
    ]


def markdown(soak: Soak) -> str:
    lines = [", ".join(f"{k} {v}" for k, v in soak.settings.items()), "", HEAD, "|---" * 10 + "|"]
    for kind, times, name, t in rows(soak):
        counts = f"{t.answers} | {t.whole} | {t.failed} | {t.cut} | {t.altered} | {t.with_router}"
        lines.append(f"| {kind} | {times} | {name} | {counts} | {_seconds(t.longest_gap_s)} |")
    return "\n".join([*lines, "", *_after_the_table(soak)]) + "\n"


def _after_the_table(soak: Soak) -> list[str]:
    total = tally(soak.answers, soak.kills)
    lines = [f"- {total.reconnects} connections were refused and made again."]
    lines += [f"- `{name}` {value:.0f}" for name, value in soak.counters.items()]
    lines += [f"- Not well: {w.kind} ({w.what}): {w.problem}" for w in soak.problems]
    lines += [f"- Lost {_when(soak, a)}: {a}" for a in soak.losses[:WORST]]
    lines += [f"- Ended early: {soak.not_done} faults of the plan were not done."] if soak.not_done else []
    return [*lines, "", f"**{_verdict(soak)}**"]


def _verdict(soak: Soak) -> str:
    if soak.is_good:
        return "Nothing was lost."
    lost, unwell = len(soak.losses), len(soak.problems)
    return f"{lost} answers lost, {unwell} faults not recovered from, {soak.not_done} not done."


def _when(soak: Soak, answer: Answer) -> str:
    window = next((w for w in soak.windows if w.began_s <= answer.ended_s < w.ended_s), None)
    if window is None:
        return "outside of all windows"
    return f"{answer.ended_s - window.began_s:.1f} s after the beginning of: {window.kind} ({window.what})"


def _seconds(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f}"


def as_json(soak: Soak) -> dict[str, Any]:
    """Seconds count from the first answer's beginning."""
    return {
        "settings": dict(soak.settings),
        "windows": [_window(soak, w) for w in soak.windows],
        "by_kind": [{"kind": k, "times": n, "class": c, **asdict(t)} for k, n, c, t in rows(soak)],
        "counters": dict(soak.counters),
        "lost": [{"when": _when(soak, a), **asdict(a)} for a in soak.losses],
        "outcomes": dict(Counter(a.outcome.value for a in soak.answers)),
        "not_done": soak.not_done,
        "is_good": soak.is_good,
    }


def _window(soak: Soak, window: Window) -> dict[str, Any]:
    inside = ended_in(soak.answers, window)
    classes = sorted({a.service_class for a in inside})
    return {
        "kind": window.kind,
        "what": window.what,
        "began_s": round(window.began_s - soak.first_s, 1),
        "ended_s": round(window.ended_s - soak.first_s, 1),
        "well_after_s": None if window.well_s is None else round(window.well_s - window.began_s, 1),
        "problem": window.problem,
        "counters": dict(window.counters),
        "classes": {c: asdict(tally([a for a in inside if a.service_class == c], soak.kills)) for c in classes},
    }
