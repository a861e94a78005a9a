"""`fp8bench bench`: the reference script's command line, on this machine."""

from __future__ import annotations

import argparse
import json
import math
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from .. import records
from ..backends import NAMES, REFERENCE, check_name
from ..errors import UsageError
from ..progress import Reporter
from ..spec import DTYPE_ALIASES, DTYPES, REGIMES, Case, GroupShape, parse_dtype
from ..speedups import compute_geomean_speedups
from ..wording import title
from . import EXIT_OK, EXIT_WRONG

HIDDEN_SIZES = [896, 1024, 2048, 4096, 7168]
BATCH_SIZES = [1, 16, 128, 512, 1024]
GROUP_SIZES = [0, -1, 64, 128]
BACKENDS = {"cuda": ["torch", "cuda", "triton"], "cpu": ["torch", "cpu"]}  # timed unless others are asked for

Progress = Callable[[str, int, int], None]


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("-c", "--check", action="store_true", help="check every configuration against the oracle first")
    parser.add_argument(
        "--dtype", default="bfloat16", metavar="DTYPE", help=f"{', '.join([*DTYPES, *DTYPE_ALIASES])} (bfloat16)"
    )
    sizes: dict[str, Any] = {"type": int, "nargs": "+", "metavar": "N"}
    parser.add_argument("--hidden-sizes", default=HIDDEN_SIZES, help="elements a token", **sizes)
    parser.add_argument("--batch-sizes", default=BATCH_SIZES, help="tokens", **sizes)
    parser.add_argument(
        "--group-sizes", default=GROUP_SIZES, help="0 per-tensor, -1 per-token, N per-group (0 -1 64 128)", **sizes
    )
    parser.add_argument("--no-column-major", action="store_true", help="leave column-major scales out")
    parser.add_argument("--device", choices=["auto", "cuda", "cpu"], default="auto")
    parser.add_argument("--backends", nargs="+", metavar="NAME", help=f"of {', '.join(NAMES)} (all of the device)")
    parser.add_argument("--regime", choices=REGIMES, default="hot", help="cache regime (hot)")
    parser.add_argument(
        "--latency", action="store_true", help="also time each call between calls of another kernel, without overlap"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all times, reasons and speedups")
    parser.add_argument("--csv", type=Path, metavar="FILE", help="write all times, a row a configuration and backend")


def _group_shape(size: int) -> GroupShape:
    if size < -1:
        raise UsageError(f"group size {size} is not allowed: use 0 per-tensor, -1 per-token or N >= 1 per-group.")
    return {0: GroupShape.PER_TENSOR, -1: GroupShape.PER_TOKEN}.get(size, GroupShape(1, size))


def _check_file(path: Path | None) -> None:
    """UsageError for a file that could not be written, before anything is measured."""
    if path is None:
        return
    if path.is_dir():
        raise UsageError(f"{path} is a directory: name a file to write.")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"cannot write {path} ({error.strerror}): name a file in a directory of yours.") from None
    if not os.access(path.parent, os.W_OK):
        raise UsageError(f"cannot write {path} (no permission): name a file in a directory of yours.")


class Plan(NamedTuple):
    """What was asked for."""

    cases: list[Case]
    providers: list[str]
    device: str
    regime: str


class Found(NamedTuple):
    """What came out: times by (provider, case), and why there is none."""

    times: dict[tuple[str, Case], Any]
    reasons: dict[tuple[str, Case], str]
    wrong: dict[tuple[str, Case], str]
    limits: Any  # bench.Limits
    latencies: dict[tuple[str, Case], Any]


def _plan(args: argparse.Namespace) -> Plan:
    from .. import bench

    shapes = [_group_shape(size) for size in dict.fromkeys(args.group_sizes)]
    columns = [False] if args.no_column_major else [True, False]
    sizes = list(dict.fromkeys(args.batch_sizes)), list(dict.fromkeys(args.hidden_sizes))
    cases = bench.configurations(shapes, columns, *sizes, parse_dtype(args.dtype))
    providers = [check_name(name) for name in dict.fromkeys(args.backends or [])]
    device = bench.resolve_device(args.device)
    bench.refuse_too_large(max(cases, key=lambda case: case.bytes_moved), device)
    print(f"Running {len(cases)} configurations:")
    print(f"  Hidden sizes: {sizes[1]}")
    print(f"  Batch sizes: {sizes[0]}")
    print(f"  Group shapes: {[repr(shape) for shape in shapes]}")
    print(f"  Column major scales: {columns}")
    return Plan(cases, providers or BACKENDS[device], device, args.regime)


def _say_where(plan: Plan, asked: str) -> None:
    import torch

    if plan.device == "cuda":
        print(f"  Device: {torch.cuda.get_device_name()}")
    elif asked == "auto":
        print("  Device: CPU (torch sees no GPU here), one thread")
    else:
        print("  Device: CPU, one thread")
    print(f"  Caches: {plan.regime}")
    print()


def _jobs(plan: Plan) -> list[tuple[str, Case]]:
    return [(name, case) for case in plan.cases for name in plan.providers]


def _support(plan: Plan) -> dict[tuple[str, Case], str]:
    """Reasons of what cannot be computed here."""
    from .. import bench

    reasons = {job: bench.why_not(*job, plan.device) for job in _jobs(plan)}
    return {job: reason for job, reason in reasons.items() if reason is not None}


def _check(plan: Plan, jobs: Sequence[tuple[str, Case]], progress: Progress) -> dict[tuple[str, Case], str]:
    """Mismatches; what is wrong is not timed."""
    from .. import checks
    from ..quant import own_backend

    wrong = {}
    for done, (name, case) in enumerate(jobs):
        progress("checking", done, len(jobs))
        result = checks.check(own_backend(name), case, plan.device)
        if result.status is records.CheckStatus.WRONG:
            wrong[name, case] = result.detail
    progress("checking", len(jobs), len(jobs))
    return wrong


def _time(
    plan: Plan, jobs: Sequence[tuple[str, Case]], progress: Progress, isolated: bool = False
) -> dict[tuple[str, Case], Any]:
    from .. import bench

    what, times = "timing single calls" if isolated else "timing", {}
    for done, (name, case) in enumerate(jobs):
        progress(what, done, len(jobs))
        times[name, case] = bench.time_case(name, case, plan.device, plan.regime, isolated=isolated)
    progress(what, len(jobs), len(jobs))
    return times


def _measure(plan: Plan, check: bool, latency: bool) -> Found:
    import torch

    from .. import bench

    if plan.device == "cpu":
        torch.set_num_threads(1)  # as the clock does: what is compiled for the check is what is timed
    reasons = _support(plan)
    jobs = [job for job in _jobs(plan) if job not in reasons]
    if not jobs:
        _print_reasons(plan, reasons)
        raise UsageError(f"nothing could be checked or timed here: use --backends {' '.join(BACKENDS[plan.device])}.")
    with Reporter() as progress:
        wrong = _check(plan, jobs, progress) if check else {}
        right = [job for job in jobs if job not in wrong]
        times = _time(plan, right, progress)
        limits = bench.limits_of(plan.cases, plan.device, plan.regime, progress)
        latencies = _time(plan, right, progress, isolated=True) if latency else {}
    return Found(times, reasons, wrong, limits, latencies)


# ---- output -------------------------------------------------------------------------------------------------


def _print_checks(plan: Plan, found: Found) -> None:
    for (name, case), detail in found.wrong.items():
        print(f"WRONG {name}/{case.id}: {detail}")
    checked = [name for name, case in _jobs(plan) if (name, case) not in found.reasons]
    count, names = len(checked), ", ".join(dict.fromkeys(checked))
    verdict = f"{len(found.wrong)} of {count} checks failed" if found.wrong else f"All {count} checks passed"
    print(f"{verdict} ({names} against the oracle).\n")


def _print_reasons(plan: Plan, found: Mapping[tuple[str, Case], str]) -> None:
    """Each reason once, with how many configurations it keeps out."""
    for name in plan.providers:
        reasons = [reason for (provider, _), reason in found.items() if provider == name]
        for reason in dict.fromkeys(reasons):
            print(f"{title(name)}: no time for {reasons.count(reason)} of {len(plan.cases)} configurations: {reason}.")


def _speedups(plan: Plan, df: pd.DataFrame) -> pd.DataFrame | None:
    """Over the reference, by layout and group shape; None where there is nothing to compare."""
    others = [title(name) for name in plan.providers if name != REFERENCE]
    if REFERENCE not in plan.providers or not others:
        return None
    return compute_geomean_speedups(df, title(REFERENCE), others, ["col_major", "group_shape"])


def _shown(speedups: pd.DataFrame) -> pd.DataFrame:
    """Without the columns of counts where nothing is missing."""
    idle = [col for col in speedups.columns if str(col).endswith(" missing") and not speedups[col].any()]
    return speedups.drop(columns=idle)


def _significant(value: float) -> str:
    """`value` with four significant digits, or all that stand before the point: 1.234, 56.78, 12345."""
    magnitude = math.floor(math.log10(value)) if value > 0 else 0
    return f"{value:.{max(0, 3 - magnitude)}f}"


def _print_table(heading: str, df: pd.DataFrame, *, index: bool = False) -> None:
    print(heading)
    print(df.to_string(index=index, float_format=_significant, na_rep="-"))


def _print_times(heading: str, plan: Plan, df: pd.DataFrame) -> None:
    """As the reference script prints them: with an index and the unit behind each provider."""
    _print_table(heading, df.rename(columns={name: f"{name} (us)" for name in map(title, plan.providers)}), index=True)


def _print_limits(plan: Plan, found: Found) -> None:
    """Times over the floor and shares of the memory's bandwidth, by configuration and by family; where there are."""
    from .. import bench

    what = plan.cases, found.times, plan.providers, found.limits
    if found.limits.floors:
        over = bench.floor_table(*what)
        _print_table("\nTime over the floor, a plain cast of the same bytes", over)
        _print_table("\nTime over the floor, geometric mean", bench.geomeans(over, plan.providers))
    if found.limits.memory_gbps and plan.regime == "cold":
        share, peak = bench.memory_table(*what), found.limits.memory_gbps / 1000
        _print_table(f"\nPercent of the memory's {peak:g} TB/s", share)
        _print_table("\nPercent of memory bandwidth, geometric mean", bench.geomeans(share, plan.providers))


def _print_latencies(plan: Plan, found: Found) -> None:
    from .. import bench

    _print_times("\nIsolated latency:", plan, bench.table(plan.cases, found.latencies, plan.providers))
    if plan.device == "cpu":
        print("On a CPU calls cannot overlap: this is the same measurement as above, once more.")


def _rows(plan: Plan, found: Found) -> list[dict[str, Any]]:
    """A row a configuration and backend, for files."""
    from .. import bench

    rows = []
    for name, case in _jobs(plan):
        job = name, case
        timing = found.times.get(job, bench.MISSING)
        values = timing._asdict() | {"isolated_us": found.latencies.get(job, bench.MISSING).median_us}
        beside = {
            "floor_us": found.limits.floor_us(case),
            "over_floor": found.limits.over_floor(case, timing),
            "memory_share": found.limits.memory_share(case, timing),
        }
        reason = found.reasons.get(job) or found.wrong.get(job, "")
        times = {key: None if math.isnan(value) else value for key, value in values.items()} | beside
        where = bench.case_columns(case) | {"group_shape": str(case.scheme.group_shape)}
        rows.append({**where, "dtype": case.dtype, "backend": name, **times, "reason": reason})
    return rows


def _with_names(df: pd.DataFrame) -> pd.DataFrame:
    """Group shapes by the names that they have in ids."""
    return df.assign(group_shape=df["group_shape"].map(str))


def _write(args: argparse.Namespace, plan: Plan, found: Found, speedups: pd.DataFrame | None) -> None:
    rows = _rows(plan, found)
    if args.csv:
        records.write_bytes(pd.DataFrame(rows).to_csv(index=False).encode(), args.csv)
    if args.json:
        compared = [] if speedups is None else json.loads(_with_names(speedups).to_json(orient="records"))
        document = {"device": plan.device, "regime": plan.regime, "times": rows, "speedups": compared}
        records.write_bytes(json.dumps(document, indent=1).encode() + b"\n", args.json)


def run(args: argparse.Namespace) -> int:
    """Check, time, print. Wrong results exit with EXIT_WRONG, after everything that is right was timed."""
    from .. import bench

    _check_file(args.json)
    _check_file(args.csv)
    plan = _plan(args)
    _say_where(plan, args.device)
    sys.stdout.flush()
    found = _measure(plan, args.check, args.latency)
    if args.check:
        _print_checks(plan, found)
    df = bench.table(plan.cases, found.times, plan.providers)
    _print_times("QuantFP8 performance:", plan, df)
    _print_reasons(plan, found.reasons)
    speedups = _speedups(plan, df)
    if speedups is not None:
        _print_table(f"\nSpeedup over {title(REFERENCE)}", _shown(speedups))
    _print_limits(plan, found)
    if args.latency:
        _print_latencies(plan, found)
    _write(args, plan, found, speedups)
    return EXIT_WRONG if found.wrong else EXIT_OK
