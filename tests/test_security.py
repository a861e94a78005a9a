"""Secrets stay where they belong, and what people and commits say is never taken for more than text.

A whole night with canaries for secrets, on a commit whose code looks for them; docs/security.md is the page.
"""

from __future__ import annotations

import ast
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest
from conftest import with_compiled_kernels

from fp8bench import git, libraries, secrecy
from fp8bench.config import Config
from fp8bench.errors import Fp8BenchError
from fp8bench.supervisor.process import worker_environment

CHECKOUT = Path(__file__).resolve().parent.parent
CANARIES = {
    "FP8BENCH_MAIL__PASSWORD": "canary-mail-2b7e",
    "AWS_SECRET_ACCESS_KEY": "canary-cloud-9c1d",
    "GITHUB_TOKEN": "canary-forge-51aa",
    "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": "postgresql://airflow:canary-airflow-77d0@db/airflow",
    "BACKUP_TARGET": "https://backup:canary-address-3f3f@host/",
    "PIP_INDEX_URL": "https://canary-index-4b1e@host/simple",
    "SMTP_PASS": "canary-smtp-80a2",
    "MYSQL_PWD": "canary-mysql-e6d1",
    "S3_ACCESS_KEY": "canary-s3-0c5f",
    "SIGNING_KEY": "canary-signing-b90c",
    "GITHUB_PAT": "canary-pat-7d3a",
    "NPM_CONFIG__AUTH": "canary-npm-f21b",
}
IN_THE_URL, IN_THE_SETTINGS = "canary-repo-e4e4", "canary-repo-1d77"
SUITE = """
backends = ["cpu"]
schemes = ["per-token"]
dtypes = ["bfloat16"]
tokens = [16]
hidden = [1024]
regimes = ["hot"]
"""
SPY = """
import os as _os
import sys as _sys
print("SPY ENVIRONMENT", dict(_os.environ), file=_sys.stderr)
print("SPY ARGUMENTS", _sys.argv, file=_sys.stderr)
"""
SUBJECT = "Faster `touch /tmp/pwned` $(touch /tmp/pwned) <script>alert(1)</script> {{ 7*7 }} \x1b[31m %s"


def with_password(origin: Path, password: str) -> str:
    return origin.as_uri().replace("file://", f"file://eve:{password}@localhost")


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The home of a night on a commit that prints its environment."""
    root = tmp_path_factory.mktemp("security")
    origin = root / "origin"
    subprocess.run(["git", "clone", "-q", str(CHECKOUT), str(origin)], check=True)
    for file in ("cpu.py", "_native.py"):
        path = origin / "fp8bench" / "backends" / file
        path.write_text(path.read_text() + SPY)
    who = ("-c", "user.name=Eve <img src=x onerror=alert(1)>", "-c", "user.email=eve@example.org")
    subprocess.run(["git", "-C", str(origin), *who, "commit", "-qam", SUBJECT], check=True)
    (root / "tiny.toml").write_text(SUITE)
    with_compiled_kernels(root / "home")
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("FP8BENCH_", "AIRFLOW"))}
    environment |= CANARIES | {"FP8BENCH_HOME": str(root / "home"), "FP8BENCH_CONFIG": os.devnull}
    environment |= {f"FP8BENCH_TIMING__{name}": "3" for name in ("LAUNCHES", "CONFIRM_LAUNCHES", "QUADS")}
    environment["FP8BENCH_REPO"] = with_password(origin, IN_THE_SETTINGS)
    url = with_password(origin, IN_THE_URL)
    command = [sys.executable, "-m", "fp8bench", "nightly", "--repo", url, "--suite", str(root / "tiny.toml")]
    night = subprocess.run(
        [*command, "--device", "cpu", "--baseline", "HEAD~1"],
        env=environment,
        cwd=CHECKOUT,
        capture_output=True,
        text=True,
        check=False,
    )
    (root / "home" / "said.log").write_text(night.stdout + night.stderr)
    assert night.returncode in (0, 1, 3), night.stdout + night.stderr
    return root / "home"


def files(home: Path) -> list[Path]:
    return [path for path in home.rglob("*") if path.is_file()]


def test_the_night_had_something_to_hide_and_hid_it(home: Path) -> None:
    found = {
        canary: [str(path.relative_to(home)) for path in files(home) if canary.encode() in path.read_bytes()]
        for canary in (*CANARIES.values(), IN_THE_URL, IN_THE_SETTINGS)
    }
    assert found == {canary: [] for canary in found}


def test_the_code_under_test_did_look(home: Path) -> None:
    """The worker's log has what the commit printed: the test above can fail."""
    logs = "".join(path.read_text(errors="replace") for path in home.glob("runs/*/logs/*.log"))
    assert "SPY ENVIRONMENT" in logs
    assert "SPY ARGUMENTS" in logs


def test_subjects_and_authors_are_text(home: Path) -> None:
    (page,) = home.glob("runs/*/report.html")
    text = page.read_text()
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in text
    assert "<script>alert(1)" not in text
    assert "<img src=x" not in text
    assert "{{ 7*7 }}" in text
    assert not Path("/tmp/pwned").exists()


HOSTILE = (
    "--candidate=--upload-pack=touch /tmp/pwned",
    "--candidate=$(touch /tmp/pwned)",
    "--repo=ext::sh -c touch% /tmp/pwned",
    "--repo=--upload-pack=x",
    "--suite=/etc/passwd",
    "--commits=--all..HEAD",
)


@pytest.mark.parametrize("option", HOSTILE)
def test_arguments_are_never_options_or_commands(option: str, tmp_path: Path) -> None:
    environment = os.environ | {"FP8BENCH_HOME": str(tmp_path)}
    command = [sys.executable, "-m", "fp8bench", "nightly", "--device", "cpu", option]
    done = subprocess.run(command, env=environment, cwd=CHECKOUT, capture_output=True, text=True, check=False)
    assert done.returncode == 4
    assert "Traceback" not in done.stderr
    assert not Path("/tmp/pwned").exists()


def test_a_url_that_runs_commands_is_refused(tmp_path: Path) -> None:
    with pytest.raises(Fp8BenchError, match="cannot fetch"):
        git.resolve("ext://sh -c 'touch /tmp/pwned'", "HEAD", tmp_path)
    assert not Path("/tmp/pwned").exists()


@pytest.mark.parametrize(("name", "value"), CANARIES.items(), ids=list(CANARIES))
def test_workers_and_compilers_are_given_no_secret(name: str, value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, value)
    assert secrecy.is_secret(name, value)
    assert name not in worker_environment("cpu")
    assert name not in secrecy.scrubbed_environment()
    assert {"PATH", "HOME"} <= set(secrecy.scrubbed_environment())
    plan = cast("libraries.Plan", SimpleNamespace(tree=Path("/"), backend="cpu"))
    assert value not in libraries._run(["env"], plan)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(
            (name, "/usr/bin:/bin")
            for name in ("PATH", "PYTHONPATH", "LD_LIBRARY_PATH", "HOME", "PWD", "OLDPWD", "TMPDIR")
        ),
        *(
            (name, "0")
            for name in ("CUDA_VISIBLE_DEVICES", "CUDA_HOME", "CXX", "OMP_NUM_THREADS", "LLVM_PASS_PLUGIN_PATH")
        ),
        ("PIP_INDEX_URL", "https://host:8443/team@home/simple"),
    ],
)
def test_workers_and_compilers_are_given_what_they_need(name: str, value: str) -> None:
    assert not secrecy.is_secret(name, value)


def test_frozen_settings_hold_no_secret() -> None:
    secret = "https://me:canary@host.example.org/x"
    config = Config(repo=secret, mail={"password": "canary-1"}, mlflow={"tracking_uri": secret, "ui_url": secret})
    stored = config.frozen_json()
    assert "canary" not in stored
    assert "canary-1" not in repr(config)
    assert Config.model_validate_json(stored).repo == "https://host.example.org/x"


@pytest.mark.parametrize(
    ("address", "shown"),
    [
        ("https://me:secret@host/x.git", "https://host/x.git"),
        ("https://secret@host/x.git", "https://host/x.git"),
        ("https://me:sec@ret@host/x.git", "https://host/x.git"),
        ("postgresql://me:sec/ret@db:5432/mlflow", "postgresql://db:5432/mlflow"),
        ("postgresql://me:sec#r?et@db/mlflow", "postgresql://db/mlflow"),
        ("redis://:secret@host", "redis://host"),
        ("fatal: https://me:secret@host/x and http://a@b", "fatal: https://host/x and http://b"),
        ("https://host/x.git", "https://host/x.git"),
        ("http://host:8080/team@home/x.git", "http://host:8080/team@home/x.git"),
        ("http://[::1]:8080/team@home/x.git", "http://[::1]:8080/team@home/x.git"),
        ("git@host:x.git", "git@host:x.git"),
        ("/home/me@work/repo", "/home/me@work/repo"),
    ],
)
def test_addresses_are_shown_without_accounts(address: str, shown: str) -> None:
    assert secrecy.public(address) == shown


def test_nothing_unpickles_or_starts_a_shell() -> None:
    """A pickle runs code when it is read, a shell when it is given a name with a semicolon."""
    sources = [
        *(CHECKOUT / "fp8bench").rglob("*.py"),
        *(CHECKOUT / "dags").glob("*.py"),
        *(CHECKOUT / "ci").rglob("*.py"),
    ]
    for path in sources:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import | ast.ImportFrom):
                names = {alias.name for alias in node.names} | {getattr(node, "module", "") or ""}
                assert not names & {"pickle", "shelve", "dill", "joblib", "cloudpickle"}, path
            if isinstance(node, ast.keyword):
                assert not (node.arg == "shell" and ast.unparse(node.value) == "True"), path
                assert not (node.arg == "weights_only" and ast.unparse(node.value) == "False"), path
            if isinstance(node, ast.Call):
                assert ast.unparse(node.func) not in ("os.system", "os.popen", "eval", "exec", "torch.load"), path


@pytest.mark.skipif(os.geteuid() != 0 or not shutil.which("setpriv"), reason="only root can give rights away")
def test_a_worker_can_be_given_less_rights(tmp_path: Path) -> None:
    """`worker.wrapper` and `worker.memory_gb`, through a doctor's look at the worker's own process."""
    from fp8bench.protocol import EnvironmentRequest
    from fp8bench.supervisor.process import Worker

    tmp_path.chmod(0o755)
    for place in (tmp_path, *tmp_path.parents):
        if place.stat().st_mode & 0o001 == 0 and place != Path("/"):
            place.chmod(place.stat().st_mode | 0o001)
    config = Config(worker={"wrapper": ("setpriv", "--no-new-privs", "--bounding-set=-all"), "memory_gb": 64})
    request = EnvironmentRequest(device="cpu")
    with Worker.for_config(config, request, worker_environment("cpu"), tmp_path / "log") as worker:
        next(iter(worker.events()))
        status = Path(f"/proc/{worker._process.pid}/status").read_text()
        limits = Path(f"/proc/{worker._process.pid}/limits").read_text()
    assert re.search(r"NoNewPrivs:\s+1", status)
    assert re.search(r"CapBnd:\s+0+\n", status)
    assert re.search(r"Max address space\s+64000000000", limits)
    assert re.search(r"Max core file size\s+0\s+0", limits)
