"""What a year of nights shows of each cell: steps, creep, or nothing."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from math import log
from typing import Literal

import numpy as np
import pandas as pd
from scipy.special import stdtr

from ..stats import Floats
from .change_points import Guards, change_points, could_step

_TINY = 1e-18  # squares: nights that agree to the last digit
LEAST_NIGHTS = 8  # of a cell: fewer have no history


@dataclass(frozen=True)
class Trend:
    """Something that nights show together."""

    cell: str
    kind: Literal["step", "creep"]
    since: object  # the night it begins with: a label of the table's index
    change: float  # log-ratio; of creep from its first to its last night
    before: float  # level ahead of it
    p_value: float
    nights: int  # that show it


def find_trends(table: pd.DataFrame, guards: Guards | None = None) -> list[Trend]:
    """Steps and creep of every cell, by cell and night.

    table: effects against the anchor (log-ratios): nights in rows, oldest first, cells in columns; NaN is a gap, not a
    zero: the nights around it are neighbours. A year of 1,000 cells takes a few seconds.
    """
    guards = guards or Guards()
    found: list[Trend] = []
    for missing, cells in _by_gaps(table):
        series = table.loc[~missing, cells].to_numpy(dtype=float).T
        nights = table.index[~missing]
        if series.shape[1] < LEAST_NIGHTS:
            continue
        for index in np.flatnonzero(could_step(series, guards) | _could_creep(series, guards)):
            found += _trends(cells[index], series[index], nights, guards)
    return sorted(found, key=lambda trend: (trend.cell, trend.since))


def _by_gaps(table: pd.DataFrame) -> Iterator[tuple[np.ndarray, list[str]]]:
    """Cells with the same gaps, together: most nights miss all cells or none."""
    groups: dict[bytes, list[str]] = {}
    gaps = table.isna().to_numpy()
    for place, cell in enumerate(table.columns):
        groups.setdefault(gaps[:, place].tobytes(), []).append(str(cell))
    for pattern, cells in groups.items():
        yield np.frombuffer(pattern, dtype=bool), cells


def _trends(cell: str, series: Floats, nights: pd.Index, guards: Guards) -> list[Trend]:
    """Creep where a straight line says more than steps do, else the steps."""
    steps = change_points(series, guards)
    line = _Line.through(series)
    if line.passes(guards) and _is_straighter(line, series, guards):
        return [Trend(cell, "creep", nights[0], line.change, line.start, line.p_value, len(series))]
    bounds = [step.index for step in steps] + [len(series)]
    return [
        Trend(cell, "step", nights[step.index], step.size, step.before, step.p_value, end - step.index)
        for step, end in zip(steps, bounds[1:], strict=True)
    ]


def _is_straighter(line: _Line, series: Floats, guards: Guards) -> bool:
    """Whether a line tells more than levels do, small ones included, for what each takes to tell (Schwarz)."""
    steps = change_points(series, replace(guards, least=0.0, deviations=0.0))
    parts = np.split(series, [step.index for step in steps])
    squares = sum(float(((part - part.mean()) ** 2).sum()) for part in parts)
    count = len(series)
    gained = count * log(max(line.squares, _TINY) / max(squares, _TINY))
    return gained < (2 * len(steps) - 1) * log(count)


@dataclass(frozen=True)
class _Line:
    """A straight line through a series."""

    start: float
    change: float  # from the first to the last night
    squares: float  # what is left around it
    deviation: float
    p_value: float

    @classmethod
    def through(cls, series: Floats) -> _Line:
        change, start, squares = (float(entry[0]) for entry in _lines(series[None, :]))
        deviation = (squares / (len(series) - 2)) ** 0.5
        return cls(start, change, squares, deviation, float(_line_p_values(series[None, :])[0]))

    def passes(self, guards: Guards) -> bool:
        large = abs(self.change) >= max(guards.least, guards.deviations * self.deviation)
        return large and self.p_value <= guards.p_value


def _could_creep(table: Floats, guards: Guards) -> np.ndarray:
    change, _, _ = _lines(table)
    return np.asarray((np.abs(change) >= guards.least) & (_line_p_values(table) <= guards.p_value))


def _lines(table: Floats) -> tuple[Floats, Floats, Floats]:
    """Change from end to end, start, and residual squares of the line through each row."""
    place = np.linspace(-0.5, 0.5, table.shape[1])
    means = table.mean(axis=1)
    slope = (table - means[:, None]) @ place / (place @ place)
    squares = ((table - means[:, None] - slope[:, None] * place) ** 2).sum(axis=1)
    return slope, means - slope / 2, squares


def _line_p_values(table: Floats) -> Floats:
    """Two-sided p value of the slope of each row."""
    slope, _, squares = _lines(table)
    count = table.shape[1]
    place = np.linspace(-0.5, 0.5, count)
    error = np.sqrt(squares / (count - 2) / (place @ place))
    return np.asarray(2 * stdtr(count - 2, -np.abs(slope) / np.maximum(error, 1e-12)))
