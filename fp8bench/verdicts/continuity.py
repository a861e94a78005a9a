"""Tonight against the night before: what is new, worse, ongoing or recovered."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TypeVar

from ..records import Cause, CellVerdict, Effect, Recovered, Shift, State, Verdict, Verdicts
from .evidence import BROKEN

CLEARED = (Verdict.OK, Verdict.IMPROVED, Verdict.CONTROL)

_C = TypeVar("_C", Cause, Shift)


def continued(
    tonight: Verdicts,
    before: Verdicts | None,
    run_id: str = "",
    same_baseline: bool = True,
    older: Iterable[Verdicts] = (),
) -> Verdicts:
    """`tonight` with the state of every cause and shift against the previous night, and what has recovered.

    before, run_id: the previous valid night of the same device and suite; None: there was none, and all is new.
    same_baseline: whether both nights compared with the same build. Where the baseline moved, a regression that is
    gone was accepted, not mended, and one that is there is another one.

    A cause is the same one when backend and verdict are, and families are shared: it keeps its id, although families
    at the edge of the margin come and go. One that the night before could not resolve is new, under the id that
    `older` nights, newest first and against the same baseline, know it by: what was told and decided about it holds.
    """
    if before is None:
        return tonight
    comparable = [old for old in before.causes if same_baseline or old.verdict in BROKEN]
    known = {cause: _predecessor(cause, comparable) for cause in tonight.causes}
    past = tuple(older) if None in known.values() else ()
    causes = [
        _carried(cause, old, _is_worse(cause, old)) if old else _renamed(cause, past) for cause, old in known.items()
    ]
    shifted = {shift: _predecessor(shift, before.shifts) for shift in tonight.shifts}
    shifts = [
        _carried(shift, old, old is not None and shift.worst > old.worst + tonight.margin)
        for shift, old in shifted.items()
    ]
    gone = [old for old in comparable if old not in known.values()]
    recovered = [_recovered(old) for old in gone if _is_cleared(old, tonight)]
    changes = {"causes": tuple(causes), "shifts": tuple(shifts), "recovered": tuple(recovered), "previous": run_id}
    return tonight.model_copy(update=changes)


def _predecessor(entry: _C, before: Sequence[_C]) -> _C | None:
    """The same cause last night: the one that shares most families."""

    def shared(old: _C) -> int:
        return len(set(old.families) & set(entry.families))

    same = [old for old in before if _kind(old) == _kind(entry) and (shared(old) or old.families == entry.families)]
    return max(same, key=shared, default=None)


def _kind(entry: Cause | Shift) -> tuple[str, str]:
    return entry.backend, entry.verdict if isinstance(entry, Cause) else entry.label


def _carried(entry: _C, old: _C | None, worse: bool) -> _C:
    if old is None:
        return entry
    state: State = "worse" if worse else "ongoing"
    return entry.model_copy(update={"id": old.id, "state": state, "nights": old.nights + 1})


def _renamed(cause: Cause, older: Sequence[Verdicts]) -> Cause:
    known = (_predecessor(cause, night.causes) for night in older)
    old = next(filter(None, known), None)
    return cause.model_copy(update={"id": old.id}) if old else cause


def _is_worse(cause: Cause, old: Cause | None) -> bool:
    """Another family, or slower than before beyond what both intervals leave open."""
    if old is None:
        return False
    return bool(set(cause.families) - set(old.families)) or _is_slower(cause.worst, old.worst)


def _is_slower(now: Effect | None, before: Effect | None) -> bool:
    return now is not None and before is not None and now.lower > before.upper


def _is_cleared(old: Cause, tonight: Verdicts) -> bool:
    """Whether tonight says of everything that was accused that it is well; what was not measured proves nothing."""
    if tonight.is_invalid:
        return False
    cells = {cell.cell: cell for cell in tonight.cells}
    found = [cells[name] for name in old.cells if name in cells]
    families = [f for f in tonight.families if f.backend == old.backend and f.family in old.families]
    if not old.cells and not families:  # a backend without cells: it builds again
        return all(cause.backend != old.backend for cause in tonight.causes)
    return len(found) == len(old.cells) and all(map(_is_well, found)) and all(f.verdict in CLEARED for f in families)


def _is_well(cell: CellVerdict) -> bool:
    return cell.verdict in CLEARED


def _recovered(old: Cause) -> Recovered:
    return Recovered(
        id=old.id,
        backend=old.backend,
        verdict=old.verdict,
        families=old.families,
        nights=old.nights,
        worst=old.worst,
    )
