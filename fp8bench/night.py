"""A judged night, read whole: what store, report and mail tell people about."""

from __future__ import annotations

import shlex
from dataclasses import dataclass, field
from pathlib import Path

from . import causes, metrics
from .causes import Ledger, Standing
from .metrics import CellFacts
from .records import BuildReport, Cause, CheckReport, Commit, Logged, Prepared, TimingReport, Verdict, Verdicts
from .rundir import RunDir
from .secrecy import public


@dataclass(frozen=True)
class Night:
    """The records of a run directory up to `judge`, and of `log` when it has run."""

    run_dir: Path
    prepared: Prepared
    built: BuildReport
    checked: CheckReport
    timed: tuple[TimingReport, ...]
    verdicts: Verdicts
    logged: Logged | None
    facts: tuple[CellFacts, ...]
    ledger: Ledger = field(default_factory=Ledger)  # what is known of causes over the nights

    @classmethod
    def read(cls, run_dir: Path, home: Path | None = None) -> Night:
        """RunDirError names the first record that is missing or damaged. home: where the ledger of causes lies."""
        files = RunDir(run_dir)
        prepared, built, checked = files.prepared(), files.built(), files.checked()
        timed, verdicts = tuple(files.timed()), files.judged()
        facts = tuple(metrics.facts(verdicts, checked, prepared.environment.device_name))
        ledger = causes.read(home) if home else Ledger()
        return cls(run_dir, prepared, built, checked, timed, verdicts, files.logged(), facts, ledger)

    @property
    def backends(self) -> tuple[str, ...]:
        return tuple(entry.backend for entry in self.verdicts.backends)

    def of(self, backend: str) -> list[CellFacts]:
        return [facts for facts in self.facts if facts.cell.backend == backend]

    def commit(self, sha: str) -> Commit:
        """What is known of a commit of this night."""
        known = (*self.prepared.suspects, self.prepared.candidate, self.prepared.baseline)
        return next((commit for commit in known if commit.sha == sha), Commit(sha=sha))

    def standing(self, cause: str) -> Standing | None:
        """What is known of a cause over the nights on this device."""
        return self.ledger.find(cause, self.prepared.environment.device_name)

    def link(self, name: str) -> str:
        """An address in MLflow, or "" when the night lies nowhere that has one."""
        return self.logged.links.get(name, "") if self.logged else ""

    def reproduction(self, cause: Cause) -> str:
        """One command line that shows the cause again."""
        prepared = self.prepared
        repo = public(prepared.repo)
        if cause.verdict is Verdict.NOT_BUILT:
            return shlex.join(["fp8bench", "build", "--repo", repo, "--commit", prepared.candidate.sha])
        commits = ["--candidate", prepared.candidate.sha, "--baseline", prepared.baseline.sha]
        planted = [part for entry in prepared.planted.items() for part in ("--plant", f"{entry[0]}={entry[1]:g}")]
        return shlex.join(["fp8bench", "nightly", "--repo", repo, *commits, "--suite", prepared.suite, *planted])
