"""The machine that measures, asked of a worker process: the control half of fp8bench needs no torch."""

from __future__ import annotations

import tempfile
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

from . import __version__, devices
from .config import Config
from .errors import ToolchainError, UsageError, WorkerError
from .protocol import Device, EnvironmentRequest
from .records import Environment
from .supervisor.process import Death, Worker, worker_environment
from .toolchain import find_cxx, find_nvcc

_TIMEOUT_S = 300.0  # a first import of torch from a cold disk is slow


def _ask(device: Literal["auto", "cuda", "cpu"], python: str, gpu_index: int | None) -> dict[str, Any] | None:
    """A worker's description of the machine; None where it has no such device."""
    return _look(device, python, gpu_index)[0]


@lru_cache
def _look(
    device: Literal["auto", "cuda", "cpu"], python: str, gpu_index: int | None
) -> tuple[dict[str, Any] | None, dict[str, Any]]:
    """A worker's description of the machine, None where it has no such device, and the device's state just then."""
    state: dict[str, Any] = {}
    with tempfile.TemporaryDirectory(prefix="fp8bench-") as folder:
        log = Path(folder) / "environment.log"
        env = worker_environment(device, gpu_index=gpu_index)
        with Worker(python, EnvironmentRequest(device=device), env, log, _TIMEOUT_S, _TIMEOUT_S) as worker:
            for event in worker.events():
                if isinstance(event, Death):
                    raise WorkerError(f"a worker ({python}) could not describe this machine: {event.detail}.")
                if event.event == "state":
                    state = event.result
                if event.event == "result":
                    return event.result, state
    raise WorkerError(f"a worker ({python}) ended without describing this machine.")


def resolve_device(config: Config) -> Device:
    """ "cuda" where the setting asks for it or, left "auto", where there is an NVIDIA driver; else "cpu".

    UsageError where the workers can use no GPU then: a night on the CPU in its place would be fine whatever became of
    the GPU's kernels, night after night.
    """
    if config.device == "cpu" or (config.device == "auto" and not devices.has_driver()):
        return "cpu"
    why = "there is no NVIDIA driver"
    if devices.has_driver():
        description, _ = look_now(config)
        if description["device"] == "cuda":
            return "cuda"
        why = f"there is a driver, but {description['no_gpu']}"
    raise UsageError(
        f"device {config.device!r}: the workers' interpreter {config.worker.python} can use no GPU ({why}). Mend the "
        "driver (after an update, restart the machine), set worker.python to an interpreter with a CUDA build of torch "
        "that it can run, or set device to 'cpu'."
    )


def look_now(config: Config) -> tuple[dict[str, Any], dict[str, Any]]:
    """What a worker sees here, with a GPU where there is one: the machine as in `Environment`, the device's state.

    Where no GPU is used although the setting allows it, the machine has `no_gpu`, the reason. WorkerError where no
    worker can be started or it cannot import what it needs.
    """
    description, state = _look("cpu" if config.device == "cpu" else "auto", config.worker.python, None)
    return description or {}, state


def _compilers() -> dict[str, str]:
    """Versions of the compilers that this machine has: kernels and Inductor's CPU code depend on them."""
    versions = {}
    with suppress(ToolchainError):
        versions["c++"] = find_cxx().version
    with suppress(ToolchainError):
        versions["nvcc"] = find_nvcc().version
    return versions


def read_environment(device: Device, python: str, gpu_index: int | None = None) -> Environment:
    """The machine as the workers of `python` see it.

    UsageError for "cuda" without a GPU; WorkerError where no worker can be started.
    """
    description = _ask(device, python, gpu_index)
    if description is None:
        raise UsageError(f"device 'cuda' was asked for, but the workers' interpreter {python} sees no CUDA GPU.")
    environment = Environment.model_validate(description)
    versions = environment.versions | _compilers() | {"fp8bench": __version__}
    return environment.model_copy(update={"versions": versions})
