"""Every case of every build against the oracle."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path

from ..config import Config
from ..protocol import CheckJob, CheckRequest, Device
from ..records import CheckResult, CheckStatus, Role
from ..spec import Case
from .items import Progress, Status, counted, run_all
from .process import Worker, worker_environment


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

    builds: role -> build directory; roles that share one are checked once, and both get the results.
    Triton on a CPU runs through its interpreter. What crashes or hangs is a result like any other; WorkerError
    only where no worker can be started. The results are in the order of the roles and the jobs.
    """
    log_dir.mkdir(parents=True, exist_ok=True)
    note = counted(progress, "check", len(jobs) * len(set(builds.values())))
    checked: dict[Path, dict[tuple[str, str], CheckResult]] = {}
    for role, build in builds.items():
        if build not in checked:
            start = _starter(config, role, build, device, seed, log_dir, gpu_index)
            checked[build] = _check_build(role, jobs, device, start, note)
    return [
        checked[build][backend, case.id].model_copy(update={"role": role})
        for role, build in builds.items()
        for backend, case in jobs
    ]


Start = Callable[[bool, Sequence[CheckJob]], Worker]  # whether through Triton's interpreter, jobs


def _starter(
    config: Config, role: Role, build: Path, device: Device, seed: int, log_dir: Path, gpu_index: int | None
) -> Start:
    def start(interpret: bool, jobs: Sequence[CheckJob]) -> Worker:
        request = CheckRequest(device=device, seed=seed, builds={role: build}, jobs=tuple(jobs), interpret=interpret)
        env = worker_environment(device, config.home / "cache", gpu_index, interpret=interpret)
        return Worker.for_config(config, request, env, log_dir / f"check-{role}{'-interpreted' * interpret}.log")

    return start


def _check_build(
    role: Role, pairs: Sequence[tuple[str, Case]], device: Device, start: Start, note: Callable[[str], None]
) -> dict[tuple[str, str], CheckResult]:
    """Results of one build by (backend, case id)."""
    jobs = [CheckJob(role=role, backend=backend, case=case.id) for backend, case in pairs]
    interpreted = [device == "cpu" and job.backend == "triton" for job in jobs]
    results = {}
    for interpret in (False, True):
        by_id = {job.id: job for job, through in zip(jobs, interpreted, strict=True) if through == interpret}
        for job, result in _run_jobs(by_id, partial(start, interpret), note):
            results[job.backend, job.case] = result
    return results


def _run_jobs(
    by_id: Mapping[str, CheckJob], start: Callable[[Sequence[CheckJob]], Worker], note: Callable[[str], None]
) -> Iterator[tuple[CheckJob, CheckResult]]:
    outcome = run_all(
        list(by_id),
        start=lambda items: start([by_id[item] for item in items]),
        group_of=lambda item: by_id[item].backend,
        note=note,
    )
    for item, job in by_id.items():
        lost = outcome.lost.get(item)
        yield job, _lost_check(job, *lost) if lost else CheckResult.model_validate(outcome.done[item])
