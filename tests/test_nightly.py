"""Whole nights from the command line, on a clone of this checkout with planted commits: slower, equal, broken.

Real compilers, worker processes, MLflow on SQLite and an SMTP server; the nights run in order and share one home, as
they would on a machine. The device is the CPU everywhere.
"""

from __future__ import annotations

import email
import email.policy
import math
import os
import re
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from email.message import EmailMessage
from pathlib import Path
from typing import Any

import pytest
from aiosmtpd.controller import Controller
from conftest import INDUCTOR, with_compiled_kernels

from fp8bench import paths, store
from fp8bench.config import Config, MlflowSettings
from fp8bench.records import Verdict, Verdicts
from fp8bench.rundir import RunDir

SUITE = """
schemes = ["per-tensor", "per-token", "group-128-row"]
backends = ["cpu"]
tokens = [120, 240]
hidden = [1024]
"""
SMALL = """
schemes = ["per-tensor", "per-token", "group-128-row"]
backends = ["cpu"]
tokens = [24]
hidden = [256]
"""
BOTH_BACKENDS = """
schemes = ["per-token"]
backends = ["torch", "cpu"]
tokens = [24]
hidden = [256]
regimes = ["hot"]
"""
LIBRARY = Path("csrc/cpu/library.cpp")
PER_TOKEN = "fp8bench::quantize_per_token(*args);"
PER_GROUP = "fp8bench::quantize_per_group(*args);"
REDO_A_SIXTH = f"""{{
    {PER_TOKEN}
    fp8bench_args again = *args;
    again.tokens /= 6;
    fp8bench::quantize_per_token(again);
  }}"""


class Sink:
    """An SMTP server that keeps what it is given."""

    def __init__(self) -> None:
        self.mails: list[EmailMessage] = []

    async def handle_DATA(self, server: Any, session: Any, envelope: Any) -> str:
        self.mails.append(email.message_from_bytes(envelope.content, policy=email.policy.default))
        return "250 OK"


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


@dataclass
class Place:
    """A machine: its home, its repository under test, its mail server."""

    root: Path
    clone: Path
    sink: Sink
    environment: dict[str, str]
    nights: dict[str, RunDir] = field(default_factory=dict)

    def plant(self, subject: str, *changes: tuple[str, str]) -> str:
        """Commit the base with each `old` of the CPU library's source replaced by `new`; returns the sha."""
        self.git("checkout", "-q", "base")
        source = (self.clone / LIBRARY).read_text()
        for old, new in changes:
            assert source.count(old) == 1, f"{old} stands {source.count(old)} times in {LIBRARY}"
            source = source.replace(old, new)
        (self.clone / LIBRARY).write_text(source)
        self.git("commit", "-q", "-a", "-m", subject)
        return self.git("rev-parse", "HEAD")

    def git(self, *arguments: str) -> str:
        command = ["git", "-C", str(self.clone), "-c", "user.name=Jo", "-c", "user.email=jo@example.org", *arguments]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()

    def night(self, name: str, *arguments: str, launches: int = 3) -> subprocess.CompletedProcess[str]:
        """`fp8bench nightly ARGUMENTS` in a run directory of that name."""
        self.sink.mails.clear()
        with self._started(name, *arguments, launches=launches) as process:
            out, err = process.communicate(timeout=240)
        assert "Traceback" not in err, err
        return subprocess.CompletedProcess(process.args, process.returncode, out, err)

    def _started(self, name: str, *arguments: str, launches: int) -> subprocess.Popen[str]:
        self.nights[name] = RunDir(self.root / "runs" / name)
        command = [sys.executable, "-m", "fp8bench", "nightly", "--run-dir", str(self.nights[name].path), *arguments]
        settings = {f"FP8BENCH_TIMING__{key}": str(launches) for key in ("LAUNCHES", "CONFIRM_LAUNCHES")}
        return subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=self.root,
            env=self.environment | settings,
        )

    def killed(self, name: str, *arguments: str, launches: int, at: str) -> dict[Path, int]:
        """A night that is killed when a file `at` (a glob) is there: its samples so far, and when they were written."""
        with self._started(name, *arguments, launches=launches) as process:
            while process.poll() is None and not list(self.nights[name].path.glob(at)):
                time.sleep(0.05)
            process.kill()
        return {path: path.stat().st_mtime_ns for path in self.nights[name].samples.rglob("*.parquet")}

    def metrics(self, name: str, backend: str) -> dict[str, float]:
        """What MLflow holds of a night."""
        logged = self.nights[name].logged()
        assert logged is not None
        config = Config(home=self.root / "home", mlflow=MlflowSettings(tracking_uri=logged.tracking_uri))
        with store._session(config) as client:
            return dict(client.get_run(logged.runs[backend]).data.metrics)


def make_clone(root: Path) -> Path:
    """A clone of this checkout whose tag `base` holds the kernels as they lie here now."""
    clone = root / "clone"
    if (paths.CHECKOUT / ".git").exists():
        subprocess.run(["git", "clone", "-q", str(paths.CHECKOUT), str(clone)], check=True)
    else:
        subprocess.run(["git", "init", "-q", str(clone)], check=True)
    ignore = shutil.ignore_patterns("__pycache__")
    shutil.copytree(paths.CSRC, clone / "csrc", dirs_exist_ok=True, ignore=ignore)
    shutil.copytree(paths.BACKENDS, clone / "fp8bench" / "backends", dirs_exist_ok=True, ignore=ignore)
    return clone


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    root, sink = tmp_path_factory.mktemp("nightly"), Sink()
    home = with_compiled_kernels(root / "home")
    (home / "cache").mkdir()
    (home / "cache" / "inductor").symlink_to(INDUCTOR)  # headers take longer to compile than what is measured
    INDUCTOR.mkdir(parents=True, exist_ok=True)
    (root / "suite.toml").write_text(SUITE)
    (root / "small.toml").write_text(SMALL)
    (root / "both.toml").write_text(BOTH_BACKENDS)
    server = Controller(sink, hostname="127.0.0.1", port=free_port())
    server.start()
    environment = {key: value for key, value in os.environ.items() if not key.startswith("FP8BENCH_")} | {
        "FP8BENCH_HOME": str(home),
        "FP8BENCH_DEVICE": "cpu",
        "FP8BENCH_REPO": str(root / "clone"),
        "FP8BENCH_SUITE": str(root / "suite.toml"),
        "FP8BENCH_MAIL__HOST": "127.0.0.1",
        "FP8BENCH_MAIL__PORT": str(server.port),
        "FP8BENCH_MAIL__TO": '["team@example.org"]',
        "FP8BENCH_TIMING__CONTROL_LAUNCHES": "1",
        "PYTHONPATH": str(paths.CHECKOUT),
    }
    place = Place(root, make_clone(root), sink, environment)
    place.git("add", "csrc", "fp8bench/backends")
    place.git("commit", "-q", "--allow-empty", "-m", "Base")
    place.git("tag", "base")
    yield place
    server.stop()


@pytest.fixture(scope="module")
def first(place: Place) -> subprocess.CompletedProcess[str]:
    """The first night, after which there is a baseline."""
    return place.night("first", "--candidate", "base")


def accused(found: Verdicts) -> set[str]:
    """Families of which anything is said to have regressed."""
    families = {family.family for family in found.families if family.verdict is Verdict.REGRESSED}
    return families | {
        re.sub(r"^cpu/(.*)/[^/]*/hot$", r"\1", cell.cell) for cell in found.cells if cell.verdict is Verdict.REGRESSED
    }


def body(mail: EmailMessage) -> str:
    part = mail.get_body(("plain",))
    assert part is not None
    return str(part.get_content())


def test_a_first_night_measures_the_commit_against_itself(place: Place, first: subprocess.CompletedProcess) -> None:
    assert first.returncode == 0, first.stderr
    found, prepared = place.nights["first"].judged(), place.nights["first"].prepared()
    assert prepared.first_night
    assert {cell.verdict for cell in found.cells} == {Verdict.CONTROL}
    assert place.sink.mails == []
    assert str(place.nights["first"].report) in first.stdout
    assert "First night" in first.stdout


def test_a_planted_slowdown_is_caught_and_told(place: Place, first: subprocess.CompletedProcess) -> None:
    assert first.returncode == 0
    sha = place.plant("Slow per-token <b>down</b>", (PER_TOKEN, REDO_A_SIXTH))
    timed = place.killed("slow", launches=4, at="samples/0/001.parquet")
    timed |= place.killed("slow", launches=4, at="samples/confirm-0/*.parquet")
    done = place.night("slow", launches=4)
    assert done.returncode == 1, done.stdout + done.stderr
    run = place.nights["slow"]
    found, prepared = run.judged(), run.prepared()
    assert accused(found) == {"per-token/bfloat16"}
    # killed twice, nothing was measured twice, and what was screened is confirmed by launches of its own
    assert {path: path.stat().st_mtime_ns for path in timed} == timed
    assert "samples/confirm-0/004.parquet" in {str(path.relative_to(run.path)) for path in timed}
    assert run.screened().families == ("cpu/per-token/bfloat16/hot",)
    assert {cell.phase for cell in found.cells if cell.verdict is Verdict.REGRESSED} == {"confirm"}
    assert set(run.raw_samples()["phase"]) == {"screen", "confirm", "aa"}
    assert (prepared.baseline.sha, prepared.candidate.sha) == (place.git("rev-parse", "base"), sha)
    (cause,) = found.causes
    assert cause.suspects == (sha,)
    assert cause.worst is not None
    assert 0.08 < cause.worst.value < 0.30
    # the mail
    (mail,) = place.sink.mails
    assert mail["To"] == "team@example.org"
    assert mail["Subject"].startswith("[fp8bench] REGRESSED cpu/")
    percent = re.search(r"\+\d+\.\d%", found.backends[0].sentence)
    assert percent is not None
    assert percent.group() in mail["Subject"]
    assert sha[:7] in mail["Subject"]
    assert "Slow per-token <b>down</b>" in body(mail)
    assert percent.group() in body(mail)
    # the report
    report = run.report.read_text()
    assert sha[:9] in report
    assert percent.group() in report
    assert "Slow per-token &lt;b&gt;down&lt;/b&gt;" in report
    assert "<b>down</b>" not in report
    # MLflow
    metrics = place.metrics("slow", "cpu")
    ratios = {key: value for key, value in metrics.items() if key.startswith("02_ratio_vs_baseline/")}
    assert max(ratios, key=ratios.__getitem__).startswith("02_ratio_vs_baseline/per-token/")
    assert any(key.startswith("03_regressed_cells/") and "per-token" in key for key in metrics)


def test_a_commit_against_itself_is_slower_where_that_is_planted(
    place: Place, first: subprocess.CompletedProcess
) -> None:
    """No code differs: what is caught is what the clock really added, by as much as it was told to."""
    assert first.returncode == 0
    arguments = ("--candidate", "base", "--baseline", "base", "--plant", "cpu/per-token/*=25%", "--plant", "*=0")
    done = place.night("planted", *arguments, launches=4)
    assert done.returncode == 1, done.stdout + done.stderr
    found = place.nights["planted"].judged()
    assert accused(found) == {"per-token/bfloat16"}
    assert Verdict.CONTROL not in {cell.verdict for cell in found.cells}
    (family,) = [entry for entry in found.families if entry.family == "per-token/bfloat16"]
    assert family.effect is not None
    assert family.effect.value == pytest.approx(math.log(1.25), abs=0.04)
    assert "Planted night" in done.stdout
    (mail,) = place.sink.mails
    assert mail["Subject"].startswith("[fp8bench] PLANTED REGRESSED cpu/")


def test_running_a_finished_night_again_repeats_nothing(place: Place) -> None:
    run = place.nights["slow"]
    files = {
        path: path.stat().st_mtime_ns for path in run.path.rglob("*") if path.is_file() and ".lock" not in path.name
    }
    done = place.night("slow", launches=4)
    assert done.returncode == 1
    assert place.sink.mails == []
    assert {path: path.stat().st_mtime_ns for path in files} == files


def test_an_equal_commit_is_fine_and_accuses_nobody(place: Place, first: subprocess.CompletedProcess) -> None:
    assert first.returncode == 0
    abi = "int fp8bench_abi(void) { return FP8BENCH_ABI; }"
    workspace = "int64_t fp8bench_workspace_bytes(const fp8bench_args *) { return 0; }"
    place.plant("Move a function", (abi, "// moved"), (workspace, f"{abi}\n\n{workspace} // as ever"))
    place.git("branch", "-f", "equal")
    done = place.night("equal", "--repo", f"file://{place.clone}", "--candidate", "equal")
    assert done.returncode == 0, done.stdout + done.stderr
    run = place.nights["equal"]
    builds = [entry.library("cpu") for entry in run.built().builds]
    assert len({entry.identity for entry in builds if entry}) == 2, "the same machine code: nothing was really rebuilt"
    assert accused(run.judged()) == set()
    assert run.judged().causes == ()
    # nothing is sent but that the slowdown of the night before is over, where noise lets it say so
    assert [mail["Subject"].split()[1] for mail in place.sink.mails] in ([], ["RECOVERED"])


def test_wrong_answers_and_crashes_are_told_apart_and_the_rest_is_kept(
    place: Place, first: subprocess.CompletedProcess
) -> None:
    assert first.returncode == 0
    wrong, crash = f"{{ {PER_TOKEN} args->scales[0] *= 2; }}", f"{{ {PER_GROUP} __builtin_trap(); }}"
    sha = place.plant("Break two kernels", (PER_TOKEN, wrong), (PER_GROUP, crash))
    done = place.night("broken", "--suite", str(place.root / "small.toml"))
    assert done.returncode == 2, done.stdout + done.stderr
    found = place.nights["broken"].judged()
    verdicts = {cell.cell.rsplit("/", 3)[0]: cell for cell in found.cells}
    assert verdicts["cpu/per-token"].verdict is Verdict.WRONG
    assert verdicts["cpu/group-128-row"].verdict is Verdict.CRASHED
    sound = [cell for cell in found.cells if cell.cell.startswith("cpu/per-tensor/")]  # of the same library
    assert sound
    assert all(cell.candidate_us for cell in sound)
    assert sorted(mail["Subject"].split()[1] for mail in place.sink.mails) == ["CRASHED", "WRONG"]
    assert all(sha[:7] in mail["Subject"] for mail in place.sink.mails)
    report = place.nights["broken"].report.read_text()
    assert "WRONG" in report.upper()
    assert "CRASHED" in report.upper()


def test_what_does_not_compile_is_told_and_the_rest_is_kept(place: Place, first: subprocess.CompletedProcess) -> None:
    assert first.returncode == 0
    place.plant("Forget how to spell", (PER_TOKEN, "fp8bench::qantize_per_token(*args);"))
    done = place.night("unbuilt", "--suite", str(place.root / "both.toml"))
    assert done.returncode == 2, done.stdout + done.stderr
    found = place.nights["unbuilt"].judged()
    assert {cell.verdict for cell in found.cells if cell.cell.startswith("cpu/")} == {Verdict.NOT_BUILT}
    others = [cell for cell in found.cells if cell.cell.startswith("torch/")]
    assert others
    assert all(cell.candidate_us for cell in others)
    (mail,) = place.sink.mails
    assert "NOT_BUILT" in mail["Subject"]
    assert "qantize_per_token" in body(mail) + place.nights["unbuilt"].report.read_text()


def test_unreachable_mlflow_and_mail_keep_what_was_measured(place: Place) -> None:
    """A judged night without MLflow and SMTP ends with 4; with them again it is told, without measuring again."""
    run = place.nights["slow"]
    again = RunDir(place.root / "runs" / "unreachable")
    shutil.copytree(run.path, again.path, ignore=shutil.ignore_patterns("outbox", "mlflow.json", "report.html", ".*"))
    healthy = place.environment
    place.environment = healthy | {
        "FP8BENCH_MLFLOW__TRACKING_URI": "http://127.0.0.1:9",
        "FP8BENCH_MAIL__PORT": "9",
    }
    done = place.night("unreachable", launches=4)
    place.environment = healthy
    assert done.returncode == 4
    assert "Could not log: " in done.stdout
    assert "Could not alert: " in done.stdout
    assert again.report.is_file()
    done = place.night("unreachable", launches=4)
    assert done.returncode == 1, done.stdout + done.stderr
    assert len(place.sink.mails) == 1
    assert again.logged() == run.logged()  # the same night is found in MLflow, not doubled


def test_what_a_person_mistypes_is_one_sentence(place: Place) -> None:
    done = place.night("typo", "--candidate", "no-such-branch")
    assert done.returncode == 4
    assert "revision 'no-such-branch' is not a commit" in done.stderr
