"""Real workers on real build directories: what is planted in a build is reported as what it is, the rest is kept."""

from __future__ import annotations

import json
import math
import os
import shutil
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path

import pandas as pd
import pytest

from fp8bench import worker
from fp8bench.config import Config, TimingSettings, WorkerSettings
from fp8bench.errors import RunDirError, WorkerError
from fp8bench.protocol import CheckJob, EnvironmentRequest, TimeJob, TimeRequest
from fp8bench.records import SAMPLE_COLUMNS, CheckResult, CheckStatus, LaunchFailure, TimingReport
from fp8bench.spec import BASELINE, CANDIDATE, Case, Cell
from fp8bench.supervisor import check_builds, equal_backends, launches, time_cells
from fp8bench.supervisor.checking import share
from fp8bench.supervisor.planning import Work, controls
from fp8bench.supervisor.process import Death, Worker, worker_environment
from fp8bench.supervisor.samples import Launch, launch_file

# A backend file as a commit would bring it; `PLANT` says what happens for which hidden size.
BACKEND = """
import ctypes
import time
import torch

PLANT = {plant!r}


class Plain:
    name = "cpu"

    def supports(self, case, device):
        return None

    def bind(self, scheme, x, codes, scales, scale=None, scale_ub=None):
        planted = PLANT.get(x.shape[1])

        def quantize(rows, codes, scales):
            absmax = rows.float().abs().amax(1, keepdim=True)
            if scale_ub is not None:
                absmax = torch.where(absmax.isnan(), absmax, torch.minimum(absmax, scale_ub))
            new = absmax / torch.tensor(448.0)
            scales.copy_(torch.where(new.isnan(), new, new.clamp(min=1 / (448 * 512))))
            y = rows.float() / scales
            codes.copy_(torch.where(y.isnan(), y, y.clamp(-448, 448)).to(torch.float8_e4m3fn))
            codes.view(torch.uint8)[codes.float().isnan()] = 0x7F

        def call():
            quantize(x, codes, scales)
            if planted == "slow":
                part = int(0.3 * len(x))
                quantize(x[:part], codes[:part], scales[:part])
            elif planted == "wrong":
                scales.mul_(2)
            elif planted == "crash":
                ctypes.string_at(0)
            elif planted == "hang":
                time.sleep(600)
            elif planted == "raise":
                raise RuntimeError("planted error")
            print("kernels print what they like")
            return codes, scales

        return call


def create(build):
    return Plain()
"""

SLOW, CRASH, HANG, RAISE, WRONG, SOUND = 512, 96, 160, 224, 288, 640
PLANT = {SLOW: "slow", CRASH: "crash", HANG: "hang", RAISE: "raise", WRONG: "wrong"}


def _case(hidden: int, tokens: int = 16) -> Case:
    return Case.parse(f"per-token/float32/{tokens}x{hidden}")


def _cell(hidden: int) -> Cell:
    return Cell("cpu", _case(hidden, 128 if hidden in (SLOW, SOUND) else 16), "hot")


CELLS = [_cell(hidden) for hidden in (SLOW, SOUND, CRASH, HANG, RAISE)]


def _write_build(path: Path, plant: Mapping[int, str]) -> Path:
    (path / "backends").mkdir(parents=True)
    (path / "backends" / "cpu.py").write_text(BACKEND.format(plant=dict(plant)))
    return path


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("home")


@pytest.fixture(scope="module")
def builds(home: Path) -> dict[str, Path]:
    return {
        BASELINE: _write_build(home / "builds" / "a", {}),
        CANDIDATE: _write_build(home / "builds" / "b", PLANT),
    }


@pytest.fixture(scope="module")
def config(home: Path) -> Config:
    return Config(
        home=home,
        worker=WorkerSettings(startup_timeout_s=120, cell_timeout_s=5),
        timing=TimingSettings(launches=3, quads=10, series=1, block_ms=1.0, warmup_ms=2.0),
    )


def _quiet(what: str, done: int, total: int) -> None:
    assert done <= total


# ---- timing -------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def night(config: Config, builds: dict[str, Path], home: Path) -> TimingReport:
    """Each launch but the first finds a worker that was started ahead, as beside a GPU."""

    def ready(session: launches._Session, log: Path) -> Worker:
        return Worker.for_config(session.config, None, session.env, log)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(launches._Session, "ready", ready)
        return time_cells(config, builds, CELLS, "cpu", 7, home / "samples", home / "logs", _quiet)


@pytest.fixture(scope="module")
def samples(night: TimingReport, home: Path) -> pd.DataFrame:
    return pd.concat([pd.read_parquet(path) for path in sorted((home / "samples").glob("*.parquet"))])


def _effects(samples: pd.DataFrame, cell: Cell) -> list[float]:
    """log(candidate / baseline) of every launch: the median over the launch's quads."""
    effects = []
    mine = samples[(samples.cell == cell.id) & (samples.phase == "screen")]
    for _, launch in mine.groupby("launch"):
        quads = launch.assign(log=launch.seconds.map(math.log)).pivot_table(index="quad", columns="role", values="log")
        effects.append(statistics.median(quads[CANDIDATE] - quads[BASELINE]))
    return effects


def test_samples_are_raw_blocks_of_both_builds(samples: pd.DataFrame, config: Config) -> None:
    assert tuple(samples.columns) == (*SAMPLE_COLUMNS, "dropped", "planted")
    blocks = samples[(samples.launch == 0) & (samples.cell == _cell(SOUND).id) & (samples.phase == "screen")]
    assert len(blocks) == 4 * config.timing.quads
    assert blocks.role.value_counts().to_dict() == {BASELINE: 20, CANDIDATE: 20}
    assert "".join(role[0] for role in blocks.role[:8]) == "bccbcbbc"
    assert (blocks.seconds > 0).all()


def test_a_planted_slowdown_shows_in_every_launch(samples: pd.DataFrame) -> None:
    effects = _effects(samples, _cell(SLOW))
    assert len(effects) == 3
    mean, error = statistics.mean(effects), statistics.stdev(effects) / math.sqrt(3)
    assert mean - 4.303 * error > 0  # 95% t interval, two degrees of freedom
    assert 0.1 < mean < 0.6


def test_an_untouched_family_does_not_move(samples: pd.DataFrame) -> None:
    assert abs(statistics.median(_effects(samples, _cell(SOUND)))) < 0.15


@pytest.mark.parametrize(
    ("hidden", "status", "word"),
    [(CRASH, "crashed", "SIGSEGV"), (HANG, "hung", "no sign of life for 5 s"), (RAISE, "failed", "planted error")],
)
def test_what_dies_is_reported_as_what_it_is_and_left_out_afterwards(
    night: TimingReport, samples: pd.DataFrame, hidden: int, status: str, word: str
) -> None:
    failures = [entry for entry in night.failures if entry.cell == _cell(hidden).id]
    assert [failure.launch for failure in failures] == [0, 1]  # once more, and then no more
    assert {failure.status for failure in failures} == {status}
    assert all(word in failure.detail for failure in failures)
    assert _cell(hidden).id not in set(samples[samples.phase == "screen"].cell)


def test_the_others_are_measured_in_every_launch(samples: pd.DataFrame) -> None:
    timed = samples[samples.phase == "screen"].groupby("cell").launch.nunique().to_dict()
    assert timed == {_cell(SLOW).id: 3, _cell(SOUND).id: 3}


def test_the_arm_times_the_baseline_against_itself(samples: pd.DataFrame, night: TimingReport, config: Config) -> None:
    """What is planted in the candidate does not happen in the A/A arm, whatever cells it has."""
    arm = samples[samples.phase == "aa"]
    timed = arm.groupby("cell").launch.nunique()
    assert len(timed) == config.timing.aa_cells
    assert set(timed.index) <= {cell.id for cell in CELLS}
    assert (arm.groupby(["cell", "launch"]).role.value_counts() == 20).all()
    assert night.quads == len(samples) // 4
    assert night.dropped == samples[samples.dropped].groupby(["launch", "phase", "cell"]).quad.nunique().sum()


def test_states_surround_each_launch(night: TimingReport) -> None:
    assert night.launches == 3
    whens = {launch: [state.when for state in night.states if state.launch == launch] for launch in range(3)}
    assert whens[2] == ["before", "after"]
    for launch in (0, 1):
        assert whens[launch][0] == "before"
        assert whens[launch].count("before") >= 2  # the fresh worker after a death starts with its own


def test_a_second_try_repeats_nothing(night: TimingReport, config: Config, builds: dict[str, Path], home: Path) -> None:
    without_workers = config.model_copy(update={"worker": WorkerSettings(python="/no/python")})
    again = time_cells(without_workers, builds, CELLS, "cpu", 7, home / "samples", home / "logs", _quiet)
    assert again == night


def test_a_launch_that_was_cut_off_is_planned_anew_as_it_was(
    night: TimingReport, config: Config, builds: dict[str, Path], home: Path, tmp_path: Path
) -> None:
    """What is stored and the seed decide: the request of the last launch comes out again, to the order of its jobs."""
    shutil.copytree(home / "samples", tmp_path / "samples")
    launch_file(tmp_path / "samples", 2).unlink()
    again = time_cells(config, builds, CELLS, "cpu", 7, tmp_path / "samples", tmp_path, _quiet)
    first, second = (
        TimeRequest.model_validate_json((folder / "time-0-002.request.json").read_bytes())
        for folder in (home / "logs", tmp_path)
    )
    assert (second.jobs, second.load_order) == (first.jobs, first.load_order)
    assert all(job.seconds > 0 for job in second.jobs)
    assert again.failures == night.failures


def test_a_cut_off_launch_is_refused_by_name(config: Config, builds: dict[str, Path], tmp_path: Path) -> None:
    launch_file(tmp_path, 0).write_bytes(b"PAR1 and no more")
    with pytest.raises(RunDirError, match=r"000\.parquet .*delete it"):
        time_cells(config, builds, CELLS, "cpu", 7, tmp_path, tmp_path, _quiet)


# ---- checks -------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def checks(config: Config, builds: dict[str, Path], home: Path) -> dict[tuple[str, int], CheckResult]:
    jobs = [("cpu", _case(hidden)) for hidden in (WRONG, CRASH, HANG, RAISE, SOUND)]
    results = check_builds(config, builds, jobs, "cpu", 7, home / "logs", _quiet)
    assert [result.case for result in results] == [case.id for _, case in jobs] * 2
    return {(result.role, Case.parse(result.case).hidden): result for result in results}


def test_the_baseline_is_found_correct(checks: dict[tuple[str, int], CheckResult]) -> None:
    found = {key: result for key, result in checks.items() if key[0] == BASELINE}
    assert {result.status for result in found.values()} == {CheckStatus.OK}, found


@pytest.mark.parametrize(
    ("hidden", "status", "word"),
    [
        (WRONG, CheckStatus.WRONG, ""),
        (CRASH, CheckStatus.CRASHED, "SIGSEGV"),
        (HANG, CheckStatus.HUNG, "no sign of life"),
        (RAISE, CheckStatus.CRASHED, "planted error"),
        (SOUND, CheckStatus.OK, ""),
    ],
)
def test_each_plant_is_found(
    checks: dict[tuple[str, int], CheckResult], hidden: int, status: CheckStatus, word: str
) -> None:
    result = checks[CANDIDATE, hidden]
    assert result.status is status, result
    assert word in result.detail


def test_equal_machine_code_is_checked_once(config: Config, builds: dict[str, Path], tmp_path: Path) -> None:
    for role, build in builds.items():
        shutil.copytree(build, tmp_path / role)
        manifest = {"libraries": [{"backend": "cpu", "identity": "the same"}]}
        (tmp_path / role / "build.json").write_text(json.dumps(manifest))
    told: list[tuple[str, int, int]] = []
    copies = {role: tmp_path / role for role in builds}
    jobs = [("cpu", _case(SOUND))]
    results = check_builds(config, copies, jobs, "cpu", 7, tmp_path / "logs", lambda *event: told.append(event))
    assert [(result.role, result.status) for result in results] == [(role, CheckStatus.OK) for role in builds]
    assert told == [("check", 1, 1)]


def test_jobs_are_shared_by_case() -> None:
    cases = [f"per-token/bfloat16/{tokens}x64" for tokens in range(1, 40)]
    jobs = [CheckJob(role="baseline", backend=name, case=case) for name in ("torch", "cpu") for case in cases]
    parts = share(jobs, 3)
    assert sorted(job.id for part in parts for job in part) == sorted(job.id for job in jobs)
    homes = [{job.case for job in part} for part in parts]
    assert sum(map(len, homes)) == len(cases), "a case is checked in two processes"
    assert share([], 3) == []
    assert len(parts) == 3
    assert len(share(jobs, 0)) == 1
    assert len(share(jobs[:5], 8)) == 1, "few cases do not repay another process"


# ---- plans --------------------------------------------------------------------------------------------------


SETTINGS = TimingSettings(launches=4, aa_cells=2)


def _work(cells: list[Cell] = CELLS, fixed: frozenset[str] = frozenset(), **changes: object) -> Work:
    values = {"phase": "screen", "timing": SETTINGS, "margin": 0.003, "seed": 7} | changes
    return Work(tuple(cells), fixed, **values)  # type: ignore[arg-type]


def _past(work: Work, launches: int, effect: float = 0.0, spread: float = 0.0, **changes: float) -> list[Launch]:
    """Launches that found `effect` give or take `spread`, for every job; `changes` are by backend."""
    past = []
    for number in range(launches):
        sway = spread * (-1) ** number
        jobs = [job.id for job in work.plan([]).jobs]
        effects = {job: changes.get(job.split("/")[1], effect) + sway for job in jobs}
        past.append(
            Launch(number=work.first + number, effects=effects, call_s={job.split("/", 1)[1]: 1e-6 for job in jobs})
        )
    return past


def test_launches_shuffle_jobs_and_load_order_reproducibly() -> None:
    work = _work()
    plans = [work.plan([Launch(number=number) for number in range(launch)]) for launch in range(12)]
    assert plans == [_work().plan([Launch(number=number) for number in range(launch)]) for launch in range(12)]
    assert len({plan.jobs for plan in plans}) > 6
    assert {plan.load_order for plan in plans} == {(BASELINE, CANDIDATE), (CANDIDATE, BASELINE)}
    assert len({frozenset(job.id for job in plan.jobs) for plan in plans}) == 1
    assert _work(seed=8).plan([]).jobs != plans[0].jobs


def test_what_failed_once_is_tried_once_more() -> None:
    failure = LaunchFailure(launch=0, cell=CELLS[0].id, status="crashed")
    once, twice = [Launch(number=0, failures=[failure])], [Launch(number=n, failures=[failure]) for n in (0, 1)]
    assert [CELLS[0].id in {job.cell for job in _work().plan(past).jobs} for past in (once, twice)] == [True, False]


def test_controls_are_in_the_first_launches_only() -> None:
    control = Cell("torch", _case(SOUND), "hot")
    work = _work([*CELLS, control], frozenset({control.id}))
    plans = [work.plan([Launch(number=number) for number in range(launch)]) for launch in range(4)]
    assert [control.id in {job.cell for job in plan.jobs} for plan in plans] == [True, True, False, False]
    assert control.id not in work.arm


def test_cells_are_timed_to_a_share_of_the_margin_and_controls_are_not() -> None:
    hot, cold = (Cell("cpu", _case(SOUND), regime) for regime in ("hot", "cold"))
    control = Cell("torch", _case(SOUND), "hot")
    settings = TimingSettings(launch_precision=0.25, cold_launch_precision=2.0, aa_cells=0)
    jobs = _work([hot, cold, control], frozenset({control.id}), timing=settings, margin=0.004).plan([]).jobs
    assert {job.cell: job.precision for job in jobs} == {hot.id: 0.001, cold.id: 0.008, control.id: 0.0}


@pytest.mark.parametrize(
    ("launches", "effect", "spread", "goes_on"),
    [
        (2, 0.0, 0.0001, True),  # too few launches
        (3, 0.0, 0.0001, False),
        (3, 0.0, 0.002, True),  # not precise
        (3, 0.01, 0.0001, True),  # precise, and clearly slower: it will be confirmed
        (3, -0.01, 0.0001, True),
        (3, 0.0029, 0.0001, True),  # the interval reaches beyond the margin
    ],
)
def test_screening_goes_on_until_a_cell_is_known_to_be_within_the_margin(
    launches: int, effect: float, spread: float, goes_on: bool
) -> None:
    work = _work()
    jobs = work.plan(_past(work, launches, effect, spread)).jobs
    assert len(jobs) == (len(work.plan([]).jobs) if goes_on else 0)


@pytest.mark.parametrize("effect", [-0.01, 0.0, 0.0029, 0.01])
def test_confirming_stops_by_precision_alone(effect: float) -> None:
    work = _work(phase="confirm")
    assert not work.arm
    assert len(work.plan(_past(work, 5, effect, 1e-5)).jobs) == len(CELLS)
    assert work.plan(_past(work, 6, effect, 1e-5)).jobs == ()
    assert len(work.plan(_past(work, 6, effect, 0.002)).jobs) == len(CELLS)
    assert (work.first, work.launches) == (SETTINGS.launches, SETTINGS.confirm_launches)


def test_a_cell_stops_by_itself_and_what_a_call_takes_is_handed_on() -> None:
    cells = [*CELLS, Cell("triton", _case(SOUND), "hot")]
    work = _work(cells)
    jobs = work.plan(_past(work, 3, 0.0, 1e-5, triton=0.01)).jobs
    assert {job.cell for job in jobs} == {cells[-1].id}
    assert {job.seconds for job in jobs} == {1e-6}
    assert {job.seconds for job in work.plan([]).jobs} == {0.0}


def test_the_arm_has_a_share_of_each_backend_and_a_few_at_least() -> None:
    cells = [Cell(name, _case(8 * size), "hot") for name in ("cuda", "triton") for size in range(1, 61)]
    arm = _work([*cells, *CELLS]).arm
    counts = {name: sum(cell.startswith(name) for cell in arm) for name in ("cuda", "triton", "cpu")}
    assert counts == {"cuda": 3, "triton": 3, "cpu": 2}
    assert arm == _work([*CELLS, *cells]).arm
    assert arm != _work([*cells, *CELLS], seed=8).arm


def test_what_runs_the_same_code_is_a_control(builds: dict[str, Path]) -> None:
    same = frozenset({CELLS[0].id})
    assert controls(builds, CELLS, same) == same
    one = dict.fromkeys(builds, builds[BASELINE])
    assert controls(one, CELLS, same) == frozenset(), "a build against itself is measured in full"


def test_backends_are_equal_by_identity(tmp_path: Path) -> None:
    for name, cpu in (("a", "1"), ("b", "2")):
        identities = {"cpu": cpu, "torch": "9", "cuda": ""}
        libraries = [{"backend": backend, "identity": identity} for backend, identity in identities.items()]
        (tmp_path / name).mkdir()
        (tmp_path / name / "build.json").write_text(json.dumps({"libraries": libraries}))
    assert equal_backends({BASELINE: tmp_path / "a", CANDIDATE: tmp_path / "b"}) == {"torch"}
    assert equal_backends({BASELINE: tmp_path / "a", CANDIDATE: tmp_path / "none"}) == set()


# ---- processes ----------------------------------------------------------------------------------------------


def test_workers_see_no_secrets_of_the_control_plane(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    withheld = ("FP8BENCH_MAIL__PASSWORD", "AIRFLOW__CORE__FERNET_KEY", "AIRFLOW_CONN_SMTP_DEFAULT")
    withheld += ("MLFLOW_TRACKING_PASSWORD", "_MLFLOW_X", "GITHUB_TOKEN", "AWS_SECRET_ACCESS_KEY", "OPENAI_API_KEY")
    for name in (*withheld, "KEPT"):
        monkeypatch.setenv(name, "1")
    env = worker_environment("cpu", tmp_path)
    assert not set(withheld) & set(env)
    assert env["KEPT"] == "1"
    assert env["TORCHINDUCTOR_CACHE_DIR"].startswith(str(tmp_path))


def test_a_gpu_is_chosen_among_the_visible_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,5")
    assert worker_environment("cuda", gpu_index=1)["CUDA_VISIBLE_DEVICES"] == "5"
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    assert worker_environment("cuda", gpu_index=1)["CUDA_VISIBLE_DEVICES"] == "1"
    assert worker_environment("cpu")["CUDA_VISIBLE_DEVICES"] == ""


@pytest.mark.parametrize(
    ("python", "message"),
    [("/no/python", "cannot start a worker with /no/python"), ("/bin/false", "cannot do its work: exit code 1")],
)
def test_a_worker_that_cannot_start_is_an_error(
    config: Config, builds: dict[str, Path], tmp_path: Path, python: str, message: str
) -> None:
    broken = config.model_copy(update={"worker": WorkerSettings(python=python)})
    with pytest.raises(WorkerError, match=message):
        time_cells(broken, builds, CELLS, "cpu", 7, tmp_path / "samples", tmp_path, _quiet)
    assert not (tmp_path / "samples").exists()


def test_a_worker_that_was_started_ahead_waits_for_its_request(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.with_suffix(".request.json").write_text("of an earlier try")
    with Worker(sys.executable, None, worker_environment("cpu"), log, 60, 60) as worker:
        assert not log.with_suffix(".request.json").exists()
        worker.ask(EnvironmentRequest(device="cpu"))
        assert [event.event for event in worker.events() if not isinstance(event, Death)] == ["state", "result"]


def _fake_python(path: Path, script: str) -> str:
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return str(path)


@pytest.mark.parametrize(
    ("script", "expected"),
    [
        ("sleep 60", Death("hung", "no sign of life for 0.5 s; killed")),
        ("echo nonsense", Death("crashed", "the worker wrote something that is no event: b'nonsense'")),
        ("echo last words >&2; kill -ABRT $$", Death("crashed", "killed by SIGABRT: last words")),
    ],
)
def test_the_end_of_a_worker_is_put_in_words(tmp_path: Path, script: str, expected: Death) -> None:
    python = _fake_python(tmp_path / "python", script)
    with Worker(python, EnvironmentRequest(device="cpu"), {}, tmp_path / "log", 0.5, 0.5) as worker:
        assert list(worker.events()) == [expected]


def _is_alive(pid: int) -> bool:
    """Whether the process exists and is no zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


WITH_WORKSPACE = """

class Scratching(Plain):
    given = []

    def workspace_bytes(self, scheme, x):
        return {size}

    found = []  # what a call finds in its workspace, before it leaves something there

    def bind(self, *tensors, workspace=None):
        self.given.append(workspace)
        call = super().bind(*tensors)

        def scratch():
            if workspace is not None:
                self.found.append(int(workspace[0]))
                workspace[0] = 1
            return call()

        return scratch


def create(build):
    return Scratching()
"""


@pytest.mark.parametrize(
    ("sizes", "shared"),
    [((300, 1000), 1024), ((256, 256), 256), ((None, 1000), None), ((1000, 0), None)],
    ids=["both", "same", "old baseline", "not needed by one"],
)
def test_both_arms_get_one_workspace_where_both_builds_take_it(
    tmp_path: Path, sizes: tuple[int | None, int | None], shared: int | None
) -> None:
    builds = {role: _write_build(tmp_path / role, {}) for role in (BASELINE, CANDIDATE)}
    for build, size in zip(builds.values(), sizes, strict=True):
        if size is not None:
            path = build / "backends" / "cpu.py"
            path.write_text(path.read_text() + WITH_WORKSPACE.format(size=size))
    job = TimeJob(cell=_cell(SOUND).id)
    timer = worker._Timer(TimeRequest(
        device="cpu", seed=1, builds=builds, load_order=(CANDIDATE, BASELINE), jobs=(job,), quads=1, cold_quads=1,
        block_s=2e-3, warmup_s=1e-4,
    ))  # fmt: skip
    blocks = timer.time(job)
    assert len(blocks) == 4
    given = [getattr(timer._backend(build, "cpu"), "given", [None])[0] for build in builds.values()]
    if shared is None:
        assert given == [None, None]
    else:
        assert [workspace.nbytes for workspace in given] == [shared] * 2
        assert given[0].data_ptr() == given[1].data_ptr()
        for role, arm in ((BASELINE, 0), (CANDIDATE, 1)):  # zeros before every block, and the own traces within it
            found = timer._backend(builds[role], "cpu").found
            assert found.count(0) >= sum(block.arm == arm for block in blocks)
            assert found[-blocks[0].calls :] == [0] + [1] * (blocks[0].calls - 1)


def test_a_worker_dies_with_its_supervisor(builds: dict[str, Path], tmp_path: Path) -> None:
    request = TimeRequest(
        device="cpu", seed=1, builds=builds, load_order=(BASELINE, CANDIDATE), jobs=(TimeJob(cell=_cell(HANG).id),),
        quads=1, cold_quads=1, block_s=1e-3, warmup_s=1e-3,
    )  # fmt: skip
    script = f"""
from pathlib import Path
from fp8bench.protocol import REQUEST
from fp8bench.supervisor.process import Worker, worker_environment
request = REQUEST.validate_json({request.model_dump_json()!r})
with Worker({sys.executable!r}, request, worker_environment("cpu"), Path({str(tmp_path / "log")!r}), 99, 99) as worker:
    for event in worker.events():
        print(worker._process.pid, event.event, flush=True)
"""
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True) as supervisor:
        assert supervisor.stdout is not None
        line = next(line for line in supervisor.stdout if "start" in line)
        worker = int(line.split()[0])
        assert _is_alive(worker)
        os.kill(supervisor.pid, signal.SIGKILL)
    deadline = time.monotonic() + 10
    while _is_alive(worker) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not _is_alive(worker)
