"""Causes: what moved together, whose commits are suspected, how sure we are, and how to see it again."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from .. import metrics, wording
from ..causes import Decision
from ..history import Trend
from ..metrics import CellFacts
from ..night import Night
from ..records import Cause, Commit, Effect, Verdict
from ..spec import Cell
from . import drawings, launches, machine, recent, trends
from .drawings import Bar, Nights, Scale
from .machine import MachineCode
from .recent import Point
from .tones import Badge, badge

SHOWN = 12  # accused cells drawn a cause; the table has them all


@dataclass(frozen=True)
class Accused:
    cell: str
    effect: str
    times: str
    floor: str  # how many times the floor, before and after; "" where no floor was measured
    other: str  # the effect with the other state of the cache
    bar: Bar | None
    nights: Nights | None


@dataclass(frozen=True)
class CauseView:
    id: str
    badge: Badge
    title: str
    state: str  # new, worse, for how many nights; who moved
    decision: str  # what somebody decided about it
    summary: str
    detail: str
    accused: tuple[Accused, ...]
    more: int
    suspects: tuple[Commit, ...]
    reproduction: str
    decide: str  # a command
    machine: MachineCode | None
    links: tuple[tuple[str, str], ...]

    @property
    def has_floor(self) -> bool:
        return any(cell.floor for cell in self.accused)

    @property
    def has_nights(self) -> bool:
        return any(cell.nights for cell in self.accused)


@dataclass(frozen=True)
class Causes:
    causes: tuple[CauseView, ...]
    sentence: str


@dataclass(frozen=True)
class _Evidence:
    """What lies behind the verdicts of a cause's cells."""

    facts: Mapping[str, CellFacts]
    launches: Mapping[str, tuple[float, ...]]
    nights: Mapping[str, tuple[Point, ...]]
    trends: Mapping[str, list[Trend]]
    margin: float
    scale: Scale


def build(night: Night) -> Causes:
    """The causes with all that is known of their cells."""
    return _build(night, deep=True)


def brief(night: Night) -> Causes:
    """The causes without what only drawings and tables of the page show: reads no samples and no other nights."""
    return _build(night, deep=False)


def _build(night: Night, deep: bool) -> Causes:
    views = tuple(_view(night, cause, deep) for cause in night.verdicts.causes)
    if views:
        return Causes(views, "")
    invalid = "No cause can be named: the night is invalid, and proves nothing either way."
    return Causes((), invalid if night.verdicts.is_invalid else "Nothing got slower, wrong, or failed to build.")


def _view(night: Night, cause: Cause, deep: bool) -> CauseView:
    facts = {entry.verdict.cell: entry for entry in night.facts}
    ranked = sorted(cause.cells, key=lambda cell: -_value(facts[cell].verdict.effect))
    shown = ranked[:SHOWN]
    evidence = _evidence(night, facts, shown, deep and cause.verdict is Verdict.REGRESSED)
    told = {entry.sentence for entry in night.verdicts.backends}  # these stand at the top of the page already
    links = [(name, night.link(name)) for name in (cause.backend, f"compare {cause.backend}")]
    standing = night.standing(cause.id)
    return CauseView(
        id=cause.id,
        badge=badge(cause.verdict),
        title=f"{wording.title(cause.backend)}: {', '.join(cause.families) or 'the build'}",
        state=state(cause),
        decision=decided(standing.decision) if standing and standing.decision else "",
        summary=summary(cause),
        detail="" if cause.detail in told else cause.detail,
        accused=tuple(_accused(evidence, cell) for cell in shown),
        more=len(ranked) - len(shown),
        suspects=tuple(night.commit(sha) for sha in cause.suspects),
        reproduction=night.reproduction(cause),
        decide=wording.decide_command(cause.id),
        machine=machine.build(night, cause.backend) if deep and cause.verdict is Verdict.REGRESSED else None,
        links=tuple((name, link) for name, link in links if link),
    )


def summary(cause: Cause) -> str:
    """`3 cells, worst +4.1% [3.2, 5.0] per-token/...`"""
    cells = [wording.count(len(cause.cells), "cell")] if cause.cells else []
    if cause.worst is None:
        return ", ".join(cells)
    where = cause.worst_cell.partition("/")[2] or "in the geometric mean of a family"
    return ", ".join([*cells, f"worst {wording.effect_text(cause.worst)} {where}"])


def state(cause: Cause) -> str:
    """`new`, `worse, for 3 nights`, `for 3 nights`; and who moved where it was not the backend's code."""
    words = {"new": "new", "worse": "worse", "ongoing": ""}[cause.state]
    since = f"for {wording.count(cause.nights, 'night')}" if cause.nights > 1 else ""
    moved = {"code": "", "reference": "the torch reference moved", "environment": "the machine moved"}[cause.label]
    return ", ".join(part for part in (words, since, moved) if part)


def decided(decision: Decision) -> str:
    """`silenced up to +5.2% by jo: known since the driver moved`"""
    limit = (
        "" if decision.kind == "acknowledged" or decision.limit is None else f"up to {wording.percent(decision.limit)}"
    )
    return wording.decision(decision.kind, decision.who, decision.why, limit)


def _value(effect: Effect | None) -> float:
    return effect.value if effect else -math.inf


def _evidence(night: Night, facts: Mapping[str, CellFacts], shown: list[str], deep: bool) -> _Evidence:
    margin = night.verdicts.margin
    single = launches.effects(night, shown) if deep else {}
    scale = drawings.scale_of((facts[cell].verdict.effect for cell in shown), single.values(), margin)
    nights = recent.of_cells(night, shown) if deep else {}
    return _Evidence(facts, single, nights, trends.of_cells(night, shown) if nights else {}, margin, scale)


def _accused(evidence: _Evidence, cell: str) -> Accused:
    facts = evidence.facts[cell]
    found, effect = facts.verdict, facts.verdict.effect
    times = f"{found.baseline_us:.4g} → {found.candidate_us:.4g} µs" if found.baseline_us and found.candidate_us else ""
    bar = drawings.bar(effect, evidence.launches.get(cell, ()), evidence.margin, evidence.scale) if effect else None
    return Accused(
        cell=f"{facts.cell.case.id}/{facts.cell.regime}",
        effect=wording.effect_text(effect),
        times=times,
        floor=_over_floor(facts),
        other=_other_regime(evidence.facts, facts.cell),
        bar=bar,
        nights=drawings.nights(evidence.nights.get(cell, ()), evidence.margin, evidence.trends.get(cell, ())),
    )


def _over_floor(facts: CellFacts) -> str:
    """`1.04× → 1.09×`: how many times the floor a call takes."""
    found = facts.verdict
    both = [metrics.over_floor(value, facts.floor_us) for value in (found.baseline_us, found.candidate_us)]
    return " → ".join(f"{value:.2f}×" for value in both if value) if all(both) else ""


def _other_regime(facts: Mapping[str, CellFacts], cell: Cell) -> str:
    """`cold +3.9%, regressed`: the same case with the other state of the cache."""
    regime = "cold" if cell.regime == "hot" else "hot"
    other = facts.get(Cell(cell.backend, cell.case, regime).id)
    if other is None or other.verdict.effect is None:
        return ""
    return f"{regime} {wording.percent(other.verdict.effect.value)}, {wording.WORDS[other.verdict.verdict]}"
