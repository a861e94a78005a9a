"""A whole night on this machine, through a real Airflow of its own: what `make nightly` runs.

Starts the embedded Airflow (embedded_airflow.py), triggers the nightly DAG through its REST API, shows the tasks as
they go, prints the verdict and where everything lies, stops what it started, and exits with the night's code:

  0 fine   1 a regression   2 wrong results, a crash, or kernels that do not build   3 an invalid night
  4 usage or infrastructure, or a run that was ended in Airflow before its end   130 interrupted

Where the service of this home is up (service.py), the night is given to that, and only followed here.
`--ui` triggers nothing and keeps Airflow's and MLflow's user interfaces up until Ctrl-C.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

CHECKOUT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(CHECKOUT))  # works from a bare checkout too

from embedded_airflow import AirflowApi, AirflowError, ApiError, EmbeddedAirflow, free_port  # noqa: E402
from rich.console import Console  # noqa: E402
from rich.live import Live  # noqa: E402
from rich.markup import escape  # noqa: E402
from rich.table import Table  # noqa: E402
from service import DAG, Service, gpus, make_pool, migrate_mlflow, serves_mlflow, start_mlflow  # noqa: E402

from fp8bench import config, records, secrecy, timeline  # noqa: E402
from fp8bench.cli import EXIT_ERROR, Parser, explain  # noqa: E402
from fp8bench.rundir import RunDir  # noqa: E402

TASKS = ("prepare", "build", "check", "time", "screen", "confirm", "judge", "log", "render", "alert", "gate")
PARAMS = ("repo", "candidate", "baseline", "suite")
STAGE_LOGGER = "airflow.task.fp8bench"
MLFLOW_PORT = 5000  # links in report and mail lead there
TRIGGER_SECONDS = 120  # a fresh database refuses triggers for a while
STYLES = {"success": "green", "running": "cyan", "failed": "red", "upstream_failed": "dim", "up_for_retry": "yellow"}
EXIT_INTERRUPTED = 130


@dataclass(frozen=True)
class TaskState:
    """One task instance of the run, as the API tells it."""

    name: str
    shard: int  # -1: not mapped
    state: str  # "" while it waits
    attempt: int
    seconds: float | None
    ran: bool  # False: it never began, whatever its state

    @property
    def label(self) -> str:
        return self.name if self.shard < 0 else f"{self.name} shard {self.shard}"

    @classmethod
    def of(cls, entry: dict[str, Any]) -> TaskState:
        return cls(
            name=entry["task_id"],
            shard=entry["map_index"],
            state=entry["state"] or "",
            attempt=max(1, entry["try_number"]),
            seconds=_seconds(entry["start_date"], entry["end_date"]),
            ran=bool(entry["hostname"]),
        )


def _seconds(start: str | None, end: str | None) -> float | None:
    if start is None:
        return None
    until = datetime.fromisoformat(end) if end else datetime.now(UTC)
    return (until - datetime.fromisoformat(start)).total_seconds()


@dataclass(frozen=True)
class Night:
    """One DAG run of the embedded Airflow."""

    airflow: AirflowApi
    run_id: str

    @property
    def _path(self) -> str:
        return f"dags/{DAG}/dagRuns/{self.run_id}"

    def state(self) -> str:
        return str(self.airflow.get(self._path)["state"])

    def tasks(self) -> list[TaskState]:
        entries = self.airflow.get(f"{self._path}/taskInstances", limit=1000)["task_instances"]
        return sorted(map(TaskState.of, entries), key=lambda task: (TASKS.index(task.name), task.shard))

    def log_file(self, task: TaskState) -> Path:
        parts = [f"dag_id={DAG}", f"run_id={self.run_id}", f"task_id={task.name}"]
        if task.shard >= 0:
            parts.append(f"map_index={task.shard}")
        return self.airflow.logs.joinpath(*parts) / f"attempt={task.attempt}.log"

    def last_lines(self, task: TaskState, count: int = 1) -> list[str]:
        """The last messages in the log of `task`."""
        try:
            with self.log_file(task).open("rb") as file:
                file.seek(0, os.SEEK_END)
                file.seek(max(0, file.tell() - 16_384))
                lines = file.read().decode(errors="replace").splitlines()
        except OSError:
            return []
        return [message for message in map(_message, lines) if message][-count:]


def _message(line: str) -> str:
    """What a stage printed, or an error that Airflow adds, with its reason; its own bookkeeping is left out."""
    try:
        entry = json.loads(line)
        wanted = entry.get("logger") == STAGE_LOGGER or entry.get("level") in ("error", "critical")
        reasons = [str(detail["exc_value"]) for detail in entry.get("error_detail") or ()]
        return ": ".join([str(entry.get("event", "")).strip(), *reasons]) if wanted else ""
    except (ValueError, AttributeError, KeyError, TypeError):
        return ""


@dataclass(frozen=True)
class Ended:
    """How a DAG run ended: its state, and its tasks'."""

    state: str
    tasks: tuple[TaskState, ...]

    @property
    def failed(self) -> list[TaskState]:
        """The stages that could not work."""
        return [task for task in self.tasks if task.state == "failed" and task.name != "gate"]

    @property
    def skipped(self) -> bool:
        """Whether `prepare` found nothing to measure; of a run that somebody ended, it is skipped without running."""
        return self.state == "success" and any(task.state == "skipped" for task in self._that_ran("prepare"))

    @property
    def cut_off(self) -> bool:
        """Whether somebody ended the run before its last task."""
        return not self._that_ran("gate")

    def _that_ran(self, name: str) -> list[TaskState]:
        return [task for task in self.tasks if task.name == name and task.ran]


# ---- on the terminal ------------------------------------------------------------------------------------------


class Screen:
    """Shows the tasks: a table that lives on a terminal, a line for every change anywhere else."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._live = Live(console=console, auto_refresh=False) if console.is_terminal else None
        self._known: dict[str, str] = {}

    def __enter__(self) -> Screen:
        if self._live:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._live:
            self._live.stop()

    def show(self, night: Night, tasks: list[TaskState]) -> None:
        if self._live:
            self._live.update(self._table(night, tasks), refresh=True)
        else:
            self._lines(tasks)

    def _table(self, night: Night, tasks: list[TaskState]) -> Table:
        table = Table(box=None, padding=(0, 2, 0, 0), show_header=False)
        for task in tasks:
            latest = night.last_lines(task) if task.state == "running" else []
            style = STYLES.get(task.state, "dim")
            table.add_row(task.label, f"[{style}]{_words(task.state)}", _time(task), escape(" ".join(latest))[:100])
        return table

    def _lines(self, tasks: list[TaskState]) -> None:
        for task in tasks:
            state = f"{task.state} {task.attempt}"
            if self._known.get(task.label, " 1") != state and task.state not in ("scheduled", "queued"):
                self._known[task.label] = state
                self._console.print(
                    f"{task.label:<14} {_words(task.state):<16} {_time(task)}".rstrip(), highlight=False
                )


def _words(state: str) -> str:
    return state.replace("_", " ") or "waiting"


def _time(task: TaskState) -> str:
    return "" if task.seconds is None or not task.state else f"{task.seconds:.1f} s"


# ---- the night ------------------------------------------------------------------------------------------------


def settle(settings: config.Config) -> None:
    """Environment that the tasks inherit: an absolute home, no schedule, short pauses before a retry, links."""
    os.environ["FP8BENCH_HOME"] = str(settings.home.resolve())
    if named := os.environ.get("FP8BENCH_CONFIG"):  # tasks run in another directory
        os.environ["FP8BENCH_CONFIG"] = str(Path(named).resolve())
    os.environ["FP8BENCH_AIRFLOW__SCHEDULE"] = ""  # this Airflow runs one night, and only when asked
    os.environ.setdefault("FP8BENCH_AIRFLOW__RETRY_DELAY_S", "5")
    if not settings.mlflow.ui_url and not settings.mlflow.tracking_uri:
        os.environ["FP8BENCH_MLFLOW__UI_URL"] = f"http://127.0.0.1:{MLFLOW_PORT}"  # where --ui serves it


def end_stale_runs(airflow: AirflowApi) -> None:
    """A run that was cut off would be taken up again and hold up the new one: it is closed as failed."""
    try:
        runs = airflow.get(f"dags/{DAG}/dagRuns", state=["running", "queued"])["dag_runs"]
    except ApiError as error:
        if error.status != 404:  # the DAG is not known yet, so it has no runs
            raise
        return
    for run in runs:
        airflow.send("PATCH", f"dags/{DAG}/dagRuns/{run['dag_run_id']}", {"state": "failed"})


def trigger(airflow: AirflowApi, params: dict[str, str]) -> Night:
    """Trigger the DAG, as soon as this start of Airflow has parsed it; AirflowError when it never does."""
    night = Night(airflow, datetime.now(UTC).strftime("night-%Y%m%d-%H%M%S"))
    deadline = time.monotonic() + TRIGGER_SECONDS
    trouble = "it was not parsed"
    while time.monotonic() < deadline:
        airflow.check_alive()
        try:
            _refuse_broken_dag(airflow)
            airflow.send("PATCH", f"dags/{DAG}", {"is_paused": False})
            body = {"dag_run_id": night.run_id, "logical_date": None, "conf": params}
            airflow.send("POST", f"dags/{DAG}/dagRuns", body)
        except ApiError as error:
            if error.status == 409:  # an earlier try that was answered with an error went through
                return night
            if error.status in (400, 422):
                why = str(error).splitlines()[0].partition(" does not match ")
                plain = " is not allowed: give a plain name, path or URL that begins with no dash." if why[1] else ""
                raise AirflowError(f"the night was refused. {why[0]}{plain}") from None
            trouble = str(error)
            time.sleep(0.5)
        else:
            return night
    raise AirflowError(f"the DAG {DAG} could not be triggered in {TRIGGER_SECONDS} s: {trouble}. See {airflow.logs}.")


def _refuse_broken_dag(airflow: AirflowApi) -> None:
    errors = airflow.get("importErrors")["import_errors"]
    if errors:
        raise AirflowError(f"{errors[0]['filename']} cannot be imported: {errors[0]['stack_trace'].splitlines()[-1]}")


def follow(night: Night, console: Console) -> Ended:
    """Show the night until it ends, and tell why stages could not work."""
    with Screen(console) as screen:
        while True:
            night.airflow.check_alive()
            state = night.state()
            tasks = night.tasks()
            screen.show(night, tasks)
            if state in ("success", "failed"):
                break
            time.sleep(0.5)
    ended = Ended(state, tuple(tasks))
    for task in ended.failed:
        console.print(f"\n{task.label} failed; the end of {night.log_file(task)}:", style="red", soft_wrap=True)
        for line in night.last_lines(task, 8):
            console.print(f"  {line}", markup=False, highlight=False, soft_wrap=True)
    return ended


def night_code(run_dir: Path, ended: Ended) -> int:
    """The night's exit code: the verdict's, or 4 when a stage could not work; 0 only of a run that went to its end."""
    code = _verdict_code(run_dir, ended)
    return EXIT_ERROR if code == 0 and (ended.cut_off or ended.state != "success") else code


def _verdict_code(run_dir: Path, ended: Ended) -> int:
    if ended.skipped:
        return 0
    if ended.failed or not (run_dir / "verdicts.json").exists():
        return EXIT_ERROR
    command = [sys.executable, "-m", "fp8bench", "stage", "gate", "--run-dir", str(run_dir)]
    environment = os.environ | {"PYTHONPATH": f"{CHECKOUT}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"}
    return subprocess.run(command, capture_output=True, env=environment, check=False).returncode


def _verdict(run_dir: Path, ended: Ended) -> str:
    """The night's verdict, or why there is none."""
    if (verdicts := run_dir / "verdicts.json").exists():
        sentence = records.read(records.Verdicts, verdicts).sentence
        return f"{sentence} The night was ended before all of it was told." if ended.cut_off else sentence
    if ended.skipped:
        return "none: the kernels are those of the baseline, and nights.unchanged is skip."
    if ended.failed:
        return "none: a stage could not work. What was measured is kept."
    return f"none: the night was ended in Airflow, as {ended.state}, before it was judged. What was measured is kept."


def summary(run_dir: Path, ended: Ended, code: int) -> Iterator[tuple[str, str]]:
    """What is worth knowing in the end, as (title, text)."""
    yield "Verdict", _verdict(run_dir, ended)
    if (report := run_dir / "report.html").exists():
        yield "Report", str(report)
    if (logged := run_dir / "mlflow.json").exists():
        night = records.read(records.Logged, logged)
        yield "MLflow", night.tracking_uri
        if link := night.links.get("night"):  # leads to everything else
            yield "", link
    if mails := sorted((run_dir / "outbox").glob("*.json")):
        sent = sum(mail.with_suffix(".sent").exists() for mail in mails)
        yield "Mails", f"{sent} of {len(mails)} sent ({run_dir / 'outbox'})"
    if took := timeline.sentence(timeline.read(RunDir(run_dir))):
        yield "Time", took
    if run_dir.exists():
        yield "Run", str(run_dir)
    yield "Look", "make ui serves Airflow and MLflow on this machine"
    yield "Exit code", str(code)


@contextmanager
def airflow_for(settings: config.Config, console: Console) -> Iterator[AirflowApi]:
    """The Airflow of the service where that is up, else one for this night alone."""
    if service := Service.running(settings.home):
        console.print(
            f"The service is up at {service.airflow}: the night is given to it.", style="dim", highlight=False
        )
        yield service.api()
        return
    with own_airflow(settings, console) as airflow:
        end_stale_runs(airflow)
        yield airflow


@contextmanager
def own_airflow(settings: config.Config, console: Console) -> Iterator[EmbeddedAirflow]:
    """An Airflow as long as this is entered, with the pool that nights wait for."""
    slots = max(1, gpus() if settings.device != "cpu" else 1)
    console.print("Starting Airflow ...", style="dim")
    with EmbeddedAirflow(settings.home / "airflow", CHECKOUT / "dags", parallelism=slots + 1) as airflow:
        make_pool(airflow, settings.airflow.pool, slots)
        yield airflow


def run_night(settings: config.Config, params: dict[str, str], console: Console) -> int:
    began = time.monotonic()
    with airflow_for(settings, console) as airflow:
        night = trigger(airflow, params)
        console.print(f"Airflow is up at {airflow.url}; {night.run_id} runs.", style="dim", highlight=False)
        ended = follow(night, console)
    run_dir = settings.home.resolve() / "runs" / night.run_id
    code = night_code(run_dir, ended)
    console.print()
    for title, text in summary(run_dir, ended, code):
        console.print(f"{title:<10} {text}", markup=False, highlight=False, soft_wrap=True)
    console.print(f"The night took {time.monotonic() - began:.0f} s.", style="dim")
    return code


def serve(settings: config.Config, console: Console) -> int:
    """Keep the user interfaces up until somebody ends this process."""
    if service := Service.running(settings.home):
        console.print(
            f"The service is up.\nAirflow   {service.airflow}\nMLflow    {service.mlflow or service.tracking}",
            highlight=False,
        )
        return 0
    migrate_mlflow(settings)
    with own_airflow(settings, console) as airflow:
        console.print(f"Airflow   {airflow.url}", highlight=False)
        if serves_mlflow(settings):
            port = free_port(MLFLOW_PORT)
            start_mlflow(settings, airflow, port)
            console.print(f"MLflow    http://127.0.0.1:{port} (in 10 seconds or so)", highlight=False)
            if port != MLFLOW_PORT:
                console.print(f"          Port {MLFLOW_PORT} is taken: links in reports lead there.", style="yellow")
        else:
            console.print(f"MLflow    {secrecy.public(settings.tracking_uri)} (not served here)", highlight=False)
        console.print("Ctrl-C ends what is served here.", style="dim")
        while True:
            airflow.check_alive()
            time.sleep(1)


@contextmanager
def ended_by_signals() -> Iterator[None]:
    """SIGTERM and SIGHUP end this program as Ctrl-C does: everything that it started is stopped."""

    def interrupt(number: int, _frame: object) -> None:
        for other in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
            signal.signal(other, signal.SIG_IGN)  # once is enough; what follows is tidying up
        raise KeyboardInterrupt(signal.Signals(number).name)

    for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
        signal.signal(number, interrupt)
    yield


def main(argv: list[str] | None = None) -> int:
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in PARAMS:
        variable = name.upper()
        parser.add_argument(f"--{name}", default=os.environ.get(variable, ""), help=f"default: ${variable}")
    parser.add_argument("--ui", action="store_true", help="only serve the user interfaces")
    args = parser.parse_args(argv)
    console = Console()
    try:
        with ended_by_signals():
            settings = config.load()
            settle(settings)
            params = {name: value for name in PARAMS if (value := getattr(args, name))}
            for name in ("repo", "suite"):  # paths are meant from here, and tasks run elsewhere
                if (path := Path(params.get(name, ""))).name and path.exists():
                    params[name] = str(path.resolve())
            return serve(settings, console) if args.ui else run_night(settings, params, console)
    except Exception as error:  # noqa: BLE001 Python itself would exit with 1, which is a regression's
        print(f"nightly: {explain(error)}", file=sys.stderr)
        return EXIT_ERROR
    except KeyboardInterrupt:
        given = Service.running(config.load().home)
        rest = (
            f"the night goes on at {given.airflow}" if given else "everything is stopped, and what was measured is kept"
        )
        print(f"nightly: interrupted; {rest}.", file=sys.stderr)
        return EXIT_INTERRUPTED


if __name__ == "__main__":
    sys.exit(main())
