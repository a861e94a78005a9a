"""The short form of a night, which terminal and Markdown show: the verdict without the tables and drawings."""

from __future__ import annotations

from dataclasses import dataclass

from .. import wording
from ..night import Night
from ..records import Commit
from . import also, causes, header, speedups, trust
from .also import Group
from .causes import Accused, CauseView
from .header import Header
from .speedups import Speedups
from .tones import Badge
from .trust import Tile

SHOWN = 5  # accused cells and suspects told a cause; the report has them all


@dataclass(frozen=True)
class Suspect:
    short: str
    text: str
    files: str


@dataclass(frozen=True)
class BriefCause:
    badge: Badge
    title: str
    state: str
    decision: str
    summary: str
    detail: str
    cells: tuple[Accused, ...]  # worst first
    more: int
    suspects: tuple[Suspect, ...]
    more_suspects: int
    reproduction: str


@dataclass(frozen=True)
class Digest:
    header: Header
    tiles: tuple[Tile, ...]
    causes: tuple[BriefCause, ...]
    sentence: str  # instead of causes
    also: tuple[Group, ...]  # what recovered, and what moved with the environment
    speedups: Speedups | None
    links: tuple[tuple[str, str], ...]  # name, address


def build(night: Night) -> Digest:
    found = causes.brief(night)
    links = [("Report", night.link("report")), ("MLflow", night.link("night"))]
    return Digest(
        header=header.build(night),
        tiles=trust.build(night).tiles,
        causes=tuple(_brief(cause) for cause in found.causes),
        sentence=found.sentence,
        also=also.brief(night),
        speedups=speedups.build(night),
        links=tuple((name, link) for name, link in links if link),
    )


def _brief(cause: CauseView) -> BriefCause:
    shown = cause.accused[:SHOWN]
    return BriefCause(
        badge=cause.badge,
        title=cause.title,
        state=cause.state,
        decision=cause.decision,
        summary=cause.summary,
        detail=wording.one_line(cause.detail, 300),
        cells=shown,
        more=cause.more + len(cause.accused) - len(shown),
        suspects=tuple(_suspect(commit) for commit in cause.suspects[:SHOWN]),
        more_suspects=max(0, len(cause.suspects) - SHOWN),
        reproduction=cause.reproduction,
    )


def _suspect(commit: Commit) -> Suspect:
    return Suspect(commit.short, wording.suspect(commit), wording.touched(commit))
