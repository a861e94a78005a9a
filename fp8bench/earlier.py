"""Earlier nights beside a night: which one came before it, and what its baseline's own night recorded.

Run directories are read, not the clock: a night that is judged again finds the same ones.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

from . import brief
from .errors import RunDirError
from .records import Prepared, Verdicts
from .rundir import RunDir

NIGHTS_REMEMBERED = 14  # in which a cause that was quiet in between is still known


def nights(runs_dir: Path, like: Prepared, same_line: bool = True) -> Iterator[tuple[Prepared, RunDir]]:
    """Judged nights of the device and suite of `like` that began before it, newest first.

    Damaged ones are left out, and so are planted ones: what they found is no part of any story.

    same_line: only those of the same branch that were compared with the same kind of baseline, the accepted one or a
    given one: what somebody tried in between is no part of the story. What is yielded of `prepare.json` is what the
    night's brief has: no cells and no shards.
    """
    found = [
        (told.prepared, RunDir(path))
        for path, told in brief.judged(runs_dir)
        if told.prepared.created < like.created and _is_alike(told.prepared, like, same_line)
    ]
    yield from sorted(found, key=lambda entry: (entry[0].created, entry[0].run_id), reverse=True)


def previous(runs_dir: Path, tonight: Prepared) -> tuple[Prepared, Verdicts] | None:
    """The newest earlier night that is valid; an invalid one neither accused nor cleared."""
    for prepared, run in nights(runs_dir, tonight):
        found = judged(run)
        if found is not None and not found.is_invalid:
            return prepared, found
    return None


def against_the_same(runs_dir: Path, tonight: Prepared) -> Iterator[Verdicts]:
    """The last valid earlier nights that compared with the same baseline, newest first; read as they are asked for."""
    alike = (run for prepared, run in nights(runs_dir, tonight) if prepared.baseline.sha == tonight.baseline.sha)
    for run in islice(alike, NIGHTS_REMEMBERED):
        found = judged(run)
        if found is not None and not found.is_invalid:
            yield found


def recorded_times(runs_dir: Path, tonight: Prepared) -> dict[str, float]:
    """Microseconds a call of the baseline build by cell, on the night that it was accepted from.

    Empty where that night is unknown, was invalid or has no run directory here.
    """
    for prepared, run in nights(runs_dir, tonight, same_line=False):
        found = judged(run) if prepared.run_id == tonight.baseline_run else None
        if found is not None and not found.is_invalid and prepared.candidate.sha == tonight.baseline.sha:
            return {cell.cell: cell.candidate_us for cell in found.cells if cell.candidate_us}
    return {}


def _is_alike(prepared: Prepared, like: Prepared, same_line: bool) -> bool:
    if prepared.run_id == like.run_id or prepared.suite != like.suite:
        return False
    same_device = prepared.environment.device_name == like.environment.device_name
    return same_device and not prepared.planted and (not same_line or _line(prepared) == _line(like))


def _line(prepared: Prepared) -> tuple[str, str]:
    """Branch and baseline that were asked for; "" for the branch of every night, and for the accepted baseline."""
    candidate = prepared.requested.get("candidate", "HEAD")
    is_commit = candidate == "HEAD" or re.fullmatch(r"[0-9a-f]{7,40}", candidate)
    return "" if is_commit else candidate, prepared.requested.get("baseline", "")


def judged(run: RunDir) -> Verdicts | None:
    """What a night found; None where its record is damaged."""
    try:
        return run.judged()
    except RunDirError:
        return None
