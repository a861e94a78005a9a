"""What a year of a fleet costs, without a GPU: `load.py [--gpus 10] [--nights 365]`.

Every GPU has a night of its own of some 1,200 cells (the reference suite as tests/nights.py models it). A few nights
are made in full; the others are copies of their records, with run id, date and device of their own, and links to their
other files. Measured are the page over all nights, with the briefs that nights leave and without; the log stage of one
night, the stages of a night that need no GPU, the parsing of the DAGs, and what a night takes on disk. The figures of
one run stand in docs/operations.md.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(CHECKOUT), str(CHECKOUT / "tests")]

from nights import make_night  # noqa: E402

from fp8bench import brief, stages  # noqa: E402
from fp8bench.config import Config  # noqa: E402

STATES = ("clean", "clean", "clean", "regressed", "clean", "wrong", "clean", "invalid")
PARSE_S = 0.3  # of a processor: others have the rest of it
END = datetime(2026, 12, 31, 2, tzinfo=UTC)
PARSE = """
import runpy, sys, time
import airflow.sdk  # the DAG processor has it when it forks
from airflow.providers.standard.operators.trigger_dagrun import TriggerDagRunOperator
began, busy = time.perf_counter(), time.process_time()
runpy.run_path(sys.argv[1])
print(f"{time.perf_counter() - began:.3f} {time.process_time() - busy:.3f}")
"""


@contextmanager
def timed(what: str, bound: float | None = None) -> Iterator[None]:
    began, busy = time.perf_counter(), time.process_time()
    yield
    seconds, busy = time.perf_counter() - began, time.process_time() - busy
    told = "" if bound is None else f"   (bound {bound:g} s: {'kept' if seconds < bound else 'BROKEN'})"
    print(f"{what:<56} {seconds:8.2f} s, {busy:.2f} s of a processor{told}", flush=True)


def templates(root: Path, config: Config) -> list[Path]:
    """One night of each state, told."""
    made = []
    for number, state in enumerate(dict.fromkeys(STATES)):
        night = make_night(root / state, state, suite="reference", seed=number, config=config)
        with timed(f"judge a night of 1,200 cells ({state})") if not number else _silently():
            (night / "verdicts.json").unlink()
            stages.run_stage("judge", night, config)
        with timed("log it, which makes MLflow's database") if not number else _silently():
            stages.run_stage("log", night, config)
        with timed("render it") if not number else _silently():
            stages.run_stage("render", night, config)
        made.append(night)
    return made


@contextmanager
def _silently() -> Iterator[None]:
    yield


def fill(runs: Path, made: list[Path], gpus: int, nights: int) -> None:
    """A run directory for every night and GPU."""
    by_state = {path.name: path for path in made}
    for day in range(nights):
        for gpu in range(gpus):
            night = by_state[STATES[(day + gpu) % len(STATES)]]
            when = END - timedelta(days=nights - day, minutes=-gpu)
            name = f"{when:%Y%m%d-%H%M}-{gpu}"
            shutil.copytree(night, runs / name, copy_function=_copied)
            prepared = json.loads((night / "prepare.json").read_text())
            prepared |= {"run_id": name, "created": when.isoformat()}
            prepared["environment"] |= {"device_name": f"GPU model {gpu}", "host": f"box-{gpu}"}
            (runs / name / "prepare.json").write_text(json.dumps(prepared, indent=1))


def _copied(source: str, target: str) -> None:
    """Records have bytes of their own, so that reading them costs what it costs; the rest of a night is not read."""
    (shutil.copy2 if source.endswith(".json") else os.link)(source, target)


def evict(runs: Path) -> None:
    """Nothing of the nights stays in the page cache: what is read next comes from the disk."""
    os.sync()
    for file in runs.glob("*/*"):
        if file.suffix == ".json" or file.name == brief.FILE:
            with file.open("rb") as opened:
                os.posix_fadvise(opened.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def disk(night: Path) -> None:
    sizes = {path: path.stat().st_size for path in night.rglob("*") if path.is_file()}
    total = sum(sizes.values())
    largest = sorted(sizes.items(), key=lambda item: -item[1])[:3]
    told = ", ".join(f"{path.relative_to(night)} {size / 1e6:.1f}" for path, size in largest)
    print(f"{'disk a night':<56} {total / 1e6:8.1f} MB   (largest: {told})")


def parse_dags() -> None:
    """Each DAG file in a process of its own, as the DAG processor does it."""
    with tempfile.TemporaryDirectory() as home:
        environment = os.environ | {"AIRFLOW_HOME": home, "PYTHONPATH": str(CHECKOUT)}
        for file in sorted((CHECKOUT / "dags").glob("*.py")):
            command = [sys.executable, "-c", PARSE, str(file)]
            done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
            wall, busy = map(float, done.stdout.split()[-2:])
            kept = "kept" if busy < PARSE_S else "BROKEN"
            told = f"{wall:8.2f} s, {busy:.2f} s of a processor   (bound {PARSE_S} s of a processor: {kept})"
            print(f"{'parse ' + file.name:<56} {told}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gpus", type=int, default=10)
    parser.add_argument("--nights", type=int, default=365)
    args = parser.parse_args()
    root = Path(tempfile.mkdtemp(prefix="fp8bench-load-"))
    try:
        config = Config(home=root / "home", mail={"to": ("a@example.org",)})
        made = templates(root, config)
        disk(made[0])
        with timed(f"(making {args.gpus * args.nights} run directories)"):
            fill(config.runs_dir, made, args.gpus, args.nights)
        evict(config.runs_dir)
        with timed("the page over all nights, every brief made anew"):
            stages.refresh_index(config)
        evict(config.runs_dir)
        with timed("the page over all nights, nothing in memory", 10):
            stages.refresh_index(config)
        with timed("the page over all nights, again", 10):
            page = stages.refresh_index(config)
        print(f"{'its size':<56} {page.stat().st_size / 1e6:8.1f} MB")
        late = make_night(
            config.runs_dir / "last", "regressed", suite="reference", seed=9, run_id="last", config=config
        )
        (late / "verdicts.json").unlink()
        with timed("judge a night beside them"):
            stages.run_stage("judge", late, config)
        with timed("log a night into it", 60):
            stages.run_stage("log", late, config)
        with timed("render a night, with the page", 60):
            stages.run_stage("render", late, config)
        parse_dags()
    finally:
        shutil.rmtree(root, ignore_errors=True)


if __name__ == "__main__":
    main()
