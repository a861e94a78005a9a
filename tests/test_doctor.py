"""The doctor against real compilers, mail hosts, stores and a real Airflow; GPUs are described, as none is here."""

from __future__ import annotations

import json
import socket
import subprocess
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from aiosmtpd.controller import Controller
from aiosmtpd.handlers import Message
from nights import make_night
from ports import free_port

from fp8bench import cli, config, devices, doctor, environment, store
from fp8bench.config import Config
from fp8bench.doctor import CHECKS, Finding
from fp8bench.errors import ToolchainError

H200 = {
    "device": "cuda",
    "device_name": "NVIDIA H200",
    "device_count": 2,
    "driver": "580.159.04",
    "compute_capability": "9.0",
    "versions": {"python": "3.12.3", "torch": "2.11.0+cu130", "triton": "3.6.0"},
}
COOL = {"clock_mhz": 1980.0, "temperature_c": 41.0, "power_w": 120.0, "throttle": ()}


def settings(home: Path, **given: Any) -> Config:
    return config.load(home=home / "home", **given)


def find(check: str, given: Config) -> Finding:
    return doctor._examined(CHECKS[check], given)


class _Nothing(Message):
    """Counts the mails it is given: none."""

    taken = 0

    def handle_message(self, message: object) -> None:
        self.taken += 1


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> dict[str, dict[str, Any]]:
    """A machine as a worker on it would tell; the test may change it."""
    machine = {"description": dict(H200), "state": dict(COOL)}
    monkeypatch.setattr(devices, "has_driver", lambda: True)
    monkeypatch.setattr(environment, "look_now", lambda config: (machine["description"], machine["state"]))
    return machine


def test_this_machine_is_ready_and_every_check_is_a_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("FP8BENCH_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(doctor, "_PROBLEM_BYTES", 0)
    assert cli.main(["doctor"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == len(CHECKS) + 1
    assert all(name in line for name, line in zip(CHECKS, lines, strict=False))
    assert lines[-1] == "Nights can run."
    assert list(tmp_path.iterdir()) == []  # it looks and leaves nothing


def test_a_problem_is_exit_code_4_in_words_and_in_json(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("FP8BENCH_HOME", str(tmp_path))
    monkeypatch.setenv("CXX", "/nowhere/c++")
    monkeypatch.setattr(doctor, "CHECKS", {"C++ compiler": CHECKS["C++ compiler"], "disk": CHECKS["disk"]})
    assert cli.main(["doctor"]) == 4
    assert capsys.readouterr().out.startswith("problem  C++ compiler   CXX is '/nowhere/c++'")
    assert cli.main(["doctor", "--json"]) == 4
    told = json.loads(capsys.readouterr().out)
    assert told["ready"] is False
    assert [entry["status"] for entry in told["checks"]][:1] == ["problem"]
    assert set(told["checks"][0]) == {"check", "status", "found", "advice"}


@pytest.mark.parametrize("error", [OSError("odd"), ValueError("odd"), TimeoutError("odd"), ToolchainError("odd")])
def test_a_check_that_meets_an_error_is_a_problem(tmp_path: Path, error: Exception) -> None:
    def check(config: Config) -> Finding:
        raise error

    found = doctor._examined(check, settings(tmp_path))
    assert (found.status, found.found) == ("problem", "odd")


def test_an_interpreter_that_is_not_there_is_a_problem(tmp_path: Path) -> None:
    found = find("torch, triton", settings(tmp_path, worker={"python": "/nowhere/python"}))
    assert found.status == "problem"
    assert "/nowhere/python" in found.found


@pytest.mark.parametrize(
    ("wrapper", "status", "told"),
    [
        ((), "ok", "none"),
        (("env", "-u", "HOME"), "ok", "env -u HOME"),
        (("nosuchcmd",), "problem", "nosuchcmd cannot be started: No such file or directory"),
        (("env", "--nosuch"), "problem", "env --nosuch starts no worker: env: unrecognized option"),
    ],
)
def test_the_wrapper_is_tried(tmp_path: Path, wrapper: tuple[str, ...], status: str, told: str) -> None:
    found = find("wrapper", settings(tmp_path, worker={"wrapper": wrapper}))
    assert found.status == status
    assert found.found.startswith(told)


def test_a_suite_that_is_not_there_is_a_problem(tmp_path: Path) -> None:
    assert find("suite", settings(tmp_path, device="cpu")).found.startswith("smoke: ")
    found = find("suite", settings(tmp_path, device="cpu", suite="nosuch"))
    assert (found.status, found.found) == (
        "problem",
        "unknown suite 'nosuch': use reference, smoke or the path of a .toml file.",
    )


# ---- GPU ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("state", "status", "told"),
    [
        (COOL, "ok", "2 x NVIDIA H200, driver 580.159.04; now 1980 MHz, 41 °C, 120 W"),
        (COOL | {"throttle": ("hw_thermal",)}, "warning", "held down by hw_thermal"),
        (COOL | {"throttle": None}, "warning", "what holds its clocks down cannot be read"),
        (dict.fromkeys(COOL), "warning", "clocks cannot be read"),
    ],
)
def test_a_gpu_is_told_as_it_stands(
    tmp_path: Path, gpu: dict[str, dict[str, Any]], state: dict[str, Any], status: str, told: str
) -> None:
    gpu["state"] = state
    found = find("GPU", settings(tmp_path))
    assert found.status == status
    assert told in found.found


@pytest.mark.parametrize(("device", "status"), [("auto", "problem"), ("cuda", "problem"), ("cpu", "ok")])
def test_a_driver_without_a_gpu_in_torch(
    tmp_path: Path, gpu: dict[str, dict[str, Any]], device: str, status: str
) -> None:
    gpu["description"] = {"device": "cpu", "versions": {}, "no_gpu": "the driver is too old"}
    assert find("GPU", settings(tmp_path, device=device)).status == status


@pytest.mark.parametrize(("device", "status"), [("auto", "ok"), ("cuda", "problem")])
def test_without_a_driver_nights_run_on_the_cpu(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, device: str, status: str
) -> None:
    monkeypatch.setattr(devices, "has_driver", lambda: False)
    assert find("GPU", settings(tmp_path, device=device)).status == status


@pytest.mark.parametrize(("has_gpu", "status"), [(True, "problem"), (False, "warning")])
def test_without_nvcc_gpu_nights_lack_their_kernels(
    tmp_path: Path,
    gpu: dict[str, dict[str, Any]],
    monkeypatch: pytest.MonkeyPatch,
    has_gpu: bool,
    status: str,
) -> None:
    def no_nvcc() -> None:
        raise ToolchainError("no CUDA compiler on PATH: pip install fp8bench[nvcc].")

    monkeypatch.setattr(doctor, "find_nvcc", no_nvcc)
    if not has_gpu:
        gpu["description"] = {"device": "cpu", "versions": {}, "no_gpu": "the driver is too old"}
    found = find("nvcc", settings(tmp_path))
    assert found.status == status
    assert "pip install" in found.found


def test_an_architecture_that_is_not_built_for_is_a_problem(
    tmp_path: Path, gpu: dict[str, dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    known = frozenset({"80", "90", "100"})
    nvcc = type("Nvcc", (), {"version": "13.0.88", "path": Path("/nvcc"), "architectures": known})
    monkeypatch.setattr(doctor, "find_nvcc", lambda: nvcc)
    assert find("nvcc", settings(tmp_path)).status == "ok"
    found = find("nvcc", settings(tmp_path, build={"architectures": ("100",)}))
    assert (found.status, found.advice) == ("problem", 'add "90" to build.architectures')
    assert find("nvcc", settings(tmp_path, build={"architectures": ("75",)})).status == "problem"


# ---- git, disk ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("repo", ["{}/nowhere", "file://{}/nowhere.git"])
def test_a_repository_that_is_not_there_is_a_problem(tmp_path: Path, repo: str) -> None:
    found = find("git", settings(tmp_path, repo=repo.format(tmp_path)))
    assert found.status == "problem"
    assert "nowhere" in found.found


@pytest.mark.parametrize("url", [False, True])
def test_a_branch_that_is_not_there_is_a_problem(tmp_path: Path, url: bool) -> None:
    run = partial(subprocess.run, cwd=tmp_path, check=True, capture_output=True)
    run(["git", "init", "--quiet", "--initial-branch=trunk"])
    given = partial(settings, tmp_path, repo=f"file://{tmp_path}" if url else str(tmp_path))
    assert "has no commit yet" in find("git", given()).found
    run(["git", *("-c", "user.name=a", "-c", "user.email=a@b.c"), "commit", "--quiet", "--allow-empty", "-m", "first"])
    assert find("git", given()).status == "ok"
    assert find("git", given(nights={"branch": "trunk"})).status == "ok"
    found = find("git", given(nights={"branch": "nosuch"}))
    assert found.status == "problem"
    assert found.found.endswith("has no branch 'nosuch': set nights.branch to one that it has.")


@pytest.mark.parametrize(
    ("few", "many", "status"), [(0, 0, "ok"), (0, 1 << 60, "warning"), (1 << 60, 1 << 60, "problem")]
)
def test_disk_space(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, few: int, many: int, status: str) -> None:
    monkeypatch.setattr(doctor, "_PROBLEM_BYTES", few)
    monkeypatch.setattr(doctor, "_WARNING_BYTES", many)
    assert find("disk", settings(tmp_path)).status == status


def test_a_home_that_takes_no_files_is_a_problem() -> None:
    found = find("write access", config.load(home=Path("/proc/fp8bench")))
    assert found.status == "problem"
    assert "cannot write to /proc" in found.found


# ---- MLflow, mail, Airflow ----------------------------------------------------------------------------------


def test_an_mlflow_that_is_not_there_is_a_problem(tmp_path: Path) -> None:
    found = find("MLflow", settings(tmp_path, mlflow={"tracking_uri": f"http://me:hush@127.0.0.1:{free_port()}"}))
    assert found.status == "problem"
    assert "did not answer" in found.found
    assert "hush" not in found.found


def test_an_mlflow_that_says_nothing_is_waited_for_only_so_long(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(doctor, "_MLFLOW_TIMEOUT_S", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        uri = f"http://127.0.0.1:{silent.getsockname()[1]}"
        found = find("MLflow", settings(tmp_path, mlflow={"tracking_uri": uri}))
    assert found.status == "problem"
    assert "gave no answer" in found.found


def test_the_accepted_baseline_is_named(tmp_path: Path) -> None:
    given = settings(tmp_path)
    night = make_night(tmp_path / "night", "first_night")
    store.log_night(night, given)
    (baseline,) = store.accepted_baselines(given)
    found = find("MLflow", given)
    assert found.status == "ok"
    assert f"baseline {baseline.sha[:9]} for {baseline.device_name}" in found.found


def test_mail_without_a_host_is_a_warning(tmp_path: Path) -> None:
    assert find("mail", settings(tmp_path)).status == "warning"


def test_a_mail_host_is_greeted_and_given_nothing(tmp_path: Path) -> None:
    handler = _Nothing()
    controller = Controller(handler, hostname="127.0.0.1", port=free_port())
    controller.start()
    mail = {"host": "127.0.0.1", "port": controller.port, "to": ("a@example.org",)}
    try:
        assert find("mail", settings(tmp_path, mail=mail)).status == "ok"
        encrypted = find("mail", settings(tmp_path, mail=mail | {"security": "starttls"}))
    finally:
        controller.stop()
    assert encrypted.status == "problem"  # this host has no STARTTLS
    assert find("mail", settings(tmp_path, mail=mail)).status == "problem"  # and now it is gone
    assert handler.taken == 0


def test_a_dag_that_does_not_import_is_a_problem(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "_DAGS", tmp_path)
    assert find("Airflow", settings(tmp_path)).status == "warning"
    (tmp_path / "dag.py").write_text("import no_such_module_of_anybody\n")
    found = find("Airflow", settings(tmp_path))
    assert found.status == "problem"
    assert "no_such_module_of_anybody" in found.found


def test_a_schedule_that_airflow_does_not_take_is_a_problem(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FP8BENCH_AIRFLOW__COMMITS_SCHEDULE", "every day")
    found = find("Airflow", settings(tmp_path))
    assert found.status == "problem"
    assert "'every day'" in found.found
    assert "airflow.schedule" in found.advice
