"""The nights before this one on the same device and suite, as far as their run directories are still there."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from itertools import islice
from pathlib import Path

from .. import brief, earlier
from ..errors import RunDirError
from ..night import Night
from ..records import CellVerdict, Environment, Prepared, Verdict, Verdicts
from ..rundir import RunDir

NIGHTS = 20  # drawn a cell, tonight included


@dataclass(frozen=True)
class Point:
    """A cell in one night; `found` is None where that night has no time for it, or proves nothing."""

    created: datetime
    run_id: str
    baseline: str  # sha
    found: CellVerdict | None


def of_cells(night: Night, cells: Collection[str]) -> dict[str, tuple[Point, ...]]:
    """The last nights of each cell, oldest first, tonight last; {} where there were no earlier ones."""
    if not cells:
        return {}
    before = earlier.nights(_runs_dir(night), night.prepared, same_line=False)
    judged = list(islice(_judged(before), NIGHTS - 1))
    series: dict[str, list[Point]] = {cell: [] for cell in cells}
    for prepared, found in reversed(judged):
        _add(series, prepared, {cell.cell: cell for cell in found.cells})
    _add(series, night.prepared, {facts.verdict.cell: facts.verdict for facts in night.facts})
    return {cell: tuple(points) for cell, points in series.items()} if judged else {}


def _judged(before: Iterable[tuple[Prepared, RunDir]]) -> Iterator[tuple[Prepared, Verdicts]]:
    """Read one by one: a year of nights must not make a report slow."""
    for prepared, run in before:
        if found := earlier.judged(run):
            yield prepared, found


def _add(series: dict[str, list[Point]], prepared: Prepared, found: dict[str, CellVerdict]) -> None:
    for cell, points in series.items():
        verdict = found.get(cell)
        measured = verdict if verdict and verdict.effect and verdict.verdict is not Verdict.INVALID else None
        points.append(Point(prepared.created, prepared.run_id, prepared.baseline.sha, measured))


def _runs_dir(night: Night) -> Path:
    return night.run_dir.resolve().parent


def environment_of(night: Night, run_id: str) -> Environment | None:
    """The machine of another night, or None where nothing of it is left."""
    if not run_id:
        return None
    with suppress(RunDirError):  # most are named by their id
        if (prepared := RunDir(_runs_dir(night) / run_id).prepared()).run_id == run_id:
            return prepared.environment
    every = (told.prepared for _, told in brief.judged(_runs_dir(night)))
    return next((prepared.environment for prepared in every if prepared.run_id == run_id), None)
