"""Speedups over torch by family, for both builds: what users quote, and which side moved."""

from __future__ import annotations

from dataclasses import dataclass

from .. import wording
from ..night import Night
from ..records import Speedup


@dataclass(frozen=True)
class Pair:
    baseline: str
    candidate: str
    note: str


@dataclass(frozen=True)
class Row:
    family: str
    pairs: tuple[Pair | None, ...]  # one a column


@dataclass(frozen=True)
class Speedups:
    columns: tuple[str, ...]
    rows: tuple[Row, ...]


def build(night: Night) -> Speedups | None:
    """A column a backend and regime that has any speedup; None where nothing was compared."""
    found = {(entry.backend, entry.family, entry.regime): entry for entry in night.verdicts.speedups}
    timed = [key for key, entry in found.items() if entry.baseline or entry.candidate]
    columns = list(dict.fromkeys((backend, regime) for backend, _, regime in timed))
    if not columns:
        return None
    families = list(dict.fromkeys(family for _, family, _ in found))
    rows = [
        Row(family, tuple(_pair(found.get((backend, family, regime))) for backend, regime in columns))
        for family in families
    ]
    return Speedups(tuple(f"{wording.title(backend)}, {regime}" for backend, regime in columns), tuple(rows))


def _pair(entry: Speedup | None) -> Pair | None:
    if entry is None:
        return None
    missing = f"{wording.count(entry.missing, 'size')} left out" if entry.missing else ""
    note = ", ".join(part for part in (entry.moved, missing) if part)
    return Pair(_times(entry.baseline), _times(entry.candidate), note)


def _times(value: float | None) -> str:
    return "–" if value is None else f"{value:.2f}×"
