"""The clock of a CPU: one thread on one core, wall clock."""

from __future__ import annotations

import os
import time
from functools import cached_property
from typing import ClassVar

import numpy as np
import torch

from . import machine, plan
from .clock import BLOCK_S, WARMUP_S, Call, Clock, Job, quiet_gc

TRIES = 4  # to run a block without being preempted


class CpuClock(Clock):
    """Times calls on one core: the least loaded one that this process may use.

    Making one sets torch to one thread and pins the calling thread for the rest of the process.
    """

    max_sets: ClassVar[int] = 64
    calls_range: ClassVar[tuple[int, int]] = (1, 2000)

    def __init__(self, block_s: float = BLOCK_S, warmup_s: float = WARMUP_S) -> None:
        super().__init__(block_s, warmup_s)
        torch.set_num_threads(1)
        if hasattr(os, "sched_setaffinity"):  # Linux
            os.sched_setaffinity(0, {machine.least_loaded_core()})

    @cached_property
    def cache_bytes(self) -> int:
        return machine.cpu_cache_bytes()

    @cached_property
    def _flush_buffer(self) -> np.ndarray:
        return np.ones(4 * self.cache_bytes // 8)

    def _flush(self) -> None:
        """Evict everything from the caches by reading four times their size."""
        self._flush_buffer.sum()

    def _block(self, calls: list[Call], job: Job, planted: float = 0.0) -> float:
        """Seconds of one run through `calls`, undisturbed if that can be had in a few tries, else the shortest.

        A run during which the kernel gave the core to somebody else has measured that as well. It is repeated,
        whichever arm it belongs to. planted: share of itself that it waits at its end.
        """
        shortest = float("inf")
        for _ in range(TRIES):
            if job.before:
                job.before()
            if job.cold:
                self._flush()
            before = machine.preemptions()
            begin = time.perf_counter_ns()
            for call in calls:
                call()
            seconds = _until(begin, planted) if planted else (time.perf_counter_ns() - begin) * 1e-9
            shortest = min(shortest, seconds)
            if machine.preemptions() == before:
                return seconds
        return shortest

    def _warm_up(self, job: Job) -> float:
        """Every callable at least twice, for at least the warm-up time. Seconds a call of the slowest arm."""
        best = [float("inf")] * len(job.arms)
        end, rounds = time.perf_counter() + self.warmup_s, 0
        while rounds < 2 or time.perf_counter() < end:
            for number, arm in enumerate(job.arms):
                best[number] = min(best[number], self._block(list(arm), job) / len(arm))
            rounds += 1
        return max(best)

    def _time(self, job: Job) -> tuple[int, list[float]]:
        with quiet_gc():
            warm = self._warm_up(job)
            calls = self._calls(job.seconds or warm, min(map(len, job.arms)), job.cold)
            blocks = [[arm[number % len(arm)] for number in range(calls)] for arm in job.arms]
            waits = [job.planted_in(arm) for arm in range(len(blocks))]
            seconds: list[float] = []
            for series in range(1, job.executables.series + 1):
                seconds += [self._block(blocks[arm], job, waits[arm]) / calls for _, _, arm in job.order]
                if series == job.executables.series or self._is_precise(job, seconds):
                    break
            return calls, seconds

    @staticmethod
    def _is_precise(job: Job, seconds: list[float]) -> bool:
        """Whether the effect needs no more series; here quads stand for executables, of which there are none."""
        return plan.standard_error(job.order, seconds, plan.quads(job.order)) <= job.executables.precision


def _until(begin: int, share: float) -> float:
    """Wait until `share` more has passed than has since `begin` (ns); seconds since then.

    A share of what this very block took: it is slower by as much whatever the machine does meanwhile.
    """
    now = time.perf_counter_ns()
    end = now + share * (now - begin)
    while now < end:
        now = time.perf_counter_ns()
    return (now - begin) * 1e-9
