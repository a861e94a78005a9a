"""Speedups over the torch reference for both builds, and which side moved where one fell."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

from ..backends import REFERENCE, YARDSTICKS
from ..records import CellVerdict, FamilyVerdict, Speedup, Verdict
from ..spec import Cell
from ..speedups import geomean_speedup
from .families import Key, by_family

Side = Literal["", "backend slower", "reference faster", "both"]


def speedups(cells: Sequence[CellVerdict], families: Sequence[FamilyVerdict]) -> list[Speedup]:
    """One a family of every backend that is compared with the reference; none where that was not measured."""
    if not any(Cell.parse(cell.cell).backend == REFERENCE for cell in cells):
        return []
    times = {cell.cell: cell for cell in cells}
    found = {(family.backend, family.family, family.regime): family.verdict for family in families}
    return [
        _speedup(key, members, times, found)
        for key, members in by_family(cells).items()
        if key[0] not in (REFERENCE, *YARDSTICKS)
    ]


def _speedup(
    key: Key, members: Sequence[CellVerdict], times: Mapping[str, CellVerdict], found: Mapping[Key, Verdict]
) -> Speedup:
    """Sizes that lack a time on either side count as missing: never as 0, never as infinitely fast."""
    references = [times.get(f"{REFERENCE}/{cell.cell.partition('/')[2]}") for cell in members]
    pairs = list(zip(references, members, strict=True))
    baseline = geomean_speedup((theirs.baseline_us if theirs else None, ours.baseline_us) for theirs, ours in pairs)
    candidate = geomean_speedup((theirs.candidate_us if theirs else None, ours.candidate_us) for theirs, ours in pairs)
    backend, family, regime = key
    return Speedup(
        backend=backend,
        family=family,
        regime=regime,
        baseline=baseline.value,
        candidate=candidate.value,
        counted=candidate.counted,
        missing=candidate.missing,
        moved=_side(found.get(key), found.get((REFERENCE, family, regime))),
    )


def _side(backend: Verdict | None, reference: Verdict | None) -> Side:
    """Which side made a speedup fall. Only what was judged to have moved counts: medians alone wander."""
    slower, faster = backend is Verdict.REGRESSED, reference is Verdict.IMPROVED
    if slower and faster:
        return "both"
    return "backend slower" if slower else "reference faster" if faster else ""
