"""Baseline and candidate against each other, launch by launch."""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from ..config import Config
from ..protocol import Device, TimeRequest
from ..records import DeviceState, LaunchFailure, Role, TimingReport
from ..spec import Cell
from . import samples
from .items import Outcome, Progress, counted, run_all
from .planning import LaunchPlan, Work, controls, shared_backends
from .process import Worker, worker_environment
from .samples import Launch, launch_file


@dataclass(frozen=True)
class _Session:
    """What the launches of one shard have in common."""

    config: Config
    builds: Mapping[Role, Path]
    copy: Path  # of the baseline
    device: Device
    seed: int
    env: Mapping[str, str]
    shared: tuple[str, ...]

    def request(self, plan: LaunchPlan, items: Collection[str]) -> TimeRequest:
        timing = self.config.timing
        return TimeRequest(
            device=self.device,
            seed=self.seed,
            builds=dict(self.builds),
            copy_of_baseline=self.copy,
            load_order=plan.load_order,
            jobs=tuple(job for job in plan.jobs if job.id in items),
            shared=self.shared,
            quads=timing.quads,
            cold_quads=timing.quads * (timing.cold_factor if self.device == "cuda" else 1),
            executables=timing.executables,
            series=timing.series,
            block_s=timing.block_ms * 1e-3,
            warmup_s=timing.warmup_ms * 1e-3,
        )

    def ready(self, log: Path) -> Worker | None:
        """A worker for the next launch, which imports what it needs while this one runs; beside a GPU alone: on a
        CPU that would disturb what is timed.
        """
        return Worker.for_config(self.config, None, self.env, log) if self.device == "cuda" else None

    def run(self, plan: LaunchPlan, log: Path, note: Callable[[str], None], ready: Worker | None) -> Outcome:
        """Do the jobs of a launch, first in the worker `ready`; what dies in it is lost, the rest goes on in a fresh
        worker.
        """
        waiting = [ready] if ready else []

        def start(items: Sequence[str]) -> Worker:
            request = self.request(plan, set(items))
            if not waiting:
                return Worker.for_config(self.config, request, self.env, log)
            worker = waiting.pop()
            worker.ask(request)
            return worker

        return run_all([job.id for job in plan.jobs], start, _group_of, note)


def time_cells(
    config: Config,
    builds: Mapping[Role, Path],
    cells: Sequence[Cell],
    device: Device,
    seed: int,
    samples_dir: Path,
    log_dir: Path,
    progress: Progress,
    shard: int = 0,
    gpu_index: int | None = None,
    *,
    phase: Literal["screen", "confirm"] = "screen",
    same_code: Collection[str] = (),
) -> TimingReport:
    """Time `cells`, both builds against each other, in fresh launches, until each is known precisely or they end.

    phase: which of the settings of `config.timing` apply; the A/A arm is part of the screening.
    same_code: ids of cells that were found to run the same code in both builds; they are timed as controls.
    Each launch leaves one Parquet file under `samples_dir`, and a launch found there is not repeated. A cell that
    crashes, hangs or fails is reported, tried once more in the next launch, and then left out; the others go on.
    Raises WorkerError where workers cannot be started, RunDirError for a damaged or unwritable samples file.
    """
    log_dir.mkdir(parents=True, exist_ok=True)
    fixed = controls(builds, cells, same_code, config.timing.planted)
    work = Work(tuple(cells), fixed, phase, config.timing, config.verdicts.margin(device), seed)
    past = _stored(work, samples_dir)
    with _second_copy(builds["baseline"], config.builds_dir) as copy:
        pair = builds if builds["baseline"] != builds["candidate"] else {**builds, "candidate": copy}
        env = worker_environment(device, config.home / "cache", gpu_index)
        session = _Session(config, pair, copy, device, seed, env, shared_backends(builds))
        _run_launches(work, session, past, samples_dir, log_dir / f"{_stage(phase)}-{shard}", progress)
    return _report(shard, phase, past)


def _run_launches(
    work: Work, session: _Session, past: list[Launch], samples_dir: Path, log: Path, progress: Progress
) -> None:
    """Add launches to `past`, and their samples to the directory, until nothing is left to be timed."""
    done, stage = sum(len(launch.effects) for launch in past), _stage(work.phase)
    with ExitStack() as workers:
        ready: Worker | None = None
        while len(past) < work.launches and (plan := work.plan(past)).jobs:
            number, begin = work.first + len(past), time.monotonic()
            note = counted(progress, stage, done + len(plan.jobs) * (work.launches - len(past)), done)
            mine, ready = ready, None
            if len(past) + 1 < work.launches and (ready := session.ready(Path(f"{log}-{number + 1:03}.log"))):
                workers.enter_context(ready)
            outcome = session.run(plan, Path(f"{log}-{number:03}.log"), note, mine)
            planted = {job.id: job.planted for job in plan.jobs}
            launch, rows = samples.taken(_launch(number, outcome, time.monotonic() - begin), outcome.done, planted)
            samples.write(launch, rows, launch_file(samples_dir, number))
            past.append(launch)
            done += len(plan.jobs)
    progress(stage, done, done)


def _group_of(job: str) -> str:
    """Phase and backend: what the A/A arm does to the baseline says nothing about the candidate."""
    phase, backend, _ = job.split("/", 2)
    return f"{phase}/{backend}"


def _stage(phase: str) -> str:
    return "time" if phase == "screen" else phase


def _stored(work: Work, samples_dir: Path) -> list[Launch]:
    """The launches of an earlier try, up to the first that is missing."""
    past: list[Launch] = []
    while len(past) < work.launches and (path := launch_file(samples_dir, work.first + len(past))).is_file():
        past.append(samples.read(path))
    return past


@contextmanager
def _second_copy(build: Path, place: Path) -> Iterator[Path]:
    """The build once more, below `place`: a library that is loaded from there too has its code at other addresses."""
    place.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=place, prefix=".copy-") as name:
        Path(name).chmod(0o755)  # a worker may run as somebody else
        yield Path(shutil.copytree(build, Path(name) / build.name))


def _launch(number: int, outcome: Outcome, seconds: float) -> Launch:
    """The launch without its samples. What is lost of the A/A arm is nobody's failure: its log tells."""
    failures = [
        LaunchFailure(launch=number, cell=item.partition("/")[2], status=status, detail=detail)
        for item, (status, detail) in outcome.lost.items()
        if not item.startswith("aa/")
    ]
    states = [DeviceState(launch=number, **state) for state in outcome.states]
    return Launch(number=number, failures=failures, states=states, seconds=seconds)


def _disturbed(phase: str, launches: Sequence[Launch]) -> dict[str, tuple[int, int]]:
    found: dict[str, tuple[int, int]] = {}
    for job, (baseline, candidate) in (entry for launch in launches for entry in launch.disturbed.items()):
        of_phase, _, cell = job.partition("/")
        if of_phase == phase:  # not of the A/A arm, which has no candidate
            before = found.get(cell, (0, 0))
            found[cell] = (before[0] + baseline, before[1] + candidate)
    return found


def _report(shard: int, phase: Literal["screen", "confirm"], launches: Sequence[Launch]) -> TimingReport:
    return TimingReport(
        shard=shard,
        launches=len(launches),
        phase=phase,
        quads=sum(launch.quads for launch in launches),
        dropped=sum(launch.dropped for launch in launches),
        disturbed=_disturbed(phase, launches),
        failures=tuple(failure for launch in launches for failure in launch.failures),
        states=tuple(state for launch in launches for state in launch.states),
        seconds=sum(launch.seconds for launch in launches),
    )
