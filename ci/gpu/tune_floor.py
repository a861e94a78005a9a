"""Times every launch shape of the floor over the reference grid, and finds the table that loses least.

    python ci/gpu/tune_floor.py --out DIR [--build DIR] [--dtype bfloat16]

Prints by how much the table in fp8bench/backends/floor.py misses the best launch shape of each cell, and the table that
would miss it least; writes all times to floor-<dtype>.csv. Without dependent launch, as the floor is measured.
"""

from __future__ import annotations

import argparse
import csv
import math
import statistics
from functools import partial
from pathlib import Path

import native
import speed
import torch

from fp8bench.backends import floor

MOST_ROWS = 6  # of the table that is looked for
Times = dict[tuple[int, str], dict[int, float]]  # (16-byte vectors of input, regime) -> variant -> microseconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="directory for results")
    parser.add_argument("--build", type=Path, help="build directory with a CUDA library; default: compile here")
    parser.add_argument("--dtype", default="bfloat16", choices=["bfloat16", "float16", "float32"])
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    kernels = native.Kernels(options.build or native.build(options.out / "build"))
    times = measure(kernels, getattr(torch, options.dtype), options.out / f"floor-{options.dtype}.csv")
    report(times, getattr(torch, options.dtype).itemsize)


def measure(kernels: native.Kernels, dtype: torch.dtype, file: Path) -> Times:
    """Every variant at every size and in both regimes; sizes with equally many vectors are one, their mean."""
    flush = torch.empty(speed.FLUSH_BYTES, dtype=torch.int8, device="cuda")
    found: dict[tuple[int, str], dict[int, list[float]]] = {}
    with file.open("w", newline="") as out:
        writer = csv.writer(out)
        writer.writerow(("tokens", "hidden", "regime", "vectors", "threads", "us"))
        for tokens, hidden in (*speed.GRID, *speed.LARGE[:1]):
            shape = speed.Shape(tokens, hidden, dtype)
            clock = speed.Clock(shape, flush)
            for regime in speed.REGIMES:
                cell = found.setdefault((shape.elements * dtype.itemsize // floor.VECTOR_BYTES, regime), {})
                for variant in range(kernels.floor_variants):
                    us = clock.time(partial(_bind, kernels, variant), regime)
                    cell.setdefault(variant, []).append(us)
                    writer.writerow((tokens, hidden, regime, *shape_of(variant), round(us, 4)))
            out.flush()
    return {key: {variant: statistics.fmean(us) for variant, us in cell.items()} for key, cell in found.items()}


def _bind(kernels: native.Kernels, variant: int, x: torch.Tensor, codes: torch.Tensor) -> object:
    return kernels.bind_floor(x, codes, variant)


def shape_of(variant: int) -> tuple[int, int]:
    """Vectors a thread and threads a block."""
    return floor.VECTORS[variant // len(floor.THREADS)], floor.THREADS[variant % len(floor.THREADS)]


# ---- report -------------------------------------------------------------------------------------------------


def losses(times: Times) -> dict[int, dict[int, float]]:
    """Vectors -> variant -> log of its time over the best variant's, the mean of both regimes."""
    sizes = sorted({size for size, _ in times})
    return {
        size: {
            variant: statistics.fmean(
                math.log(times[size, regime][variant] / min(times[size, regime].values())) for regime in speed.REGIMES
            )
            for variant in times[size, speed.REGIMES[0]]
        }
        for size in sizes
    }


def best_table(lost: dict[int, dict[int, float]]) -> list[tuple[int, int]]:
    """(most vectors, variant) of at most MOST_ROWS rows with the smallest loss over all sizes."""
    sizes = list(lost)
    best: list[tuple[float, list[tuple[int, int]]]] = [(0.0, [])] + [(math.inf, [])] * len(sizes)
    for _ in range(MOST_ROWS):  # a table of the first `end` sizes is one of fewer sizes, and a row for the rest
        longer = list(best)
        for end in range(1, len(sizes) + 1):
            for start in range(end):
                loss, variant = _one_row([lost[size] for size in sizes[start:end]])
                if best[start][0] + loss < longer[end][0] - 1e-9:
                    longer[end] = best[start][0] + loss, [*best[start][1], (sizes[end - 1], variant)]
        best = longer
    return best[-1][1]


def _one_row(lost: list[dict[int, float]]) -> tuple[float, int]:
    return min((sum(size[variant] for size in lost), variant) for variant in lost[0])


def report(times: Times, element_bytes: int) -> None:
    lost = losses(times)
    print(f"{'vectors':>8}  {'table':>9}  {'best':>9}  time over the best, hot / cold")
    for size in lost:
        ours = floor.choose_variant(size * floor.VECTOR_BYTES // element_bytes, element_bytes)
        ratios = [times[size, regime][ours] / min(times[size, regime].values()) for regime in speed.REGIMES]
        best = min(lost[size], key=lambda variant: lost[size][variant])
        names = ["{}x{}".format(*shape_of(variant)) for variant in (ours, best)]
        print(f"{size:8}  {names[0]:>9}  {names[1]:>9}  {' / '.join(f'{ratio:.3f}' for ratio in ratios)}")
    ours = [
        lost[size][floor.choose_variant(size * floor.VECTOR_BYTES // element_bytes, element_bytes)] for size in lost
    ]
    table = best_table(lost)
    reached = [lost[size][next(variant for most, variant in table if size <= most)] for size in lost]
    print(f"the table is {math.expm1(statistics.fmean(ours)):.2%} above the best of each cell, geometric mean;")
    print(f"this one would be {math.expm1(statistics.fmean(reached)):.2%} above (most vectors, a thread, threads):")
    for most, variant in table:
        print(f"    ({most if most != max(lost) else '1 << 62'}, {', '.join(map(str, shape_of(variant)))}),")


if __name__ == "__main__":
    main()
