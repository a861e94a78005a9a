"""`fp8bench stage NAME --run-dir DIR`: one stage of a night, as the DAG calls it.

Exits 0 when the stage did its work, whatever it found, and 4 when it could not and may be run again; `gate` exits
with the night's code.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from .. import config, planting, stages, wording
from ..errors import RunDirError, UsageError
from ..preparation import Request
from ..progress import Reporter
from ..rundir import RunDir


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", choices=list(stages.STAGES), metavar="NAME", help=", ".join(stages.STAGES))
    parser.add_argument("--run-dir", type=Path, required=True, help="directory of the night")
    add_request(parser)
    parser.add_argument("--shard", type=int, help="time, confirm: only this shard, 0 and up (default: all)")
    parser.add_argument("--no-verdict", default="", metavar="WHY", help="alert: tell the operators that, instead")
    parser.add_argument("--no-send", action="store_true", help="alert: write the messages, deliver none")


def add_request(parser: argparse.ArgumentParser) -> None:
    """The arguments that choose what a night is about."""
    parser.add_argument("--repo", metavar="URL|PATH", help="repository under test (default: setting repo)")
    parser.add_argument("--candidate", metavar="REV", help="commit under test (default: HEAD)")
    parser.add_argument("--baseline", metavar="REV", help="commit to compare with (default: the accepted baseline)")
    parser.add_argument("--at", metavar="TIME", help="measure the latest commit of that time instead of now's")
    parser.add_argument("--suite", metavar="NAME|FILE", help="cells to measure (default: setting suite)")
    parser.add_argument("--device", choices=["auto", "cuda", "cpu"], help="default: setting device")
    parser.add_argument(
        "--plant",
        action="append",
        default=[],
        type=planted,
        metavar="PATTERN=SHARE",
        help="really make the candidate of these cells slower, e.g. 'cuda/per-token/*=0.5%%'",
    )


def planted(text: str) -> tuple[str, float]:
    """An argument of --plant."""
    try:
        return planting.parse(text)
    except UsageError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def request_of(args: argparse.Namespace) -> Request:
    return Request(args.repo, args.candidate, args.baseline, args.suite, args.at)


def settings_of(args: argparse.Namespace) -> config.Config:
    found = config.load(**({"device": args.device} if args.device else {}))
    return found.with_planted(dict(args.plant)) if args.plant else found


def run(args: argparse.Namespace) -> int:
    options = stages.Options(request_of(args), args.shard, not args.no_send, args.no_verdict)
    with Reporter() as reporter, reporter.step(args.name):
        code = stages.run_stage(args.name, args.run_dir, settings_of(args), options, reporter)
        if args.name == "screen":
            say_screened(RunDir(args.run_dir), reporter)
        if args.name == "judge":
            _log_cells(args.run_dir, reporter)
    return code


def say_screened(run: RunDir, reporter: Reporter) -> None:
    """How much is to be confirmed, if the night was screened."""
    if run.screen.is_file():
        found = run.screened()
        reporter.say(f"         {wording.screened_sentence(len(found.cells), len(found.families))}")


def _log_cells(run_dir: Path, reporter: Reporter) -> None:
    """A line a cell: the log of the task that judged says what it found."""
    from ..report import terminal  # of all stages that log, only this one needs it

    try:
        for line in terminal.cell_lines(run_dir):
            reporter.say(line)
    except RunDirError as error:  # whoever needs what is damaged fails on it; the judging is done
        reporter.say(str(error))
