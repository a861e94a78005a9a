"""The stages of a night: each reads what earlier ones wrote into the run directory and writes its own file.

A stage whose file is there does nothing, so an interrupted night is resumed by running it again. `STAGES` is their
order; docs/architecture.md says what each writes.
"""

from __future__ import annotations

import errno
import json
import secrets
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from threading import Thread
from typing import Literal

from . import (
    builds,
    calibrated,
    causes,
    devices,
    earlier,
    git,
    preparation,
    records,
    screening,
    supervisor,
    timeline,
    verdicts,
)
from . import config as configuration
from .backends import CHECKED_ONLY
from .config import Config
from .errors import NightSkipped, RunDirError, StoreError, UsageError
from .preparation import Request
from .records import CheckReport, CheckResult, CheckStatus, Prepared, Role, TimingReport
from .rundir import RunDir
from .spec import Case, Cell
from .verdicts.evidence import Evidence

Progress = Callable[[str, int, int], None]  # what, done, total

_BOTH: tuple[Role, Role] = ("baseline", "candidate")
_SHARDED = ("time", "confirm")
_DISK_TROUBLE = (errno.ENOSPC, errno.EFBIG, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO)


def no_progress(what: str, done: int, total: int) -> None:
    """For callers that do not show any."""


@dataclass(frozen=True)
class Options:
    """What single stages take beside the run directory."""

    request: Request = field(default_factory=Request)  # prepare
    shard: int | None = None  # time, confirm; None: all, each on its own GPU
    send: bool = True  # alert; False: the messages are written, and somebody else delivers them
    no_verdict: str = ""  # alert: why the night has no verdict, which is then what the operators are told


@dataclass(frozen=True)
class _Night:
    run: RunDir
    config: Config
    options: Options
    progress: Progress
    watch: timeline.Watch

    @contextmanager
    def device(self, index: int = 0) -> Iterator[None]:
        """The device, for this night alone; index: of a GPU, counted over those visible here."""
        name, home = self.run.prepared().environment.device, self.config.home
        say = partial(print, file=sys.stderr, flush=True)
        with devices.held(name, index, home, self.config.worker.device_wait_s, say) as waited:
            self.watch.wait(waited)
            yield


def new_run_dir(config: Config) -> Path:
    """A place for a new night, named by the time and by chance."""
    return config.runs_dir / f"{datetime.now(UTC):%Y%m%d-%H%M%S}-{secrets.token_hex(2)}"


def run_stage(
    name: str, run_dir: Path, config: Config, options: Options | None = None, progress: Progress = no_progress
) -> int:
    """Run one stage, unless it is done. Returns 0; `gate` returns the night's exit code.

    Raises an Fp8BenchError when the stage could not do its work; it can then be run again.
    """
    if name not in STAGES:
        raise UsageError(f"unknown stage {name!r}: use one of {', '.join(STAGES)}.")
    run, options = RunDir(run_dir.resolve()), options or Options()
    try:
        needs_none = name == "prepare" or (name == "alert" and options.no_verdict)  # prepared night, frozen settings
        if needs_none:
            run.create()
        elif not run.prepare.is_file():
            raise RunDirError(f"{run.path} holds no prepared night: run `fp8bench stage prepare` on it first.")
        settings = config if needs_none else frozen_config(run, config)
        # Shards are timed side by side, so each of them takes a lock of its own.
        with nullcontext() if name in _SHARDED else run.locked(name), timeline.noted(run, name, options.shard) as watch:
            return STAGES[name](_Night(run, settings, options, progress, watch)) or 0
    except OSError as error:
        if error.errno not in _DISK_TROUBLE:
            raise
        where = error.filename or run.path
        raise RunDirError(f"stage {name}: {error.strerror} at {where}. What was measured before is kept.") from None


def frozen_config(run: RunDir, live: Config) -> Config:
    """The settings as `prepare` froze them.

    Where results are sent (`mlflow`, `mail`) follows the settings of now where these say something: a mistake there
    can be mended without measuring again. The way to a mail host that they name is theirs as a whole: the port or the
    encryption of another host does not fit. Secrets are never frozen and always come from now.
    """
    try:
        frozen = json.loads(run.config.read_text())
    except (OSError, ValueError):
        raise RunDirError(f"{run.config} is missing or damaged: start a new night with another --run-dir.") from None
    for section in ("mlflow", "mail"):
        now = getattr(live, section).model_dump(exclude_defaults=True)
        frozen[section] = frozen.get(section, {}) | now
    if live.mail.host:
        frozen["mail"] |= live.mail.model_dump(include={"host", "port", "user", "password", "security"})
    planted = frozen.get("timing", {}).get("planted", {})
    return configuration.load(**frozen).with_planted(planted)


# ---- prepare ------------------------------------------------------------------------------------------------


def _prepare(night: _Night) -> None:
    request = night.options.request
    if night.run.is_done("prepare"):
        preparation.refuse_another(night.run, request, night.config.device, night.config.timing.planted)
        return
    try:
        prepared = preparation.decide(night.config, request)
    except NightSkipped:  # nothing is wrong, so nothing may look like a night that failed
        night.run.discard_unprepared()
        raise
    records.write_bytes(night.config.frozen_json().encode() + b"\n", night.run.config)
    records.write(prepared, night.run.prepare)


# ---- build, check, time, screen, confirm ---------------------------------------------------------------------


def _build(night: _Night) -> None:
    if night.run.is_done("build"):
        return
    prepared = night.run.prepared()
    repo = git.open_repo(prepared.repo, night.config.home / "repos", fetch=False)
    wanted = tuple(dict.fromkeys([Cell.parse(cell).backend for cell in prepared.cells] + list(prepared.inspected)))
    made = []
    for done, (role, commit) in enumerate(zip(_BOTH, (prepared.baseline, prepared.candidate), strict=True)):
        night.progress("build", done, len(_BOTH))
        built = builds.build(repo, commit.sha, role, night.config, backends=wanted)
        made.append(built)
        _keep_compiler_output(night.run, built)
    night.progress("build", len(_BOTH), len(_BOTH))
    records.write(records.BuildReport(builds=tuple(made)), night.run.build)


def _keep_compiler_output(run: RunDir, built: records.Built) -> None:
    for library in built.libraries:
        if library.log:
            records.write_bytes(library.log.encode(), run.logs / f"build-{built.role}-{library.backend}.log")


def _check(night: _Night) -> None:
    if night.run.is_done("check"):
        return
    prepared, built = night.run.prepared(), night.run.built()
    cells = map(Cell.parse, prepared.cells)
    jobs = list(dict.fromkeys((cell.backend, cell.case) for cell in cells))
    results: list[CheckResult] = []
    with night.device():
        for roles, runnable in _runnable(built, jobs).items():
            directories = {role: Path(built.role(role).path) for role in roles}
            results += supervisor.check_builds(
                night.config,
                directories,
                runnable,
                prepared.environment.device,
                prepared.seed,
                night.run.logs,
                night.progress,
                gpu_index=0 if prepared.environment.device == "cuda" else None,  # starting up on all of them takes long
            )
    known = {(result.role, result.backend, result.case) for result in results}
    results += [
        _unchecked(built, role, backend, case)
        for role in _BOTH
        for backend, case in jobs
        if (role, backend, case.id) not in known
    ]
    records.write(CheckReport(results=tuple(results)), night.run.check)


_Job = tuple[str, Case]  # backend, case


def _runnable(built: records.BuildReport, jobs: Sequence[_Job]) -> dict[tuple[Role, ...], list[_Job]]:
    """The jobs whose backend was built, by the roles that have them: both roles in one go where both have the same."""
    by_role = {role: [job for job in jobs if _is_built(built, role, job[0])] for role in _BOTH}
    if by_role["baseline"] == by_role["candidate"]:
        return {_BOTH: by_role["candidate"]} if by_role["candidate"] else {}
    return {(role,): found for role, found in by_role.items() if found}


def _is_built(built: records.BuildReport, role: str, backend: str) -> bool:
    library = built.role(role).library(backend)
    return library is not None and library.ok


def _unchecked(built: records.BuildReport, role: Role, backend: str, case: Case) -> CheckResult:
    library = built.role(role).library(backend)
    why = (library.error or library.note) if library else ""
    return CheckResult(
        role=role, backend=backend, case=case.id, status=CheckStatus.MISSING, detail=f"not built: {why or 'no library'}"
    )


def _time(night: _Night) -> None:
    _in_shards(night, "time", night.run.prepared().shards)


def _confirm(night: _Night) -> None:
    if night.run.is_done("confirm", night.options.shard):
        return
    _in_shards(night, "confirm", night.run.screened().shards)


def _in_shards(night: _Night, stage: str, shards: Sequence[Sequence[str]]) -> None:
    """Time the shard that was asked for, or each on its own GPU."""
    wanted = night.options.shard
    if wanted is not None and not 0 <= wanted < len(shards):
        raise UsageError(f"shard {wanted}: this night has shards 0 to {len(shards) - 1}.")
    chosen = range(len(shards)) if wanted is None else [wanted]
    waiting = [shard for shard in chosen if not night.run.is_done(stage, shard)]
    _side_by_side([partial(_time_shard, night, stage, shard, shards[shard]) for shard in waiting])


def _side_by_side(calls: Sequence[Callable[[], None]]) -> None:
    """Make the calls at the same time and raise the first error. They wait for processes, so threads do.

    The threads are daemons: an interrupted night ends at once, and its workers die with it.
    """
    if len(calls) < 2:
        for call in calls:
            call()
        return
    errors: list[Exception] = []

    def guarded(call: Callable[[], None]) -> None:
        try:
            call()
        except Exception as error:  # noqa: BLE001 raised below, in the caller's thread
            errors.append(error)

    threads = [Thread(target=guarded, args=(call,), daemon=True) for call in calls]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]


def _time_shard(night: _Night, stage: str, shard: int, cells: Sequence[str]) -> None:
    with night.run.locked(f"{stage}-{shard}"):
        if not night.run.is_done(stage, shard):
            path = night.run.time(shard) if stage == "time" else night.run.confirm(shard)
            records.write(_timed(night, "screen" if stage == "time" else "confirm", shard, cells), path)


def _timed(night: _Night, phase: Literal["screen", "confirm"], shard: int, names: Sequence[str]) -> TimingReport:
    prepared, built, checked = night.run.prepared(), night.run.built(), night.run.checked()
    device = prepared.environment.device
    if not (cells := timeable(names, checked, device)):
        return TimingReport(shard=shard, launches=0, phase=phase)
    gpu = shard % prepared.environment.device_count  # a fleet may have more shards than this machine has GPUs
    same = same_code(checked)
    with night.device(gpu):
        return supervisor.time_cells(
            night.config,
            {role: Path(built.role(role).path) for role in _BOTH},
            cells,
            device,
            prepared.seed,
            night.run.samples_of(shard, phase),
            night.run.logs,
            night.progress,
            shard=shard,
            gpu_index=gpu if device == "cuda" else None,
            phase=phase,
            same_code=[cell.id for cell in cells if (cell.backend, cell.case.id) in same],
        )


def same_code(checked: CheckReport) -> set[tuple[str, str]]:
    """(backend, case) of those that were found to run the same code in both builds."""
    found = {(r.role, r.backend, r.case): r.identity for r in checked.results if r.identity}
    mine = {key[1:]: identity for key, identity in found.items() if key[0] == "candidate"}
    return {key for key, identity in mine.items() if found.get(("baseline", *key)) == identity}


def timeable(cells: Sequence[str], checked: CheckReport, device: str) -> list[Cell]:
    """The cells whose case was found correct in both builds, on backends that `device` runs natively."""
    correct = {(r.role, r.backend, r.case) for r in checked.results if r.status is CheckStatus.OK}
    parsed = [cell for cell in map(Cell.parse, cells) if (cell.backend, device) not in CHECKED_ONLY]
    return [cell for cell in parsed if all((role, cell.backend, cell.case.id) in correct for role in _BOTH)]


def _screen(night: _Night) -> None:
    if night.run.is_done("screen"):
        return
    run = night.run
    prepared = run.prepared()
    seen = Evidence(prepared, run.built(), run.checked(), run.timed(), run.raw_samples(), night.config.verdicts)
    found = screening.screen(seen.effects("screen"), night.config.verdicts, seen.controls, seen.margin)
    shards = confirming_shards(found.cells, prepared.shards)
    records.write(records.Screened(cells=found.cells, families=found.families, shards=shards), run.screen)


def confirming_shards(cells: Sequence[str], shards: Sequence[Sequence[str]]) -> tuple[tuple[str, ...], ...]:
    """Which of `cells` each shard confirms: those that the shard before it screened.

    Shards are GPUs: what was seen on one and not on the other is the GPU's doing. Of a single one, there is no other.
    """
    wanted = set(cells)
    return tuple(tuple(cell for cell in shards[number - 1] if cell in wanted) for number in range(len(shards)))


# ---- judge, log, render, alert, gate ------------------------------------------------------------------------


def _judge(night: _Night) -> None:
    if night.run.is_done("judge"):
        return
    run, nights = night.run, night.config.runs_dir
    prepared, screened = run.prepared(), run.screened() if run.screen.is_file() else None
    recorded = earlier.recorded_times(nights, prepared) or _logged_times(night.config, prepared)
    measured = (run.timed(), run.raw_samples())
    settings, timing = night.config.verdicts, night.config.timing
    found = verdicts.judge(prepared, run.built(), run.checked(), *measured, settings, screened, recorded, timing)
    trust = calibrated.of_night(night.config, prepared)
    records.write(_continued(found.model_copy(update={"calibrated": trust}), prepared, nights), run.verdicts)


def _logged_times(config: Config, prepared: Prepared) -> dict[str, float]:
    """Times of the baseline's own night as MLflow has them, where its directory is on another machine or gone.

    They tell a shift of the environment, without which a night is judged all the same.
    """
    if not prepared.baseline_run:
        return {}
    from . import store  # see _baseline

    try:
        return store.recorded_times(config, prepared.baseline_run) if store.exists(config) else {}
    except StoreError:
        return {}


def _continued(found: records.Verdicts, prepared: Prepared, nights: Path) -> records.Verdicts:
    """What of it the night before had already."""
    if prepared.planted or (before := earlier.previous(nights, prepared)) is None:
        return found
    same_baseline = before[0].baseline.sha == prepared.baseline.sha
    older = earlier.against_the_same(nights, prepared)
    return verdicts.continued(found, before[1], before[0].run_id, same_baseline, older)


def _log(night: _Night) -> None:
    if night.run.is_done("log"):
        return
    from . import store  # see _baseline

    records.write(store.log_night(night.run.path, night.config), night.run.mlflow)


def _render(night: _Night) -> None:
    """Write the report in its forms, and put it beside the night in MLflow where the night is there."""
    if not night.run.is_done("render"):
        _write_reports(night.run, night.config.home)
        if night.run.path.parent == night.config.runs_dir.resolve():
            refresh_index(night.config)
    if night.run.logged() and not night.run.is_attached():
        from . import store

        store.attach_report(night.run.path, night.config)
        night.run.mark_attached()


def _write_reports(run: RunDir, home: Path) -> None:
    """The page comes last: it marks the stage as done, so where it is, the others are as fresh."""
    from . import report
    from .report import figures, junit, summary

    figures.write(run.path)
    records.write_bytes(summary.render(run.path, home).encode(), run.summary)
    records.write_bytes(junit.render(run.path).encode(), run.junit)
    records.write_bytes(report.render(run.path, home).encode(), run.report)
    run.mark_rendered()


def refresh_index(config: Config) -> Path:
    """Write the page over all nights of `config.runs_dir` beside them; returns where it lies."""
    from . import report

    path = config.home.resolve() / "index.html"
    records.write_bytes(report.render_index(config.runs_dir.resolve()).encode(), path)
    return path


def _alert(night: _Night) -> None:
    from . import alerts

    if night.options.no_verdict:
        if night.run.is_done("judge"):
            raise UsageError(f"{night.run.path} has a verdict: leave --no-verdict out, so that it is told.")
        where = alerts.compose_no_verdict(night.run.path, night.config, night.options.no_verdict)
        if night.options.send:
            alerts.deliver(where, night.config)
        return
    before = causes.read(night.config.home)
    alerts.compose(night.run.path, night.config)
    if causes.read(night.config.home) != before and night.run.path.parent == night.config.runs_dir.resolve():
        refresh_index(night.config)  # it tells what is open
    if night.options.send:
        try:
            alerts.deliver(night.run.path, night.config)
        finally:
            _tell_refused(night)


def _tell_refused(night: _Night) -> None:
    """The report says which mails were refused, and no longer says so once they are taken."""
    if night.run.report.is_file() and not night.run.is_done("render"):
        with suppress(RunDirError, StoreError), night.run.locked("render"):
            _render(night)


def _gate(night: _Night) -> int:
    return night.run.judged().exit_code


STAGES: dict[str, Callable[[_Night], int | None]] = {
    "prepare": _prepare,
    "build": _build,
    "check": _check,
    "time": _time,
    "screen": _screen,
    "confirm": _confirm,
    "judge": _judge,
    "log": _log,
    "render": _render,
    "alert": _alert,
    "gate": _gate,
}
