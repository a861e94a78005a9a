"""Tell what could not be told in time: nights that MLflow or the mail host did not take, once these are back, those
whose telling was cut short, digests that wait, and that a night has no verdict, where it still has none.

A night is a directory that keeps everything, so it is a spool too: its `log`, `render` and `alert` stages are run
again. They do nothing twice.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from . import alerts, stages, wording
from .config import Config
from .errors import Fp8BenchError
from .rundir import RunDir

YOUNG_S = 3600.0  # a night that was judged since then tells itself
STAGES = ("log", "render", "alert")


@dataclass(frozen=True)
class Told:
    """A night, or a digest, that something was left to tell of; trouble: why that is still so, or ""."""

    path: Path
    trouble: str = ""


def waiting(config: Config, young_s: float = YOUNG_S) -> list[Path]:
    """Judged nights, by name, of which something is left to tell: one that is young, only when it was refused."""
    if not config.runs_dir.is_dir():
        return []
    nights = (path.parent for path in config.runs_dir.glob("*/verdicts.json"))
    return sorted(path for path in nights if _is_waiting(path, config, young_s))


def _is_waiting(path: Path, config: Config, young_s: float) -> bool:
    """Whether a stage has something to do; in a damaged night it has, and says what is damaged."""
    run = RunDir(path)
    try:
        if not run.refused.is_file() and time.time() - run.verdicts.stat().st_mtime <= young_s:
            return False
        in_mlflow = run.mlflow.is_file() and run.is_done("render") and run.is_attached()
        return not in_mlflow or _has_mails(path, config)
    except (Fp8BenchError, OSError):
        return True


def _has_mails(path: Path, config: Config) -> bool:
    """Whether mails are to be composed, or wait and should go."""
    return not RunDir(path).composed.is_file() or (_should_go(path, config) and bool(alerts.pending(path)))


def _should_go(path: Path, config: Config) -> bool:
    """Whether what waits in an outbox can be sent or was refused: without a mail host it lies there rightly."""
    return RunDir(path).refused.is_file() or any(not channel.why_not(config) for channel in alerts.CHANNELS)


def tell(config: Config, young_s: float = YOUNG_S) -> Iterator[Told]:
    """Log, render and mail what waits. Each one's trouble is its own, and the others are told all the same."""
    for path in waiting(config, young_s):
        # No stage waits for another: mail needs no MLflow.
        troubles = [_trouble(f"stage {name}", partial(_run_stage, name, path, config)) for name in STAGES]
        yield Told(path, " ".join(dict.fromkeys(filter(None, troubles))))
    apart = [(path, path) for path in alerts.waiting_digests(config)]
    apart += [(run.path, run.no_verdict) for run in _without_verdict(config, young_s)]
    for path, where in apart:
        if _should_go(where, config):
            yield Told(path, _trouble("the mail", partial(alerts.deliver_apart, where, config)))


def _without_verdict(config: Config, young_s: float) -> Iterator[RunDir]:
    """Nights without a verdict that have told nobody so; one that was judged since tells what it found."""
    for run in map(RunDir, sorted(config.runs_dir.glob("*"))):
        waiting = alerts.pending(run.no_verdict)
        if waiting and not run.verdicts.is_file() and time.time() - waiting[0].stat().st_mtime > young_s:
            yield run


def _run_stage(name: str, path: Path, config: Config) -> None:
    if name != "alert" or _has_mails(path, config):
        stages.run_stage(name, path, config)


def _trouble(name: str, work: Callable[[], object]) -> str:
    """Why `work` could not be done, or ""."""
    try:
        work()
    except Fp8BenchError as error:
        return str(error)
    except Exception as error:  # noqa: BLE001 whatever a night holds, the others are told
        return f"{name} broke, a fault of fp8bench ({wording.one_line(f'{type(error).__name__}: {error}', 200)})."
    return ""
