"""What a night is about: commits, suite, machine and shards, decided once before it starts."""

from __future__ import annotations

import hashlib
import secrets
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

from . import __version__, environment, git, paths, planting, suite
from .config import Config
from .errors import NightSkipped, UsageError
from .records import Commit, Prepared
from .rundir import RunDir
from .secrecy import public


@dataclass(frozen=True)
class Request:
    """What a person asked a night for; None leaves the choice to the settings."""

    repo: str | None = None
    candidate: str | None = None
    baseline: str | None = None
    suite: str | None = None
    at: str | None = None  # the time of a night that is made up for: the commit is the latest of then

    def given(self) -> dict[str, str]:
        return {key: value for key, value in asdict(self).items() if value is not None}


def refuse_another(run: RunDir, request: Request, device: str, planted: dict[str, float]) -> None:
    """UsageError unless a night is resumed with the arguments it was started with, or with none."""
    prepared = run.prepared()
    if device not in ("auto", prepared.environment.device):
        used = prepared.environment.device
        raise UsageError(f"{run.path} measures on device {used}, not {device}: give another --run-dir.")
    if planted and planted != prepared.planted:
        began = planting.sentence(prepared.planted) or "an ordinary night"
        raise UsageError(
            f"{run.path} is another one ({began}): leave --plant out to resume, or give another --run-dir."
        )
    asked = prepared.requested
    for key, value in _public(request).items():
        if asked.get(key) != value:
            told = f"was started with --{key} {asked[key]}" if key in asked else f"was started without --{key}"
            raise UsageError(f"{run.path} {told}, not {value}: leave --{key} out to resume, or give another --run-dir.")


def _public(request: Request) -> dict[str, str]:
    return {key: public(value) for key, value in request.given().items()}


def decide(config: Config, request: Request) -> Prepared:
    """Everything that a night must know before it starts; nothing is decided twice.

    Raises NightSkipped where there is nothing to measure and the settings say to skip that, RevisionError or
    SuiteError for what was asked and is not there, StoreError where the accepted baseline cannot be asked for.
    """
    device = environment.resolve_device(config)
    chosen = suite.load(request.suite or config.suite, device)
    repo = request.repo or config.repo
    candidate = _candidate(config, request, repo)
    machine = environment.read_environment(device, config.worker.python)
    baseline, baseline_run, first = _baseline(config, request, candidate, machine.device_name)
    control = not first and git.kernels_equal(repo, baseline.sha, candidate.sha, config.home / "repos")
    planted = dict(config.timing.planted)
    planting.refuse_idle(planted, (cell.id for cell in chosen.cells))
    if control and config.nights.unchanged == "skip" and request.candidate is None and not planted:
        raise NightSkipped(f"{candidate.short} has the kernels of the baseline {baseline.short}: nothing to measure.")
    created = datetime.now(UTC)
    run_id = f"{created:%Y%m%d-%H%M%S}-{candidate.sha[:9]}-{secrets.token_hex(2)}"
    gpus = config.nights.shards or (machine.device_count if device == "cuda" else 1)
    shards = suite.shard(chosen.cells, gpus)
    return Prepared(
        run_id=run_id,
        created=created,
        repo=public(repo if git.is_url(repo) else str(Path(repo).resolve())),
        candidate=candidate,
        baseline=baseline,
        baseline_run=baseline_run,
        first_night=first,
        suspects=git.suspects(repo, baseline.sha, candidate.sha, config.home / "repos"),
        suite=chosen.name,
        cells=tuple(cell.id for cell in chosen.cells),
        shards=tuple(tuple(cell.id for cell in shard) for shard in shards),
        environment=machine,
        harness=_harness(),
        seed=int.from_bytes(hashlib.sha256(run_id.encode()).digest()[:4]),
        inspected=chosen.inspect,
        requested=_public(request),
        notes=(*_told(planted, control, candidate, baseline), *_notes(repo, candidate)),
        planted=planted,
    )


def _candidate(config: Config, request: Request, repo: str) -> Commit:
    """The commit under test: the one that was asked for, or the latest of the branch, now or at the night's time."""
    cache, revision = config.home / "repos", request.candidate or config.nights.branch or "HEAD"
    if request.candidate or request.at is None:
        return git.resolve(repo, revision, cache)
    try:
        when = datetime.fromisoformat(request.at)
    except ValueError:
        raise UsageError(f"--at {request.at!r} is no time: write it as 2026-03-01T02:00+00:00.") from None
    return git.latest_before(repo, revision, when.astimezone(UTC), cache)


def _baseline(config: Config, request: Request, candidate: Commit, device_name: str) -> tuple[Commit, str, bool]:
    """The commit to compare with, the night it was accepted from, and whether there was none."""
    repo, cache = request.repo or config.repo, config.home / "repos"
    if request.baseline:
        return git.resolve(repo, request.baseline, cache), "", False
    from . import store  # mlflow takes seconds to import, and a night with a given baseline does not ask it

    accepted = store.accepted_baseline(config, device_name)
    if accepted is None:
        return candidate, "", True
    return git.resolve(repo, accepted.sha, cache), accepted.run_id, False


def _harness() -> Commit:
    """The commit that fp8bench itself runs from; its version where that is no checkout."""
    if not (paths.CHECKOUT / ".git").exists():
        return Commit(sha="", subject=f"fp8bench {__version__}")
    commit = git.resolve(paths.CHECKOUT, "HEAD", Path())
    return commit.model_copy(update={"dirty": bool(git.dirty_files(paths.CHECKOUT))})


def _told(planted: dict[str, float], control: bool, candidate: Commit, baseline: Commit) -> tuple[str, ...]:
    """What a reader must know first: a night that is planted, or in which nothing may move."""
    if planted:
        return (f"{planting.sentence(planted)}. What it finds proves the pipeline, and says nothing about the commit.",)
    return (_control_note(candidate, baseline),) if control else ()


def _control_note(candidate: Commit, baseline: Commit) -> str:
    return f"A control night: {candidate.short} has the kernels of the baseline {baseline.short}, so nothing may move."


def _notes(repo: str, candidate: Commit) -> tuple[str, ...]:
    if not (dirty := git.dirty_files(repo)):
        return ()
    files = f"{dirty[0]} and {len(dirty) - 1} more" if len(dirty) > 1 else dirty[0]
    return (f"The worktree has uncommitted kernel changes ({files}): commit {candidate.short} is measured, not they.",)
