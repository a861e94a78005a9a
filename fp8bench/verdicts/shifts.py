"""Environment shifts: the same build is slower tonight than on the night it was recorded.

What is compared is one build on two nights, so no commit can be blamed, whatever the candidate does. Across nights
nothing is paired, so the threshold is wide and a family moves only as its median does.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from statistics import median

from .. import wording
from ..backends import REFERENCE, YARDSTICKS
from ..records import CellVerdict, Shift
from ..screening import family_of
from ..spec import Cell
from .causes import cause_id
from .evidence import backend_of


def find_shifts(
    cells: Sequence[CellVerdict], recorded: Mapping[str, float], run_id: str, threshold: float, least_us: float = 0.0
) -> list[Shift]:
    """One a backend whose families are slower than on record. Yardsticks are not asked: they accuse nobody.

    recorded: microseconds a call of the baseline build, by cell, on the night `run_id` that it was accepted from.
    threshold, least_us: log-ratio and microseconds that the median of a family must exceed.
    """
    moved = _moved_cells(cells, recorded, threshold, least_us)
    backends = list(dict.fromkeys(map(backend_of, moved)))
    return [_shift(backend, backends, moved, run_id) for backend in backends]


def _moved_cells(
    cells: Sequence[CellVerdict], recorded: Mapping[str, float], threshold: float, least_us: float
) -> dict[str, float]:
    """Log-ratios of the cells of all families that moved."""
    pairs = {
        cell.cell: (cell.baseline_us, recorded[cell.cell])
        for cell in cells
        if cell.baseline_us and recorded.get(cell.cell) and backend_of(cell.cell) not in YARDSTICKS
    }
    families: dict[str, list[tuple[float, float]]] = {}
    for cell, pair in pairs.items():
        families.setdefault(family_of(cell), []).append(pair)
    slower = {
        family
        for family, members in families.items()
        if median(math.log(now / then) for now, then in members) > threshold
        and median(now - then for now, then in members) > least_us
    }
    return {cell: math.log(now / then) for cell, (now, then) in pairs.items() if family_of(cell) in slower}


def _shift(backend: str, backends: Sequence[str], moved: Mapping[str, float], run_id: str) -> Shift:
    mine = {cell: ratio for cell, ratio in moved.items() if backend_of(cell) == backend}
    worst = max(mine, key=mine.__getitem__)
    value = median(mine.values())
    families = tuple(sorted({Cell.parse(cell).case.family for cell in mine}))
    only_reference = list(backends) == [REFERENCE]
    return Shift(
        id=cause_id(backend, "environment"),
        backend=backend,
        families=families,
        cells=tuple(sorted(mine)),
        value=value,
        worst=mine[worst],
        worst_cell=worst,
        recorded=run_id,
        label="reference" if only_reference else "environment",
        detail=_detail(backend, value, run_id, only_reference),
    )


def _detail(backend: str, value: float, run_id: str, only_reference: bool) -> str:
    where = "look at torch and its compiler" if only_reference else "driver, toolkit, clocks or machine changed"
    return (
        f"{wording.title(backend)}: the baseline build is {wording.percent(value)} from its times in night {run_id}, "
        f"when it was recorded: {where}, not the code"
    )
