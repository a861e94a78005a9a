"""Heatmaps tokens x hidden: one table a backend, family and regime, with the effect in percent in every field."""

from __future__ import annotations

import math
from dataclasses import dataclass

from .. import wording
from ..metrics import CellFacts
from ..night import Night
from ..records import Verdict
from .tones import TONES

SHORT = {
    Verdict.WRONG: "wrong",
    Verdict.CRASHED: "crash",
    Verdict.NOT_BUILT: "build",
    Verdict.MISSING: "miss",
    Verdict.UNSUPPORTED: "n/a",
    Verdict.INVALID: "inv",
}
STEPS = (1.0, 3.0, 10.0)  # in margins: where a colour gets stronger


@dataclass(frozen=True)
class Field:
    text: str
    style: str  # classes: a colour step (s1-s3 slower, f1-f3 faster, z neither), and the verdict where it differs
    hint: str


@dataclass(frozen=True)
class Row:
    tokens: int
    fields: tuple[Field | None, ...]


@dataclass(frozen=True)
class Heatmap:
    family: str
    regime: str
    hidden: tuple[int, ...]
    rows: tuple[Row, ...]
    verdict: str
    effect: str


@dataclass(frozen=True)
class BackendMaps:
    backend: str
    title: str
    expanded: bool
    note: str
    maps: tuple[Heatmap, ...]


@dataclass(frozen=True)
class Heatmaps:
    backends: tuple[BackendMaps, ...]
    legend: tuple[tuple[str, str, str], ...]  # style, sample text, meaning


def build(night: Night) -> Heatmaps:
    groups: dict[tuple[str, str, str], list[CellFacts]] = {}
    for facts in night.facts:
        groups.setdefault((facts.cell.backend, facts.cell.case.family, facts.cell.regime), []).append(facts)
    told = {(family.backend, family.family, family.regime): family for family in night.verdicts.families}
    maps: dict[str, list[Heatmap]] = {backend: [] for backend in night.backends}
    for key, group in groups.items():
        family = told.get(key)
        verdict = wording.WORDS[family.verdict] if family else ""
        effect = wording.effect_text(family.effect) if family and family.effect else ""
        maps[key[0]].append(_heatmap(key[1], key[2], group, night.verdicts.margin, verdict, effect))
    return Heatmaps(tuple(_backend(night, name, found) for name, found in maps.items() if found), _legend(night))


def _backend(night: Night, backend: str, maps: list[Heatmap]) -> BackendMaps:
    verdict = next(entry for entry in night.verdicts.backends if entry.backend == backend)
    loud = TONES[verdict.verdict] in ("bad", "warn") or len({facts.cell.backend for facts in night.facts}) < 3
    return BackendMaps(backend, wording.title(backend), loud, wording.verdict_counts(verdict.counts), tuple(maps))


def _heatmap(family: str, regime: str, group: list[CellFacts], margin: float, verdict: str, effect: str) -> Heatmap:
    at = {(facts.cell.case.tokens, facts.cell.case.hidden): facts for facts in group}
    hidden = sorted({place[1] for place in at})
    rows = []
    for tokens in sorted({place[0] for place in at}):
        found = [at.get((tokens, size)) for size in hidden]
        rows.append(Row(tokens, tuple(_field(facts, margin) if facts else None for facts in found)))
    return Heatmap(family, regime, tuple(hidden), tuple(rows), verdict, effect)


def _field(facts: CellFacts, margin: float) -> Field:
    found, effect = facts.verdict, facts.verdict.effect
    kind = found.verdict
    hint = f"{wording.WORDS[kind]} {wording.effect_text(effect)}" if effect else wording.WORDS[kind]
    if found.baseline_us and found.candidate_us:
        hint += f", {found.baseline_us:.4g} → {found.candidate_us:.4g} µs"
    if kind in SHORT or effect is None:
        return Field(SHORT.get(kind, "–"), kind.lower(), hint + (f": {found.reason}" if found.reason else ""))
    text = _short_percent(effect.value)
    if kind in (Verdict.CONTROL, Verdict.UNRESOLVED):
        return Field(text, f"{kind.lower()}", hint)
    mark = " hit" if kind is Verdict.REGRESSED else ""
    return Field(text, shade(effect.value, margin) + mark, hint)


def _short_percent(effect: float) -> str:
    """One decimal; what rounds to nothing is a plain 0."""
    text = wording.percent(effect, 1)[:-1]
    return "0" if text == "+0.0" else text.replace("-", "−")


def shade(effect: float, margin: float) -> str:
    """The colour step of an effect, by how many margins it is away from zero."""
    step = sum(abs(effect) > factor * margin for factor in STEPS) if margin else 3
    return f"{'s' if effect > 0 else 'f'}{step}" if step else "z"


def _legend(night: Night) -> tuple[tuple[str, str, str], ...]:
    bounds = [100 * math.expm1(factor * night.verdicts.margin) for factor in STEPS]
    slower = [(f"s{index + 1}", f">{bound:.2g}%", "slower") for index, bound in enumerate(bounds)]
    faster = [(f"f{index + 1}", f">{bound:.2g}%", "faster") for index, bound in enumerate(bounds)]
    present = {facts.verdict.verdict for facts in night.facts}
    special = [verdict for verdict in (*SHORT, Verdict.UNRESOLVED, Verdict.CONTROL) if verdict in present]
    words = [(verdict.lower(), SHORT.get(verdict, "±"), wording.WORDS[verdict]) for verdict in special]
    hit = [("s2 hit", "+", "regressed")] if Verdict.REGRESSED in present else []
    return (*reversed(faster), ("z", "0", "within the margin"), *slower, *hit, *words)
