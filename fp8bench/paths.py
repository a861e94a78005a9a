"""Where things lie: the project's own sources, and the home of everything fp8bench writes.

home/
├── builds/<hash>/     kernels of a commit, by content (`fp8bench.builds`)
├── repos/             bare clones of the repositories under test, shallow until history is asked for
├── runs/<run id>/     one directory a night (`fp8bench.rundir`)
├── index.html         the page over all nights
├── causes.json        what was told of each cause, and what people decided (`fp8bench.causes`)
├── cache/             compile caches of Inductor and Triton
├── mlflow.db, mlflow-artifacts/
├── service.json, service.log   of `make up`
└── airflow/           the embedded Airflow
"""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

_PACKAGE = Path(__file__).resolve().parent


def _shipped(name: str) -> Path:
    """A top-level folder of the project: beside the package in a checkout, inside it in a wheel."""
    checkout = _PACKAGE.parent / name
    return checkout if checkout.is_dir() else _PACKAGE / f"_{name}"


CSRC = _shipped("csrc")
TEMPLATES = _shipped("templates")
BACKENDS = _PACKAGE / "backends"
CHECKOUT = _PACKAGE.parent  # meaningful only where it is a git checkout

NIGHTLY_DAG = "fp8bench_nightly"  # in Airflow; that of another kind of GPU: fp8bench_nightly_<fleet>


def run_directory(runs_dir: Path, run_id: str) -> Path:
    """Where the run `run_id` of another program keeps its files: a plain name, and another one for every run id."""
    name = re.sub(r"[^A-Za-z0-9_.-]", "-", run_id)[:100].lstrip(".-")
    if name != run_id:
        name = f"{name or 'run'}-{hashlib.sha256(run_id.encode()).hexdigest()[:8]}"
    return runs_dir / name


def night_directory(runs_dir: Path, dag_id: str, run_id: str) -> Path:
    """Where a run of a nightly DAG keeps its files; nights of several kinds of GPU may bear the same run id."""
    fleet = dag_id.removeprefix(NIGHTLY_DAG).lstrip("_")
    return run_directory(runs_dir, f"{run_id}-on-{fleet}" if fleet else run_id)
