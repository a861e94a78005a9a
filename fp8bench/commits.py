"""Which commits get a night of their own: those of a range, or those that are new since the nights that were."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from . import git
from .config import Config
from .records import Commit


@dataclass(frozen=True)
class Wanted:
    """A commit that gets a night; baseline: what to compare it with, "" for the accepted one."""

    commit: Commit
    baseline: str = ""

    @property
    def run_name(self) -> str:
        """Name of the night's run directory, and of its DAG run: the same whenever it is asked for again."""
        against = f"-on-{self.baseline[:12]}" if self.baseline else ""
        return f"commit-{self.commit.sha[:12]}{against}"


def in_range(config: Config, repo: str, span: str, baseline: str = "") -> list[Wanted]:
    """The kernel commits of "A..B", oldest first, each against `baseline`, or else against A."""
    cache = config.home / "repos"
    first, commits = git.in_range(repo, span, cache)
    against = git.resolve(repo, baseline, cache).sha if baseline else first
    return [Wanted(commit, against) for commit in commits]


def new(config: Config, repo: str, baseline: str = "") -> list[Wanted]:
    """The kernel commits of the branch that came after the last ones that had a night, oldest first.

    The latest alone where there was none yet; at most `nights.max_commits`, the newest.
    """
    branch, limit = config.nights.branch or "HEAD", config.nights.max_commits
    found = git.unmeasured(repo, branch, list(_measured(config.runs_dir)), config.home / "repos", limit)
    return [Wanted(commit, baseline) for commit in found]


def _measured(runs: Path) -> Iterator[str]:
    """Candidates of all nights; a directory without a readable `prepare.json` is none."""
    for path in sorted(runs.glob("*/prepare.json")) if runs.is_dir() else ():
        try:
            sha = json.loads(path.read_bytes())["candidate"]["sha"]
        except (OSError, ValueError, KeyError, TypeError):
            continue
        if isinstance(sha, str) and sha:
            yield sha
