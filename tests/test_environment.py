"""The machine as workers see it, and the device that follows from it."""

from __future__ import annotations

import os
import platform
import sys
from importlib import metadata
from pathlib import Path

import pytest

from fp8bench import __version__, devices, environment
from fp8bench.config import Config, WorkerSettings
from fp8bench.environment import read_environment, resolve_device
from fp8bench.errors import UsageError, WorkerError


def _config(home: Path, device: str, python: str = sys.executable) -> Config:
    return Config(home=home, device=device, worker=WorkerSettings(python=python))


def test_a_real_worker_describes_this_machine() -> None:
    machine = read_environment("cpu", sys.executable)
    assert machine.device == "cpu"
    assert machine.host == platform.node()
    assert machine.device_name == machine.cpu != ""
    assert machine.device_count == os.cpu_count()
    assert machine.l2_bytes > 0
    assert machine.versions["torch"] == metadata.version("torch")
    assert machine.versions["fp8bench"] == __version__
    assert {"python", "c++"} <= set(machine.versions)
    assert read_environment("cpu", sys.executable) == machine


def test_the_cpu_is_chosen_without_asking_a_worker(tmp_path: Path) -> None:
    assert resolve_device(_config(tmp_path, "cpu", "/no/python")) == "cpu"


def test_auto_is_the_cpu_where_no_driver_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "DRIVER_FILES", (str(tmp_path / "none"),))
    assert resolve_device(_config(tmp_path, "auto", "/no/python")) == "cpu"
    with pytest.raises(UsageError, match=r"'cuda': .* can use no GPU \(there is no NVIDIA driver\). .* set device to"):
        resolve_device(_config(tmp_path, "cuda", "/no/python"))


def test_a_driver_without_a_usable_gpu_is_no_silent_night_on_the_cpu(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The worker is asked for real; here it has no GPU, as with a CPU build of torch beside a driver."""
    monkeypatch.setattr(devices, "DRIVER_FILES", (str(tmp_path),))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    environment._look.cache_clear()
    try:
        assert resolve_device(_config(tmp_path, "cpu")) == "cpu"
        why = r"there is a driver, but (Assertion|Runtime)Error: .*CUDA"  # torch's own words
        for device in ("auto", "cuda"):
            with pytest.raises(UsageError, match=rf"'{device}': .* can use no GPU \({why}.*\)\. Mend the driver"):
                resolve_device(_config(tmp_path, device))
    finally:
        environment._look.cache_clear()


def test_an_interpreter_that_is_not_there_is_named() -> None:
    with pytest.raises(WorkerError, match="cannot start a worker with /no/python"):
        read_environment("cpu", "/no/python")
