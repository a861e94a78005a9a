"""The same two commits measured in one shard and in several: `prove_shards.py --shards 2 --candidate A --baseline B`.

On a machine with that many GPUs the shards run on one GPU each, on a CPU one after the other. Prints how long each
night took, where each shard ran, and every cell whose verdict differs; exits with 1 when one does that is not
UNRESOLVED in either, and with 4 when a night could not work.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(CHECKOUT))

from fp8bench import records  # noqa: E402
from fp8bench.records import Verdict  # noqa: E402
from fp8bench.rundir import RunDir  # noqa: E402

UNDECIDED = {Verdict.UNRESOLVED, Verdict.MISSING}


def night(home: Path, shards: int, arguments: list[str]) -> RunDir | None:
    """Run a night in so many shards; None when it could not work."""
    run = RunDir(home / f"shards-{shards}")
    environment = os.environ | {
        "FP8BENCH_HOME": str(home),
        "FP8BENCH_NIGHTS__SHARDS": str(shards),
        "PYTHONPATH": os.pathsep.join(filter(None, [str(CHECKOUT), os.environ.get("PYTHONPATH", "")])),
    }
    began = time.monotonic()
    command = [sys.executable, "-m", "fp8bench", "nightly", "--run-dir", str(run.path), *arguments]
    code = subprocess.run(command, env=environment, cwd=CHECKOUT, stdout=subprocess.DEVNULL, check=False).returncode
    print(f"{shards} shards: exit code {code} after {time.monotonic() - began:.0f} s", flush=True)
    return run if run.verdicts.exists() else None


def show(run: RunDir) -> dict[str, Verdict]:
    """Print what a night found; verdicts by cell. A cell's samples must all come from the shard it belongs to."""
    prepared, found = run.prepared(), run.judged()
    samples = run.raw_samples()
    for number, cells in enumerate(prepared.shards):
        report = records.read(records.TimingReport, run.time(number))
        mine = samples[samples["cell"].isin(cells)]
        told = f"{report.launches} launches, {len(mine)} blocks, {report.seconds:.0f} s"
        print(f"  shard {number}: {len(cells)} cells, {told}")
    print(f"  {dict(Counter(str(cell.verdict) for cell in found.cells))}")
    return {cell.cell: cell.verdict for cell in found.cells}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shards", type=int, default=2)
    for name in ("repo", "candidate", "baseline", "suite"):
        parser.add_argument(f"--{name}")
    args = parser.parse_args()
    given = [f"--{name}={value}" for name, value in vars(args).items() if name != "shards" and value]
    home = Path(tempfile.mkdtemp(prefix="fp8bench-shards-"))
    runs = [night(home, shards, given) for shards in (1, args.shards)]
    if None in runs:
        print(f"a night could not work; logs are in {home}")
        return 4
    one, several = (show(run) for run in runs if run)
    differing = {cell: (one[cell], several[cell]) for cell in one if one[cell] != several[cell]}
    for cell, verdicts in differing.items():
        print(f"  differs: {cell}: {verdicts[0]} in one shard, {verdicts[1]} in {args.shards}")
    decided = [cell for cell, verdicts in differing.items() if not UNDECIDED & set(verdicts)]
    print(f"{len(one)} cells, {len(differing)} verdicts differ, {len(decided)} of them decided both times")
    return 1 if decided else 0


if __name__ == "__main__":
    sys.exit(main())
