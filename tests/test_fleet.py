"""The files that deploy a fleet, as far as they can be judged without one; ci/prove_fleet.py runs real ones."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

CHECKOUT = Path(__file__).resolve().parent.parent
FLEET = CHECKOUT / "ci" / "fleet"
COMPOSE = yaml.safe_load((FLEET / "compose.yaml").read_text())


def test_no_service_is_open_to_the_network() -> None:
    ports = [port for service in COMPOSE["services"].values() for port in service.get("ports", [])]
    assert len(ports) == 2
    assert all(port.startswith("127.0.0.1:") for port in ports)


def test_every_secret_must_be_given_and_none_is_written_down() -> None:
    text = (FLEET / "compose.yaml").read_text()
    wanted = set(re.findall(r"\$\{(\w+):\?\}", text))
    offered = dict(
        line.split("=", 1)
        for line in (FLEET / "environment.example").read_text().splitlines()
        if "=" in line and line[0].isupper() and " " not in line.split("=")[0]
    )
    assert wanted <= set(offered)
    assert {name for name in wanted if re.search("PASSWORD|KEY|SECRET", name) and offered[name]} == set()


@pytest.mark.parametrize("name", [name for name in COMPOSE["services"] if name.startswith("gpu-")])
def test_a_gpu_worker_has_one_gpu_and_no_rights(name: str) -> None:
    service: dict[str, Any] = COMPOSE["services"][name]
    (device,) = service["deploy"]["resources"]["reservations"]["devices"]
    assert device["device_ids"] == [name.removeprefix("gpu-")]
    assert service["command"][-1] == "1"
    assert (service["cap_drop"], service["security_opt"]) == (["ALL"], ["no-new-privileges:true"])
    assert {"pids_limit", "mem_limit"} <= set(service)


def test_the_pod_of_a_gpu_task_has_one_gpu_and_no_rights() -> None:
    pod = yaml.safe_load((FLEET / "pod-gpu.yaml").read_text())
    (base,) = pod["spec"]["containers"]
    assert base["name"] == "base"  # as Airflow demands
    assert base["resources"]["limits"]["nvidia.com/gpu"] == "1"
    assert pod["spec"]["securityContext"]["runAsNonRoot"]
    assert pod["spec"]["automountServiceAccountToken"] is False
    assert base["securityContext"]["capabilities"] == {"drop": ["ALL"]}
    claims = [
        volume["persistentVolumeClaim"]["claimName"]
        for volume in pod["spec"]["volumes"]
        if "persistentVolumeClaim" in volume
    ]
    values = yaml.safe_load((FLEET / "values.yaml").read_text())
    assert claims == [values["volumes"][0]["persistentVolumeClaim"]["claimName"]]


def test_a_gpu_pod_is_told_what_the_chart_tells_its_own() -> None:
    (base,) = yaml.safe_load((FLEET / "pod-gpu.yaml").read_text())["spec"]["containers"]
    told = {entry["name"]: entry["value"] for entry in base["env"]}
    values = yaml.safe_load((FLEET / "values.yaml").read_text())
    assert told.pop("AIRFLOW__CORE__EXECUTION_API_SERVER_URL").endswith("/execution/")
    assert told == {entry["name"]: entry["value"] for entry in values["env"]}


def test_no_volume_reaches_a_pod_of_the_chart_twice() -> None:
    values = yaml.safe_load((FLEET / "values.yaml").read_text())
    extra = [name for name, part in values.items() if isinstance(part, dict) and {"extraVolumes"} & set(part)]
    assert extra == []  # the chart adds `volumes` to every pod, and Kubernetes refuses a name that is there already


@pytest.mark.parametrize(
    ("asked", "run"),
    [
        (["scheduler"], "airflow scheduler"),
        (["celery", "worker", "--queues", "gpu"], "airflow celery worker --queues gpu"),
        (["bash", "-c", "exec airflow scheduler"], "airflow scheduler"),  # as the chart asks
        (["python", "-m", "airflow.sdk"], "python -m airflow.sdk"),  # as KubernetesExecutor asks
        (["mlflow", "server"], "mlflow server"),
    ],
)
def test_the_images_run_what_compose_chart_and_executor_ask_for(tmp_path: Path, asked: list[str], run: str) -> None:
    for name in ("airflow", "mlflow", "python"):
        (tmp_path / name).write_text(f'#!/bin/sh\necho {name} "$@"\n')
        (tmp_path / name).chmod(0o755)
    done = subprocess.run(
        [str(FLEET / "entrypoint"), *asked],
        env={"PATH": f"{tmp_path}:/usr/bin:/bin"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == run


def test_systemd_takes_the_units(tmp_path: Path) -> None:
    environment = os.environ | {"UNITS": str(tmp_path), "PYTHON": "/bin/true", "FP8BENCH_HOME": "/var/lib/fp8bench"}
    done = subprocess.run([str(CHECKOUT / "ci" / "units")], env=environment, capture_output=True, text=True, check=True)
    assert "enable-linger" in done.stdout
    units = sorted(tmp_path.iterdir())
    assert [unit.name for unit in units] == ["fp8bench.service"]
    assert not any(re.search("@[A-Z]+@", unit.read_text()) for unit in units)
    try:
        checked = subprocess.run(
            ["systemd-analyze", "verify", *map(str, units)], capture_output=True, text=True, check=False
        )
    except FileNotFoundError:
        return  # no systemd here
    assert checked.returncode == 0, checked.stderr


def test_a_place_that_cannot_stand_in_a_unit_is_refused(tmp_path: Path) -> None:
    environment = os.environ | {"UNITS": str(tmp_path), "FP8BENCH_HOME": "/var/lib/fp8 bench\nExecStart=/bin/sh"}
    done = subprocess.run(
        [str(CHECKOUT / "ci" / "units")], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 4
    assert list(tmp_path.iterdir()) == []
