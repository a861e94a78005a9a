"""Where the time of a launch goes, and what several executables of a hot cell are worth.

    python ci/gpu/launch_costs.py [--suite reference] [--every 10] [--repeats 12] [--device cuda|cpu]

Times every n-th cell of the suite as a launch would, this build against a copy of itself, and prints milliseconds a
cell and step: once as in the first launch of a night, once as in later ones, which know what a call takes. Then repeats
hot cells of the cuda backend with one executable of a graph and with several, and prints how far the effect sways: it
should be 0.
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from fp8bench import builds, suite, worker  # noqa: E402
from fp8bench.backends import CHECKED_ONLY  # noqa: E402
from fp8bench.config import TimingSettings  # noqa: E402
from fp8bench.protocol import TimeJob, TimeRequest  # noqa: E402
from fp8bench.spec import Cell  # noqa: E402
from fp8bench.timing import plan  # noqa: E402

# Of the worker and of either clock. `_probe` and `_series` contain others, so they are not among them.
STEPS = ("_buffers", "_bind", "_call_once", "_capture", "_ready", "_replay", "_warm_up", "_block")
LEVELS = ("per-token/bfloat16/128x4096", "group-128-row/bfloat16/128x4096", "per-token/bfloat16/16x896")
Costs = dict[str, float]  # step -> seconds


def main() -> None:
    options = _options()
    with tempfile.TemporaryDirectory() as folder:
        build = builds.default_build()
        copy = Path(shutil.copytree(build, Path(folder) / build.name))
        print_costs(options, build, copy)
        if options.device == "cuda":
            print_levels(options, build, copy)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--suite", default="reference")
    parser.add_argument("--every", type=int, default=10, help="n: every n-th cell (10)")
    parser.add_argument("--repeats", type=int, default=12, help="of each hot cell (12)")
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    return parser.parse_args()


def timer(build: Path, copy: Path, device: Any, executables: int) -> worker._Timer:
    settings = TimingSettings()
    request = TimeRequest(
        device=device,
        seed=0,
        builds={"baseline": build, "candidate": copy},
        load_order=("baseline", "candidate"),
        jobs=(),
        shared=("torch",),
        quads=settings.quads,
        cold_quads=settings.quads * (settings.cold_factor if device == "cuda" else 1),
        executables=executables,
        block_s=settings.block_ms * 1e-3,
        warmup_s=settings.warmup_ms * 1e-3,
    )
    return worker._Timer(request)


# ---- costs --------------------------------------------------------------------------------------------------


@contextmanager
def watched(owners: Sequence[object], costs: Costs) -> Iterator[None]:
    """Add up in `costs` how long the steps of `owners` take."""
    steps = [(owner, name) for owner in owners for name in STEPS if hasattr(owner, name)]
    for owner, name in steps:
        setattr(owner, name, _watched(getattr(owner, name), name, costs))
    try:
        yield
    finally:
        for owner, name in steps:
            delattr(owner, name)


def _watched(step: Callable[..., Any], name: str, costs: Costs) -> Callable[..., Any]:
    def run(*arguments: Any, **options: Any) -> Any:
        begin = time.perf_counter()
        try:
            return step(*arguments, **options)
        finally:
            costs[name] += time.perf_counter() - begin

    return run


def print_costs(options: argparse.Namespace, build: Path, copy: Path) -> None:
    every = suite.load(options.suite, options.device).cells[:: options.every]
    cells = [cell for cell in every if (cell.backend, options.device) not in CHECKED_ONLY]
    made = timer(build, copy, options.device, TimingSettings().executables)
    call_s: dict[str, float] = {}
    print(f"milliseconds a cell\n{'':24}{'cells':>6}{'all':>9}" + "".join(f"{step:>12}" for step in STEPS))
    for title in ("first launch", "later launch"):
        costs: dict[str, Costs] = defaultdict(lambda: defaultdict(float))
        counts: dict[str, int] = defaultdict(int)
        for cell in cells:
            name = f"{cell.backend} {cell.regime}"
            begin, counts[name] = time.perf_counter(), counts[name] + 1
            with watched([made, made._clock], costs[name]):
                blocks = made.time(TimeJob(cell=cell.id, seconds=call_s.get(cell.id, 0.0)))
            costs[name]["all"] += time.perf_counter() - begin
            call_s[cell.id] = statistics.median(block.seconds for block in blocks)
        print(title)
        for name, count in counts.items():
            figures = "".join(f"{1e3 * costs[name][step] / count:12.2f}" for step in STEPS)
            print(f"  {name:22}{count:6}{1e3 * costs[name]['all'] / count:9.1f}{figures}")


# ---- levels -------------------------------------------------------------------------------------------------


def print_levels(options: argparse.Namespace, build: Path, copy: Path) -> None:
    several = TimingSettings().executables
    print(
        f"\nstandard deviation of the effect over {options.repeats} repeats, percent, with 1 and {several} executables"
    )
    for case in LEVELS:
        cell = Cell.parse(f"cuda/{case}/hot")
        both = [_sway(timer(build, copy, options.device, count), cell, options.repeats) for count in (1, several)]
        print(f"  {cell.id:50}" + "".join(f"{100 * value:10.3f}" for value in both))


def _sway(made: worker._Timer, cell: Cell, repeats: int) -> float:
    effects = []
    for _ in range(repeats):
        blocks = [plan.Timed(block.quad, block.arm, block.seconds) for block in made.time(TimeJob(cell=cell.id))]
        effects.append(plan.effect(blocks) or 0.0)
    return statistics.stdev(effects)


if __name__ == "__main__":
    main()
