"""Every case of every build against the oracle."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import NamedTuple

from ..config import Config
from ..protocol import CheckJob, CheckRequest, Device
from ..records import CheckResult, CheckStatus, Role
from ..spec import Case
from .items import Outcome, Progress, Status, counted, run_all
from .planning import equal_backends
from .process import Worker, worker_environment

MOST_WORKERS = 16  # at once: answers do not depend on who else runs, and compiling keeps a core busy each
CASES_A_WORKER = 4  # fewer do not repay the start of another process


def _lost_check(job: CheckJob, status: Status, detail: str) -> CheckResult:
    kind = CheckStatus.HUNG if status == "hung" else CheckStatus.CRASHED
    return CheckResult(role=job.role, backend=job.backend, case=job.case, status=kind, detail=detail)


def check_builds(
    config: Config,
    builds: Mapping[Role, Path],
    jobs: Sequence[tuple[str, Case]],
    device: Device,
    seed: int,
    log_dir: Path,
    progress: Progress,
    gpu_index: int | None = None,
) -> list[CheckResult]:
    """Check every job (backend name, case) of every build against the oracle, in processes of each build's own.

    builds: role -> build directory; backends that run the same machine code in both are checked once, and both roles
    get the results. Several workers share the jobs by case, so that each case's oracle is computed in one of them.
    Triton on a CPU runs through its interpreter. What crashes or hangs is a result like any other; WorkerError
    only where no worker can be started. The results are in the order of the roles and the jobs.
    """
    log_dir.mkdir(parents=True, exist_ok=True)
    source = _sources(builds, {backend for backend, _ in jobs})
    waiting = {role: [job for job in jobs if source[role, job[0]] == role] for role in builds}
    note = counted(progress, "check", sum(map(len, waiting.values())))
    busy = [role for role, jobs in waiting.items() if jobs]
    starters = {role: _starter(config, role, builds[role], device, seed, log_dir, gpu_index) for role in busy}
    parts = [part for role in busy for part in _parts(role, waiting[role], device, workers() // len(busy))]
    with ThreadPoolExecutor(workers()) as pool:  # threads that wait for processes
        found = pool.map(lambda part: _run_jobs(part.jobs, partial(starters[part.role], part), note), parts)
        checked = {(job.role, job.backend, job.case): result for results in found for job, result in results}
    return [
        checked[source[role, backend], backend, case.id].model_copy(update={"role": role})
        for role in builds
        for backend, case in jobs
    ]


def _sources(builds: Mapping[Role, Path], backends: set[str]) -> dict[tuple[Role, str], Role]:
    """(role, backend) -> the role that is checked for it: the first of those that run the same machine code."""
    first = next(iter(builds), None)
    one = len(set(builds.values())) == 1
    equal = backends if one else equal_backends(builds)
    return {(role, name): first if first and name in equal else role for role in builds for name in backends}


class _Part(NamedTuple):
    """Jobs of one worker."""

    role: Role
    name: str
    interpreted: bool  # through Triton's interpreter
    jobs: Sequence[CheckJob]


Start = Callable[[_Part, Sequence[CheckJob]], Worker]


def _starter(
    config: Config, role: Role, build: Path, device: Device, seed: int, log_dir: Path, gpu_index: int | None
) -> Start:
    def start(part: _Part, jobs: Sequence[CheckJob]) -> Worker:
        through = part.interpreted
        request = CheckRequest(device=device, seed=seed, builds={role: build}, jobs=tuple(jobs), interpret=through)
        env = worker_environment(device, config.home / "cache", gpu_index, interpret=through)
        return Worker.for_config(config, request, env, log_dir / f"check-{role}-{part.name}.log")

    return start


def workers() -> int:
    """How many are started at once: a quarter of the cores is left to the compilers that they start."""
    cores = os.cpu_count() or 1
    return min(MOST_WORKERS, cores - cores // 4)


def _parts(role: Role, pairs: Sequence[tuple[str, Case]], device: Device, most: int) -> list[_Part]:
    jobs = [CheckJob(role=role, backend=backend, case=case.id) for backend, case in pairs]
    through = [job for job in jobs if device == "cpu" and job.backend == "triton"]
    direct = [job for job in jobs if job not in through]
    return [
        *(_Part(role, f"{number}", False, part) for number, part in enumerate(share(direct, most))),
        *(_Part(role, f"interpreted-{number}", True, part) for number, part in enumerate(share(through, most))),
    ]


def share(jobs: Sequence[CheckJob], most: int) -> list[list[CheckJob]]:
    """The jobs in as many parts as workers are worth it, and at most `most`; all of a case together in one."""
    by_case: dict[str, list[CheckJob]] = {}
    for job in jobs:
        by_case.setdefault(job.case, []).append(job)
    count = min(max(1, most), max(1, len(by_case) // CASES_A_WORKER), len(by_case))
    cases = list(by_case.values())
    return [[job for case in cases[number::count] for job in case] for number in range(count)]


def _run_jobs(
    jobs: Sequence[CheckJob], start: Callable[[Sequence[CheckJob]], Worker], note: Callable[[str], None]
) -> list[tuple[CheckJob, CheckResult]]:
    by_id = {job.id: job for job in jobs}

    def run(items: Sequence[str], note: Callable[[str], None]) -> Outcome:
        return run_all(
            items, lambda items: start([by_id[item] for item in items]), lambda item: by_id[item].backend, note
        )

    outcome = run(list(by_id), note)
    if outcome.lost:  # once more: one death may be the machine's doing, another says that it is the kernel's
        again = run(list(outcome.lost), lambda _: None)
        outcome.done |= again.done
        outcome.lost = again.lost
    return [
        (job, _lost_check(job, *outcome.lost[item]))
        if item in outcome.lost
        else (job, CheckResult.model_validate(outcome.done[item]))
        for item, job in by_id.items()
    ]
