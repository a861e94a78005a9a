"""The report of a night: one self-contained HTML file, readable without JavaScript.

A section is a function from a night to a view model (a frozen dataclass, or None when there is nothing to tell)
and a template of the same name in `templates/report/`. To add a section: write both, and add a line to `SECTIONS`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from ..night import Night
from . import also, causes, cells, environment, floor, header, heatmaps, light, numerics, speedups, trust
from .index import render as render_index
from .templating import template

__all__ = ["SECTIONS", "Section", "render", "render_index"]


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
    Section("light", "Achieved bandwidth", light.build),
    Section("also", "Also tonight", also.build),
    Section("cells", "All cells", cells.build),
    Section("numerics", "Numerics", numerics.build),
    Section("builds", "Builds", environment.builds),
    Section("commits", "Commits", environment.commits),
    Section("environment", "Environment", environment.environment),
    Section("links", "MLflow", environment.links),
    Section("reading", "How to read this page", environment.reading),
)


def render(run_dir: Path, home: Path | None = None) -> str:
    """The report of the judged night in `run_dir` as HTML. RunDirError when a record is missing.

    home: where decisions about causes are kept; without it none are shown.
    """
    night = Night.read(run_dir, home)
    sections = [(section, view) for section in SECTIONS if (view := section.build(night)) is not None]
    return template("report/page.html.j2").render(header=header.build(night), sections=sections, plot=light)
