"""Many nights: steps, creep, gaps, and a year of a thousand cells."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from time import process_time

import numpy as np
import pandas as pd
import pytest
from nights import make_night

from fp8bench import records
from fp8bench.history import anchored_effects, find_trends
from fp8bench.history.anchored import anchor
from fp8bench.history.change_points import Guards, change_points
from fp8bench.records import Prepared, Verdict, Verdicts
from fp8bench.rundir import RunDir

NOISE = 0.0015  # of a night's effect
BEGIN = datetime(2026, 1, 1, 2, tzinfo=UTC)


def year(cells: int = 1, nights: int = 365, seed: int = 1, noise: float = NOISE) -> pd.DataFrame:
    values = np.random.default_rng(seed).normal(0, noise, (nights, cells))
    return pd.DataFrame(values, columns=[f"cell-{index:04}" for index in range(cells)])


# ---- change points ------------------------------------------------------------------------------------------

# What Apache Otava 0.8.0 (window 50, p 1e-4) finds in the series of `otava_series`.
OTAVA = {0: [20], 1: [40], 2: [30, 75], 3: []}


def otava_series(number: int) -> np.ndarray:
    series = np.random.default_rng(number).normal(0, 0.002, 110)
    for place in {0: [20], 1: [40], 2: [30, 75], 3: []}[number]:
        series[place:] += 0.012
    return series


@pytest.mark.parametrize("number", OTAVA)
def test_steps_are_where_otava_finds_them(number: int) -> None:
    found = change_points(otava_series(number), Guards(least=0.0, deviations=0.0))
    assert [step.index for step in found] == OTAVA[number]


def test_a_step_by_hand() -> None:
    series = np.array([0.0, 0.001, -0.001] * 6 + [0.02, 0.021, 0.019] * 4)
    (step,) = change_points(series, Guards())
    assert (step.index, step.before, step.after) == (18, pytest.approx(0.0), pytest.approx(0.02))
    assert step.p_value < 1e-12
    still = pd.DataFrame({"still": [0.0] * 20, "steps": [0.0] * 10 + [0.02] * 10, "creeps": np.linspace(0, 0.02, 20)})
    assert [(trend.cell, trend.kind) for trend in find_trends(still)] == [("creeps", "creep"), ("steps", "step")]


@pytest.mark.parametrize(("size", "nights", "found"), [(0.008, 40, 0), (0.012, 40, 1), (0.05, 2, 0), (0.05, 4, 1)])
def test_guards_against_small_and_short_steps(size: float, nights: int, found: int) -> None:
    table = year(nights=100)
    table.iloc[-nights:] += size
    assert len(find_trends(table)) == found


def test_a_noisy_cell_needs_a_larger_step() -> None:
    """4 deviations of a night, whatever the p value says."""
    table = year(noise=0.01)
    table.iloc[180:] += 0.03
    assert find_trends(table) == []
    table.iloc[180:] += 0.03
    assert [trend.since for trend in find_trends(table)] == [180]


def test_what_was_taken_back_is_two_steps() -> None:
    table = year(nights=200)
    table.iloc[80:120] -= 0.02
    found = find_trends(table)
    assert [(trend.since, round(trend.change, 2), trend.nights) for trend in found] == [
        (80, -0.02, 40),
        (120, 0.02, 80),
    ]


def test_creep_is_no_staircase() -> None:
    table = year(nights=120)
    table.iloc[:, 0] += np.linspace(0, 0.02, 120)
    (trend,) = find_trends(table)
    assert (trend.kind, trend.since, trend.nights) == ("creep", 0, 120)
    assert trend.change == pytest.approx(0.02, abs=0.002)


def test_missing_nights_are_gaps_and_not_zeros() -> None:
    table = year(nights=200) + 0.05
    table.iloc[::7] = np.nan
    table.iloc[90:110] = np.nan
    assert find_trends(table) == []
    table.iloc[100:] += 0.02
    (trend,) = find_trends(table)
    assert trend.since == 110
    assert trend.before == pytest.approx(0.05, abs=0.001)


def test_a_young_or_empty_history_says_nothing() -> None:
    assert find_trends(year(nights=5)) == []
    assert find_trends(pd.DataFrame()) == []
    assert find_trends(pd.DataFrame({"a": [np.nan] * 50})) == []


def test_a_quiet_year_of_many_cells_is_quiet_also_where_nights_resemble_each_other() -> None:
    assert find_trends(year(cells=400, nights=200)) == []
    quiet = year(cells=200, nights=200, seed=2)
    assert find_trends(quiet.ewm(alpha=0.5).mean()) == []


def test_a_year_of_a_thousand_cells_takes_less_than_ten_seconds() -> None:
    table = year(cells=1000)
    table.iloc[200:, :50] += 0.02
    table.iloc[::30] = np.nan
    begin = process_time()
    found = find_trends(table)
    assert process_time() - begin < 10
    assert [trend.cell for trend in found] == list(table.columns[:50])
    assert {trend.since for trend in found} == {200}


# ---- the anchor ---------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def night(tmp_path_factory: pytest.TempPathFactory) -> tuple[Prepared, Verdicts]:
    run = RunDir(make_night(tmp_path_factory.mktemp("night"), "regressed"))
    return run.prepared(), run.judged()


def compared(night: tuple[Prepared, Verdicts], day: int, candidate: str, baseline: str, effect: float):
    """The night again, with one effect in all cells that are judged."""
    prepared, verdicts = night
    commits = {
        "candidate": prepared.candidate.model_copy(update={"sha": candidate}),
        "baseline": prepared.baseline.model_copy(update={"sha": baseline}),
    }
    cells = tuple(
        cell.model_copy(update={"effect": cell.effect.model_copy(update={"value": effect}), "verdict": Verdict.OK})
        if cell.verdict is not Verdict.CONTROL
        else cell
        for cell in verdicts.cells
    )
    created = prepared.model_copy(update=commits | {"created": BEGIN + timedelta(days=day), "run_id": f"night-{day}"})
    return created, verdicts.model_copy(update={"cells": cells, "verdict": Verdict.OK, "exit_code": 0})


def test_effects_add_up_over_accepted_baselines(night: tuple[Prepared, Verdicts]) -> None:
    """b is accepted after night 1, c after night 2: night 3 is measured against c, and told against a."""
    steps = [(0, "b", "a", 0.01), (1, "b", "a", 0.012), (2, "c", "b", 0.02), (3, "d", "c", -0.005)]
    table = anchor(compared(night, *step) for step in steps)
    changed = [cell for cell in table if cell.startswith("cpu/")]
    np.testing.assert_allclose(table[changed[0]], [0.01, 0.012, 0.032, 0.027])
    controls = [cell for cell in table if cell.startswith("torch/")]
    assert (table[controls] == 0.0).all(axis=None)


def test_an_unknown_baseline_begins_a_new_chain(night: tuple[Prepared, Verdicts]) -> None:
    steps = [(0, "b", "a", 0.01), (1, "y", "x", 0.02), (2, "z", "y", 0.01)]
    table = anchor(compared(night, *step) for step in steps)
    assert list(table.index) == [BEGIN + timedelta(days=1), BEGIN + timedelta(days=2)]
    assert table.iloc[1].max() == pytest.approx(0.03)


def without(night: tuple[Prepared, Verdicts], cell: str) -> tuple[Prepared, Verdicts]:
    """The night, had it not timed the cell."""
    prepared, verdicts = night
    lacking = {"effect": None, "verdict": Verdict.MISSING}
    cells = (entry.model_copy(update=lacking) if entry.cell == cell else entry for entry in verdicts.cells)
    return prepared, verdicts.model_copy(update={"cells": tuple(cells)})


@pytest.fixture(scope="module")
def cell(night: tuple[Prepared, Verdicts]) -> str:
    return next(entry.cell for entry in night[1].cells if entry.cell.startswith("cpu/"))


def test_a_cell_that_a_night_lacks_is_a_gap_and_not_its_baseline(night: tuple[Prepared, Verdicts], cell: str) -> None:
    steps = [compared(night, 0, "b", "a", 0.02), without(compared(night, 1, "c", "b", 0.0), cell)]
    table = anchor([*steps, compared(night, 2, "d", "b", 0.03)])
    np.testing.assert_allclose(table[cell], [0.02, np.nan, 0.05])


def test_what_the_latest_night_of_a_build_lacks_an_earlier_one_knows(
    night: tuple[Prepared, Verdicts], cell: str
) -> None:
    steps = [compared(night, 0, "b", "a", 0.02), without(compared(night, 1, "b", "a", 0.01), cell)]
    table = anchor([*steps, compared(night, 2, "c", "b", 0.03)])
    np.testing.assert_allclose(table[cell], [0.02, np.nan, 0.05])
    other = next(name for name in table if name.startswith("cpu/") and name != cell)
    np.testing.assert_allclose(table[other], [0.02, 0.01, 0.04])


def test_a_cell_that_its_baselines_own_night_lacked_begins_anew(night: tuple[Prepared, Verdicts], cell: str) -> None:
    """It was 5% slower all along: no night says that it became faster when the baseline moved."""
    steps = [compared(night, day, f"x{day}", "a", 0.05) for day in range(8)]
    steps += [without(compared(night, 8, "b", "a", 0.05), cell)]
    steps += [compared(night, 9 + day, f"y{day}", "b", 0.0) for day in range(8)]
    table = anchor(steps)
    np.testing.assert_allclose(table[cell], [np.nan] * 9 + [0.0] * 8)
    other = next(name for name in table if name.startswith("cpu/") and name != cell)
    np.testing.assert_allclose(table[other], 0.05)
    assert find_trends(table) == []


def test_a_cell_of_a_later_suite_begins_with_the_baseline_of_then(night: tuple[Prepared, Verdicts], cell: str) -> None:
    steps = [without(compared(night, day, "b", "a", 0.02), cell) for day in range(2)]
    table = anchor([*steps, compared(night, 2, "c", "b", 0.01), compared(night, 3, "d", "c", 0.01)])
    np.testing.assert_allclose(table[cell], [np.nan, np.nan, 0.01, 0.02])


@pytest.mark.parametrize(
    "said", [{"verdict": Verdict.INVALID, "exit_code": 3}, {"verdict": Verdict.WRONG, "exit_code": 2, "invalid": "hot"}]
)
def test_an_invalid_night_is_a_gap(night: tuple[Prepared, Verdicts], said: dict[str, object]) -> None:
    prepared, verdicts = compared(night, 1, "c", "a", 0.5)
    invalid = (prepared, verdicts.model_copy(update=said))
    table = anchor([compared(night, 0, "b", "a", 0.01), invalid, compared(night, 2, "d", "a", 0.02)])
    assert len(table) == 3
    assert table.iloc[1].isna().all()


def test_run_directories_are_read_as_far_as_they_are_whole(tmp_path: Path, night: tuple[Prepared, Verdicts]) -> None:
    for day in range(4):
        prepared, verdicts = compared(night, day, "b", "a", 0.01 * day)
        records.write(prepared, tmp_path / f"night-{day}" / "prepare.json")
        records.write(verdicts, tmp_path / f"night-{day}" / "verdicts.json")
    (tmp_path / "night-1" / "verdicts.json").write_text("{")
    table = anchored_effects(tmp_path, RunDir(tmp_path / "night-3"))
    assert [f"{night:%d}" for night in table.index] == ["01", "03", "04"]
    assert len(anchored_effects(tmp_path, RunDir(tmp_path / "night-3"), limit=1)) == 2
