"""`fp8bench nightly`: all stages of a night in order, without Airflow. Run again with --run-dir, it resumes."""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

from .. import commits, stages, timeline, wording
from ..config import Config
from ..errors import UsageError
from ..preparation import Request
from ..progress import Reporter
from ..rundir import RunDir
from . import EXIT_ERROR, EXIT_OK, explain
from .stage import add_request, request_of, say_screened, settings_of

# Stages that tell what was found. When one fails the others still speak, so that a regression is mailed although
# MLflow is down, and the command ends with the code for infrastructure.
_TELLING = ("log", "render", "alert")


def configure(parser: argparse.ArgumentParser) -> None:
    add_request(parser)
    parser.add_argument("--run-dir", type=Path, help="directory of the night; one that exists is resumed")
    parser.add_argument(
        "--commits", metavar="A..B", help="a night for every commit of the range that touches kernels, oldest first"
    )


def run(args: argparse.Namespace) -> int:
    if args.commits:
        return _run_range(args)
    settings = settings_of(args)
    run_dir = (args.run_dir or stages.new_run_dir(settings)).resolve()
    return _run_night(run_dir, settings, request_of(args), new=args.run_dir is None)


def _run_range(args: argparse.Namespace) -> int:
    """A night a commit, each in a directory that bears its name: what was finished is not repeated. The worst code."""
    if args.run_dir or args.candidate or args.at:
        raise UsageError("--commits names the nights itself: leave out --run-dir, --candidate and --at.")
    settings, codes = settings_of(args), [EXIT_OK]
    wanted = commits.in_range(settings, args.repo or settings.repo, args.commits, args.baseline or "")
    for number, entry in enumerate(wanted, 1):
        print(f"\ncommit {number} of {len(wanted)}: {entry.commit.short}  {entry.commit.subject}")
        request = replace(request_of(args), candidate=entry.commit.sha, baseline=entry.baseline)
        codes.append(_run_night((settings.runs_dir / entry.run_name).resolve(), settings, request, new=False))
    if not wanted:
        print(f"No commit of {args.commits} touches kernels: nothing to measure.")
    return max(codes)


def _run_night(run_dir: Path, settings: Config, request: Request, *, new: bool) -> int:
    """All stages of a night; new: its directory goes again when it never begins."""
    with Reporter() as reporter:
        reporter.say(f"night    {run_dir}")
        try:
            troubles = _run_stages(run_dir, settings, stages.Options(request), reporter)
        except Exception:
            if new:
                RunDir(run_dir).discard_unprepared()
            raise
        code = stages.run_stage("gate", run_dir, settings)
    _print_findings(RunDir(run_dir), troubles)
    return EXIT_ERROR if troubles else code


def _run_stages(run_dir: Path, settings: Config, options: stages.Options, reporter: Reporter) -> list[str]:
    """Run every stage but the gate; returns what the telling ones could not do."""
    troubles = []
    for name in stages.STAGES:
        if name == "gate":
            continue
        try:
            with reporter.step(name):
                stages.run_stage(name, run_dir, settings, options, reporter)
        except Exception as error:
            if name not in _TELLING:
                raise
            troubles.append(f"{name}: {explain(error)}")
        if name == "prepare":
            _say_what(RunDir(run_dir), reporter)
        if name == "screen":
            say_screened(RunDir(run_dir), reporter)
    return troubles


def _say_what(run: RunDir, reporter: Reporter) -> None:
    prepared = run.prepared()
    against = "itself, as there is no baseline yet" if prepared.first_night else prepared.baseline.short
    device = prepared.environment.device_name
    cells = wording.count(len(prepared.cells), "cell")
    reporter.say(f"         {cells} on {device}: {prepared.candidate.short} against {against}")
    for note in prepared.notes:
        reporter.say(f"         {note}")


def _print_findings(run: RunDir, troubles: list[str]) -> None:
    """The verdict and where to read on, on standard output."""
    found, logged = run.judged(), run.logged()
    print(f"\n{found.verdict}  (exit code {found.exit_code})")
    for backend in found.backends:
        print(f"  {backend.sentence}")
    if found.sentence.startswith(("Planted night", "The night is invalid", "First night")):
        print(f"  {found.sentence.partition('. ')[0]}.")
    print(f"\nrun directory  {run.path}")
    if run.report.is_file():
        print(f"report         {run.report}")
        print(f"               {run.summary.name}, {run.junit.name} beside it; `fp8bench report` prints it")
    if logged:
        print(f"MLflow         {logged.links.get('night', logged.tracking_uri)}")
    if took := timeline.sentence(timeline.read(run)):
        print(f"time           {took}")
    for trouble in troubles:
        print(f"\nCould not {trouble}")
    if troubles:
        print(f"What was measured is kept: mend it and run `fp8bench nightly --run-dir {run.path}` again.")
