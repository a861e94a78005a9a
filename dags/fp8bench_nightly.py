"""Builds the kernels of the latest commit, proves them correct, times them against the accepted baseline, logs to
MLflow, renders a report and mails whoever must act.

```
prepare -> build -> check -> time (a task a shard) -> screen -> confirm (a task a shard) -> judge -> log -> render
        -> alert -> gate
```

* Every task runs one command, `fp8bench stage NAME --run-dir DIR`, over the same **run directory**, whose name is that
  of the DAG run. A stage whose result is there does nothing, so tasks can be cleared and run again at will.
* **check**, **time** and **confirm** hold a slot of the GPU pool. Executor, queue, pool, schedule and retries come from
  the `[airflow]` section of fp8bench's settings.
* A night that ends without a verdict is one mail to the operators, with what failed and why; **prepare**, which needs
  MLflow for the accepted baseline, is tried several times before, twice as long after each time.
* Findings fail no stage: a night with a regression still logs, renders and mails. Only **gate** turns red, with the
  verdict as its message.
* A night that was missed is made up for, by `airflow.catch_up`, with the commit that was the latest at its time. One
  whose kernels are the baseline's is a control, or skipped, by `nights.unchanged`.
* Where to look: the tabs **FP8 report** (as soon as **render** is done) and **MLflow** of a run, **FP8 nights** in the
  menu for all of them, and the log of **judge**, which has a line a cell. `fp8bench causes list` says what is open.
* A task that could not work (exit code 4, or killed) is tried again.
"""

from __future__ import annotations

import logging
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from airflow.sdk import DAG, Param, TriggerRule, get_current_context, task
from airflow.sdk.exceptions import (
    AirflowException,
    AirflowFailException,
    AirflowNotFoundException,
    AirflowSkipException,
)

from fp8bench import config, paths, secrecy

CONFIG = config.load()
SETTINGS = CONFIG.airflow
# the machine that prepares a night describes the GPU, so it must have one; it takes none of the pool
ON_GPU: dict[str, Any] = {"queue": SETTINGS.queue, "executor": SETTINGS.executor or None}
if SETTINGS.pod_template:
    ON_GPU["executor_config"] = {"pod_template_file": SETTINGS.pod_template}
GPU: dict[str, Any] = {"pool": SETTINGS.pool, **ON_GPU}
PREPARE_TRIES = 4  # of `prepare`, for each that other stages get
LATE = timedelta(hours=1)  # a scheduled night that begins later is made up for, and measures the commit of its time

DAG_ID = paths.NIGHTLY_DAG
COULD_NOT_WORK = 4  # the exit code of a stage that may be tried again
PATIENCE = timedelta(seconds=30)  # that a stage has to put its workers away
SUITES = ("smoke", "reference")  # that fp8bench ships
NOTHING = "there was nothing to measure"

log = logging.getLogger("airflow.task.fp8bench")


def _text(default: str | None, title: str, description: str, characters: str, examples: tuple[str, ...] = ()) -> Param:
    """A form field for `characters` only, which proposes `examples`.

    It cannot begin with a dash, so that no value is taken for an option. A setting of other characters, which the
    operator chose, is no default: an empty field leaves it to the stage.
    """
    pattern = rf"^(?!-)[{characters}]{{1,200}}$(?!\n)"
    if default and not re.search(pattern, default):
        default, description = None, f"{description} Empty: what the settings say."
    kind = "string" if default else ["null", "string"]
    proposed = {"examples": list(examples)} if examples else {}
    return Param(default or None, type=kind, title=title, description=description, pattern=pattern, **proposed)


PARAMS = {
    "repo": _text(
        CONFIG.offered_repo,
        "Repository",
        "URL or path of the git repository under test; a relative path starts where Airflow's worker was started. "
        "Empty: that of the settings.",
        r"\w./:@~+%-",
    ),
    "candidate": _text(
        None, "Candidate", "Branch, tag or commit under test. Empty: the latest commit of the repository.", r"\w./@~^+-"
    ),
    "baseline": _text(
        None, "Baseline", "Branch, tag or commit to compare with. Empty: the accepted baseline.", r"\w./@~^+-"
    ),
    "suite": _text(CONFIG.suite, "Suite", "smoke, reference, or the path of a suite's TOML file.", r"\w./-", SUITES),
}


def run_directory(run_id: str, dag_id: str = DAG_ID) -> Path:
    """Where the DAG run `run_id` keeps its files; the plugin that shows its report looks there too."""
    return paths.night_directory(CONFIG.runs_dir, dag_id, run_id)


def _here() -> Path:
    """The run directory of the task that is running."""
    context = get_current_context()
    return run_directory(context["run_id"], context["dag"].dag_id)


@contextmanager
def _process(command: list[str], environment: dict[str, str] | None = None) -> Iterator[subprocess.Popen[str]]:
    """`command`, started without a shell, and ended whatever ends this task: a time-out, a kill, an error.

    environment: what it is told beside this process's own.
    """
    process = subprocess.Popen(
        command,
        env=os.environ | (environment or {}),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
    )
    try:
        yield process
    finally:
        if process.poll() is None:
            process.terminate()
            try:
                process.wait(PATIENCE.total_seconds())
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _stage(name: str, *options: str, environment: dict[str, str] | None = None) -> tuple[int, str]:
    """Exit code and last line of a stage; its lines go to the task's log as they come."""
    command = [sys.executable, "-m", "fp8bench", "stage", name, "--run-dir", str(_here()), *options]
    log.info("%s", shlex.join(map(secrecy.public, command)))
    last = ""
    with _process(command, environment) as process:
        for line in process.stdout or ():
            log.info("%s", line.rstrip())
            last = line.strip() or last
        return process.wait(), last


def run_stage(name: str, *options: str, environment: dict[str, str] | None = None) -> str:
    """Run a stage, return its last line; AirflowException (tried again) when it could not work, AirflowFailException
    when it broke."""
    code, last = _stage(name, *options, environment=environment)
    if code == COULD_NOT_WORK or code < 0:
        raise AirflowException(f"stage {name} could not work (exit code {code}): {last}")
    if code:
        raise AirflowFailException(f"stage {name} broke (exit code {code}), a fault of fp8bench: {last}")
    return last


def _states() -> dict[str, str]:
    """State of every task of this run, as the scheduler knows them."""
    context = get_current_context()
    run_id = context["run_id"]
    found: dict[str, str] = context["ti"].get_task_states(dag_id=context["dag"].dag_id, run_ids=[run_id])[run_id]
    return found


def _failed() -> list[str]:
    """The tasks of this run that failed; of a shard with its number, `time_0`."""
    return sorted(name for name, state in _states().items() if state == "failed")


def _note_of(run_dir: Path, name: str) -> Path:
    return run_dir / "logs" / f"failed-{name}.txt"


def note_failure(context: Any) -> None:
    """Keep why a task failed for good, whatever ended it: who has no verdict to tell of tells that."""
    from fp8bench import records, wording

    ti = context["ti"]
    name = ti.task_id if ti.map_index < 0 else f"{ti.task_id}_{ti.map_index}"
    why = wording.one_line(str(context.get("exception") or "nobody knows why"), 400)
    records.write_bytes(f"{why}\n".encode(), _note_of(run_directory(ti.run_id, ti.dag_id), name))


def _why_no_verdict() -> str:
    """What the tasks that failed said."""
    notes = ((name, _note_of(_here(), name)) for name in _failed())
    told = [f"{name}: {note.read_text().strip() if note.is_file() else 'failed'}" for name, note in notes]
    return "; ".join(told) or "no task failed, and none judged"


def _made_up_for() -> list[str]:
    """`--at TIME` for a night that the schedule or a backfill wanted and that begins late, else nothing.

    One of the schedule may be skipped as missed. What somebody or `fp8bench_commits` triggered is never late: it may
    wait for hours behind other nights.
    """
    context = get_current_context()
    when, kind = context.get("logical_date"), context["dag_run"].run_type
    if when is None or kind not in ("scheduled", "backfill"):
        return []
    if datetime.now(UTC) - when < LATE or (_here() / "prepare.json").exists():
        return []
    if kind == "scheduled" and SETTINGS.catch_up == "none":
        raise AirflowSkipException(f"the night of {when:%Y-%m-%d %H:%M} was missed, and airflow.catch_up is none")
    return ["--at", when.isoformat()]


# MLflow may be away for a while, and without it nobody knows the accepted baseline: twice the delay from try to try
@task(
    execution_timeout=timedelta(minutes=30),
    retries=PREPARE_TRIES * SETTINGS.retries,
    retry_exponential_backoff=2,
    **ON_GPU,
)
def prepare() -> list[int]:
    """Resolve the commits, freeze the settings, describe the machine. Returns the numbers of the shards."""
    from fp8bench import records

    params = get_current_context()["params"]
    given = [(f"--{name}", params[name]) for name in PARAMS if params[name]]
    last = run_stage("prepare", *(word for option in given for word in option), *_made_up_for())
    if not (_here() / "prepare.json").exists():
        raise AirflowSkipException(last)  # by nights.unchanged: what would be measured is the baseline
    return list(range(len(records.read(records.Prepared, _here() / "prepare.json").shards)))


@task(execution_timeout=timedelta(hours=1))
def build() -> None:
    """Compile baseline and candidate. Kernels that do not compile are a finding, not a failure of this task."""
    run_stage("build")


@task(execution_timeout=timedelta(hours=3), **GPU)
def check() -> None:
    """Compare every case of every backend with the oracle. What is wrong is not timed."""
    run_stage("check")


@task(
    execution_timeout=timedelta(hours=12),
    map_index_template="shard {{ task.op_kwargs['shard'] }}",
    doc_md="Time one shard's cells: both builds in one process, in ABBA order, over several fresh launches.",
    **GPU,
)
def time(shard: int) -> None:
    run_stage("time", "--shard", str(shard))


@task(execution_timeout=timedelta(minutes=30))
def screen() -> None:
    """Decide which cells and families need more launches, and on which GPU."""
    run_stage("screen")


@task(
    execution_timeout=timedelta(hours=12),
    map_index_template="shard {{ task.op_kwargs['shard'] }}",
    doc_md="Time what was screened in fresh launches, on another GPU than before where there is one: verdicts come "
    "from these alone. With nothing to confirm it is done at once.",
    **GPU,
)
def confirm(shard: int) -> None:
    run_stage("confirm", "--shard", str(shard))


@task(execution_timeout=timedelta(minutes=30))
def judge() -> None:
    """From samples to verdicts: cells, families, backends, causes, and the night's exit code."""
    run_stage("judge")


@task(task_id="log", execution_timeout=timedelta(minutes=30))
def log_night() -> None:
    """Log the night to MLflow, once: one run a backend, tables and raw samples as artifacts."""
    run_stage("log")


# a night that MLflow does not take is still reported and mailed
@task(execution_timeout=timedelta(minutes=15), trigger_rule=TriggerRule.ALL_DONE_MIN_ONE_SUCCESS)
def render() -> None:
    """Render `report.html`, which needs nothing beside it, and its short forms `summary.md` and `junit.xml`."""
    run_stage("render")


@task(execution_timeout=timedelta(minutes=15), trigger_rule=TriggerRule.ALL_DONE)
def alert() -> None:
    """One mail for every cause, or one to the operators when there is no verdict, through the SMTP connection
    `smtp_default`, else by fp8bench's own settings."""
    from airflow.sdk import Connection

    options = []
    if not (_here() / "verdicts.json").exists():
        if _states().get("prepare") == "skipped":
            raise AirflowSkipException(NOTHING)
        options = [f"--no-verdict={_why_no_verdict()}"]
    run_stage("alert", *options, environment=config.through_connection(Connection.get, AirflowNotFoundException))


@task(execution_timeout=timedelta(minutes=5), retries=0, trigger_rule=TriggerRule.ALL_DONE)
def gate() -> str:
    """Fail the run on a regression, on wrong, crashed or unbuilt kernels, on an invalid night, on failed stages."""
    from fp8bench import records

    verdicts, failed = _here() / "verdicts.json", _failed()
    if _states().get("prepare") == "skipped":
        raise AirflowSkipException(NOTHING)
    code, _ = _stage("gate") if verdicts.exists() else (COULD_NOT_WORK, "")
    sentence = records.read(records.Verdicts, verdicts).sentence if verdicts.exists() else "There is no verdict."
    if failed:
        sentence += f" Could not work: {', '.join(failed)}; what was measured is kept in {_here()}."
    if code or failed:
        raise AirflowFailException(sentence)
    return sentence


def _night(gpu: dict[str, Any], on_gpu: dict[str, Any]) -> None:
    """The tasks of a night; gpu, on_gpu: where those run that measure, and that describe the GPU."""
    shards, built, checked = prepare.override(**on_gpu)(), build(), check.override(**gpu)()
    timed, screened = time.override(**gpu).expand(shard=shards), screen()
    confirmed, judged = confirm.override(**gpu).expand(shard=shards), judge()
    logged, rendered, alerted = log_night(), render(), alert()
    shards >> built >> checked >> timed >> screened >> confirmed >> judged >> logged >> rendered >> alerted >> gate()
    judged >> [rendered, alerted]


def nightly(fleet: str = "", queue: str = "") -> DAG:
    """The DAG of the nights on the GPUs of a fleet; "": those that `airflow.queue` and `airflow.pool` name."""
    where = {"queue": queue} if fleet else {}
    with DAG(
        dag_id=f"{DAG_ID}_{fleet}" if fleet else DAG_ID,
        dag_display_name=f"fp8bench: the night on {fleet}" if fleet else "fp8bench: the night",
        description="Performance-regression night of the FP8 quantization kernels",
        doc_md=__doc__,
        schedule=SETTINGS.schedule or None,
        catchup=SETTINGS.catch_up == "all",
        max_active_runs=1,
        params=PARAMS,
        tags=["fp8bench", "nightly", *([fleet] if fleet else [])],
        default_args={
            "owner": "fp8bench",
            "queue": SETTINGS.control_queue,
            "retries": SETTINGS.retries,
            "retry_delay": timedelta(seconds=SETTINGS.retry_delay_s),
            "on_failure_callback": note_failure,
        },
    ) as made:
        _night(where | ({"pool": f"{SETTINGS.pool}_{fleet}"} if fleet else {}), where)
    return made


fp8bench_nightly = nightly()
for _fleet, _queue in SETTINGS.fleets.items():
    globals()[f"{DAG_ID}_{_fleet}"] = nightly(_fleet, _queue)
