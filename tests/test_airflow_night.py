"""A night through a real Airflow, scheduler and all, on a clone of this checkout, by what `make nightly` runs."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest
from conftest import CHECKOUT, HOME
from nights import make_night

from fp8bench import records

sys.path.insert(0, str(CHECKOUT / "ci"))
from nightly import Ended, TaskState, night_code, summary

SUITE = """
backends = ["cpu"]
schemes = ["per-token"]
dtypes = ["bfloat16"]
tokens = [16]
hidden = [1024]
regimes = ["hot"]
"""
TASKS = ["prepare", "build", "check", "time shard 0", "judge", "log", "render", "alert", "gate"]


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """This checkout's latest commit, as a fresh clone, with a suite of one small case."""
    if not (CHECKOUT / ".git").exists():
        pytest.skip("not a git checkout")
    target = tmp_path_factory.mktemp("night") / "clone"
    subprocess.run(["git", "clone", "--quiet", str(CHECKOUT), str(target)], check=True)
    (target / "tiny.toml").write_text(SUITE)
    return target


@contextmanager
def nightly(clone: Path, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    """Start the runner of `clone`, without console scripts on PATH and without anybody's settings."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("AIRFLOW", "FP8BENCH_"))}
    environment |= {
        "FP8BENCH_HOME": str(HOME),  # builds are there already
        "FP8BENCH_CONFIG": os.devnull,
        "FP8BENCH_TIMING__LAUNCHES": "3",
        "FP8BENCH_TIMING__CONFIRM_LAUNCHES": "3",
        "FP8BENCH_TIMING__QUADS": "2",
        "PATH": "/usr/local/bin:/usr/bin:/bin",
        "PYTHONUNBUFFERED": "1",
    }
    with subprocess.Popen(
        [sys.executable, str(clone / "ci" / "nightly.py"), *arguments],
        cwd=clone,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as process:
        try:
            yield process
        finally:
            process.terminate()  # nothing to do, unless the test failed


def lines_until(process: subprocess.Popen[str], text: str) -> Iterator[str]:
    for line in process.stdout or ():
        yield line
        if text in line:
            return


def family(night: subprocess.Popen[str]) -> list[psutil.Process]:
    return psutil.Process(night.pid).children(recursive=True)


def listening(processes: list[psutil.Process]) -> set[str]:
    """Addresses on which any of `processes` takes connections."""
    connections = [connection for process in processes for connection in process.net_connections("inet")]
    return {connection.laddr.ip for connection in connections if connection.status == psutil.CONN_LISTEN}


def test_a_night_through_airflow(clone: Path) -> None:
    with nightly(clone, "--suite", "tiny.toml", "--baseline", "HEAD") as night:
        said = "".join(lines_until(night, "runs."))
        assert "Airflow is up" in said, said
        started = family(night)
        assert listening(started) == {"127.0.0.1"}
        with nightly(clone) as second:
            refusal, _ = second.communicate(timeout=60)
        said += night.communicate(timeout=240)[0]

    assert second.returncode == 4
    assert "already runs" in refusal
    assert "Traceback" not in refusal

    assert night.returncode == 0, said
    for task in TASKS:
        assert re.search(rf"^{task} +success", said, re.MULTILINE), said
    run_dir = Path(re.findall(r"^Run +(.+)$", said, re.MULTILINE)[0])
    verdicts = records.read(records.Verdicts, run_dir / "verdicts.json")
    assert verdicts.exit_code == 0
    assert verdicts.sentence in said
    assert str(run_dir / "report.html") in said
    assert records.read(records.Logged, run_dir / "mlflow.json").runs
    assert records.read(records.Prepared, run_dir / "prepare.json").requested["suite"] == str(clone / "tiny.toml")
    assert not any(process.is_running() for process in started)


@pytest.mark.parametrize("sign", [signal.SIGTERM, signal.SIGKILL], ids=["asked", "killed outright"])
def test_an_ended_night_leaves_nothing_running(clone: Path, sign: signal.Signals) -> None:
    with nightly(clone, "--suite", "tiny.toml") as night:
        deadline = time.monotonic() + 60
        while len(family(night)) < 4 and time.monotonic() < deadline:
            time.sleep(0.2)
        started = family(night)
        night.send_signal(sign)
        said, _ = night.communicate(timeout=60)
    assert len(started) >= 4
    assert night.returncode == {signal.SIGTERM: 130, signal.SIGKILL: -signal.SIGKILL}[sign]
    assert ("everything is stopped" in said) == (sign == signal.SIGTERM)
    _, alive = psutil.wait_procs(started, timeout=20)
    assert alive == []


# ---- how it ended -------------------------------------------------------------------------------------------

NAMES = ("prepare", "build", "judge", "alert", "gate")


def ended(state: str, *states: str) -> Ended:
    """A run whose tasks are in `states`; "-skipped" stands for one that was skipped before it began."""
    return Ended(
        state,
        tuple(
            TaskState(name, -1, entry.removeprefix("-"), 1, 0.0, ran=not entry.startswith("-"))
            for name, entry in zip(NAMES, states, strict=True)
        ),
    )


DONE, UNJUDGED = ("success",) * 5, ("-skipped",) * 3
RUNS = {
    "CPU: unchanged": (0, ended("success", *DONE), "clean"),
    "CPU: 8 cells regressed": (1, ended("failed", *DONE[:4], "failed"), "regressed"),
    "the kernels are those of the baseline": (0, ended("success", "skipped", *UNJUDGED, "skipped"), ""),
    "ended in Airflow, as failed": (4, ended("failed", "-skipped", *UNJUDGED, "-skipped"), ""),
    "ended in Airflow, as success": (4, ended("success", "-skipped", *UNJUDGED, "-skipped"), ""),
    "ended in Airflow, as failed, before it was judged": (4, ended("failed", "success", *UNJUDGED, "-skipped"), ""),
    "ended before all of it was told": (4, ended("failed", *DONE[:3], "-skipped", "-skipped"), "clean"),
    "a stage could not work": (4, ended("failed", "failed", *("upstream_failed",) * 3, "failed"), ""),
}


@pytest.mark.parametrize("told", RUNS)
def test_a_run_that_was_cancelled_is_never_fine(told: str, tmp_path: Path) -> None:
    code, how, verdicts = RUNS[told]
    run_dir = tmp_path / "night"
    if verdicts:
        make_night(run_dir, verdicts)
    assert night_code(run_dir, how) == code
    said = dict(summary(run_dir, how, code))
    assert told in said["Verdict"]
    assert ("Run" in said) == bool(verdicts)
