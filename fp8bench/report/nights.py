"""The nights below `home/runs` in short: what the index tells of each, also of those that did not end well."""

from __future__ import annotations

import os
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from urllib.parse import quote, urlsplit

from .. import brief, wording
from ..brief import Brief
from ..errors import RunDirError
from ..records import Logged, Prepared, Speedup, Verdict, Verdicts
from ..rundir import RunDir
from .heatmaps import SHORT
from .tones import Badge, night_badge

UNFINISHED = Badge("unfinished", "warn")
DAMAGED = Badge("damaged", "warn")
_SQUARES = {Verdict.REGRESSED: "slow"} | SHORT
_STAGES = ("build", "check", "time", "screen", "confirm", "judge")


@dataclass(frozen=True)
class Entry:
    """One night. `suite`, `device` and `candidate` are "" where nothing says them."""

    name: str  # of its directory
    created: datetime  # UTC
    badge: Badge
    square: str  # the badge in at most five letters
    sentence: str
    suite: str = ""
    device: str = ""
    candidate: str = ""
    subject: str = ""
    report: str = ""  # address relative to the home directory; "" before there is a report
    mlflow: str = ""
    speedups: tuple[Speedup, ...] = ()  # none of a night that proves nothing
    planted: bool = False  # slowed down on purpose: it stands in the table of nights alone

    @property
    def began(self) -> bool:
        """Whether it came to know what to measure, as far as anybody can tell."""
        return bool(self.device) or self.badge is not UNFINISHED

    @property
    def judged(self) -> bool:
        return self.badge not in (UNFINISHED, DAMAGED)


def read(runs_dir: Path) -> list[Entry]:
    """Every night in `runs_dir`, newest first; empty where there is no such directory."""
    if not runs_dir.is_dir():
        return []
    try:
        paths = [path for path in runs_dir.iterdir() if not path.name.startswith(".") and path.is_dir()]
    except OSError as error:
        raise RunDirError(f"cannot list {runs_dir}: {error.strerror}.") from None
    entries = [entry for path in paths if (entry := _entry(path))]
    return sorted(entries, key=lambda entry: (entry.created, entry.name), reverse=True)


def _entry(path: Path) -> Entry | None:
    """A night, whatever state its directory is in; None when it was removed meanwhile."""
    with suppress(RunDirError, OSError, OverflowError):
        return _judged(path, brief.of(path))
    return _open(path)


def _judged(path: Path, told: Brief) -> Entry:
    found = told.verdicts
    badge = night_badge(found.verdict, found.exit_code)
    return _prepared(path, told.prepared, _utc(told.prepared.created), badge, found.sentence, found, told.logged)


def _open(path: Path) -> Entry | None:
    """A night that is not judged, or damaged."""
    run = RunDir(path)
    try:
        if not run.prepare.is_file():
            return _loose(path, UNFINISHED, "Never prepared: it stopped before it knew what to measure.")
        prepared = run.prepared()
        created = _utc(prepared.created)
    except (RunDirError, OSError, OverflowError) as error:
        return _loose(path, DAMAGED, _reason(error, path))
    try:
        found = run.judged() if run.verdicts.is_file() else None
        sentence = found.sentence if found else f"The stage {_next_stage(run)} has not ended."
    except (RunDirError, OSError) as error:
        return _prepared(path, prepared, created, DAMAGED, _reason(error, path))
    if found is None:
        return _prepared(path, prepared, created, UNFINISHED, sentence)
    return _prepared(path, prepared, created, night_badge(found.verdict, found.exit_code), sentence, found)


def _loose(path: Path, badge: Badge, sentence: str) -> Entry | None:
    """A night that does not say when it began: its directory's time has to do."""
    try:
        created = datetime.fromtimestamp(path.lstat().st_mtime, UTC)
    except FileNotFoundError:
        return None
    return Entry(_name(path), created, badge, _square(badge), sentence)


def _prepared(
    path: Path,
    prepared: Prepared,
    created: datetime,
    badge: Badge,
    sentence: str,
    found: Verdicts | None = None,
    logged: Logged | None = None,
) -> Entry:
    return Entry(
        name=_name(path),
        created=created,
        badge=badge,
        square=_square(badge, found),
        sentence=sentence,
        suite=prepared.suite,
        device=_device(prepared.environment.device_name),
        candidate=prepared.candidate.short,
        subject=wording.one_line(prepared.candidate.subject, 80),
        report=_report(path),
        mlflow=_mlflow(logged),
        planted=bool(prepared.planted),
        speedups=_speedups(found),
    )


@cache
def _device(name: str) -> str:
    return wording.short_device(name)  # there are few devices and many nights


def _name(path: Path) -> str:
    """The directory's name as text, even where its bytes are none."""
    return path.name.encode(errors="backslashreplace").decode()


def _utc(moment: datetime) -> datetime:
    return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)


def _square(badge: Badge, found: Verdicts | None = None) -> str:
    if found is None:
        return "…" if badge is UNFINISHED else "?"
    return "ok" if found.exit_code == 0 else _SQUARES.get(found.verdict, badge.word)


def _reason(error: Exception, path: Path) -> str:
    """What is wrong with the night, with its files named as they are in its directory."""
    return wording.one_line(str(error).replace(f"{path}/", "").encode(errors="backslashreplace").decode(), 240)


def _next_stage(run: RunDir) -> str:
    return next((stage for stage in _STAGES if not run.is_done(stage)), _STAGES[-1])


def _report(path: Path) -> str:
    if not (path / "report.html").is_file():
        return ""
    return "/".join(quote(os.fsencode(name)) for name in (path.parent.name, path.name, "report.html"))


def _mlflow(logged: Logged | None) -> str:
    """The night's page in MLflow; "" where it has none."""
    link = logged.links.get("night", "") if logged else ""
    return link if urlsplit(link).scheme in ("http", "https") else ""


def _speedups(found: Verdicts | None) -> tuple[Speedup, ...]:
    return found.speedups if found and not found.is_invalid else ()


def tracks(entries: Iterable[Entry]) -> dict[tuple[str, str], list[Entry]]:
    """Nights that can be compared with each other, by device and suite, in the order of entries; none is planted."""
    found: dict[tuple[str, str], list[Entry]] = {}
    for entry in entries:
        if entry.device and not entry.planted:
            found.setdefault((entry.device, entry.suite), []).append(entry)
    return found
