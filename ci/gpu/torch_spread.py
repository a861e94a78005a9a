"""How far the torch backend's times lie apart between processes, with compile caches of their own and with shared ones.

    python ci/gpu/torch_spread.py --out DIR [--processes 5] [--device cuda|cpu]

Two rounds. *fresh*: every process compiles from nothing. *shared*: all processes find what one of the first round
compiled, as the launches of a night do. The processes of a round compile side by side and time one after the other, so
that they do not disturb each other. Prints the largest over the smallest time of each cell, and writes
torch-spread.csv.
"""

from __future__ import annotations

import argparse
import csv
import json
import math
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

CELLS = (  # small and large, every granularity; those of which Inductor has several configurations to choose from
    "per-tensor/bfloat16/16x2048/hot",
    "per-tensor/bfloat16/1024x7168/cold",
    "per-token/bfloat16/16x896/hot",
    "per-token/bfloat16/128x4096/hot",
    "per-token/bfloat16/1024x7168/cold",
    "group-64-col/bfloat16/16x2048/hot",
    "group-128-row/bfloat16/512x4096/hot",
    "group-128-col/bfloat16/1024x7168/cold",
)
BLOCKS = 20
PATIENCE_S = 60.0  # for a process that has answered to end
Times = dict[str, float]  # cell -> microseconds


def main() -> None:
    options = _options()
    if options.child:
        child(options.device)
        return
    options.out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        caches = [Path(folder) / f"{number}" for number in range(options.processes)]
        found = {"fresh": run_round(caches, options.device)}
        found["shared"] = run_round([caches[0]] * options.processes, options.device)
    write(found, options.out / "torch-spread.csv")
    for line in report(found):
        print(line)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path(), help="directory for results")
    parser.add_argument("--processes", type=int, default=5, help="of each round (5)")
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    return parser.parse_args()


# ---- one process --------------------------------------------------------------------------------------------


def child(device: str) -> None:
    """Compile every cell, say so, wait for a line, time every cell, answer with the times as JSON."""
    import torch

    from fp8bench import backends, tensors
    from fp8bench.spec import Cell
    from fp8bench.timing import Clock, clock_for

    out = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # what compilers print is no answer
    torch.set_num_threads(1)
    backend = backends.load("torch", ROOT / "fp8bench")
    cells = [Cell.parse(f"torch/{text}") for text in CELLS]
    inputs = [tensors.random_input(cell.case, device, 0) for cell in cells]
    outputs = [tensors.poisoned_outputs(cell.case, device) for cell in cells]
    for cell, x, empty in zip(cells, inputs, outputs, strict=True):
        backend.bind(cell.case.scheme, x, *empty)
    out.write("compiled\n")
    sys.stdin.readline()

    def time(clock: Clock, cell: Cell, x: torch.Tensor, empty: tuple[torch.Tensor, torch.Tensor]) -> float:
        cold = cell.regime == "cold"
        copies = [x, *(x.clone() for _ in range(clock.sets_for(cell.case.bytes_moved, cold=cold) - 1))]
        calls = [backend.bind(cell.case.scheme, entry, *empty) for entry in copies]
        return statistics.median(clock.measure(calls, BLOCKS, cold=cold)) * 1e6

    clock = clock_for(device)
    both = zip(CELLS, cells, inputs, outputs, strict=True)
    out.write(json.dumps({text: time(clock, *entry) for text, *entry in both}) + "\n")


# ---- many processes -----------------------------------------------------------------------------------------


def start(cache: Path, device: str) -> subprocess.Popen[str]:
    """A process whose compile caches lie in `cache`."""
    env = os.environ | {
        "TORCHINDUCTOR_CACHE_DIR": str(cache / "inductor"),
        "TRITON_CACHE_DIR": str(cache / "triton"),
        "TORCHINDUCTOR_COMPILE_THREADS": "1",
        "OMP_NUM_THREADS": "1",
    }
    command = [sys.executable, __file__, "--child", "--device", device]
    return subprocess.Popen(command, env=env, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE)


def run_round(caches: Sequence[Path], device: str) -> list[Times]:
    """Times of one process a cache; all compile at the same time, then each times alone."""
    processes = [start(cache, device) for cache in caches]
    try:
        for process in processes:
            _answer(process)
        found = []
        for process in processes:
            assert process.stdin is not None
            process.stdin.write("go\n")
            process.stdin.flush()
            found.append(json.loads(_answer(process)))
            process.wait(PATIENCE_S)
        return found
    finally:
        for process in processes:
            process.kill()
            process.wait()


def _answer(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    line = process.stdout.readline()
    if not line:
        raise SystemExit(f"a process ended with code {process.wait()} before it answered: see its words above.")
    return line


# ---- results ------------------------------------------------------------------------------------------------


def write(found: dict[str, list[Times]], file: Path) -> None:
    with file.open("w", newline="") as out:
        writer = csv.writer(out)
        writer.writerow(("caches", "process", "cell", "us"))
        for caches, processes in found.items():
            for number, times in enumerate(processes):
                writer.writerows((caches, number, cell, round(us, 4)) for cell, us in times.items())


def report(found: dict[str, list[Times]]) -> Iterable[str]:
    """Smallest and largest time of each cell, and one over the other."""
    yield f"{'cell':42}" + "".join(f"{caches + ': min, max us, spread':>32}" for caches in found)
    spreads: dict[str, list[float]] = {caches: [] for caches in found}
    for cell in CELLS:
        line = f"{cell:42}"
        for caches, processes in found.items():
            times = [entry[cell] for entry in processes]
            spreads[caches].append(max(times) / min(times))
            line += f"{min(times):16.3f}{max(times):9.3f}{spreads[caches][-1] - 1:7.1%}"
        yield line
    for caches, values in spreads.items():
        mean = math.exp(statistics.fmean(map(math.log, values)))
        yield f"{caches} caches: spread {mean - 1:.1%} (geometric mean), {max(values) - 1:.1%} (worst)"
    yield _between(found)


def _between(found: dict[str, list[Any]]) -> str:
    """Medians of the two rounds over each other."""
    medians = {caches: {cell: statistics.median(t[cell] for t in found[caches]) for cell in CELLS} for caches in found}
    ratios = [medians["shared"][cell] / medians["fresh"][cell] for cell in CELLS]
    return f"median with shared caches over median with fresh ones: {min(ratios):.3f} to {max(ratios):.3f}"


if __name__ == "__main__":
    main()
