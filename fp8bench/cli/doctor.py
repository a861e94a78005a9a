"""`fp8bench doctor`: what a night needs on this machine, a line a check. Exits 0 when nights can run, 4 when not."""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from typing import TYPE_CHECKING

from .. import config
from . import EXIT_ERROR, EXIT_OK

if TYPE_CHECKING:
    from ..doctor import Finding


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="print the findings as JSON")


def run(args: argparse.Namespace) -> int:
    from .. import doctor  # pandas takes its time, and --help needs none of it

    findings = {}
    for name, finding in doctor.examine(config.load()):
        findings[name] = finding
        if not args.json:
            print(_line(name, finding), flush=True)
    ready = all(finding.status != "problem" for finding in findings.values())
    if args.json:
        checks = [{"check": name, **asdict(finding)} for name, finding in findings.items()]
        print(json.dumps({"ready": ready, "checks": checks}, indent=1))
    else:
        print("Nights can run." if ready else "Nights cannot run: mend the problems.")
    return EXIT_OK if ready else EXIT_ERROR


def _line(name: str, finding: Finding) -> str:
    advice = f" -> {finding.advice}" if finding.advice else ""
    return f"{finding.status:<8} {name:<14} {finding.found.rstrip('.')}{advice}"
