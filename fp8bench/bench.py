"""The reference script's calls: time one configuration, tabulate many, compare.

Differs from the script where that is wrong: the timed function is the kernel alone (no clone), torch is compiled
afresh for every size, what is unsupported is missing and not 0, minimum and maximum are what they are called, and
cold caches can be asked for; docs/bench.md has the whole list. Times come from `fp8bench.timing`; one process, so no
interval: that is the night's.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from itertools import product
from statistics import median
from typing import NamedTuple

import pandas as pd
import torch

from . import tensors
from .backends import FLOOR, check_name, yardstick_case
from .errors import UsageError
from .metrics import MEMORY_GBPS, geomean, memory_share, over_floor
from .quant import own_backend
from .spec import DTYPES, REGIMES, Case, GroupShape, Scheme, parse_dtype
from .speedups import compute_geomean_speedups
from .timing import Clock, clock_for
from .wording import title

__all__ = ["MISSING", "Timing", "benchmark_quantization", "compute_geomean_speedups", "configurations", "table"]

BLOCKS = 20
SEED = 0
FLOOR_COLUMN = "Floor (us)"
CASE_COLUMNS = ("hidden_size", "batch_size", "col_major", "group_shape")


class Timing(NamedTuple):
    """Microseconds a call, over the timed blocks; NaN in all three where the provider cannot compute the case."""

    median_us: float
    max_us: float
    min_us: float


MISSING = Timing(math.nan, math.nan, math.nan)


def resolve_device(device: str | None) -> str:
    """ "cuda" or "cpu"; None means CUDA where there is a GPU."""
    if device in (None, "auto"):
        return "cuda" if torch.cuda.is_available() else "cpu"
    if device not in ("cuda", "cpu"):
        raise UsageError(f"unknown device {device!r}: use cuda, cpu or auto.")
    if device == "cuda" and not torch.cuda.is_available():
        raise UsageError("device cuda was asked for, but torch sees no GPU here: use --device cpu, or a CUDA torch.")
    return device


def configurations(
    group_shapes: Sequence[GroupShape],
    column_major: Sequence[bool],
    batch_sizes: Sequence[int],
    hidden_sizes: Sequence[int],
    dtype: str,
) -> list[Case]:
    """Every combination that exists, in the reference script's order; UsageError for a size that cannot be."""
    return [
        Case(Scheme(shape, columns), dtype, tokens, hidden)
        for shape, columns, tokens, hidden in product(group_shapes, column_major, batch_sizes, hidden_sizes)
        if shape.is_per_group() or not columns
    ]


def refuse_too_large(case: Case, device: str) -> None:
    """UsageError for a case whose tensors cannot fit: its input is drawn in float32 on the host."""
    available = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if device == "cuda":
        available = min(available, torch.cuda.mem_get_info()[1])
    needed = 4 * case.tokens * case.hidden + case.bytes_moved
    if needed > available:
        raise UsageError(
            f"case {case.id} needs {needed / 1e9:,.0f} GB of memory and there are {available / 1e9:,.0f} GB: "
            "use fewer tokens or a smaller hidden size."
        )


# ---- timing -------------------------------------------------------------------------------------------------


@cache
def _cuda_clock() -> Clock:
    return clock_for("cuda")


@contextmanager
def _clock(device: str) -> Iterator[Clock]:
    """A clock of `device`. That of the CPU pins the process to one core and thread: undone afterwards."""
    if device == "cuda":
        yield _cuda_clock()
        return
    threads, cores = torch.get_num_threads(), os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else None
    try:
        yield clock_for("cpu")
    finally:
        torch.set_num_threads(threads)
        if cores is not None:
            os.sched_setaffinity(0, cores)


def why_not(provider: str, case: Case, device: str) -> str | None:
    """Why `provider` has no time for `case` on `device`, or None."""
    return own_backend(provider).supports(case, device)


def time_case(
    provider: str, case: Case, device: str, regime: str = "hot", blocks: int = BLOCKS, *, isolated: bool = False
) -> Timing:
    """Time a dynamic case that `provider` supports: random data, preallocated outputs, the kernel alone.

    regime: hot (the same buffers every call) or cold (caches flushed, buffers rotate).
    isolated: each call between calls of another kernel, instead of chained ones that may overlap.
    """
    if regime not in REGIMES:
        raise UsageError(f"unknown cache regime {regime!r}: use one of {', '.join(REGIMES)}.")
    cold, backend = regime == "cold", own_backend(provider)
    with _clock(device) as clock:
        x = tensors.random_input(case, device, SEED)
        inputs = [x, *(x.clone() for _ in range(clock.sets_for(case.bytes_moved, cold=cold) - 1))]
        calls = [backend.bind(case.scheme, entry, *tensors.poisoned_outputs(case, device)) for entry in inputs]
        seconds = clock.isolated([calls], blocks, cold=cold)[0] if isolated else clock.measure(calls, blocks, cold=cold)
    return Timing(median(seconds) * 1e6, max(seconds) * 1e6, min(seconds) * 1e6)


def benchmark_quantization(
    batch_size: int,
    hidden_size: int,
    provider: str,
    group_shape: GroupShape,
    col_major: bool,
    dtype: torch.dtype | str,
    *,
    device: str | None = None,
    regime: str = "hot",
) -> Timing:
    """Time one dynamic quantization of `batch_size` x `hidden_size` elements: (median_us, max_us, min_us).

    provider: torch, cuda, triton or cpu. dtype: a torch dtype or its name. device: CUDA where there is a GPU.
    A provider that cannot compute this here gives NaN three times, never 0. UsageError (a ValueError) for values
    that cannot be: an unknown name, a size below 1, a hidden size that the group size does not divide.
    """
    if isinstance(dtype, torch.dtype):
        if dtype not in tensors.DTYPE_NAMES:
            raise UsageError(f"unknown dtype {dtype}: use one of {', '.join(DTYPES)}.")
        dtype = tensors.DTYPE_NAMES[dtype]
    case = Case(Scheme(GroupShape(*group_shape), col_major), parse_dtype(dtype), batch_size, hidden_size)
    device = resolve_device(device)
    if why_not(check_name(provider), case, device) is not None:
        return MISSING
    refuse_too_large(case, device)
    return time_case(provider, case, device, regime)


# ---- tables -------------------------------------------------------------------------------------------------


def case_columns(case: Case) -> dict[str, object]:
    """A case in the reference script's columns."""
    scheme = case.scheme
    return dict(zip(CASE_COLUMNS, (case.hidden, case.tokens, scheme.column_major, scheme.group_shape), strict=True))


def table(cases: Sequence[Case], times: Mapping[tuple[str, Case], Timing], providers: Sequence[str]) -> pd.DataFrame:
    """Median microseconds: a row a case, a column a provider under its title; NaN where there is no time."""
    return _tabulate(cases, providers, lambda name, case: times.get((name, case), MISSING).median_us)


class Limits(NamedTuple):
    """What the times of a device are compared with."""

    regime: str
    floors: Mapping[Case, float]  # microseconds by yardstick case
    memory_gbps: float | None = None

    def floor_us(self, case: Case) -> float | None:
        return self.floors.get(yardstick_case(case))

    def over_floor(self, case: Case, timing: Timing) -> float | None:
        """How many times the floor; None where one of the two is missing."""
        return None if math.isnan(timing.median_us) else over_floor(timing.median_us, self.floor_us(case))

    def memory_share(self, case: Case, timing: Timing) -> float | None:
        """Share of the memory's peak bandwidth, with cold caches on a device that is known; else None."""
        return memory_share(
            case, self.regime, None if math.isnan(timing.median_us) else timing.median_us, self.memory_gbps
        )


def limits_of(cases: Sequence[Case], device: str, regime: str, progress: Callable[[str, int, int], None]) -> Limits:
    """Measure the floor of every size and dtype; there is none on a CPU."""
    if device != "cuda":
        return Limits(regime, {})
    plain = list(dict.fromkeys(map(yardstick_case, cases)))
    floors: dict[Case, float] = {}
    for done, case in enumerate(plain):
        progress("timing the floor", done, len(plain))
        if why_not(FLOOR, case, device) is None:
            floors[case] = time_case(FLOOR, case, device, regime).median_us
    progress("timing the floor", len(plain), len(plain))
    return Limits(regime, floors, MEMORY_GBPS.get(torch.cuda.get_device_name()))


def floor_table(
    cases: Sequence[Case], times: Mapping[tuple[str, Case], Timing], providers: Sequence[str], limits: Limits
) -> pd.DataFrame:
    """Times over the floor: a row a case, the floor in microseconds, a column a provider."""
    ratios = _tabulate(cases, providers, lambda name, case: limits.over_floor(case, times.get((name, case), MISSING)))
    ratios.insert(len(CASE_COLUMNS), FLOOR_COLUMN, [limits.floor_us(case) for case in cases])
    return ratios


def memory_table(
    cases: Sequence[Case], times: Mapping[tuple[str, Case], Timing], providers: Sequence[str], limits: Limits
) -> pd.DataFrame:
    """Percent of the memory's peak bandwidth: a row a case, a column a provider."""

    def percent(name: str, case: Case) -> float | None:
        share = limits.memory_share(case, times.get((name, case), MISSING))
        return None if share is None else 100 * share

    return _tabulate(cases, providers, percent)


def geomeans(df: pd.DataFrame, providers: Sequence[str]) -> pd.DataFrame:
    """Geometric means of the providers' columns by layout and group shape, over what is there."""
    by, columns = ["col_major", "group_shape"], [title(name) for name in providers]
    rows = [
        {**dict(zip(by, key, strict=True)), **{column: geomean(group[column].dropna()) for column in columns}}
        for key, group in df.groupby(by)
    ]
    return pd.DataFrame(rows, columns=[*by, *columns])


def _tabulate(
    cases: Sequence[Case], providers: Sequence[str], value: Callable[[str, Case], float | None]
) -> pd.DataFrame:
    rows = [{**case_columns(case), **{title(name): value(name, case) for name in providers}} for case in cases]
    return pd.DataFrame(rows, columns=[*CASE_COLUMNS, *map(title, providers)])
