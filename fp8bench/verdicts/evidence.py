"""Everything that a night recorded, and what is settled before timing says anything."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import pandas as pd

from .. import planting, stats
from ..backends import CHECKED_ONLY, YARDSTICKS
from ..config import VerdictSettings
from ..records import (
    FAILURES_TO_GIVE_UP,
    BuildReport,
    CheckReport,
    CheckResult,
    CheckStatus,
    LaunchFailure,
    Prepared,
    Screened,
    TimingReport,
    Verdict,
)
from ..spec import BASELINE, CANDIDATE, Cell
from .decisions import Launches

BROKEN = (Verdict.WRONG, Verdict.CRASHED, Verdict.NOT_BUILT)
_OF_CHECK = {
    CheckStatus.WRONG: Verdict.WRONG,
    CheckStatus.CRASHED: Verdict.CRASHED,
    CheckStatus.HUNG: Verdict.CRASHED,
    CheckStatus.UNSUPPORTED: Verdict.UNSUPPORTED,
    CheckStatus.MISSING: Verdict.MISSING,
}

_OF_MACHINE = ("OutOfMemoryError", "MemoryError", "OSError", "PermissionError")  # kinds of errors, not of kernels

Settled = tuple[Verdict, str]  # with its reason


def backend_of(cell: str) -> str:
    return cell.partition("/")[0]


def _is_of_machine(failure: LaunchFailure) -> bool:
    """Whether the machine had no room for it, which says nothing about the code."""
    return failure.status == "failed" and failure.detail.partition(":")[0].rpartition(".")[2] in _OF_MACHINE


@dataclass(frozen=True)
class Evidence:
    """The records of a night and its raw samples; what is derived from them is worked out once."""

    prepared: Prepared
    built: BuildReport
    checked: CheckReport
    timed: Sequence[TimingReport]
    samples: pd.DataFrame  # in the columns of `records.SAMPLE_COLUMNS`
    settings: VerdictSettings
    screened: Screened | None = None

    @property
    def device(self) -> str:
        return self.prepared.environment.device

    @property
    def margin(self) -> float:
        return self.settings.margin(self.device)

    @property
    def backends(self) -> list[str]:
        """Those with cells, and those that were only built."""
        return list(dict.fromkeys([*map(backend_of, self.prepared.cells), *self.prepared.inspected]))

    @cached_property
    def launches(self) -> Launches:
        return Launches(self.effects("screen"), self.effects("confirm"), self.controls)

    @cached_property
    def screening_samples(self) -> pd.DataFrame:
        """Of the launches that time all backends of a case on one GPU: what confirms may have run on another."""
        return self.samples[self.samples["phase"] == "screen"]

    def effects(self, phase: str) -> pd.DataFrame:
        """Launch effects of a phase, of cells that nothing else has settled."""
        effects = stats.launch_effects(self.samples[self.samples["phase"] == phase])
        return effects[[cell for cell in effects.columns if cell in self._open]]

    @cached_property
    def settled(self) -> dict[str, Settled | None]:
        """Every cell with the verdict that building, checking or a crash has settled; None when timing decides."""
        return {cell: self._before_timing(Cell.parse(cell)) for cell in self.prepared.cells}

    @cached_property
    def _open(self) -> set[str]:
        return {cell for cell, settled in self.settled.items() if settled is None}

    @cached_property
    def controls(self) -> frozenset[str]:
        """Cells that timing accuses of nothing: the same machine code in both builds, or yardsticks."""
        return frozenset(cell for cell in self.prepared.cells if self._is_control(cell))

    def _is_control(self, cell: str) -> bool:
        backend, _, rest = cell.partition("/")
        if backend in YARDSTICKS:
            return True
        if planting.share_of(self.prepared.planted, cell) is not None:
            return False
        if self.built.same_code(backend):
            return True
        mine, other = (self._checks.get((role, backend, rest.rpartition("/")[0])) for role in (CANDIDATE, BASELINE))
        return mine is not None and other is not None and bool(mine.identity) and mine.identity == other.identity

    @cached_property
    def _checks(self) -> Mapping[tuple[str, str, str], CheckResult]:
        return {(result.role, result.backend, result.case): result for result in self.checked.results}

    @cached_property
    def failures(self) -> dict[str, list[LaunchFailure]]:
        """The failures of each cell, those first that say most: a crash before what merely failed, then the first."""
        every = [failure for report in self.timed for failure in report.failures]
        every.sort(key=lambda failure: (failure.status == "failed", failure.launch, failure.detail))
        found: dict[str, list[LaunchFailure]] = {}
        for failure in every:
            found.setdefault(failure.cell, []).append(failure)
        return found

    def _before_timing(self, cell: Cell) -> Settled | None:
        """A broken yardstick is missing, and accuses nobody."""
        settled = self._settled(cell)
        if settled and settled[0] in BROKEN and cell.backend in YARDSTICKS:
            return Verdict.MISSING, settled[1]
        return settled

    def _settled(self, cell: Cell) -> Settled | None:
        if settled := self.not_built(cell.backend):
            return settled
        if settled := self._not_correct(cell):
            return settled
        if untimed := CHECKED_ONLY.get((cell.backend, self.device)):
            return Verdict.UNSUPPORTED, untimed
        failures = [failure for failure in self.failures.get(cell.id, []) if not _is_of_machine(failure)]
        if len(failures) >= FAILURES_TO_GIVE_UP:
            first = failures[0]
            return Verdict.CRASHED, f"{first.status} while it was timed, in {len(failures)} launches: {first.detail}"
        return None

    @cached_property
    def unsteady(self) -> dict[str, str]:
        """Cells whose candidate disagrees with itself within a quad far more often than their baseline, and how often.

        These quads were dropped, and with them the times at which the candidate was slow. An equal build loses as many
        for either arm; by chance a night calls a cell unsteady once in so many nights as `settings.alpha` says.
        """
        found: dict[str, tuple[int, int]] = {}
        for cell, (baseline, candidate) in (entry for report in self.timed for entry in report.disturbed.items()):
            before = found.get(cell, (0, 0))
            found[cell] = (before[0] + baseline, before[1] + candidate)
        level = self.settings.alpha / max(len(found), 1)
        return {
            cell: f"the candidate's times disagree with each other in {candidate} quads, the baseline's in {baseline}: "
            "it may be slow now and then"
            for cell, (baseline, candidate) in found.items()
            if stats.more_than_half(candidate, baseline + candidate) < level
        }

    def doubt(self, cell: str) -> str:
        """Why what the launches say of a cell is not all there is to say, or ""."""
        if failures := self.failures.get(cell):
            first, screening = failures[0], self.launches.screening
            others = int(screening[cell].notna().sum()) if cell in screening else 0
            launches = ", ".join(str(failure.launch) for failure in failures)
            return f"{first.status} in launch {launches} ({first.detail}), and not in {others} others"
        return self.unsteady.get(cell, "")

    def _not_correct(self, cell: Cell) -> Settled | None:
        ours = self._checks.get((CANDIDATE, cell.backend, cell.case.id))
        theirs = self._checks.get((BASELINE, cell.backend, cell.case.id))
        if ours is None:
            return Verdict.MISSING, "the candidate was not checked"
        if ours.status is not CheckStatus.OK:
            lost = ours.status is CheckStatus.UNSUPPORTED and theirs is not None and theirs.status is CheckStatus.OK
            reason = f"the baseline supports it, the candidate does not: {ours.detail}" if lost else ours.detail
            return (Verdict.WRONG if lost else _OF_CHECK[ours.status]), reason
        if theirs is None or theirs.status is not CheckStatus.OK:
            said = f"{theirs.status}: {theirs.detail}" if theirs else "not checked"
            return Verdict.MISSING, f"nothing to compare with, the baseline is {said}"
        return None

    def not_built(self, backend: str) -> Settled | None:
        """Why a backend has nothing to run, told apart: its code does not compile, or this machine cannot."""
        ours, theirs = (self.built.role(role).library(backend) for role in (CANDIDATE, BASELINE))
        if ours is None or not ours.ok:
            if ours is not None and ours.error:
                return Verdict.NOT_BUILT, ours.error
            return Verdict.UNSUPPORTED, (ours.note if ours else "") or "it was not built here"
        if theirs is None or not theirs.ok:
            why = (theirs.error or theirs.note) if theirs else ""
            return Verdict.MISSING, f"nothing to compare with, the baseline was not built: {why or 'no library'}"
        return None
