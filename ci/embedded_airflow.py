"""An Airflow of one's own: SQLite, LocalExecutor, loopback only, gone when its user is gone.

Design. `AirflowApi` is a small REST client. One `EmbeddedAirflow` is a client too, and owns a home directory (a lock
says so) and the four components as child processes. It is a context manager: what was started is stopped on every way
out.

* Every task that the scheduler starts is a process group of its own, and would outlive the scheduler. So this process
  declares itself the reaper of its orphans, and ends its whole family, not a list of process ids.
* A parent that is killed outright cannot tidy up: the components ask the kernel for SIGTERM when it dies.
* The database is migrated only when it was last migrated by another version of Airflow, and copied before that.
* Keys of sessions and tokens stay the same from start to start: a browser stays logged in, a task keeps its token.
* `mend` starts a component that died again; the tasks of a scheduler that died are ended first, as nobody follows them.
* Everything goes through the REST API: its answers are the ones that a remote Airflow would give too.
* Nothing here needs console scripts on PATH: components are `python -m airflow ...`.
"""

from __future__ import annotations

import base64
import contextlib
import ctypes
import fcntl
import importlib.metadata
import json
import os
import secrets
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import IO, Any

import psutil  # Airflow brings it
from migration import migrate_once

from fp8bench.errors import Fp8BenchError

COMPONENTS = {
    "api-server": ("--host", "127.0.0.1", "--workers", "1"),
    "scheduler": ("--skip-serve-logs",),
    "dag-processor": (),
    "triggerer": ("--skip-serve-logs",),
}
STAMP = "migrated"  # in the home: what migrated its database
HEALTH = ("metadatabase", "scheduler", "dag_processor", "triggerer")
LOGIN = ("AIRFLOW__CORE__AUTH_MANAGER", "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_USERS")
RESTARTS, RESTARTS_SECONDS = 5, 600.0  # what dies more often in that time is not started again
START_SECONDS = 240  # generous: a busy machine takes long to import Airflow four times
STOP_SECONDS = 8
BUSY_SECONDS = 60

_LIBC = ctypes.CDLL(None, use_errno=True)
_PR_SET_PDEATHSIG, _PR_SET_CHILD_SUBREAPER = 1, 36


class AirflowError(Fp8BenchError):
    """The embedded Airflow could not do what it was asked."""


class ApiError(AirflowError):
    """An answer of the REST API that is not a success."""

    def __init__(self, status: int, detail: str) -> None:
        super().__init__(f"Airflow answered {status}: {detail}")
        self.status = status


def free_port(wanted: int) -> int:
    """`wanted` on the loopback interface, or any other port when it is taken."""
    for port in (wanted, 0):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return int(probe.getsockname()[1])
    raise AirflowError("no port is free on 127.0.0.1: end other servers and try again.")


def exact_port(wanted: int, what: str, setting: str) -> int:
    """`wanted` on the loopback interface; AirflowError when it is taken, naming the `setting` that chooses another."""
    if free_port(wanted) != wanted:
        raise AirflowError(
            f"port {wanted} for {what} is taken by another program: end that, or choose another port in {setting}."
        )
    return wanted


def keys(home: Path) -> dict[str, str]:
    """Secrets of the API server in `home`, made at the first start; readable by this user alone."""
    path = home / "keys.json"
    if not path.exists():
        made = {"API__SECRET_KEY": secrets.token_hex(16), "API_AUTH__JWT_SECRET": secrets.token_hex(32)}
        made["CORE__FERNET_KEY"] = base64.urlsafe_b64encode(secrets.token_bytes(32)).decode()
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            json.dump(made, file)
    found: dict[str, str] = json.loads(path.read_text())
    return found


def refuse_login() -> None:
    """AirflowError where the caller asks for a login: this Airflow has none, and nobody should believe otherwise."""
    for name in LOGIN:
        if name in os.environ:
            raise AirflowError(
                f"{name} is set, and this Airflow has no login, on the loopback interface alone: unset it, "
                "and put a proxy with authentication in front (docs/security.md)."
            )


def environment(home: Path, dags: Path, port: int, parallelism: int) -> dict[str, str]:
    """The environment of every component and task; settings of the caller's own Airflow are left out."""
    ours = {key: value for key, value in os.environ.items() if not key.startswith("AIRFLOW__")}
    checkout = str(dags.parent)
    settings = {
        "CORE__DAGS_FOLDER": str(dags),
        "CORE__PLUGINS_FOLDER": str(dags / "plugins"),
        "CORE__LOAD_EXAMPLES": "False",
        "CORE__EXECUTOR": "LocalExecutor",
        "CORE__PARALLELISM": str(parallelism),
        "CORE__DAGS_ARE_PAUSED_AT_CREATION": "False",
        "CORE__SIMPLE_AUTH_MANAGER_ALL_ADMINS": "True",
        "CORE__EXECUTION_API_SERVER_URL": f"http://127.0.0.1:{port}/execution/",
        "DATABASE__SQL_ALCHEMY_CONN": f"sqlite:///{home}/airflow.db",
        "API__HOST": "127.0.0.1",
        "API__PORT": str(port),
        "API__BASE_URL": f"http://127.0.0.1:{port}",
        **keys(home),
        "DAG_PROCESSOR__REFRESH_INTERVAL": "60",
        "LOGGING__BASE_LOG_FOLDER": str(home / "logs"),
        "SCHEDULER__SCHEDULER_IDLE_SLEEP_TIME": "0.5",
        # a task whose scheduler or machine went down is taken up again after a minute or two
        "SCHEDULER__TASK_INSTANCE_HEARTBEAT_TIMEOUT": "120",
        "SCHEDULER__ORPHANED_TASKS_CHECK_INTERVAL": "30",
    }
    ours |= {f"AIRFLOW__{key}": value for key, value in settings.items()}
    ours["AIRFLOW_HOME"] = str(home)
    ours["PYTHONPATH"] = os.pathsep.join(filter(None, (checkout, os.environ.get("PYTHONPATH"))))
    ours["PYTHONUNBUFFERED"] = "1"
    loopback = "127.0.0.1,localhost"
    for name in ("no_proxy", "NO_PROXY"):
        ours[name] = f"{ours[name]},{loopback}" if ours.get(name) else loopback
    return ours


class AirflowApi:
    """The REST API of an Airflow on this machine; `url` and `logs` say where it is and where its tasks' logs lie."""

    def __init__(self, url: str, logs: Path) -> None:
        self.url, self.logs = url, logs
        self._token = ""
        self._open = urllib.request.build_opener(urllib.request.ProxyHandler({})).open

    def check_alive(self) -> None:
        """AirflowError when it is known to be gone; somebody else looks after an Airflow that is only talked to."""

    def get(self, path: str, **query: Any) -> Any:
        """GET /api/v2/PATH; ApiError for an answer that is not a success."""
        suffix = "?" + urllib.parse.urlencode(query, doseq=True) if query else ""
        return self._insist("GET", f"/api/v2/{path}{suffix}", None)

    def send(self, method: str, path: str, body: dict[str, Any]) -> Any:
        """POST or PATCH `body` as JSON to /api/v2/PATH."""
        return self._insist(method, f"/api/v2/{path}", body)

    def _insist(self, method: str, path: str, body: dict[str, Any] | None) -> Any:
        """A request, repeated while the server is too busy: SQLite has one writer, and says so by an error 500."""
        deadline = time.monotonic() + BUSY_SECONDS
        while True:
            try:
                return self._request(method, path, body)
            except (ApiError, OSError) as error:
                self.check_alive()
                if isinstance(error, ApiError) and error.status < 500:
                    raise
                if time.monotonic() > deadline:
                    raise AirflowError(f"{method} {path} failed for {BUSY_SECONDS} s: {error}") from None
                time.sleep(0.5)

    def _request(self, method: str, path: str, body: dict[str, Any] | None) -> Any:
        headers = {"Content-Type": "application/json"}
        if not path.endswith(("/auth/token", "/monitor/health")):
            self._token = self._token or self._request("GET", "/auth/token", None)["access_token"]
            headers["Authorization"] = f"Bearer {self._token}"
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.url + path, data, headers, method=method)  # noqa: S310 (our own URL)
        try:
            with self._open(request, timeout=30) as answer:
                return json.load(answer)
        except urllib.error.HTTPError as error:
            raise ApiError(error.code, _detail(error.read())) from None


class Restarts:
    """Counts what is started again."""

    def __init__(self) -> None:
        self._times: list[float] = []

    def allowed(self) -> bool:
        """Whether there may be one more now, which is counted then."""
        now = time.monotonic()
        self._times = [when for when in self._times if now - when < RESTARTS_SECONDS]
        if len(self._times) >= RESTARTS:
            return False
        self._times.append(now)
        return True


class EmbeddedAirflow(AirflowApi):
    """Context manager around the components; `url` answers while it is entered.

    home: AIRFLOW_HOME, made if needed. dags: the DAG folder; its parent goes to the front of PYTHONPATH.
    parallelism: tasks at a time. port: of the API server; when it is taken another one is used, or AirflowError is
    raised where `exact`. settings: environment variables of its processes that go before the usual ones; "@URL@" in
    them is its address. AirflowError also says why it did not start, or that another one runs in `home`.
    """

    def __init__(
        self,
        home: Path,
        dags: Path,
        *,
        parallelism: int = 2,
        port: int = 8080,
        exact: bool = False,
        settings: Mapping[str, str] | None = None,
    ) -> None:
        self.home, self.dags = home.resolve(), dags.resolve()
        super().__init__("", self.home / "logs")
        self._parallelism, self._port, self._exact, self._settings = parallelism, port, exact, dict(settings or {})
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self._restarts = Restarts()
        self._started: set[int] = set()  # everything that `start` ever started
        self._lock: IO[str] | None = None
        self._environment: dict[str, str] = {}

    def __enter__(self) -> EmbeddedAirflow:
        refuse_login()
        self.logs.mkdir(parents=True, exist_ok=True)
        self._lock = self._take_lock()
        self._end(self._leftovers())
        self._port = self._choose_port()
        scheme = "https" if "AIRFLOW__API__SSL_CERT" in self._settings else "http"
        self.url = f"{scheme}://127.0.0.1:{self._port}"
        self._environment = environment(self.home, self.dags, self._port, self._parallelism)
        self._environment |= {name: value.replace("@URL@", self.url) for name, value in self._settings.items()}
        _LIBC.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
        try:
            self._migrate()
            for name in COMPONENTS:
                self._start_component(name)
            self._record_sessions()
            self._wait_healthy()
        except BaseException:
            self._stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop()

    # ---- processes ---------------------------------------------------------------------------------------

    def _choose_port(self) -> int:
        try:
            return exact_port(self._port, "Airflow", "service.airflow_port") if self._exact else free_port(self._port)
        except AirflowError:
            self._stop()
            raise

    def _start_component(self, name: str) -> None:
        port = ("--port", str(self._port)) if name == "api-server" else ()
        self._processes[name] = self.start(name, "-m", "airflow", name, *COMPONENTS[name], *port)

    def pids(self) -> dict[str, int]:
        """Process ids of the components."""
        return {name: process.pid for name, process in self._processes.items()}

    def mend(self) -> list[str]:
        """Start components that died again; their names. AirflowError when they die too often."""
        self._reap()
        dead = [name for name, process in self._processes.items() if process.poll() is not None]
        for name in dead:
            if not self._restarts.allowed():
                self.check_alive()
            if name == "scheduler":
                self._end(self._orphans())
            self._start_component(name)
        if dead:
            self._record_sessions()
        return dead

    def _reap(self) -> None:
        """Let go of dead orphans: as their reaper, this process is the only one that can."""
        for child in psutil.Process().children():
            with contextlib.suppress(psutil.NoSuchProcess, ChildProcessError):
                if child.pid not in self._started and child.status() == psutil.STATUS_ZOMBIE:
                    os.waitpid(child.pid, os.WNOHANG)

    def _orphans(self) -> list[psutil.Process]:
        """Processes that fell to this one when the component that had started them died."""
        direct = [child for child in psutil.Process().children() if child.pid not in self._started]
        return [process for child in direct for process in (child, *_descendants(child))]

    def start(
        self, name: str, *arguments: str, env: Mapping[str, str] | None = None, cwd: Path | None = None
    ) -> subprocess.Popen[bytes]:
        """Start `python ARGUMENTS` in this Airflow's environment and `env`; its output goes to logs/NAME.log."""
        file = self.logs / f"{name}.log"
        if file.exists():
            file.replace(file.with_suffix(".log.1"))  # of the last start
        with file.open("wb") as output:
            process = subprocess.Popen(
                [sys.executable, *arguments],
                cwd=cwd or self.dags.parent,
                env=self._environment | dict(env or {}),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                preexec_fn=_die_with_parent,  # noqa: PLW1509 (one system call, and this process has one thread)
            )
        self._started.add(process.pid)
        return process

    def check_alive(self) -> None:
        """AirflowError names a component that ended, with its last words."""
        for name, process in self._processes.items():
            if process.poll() is not None:
                raise AirflowError(
                    f"Airflow's {name} ended with code {process.returncode}: {self._last_words(name)} "
                    f"(all of it: {self.logs / name}.log)"
                )

    def _last_words(self, name: str) -> str:
        lines = (self.logs / f"{name}.log").read_text(errors="replace").split("\n")
        return next((line.strip() for line in reversed(lines) if line.strip()), "nothing was printed")

    def _take_lock(self) -> IO[str]:
        lock = (self.home / "lock").open("a+")
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            lock.seek(0)
            holder = lock.read().strip() or "another process"
            lock.close()
            raise AirflowError(
                f"an embedded Airflow already runs in {self.home} ({holder}): "
                "wait for it, or choose another FP8BENCH_HOME."
            ) from None
        lock.truncate(0)
        lock.write(f"process {os.getpid()}")
        lock.flush()
        return lock

    def _migrate(self) -> None:
        def migrate() -> str:
            failed = self.start("migrate", "-m", "airflow", "db", "migrate").wait() != 0
            return self._last_words("migrate") if failed else ""

        version = importlib.metadata.version("apache-airflow-core")
        migrate_once(self.home / "airflow.db", self.home / STAMP, version, migrate)

    def _wait_healthy(self) -> None:
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline:
            self.check_alive()
            try:
                health = self._request("GET", "/api/v2/monitor/health", None)
                if all(health[part]["status"] == "healthy" for part in HEALTH):
                    return
            except (ApiError, OSError):
                pass  # not up yet
            time.sleep(0.25)
        raise AirflowError(f"Airflow was not healthy after {START_SECONDS} s: see {self.logs}.")

    def _leftovers(self) -> list[psutil.Process]:
        """What an owner of this home that was killed outright left running: the lock says that it has no owner now."""
        record = self.home / "sessions.json"
        sessions = json.loads(record.read_text()) if record.exists() else {}
        record.unlink(missing_ok=True)
        return [process for process in psutil.process_iter() if self._is_ours(process, sessions)]

    def _is_ours(self, process: psutil.Process, sessions: dict[str, float]) -> bool:
        """Of a session that we began, or started by a task (Airflow's own processes overwrite their environment)."""
        try:
            if process.pid == os.getpid():
                return False
            session = os.getsid(process.pid)
            if str(session) in sessions:
                return not psutil.pid_exists(session) or _began(session) == sessions[str(session)]
            return bool(process.environ().get("AIRFLOW_HOME") == str(self.home))
        except (psutil.Error, OSError):
            return False  # gone, or somebody else's

    def _record_sessions(self) -> None:
        sessions = {process.pid: _began(process.pid) for process in self._processes.values()}
        (self.home / "sessions.json").write_text(json.dumps(sessions))

    def _end(self, family: list[psutil.Process]) -> None:
        """Ask the processes to end; make them after a while."""
        for ask in (psutil.Process.terminate, psutil.Process.kill):
            for process in family:
                with contextlib.suppress(psutil.NoSuchProcess):
                    ask(process)
            _, family = psutil.wait_procs(family, timeout=STOP_SECONDS)
            if not family:
                return

    def _stop(self) -> None:
        """End every descendant, also those that were orphaned meanwhile; then let go of the home."""
        while family := psutil.Process().children(recursive=True):
            self._end(family)
        if self._lock is not None:
            self._lock.close()


def _descendants(process: psutil.Process) -> list[psutil.Process]:
    try:
        return list(process.children(recursive=True))
    except psutil.NoSuchProcess:
        return []


def _began(pid: int) -> float:
    """When a process began: with its id, what tells it from every other one."""
    return float(psutil.Process(pid).create_time())


def _detail(body: bytes) -> str:
    """The human part of an error's body."""
    try:
        detail = json.loads(body)["detail"]
    except (ValueError, KeyError, TypeError):
        return body.decode(errors="replace")[:300]
    return detail if isinstance(detail, str) else json.dumps(detail)


def _die_with_parent() -> None:
    _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
