"""What a night's time went into: noted by the stages themselves, told by arithmetic on what they noted."""

from __future__ import annotations

from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from nights import make_night

from fp8bench import devices, stages, timeline
from fp8bench.cli import main
from fp8bench.config import Config
from fp8bench.errors import RunDirError
from fp8bench.rundir import RunDir
from fp8bench.timeline import Timeline, Took

BEGIN = datetime(2026, 3, 14, 2, tzinfo=UTC)


def took(stage: str, after: float, seconds: float, shard: int | None = None, waited: float = 0.0) -> Took:
    began = BEGIN + timedelta(seconds=after)
    return Took(stage=stage, shard=shard, began=began, seconds=seconds, waited=waited)


def test_shards_side_by_side_are_told_once_and_waiting_is_no_work() -> None:
    found = Timeline(
        (
            took("prepare", 0, 2),
            took("check", 3, 15, waited=5),  # works from 8 to 18
            took("time", 20, 30, shard=0),
            took("time", 22, 40, shard=1),  # until 62, beside the other one
            took("judge", 64, 6),
        )
    )
    assert found.seconds == 70
    assert found.on_device == 10 + 42
    assert found.elsewhere == 8
    assert found.waited == 5
    assert found.between == 70 - 52 - 8 - 5
    assert timeline.sentence(found) == (
        "70 s: 52 s on the device (check, time, confirm), 5 s waiting for it, 8 s in other stages, 5 s between them"
    )


def test_a_stage_notes_its_time_once_and_what_was_done_before_it_not_at_all(tmp_path: Path) -> None:
    config = Config(home=tmp_path)
    night = make_night(config.runs_dir / "night", "clean", config=config)
    run = RunDir(night)
    for _ in range(2):
        stages.run_stage("judge", night, config)  # there already
        stages.run_stage("render", night, config)
    first = timeline.read(run)
    assert [entry.stage for entry in first.stages] == ["render"]
    (night / "report.html").unlink()
    stages.run_stage("render", night, config)
    assert timeline.read(run) == first


def test_what_fails_is_not_noted(tmp_path: Path) -> None:
    config = Config(home=tmp_path)
    night = make_night(config.runs_dir / "night", "clean", config=config, until="check")
    (night / "check.json").write_text("{")
    with pytest.raises(RunDirError):
        stages.run_stage("time", night, config)
    assert timeline.read(RunDir(night)).stages == ()


def test_a_wait_for_the_device_is_told_apart(tmp_path: Path) -> None:
    run = RunDir(make_night(tmp_path / "night", "clean", config=Config(home=tmp_path), until="build"))
    with ExitStack() as other, timeline.noted(run, "check") as watch:
        other.enter_context(devices.held("cpu", 0, tmp_path, 1))
        with devices.held("cpu", 0, tmp_path, 10, lambda _: other.close()) as waited:  # let go once it is waited for
            watch.wait(waited)
    (entry,) = timeline.read(run).stages
    assert entry.seconds >= entry.waited > 0.1


def test_the_command_prints_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = Config(home=tmp_path)
    night = make_night(config.runs_dir / "night", "clean", config=config)
    assert main(["report", str(night), "--format", "timeline"]) == 0
    assert "ran before stages noted their time" in capsys.readouterr().out
    stages.run_stage("render", night, config)
    (night / "logs" / "took-time-0.json").write_text("{")  # a damaged note is left out
    assert main(["report", str(night), "--format", "timeline"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == ["render", lines[-1].split()[0]]
    assert "0 s on the device" in lines[-1]
