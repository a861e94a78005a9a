"""Tell what could not be told in time: nights that MLflow or the mail host did not take, once these are back.

Also that a night has no verdict, where it still has none.

A night is a directory that keeps everything, so it is a spool too: its `log`, `render` and `alert` stages are run
again. They do nothing twice.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from . import alerts, stages
from .config import Config
from .errors import Fp8BenchError
from .rundir import RunDir

YOUNG_S = 3600.0  # a night that was judged since then tells itself


@dataclass(frozen=True)
class Told:
    """A night that something was left to tell of; trouble: why that is still so, or ""."""

    path: Path
    trouble: str = ""


def waiting(config: Config, young_s: float = YOUNG_S) -> list[Path]:
    """Judged nights, oldest first, that are not in MLflow, or whose mails wait and could be sent."""
    if not config.runs_dir.is_dir():
        return []
    nights = [path.parent for path in config.runs_dir.glob("*/verdicts.json") if _age(path) > young_s]
    return sorted(path for path in nights if _is_waiting(path, config))


def _age(path: Path) -> float:
    return time.time() - path.stat().st_mtime


def _is_waiting(path: Path, config: Config) -> bool:
    run = RunDir(path)
    mails = run.outbox.is_dir() and alerts.pending(path) and any(not c.why_not(config) for c in alerts.CHANNELS)
    return not run.mlflow.is_file() or not run.report.is_file() or bool(mails)


def tell(config: Config, young_s: float = YOUNG_S) -> Iterator[Told]:
    """Log, render and mail what waits. Each night's trouble is its own, and the others are told all the same."""
    for path in waiting(config, young_s):
        try:
            for name in ("log", "render", "alert"):
                if name != "alert" or alerts.pending(path):
                    stages.run_stage(name, path, config)
        except Fp8BenchError as error:
            yield Told(path, str(error))
        else:
            yield Told(path)
    yield from _without_verdict(config, young_s)


def _without_verdict(config: Config, young_s: float) -> Iterator[Told]:
    """Send the mails about nights without a verdict that wait; a night that was judged since tells that itself."""
    if all(channel.why_not(config) for channel in alerts.CHANNELS):
        return
    for message in sorted(config.runs_dir.glob("*/no-verdict/outbox/*.json")):
        where, run = message.parent.parent, RunDir(message.parent.parent.parent)
        if run.verdicts.is_file() or _age(message) <= young_s or not alerts.pending(where):
            continue
        try:
            alerts.deliver(where, config)
        except Fp8BenchError as error:
            yield Told(run.path, str(error))
        else:
            yield Told(run.path)
