"""What every test shares: a home of its own, no settings from outside, and where tests may run.

Set before anything is imported: Airflow reads its settings when it is imported, the DAG file reads fp8bench's.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).resolve().parent.parent
HOME = CHECKOUT / ".fp8bench" / "test-home"  # kept between sessions: builds are cached by content
AIRFLOW_HOME = HOME / "airflow-of-tests"
INDUCTOR = HOME / "cache" / "inductor"  # where workers of nights in HOME look, too

for _name in list(os.environ):
    if _name.startswith(("FP8BENCH_", "AIRFLOW_", "MLFLOW_")) and _name != "FP8BENCH_NO_NVCC":
        del os.environ[_name]
os.environ |= {
    "FP8BENCH_HOME": str(HOME),
    "FP8BENCH_CONFIG": os.devnull,
    "FP8BENCH_AIRFLOW__RETRIES": "0",
    "TORCHINDUCTOR_CACHE_DIR": str(INDUCTOR),
    "TORCHINDUCTOR_COMPILE_THREADS": "1",  # as in workers; more are a process that imports torch
    "AIRFLOW_HOME": str(AIRFLOW_HOME),
    "AIRFLOW__CORE__DAGS_FOLDER": str(CHECKOUT / "dags"),
    "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
    "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": f"sqlite:///{AIRFLOW_HOME}/airflow.db",
    "AIRFLOW__DATABASE__LOAD_DEFAULT_CONNECTIONS": "False",
}
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)  # hundreds of processes are started: fp8bench is compiled once for all

# The files that take longest, longest first: a long file that is begun last is one worker's, while the others idle.
LONGEST = (
    "test_airflow_night.py",
    "test_nightly.py",
    "test_builds.py",
    "test_dag.py",
    "test_service.py",
    "test_faults.py",
    "test_security.py",
    "test_store.py",
    "test_triton.py",
    "test_bench.py",
    "test_worker.py",
    "test_report.py",
    "test_report_forms.py",
    "test_alerts.py",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Long files first; within a file, and among the short ones, everything stays in its order."""
    rank = {name: number for number, name in enumerate(LONGEST)}
    items.sort(key=lambda item: rank.get(item.path.name, len(LONGEST)))


def with_compiled_kernels(home: Path) -> Path:
    """`home` with this checkout's CPU library compiled: a copy, so that what is done to it stays there."""
    from fp8bench import builds, config, libraries, paths

    shared = config.load().builds_dir
    built = builds.build(paths.CHECKOUT, "", "candidate", config.load(), worktree=True, backends=("cpu",))
    (library,) = Path(built.path).glob("libfp8bench_cpu-*.so")
    name = library.stem.rpartition("-")[2]
    copy = shutil.copytree(shared / ".libraries" / name, home / "builds" / ".libraries" / name)
    assert libraries.is_sound(copy, library.name)
    return home


@pytest.fixture(scope="session")
def airflow_database() -> Path:
    """An empty Airflow database, for one process: the tests that use it are in one file, and files are not split."""
    shutil.rmtree(AIRFLOW_HOME, ignore_errors=True)
    AIRFLOW_HOME.mkdir(parents=True)
    from airflow.utils.db import initdb

    initdb()
    return AIRFLOW_HOME
