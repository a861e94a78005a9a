"""Chained throughput and isolated latency of every cell of the reference grid, beside each other.

    python ci/gpu/latency.py --out DIR [--build DIR] [--variants cuda,triton-no-pdl,floor,...] [--seconds 55]

Chained: calls of one kind behind each other, which programmatic dependent launch lets overlap. Isolated: what one call
adds to a chain of another kernel that knows nothing of dependent launches (fp8bench/timing/cuda.py says how), so cuda
beside cuda-no-pdl shows what dependent launch gives behind a foreign kernel. Writes latency.csv; prints geometric
means by family, hot / cold.
"""

from __future__ import annotations

import argparse
import csv
import math
import statistics
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import native
import speed
import torch
from native import NO_PDL, Kernels
from torch import Tensor

from fp8bench import backends, tensors
from fp8bench.backends.triton import TritonBackend
from fp8bench.spec import Case, Scheme
from fp8bench.timing import Clock, clock_for

VARIANTS = ("cuda", "cuda-no-pdl", "triton", "triton-no-pdl", "floor", "torch")
DEFAULT = "cuda,cuda-no-pdl,floor,triton,triton-no-pdl"
COLUMNS = ("variant", "family", "tokens", "hidden", "regime", "chained_us", "isolated_us")
QUADS = 3
# Small and large first: a run that is out of time has something of everything.
GRID = sorted(speed.GRID, key=lambda size: (size[0] not in (16, 1024), size[1] not in (2048, 7168), size))

Bind = Callable[[Scheme, Tensor, Tensor, Tensor], Callable[[], object]]
Row = dict[str, object]


def main() -> None:
    options = _options()
    options.out.mkdir(parents=True, exist_ok=True)
    build = options.build or native.build(options.out / "build")
    binds = {name: bind_of(name, build) for name in options.variants.split(",")}
    clock, deadline = clock_for("cuda"), time.monotonic() + options.seconds
    rows: list[Row] = []
    with (options.out / "latency.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        for row in measure(binds, clock, deadline):
            rows.append(row)
            writer.writerow(row)
            file.flush()
    for line in summary(rows, list(binds)):
        print(line)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="directory for results")
    parser.add_argument("--build", type=Path, help="build directory with a CUDA library; default: compile here")
    parser.add_argument("--variants", default=DEFAULT, help=f"of {', '.join(VARIANTS)}; default {DEFAULT}")
    parser.add_argument("--seconds", type=float, default=55.0, help="no size is begun after so many (55)")
    options = parser.parse_args()
    if unknown := set(options.variants.split(",")) - set(VARIANTS):
        parser.error(f"unknown variants {', '.join(sorted(unknown))}: use {', '.join(VARIANTS)}")
    return options


def bind_of(variant: str, build: Path) -> Bind:
    """What binds a call of a variant to buffers."""
    if variant == "triton-no-pdl":
        return TritonBackend(overlaps=False).bind
    if variant in ("triton", "torch"):
        return backends.load(variant, native.ROOT / "fp8bench").bind
    if variant == "floor":
        return backends.load(variant, build).bind
    kernels, flags = Kernels(build), NO_PDL if variant == "cuda-no-pdl" else 0
    return lambda scheme, x, codes, scales: kernels.bind(scheme, x, codes, scales, flags=flags)


def measure(binds: dict[str, Bind], clock: Clock, deadline: float) -> Iterator[Row]:
    for done, (tokens, hidden) in enumerate(GRID):
        if time.monotonic() > deadline:
            print(f"out of time after {done} of {len(GRID)} sizes")
            return
        for family in speed.FAMILIES:
            case = Case(Scheme.parse(family), "bfloat16", tokens, hidden)
            for regime in speed.REGIMES:
                yield from measure_case(binds, clock, case, regime)


def measure_case(binds: dict[str, Bind], clock: Clock, case: Case, regime: str) -> Iterator[Row]:
    """All variants in turns, on the same buffers.

    So ratios are sound whatever the state of the device, which makes up to 0.2 us of a launch (docs/measurement.md).
    """
    cold, scheme = regime == "cold", case.scheme
    x = torch.randn(case.tokens, case.hidden, device="cuda").bfloat16()
    inputs = [x, *(x.clone() for _ in range(clock.sets_for(case.bytes_moved, cold=cold) - 1))]
    buffers = [(entry, *tensors.poisoned_outputs(case, "cuda")) for entry in inputs]
    arms = [[bind(scheme, *entry) for entry in buffers] for bind in binds.values()]
    blocks = clock.quads(arms, QUADS, cold=cold)
    chained = [statistics.median(b.seconds for b in blocks if b.arm == arm) for arm in range(len(arms))]
    isolated = map(statistics.median, clock.isolated(arms, QUADS, cold=cold))
    for variant, *seconds in zip(binds, chained, isolated, strict=True):
        values = (variant, scheme.name, case.tokens, case.hidden, regime, *(each * 1e6 for each in seconds))
        yield dict(zip(COLUMNS, values, strict=True))


# ---- summary ------------------------------------------------------------------------------------------------


def summary(rows: list[Row], variants: list[str]) -> Iterator[str]:
    titles = ("chained, us", "isolated, us", "chained / floor", "isolated / floor")
    yield f"{'geometric means, hot / cold':32} " + " ".join(f"{title:>17}" for title in titles)
    for family in speed.FAMILIES:
        floors = {(row["tokens"], row["hidden"], row["regime"]): row for row in _of(rows, "floor", family)}
        for variant in variants:
            if mine := _of(rows, variant, family):
                times = [_pair(mine, column) for column in ("chained_us", "isolated_us")]
                ratios = [_over(mine, floors, column) for column in ("chained_us", "isolated_us")] if floors else []
                yield f"{family:14} {variant:17} " + " ".join(f"{pair:>17}" for pair in (*times, *ratios))
    yield from _gains(rows)


def _of(rows: list[Row], variant: str, family: str | None = None) -> list[Row]:
    return [row for row in rows if row["variant"] == variant and family in (None, row["family"])]


def _pair(rows: list[Row], column: str) -> str:
    return " / ".join(
        f"{_mean(row[column] for row in rows if row['regime'] == regime):.3f}" for regime in speed.REGIMES
    )


def _over(rows: list[Row], floors: dict[tuple[object, object, object], Row], column: str) -> str:
    ratios = [
        {
            **row,
            column: float(str(row[column])) / float(str(floors[row["tokens"], row["hidden"], row["regime"]][column])),
        }
        for row in rows
    ]
    return _pair(ratios, column)


def _gains(rows: list[Row]) -> Iterator[str]:
    """What dependent launch gives: time with it over time without, by kind of measurement."""
    keys = ("family", "tokens", "hidden", "regime")
    for variant in ("cuda", "triton"):
        without = {tuple(row[key] for key in keys): row for row in _of(rows, f"{variant}-no-pdl")}
        pairs = [(row, without[key]) for row in _of(rows, variant) if (key := tuple(row[k] for k in keys)) in without]
        for column, meaning in (
            ("chained_us", "behind itself"),
            ("isolated_us", "behind a kernel that knows nothing of it"),
        ):
            if pairs:
                gain = _mean(float(str(ours[column])) / float(str(theirs[column])) for ours, theirs in pairs)
                yield f"{variant}, time with dependent launch over time without, {meaning}: {gain:.3f}"


def _mean(values: Iterable[object]) -> float:
    """Geometric mean of what is positive: a difference of two measurements may not be."""
    logs = [math.log(value) for value in map(float, map(str, values)) if value > 0]
    return math.exp(statistics.fmean(logs)) if logs else math.nan


if __name__ == "__main__":
    main()
