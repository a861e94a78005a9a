"""Every night's effect against one frozen build, the anchor."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import pandas as pd

from .. import earlier
from ..records import Prepared, Verdict, Verdicts
from ..rundir import RunDir

Night = tuple[Prepared, Verdicts]


def anchored_effects(runs_dir: Path, tonight: RunDir, limit: int = 366) -> pd.DataFrame:
    """Effects of `tonight` and of up to `limit` earlier nights of its device and suite, as `anchor` gives them."""
    prepared = tonight.prepared()
    nights = [(prepared, tonight.judged())]
    for before, run in earlier.nights(runs_dir, prepared):
        if len(nights) > limit:
            break
        if (found := earlier.judged(run)) is not None:
            nights.append((before, found))
    return anchor(reversed(nights))


def anchor(nights: Iterable[Night]) -> pd.DataFrame:
    """Log-ratio of each night's candidate over the anchor: nights in rows (by when they began), cells in columns.

    nights: oldest first. A night measures its candidate against the baseline of then; that baseline was itself measured
    on the night that it was a candidate, so paired effects add up, baseline by baseline, to the anchor: the baseline of
    the oldest night. Where a baseline was never measured the chain is broken, and begins anew with it; where it was,
    but without a cell, the chain of that cell is. Cells that run the baseline's machine code have its effect exactly.
    What a night lacks is a gap, NaN; an invalid one is a gap.
    """
    rows: dict[object, pd.Series[float]] = {}
    known: dict[str, pd.Series[float]] = {}  # commit -> effects against the anchor
    for prepared, verdicts in nights:
        baseline, candidate = prepared.baseline.sha, prepared.candidate.sha
        if baseline not in known:
            rows, known = {}, {baseline: pd.Series(dtype=float)}
        row = pd.Series(dtype=float) if verdicts.is_invalid else _row(verdicts)
        _begin_anew(row.index.difference(known[baseline].index), baseline, rows, known)
        row = row + known[baseline].reindex(row.index)
        rows[prepared.created] = row
        if candidate != baseline and not row.empty:  # what it lacks, an earlier night of the candidate may have
            known[candidate] = row.combine_first(known[candidate]) if candidate in known else row
    return pd.DataFrame(list(rows.values()), index=pd.Index(list(rows), name="night")).sort_index(axis=1)


def _begin_anew(
    cells: pd.Index[str], baseline: str, rows: dict[object, pd.Series[float]], known: dict[str, pd.Series[float]]
) -> None:
    """Let `baseline` be the anchor of these cells: nothing links it to what was told of them before."""
    if cells.empty:
        return
    for entry in rows:
        rows[entry] = rows[entry].drop(cells, errors="ignore")
    for sha in known:
        known[sha] = known[sha].drop(cells, errors="ignore")
    known[baseline] = pd.concat([known[baseline], pd.Series(0.0, index=cells)])


def _row(verdicts: Verdicts) -> pd.Series[float]:
    """The night's effects by cell; controls have none, whatever noise they measured."""
    effects = {
        cell.cell: 0.0 if cell.verdict is Verdict.CONTROL else cell.effect.value
        for cell in verdicts.cells
        if cell.effect is not None
    }
    return pd.Series(effects, dtype=float)
