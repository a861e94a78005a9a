"""What nights bring, done for real: kills at writes, damaged files, full and read-only disks, a locked database, a
clock that is set back, a remote that is gone, a kernel that eats all memory. docs/faults.md is the matrix.

Nothing may be lost, doubled, or silently called fine; what was measured stays as it was, byte for byte.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from email import message_from_bytes
from email.message import Message as Mail
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Literal

import pytest
from aiosmtpd.controller import Controller
from nights import make_night
from ports import free_port

from fp8bench import alerts, brief, cli, devices, git, late, records, report, stages, store, supervisor
from fp8bench.backends import NAMES
from fp8bench.config import Config, MlflowSettings, WorkerSettings
from fp8bench.errors import Fp8BenchError, RevisionError, StoreError
from fp8bench.records import CheckStatus
from fp8bench.rundir import RunDir
from fp8bench.spec import Case
from fp8bench.supervisor.process import Worker

pytestmark = pytest.mark.filterwarnings("ignore")  # of libraries, in processes that are killed

CHECKOUT = Path(__file__).resolve().parent.parent
TELLING = ("judge", "log", "render", "alert")
RUNS = 3  # of a made night in MLflow: one a backend
SUITE = """
backends = ["cpu"]
schemes = ["per-token"]
dtypes = ["bfloat16"]
tokens = [16]
hidden = [1024]
regimes = ["hot"]
"""


def contents(directory: Path, *, but: tuple[str, ...] = ()) -> dict[str, str]:
    """Every file of a night but locks, logs, and its brief, which names the times of others, by its SHA-256."""
    found = [path for path in sorted(directory.rglob("*")) if path.is_file() and path.name != brief.FILE]
    files = [path for path in found if path.suffix not in (".lock", ".log")]
    named = {str(path.relative_to(directory)): path for path in files}
    return {
        name: hashlib.sha256(path.read_bytes()).hexdigest()
        for name, path in named.items()
        if name not in but and not name.startswith("logs/")
    }


def logged_runs(config: Config) -> int:
    """How many runs there are in MLflow."""
    with store._session(config) as client:
        return len(client.search_runs([store._experiment(client, config)]))


@pytest.fixture
def settings(tmp_path: Path) -> Config:
    return Config(home=tmp_path / "home", mail={"to": ("a@example.org",)})


# ---- killed -------------------------------------------------------------------------------------------------


def test_a_worker_is_killed_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Workers that are started ahead are left twice; at the second time their number may be another group's."""
    killed: list[int] = []
    kill = os.killpg
    monkeypatch.setattr(os, "killpg", lambda group, signal: (killed.append(group), kill(group, signal)))
    with Worker("/bin/sleep", None, {}, tmp_path / "log", 5, 5) as worker:
        with worker:
            pass
        assert worker._process.returncode is not None
    assert killed == [worker._process.pid]


def _tell(run_dir: Path, config: Config, last_write: int | None) -> None:
    """Run the telling stages; die by SIGKILL at a write: even numbers before it has its name, odd ones after."""
    writes = 0
    replace = Path.replace

    def counted(self: Path, target: Path) -> Path:
        nonlocal writes
        writes += 1
        if last_write is not None and writes * 2 - 2 == last_write:
            os.kill(os.getpid(), signal.SIGKILL)
        done = replace(self, target)
        if last_write is not None and writes * 2 - 1 == last_write:
            os.kill(os.getpid(), signal.SIGKILL)
        return done

    Path.replace = counted  # type: ignore[method-assign]
    options = stages.Options(send=False)
    for name in TELLING:
        stages.run_stage(name, run_dir, config, options)


def _in_a_process(work: Callable[[], None]) -> int:
    """Do `work` in a forked process; how that ended, as `os.waitstatus_to_exitcode` says it."""
    child = os.fork()
    if child == 0:
        code = 1
        with suppress(BaseException):
            work()
            code = 0
        os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def test_killed_at_any_write_a_night_tells_the_same_in_the_end(tmp_path: Path) -> None:
    whole: dict[str, str] = {}
    kills = 0
    store.accepted_baseline(Config(home=tmp_path / "first"), "any")  # an MLflow database takes seconds to make
    for point in (None, *range(0, 60, 5)):
        config = Config(home=tmp_path / f"home-{point}", mail={"to": ("a@example.org",)})
        config.home.mkdir()
        shutil.copy(tmp_path / "first" / "mlflow.db", config.home)
        shutil.rmtree(tmp_path / "night", ignore_errors=True)
        run_dir = make_night(tmp_path / "night", "regressed", until="time", config=config)
        code = _in_a_process(lambda: _tell(run_dir, config, point))  # noqa: B023 (it runs before the next turn)
        if code == -signal.SIGKILL:
            kills += 1
            assert _in_a_process(lambda: _tell(run_dir, config, None)) == 0, f"killed at {point}"  # noqa: B023
        else:
            assert code == 0, f"point {point}"
        found = contents(run_dir, but=("config.json", "mlflow.json", ".report-of", ".report-attached", "report.html"))
        whole = whole or found
        assert found == whole, f"killed at {point}"  # also: no left-over of a write, no second mail
        assert logged_runs(config) == RUNS, f"killed at {point}"
        if point is not None and code == 0:
            break  # the night has no more writes
    assert kills >= 4


@contextmanager
def _nightly(run_dir: Path, home: Path, suite: Path) -> Iterator[subprocess.Popen[bytes]]:
    command = [sys.executable, "-m", "fp8bench", "nightly", "--run-dir", str(run_dir), "--suite", str(suite)]
    variables = os.environ | {
        "FP8BENCH_TIMING__LAUNCHES": "3",
        "FP8BENCH_TIMING__QUADS": "2",
        "FP8BENCH_MLFLOW__TRACKING_URI": f"sqlite:///{home}/mlflow.db",
    }
    with subprocess.Popen(
        [*command, "--repo", str(CHECKOUT), "--baseline", "HEAD", "--device", "cpu"],
        env=variables,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    ) as process:
        yield process


def test_a_night_that_is_killed_again_and_again_loses_nothing(tmp_path: Path) -> None:
    """SIGKILL as soon as the first file of each stage is there; what was written by then never changes again."""
    (tmp_path / "tiny.toml").write_text(SUITE)
    run_dir, kept = tmp_path / "night", {}
    for mark in ("samples/0/000.parquet", "verdicts.json"):
        with _nightly(run_dir, tmp_path, tmp_path / "tiny.toml") as night:
            while not (run_dir / mark).exists():
                assert night.poll() is None, f"{mark}: {night.stdout.read().decode() if night.stdout else ''}"
                time.sleep(0.02)
            night.kill()
        written = contents(run_dir)
        assert {name: written.get(name) for name in kept} == kept, f"killed at {mark}"
        kept = {name: digest for name, digest in written.items() if not Path(name).name.startswith(".")}
    with _nightly(run_dir, tmp_path, tmp_path / "tiny.toml") as night:
        said, _ = night.communicate()
    assert night.returncode == 0, said.decode()
    found = contents(run_dir)
    assert {name: found.get(name) for name in kept} == kept
    assert report.render(run_dir) == report.render(run_dir)
    hidden = {Path(name).name for name in found if Path(name).name.startswith(".")}
    assert {name for name in hidden if not name.startswith(".report")} == {".composed"}  # marks, and no left-overs


# ---- damaged files ------------------------------------------------------------------------------------------

DAMAGES: dict[str, Callable[[bytes], bytes]] = {
    "cut short": lambda data: data[: len(data) // 2],
    "empty": lambda data: b"",
    "noise": lambda data: hashlib.sha256(data).digest() * 40,
}
READERS = {  # file -> the first stage that reads it, and how far the night had come
    "config.json": ("judge", "time"),
    "prepare.json": ("judge", "time"),
    "build.json": ("judge", "time"),
    "check.json": ("judge", "time"),
    "time-0.json": ("judge", "time"),
    "samples": ("judge", "time"),
    "verdicts.json": ("render", "judge"),
    "mlflow.json": ("render", "judge"),
    "alerts.json": ("alert", "judge"),
}


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("name", READERS)
def test_a_damaged_file_is_named_and_nothing_is_written(
    name: str, damage: str, tmp_path: Path, settings: Config
) -> None:
    stage, until = READERS[name]
    run = RunDir(make_night(tmp_path / "night", "regressed", until=until, config=settings))
    if name in ("mlflow.json", "alerts.json"):
        run.path.joinpath(name).write_text("{}")
    file = next(run.samples.glob("*/*.parquet")) if name == "samples" else run.path / name
    file.write_bytes(DAMAGES[damage](file.read_bytes()))
    before = contents(run.path)
    with pytest.raises(Fp8BenchError) as error:
        stages.run_stage(stage, run.path, settings, stages.Options(send=False))
    assert file.name in str(error.value)
    assert "\n" not in str(error.value)
    assert contents(run.path) == before


@pytest.mark.parametrize("state", ["clean", "regressed"])
def test_a_judged_night_whose_samples_were_damaged_is_told_all_the_same(
    state: str, settings: Config, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run = RunDir(make_night(settings.runs_dir / "night", state, config=settings))
    victim = next(run.samples.glob("*/*.parquet"))
    victim.write_bytes(DAMAGES["cut short"](victim.read_bytes()))
    monkeypatch.setenv("FP8BENCH_HOME", str(settings.home))
    assert cli.main(["nightly", "--run-dir", str(run.path)]) == cli.EXIT_ERROR
    said = capsys.readouterr()
    assert f"Could not log: {victim} is damaged" in said.out
    assert "Traceback" not in said.err
    assert run.report.is_file()
    assert (run.path / "alerts.json").is_file()
    assert bool(list(run.outbox.glob("*.json"))) == (state == "regressed")


# ---- disks --------------------------------------------------------------------------------------------------


@contextmanager
def small_disk(place: Path, *options: str) -> Iterator[Path]:
    """A file system of 400 kB; the test is skipped where this user may mount none."""
    place.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=400k", "tmpfs", str(place)], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip("no file system can be mounted here")
    try:
        yield place
    finally:
        subprocess.run(["umount", "-l", str(place)], check=True)


@pytest.mark.parametrize("trouble", ["full", "read-only"])
@pytest.mark.parametrize(("stage", "until"), [("judge", "time"), ("render", "judge"), ("alert", "judge")])
def test_a_disk_that_takes_nothing_loses_nothing(
    stage: str, until: str, trouble: str, tmp_path: Path, settings: Config
) -> None:
    source = make_night(tmp_path / "source", "regressed", until=until, config=settings)
    with small_disk(tmp_path / "disk") as disk:
        run_dir = shutil.copytree(source, disk / "night")
        before = contents(run_dir)
        if trouble == "full":
            with suppress(OSError), (disk / "filler").open("wb", buffering=0) as filler:
                while True:
                    filler.write(b"0" * 1024)
        else:
            subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
        with pytest.raises(Fp8BenchError) as error:
            stages.run_stage(stage, run_dir, settings, stages.Options(send=False))
        assert str(disk) in str(error.value)
        assert contents(run_dir) == before
        (subprocess.run(["mount", "-o", "remount,rw,size=8m", str(disk)], check=True))
        stages.run_stage(stage, run_dir, settings, stages.Options(send=False))
        assert len(contents(run_dir)) > len(before)


# ---- MLflow -------------------------------------------------------------------------------------------------


def test_a_locked_database_is_waited_for(settings: Config) -> None:
    run_dir = make_night(settings.runs_dir / "night", "clean", config=settings)
    assert store.accepted_baseline(settings, "any") is None  # makes the database
    lock = sqlite3.connect(settings.home / "mlflow.db", isolation_level=None, check_same_thread=False)
    lock.execute("BEGIN EXCLUSIVE")
    release = threading.Timer(2, lambda: lock.execute("ROLLBACK"))
    release.start()
    stages.run_stage("log", run_dir, settings)
    release.join()
    lock.close()
    assert logged_runs(settings) == RUNS


def test_nights_that_mlflow_missed_are_told_when_it_is_back_and_once(tmp_path: Path, settings: Config) -> None:
    for name in ("one", "two"):
        run = make_night(settings.runs_dir / name, "regressed", run_id=name, config=settings)
        gone = settings.model_copy(update={"mlflow": MlflowSettings(tracking_uri="http://127.0.0.1:9")})
        with pytest.raises(StoreError):
            stages.run_stage("log", run, gone)
    (settings.runs_dir / "broken").mkdir()
    (settings.runs_dir / "broken" / "verdicts.json").write_text("{")
    assert late.waiting(settings) == []  # they are young, and tell themselves
    told = {entry.path.name: entry.trouble for entry in late.tell(settings, young_s=-1)}
    assert (told["one"], told["two"]) == ("", "")
    assert "prepare" in told["broken"]
    assert [path.name for path in late.waiting(settings, young_s=-1)] == ["broken"]
    assert logged_runs(settings) == 2 * RUNS


class _Sink:
    """Keeps the mails it is given."""

    def __init__(self) -> None:
        self.mails: list[Mail] = []

    async def handle_DATA(self, server: object, session: object, envelope: Any) -> str:
        self.mails.append(message_from_bytes(envelope.content))
        return "250 OK"


@pytest.fixture(scope="module")
def empty_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An MLflow database without runs: one takes seconds to make."""
    home = tmp_path_factory.mktemp("store")
    store.accepted_baseline(Config(home=home), "any")
    return home / "mlflow.db"


@pytest.fixture
def mailed(settings: Config, empty_store: Path) -> Iterator[tuple[Config, list[Mail]]]:
    """Settings with a mail host, and the mails that it took."""
    settings.home.mkdir()
    shutil.copy(empty_store, settings.home)
    sink = _Sink()
    controller = Controller(sink, hostname="127.0.0.1", port=free_port())
    controller.start()
    mail = {"to": ("a@example.org",), "host": "127.0.0.1", "port": controller.port}
    yield Config(home=settings.home, mail=mail), sink.mails
    controller.stop()


def told(config: Config) -> dict[str, str]:
    """What telling everything came to: trouble by night."""
    return {entry.path.name: entry.trouble for entry in late.tell(config, young_s=-1)}


@pytest.mark.parametrize("kept", [(), ("alerts.json",)])
def test_mails_that_could_not_be_composed_are_told_later_and_once(
    kept: tuple[str, ...], mailed: tuple[Config, list[Mail]]
) -> None:
    """As where the ledger is damaged, or the stage is killed; `kept` was written before."""
    config, mails = mailed
    run_dir = make_night(config.runs_dir / "night", "regressed", config=config)
    for stage in ("log", "render"):
        stages.run_stage(stage, run_dir, config)
    if kept:
        alerts.compose(run_dir, config)
        shutil.rmtree(run_dir / "outbox")
        (run_dir / ".composed").unlink()
    (config.home / "causes.json").write_text("{broken")
    with pytest.raises(Fp8BenchError, match=r"causes\.json"):
        stages.run_stage("alert", run_dir, config)
    assert "causes.json" in told(config)["night"]
    (config.home / "causes.json").unlink()
    assert [told(config), told(config)] == [{"night": ""}, {}]
    assert len(mails) == 1


def test_a_report_that_mlflow_lacks_travels_with_the_mail_and_is_attached_later(
    mailed: tuple[Config, list[Mail]],
) -> None:
    config, mails = mailed
    run_dir = make_night(config.runs_dir / "night", "regressed", config=config)
    stages.run_stage("log", run_dir, config)
    logged = records.read(records.Logged, run_dir / "mlflow.json")
    records.write(
        logged.model_copy(update={"links": {"report": "https://mlflow.example.org/report"}}), run_dir / "mlflow.json"
    )
    gone = config.model_copy(update={"mlflow": MlflowSettings(tracking_uri="http://127.0.0.1:9")})
    with pytest.raises(StoreError):
        stages.run_stage("render", run_dir, gone)
    stages.run_stage("alert", run_dir, gone)
    assert [part.get_filename() for part in mails[0].walk()].count("report.html") == 1
    assert [told(config), told(config)] == [{"night": ""}, {}]
    assert RunDir(run_dir).is_attached()
    assert len(mails) == 1


def test_what_one_night_holds_keeps_no_other_from_being_told(mailed: tuple[Config, list[Mail]]) -> None:
    config, mails = mailed
    for name in ("cut", "whole"):
        make_night(config.runs_dir / name, "regressed", run_id=name, config=config)
    samples = sorted((config.runs_dir / "cut").glob("samples/*/*.parquet"))[0]
    samples.write_bytes(samples.read_bytes()[:-100])
    found = told(config)
    assert found["whole"] == ""
    assert samples.name in found["cut"] or "fault of fp8bench" in found["cut"]
    assert len(mails) == 1  # of one cause, by whichever was first
    assert list(told(config)) == ["cut"]


def test_a_mail_waits_for_the_mail_host_and_not_for_mlflow(mailed: tuple[Config, list[Mail]]) -> None:
    config, mails = mailed
    run_dir = make_night(config.runs_dir / "night", "regressed", config=config)
    gone = config.model_copy(update={"mlflow": MlflowSettings(tracking_uri="http://127.0.0.1:9")})
    assert "127.0.0.1:9" in told(gone)["night"]
    assert len(mails) == 1
    assert alerts.pending(run_dir) == []


class _SlowMlflow(BaseHTTPRequestHandler):
    """Passes every request on to a real server, answers late, and loses the first answer that a run was made."""

    server_port = 0
    late_s = 0.05
    lost = 0

    def _pass_on(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        with closing(HTTPConnection("127.0.0.1", self.server_port)) as connection:
            connection.request(self.command, self.path, body, dict(self.headers))
            answer = connection.getresponse()
            content = answer.read()
        time.sleep(self.late_s)
        if self.path.endswith("/runs/create") and not self.lost:
            type(self).lost += 1
            self.connection.shutdown(socket.SHUT_RDWR)
            return
        self.send_response(answer.status)
        self.send_header("Content-Type", answer.headers.get("Content-Type", "application/json"))
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = _pass_on

    def log_message(self, *args: object) -> None:
        pass


@contextmanager
def _slow_mlflow(folder: Path) -> Iterator[str]:
    """Address of a real MLflow server behind a line that is slow and loses an answer."""
    port = free_port()
    where = ["--backend-store-uri", f"sqlite:///{folder}/mlflow.db", "--artifacts-destination", f"{folder}/artifacts"]
    command = [sys.executable, "-m", "mlflow", "server", *where, "--port", str(port), "--workers", "1"]
    environment = os.environ | {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"}
    with (folder / "server.log").open("wb") as log:
        server = subprocess.Popen(command, stdout=log, stderr=log, env=environment, start_new_session=True)
    line = ThreadingHTTPServer(("127.0.0.1", 0), type("Line", (_SlowMlflow,), {"server_port": port}))
    threading.Thread(target=line.serve_forever, daemon=True).start()
    try:
        deadline = time.monotonic() + 60
        while not _is_served(port) and time.monotonic() < deadline:
            time.sleep(0.1)
        yield f"http://127.0.0.1:{line.server_port}"
    finally:
        line.shutdown()
        line.server_close()
        os.killpg(server.pid, signal.SIGKILL)
        server.wait()


def _is_served(port: int) -> bool:
    with suppress(OSError), closing(HTTPConnection("127.0.0.1", port, timeout=5)) as connection:
        connection.request("GET", "/health")
        return connection.getresponse().status == 200
    return False


def test_a_slow_mlflow_whose_answer_is_lost_has_the_night_once(tmp_path: Path, settings: Config) -> None:
    """The client asks again for what was done already: a run is made twice, and one of the two is taken back."""
    run_dir = make_night(settings.runs_dir / "night", "regressed", config=settings)
    with _slow_mlflow(tmp_path) as address:
        slow = settings.model_copy(update={"mlflow": MlflowSettings(tracking_uri=address)})
        stages.run_stage("log", run_dir, slow)
        logged = records.read(store.Logged, run_dir / "mlflow.json")
        assert len(logged.runs) == RUNS
        with store._session(slow) as client:
            found = client.search_runs([logged.experiment_id])
        assert {run.info.run_id for run in found} == set(logged.runs.values())
        assert {run.info.status for run in found} == {"FINISHED"}


# ---- clock, remote, memory ----------------------------------------------------------------------------------


def test_a_clock_that_is_set_back_hides_no_change(tmp_path: Path, settings: Config) -> None:
    """The report was rendered without MLflow, at a time that lies in the future now: it is rendered again with it."""
    run = RunDir(make_night(tmp_path / "night", "regressed", config=settings))
    stages.run_stage("render", run.path, settings)
    for file in run.path.rglob("*"):
        os.utime(file, (time.time() + 7200,) * 2)
    without = run.report.read_bytes()
    stages.run_stage("log", run.path, settings)
    assert not run.is_done("render")
    stages.run_stage("render", run.path, settings)
    assert run.report.read_bytes() != without
    assert run.is_done("render")
    assert run.is_attached()


def test_a_remote_that_is_gone_stops_new_nights_only(tmp_path: Path) -> None:
    def run_git(*arguments: str) -> None:
        who = ("-c", "user.name=a", "-c", "user.email=a@example.org")
        subprocess.run(["git", "-C", str(tmp_path / "origin"), *who, *arguments], check=True, capture_output=True)

    (tmp_path / "origin" / "csrc").mkdir(parents=True)
    (tmp_path / "origin" / "csrc" / "a").write_text("1")
    for arguments in (("init", "-q"), ("add", "-A"), ("commit", "-qm", "First")):
        run_git(*arguments)
    url = (tmp_path / "origin").as_uri()
    sha = git.resolve(url, "HEAD", tmp_path / "cache").sha
    (tmp_path / "origin").rename(tmp_path / "gone")
    with pytest.raises(RevisionError, match="cannot fetch"):
        git.resolve(url, "HEAD", tmp_path / "cache")
    git.export(git.open_repo(url, tmp_path / "cache", fetch=False), sha, ["csrc"], tmp_path / "tree")
    assert (tmp_path / "tree" / "csrc" / "a").read_text() == "1"


GREEDY = """
import os
import signal
import torch

class Greedy:
    name = "cpu"

    def supports(self, case, device):
        return None

    def bind(self, scheme, x, codes, scales, scale=None, scale_ub=None):
        def call():
            if x.shape[1] == 96:
                torch.ones(1 << 40, device=x.device)
            if x.shape[1] == 128:
                os.kill(os.getpid(), signal.SIGKILL)  # as the kernel does when memory runs out
            return codes, scales
        return call


def create(build):
    return Greedy()
"""


@pytest.mark.parametrize(
    "device",
    ["cpu", pytest.param("cuda", marks=pytest.mark.skipif(not devices.has_driver(), reason="there is no GPU"))],
)
def test_a_kernel_that_eats_all_memory_is_reported_and_the_rest_is_checked(
    device: Literal["cpu", "cuda"], tmp_path: Path
) -> None:
    build = tmp_path / "build"
    (build / "backends").mkdir(parents=True)
    (build / "backends" / "cpu.py").write_text(GREEDY)
    config = Config(home=tmp_path, worker=WorkerSettings(cell_timeout_s=30))
    jobs = [("cpu", Case.parse(f"per-token/float32/16x{hidden}")) for hidden in (64, 96, 128, 256)]
    found = supervisor.check_builds(
        config, {"candidate": build}, jobs, device, 1, tmp_path / "logs", stages.no_progress
    )
    status = {result.case: (result.status, result.detail) for result in found}
    assert len(status) == len(jobs)
    assert status["per-token/float32/16x96"][0] in (CheckStatus.CRASHED, CheckStatus.WRONG)
    assert "memory" in status["per-token/float32/16x96"][1]
    assert status["per-token/float32/16x128"] == (CheckStatus.CRASHED, "killed by SIGKILL")
    assert all(status[f"per-token/float32/16x{hidden}"][0] is CheckStatus.WRONG for hidden in (64, 256))
    assert "cpu" in NAMES
