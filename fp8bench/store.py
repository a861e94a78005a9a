"""Nights in MLflow: the only module that imports mlflow.

One flat run a night and backend, named by date and backend, so that the experiment's page reads as a calendar.
`fp8bench.charts` says which numbers are charted.

Commits and environment are tags, the baseline is a tag (`fp8bench.baseline` = device name), tables, raw samples,
records and the report are artifacts. Everything is keyed by the tags `fp8bench.run_id` and `fp8bench.backend`, and
every metric carries the night's own time: logging a night again finds its runs, and doubles nothing.
"""

from __future__ import annotations

import json
import logging
import os
import re
import shutil
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote

import pandas as pd

from . import charts, notes, records, wording
from .errors import RunDirError, StoreError, UsageError
from .night import Night
from .records import Logged, Verdict
from .rundir import read_launch
from .secrecy import public

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Metric, Run

    from .config import Config

RUN_ID = "fp8bench.run_id"
BACKEND = "fp8bench.backend"
COMPLETE = "fp8bench.complete"
BASELINE = "fp8bench.baseline"  # device name; on the runs of the night that was accepted for it
ACCEPTED_AT = "fp8bench.accepted_at"
DEVICE = "fp8bench.device_name"
CANDIDATE_SHA = "fp8bench.candidate"
VERDICT = "fp8bench.verdict"
NIGHT_VERDICT = "fp8bench.night_verdict"
INVALID = "fp8bench.invalid"  # why the machine could not be believed, also where something louder was found
DIRTY = "fp8bench.dirty"
PLANTED = "fp8bench.planted"  # what a planted night planted
PLANTED_NIGHTS = "-planted"  # behind the name of the experiment: that of planted nights
DESCRIPTION = "mlflow.note.content"  # what MLflow shows on the page of a run, as Markdown

BATCH = 1000  # metrics a request
PROBE = {"MLFLOW_HTTP_REQUEST_TIMEOUT": "4", "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0"}
UNFIT = (Verdict.WRONG, Verdict.CRASHED, Verdict.NOT_BUILT, Verdict.INVALID)  # verdicts no baseline should have


@dataclass(frozen=True)
class Baseline:
    """The accepted build of a device, and the night that it was accepted from."""

    sha: str
    run_id: str
    mlflow_run_id: str
    device_name: str = ""
    accepted_at: str = ""


# ---- the face -----------------------------------------------------------------------------------------------


def log_night(run_dir: Path, config: Config) -> Logged:
    """Log the judged night in `run_dir` and return where it lies; a night that is there is found, not doubled.

    A planted night goes to an experiment of its own: no chart of the others shows it, and no baseline is found there.
    A first night without findings becomes the baseline of its device, if that has none yet.
    Raises StoreError when MLflow cannot be reached or refuses, RunDirError when a record is missing.
    """
    night = Night.read(run_dir)
    with _session(config) as client:
        experiment = _experiment(client, config, bool(night.prepared.planted))
        runs = {
            entry.backend: _log_backend(client, experiment, night, entry.backend) for entry in night.verdicts.backends
        }
        first = night.prepared.first_night and not night.prepared.planted
        if first and night.verdicts.exit_code == 0 and not night.prepared.candidate.dirty:
            device = night.prepared.environment.device_name
            if _accepted(client, experiment, device) is None:
                _accept(client, experiment, night.prepared.run_id, device)
        links = _links(client, experiment, night, runs, config)
        for backend, run in runs.items():  # now that they are known; a night that is logged again says the same
            client.set_tag(run, DESCRIPTION, notes.write(night, backend, links))
    return Logged(tracking_uri=where(config), experiment_id=experiment, runs=runs, links=links)


def attach_report(run_dir: Path, config: Config) -> None:
    """Add report, summary and figures to the runs of a logged night (they are rendered after logging). Repeatable."""
    logged = records.read(Logged, run_dir / "mlflow.json")
    with _session(config) as client:
        for run in logged.runs.values():
            for name in ("report.html", "summary.md"):
                if (run_dir / name).is_file():
                    client.log_artifact(run, str(run_dir / name))
            if (run_dir / "figures").is_dir():
                client.log_artifacts(run, str(run_dir / "figures"), "figures")


def accepted_baseline(config: Config, device_name: str) -> Baseline | None:
    """The build that was last accepted for a device, or None."""
    with _session(config) as client:
        return _accepted(client, _experiment(client, config), device_name)


def accepted_baselines(config: Config) -> list[Baseline]:
    """The accepted builds of all devices, by device name."""
    with _session(config) as client:
        runs = _search(client, _experiment(client, config), f"tags.`{BASELINE}` != ''")
    latest = {run.data.tags[BASELINE]: run for run in sorted(runs, key=_when)}
    return [_baseline(latest[device]) for device in sorted(latest)]


def recorded_times(config: Config, run_id: str) -> dict[str, float]:
    """Microseconds a call of the candidate by cell, as night `run_id` logged them; empty where it did not."""
    prefix = charts.cell_key("candidate_us", "")
    with _session(config) as client:
        return {
            f"{run.data.tags[BACKEND]}/{key.removeprefix(prefix)}": value
            for run in _runs_of(client, _experiment(client, config), run_id)
            for key, value in run.data.metrics.items()
            if key.startswith(prefix) and not _was_invalid(run)
        }


def _was_invalid(run: Run) -> bool:
    return run.data.tags[NIGHT_VERDICT] == Verdict.INVALID or INVALID in run.data.tags


def exists(config: Config) -> bool:
    """Whether there is a store to ask: the file of a local one is made by the first night.

    StoreError when it is gone although nights were logged to it: a new one in its place would know no baseline.
    """
    if (file := _local_file(config.tracking_uri)) is None or file.exists():
        return True
    if any(_is_logged_to(where(config), logged) for logged in config.runs_dir.glob("*/mlflow.json")):
        raise StoreError(
            f"MLflow's database {file} is gone, though nights were logged: mount its disk or bring it back. To begin "
            "anew, without a baseline, make an empty file there."
        )
    return False


def _is_logged_to(uri: str, logged: Path) -> bool:
    """Whether a night was logged to that store; False where its record is damaged."""
    try:
        return records.read(Logged, logged).tracking_uri == uri
    except RunDirError:
        return False


def _local_file(uri: str) -> Path | None:
    """The file of a store on SQLite; None of another one."""
    return Path(uri.removeprefix("sqlite:///")) if uri.startswith("sqlite:///") else None


def accept(config: Config, run_id: str = "", device_name: str | None = None, force: bool = False) -> Baseline:
    """Make the candidate of night `run_id` (default: the latest) the baseline of its device.

    UsageError when there is no such night, or when its candidate is no fit baseline and `force` is not given.
    """
    with _session(config) as client:
        experiment = _experiment(client, config)
        runs = _runs_of(client, experiment, run_id or _latest(client, experiment))
        if not runs:
            raise UsageError(
                f"no night {run_id!r} in MLflow at {where(config)}: log it first, or give another run id. "
                "A planted night is never a baseline."
            )
        if not force:
            _refuse_unfit(runs[0])
        tags = runs[0].data.tags
        return _accept(client, experiment, tags[RUN_ID], device_name or tags[DEVICE])


def _refuse_unfit(run: Run) -> None:
    tags = run.data.tags
    if tags[NIGHT_VERDICT] in set(UNFIT):
        raise UsageError(
            f"night {tags[RUN_ID]} ended {tags[NIGHT_VERDICT]}: such a build should not be a baseline. "
            "Accept another night, or use --force."
        )
    if DIRTY in tags:
        raise UsageError(
            f"night {tags[RUN_ID]} built uncommitted changes on top of {tags[CANDIDATE_SHA][:9]}, which nobody "
            "can build again: commit and run a night, or use --force."
        )


# ---- connection ---------------------------------------------------------------------------------------------


def where(config: Config) -> str:
    """The store's address, without a password."""
    return public(config.tracking_uri)


@contextmanager
def _environment(values: dict[str, str]) -> Iterator[None]:
    """Environment variables for a while: mlflow reads its limits from there at every request."""
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


@contextmanager
def _session(config: Config) -> Iterator[MlflowClient]:
    """A client that has answered once; whatever MLflow raises inside becomes a StoreError that names the URI."""
    try:
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")  # a night reports to its owners only
        from mlflow import MlflowClient
        from mlflow.exceptions import MlflowException

        logging.getLogger("mlflow").setLevel(logging.WARNING)  # not a word about tables made at first use
    except ImportError as error:
        raise StoreError(f"MLflow cannot be imported ({error}): install fp8bench[mlflow].") from None
    failures: tuple[type[Exception], ...] = (
        MlflowException,
        OSError,
        ImportError,
    )  # ImportError: a database without its driver
    try:
        from sqlalchemy.exc import SQLAlchemyError

        failures = (*failures, SQLAlchemyError)
    except ImportError:  # a slim client of a server has no database of its own
        pass
    quiet = {"MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false"}
    limits = {"MLFLOW_HTTP_REQUEST_TIMEOUT": "30", "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2"}
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about MLflow's own use of SQLAlchemy
            if not exists(config) and (file := _local_file(config.tracking_uri)):
                file.parent.mkdir(parents=True, exist_ok=True)  # SQLite makes no folder for its file
            client = MlflowClient(config.tracking_uri)
            with _environment(PROBE):
                client.get_experiment_by_name(config.mlflow.experiment)
            with _environment(quiet | limits):
                yield client
    except failures as error:
        raise StoreError(
            f"MLflow at {where(config)} did not answer as it should: {_reason(error, config)}. "
            "Check mlflow.tracking_uri and run this again; what was measured is kept."
        ) from None


def _reason(error: Exception, config: Config) -> str:
    """What went wrong, without the layers of clients that a refused connection comes wrapped in."""
    told = wording.one_line(str(error).replace(config.tracking_uri, where(config)), 2000)
    refused = re.search(r"\[Errno -?\d+\] ([^'\")]+)", told) if "HTTP" in told else None
    return refused[1].rstrip(". ") if refused else wording.one_line(told, 300).rstrip(". ")


def _experiment(client: MlflowClient, config: Config, planted: bool = False) -> str:
    """Id of the experiment, made at first use; artifacts of a local store lie beside its database."""
    name = config.mlflow.experiment + PLANTED_NIGHTS * planted
    found = client.get_experiment_by_name(name)
    if found is not None:
        return str(found.experiment_id)
    place = None
    if config.tracking_uri.startswith("sqlite:///"):
        place = (config.home.resolve() / "mlflow-artifacts").as_uri()
    kind = {"mlflow.experimentKind": "custom_model_development"}  # opens as a table of runs with charts
    return str(client.create_experiment(name, artifact_location=place, tags=kind))


def _quoted(value: str) -> str:
    """A value for MLflow's filter language, which knows no escapes."""
    return "'" + value.replace("'", "_") + "'"


def _search(client: MlflowClient, experiment: str, condition: str, limit: int = 1000) -> list[Run]:
    return list(client.search_runs([experiment], condition, max_results=limit, order_by=["attributes.start_time DESC"]))


def _runs_of(client: MlflowClient, experiment: str, run_id: str) -> list[Run]:
    return _search(client, experiment, f"tags.`{RUN_ID}` = {_quoted(run_id)}")


def _latest(client: MlflowClient, experiment: str) -> str:
    runs = _search(client, experiment, f"tags.`{COMPLETE}` = 'true'", limit=1)
    if not runs:
        raise UsageError("no night has been logged yet: run `fp8bench nightly` first.")
    return str(runs[0].data.tags[RUN_ID])


# ---- baseline -----------------------------------------------------------------------------------------------


def _when(run: Run) -> str:
    return str(run.data.tags.get(ACCEPTED_AT, ""))


def _baseline(run: Run) -> Baseline:
    tags = run.data.tags
    return Baseline(tags[CANDIDATE_SHA], tags[RUN_ID], run.info.run_id, tags[BASELINE], _when(run))


def _key(device_name: str) -> str:
    return device_name.replace("'", "_")


def _accepted(client: MlflowClient, experiment: str, device_name: str) -> Baseline | None:
    runs = _search(client, experiment, f"tags.`{BASELINE}` = {_quoted(device_name)}")
    return _baseline(max(runs, key=_when)) if runs else None


def _accept(client: MlflowClient, experiment: str, run_id: str, device_name: str) -> Baseline:
    """Tag the night's runs first and untag the older ones then: cut off between the two, the newest still counts."""
    old = _search(client, experiment, f"tags.`{BASELINE}` = {_quoted(device_name)}")
    now = pd.Timestamp.now("UTC").isoformat()
    for run in _runs_of(client, experiment, run_id):
        client.set_tag(run.info.run_id, ACCEPTED_AT, now)
        client.set_tag(run.info.run_id, BASELINE, _key(device_name))
    for run in old:
        if run.data.tags[RUN_ID] != run_id:
            client.delete_tag(run.info.run_id, BASELINE)
    accepted = _accepted(client, experiment, device_name)
    assert accepted is not None
    return accepted


# ---- one run ------------------------------------------------------------------------------------------------


def _log_backend(client: MlflowClient, experiment: str, night: Night, backend: str) -> str:
    """The MLflow run of a backend's night: found whole, finished, or made."""
    condition = f"tags.`{RUN_ID}` = {_quoted(night.prepared.run_id)} and tags.`{BACKEND}` = {_quoted(backend)}"
    found = sorted(_search(client, experiment, condition), key=_is_complete, reverse=True)
    tags = _tags(night, backend)
    if not found:
        name = f"{night.prepared.created:%Y-%m-%d} {backend}"
        made = client.create_run(experiment, _milliseconds(night), tags, name)
        others = _search(client, experiment, condition)
        found = [made, *(run for run in others if run.info.run_id != made.info.run_id)]
    for double in found[1:]:  # the answer to a request was lost, and the client has asked for a run once more
        client.delete_run(double.info.run_id)
    run = str(found[0].info.run_id)
    if _is_complete(found[0]):
        return run
    _fill(client, run, night, backend, tags)
    client.set_tag(run, COMPLETE, "true")
    client.set_terminated(run, "FINISHED", _milliseconds(night) + _worked(night))
    return run


def _is_complete(run: Run) -> bool:
    return run.data.tags.get(COMPLETE) == "true"


def _fill(client: MlflowClient, run: str, night: Night, backend: str, tags: dict[str, str]) -> None:
    from mlflow.entities import Param, RunTag

    parameters = [Param(name, value) for name, value in _params(night, backend).items()]
    client.log_batch(run, params=parameters, tags=[RunTag(name, value) for name, value in tags.items()])
    numbers = _metrics(night, backend)
    for start in range(0, len(numbers), BATCH):
        client.log_batch(run, numbers[start : start + BATCH])
    with tempfile.TemporaryDirectory() as folder:
        _write_artifacts(Path(folder), night, backend)
        client.log_artifacts(run, folder)


def _tags(night: Night, backend: str) -> dict[str, str]:
    prepared, machine = night.prepared, night.prepared.environment
    verdict = next(entry for entry in night.verdicts.backends if entry.backend == backend)
    tags = {
        RUN_ID: prepared.run_id,
        BACKEND: backend,
        VERDICT: verdict.verdict.value,
        NIGHT_VERDICT: night.verdicts.verdict.value,
        CANDIDATE_SHA: prepared.candidate.sha,
        "fp8bench.baseline_sha": prepared.baseline.sha,
        "fp8bench.baseline_run": prepared.baseline_run,
        "fp8bench.repo": public(prepared.repo),
        "fp8bench.suite": prepared.suite,
        DEVICE: machine.device_name,
        "fp8bench.device_uuid": machine.device_uuid,
        "fp8bench.host": machine.host,
        "fp8bench.driver": machine.driver,
        "mlflow.source.name": "fp8bench",
        "mlflow.source.git.commit": prepared.candidate.sha,
        **_filters(night, backend),
        **{"fp8bench.version." + re.sub(r"[^\w.-]", "_", name): version for name, version in machine.versions.items()},
    }
    if prepared.candidate.dirty:
        tags[DIRTY] = "true"
    tags |= _calibration(night)
    tags[PLANTED] = ", ".join(f"{pattern} {100 * share:g}%" for pattern, share in prepared.planted.items())
    return {name: value for name, value in tags.items() if value}


def _calibration(night: Night) -> dict[str, str]:
    """What the calibrated figures stand on, and why they may not hold tonight."""
    if (found := night.verdicts.calibrated) is None:
        return {}
    launches = f"{found.launches} launches of {found.cells} cells on {found.device_name or 'an unknown device'}"
    return {
        "fp8bench.calibration": ", ".join(part for part in (launches, found.measured) if part),
        "fp8bench.calibration_doubts": "; ".join(found.doubts),
    }


def _filters(night: Night, backend: str) -> dict[str, str]:
    """Tags that are there to search by: `tags.fp8bench.suspects LIKE '%abc1234de%'`."""
    causes = [cause for cause in night.verdicts.causes if cause.backend == backend]
    suspects = dict.fromkeys(sha for cause in causes for sha in cause.suspects)
    return {
        "fp8bench.exit_code": str(night.verdicts.exit_code),
        "fp8bench.first_night": "true" if night.prepared.first_night else "",
        "fp8bench.causes": " ".join(cause.id for cause in causes),
        "fp8bench.accused_families": " ".join(dict.fromkeys(family for cause in causes for family in cause.families)),
        "fp8bench.suspects": " ".join(night.commit(sha).short for sha in suspects),
        "fp8bench.states": " ".join(dict.fromkeys(cause.state for cause in causes)),
    }


def _params(night: Night, backend: str) -> dict[str, str]:
    prepared, verdicts = night.prepared, night.verdicts
    values = {
        "backend": backend,
        "suite": prepared.suite,
        "device": prepared.environment.device,
        "candidate": prepared.candidate.short,
        "baseline": prepared.baseline.short,
        "first_night": prepared.first_night,
        "margin": verdicts.margin,
        "confidence": verdicts.confidence,
        "seed": prepared.seed,
        "cells": len(night.of(backend)),
    }
    return {name: str(value) for name, value in values.items()}


def _milliseconds(night: Night) -> int:
    """The night's own time: the time stamp of all its metrics."""
    return int(night.prepared.created.timestamp() * 1000)


def _worked(night: Night) -> int:
    """Milliseconds of building and timing: what MLflow shows as the run's duration, whenever it was logged."""
    seconds = sum(built.seconds for built in night.built.builds)
    return int(1000 * (seconds + max((report.seconds for report in night.timed), default=0.0)))


def _metrics(night: Night, backend: str) -> list[Metric]:
    """Everything that is charted, at the night's own time."""
    from mlflow.entities import Metric

    return [Metric(key, value, _milliseconds(night), step) for key, value, step in charts.points(night, backend)]


# ---- artifacts ----------------------------------------------------------------------------------------------


def _write_artifacts(folder: Path, night: Night, backend: str) -> None:
    """Tables, samples, records, and logs as the run shows them; names are fixed, so a second upload replaces."""
    charts.cell_table(night.of(backend)).to_csv(folder / "cells.csv", index=False)
    samples = _samples(night.run_dir, backend)
    if samples is not None:
        samples.to_parquet(folder / "samples.parquet", index=False)
    (folder / "records").mkdir()
    for file in sorted(night.run_dir.glob("*.json")):
        if file.name not in ("mlflow.json", "config.json"):  # settings may name accounts: they stay on the machine
            (folder / "records" / file.name).write_text(_public(file.read_text(), night.prepared.repo))
    if (report := night.run_dir / "report.html").is_file():
        shutil.copy2(report, folder)


def _public(text: str, repo: str) -> str:
    """`text` without the password that the address of a repository may hold."""
    return text.replace(repo, public(repo))


def _samples(run_dir: Path, backend: str) -> pd.DataFrame | None:
    """Raw samples of a backend's cells, all shards and launches."""
    files = sorted(run_dir.glob("samples/*/*.parquet"))
    tables = [table[table["cell"].str.startswith(f"{backend}/")] for table in map(read_launch, files)]
    present = [table for table in tables if len(table)]
    return pd.concat(present, ignore_index=True) if present else None


# ---- links --------------------------------------------------------------------------------------------------


def _ui(config: Config) -> str:
    uri = where(config)
    server = uri if uri.startswith(("http://", "https://")) else ""
    return public(config.mlflow.ui_url or server).rstrip("/")


def _links(client: MlflowClient, experiment: str, night: Night, runs: dict[str, str], config: Config) -> dict[str, str]:
    """Addresses in the MLflow UI.

    `experiment` (all nights as charts), `night`, `report`, one a backend, and `compare <backend>` with the
    baseline's night. None when the UI has no known address.
    """
    base = _ui(config)
    if not base:
        return {}
    home = f"{base}/#/experiments/{experiment}"
    mine = quote(f"tags.`{RUN_ID}` = {_quoted(night.prepared.run_id)}")
    charts = f"{home}/runs?workflowType=machine_learning&compareRunsMode=CHART"
    links = {"experiment": charts, "night": f"{charts}&searchFilter={mine}"} | {
        name: f"{home}/runs/{run}" for name, run in runs.items()
    }
    if runs:
        links["report"] = f"{home}/runs/{next(iter(runs.values()))}/artifacts/report.html"
    if night.prepared.baseline_run:
        for run in _runs_of(client, experiment, night.prepared.baseline_run):
            backend = run.data.tags[BACKEND]
            if backend in runs:
                both = quote(json.dumps([run.info.run_id, runs[backend]]))
                links[f"compare {backend}"] = (
                    f"{base}/#/compare-runs?runs={both}&experiments={quote(json.dumps([experiment]))}"
                )
    return links
