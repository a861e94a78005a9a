"""Causes: cells that moved together and share their suspects. One cause makes one mail."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from ..backends import REFERENCE
from ..records import BackendVerdict, Cause, CellVerdict, Commit, FamilyVerdict, Verdict
from ..spec import Cell
from .backends import value_of
from .evidence import BROKEN, Evidence, backend_of

TOLD = (*BROKEN, Verdict.REGRESSED)  # what a cause, and so a mail, is about
REASONS = 3  # that a cause tells, of cells that are accused for different ones


def find_causes(
    night: Evidence,
    cells: Sequence[CellVerdict],
    families: Sequence[FamilyVerdict],
    backends: Sequence[BackendVerdict],
) -> list[Cause]:
    """One a backend and verdict."""
    causes = []
    for backend in backends:
        for verdict in TOLD:
            accused = [cell for cell in cells if cell.verdict is verdict and backend_of(cell.cell) == backend.backend]
            moved = [f for f in families if f.verdict is verdict and f.backend == backend.backend]
            if accused or moved or (backend.verdict is verdict and not backend.counts):
                causes.append(_cause(night, backend, verdict, accused, moved))
    return causes


def cause_id(*parts: str) -> str:
    """What a cause is known by: nothing in it changes while the cause stays the same.

    A regression is one against a baseline: what is slower than the next one as well has become slower again.
    """
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:12]


def _cause(
    night: Evidence,
    backend: BackendVerdict,
    verdict: Verdict,
    accused: Sequence[CellVerdict],
    moved: Sequence[FamilyVerdict],
) -> Cause:
    names = [family.family for family in moved] + [Cell.parse(cell.cell).case.family for cell in accused]
    families = tuple(sorted(set(names)))
    worst = max((cell for cell in accused if cell.effect), key=lambda cell: value_of(cell.effect), default=None)
    mean = max((family.effect for family in moved), key=value_of, default=None) if not accused else None
    effect = worst.effect if worst else mean
    unchanged = bool(accused) and all(cell.cell in night.controls for cell in accused)
    against = [night.prepared.baseline.sha] if verdict is Verdict.REGRESSED else []
    against += [night.prepared.run_id] if night.prepared.planted else []  # it is no other night's cause
    return Cause(
        id=cause_id(backend.backend, verdict, *families, *against),
        backend=backend.backend,
        verdict=verdict,
        families=families,
        cells=tuple(cell.cell for cell in accused),
        worst=effect,
        worst_cell=worst.cell if worst else "",
        suspects=() if unchanged else tuple(commit.sha for commit in _suspects(night, backend)),
        detail=_reasons(accused) or backend.sentence,
        label="reference" if backend.backend == REFERENCE else "code",
    )


def _suspects(night: Evidence, backend: BackendVerdict) -> list[Commit]:
    return suspects_of(backend.backend, night.prepared.suspects)


def _reasons(accused: Sequence[CellVerdict]) -> str:
    """Why cells are accused: a reason that all share, or else the first few, each with a cell that has it."""
    first = {cell.reason: Cell.parse(cell.cell).case.id for cell in reversed(accused) if cell.reason}
    if len(first) < 2:
        return next(iter(first), "")
    pairs = sorted((case, reason.rstrip(".")) for reason, case in first.items())
    more = [f"and {len(pairs) - REASONS} more"] if len(pairs) > REASONS else []
    return " · ".join([*(f"{case}: {reason}" for case, reason in pairs[:REASONS]), *more])


def suspects_of(backend: str, suspects: Sequence[Commit]) -> list[Commit]:
    """Suspects that touch what the backend runs; all of them when none does."""
    mine = [commit for commit in suspects if any(_touches(backend, file) for file in commit.files)]
    return mine or list(suspects)


def _touches(backend: str, file: str) -> bool:
    """A file of another backend does not; what several share touches each."""
    parts = file.split("/")
    if parts[0] == "csrc":
        return backend in ("cuda", "cpu") and (
            len(parts) == 2 or parts[1] == backend or parts[1] not in ("cuda", "cpu")
        )
    name = parts[-1].removesuffix(".py")
    return name == backend or name.startswith("_")
