"""Whether the scheduler keeps up with a fleet: `load_scheduler.py [--fleets 10] [--postgres]`.

Ten kinds of GPU have a DAG each, and all their nights begin in the same minute. The nights lie there finished, so that
every task really runs its stage, through the real scheduler, its executor and the API server, but ends as soon as it
sees that its work is done: the scheduler is asked for as much at once as it ever can be, in one minute instead of
hours. Told are, a task, the time from when it could run (its predecessor had ended, or its run was triggered) until the
scheduler queued it, and from there until it ran, which is the executor's doing; and what the components cost of the
processor, tasks included. Everything, tasks too, shares this machine. Figures stand in docs/operations.md.

--postgres needs the programs initdb and postgres, and the extra `fleet`; without it, the database is SQLite.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(CHECKOUT), str(CHECKOUT / "tests")]

import psutil  # noqa: E402
from embedded_airflow import AirflowApi, AirflowError, ApiError, EmbeddedAirflow  # noqa: E402
from nightly import TASKS  # noqa: E402
from nights import make_night  # noqa: E402
from prove_fleet import clone, own_environment, postgres  # noqa: E402
from service import DAG, make_pool  # noqa: E402

from fp8bench import config, paths, records, stages  # noqa: E402
from fp8bench.errors import Fp8BenchError  # noqa: E402

RUN = "night-of-the-fleet"
SECONDS = 900


@dataclass(frozen=True)
class Lag:
    """Seconds that a task waited after it could run."""

    task: str
    to_queue: float
    to_run: float


def finished_nights(settings: config.Config, fleets: Sequence[str]) -> None:
    """A told night for every fleet's DAG run, so that its stages find their work done."""
    template = make_night(settings.home / "template", "clean", config=settings)
    asked = {"repo": settings.repo, "suite": settings.suite}
    prepared = records.read(records.Prepared, template / "prepare.json").model_copy(update={"requested": asked})
    records.write(prepared, template / "prepare.json")
    for stage in ("log", "render", "alert"):
        stages.run_stage(stage, template, settings)
    for fleet in fleets:
        shutil.copytree(template, paths.night_directory(settings.runs_dir, f"{paths.NIGHTLY_DAG}_{fleet}", RUN))


def trigger(airflow: AirflowApi, dags: Sequence[str]) -> None:
    """All at once, as soon as the last of them is there."""
    deadline = time.monotonic() + 180
    while True:
        try:
            for dag in dags:
                airflow.send("PATCH", f"dags/{dag}", {"is_paused": False})
            break
        except ApiError:
            if time.monotonic() > deadline:
                raise
            time.sleep(1)
    time.sleep(10)  # the parsing of the first minute is no part of a night
    for dag in dags:
        airflow.send("POST", f"dags/{dag}/dagRuns", {"dag_run_id": RUN, "logical_date": None, "conf": {}})


def wait(airflow: AirflowApi, dags: Sequence[str]) -> None:
    deadline = time.monotonic() + SECONDS
    while time.monotonic() < deadline:
        airflow.check_alive()
        states = [airflow.get(f"dags/{dag}/dagRuns/{RUN}")["state"] for dag in dags]
        if all(state in ("success", "failed") for state in states):
            if "failed" in states:
                raise AirflowError(f"{states.count('failed')} of {len(states)} nights failed: see {airflow.logs}")
            return
        time.sleep(3)
    raise AirflowError(f"the nights did not end in {SECONDS} s: see {airflow.logs}")


def lags(airflow: AirflowApi, dag: str) -> list[Lag]:
    """Of each task of a night, in their order; every task waits for the one before it."""
    run = airflow.get(f"dags/{dag}/dagRuns/{RUN}")
    entries = airflow.get(f"dags/{dag}/dagRuns/{RUN}/taskInstances", limit=100)["task_instances"]
    found, runnable = [], _moment(run["queued_at"])
    for entry in sorted(entries, key=lambda entry: TASKS.index(entry["task_id"])):
        queued, started = _moment(entry["queued_when"]), _moment(entry["start_date"])
        found.append(Lag(entry["task_id"], max(0.0, queued - runnable), started - queued))
        runnable = _moment(entry["end_date"])
    return found


def _moment(text: str) -> float:
    return datetime.fromisoformat(text).timestamp()


class Costs:
    """Processor seconds of the components, and of all that they started."""

    def __init__(self, airflow: EmbeddedAirflow) -> None:
        self._processes = {name: psutil.Process(pid) for name, pid in airflow.pids().items()}
        self._begin = self._now()

    def _now(self) -> dict[str, float]:
        found = {}
        for name, process in self._processes.items():
            spent = process.cpu_times()
            family = sum(_spent(child) for child in process.children(recursive=True))
            found[name] = spent.user + spent.system
            found[f"{name}: children"] = spent.children_user + spent.children_system + family
        return found

    def told(self, tasks: int) -> str:
        """`scheduler 12.3 s (0.11 a task), ...`"""
        spent = {name: seconds - self._begin[name] for name, seconds in self._now().items()}
        spent["tasks"] = spent.pop("scheduler: children")
        return ", ".join(
            f"{name} {seconds:.1f} s ({seconds / tasks:.2f} a task)" for name, seconds in spent.items() if seconds >= 1
        )


def _spent(process: psutil.Process) -> float:
    try:
        times = process.cpu_times()
    except psutil.NoSuchProcess:
        return 0.0
    return float(times.user + times.system + times.children_user + times.children_system)


def told(name: str, seconds: Sequence[float]) -> str:
    ordered = sorted(seconds)
    high = ordered[min(len(ordered) - 1, round(0.95 * len(ordered)))]
    return f"{name:<34} median {statistics.median(ordered):5.2f} s, 95% {high:5.2f} s, largest {ordered[-1]:5.2f} s"


def measure(root: Path, fleets: Sequence[str], slots: int, settings: dict[str, str]) -> None:
    dags = [f"{DAG}_{fleet}" for fleet in fleets]
    dag_files = clone(root / "control") / "dags"  # this checkout may change meanwhile
    with EmbeddedAirflow(root / "airflow", dag_files, parallelism=slots, settings=settings) as airflow:
        for fleet in fleets:
            make_pool(airflow, f"gpu_{fleet}", 1)
        trigger(airflow, dags)
        costs, began = Costs(airflow), time.monotonic()
        wait(airflow, dags)
        seconds = time.monotonic() - began
        found = [lag for dag in dags for lag in lags(airflow, dag)]
        print(f"{len(dags)} nights, {len(found)} tasks, {slots} at a time: {seconds:.0f} s")
        print(told("could run until queued", [lag.to_queue for lag in found]))
        print(told("queued until running", [lag.to_run for lag in found]))
        print(told("both", [lag.to_queue + lag.to_run for lag in found]))
        print(f"processor: {costs.told(len(found))}")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--fleets", type=int, default=10)
    parser.add_argument("--slots", type=int, default=0, help="tasks at a time (default: one a fleet)")
    parser.add_argument("--postgres", action="store_true")
    args = parser.parse_args()
    root = Path(tempfile.mkdtemp(prefix="fp8bench-scheduler-"))
    root.chmod(0o755)  # the database's own user looks in
    own_environment(root)
    fleets = [f"g{number}" for number in range(args.fleets)]
    os.environ |= {f"FP8BENCH_AIRFLOW__FLEETS__{fleet}": "default" for fleet in fleets}
    try:
        with ExitStack() as stack:
            settings = {}
            if args.postgres:
                database = f"postgresql+psycopg2://{stack.enter_context(postgres(root / 'postgres'))}"
                settings = {"AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": database}
            finished_nights(config.load(), fleets)
            measure(root, fleets, args.slots or args.fleets, settings)
    except Fp8BenchError as error:
        print(f"load_scheduler: {error}", file=sys.stderr)
        return 4
    shutil.rmtree(root, ignore_errors=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
