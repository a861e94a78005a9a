"""`fp8bench calibrate`: how often the verdicts are wrong, and what they catch, from launches that were made."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from .. import config as settings
from .. import planting
from ..errors import UsageError
from . import EXIT_OK


def configure(parser: argparse.ArgumentParser) -> None:
    parser.epilog = "Exits 0 when it could calibrate, else 4."
    parser.add_argument(
        "sources",
        nargs="*",
        type=Path,
        metavar="SOURCE",
        help="run directories, or CSV files with the columns launch, cell, effect (all nights in the home directory)",
    )
    parser.add_argument("--planted", action="append", default=[], type=Path, metavar="DIR", help="a planted night")
    parser.add_argument("--out", type=Path, metavar="DIR", help="where to write (calibration/ in the home directory)")
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda", help="what CSV files were measured on")
    parser.add_argument(
        "--equal",
        action="store_true",
        help="the builds of these nights differ and are equally fast: all cells but controls count",
    )
    parser.add_argument("--nights", type=_count, default=1000, metavar="N", help="to resample, a margin (1000)")
    parser.add_argument("--moved-nights", type=_count, default=300, metavar="N", help="to resample, an effect (300)")
    parser.add_argument("--cells", type=_count, default=900, metavar="N", help="of a night, at least (900)")
    parser.add_argument("--device-name", default="", metavar="NAME", help="likewise, e.g. 'NVIDIA H200'")
    parser.add_argument(
        "--processes", type=_count, default=_cores(), metavar="N", help="that share the work (a core each)"
    )
    parser.add_argument("--seed", type=int, default=1, metavar="N")


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number from 1 up")
    return int(text)


def run(args: argparse.Namespace) -> int:
    from .. import calibration, records  # scipy takes its time, and --help needs none of it
    from ..progress import Reporter

    config = settings.load()
    plan = calibration.Plan(
        nights=args.nights,
        moved_nights=args.moved_nights,
        cells=args.cells,
        seed=args.seed,
        timing=config.timing,
        processes=args.processes,
    )
    named = _sources(args.sources, config.runs_dir)
    source = calibration.read_sources(named, args.device, args.equal, args.device_name)
    with Reporter() as progress:
        found = calibration.characterise(source, config.verdicts, plan, progress)
    planted = [calibration.look_at(path, config.verdicts, plan) for path in args.planted]
    text, folder = calibration.markdown(found, planted), args.out or config.home / "calibration"
    both = calibration.Calibration(characteristic=found, planted=tuple(planted))
    records.write(both, folder / "calibration.json")
    records.write_bytes(text.encode(), folder / "calibration.md")
    print(text)
    return EXIT_OK


def _sources(named: list[Path], runs_dir: Path) -> list[Path]:
    """Those that were named; else all nights of the home directory."""
    from ..rundir import RunDir

    judged = sorted(path.parent for path in runs_dir.glob("*/verdicts.json")) if not named else []
    found = named or [path for path in judged if not planting.slows(RunDir(path).prepared().planted)]
    if not found:
        raise UsageError(f"no nights in {runs_dir}: name run directories or CSV files to calibrate from.")
    for path in found:
        if not path.exists():
            raise UsageError(f"{path} is not there: name a run directory or a CSV file.")
    return found
