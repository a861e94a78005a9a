"""The operating characteristic: what resampled nights come to."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from itertools import takewhile

import numpy as np
import pandas as pd
from scipy.special import betaincinv

from .. import stats
from ..config import TimingSettings, VerdictSettings
from ..records import Record
from ..screening import family_of
from ..verdicts.power import Power
from .resample import Outcome, Pool, Rules, moved_nights, nights
from .sources import Source

Progress = Callable[[str, int, int], None]  # what, done, total

ENOUGH = 1 / 300  # a mail without a cause in more nights than this, and people stop reading them
FACTORS = (0.25, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0)  # of the margin in the settings: what else could be chosen
COVERED = (3, 6, 12)  # launches whose intervals are counted
SPENT_ON = 2.5  # margins: the effect by which the stop rule is compared with a fixed number of launches
INTERVALS = 4000  # a number of launches and a cache regime, at least


@dataclass(frozen=True)
class Plan:
    """How much to resample."""

    nights: int = 1000
    moved_nights: int = 300  # an effect
    cells: int = 900  # a night
    effects: tuple[float, ...] = (0.003, 0.005, 0.01, 0.02, 0.05)  # ratios - 1
    seed: int = 1
    timing: TimingSettings = field(default_factory=TimingSettings)


class Rate(Record):
    """A share of nights, with its one-sided 95% Clopper-Pearson bounds."""

    count: int
    of: int
    rate: float
    lower: float
    upper: float


class FalseAlarms(Record):
    """Nights in which nothing changed, at a margin."""

    margin: float
    mails: Rate  # nights with at least one
    screened: float  # cells that went to confirmation, a night
    families: float  # that did as a whole, a night
    mde: dict[str, tuple[float, float]]  # regime -> median and 90th percentile over cells


class Caught(Record):
    """Nights in which one family was slower."""

    effect: float  # ratio - 1
    caught: Rate  # the family was accused, by itself or by a cell
    family: Rate  # its geometric mean was
    cells: float  # share of its cells that were accused
    others: Rate  # nights in which another family was accused as well


class Spent(Record):
    """What launches buy, at the margin in the settings: with the stop rule, or always all of them."""

    stops: bool
    launches: float  # of single cells, in a night without a change
    mails: Rate  # in nights without a change
    effect: float  # ratio - 1 of the one family that is slower
    caught: Rate
    cells: float


class Coverage(Record):
    """How often the interval of so many launches holds what it should, a cell each."""

    regime: str
    launches: int
    intervals: int
    of_mean: float  # the mean of all stored launches of the cell
    of_zero: float  # no change: a cell whose builds lie differently in memory can have a mean of its own


class Characteristic(Record):
    """What resampled nights without a change, and with one, came to."""

    sources: tuple[str, ...]
    device: str
    launches: int  # stored
    measured_cells: int
    deviation: dict[str, tuple[float, float]]  # of launches; regime -> median and 90th percentile over cells
    bias: dict[str, tuple[float, float]]  # |mean over launches|, likewise; the second is the largest
    plan: dict[str, float]
    margin: float  # in the settings
    margin_spread: float
    proposed_margin: float | None  # the smallest tried that meets the bound with all larger ones; None: none does
    alarms: tuple[FalseAlarms, ...]
    power: tuple[Caught, ...]
    spending: tuple[Spent, ...]
    coverage: tuple[Coverage, ...]


def characterise(source: Source, settings: VerdictSettings, plan: Plan, progress: Progress) -> Characteristic:
    """Resample `source` into nights, and count. Takes about 20 ms a night of 900 cells."""
    pool, margin = Pool.of(source.effects, plan.cells), settings.margin(source.device)
    rules = [Rules(settings, factor * margin, plan.timing) for factor in FACTORS]
    total = (len(rules) + 2) * plan.nights + (len(plan.effects) + 2) * plan.moved_nights
    count = _Counter(progress, total)
    alarms = [_false_alarms(source, pool, rule, plan, count) for rule in rules]
    power = [_caught(pool, rules[FACTORS.index(1.0)], plan, effect, count) for effect in plan.effects]
    good = list(takewhile(lambda entry: entry.mails.upper <= ENOUGH, reversed(alarms)))
    return Characteristic(
        sources=source.names,
        device=source.device,
        launches=len(source.effects),
        measured_cells=source.effects.shape[1],
        deviation=_by_regime(source.effects.std(), 0.9),
        bias=_by_regime(source.effects.mean().abs(), 1.0),
        plan={"nights": plan.nights, "moved_nights": plan.moved_nights, "cells": len(pool.cells), "seed": plan.seed}
        | {"screening_launches": plan.timing.launches, "confirming_launches": plan.timing.confirm_launches},
        margin=margin,
        margin_spread=settings.margin_spread,
        proposed_margin=good[-1].margin if good else None,
        alarms=tuple(alarms),
        power=tuple(power),
        spending=tuple(_spent(pool, settings, margin, plan, stops, count) for stops in (False, True)),
        coverage=tuple(_coverage(source, settings, plan.seed)),
    )


class _Counter:
    """Counts nights, and tells."""

    def __init__(self, progress: Progress, total: int) -> None:
        self.progress, self.total, self.done = progress, total, 0

    def __call__(self, outcome: Outcome) -> Outcome:
        self.done += 1
        self.progress("nights", self.done, self.total)
        return outcome


def rate(count: int, of: int) -> Rate:
    """`count` of `of`, with one-sided 95% Clopper-Pearson bounds."""
    lower = float(betaincinv(count, of - count + 1, 0.05)) if count else 0.0
    upper = float(betaincinv(count + 1, of - count, 0.95)) if count < of else 1.0
    return Rate(count=count, of=of, rate=count / of, lower=lower, upper=upper)


def _false_alarms(source: Source, pool: Pool, rules: Rules, plan: Plan, count: _Counter) -> FalseAlarms:
    found = [count(outcome) for outcome in nights(pool, rules, plan.nights, plan.seed)]
    chosen = float(np.mean([len(outcome.chosen.cells) for outcome in found]))
    power = Power(rules.settings, rules.timing, rules.margin, round(chosen) + 1)
    return FalseAlarms(
        margin=rules.margin,
        mails=rate(sum(bool(outcome.accused) for outcome in found), len(found)),
        screened=chosen,
        families=float(np.mean([len(outcome.chosen.families) for outcome in found])),
        mde=_detectable(source.effects, power),
    )


def _spent(pool: Pool, settings: VerdictSettings, margin: float, plan: Plan, stops: bool, count: _Counter) -> Spent:
    rules = Rules(settings, margin, plan.timing, stops)
    found = [count(outcome) for outcome in nights(pool, rules, plan.nights, plan.seed + 4)]
    effect = round(SPENT_ON * margin, 4)
    caught = _caught(pool, rules, plan, effect, count)
    return Spent(
        stops=stops,
        launches=float(np.mean([sum(outcome.launches) for outcome in found])),
        mails=rate(sum(bool(outcome.accused) for outcome in found), len(found)),
        effect=effect,
        caught=caught.caught,
        cells=caught.cells,
    )


def _detectable(effects: pd.DataFrame, power: Power) -> dict[str, tuple[float, float]]:
    return _by_regime(effects.std().map(power.detectable), 0.9)


def _caught(pool: Pool, rules: Rules, plan: Plan, effect: float, count: _Counter) -> Caught:
    shifted = moved_nights(pool, rules, plan.moved_nights, plan.seed + 1, float(np.log1p(effect)), pool.families)
    found = [(family, count(outcome)) for family, outcome in shifted]
    sizes = pd.Series(pool.cells).map(family_of).value_counts()
    shares = [
        sum(family_of(cell) == family for cell in outcome.cells) / int(sizes[family]) for family, outcome in found
    ]
    return Caught(
        effect=effect,
        caught=rate(sum(family in outcome.accused for family, outcome in found), len(found)),
        family=rate(sum(family in outcome.families for family, outcome in found), len(found)),
        cells=float(np.mean(shares)),
        others=rate(sum(bool(outcome.accused - {family}) for family, outcome in found), len(found)),
    )


def _coverage(source: Source, settings: VerdictSettings, seed: int) -> list[Coverage]:
    generator = np.random.default_rng(seed + 2)
    return [
        _covered(regime, source.effects[cells], launches, settings, generator)
        for regime, cells in _regimes(source.effects.columns).items()
        for launches in COVERED
    ]


def _covered(
    regime: str, effects: pd.DataFrame, launches: int, settings: VerdictSettings, generator: np.random.Generator
) -> Coverage:
    """Launches are drawn with replacement: then what the interval estimates is known, the mean of those stored."""
    repeats = -(-INTERVALS // effects.shape[1])
    drawn = effects.to_numpy()[generator.integers(0, len(effects), (launches, repeats))]
    found = stats.estimates(pd.DataFrame(drawn.reshape(launches, -1)), 0.0, settings.confidence)
    means = np.tile(effects.mean().to_numpy(), repeats)[found.index.to_numpy(dtype=int)]
    lower, upper = found["lower"].to_numpy(), found["upper"].to_numpy()
    return Coverage(
        regime=regime,
        launches=launches,
        intervals=len(found),
        of_mean=float(((lower <= means) & (means <= upper)).mean()),
        of_zero=float(((lower <= 0.0) & (upper >= 0.0)).mean()),
    )


def _regimes(cells: Iterable[object]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for cell in map(str, cells):
        found.setdefault(cell.rpartition("/")[2], []).append(cell)
    return found


def _by_regime(values: pd.Series[float], share: float) -> dict[str, tuple[float, float]]:
    """Median and the quantile at `share`, over the cells of each regime."""
    return {
        regime: (float(values[cells].median()), float(values[cells].quantile(share)))
        for regime, cells in _regimes(values.index).items()
    }
