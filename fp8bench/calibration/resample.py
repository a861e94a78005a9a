"""Nights drawn from stored launches, and what the screen and the decisions of real nights make of them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ..config import TimingSettings, VerdictSettings
from ..records import Screened, Verdict
from ..screening import Screen, family_of, screen
from ..stats import Floats
from ..verdicts.decisions import Decisions, Launches, decide
from .spending import confirmed, screened


class Drawable:
    """Effects to draw launches from, with replacement: cells that were timed in the same launches stay together.

    A cell that other launches did not time is drawn from its own alone, so nights of different cells can be pooled.
    """

    def __init__(self, effects: pd.DataFrame) -> None:
        """effects: launches x cells; NaN where a launch did not time a cell, and each was timed in one at least."""
        values = effects.to_numpy(dtype=float)
        own_first = np.argsort(np.isnan(values), axis=0, kind="stable")
        self._values = np.take_along_axis(values, own_first, axis=0)
        self._counts = (~np.isnan(values)).sum(axis=0)

    @property
    def cells(self) -> int:
        return int(self._values.shape[1])

    def draw(self, launches: int, copies: int, generator: np.random.Generator) -> Floats:
        """Effects of so many launches of `copies` of all cells, one copy beside the other."""
        every = len(self._values)
        chosen = generator.integers(0, every, (copies, launches, 1)) * self._counts // every
        return np.concatenate(list(np.take_along_axis(self._values[None], chosen, axis=1)), axis=1)


@dataclass(frozen=True)
class Pool:
    """Stored launches to draw from, repeated until a night has as many cells as it shall have.

    Every copy of the measured cells draws its own launches. Copies stand for other cells of the same kind: they get
    families of their own.
    """

    stored: Drawable
    cells: tuple[str, ...]  # of a night: all copies, sorted
    order: NDArray[np.intp]  # of each: its place when one copy follows the other

    @cached_property
    def _columns(self) -> pd.Index[str]:
        """One for all nights: looking up a cell by its name is worked out once."""
        return pd.Index(self.cells, dtype=object)

    @classmethod
    def of(cls, effects: pd.DataFrame, cells: int) -> Pool:
        """effects: launches x cells. cells: at least so many in a night."""
        copies = max(1, -(-cells // effects.shape[1]))
        names = np.array([_copied(str(cell), copy) for copy in range(copies) for cell in effects.columns], dtype=object)
        order = np.argsort(names)
        return cls(Drawable(effects), tuple(names[order]), order)

    @property
    def copies(self) -> int:
        return len(self.cells) // self.stored.cells

    @property
    def families(self) -> list[str]:
        """Of the first copy, sorted."""
        return sorted({family_of(cell) for cell in self.cells if "~" not in cell.partition("/")[0]})

    def draw(self, launches: int, generator: np.random.Generator) -> pd.DataFrame:
        """Effects of so many launches of all cells, drawn with replacement."""
        drawn = self.stored.draw(launches, self.copies, generator)
        return pd.DataFrame(drawn[:, self.order], columns=self._columns)

    def shifts(self, family: str, effect: float) -> NDArray[np.float64]:
        """`effect` for the cells of a family, 0 for the others."""
        return np.array([effect if family_of(cell) == family else 0.0 for cell in self.cells])


def _copied(cell: str, copy: int) -> str:
    backend, _, rest = cell.partition("/")
    return f"{backend}~{copy}/{rest}" if copy else cell


@dataclass(frozen=True)
class Rules:
    """How a night is spent and judged."""

    settings: VerdictSettings
    margin: float
    timing: TimingSettings
    stops: bool = True  # cells that are known precisely enough get no more launches


@dataclass(frozen=True)
class Outcome:
    """What a night came to."""

    chosen: Screen
    decisions: Decisions  # of what the screen let through; nothing where no mean of it is beyond the margin
    launches: tuple[int, int]  # of single cells, spent on screening and on confirming

    @property
    def cells(self) -> set[str]:
        """Accused ones."""
        return _regressed(self.decisions.cells)

    @property
    def families(self) -> set[str]:
        """Accused by their geometric mean."""
        return _regressed(self.decisions.families)

    @property
    def accused(self) -> set[str]:
        """Families of which anything is accused."""
        return self.families | set(map(family_of, self.cells))

    @property
    def mails(self) -> int:
        """One a backend that is accused; copies of a backend are the same one."""
        return len({family.partition("/")[0].partition("~")[0] for family in self.accused})


def _regressed(decided: Mapping[str, object]) -> set[str]:
    return {name for name, entry in decided.items() if getattr(entry, "verdict", None) is Verdict.REGRESSED}


def judge_night(first: pd.DataFrame, second: pd.DataFrame, rules: Rules) -> Outcome:
    """A night as it is spent and judged.

    first: effects of the screening launches. second: of the confirming ones, of which the screen chooses.
    """
    if rules.stops:
        first = screened(first, rules.margin, rules.timing)
    chosen = screen(first, rules.settings, (), rules.margin)
    spent, passed = _count(first), Screened(cells=chosen.cells, families=chosen.families)
    if not chosen.cells:
        return Outcome(chosen, Decisions({}, {}), (spent, 0))
    # What the screen cleared is accused of nothing: deciding about it would cost more than all the rest.
    places = first.columns.get_indexer(pd.Index(chosen.cells, dtype=object))
    first, second = first.iloc[:, places], second.iloc[:, places]
    if rules.stops:
        second = confirmed(second, rules.margin, rules.timing)
    launches = (spent, _count(second))
    if not _any_beyond(second, rules.margin):
        return Outcome(chosen, Decisions({}, {}), launches)
    return Outcome(chosen, decide(Launches(first, second), passed, rules.settings, rules.margin), launches)


def _any_beyond(effects: pd.DataFrame, margin: float) -> bool:
    """Whether any cell's mean is beyond the margin: where none is, no family's is either, and nothing is accused."""
    values = effects.to_numpy(dtype=float)
    present = ~np.isnan(values)
    sums = np.where(present, values, 0.0).sum(axis=0)
    return bool((sums > margin * present.sum(axis=0)).any())


def _count(effects: pd.DataFrame) -> int:
    """Launches of single cells."""
    return int(np.count_nonzero(~np.isnan(effects.to_numpy(dtype=float))))


def nights(pool: Pool, rules: Rules, count: int, seed: int) -> Iterator[Outcome]:
    """So many nights in which nothing changed."""
    generator = np.random.default_rng(seed)
    for _ in range(count):
        yield judge_night(*_drawn(pool, rules, generator), rules)


def moved_nights(
    pool: Pool, rules: Rules, count: int, seed: int, effect: float, families: list[str]
) -> Iterator[tuple[str, Outcome]]:
    """So many nights in which one of `families`, another one each time, is slower by `effect`; with its name."""
    generator = np.random.default_rng(seed)
    for number in range(count):
        family = families[number % len(families)]
        shift = pool.shifts(family, effect)
        first, second = _drawn(pool, rules, generator)
        yield family, judge_night(first + shift, second + shift, rules)


def _drawn(pool: Pool, rules: Rules, generator: np.random.Generator) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Launches enough for a screen and a confirmation."""
    timing = rules.timing
    return pool.draw(timing.launches, generator), pool.draw(timing.confirm_launches, generator)
