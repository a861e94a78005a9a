"""Nights as they could be: launches of many kinds through the rules of real nights, and how often these are wrong.

Every scenario gives the effects of launches without a change; the same night is judged as it is and with one family
slower. Rates are those of fixed seeds, and the bounds leave them the room that so few nights need.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pandas as pd
import pytest

from fp8bench import stats
from fp8bench.calibration.resample import Outcome, Rules, judge_night
from fp8bench.config import TimingSettings, VerdictSettings
from fp8bench.screening import family_of

CELLS = [
    f"cuda/{scheme}/bfloat16/{tokens}x{hidden}/{regime}"
    for scheme in ("per-tensor", "per-token", "group-64-row", "group-128-col")
    for tokens in (1, 16, 128, 512, 1024)
    for hidden in (1024, 4096)
    for regime in ("hot", "cold")
]
MINE = np.array([family_of(cell) == "cuda/per-token/bfloat16/hot" for cell in CELLS])
FAMILY = "cuda/per-token/bfloat16/hot"
RULES = Rules(VerdictSettings(), 0.002, TimingSettings())
SD = 0.001  # of a launch, in every scenario, but for what the scenario adds
NIGHTS = 80

Launches = Callable[[np.random.Generator, int], np.ndarray]  # how many -> launches x cells


def normal(random: np.random.Generator, count: int) -> np.ndarray:
    return random.normal(0, SD, (count, len(CELLS)))


def heavy_tails(random: np.random.Generator, count: int) -> np.ndarray:
    """Student t with 3 degrees of freedom."""
    return random.standard_t(3, (count, len(CELLS))) * SD / 3**0.5


def bimodal(random: np.random.Generator, count: int) -> np.ndarray:
    """In 15% of the launches a build of a cell takes another of its two levels, 3% slower."""
    levels = 0.03 * (random.random((2, count, len(CELLS))) < 0.15)
    return normal(random, count) + levels[1] - levels[0]


def launches_sway(random: np.random.Generator, count: int) -> np.ndarray:
    """What a launch does to all of its cells alike."""
    return normal(random, count) + random.normal(0, SD, (count, 1))


def drift(random: np.random.Generator, count: int) -> np.ndarray:
    """The machine warms up: one build gains over the other from launch to launch, and it evens out."""
    return normal(random, count) + np.linspace(-SD, SD, count)[:, None]


def autocorrelated(random: np.random.Generator, count: int) -> np.ndarray:
    """Every launch takes after the one before it."""
    values = normal(random, count)
    for launch in range(1, count):
        values[launch] = 0.4 * values[launch - 1] + (1 - 0.4**2) ** 0.5 * values[launch]
    return values


def blocks_dropped(random: np.random.Generator, count: int) -> np.ndarray:
    """One launch of a cell in five is lost."""
    values = normal(random, count)
    values[random.random(values.shape) < 0.2] = np.nan
    return values


def noisy_cells(random: np.random.Generator, count: int) -> np.ndarray:
    """One cell in ten sways ten times as much, and its builds lie differently: 0.2% that no launch averages out."""
    noisy = np.arange(len(CELLS)) % 10 == 3
    return normal(random, count) * np.where(noisy, 10, 1) + 0.002 * noisy


SCENARIOS: dict[Launches, tuple[float, float]] = {  # the least share of nights that catch 1%, and of accused cells
    normal: (1.0, 0.97),
    heavy_tails: (1.0, 0.95),
    bimodal: (0.0, 0.0),
    launches_sway: (1.0, 0.8),
    drift: (1.0, 0.95),
    autocorrelated: (1.0, 0.95),
    blocks_dropped: (1.0, 0.95),
    noisy_cells: (1.0, 0.85),
}


def night(launches: Launches, seed: int, shift: float = 0.0) -> Outcome:
    random = np.random.default_rng(seed)
    timing = RULES.timing
    first, second = (launches(random, count) for count in (timing.launches, timing.confirm_launches))
    tables = [pd.DataFrame(values + shift * MINE, columns=CELLS) for values in (first, second)]
    return judge_night(tables[0], tables[1], RULES)


@pytest.mark.parametrize("launches", SCENARIOS, ids=lambda scenario: scenario.__name__)
def test_a_night_without_a_change_accuses_nobody(launches: Launches) -> None:
    assert sum(bool(night(launches, seed).accused) for seed in range(NIGHTS)) == 0


@pytest.mark.parametrize("launches", SCENARIOS, ids=lambda scenario: scenario.__name__)
def test_one_percent_in_one_family_is_caught_and_no_other_is_accused(launches: Launches) -> None:
    found = [night(launches, seed, np.log(1.01)) for seed in range(100, 100 + NIGHTS // 2)]
    caught, cells = SCENARIOS[launches]
    assert np.mean([FAMILY in outcome.accused for outcome in found]) >= caught
    assert np.mean([len(outcome.cells) / MINE.sum() for outcome in found]) >= cells
    assert sum(bool(outcome.accused - {FAMILY}) for outcome in found) <= 1


def test_two_levels_cost_power_and_the_detectable_effect_says_so() -> None:
    """Launches that jump by 3% hide 1%: what the night promises to catch grows accordingly."""
    caught = [night(bimodal, seed, np.log(1.01)).cells for seed in range(30)]
    assert np.mean([len(cells) / MINE.sum() for cells in caught]) < 0.1
    table = pd.DataFrame(bimodal(np.random.default_rng(1), 200), columns=CELLS)
    assert stats.estimates(table, 0.002)["deviation"].median() > 0.01


@pytest.mark.parametrize("launches", [normal, heavy_tails, launches_sway, blocks_dropped], ids=lambda s: s.__name__)
@pytest.mark.parametrize("count", [6, 12])
def test_intervals_cover(launches: Launches, count: int) -> None:
    """Of cells; t intervals are a little wide under heavy tails."""
    random = np.random.default_rng(count)
    found = [stats.estimates(pd.DataFrame(launches(random, count), columns=CELLS), 0.0) for _ in range(60)]
    covered = np.mean([((table["lower"] <= 0) & (table["upper"] >= 0)).mean() for table in found])
    assert 0.93 <= covered <= 0.975


def test_intervals_of_families_cover_when_launches_sway() -> None:
    random = np.random.default_rng(3)
    groups = [family_of(cell) for cell in CELLS]
    tables = [pd.DataFrame(launches_sway(random, 8), columns=CELLS) for _ in range(400)]
    found = [stats.estimates(table, 0.0, groups=groups) for table in tables]
    covered = np.mean([((table["lower"] <= 0) & (table["upper"] >= 0)).mean() for table in found])
    assert 0.93 <= covered <= 0.97


def test_a_test_over_raw_blocks_would_cry_wolf() -> None:
    """Why the launch is the unit: 40 blocks of one launch that sways by 0.4% look like 40 witnesses, and are one."""
    random = np.random.default_rng(4)
    sway = random.normal(0, 0.004, 400)
    blocks = sway[:, None] + random.normal(0, 0.01 / 2**0.5, (400, 40))
    found = stats.estimates(pd.DataFrame(blocks.T), 0.0)
    assert (found[["p_slower", "p_faster"]].min(axis=1) < 0.025).mean() > 0.5
    launches = random.normal(0, 0.004, (6, 400)) + random.normal(0, 0.01 / 80**0.5, (6, 400))
    found = stats.estimates(pd.DataFrame(launches), 0.0)
    assert (found[["p_slower", "p_faster"]].min(axis=1) < 0.025).mean() < 0.08
