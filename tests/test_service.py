"""The service: up, mended, down, for real; and what it serves to whom."""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import sqlite3
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import closing
from dataclasses import asdict
from functools import partial
from pathlib import Path

import psutil
import pytest
from conftest import CHECKOUT

sys.path.insert(0, str(CHECKOUT / "ci"))
import serve_index
from embedded_airflow import LOGIN, RESTARTS, AirflowError, EmbeddedAirflow
from migration import MigrationError, is_unfinished, migrate_once
from service import MLFLOW_STAMP, Running, Service, _started, migrate_mlflow, serves_mlflow, status

from fp8bench.config import Config

PORTS = ("AIRFLOW_PORT", "MLFLOW_PORT", "INDEX_PORT")


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """A home and ports of one's own, and no schedule."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in PORTS]
    ports = {f"FP8BENCH_SERVICE__{name}": str(s.getsockname()[1]) for name, s in zip(PORTS, sockets, strict=True)}
    for entry in sockets:
        entry.close()
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("AIRFLOW", "FP8BENCH_"))}
    home = tmp_path_factory.mktemp("service") / "home"
    return kept | ports | {"FP8BENCH_HOME": str(home), "FP8BENCH_CONFIG": os.devnull, "FP8BENCH_AIRFLOW__SCHEDULE": ""}


def service(environment: dict[str, str], action: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(CHECKOUT / "ci" / "service.py"), action]
    return subprocess.run(command, env=environment, cwd="/", capture_output=True, text=True, timeout=280, check=False)


@pytest.fixture(scope="module")
def up(environment: dict[str, str]) -> Iterator[Service]:
    said = service(environment, "up")
    try:
        assert said.returncode == 0, said.stdout + said.stderr
        found = Service.running(Path(environment["FP8BENCH_HOME"]))
        assert found is not None
        yield found
    finally:
        service(environment, "down")


def command_of(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())
    except psutil.Error:  # it ended meanwhile
        return ""


def family(found: Service) -> list[psutil.Process]:
    return psutil.Process(found.pid).children(recursive=True)


def test_it_is_up_on_the_loopback_interface_alone(up: Service, environment: dict[str, str]) -> None:
    addresses = {
        connection.laddr.ip
        for process in family(up)
        for connection in process.net_connections("inet")
        if connection.status == psutil.CONN_LISTEN
    }
    assert addresses == {"127.0.0.1"}
    assert not any("mlflow.db" in command_of(process) for process in family(up)), "a database's address is no argument"
    again = service(environment, "up")
    assert again.returncode == 0
    assert Service.running(Path(environment["FP8BENCH_HOME"])) == up  # the same process: nothing was started twice
    assert [line.split()[-1] for line in again.stdout.splitlines()[:3]] == ["up"] * 3
    home = Path(environment["FP8BENCH_HOME"])
    assert (home / "airflow" / "keys.json").stat().st_mode & 0o077 == 0
    with urllib.request.urlopen(up.index, timeout=10) as page:
        assert b"<html" in page.read()
    with pytest.raises(urllib.error.HTTPError, match="404"):
        urllib.request.urlopen(f"{up.index}/mlflow.db", timeout=10)


def test_a_killed_scheduler_comes_back(up: Service, environment: dict[str, str]) -> None:
    def schedulers() -> list[psutil.Process]:
        return [process for process in psutil.Process(up.pid).children() if "scheduler" in command_of(process)]

    (before,) = schedulers()
    before.kill()
    deadline = time.monotonic() + 60
    while (now := schedulers()) == [] or now == [before]:
        assert time.monotonic() < deadline, "nobody started it again"
        time.sleep(0.2)
    time.sleep(0.5)  # it is told after it was done
    assert "scheduler had ended" in (Path(environment["FP8BENCH_HOME"]) / "service.log").read_text()


def test_down_leaves_nothing_running(up: Service, environment: dict[str, str]) -> None:
    started = family(up)
    said = service(environment, "down")
    assert (said.returncode, "is down" in said.stdout) == (0, True), said.stdout + said.stderr
    _, alive = psutil.wait_procs(started, timeout=20)
    assert alive == []
    assert service(environment, "down").returncode == 0
    said = service(environment, "status")
    assert (said.returncode, "`make up` starts it" in said.stdout) == (4, True)


@pytest.mark.parametrize("port", PORTS)
def test_a_taken_port_is_named_with_its_setting(port: str, environment: dict[str, str], tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        number = str(taken.getsockname()[1])
        mine = environment | {f"FP8BENCH_SERVICE__{port}": number, "FP8BENCH_HOME": str(tmp_path)}
        said = service(mine, "run")
    assert said.returncode == 4
    assert f"port {number} for" in said.stderr
    assert f"service.{port.lower()}" in said.stderr
    assert "Traceback" not in said.stderr


@pytest.mark.parametrize("name", LOGIN)
def test_a_login_that_would_not_be_there_is_refused(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, "some.FabAuthManager")
    with (
        pytest.raises(AirflowError, match=f"{name} is set, and this Airflow has no login"),
        EmbeddedAirflow(tmp_path / "airflow", CHECKOUT / "dags"),
    ):
        pass
    assert list(tmp_path.iterdir()) == []


# ---- migrations ---------------------------------------------------------------------------------------------


def write(database: Path, *words: str) -> sqlite3.Connection:
    """Add rows to a database that keeps a log, as Airflow's does; they stay in the log while this is open."""
    connection = sqlite3.connect(database)
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA wal_autocheckpoint = 0")
    connection.execute("CREATE TABLE IF NOT EXISTS said (word TEXT)")
    connection.executemany("INSERT INTO said VALUES (?)", [(word,) for word in words])
    connection.commit()
    return connection


def rows(database: Path) -> list[str]:
    with closing(sqlite3.connect(database)) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        return [word for (word,) in connection.execute("SELECT word FROM said")]


def test_a_failed_migration_keeps_the_copy_of_what_was_before_it(tmp_path: Path) -> None:
    database, stamp = tmp_path / "some.db", tmp_path / "stamp"
    kept = tmp_path / "some.db.before-2"
    stamp.write_text("1")

    def migrate(word: str, wrong: str = "") -> str:
        write(database, word).close()
        return wrong

    with closing(write(database, "old")):  # in the log alone
        database.chmod(0o600)
        for attempt in ("half", "half again"):
            with pytest.raises(MigrationError, match=rf"boom\..*{kept}: docs"):
                migrate_once(database, stamp, "2", partial(migrate, attempt, "boom"))
            assert rows(kept) == ["old"]
            assert is_unfinished(stamp)
        with pytest.raises(MigrationError):  # a version that mends it, perhaps
            migrate_once(database, stamp, "3", partial(migrate, "third", "boom"))
    assert sorted(path.name for path in tmp_path.glob("*before*")) == [kept.name]
    assert kept.stat().st_mode & 0o077 == 0
    migrate_once(database, stamp, "2", partial(migrate, "new"))
    migrate_once(database, stamp, "2", lambda: "it is done already")
    assert rows(database) == ["old", "half", "half again", "third", "new"]
    migrate_once(database, stamp, "1", lambda: "")
    migrate_once(database, stamp, "2", lambda: "")  # another upgrade: its copy is of now
    assert rows(kept) == rows(database)


def test_the_documented_way_back_leaves_no_log_of_the_newer_database(tmp_path: Path) -> None:
    database, stamp = tmp_path / "some.db", tmp_path / "stamp"
    write(database, "old").close()
    migrate_once(database, stamp, "2", lambda: "")
    with closing(write(database, *("new" for _ in range(10_000)))):  # killed: its log stays
        shutil.copytree(tmp_path, tmp_path / "killed")
    database = tmp_path / "killed" / "some.db"
    assert database.with_name("some.db-wal").stat().st_size
    (back,) = re.findall(r"^back\(\) .*", (CHECKOUT / "docs" / "operations.md").read_text(), re.MULTILINE)
    subprocess.run(["bash", "-c", f'{back}\nback "$0" 2', str(database)], check=True)
    assert rows(database) == ["old"]


def test_an_mlflow_that_cannot_be_migrated_is_a_sentence_with_the_copy(tmp_path: Path) -> None:
    (tmp_path / MLFLOW_STAMP).write_text("2.0.0")
    with closing(write(tmp_path / "mlflow.db", "no table of MLflow's")) as connection:
        connection.execute("CREATE TABLE alembic_version (version_num TEXT)")
        connection.execute("INSERT INTO alembic_version VALUES ('unheard of')")
        connection.commit()
        with pytest.raises(MigrationError, match=r"unheard of.*mlflow\.db\.before-3"):
            migrate_mlflow(Config(home=tmp_path))


# ---- what is started ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("uri", "served"),
    [
        ("", True),
        ("sqlite:////srv/mlflow.db", True),
        ("postgresql+psycopg2://me:secret@db/mlflow", True),
        ("https://mlflow.example.org", False),
        ("databricks://profile", False),
        ("file:///srv/mlruns", False),  # MLflow itself refuses that one by now
    ],
)
def test_mlflow_is_served_on_a_database_alone(uri: str, served: bool, tmp_path: Path) -> None:
    assert serves_mlflow(Config(home=tmp_path, mlflow={"tracking_uri": uri})) == served


def test_what_dies_at_once_is_started_again_five_times_and_no_more(tmp_path: Path) -> None:
    """The port of the page is taken by then; MLflow is another machine's."""
    airflow = EmbeddedAirflow(tmp_path / "airflow", CHECKOUT / "dags", settings={})
    airflow.logs.mkdir(parents=True)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        settings = Config(
            home=tmp_path,
            mlflow={"tracking_uri": "https://mlflow.example.org"},
            service={"index_port": taken.getsockname()[1]},
        )
        running, again = Running(settings, airflow), []
        for _ in range(RESTARTS + 2):
            for process in running._processes.values():
                process.wait(20)
            again += running.mend()
    assert again == ["index"] * RESTARTS
    assert "Address already in use" in (airflow.logs / "index.log").read_text()


def test_status_tells_where_an_mlflow_is_that_is_not_served_here(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    nowhere = "http://127.0.0.1:9"
    record = Service(
        os.getpid(), _started(os.getpid()) or 0, nowhere, "", nowhere, "logs", "https://mlflow.example.org"
    )
    (tmp_path / "service.json").write_text(json.dumps(asdict(record)))
    status(Config(home=tmp_path))
    assert "MLflow       https://mlflow.example.org not served here" in capsys.readouterr().out


# ---- what is served -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["/", "/index.html", "/runs/night-1/report.html", "/runs/night-1/junit.xml"])
def test_what_people_read_is_served(path: str, tmp_path: Path) -> None:
    found = serve_index.file_of(tmp_path, path)
    assert found is not None
    assert found.suffix in serve_index.TYPES


@pytest.mark.parametrize(
    "path",
    [
        "/mlflow.db",
        "/service.json",
        "/airflow/keys.json",
        "/runs/night-1/config.json",
        "/runs/night-1/logs/build.log",
        "/runs/../mlflow.db",
        "/runs/..%2f..%2fetc/report.html",
        "/runs/.hidden/report.html",
        "//etc/passwd",
        "/runs/night-1/report.html/",
        "/runs/night-1/report.html\n",
    ],
)
def test_everything_else_is_not(path: str, tmp_path: Path) -> None:
    assert serve_index.file_of(tmp_path, path) is None


def test_a_link_out_of_the_home_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "night").symlink_to("/etc")
    assert serve_index.file_of(tmp_path, "/runs/night/report.html") is None


def test_a_foreign_host_name_is_refused() -> None:
    assert serve_index.OURS.fullmatch("127.0.0.1:8090")
    assert serve_index.OURS.fullmatch("localhost")
    for name in ("evil.example.org", "127.0.0.1.evil.org", "", "localhost@evil"):
        assert serve_index.OURS.fullmatch(name) is None
