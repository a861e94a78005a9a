"""What a night needs on this machine: one short check each, in the table `CHECKS`.

A check looks and changes nothing, takes bounded time, and returns a `Finding`: ok; a warning where nights run with
less; a problem where they cannot run or nobody would hear of them. An error that a check meets is a problem line.
"""

from __future__ import annotations

import importlib.util
import os
import shlex
import shutil
import smtplib
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from threading import Thread
from typing import Any, Literal, TypeVar

from . import devices, environment, git, paths, store, suite, wording
from .alerts import smtp
from .config import SMTP_CONNECTION, Config
from .errors import Fp8BenchError, StoreError, ToolchainError
from .secrecy import scrubbed_environment
from .toolchain import find_cxx, find_nvcc

_PROBLEM_BYTES, _WARNING_BYTES = 1 << 30, 10 << 30  # a build and a reference night take some 100 MB
_MLFLOW_TIMEOUT_S = 60.0
_DAG_TIMEOUT_S = 120.0
_GIT_TIMEOUT_S = 30.0
_WRAPPER_TIMEOUT_S = 60.0
_DAGS = paths.CHECKOUT / "dags"
_LOOK_AT_DAGS = """
import sys
from airflow.dag_processing.dagbag import DagBag  # an import alone says nothing of schedules
for file in sys.argv[1:]:
    for error in DagBag(file, safe_mode=False).import_errors.values():
        sys.exit(error)
"""
_SMTP_OK = 250
_NO_MAIL = f"set mail.to, and mail.host unless Airflow's connection {SMTP_CONNECTION} sends for all nights"
_MEETS = (Fp8BenchError, OSError, ValueError, subprocess.SubprocessError, smtplib.SMTPException)

T = TypeVar("T")


@dataclass(frozen=True)
class Finding:
    """What a check found, and what to do about it where it is not ok."""

    status: Literal["ok", "warning", "problem"]
    found: str
    advice: str = ""


def ok(found: str) -> Finding:
    return Finding("ok", found)


def warning(found: str, advice: str) -> Finding:
    return Finding("warning", found, advice)


def problem(found: str, advice: str) -> Finding:
    return Finding("problem", found, advice)


def examine(config: Config) -> Iterator[tuple[str, Finding]]:
    """Every check's name and finding, as they come."""
    for name, check in CHECKS.items():
        yield name, _examined(check, config)


def _examined(check: Callable[[Config], Finding], config: Config) -> Finding:
    """The finding of a check, or the error it met; fp8bench's own errors say what to do."""
    try:
        return check(config)
    except Fp8BenchError as error:
        return problem(wording.one_line(str(error), 600), "")
    except _MEETS as error:
        return problem(wording.one_line(str(error) or type(error).__name__, 300), "mend this and run doctor again")


# ---- compilers, worker, GPU ---------------------------------------------------------------------------------


def _cxx(config: Config) -> Finding:
    return ok(find_cxx().version)


def _nvcc(config: Config) -> Finding:
    capability = _gpu_capability(config)
    try:
        nvcc = find_nvcc()
    except ToolchainError as error:
        tell = problem if capability else warning
        return tell(f"none; the CUDA kernels are not built: {error}", "")
    targets = [entry for entry in config.build.architectures if entry in nvcc.architectures]
    found = f"{nvcc.version} at {nvcc.path}, builds for {', '.join(f'sm_{entry}' for entry in targets) or 'nothing'}"
    if not targets:
        return problem(found, f"set build.architectures to some of {', '.join(sorted(nvcc.architectures))}")
    if capability and capability not in targets:
        return problem(f"{found}; this GPU is sm_{capability}", f'add "{capability}" to build.architectures')
    return ok(found)


def _gpu_capability(config: Config) -> str:
    """ "90" where nights run on such a GPU, "" where they run on the CPU or no worker starts (another check's line)."""
    try:
        description, _ = environment.look_now(config)
    except Fp8BenchError:
        return ""
    return str(description.get("compute_capability", "")).replace(".", "")


def _torch(config: Config) -> Finding:
    description, _ = environment.look_now(config)
    versions: dict[str, str] = description["versions"]
    named = ", ".join(f"{name} {versions[name]}" for name in ("python", "torch", "triton", "cuda") if name in versions)
    found = f"{named} ({config.worker.python})"
    if "triton" not in versions:
        return warning(f"{found}; no triton", "install the triton that fits this torch, or its backend is missing")
    return ok(found)


def _gpu(config: Config) -> Finding:
    if config.device == "cpu":
        return ok("not used: device is 'cpu'")
    if not devices.has_driver():
        if config.device == "cuda":
            return problem("device is 'cuda', but there is no NVIDIA driver", "install one, or set device to 'auto'")
        return ok("no NVIDIA driver: nights run on the CPU")
    description, state = environment.look_now(config)
    if description["device"] == "cuda":
        return _gpu_state(description, state)
    return problem(
        f"there is a driver, but {config.worker.python} can use no GPU: {description['no_gpu']}",
        "mend the driver (after an update, restart the machine), set worker.python to an interpreter with a CUDA build "
        "of torch that it can run, or set device to 'cpu'",
    )


def _wrapper(config: Config) -> Finding:
    """Start the workers' interpreter as workers are started, with nothing to do."""
    if not config.worker.wrapper:
        return ok("none: workers have the rights of this user")
    wrapper, spoken = config.worker.wrapper, shlex.join(config.worker.wrapper)
    command = [*wrapper, config.worker.python, "-c", ""]
    env = scrubbed_environment()
    try:
        done = subprocess.run(
            command, env=env, capture_output=True, text=True, errors="replace", timeout=_WRAPPER_TIMEOUT_S, check=False
        )
    except OSError as error:
        return problem(f"{spoken} cannot be started: {error.strerror}", "mend worker.wrapper, or install its command")
    if done.returncode:
        said = wording.one_line(done.stderr, 300) or f"exit code {done.returncode}"
        return problem(f"{spoken} starts no worker: {said}", "mend worker.wrapper, or grant what it needs")
    return ok(spoken)


def _suite(config: Config) -> Finding:
    device = environment.resolve_device(config)
    return ok(f"{config.suite}: {wording.count(len(suite.load(config.suite, device).cells), 'cell')} on {device}")


def _gpu_state(description: dict[str, Any], state: dict[str, Any]) -> Finding:
    """The first GPU as it stands now."""
    count, clock = description["device_count"], state.get("clock_mhz")
    found = f"{count} x {description['device_name']}, driver {description['driver'] or 'unknown'}"
    if clock is None:
        return warning(f"{found}; its clocks cannot be read", "install nvidia-ml-py, or throttling goes unseen")
    found += f"; now {clock:.0f} MHz, {state['temperature_c'] or 0:.0f} °C, {state['power_w'] or 0:.0f} W"
    if (throttle := state.get("throttle")) is None:
        return warning(f"{found}; what holds its clocks down cannot be read", "throttling goes unseen: see to NVML")
    if throttle:
        return warning(f"{found}, held down by {', '.join(throttle)}", "see to cooling, power and other users of it")
    return ok(found)


# ---- git, disk ----------------------------------------------------------------------------------------------


def _git(config: Config) -> Finding:
    where = git.check_repo(config.repo, _GIT_TIMEOUT_S, config.nights.branch)
    return ok(f"can read {where}" + (f", branch {config.nights.branch}" if config.nights.branch else ""))


def _nearest(path: Path) -> Path:
    """`path`, or the first directory above it that is there."""
    return next(place for place in (path.absolute(), *path.absolute().parents) if place.exists())


def _disk(config: Config) -> Finding:
    free = shutil.disk_usage(_nearest(config.home)).free
    found = f"{free / (1 << 30):.1f} GiB free at {config.home}"
    if free >= _WARNING_BYTES:
        return ok(found)
    tell = problem if free < _PROBLEM_BYTES else warning
    return tell(found, "make room (`fp8bench prune` removes what is old), or set home to another disk")


def _write(config: Config) -> Finding:
    """A file is made and gone again where nights are written, or where their directory would be made."""
    place = _nearest(config.home)
    wanted = [entry for entry in (config.home, config.runs_dir, config.builds_dir) if entry.exists()] or [place]
    for directory in wanted:
        try:
            with tempfile.TemporaryFile(dir=directory) as file:
                file.write(b"0" * 4096)
        except OSError as error:
            return problem(f"cannot write to {directory}: {error.strerror}", "grant it to this user, or set home")
    return ok(f"can write to {', '.join(map(str, wanted))}")


# ---- MLflow, mail, Airflow ----------------------------------------------------------------------------------


def _mlflow(config: Config) -> Finding:
    where = store.where(config)
    if importlib.util.find_spec("mlflow") is None:
        return problem("MLflow is not installed", "pip install fp8bench[mlflow]")
    if not store.exists(config):
        return ok(f"{where}: the first night makes it, and sets the baseline")
    accepted = _within(_MLFLOW_TIMEOUT_S, lambda: store.accepted_baselines(config), where)
    told = ", ".join(f"{entry.sha[:9]} for {entry.device_name}" for entry in accepted)
    return ok(f"{where}; baseline {told or 'none yet: the first night sets one'}")


def _within(seconds: float, ask: Callable[[], T], where: str) -> T:
    """What `ask` returns; StoreError when it raises one or takes longer (databases need not time out by themselves)."""
    answers: list[T | StoreError] = []

    def work() -> None:
        try:
            answers.append(ask())
        except StoreError as error:
            answers.append(error)

    thread = Thread(target=work, daemon=True)
    thread.start()
    thread.join(seconds)
    if not answers:
        raise StoreError(f"{where} gave no answer in {seconds:.0f} s: check mlflow.tracking_uri and the server.")
    if isinstance(answers[0], StoreError):
        raise answers[0]
    return answers[0]


def _mail(config: Config) -> Finding:
    """Connect and greet, with the encryption that is set; nobody logs in and nothing is sent."""
    mail = config.mail
    if reason := smtp.why_not(config):
        return warning(f"{reason}: mails stay in the outbox of their night", _NO_MAIL)
    where = f"{mail.host}:{mail.port}"
    try:
        with smtp.connect(mail) as client:
            code, _ = client.ehlo()
    except (OSError, smtplib.SMTPException) as error:
        said = wording.one_line(str(error) or type(error).__name__, 200)
        return problem(
            f"{where} does not answer as a mail host: {said}", "check mail.host, mail.port and mail.security"
        )
    if code != _SMTP_OK:
        return problem(f"{where} refuses EHLO with {code}", "ask who runs it, or set mail.host to another")
    return ok(f"{where} answers ({mail.security}), mails go to {', '.join(mail.about_kernels)}")


def _airflow(config: Config) -> Finding:
    if importlib.util.find_spec("airflow") is None:
        return warning("not installed: nights run by `fp8bench nightly` only", "pip install fp8bench[airflow]")
    if not (dags := sorted(_DAGS.glob("*.py"))):
        return warning(f"installed, but there is no DAG in {_DAGS}", "take dags/ from a checkout of fp8bench")
    said = _import_dags(dags)
    if "TimetableInvalid" in said:
        schedules = config.airflow.schedule, config.airflow.commits_schedule
        told = f"refuses a schedule, {' or '.join(repr(entry) for entry in schedules if entry)}: {said}"
        advice = 'set airflow.schedule and airflow.commits_schedule to cron expressions, e.g. "0 2 * * *"'
        return problem(told, advice)
    if said:
        return problem(f"a DAG in {_DAGS} cannot be imported: {said}", "mend it, or install what it names")
    return ok(f"imports {_DAGS}; schedule {config.airflow.schedule or 'none'}, pool {config.airflow.pool}")


def _import_dags(dags: Sequence[Path]) -> str:
    """Import and validate DAGs in a process of its own; the last line of its error, or "". Airflow makes no files."""
    with tempfile.TemporaryDirectory(prefix="fp8bench-") as folder:
        variables = {"AIRFLOW_HOME": folder} | dict(os.environ)
        variables["PYTHONPATH"] = os.pathsep.join(filter(None, [str(paths.CHECKOUT), os.environ.get("PYTHONPATH", "")]))
        command = [sys.executable, "-c", _LOOK_AT_DAGS, *map(str, dags)]
        done = subprocess.run(
            command, env=variables, capture_output=True, text=True, timeout=_DAG_TIMEOUT_S, check=False
        )
    if done.returncode == 0:
        return ""
    lines = done.stderr.strip().splitlines()
    return wording.one_line(lines[-1] if lines else f"exit code {done.returncode}", 300)


CHECKS: dict[str, Callable[[Config], Finding]] = {
    "C++ compiler": _cxx,
    "nvcc": _nvcc,
    "torch, triton": _torch,
    "GPU": _gpu,
    "wrapper": _wrapper,
    "suite": _suite,
    "git": _git,
    "disk": _disk,
    "write access": _write,
    "MLflow": _mlflow,
    "mail": _mail,
    "Airflow": _airflow,
}
