"""A real night through each kind of fleet, on this machine: `prove_fleet.py celery edge`; and `prove_fleet.py pod`.

celery   Postgres, Redis, CeleryExecutor; one worker on the queue `default`, two on `gpu` with one slot each. The night
         is cut into two shards. Needs the programs initdb, postgres and redis-server.
edge     EdgeExecutor over TLS, with a certificate made for this run; one worker that knows nothing but the API server's
         address, that certificate and the key of its tokens, with a checkout, a home and an environment of its own: no
         database, no files in common. The whole night runs there. Needs the program openssl.
pod      no night: the pod of GPU tasks (fleet/pod-gpu.yaml) as KubernetesExecutor would ask a cluster for it, read and
         written by the models of Kubernetes' own client, which loses what the schema does not know.

The nights are of this checkout's latest commit, cloned, on the CPU; no GPU is needed, and everything that was started
is stopped in the end. It prints what ran where, and exits with 0 when the night did what it should.
Needs the extra `fleet`: ci/setup fleet
"""

from __future__ import annotations

import argparse
import os
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(CHECKOUT))

from embedded_airflow import AirflowError, EmbeddedAirflow, free_port  # noqa: E402
from nightly import TaskState, trigger  # noqa: E402
from service import DAG, make_pool  # noqa: E402

from fp8bench import records  # noqa: E402
from fp8bench.errors import Fp8BenchError  # noqa: E402

NIGHT_SECONDS = 600
SUITE = """
backends = ["cpu"]
schemes = ["per-token", "group-128-row"]
dtypes = ["bfloat16"]
tokens = [16, 128]
hidden = [1024]
regimes = ["hot"]
"""


# ---- Postgres and Redis ---------------------------------------------------------------------------------------


def _program(name: str) -> str:
    found = shutil.which(name, path=os.environ.get("PATH", "") + ":/usr/lib/postgresql/15/bin")
    if found is None:
        raise AirflowError(f"{name} is not installed: install it, or put it on PATH.")
    return found


def _unprivileged(place: Path) -> list[str]:
    """A prefix for commands that refuse to run as root; `place` is handed over to who runs them."""
    if os.geteuid() != 0:
        return []
    shutil.chown(place, "nobody", "nogroup")
    return [_program("setpriv"), "--reuid=nobody", "--regid=nogroup", "--clear-groups"]


@contextmanager
def _server(command: list[str], port: int, log: Path) -> Iterator[None]:
    """A server as a child process, there when its port answers."""
    with log.open("wb") as output, subprocess.Popen(command, stdout=output, stderr=output) as process:
        try:
            for _ in range(100):
                with socket.socket() as probe:
                    if probe.connect_ex(("127.0.0.1", port)) == 0:
                        break
                time.sleep(0.1)
            else:
                raise AirflowError(f"{command[0]} did not come up: {log.read_text(errors='replace')[-300:]}")
            yield
        finally:
            process.terminate()


@contextmanager
def postgres(place: Path) -> Iterator[str]:
    """An empty Postgres on the loopback interface, behind a password; its address for SQLAlchemy."""
    place.mkdir()
    password, port, data = secrets.token_hex(8), free_port(0), place / "data"
    (place / "password").write_text(password)
    prefix = _unprivileged(place)
    shutil.chown(place / "password", place.stat().st_uid)
    create = [_program("initdb"), "-D", str(data), "-U", "airflow", "--auth=scram-sha-256"]
    done = subprocess.run(
        [*prefix, *create, f"--pwfile={place / 'password'}"], capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise AirflowError(f"initdb: {done.stderr.strip().splitlines()[-1]}")
    options = ["-c", "listen_addresses=127.0.0.1", "-c", f"unix_socket_directories={place}"]
    with _server(
        [*prefix, _program("postgres"), "-D", str(data), "-p", str(port), *options], port, place.with_suffix(".log")
    ):
        yield f"airflow:{password}@127.0.0.1:{port}/postgres"


@contextmanager
def redis(place: Path) -> Iterator[str]:
    """A Redis that keeps nothing, behind a password; its address."""
    place.mkdir()
    password, port = secrets.token_hex(8), free_port(0)
    (place / "redis.conf").write_text(f'bind 127.0.0.1\nport {port}\nrequirepass {password}\nsave ""\ndir {place}\n')
    with _server([_program("redis-server"), str(place / "redis.conf")], port, place / "log"):
        yield f"redis://:{password}@127.0.0.1:{port}/0"


# ---- fleets ---------------------------------------------------------------------------------------------------


@contextmanager
def celery(root: Path) -> Iterator[EmbeddedAirflow]:
    """An Airflow on Postgres and Redis, with three Celery workers."""
    with postgres(root / "postgres") as database, redis(root / "redis") as broker:
        settings = {
            "AIRFLOW__CORE__EXECUTOR": "CeleryExecutor",
            "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": f"postgresql+psycopg2://{database}",
            "AIRFLOW__CELERY__BROKER_URL": broker,
            "AIRFLOW__CELERY__RESULT_BACKEND": f"db+postgresql+psycopg2://{database}",
            "FP8BENCH_AIRFLOW__QUEUE": "gpu",
            "FP8BENCH_NIGHTS__SHARDS": "2",
        }
        with EmbeddedAirflow(root / "airflow", root / "control" / "dags", parallelism=4, settings=settings) as airflow:
            for name, queue, slots, gpu in (
                ("control", "default", 2, ""),
                ("gpu-0", "gpu", 1, "0"),
                ("gpu-1", "gpu", 1, "1"),
            ):
                worker = ("-m", "airflow", "celery", "worker", "--skip-serve-logs", "--without-gossip")
                options = ("--queues", queue, "--concurrency", str(slots), "--celery-hostname", f"{name}@%h")
                airflow.start(f"worker-{name}", *worker, *options, env={"CUDA_VISIBLE_DEVICES": gpu, **_host(name)})
            yield airflow


@contextmanager
def edge(root: Path) -> Iterator[EmbeddedAirflow]:
    """An Airflow with an edge worker that has nothing of it but its address and the key of its tokens."""
    settings = {
        "AIRFLOW__CORE__EXECUTOR": "airflow.providers.edge3.executors.EdgeExecutor",
        "AIRFLOW__EDGE__API_ENABLED": "True",
        "AIRFLOW__CORE__EXECUTION_API_SERVER_URL": "@URL@/execution/",
        "AIRFLOW__API__BASE_URL": "@URL@",
        **_certificate(root),
        "AIRFLOW__EDGE__API_URL": "@URL@/edge_worker/v1/rpcapi",
        "FP8BENCH_AIRFLOW__QUEUE": "gpu",
        "FP8BENCH_AIRFLOW__CONTROL_QUEUE": "gpu",
    }
    box = clone(root / "box")
    with EmbeddedAirflow(root / "airflow", root / "control" / "dags", settings=settings) as airflow:
        own = {
            "AIRFLOW_HOME": str(root / "box-airflow"),
            "AIRFLOW__CORE__DAGS_FOLDER": str(box / "dags"),
            "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": "sqlite:////nowhere/at/all.db",
            "AIRFLOW__LOGGING__BASE_LOG_FOLDER": str(root / "box-airflow" / "logs"),
            "PYTHONPATH": str(box),
            "FP8BENCH_HOME": str(root / "box-home"),
            **_host("gpu-box"),
        }
        worker = ("-m", "airflow", "edge", "worker", "--concurrency", "1", "--queues", "gpu")
        airflow.start("worker-gpu-box", *worker, "--edge-hostname", "gpu-box", env=own, cwd=box)
        yield airflow


def _certificate(root: Path) -> dict[str, str]:
    """A certificate for 127.0.0.1, and the settings that serve with it and trust it."""
    certificate, key = root / "tls.pem", root / "tls.key"
    subject = ("-subj", "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1")
    command = [_program("openssl"), "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", *subject]
    subprocess.run([*command, "-keyout", str(key), "-out", str(certificate)], check=True, capture_output=True)
    os.environ["SSL_CERT_FILE"] = str(certificate)  # of this process, which asks the API too
    trust = {name: str(certificate) for name in ("SSL_CERT_FILE", "REQUESTS_CA_BUNDLE")}
    return {"AIRFLOW__API__SSL_CERT": str(certificate), "AIRFLOW__API__SSL_KEY": str(key), **trust}


def _host(name: str) -> Mapping[str, str]:
    """What a worker calls its machine, in place of this machine's one name."""
    return {"AIRFLOW__CORE__HOSTNAME_CALLABLE": "fleet_host.name", "FLEET_HOST": name}


def clone(target: Path) -> Path:
    """This checkout's latest commit in `target`, with a suite of four cells."""
    subprocess.run(["git", "clone", "--quiet", str(CHECKOUT), str(target)], check=True)
    (target / "tiny.toml").write_text(SUITE)
    (target / "fleet_host.py").write_text(
        "import os\n\n\ndef name() -> str:\n    return os.environ.get('FLEET_HOST', 'control-plane')\n"
    )
    return target


# ---- the night ------------------------------------------------------------------------------------------------


def prove(kind: str, fleet: Callable[[Path], object], root: Path) -> bool:
    """Run a night through a fleet and print what ran where; whether it did what it should."""
    home = root / ("box-home" if kind == "edge" else "home")
    with ExitStack() as stack:
        airflow: EmbeddedAirflow = stack.enter_context(fleet(root))  # type: ignore[arg-type]
        make_pool(airflow, "gpu", 2)
        where = root / ("box" if kind == "edge" else "control")
        night = trigger(airflow, {"repo": str(where), "suite": str(where / "tiny.toml"), "baseline": "HEAD"})
        began = time.monotonic()
        while (state := night.state()) not in ("success", "failed") and time.monotonic() - began < NIGHT_SECONDS:
            airflow.check_alive()
            time.sleep(1)
        print(f"\n{kind}: {night.run_id} {state} after {time.monotonic() - began:.0f} s")
        _table(airflow, night.run_id)
    verdicts = home / "runs" / night.run_id / "verdicts.json"
    if state != "success" or not verdicts.exists():
        print(f"{kind}: no verdict; logs are in {root}")
        return False
    print(f"  {records.read(records.Verdicts, verdicts).sentence}")
    return True


def prove_pod() -> bool:
    """Build the pod of a GPU task as KubernetesExecutor does; whether the schema takes all of it."""
    import yaml
    from airflow.providers.cncf.kubernetes.pod_generator import PodGenerator
    from kubernetes import client

    file = CHECKOUT / "ci" / "fleet" / "pod-gpu.yaml"
    template = PodGenerator.deserialize_model_file(str(file))
    asked = client.ApiClient().sanitize_for_serialization(template)
    if asked != yaml.safe_load(file.read_text()):
        print(f"pod: the schema of Kubernetes does not take all of {file}: {asked}")
        return False
    pod = PodGenerator.construct_pod(
        dag_id=DAG,
        task_id="check",
        pod_id="fp8bench-check",
        try_number=1,
        kube_image="fp8bench-gpu",
        date=None,
        args=["airflow", "version"],
        pod_override_object=None,
        base_worker_pod=template,
        namespace="fp8bench",
        scheduler_job_id="1",
        run_id="night",
    )
    (base,) = pod.spec.containers
    print(f"pod: {pod.metadata.name}, container {base.name}, limits {base.resources.limits}, as {file.name} has them")
    return base.resources.limits["nvidia.com/gpu"] == "1" and pod.spec.restart_policy == "Never"


def _table(airflow: EmbeddedAirflow, run_id: str) -> None:
    entries = airflow.get(f"dags/{DAG}/dagRuns/{run_id}/taskInstances", limit=100)["task_instances"]
    for entry in sorted(entries, key=lambda found: found["start_date"] or "9"):
        task = TaskState.of(entry)
        seconds = "" if task.seconds is None else f"{task.seconds:6.1f} s"
        print(f"  {task.label:<16} {task.state:<10} queue {entry['queue']:<8} on {entry['hostname']:<14} {seconds}")


def own_environment(root: Path) -> None:
    """Settings of small nights on the CPU with their home in `root`; those of the caller are left out."""
    for name in [name for name in os.environ if name.startswith(("FP8BENCH_", "AIRFLOW"))]:
        del os.environ[name]
    os.environ |= {
        "FP8BENCH_HOME": str(root / "home"),
        "FP8BENCH_CONFIG": os.devnull,
        "FP8BENCH_DEVICE": "cpu",
        "FP8BENCH_AIRFLOW__SCHEDULE": "",
        "FP8BENCH_AIRFLOW__RETRY_DELAY_S": "5",
        "FP8BENCH_TIMING__LAUNCHES": "3",
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("fleet", choices=["celery", "edge", "pod"], nargs="+")
    args = parser.parse_args()
    works = []
    for kind in dict.fromkeys(args.fleet):
        if kind == "pod":
            works.append(prove_pod())
            continue
        root = Path(tempfile.mkdtemp(prefix=f"fp8bench-{kind}-"))
        root.chmod(0o755)  # the database's own user looks in
        clone(root / "control")
        own_environment(root)
        try:
            works.append(prove(kind, {"celery": celery, "edge": edge}[kind], root))
        except Fp8BenchError as error:
            print(f"prove_fleet: {error} (logs are in {root})", file=sys.stderr)
            works.append(False)
        if works[-1]:
            shutil.rmtree(root, ignore_errors=True)
    return 0 if all(works) else 4


if __name__ == "__main__":
    sys.exit(main())
