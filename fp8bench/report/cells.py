"""The full table of cells, loudest first."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from .. import metrics, wording
from ..metrics import CellFacts, Metric
from ..night import Night
from ..records import Verdict
from .tones import Badge, badge

RANK = {verdict: rank for rank, verdict in enumerate(Verdict)}
COLUMNS = tuple(metric for metric in metrics.METRICS if metric.kind == "time" and metric.name != "ratio_vs_baseline")


@dataclass(frozen=True)
class Row:
    cell: str
    badge: Badge
    effect: str
    key: str  # what the effect column is sorted by
    values: tuple[str, ...]
    reason: str


@dataclass(frozen=True)
class Cells:
    columns: tuple[str, ...]
    rows: tuple[Row, ...]
    expanded: bool


def build(night: Night) -> Cells:
    rows = ranked(night)
    used = [metric for metric in COLUMNS if any(metric.compute(facts) is not None for facts in rows)]
    titles = tuple(f"{metric.title}, {metric.unit}" if metric.unit else metric.title for metric in used)
    return Cells(titles, tuple(_row(facts, used) for facts in rows), len(rows) <= 100)


def ranked(night: Night) -> list[CellFacts]:
    """All cells, the loudest verdict first, then the slowest."""
    return sorted(night.facts, key=lambda facts: (RANK[facts.verdict.verdict], -_value(facts)))


def _value(facts: CellFacts) -> float:
    return facts.verdict.effect.value if facts.verdict.effect else 0.0


def _row(facts: CellFacts, columns: Sequence[Metric]) -> Row:
    found = facts.verdict
    return Row(
        cell=facts.cell.id,
        badge=badge(found.verdict),
        effect=wording.effect_text(found.effect),
        key=f"{_value(facts):.5f}",
        values=tuple(metric.show(metric.compute(facts)) for metric in columns),
        reason="" if found.verdict is Verdict.CONTROL else wording.one_line(found.reason, 200),
    )
