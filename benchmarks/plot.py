"""Plots with two logarithmic axes, as SVG, without a library: it is for a few dozen points."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

__all__ = ["Line", "plot"]

# Told apart by people who see colours differently, and in print by their marks (Okabe and Ito).
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
WIDTH, HEIGHT = 430, 300
LEFT, TOP, GAP, LEGEND_LINE = 90, 80, 80, 18
FONT = "font-family='sans-serif'"


@dataclass(frozen=True)
class Line:
    """A named line. Both coordinates of every point are above 0."""

    name: str
    points: Sequence[tuple[float, float]]


def plot(
    title: str, about: str, panels: Sequence[tuple[str, Sequence[Line]]], *, x: str, y: str
) -> str:
    """Draw panels beside each other, with the same axes.

    Args:
        title: Above all.
        about: Machine, driver and date, in small print.
        panels: Title and lines of each. A name has the same colour in every panel.
        x: What the horizontal axis is.
        y: What the vertical axis is.
    """
    names = list(dict.fromkeys(line.name for _, lines in panels for line in lines))
    points = [point for _, lines in panels for line in lines for point in line.points]
    axes = _Axes([px for px, _ in points], [py for _, py in points])
    width = LEFT + len(panels) * (WIDTH + GAP)
    height = TOP + HEIGHT + 60 + LEGEND_LINE * len(names)
    parts = [
        f"<svg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 {width} {height}'>",
        f"<rect width='{width}' height='{height}' fill='white'/>",
        _text(LEFT, 22, title, size=15),
        _text(LEFT, 40, about, size=10),
    ]
    for at, (name, lines) in enumerate(panels):
        parts += _panel(LEFT + at * (WIDTH + GAP), name, lines, names, axes, x=x, y=y)
    for at, name in enumerate(names):
        top = TOP + HEIGHT + 62 + LEGEND_LINE * at
        parts += [_mark(LEFT + 6, top - 4, at), _text(LEFT + 20, top, name, size=11)]
    return "\n".join([*parts, "</svg>"]) + "\n"


class _Axes:
    """From values to places. An axis begins with a decade, and ends a little above its values."""

    def __init__(self, xs: Sequence[float], ys: Sequence[float]) -> None:
        self.x_range, self.y_range = _decades(xs), _decades(ys)

    def place(self, point: tuple[float, float]) -> tuple[float, float]:
        across, up = (
            (math.log10(value) - first) / (last - first)
            for value, (first, last) in zip(point, (self.x_range, self.y_range), strict=True)
        )
        return across * WIDTH, TOP + HEIGHT - up * HEIGHT


def _decades(values: Sequence[float]) -> tuple[int, float]:
    return math.floor(math.log10(min(values))), math.log10(max(values)) + 0.1


def _panel(
    left: float, title: str, lines: Sequence[Line], names: Sequence[str], axes: _Axes,
    *, x: str, y: str,
) -> list[str]:  # fmt: skip
    parts = [_text(left, TOP - 8, title, size=12)]
    for power in range(axes.x_range[0], math.floor(axes.x_range[1]) + 1):
        at = left + axes.place((10.0**power, 10.0 ** axes.y_range[0]))[0]
        parts.append(_rule(at, TOP, at, TOP + HEIGHT))
        parts.append(_text(at, TOP + HEIGHT + 16, f"{10**power:g}", size=10, anchor="middle"))
    for power in range(axes.y_range[0], math.floor(axes.y_range[1]) + 1):
        at = axes.place((10.0 ** axes.x_range[0], 10.0**power))[1]
        parts.append(_rule(left, at, left + WIDTH, at))
        parts.append(_text(left - 6, at + 4, f"{10**power:g}", size=10, anchor="end"))
    parts.append(_text(left + WIDTH / 2, TOP + HEIGHT + 32, x, size=11, anchor="middle"))
    parts.append(_text(left - 6, TOP - 8, y, size=10, anchor="end"))
    parts += [
        _rule(left, TOP, left, TOP + HEIGHT),
        _rule(left, TOP + HEIGHT, left + WIDTH, TOP + HEIGHT),
    ]
    for line in lines:
        number = names.index(line.name)
        places = [(left + px, py) for px, py in map(axes.place, line.points)]
        path = " ".join(f"{px:.1f},{py:.1f}" for px, py in places)
        colour = COLOURS[number % len(COLOURS)]
        parts.append(f"<polyline points='{path}' fill='none' stroke='{colour}' stroke-width='2'/>")
        parts += [_mark(px, py, number) for px, py in places]
    return parts


def _mark(x: float, y: float, number: int) -> str:
    colour = COLOURS[number % len(COLOURS)]
    if number % 2:
        return f"<rect x='{x - 3:.1f}' y='{y - 3:.1f}' width='6' height='6' fill='{colour}'/>"
    return f"<circle cx='{x:.1f}' cy='{y:.1f}' r='3.5' fill='{colour}'/>"


def _rule(x1: float, y1: float, x2: float, y2: float) -> str:
    return f"<line x1='{x1:.1f}' y1='{y1:.1f}' x2='{x2:.1f}' y2='{y2:.1f}' stroke='#ddd'/>"


def _text(x: float, y: float, text: str, *, size: int, anchor: str = "start") -> str:
    place = f"x='{x:.1f}' y='{y:.1f}' font-size='{size}' text-anchor='{anchor}' {FONT}"
    return f"<text {place}>{escape(text)}</text>"
