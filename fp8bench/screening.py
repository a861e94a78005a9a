"""Which cells need more launches: the screen between the first launches of a night and those that confirm.

Most of the cells of most nights are clear after a few launches. The screen is generous: it lets pass what could be a
change, in either direction, and only the launches that follow decide, so its own mistakes accuse nobody. A small
uniform shift shows in a family before it shows in a cell, so families are screened too; a family brings all its
cells, as the geometric mean of some of them would be another quantity.
"""

from __future__ import annotations

from collections.abc import Collection
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import pandas as pd

from . import stats
from .config import VerdictSettings


class Screen(NamedTuple):
    """What is to be confirmed, sorted."""

    cells: tuple[str, ...]  # those of screened families among them
    families: tuple[str, ...]  # backend/family/regime


@lru_cache(maxsize=100_000)
def family_of(cell: str) -> str:
    """The family of a cell's id on its backend, in its regime: `cuda/per-token/bfloat16/hot`."""
    *family, _, regime = cell.split("/")
    return "/".join([*family, regime])


def families_of(table: pd.DataFrame) -> list[str]:
    """The family of each column of a table of effects."""
    return [family_of(cell) for cell in table.columns.tolist()]


def whole(effects: pd.DataFrame, controls: Collection[str], launches: int) -> pd.DataFrame:
    """The columns that are judged: no controls, and at least `launches` launches."""
    enough = np.count_nonzero(~np.isnan(effects.to_numpy(dtype=float)), axis=0) >= launches
    kept = enough & ~effects.columns.isin(controls) if controls else enough
    return effects if kept.all() else effects.loc[:, kept]


def in_order(effects: pd.DataFrame) -> pd.DataFrame:
    """Columns sorted by name."""
    return effects if effects.columns.is_monotonic_increasing else effects.sort_index(axis=1)


def screen(effects: pd.DataFrame, settings: VerdictSettings, controls: Collection[str], margin: float) -> Screen:
    """What the screening launches cannot clear.

    effects: log-ratios, launches in rows and cell ids in columns, NaN where a launch did not time a cell.
    controls: cells that run the same machine code in both builds; they are never confirmed.
    margin: the smallest effect that counts, `settings.margin(device)`.
    The result depends on nothing but these, and not on the order of rows and columns.
    """
    tested = in_order(whole(effects, controls, settings.min_launches))
    if tested.empty:
        return Screen((), ())
    of_cells = stats.estimates(tested, margin)
    groups = families_of(tested)
    of_families = stats.estimates(tested, margin, groups=groups, weights=stats.steadiness(tested, groups))
    families = suspicious(of_families, settings.screen_alpha)
    brought = [cell for cell, family in zip(tested.columns, groups, strict=True) if family in families]
    return Screen(tuple(sorted({*suspicious(of_cells, settings.screen_alpha), *brought})), tuple(sorted(families)))


def suspicious(estimates: pd.DataFrame, alpha: float) -> set[str]:
    """Names of the rows of `stats.estimates` that may be slower or faster by more than the margin."""
    smaller = np.minimum(estimates["p_slower"].to_numpy(), estimates["p_faster"].to_numpy())
    return set(estimates.index[smaller < alpha])
