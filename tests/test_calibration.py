"""Calibration: launches in, error rates out, through the rules of real nights."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from nights import make_night

from fp8bench import calibration, records
from fp8bench.calibration.curve import rate
from fp8bench.calibration.resample import Pool, Rules, _regressed, judge_night
from fp8bench.calibration.spending import confirmed, screened
from fp8bench.cli import main
from fp8bench.config import Config, TimingSettings, VerdictSettings
from fp8bench.errors import UsageError
from fp8bench.records import Screened
from fp8bench.rundir import RunDir
from fp8bench.screening import family_of
from fp8bench.timing import plan
from fp8bench.verdicts.decisions import Launches, decide

SETTINGS = VerdictSettings()
PLAN = calibration.Plan(nights=12, moved_nights=12, cells=120, effects=(0.003, 0.01))
CELLS = [
    f"cuda/{scheme}/bfloat16/{tokens}x1024/{regime}"
    for scheme in ("per-tensor", "per-token", "group-128-row")
    for tokens in (1, 16, 128, 512, 1024)
    for regime in ("hot", "cold")
]


def launches(count: int = 60, deviation: float = 0.001, seed: int = 1) -> pd.DataFrame:
    values = np.random.default_rng(seed).normal(0, deviation, (count, len(CELLS)))
    return pd.DataFrame(values, columns=CELLS)


def write_csv(path: Path, effects: pd.DataFrame) -> Path:
    long = effects.rename_axis(index="launch", columns="cell").stack().rename("effect").reset_index()
    long.to_csv(path, index=False)
    return path


def no_progress(what: str, done: int, total: int) -> None:
    assert 0 < done <= total


@pytest.fixture(scope="module")
def found() -> calibration.Characteristic:
    return calibration.characterise(calibration.Source(launches(), "cuda", ("made up",)), SETTINGS, PLAN, no_progress)


def test_a_machine_that_is_still_gives_no_alarm_and_catches_one_percent(found: calibration.Characteristic) -> None:
    at_margin = next(entry for entry in found.alarms if entry.margin == found.margin)
    assert at_margin.mails.count == 0
    small, large = found.power
    assert large.caught.rate == 1.0
    assert large.cells > 0.95
    assert small.cells < large.cells
    assert small.others.count + large.others.count == 0


def test_intervals_of_drawn_launches_cover(found: calibration.Characteristic) -> None:
    assert {entry.launches for entry in found.coverage} == {3, 6, 12}
    assert all(0.93 <= entry.of_mean <= 0.97 for entry in found.coverage)


def test_the_detectable_effect_grows_with_the_margin_and_is_what_is_caught(found: calibration.Characteristic) -> None:
    medians = [entry.mde["cuda/hot"][0] for entry in found.alarms]
    assert medians[3:] == sorted(medians[3:])  # below, the cells' own margins decide
    at_margin = next(entry for entry in found.alarms if entry.margin == found.margin)
    plan = calibration.Plan(
        nights=1, moved_nights=30, cells=30, effects=(float(np.expm1(at_margin.mde["cuda/hot"][0])),)
    )
    source = calibration.Source(launches(), "cuda", ())
    assert calibration.characterise(source, SETTINGS, plan, no_progress).power[0].cells == pytest.approx(0.85, abs=0.1)


def test_too_few_nights_propose_no_margin(found: calibration.Characteristic) -> None:
    """12 nights cannot show that fewer than 1 in 300 give a mail."""
    assert found.proposed_margin is None
    assert "No margin that was tried" in calibration.markdown(found)


def test_bounds_by_hand() -> None:
    assert rate(0, 1000).upper == pytest.approx(1 - 0.05 ** (1 / 1000))
    assert rate(0, 1000).upper < 1 / 300
    assert (rate(5, 5).upper, rate(0, 5).lower) == (1.0, 0.0)
    assert rate(3, 60).lower < 0.05 < rate(3, 60).upper


def test_drawn_nights_have_the_cells_asked_for_and_keep_launches_together() -> None:
    together = pd.DataFrame({CELLS[0]: np.arange(40.0), CELLS[1]: np.arange(40.0) + 0.5})
    pool = Pool.of(together, 7)
    assert len(pool.cells) == 8
    assert len(set(pool.cells)) == 8
    drawn = pool.draw(5, np.random.default_rng(1))
    assert (drawn[CELLS[1]] - drawn[CELLS[0]] == 0.5).all()
    assert not drawn[CELLS[0]].equals(drawn[CELLS[0].replace("cuda", "cuda~1")])


def test_nights_of_different_cells_are_drawn_each_from_its_own_launches() -> None:
    """Launches of the one night say nothing of the cells of the other: none of a drawn night is missing."""
    first = pd.DataFrame({CELLS[0]: np.arange(40.0), CELLS[1]: np.arange(40.0) + 0.5})
    second = pd.DataFrame({CELLS[2]: np.arange(100.0, 112.0)}, index=range(40, 52))
    drawn = Pool.of(pd.concat([first, second]), 30).draw(400, np.random.default_rng(1))
    assert drawn.notna().all(axis=None)
    assert set(drawn[CELLS[0]]) == set(first[CELLS[0]])
    assert set(drawn[CELLS[2]]) == set(second[CELLS[2]])
    assert (drawn[CELLS[1]] - drawn[CELLS[0]] == 0.5).all()


def test_copies_of_a_backend_make_one_mail() -> None:
    pool = Pool.of(launches(), 60)
    quiet = pool.draw(6, np.random.default_rng(2))
    moved = [0.05 * ("per-token" in family_of(cell)) for cell in pool.cells]
    outcome = judge_night(quiet + moved, quiet + moved, Rules(SETTINGS, 0.003, TimingSettings()))
    assert len(outcome.accused) == 4
    assert outcome.mails == 1


def test_what_the_screen_cleared_need_not_be_decided() -> None:
    """A drawn night accuses what the rules of a night accuse when they are given all of its cells."""
    rules = Rules(SETTINGS, 0.001, TimingSettings(), stops=False)
    pool, generator = Pool.of(launches(deviation=0.002), 90), np.random.default_rng(3)
    seen = set()
    for _ in range(20):
        first, second = (pool.draw(count, generator) + pool.shifts(pool.families[0], 0.004) for count in (6, 12))
        outcome = judge_night(first, second, rules)
        passed = Screened(cells=outcome.chosen.cells, families=outcome.chosen.families)
        whole = decide(Launches(first, second[list(passed.cells)]), passed, SETTINGS, 0.001)
        assert outcome.cells == _regressed(whole.cells)
        assert outcome.families == _regressed(whole.families)
        seen |= outcome.cells
    assert seen


def test_the_stop_rule_is_that_of_real_nights_and_spares_launches() -> None:
    """Cell by cell, what the plan of a night would have stopped."""
    timing, margin = TimingSettings(), 0.002
    effects = launches(12, deviation=0.0015)
    for spend, stops in ((screened, plan.is_clear), (confirmed, plan.is_precise)):
        screens = spend is screened
        share = timing.screen_precision if screens else timing.confirm_precision
        least = timing.screen_least if screens else timing.confirm_least
        kept = spend(effects, margin, timing).notna().sum()
        for cell in effects:
            past = effects[cell].tolist()
            needed = (count for count in range(2, 12) if stops(past[:count], margin, share, least))
            assert kept[cell] == next(needed, 12)
        assert 3 <= kept.min() < kept.max() == 12


def test_stopping_spares_launches_at_the_same_power(found: calibration.Characteristic) -> None:
    always, stopping = found.spending
    assert (always.stops, stopping.stops) == (False, True)
    assert stopping.launches < 0.9 * always.launches
    assert stopping.caught.count >= always.caught.count - 1


def test_processes_share_the_work_and_change_nothing(found: calibration.Characteristic) -> None:
    source = calibration.Source(launches(), "cuda", ("made up",))
    assert calibration.characterise(source, SETTINGS, replace(PLAN, processes=2), no_progress) == found


def test_backends_and_regimes_are_told_apart() -> None:
    """One backend sways four times as much as the other: what it misses is not averaged away."""
    steady = launches()
    effects = pd.concat([steady, 4 * launches(seed=2).set_axis([f"torch{cell[4:]}" for cell in CELLS], axis=1)], axis=1)
    plan = calibration.Plan(nights=2, moved_nights=24, cells=60, effects=(0.005,))
    found = calibration.characterise(calibration.Source(effects, "cuda", ()), SETTINGS, plan, no_progress)
    assert set(found.deviation) == {"cuda/cold", "cuda/hot", "torch/cold", "torch/hot"}
    mde = found.at_margin().mde
    assert mde["torch/hot"][0] > 2 * mde["cuda/hot"][0]
    assert {entry.place for entry in found.coverage} == set(found.deviation)
    [caught] = found.power
    assert set(caught.backends) == {"cuda", "torch"}
    assert caught.backends["cuda"].cells > 0.8 > 0.4 > caught.backends["torch"].cells
    assert caught.caught.count == sum(of.caught.count for of in caught.backends.values())
    said = calibration.markdown(found)
    assert "| +0.5% | torch |" in said
    assert "| torch/hot |" in said


# ---- sources ------------------------------------------------------------------------------------------------


def test_nights_of_a_commit_against_itself_are_sources(tmp_path: Path) -> None:
    nights = [make_night(tmp_path / f"n{seed}", "clean", seed=seed) for seed in range(2)]
    source = calibration.read_sources(nights)
    assert source.device == "cpu"
    assert source.effects.shape == (12, 32)
    assert {cell.partition("/")[0] for cell in source.effects} == {"cpu"}, "torch was bound once for both arms"
    with pytest.raises(UsageError, match=r"6 launches .* 12 are needed"):
        calibration.read_sources(nights[:1])


def test_nights_that_know_their_machine_must_be_of_one(tmp_path: Path) -> None:
    nights = [
        make_night(tmp_path / f"n{day}", "clean", seed=day, created=datetime(2026, 3, day, 2, tzinfo=UTC))
        for day in (14, 12)
    ]
    source = calibration.read_sources(nights)
    machine = RunDir(nights[0]).prepared().environment
    assert (source.device_name, source.measured) == (machine.device_name, "2026-03-12 to 2026-03-14")
    assert source.versions["torch"] == machine.versions["torch"]
    other = RunDir(nights[1])
    moved = other.prepared().model_copy(update={"environment": machine.model_copy(update={"device_name": "Another"})})
    records.write(moved, other.prepare)
    with pytest.raises(UsageError, match=r"made on Another and Intel.*one kind of device"):
        calibration.read_sources(nights)


def test_cells_that_changed_are_sources_where_somebody_knows_them_to_be_as_fast(tmp_path: Path) -> None:
    """But for what was bound once for both arms, as torch was here."""
    nights = [make_night(tmp_path / f"n{seed}", "regressed", seed=seed) for seed in range(2)]
    with pytest.raises(UsageError, match=r"^0 launches"):
        calibration.read_sources(nights)
    assert {cell.partition("/")[0] for cell in calibration.read_sources(nights, equal=True).effects} == {"cpu"}


def change(run: RunDir, **changed: object) -> None:
    """Fields of what the night prepared."""
    records.write(run.prepared().model_copy(update=changed), run.prepare)


def of_equal_code(directory: Path, **changed: object) -> RunDir:
    """A night of two commits whose machine code is the same; changed: fields of both builds."""
    run = RunDir(make_night(directory, "regressed"))
    build = run.built().model_dump()
    for built in build["builds"]:
        built.update(changed)
        for entry in built["libraries"]:
            entry["identity"] = entry["backend"]
    records.write(records.BuildReport.model_validate(build), run.build)
    return run


def test_controls_are_no_sources_unless_they_were_measured_in_full(tmp_path: Path) -> None:
    """A launch times controls in one series, and what is planted with a share of 0 like what a night judges."""
    runs = [of_equal_code(tmp_path / f"n{number}") for number in range(2)]
    paths = [run.path for run in runs]
    for equal in (False, True):
        with pytest.raises(UsageError, match=r"^0 launches"):
            calibration.read_sources(paths, equal=equal)
    for run in runs:
        change(run, planted={"cpu/per-token/*": 0.0})
    assert {cell.split("/")[1] for cell in calibration.read_sources(paths).effects} == {"per-token"}
    for run in runs:
        change(run, planted={"*": 0.0})
    assert {cell.partition("/")[0] for cell in calibration.read_sources(paths).effects} == {"cpu"}
    change(runs[0], planted={"cpu/per-token/*": 0.01, "*": 0.0})
    with pytest.raises(UsageError, match="n0 is a planted night"):
        calibration.read_sources(paths)


def test_commits_of_one_build_are_measured_in_full(tmp_path: Path) -> None:
    runs = [of_equal_code(tmp_path / f"n{number}", path="/builds/one") for number in range(2)]
    assert {cell.partition("/")[0] for cell in calibration.read_sources([run.path for run in runs]).effects} == {"cpu"}


def test_sources_say_how_their_launches_were_measured(tmp_path: Path) -> None:
    """Where no settings are stored, nobody says."""
    nights = [
        make_night(tmp_path / f"n{quads}", "clean", config=Config(timing=TimingSettings(quads=quads)))
        for quads in (8, 10)
    ]
    found = calibration.read_sources(nights).settings
    assert (found["timing.quads"], found["timing.series"]) == ("10, 8", "10")
    RunDir(nights[0]).config.unlink()
    assert calibration.read_sources(nights).settings["timing.quads"] == "10"
    assert calibration.read_sources([write_csv(tmp_path / "gpu.csv", launches())]).settings == {}


@pytest.mark.parametrize(
    ("text", "message"),
    [("launch,cell\n1,a\n", "no column 'effect'"), ("launch,cell,effect\n1,cuda/a/b/c/hot,0.1\n", "1 launches")],
)
def test_bad_tables_are_refused_with_a_sentence(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "launches.csv"
    path.write_text(text)
    with pytest.raises(UsageError, match=message):
        calibration.read_sources([path])


def test_gpu_and_cpu_launches_do_not_mix(tmp_path: Path) -> None:
    night = make_night(tmp_path / "night", "clean")
    with pytest.raises(UsageError, match="one kind of machine"):
        calibration.read_sources([night, write_csv(tmp_path / "gpu.csv", launches())])


# ---- command ------------------------------------------------------------------------------------------------


def test_the_command_writes_json_and_markdown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("FP8BENCH_HOME", str(tmp_path / "home"))
    table = write_csv(tmp_path / "launches.csv.gz", launches())
    planted = make_night(tmp_path / "planted", "regressed")
    few = ["--nights", "3", "--moved-nights", "3", "--cells", "30", "--processes", "1", "--planted", str(planted)]
    assert main(["calibrate", str(table), *few, "--out", str(tmp_path / "out")]) == 0
    read = records.read(calibration.Calibration, tmp_path / "out" / "calibration.json")
    assert read.characteristic.launches == 60
    assert [entry.family for entry in read.planted[0].accused][:1] == ["cpu/group-128-row/bfloat16/hot"]
    said = capsys.readouterr().out
    assert said.startswith("# Calibration")
    assert said.strip() == (tmp_path / "out" / "calibration.md").read_text().strip()
    assert main(["calibrate", str(tmp_path / "gone"), *few]) == 4
    assert "is not there" in capsys.readouterr().err
    assert main(["calibrate"]) == 4
    assert "no nights in" in capsys.readouterr().err


def test_all_nights_of_the_home_are_sources_but_those_that_were_slowed_down(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FP8BENCH_HOME", str(tmp_path))
    for number, planted in enumerate(({}, {"*": 0.0}, {"cpu/*": 0.05})):
        change(RunDir(make_night(tmp_path / "runs" / f"n{number}", "clean", seed=number)), planted=planted)
    few = ["--nights", "3", "--moved-nights", "3", "--cells", "30", "--processes", "1"]
    assert main(["calibrate", *few]) == 0
    read = records.read(calibration.Calibration, tmp_path / "calibration" / "calibration.json")
    assert read.characteristic.sources == ("n0", "n1")
