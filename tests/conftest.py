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

for _name in list(os.environ):
    if _name.startswith(("FP8BENCH_", "AIRFLOW_", "MLFLOW_")) and _name != "FP8BENCH_NO_NVCC":
        del os.environ[_name]
os.environ |= {
    "FP8BENCH_HOME": str(HOME),
    "FP8BENCH_CONFIG": os.devnull,
    "FP8BENCH_AIRFLOW__RETRIES": "0",
    "AIRFLOW_HOME": str(AIRFLOW_HOME),
    "AIRFLOW__CORE__DAGS_FOLDER": str(CHECKOUT / "dags"),
    "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
    "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": f"sqlite:///{AIRFLOW_HOME}/airflow.db",
    "AIRFLOW__DATABASE__LOAD_DEFAULT_CONNECTIONS": "False",
}


@pytest.fixture(scope="session")
def airflow_database() -> Path:
    """An empty Airflow database, for one process: the tests that use it are in one file, and files are not split."""
    shutil.rmtree(AIRFLOW_HOME, ignore_errors=True)
    AIRFLOW_HOME.mkdir(parents=True)
    from airflow.utils.db import initdb

    initdb()
    return AIRFLOW_HOME
