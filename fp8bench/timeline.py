"""What a night's hours went into: how long each stage took, how much of that was work on the device, and what lay
between the stages.

A stage that did its work leaves `logs/took-<stage>.json`; one that finds its work done leaves nothing, and what took
several tries is told by the try that succeeded. Reports show none of it: a night that was resumed reads the same.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from . import records
from .errors import RunDirError
from .records import Document
from .rundir import RunDir

ON_DEVICE = ("check", "time", "confirm")
_PREFIX = "took-"


class Took(Document):
    """`logs/took-<stage>.json`, `logs/took-<stage>-<shard>.json`"""

    stage: str
    shard: int | None = None  # None: of a stage without shards, or all of them side by side
    began: datetime
    seconds: float
    waited: float = 0.0  # seconds of these, for a device that another night held

    @property
    def ended(self) -> datetime:
        return self.began + timedelta(seconds=self.seconds)


@dataclass
class Watch:
    """Runs while a stage does."""

    waited: float = 0.0

    def wait(self, seconds: float) -> None:
        """Note a wait for a device; of shards that waited side by side, the longest counts."""
        self.waited = max(self.waited, seconds)


@contextmanager
def noted(run: RunDir, stage: str, shard: int | None = None) -> Iterator[Watch]:
    """Note how long what is done inside takes, unless that was noted before, or there is nothing to do."""
    suffix = "" if shard is None else f"-{shard}"
    file = run.logs / f"{_PREFIX}{stage}{suffix}.json"
    is_known = file.is_file() or run.is_done(stage, shard)
    watch, began, start = Watch(), datetime.now(UTC), time.monotonic()
    yield watch
    if not is_known:
        took = Took(stage=stage, shard=shard, began=began, seconds=time.monotonic() - start, waited=watch.waited)
        with suppress(RunDirError, OSError):  # a full disk must not stop a night that has its results
            run.logs.mkdir(exist_ok=True)
            records.write(took, file, sync=False)


@dataclass(frozen=True)
class Timeline:
    """The stages of a night in the order in which they began."""

    stages: tuple[Took, ...]

    @property
    def seconds(self) -> float:
        """From the first beginning to the last end."""
        return (max(took.ended for took in self.stages) - self.stages[0].began).total_seconds() if self.stages else 0.0

    @property
    def on_device(self) -> float:
        """Seconds in which at least one stage worked on a device, waiting left out."""
        return _covered([took for took in self.stages if took.stage in ON_DEVICE])

    @property
    def waited(self) -> float:
        return sum(took.waited for took in self.stages)

    @property
    def elsewhere(self) -> float:
        """Seconds of stages that need no device."""
        return _covered([took for took in self.stages if took.stage not in ON_DEVICE])

    @property
    def between(self) -> float:
        """Seconds between stages: a scheduler's, or those of tries that failed."""
        return max(0.0, self.seconds - _covered(self.stages) - self.waited)


def _covered(stages: Sequence[Took]) -> float:
    """Seconds in which at least one of `stages` worked; each works after its wait."""
    total, until = 0.0, None
    for took in sorted(stages, key=lambda entry: entry.began + timedelta(seconds=entry.waited)):
        start = took.began + timedelta(seconds=took.waited)
        start = start if until is None else max(start, until)
        if took.ended > start:
            total += (took.ended - start).total_seconds()
            until = took.ended
    return total


def read(run: RunDir) -> Timeline:
    """What is noted of a night; a note that cannot be read is left out."""
    found = []
    for file in run.logs.glob(f"{_PREFIX}*.json"):
        with suppress(RunDirError, OSError):
            found.append(records.read(Took, file))
    return Timeline(tuple(sorted(found, key=lambda took: took.began)))


def sentence(found: Timeline) -> str:
    """`212 s: 151 s on the device (check, time, confirm), 41 s in other stages, 20 s between them`; "" of no notes."""
    if not found.stages:
        return ""
    parts = [
        f"{found.on_device:.0f} s on the device ({', '.join(ON_DEVICE)})",
        *([f"{found.waited:.0f} s waiting for it"] if found.waited >= 1 else []),
        f"{found.elsewhere:.0f} s in other stages",
        f"{found.between:.0f} s between them",
    ]
    return f"{found.seconds:.0f} s: {', '.join(parts)}"


def table(found: Timeline) -> Iterator[str]:
    """A line a stage: when it began after the first one, how long it took, where; and the sentence."""
    for took in found.stages:
        name = took.stage if took.shard is None else f"{took.stage} shard {took.shard}"
        after = (took.began - found.stages[0].began).total_seconds()
        waited = f"  ({took.waited:.1f} s of these waiting for the device)" if took.waited >= 0.05 else ""
        where = "  on the device" if took.stage in ON_DEVICE else ""
        yield f"{name:<18} {'+' + format(after, '.1f'):>9} s {took.seconds:9.1f} s{where}{waited}"
    yield sentence(found) or "Nothing is noted of this night: it ran before stages noted their time."
