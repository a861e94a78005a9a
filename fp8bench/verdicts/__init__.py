"""What a night found: from what was built, checked and timed to verdicts of cells, families, backends, causes.

    evidence    what was recorded, and what is settled before timing
    decisions   what launches alone say: significance, magnitude, direction
    validity    whether the machine can be believed
    cells, families, backends, speedups, causes, shifts    what is told
    continuity  what of it is new

Exit codes, first that applies: 2 something is wrong, crashed or not built; 3 the night is invalid; 1 a regression;
0 otherwise. An invalid night neither accuses nor acquits what it timed; what was found before timing stands.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import groupby
from statistics import median

import pandas as pd

from ..config import TimingSettings, VerdictSettings
from ..records import BuildReport, CellVerdict, CheckReport, Prepared, Screened, Shift, TimingReport, Verdict, Verdicts
from .backends import exit_code, judge_backend, night_sentence
from .causes import TOLD, find_causes, suspects_of
from .cells import judge_cells
from .continuity import continued
from .decisions import change, decide, direction, is_relevant, is_significant, loudest
from .evidence import BROKEN, Evidence
from .families import judge_families
from .power import Power
from .shifts import find_shifts
from .speedups import speedups
from .validity import arm_result, invalidated, throttled_share, why_invalid

__all__ = [
    "BROKEN",
    "TOLD",
    "change",
    "continued",
    "direction",
    "is_relevant",
    "is_significant",
    "judge",
    "loudest",
    "suspects_of",
    "throttled_share",
]


def judge(
    prepared: Prepared,
    built: BuildReport,
    checked: CheckReport,
    timed: Sequence[TimingReport],
    samples: pd.DataFrame,
    settings: VerdictSettings,
    screened: Screened | None = None,
    recorded: Mapping[str, float] | None = None,
    timing: TimingSettings | None = None,
) -> Verdicts:
    """Judge a night by itself; `continued` sets it against the night before. Neither depends on the order of rows.

    timed: of the screening and of the confirming launches.
    samples: raw blocks in the columns of `records.SAMPLE_COLUMNS`; without a phase, they are of the screen.
    screened: what the screen let through; None when there was none, and the screening launches decide alone.
    recorded: microseconds a call of the baseline build by cell, as measured on the night it was accepted from.
    timing: how the night was spent; it says what effects could be seen, and decides nothing.
    """
    if "phase" not in samples:
        samples = samples.assign(phase="screen")
    timing = timing or TimingSettings()
    night = Evidence(prepared, built, checked, timed, samples, settings, screened)
    decided = decide(night.launches, screened, settings, night.margin)
    arm = night.effects("aa")
    cells = judge_cells(night, decided.cells, _power(night, timing, len(screened.cells) if screened else None))
    power = _power(night, timing, len(screened.families) if screened else None)
    families = judge_families(cells, decided.families, power)
    if reason := why_invalid(night, arm, {cell.cell for cell in cells if cell.candidate_us}):
        cells = [cell.model_copy(update=invalidated(cell.verdict, reason)) for cell in cells]
        families = [family.model_copy(update=invalidated(family.verdict)) for family in families]
    backends = [judge_backend(night, name, cells, families, reason) for name in night.backends]
    return Verdicts(
        verdict=loudest([backend.verdict for backend in backends] + [Verdict.INVALID] * bool(reason)),
        exit_code=exit_code([backend.verdict for backend in backends], reason),
        sentence=night_sentence(prepared, backends, reason),
        invalid=reason,
        cells=tuple(cells),
        families=tuple(families),
        speedups=tuple(speedups(cells, families)),
        backends=tuple(backends),
        causes=tuple(find_causes(night, cells, families, backends)),
        margin=night.margin,
        confidence=settings.confidence,
        shifts=() if reason else tuple(_shifts(night, cells, recorded or {})),
        arm=arm_result(arm, night),
        mde=_typical_mde(cells),
    )


def _shifts(night: Evidence, cells: Sequence[CellVerdict], recorded: Mapping[str, float]) -> list[Shift]:
    settings = night.settings
    return find_shifts(
        cells, recorded, night.prepared.baseline_run, settings.shift(night.device), settings.shift_least_us
    )


def _power(night: Evidence, timing: TimingSettings, hypotheses: int | None) -> Power:
    """hypotheses: that were screened tonight; None: there was no screen, and all cells are tested together."""
    confirms = hypotheses is not None
    if hypotheses is None:
        hypotheses = sum(cell not in night.controls for cell in night.launches.screening)
    return Power(night.settings, timing, night.margin, hypotheses, confirms)


def _typical_mde(cells: Sequence[CellVerdict]) -> dict[str, float]:
    """Median smallest detectable effect by backend/regime."""
    known = [(_place(cell.cell), cell.mde) for cell in cells if cell.mde is not None]
    known.sort()
    return {place: median(mde for _, mde in group) for place, group in groupby(known, key=lambda entry: entry[0])}


def _place(cell: str) -> str:
    return f"{cell.partition('/')[0]}/{cell.rpartition('/')[2]}"
