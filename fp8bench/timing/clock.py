"""What both clocks share: the interface, the order of the blocks, a quiet garbage collector."""

from __future__ import annotations

import gc
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import ClassVar, NamedTuple

from . import plan

Call = Callable[[], object]

BLOCK_S = 0.5e-3
WARMUP_S = 5e-3


class Block(NamedTuple):
    """One timed block."""

    quad: int
    position: int  # in the quad
    arm: int
    calls: int
    seconds: float  # a call


class Executables(NamedTuple):
    """Over how many executables of a CUDA graph the quads of two arms are spread, where they differ.

    A *series* is `each` executables with all quads of the order. Series follow each other until the standard error of
    the effect is at most `precision` (log-ratio), or `series` are done. On a CPU a series is all quads once more.
    """

    each: int = 1
    precision: float = 0.0
    series: int = 1


class Job(NamedTuple):
    """What is to be timed."""

    arms: list[Sequence[Call]]
    order: list[tuple[int, int, int]]  # (quad, position, arm) of each block of a series
    cold: bool
    executables: Executables = Executables()
    seconds: float = 0.0  # a call, of the slowest arm; 0: not known
    planted: float = 0.0  # share by which every block of the last arm is made longer on purpose
    before: Call | None = None  # called before every block, and not timed

    def planted_in(self, arm: int) -> float:
        return self.planted if arm == len(self.arms) - 1 else 0.0


@contextmanager
def quiet_gc() -> Iterator[None]:
    """No garbage collection inside: a pause would be measured."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


class Clock(ABC):
    """Times callables in blocks of many calls.

    An arm is a list of callables that do the same work, one for each buffer set: hot measurements use the first
    alone, cold ones rotate over all (`sets_for` says how many that must be). All arms should use the same buffers.

    block_s: aimed length of a block in seconds. warmup_s: length of the warm-up of each measurement in seconds.
    """

    max_sets: ClassVar[int]  # most buffer sets of a cold measurement
    calls_range: ClassVar[tuple[int, int]]

    def __init__(self, block_s: float = BLOCK_S, warmup_s: float = WARMUP_S) -> None:
        self.block_s = block_s
        self.warmup_s = warmup_s

    @property
    @abstractmethod
    def cache_bytes(self) -> int:
        """Size of the last-level cache that a cold measurement must outgrow."""

    def sets_for(self, bytes_per_set: int, *, cold: bool) -> int:
        """How many buffer sets of `bytes_per_set` bytes a measurement needs: one when hot."""
        return plan.sets_needed(bytes_per_set, self.cache_bytes, self.max_sets) if cold else 1

    def quads(
        self,
        arms: Sequence[Sequence[Call]],
        quads: int,
        *,
        cold: bool = False,
        executables: Executables = Executables(),  # noqa: B008 a value
        seconds: float = 0.0,
        planted: float = 0.0,
        before: Call | None = None,
    ) -> list[Block]:
        """Time the arms against each other in `quads` quads A B B A, B A A B, ...; raw blocks in order of time.

        executables: over how many the quads are spread, and when there are more of both.
        seconds: that a call is known to take, which spares finding out. planted: share by which each block of the last
        arm is really made longer, by waiting at its end: 0.01 is 1%. before: makes ready what the arms share, before
        every block and untimed. Errors of a callable propagate.
        """
        order = plan.palindromes(len(arms), quads)
        job = Job([_sets(arm, cold) for arm in arms], order, cold, executables, seconds, planted, before)
        calls, times = self._time(job)
        places = plan.in_series(order, len(times) // len(order))
        return [Block(*place, calls, value) for place, value in zip(places, times, strict=True)]

    def measure(self, arm: Sequence[Call], blocks: int = 20, *, cold: bool = False) -> list[float]:
        """Seconds a call of one arm, once for each of `blocks` blocks."""
        return self._time(Job([_sets(arm, cold)], [(number, 0, 0) for number in range(blocks)], cold))[1]

    def isolated(self, arms: Sequence[Sequence[Call]], quads: int = 10, *, cold: bool = False) -> list[list[float]]:
        """Seconds that one call of each arm takes by itself, between calls of something else; one value a quad.

        `measure` chains calls of one kind, which a GPU lets overlap each other. Where calls cannot overlap, as on a
        CPU, both are the same.
        """
        return [self.measure(arm, quads, cold=cold) for arm in arms]

    def _calls(self, seconds_per_call: float, sets: int, cold: bool) -> int:
        calls = plan.calls_per_block(seconds_per_call, self.block_s, *self.calls_range)
        return plan.calls_cold(calls, sets, self.max_sets) if cold else calls

    @abstractmethod
    def _time(self, job: Job) -> tuple[int, list[float]]:
        """Warm up, then time one block for each place of the job's order: calls a block, seconds a call.

        More than one series is so many times the order.
        """


def _sets(arm: Sequence[Call], cold: bool) -> Sequence[Call]:
    return arm if cold else arm[:1]
