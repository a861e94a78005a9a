"""The screen: what it lets pass, what it must not miss, and what it never asks for."""

from __future__ import annotations

import numpy as np
import pandas as pd

from fp8bench.config import VerdictSettings
from fp8bench.screening import family_of, screen

SETTINGS = VerdictSettings()
MARGIN = 0.003
SIZES = [f"{tokens}x{hidden}" for tokens in (1, 16, 128, 512, 1024) for hidden in (1024, 4096)]
CELLS = [
    f"{backend}/{scheme}/bfloat16/{size}/{regime}"
    for backend in ("cuda", "triton")
    for scheme in ("per-tensor", "per-token", "group-128-row")
    for size in SIZES
    for regime in ("hot", "cold")
]
FAMILY = "cuda/per-token/bfloat16/hot"


def launches(shifts: dict[str, float], *, deviation: float = 0.001, count: int = 6, seed: int = 1) -> pd.DataFrame:
    """Effects of screening launches; `shifts` moves the cells of a family."""
    true = np.array([shifts.get(family_of(cell), 0.0) for cell in CELLS])
    return pd.DataFrame(np.random.default_rng(seed).normal(true, deviation, (count, len(CELLS))), columns=CELLS)


def test_the_family_of_a_cell() -> None:
    assert family_of("cuda/group-128-row/bfloat16/1x7168/cold") == "cuda/group-128-row/bfloat16/cold"


def test_a_quiet_night_asks_for_next_to_nothing() -> None:
    asked = [len(screen(launches({}, seed=seed), SETTINGS, (), MARGIN).cells) for seed in range(40)]
    assert np.mean(asked) < 0.01 * len(CELLS)


def test_a_family_that_moved_brings_all_its_cells_and_no_other() -> None:
    """0.45% against a margin of 0.3% is little for a cell, and plain for the family."""
    for shift in (0.0045, -0.0045):
        found = screen(launches({FAMILY: shift}), SETTINGS, (), MARGIN)
        assert found.families == (FAMILY,)
        assert {family_of(cell) for cell in found.cells} == {FAMILY}
        assert len(found.cells) == len(SIZES)


def test_a_single_cell_is_asked_for_alone() -> None:
    effects = launches({})
    effects[CELLS[7]] += 0.01
    found = screen(effects, SETTINGS, (), MARGIN)
    assert CELLS[7] in found.cells
    assert len(found.cells) <= 2
    assert found.families == ()


def test_controls_and_cells_of_few_launches_are_never_asked_for() -> None:
    effects = launches({FAMILY: 0.05})
    mine = [cell for cell in CELLS if family_of(cell) == FAMILY]
    effects.loc[2:, mine[0]] = np.nan
    found = screen(effects, SETTINGS, set(mine[5:]), MARGIN)
    assert set(found.cells) == set(mine[1:5])


def test_order_does_not_matter_and_nothing_gives_nothing() -> None:
    effects = launches({FAMILY: 0.01})
    shuffled = effects.sample(frac=1, random_state=1).sample(frac=1, axis=1, random_state=2)
    assert screen(shuffled, SETTINGS, (), MARGIN) == screen(effects, SETTINGS, (), MARGIN)
    assert screen(effects[:0], SETTINGS, (), MARGIN).cells == ()
    assert screen(pd.DataFrame(), SETTINGS, (), MARGIN).cells == ()
    assert screen(effects, SETTINGS, set(CELLS), MARGIN).cells == ()


def test_a_family_is_screened_where_clear_cells_stopped_early() -> None:
    """Half of the cells have three launches, half six: the family's shift is seen all the same."""
    effects = launches({FAMILY: 0.006})
    effects.loc[3:, CELLS[::2]] = np.nan
    assert FAMILY in screen(effects, SETTINGS, (), MARGIN).families
