"""The clock of a CUDA device: replays of captured graphs between two events."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from functools import cached_property, partial
from statistics import median
from typing import ClassVar

import torch

from .. import graphs
from . import plan
from .clock import BLOCK_S, WARMUP_S, Call, Clock, Job, quiet_gc

PROBE_CALLS = 6  # of the first capture, which tells how long a call takes and is thrown away
PROBE_REPLAYS = 3
EVENT_RESOLUTION_S = 0.5e-6
FLUSH_BYTES = 512 << 20
SEPARATOR_CYCLES = 4000  # some 2 us: longer than the device needs to get the next kernel of a graph ready
SPIN_CYCLES = (2_000, 200_000)  # of a planted block: what every arm spins for, and what tells how long a cycle is
SPIN_REPLAYS = 6
RAMP_UP_S = 0.3  # an idle GPU needs this long to reach its clocks


_Arm = tuple[Sequence[Call], int]  # callables, cycles to spin behind the last of a block


class CudaGraphClock(Clock):
    """Times calls on the current CUDA device.

    A block is one replay of a graph of many calls, so no launch cost of the host is inside. All blocks of a
    measurement are enqueued before the first result is awaited: the device never waits for the host between blocks.
    The first capture of a cell is never timed (one was seen to run 10% faster than all later ones); whether its calls
    overlap is read from it.
    """

    max_sets: ClassVar[int] = 120
    calls_range: ClassVar[tuple[int, int]] = (6, 240)

    def __init__(self, block_s: float = BLOCK_S, warmup_s: float = WARMUP_S) -> None:
        super().__init__(block_s, warmup_s)
        self._stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        # One memory pool for all graphs: callables that allocate their own results get the same addresses in every
        # arm. A graph that lives as long as the clock keeps the pool from being returned after each cell.
        self._pool = torch.cuda.graph_pool_handle()
        increment = partial(torch.zeros(1, device="cuda").add_, 1)
        self._call_once([[increment]])
        self._keeper = self._capture([increment], 1)
        self._ramp_up()

    @cached_property
    def cache_bytes(self) -> int:
        return int(torch.cuda.get_device_properties(torch.cuda.current_device()).L2_cache_size)

    @cached_property
    def _flush_buffer(self) -> torch.Tensor:
        return torch.zeros(max(FLUSH_BYTES, 4 * self.cache_bytes) // 4, device="cuda")

    @cached_property
    def _flush_sink(self) -> torch.Tensor:
        return torch.zeros((), device="cuda")

    def _flush(self) -> None:
        """Evict everything from the L2 cache by reading; writing would leave dirty lines to be paid for later."""
        torch.sum(self._flush_buffer, dim=0, out=self._flush_sink)

    def _ramp_up(self) -> None:
        end = time.perf_counter() + RAMP_UP_S
        while time.perf_counter() < end:
            self._flush()
            torch.cuda.synchronize()

    def _capture(self, calls: Sequence[Call], count: int, *, keep: bool = False, spin: int = 0) -> torch.cuda.CUDAGraph:
        """A graph of `count` calls that take turns; `keep` keeps what can be read of it, and makes it ready later.

        spin: cycles for which the device does nothing behind the last call; 0: no such kernel is there.

        Not `torch.cuda.graph`, which collects garbage and empties the allocator's cache each time (0.1 s).
        """
        graph = torch.cuda.CUDAGraph(keep_graph=keep)
        # Results that a callable allocates live until its set comes round again, so that they rotate as well.
        results: deque[object] = deque(maxlen=len(calls))
        # Collecting garbage may free device resources, which would break a capture.
        with quiet_gc(), torch.cuda.stream(self._stream):
            graph.capture_begin(pool=self._pool, capture_error_mode="thread_local")
            try:
                for number in range(count):
                    results.append(calls[number % len(calls)]())
                if spin:
                    _spin(spin)
            except BaseException:
                with suppress(RuntimeError):  # an invalid capture: the cause is on its way
                    graph.capture_end()
                raise
            results.clear()
            graph.capture_end()
        return graph

    def _replay(self, made: list[torch.cuda.CUDAGraph], order: list[int], cold: bool) -> list[float]:
        """Seconds of one replay of `made[i]` for each i in `order`."""
        starts = [torch.cuda.Event(enable_timing=True) for _ in order]  # type: ignore[no-untyped-call]
        ends = [torch.cuda.Event(enable_timing=True) for _ in order]  # type: ignore[no-untyped-call]
        with quiet_gc(), torch.cuda.stream(self._stream):
            for number, start, end in zip(order, starts, ends, strict=True):
                if cold:
                    self._flush()
                start.record()
                made[number].replay()
                end.record()
            self._stream.synchronize()
        return [start.elapsed_time(end) * 1e-3 for start, end in zip(starts, ends, strict=True)]

    def _call_once(self, arms: list[Sequence[Call]]) -> None:
        """Each arm's first callable once outside a capture: lazily loaded code may not be loaded inside one.

        Those of the other buffer sets run the same code.
        """
        torch.cuda.synchronize()  # the buffers were filled on another stream
        with torch.cuda.stream(self._stream):
            for arm in arms:
                arm[0]()
        self._stream.synchronize()

    def isolated(self, arm: Sequence[Call], quads: int = 10, *, cold: bool = False) -> list[float]:
        """Seconds that one call adds to a chain of another kernel.

        That kernel spins on one multiprocessor, touches no memory and knows nothing of dependent launches: a call
        starts when it has ended and it starts when the call has ended. So nothing of the call overlaps anything, and
        one launch from kernel to kernel is part of the result. Blocks of pairs and of that kernel alone alternate.
        """
        pairs = [partial(_behind_separator, call) for call in arm]
        blocks = self.quads([pairs, [_separate] * len(pairs)], quads, cold=cold)
        each = [[(block.quad, block.seconds) for block in blocks if block.arm == number] for number in (0, 1)]
        return plan.by_difference(*each)

    def _probe(self, arms: list[torch.cuda.CUDAGraph], cold: bool) -> float:
        """Seconds a call of the slowest arm, roughly; arms: a graph of PROBE_CALLS calls each."""
        order = list(range(len(arms))) * PROBE_REPLAYS
        seconds = self._replay(arms, order, cold)
        slowest = max(min(seconds[arm :: len(arms)]) for arm in range(len(arms)))
        return max(slowest, EVENT_RESOLUTION_S) / PROBE_CALLS

    def _spins(self, job: Job, calls: int) -> list[int]:
        """Cycles that a block of `calls` calls spins for at its end, by arm; 0 unless something is planted.

        Every arm then ends with the same kernel, so that what is planted is the difference alone and no launch of a
        kernel: 0.3% of a block is about what a launch costs. How long a cycle lasts is measured on this very block.
        """
        if not job.planted:
            return [0] * len(job.arms)
        both = [self._capture(job.arms[0], calls, spin=cycles) for cycles in SPIN_CYCLES]
        seconds = self._replay(both, [0, 1] * (SPIN_REPLAYS + 1), job.cold)[2:]
        short, long = median(seconds[::2]), median(seconds[1::2])
        shares = [job.planted_in(arm) for arm in range(len(job.arms))]
        return [plan.spin_cycles(share, short, long, *SPIN_CYCLES) for share in shares]

    def _captures(self, arms: Sequence[_Arm], calls: int, first: int, count: int) -> list[list[torch.cuda.CUDAGraph]]:
        """Graphs of `calls` calls, one an arm, for each of `count` captures from number `first` on.

        Which arm is captured first alternates.
        """
        captures = []
        for number in range(first, first + count):
            backwards = number % 2 == 1
            made = self._capture_each(arms[::-1] if backwards else arms, calls)
            captures.append(made[::-1] if backwards else made)
        return captures

    def _capture_each(self, arms: Sequence[_Arm], calls: int) -> list[torch.cuda.CUDAGraph]:
        """A graph an arm; equal arms, which cannot differ, share one."""
        made: list[torch.cuda.CUDAGraph] = []
        for number, arm in enumerate(arms):
            same = arms.index(arm)
            made.append(made[same] if same < number else self._capture(arm[0], calls, spin=arm[1]))
        return made

    def _time(self, job: Job) -> tuple[int, list[float]]:
        self._call_once([*job.arms, [partial(_spin, 1)]] if job.planted else job.arms)
        first = [self._capture(arm, PROBE_CALLS, keep=True) for arm in job.arms]
        per_call = job.seconds or self._probe(first, job.cold)
        calls = self._calls(per_call, min(map(len, job.arms)), job.cold)
        arms = list(zip(job.arms, self._spins(job, calls), strict=True))
        count = job.captures.each if self._differ(job, first) else 1
        rounds = max(1, round(self.warmup_s / (per_call * calls * len(job.arms))))
        seconds: list[float] = []
        for series in range(job.captures.series):
            captures = self._captures(arms, calls, series * count, count)
            seconds += self._series(job, captures, rounds if series == 0 else 1)
            if count == 1 or plan.standard_error(job.order, seconds, count) <= job.captures.precision:
                break
        return calls, [value / calls for value in seconds]

    def _differ(self, job: Job, first: Sequence[torch.cuda.CUDAGraph]) -> bool:
        """Whether captures of a cell differ from each other, which several then average over.

        Calls that overlap their neighbours take one of two times, which last as long as the captured graph; and with
        cold caches it shows where a graph's own data lie.
        """
        return job.captures.each > 1 and (job.cold or any(graphs.overlaps(graph.raw_cuda_graph()) for graph in first))

    def _series(self, job: Job, captures: list[list[torch.cuda.CUDAGraph]], rounds: int) -> list[float]:
        """Seconds of each block of the order, after so many rounds of warm-up."""
        warmup, order = plan.replays(job.order, len(job.arms), len(captures), rounds)
        # One queue for warm-up and blocks: the first timed block starts on a busy device.
        every = [graph for capture in captures for graph in capture]
        return self._replay(every, warmup + order, job.cold)[len(warmup) :]


def _spin(cycles: int) -> None:
    """Enqueue a kernel that does nothing for so many cycles."""
    torch.cuda._sleep(cycles)  # type: ignore[no-untyped-call]


def _separate() -> None:
    """Enqueue the kernel that keeps calls apart."""
    _spin(SEPARATOR_CYCLES)


def _behind_separator(call: Call) -> object:
    _separate()
    return call()
