"""Times over the floor by family, and shares of the memory's bandwidth: how much is left to gain."""

from __future__ import annotations

from dataclasses import dataclass

from .. import metrics, wording
from ..backends import YARDSTICKS
from ..metrics import CellFacts
from ..night import Night

_OVER, _SHARE = (metrics.metric(name) for name in ("over_floor", "memory_share"))


@dataclass(frozen=True)
class Value:
    mean: str
    worst: str  # the largest of the family
    share: str  # of the memory's bandwidth, the mean; "" where it is not defined


@dataclass(frozen=True)
class Row:
    family: str
    values: tuple[Value | None, ...]  # one a column


@dataclass(frozen=True)
class Floor:
    columns: tuple[str, ...]
    rows: tuple[Row, ...]


def build(night: Night) -> Floor | None:
    """None where the night measured no floor."""
    groups: dict[tuple[str, str, str], list[CellFacts]] = {}
    for facts in night.facts:
        if facts.cell.backend not in YARDSTICKS:
            key = (facts.cell.backend, facts.cell.case.family, facts.cell.regime)
            groups.setdefault(key, []).append(facts)
    found = {key: value for key, group in groups.items() if (value := _value(group))}
    if not found:
        return None
    columns = list(dict.fromkeys((backend, regime) for backend, _, regime in found))
    rows = [
        Row(family, tuple(found.get((backend, family, regime)) for backend, regime in columns))
        for family in dict.fromkeys(family for _, family, _ in found)
    ]
    return Floor(tuple(f"{wording.title(backend)}, {regime}" for backend, regime in columns), tuple(rows))


def _value(group: list[CellFacts]) -> Value | None:
    times = [_OVER.compute(facts) for facts in group]
    mean = metrics.geomean(times)
    if mean is None:
        return None
    share = metrics.geomean(_SHARE.compute(facts) for facts in group)
    return Value(f"{mean:.2f}×", f"{metrics.worst(times):.2f}×", "" if share is None else _SHARE.show(share))
