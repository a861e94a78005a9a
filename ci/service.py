"""Nights for good: Airflow with the schedule live, MLflow, and the page over all nights, on this machine's loopback.

  up      start everything and come back when it is up; says so when it is up already
  run     the same in the foreground, for systemd (it is told when everything is up)
  status  what is up, where it is, the next night and the last ones; exit code 4 when something is down
  down    stop everything; a night that runs is taken up again by the next `up`

One process owns all the others: it starts what dies again, and gives up (exit code 4) when that does not help Airflow.
The databases of Airflow and MLflow are migrated when the version of either has changed, and copied before. MLflow is
served where nights are logged to a database; a server of one's own needs no second one.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any

CHECKOUT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(CHECKOUT))  # works from a bare checkout too

from embedded_airflow import (  # noqa: E402
    HEALTH,
    STAMP,
    START_SECONDS,
    AirflowApi,
    AirflowError,
    ApiError,
    EmbeddedAirflow,
    Restarts,
    exact_port,
)
from migration import is_unfinished, migrate_once  # noqa: E402

from fp8bench import config, secrecy, stages, store  # noqa: E402
from fp8bench.errors import Fp8BenchError  # noqa: E402

DAG = "fp8bench_nightly"
EXIT_ERROR, EXIT_INTERRUPTED = 4, 130
LOOK_SECONDS = 2.0  # between two looks at what runs
STOP_SECONDS = 60.0
MLFLOW_STAMP = ".mlflow-version"  # in the home: what migrated its database
DATABASES = ("sqlite", "postgresql", "mysql", "mssql")  # that an MLflow server can be started on
_NO_PROXY = urllib.request.build_opener(urllib.request.ProxyHandler({}))


# ---- what runs ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Service:
    """A service that is up, as it says so itself in `home/service.json`."""

    pid: int
    began: float  # with the pid, what tells the process from every other one
    airflow: str
    mlflow: str  # "": none is served here
    index: str
    logs: str
    tracking: str = ""  # where MLflow keeps the nights, without a password

    @classmethod
    def running(cls, home: Path) -> Service | None:
        """The service of `home`, or None where there is none or it died."""
        try:
            found = cls(**json.loads(_record(home).read_text()))
        except (OSError, ValueError, TypeError):
            return None
        return found if _started(found.pid) == found.began else None

    def api(self) -> AirflowApi:
        return AirflowApi(self.airflow, Path(self.logs))


def _record(home: Path) -> Path:
    return home.resolve() / "service.json"


def _started(pid: int) -> float | None:
    """When the process `pid` began, in clock ticks since the machine did; None when there is none."""
    try:
        return float(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19])
    except (OSError, IndexError, ValueError):
        return None


def gpus() -> int:
    """GPUs that tasks may use, without importing torch."""
    if (visible := os.environ.get("CUDA_VISIBLE_DEVICES")) is not None:
        return len([entry for entry in visible.split(",") if entry.strip()])
    if not (tool := shutil.which("nvidia-smi")):
        return 0
    listed = subprocess.run([tool, "-L"], capture_output=True, text=True, check=False)
    return sum(line.startswith("GPU ") for line in listed.stdout.splitlines())


def make_pool(airflow: AirflowApi, name: str, slots: int) -> None:
    pool = {"name": name, "slots": slots, "description": "one slot a GPU", "include_deferred": False}
    try:
        airflow.send("POST", "pools", pool)
    except ApiError as error:
        if error.status != 409:  # it is there already
            raise
        airflow.send("PATCH", f"pools/{name}", pool)


# ---- MLflow ---------------------------------------------------------------------------------------------------


def mlflow_version() -> str:
    """Of the package with the server in it; mlflow-skinny, which is enough for a night, lacks that: "" then."""
    try:
        return importlib.metadata.version("mlflow")
    except importlib.metadata.PackageNotFoundError:
        return ""


def migrate_mlflow(settings: config.Config) -> None:
    """Bring a local MLflow database up to the installed version, once, after copying it. A server's is its own.

    StoreError when it is gone: MLflow's server would make an empty one.
    """

    def migrate() -> str:
        command = [sys.executable, "-m", "mlflow", "db", "upgrade", settings.tracking_uri]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        return (done.stderr.strip().splitlines() or ["nothing was said"])[-1] if done.returncode else ""

    store.exists(settings)
    version, home = mlflow_version(), settings.home.resolve()
    if version and not settings.mlflow.tracking_uri and (home / "mlflow.db").exists():  # it is made by its first use
        migrate_once(home / "mlflow.db", home / MLFLOW_STAMP, version, migrate)


def serves_mlflow(settings: config.Config) -> bool:
    """Whether there is an MLflow to serve: its server is installed, and the nights' address is no server's."""
    kind = settings.tracking_uri.partition(":")[0].partition("+")[0]
    return bool(mlflow_version()) and kind in DATABASES


def start_mlflow(settings: config.Config, airflow: EmbeddedAirflow, port: int) -> subprocess.Popen[bytes]:
    """Start an MLflow server on the loopback interface.

    The address of its database may hold a password, and everybody can read a process's arguments: it is a variable.
    """
    where = ["--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    database = {"MLFLOW_BACKEND_STORE_URI": settings.tracking_uri}
    return airflow.start("mlflow", "-m", "mlflow", "server", *where, env=database)


# ---- run ------------------------------------------------------------------------------------------------------


def start_index(airflow: EmbeddedAirflow, port: int) -> subprocess.Popen[bytes]:
    """Start the server of the page over all nights."""
    return airflow.start("index", str(CHECKOUT / "ci" / "serve_index.py"), str(port))


class Running:
    """Everything that is started beside Airflow, and what to do when some of it dies.

    Nights do without it, so what dies too often is left alone until it may be started again, and ends nothing else.
    """

    def __init__(self, settings: config.Config, airflow: EmbeddedAirflow) -> None:
        self._airflow = airflow
        ports = settings.service
        self._starts = {"index": partial(start_index, airflow, ports.index_port)}
        if serves_mlflow(settings):
            self._starts["mlflow"] = partial(start_mlflow, settings, airflow, ports.mlflow_port)
        self._restarts = {name: Restarts() for name in self._starts}
        self._processes = {name: start() for name, start in self._starts.items()}

    def mend(self) -> list[str]:
        """Start what died again; its names. AirflowError when Airflow dies too often."""
        dead = [name for name, process in self._processes.items() if process.poll() is not None]
        again = [name for name in dead if self._restarts[name].allowed()]
        for name in again:
            self._processes[name] = self._starts[name]()
        return again + self._airflow.mend()


def settle(settings: config.Config) -> None:
    """Environment that the tasks inherit: an absolute home, and links to the MLflow that is served here."""
    os.environ["FP8BENCH_HOME"] = str(settings.home.resolve())
    if named := os.environ.get("FP8BENCH_CONFIG"):  # tasks run in another directory
        os.environ["FP8BENCH_CONFIG"] = str(Path(named).resolve())
    os.environ.setdefault("MLFLOW_SERVER_ENABLE_JOB_EXECUTION", "false")
    if not settings.mlflow.ui_url and not settings.mlflow.tracking_uri:
        os.environ["FP8BENCH_MLFLOW__UI_URL"] = f"http://127.0.0.1:{settings.service.mlflow_port}"


def run(settings: config.Config) -> int:
    """Start everything, say so, and look after it until somebody ends this process."""
    settle(settings)
    ports, slots = settings.service, max(1, gpus() if settings.device != "cpu" else 1)
    home = settings.home.resolve()
    if serves_mlflow(settings):
        exact_port(ports.mlflow_port, "MLflow", "service.mlflow_port")
    exact_port(ports.index_port, "the page over all nights", "service.index_port")
    migrate_mlflow(settings)
    stages.refresh_index(settings)
    airflow = EmbeddedAirflow(
        home / "airflow", CHECKOUT / "dags", parallelism=slots + 1, port=ports.airflow_port, exact=True
    )
    with airflow:
        make_pool(airflow, settings.airflow.pool, slots)
        running = Running(settings, airflow)
        _say_up(settings, airflow)
        try:
            while True:
                time.sleep(LOOK_SECONDS)
                for name in running.mend():
                    print(f"{datetime.now():%Y-%m-%d %H:%M:%S} {name} had ended and was started again", flush=True)
        finally:
            _record(home).unlink(missing_ok=True)


def _say_up(settings: config.Config, airflow: EmbeddedAirflow) -> None:
    ports, pid = settings.service, os.getpid()
    service = Service(
        pid=pid,
        began=_started(pid) or 0.0,
        airflow=airflow.url,
        mlflow=f"http://127.0.0.1:{ports.mlflow_port}" if serves_mlflow(settings) else "",
        index=f"http://127.0.0.1:{ports.index_port}",
        logs=str(airflow.logs),
        tracking=secrecy.public(settings.tracking_uri),
    )
    _record(settings.home).write_text(json.dumps(asdict(service), indent=1) + "\n")
    _notify_systemd("READY=1")
    print(
        f"up: Airflow {service.airflow}, MLflow {service.mlflow or service.tracking}, nights {service.index}",
        flush=True,
    )


def _notify_systemd(message: str) -> None:
    """Tell systemd, where it started this process, how things stand."""
    if path := os.environ.get("NOTIFY_SOCKET"):
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notify:
            notify.connect("\0" + path[1:] if path.startswith("@") else path)
            notify.sendall(message.encode())


# ---- up, down -------------------------------------------------------------------------------------------------


def up(settings: config.Config) -> int:
    """Start `run` in the background, wait until everything answers, and tell where it is."""
    home = settings.home.resolve()
    if Service.running(home) is None:
        log = home / "service.log"
        home.mkdir(parents=True, exist_ok=True)
        with log.open("wb") as output:
            process = subprocess.Popen(
                [sys.executable, str(Path(__file__).resolve()), "run"],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        while not _wait(lambda: Service.running(home) is not None or process.poll() is not None, START_SECONDS):
            if not _migrating(home):
                break
            print("A database is being migrated to its new version; that may take long, and is waited for.", flush=True)
        if Service.running(home) is None:
            process.terminate()
            words = log.read_text(errors="replace").strip().splitlines()
            raise AirflowError(f"the service did not come up: {words[-1] if words else 'it said nothing'} (see {log})")
        _wait(lambda: all(state == "up" for _, _, state in _parts(_service(home))), 60)
    return status(settings)


def _migrating(home: Path) -> bool:
    """Whether a database is being migrated, which must not be cut off."""
    return any(map(is_unfinished, (home / MLFLOW_STAMP, home / "airflow" / STAMP)))


def _service(home: Path) -> Service:
    found = Service.running(home)
    if found is None:
        raise AirflowError(f"the service of {home} is not up: `make up` starts it.")
    return found


def _wait(until: Callable[[], bool], seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while not (done := until()) and time.monotonic() < deadline:
        time.sleep(0.5)
    return done


def down(settings: config.Config) -> int:
    """End the service and everything it started."""
    home = settings.home.resolve()
    found = Service.running(home)
    if found is None:
        print(f"The service of {home} is not up.")
        return 0
    os.kill(found.pid, signal.SIGTERM)
    if not _wait(lambda: _started(found.pid) != found.began, STOP_SECONDS):
        raise AirflowError(f"process {found.pid} did not end in {STOP_SECONDS:.0f} s: see {home / 'service.log'}.")
    print("The service is down; a night that ran is taken up again by the next `make up`.")
    return 0


# ---- status ---------------------------------------------------------------------------------------------------


def _parts(service: Service) -> Iterator[tuple[str, str, str]]:
    """Name, address and state of every part."""
    try:
        health = _fetch(f"{service.airflow}/api/v2/monitor/health")
        told = [health[part]["status"] for part in HEALTH]
        state = "up" if all(entry == "healthy" for entry in told) else f"not healthy: {', '.join(map(str, told))}"
    except (OSError, ValueError, KeyError) as error:
        state = f"down ({error})"
    yield "Airflow", service.airflow, state
    for name, url in (("MLflow", service.mlflow), ("nights", service.index)):
        if url:
            yield name, url, _answers(f"{url}/health" if name == "MLflow" else url)


def _fetch(url: str) -> Any:
    with _NO_PROXY.open(url, timeout=10) as answer:
        return json.load(answer)


def _answers(url: str) -> str:
    try:
        with _NO_PROXY.open(url, timeout=10):
            return "up"
    except (urllib.error.URLError, OSError) as error:
        return f"down ({error})"


def _nights(service: Service) -> Iterator[str]:
    """The next night, and the last ones."""
    api = service.api()
    try:
        dag = api.get(f"dags/{DAG}")
        runs = api.get(f"dags/{DAG}/dagRuns", limit=3, order_by="-run_after")["dag_runs"]
    except ApiError as error:
        yield f"nights: {error}"
        return
    paused = ", but the DAG is paused" if dag["is_paused"] else ""
    yield f"next night   {dag['next_dagrun_run_after'] or 'none is scheduled'}{paused}"
    for run_ in runs:
        yield f"last nights  {run_['dag_run_id']}: {run_['state']}"


def status(settings: config.Config) -> int:
    """Print what is up and where; 4 when something is not."""
    home = settings.home.resolve()
    service = Service.running(home)
    if service is None:
        print(f"The service of {home} is not up: `make up` starts it.")
        return EXIT_ERROR
    parts = list(_parts(service))
    for name, url, state in parts:
        print(f"{name:<12} {url:<24} {state}")
    if not service.mlflow:
        print(f"{'MLflow':<12} {service.tracking:<24} not served here; `make doctor` asks it")
    if parts[0][2] == "up":
        for line in _nights(service):
            print(line)
    print(f"home         {home}")
    print(f"process      {service.pid}, log {home / 'service.log'}")
    return 0 if all(state == "up" for _, _, state in parts) else EXIT_ERROR


# ---- main -----------------------------------------------------------------------------------------------------


def _interrupt(number: int, _frame: object) -> None:
    for other in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
        signal.signal(other, signal.SIG_IGN)  # once is enough; what follows is tidying up
    raise KeyboardInterrupt(signal.Signals(number).name)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    actions: dict[str, Callable[[config.Config], int]] = {"up": up, "run": run, "status": status, "down": down}
    parser.add_argument("action", choices=actions)
    args = parser.parse_args(argv)
    for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
        signal.signal(number, _interrupt)
    try:
        return actions[args.action](config.load())
    except Fp8BenchError as error:
        print(f"service: {error}", file=sys.stderr)
        return EXIT_ERROR
    except KeyboardInterrupt as interrupt:
        print("service: stopped.", file=sys.stderr)
        return 0 if str(interrupt) == "SIGTERM" else EXIT_INTERRUPTED


if __name__ == "__main__":
    sys.exit(main())
