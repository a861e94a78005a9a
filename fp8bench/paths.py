"""Where things lie: the project's own sources, and the home of everything fp8bench writes.

home/
├── builds/<hash>/     kernels of a commit, by content (`fp8bench.builds`)
├── repos/             bare clones of the repositories under test
├── runs/<run id>/     one directory a night (`fp8bench.rundir`)
├── index.html         the page over all nights
├── causes.json        what was told of each cause, and what people decided (`fp8bench.causes`)
├── cache/             compile caches of Inductor and Triton
├── mlflow.db, mlflow-artifacts/
└── airflow/           the embedded Airflow
"""

from __future__ import annotations

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
