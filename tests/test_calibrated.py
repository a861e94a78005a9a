"""What a night tells of the calibration of its machine: figures, where they come from, and reasons to doubt them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from nights import make_night

from fp8bench import calibrated, calibration, charts, records, stages, store
from fp8bench.config import Config, MlflowSettings, VerdictSettings
from fp8bench.errors import RunDirError
from fp8bench.night import Night
from fp8bench.records import Environment, Prepared, Verdict
from fp8bench.report import trust
from fp8bench.rundir import RunDir

CELLS = [f"cpu/{scheme}/bfloat16/{tokens}x1024/hot" for scheme in ("per-tensor", "per-token") for tokens in (1, 2, 4)]


def calibrate(home: Path, machine: Environment, **changed: object) -> calibrated.Characteristic:
    """A calibration of this machine below `home`; changed: fields of its characteristic."""
    effects = pd.DataFrame(np.random.default_rng(1).normal(0, 0.005, (40, len(CELLS))), columns=CELLS)
    source = calibration.Source(effects, "cpu", ("made up",), machine.device_name, machine.versions, "2026-03-01")
    plan = calibration.Plan(nights=20, moved_nights=4, cells=6, effects=(0.01, 0.2))
    found = calibration.characterise(source, VerdictSettings(), plan, lambda *_: None).model_copy(update=changed)
    records.write(calibrated.Calibration(characteristic=found), calibrated.path_of(home))
    return found


@pytest.fixture
def prepared(tmp_path: Path) -> Prepared:
    night = make_night(tmp_path / "runs" / "night", "regressed", until="time", config=Config(home=tmp_path))
    return RunDir(night).prepared()


def test_a_night_takes_over_what_was_calibrated_and_tells_it(tmp_path: Path, prepared: Prepared) -> None:
    assert calibrated.of_night(Config(home=tmp_path), prepared) is None
    characteristic = calibrate(tmp_path, prepared.environment)
    config = Config(home=tmp_path, mlflow=MlflowSettings(experiment="calibrated"))
    run = RunDir(tmp_path / "runs" / "night")
    stages.run_stage("judge", run.path, config)
    found = run.judged().calibrated
    assert found is not None
    assert (found.mails.count, found.mails.of, found.doubts) == (0, 20, ())
    assert [entry.effect for entry in found.caught] == [0.01, 0.2]
    calibrated.path_of(tmp_path).unlink()  # the night keeps what it was judged with
    tiles = {tile.label: tile for tile in trust.build(Night.read(run.path)).tiles}
    mails, power = tiles["Nights with a false mail"], tiles["Slower family caught"]
    assert (mails.value, mails.tone, power.value) == ("0 of 20", "calm", "+20.0% in 100%")
    assert "below 1 in 7 with 95% confidence; 40 launches of 6 cells on" in mails.note
    assert mails.note.endswith("2026-03-01")
    assert "+1.0% in 0.0%, +20.0% in 100.0% of nights" in power.note
    points = {key: value for key, value, _ in charts.points(Night.read(run.path), "cpu")}
    assert points["00_summary/calibrated_false_mails_bound"] == characteristic.at_margin().mails.upper
    assert points["00_summary/calibrated_caught_at_200_per_mille"] == 1.0
    tags = store._tags(Night.read(run.path), "cpu")
    assert tags["fp8bench.calibration"].startswith("40 launches of 6 cells on")
    assert "fp8bench.calibration_doubts" not in tags


@pytest.mark.parametrize(
    ("changed", "doubt"),
    [
        ({"device_name": "NVIDIA H100"}, "its launches were made on NVIDIA H100, not on Intel"),
        ({"device_name": ""}, "it does not say which device its launches were made on"),
        ({"versions": {"torch": "2.10.0, 2.11.0"}}, "torch was 2.10.0, 2.11.0 then and is 2.13.0+cpu now"),
        ({"margin": 0.02}, "its margin was 2%, and tonight's is 3%"),
        ({"versions": {"driver": "580.95, 580.159"}}, "driver was 580.95, 580.159 then and is 581.10 now"),
        ({"settings": {"verdicts.alpha": "0.05"}}, "verdicts.alpha was 0.05 then and is 0.01 now"),
        ({"settings": {"verdicts.screen_alpha": "0.2"}}, "verdicts.screen_alpha was 0.2 then and is 0.1 now"),
        ({"settings": {"verdicts.margin_spread": "1"}}, "verdicts.margin_spread was 1 then and is 1.5 now"),
        ({"settings": {"timing.launches": "5"}}, "timing.launches was 5 then and is 6 now"),
        ({"settings": {"timing.quads": "10, 5"}}, "timing.quads was 10, 5 then and is 8 now"),
        ({"settings": {"timing.series": "1"}}, "timing.series was 1 then and is 10 now"),
        ({"settings": {}, "margin_spread": 1.0}, "verdicts.margin_spread was 1 then and is 1.5 now"),
        ({"settings": {}, "plan": {"confirming_launches": 8.0}}, "timing.confirm_launches was 8 then and is 12 now"),
    ],
)
def test_what_is_another_than_tonight_is_a_doubt(
    tmp_path: Path, prepared: Prepared, changed: dict[str, object], doubt: str
) -> None:
    environment = prepared.environment.model_copy(update={"driver": "581.10"})
    prepared = prepared.model_copy(update={"environment": environment})
    records.write(prepared, tmp_path / "runs" / "night" / "prepare.json")
    calibrate(tmp_path, prepared.environment, **changed)
    found = calibrated.of_night(Config(home=tmp_path), prepared)
    assert found is not None
    [said] = found.doubts
    assert said.startswith(doubt)
    run = RunDir(tmp_path / "runs" / "night")
    stages.run_stage("judge", run.path, Config(home=tmp_path))
    tile = next(tile for tile in trust.build(Night.read(run.path)).tiles if tile.label == "Nights with a false mail")
    assert tile.tone == "warn"
    assert f"; but {doubt}" in tile.note


def test_a_calibration_says_what_it_was_made_with_and_what_it_does_not_say_is_no_doubt(
    tmp_path: Path, prepared: Prepared
) -> None:
    """Its launches are of a table here, which does not say how they were measured."""
    found = calibrate(tmp_path, prepared.environment)
    assert set(found.settings) == set(calibrated.RULES)
    assert (found.settings["verdicts.alpha"], found.settings["timing.confirm_launches"]) == ("0.01", "12")
    older = found.model_dump()
    del older["settings"]  # a file of before they were stored
    read = calibrated.Characteristic.model_validate(older)
    records.write(calibrated.Calibration(characteristic=read), calibrated.path_of(tmp_path))
    night = calibrated.of_night(Config(home=tmp_path), prepared)
    assert night is not None
    assert night.doubts == ()


def test_a_calibration_of_the_other_kind_of_device_says_nothing(tmp_path: Path, prepared: Prepared) -> None:
    calibrate(tmp_path, prepared.environment, device="cuda")
    assert calibrated.of_night(Config(home=tmp_path), prepared) is None
    calibrated.path_of(tmp_path).write_text("{")
    with pytest.raises(RunDirError, match=r"calibration\.json is not a valid Calibration"):
        calibrated.of_night(Config(home=tmp_path), prepared)


def test_the_margin_of_every_judged_cell_is_recorded_and_shown(tmp_path: Path) -> None:
    night = Night.read(make_night(tmp_path, "regressed"))
    table = charts.cell_table(list(night.facts)).set_index("cell")
    for facts in night.facts:
        found = facts.verdict
        judged = found.effect is not None and found.verdict is not Verdict.CONTROL
        assert (found.margin is not None) == judged
        if judged:
            assert found.margin is not None
            assert found.margin >= night.verdicts.margin
            assert table["margin"][found.cell] == pytest.approx(np.expm1(found.margin))
            assert table["mde"][found.cell] > table["margin"][found.cell]
    assert {family.margin is not None for family in night.verdicts.families} == {True, False}
