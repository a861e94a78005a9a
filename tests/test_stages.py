"""Stages over a run directory: what they need, that they resume, and how they refuse."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import CHECKOUT
from nights import make_night
from pydantic import SecretStr

from fp8bench import cli, config, paths, records, stages
from fp8bench.config import Config, MailSettings, MlflowSettings, NightSettings, TimingSettings, WorkerSettings
from fp8bench.errors import NightSkipped, RunDirError, SuiteError, UsageError
from fp8bench.preparation import Request
from fp8bench.records import CheckReport, CheckResult, CheckStatus
from fp8bench.rundir import RunDir
from fp8bench.spec import Cell


@pytest.fixture
def settings(tmp_path: Path) -> Config:
    return Config(home=tmp_path / "home", device="cpu")


def command(*arguments: str, limit_bytes: int | None = None) -> subprocess.CompletedProcess[str]:
    """`fp8bench ARGUMENTS`, optionally unable to write files of more than `limit_bytes`, as on a full disk."""
    code = "import sys; from fp8bench.cli import main; sys.exit(main())"
    if limit_bytes is not None:
        code = f"import resource as r; r.setrlimit(r.RLIMIT_FSIZE, ({limit_bytes}, {limit_bytes})); {code}"
    full = [sys.executable, "-B", "-c", code, *arguments]  # bytecode that is cut short would stay for good
    return subprocess.run(full, capture_output=True, text=True, check=False, timeout=60)


def test_the_stages_stand_in_order() -> None:
    assert " ".join(stages.STAGES) == "prepare build check time screen confirm judge log render alert gate"


@pytest.mark.parametrize("stage", [name for name in stages.STAGES if name != "prepare"])
def test_stages_need_a_prepared_night(stage: str, tmp_path: Path, settings: Config) -> None:
    with pytest.raises(RunDirError, match="holds no prepared night: run `fp8bench stage prepare`"):
        stages.run_stage(stage, tmp_path, settings)


@pytest.mark.parametrize(
    ("stage", "until", "missing"),
    [
        ("check", "prepare", "build.json"),
        ("time", "build", "check.json"),
        ("screen", "check", "time-0.json"),
        ("confirm", "time", "screen.json"),
        ("judge", "check", "time-0.json"),
        ("log", "time", "verdicts.json"),
        ("render", "time", "verdicts.json"),
        ("gate", "time", "verdicts.json"),
    ],
)
def test_stages_name_what_they_lack(stage: str, until: str, missing: str, tmp_path: Path, settings: Config) -> None:
    make_night(tmp_path / "night", until=until, config=settings)
    with pytest.raises(RunDirError, match=f"{missing} is missing: run the stage that writes it first"):
        stages.run_stage(stage, tmp_path / "night", settings)


def test_an_unknown_stage_is_told(tmp_path: Path, settings: Config) -> None:
    with pytest.raises(UsageError, match="unknown stage 'shrug': use one of prepare, build"):
        stages.run_stage("shrug", tmp_path, settings)


def test_judging_again_changes_nothing_and_gives_the_same(tmp_path: Path, settings: Config) -> None:
    run = RunDir(make_night(tmp_path / "night", "regressed", until="time", config=settings))
    stages.run_stage("judge", run.path, settings)
    first, written = run.verdicts.read_bytes(), run.verdicts.stat().st_mtime_ns
    stages.run_stage("judge", run.path, settings)
    assert run.verdicts.stat().st_mtime_ns == written
    run.verdicts.unlink()
    stages.run_stage("judge", run.path, settings)
    assert run.verdicts.read_bytes() == first
    assert stages.run_stage("gate", run.path, settings) == 1


def test_damaged_samples_are_told(tmp_path: Path, settings: Config) -> None:
    run = RunDir(make_night(tmp_path / "night", until="time", config=settings))
    victim = next(run.samples.glob("*/*.parquet"))
    victim.write_bytes(victim.read_bytes()[:100])
    with pytest.raises(RunDirError, match=f"{victim.name} is damaged .*: delete it and time-0.json"):
        stages.run_stage("judge", run.path, settings)


@pytest.mark.parametrize("shard", [-1, 1, 99])
def test_an_unknown_shard_is_told(shard: int, tmp_path: Path, settings: Config) -> None:
    make_night(tmp_path / "night", until="check", config=settings)
    with pytest.raises(UsageError, match=f"shard {shard}: this night has shards 0 to 0"):
        stages.run_stage("time", tmp_path / "night", settings, stages.Options(shard=shard))


def test_one_process_a_stage(tmp_path: Path, settings: Config) -> None:
    run = RunDir(make_night(tmp_path / "night", until="time", config=settings))
    with (
        run.locked("judge"),
        pytest.raises(RunDirError, match=f"judge is being run on .* by process {os.getpid()}: wait for it"),
    ):
        stages.run_stage("judge", run.path, settings)
    assert stages.run_stage("judge", run.path, settings) == 0


def test_a_skipped_night_leaves_nothing_behind(tmp_path: Path) -> None:
    """A night that was skipped on purpose must not be taken for one that failed, by whatever command it was begun."""
    skipping = Config(home=tmp_path / "home", device="cpu", nights=NightSettings(unchanged="skip"))
    asked = stages.Options(Request(repo=str(CHECKOUT), baseline="HEAD"))
    with pytest.raises(NightSkipped, match="nothing to measure"):
        stages.run_stage("prepare", skipping.runs_dir / "night", skipping, asked)
    assert list(skipping.runs_dir.iterdir()) == []


def test_what_is_not_of_a_night_that_never_began_stays(tmp_path: Path) -> None:
    run = RunDir(tmp_path / "night")
    for path in (run.config, run.path / ".prepare.lock", run.logs / "failed-prepare.txt"):
        records.write_bytes(b"", path)
    run.discard_unprepared()
    assert [path.name for path in run.path.iterdir()] == ["logs"]


def test_a_foreign_directory_is_left_alone(tmp_path: Path, settings: Config) -> None:
    (tmp_path / "thesis.tex").write_text("precious")
    with pytest.raises(RunDirError, match="is not empty and no run directory"):
        stages.run_stage("prepare", tmp_path, settings)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_a_place_that_is_no_directory_is_told(tmp_path: Path, settings: Config) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(RunDirError, match=r"cannot use .* as a run directory: Not a directory"):
        stages.run_stage("prepare", tmp_path / "file" / "night", settings)


def test_a_full_disk_is_told_and_what_was_measured_is_kept(tmp_path: Path, settings: Config) -> None:
    run = RunDir(make_night(tmp_path / "night", until="time", config=settings))
    samples = sorted(run.samples.glob("*/*.parquet"))
    done = command("stage", "judge", "--run-dir", str(run.path), limit_bytes=1000)
    assert done.returncode == 4
    assert "cannot write" in done.stderr
    assert "Traceback" not in done.stderr
    assert not run.verdicts.exists()
    assert sorted(run.samples.glob("*/*.parquet")) == samples
    assert command("stage", "judge", "--run-dir", str(run.path)).returncode == 0


@pytest.mark.parametrize(
    ("request_", "told"),
    [
        (Request(candidate="main"), "was started without --candidate, not main"),
        (Request(suite="smoke"), "was started without --suite, not smoke"),
    ],
)
def test_a_night_does_not_change_its_mind(request_: Request, told: str, tmp_path: Path, settings: Config) -> None:
    make_night(tmp_path / "night", until="prepare", config=settings)
    with pytest.raises(UsageError, match=told):
        stages.run_stage("prepare", tmp_path / "night", settings, stages.Options(request_))
    assert stages.run_stage("prepare", tmp_path / "night", settings) == 0


def test_a_night_does_not_change_its_device(tmp_path: Path, settings: Config) -> None:
    make_night(tmp_path / "night", until="prepare", config=settings)
    with pytest.raises(UsageError, match="measures on device cpu, not cuda: give another --run-dir"):
        stages.run_stage("prepare", tmp_path / "night", Config(home=tmp_path, device="cuda"))


def test_settings_are_frozen_without_secrets_and_delivery_follows_now(tmp_path: Path) -> None:
    then = Config(home=tmp_path, timing=TimingSettings(launches=7), mail=MailSettings(host="old", port=2525))
    make_night(tmp_path / "night", until="prepare", config=then)
    now = Config(
        timing=TimingSettings(launches=9),
        mail=MailSettings(to=("a@example.org",), password=SecretStr("hush")),
        mlflow=MlflowSettings(experiment="other"),
    )
    run = RunDir(tmp_path / "night")
    found = stages.frozen_config(run, now)
    assert (found.home, found.timing.launches) == (tmp_path, 7)
    assert (found.mail.host, found.mail.port, found.mlflow.experiment) == ("old", 2525, "other")
    assert found.mail.to == ("a@example.org",)
    assert found.mail.password.get_secret_value() == "hush"
    assert "password" not in json.loads(run.config.read_text())["mail"]
    elsewhere = stages.frozen_config(run, Config(mail=MailSettings(host="new"))).mail
    assert (elsewhere.host, elsewhere.port) == ("new", 25)  # no other host's port


def test_only_what_is_correct_in_both_builds_is_timed() -> None:
    good, bad = (Cell.parse(f"cpu/per-token/bfloat16/{tokens}x1024/hot") for tokens in (16, 32))
    results = [
        CheckResult(role=role, backend="cpu", case=cell.case.id, status=status)
        for role, cell, status in (
            ("baseline", good, CheckStatus.OK),
            ("candidate", good, CheckStatus.OK),
            ("baseline", bad, CheckStatus.OK),
            ("candidate", bad, CheckStatus.WRONG),
        )
    ]
    assert stages.timeable([good.id, bad.id], CheckReport(results=tuple(results)), "cpu") == [good]


def test_what_runs_the_same_code_in_both_builds_is_known_by_its_identity() -> None:
    def checked(*entries: tuple[str, str, str]) -> CheckReport:
        return CheckReport(
            results=tuple(
                CheckResult(role=role, backend="cuda", case=case, status=CheckStatus.OK, identity=identity)
                for role, case, identity in entries
            )
        )

    same = checked(("baseline", "a", "1"), ("candidate", "a", "1"))
    assert stages.same_code(same) == {("cuda", "a")}
    assert stages.same_code(checked(("baseline", "a", "1"), ("candidate", "a", "2"))) == set()
    assert stages.same_code(checked(("baseline", "a", ""), ("candidate", "a", ""))) == set(), "unknown twice"
    assert stages.same_code(checked(("baseline", "a", "1"), ("candidate", "b", "1"))) == set()


@pytest.mark.parametrize(
    ("shards", "confirmed"),
    [
        ((("a", "b", "c"),), (("a", "c"),)),
        ((("a", "b"), ("c", "d")), (("c",), ("a",))),
        ((("a", "c"), ("b",), ("d",)), ((), ("a", "c"), ())),
    ],
)
def test_another_gpu_confirms_where_there_is_one(
    shards: tuple[tuple[str, ...], ...], confirmed: tuple[tuple[str, ...], ...]
) -> None:
    assert stages.confirming_shards(["a", "c"], shards) == confirmed


def test_a_night_with_nothing_to_confirm_starts_no_worker(tmp_path: Path, settings: Config) -> None:
    without = settings.model_copy(update={"worker": WorkerSettings(python="/no/python")})
    run = RunDir(make_night(tmp_path / "night", "clean", until="time", config=without))
    records.write(records.Screened(cells=(), families=(), shards=((),)), run.screen)
    assert stages.run_stage("confirm", run.path, without) == 0
    [_, report] = run.timed()
    assert (report.phase, report.launches) == ("confirm", 0)
    assert stages.run_stage("judge", run.path, without) == 0
    assert stages.run_stage("gate", run.path, without) == 0


def test_a_slow_family_is_screened_whole_and_nothing_else(tmp_path: Path, settings: Config) -> None:
    run = RunDir(make_night(tmp_path / "night", "regressed", until="time", config=settings))
    stages.run_stage("screen", run.path, settings)
    found, written = run.screened(), run.screen.read_bytes()
    family = {cell for cell in run.prepared().cells if cell.startswith("cpu/group-128-row/")}
    assert set(found.cells) >= family
    assert len(found.cells) < len(run.prepared().cells) / 2
    assert set(found.shards[0]) == set(found.cells)
    run.screen.unlink()
    stages.run_stage("screen", run.path, settings)
    assert run.screen.read_bytes() == written


def test_an_unknown_suite_stops_before_anything_is_measured(tmp_path: Path, settings: Config) -> None:
    request = Request(suite="nope")
    with pytest.raises(SuiteError, match="unknown suite 'nope'"):
        stages.run_stage("prepare", tmp_path / "night", settings, stages.Options(request))
    assert not (tmp_path / "night" / "prepare.json").exists()


@pytest.mark.parametrize("arguments", [("stage", "shrug", "--run-dir", "x"), ("stage", "judge"), ("nightly", "--what")])
def test_usage_errors_exit_4(arguments: tuple[str, ...]) -> None:
    done = command(*arguments)
    assert done.returncode == 4
    assert done.stderr.count("Traceback") == 0
    assert "usage: fp8bench" in done.stderr


def test_a_fault_is_never_taken_for_a_finding(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Python would exit with 1, the code of a regression."""

    def broken(*_: object) -> int:
        raise ZeroDivisionError("by nothing")

    monkeypatch.setattr("fp8bench.cli.index.run", broken)
    assert cli.main(["index"]) == cli.EXIT_ERROR
    said = capsys.readouterr().err
    assert "in broken" in said
    assert said.splitlines()[-1].startswith("fp8bench index: a fault of fp8bench (ZeroDivisionError, see above)")


def test_a_stage_that_breaks_while_telling_stops_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(*_: object) -> None:
        raise ZeroDivisionError("by nothing")

    monkeypatch.setenv("FP8BENCH_HOME", str(tmp_path / "home"))
    monkeypatch.setitem(stages.STAGES, "log", broken)
    run = RunDir(make_night(tmp_path / "home" / "runs" / "night", "regressed"))
    assert cli.main(["nightly", "--run-dir", str(run.path)]) == cli.EXIT_ERROR
    assert "Could not log: a fault of fp8bench (ZeroDivisionError" in capsys.readouterr().out
    assert run.report.is_file()
    assert list(run.outbox.glob("*.json"))


def test_a_shard_that_breaks_is_not_passed_over() -> None:
    def broken() -> None:
        raise ZeroDivisionError("by nothing")

    with pytest.raises(ZeroDivisionError):
        stages._side_by_side([broken, lambda: None])


LONG = "a" * 300


@pytest.mark.parametrize(
    "arguments",
    [
        ("report", LONG),
        ("nightly", "--run-dir", LONG),
        ("nightly", "--repo", LONG),
        ("nightly", "--suite", f"{LONG}.toml"),
        ("stage", "judge", "--run-dir", LONG),
        ("calibrate", LONG),
    ],
)
def test_a_path_that_no_disk_takes_is_one_sentence(
    arguments: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("FP8BENCH_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("FP8BENCH_DEVICE", "cpu")
    monkeypatch.chdir(tmp_path)
    assert cli.main(arguments) == cli.EXIT_ERROR
    said = capfd.readouterr().err
    assert LONG in said.splitlines()[-1]
    assert "Traceback" not in said


def test_the_night_of_a_real_airflow_ends_with_the_same_codes(tmp_path: Path) -> None:
    """`python ci/nightly.py`: argparse itself would exit with 2, the code of wrong results."""
    environment = os.environ | {"FP8BENCH_HOME": str(tmp_path), "FP8BENCH_CONFIG": LONG}
    for arguments, told in ((("--what",), "unrecognized arguments"), ((), f"{LONG} cannot be read")):
        command = [sys.executable, str(paths.CHECKOUT / "ci" / "nightly.py"), *arguments]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == cli.EXIT_ERROR
        assert told in done.stderr.splitlines()[-1]


def test_a_night_that_never_began_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FP8BENCH_HOME", str(tmp_path))
    done = command("nightly", "--suite", "nope", "--device", "cpu")
    assert done.returncode == 4
    assert "fp8bench nightly: unknown suite 'nope'" in done.stderr
    assert list(tmp_path.rglob("*")) == [tmp_path / "runs"]


def test_stage_commands_print_one_plain_line(tmp_path: Path, settings: Config) -> None:
    make_night(tmp_path / "night", "wrong", config=settings)
    done = command("stage", "gate", "--run-dir", str(tmp_path / "night"))
    assert done.returncode == 2
    assert done.stderr.splitlines() == [line for line in done.stderr.splitlines() if line.startswith("gate ")]
    assert len(done.stderr.splitlines()) == 1


def test_config_loads_what_was_frozen(tmp_path: Path) -> None:
    settings = Config(home=tmp_path)
    assert config.load(**json.loads(settings.frozen_json())) == settings
