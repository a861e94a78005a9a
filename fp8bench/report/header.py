"""What stands above everything else: the night's verdict, what was compared, and a sentence for every backend."""

from __future__ import annotations

from dataclasses import dataclass, replace

from .. import wording
from ..night import Night
from ..records import Verdict
from ..rundir import RunDir
from .tones import Badge, badge, night_badge


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


def build(night: Night) -> Header:
    prepared = night.prepared
    found = night_badge(night.verdicts.verdict, night.verdicts.exit_code)
    return Header(
        badge=replace(found, word=f"planted: {found.word}") if prepared.planted else found,
        run_id=prepared.run_id,
        date=f"{prepared.created:%A, %d %B %Y, %H:%M} UTC",
        suite=prepared.suite,
        device=wording.short_device(prepared.environment.device_name),
        lead=_lead(night),
        lines=tuple(Line(badge(entry.verdict), entry.sentence) for entry in night.verdicts.backends),
        notes=(*_why_invalid(night), *_refused(night), *prepared.notes),
    )


def _lead(night: Night) -> str:
    prepared = night.prepared
    if prepared.first_night:
        return f"First night: commit {prepared.candidate.short} was measured against itself."
    return f"Candidate {prepared.candidate.short} against baseline {prepared.baseline.short}."


def _refused(night: Night) -> tuple[str, ...]:
    """That a mail of the night was refused, until it is taken."""
    file = RunDir(night.run_dir).refused
    if not file.is_file():
        return ()
    reason = file.read_text(errors="replace").partition(". It is kept in")[0]
    return (wording.one_line(f"A mail of this night was not taken, and is kept to be sent again: {reason}.", 400),)


def _why_invalid(night: Night) -> tuple[str, ...]:
    """The night's own sentence where it is invalid and no line of a backend says so."""
    told = any(entry.verdict is Verdict.INVALID for entry in night.verdicts.backends)
    return (night.verdicts.sentence,) if night.verdicts.is_invalid and not told else ()
