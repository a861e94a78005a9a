"""The report of a night: one self-contained HTML file, readable without JavaScript.

A section is a function from a night to a view model (a frozen dataclass, or None when there is nothing to tell)
and a template of the same name in `templates/report/`. To add a section: write both, and add a line to `SECTIONS`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from .. import wording
from ..night import Night
from ..records import Verdict
from . import causes, cells, environment, floor, heatmaps, numerics, speedups, trust
from .templating import template
from .tones import Badge, badge, night_badge


@dataclass(frozen=True)
class Section:
    name: str  # of the template and the anchor
    title: str
    build: Callable[[Night], object | None]


SECTIONS = (
    Section("trust", "Can tonight be trusted?", trust.build),
    Section("causes", "Causes", causes.build),
    Section("heatmaps", "Effect by size", heatmaps.build),
    Section("speedups", "Speedup over Torch (Compiled)", speedups.build),
    Section("floor", "Time over the floor", floor.build),
    Section("cells", "All cells", cells.build),
    Section("numerics", "Numerics", numerics.build),
    Section("builds", "Builds", environment.builds),
    Section("commits", "Commits", environment.commits),
    Section("environment", "Environment", environment.environment),
    Section("links", "MLflow", environment.links),
    Section("reading", "How to read this page", environment.reading),
)


@dataclass(frozen=True)
class Line:
    """What the night found for one backend."""

    badge: Badge
    text: str


@dataclass(frozen=True)
class Header:
    badge: Badge
    run_id: str
    date: str
    suite: str
    device: str
    lead: str
    lines: tuple[Line, ...]
    notes: tuple[str, ...]


def render(run_dir: Path) -> str:
    """The report of the judged night in `run_dir` as HTML. RunDirError when a record is missing."""
    night = Night.read(run_dir)
    sections = [(section, view) for section in SECTIONS if (view := section.build(night)) is not None]
    return template("report/page.html.j2").render(header=_header(night), sections=sections)


def _header(night: Night) -> Header:
    prepared = night.prepared
    return Header(
        badge=night_badge(night.verdicts.verdict, night.verdicts.exit_code),
        run_id=prepared.run_id,
        date=f"{prepared.created:%A, %d %B %Y, %H:%M} UTC",
        suite=prepared.suite,
        device=wording.short_device(prepared.environment.device_name),
        lead=_lead(night),
        lines=tuple(Line(badge(entry.verdict), entry.sentence) for entry in night.verdicts.backends),
        notes=(*_why_invalid(night), *prepared.notes),
    )


def _lead(night: Night) -> str:
    prepared = night.prepared
    if prepared.first_night:
        return f"First night: commit {prepared.candidate.short} was measured against itself."
    return f"Candidate {prepared.candidate.short} against baseline {prepared.baseline.short}."


def _why_invalid(night: Night) -> tuple[str, ...]:
    """The night's own sentence where it is invalid and no line of a backend says so."""
    told = any(entry.verdict is Verdict.INVALID for entry in night.verdicts.backends)
    return (night.verdicts.sentence,) if night.verdicts.verdict is Verdict.INVALID and not told else ()
