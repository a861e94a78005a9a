"""The pictures of a night as files, for whoever cannot show the report: one a regressed cause."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from .. import records
from ..night import Night
from ..records import Cause, Verdict
from . import launches, picture

FOLDER = "figures"  # of a run directory
SHOWN = 8  # cells


def write(run_dir: Path) -> list[Path]:
    """Write `figures/<cause>.png` of every regressed cause of the judged night in `run_dir`; returns their paths."""
    night = Night.read(run_dir)
    found = {cause.id: draw(night, worst(night, cause)[:SHOWN]) for cause in night.verdicts.causes}
    written = []
    for name, png in found.items():
        if png:
            path = run_dir / FOLDER / f"{name}.png"
            records.write_bytes(png, path)
            written.append(path)
    return written


def worst(night: Night, cause: Cause) -> list[str]:
    """The cells of a regressed cause, worst first; [] of another, which has no effects to draw."""
    effects = {facts.verdict.cell: facts.verdict.effect for facts in night.facts}
    if cause.verdict is not Verdict.REGRESSED:
        return []
    return sorted(cause.cells, key=lambda cell: -(effect.value if (effect := effects[cell]) else 0.0))


def draw(night: Night, cells: Sequence[str]) -> bytes:
    """A PNG of cells: launches, effect, interval, margin; b"" where none of them has an effect."""
    effects = {facts.verdict.cell: facts.verdict.effect for facts in night.facts}
    measured = launches.effects(night, cells)
    rows = [picture.Row(cell, effect, measured.get(cell, ())) for cell in cells if (effect := effects[cell])]
    return picture.draw(rows, night.verdicts.margin) if rows else b""
