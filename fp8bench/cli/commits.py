"""`fp8bench commits`: which commits have kernels of their own and no night yet, or those of a range."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

from .. import commits, config, git
from . import EXIT_OK


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--repo", metavar="URL|PATH", help="repository under test (default: setting repo)")
    parser.add_argument("--commits", metavar="A..B", help="those of a range, whether they had a night or not")
    parser.add_argument("--baseline", metavar="REV", help="commit to compare with (default: A, or the accepted one)")
    parser.add_argument("--json", action="store_true", help="print them for a program")


def run(args: argparse.Namespace) -> int:
    settings = config.load()
    repo, baseline = args.repo or settings.repo, args.baseline or ""
    found = (
        commits.in_range(settings, repo, args.commits, baseline)
        if args.commits
        else commits.new(settings, repo, baseline)
    )
    if args.json:
        print(json.dumps([_entry(settings, args.repo, wanted) for wanted in found]))
        return EXIT_OK
    for wanted in found:
        print(f"{wanted.commit.short}  {wanted.commit.subject}")
    if not found:
        print("No commit is waiting for a night.")
    return EXIT_OK


def _entry(settings: config.Config, repo: str | None, wanted: commits.Wanted) -> dict[str, str | Sequence[str]]:
    """What a night of the commit is asked with, and how its runs are named; empty values are left to the settings."""
    where = str(Path(repo).resolve()) if repo and not git.is_url(repo) else repo
    asked = {"repo": where, "candidate": wanted.commit.sha, "baseline": wanted.baseline}
    return {"runs": commits.runs(settings, wanted)} | {key: value for key, value in asked.items() if value}
