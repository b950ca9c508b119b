"""Small SVG drawings as text: lines, steps, distributions, bars. No script, no font, nothing from elsewhere."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

WIDTH, HEIGHT = 640, 230
LEFT, RIGHT, TOP, BOTTOM = 46, 14, 26, 30
COLOURS = ("var(--one)", "var(--two)", "var(--three)", "var(--four)", "var(--five)", "var(--six)")

Point = tuple[float, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    name: str
    points: Sequence[Point]
    is_step: bool = False
    is_dashed: bool = False
    colour: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Mark:
    """A vertical line at x, for a target."""

    x: float
    name: str
    colour: str


@dataclass(frozen=True, slots=True)
class Scale:
    """From data to pixels, straight or by logarithm."""

    low: float
    high: float
    begin: float
    end: float
    is_log: bool = False

    def at(self, value: float) -> float:
        low, high, v = self.low, self.high, value
        if self.is_log:
            low, high, v = math.log10(low), math.log10(high), math.log10(max(value, self.low))
        share = (v - low) / (high - low) if high > low else 0.5
        return round(self.begin + min(1.0, max(0.0, share)) * (self.end - self.begin), 1)


def chart(lines: Sequence[Line], *, x_text: str, y_text: str, marks: Sequence[Mark] = (), log_x: bool = False) -> str:
    """Lines over one pair of axes; y begins at 0."""
    points = [p for line in lines for p in line.points]
    if not points:
        return '<p class="none">nothing to draw: no such event</p>'
    xs = [x for x, _ in points] + [m.x for m in marks]
    low = max(min(xs), 1e-3) if log_x else min(0.0, *xs)
    high_x, high_y = max(max(xs), low * 1.01 if log_x else low + 1e-9), max(y for _, y in points) or 1.0
    x = Scale(low, high_x, LEFT, WIDTH - RIGHT, log_x)
    y = Scale(0.0, nice(high_y), HEIGHT - BOTTOM, TOP)
    body = [*_grid_y(y, y_text), *_grid_x(x, x_text), *(_mark(m, x) for m in marks)]
    body += [_line(line, x, y, line.colour or COLOURS[i % len(COLOURS)], i) for i, line in enumerate(lines)]
    return _svg(body, f"{y_text} over {x_text}", HEIGHT) + legend(lines)


def bars(rows: Sequence[tuple[str, float | None, float | None]], unit: str, most: float | None = None) -> str:
    """(name, value, target) as lying bars; the target is a stroke across."""
    known = [v for _, v, t in rows for v in (v, t) if v is not None]
    top = most if most is not None else nice(max(known, default=1.0) or 1.0)
    x = Scale(0.0, top, 190, WIDTH - 110)
    body = []
    for i, (name, value, target) in enumerate(rows):
        y = 8 + i * 26
        body.append(f'<text x="182" y="{y + 13}" text-anchor="end">{escape(name)}</text>')
        if value is None:
            body.append(f'<text x="194" y="{y + 13}">no event</text>')
            continue
        is_met = target is None or value >= target
        colour = "var(--one)" if is_met else "var(--miss)"
        body.append(f'<rect x="190" y="{y}" width="{max(1.0, x.at(value) - 190):.1f}" height="18" fill="{colour}"/>')
        body.append(f'<text x="{x.at(top) + 8}" y="{y + 13}">{value:.4g} {unit}</text>')
        if target is not None:
            at = x.at(target)
            body.append(f'<line x1="{at}" x2="{at}" y1="{y - 3}" y2="{y + 21}" class="target"/>')
    return _svg(body, "bars", 12 + 26 * len(rows))


def legend(lines: Sequence[Line]) -> str:
    items = [
        f'<span><i style="background:{line.colour or COLOURS[i % len(COLOURS)]}"></i>{escape(line.name)}</span>'
        for i, line in enumerate(lines)
        if not line.is_dashed
    ]
    return f'<p class="legend">{"".join(items)}</p>' if len(items) > 1 else ""


def nice(value: float) -> float:
    """The next of 1, 1.5, 2, 3, 5 and 8 times a power of ten."""
    power = 10.0 ** math.floor(math.log10(value))
    return next(step * power for step in (1, 1.5, 2, 3, 5, 8, 10) if value <= step * power * (1 + 1e-9))


def _line(line: Line, x: Scale, y: Scale, colour: str, index: int) -> str:
    """Steps are lifted a little, each line more than the one before: equal ones would hide each other."""
    lift = 1.5 * (index // 2) if line.is_step else 0.0
    if not line.points:
        return ""
    path, before = [], None
    for px, py in line.points:
        at_x, at_y = x.at(px), round(y.at(py) - lift, 1)
        if before is not None and line.is_step and at_y != before:
            path.append(f"{at_x},{before}")
        path.append(f"{at_x},{at_y}")
        before = at_y
    dash = ' stroke-dasharray="3 3"' if line.is_dashed else ""
    shape = f'<polyline points="{" ".join(path)}" stroke="{colour}" class="line"{dash}>'
    return f"{shape}<title>{escape(line.name)}</title></polyline>"


def _mark(mark: Mark, x: Scale) -> str:
    at = x.at(mark.x)
    stroke = f'<line x1="{at}" x2="{at}" y1="{TOP}" y2="{HEIGHT - BOTTOM}" stroke="{mark.colour}" class="mark">'
    return f"{stroke}<title>{escape(mark.name)}</title></line>"


def _grid_y(y: Scale, text: str) -> list[str]:
    body = [f'<text x="4" y="12" class="axis">{escape(text)}</text>']
    for value in ticks(y.low, y.high, 5):
        at = y.at(value)
        body.append(f'<line x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{at}" y2="{at}" class="grid"/>')
        body.append(f'<text x="{LEFT - 6}" y="{at + 4}" text-anchor="end" class="axis">{short(value)}</text>')
    return body


def _grid_x(x: Scale, text: str) -> list[str]:
    values, base = _decades(x) if x.is_log else ticks(x.low, x.high, 7), HEIGHT - BOTTOM
    names = [f"{v:g}" if x.is_log else short(v) for v in values]
    body = [
        f'<text x="{x.at(v)}" y="{base + 15}" text-anchor="middle" class="axis">{name}</text>'
        for v, name in zip(values, names, strict=True)
    ]
    return [*body, f'<text x="{WIDTH - RIGHT}" y="{base + 27}" text-anchor="end" class="axis">{escape(text)}</text>']


def ticks(low: float, high: float, most: int) -> list[float]:
    """At most so many multiples of 1, 2 or 5 times a power of ten."""
    power = 10.0 ** math.floor(math.log10((high - low) / most))
    step = next(s * power for s in (1, 2, 5, 10) if (high - low) / (s * power) <= most - 1 + 1e-9 or s == 10)
    first = math.ceil(low / step - 1e-9)
    return [float(f"{step * i:.6g}") for i in range(first, int(high / step + 1e-9) + 1)]


def short(value: float) -> str:
    """12000 -> 12k: an axis has little room."""
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e4, "k")):
        if abs(value) >= size:
            return f"{value / (1e3 if letter == 'k' else size):g}{letter}"
    return f"{value:g}"


def _decades(x: Scale) -> list[float]:
    first, last = math.floor(math.log10(x.low)), math.ceil(math.log10(x.high))
    found = [m * 10.0**p for p in range(first, last + 1) for m in (1, 2, 5)]
    return [float(f"{v:.3g}") for v in found if x.low <= v <= x.high]


def _svg(body: Sequence[str], label: str, height: int) -> str:
    head = f'<svg viewBox="0 0 {WIDTH} {height}" role="img" aria-label="{escape(label)}">'
    return head + "".join(body) + "</svg>"
