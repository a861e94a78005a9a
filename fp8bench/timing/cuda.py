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


class CudaGraphClock(Clock):
    """Times calls on the current CUDA device.

    A block is one replay of a graph of many calls, so no launch cost of the host is inside. All blocks of a series
    are enqueued before the first result is awaited: the device never waits for the host between blocks.
    The first graph of a cell is never timed (one was seen to run 10% faster than all later ones); whether its calls
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

    def _capture(self, calls: Sequence[Call], count: int, *, spin: int = 0) -> torch.cuda.CUDAGraph:
        """A graph of `count` calls that take turns, not yet ready to run.

        spin: cycles for which the device does nothing behind the last call; 0: no such kernel is there.

        Not `torch.cuda.graph`, which collects garbage and empties the allocator's cache each time (0.1 s).
        """
        graph = torch.cuda.CUDAGraph(keep_graph=True)
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

    def _ready(self, graph: torch.cuda.CUDAGraph) -> graphs.Executable:
        return graphs.Executable(graph.raw_cuda_graph())

    def _replay(self, made: Sequence[graphs.Executable], order: list[int], job: Job) -> list[float]:
        """Seconds of one replay of `made[i]` for each i in `order`."""
        starts = [torch.cuda.Event(enable_timing=True) for _ in order]  # type: ignore[no-untyped-call]
        ends = [torch.cuda.Event(enable_timing=True) for _ in order]  # type: ignore[no-untyped-call]
        with quiet_gc(), torch.cuda.stream(self._stream):
            for number, start, end in zip(order, starts, ends, strict=True):
                if job.before:
                    job.before()
                if job.cold:
                    self._flush()
                start.record()
                made[number].launch(self._stream.cuda_stream)
                end.record()
            self._stream.synchronize()
        return [start.elapsed_time(end) * 1e-3 for start, end in zip(starts, ends, strict=True)]

    def _call_once(self, arms: list[Sequence[Call]], before: Call | None = None) -> None:
        """Each arm's first callable once outside a capture: lazily loaded code may not be loaded inside one.

        Those of the other buffer sets run the same code. before: as of a job, for it is a block of one call.
        """
        torch.cuda.synchronize()  # the buffers were filled on another stream
        with torch.cuda.stream(self._stream):
            for arm in arms:
                if before:
                    before()
                arm[0]()
        self._stream.synchronize()

    def isolated(self, arms: Sequence[Sequence[Call]], quads: int = 10, *, cold: bool = False) -> list[list[float]]:
        """Seconds that one call of each arm adds to a chain of another kernel.

        That kernel spins on one multiprocessor, touches no memory and knows nothing of dependent launches: a call
        starts when it has ended and it starts when the call has ended. So nothing of the call overlaps anything, and
        one launch from kernel to kernel is part of the result. Blocks of each arm's pairs and of that kernel
        alone take turns.
        """
        pairs = [[partial(_behind_separator, call) for call in arm] for arm in arms]
        blocks = self.quads([*pairs, [_separate] * len(pairs[0])], quads, cold=cold)
        *each, alone = ([(b.quad, b.seconds) for b in blocks if b.arm == number] for number in range(len(arms) + 1))
        return [plan.by_difference(times, alone) for times in each]

    def _probe(self, arms: Sequence[torch.cuda.CUDAGraph], job: Job) -> float:
        """Seconds a call of the slowest arm, roughly; arms: a graph of PROBE_CALLS calls each."""
        order = list(range(len(arms))) * PROBE_REPLAYS
        seconds = self._replay(list(map(self._ready, arms)), order, job)
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
        seconds = self._replay(list(map(self._ready, both)), [0, 1] * (SPIN_REPLAYS + 1), job)[2:]
        short, long = median(seconds[::2]), median(seconds[1::2])
        shares = [job.planted_in(arm) for arm in range(len(job.arms))]
        return [plan.spin_cycles(share, short, long, *SPIN_CYCLES) for share in shares]

    def _graphs(self, job: Job, calls: int) -> list[torch.cuda.CUDAGraph]:
        """A graph of `calls` calls for each arm; equal arms, which cannot differ, share one."""
        made: list[torch.cuda.CUDAGraph] = []
        arms = list(zip(job.arms, self._spins(job, calls), strict=True))
        for number, (arm, spin) in enumerate(arms):
            same = arms.index((arm, spin))
            made.append(made[same] if same < number else self._capture(arm, calls, spin=spin))
        return made

    def _executables(
        self, arms: Sequence[torch.cuda.CUDAGraph], first: int, count: int
    ) -> list[list[graphs.Executable]]:
        """Executables, one an arm, from number `first` on, `count` times; which arm comes first alternates."""
        found = []
        for number in range(first, first + count):
            forth = arms[:: -1 if number % 2 else 1]
            made = {id(graph): self._ready(graph) for graph in dict.fromkeys(forth)}
            found.append([made[id(graph)] for graph in arms])
        return found

    def _time(self, job: Job) -> tuple[int, list[float]]:
        self._call_once([*job.arms, [partial(_spin, 1)]] if job.planted else job.arms, job.before)
        first = [self._capture(arm, PROBE_CALLS) for arm in job.arms]
        per_call = job.seconds or self._probe(first, job)
        calls = self._calls(per_call, min(map(len, job.arms)), job.cold)
        arms = self._graphs(job, calls)
        count = job.executables.each if self._differ(job, first) else 1
        rounds = max(1, round(self.warmup_s / (per_call * calls * len(job.arms))))
        seconds: list[float] = []
        for series in range(job.executables.series):
            made = self._executables(arms, series * count, count)
            seconds += self._series(job, made, rounds if series == 0 else 1)
            if count == 1 or plan.standard_error(job.order, seconds, count) <= job.executables.precision:
                break
        return calls, [value / calls for value in seconds]

    def _differ(self, job: Job, arms: Sequence[torch.cuda.CUDAGraph]) -> bool:
        """Whether executables of one graph differ from each other, which several then average over.

        Calls that overlap their neighbours take one of several times, which last as long as the executable; and with
        cold caches it shows where its own data lie.
        """
        several = job.executables.each > 1
        return several and (job.cold or any(graphs.overlaps(graph.raw_cuda_graph()) for graph in arms))

    def _series(self, job: Job, made: list[list[graphs.Executable]], rounds: int) -> list[float]:
        """Seconds of each block of the order, after so many rounds of warm-up."""
        warmup, order = plan.replays(job.order, len(job.arms), len(made), rounds)
        # One queue for warm-up and blocks: the first timed block starts on a busy device.
        every = [executable for arms in made for executable in arms]
        return self._replay(every, warmup + order, job)[len(warmup) :]


def _spin(cycles: int) -> None:
    """Enqueue a kernel that does nothing for so many cycles."""
    torch.cuda._sleep(cycles)  # type: ignore[no-untyped-call]


def _separate() -> None:
    """Enqueue the kernel that keeps calls apart."""
    _spin(SEPARATOR_CYCLES)


def _behind_separator(call: Call) -> object:
    _separate()
    return call()
