"""Verdicts of cells: what was settled before timing, or else what the launches decided."""

from __future__ import annotations

import pandas as pd

from .. import stats
from ..backends import YARDSTICKS
from ..records import CellVerdict, Verdict
from ..spec import BASELINE, CANDIDATE
from .decisions import Decision
from .evidence import Evidence, Settled, backend_of
from .power import Power


def judge_cells(night: Evidence, decided: dict[str, Decision], power: Power) -> list[CellVerdict]:
    """One verdict a cell of the night, in its order."""
    times = stats.cell_times(night.screening_samples)
    spread = stats.relative_spread(night.screening_samples, CANDIDATE)

    def verdict(cell: str, settled: Settled | None) -> CellVerdict:
        if settled is not None:
            return CellVerdict(cell=cell, verdict=settled[0], reason=settled[1])
        decision = decided.get(cell)
        if decision is None and not _is_timed_control(night, cell):
            return CellVerdict(cell=cell, verdict=Verdict.MISSING, reason=_why_untimed(night, cell))
        return _doubted(_timed(cell, decision, power, times, spread), night.doubt(cell))

    return [verdict(cell, settled) for cell, settled in night.settled.items()]


def _doubted(found: CellVerdict, doubt: str) -> CellVerdict:
    """What is in doubt is not well, and accused of nothing; a control is one all the same."""
    if not doubt:
        return found
    verdict = Verdict.UNRESOLVED if found.verdict in (Verdict.OK, Verdict.IMPROVED) else found.verdict
    return found.model_copy(update={"verdict": verdict, "reason": "; ".join(filter(None, (found.reason, doubt)))})


def _timed(
    cell: str, decision: Decision | None, power: Power, times: pd.DataFrame, spread: pd.Series[float]
) -> CellVerdict:
    """decision: None of a control that one launch timed, which gives no interval."""
    control = decision is None or decision.verdict is Verdict.CONTROL
    return CellVerdict(
        cell=cell,
        verdict=decision.verdict if decision else Verdict.CONTROL,
        reason=_why_control(backend_of(cell)) if decision is None or control else decision.reason,
        effect=decision.effect if decision else None,
        baseline_us=_microseconds(times[BASELINE], cell),
        candidate_us=_microseconds(times[CANDIDATE], cell),
        spread=float(spread.loc[cell]),
        phase=decision.phase if decision else None,
        mde=None if decision is None or control else power.detectable(decision.estimate.deviation),
        margin=None if decision is None or control else decision.estimate.margin,
    )


def _microseconds(seconds: pd.Series[float], cell: str) -> float:
    return float(seconds.loc[cell]) * 1e6


def _is_timed_control(night: Evidence, cell: str) -> bool:
    return cell in night.controls and cell in night.launches.screening


def _why_control(backend: str) -> str:
    if backend in YARDSTICKS:
        return "what the others are measured against: not judged"
    return "the builds run the same machine code here"


def _why_untimed(night: Evidence, cell: str) -> str:
    effects = night.launches.screening
    launches = int(effects[cell].notna().sum()) if cell in effects else 0
    failures = night.failures.get(cell) or night.failures.get("")
    said = f" ({failures[0].status}: {failures[0].detail})" if failures else ""
    return f"timed in {launches} launches, {night.settings.min_launches} are needed{said}"
