"""The operating characteristic: what resampled nights come to.

Each row of it is a task of its own, with random numbers of its own, so the result is the same however many processes
share the tasks.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, field
from functools import partial
from itertools import takewhile
from multiprocessing import get_context
from typing import NamedTuple

import numpy as np
import pandas as pd
from scipy.special import betaincinv

from .. import stats
from ..calibrated import (
    RULES,
    Caught,
    CaughtOf,
    Characteristic,
    Coverage,
    FalseAlarms,
    Middle,
    Spent,
    sections_of,
    settings_of,
)
from ..config import TimingSettings, VerdictSettings
from ..records import Rate
from ..screening import family_of
from ..verdicts.power import Power
from .resample import Drawable, Outcome, Pool, Rules, moved_nights, nights
from .sources import Source

Progress = Callable[[str, int, int], None]  # what, done, total

ENOUGH = 1 / 300  # a mail without a cause in more nights than this, and people stop reading them
FACTORS = (0.25, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0)  # of the margin in the settings: what else could be chosen
COVERED = (3, 6, 12)  # launches whose intervals are counted
SPENT_ON = 2.5  # margins: the effect by which the stop rule is compared with a fixed number of launches
INTERVALS = 4000  # a number of launches, a backend and a cache regime, at least


@dataclass(frozen=True)
class Plan:
    """How much to resample."""

    nights: int = 1000
    moved_nights: int = 300  # an effect
    cells: int = 900  # a night
    effects: tuple[float, ...] = (0.003, 0.005, 0.01, 0.02, 0.05)  # ratios - 1
    seed: int = 1
    timing: TimingSettings = field(default_factory=TimingSettings)
    processes: int = 1


def characterise(source: Source, settings: VerdictSettings, plan: Plan, progress: Progress) -> Characteristic:
    """Resample `source` into nights, and count. Takes about 5 ms a night of 900 cells and 9 ms a night of 1,800."""
    pool, margin = Pool.of(source.effects, plan.cells), settings.margin(source.device)
    rules = [Rules(settings, factor * margin, plan.timing) for factor in FACTORS]
    normal = rules[FACTORS.index(1.0)]
    found = _done(_tasks(pool, rules, normal, plan), plan.processes, progress)
    quiet = [found["quiet", rule.margin] for rule in rules]
    alarms = [_false_alarms(source, rule, night) for rule, night in zip(rules, quiet, strict=True)]
    good = list(takewhile(lambda entry: entry.mails.upper <= ENOUGH, reversed(alarms)))
    return Characteristic(
        sources=source.names,
        device=source.device,
        device_name=source.device_name,
        versions=dict(source.versions),
        settings=dict(source.settings) | settings_of(sections_of(settings, plan.timing), RULES),
        measured=source.measured,
        launches=len(source.effects),
        measured_cells=source.effects.shape[1],
        deviation=_by_place(source.effects.std(), 0.9),
        bias=_by_place(source.effects.mean().abs(), 1.0),
        plan={"nights": plan.nights, "moved_nights": plan.moved_nights, "cells": len(pool.cells), "seed": plan.seed}
        | {"screening_launches": plan.timing.launches, "confirming_launches": plan.timing.confirm_launches},
        margin=margin,
        margin_spread=settings.margin_spread,
        proposed_margin=good[-1].margin if good else None,
        alarms=tuple(alarms),
        power=tuple(_caught(pool, effect, found["moved", effect]) for effect in plan.effects),
        spending=tuple(_spent(pool, stops, margin, found) for stops in (False, True)),
        coverage=tuple(_coverage(source, settings, plan.seed)),
    )


# ---- tasks --------------------------------------------------------------------------------------------------


class _Quiet(NamedTuple):
    """What is kept of a night in which nothing changed."""

    mails: bool
    cells: int  # that were screened
    families: int
    launches: int  # of single cells


class _Moved(NamedTuple):
    """What is kept of a night in which one family was slower."""

    family: str
    accused: bool
    by_mean: bool
    cells: int  # accused ones of the family
    others: bool  # another family was accused as well


_Night = _Quiet | _Moved
_Key = tuple[str, float]
_Task = tuple[int, Callable[[], list[_Night]]]  # nights, and how to draw them


def _tasks(pool: Pool, rules: Sequence[Rules], normal: Rules, plan: Plan) -> dict[_Key, _Task]:
    tasks: dict[_Key, _Task] = {
        ("quiet", rule.margin): (plan.nights, partial(_quiet, pool, rule, plan.nights, plan.seed)) for rule in rules
    }
    for effect in plan.effects:
        tasks["moved", effect] = plan.moved_nights, partial(_moved, pool, normal, plan, effect)
    for stops in (False, True):
        rule = Rules(normal.settings, normal.margin, plan.timing, stops)
        tasks["spent", stops] = plan.nights, partial(_quiet, pool, rule, plan.nights, plan.seed + 4)
        slower = round(SPENT_ON * normal.margin, 4)
        tasks["spent on", stops] = plan.moved_nights, partial(_moved, pool, rule, plan, slower)
    return tasks


def _done(tasks: Mapping[_Key, _Task], processes: int, progress: Progress) -> dict[_Key, list[_Night]]:
    """The nights of every task."""
    total, done = sum(count for count, _ in tasks.values()), 0
    found: dict[_Key, list[_Night]] = {}
    for key, made in _run(tasks, processes):
        found[key], done = made, done + tasks[key][0]
        progress("nights", done, total)
    return found


def _run(tasks: Mapping[_Key, _Task], processes: int) -> Iterator[tuple[_Key, list[_Night]]]:
    if processes == 1:
        for key, (_, draw) in tasks.items():
            yield key, draw()
        return
    with ProcessPoolExecutor(processes, get_context("spawn")) as pool:  # this process may have threads
        keys = {pool.submit(draw): key for key, (_, draw) in sorted(tasks.items(), key=lambda entry: -entry[1][0])}
        for future in as_completed(keys):
            yield keys[future], future.result()


def _quiet(pool: Pool, rules: Rules, count: int, seed: int) -> list[_Night]:
    return [_quiet_night(outcome) for outcome in nights(pool, rules, count, seed)]


def _quiet_night(outcome: Outcome) -> _Quiet:
    chosen = outcome.chosen
    return _Quiet(bool(outcome.accused), len(chosen.cells), len(chosen.families), sum(outcome.launches))


def _moved(pool: Pool, rules: Rules, plan: Plan, effect: float) -> list[_Night]:
    shift = float(np.log1p(effect))
    drawn = moved_nights(pool, rules, plan.moved_nights, plan.seed + 1, shift, pool.families)
    return [_moved_night(family, outcome) for family, outcome in drawn]


def _moved_night(family: str, outcome: Outcome) -> _Moved:
    mine = sum(family_of(cell) == family for cell in outcome.cells)
    others = bool(outcome.accused - {family})
    return _Moved(family, family in outcome.accused, family in outcome.families, mine, others)


# ---- what they come to ---------------------------------------------------------------------------------------


def rate(count: int, of: int) -> Rate:
    """`count` of `of`, with one-sided 95% Clopper-Pearson bounds."""
    lower = float(betaincinv(count, of - count + 1, 0.05)) if count else 0.0
    upper = float(betaincinv(count + 1, of - count, 0.95)) if count < of else 1.0
    return Rate(count=count, of=of, rate=count / of, lower=lower, upper=upper)


def _share(found: Sequence[object]) -> Rate:
    """Of those that are true."""
    return rate(sum(map(bool, found)), len(found))


def _false_alarms(source: Source, rules: Rules, found: Sequence[_Night]) -> FalseAlarms:
    quiet = [night for night in found if isinstance(night, _Quiet)]
    chosen = float(np.mean([night.cells for night in quiet]))
    power = Power(rules.settings, rules.timing, rules.margin, round(chosen) + 1)
    return FalseAlarms(
        margin=rules.margin,
        mails=_share([night.mails for night in quiet]),
        screened=chosen,
        families=float(np.mean([night.families for night in quiet])),
        mde=_by_place(source.effects.std().map(power.detectable), 0.9),
    )


def _caught(pool: Pool, effect: float, found: Sequence[_Night]) -> Caught:
    moved = [night for night in found if isinstance(night, _Moved)]
    sizes = Counter(map(family_of, pool.cells))
    by_backend: dict[str, list[_Moved]] = {}
    for night in moved:
        by_backend.setdefault(night.family.partition("/")[0], []).append(night)
    whole = _caught_of(moved, sizes)
    return Caught(
        effect=effect,
        caught=whole.caught,
        family=whole.family,
        cells=whole.cells,
        others=_share([night.others for night in moved]),
        backends={name: _caught_of(mine, sizes) for name, mine in sorted(by_backend.items())},
    )


def _caught_of(moved: Sequence[_Moved], sizes: Mapping[str, int]) -> CaughtOf:
    """sizes: cells of each family."""
    return CaughtOf(
        caught=_share([night.accused for night in moved]),
        family=_share([night.by_mean for night in moved]),
        cells=float(np.mean([night.cells / sizes[night.family] for night in moved])),
    )


def _spent(pool: Pool, stops: bool, margin: float, found: Mapping[_Key, Sequence[_Night]]) -> Spent:
    quiet = [night for night in found["spent", stops] if isinstance(night, _Quiet)]
    caught = _caught(pool, round(SPENT_ON * margin, 4), found["spent on", stops])
    return Spent(
        stops=stops,
        launches=float(np.mean([night.launches for night in quiet])),
        mails=_share([night.mails for night in quiet]),
        effect=caught.effect,
        caught=caught.caught,
        cells=caught.cells,
    )


def _coverage(source: Source, settings: VerdictSettings, seed: int) -> list[Coverage]:
    generator = np.random.default_rng(seed + 2)
    return [
        _covered(place, source.effects[cells], launches, settings, generator)
        for place, cells in _places(source.effects.columns).items()
        for launches in COVERED
    ]


def _covered(
    place: str, effects: pd.DataFrame, launches: int, settings: VerdictSettings, generator: np.random.Generator
) -> Coverage:
    """Launches are drawn with replacement: then what the interval estimates is known, the mean of those stored."""
    repeats = -(-INTERVALS // effects.shape[1])
    drawn = Drawable(effects).draw(launches, repeats, generator)
    found = stats.estimates(pd.DataFrame(drawn), 0.0, settings.confidence)
    means = np.tile(effects.mean().to_numpy(), repeats)[found.index.to_numpy(dtype=int)]
    lower, upper = found["lower"].to_numpy(), found["upper"].to_numpy()
    return Coverage(
        place=place,
        launches=launches,
        intervals=len(found),
        of_mean=float(((lower <= means) & (means <= upper)).mean()),
        of_zero=float(((lower <= 0.0) & (upper >= 0.0)).mean()),
    )


def _places(cells: Iterable[object]) -> dict[str, list[str]]:
    """Cells by backend/regime, sorted."""
    found: dict[str, list[str]] = {}
    for cell in map(str, cells):
        found.setdefault(f"{cell.partition('/')[0]}/{cell.rpartition('/')[2]}", []).append(cell)
    return dict(sorted(found.items()))


def _by_place(values: pd.Series[float], share: float) -> dict[str, Middle]:
    """Median and the quantile at `share`, over the cells of each backend and regime."""
    return {
        place: (float(values[cells].median()), float(values[cells].quantile(share)))
        for place, cells in _places(values.index).items()
    }
