"""Which commits get a night of their own: those of a range, or those that are new since the nights that were.

A night can fail before anything is measured. It is then owed: its commit is asked for again, also when a later one was
measured meanwhile, until it has a verdict, `TRIES` nights were begun for it, or `fp8bench prune` removed what is left.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from . import git, paths
from .config import Config
from .records import Commit

TRIES = 3  # nights of a commit that may fail before it is given up: what fails so often needs a person


@dataclass(frozen=True)
class Wanted:
    """A commit that gets a night; baseline: what to compare it with, "" for the accepted one."""

    commit: Commit
    baseline: str = ""

    @property
    def run_name(self) -> str:
        """Name of the night's run directory, and of its DAG run: the same whenever it is asked for again."""
        return f"commit-{self.commit.sha[:12]}{_against(self.baseline)}"

    @property
    def tries(self) -> tuple[str, ...]:
        """Names of all the runs that the night may have: the first, and those for when it failed without a verdict."""
        return (self.run_name, *(f"{self.run_name}-try-{number}" for number in range(2, TRIES + 1)))


def in_range(config: Config, repo: str, span: str, baseline: str = "") -> list[Wanted]:
    """The kernel commits of "A..B", oldest first, each against `baseline`, or else against A."""
    cache = config.home / "repos"
    first, commits = git.in_range(repo, span, cache)
    against = git.resolve(repo, baseline, cache).sha if baseline else first
    return [Wanted(commit, against) for commit in commits]


def new(config: Config, repo: str, baseline: str = "") -> list[Wanted]:
    """The kernel commits of the branch that came after the last ones that had a night, oldest first.

    The latest alone where there was none yet; at most `nights.max_commits`, the newest. Before them those whose nights
    ended without a verdict, or go on.
    """
    branch, limit, cache = config.nights.branch or "HEAD", config.nights.max_commits, config.home / "repos"
    found = git.unmeasured(repo, branch, list(_measured(config.runs_dir)), cache, limit)
    owed = git.of_branch(repo, branch, _owed(config.runs_dir, baseline), cache)
    return [Wanted(commit, baseline) for commit in {commit.sha: commit for commit in (*owed, *found)}.values()]


def runs(config: Config, wanted: Wanted) -> tuple[str, ...]:
    """Names of the runs that may be triggered for a night, in order, each once those before it ended without a verdict.

    Behind one that has a verdict there is nothing to try.
    """
    judged = [_has_verdict(paths.run_directory(config.runs_dir, name)) for name in wanted.tries]
    return wanted.tries[: judged.index(True) + 1] if any(judged) else wanted.tries


def _against(baseline: str) -> str:
    return f"-on-{baseline[:12]}" if baseline else ""


def _has_verdict(run: Path) -> bool:
    return (run / "verdicts.json").is_file()


def _owed(runs_dir: Path, baseline: str) -> Sequence[str]:
    """How the shas begin of commits that were to get a night against `baseline`, and have no verdict."""
    named = re.compile(rf"commit-([0-9a-f]{{12}}){re.escape(_against(baseline))}(?:-try-\d+)?")
    judged: dict[str, bool] = {}
    for path in sorted(runs_dir.iterdir()) if runs_dir.is_dir() else ():
        if match := named.fullmatch(path.name):
            judged[match[1]] = judged.get(match[1], False) or _has_verdict(path)
    return [sha for sha, is_judged in judged.items() if not is_judged]


def _measured(runs: Path) -> Iterator[str]:
    """Candidates of all nights; a directory without a readable `prepare.json` is none."""
    for path in sorted(runs.glob("*/prepare.json")) if runs.is_dir() else ():
        try:
            sha = json.loads(path.read_bytes())["candidate"]["sha"]
        except (OSError, ValueError, KeyError, TypeError):
            continue
        if isinstance(sha, str) and sha:
            yield sha
