"""Planted nights: what is planted is really slower, is judged, is told as planted, and leaves nothing behind."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pytest
from nights import make_night

from fp8bench import alerts, calibration, causes, earlier, planting, records, stages
from fp8bench.cli import main
from fp8bench.config import Config, MailSettings, TimingSettings
from fp8bench.errors import UsageError
from fp8bench.records import Message, Verdict
from fp8bench.report import nights, render_index
from fp8bench.rundir import RunDir
from fp8bench.spec import Cell
from fp8bench.supervisor import samples
from fp8bench.supervisor.planning import Work, controls

SLOWER = "cpu/group-128-row/*"  # what a regressed night of the smoke suite is slower in
PLAN = {SLOWER: 0.15, "torch/per-token/*": 0.0}


def planted_night(directory: Path, state: str = "regressed", plan: dict[str, float] | None = None, **given) -> RunDir:
    """A judged night that says of itself that it was planted."""
    run = RunDir(make_night(directory, state, until="time", **given))
    records.write(run.prepared().model_copy(update={"planted": PLAN if plan is None else plan}), run.prepare)
    stages.run_stage("judge", run.path, Config(home=directory.parent.parent))
    return run


# ---- the plan -----------------------------------------------------------------------------------------------


def test_the_first_pattern_that_matches_counts() -> None:
    plan = dict(map(planting.parse, ["cuda/per-token/*/hot=0.5%", "cuda/*=0.02", "*=0"]))
    assert list(plan.values()) == [pytest.approx(0.005), 0.02, 0.0]
    assert planting.share_of(plan, "cuda/per-token/bfloat16/16x1024/hot") == pytest.approx(0.005)
    assert planting.share_of(plan, "cuda/per-token/bfloat16/16x1024/cold") == 0.02
    assert planting.share_of(plan, "triton/per-token/bfloat16/16x1024/cold") == 0.0
    assert planting.share_of({}, "cuda/per-token/bfloat16/16x1024/cold") is None


@pytest.mark.parametrize("text", ["cuda/*", "=1%", "cuda/*=slow", "cuda/*=-1%", "cuda/*=101%", "cuda/*=nan"])
def test_what_plants_nothing_is_a_sentence(text: str) -> None:
    with pytest.raises(UsageError, match=r"write PATTERN=SHARE"):
        planting.parse(text)


def test_a_pattern_without_cells_is_refused_by_name() -> None:
    cells = ["cuda/per-token/bfloat16/16x1024/hot"]
    planting.refuse_idle({"cuda/*": 0.01}, cells)
    with pytest.raises(UsageError, match=r"'triton/\*' matches no cell that an earlier pattern leaves"):
        planting.refuse_idle({"triton/*": 0.01}, cells)
    with pytest.raises(UsageError, match=r"'cuda/per-token/\*'"):
        planting.refuse_idle({"cuda/*": 0.01, "cuda/per-token/*": 0.02}, cells)


def test_a_resumed_night_plants_what_it_began_with(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = Config(home=tmp_path / "home").with_planted({"cpu/*": 0.05})
    run = RunDir(make_night(tmp_path / "night", until="prepare", config=config))
    records.write(run.prepared().model_copy(update={"planted": {"cpu/*": 0.05}}), run.prepare)
    monkeypatch.setenv("FP8BENCH_TIMING__PLANTED", '{"cpu/per-token/*": 0.5}')
    assert stages.frozen_config(run, config).timing.planted == {"cpu/*": 0.05}
    stages.run_stage("prepare", run.path, config)
    with pytest.raises(
        UsageError, match=r"another one \(Planted night: .* cpu/\* is made 5% slower .* leave --plant out"
    ):
        stages.run_stage("prepare", run.path, config.with_planted({"cpu/*": 0.06}))


# ---- measuring and judging ----------------------------------------------------------------------------------


def test_planted_cells_are_no_controls_and_only_the_candidate_of_judged_cells_is_slowed(tmp_path: Path) -> None:
    cells = [Cell.parse(f"{name}/per-token/bfloat16/16x1024/hot") for name in ("cpu", "torch", "floor")]
    builds = {"baseline": tmp_path, "candidate": tmp_path / "other"}
    same = [cell.id for cell in cells]
    plan = {"torch/*": 0.0, "*": 0.01}
    assert controls(builds, cells, same) == set(same)
    assert controls(builds, cells, same, plan) == {cells[2].id}
    work = Work(tuple(cells), frozenset(), "screen", TimingSettings(planted=plan, aa_cells=1), 0.002, 1)
    jobs = {job.id: job.planted for job in work.plan([]).jobs}
    assert {job: share for job, share in jobs.items() if share} == {f"screen/{cells[0].id}": 0.01}
    assert f"aa/{cells[0].id}" in jobs


def test_a_share_of_nothing_has_equal_code_measured_in_full(tmp_path: Path) -> None:
    """As a calibration between two commits of the same machine code needs it."""
    cell = Cell.parse("cuda/per-token/bfloat16/16x1024/hot")
    builds = {"baseline": tmp_path, "candidate": tmp_path / "other"}
    found = {}
    for planted in ({}, {"*": 0.0}):
        timing = TimingSettings(planted=planted)
        fixed = controls(builds, [cell], [cell.id], planted)
        [job, *_] = Work((cell,), fixed, "screen", timing, 0.002, 1).plan([]).jobs
        found[bool(planted)] = (job.precision, job.planted)
    assert found == {False: (0.0, 0.0), True: (pytest.approx(0.001), 0.0)}
    assert not planting.slows({"*": 0.0})
    assert planting.slows({"cuda/*": 0.01, "*": 0.0})


def test_samples_say_what_was_planted() -> None:
    cell = "cpu/per-token/bfloat16/16x1024/hot"
    blocks = [(0, place, arm, 10, 1e-6) for place, arm in enumerate((0, 1, 1, 0))]
    _, rows = samples.taken(
        samples.Launch(number=0), {f"screen/{cell}": blocks, f"aa/{cell}": blocks}, {f"screen/{cell}": 0.01}
    )
    assert {(row[7], row[9]) for row in rows} == {("screen", 0.01), ("aa", 0.0)}


def test_what_is_planted_is_judged_although_its_code_is_the_same(tmp_path: Path) -> None:
    """A commit against itself: what the plan names is judged, and everything else is a control."""
    found = planted_night(tmp_path / "runs" / "night", "clean", {"cpu/per-token/*": 0.15}).judged()
    judged = {cell.cell.split("/")[1] for cell in found.cells if cell.verdict is not Verdict.CONTROL}
    assert judged == {"per-token"}


# ---- loud, and gone ------------------------------------------------------------------------------------------


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("FP8BENCH_HOME", str(tmp_path))
    return tmp_path


def test_a_planted_night_says_so_everywhere(home: Path) -> None:
    run = planted_night(home / "runs" / "planted")
    config = Config(home=home, mail=MailSettings(to=("team@example.org",)))
    stages.run_stage("render", run.path, config)
    said = "Planted night: the candidate of cpu/group-128-row/* is made 15% slower on purpose"
    assert run.judged().sentence.startswith(said)
    assert run.judged().exit_code == 1
    report, summary = run.report.read_text(), run.summary.read_text()
    assert "<title>planted: regressed" in report
    assert "planted: regressed" in summary.lower()
    [mail] = [records.read(Message, path) for path in alerts.compose(run.path, config)]
    assert mail.subject.startswith("[fp8bench] PLANTED REGRESSED cpu/")
    assert mail.text.startswith(said)
    assert f"--plant '{SLOWER}=0.15'" in mail.text
    assert "causes ack" not in mail.text
    assert said in render_index(home / "runs")


def test_a_planted_night_leaves_nothing_behind(home: Path) -> None:
    """Its cause is nobody else's, its mail starts no thread, and no night after it knows of it."""
    config = Config(home=home, mail=MailSettings(to=("team@example.org",)))
    planted = planted_night(home / "runs" / "planted", created=datetime(2026, 3, 13, 2, tzinfo=UTC))
    alerts.compose(planted.path, config)
    assert causes.read(home).causes == ()
    tonight = RunDir(make_night(home / "runs" / "tonight", "regressed", until="time"))
    stages.run_stage("judge", tonight.path, config)
    assert earlier.previous(home / "runs", tonight.prepared()) is None
    assert tonight.judged().causes[0].id != planted.judged().causes[0].id
    [mail] = [records.read(Message, path) for path in alerts.compose(tonight.path, config)]
    assert mail.subject.startswith("[fp8bench] REGRESSED")
    assert [entry.planted for entry in nights.read(home / "runs")] == [False, True]
    assert [[entry.name for entry in held] for held in nights.tracks(nights.read(home / "runs")).values()] == [
        ["tonight"]
    ]


def test_the_latest_night_is_one_that_was_not_planted(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_night(home / "runs" / "ordinary", created=datetime(2026, 3, 13, 2, tzinfo=UTC))
    planted_night(home / "runs" / "planted")
    assert main(["report"]) == 0
    assert "Planted night" not in capsys.readouterr().out
    assert main(["report", str(home / "runs" / "planted")]) == 0
    assert "PLANTED: REGRESSED" in capsys.readouterr().out


def test_a_planted_night_is_no_source_of_quiet_launches(home: Path) -> None:
    run = planted_night(home / "runs" / "planted", "clean")
    with pytest.raises(UsageError, match=r"planted is a planted night: .* --planted"):
        calibration.read_sources([run.path])
