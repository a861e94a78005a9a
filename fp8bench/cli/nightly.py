"""`fp8bench nightly`: all stages of a night in order, without Airflow. Run again with --run-dir, it resumes."""

from __future__ import annotations

import argparse
from pathlib import Path

from .. import stages, wording
from ..config import Config
from ..errors import Fp8BenchError
from ..progress import Reporter
from ..rundir import RunDir
from . import EXIT_ERROR
from .stage import add_request, request_of, settings_of

# Stages that tell what was found. When one fails the others still speak, so that a regression is mailed although
# MLflow is down, and the command ends with the code for infrastructure.
_TELLING = ("log", "render", "alert")


def configure(parser: argparse.ArgumentParser) -> None:
    add_request(parser)
    parser.add_argument("--run-dir", type=Path, help="directory of the night; one that exists is resumed")


def run(args: argparse.Namespace) -> int:
    settings = settings_of(args)
    run_dir = (args.run_dir or stages.new_run_dir(settings)).resolve()
    with Reporter() as reporter:
        reporter.say(f"night    {run_dir}")
        try:
            troubles = _run_stages(run_dir, settings, stages.Options(request_of(args)), reporter)
        except Fp8BenchError:
            if args.run_dir is None:
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
        except Fp8BenchError as error:
            if name not in _TELLING:
                raise
            troubles.append(f"{name}: {error}")
        if name == "prepare":
            _say_what(RunDir(run_dir), reporter)
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
    if found.sentence.startswith(("The night is invalid", "First night")):
        print(f"  {found.sentence.partition('. ')[0]}.")
    print(f"\nrun directory  {run.path}")
    if run.report.is_file():
        print(f"report         {run.report}")
        print(f"               {run.summary.name}, {run.junit.name} beside it; `fp8bench report` prints it")
    if logged:
        print(f"MLflow         {logged.links.get('night', logged.tracking_uri)}")
    for trouble in troubles:
        print(f"\nCould not {trouble}")
    if troubles:
        print(f"What was measured is kept: mend it and run `fp8bench nightly --run-dir {run.path}` again.")
