"""A real backfill on this machine: `prove_backfill.py [--commits 6] [--rounds 2]`.

Makes a repository with so many commits that each change a kernel, starts an Airflow of its own, triggers
`fp8bench_commits` with their range, and waits for the night of each. The second round compares with another baseline,
so that it measures all of them again, on builds that are there already; asking for the first range again must give no
night. Prints how each night ended and every task that failed, was tried again or warned, with its words. Exits with 0
when every night ended by its verdict alone: a busy machine makes a night invalid, and its gate red. On the CPU, with a
suite of a few cells; everything is stopped in the end.
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(CHECKOUT))

from embedded_airflow import AirflowApi, AirflowError, ApiError, EmbeddedAirflow  # noqa: E402
from nightly import Night, TaskState  # noqa: E402
from prove_fleet import clone, own_environment  # noqa: E402
from service import DAG, make_pool  # noqa: E402

from fp8bench.errors import Fp8BenchError  # noqa: E402

FINDER = "fp8bench_commits"
ENDED = ("success", "failed")
NIGHT_SECONDS = 300
KERNELS = "csrc/cpu/library.cpp"
LOUD = re.compile(r"lock|refus|Traceback|[Ee]rror|Warning")


def make_commits(repo: Path, count: int) -> list[str]:
    """The shas of the last commit and of `count` new ones, each with a library of its own."""
    git = ["git", "-C", str(repo), "-c", "user.name=Backfill", "-c", "user.email=backfill@example.org"]
    for number in range(count):
        with (repo / KERNELS).open("a") as file:
            file.write(f'\nextern "C" int fp8bench_backfill_{number}(void) {{ return {number}; }}\n')
        subprocess.run([*git, "commit", "--quiet", "-am", f"Kernel change {number}"], check=True)
    told = subprocess.run([*git, "log", f"-{count + 1}", "--format=%H"], check=True, capture_output=True, text=True)
    return told.stdout.split()[::-1]


def trigger(airflow: AirflowApi, dag: str, run: str, conf: dict[str, str]) -> None:
    """As soon as the DAG is there: a fresh Airflow has not parsed it yet."""
    deadline = time.monotonic() + 120
    while True:
        airflow.check_alive()
        try:
            airflow.send("PATCH", f"dags/{dag}", {"is_paused": False})
            airflow.send("PATCH", f"dags/{DAG}", {"is_paused": False})
            airflow.send("POST", f"dags/{dag}/dagRuns", {"dag_run_id": run, "logical_date": None, "conf": conf})
        except ApiError as error:
            if error.status == 409:
                return
            if time.monotonic() > deadline:
                raise
            time.sleep(1)
        else:
            return


def wait(airflow: AirflowApi, seconds: float) -> None:
    """Until no run of either DAG waits or runs."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        airflow.check_alive()
        going = [run for dag in (FINDER, DAG) for run in runs(airflow, dag) if run["state"] not in ENDED]
        if not going:
            return
        time.sleep(2)
    raise AirflowError(f"the nights did not end in {seconds:.0f} s")


def runs(airflow: AirflowApi, dag: str) -> list[dict[str, str]]:
    found: list[dict[str, str]] = airflow.get(f"dags/{dag}/dagRuns", limit=100, order_by="run_after")["dag_runs"]
    return found


def tell(airflow: AirflowApi, run: dict[str, str], home: Path) -> bool:
    """Print a night in a line, and what was odd about it below; whether it ended as it should: red by its verdict, or
    not at all."""
    night = Night(airflow, run["dag_run_id"])
    tasks = night.tasks()
    seconds = sum(task.seconds or 0 for task in tasks)
    file = home / "runs" / night.run_id / "verdicts.json"
    found = json.loads(file.read_text()) if file.exists() else {"sentence": "no verdict", "exit_code": 4}
    print(f"  {night.run_id}  {run['state']:<8} {seconds:5.0f} s in tasks  {found['sentence']}", flush=True)
    for task in tasks:
        for line in odd(night, task):
            print(f"      {task.label}, try {task.attempt}, {task.state}: {line[:300]}")
    failed = [task.name for task in tasks if task.state != "success"]
    return bool(tasks) and failed == ["gate"] * (found["exit_code"] != 0)


def odd(night: Night, task: TaskState) -> Iterator[str]:
    """What a reader should look at: a state that is no success, a second try, lines that complain."""
    first = night.log_file(task).with_name("attempt=1.log")
    if task.attempt > 1 and first.exists():
        yield f"was tried again; the first try said: {' | '.join(first.read_text(errors='replace').splitlines()[-3:])}"
    lines = night.last_lines(task, 100)
    yield from lines[-3:] if task.state != "success" else [line for line in lines if LOUD.search(line)]


def backfill(airflow: AirflowApi, name: str, conf: dict[str, str], expected: int, home: Path) -> bool:
    """Trigger it, wait, and tell the nights that it gave; whether they are as many as expected, and well."""
    before = {run["dag_run_id"] for run in runs(airflow, DAG)}
    began = time.monotonic()
    trigger(airflow, FINDER, name, conf)
    wait(airflow, NIGHT_SECONDS * max(1, expected))
    new = [run for run in runs(airflow, DAG) if run["dag_run_id"] not in before]
    print(f"{name}: {conf['commits']}, {len(new)} nights after {time.monotonic() - began:.0f} s", flush=True)
    well = [tell(airflow, run, home) for run in new]
    return all(well) and len(new) == expected


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--commits", type=int, default=6)
    parser.add_argument("--rounds", type=int, default=2, choices=[1, 2])
    args = parser.parse_args()
    root = Path(tempfile.mkdtemp(prefix="fp8bench-backfill-"))
    control = clone(root / "control")
    shas = make_commits(control, args.commits)
    own_environment(root)
    conf = {"repo": str(control), "suite": str(control / "tiny.toml"), "commits": f"{shas[0]}..{shas[-1]}"}
    try:
        with EmbeddedAirflow(root / "airflow", control / "dags", parallelism=2) as airflow:
            make_pool(airflow, "gpu", 1)
            well = [backfill(airflow, "first", conf, args.commits, root / "home")]
            well.append(backfill(airflow, "again", conf, 0, root / "home"))
            if args.rounds > 1:
                well.append(backfill(airflow, "second", conf | {"baseline": shas[1]}, args.commits, root / "home"))
    except Fp8BenchError as error:
        print(f"prove_backfill: {error} (logs are in {root})", file=sys.stderr)
        return 4
    if all(well):
        shutil.rmtree(root, ignore_errors=True)
        return 0
    print(f"what was written lies in {root}", file=sys.stderr)
    return 4


if __name__ == "__main__":
    sys.exit(main())
