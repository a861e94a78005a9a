"""Times of the CUDA kernels over the reference grid, beside the floor: a cast of the same bytes with a fixed scale.

Times are of chained calls in CUDA graphs. Hot: the same buffers every call. Cold: the L2 is flushed before every
replay, and every call has buffers of its own (as far as 200 MB go).
"""

from __future__ import annotations

import csv
import math
import statistics
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from native import NO_PDL, TWO_KERNELS, Kernels, forced
from torch import Tensor

from fp8bench.spec import Scheme

TOKENS = (1, 16, 128, 512, 1024)
HIDDEN = (896, 1024, 2048, 4096, 7168)
GRID = tuple((tokens, hidden) for tokens in TOKENS for hidden in HIDDEN)
FAMILIES = ("per-tensor", "per-token", "group-64-row", "group-64-col", "group-128-row", "group-128-col")
REGIMES = ("hot", "cold")
LARGE = ((8192, 7168), (32768, 7168))

BUFFER_BYTES = 200 << 20
FLUSH_BYTES = 512 << 20
REPLAYS = 10
GRAPH_US = 300.0  # aimed length of a graph
BANDWIDTH = 3e6  # bytes a microsecond: a guess that sets the number of calls in a graph

Bind = Callable[[Tensor, Tensor], Callable[[], None]]  # (x, codes) -> call


@dataclass(frozen=True)
class Shape:
    tokens: int
    hidden: int
    dtype: torch.dtype

    @property
    def elements(self) -> int:
        return self.tokens * self.hidden

    @property
    def bytes(self) -> int:
        return self.elements * (self.dtype.itemsize + 1)


class Clock:
    """Buffers for one shape, and times of calls on them."""

    def __init__(self, shape: Shape, flush: Tensor) -> None:
        self._flush = flush
        self._stream = torch.cuda.Stream()
        self.calls = max(6, min(240, int(GRAPH_US / (1.0 + shape.bytes / BANDWIDTH))))
        sets = max(2, min(self.calls, BUFFER_BYTES // shape.bytes))
        x = torch.randn(shape.elements, device="cuda").to(shape.dtype).view(shape.tokens, shape.hidden)
        self._x = [x.clone() for _ in range(sets)]
        self._codes = [torch.empty(x.shape, dtype=torch.uint8, device="cuda") for _ in range(sets)]

    def time(self, bind: Bind, regime: str) -> float:
        """Median microseconds a call."""
        sets = 1 if regime == "hot" else len(self._x)
        bound = [bind(self._x[index], self._codes[index]) for index in range(sets)]
        for call in bound[:2]:
            call()
        torch.cuda.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.stream(self._stream):  # torch.cuda.graph would collect garbage every time
            graph.capture_begin()
            for index in range(self.calls):
                bound[index % sets]()
            graph.capture_end()
        graph.replay()
        return statistics.median(self._replay(graph, regime) for _ in range(REPLAYS)) / self.calls

    def _replay(self, graph: torch.cuda.CUDAGraph, regime: str) -> float:
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        if regime == "hot":
            graph.replay()
        else:
            self._flush.max()
        start.record()
        graph.replay()
        end.record()
        end.synchronize()
        return start.elapsed_time(end) * 1e3


# ---- what is timed ------------------------------------------------------------------------------------------


def bind_family(kernels: Kernels, family: str, flags: int) -> Bind:
    scheme = Scheme.parse(family)

    def bind(x: Tensor, codes: Tensor) -> Callable[[], None]:
        shape, strides = scheme.scale_shape(*x.shape), scheme.scale_strides(*x.shape)
        return kernels.bind(scheme, x, codes, torch.empty_strided(shape, strides, device="cuda"), flags=flags)

    return bind


def floors(kernels: Kernels, clock: Clock, regime: str, flags: int) -> tuple[float, int]:
    """The fastest variant of the floor: its time and number."""
    variants = range(kernels.floor_variants)
    times = [(clock.time(lambda x, c, v=v: kernels.bind_floor(x, c, v, flags), regime), v) for v in variants]
    return min(times)


def launch_shapes(family: str) -> Iterator[tuple[str, int]]:
    """Launch shapes that are worth trying, beside the dispatch table's choice."""
    yield "default", 0
    if family == "per-token":
        for vectors in (1, 2, 4, 8):
            yield f"vectors {vectors}", forced(vectors=vectors)
    elif family == "per-tensor":
        for cluster in (1, 2, 4, 8):
            yield f"cluster {cluster}", forced(cluster=cluster)
        for vectors in (1, 2, 4):
            for threads in (128, 256, 512):
                yield f"two kernels, vectors {vectors}, threads {threads}", forced(vectors, threads, TWO_KERNELS)
    else:
        for threads in (32, 64, 128, 256):
            yield f"threads {threads}", forced(threads=threads)


# ---- sections -----------------------------------------------------------------------------------------------


def time_grid(kernels: Kernels, out: Path, dtype: torch.dtype, grid: tuple[tuple[int, int], ...] = GRID) -> str:
    """Times every family and the floor with and without dependent launch; a row a cell, and the means."""
    flush = torch.empty(FLUSH_BYTES, dtype=torch.int8, device="cuda")
    rows: list[dict[str, object]] = []
    name = str(dtype).removeprefix("torch.")
    with (out / f"times-{name}.csv").open("w", newline="") as file:
        columns = ("family", "pdl", "tokens", "hidden", "regime", "us", "floor_us", "ratio", "terabytes_per_s")
        writer = csv.DictWriter(file, columns)
        writer.writeheader()
        for tokens, hidden in grid:
            for row in _time_shape(kernels, Shape(tokens, hidden, dtype), flush):
                rows.append(row)
                writer.writerow(row)
            file.flush()
    return _table(rows)


def _time_shape(kernels: Kernels, shape: Shape, flush: Tensor) -> Iterator[dict[str, object]]:
    clock = Clock(shape, flush)
    for regime in REGIMES:
        floor, _ = floors(kernels, clock, regime, NO_PDL)
        times = {("floor", False): floor, ("floor", True): floors(kernels, clock, regime, 0)[0]}
        for family in FAMILIES:
            for pdl in (False, True):
                bind = bind_family(kernels, family, 0 if pdl else NO_PDL)
                times[family, pdl] = clock.time(bind, regime)
        for (family, pdl), us in times.items():
            yield {
                "family": family, "pdl": int(pdl), "tokens": shape.tokens, "hidden": shape.hidden, "regime": regime,
                "us": round(us, 4), "floor_us": round(floor, 4), "ratio": round(us / floor, 4),
                "terabytes_per_s": round(shape.bytes / us / 1e6, 3),
            }  # fmt: skip


def _table(rows: list[dict[str, object]]) -> str:
    """Geometric means of time over the floor without dependent launch, hot / cold; and the worst cells."""
    lines = [f"{'time / floor, hot / cold':26} {'with PDL':>15} {'without':>15}   worst cells (hot or cold) with PDL"]
    for family in ("floor", *FAMILIES):
        cells = []
        for pdl in (1, 0):
            means = [
                _mean([r for r in rows if (r["family"], r["pdl"], r["regime"]) == (family, pdl, g)]) for g in REGIMES
            ]
            cells.append(" / ".join(f"{mean:.3f}" for mean in means))
        ours = sorted(
            (r for r in rows if (r["family"], r["pdl"]) == (family, 1)), key=lambda r: -float(str(r["ratio"]))
        )
        worst = ", ".join(f"{r['tokens']}x{r['hidden']} {r['regime']} {r['ratio']}" for r in ours[:3])
        lines.append(f"{family:26} {cells[0]:>15} {cells[1]:>15}   {worst}")
    return "\n".join(lines)


def _mean(rows: list[dict[str, object]]) -> float:
    return math.exp(statistics.fmean(math.log(float(str(row["ratio"]))) for row in rows)) if rows else math.nan


def time_large(kernels: Kernels, out: Path) -> str:
    """Bandwidth on large inputs, cold, with PDL: 3 bytes an element."""
    flush = torch.empty(FLUSH_BYTES, dtype=torch.int8, device="cuda")
    lines = []
    for tokens, hidden in LARGE:
        shape = Shape(tokens, hidden, torch.bfloat16)
        clock = Clock(shape, flush)
        times = {"floor": floors(kernels, clock, "cold", 0)[0]}
        times |= {family: clock.time(bind_family(kernels, family, 0), "cold") for family in FAMILIES}
        figures = ", ".join(f"{family} {shape.bytes / us / 1e6:.2f}" for family, us in times.items())
        lines.append(f"TB/s at {tokens}x{hidden}: {figures}")
        del clock
        torch.cuda.empty_cache()
    (out / "large.txt").write_text("\n".join(lines) + "\n")
    return "\n".join(lines)


def tune(kernels: Kernels, out: Path) -> str:
    """Every launch shape worth trying, per family and shape; prints where another beats the table's by over 3%."""
    flush = torch.empty(FLUSH_BYTES, dtype=torch.int8, device="cuda")
    lines = []
    with (out / "tune.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(("family", "tokens", "hidden", "regime", "launch_shape", "us"))
        for tokens, hidden in GRID:
            clock = Clock(Shape(tokens, hidden, torch.bfloat16), flush)
            for family in FAMILIES:
                for regime in REGIMES:
                    times = {
                        name: clock.time(bind_family(kernels, family, flags), regime)
                        for name, flags in launch_shapes(family)
                    }
                    writer.writerows((family, tokens, hidden, regime, name, round(us, 4)) for name, us in times.items())
                    best = min(times, key=lambda name: times[name])
                    if times[best] < 0.97 * times["default"]:
                        gain = times[best] / times["default"] - 1
                        lines.append(
                            f"{family} {tokens}x{hidden} {regime}: {best} {gain:+.1%} of {times['default']:.2f} us"
                        )
            file.flush()
    return "\n".join(lines) or "nowhere"
