"""Speedups over torch through the nights: a chart a family and regime, a line a backend, drawn as SVG.

A day without a value breaks the line: nothing is drawn where nothing was measured.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, timedelta

from .. import wording
from ..backends import NAMES, REFERENCE
from .nights import Entry

DAYS = 365  # how far back a chart reaches
WIDTH, HEIGHT = 320, 130
LEFT, RIGHT, TOP, BOTTOM = 42, 308, 10, 108  # of the plot
LINE_HEIGHT = 12
DOTTED = 45  # a line of at most so many values shows each of them
MARKS = ("●", "■", "▲", "◆")

Series = dict[date, float]  # times faster than torch, by day


@dataclass(frozen=True)
class Dot:
    x: float
    y: float
    hint: str


@dataclass(frozen=True)
class Line:
    style: str
    mark: str
    title: str
    latest: str  # the last value, in words
    runs: tuple[str, ...]  # points of each unbroken stretch
    dots: tuple[Dot, ...]
    end: Dot


@dataclass(frozen=True)
class Tick:
    y: float
    text: str


@dataclass(frozen=True)
class Chart:
    title: str
    summary: str  # for those who do not see it
    lines: tuple[Line, ...]
    ticks: tuple[Tick, ...]
    one: float | None  # where as fast as torch lies; None outside of the chart
    first: str
    last: str


@dataclass(frozen=True)
class _Scale:
    """From days and speedups to places in the chart; speedups are ratios, so their axis is logarithmic."""

    start: date
    end: date
    low: float
    high: float

    def x(self, day: date) -> float:
        span = (self.end - self.start).days
        share = (day - self.start).days / span if span else 0.5
        return round(LEFT + share * (RIGHT - LEFT), 1)

    def y(self, value: float) -> float:
        share = math.log(value / self.low) / math.log(self.high / self.low)
        return round(BOTTOM - share * (BOTTOM - TOP), 1)


def build(entries: Sequence[Entry]) -> tuple[Chart, ...]:
    """A chart a family and regime that has any speedup, of comparable nights."""
    found: dict[tuple[str, str], dict[str, Series]] = {}
    for entry in sorted(entries, key=lambda entry: entry.created):
        for speedup in entry.speedups:
            if speedup.candidate and 0 < speedup.candidate < math.inf:
                chart = found.setdefault((speedup.family, speedup.regime), {})
                chart.setdefault(speedup.backend, {})[entry.created.date()] = speedup.candidate
    days = [day for chart in found.values() for series in chart.values() for day in series]
    if not days:
        return ()
    end = max(days)
    start = max(min(days), end - timedelta(days=DAYS - 1))
    recent = {key: _since(start, chart) for key, chart in found.items()}
    return tuple(_chart(", ".join(key), chart, start, end) for key, chart in recent.items() if chart)


def _since(start: date, chart: dict[str, Series]) -> dict[str, Series]:
    cut = {name: {day: value for day, value in series.items() if day >= start} for name, series in chart.items()}
    return {name: series for name, series in cut.items() if series}


def _chart(title: str, chart: dict[str, Series], start: date, end: date) -> Chart:
    values = [value for series in chart.values() for value in series.values()]
    low, high = min(values) / 1.03, max(values) * 1.03
    scale = _Scale(start, end, low, high)
    lines = tuple(_line(name, chart[name], scale) for name in sorted(chart, key=_place))
    told = ", ".join(f"{line.title} {line.latest}" for line in lines)
    return Chart(
        title=title,
        summary=f"Speedup over torch, {title}, from {start} to {end}. Latest: {told}.",
        lines=lines,
        ticks=_ticks(scale, max(values), min(values)),
        one=scale.y(1.0) if low <= 1 <= high else None,
        first=f"{start:%d %b %Y}",
        last=f"{end:%d %b %Y}" if end != start else "",
    )


def _ticks(scale: _Scale, highest: float, lowest: float) -> tuple[Tick, ...]:
    """The largest and the smallest speedup; one of them where both would be written over each other."""
    ticks = tuple(Tick(scale.y(value), f"{value:.2f}×") for value in (highest, lowest))
    return ticks if ticks[1].y - ticks[0].y >= LINE_HEIGHT else ticks[:1]


def _place(backend: str) -> int:
    """Backends keep colour and mark, whichever of them a night has."""
    others = [name for name in NAMES if name != REFERENCE]
    return others.index(backend) if backend in others else len(others)


def _line(backend: str, series: Series, scale: _Scale) -> Line:
    place = _place(backend) % len(MARKS)
    at = {day: (scale.x(day), scale.y(value)) for day, value in series.items()}
    stretches = _stretches(sorted(series))
    shown = sorted(series) if len(series) <= DOTTED else [days[0] for days in stretches if len(days) == 1]
    last = max(series)
    when = "" if last == scale.end else f" ({last:%d %b})"
    return Line(
        style=f"l{place}",
        mark=MARKS[place],
        title=wording.title(backend),
        latest=f"{series[last]:.2f}×{when}",
        runs=tuple(" ".join(f"{x},{y}" for x, y in map(at.__getitem__, days)) for days in stretches if len(days) > 1),
        dots=tuple(Dot(*at[day], f"{day}: {series[day]:.2f}×") for day in shown),
        end=Dot(*at[last], f"{last}: {series[last]:.2f}×"),
    )


def _stretches(days: Sequence[date]) -> list[list[date]]:
    """Sorted days, cut wherever one is missing."""
    found: list[list[date]] = []
    for day in days:
        if found and day - found[-1][-1] == timedelta(days=1):
            found[-1].append(day)
        else:
            found.append([day])
    return found
