"""Clocks: callables in, seconds out. Nothing here knows what is being timed.

clock = clock_for("cuda")
sets = clock.sets_for(bytes_per_set, cold=True)       # make that many buffer sets, bind a callable to each
blocks = clock.quads([baseline_calls, candidate_calls], quads=10, cold=True)
seconds = clock.measure(calls, cold=True)             # one arm: seconds a call, a block each
seconds = clock.isolated([calls, others], cold=True)  # of each arm: seconds a call that overlaps no other, a quad each
"""

from __future__ import annotations

from .clock import BLOCK_S, WARMUP_S, Block, Call, Clock, Executables

__all__ = ["Block", "Call", "Clock", "Executables", "clock_for"]


def clock_for(device: str, block_s: float = BLOCK_S, warmup_s: float = WARMUP_S) -> Clock:
    """The clock of `device` ("cuda": the current one, or "cpu").

    block_s, warmup_s: aimed length of a block and of the warm-up before each measurement, in seconds.
    """
    if device == "cuda":
        from .cuda import CudaGraphClock

        return CudaGraphClock(block_s, warmup_s)
    from .cpu import CpuClock

    return CpuClock(block_s, warmup_s)
