"""Achieved bandwidth over size: a chart a family and regime, a line a backend, beside the floor and the memory's peak.

The bytes of a call over its time, both axes logarithmic. With cold caches the memory's peak is the speed of light, with
hot ones it can be passed. Sizes that move equally many bytes are one point, their geometric mean.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby

from .. import metrics, wording
from ..backends import FLOOR, NAMES, YARDSTICKS
from ..metrics import CellFacts
from ..night import Night
from .curves import MARKS
from .drawings import Scale

WIDTH, HEIGHT = 320, 180
LEFT, RIGHT, TOP, BOTTOM = 44, 308, 12, 150  # of the plot
_BANDWIDTH = metrics.metric("bandwidth_gbps")
_DECADES = (1e3, 1e4, 1e5, 1e6, 1e7, 1e8, 1e9)  # bytes at which the axis may be named


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
    latest: str  # at the largest size, in words
    points: str
    dots: tuple[Dot, ...]


@dataclass(frozen=True)
class Tick:
    at: float
    text: str


@dataclass(frozen=True)
class Chart:
    title: str
    summary: str
    lines: tuple[Line, ...]
    along: tuple[Tick, ...]
    up: tuple[Tick, ...]
    peak: float | None  # where the memory's peak lies; None where nobody knows it


@dataclass(frozen=True)
class Light:
    charts: tuple[Chart, ...]
    peak: str  # of the memory, in words; "" where nobody knows it
    has_floor: bool  # none was measured on a CPU


_Values = dict[str, list[tuple[int, float]]]  # backend -> (bytes, GB/s), by bytes


def build(night: Night) -> Light | None:
    """None where no cell has a time."""
    measured = [facts for facts in night.facts if facts.verdict.candidate_us]
    if not measured:
        return None
    floors = _by_size([facts for facts in measured if facts.cell.backend == FLOOR])
    groups: dict[tuple[str, str], list[CellFacts]] = {}
    for facts in measured:
        if facts.cell.backend not in YARDSTICKS:
            groups.setdefault((facts.cell.case.family, facts.cell.regime), []).append(facts)
    charts = [_chart(key, group, floors) for key, group in groups.items()]
    peak = measured[0].memory_gbps
    return Light(tuple(charts), f"{peak:,.0f} GB/s" if peak else "", bool(floors)) if charts else None


def _by_size(floors: Sequence[CellFacts]) -> dict[tuple[str, str, int, int], CellFacts]:
    return {_size(facts): facts for facts in floors}


def _size(facts: CellFacts) -> tuple[str, str, int, int]:
    case = facts.cell.case
    return facts.cell.regime, case.dtype, case.tokens, case.hidden


def _chart(
    key: tuple[str, str], group: Sequence[CellFacts], floors: dict[tuple[str, str, int, int], CellFacts]
) -> Chart:
    values = _values(group)
    beside = {id(found): found for facts in group if (found := floors.get(_size(facts)))}
    if beside:
        values[FLOOR] = _series(list(beside.values()))
    every = [value for series in values.values() for _, value in series]
    sizes = [size for series in values.values() for size, _ in series]
    peak = group[0].memory_gbps
    along = Scale(math.log(min(sizes)), math.log(max(sizes)), LEFT, RIGHT)
    highest = max([*every, peak or 0.0])
    up = Scale(math.log(min(every) / 1.1), math.log(1.1 * highest), BOTTOM, TOP)
    lines = tuple(_line(name, values[name], along, up) for name in sorted(values, key=_place))
    told = ", ".join(f"{line.title} {line.latest}" for line in lines)
    return Chart(
        title=", ".join(key),
        summary=f"Achieved bandwidth over size, {', '.join(key)}. At the largest size: {told}.",
        lines=lines,
        along=_sizes(along),
        up=_bandwidths(up),
        peak=up.at(math.log(peak)) if peak else None,
    )


def _values(group: Sequence[CellFacts]) -> _Values:
    backends = dict.fromkeys(facts.cell.backend for facts in group)
    return {name: _series([facts for facts in group if facts.cell.backend == name]) for name in backends}


def _series(cells: Sequence[CellFacts]) -> list[tuple[int, float]]:
    """(bytes, GB/s), by bytes; equally many bytes are one point."""
    ordered = sorted(cells, key=lambda facts: facts.cell.case.bytes_moved)
    found = []
    for size, same in groupby(ordered, key=lambda facts: facts.cell.case.bytes_moved):
        if mean := metrics.geomean(_BANDWIDTH.compute(facts) for facts in same):
            found.append((size, mean))
    return found


def _place(backend: str) -> int:
    """Backends keep colour and mark, whichever of them a night has; yardsticks come last."""
    names = [*NAMES, *YARDSTICKS]
    return names.index(backend) if backend in names else len(names)


def _line(backend: str, series: Sequence[tuple[int, float]], along: Scale, up: Scale) -> Line:
    dots = [
        Dot(along.at(math.log(size)), up.at(math.log(value)), f"{_bytes(size)}: {value:,.0f} GB/s")
        for size, value in series
    ]
    yardstick = backend in YARDSTICKS
    others = [name for name in NAMES if name != "torch"]
    place = others.index(backend) if backend in others else len(others)
    return Line(
        style="yardstick" if yardstick else f"l{place % len(MARKS)}",
        mark="┄" if yardstick else MARKS[place % len(MARKS)],
        title=wording.title(backend),
        latest=f"{series[-1][1]:,.0f} GB/s",
        points=" ".join(f"{dot.x},{dot.y}" for dot in dots),
        dots=() if yardstick else tuple(dots),
    )


def _sizes(along: Scale) -> tuple[Tick, ...]:
    inside = [size for size in _DECADES if along.low <= math.log(size) <= along.high]
    return tuple(Tick(along.at(math.log(size)), _bytes(size)) for size in inside)


def _bytes(size: float) -> str:
    """`12 KB`, `1.5 MB`"""
    value, unit = (size / 1e6, "MB") if size >= 1e6 else (size / 1e3, "KB")
    return f"{value:.3g} {unit}"


def _bandwidths(up: Scale) -> tuple[Tick, ...]:
    """Powers of ten; one and three times those where there would be fewer than two."""
    powers = [10.0**power for power in range(-3, 6)]
    for values in (powers, [factor * power for power in powers for factor in (1, 3)]):
        inside = [value for value in values if up.low <= math.log(value) <= up.high]
        if len(inside) > 1:
            break
    return tuple(Tick(up.at(math.log(value)), f"{value:,g}") for value in inside)
