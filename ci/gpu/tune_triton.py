"""Launch shapes of the Triton kernels on the GPU of this machine: which are right, and which are fastest where.

    python ci/gpu/tune_triton.py --out DIR [--build DIR] [--families F,...] [--alone] [--seconds 95]

Every family and shape of the reference grid is timed with the backend's own tables and with each candidate for calls
that overlap their neighbours (--alone: for those that do not), hot and cold, beside the floor (a cast by the CUDA
library, no dependent launch; --build: a directory that has one, otherwise it is compiled here). Candidates are compiled
in parallel first. Writes tune-triton.csv and report.txt; exit code 1 if a candidate's output was wrong. Cells for which
there is no time left are left out.
"""

from __future__ import annotations

import argparse
import csv
import math
import multiprocessing
import statistics
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import correctness
import native
import speed
import torch
import triton
import triton.language as tl
from torch import Tensor

from fp8bench import reference
from fp8bench.backends import triton as backend
from fp8bench.backends._triton_kernels import Start, _reciprocal
from fp8bench.backends.triton import ALONE, EVERY, OVERLAPPING, Launch
from fp8bench.spec import Scheme

MOST_CALLS = 100  # of a graph: capturing takes longest
WORKERS = 12
TABLE = "table"
KINDS = ("random", "ties", "range", "special", "zeros")
CHECKED_SHAPES = ((1, 7168), (33, 896), (64, 2048))
COLUMNS = ("family", "tokens", "hidden", "regime", "launch", "us", "floor_us", "ratio")

Row = dict[str, Any]


@dataclass(frozen=True)
class Candidate:
    """A launch shape to try: of segments, or of the two tensor kernels; with neither, the tables' choice.

    pairs: whether columns are taken in pairs; None: as the tables say. alone: it overlaps no other call.
    """

    launch: Launch | None = None
    pairs: bool | None = None
    find: Launch | None = None
    quantize: Launch | None = None
    partials: int | None = None
    alone: bool = False

    def __str__(self) -> str:
        alone = " alone" * self.alone
        if self.launch:
            start = f" {self.launch.start.name.lower()}" * (not self.alone)
            return f"v{self.launch.vectors} w{self.launch.warps}{' pairs' * bool(self.pairs)}{start}{alone}"
        if self.find and self.quantize:
            find, quantize = self.find, self.quantize
            shapes = f"find v{find.vectors} w{find.warps} p{self.partials}, v{quantize.vectors} w{quantize.warps}"
            return shapes + alone
        return TABLE + alone

    def bind(self, scheme: Scheme, x: Tensor, codes: Tensor, scales: Tensor) -> Callable[[], object]:
        codes = codes.view(torch.float8_e4m3fn)
        tables = ALONE if self.alone else OVERLAPPING
        if self.pairs is not None:
            tables = tables._replace(one_by_one=(EVERY, EVERY) if self.pairs else (0, EVERY))
        if self.launch:
            length = scheme.group_shape.col
            length = length if length > 0 else x.numel() if scheme.group_shape.is_per_tensor() else x.shape[1]
            return backend.bind_segments(length, scheme, x, codes, scales, tables=tables, launch=self.launch)
        if self.find:
            return backend.bind_tensor(
                scheme,
                x,
                codes,
                scales,
                tables=tables,
                find=self.find,
                quantize=self.quantize,
                most_partials=self.partials,
            )
        return backend.TritonBackend(not self.alone).bind(scheme, x, codes, scales)


def candidates(family: str, tokens: int, hidden: int, alone: bool) -> Iterator[Candidate]:
    """The tables' choice first, then what is worth trying in their place."""
    yield Candidate(alone=alone)
    packs = tokens * hidden // 8
    starts = (Start.ALONE,) if alone else (Start.AT_ONCE, Start.BEHIND_LOADS)
    if family == "per-tensor":
        yield from _of_tensors(packs, alone)
        return
    for start in starts:
        for vectors, warps in _shapes(family, tokens, hidden):
            pairs = (False, True) if family == "group-64-col" and tokens > 1 else (None,)
            yield from (Candidate(Launch(vectors, warps, start), pair, alone=alone) for pair in pairs)


def _shapes(family: str, tokens: int, hidden: int) -> Iterator[tuple[int, int]]:
    """Vectors of a thread, and warps, of programs for segments."""
    packs = tokens * hidden // 8
    if family == "per-token":
        yield from ((vectors, 1) for vectors in (1, 2, 4, 8) if hidden // 8 >= 32 * vectors)
        yield from ((4, 4), (2, 8)) if hidden <= 2048 and tokens > 1 else ()
    else:
        yield from ((1, warps) for warps in (2, 4, 8))
        yield from ((2, warps) for warps in (2, 4, 8) if packs > 1 << 14)
        yield from ((4, 4),) if packs > 1 << 16 else ()


def _of_tensors(packs: int, alone: bool) -> Iterator[Candidate]:
    """One program for few packs; two kernels, whose shapes are varied one at a time."""
    start = Start.ALONE if alone else Start.BEHIND_LOADS
    for vectors in (1, 2, 4):
        if packs <= 1024 * vectors:
            yield Candidate(Launch(vectors, 1, Start.ALONE if alone else Start.AT_ONCE), alone=alone)
    usual = (1, 8) if packs <= 1 << 17 else (4, 8)
    finds = ((usual, 132), (usual, 264), (usual, 528), ((1, 4), 528), ((2, 16), 132))
    shapes = [(find, usual, partials) for find, partials in finds]
    shapes += [(usual, quantize, 264) for quantize in ((1, 2), (1, 4), (2, 4), (2, 8), (4, 4))]
    for find, quantize, partials in shapes:
        yield Candidate(find=Launch(*find, start), quantize=Launch(*quantize, start), partials=partials, alone=alone)


def empty_scales(scheme: Scheme, x: Tensor) -> Tensor:
    return torch.empty_strided(scheme.scale_shape(*x.shape), scheme.scale_strides(*x.shape), device="cuda")


# ---- compilation ----------------------------------------------------------------------------------------------


def compile_jobs(jobs: list[tuple[str, int, int]], alone: bool) -> list[str]:
    """Compile, in a process of its own, all candidates of (family, tokens, hidden); what failed."""
    failed = []
    for family, tokens, hidden in jobs:
        scheme, x = Scheme.parse(family), torch.zeros(tokens, hidden, dtype=torch.bfloat16, device="cuda")
        for candidate in candidates(family, tokens, hidden, alone):
            try:
                candidate.bind(
                    scheme, x, torch.empty(x.shape, dtype=torch.uint8, device="cuda"), empty_scales(scheme, x)
                )()
            except (RuntimeError, triton.TritonError) as error:
                failed.append(f"{family} {tokens}x{hidden} {candidate}: {error}")
    torch.cuda.synchronize()
    return failed


def compile_all(families: list[str], alone: bool) -> list[str]:
    shapes = sorted({*speed.GRID, *CHECKED_SHAPES}, key=lambda shape: (shape[1], shape[0]))
    jobs = [(family, *shape) for family in families for shape in shapes]
    slices = [jobs[index::WORKERS] for index in range(WORKERS)]
    with ProcessPoolExecutor(WORKERS, mp_context=multiprocessing.get_context("spawn")) as pool:
        return [failure for failures in pool.map(partial(compile_jobs, alone=alone), slices) for failure in failures]


# ---- correctness ----------------------------------------------------------------------------------------------


@triton.jit  # type: ignore[untyped-decorator]
def _reciprocals_kernel(values, out, BLOCK: tl.constexpr):  # type: ignore[no-untyped-def] # noqa: N803
    index = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    tl.store(out + index, _reciprocal(tl.load(values + index)))


def wrong_reciprocals() -> int:
    """Mantissas whose reciprocal is not rounded to nearest, of all."""
    bits = torch.arange(1 << 23, dtype=torch.int32, device="cuda") | 0x3F800000
    values, out = bits.view(torch.float32), torch.empty(1 << 23, device="cuda")
    _reciprocals_kernel[(1 << 13,)](values, out, BLOCK=1024)
    return int((out != (1.0 / values.double()).float()).sum())


def check(families: list[str], alone: bool) -> Iterator[str]:
    """What is wrong, of reciprocals and of every candidate on inputs made to break it."""
    if wrong := wrong_reciprocals():
        yield f"{wrong} reciprocals"
    generator = torch.Generator().manual_seed(3)
    for family in families:
        for tokens, hidden in CHECKED_SHAPES:
            for kind in KINDS:
                trial = correctness.Trial(family, torch.bfloat16, tokens, hidden, kind)
                x = correctness.make_input(trial, generator).bfloat16().cuda()
                yield from _check_input(family, kind, x, alone)
    adapter: Any = Adapter(alone)
    for findings in (correctness.check_all_patterns(adapter), correctness.check_order(adapter)):
        yield from (f"{what}: {finding}" for what, finding in findings if finding)


class Adapter:
    """The backend, where the checks of the CUDA kernels expect theirs."""

    def __init__(self, alone: bool) -> None:
        self._backend = backend.TritonBackend(not alone)

    def bind(
        self, scheme: Scheme, x: Tensor, codes: Tensor, scales: Tensor, scale: Tensor | None = None
    ) -> Callable[[], object]:
        return self._backend.bind(scheme, x, codes.view(torch.float8_e4m3fn), scales, scale)


def _check_input(family: str, kind: str, x: Tensor, alone: bool) -> Iterator[str]:
    scheme = Scheme.parse(family)
    codes, scales = (tensor.cuda() for tensor in reference.quantize(x, scheme))
    for candidate in candidates(family, x.shape[0], x.shape[1], alone):
        got, got_scales = torch.full_like(codes, correctness.POISON), empty_scales(scheme, x).fill_(-1.0)
        candidate.bind(scheme, x, got, got_scales)()
        same = torch.equal(got_scales.nan_to_num(-7.0), scales.nan_to_num(-7.0))
        if not same or not torch.equal(got, codes):
            yield f"{family} {tuple(x.shape)} {kind}, {candidate}: {int((got != codes).sum())} codes, scales {same}"


# ---- times ----------------------------------------------------------------------------------------------------


def binder(candidate: Candidate, scheme: Scheme) -> speed.Bind:
    def bind(x: Tensor, codes: Tensor) -> Callable[[], Any]:
        return candidate.bind(scheme, x, codes, empty_scales(scheme, x))

    return bind


def time_shape(
    kernels: native.Kernels, families: list[str], alone: bool, tokens: int, hidden: int, flush: Tensor
) -> Iterator[Row]:
    clock = speed.Clock(speed.Shape(tokens, hidden, torch.bfloat16), flush)
    clock.calls = min(clock.calls, MOST_CALLS)
    for regime in speed.REGIMES:
        floor, variant = speed.floors(kernels, clock, regime)
        times = {("floor", f"variant {variant}"): floor}
        for family in families:
            scheme = Scheme.parse(family)
            for candidate in candidates(family, tokens, hidden, alone):
                times[family, str(candidate)] = clock.time(binder(candidate, scheme), regime)
        for (family, launch), us in times.items():
            cell = (family, tokens, hidden, regime, launch, round(us, 4), round(floor, 4), round(us / floor, 4))
            yield dict(zip(COLUMNS, cell, strict=True))


def time_grid(kernels: native.Kernels, families: list[str], alone: bool, out: Path, deadline: float) -> list[Row]:
    """A row a cell and candidate; shapes in an order that covers the grid early."""
    flush = torch.empty(speed.FLUSH_BYTES, dtype=torch.int8, device="cuda")
    rows: list[Row] = []
    shapes = [shape for start in range(3) for shape in speed.GRID[start::3]]
    with (out / "tune-triton.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        for tokens, hidden in shapes:
            if time.monotonic() > deadline:
                break
            found = list(time_shape(kernels, families, alone, tokens, hidden, flush))
            writer.writerows(found)
            file.flush()
            rows += found
    return rows


def _mean(ratios: list[float]) -> float:
    return math.exp(statistics.fmean(map(math.log, ratios)))


def best_of(cells: dict[tuple[int, int], dict[str, dict[str, float]]]) -> Iterator[tuple[tuple[int, int], str]]:
    """The launch of each shape that is fastest, hot and cold together."""
    for shape, launches in sorted(cells.items()):
        yield shape, min(launches, key=lambda name, of=launches: math.prod(of[name].values()))  # type: ignore[misc]


def report(rows: list[Row], families: list[str], alone: bool) -> Iterator[str]:
    """By family: geometric means with the table and with the best launch of each cell; then those launches."""
    table = str(Candidate(alone=alone))
    for family in families:
        cells: dict[tuple[int, int], dict[str, dict[str, float]]] = defaultdict(lambda: defaultdict(dict))
        for row in rows:
            if row["family"] == family:
                cells[row["tokens"], row["hidden"]][row["launch"]][row["regime"]] = row["ratio"]
        best = dict(best_of(cells))
        means = [
            " / ".join(f"{_mean([cells[s][pick(s)][regime] for s in cells]):.3f}" for regime in speed.REGIMES)
            for pick in (lambda _: table, lambda shape, of=best: of[shape])
        ]
        yield f"{family}, {len(cells)} shapes, time / floor hot / cold: table {means[0]}, best {means[1]}"
        for shape, name in best.items():
            usual, fastest = (
                "/".join(f"{cells[shape][which][regime]:.2f}" for regime in speed.REGIMES) for which in (table, name)
            )
            yield f"  {shape[0]:5}x{shape[1]:<5} table {usual}  {fastest} {name}"


# ---- command --------------------------------------------------------------------------------------------------


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--build", type=Path, help="build directory with a CUDA library; default: compile here")
    parser.add_argument("--families", default=",".join(speed.FAMILIES))
    parser.add_argument("--alone", action="store_true", help="candidates for calls that overlap no other")
    parser.add_argument("--seconds", type=float, default=95, help="of timing no new shape begins after this")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    families = options.families.split(",")
    started = time.monotonic()
    with (options.out / "report.txt").open("w") as log:

        def tell(text: str) -> None:
            print(text, flush=True)
            print(text, file=log, flush=True)

        with ThreadPoolExecutor() as pool:
            building = pool.submit(lambda: options.build or native.build(options.out / "build"))
            failed = compile_all(families, options.alone)
            kernels = native.Kernels(building.result())
        tell(f"{torch.cuda.get_device_name()}, triton {triton.__version__}")
        tell(f"{time.monotonic() - started:.0f} s to compile")
        wrong = [*failed, *check(families, options.alone)]
        tell("\n".join(wrong[:20]) or "all outputs are right")
        tell(f"{time.monotonic() - started:.0f} s until the clock starts")
        rows = time_grid(kernels, families, options.alone, options.out, started + options.seconds)
        for line in report(rows, families, options.alone):
            tell(line)
        tell(f"{time.monotonic() - started:.0f} s")
    return int(bool(wrong))


if __name__ == "__main__":
    sys.exit(main())
