"""Causes: what moved together, whose commits are suspected, how sure we are, and how to see it again."""

from __future__ import annotations

import math
from dataclasses import dataclass

from .. import wording
from ..night import Night
from ..records import Cause, Commit, Effect
from ..spec import Cell
from .tones import Badge, badge

SHOWN = 12  # accused cells drawn a cause; the table has them all
WIDTH, PAD = 260.0, 8.0  # of the drawing, in user units


@dataclass(frozen=True)
class Bar:
    """An effect with its interval and the margin, in units of the drawing."""

    lower: float
    value: float
    upper: float
    zero: float
    margin: float


@dataclass(frozen=True)
class Accused:
    cell: str
    effect: str
    times: str
    bar: Bar | None


@dataclass(frozen=True)
class CauseView:
    id: str
    badge: Badge
    title: str
    summary: str
    detail: str
    accused: tuple[Accused, ...]
    more: int
    suspects: tuple[Commit, ...]
    reproduction: str
    links: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Causes:
    causes: tuple[CauseView, ...]
    sentence: str


def build(night: Night) -> Causes:
    views = tuple(_view(night, cause) for cause in night.verdicts.causes)
    if views:
        return Causes(views, "")
    invalid = "No cause can be named: the night is invalid, and proves nothing either way."
    return Causes((), invalid if night.verdicts.exit_code == 3 else "Nothing got slower, wrong, or failed to build.")


def _view(night: Night, cause: Cause) -> CauseView:
    verdicts = {facts.verdict.cell: facts.verdict for facts in night.facts}
    ranked = sorted(cause.cells, key=lambda cell: -_value(verdicts[cell].effect))
    scale = _scale([verdict.effect for cell in ranked if (verdict := verdicts[cell]).effect], night.verdicts.margin)
    accused = [_accused(night, cell, verdicts[cell].effect, scale) for cell in ranked[:SHOWN]]
    told = {entry.sentence for entry in night.verdicts.backends}  # these stand at the top of the page already
    links = [(name, night.link(name)) for name in (cause.backend, f"compare {cause.backend}")]
    return CauseView(
        id=cause.id,
        badge=badge(cause.verdict),
        title=f"{wording.title(cause.backend)}: {', '.join(cause.families) or 'the build'}",
        summary=summary(cause),
        detail="" if cause.detail in told else cause.detail,
        accused=tuple(accused),
        more=len(ranked) - len(accused),
        suspects=tuple(night.commit(sha) for sha in cause.suspects),
        reproduction=night.reproduction(cause),
        links=tuple((name, link) for name, link in links if link),
    )


def summary(cause: Cause) -> str:
    """`3 cells, worst +4.1% [3.2, 5.0] per-token/...`"""
    cells = [wording.count(len(cause.cells), "cell")] if cause.cells else []
    if cause.worst is None:
        return ", ".join(cells)
    where = cause.worst_cell.partition("/")[2] or "in the geometric mean of a family"
    return ", ".join([*cells, f"worst {wording.effect_text(cause.worst)} {where}"])


def _value(effect: Effect | None) -> float:
    return effect.value if effect else -math.inf


def _accused(night: Night, cell: str, effect: Effect | None, scale: tuple[float, float]) -> Accused:
    facts = next(facts for facts in night.facts if facts.verdict.cell == cell)
    found = facts.verdict
    times = f"{found.baseline_us:.4g} → {found.candidate_us:.4g} µs" if found.baseline_us and found.candidate_us else ""
    parsed = Cell.parse(cell)
    bar = _bar(effect, night.verdicts.margin, scale) if effect else None
    return Accused(f"{parsed.case.id}/{parsed.regime}", wording.effect_text(effect), times, bar)


def _scale(effects: list[Effect | None], margin: float) -> tuple[float, float]:
    """The range that a cause's drawings share: zero and the margin are always in it."""
    present = [effect for effect in effects if effect]
    lowest = min([-margin, *(effect.lower for effect in present)])
    highest = max([2 * margin, *(effect.upper for effect in present)])
    return lowest, highest


def _bar(effect: Effect, margin: float, scale: tuple[float, float]) -> Bar:
    lowest, highest = scale

    def place(value: float) -> float:
        return round(PAD + (WIDTH - 2 * PAD) * (value - lowest) / (highest - lowest), 1)

    return Bar(place(effect.lower), place(effect.value), place(effect.upper), place(0.0), place(margin))
