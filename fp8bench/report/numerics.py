"""Numerics by backend and family, candidate beside baseline: a speedup bought with a wrong clamp shows here."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from .. import metrics, wording
from ..metrics import CellFacts
from ..night import Night
from ..records import CellVerdict, CheckResult, CheckStatus, Verdict
from ..spec import BASELINE, CANDIDATE, Case, Cell

COLUMNS = tuple(metric for metric in metrics.METRICS if metric.kind == "numerics")


@dataclass(frozen=True)
class Value:
    candidate: str
    baseline: str  # "" where it is the same


@dataclass(frozen=True)
class Row:
    backend: str
    family: str
    checked: str
    bad: bool
    values: tuple[Value, ...]
    detail: str


@dataclass(frozen=True)
class Numerics:
    columns: tuple[str, ...]
    rows: tuple[Row, ...]


def build(night: Night) -> Numerics | None:
    groups: dict[tuple[str, str], dict[str, list[CheckResult]]] = {}
    for result in night.checked.results:
        key = (result.backend, Case.parse(result.case).family)
        groups.setdefault(key, {BASELINE: [], CANDIDATE: []})[result.role].append(result)
    if not groups:
        return None
    columns = tuple(f"{metric.title}, {metric.unit}" if metric.unit else metric.title for metric in COLUMNS)
    rows = tuple(_row(backend, family, results) for (backend, family), results in groups.items())
    return Numerics(columns, rows)


def _row(backend: str, family: str, results: dict[str, list[CheckResult]]) -> Row:
    mine = results[CANDIDATE]
    counts = Counter(result.status for result in mine)
    bad = [result for result in mine if result.status in (CheckStatus.WRONG, CheckStatus.CRASHED, CheckStatus.HUNG)]
    return Row(
        backend=wording.title(backend),
        family=family,
        checked=", ".join(f"{count} {status.value}" for status, count in counts.items()),
        bad=bool(bad),
        values=tuple(_value(metric, results) for metric in COLUMNS),
        detail=f"{bad[0].case}: {bad[0].detail}" if bad else "",
    )


def _value(metric: metrics.Metric, results: dict[str, list[CheckResult]]) -> Value:
    candidate, baseline = (metric.show(_worst(metric, results[role])) for role in (CANDIDATE, BASELINE))
    return Value(candidate, "" if candidate == baseline else baseline)


def _worst(metric: metrics.Metric, results: list[CheckResult]) -> float | None:
    return metrics.worst(metric.compute(_facts(result)) for result in results)


def _facts(result: CheckResult) -> CellFacts:
    """A check as the table of metrics takes it: numerics belong to a case, whatever the cache regime."""
    cell = Cell(result.backend, Case.parse(result.case), "hot")
    return CellFacts(cell, CellVerdict(cell=cell.id, verdict=Verdict.OK), result)
