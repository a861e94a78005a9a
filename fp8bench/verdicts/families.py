"""Verdicts of families: a small uniform shift shows in a geometric mean before it shows in any cell."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from ..records import CellVerdict, FamilyVerdict, Verdict
from ..screening import family_of
from ..spec import Cell
from .decisions import Decision, loudest
from .evidence import BROKEN
from .power import Power

Key = tuple[str, str, str]  # backend, family, regime


def by_family(cells: Iterable[CellVerdict]) -> dict[Key, list[CellVerdict]]:
    """Cells by the family they belong to, in the order in which families first appear."""
    families: dict[Key, list[CellVerdict]] = {}
    for verdict in cells:
        cell = Cell.parse(verdict.cell)
        families.setdefault((cell.backend, cell.case.family, cell.regime), []).append(verdict)
    return families


def judge_families(cells: Iterable[CellVerdict], decided: dict[str, Decision], power: Power) -> list[FamilyVerdict]:
    """One verdict a family. What is broken in it comes before what its mean says."""
    return [
        _family(key, members, decided.get(family_of(members[0].cell)), power)
        for key, members in by_family(cells).items()
    ]


def _family(key: Key, members: Sequence[CellVerdict], decision: Decision | None, power: Power) -> FamilyVerdict:
    backend, family, regime = key
    found = [cell.verdict for cell in members]
    if decision is not None:
        found = [*(verdict for verdict in found if verdict in BROKEN), decision.verdict]
    judged = decision is not None and decision.verdict is not Verdict.CONTROL
    return FamilyVerdict(
        backend=backend,
        family=family,
        regime=regime,
        verdict=loudest(found),
        effect=decision.effect if decision else None,
        cells=sum(cell.effect is not None for cell in members),
        phase=decision.phase if decision else None,
        mde=power.detectable(decision.estimate.deviation) if decision and judged else None,
        margin=decision.estimate.margin if decision and judged else None,
    )
