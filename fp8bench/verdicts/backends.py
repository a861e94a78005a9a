"""Verdicts of backends, and of the night as a whole."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from .. import planting, wording
from ..records import BackendVerdict, CellVerdict, Effect, FamilyVerdict, Prepared, Verdict
from .decisions import loudest
from .evidence import BROKEN, Evidence, backend_of


def judge_backend(
    night: Evidence, name: str, cells: Sequence[CellVerdict], families: Sequence[FamilyVerdict], invalid: str
) -> BackendVerdict:
    """The loudest of a backend's cells and families, in one sentence. invalid: why the night is, or ""."""
    mine = [cell for cell in cells if backend_of(cell.cell) == name]
    if not mine:
        return _judge_inspected(night, name)
    verdict = loudest([cell.verdict for cell in mine] + [f.verdict for f in families if f.backend == name])
    reason = invalid if verdict is Verdict.INVALID else ""
    if verdict is Verdict.REGRESSED and all(cell.verdict is not verdict for cell in mine):
        reason = _worst_family(families, name)
    counts = dict(Counter(cell.verdict for cell in mine))
    sentence = wording.backend_sentence(name, verdict, mine, reason)
    return BackendVerdict(backend=name, verdict=verdict, sentence=sentence, counts=counts)


def exit_code(verdicts: Sequence[Verdict], invalid: str) -> int:
    """2 something is wrong, crashed or not built; 3 the night is invalid; 1 a regression; 0 otherwise."""
    if any(verdict in BROKEN for verdict in verdicts):
        return 2
    if invalid:
        return 3
    return 1 if Verdict.REGRESSED in verdicts else 0


def night_sentence(prepared: Prepared, backends: Sequence[BackendVerdict], invalid: str) -> str:
    told = ". ".join(backend.sentence for backend in backends)
    if planted := planting.sentence(prepared.planted):
        because = f" It is invalid: {invalid}." if invalid else ""
        return f"{planted}.{because} {told}."
    if invalid:
        return f"The night is invalid: {invalid}. {told}."
    if prepared.first_night:
        return f"First night, measured against itself. {told}."
    return f"{told}."


def value_of(effect: Effect | None) -> float:
    return effect.value if effect else float("-inf")


def _judge_inspected(night: Evidence, name: str) -> BackendVerdict:
    """A backend without cells: it compiles, or it does not."""
    verdict, reason = night.not_built(name) or (Verdict.OK, "")
    title = wording.title(name)
    said = f"{title}: builds, not timed here" if verdict is Verdict.OK else ""
    sentence = said or wording.backend_sentence(name, verdict, [], reason)
    return BackendVerdict(backend=name, verdict=verdict, sentence=sentence, counts={})


def _worst_family(families: Sequence[FamilyVerdict], backend: str) -> str:
    moved = [f for f in families if f.backend == backend and f.verdict is Verdict.REGRESSED and f.effect]
    worst = max(moved, key=lambda family: value_of(family.effect))
    return f"the geometric mean of {worst.family} {worst.regime} moved by {wording.effect_text(worst.effect)}"
