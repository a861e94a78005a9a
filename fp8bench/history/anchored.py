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
    the oldest night. Where a baseline was never measured the chain is broken, and begins anew with it. Cells that run
    the baseline's machine code have its effect exactly. What a night lacks is a gap, NaN; an invalid one is a gap.
    """
    rows: dict[object, pd.Series[float]] = {}
    known: dict[str, pd.Series[float]] = {}  # commit -> effects against the anchor
    for prepared, verdicts in nights:
        if not known:
            known[prepared.baseline.sha] = pd.Series(dtype=float)
        elif prepared.baseline.sha not in known:
            rows, known = {}, {prepared.baseline.sha: pd.Series(dtype=float)}
        row = _row(verdicts).add(known[prepared.baseline.sha], fill_value=0.0) if _is_valid(verdicts) else None
        rows[prepared.created] = pd.Series(dtype=float) if row is None else row
        if row is not None and prepared.candidate.sha != prepared.baseline.sha:
            known[prepared.candidate.sha] = row
    return pd.DataFrame(list(rows.values()), index=pd.Index(list(rows), name="night")).sort_index(axis=1)


def _is_valid(verdicts: Verdicts) -> bool:
    return verdicts.verdict is not Verdict.INVALID and verdicts.exit_code != 3


def _row(verdicts: Verdicts) -> pd.Series[float]:
    """The night's effects by cell; controls have none, whatever noise they measured."""
    effects = {
        cell.cell: 0.0 if cell.verdict is Verdict.CONTROL else cell.effect.value
        for cell in verdicts.cells
        if cell.effect is not None
    }
    return pd.Series(effects, dtype=float)
