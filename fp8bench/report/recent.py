"""The nights before this one on the same device and suite, as far as their run directories are still there."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from ..errors import RunDirError
from ..night import Night
from ..records import CellVerdict, Environment, Prepared, Verdict
from ..rundir import RunDir

NIGHTS = 20  # drawn a cell, tonight included
LOOKED_AT = 40  # directories, newest first: a year of nights must not make a report slow


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
    earlier = list(_judged(night))
    series: dict[str, list[Point]] = {cell: [] for cell in cells}
    for prepared, found in sorted(earlier, key=lambda entry: entry[0].created)[-(NIGHTS - 1) :]:
        _add(series, prepared, found)
    _add(series, night.prepared, {facts.verdict.cell: facts.verdict for facts in night.facts})
    return {cell: tuple(points) for cell, points in series.items()} if earlier else {}


def _add(series: dict[str, list[Point]], prepared: Prepared, found: dict[str, CellVerdict]) -> None:
    for cell, points in series.items():
        verdict = found.get(cell)
        measured = verdict if verdict and verdict.effect and verdict.verdict is not Verdict.INVALID else None
        points.append(Point(prepared.created, prepared.run_id, prepared.baseline.sha, measured))


def _judged(night: Night) -> Iterator[tuple[Prepared, dict[str, CellVerdict]]]:
    """Earlier nights that can be compared with this one, with their cells."""
    mine = night.prepared
    for path in _siblings(night):
        try:
            prepared = RunDir(path).prepared()
            alike = prepared.suite == mine.suite and prepared.environment.device_name == mine.environment.device_name
            if alike and prepared.created < mine.created:
                yield prepared, {cell.cell: cell for cell in RunDir(path).judged().cells}
        except RunDirError:
            continue  # damaged or unfinished: the page over all nights tells of it


def _siblings(night: Night) -> list[Path]:
    """Run directories beside this one, the last prepared first."""
    here = night.run_dir.resolve()
    judged = [path.parent for path in here.parent.glob("*/verdicts.json") if path.parent != here]
    return sorted(judged, key=_written, reverse=True)[:LOOKED_AT]


def _written(path: Path) -> int:
    try:
        return (path / "prepare.json").stat().st_mtime_ns
    except OSError:
        return 0  # removed meanwhile


def environment_of(night: Night, run_id: str) -> Environment | None:
    """The machine of another night, or None where nothing of it is left."""
    if not run_id:
        return None
    beside = night.run_dir.resolve().parent
    for path in [beside / run_id, *_siblings(night)]:
        try:
            prepared = RunDir(path).prepared()
        except RunDirError:
            continue
        if prepared.run_id == run_id:
            return prepared.environment
    return None
