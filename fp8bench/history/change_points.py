"""Where a series steps: E-divisive splits with Student's t test, in windows, then merged from the weakest up.

The method is that of Matteson and James, "A nonparametric approach for multiple change point analysis of multivariate
data" (2014), as Fleming et al. arranged it in "Hunter: using change point detection to hunt for performance
regressions" (2023) and as Apache Otava runs it. The package itself is not used: it pins one minor version of numpy and
brings 20 packages (BigQuery, Slack, Postgres clients) that this project has no use for.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from scipy.special import stdtr

from ..stats import Floats

WINDOW = 50  # nights in which splits are looked for at a time; windows overlap by half
RELAXED = 10.0  # times the p value while splitting: merging is strict


@dataclass(frozen=True)
class Guards:
    """What a step must be, to be told."""

    p_value: float = 1e-4
    least: float = 0.01  # log-ratio
    deviations: float = 4.0  # of a night around its side's mean
    nights: int = 3  # on each side


@dataclass(frozen=True)
class Step:
    """A change of level between two nights."""

    index: int  # of the first night after it
    before: float  # mean of the nights since the step before it
    after: float  # mean of the nights up to the next
    deviation: float  # of a night around its side's mean
    p_value: float
    nights: int  # on the side that has fewer

    @property
    def size(self) -> float:
        return self.after - self.before


def change_points(series: Floats, guards: Guards) -> list[Step]:
    """Steps of `series` (one value a night, no gaps) that pass the guards, in order."""
    places = _weak(series, guards)
    while True:
        steps = _steps(series, places)
        if not (failing := [step for step in steps if not passes(step, guards)]):
            return steps
        weakest = max(failing, key=lambda step: (step.p_value, -abs(step.size)))
        places = [place for place in places if place != weakest.index]


def passes(step: Step, guards: Guards) -> bool:
    """Whether a step is beyond chance, large enough to matter and no night's accident."""
    large = abs(step.size) >= max(guards.least, guards.deviations * step.deviation)
    return large and step.p_value <= guards.p_value and step.nights >= guards.nights


def could_step(table: Floats, guards: Guards) -> list[bool]:
    """Which rows of `table` (series x nights, no gaps) have any split, in any window, that a step could come from.

    The t test of every place of every window at once; only rows that pass it are worth the search.
    """
    found = np.zeros(len(table), dtype=bool)
    for start, stop in _windows(table.shape[1]):
        found |= (_split_p_values(table[:, start:stop]) < RELAXED * guards.p_value).any(axis=1)
    return [bool(entry) for entry in found]


def _windows(length: int) -> list[tuple[int, int]]:
    return [(start, min(start + WINDOW, length)) for start in range(0, length, WINDOW // 2)]


def _weak(series: Floats, guards: Guards) -> list[int]:
    """Places of the splits of all windows; a window begins anew behind the last split of the one before."""
    places: set[int] = set()
    start = 0
    while start < len(series) - 1:
        stop = min(start + WINDOW, len(series))
        found = _split(series, start, stop, guards)
        places.update(found)
        start = max([start + WINDOW // 2, *found])
    return sorted(places)


def _split(series: Floats, start: int, stop: int, guards: Guards) -> list[int]:
    """Places in (start, stop) at which the series splits, found by halving as long as halves differ."""
    if stop - start < 3:
        return []
    place = start + _best_split(series[start:stop])
    left, right = series[start:place], series[place:stop]
    if _t_test(left, right) >= RELAXED * guards.p_value:
        return []
    return [*_split(series, start, place, guards), place, *_split(series, place, stop, guards)]


def _best_split(values: Floats) -> int:
    """Length of the first part X of the pair of neighbouring parts X, Y that differ most by energy distance.

    Y may end before the series does: a change that was taken back is seen too. With n and m values, the distance is
    2 / (n + m) times sum |x - y| - m / (n - 1) * sum of |x - x'| over pairs - n / (m - 1) * sum of |y - y'| over pairs.
    """
    count = len(values)
    sums = np.zeros((count + 1, count + 1))
    sums[1:, 1:] = np.abs(values[:, None] - values[None, :]).cumsum(axis=0).cumsum(axis=1)
    first = np.arange(1, count)[:, None]  # n
    end = np.arange(2, count + 1)[None, :]  # n + m
    second = end - first
    own = sums[first, first]
    between = sums[first, end] - own
    others = sums[end, end] - 2 * sums[first, end] + own
    within = second / np.maximum(first - 1, 1) * own / 2 + first / np.maximum(second - 1, 1) * others / 2
    distance = np.where(second >= 1, 2 / end * (between - within), -np.inf)
    return int(np.unravel_index(np.argmax(distance), distance.shape)[0]) + 1


def _steps(series: Floats, places: list[int]) -> list[Step]:
    """The steps at `places`, each between the parts beside it."""
    bounds = [0, *places, len(series)]
    parts = [series[start:stop] for start, stop in pairwise(bounds)]
    return [_step(place, left, right) for place, (left, right) in zip(places, pairwise(parts), strict=True)]


def _step(place: int, left: Floats, right: Floats) -> Step:
    squares = float(((left - left.mean()) ** 2).sum() + ((right - right.mean()) ** 2).sum())
    deviation = (squares / max(len(left) + len(right) - 2, 1)) ** 0.5
    nights = min(len(left), len(right))
    return Step(place, float(left.mean()), float(right.mean()), deviation, _t_test(left, right), nights)


def _t_test(left: Floats, right: Floats) -> float:
    """Two-sided p value of Student's t test; 1 where there is nothing to test."""
    joined = np.concatenate([left, right])[None, :]
    return float(_split_p_values(joined)[0, len(left) - 1])


def _split_p_values(table: Floats) -> Floats:
    """p value of the t test of each series at each place between two of its values: series x places."""
    count = table.shape[1]
    if count < 3:
        return np.ones((len(table), max(count - 1, 1)))
    centred = table - table.mean(axis=1, keepdims=True)  # or the squares would lose their digits
    sums, squares = centred.cumsum(axis=1), (centred**2).cumsum(axis=1)
    left = np.arange(1, count)
    right = count - left
    left_sum, left_squares = sums[:, left - 1], squares[:, left - 1]
    right_sum, right_squares = sums[:, [-1]] - left_sum, squares[:, [-1]] - left_squares
    within = left_squares - left_sum**2 / left + right_squares - right_sum**2 / right
    error = np.sqrt(np.maximum(within, 0.0) / (count - 2) * (1 / left + 1 / right))
    difference = np.abs(right_sum / right - left_sum / left)
    return np.asarray(2 * stdtr(count - 2, -difference / np.maximum(error, 1e-12)))
