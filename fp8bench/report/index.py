"""The page over all nights: where each device stands, a calendar of verdicts, speedups through time, a table."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from .. import causes, wording
from ..causes import Standing
from ..errors import RunDirError
from . import curves, months, nights
from .causes import decided
from .curves import Chart
from .months import Month
from .nights import Entry
from .templating import template
from .tones import Badge, Tone, badge

OPEN_MONTHS = 4  # of a calendar; earlier ones are folded away
_LOUDNESS: tuple[Tone, ...] = ("bad", "warn", "good", "calm")


@dataclass(frozen=True)
class Row:
    anchor: str
    date: str
    night: Entry


@dataclass(frozen=True)
class Track:
    """The nights of one device and suite."""

    anchor: str
    title: str
    latest: Row
    since: str  # what became of the nights after it; "" when there is none
    legend: tuple[tuple[str, Badge, int], ...]  # a square's text, what it stands for, how many there are
    recent: tuple[Month, ...]
    earlier: tuple[Month, ...]
    charts: tuple[Chart, ...]


@dataclass(frozen=True)
class Open:
    """A cause that no night has cleared."""

    id: str
    badge: Badge
    where: str
    effect: str
    since: str
    last: str
    decision: str


@dataclass(frozen=True)
class Index:
    tone: Tone
    lead: str
    open: tuple[Open, ...]
    trouble: str  # why nobody can tell what is open
    tracks: tuple[Track, ...]
    rows: tuple[Row, ...]
    anchors: dict[str, str]  # name of a night -> its row


def render(runs_dir: Path) -> str:
    """The index of the nights in `runs_dir` as HTML, for a file beside that directory, where decisions lie too.

    Nights that are damaged or unfinished are told as such. RunDirError when the directory cannot be listed.
    """
    view = _build(nights.read(runs_dir), *_open(runs_dir.parent))
    return template("report/index.html.j2").render(
        view=view, weekdays=months.WEEKDAYS, plot=curves, charted_days=curves.DAYS
    )


def _open(home: Path) -> tuple[tuple[Open, ...], str]:
    """The open causes, the loudest first, and why they cannot be told."""
    try:
        found = causes.ranked([entry for entry in causes.read(home).causes if entry.is_open])
    except RunDirError as error:
        return (), str(error).replace(f"{home}/", "")
    return tuple(_standing(entry) for entry in found), ""


def _standing(entry: Standing) -> Open:
    device = wording.short_device(entry.device)
    return Open(
        id=entry.id,
        badge=badge(entry.verdict),
        where=f"{wording.title(entry.backend)} on {device}: {', '.join(entry.families) or 'the build'}",
        effect=wording.effect_text(entry.worst),
        since=f"{entry.first:%Y-%m-%d}",
        last=f"{entry.seen:%Y-%m-%d}",
        decision=decided(entry.decision) if entry.decision else "",
    )


def _build(entries: Sequence[Entry], standing: tuple[Open, ...], trouble: str) -> Index:
    rows = {
        entry.name: Row(f"night-{len(entries) - place}", f"{entry.created:%Y-%m-%d %H:%M}", entry)
        for place, entry in enumerate(entries)
    }
    groups = nights.tracks(entries)
    tracks = tuple(
        _track(f"track-{place}", device, suite, found, rows)
        for place, ((device, suite), found) in enumerate(groups.items(), 1)
    )
    tracks = tuple(sorted(tracks, key=lambda track: _LOUDNESS.index(_tone(track))))
    return Index(
        tone=_tone(tracks[0]) if tracks else "calm",
        lead=_lead(entries),
        open=standing,
        trouble=trouble,
        tracks=tracks,
        rows=tuple(rows.values()),
        anchors={name: row.anchor for name, row in rows.items()},
    )


def _track(anchor: str, device: str, suite: str, found: Sequence[Entry], rows: dict[str, Row]) -> Track:
    latest = next((entry for entry in found if entry.judged), found[0])
    held = months.build(found)
    return Track(
        anchor=anchor,
        title=f"{device}, suite {suite}",
        latest=rows[latest.name],
        since=_since(found[: found.index(latest)]),
        legend=_legend(found),
        recent=held[:OPEN_MONTHS],
        earlier=held[OPEN_MONTHS:],
        charts=curves.build(found),
    )


def _since(later: Sequence[Entry]) -> str:
    """Nights that never ended must not hide behind the good one before them."""
    words = Counter(entry.badge.word for entry in later)
    told = " and ".join(f"{wording.count(count, 'night')} {word}" for word, count in words.items())
    return f"Since then {told}." if told else ""


def _legend(found: Sequence[Entry]) -> tuple[tuple[str, Badge, int], ...]:
    counts = Counter((entry.square, entry.badge) for entry in found)
    return tuple((square, badge, count) for (square, badge), count in counts.most_common())


def _lead(entries: Sequence[Entry]) -> str:
    if not entries:
        return "No night has run yet: `fp8bench nightly` runs one."
    planted = sum(entry.planted for entry in entries)
    quiet = sum(entry.square == "ok" and not entry.planted for entry in entries)
    unread = sum(not entry.judged for entry in entries)
    ended = f", {unread} unfinished or damaged" if unread else ""
    first, last = entries[-1].created, entries[0].created
    span = f"from {first:%d %B %Y} to {last:%d %B %Y}" if first.date() != last.date() else f"on {last:%d %B %Y}"
    tried = f", {planted} planted" if planted else ""
    return f"{wording.count(len(entries), 'night')} {span}: {quiet} without a regression{ended}{tried}."


def _tone(track: Track) -> Tone:
    """How loud a track speaks: as its latest night, and not quietly while later ones never ended."""
    tone = track.latest.night.badge.tone
    return "warn" if track.since and tone != "bad" else tone
