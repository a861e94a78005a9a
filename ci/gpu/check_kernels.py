"""Checks and times the CUDA kernels on the GPU of this machine; needs torch and, without --build, nvcc.

    python ci/gpu/check_kernels.py --out DIR [--build DIR] [--sections SECTION,...]

Every section runs on its own: one that fails is reported and the others go on. Results are written to --out as they
come; the exit code is 1 if anything was wrong.
"""

from __future__ import annotations

import argparse
import itertools
import sys
import time
import traceback
from collections.abc import Callable, Iterable
from pathlib import Path

import correctness
import native
import speed
import torch

SECTIONS = ("check", "places", "waits", "patterns", "order", "grid", "large", "odd", "tune", "fp16", "fp32")
DEFAULT = "check,patterns,order,grid,large,odd"
MOST_PRINTED = 12  # failures a section


def main() -> int:
    options = _options()
    options.out.mkdir(parents=True, exist_ok=True)
    log = (options.out / "report.txt").open("w")

    def tell(text: str) -> None:
        print(text, flush=True)
        print(text, file=log, flush=True)

    started = time.monotonic()
    tell(f"{torch.cuda.get_device_name()}, torch {torch.__version__}, CUDA {torch.version.cuda}")
    kernels = native.Kernels(options.build or native.build(options.out / "build"))
    tell(f"library ready after {time.monotonic() - started:.1f} s")
    return max([_run(name, kernels, options.out, tell) for name in options.sections.split(",")])


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="directory for results")
    parser.add_argument("--build", type=Path, help="build directory with a CUDA library; default: compile here")
    parser.add_argument("--sections", default=DEFAULT, help=f"of {', '.join(SECTIONS)}; default {DEFAULT}")
    options = parser.parse_args()
    if unknown := set(options.sections.split(",")) - set(SECTIONS):
        parser.error(f"unknown sections {', '.join(sorted(unknown))}: use {', '.join(SECTIONS)}")
    return options


def _run(name: str, kernels: native.Kernels, out: Path, tell: Callable[[str], None]) -> int:
    """Run a section; 1 if it found something wrong or could not run."""
    tell(f"\n== {name}")
    started = time.monotonic()
    try:
        failed = _section(name, kernels, out, tell)
    except Exception:  # noqa: BLE001 - whatever it was, the other sections are worth running
        tell(traceback.format_exc())
        failed = True
    tell(f"-- {name}: {'FAILED' if failed else 'ok'}, {time.monotonic() - started:.1f} s")
    return int(failed)


def _section(name: str, kernels: native.Kernels, out: Path, tell: Callable[[str], None]) -> bool:
    if name == "check":
        return _judge(_check_trials(kernels, correctness.trials()), tell)
    if name == "places":  # of `check`, what is worth running under memcheck
        return _judge(_check_trials(kernels, correctness.odd_places()), tell)
    if name == "waits":  # of `check`, what racecheck is for
        return _judge(_check_trials(kernels, correctness.waits()), tell)
    if name == "patterns":
        return _judge(correctness.check_all_patterns(kernels), tell)
    if name == "order":
        chains = itertools.chain(correctness.check_order(kernels), correctness.check_fetching(kernels))
        return _judge(chains, tell)
    tables: dict[str, Callable[[], str]] = {
        "grid": lambda: speed.time_grid(kernels, out, torch.bfloat16),
        "fp16": lambda: speed.time_grid(kernels, out, torch.float16, speed.GRID[::4]),
        "fp32": lambda: speed.time_grid(kernels, out, torch.float32, speed.GRID[::4]),
        "large": lambda: speed.time_large(kernels, out),
        "odd": lambda: speed.time_odd(kernels, out),
        "tune": lambda: speed.tune(kernels, out),
    }
    tell(tables[name]())
    return False


def _check_trials(kernels: native.Kernels, trials: Iterable[correctness.Trial]) -> Iterable[tuple[str, str | None]]:
    generator = torch.Generator().manual_seed(7)
    for trial in trials:
        values = correctness.make_input(trial, generator)
        try:
            yield str(trial), correctness.run(kernels, trial, values, generator)
        except RuntimeError as error:  # the library refused, or the GPU
            yield str(trial), str(error)


def _judge(findings: Iterable[tuple[str, str | None]], tell: Callable[[str], None]) -> bool:
    count, wrong = 0, 0
    for what, finding in findings:
        count += 1
        if finding is not None:
            wrong += 1
            if wrong <= MOST_PRINTED:
                tell(f"{what}: {finding}")
    tell(f"{count} checked, {wrong} wrong")
    return wrong > 0


if __name__ == "__main__":
    sys.exit(main())
