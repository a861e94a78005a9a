"""What the nights before this one show together with it: steps and creep against a frozen build."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from statistics import median

import pandas as pd

from .. import history, wording
from ..history import Trend
from ..night import Night
from ..rundir import RunDir

NIGHTS = 40  # looked at: the page must not wait for a year


@dataclass(frozen=True)
class Group:
    """Cells of a backend that changed in the same way on the same night."""

    backend: str
    kind: str  # step or creep
    since: str
    cells: tuple[str, ...]
    change: float  # log-ratio, the median over the cells


def of_cells(night: Night, cells: Collection[str]) -> dict[str, list[Trend]]:
    """Steps and creep of single cells."""
    table = _table(night)
    found: dict[str, list[Trend]] = {}
    for trend in history.find_trends(table[[cell for cell in cells if cell in table]]):
        found.setdefault(trend.cell, []).append(trend)
    return found


def groups(night: Night) -> list[Group]:
    """Steps and creep of all cells, those that slowed most cells first; improvements are told too."""
    found: dict[tuple[str, str, str], list[Trend]] = {}
    for trend in history.find_trends(_table(night)):
        backend = trend.cell.partition("/")[0]
        found.setdefault((backend, trend.kind, f"{trend.since:%Y-%m-%d}"), []).append(trend)
    together = [
        Group(*key, tuple(trend.cell for trend in trends), median(trend.change for trend in trends))
        for key, trends in found.items()
    ]
    return sorted(together, key=lambda group: (group.change <= 0, -len(group.cells)))


def told(group: Group) -> str:
    """`12 cells stepped by +1.3% (median), e.g. cuda/per-token/bfloat16/1024x7168/cold`"""
    verb = "stepped by" if group.kind == "step" else "crept by"
    cells = wording.count(len(group.cells), "cell")
    return f"{cells} {verb} {wording.percent(group.change)} (median), e.g. {group.cells[0]}"


def _table(night: Night) -> pd.DataFrame:
    here = night.run_dir.resolve()
    return _read(here, (here / "verdicts.json").stat().st_mtime_ns)


@lru_cache(maxsize=1)
def _read(run_dir: Path, _written: int) -> pd.DataFrame:
    return history.anchored_effects(run_dir.parent, RunDir(run_dir), NIGHTS)
