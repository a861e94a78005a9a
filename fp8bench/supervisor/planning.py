"""What each launch does. The seed and the launches before it decide, nothing else: a resumed night does the same."""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal, NamedTuple

from .. import planting
from ..backends import REFERENCE, YARDSTICKS
from ..config import TimingSettings
from ..protocol import TimeJob
from ..records import FAILURES_TO_GIVE_UP, Role
from ..spec import Cell
from ..timing import plan
from .samples import Launch


class LaunchPlan(NamedTuple):
    """What a launch does, in order."""

    jobs: tuple[TimeJob, ...]
    load_order: tuple[Role, Role]


@dataclass(frozen=True)
class Work:
    """The cells of one shard in one phase, and by which rules they are spread over launches.

    controls: cell ids that cannot differ, in the first launches alone. margin: log-ratio below which a cell is clear.
    """

    cells: tuple[Cell, ...]
    controls: frozenset[str]
    phase: Literal["screen", "confirm"]
    timing: TimingSettings
    margin: float
    seed: int

    @property
    def launches(self) -> int:
        """Most launches."""
        return self.timing.launches if self.phase == "screen" else self.timing.confirm_launches

    @property
    def first(self) -> int:
        """Number of the first launch; those of a night's phases follow each other."""
        return 0 if self.phase == "screen" else self.timing.launches

    @cached_property
    def arm(self) -> frozenset[str]:
        """Cells of the A/A arm: the same in every launch, as a false alarm takes several of them."""
        generator, found = random.Random(f"{self.seed}/aa"), set()  # noqa: S311 a choice, not a secret
        free = sorted(cell.id for cell in self.cells if cell.id not in self.controls)
        for backend in sorted({entry.partition("/")[0] for entry in free}):
            mine = [entry for entry in free if entry.startswith(f"{backend}/")]
            wanted = max(self.timing.aa_cells, round(self.timing.aa_share * len(mine)))
            found |= set(generator.sample(mine, min(wanted, len(mine))))
        return frozenset(found) if self.phase == "screen" else frozenset()

    def plan(self, past: Sequence[Launch]) -> LaunchPlan:
        """The launch after `past`: what is not known precisely yet, in random order, and a random load order."""
        generator = random.Random(f"{self.seed}/{self.phase}/{len(past)}")  # noqa: S311 an order, not a secret
        jobs = [TimeJob(cell=cell.id, phase=self.phase) for cell in self.cells]
        jobs += [TimeJob(cell=cell.id, phase="aa") for cell in self.cells if cell.id in self.arm]
        generator.shuffle(jobs)
        load_order: list[Role] = ["baseline", "candidate"]
        generator.shuffle(load_order)
        failed = Counter(failure.cell for launch in past for failure in launch.failures)
        open_jobs = [job for job in jobs if failed[job.cell] < FAILURES_TO_GIVE_UP]
        due = [job for job in open_jobs if not self._is_done(job, past)]
        timed = tuple(
            job.model_copy(
                update={
                    "seconds": _call_s(job, past),
                    "planted": self._planted(job),
                    "precision": self._precision(job),
                }
            )
            for job in due
        )
        return LaunchPlan(timed, (load_order[0], load_order[1]))

    def _planted(self, job: TimeJob) -> float:
        """What is planted in the candidate; there is none in the A/A arm, and nobody judges a yardstick's."""
        if job.phase == "aa" or job.cell.partition("/")[0] in YARDSTICKS:
            return 0.0
        return planting.share_of(self.timing.planted, job.cell) or 0.0

    def _precision(self, job: TimeJob) -> float:
        """Standard error within the launch for which more of the cell is timed; 0 for what cannot differ."""
        if job.cell in self.controls:
            return 0.0
        cold = job.cell.endswith("/cold")
        return self.margin * (self.timing.cold_launch_precision if cold else self.timing.launch_precision)

    def _is_done(self, job: TimeJob, past: Sequence[Launch]) -> bool:
        if job.cell in self.controls:
            return len(past) >= self.timing.control_launches
        effects, timing = [launch.effects[job.id] for launch in past if job.id in launch.effects], self.timing
        if self.phase == "confirm":
            return plan.is_precise(effects, self.margin, timing.confirm_precision, timing.confirm_least)
        return plan.is_clear(effects, self.margin, timing.screen_precision, timing.screen_least)


def _call_s(job: TimeJob, past: Sequence[Launch]) -> float:
    """What a call takes, as the first launch found that knows; 0 where none does."""
    return next((launch.call_s[job.cell] for launch in past if job.cell in launch.call_s), 0.0)


# ---- what cannot differ -------------------------------------------------------------------------------------


def _identities(build: Path) -> dict[str, str]:
    """Backend -> content hash of what it would run, as `build.json` has it; nothing where there is none."""
    try:
        libraries = json.loads((build / "build.json").read_bytes())["libraries"]
        return {entry["backend"]: entry["identity"] for entry in libraries if entry["identity"]}
    except (OSError, ValueError, KeyError, TypeError):
        return {}


def equal_backends(builds: Mapping[Role, Path]) -> set[str]:
    """Backends whose machine code is the same in both builds."""
    baseline, candidate = _identities(builds["baseline"]), _identities(builds["candidate"])
    return {name for name, identity in baseline.items() if candidate.get(name) == identity}


def shared_backends(builds: Mapping[Role, Path]) -> tuple[str, ...]:
    """Those to be bound once for both roles: torch compiles each case, and where code is equal, once is enough."""
    return tuple(sorted(equal_backends(builds) & {REFERENCE}))


def controls(
    builds: Mapping[Role, Path],
    cells: Sequence[Cell],
    same_code: Collection[str],
    planted: Mapping[str, float] | None = None,
) -> frozenset[str]:
    """Ids of the cells that cannot differ, or are never judged.

    same_code: cells that were found to run the same code. One build against itself is an A/A night, in which every
    cell would be one: only what is bound once is, and all others are measured as if they could differ.
    planted: what `planting` names counts as changed.
    """
    if builds["baseline"] == builds["candidate"]:
        names, same_code = set(shared_backends(builds)), ()
    else:
        names = equal_backends(builds)
    same = {cell.id for cell in cells if cell.backend in names or cell.id in same_code}
    changed = {cell for cell in same if planting.share_of(planted or {}, cell) is not None}
    return frozenset(same - changed) | {cell.id for cell in cells if cell.backend in YARDSTICKS}
