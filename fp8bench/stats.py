"""Numbers in, numbers out: launch effects, intervals, p values, false discovery rate.

The launch is the unit of replication. Blocks of one launch share placement and code alignment, so thousands of them
can be confidently wrong together; one launch therefore gives one effect a cell, and tests are over launches.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.special import stdtr, stdtrit  # Student t; scipy.stats takes a second to import

Floats = NDArray[np.float64]

_ROLES = ["baseline", "candidate"]


@dataclass(frozen=True)
class Estimate:
    """Mean over launches with its interval; p values are one-sided, against the margin on either side."""

    value: float
    lower: float
    upper: float
    p_slower: float  # under "not slower than the margin"
    p_faster: float  # under "not faster than the margin"
    launches: int


def launch_effects(samples: pd.DataFrame) -> pd.DataFrame:
    """One effect a launch and cell: log(candidate / baseline), the median over its quads.

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
    effects: pd.DataFrame = (
        (quads["candidate"] - quads["baseline"]).groupby(["launch", "cell"]).median().unstack("cell")
    )
    return effects.sort_index(axis=0).sort_index(axis=1)


def estimate(effects: Iterable[float], margin: float, confidence: float = 0.95) -> Estimate | None:
    """Mean effect of launches with its Student t interval; None below two launches. NaN are left out.

    margin: log-ratio >= 0 that an effect must exceed to count as a change.
    """
    values = np.asarray([value for value in effects if not np.isnan(value)], dtype=float)
    count = len(values)
    if count < 2:
        return None
    mean = float(values.mean())
    # Launches that agree to the last digit (a coarse clock) would give a zero-width interval and a division by zero.
    error = max(float(values.std(ddof=1)) / count**0.5, 1e-9)
    half = float(stdtrit(count - 1, (1 + confidence) / 2)) * error
    slower = float(stdtr(count - 1, (margin - mean) / error))
    faster = float(stdtr(count - 1, (mean + margin) / error))
    return Estimate(mean, mean - half, mean + half, slower, faster, count)


def mean_of_cells(effects: pd.DataFrame) -> Floats:
    """Mean effect over the cells (columns) of a family by launch: the logarithm of their geometric mean ratio.

    Only launches that timed every cell that any launch timed count; another set of cells is another quantity.
    """
    timed = effects.dropna(axis=1, how="all")
    return timed.dropna(axis=0, how="any").mean(axis=1).to_numpy(dtype=float)


def benjamini_hochberg(p_values: Sequence[float], rate: float) -> list[bool]:
    """Which hypotheses to reject so that at most the share `rate` of the rejections is false."""
    count = len(p_values)
    if not count:
        return []
    ordered = np.sort(np.asarray(p_values, dtype=float))
    passed = np.flatnonzero(ordered <= rate * np.arange(1, count + 1) / count)
    threshold = ordered[passed[-1]] if len(passed) else -1.0
    return [bool(p <= threshold) for p in p_values]


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
