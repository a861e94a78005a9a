"""What a suite costs by the public per-token benchmark's method, to set beside the GPU time of a night.

    python ci/gpu/reference_method.py [--suite reference] [--share 10] [--processes 6] [--fresh-caches]
                                      [--baseline REV --candidate REV]

That method: one process; each cell once, in order; random data made for each; `triton.testing.do_bench_cudagraph`
with the quantiles 0.5, 0.2 and 0.8 around a call that also clones its input; torch.compile for each cell. It knows hot
caches only, and one build: both are timed here, one after the other, and cold cells are counted but not timed.

One process says nothing of how far processes lie apart (docs/measurement.md), so the time that compares with a night's
is that of so many processes as a night has launches: `--processes`. With `--share N` every Nth cell is timed and the
rest extrapolated, backend by backend. Building kernels (nvcc) is no part of it, nor is it of a night's GPU time.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import fmean, median
from typing import TYPE_CHECKING, NamedTuple

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

if TYPE_CHECKING:
    from fp8bench.backends import Backend
    from fp8bench.spec import Cell

QUANTILES = (0.5, 0.2, 0.8)
BUILDS = 2


class Timed(NamedTuple):
    """What a cell took, once a build."""

    cell: str
    seconds: tuple[float, ...]  # of the process, a build each
    microseconds: tuple[float, ...]  # a call, the median that the method found, a build each


def main() -> int:
    begin = time.perf_counter()
    options = _options()
    with tempfile.TemporaryDirectory() as caches:
        if options.fresh_caches:
            os.environ |= {"TORCHINDUCTOR_CACHE_DIR": f"{caches}/inductor", "TRITON_CACHE_DIR": f"{caches}/triton"}
        import torch

        if not torch.cuda.is_available():
            print("reference_method: no CUDA device is visible: run this on a machine with a GPU.", file=sys.stderr)
            return 4
        from fp8bench import backends, suite

        cells = [cell for cell in suite.load(options.suite, "cuda").cells if is_timed(cell)]
        names = sorted({cell.backend for cell in cells})
        started = time.perf_counter()
        places = _places(options, names)
        begin += time.perf_counter() - started  # what is built before costs a night nothing either
        loaded = [{name: backends.load(name, place) for name in names} for place in places]
        hot = [cell for cell in cells if cell.regime == "hot" and _is_supported(cell, loaded)]
        torch.zeros(1, device="cuda")
        ready = time.perf_counter() - begin
        found = [_time(cell, [build[cell.backend] for build in loaded]) for cell in every(hot, options.share)]
    for line in report(found, hot, sum(cell.regime == "cold" for cell in cells), ready, options.processes):
        print(line)
    return 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--suite", default="reference", help="name or file (%(default)s)")
    parser.add_argument("--share", type=_count, default=1, metavar="N", help="time every Nth cell of a backend (all)")
    parser.add_argument(
        "--processes", type=_count, default=6, metavar="N", help="to compare a night with (%(default)s)"
    )
    parser.add_argument(
        "--baseline", metavar="REV", help="with --candidate: commits to build (the files that lie here)"
    )
    parser.add_argument("--candidate", metavar="REV")
    parser.add_argument("--fresh-caches", action="store_true", help="Inductor and Triton compile everything")
    options = parser.parse_args()
    if bool(options.baseline) != bool(options.candidate):
        parser.error("give both --baseline and --candidate, or neither")
    return options


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number from 1 up")
    return int(text)


# ---- arithmetic ---------------------------------------------------------------------------------------------


def is_timed(cell: Cell) -> bool:
    """Not the floor: the method has none."""
    from fp8bench.backends import YARDSTICKS

    return cell.backend not in YARDSTICKS


def every(cells: Sequence[Cell], share: int) -> list[Cell]:
    """Every `share`th cell of each backend, at least one, spread over the suite's order."""
    by_backend: dict[str, list[Cell]] = {}
    for cell in cells:
        by_backend.setdefault(cell.backend, []).append(cell)
    return [cell for mine in by_backend.values() for cell in mine[min(share // 2, len(mine) - 1) :: share]]


def extrapolated(found: Sequence[Timed], counts: Mapping[str, int]) -> dict[str, float]:
    """Seconds for all cells of each backend: the mean of those that were timed, times how many there are.

    counts: cells by backend. ValueError for a backend of which none was timed.
    """
    seconds: dict[str, list[float]] = {}
    for entry in found:
        seconds.setdefault(entry.cell.partition("/")[0], []).append(sum(entry.seconds))
    if missing := sorted(set(counts) - set(seconds)):
        raise ValueError(f"no cell of {', '.join(missing)} was timed: nothing can be said of the others")
    return {backend: count * fmean(seconds[backend]) for backend, count in counts.items()}


def report(found: Sequence[Timed], hot: Sequence[Cell], cold: int, ready: float, processes: int) -> list[str]:
    """What it comes to. hot: all cells that the method can time. cold: how many it cannot. ready: seconds to start."""
    counts: dict[str, int] = {}
    for cell in hot:
        counts[cell.backend] = counts.get(cell.backend, 0) + 1
    totals = extrapolated(found, counts)
    lines = [f"{'backend':8} {'timed':>11} {'s a cell':>9} {'all, s':>8}   median us, first and second build"]
    for backend, total in totals.items():
        mine = [entry for entry in found if entry.cell.startswith(f"{backend}/")]
        medians = ", ".join(f"{median(entry.microseconds[build] for entry in mine):.2f}" for build in range(BUILDS))
        timed = f"{len(mine)} of {counts[backend]}"
        lines.append(f"{backend:8} {timed:>11} {total / counts[backend]:9.3f} {total:8.0f}   {medians}")
    one = ready + sum(totals.values())
    said = "measured" if len(found) == len(hot) else f"extrapolated from {len(found)} of {len(hot)} cells"
    lines.append(f"one process, {len(hot)} hot cells, both builds: {one:.0f} s ({ready:.0f} s to start), {said}")
    lines.append(
        f"{processes} processes, as a night has launches: {processes * one:.0f} s = {processes * one / 60:.1f} min"
    )
    if cold:
        both = ready + sum(totals.values()) * (len(hot) + cold) / len(hot)
        lines.append(
            f"{cold} cold cells are not in it, as the method has none; at the same cost they would make it "
            f"{processes * both:.0f} s = {processes * both / 60:.1f} min"
        )
    return lines


# ---- on the device ------------------------------------------------------------------------------------------


def _places(options: argparse.Namespace, names: Sequence[str]) -> list[Path]:
    """The build directories of baseline and candidate."""
    from fp8bench import builds, config, git

    settings = config.load()
    if not options.baseline:
        return [builds.default_build(settings)] * BUILDS
    cache = settings.home / "repos"
    repo = git.open_repo(settings.repo, cache)
    commits = [git.resolve(settings.repo, revision, cache) for revision in (options.baseline, options.candidate)]
    made = [builds.build(repo, commit.sha, "candidate", settings, backends=names) for commit in commits]
    return [Path(built.path) for built in made]


def _is_supported(cell: Cell, loaded: Sequence[Mapping[str, Backend]]) -> bool:
    return all(build[cell.backend].supports(cell.case, "cuda") is None for build in loaded)


def _time(cell: Cell, bound: Sequence[Backend]) -> Timed:
    """One cell, once a build, as the method does it: data, compilation and all."""
    taken = [_once(cell, backend) for backend in bound]
    return Timed(cell.id, tuple(seconds for seconds, _ in taken), tuple(microseconds for _, microseconds in taken))


def _once(cell: Cell, backend: Backend) -> tuple[float, float]:
    import torch
    import triton

    begin = time.perf_counter()
    call = _cloning(cell, backend)
    milliseconds = triton.testing.do_bench_cudagraph(call, quantiles=list(QUANTILES))
    torch.cuda.synchronize()
    return time.perf_counter() - begin, 1e3 * milliseconds[0]


def _cloning(cell: Cell, backend: Backend) -> Callable[[], object]:
    """The call that the method times: it clones its input each time."""
    import torch

    from fp8bench import tensors

    case = cell.case
    x = torch.randn(case.tokens, case.hidden, device="cuda", dtype=getattr(torch, case.dtype))
    call = backend.bind(case.scheme, x, *tensors.empty_outputs(case, "cuda"))

    def cloning() -> object:
        return x.clone(), call()

    return cloning


if __name__ == "__main__":
    sys.exit(main())
