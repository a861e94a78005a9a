"""Times of the CUDA kernels over the reference grid, beside the floor: a cast of the same bytes with a fixed scale.

Times are of chained calls in CUDA graphs. Hot: the same buffers every call. Cold: the L2 is flushed before every
replay, and every call has buffers of its own (as far as 200 MB go).
"""

from __future__ import annotations

import csv
import math
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from native import LARGE_CLUSTER, NO_PDL, ONE_BLOCK, ONE_GRID, ONE_RING, ONE_WARP, STARTS, TWO_KERNELS, Kernels, forced
from torch import Tensor

from fp8bench.spec import Scheme

TOKENS = (1, 16, 128, 512, 1024)
HIDDEN = (896, 1024, 2048, 4096, 7168)
GRID = tuple((tokens, hidden) for tokens in TOKENS for hidden in HIDDEN)
FAMILIES = ("per-tensor", "per-token", "group-64-row", "group-64-col", "group-128-row", "group-128-col")
REGIMES = ("hot", "cold")
LARGE = ((8192, 7168), (32768, 7168))
ODD = ((1, 1023), (9, 2047), (129, 2047), (512, 4095), (1023, 7167), (1024, 7167), (1024, 1023), (1024, 511))
# Of those that do not fit: the table's.
GRID_SHAPES = ((2, 128), (2, 256), (4, 128), (4, 256), (4, 512), (4, 1024), (8, 256), (8, 448))
TUNED = ("per-tensor", "per-token", "group-64-row", "group-128-col")
SIZES = {  # columns of the tuning table: elements above, up to
    "all": (0, 1 << 40), "to 8k": (0, 8192), "to 131k": (8192, 1 << 17), "to 1M": (1 << 17, 1 << 20),
    "above": (1 << 20, 1 << 40),
}  # fmt: skip

BUFFER_BYTES = 200 << 20
FLUSH_BYTES = 512 << 20
REPLAYS = 10
SETTLE_S = 4.0
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

    def __init__(self, shape: Shape, flush: Tensor, replays: int = REPLAYS) -> None:
        self._flush, self._replays = flush, replays
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
        self._capture(bound, 2)  # the first one of a size was seen to run 20% too fast
        graph = self._capture(bound, self.calls)
        return statistics.median(self._replay(graph, regime) for _ in range(self._replays)) / self.calls

    def _capture(self, bound: list[Callable[[], None]], calls: int) -> torch.cuda.CUDAGraph:
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.stream(self._stream):  # torch.cuda.graph would collect garbage every time
            graph.capture_begin()
            for index in range(calls):
                bound[index % len(bound)]()
            graph.capture_end()
        graph.replay()
        return graph

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


def floors(kernels: Kernels, clock: Clock, regime: str) -> tuple[float, int]:
    """The fastest variant of the floor: its time and number."""
    variants = range(kernels.floor_variants)
    times = [(clock.time(lambda x, c, v=v: kernels.bind_floor(x, c, v), regime), v) for v in variants]
    return min(times)


def launch_shapes(family: str) -> dict[str, int]:
    """Launch shapes that are worth trying, beside the dispatch table's choice: names and flags."""
    shapes = {"per-tensor": _tensor_shapes, "per-token": _token_shapes}.get(family, _group_shapes)()
    return {"table": 0, "table, no PDL": NO_PDL} | shapes


def _tensor_shapes() -> dict[str, int]:
    tiles = {f"vectors {v} threads {t}": (v, t) for v, t in ((1, 256), (2, 256), (2, 512), (4, 128), (4, 256))}
    maxima = {f"maxima {m} of {1 << (mv - 1)} vectors": (m, mv) for m in (1, 2, 4) for mv in (1, 2, 3)}
    return (
        {f"cluster {c}": forced(cluster=c) for c in (1, 2, 4, 8)}
        | {"cluster 16": forced(cluster=LARGE_CLUSTER), "cluster 16, no PDL": forced(cluster=LARGE_CLUSTER) | NO_PDL}
        | {f"cluster 8 vectors {v}": forced(v, cluster=8) for v in (1, 2, 4, 8)}
        | {
            f"two kernels {tile}, {first}": forced(*shape, TWO_KERNELS, maxima=m, maxima_vectors=mv)
            for tile, shape in tiles.items()
            for first, (m, mv) in maxima.items()
        }
        | {f"grid vectors {v} threads {t}": forced(v, t, ONE_GRID) for v, t in GRID_SHAPES}
        | {f"grid vectors {v} threads {t}, no PDL": forced(v, t, ONE_GRID) | NO_PDL for v, t in GRID_SHAPES}
        | {"ring": forced(cluster=ONE_RING), "ring, no PDL": forced(cluster=ONE_RING) | NO_PDL}
        | {f"table start {start}": forced(start=start) for start in STARTS}
        | {f"two kernels vectors {v}, no PDL": forced(v, 512, TWO_KERNELS) | NO_PDL for v in (1, 4)}
        | {f"cluster {c}, no PDL": forced(cluster=c) | NO_PDL for c in (1, 8)}
    )


def _token_shapes() -> dict[str, int]:
    blocks = {f"block vectors {v}": forced(v, cluster=ONE_BLOCK) for v in (1, 2, 4, 8)}
    warps = {f"warp threads {t}": forced(0, t, ONE_WARP) for t in (64, 128, 256)}
    starts = {f"table start {start}": forced(start=start) for start in STARTS}
    return blocks | warps | starts | {f"{name}, no PDL": flags | NO_PDL for name, flags in (blocks | warps).items()}


def _group_shapes() -> dict[str, int]:
    sizes = {f"vectors {v} threads {t}": (v, t) for v in (1, 2) for t in (64, 128, 256)}
    starts = ((v, t, start) for v in (1, 2) for t in (128, 256) for start in STARTS)
    return (
        {name: forced(*size) for name, size in sizes.items()}
        | {f"vectors {v} threads {t} start {start}": forced(v, t, start=start) for v, t, start in starts}
        | {f"{name}, no PDL": forced(*size) | NO_PDL for name, size in sizes.items()}
    )


# ---- sections -----------------------------------------------------------------------------------------------


def time_grid(kernels: Kernels, out: Path, dtype: torch.dtype, grid: tuple[tuple[int, int], ...] = GRID) -> str:
    """Times the floor, and every family with and without overlap of its neighbours; a row a cell, and the means."""
    flush = torch.empty(FLUSH_BYTES, dtype=torch.int8, device="cuda")
    _settle(kernels, flush)
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


def _settle(kernels: Kernels, flush: Tensor) -> None:
    """Work for a while: launches take one of two times (docs/measurement.md), at first the shorter one."""
    clock, until = Clock(Shape(512, 4096, torch.bfloat16), flush), time.monotonic() + SETTLE_S
    while time.monotonic() < until:
        clock.time(bind_family(kernels, "per-token", 0), "hot")


def _time_shape(kernels: Kernels, shape: Shape, flush: Tensor) -> Iterator[dict[str, object]]:
    """The floor's fastest variant is timed again before and after each family, whose floor is the mean of the two.

    What launches take may change within a cell, which would else count for or against whoever is timed later; and the
    fastest of many variants is also the luckiest.
    """
    clock = Clock(shape, flush)
    for regime in REGIMES:
        _, variant = floors(kernels, clock, regime)
        bind_floor = partial(kernels.bind_floor, variant=variant)
        floor_times = [clock.time(bind_floor, regime)]
        for family in FAMILIES:
            binds = {pdl: bind_family(kernels, family, 0 if pdl else NO_PDL) for pdl in (False, True)}
            times = {pdl: clock.time(bind, regime) for pdl, bind in binds.items()}
            floor_times.append(clock.time(bind_floor, regime))
            floor = statistics.fmean(floor_times[-2:])
            for pdl, us in times.items():
                yield _row(family, pdl, shape, regime, us, floor)
        floor = statistics.fmean(floor_times)
        yield _row("floor", False, shape, regime, floor, floor)


def _row(family: str, pdl: bool, shape: Shape, regime: str, us: float, floor: float) -> dict[str, object]:
    return {
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
        times = {"floor": floors(kernels, clock, "cold")[0]}
        times |= {family: clock.time(bind_family(kernels, family, 0), "cold") for family in FAMILIES}
        figures = ", ".join(f"{family} {shape.bytes / us / 1e6:.2f}" for family, us in times.items())
        lines.append(f"TB/s at {tokens}x{hidden}: {figures}")
        del clock
        torch.cuda.empty_cache()
    (out / "large.txt").write_text("\n".join(lines) + "\n")
    return "\n".join(lines)


def time_odd(kernels: Kernels, out: Path) -> str:
    """Hidden sizes that no vector fits, beside the next that one fits: time of the one over the other's, hot / cold."""
    flush = torch.empty(FLUSH_BYTES, dtype=torch.int8, device="cuda")
    lines = []
    for tokens, hidden in ODD:
        clocks = [Clock(Shape(tokens, h, torch.bfloat16), flush) for h in (hidden, hidden + 1)]
        for family in ("per-tensor", "per-token"):
            bind = bind_family(kernels, family, 0)
            odd, even = ([clock.time(bind, regime) for regime in REGIMES] for clock in clocks)
            ratios = " / ".join(f"{a / b:.2f}" for a, b in zip(odd, even, strict=True))
            lines.append(f"{family} {tokens}x{hidden} over {tokens}x{hidden + 1}: {ratios}")
    (out / "odd.txt").write_text("\n".join(lines) + "\n")
    return "\n".join(lines)


def tune(kernels: Kernels, out: Path) -> str:
    """Every launch shape worth trying, in every cell; a line a shape: its means of time over the floor.

    Floors are those of the section `grid` of the same run.
    """
    floor = _read_floors(out / "times-bfloat16.csv")
    flush = torch.empty(FLUSH_BYTES, dtype=torch.int8, device="cuda")
    times: dict[tuple[str, str, str], dict[tuple[int, int], float]] = {}
    with (out / "tune.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(("family", "tokens", "hidden", "regime", "launch_shape", "us", "floor_us"))
        for tokens, hidden in GRID:
            clock = Clock(Shape(tokens, hidden, torch.bfloat16), flush, replays=6)
            for family in TUNED:
                for regime in REGIMES:
                    for name, flags in launch_shapes(family).items():
                        us = _time_shape_or_table(kernels, clock, family, flags, regime)
                        least = floor[tokens, hidden, regime]
                        writer.writerow((family, tokens, hidden, regime, name, round(us, 4), least))
                        times.setdefault((family, name, regime), {})[tokens, hidden] = us / least
            file.flush()
    return "\n".join((*_tuned_table(times), *_tune_large(kernels, out, flush)))


def _time_shape_or_table(kernels: Kernels, clock: Clock, family: str, flags: int, regime: str) -> float:
    """Microseconds a call with a launch shape; of the table's choice where that does not fit the size."""
    try:
        return clock.time(bind_family(kernels, family, flags), regime)
    except RuntimeError as error:
        if "does not fit" not in str(error):
            raise
        return clock.time(bind_family(kernels, family, flags & NO_PDL), regime)


def _read_floors(path: Path) -> dict[tuple[int, int, str], float]:
    if not path.exists():
        raise RuntimeError(f"{path} is missing: run the section grid too, before tune.")
    with path.open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if (row["family"], row["pdl"]) == ("floor", "0")]
    return {(int(row["tokens"]), int(row["hidden"]), row["regime"]): float(row["us"]) for row in rows}


def _tuned_table(times: dict[tuple[str, str, str], dict[tuple[int, int], float]]) -> Iterator[str]:
    """Means over all cells and over those up to each size, hot / cold; first the best of each cell."""
    yield f"{'':52}" + "".join(f"{name:>14}" for name in SIZES)
    for family in TUNED:
        names = list(dict.fromkeys(name for other, name, _ in times if other == family))
        for pdl in ("", ", no PDL"):
            mine = [name for name in names if name.endswith("no PDL") == bool(pdl)]
            best = {
                regime: {cell: min(times[family, name, regime][cell] for name in mine) for cell in GRID}
                for regime in REGIMES
            }
            yield _tuned_line(f"{family} best of each cell{pdl}", best)
            for name in mine:
                yield _tuned_line(f"{family} {name}", {regime: times[family, name, regime] for regime in REGIMES})


def _tuned_line(name: str, ratios: dict[str, dict[tuple[int, int], float]]) -> str:
    line = f"{name:52}"
    for least, most in SIZES.values():
        means = [
            statistics.geometric_mean(r for (t, h), r in ratios[regime].items() if least < t * h <= most)
            for regime in REGIMES
        ]
        line += f"{means[0]:8.3f}/{means[1]:.3f}"
    return line


def _tune_large(kernels: Kernels, out: Path, flush: Tensor) -> Iterator[str]:
    """Bandwidth of every launch shape on a large input; the best three of a family and the table's."""
    shape = Shape(*LARGE[0], torch.bfloat16)
    clock = Clock(shape, flush)
    with (out / "tune-large.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(("family", "launch_shape", "terabytes_per_s"))
        for family in FAMILIES:
            shapes = {name: flags for name, flags in launch_shapes(family).items() if not flags & NO_PDL}
            shapes |= {f"maxima {m}": forced(maxima=m) for m in (1, 3, 4, 8)} if family == "per-tensor" else {}
            speeds = {
                name: shape.bytes / _time_shape_or_table(kernels, clock, family, flags, "cold") / 1e6
                for name, flags in shapes.items()
            }
            writer.writerows((family, name, round(speed, 3)) for name, speed in speeds.items())
            best = sorted(speeds, key=lambda name: -speeds[name])[:3]
            shown = ", ".join(f"{name} {speeds[name]:.2f}" for name in ("table", *best))
            yield f"TB/s at {shape.tokens}x{shape.hidden}, {family}: {shown}"
