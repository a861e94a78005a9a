"""The weekly digest: what the nights of the last seven days found, what is open, and that the pipeline is alive."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from statistics import geometric_mean
from typing import TYPE_CHECKING

from .. import causes, wording
from ..causes import Standing
from ..records import Message
from ..report import nights
from ..report.nights import Entry
from ..report.templating import template
from .messages import DOMAIN, TAG

if TYPE_CHECKING:
    from ..config import Config

DAYS = 7
DIRECTORY = "digests"  # below the home directory
TRACKS, CAUSES = 3, 5  # told in a mail; the page over all nights has them all


@dataclass(frozen=True)
class Track:
    """The nights of one device and suite."""

    title: str
    nights: str
    speedups: str


@dataclass(frozen=True)
class Digest:
    lead: str
    tracks: tuple[Track, ...]
    more_tracks: int
    open: tuple[str, ...]
    more_open: int
    index: str


def week_of(moment: datetime) -> str:
    """`2026-W12`: the ISO week, by which digests are counted."""
    year, week, _ = moment.isocalendar()
    return f"{year}-W{week:02}"


def build(config: Config, now: datetime | None = None) -> Message:
    """The digest of the seven days up to `now`, as a finished message."""
    now = now or datetime.now(UTC)
    every = [entry for entry in nights.read(config.runs_dir) if not entry.planted]
    found = [entry for entry in every if now - timedelta(days=DAYS) < entry.created <= now]
    standing = [entry for entry in causes.ranked(causes.read(config.home).causes) if entry.is_open]
    view = _view(found, standing, str(config.home.resolve() / "index.html"))
    title = wording.one_line(f"{TAG} DIGEST week {week_of(now)}: {view.lead}")
    return Message(
        subject=title,
        to=config.mail.about_kernels,
        text=template("mail/digest.txt.j2").render(digest=view),
        html=template("mail/digest.html.j2").render(digest=view, title=title),
        cause="digest",
        message_id=f"<digest-{week_of(now)}.{now:%Y%m%d%H%M%S}@{DOMAIN}>",
        references=(f"<digest@{DOMAIN}>",),
    )


def _view(found: Sequence[Entry], standing: Sequence[Standing], index: str) -> Digest:
    tracks = list(nights.tracks(found).items())
    lead = f"{_counted(found)}, {wording.count(len(standing), 'cause')} open"
    return Digest(
        lead=lead,
        tracks=tuple(
            Track(f"{device}, suite {suite}", _nights(mine), _speedups(mine))
            for (device, suite), mine in tracks[:TRACKS]
        ),
        more_tracks=max(0, len(tracks) - TRACKS),
        open=tuple(told(entry) for entry in standing[:CAUSES]),
        more_open=max(0, len(standing) - CAUSES),
        index=index,
    )


def _counted(found: Sequence[Entry]) -> str:
    """`6 nights, 5 without a regression, 1 that never began`"""
    ran = sum(entry.began for entry in found)
    quiet = sum(entry.square == "ok" for entry in found)
    counted = f"{wording.count(ran, 'night')}, {quiet} without a regression" if ran else "no night ran"
    return counted + (f", {len(found) - ran} that never began" if len(found) > ran else "")


def _nights(found: Sequence[Entry]) -> str:
    """`5 no regression, 1 regressed, 1 unfinished`"""
    return ", ".join(f"{count} {word}" for word, count in Counter(entry.badge.word for entry in found).most_common())


def _speedups(found: Sequence[Entry]) -> str:
    """`Triton 2.31x, CUDA 5.27x (5.30x before)`: over torch, geometric mean over families, of the newest night."""
    return ", ".join(_by_backend(found))


def _by_backend(found: Sequence[Entry]) -> Iterator[str]:
    measured = [entry for entry in found if entry.speedups]
    if not measured:
        return
    newest, oldest = _means(measured[0]), _means(measured[-1])
    for backend, value in newest.items():
        before = oldest.get(backend)
        changed = before is not None and f"{before:.2f}" != f"{value:.2f}"
        since = f" ({before:.2f}× before)" if changed else ""
        yield f"{wording.title(backend)} {value:.2f}×{since}"


def _means(entry: Entry) -> dict[str, float]:
    values: dict[str, list[float]] = {}
    for speedup in entry.speedups:
        if speedup.candidate:
            values.setdefault(speedup.backend, []).append(speedup.candidate)
    return {backend: geometric_mean(found) for backend, found in values.items()}


def told(entry: Standing) -> str:
    """A cause in a line: `1a2b3c4d REGRESSED cuda/H200 +4.1% per-token/bfloat16 since 2026-03-14, silenced by jo`"""
    where = f"{entry.backend}/{wording.short_device(entry.device)}"
    effect = wording.percent(entry.effect) if entry.effect is not None else ""
    words = [entry.id, entry.verdict.value, where, effect, ", ".join(entry.families), f"since {entry.first:%Y-%m-%d}"]
    decision = f"{entry.decision.kind} by {entry.decision.who}" if entry.decision else "nobody has taken it"
    return f"{wording.one_line(' '.join(word for word in words if word), 140)}, {wording.one_line(decision, 60)}"


def directory(config: Config, now: datetime) -> Path:
    """Where a digest that no night sends is kept, with an outbox like a night's."""
    return config.home / DIRECTORY / f"{now:%Y%m%d-%H%M%S}"


def directories(config: Config) -> Iterator[Path]:
    """Those that are there, in any order."""
    return (config.home / DIRECTORY).glob("*")
