"""What else a reader should know: what recovered, got faster or was not measured, and what moved beside the code."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from .. import wording
from ..night import Night
from ..records import Recovered, Shift, Verdict
from . import trends

SHOWN = 8  # items of a list; the table of cells has them all


@dataclass(frozen=True)
class Item:
    name: str
    text: str


@dataclass(frozen=True)
class Group:
    title: str
    meaning: str
    items: tuple[Item, ...]
    more: int


@dataclass(frozen=True)
class Also:
    groups: tuple[Group, ...]


def build(night: Night) -> Also | None:
    """None where there is nothing to add."""
    groups = (_shifts(night), _trends(night), _recovered(night), _decided(night), _improved(night), _missing(night))
    found = tuple(group for group in groups if group.items)
    return Also(found) if found else None


def brief(night: Night) -> tuple[Group, ...]:
    """What also belongs into the short forms: reads no other nights."""
    return tuple(group for group in (_shifts(night), _recovered(night)) if group.items)


def _group(title: str, meaning: str, items: list[Item]) -> Group:
    return Group(title, meaning, tuple(items[:SHOWN]), max(0, len(items) - SHOWN))


def _shifts(night: Night) -> Group:
    meaning = (
        "Both builds agree tonight, and both are slower than the baseline was when it was accepted: driver, toolkit, "
        "clocks or machine moved. No commit is to blame."
    )
    return _group("Moved with the environment", meaning, [_shift(shift) for shift in night.verdicts.shifts])


def _shift(shift: Shift) -> Item:
    since = f", for {wording.count(shift.nights, 'night')}" if shift.nights > 1 else ""
    told = (
        f"{wording.percent(shift.value)} over night {shift.recorded} ({wording.count(len(shift.cells), 'cell')}{since})"
    )
    return Item(f"{wording.title(shift.backend)}: {', '.join(shift.families)}", told)


def _trends(night: Night) -> Group:
    meaning = (
        f"What the last {trends.NIGHTS} nights show together, against the baseline of the oldest of them: steps that "
        "lasted, and creep that no single night shows. It informs and is never mailed."
    )
    found = [
        Item(f"{wording.title(entry.backend)}, {entry.since}", trends.told(entry)) for entry in trends.groups(night)
    ]
    return _group("Over many nights", meaning, found)


def _recovered(night: Night) -> Group:
    items = [_over(entry) for entry in night.verdicts.recovered]
    return _group("Recovered", "Accused in the night before, and fine tonight.", items)


def _over(entry: Recovered) -> Item:
    was = f"was {wording.WORDS[entry.verdict]}"
    effect = f" {wording.effect_text(entry.worst)}" if entry.worst else ""
    nights = f" for {wording.count(entry.nights, 'night')}"
    return Item(f"{wording.title(entry.backend)}: {', '.join(entry.families) or 'the build'}", was + effect + nights)


def _decided(night: Night) -> Group:
    """Causes that are not tonight's, and that somebody silenced or accepted on this device."""
    from .causes import decided

    tonight = {cause.id for cause in night.verdicts.causes}
    device = night.prepared.environment.device_name
    known = [entry for entry in night.ledger.causes if entry.device == device and entry.id not in tonight]
    items = [
        Item(f"{wording.title(entry.backend)}: {', '.join(entry.families) or 'the build'}", decided(entry.decision))
        for entry in known
        if entry.decision
    ]
    return _group("Decided about earlier", "Causes of other nights that somebody decided about.", items)


def _improved(night: Night) -> Group:
    better = [facts.verdict for facts in night.facts if facts.verdict.verdict is Verdict.IMPROVED]
    ranked = sorted(better, key=lambda verdict: verdict.effect.value if verdict.effect else 0.0)
    items = [Item(verdict.cell, wording.effect_text(verdict.effect)) for verdict in ranked]
    return _group("Faster", "Beyond the margin and beyond chance.", items)


def _missing(night: Night) -> Group:
    missing = [facts for facts in night.facts if facts.verdict.verdict is Verdict.MISSING]
    reasons = Counter((facts.cell.backend, facts.verdict.reason or "no reason is known") for facts in missing)
    items = [
        Item(f"{wording.title(backend)}: {wording.count(count, 'cell')}", wording.one_line(reason, 200))
        for (backend, reason), count in reasons.most_common()
    ]
    return _group("Not measured", "Expected, and without a time.", items)
