"""Planted slowdowns: cells whose candidate is really made slower, to see whether a night catches it.

A plan is a mapping from patterns of cell ids (as of `fnmatch`: `cuda/per-token/*`) to the share by which the
candidate takes longer; the first pattern that matches counts. The clock does it (`Clock.quads`), so every effect is
possible, and everything behind it is that of any night. A share of 0 plants nothing, and has the cell judged as if its
code had changed: what a night would wrongly accuse beside a slower family shows among such cells alone, as cells of
the same machine code are never accused.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from fnmatch import fnmatchcase

from .errors import UsageError

MOST = 1.0  # twice as long: more needs no proof


def share_of(plan: Mapping[str, float], cell: str) -> float | None:
    """The share that is planted in the cell of this id; None where no pattern names it."""
    return next((share for pattern, share in plan.items() if fnmatchcase(cell, pattern)), None)


def slows(plan: Mapping[str, float]) -> bool:
    """Whether anything is made slower; shares of 0 alone have cells measured and judged as if their code differed."""
    return any(plan.values())


def parse(text: str) -> tuple[str, float]:
    """`cuda/per-token/*=0.5%` or `cuda/per-token/*=0.005`: the pattern and the share."""
    pattern, _, value = text.rpartition("=")
    try:
        share = float(value.removesuffix("%")) / (100 if value.endswith("%") else 1)
    except ValueError:
        share = -1.0
    if not pattern or not 0 <= share <= MOST:
        raise UsageError(
            f"{text!r} plants nothing: write PATTERN=SHARE with a share from 0% to 100%, e.g. 'cuda/per-token/*=0.5%'."
        )
    return pattern, share


def refuse_idle(plan: Mapping[str, float], cells: Iterable[str]) -> None:
    """UsageError for a pattern that names none of the cells, or that earlier ones leave none to."""
    ids = list(cells)
    used = {next((pattern for pattern in plan if fnmatchcase(cell, pattern)), None) for cell in ids}
    for pattern in plan:
        if pattern not in used:
            raise UsageError(
                f"planted pattern {pattern!r} matches no cell that an earlier pattern leaves, of {len(ids)} in all: "
                f"name cells as the suite has them, e.g. {ids[0] if ids else 'cuda/per-token/*'}, the narrowest first."
            )


def sentence(plan: Mapping[str, float]) -> str:
    """`Planted night: the candidate of cuda/per-token/* is made 0.5% slower on purpose`; "" of an ordinary night."""
    if not plan:
        return ""
    slower = [f"{pattern} is made {100 * share:g}% slower" for pattern, share in plan.items() if share]
    if not slower:
        return f"Planted night: {', '.join(plan)} counts as changed on purpose"
    return f"Planted night: the candidate of {' and of '.join(slower)} on purpose"
