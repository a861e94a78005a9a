"""`fp8bench report [RUN]`: what a night found, in the terminal or as a file for other programs."""

from __future__ import annotations

import argparse
import io
import os
import sys
from pathlib import Path

from rich.console import Console

from .. import config as settings
from .. import records, timeline
from ..errors import Fp8BenchError, RunDirError, UsageError
from ..rundir import RunDir
from . import EXIT_OK


def configure(parser: argparse.ArgumentParser) -> None:
    parser.epilog = (
        "Exits 0 when it could print, whatever the night found (`fp8bench stage gate` exits with that), else 4."
    )
    parser.add_argument("run", nargs="?", default="", metavar="RUN", help="run directory or run id (the latest night)")
    parser.add_argument(
        "--format",
        choices=["text", "markdown", "junit", "prometheus", "timeline"],
        default="text",
        help="text, as it is read here (default); timeline: what the night's time went into",
    )
    parser.add_argument("--schema", action="store_true", help="print the JSON Schema of verdicts.json instead")


def run(args: argparse.Namespace) -> int:
    if args.schema:
        _write(records.schema(records.Verdicts), "utf-8")
        return EXIT_OK
    config = settings.load()
    directory = _find(args.run, config.runs_dir)
    if args.format == "text":
        _write(_coloured(directory, config.home), None)
    elif args.format == "markdown":
        from ..report import summary

        _write(summary.render(directory, config.home), "utf-8")
    elif args.format == "timeline":
        _write("".join(f"{line}\n" for line in timeline.table(timeline.read(RunDir(directory)))), None)
    else:
        from ..report import junit, prometheus

        _write({"junit": junit, "prometheus": prometheus}[args.format].render(directory), "utf-8")
    return EXIT_OK


def _coloured(directory: Path, home: Path) -> str:
    """The night's lines, with colour where standard output is a terminal."""
    from ..report import terminal

    console = Console(highlight=False)
    with console.capture() as capture:
        for line in terminal.render(directory, home):
            console.print(line, soft_wrap=True)
    return capture.get()


def _write(text: str, encoding: str | None) -> None:
    """Print `text` in `encoding`; None: in the terminal's, as far as it goes. A reader may stop early (`| head`)."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(encoding=encoding, errors="replace")
    try:
        sys.stdout.write(text)
        sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or Python complains once more at its end


def _find(run: str, runs_dir: Path) -> Path:
    """The directory of the night that a person means by a directory, a run id, or nothing (the latest judged one)."""
    if run and Path(run).is_dir():
        return _judged(Path(run).resolve())
    if run and (runs_dir / run / "prepare.json").is_file():
        return _judged(runs_dir / run)
    nights = _nights(runs_dir)
    if run:
        found = [directory for directory, prepared in nights if prepared.run_id == run]
        if not found:
            raise UsageError(f"{run}: no such night in {runs_dir}; give a run directory or a run id.")
        return _judged(found[0])
    ordinary = [(directory, prepared) for directory, prepared in nights if not prepared.planted] or nights
    judged = [(prepared.created, directory) for directory, prepared in ordinary if RunDir(directory).is_done("judge")]
    if not judged:
        raise UsageError(f"no night in {runs_dir} has a verdict yet: give a run directory, or run `fp8bench nightly`.")
    return max(judged)[1]


def _judged(directory: Path) -> Path:
    night = RunDir(directory)
    if not night.prepare.is_file():
        raise UsageError(f"{directory} is no run directory (it has no prepare.json): give one, or a run id.")
    if not night.is_done("judge"):
        raise RunDirError(
            f"{directory} has no verdict yet: `fp8bench nightly --run-dir {directory}` resumes the night."
        )
    return directory


def _nights(runs_dir: Path) -> list[tuple[Path, records.Prepared]]:
    """The nights that can be read; a damaged one must not hide the others."""
    found = []
    for file in sorted(runs_dir.glob("*/prepare.json")):
        try:
            found.append((file.parent, records.read(records.Prepared, file)))
        except Fp8BenchError:
            continue
    return found
