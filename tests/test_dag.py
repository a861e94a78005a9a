"""The nightly DAG: what it looks like to Airflow, what it lets in, and what turns it red."""

from __future__ import annotations

import importlib.util
import itertools
import json
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from aiosmtpd.controller import Controller
from aiosmtpd.handlers import Message as MessageHandler
from nights import make_night

from fp8bench import config, late, paths, records
from fp8bench.errors import ConfigError

pytestmark = pytest.mark.filterwarnings("ignore")  # Airflow's own, and its dependencies'

CHECKOUT = Path(__file__).resolve().parent.parent
DAG_FILE = CHECKOUT / "dags" / "fp8bench_nightly.py"
ORDER = ["prepare", "build", "check", "time", "screen", "confirm", "judge", "log", "render", "alert", "gate"]

# what a scheduler's environment need not have, and what costs seconds at every parse
HEAVY = {"torch", "triton", "mlflow", "pandas", "scipy", "jinja2"}
# all that parsing needs
OURS = {f"fp8bench{name}" for name in ("", ".config", ".errors", ".paths", ".secrecy", ".spec")}


def describe(**environment: str) -> dict[str, Any]:
    """Parse the DAG in a process of its own; its tasks, its parameters, and the heavy modules that it imported."""
    script = f"""
import json, runpy, sys
import airflow.sdk
before = set(sys.modules)
dag = runpy.run_path({str(DAG_FILE)!r})["fp8bench_nightly"]
print(json.dumps({{
    "schedule": dag.schedule, "catchup": dag.catchup, "max_active_runs": dag.max_active_runs, "doc": dag.doc_md,
    "repo": dag.params["repo"],
    "imported": sorted({{name.split(".")[0] for name in set(sys.modules) - before}} & set({sorted(HEAVY)!r})),
    "ours": sorted(name for name in sys.modules if name.partition(".")[0] == "fp8bench"),
    "tasks": {{task.task_id: dict(
        pool=task.pool, queue=task.queue, executor=task.executor, retries=task.retries, doc=task.doc_md,
        timeout=task.execution_timeout.total_seconds(), upstream=sorted(task.upstream_task_ids),
    ) for task in dag.tasks}},
}}))
"""
    done = subprocess.run(
        [sys.executable, "-c", script], env=os.environ | environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    description: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return description


@pytest.fixture(scope="module")
def described() -> dict[str, Any]:
    return describe()


@pytest.fixture(scope="module")
def module(airflow_database: Path) -> ModuleType:
    """The DAG file as a module, to reach its functions."""
    spec = importlib.util.spec_from_file_location("fp8bench_nightly_under_test", DAG_FILE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def dag(airflow_database: Path) -> Any:
    """The DAG as Airflow's own loader finds it in the DAG folder."""
    from airflow.dag_processing.dagbag import DagBag

    bag = DagBag(DAG_FILE.parent)
    assert bag.import_errors == {}
    assert sorted(bag.dags) == ["fp8bench_commits", "fp8bench_nightly", "fp8bench_prune", "fp8bench_tell"]
    return bag.dags["fp8bench_nightly"]


# ---- how it looks -----------------------------------------------------------------------------------------


def test_parsing_imports_nothing_heavy(described: dict[str, Any]) -> None:
    assert described["imported"] == []
    assert set(described["ours"]) <= OURS


def test_a_night_at_a_time_on_schedule_without_catching_up(described: dict[str, Any]) -> None:
    assert (described["schedule"], described["catchup"], described["max_active_runs"]) == ("0 2 * * *", False, 1)


def test_stages_run_in_their_order(described: dict[str, Any]) -> None:
    from fp8bench.stages import STAGES

    assert list(described["tasks"]) == ORDER
    assert list(STAGES) == ORDER
    for before, after in itertools.pairwise(ORDER):
        assert before in described["tasks"][after]["upstream"]


def test_the_report_needs_a_verdict_but_no_mlflow_and_mail_needs_neither(dag: Any) -> None:
    rules = {"render": "all_done_min_one_success", "alert": "all_done", "gate": "all_done"}
    assert {name: dag.get_task(name).trigger_rule for name in rules} == rules
    for name in ("render", "alert"):
        assert "judge" in dag.get_task(name).upstream_task_ids
    assert [task.task_id for task in dag.leaves] == ["gate"]


def test_gpu_tasks_use_the_pool_and_are_retried(described: dict[str, Any]) -> None:
    on_gpu = {name for name, task in described["tasks"].items() if task["pool"] == "gpu"}
    assert on_gpu == {"check", "time", "confirm"}
    assert described["tasks"]["gate"]["retries"] == 0


def test_settings_choose_pool_queue_executor_schedule_and_retries() -> None:
    chosen = describe(
        FP8BENCH_AIRFLOW__POOL="h200",
        FP8BENCH_AIRFLOW__QUEUE="gpu",
        FP8BENCH_AIRFLOW__EXECUTOR="CeleryExecutor",
        FP8BENCH_AIRFLOW__SCHEDULE="",
        FP8BENCH_AIRFLOW__RETRIES="3",
    )
    assert chosen["schedule"] is None
    for name, task in chosen["tasks"].items():
        gpu = name in ("prepare", "check", "time", "confirm")  # the machine that prepares a night describes the GPU
        assert (task["queue"] == "gpu", task["executor"] == "CeleryExecutor") == (gpu,) * 2
        assert (task["pool"] == "h200") == (name in ("check", "time", "confirm"))
        # MLflow may be away when a night is prepared, and comes back
        assert task["retries"] == {"gate": 0, "prepare": 12}.get(name, 3)


def test_each_kind_of_gpu_has_nights_of_its_own(module: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    night = module.nightly("b200", "gpu-b200")
    assert night.dag_id == "fp8bench_nightly_b200"
    assert list(night.task_dict) == ORDER
    on_gpu = {name for name, task in night.task_dict.items() if task.queue == "gpu-b200"}
    assert on_gpu == {"prepare", "check", "time", "confirm"}
    assert {night.get_task(name).pool for name in on_gpu - {"prepare"}} == {"gpu_b200"}
    there = {"run_id": "manual-1", "dag": night}
    monkeypatch.setattr(module, "get_current_context", lambda: there)
    elsewhere = module._here()
    there["dag"] = module.fp8bench_nightly
    assert module._here() == module.run_directory("manual-1") != elsewhere
    assert elsewhere == paths.night_directory(module.CONFIG.runs_dir, night.dag_id, "manual-1")  # as the plugin looks


def test_everything_is_explained_and_bounded_in_time(described: dict[str, Any]) -> None:
    assert "prepare -> build -> check" in described["doc"]
    for name, task in described["tasks"].items():
        assert task["doc"], name
        assert task["timeout"] > 0, name


# ---- what it lets in --------------------------------------------------------------------------------------


def test_parameters_show_as_a_form(dag: Any) -> None:
    assert list(dag.params) == ["repo", "candidate", "baseline", "suite"]
    for name in dag.params:
        param = dag.params.get_param(name)
        assert param.description
        assert param.schema["title"]
        assert param.resolve() == {"repo": ".", "suite": "smoke"}.get(name)


def test_the_form_does_not_offer_an_address_with_a_password() -> None:
    """Airflow shows and keeps what a form offers; asked for nothing, a night takes the repository of the settings."""
    assert describe(FP8BENCH_REPO="https://eve:canary@example.org/kernels.git")["repo"] is None


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("repo", "https://example.org/kernels.git"),
        ("repo", "git@example.org:team/kernels.git"),
        ("repo", "/srv/git/kernels"),
        ("candidate", "feature/one-read_2"),
        ("candidate", "HEAD~3^"),
        ("baseline", "v1.2.0"),
        ("suite", "suites/mine.toml"),
    ],
)
def test_parameters_take_what_is_needed(dag: Any, name: str, value: str) -> None:
    assert dag.params.get_param(name).resolve(value) == value


@pytest.mark.parametrize("name", ["repo", "candidate", "baseline", "suite"])
@pytest.mark.parametrize(
    "value",
    ["--upload-pack=touch", "-x", "a;b", "a b", "$(id)", "`id`", "a|b", "a\n", "a\nb", "<b>", "{{ 1 }}", "a" * 201],
)
def test_parameters_refuse_what_looks_like_an_injection(dag: Any, name: str, value: str) -> None:
    from airflow.sdk.exceptions import ParamValidationError

    with pytest.raises(ParamValidationError):
        dag.params.get_param(name).resolve(value)


@pytest.mark.parametrize("repo", ["/srv/my kernels", "https://example.org/my!kernels.git", "/srv/kérnel (v2)"])
def test_a_repository_of_other_characters_is_left_to_the_settings(
    repo: str, airflow_database: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the operator sets need not fit what a form lets in."""
    from airflow.dag_processing.dagbag import DagBag

    monkeypatch.setenv("FP8BENCH_REPO", repo)
    bag = DagBag(DAG_FILE.parent)
    assert bag.import_errors == {}
    for name in ("fp8bench_nightly", "fp8bench_commits"):
        param = bag.dags[name].params.get_param("repo")
        assert param.resolve() is None
        assert "Empty: what the settings say." in param.description


@pytest.mark.parametrize(
    "run_id", ["../../etc", "..", "/etc/passwd", "-rf", "a" * 250, "manual__2026-01-01T02:00:00+00:00"]
)
def test_run_directories_stay_where_they_belong(module: ModuleType, run_id: str) -> None:
    directory = module.run_directory(run_id)
    assert directory.parent == module.CONFIG.runs_dir
    assert directory.resolve() == directory
    assert len(directory.name) < 120
    assert not directory.name.startswith(("-", "."))


def test_run_directories_tell_run_ids_apart(module: ModuleType) -> None:
    assert len({module.run_directory(run_id) for run_id in ("a:b", "a-b", "a+b", "a/b")}) == 4
    assert module.run_directory("night-1").name == "night-1"


def test_a_stage_ends_with_its_task(module: ModuleType) -> None:
    with (
        pytest.raises(KeyboardInterrupt),
        module._process([sys.executable, "-c", "import time; time.sleep(60)"]) as child,
    ):
        raise KeyboardInterrupt
    assert child.returncode is not None


# ---- what turns it red ------------------------------------------------------------------------------------


class Inbox(MessageHandler):
    def __init__(self) -> None:
        super().__init__()
        self.mails: list[Any] = []

    def handle_message(self, message: Any) -> None:
        self.mails.append(message)


@pytest.fixture
def inbox(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Any]]:
    """Mails that arrive at a real SMTP server, which Airflow's connection `smtp_default` names."""
    handler = Inbox()
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    controller = Controller(handler, hostname="127.0.0.1", port=port)
    controller.start()
    connection = {
        "conn_type": "smtp",
        "host": "127.0.0.1",
        "port": port,
        "extra": {"disable_ssl": True, "disable_tls": True, "from_email": "night@example.org"},
    }
    monkeypatch.setenv("AIRFLOW_CONN_SMTP_DEFAULT", json.dumps(connection))
    monkeypatch.setenv("FP8BENCH_MAIL__TO", '["kernels@example.org"]')
    yield handler.mails
    controller.stop()


@dataclass(frozen=True)
class Ended:
    """A run of the DAG over a night that was measured before."""

    directory: Path
    state: str
    tasks: dict[str, str]

    @property
    def mails(self) -> list[Path]:
        return sorted((self.directory / "outbox").glob("*.json"))


# Stages that find their work done, a process each: the clean night runs them, those that only end otherwise do not.
DONE = "build|check|screen|confirm"


def run(dag: Any, module: ModuleType, day: int, night: str, *, damage: str = "", skipping: str | None = None) -> Ended:
    """Run the DAG as of `day` over a night that ended as `night`; the file `damage` of it is cut short.

    skipping: tasks (a pattern) that are called a success without being run.
    """
    when = datetime(2026, 3, day, 2, tzinfo=UTC)
    directory = module.run_directory(f"manual__{when.isoformat()}")
    shutil.rmtree(directory, ignore_errors=True)
    (config.load().home / "causes.json").unlink(missing_ok=True)  # what an earlier session told
    make_night(directory, night, config=config.load())
    prepared = records.read(records.Prepared, directory / "prepare.json")
    asked = prepared.model_copy(update={"requested": {"repo": ".", "suite": "smoke"}})
    records.write(asked, directory / "prepare.json")
    if damage:
        (directory / damage).write_text("{")
    result = dag.test(run_after=when, logical_date=when, mark_success_pattern=skipping)
    tasks = {instance.task_id: str(instance.state) for instance in result.get_task_instances()}
    return Ended(directory, str(result.state), tasks)


def test_a_clean_night_is_green_and_silent(dag: Any, module: ModuleType, inbox: list[Any]) -> None:
    night = run(dag, module, 1, "clean")
    assert night.state == "success"
    assert night.tasks == dict.fromkeys(ORDER, "success")
    assert (night.directory / "report.html").exists()
    assert (night.mails, inbox) == ([], [])


def test_a_regression_turns_the_gate_red_and_is_mailed_once(
    dag: Any, module: ModuleType, inbox: list[Any], capfd: pytest.CaptureFixture[str]
) -> None:
    night = run(dag, module, 2, "regressed", skipping=DONE)
    assert night.state == "failed"
    assert night.tasks == dict.fromkeys(ORDER, "success") | {"gate": "failed"}
    sentence = records.read(records.Verdicts, night.directory / "verdicts.json").sentence
    assert f"AirflowFailException: {sentence}" in "".join(capfd.readouterr())
    assert len(inbox) == len(night.mails) > 0
    assert "REGRESSED" in inbox[0]["subject"]
    parts = [part.get_content_type() for part in inbox[0].walk()]
    assert {"text/plain", "text/html", "image/png"} <= set(parts)
    assert all(mail.with_suffix(".sent").exists() for mail in night.mails)


@pytest.mark.parametrize(
    ("connection", "found"),
    [
        ({}, ("h", 465, "", "tls")),
        ({"login": "me", "password": "hush", "port": 2525}, ("h", 2525, "me", "tls")),
        ({"login": "me", "extra": {"disable_ssl": True}}, ("h", 25, "", "starttls")),
        ({"extra": {"disable_ssl": True, "disable_tls": True}}, ("h", 25, "", "none")),
        ({"host": ""}, "names no host"),
        ({"extra": {"auth_type": "oauth2"}}, "asks for oauth2"),
        ({"extra": {"ssl_context": "none"}}, "asks for no check"),
    ],
)
def test_a_connection_becomes_settings_of_mail(
    connection: dict[str, Any], found: tuple[Any, ...] | str, module: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    from airflow.sdk import Connection

    look = partial(config.through_connection, Connection.get, module.AirflowNotFoundException)
    assert look() == {}
    monkeypatch.setenv("AIRFLOW_CONN_SMTP_DEFAULT", json.dumps({"conn_type": "smtp", "host": "h"} | connection))
    if isinstance(found, str):
        with pytest.raises(ConfigError, match=found):
            look()
        return
    for name, value in look().items():
        monkeypatch.setenv(name, value)
    mail = config.load().mail
    assert (mail.host, mail.port, mail.user, mail.security) == found
    assert mail.password.get_secret_value() == (connection.get("password") or "")


def test_mails_that_the_connection_refused_are_told_of_and_sent_by_tell(
    dag: Any, module: ModuleType, inbox: list[Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from airflow.dag_processing.dagbag import DagBag
    from airflow.sdk.exceptions import AirflowException

    monkeypatch.setenv("FP8BENCH_MLFLOW__TRACKING_URI", config.load().tracking_uri)  # one takes seconds to make
    monkeypatch.setenv("FP8BENCH_HOME", str(tmp_path))
    directory = make_night(tmp_path / "runs" / "night", "regressed", config=config.load())
    monkeypatch.setattr(module, "_here", lambda: directory)
    served = os.environ["AIRFLOW_CONN_SMTP_DEFAULT"]
    monkeypatch.setenv("AIRFLOW_CONN_SMTP_DEFAULT", json.dumps(json.loads(served) | {"port": 1}))
    with pytest.raises(AirflowException, match=r"127\.0\.0\.1:1 did not take"):
        module.alert.function()
    [by_hand] = late.tell(config.load())
    assert "fp8bench_tell sends" in by_hand.trouble
    assert "A mail of this night was not taken" in (directory / "report.html").read_text()
    monkeypatch.setenv("AIRFLOW_CONN_SMTP_DEFAULT", served)
    assert str(DagBag(DAG_FILE.parent).dags["fp8bench_tell"].test().state) == "success"
    assert [mail["from"] for mail in inbox] == ["night@example.org"]
    assert "A mail of this night was not taken" not in (directory / "report.html").read_text()


def test_a_stage_that_cannot_work_turns_the_gate_red(
    dag: Any, module: ModuleType, capfd: pytest.CaptureFixture[str]
) -> None:
    night = run(dag, module, 3, "clean", damage="verdicts.json", skipping=DONE)
    assert night.state == "failed"
    assert night.tasks["log"] == night.tasks["gate"] == "failed"
    assert "delete it and run its stage again" in "".join(capfd.readouterr())


def test_a_night_without_a_verdict_is_mailed_to_the_operators_once(
    dag: Any, module: ModuleType, inbox: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """MLflow is away, so nobody knows the accepted baseline: nothing is measured, and that is said."""
    monkeypatch.setenv("FP8BENCH_MLFLOW__TRACKING_URI", "http://127.0.0.1:9")
    monkeypatch.setenv("FP8BENCH_MAIL__OPERATORS", '["ops@example.org"]')
    when = datetime(2026, 3, 5, 2, tzinfo=UTC)
    directory = module.run_directory(f"manual__{when.isoformat()}")
    shutil.rmtree(directory, ignore_errors=True)
    for _ in range(2):  # as when the run is cleared
        result = dag.test(run_after=when, logical_date=when, run_conf={"repo": str(CHECKOUT)})
        tasks = {instance.task_id: str(instance.state) for instance in result.get_task_instances()}
        assert tasks == dict.fromkeys(ORDER, "upstream_failed") | {
            "prepare": "failed",
            "alert": "success",
            "gate": "failed",
        }
    (mail,) = inbox
    assert mail["to"] == "ops@example.org"
    assert mail["subject"].startswith("[fp8bench] NO VERDICT: prepare: stage prepare could not work")
    text = mail.get_payload(0).get_payload(decode=True).decode()
    assert f"Night {directory.name} ended without a verdict" in text
    assert "MLflow at http://127.0.0.1:9 did not answer as it should: Connection refused" in text.replace("\n", " ")


# ---- nights that have nothing to measure, or come late ------------------------------------------------------


def test_a_night_without_kernel_changes_is_skipped_where_that_is_set(
    dag: Any, module: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FP8BENCH_NIGHTS__UNCHANGED", "skip")
    when = datetime(2026, 3, 4, 2, tzinfo=UTC)
    directory = module.run_directory(f"manual__{when.isoformat()}")
    shutil.rmtree(directory, ignore_errors=True)
    conf = {"repo": str(CHECKOUT), "baseline": "HEAD", "suite": "smoke"}
    result = dag.test(run_after=when, logical_date=None, run_conf=conf)
    states = {instance.task_id: str(instance.state) for instance in result.get_task_instances()}
    assert states == dict.fromkeys(ORDER, "skipped")
    assert not list(directory.parent.glob(f"{directory.name}*"))


@pytest.mark.parametrize(
    ("kind", "catch_up", "late", "ends"),
    [
        ("scheduled", "latest", True, "at its time"),
        ("scheduled", "none", True, "skipped"),
        ("scheduled", "none", False, "now"),
        ("backfill", "none", True, "at its time"),
        ("manual", "latest", True, "now"),
        ("manual", "none", True, "now"),
        ("operator_triggered", "none", True, "now"),
    ],
)
def test_a_night_that_the_schedule_wanted_measures_the_commit_of_its_time_or_nothing(
    module: ModuleType, monkeypatch: pytest.MonkeyPatch, kind: str, catch_up: str, late: bool, ends: str
) -> None:
    from airflow.sdk.exceptions import AirflowSkipException
    from airflow.utils.types import DagRunType

    when = datetime.now(UTC) - timedelta(hours=30 if late else 0)
    monkeypatch.setattr(module, "SETTINGS", module.SETTINGS.model_copy(update={"catch_up": catch_up}))
    context = {
        "logical_date": when,
        "run_id": "late",
        "dag": module.fp8bench_nightly,
        "dag_run": SimpleNamespace(run_type=DagRunType(kind)),
    }
    monkeypatch.setattr(module, "get_current_context", lambda: context)
    if ends == "skipped":
        with pytest.raises(AirflowSkipException, match="was missed"):
            module._made_up_for()
    else:
        assert module._made_up_for() == (["--at", when.isoformat()] if ends == "at its time" else [])


@pytest.fixture
def kernels(tmp_path: Path) -> Path:
    """A repository of three commits that touch kernels."""
    repo = tmp_path / "kernels"
    (repo / "csrc").mkdir(parents=True)
    git(repo, "init", "-q")
    for number in range(3):
        (repo / "csrc" / "kernel.cu").write_text(str(number))
        git(repo, "add", "-A")
        git(repo, "commit", "-qm", f"Kernel {number}")
    return repo


def git(repo: Path, *arguments: str) -> str:
    command = ["git", "-C", str(repo), "-c", "user.name=a", "-c", "user.email=a@example.org", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def test_a_night_a_commit_is_triggered_by_its_own_name(kernels: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "fp8bench", "commits", "--json", f"--repo={kernels}", "--commits=HEAD~2..HEAD"]
    done = subprocess.run(command, env=os.environ, capture_output=True, text=True, check=True)
    first, listed = git(kernels, "rev-parse", "HEAD~2"), json.loads(done.stdout)
    assert len(listed) == 2
    for entry in listed:
        assert entry["baseline"] == first
        assert entry["runs"][0] == f"commit-{entry['candidate'][:12]}-on-{first[:12]}"
        assert entry["repo"] == str(kernels)
    ours = {"FP8BENCH_REPO": f"file://eve:canary@localhost{kernels}", "FP8BENCH_HOME": str(tmp_path / "home")}
    command.remove(f"--repo={kernels}")
    done = subprocess.run(command, env=os.environ | ours, capture_output=True, text=True, check=True)
    assert "canary" not in done.stdout, "Airflow would keep it with the parameters of the night"
    assert json.loads(done.stdout) == [{key: entry[key] for key in entry if key != "repo"} for entry in listed]


def test_a_commit_s_night_is_triggered_again_while_it_ends_without_a_verdict(
    airflow_database: Path, kernels: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from airflow.dag_processing.dagbag import DagBag
    from airflow.models import DagRun
    from airflow.utils.session import create_session

    monkeypatch.setenv("FP8BENCH_HOME", str(tmp_path / "home"))
    bag = DagBag(DAG_FILE.parent)
    assert bag.dags["fp8bench_commits"].schedule is None
    assert bag.dags["fp8bench_commits"].get_task("trigger").partial_kwargs["skip_when_already_exists"]
    name = f"commit-{git(kernels, 'rev-parse', 'HEAD')[:12]}"

    def triggered(state: str) -> list[str]:
        """The runs after one look for commits; what they ended as since."""
        bag.dags["fp8bench_commits"].test(run_conf={"repo": str(kernels)})
        with create_session() as session:
            found = session.query(DagRun).filter(DagRun.run_id.startswith(name)).all()
            for run in found:
                run.state = state
            return sorted(run.run_id for run in found)

    assert triggered("running") == [name]
    assert triggered("failed") == [name]  # it went on: nothing to do
    assert triggered("success") == [name, f"{name}-try-2"]  # the second one was skipped
    records.write_bytes(b"{}", tmp_path / "home" / "runs" / f"{name}-try-2" / "verdicts.json")
    assert triggered("failed") == [name, f"{name}-try-2"]


def test_upkeep_runs_the_commands_and_is_red_when_they_fail(
    airflow_database: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    from airflow.dag_processing.dagbag import DagBag

    bag = DagBag(DAG_FILE.parent)
    monkeypatch.setenv("FP8BENCH_HOME", str(tmp_path))
    assert str(bag.dags["fp8bench_prune"].test().state) == "success"
    (tmp_path / "causes.json").write_text("{")
    assert str(bag.dags["fp8bench_prune"].test().state) == "failed"
    assert "causes.json" in "".join(capfd.readouterr())
    assert str(bag.dags["fp8bench_tell"].test().state) == "success"
