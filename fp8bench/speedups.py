"""Geometric means of speedups, with what is missing left out and counted. No torch: both halves use it."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import pandas as pd


class Speedup(NamedTuple):
    """Geometric mean of baseline time / time over the pairs that have both."""

    value: float | None  # None when nothing was counted
    counted: int
    missing: int


def _is_time(value: float | None) -> bool:
    """A time is finite and positive; 0 is what some scripts write for "unsupported"."""
    return value is not None and math.isfinite(value) and value > 0


def geomean_speedup(pairs: Iterable[tuple[float | None, float | None]]) -> Speedup:
    """Speedup over `pairs` of (baseline time, time) in any unit; a pair that lacks one (None, NaN, 0) is missing."""
    found = list(pairs)
    logs = [math.log(first / second) for first, second in found if _is_time(first) and _is_time(second)]  # type: ignore[operator]
    value = math.exp(math.fsum(logs) / len(logs)) if logs else None
    return Speedup(value, len(logs), len(found) - len(logs))


def compute_geomean_speedups(
    df: pd.DataFrame, baseline_col: str, speedup_cols: Sequence[str], groupby_cols: Sequence[str] | None = None
) -> pd.DataFrame:
    """Geometric mean speedups of columns of times over a baseline column.

    groupby_cols: one row for each of their combinations, sorted; None: one row over all of `df`.
    Returns the columns groupby_cols, speedup_cols (factors; NaN where nothing could be compared), and for each
    speedup column `<column> missing`: how many rows were left out because one of the two times is missing.
    """

    def row(group: pd.DataFrame) -> dict[str, float | int]:
        found = {col: geomean_speedup(zip(group[baseline_col], group[col], strict=True)) for col in speedup_cols}
        values = {col: math.nan if entry.value is None else entry.value for col, entry in found.items()}
        return {**values, **{f"{col} missing": entry.missing for col, entry in found.items()}}

    if groupby_cols is None:
        return pd.DataFrame([row(df)])
    by = list(groupby_cols)
    groups = df.groupby(by, dropna=False)
    columns = [*by, *speedup_cols, *(f"{col} missing" for col in speedup_cols)]
    return pd.DataFrame([{**dict(zip(by, key, strict=True)), **row(group)} for key, group in groups], columns=columns)
