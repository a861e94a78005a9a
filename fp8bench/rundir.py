"""A night's directory: where each file of it lies, which stages are done, and one process a stage at a time."""

from __future__ import annotations

import fcntl
import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pandas as pd

from . import records
from .errors import RunDirError

_PIECES = {"config.json", "prepare.json", "logs", "samples", "no-verdict"}


class RunDir:
    """Paths and contents of the run directory at `path`; reading what is not there raises RunDirError."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.config = path / "config.json"
        self.prepare = path / "prepare.json"
        self.build = path / "build.json"
        self.check = path / "check.json"
        self.samples = path / "samples"
        self.screen = path / "screen.json"
        self.verdicts = path / "verdicts.json"
        self.mlflow = path / "mlflow.json"
        self.report = path / "report.html"
        self.summary = path / "summary.md"
        self.junit = path / "junit.xml"
        self.rendered = path / ".report-of"
        self.attached = path / ".report-attached"
        self.alerts = path / "alerts.json"
        self.composed = path / ".composed"
        self.outbox = path / "outbox"
        self.refused = self.outbox / "refused.txt"
        self.no_verdict = path / "no-verdict"  # holds an outbox of its own: the mail that the night has none
        self.logs = path / "logs"

    def time(self, shard: int) -> Path:
        return self.path / f"time-{shard}.json"

    def confirm(self, shard: int) -> Path:
        return self.path / f"confirm-{shard}.json"

    def samples_of(self, shard: int, phase: str = "screen") -> Path:
        return self.samples / (str(shard) if phase == "screen" else f"{phase}-{shard}")

    def create(self) -> None:
        """Make the directory; refuse one that holds something else, or that cannot be written."""
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            entries = {entry.name for entry in self.path.iterdir() if not entry.name.startswith(".")}
        except OSError as error:
            raise RunDirError(f"cannot use {self.path} as a run directory: {error.strerror}; name another.") from None
        if entries and not entries & _PIECES:
            raise RunDirError(f"{self.path} is not empty and no run directory: give an empty or a new one.")

    def discard_unprepared(self) -> None:
        """Remove what `prepare` left of a night that never began, and the directory unless it holds anything else."""
        if self.prepare.is_file():
            return
        with suppress(OSError):
            for left in (self.config, self._lock("prepare")):
                left.unlink(missing_ok=True)
            self.path.rmdir()

    def prepared(self) -> records.Prepared:
        return records.read(records.Prepared, self.prepare)

    def built(self) -> records.BuildReport:
        return records.read(records.BuildReport, self.build)

    def checked(self) -> records.CheckReport:
        return records.read(records.CheckReport, self.check)

    def screened(self) -> records.Screened:
        return records.read(records.Screened, self.screen)

    def timed(self) -> list[records.TimingReport]:
        """One report a shard, in order; behind them those of the confirmation, once there is something to confirm."""
        files = [self.time(shard) for shard in range(len(self.prepared().shards))]
        if self.screen.is_file():
            files += [self.confirm(shard) for shard in range(len(self.screened().shards))]
        return [records.read(records.TimingReport, path) for path in files]

    def judged(self) -> records.Verdicts:
        return records.read(records.Verdicts, self.verdicts)

    def logged(self) -> records.Logged | None:
        """Where the night lies in MLflow; None before it was logged."""
        return records.read(records.Logged, self.mlflow) if self.mlflow.is_file() else None

    def raw_samples(self) -> pd.DataFrame:
        """The timed blocks of the night, in the columns of `records.SAMPLE_COLUMNS`; not those that were dropped."""
        files = sorted(self.samples.glob("*/*.parquet"))
        frames = [_undropped(read_launch(path)) for path in files]
        if not frames:
            return pd.DataFrame(columns=list(records.SAMPLE_COLUMNS))
        return pd.concat(frames, ignore_index=True)[list(records.SAMPLE_COLUMNS)]

    def is_done(self, stage: str, shard: int | None = None) -> bool:
        """Whether the stage's own file is there. `alert` and `gate` have none, and are cheap to repeat."""
        if stage == "time":
            shards = range(len(self.prepared().shards)) if shard is None else [shard]
            return all(self.time(index).is_file() for index in shards)
        if stage == "confirm":
            return self._is_confirmed(shard)
        if stage == "screen":
            return self.screen.is_file() or self.verdicts.is_file()
        files = {"prepare": self.prepare, "build": self.build, "check": self.check, "judge": self.verdicts}
        files |= {"log": self.mlflow}
        if stage == "render":
            return self._report_is_fresh()
        return stage in files and files[stage].is_file()

    def _is_confirmed(self, shard: int | None) -> bool:
        if not self.screen.is_file():
            return self.verdicts.is_file()  # judged before nights had a confirmation
        shards = range(len(self.screened().shards)) if shard is None else [shard]
        return all(self.confirm(index).is_file() for index in shards)

    # Files are told apart by content and not by their times: a clock that is set back must not make a report look new.

    def _report_is_fresh(self) -> bool:
        """A report from before the night reached MLflow lacks the links, one from before a mail was refused does not
        say so. Its other forms are written before it."""
        return self.report.is_file() and _text(self.rendered) == self._told_of()

    def _told_of(self) -> str:
        """The night's place in MLflow and what became of its mails, as far as a report tells them."""
        refused = f" {_digest(self.refused)}" if self.refused.is_file() else ""
        return _digest(self.mlflow) + refused

    def mark_rendered(self) -> None:
        """Note what the report tells of: it is written, and what it tells is as it is now."""
        records.write_bytes(self._told_of().encode(), self.rendered)

    def is_attached(self) -> bool:
        """Whether the report as it is now was handed to MLflow."""
        return self.attached.is_file() and _text(self.attached) == _digest(self.report)

    def mark_attached(self) -> None:
        """Note that MLflow has the report as it is now."""
        records.write_bytes(_digest(self.report).encode(), self.attached)

    def _lock(self, name: str) -> Path:
        return self.path / f".{name}.lock"

    @contextmanager
    def locked(self, name: str) -> Iterator[None]:
        """Hold the lock `name`; RunDirError when another process holds it. Ends with the process, however it ends."""
        try:
            file = self._lock(name).open("a+")
        except OSError as error:
            raise RunDirError(f"cannot write to {self.path}: {error.strerror}.") from None
        with file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                file.seek(0)
                holder = file.read().strip() or "unknown"
                raise RunDirError(
                    f"{name} is being run on {self.path} by process {holder}: wait for it or give another --run-dir."
                ) from None
            _write_pid(file.fileno())
            yield


def _digest(path: Path) -> str:
    """SHA-256 of a file; "none" where there is none."""
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else "none"


def _text(path: Path) -> str:
    return path.read_text(errors="replace") if path.is_file() else ""


def _write_pid(descriptor: int) -> None:
    os.ftruncate(descriptor, 0)
    os.write(descriptor, f"{os.getpid()}\n".encode())


def read_launch(path: Path) -> pd.DataFrame:
    """All stored samples of one launch; RunDirError where the file is damaged."""
    try:
        return pd.read_parquet(path)
    except (OSError, ValueError) as error:  # pyarrow's errors are ValueErrors
        name = path.parent.name  # of a shard that screened, or `confirm-` and its number
        mark = f"time-{name}.json" if name.isdigit() else f"{name}.json"
        told = f"delete it and {mark}, and run the night again: what else was measured stays"
        raise RunDirError(f"{path} is damaged ({error}): {told}.") from None


def _undropped(samples: pd.DataFrame) -> pd.DataFrame:
    """Samples that are judged; those of before there were phases come from a screening."""
    if "phase" not in samples:
        return samples.assign(phase="screen")
    return samples[~samples["dropped"]] if "dropped" in samples else samples
