"""Numbers in, numbers out: launch effects, intervals, p values, false discovery rate.

The launch is the unit of replication. Blocks of one launch share placement and code alignment, so thousands of them
can be confidently wrong together; one launch therefore gives one effect a cell, and tests are over launches.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from itertools import compress

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.special import bdtrc, nctdtr, stdtr, stdtrit  # Student t; scipy.stats takes a second to import

Floats = NDArray[np.float64]

_ROLES = ["baseline", "candidate"]
# Launches that agree to the last digit (a coarse clock) would give a zero-width interval and a division by zero.
STILL = 1e-9
UNSTEADY = 2.0  # times the deviation of a group's median cell: six launches of equal cells differ by less


@dataclass(frozen=True)
class Estimate:
    """Mean over launches with its interval; p values are one-sided, against the margin on either side."""

    value: float
    lower: float
    upper: float
    p_slower: float  # under "not slower than the margin"
    p_faster: float  # under "not faster than the margin"
    launches: int
    margin: float  # that it was tested against
    deviation: float  # of the effect of a launch


# Of objects: an index of strings, as pandas would make one, takes several times as long to look things up in.
_ESTIMATES = pd.Index([entry.name for entry in fields(Estimate)], dtype=object)


def launch_effects(samples: pd.DataFrame) -> pd.DataFrame:
    """One effect a launch and cell: log(candidate / baseline), the mean over its middle quads (`middle_means`).

    samples: columns launch, cell, quad, role, seconds. A quad holds two blocks of each role in the order ABBA or
    BAAB, so the difference of their mean logarithms is free of linear drift. Quads that lack a block are left out.
    Returns launches in rows, cells in columns, NaN where a launch did not time a cell.
    """
    if samples.empty:
        return pd.DataFrame()
    logs = samples.assign(log=np.log(samples["seconds"].to_numpy(dtype=float)))
    blocks = logs.groupby(["launch", "cell", "quad", "role"])["log"]
    means, counts = (table.unstack("role").reindex(columns=_ROLES) for table in (blocks.mean(), blocks.count()))
    quads = means[(counts == 2).all(axis=1)]
    if quads.empty:
        return pd.DataFrame()
    of_quads = (quads["candidate"] - quads["baseline"]).unstack("quad")
    effects = pd.Series(middle_means(of_quads.to_numpy(dtype=float)), of_quads.index).unstack("cell")
    return effects.sort_index(axis=0).sort_index(axis=1)


def middle_means(rows: Floats) -> Floats:
    """Mean of each row without its largest and smallest tenth, at least one of each; NaN are left out.

    Of quads, the mean averages over what differs between them (the two levels of captured graphs, sampling noise: 14%
    less on H200 cells than of the median), and what happened to one of them alone does not count.
    """
    ordered = np.sort(rows, axis=1)  # NaN last
    counts = (~np.isnan(rows)).sum(axis=1, keepdims=True)
    cut = np.where(counts < 3, 0, -(-counts // 10))
    place = np.arange(rows.shape[1])
    kept = (place >= cut) & (place < counts - cut)
    means: Floats = np.where(kept, ordered, 0.0).sum(axis=1) / kept.sum(axis=1)
    return means


def estimates(
    table: pd.DataFrame,
    margin: float,
    confidence: float = 0.95,
    groups: Sequence[str] | None = None,
    spread: float = 0.0,
    earlier: pd.DataFrame | None = None,
    weights: pd.Series[float] | None = None,
) -> pd.DataFrame:
    """Mean effect with Student t interval and p values of every cell, or of every group of cells.

    table: effects, launches in rows and cells in columns, NaN where a launch did not time a cell.
    margin: log-ratio >= 0 that an effect must exceed to count as a change; a row whose launches sway has a margin of
    at least `spread` of their standard deviations.
    groups: name of each column's group; None: every column is its own.
    earlier: what this function said of earlier launches: their deviation counts for the margin, and for nothing else.
    weights: of each column in the mean of its group (`steadiness`); None: all count the same.
    Returns rows by name with the fields of `Estimate` as columns; the value of a group is the weighted mean over its
    cells of their means over launches. Cells of fewer than two launches are left out.

    Cells may have been timed in different launches. A group's error is therefore taken from what each launch
    contributes to the mean, which keeps whatever cells of a launch have in common; where every launch timed every
    cell this is the ordinary standard error of the launches' means. Degrees of freedom follow the launches' weights.
    """
    values = table.to_numpy(dtype=float)
    present = ~np.isnan(values)
    kept = present.sum(axis=0) >= 2
    values, present = values[:, kept], present[:, kept]
    names, members = _membership(table.columns.tolist(), groups, kept.tolist())
    counts = present.sum(axis=0)
    means = np.where(present, values, 0.0).sum(axis=0) / counts
    residuals = np.where(present, values - means, 0.0) / counts
    share = _shares(members, len(names), _weights(table.columns, weights)[kept])
    value = np.bincount(members, means * share, len(names))
    parts = _by_group(residuals * share, members, len(names))
    counted = _by_group(present / counts * share, members, len(names))
    launches = 1 / (counted**2).sum(axis=0)  # as many as there would be if all weighed the same
    variance = (parts**2).sum(axis=0) * launches / (launches - 1)
    error = np.maximum(np.sqrt(variance), STILL)
    deviation = error * np.sqrt(launches)
    swayed = deviation if earlier is None else _pooled(deviation, launches, earlier.reindex(names))
    margins = np.maximum(margin, spread * swayed)
    half = _quantiles(launches - 1, (1 + confidence) / 2) * error
    slower, faster = stdtr(launches - 1, (margins - value) / error), stdtr(launches - 1, (value + margins) / error)
    columns = (value, value - half, value + half, slower, faster, np.rint(launches), margins, deviation)
    return pd.DataFrame(np.stack(columns, axis=1), index=pd.Index(names, dtype=object), columns=_ESTIMATES)


def steadiness(table: pd.DataFrame, groups: Sequence[str]) -> pd.Series[float]:
    """How much each column should count in its group's mean: 1, and less where its launches sway far more than others'.

    A change of all cells of a group by the same shows in each of them; one that sways eight times as much as the rest
    would hide it in the mean, and drown what the others say. Those that sway more than `UNSTEADY` times as much as the
    group's median cell count by the inverse of their variance. What differs less may have been luck.
    """
    values = table.to_numpy(dtype=float)
    present = ~np.isnan(values)
    counts = present.sum(axis=0)
    with np.errstate(invalid="ignore", divide="ignore"):  # of what was timed once nobody knows how it sways
        means = np.where(present, values, 0.0).sum(axis=0) / counts
        squares = np.where(present, values - means, 0.0) ** 2
        deviation = np.sqrt(squares.sum(axis=0) / (counts - 1))
    known, members = np.where(counts > 1, np.maximum(deviation, STILL), np.inf), _numbered(groups)[0]
    with np.errstate(invalid="ignore"):
        weights = (UNSTEADY * _medians(known, members)[members] / known) ** 2
    return pd.Series(np.where((weights < 1) & (counts > 1), weights, 1.0), table.columns)


def _numbered(groups: Sequence[str]) -> tuple[NDArray[np.intp], list[str]]:
    """The number of its group for each column, and the names of the groups, sorted."""
    members, names = pd.factorize(np.array(groups, dtype=object), sort=True)
    return members, list(names)


def _medians(values: Floats, members: NDArray[np.intp]) -> Floats:
    """The median of the finite values of each group, the lower one of two in the middle; infinite without any."""
    order, sizes = np.lexsort((values, members)), np.bincount(members)
    known = np.bincount(members, np.isfinite(values)).astype(int)
    medians: Floats = values[order][np.cumsum(sizes) - sizes + np.maximum(known - 1, 0) // 2]
    return medians


def _shares(members: NDArray[np.intp], count: int, weights: Floats) -> Floats:
    """Share of each column in its group's mean."""
    shares: Floats = weights / np.bincount(members, weights, count)[members]
    return shares


def _weights(columns: pd.Index[str], weights: pd.Series[float] | None) -> Floats:
    """Those of the columns; 1 where nobody knows."""
    if weights is None:
        return np.ones(len(columns))
    found = weights if weights.index is columns else weights.reindex(columns)
    return np.asarray(found.fillna(1.0).to_numpy(dtype=float))


def _quantiles(freedom: Floats, level: float) -> Floats:
    """Student t quantiles; rows share a few degrees of freedom, and looking one up is slow."""
    values, places = np.unique(freedom, return_inverse=True)
    return np.asarray(stdtrit(values, level), dtype=float)[places]


def _pooled(deviation: Floats, launches: Floats, earlier: pd.DataFrame) -> Floats:
    """Deviation over these and earlier launches; a row of NaN has no earlier ones."""
    freedom = np.nan_to_num(earlier["launches"].to_numpy(dtype=float) - 1)
    squares = freedom * np.nan_to_num(earlier["deviation"].to_numpy(dtype=float)) ** 2
    return np.asarray(np.sqrt((squares + (launches - 1) * deviation**2) / (freedom + launches - 1)))


def _membership(
    columns: Sequence[str], groups: Sequence[str] | None, kept: Sequence[bool]
) -> tuple[list[str], NDArray[np.intp]]:
    """Names of the groups, and the number of its group for each column that is kept."""
    mine = list(compress(columns if groups is None else groups, kept))
    if groups is None:
        return mine, np.arange(len(mine))
    members, names = _numbered(mine)
    return names, members


def _by_group(table: Floats, members: NDArray[np.intp], count: int) -> Floats:
    """Sums over the columns of each group: launches x groups."""
    if np.array_equal(members, np.arange(table.shape[1])):  # every column is its own
        return table
    sums = np.zeros((count, len(table)))
    np.add.at(sums, members, table.T)
    return sums.T


def estimate(effects: Iterable[float], margin: float, confidence: float = 0.95) -> Estimate | None:
    """`estimates` of a single cell; None below two launches. NaN are left out."""
    found = estimates(pd.DataFrame({"cell": np.fromiter(effects, dtype=float)}), margin, confidence)
    return as_estimates(found).get("cell")


def as_estimates(found: pd.DataFrame) -> dict[str, Estimate]:
    """The rows of `estimates` by name."""
    rows = zip(found.index.tolist(), found[_ESTIMATES].to_numpy().tolist(), strict=True)
    return {name: _estimate(*row) for name, row in rows}


def _estimate(*row: float) -> Estimate:
    """Of a row of numbers in the order of the fields."""
    value, lower, upper, slower, faster, launches, margin, deviation = row
    return Estimate(value, lower, upper, slower, faster, int(launches), margin, deviation)


def benjamini_hochberg(p_values: Sequence[float], rate: float) -> list[bool]:
    """Which hypotheses to reject so that at most the share `rate` of the rejections is false."""
    count = len(p_values)
    if not count:
        return []
    ordered = np.sort(np.asarray(p_values, dtype=float))
    passed = np.flatnonzero(ordered <= rate * np.arange(1, count + 1) / count)
    threshold = ordered[passed[-1]] if len(passed) else -1.0
    return [bool(p <= threshold) for p in p_values]


def more_than_half(count: int, of: int) -> float:
    """p value of `count` or more heads in `of` throws of a fair coin."""
    return float(bdtrc(count - 1, of, 0.5)) if count > 0 else 1.0


def detectable(tests: Sequence[tuple[int, float]], power: float) -> float:
    """Effect beyond the margin that passes all of `tests` with probability `power`, in deviations of a launch.

    tests: (launches, level) of one-sided t tests on launches of their own, such as a screen and a confirmation.
    """

    def passes(shift: float) -> float:
        chances = [
            1 - float(nctdtr(count - 1, shift * count**0.5, stdtrit(count - 1, 1 - level))) for count, level in tests
        ]
        return float(np.prod(chances))

    low, high = 0.0, 1.0
    while passes(high) < power:
        high *= 2
    for _ in range(40):
        middle = (low + high) / 2
        low, high = (middle, high) if passes(middle) < power else (low, middle)
    return high


def cell_times(samples: pd.DataFrame) -> pd.DataFrame:
    """Seconds a call by cell: median over launches of the median of a launch, in columns baseline and candidate."""
    if samples.empty:
        return pd.DataFrame(columns=_ROLES, dtype=float)
    of_launch = samples.groupby(["cell", "role", "launch"])["seconds"].median()
    return of_launch.groupby(["cell", "role"]).median().unstack("role").reindex(columns=_ROLES)


def relative_spread(samples: pd.DataFrame, role: str) -> pd.Series[float]:
    """Interquartile range over median of a role's blocks, by cell."""
    quartiles = (
        samples[samples["role"] == role].groupby("cell")["seconds"].quantile(np.array([0.25, 0.5, 0.75])).unstack()
    )
    if quartiles.empty:
        return pd.Series(dtype=float)
    spread: pd.Series[float] = (quartiles[0.75] - quartiles[0.25]) / quartiles[0.5]
    return spread
