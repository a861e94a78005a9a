"""One night a device at a time, on real locks of real processes."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

from fp8bench import devices
from fp8bench.errors import WorkerError
from fp8bench.supervisor.process import worker_environment

HOLD = """
import sys
from pathlib import Path
from fp8bench import devices
devices.LOCKS = Path(sys.argv[1])
with devices.held("cuda", 1, Path(sys.argv[1]), 0):
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(devices, "LOCKS", tmp_path)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,GPU-5c1d")
    return tmp_path


def test_two_nights_never_share_a_gpu_and_the_lock_ends_with_its_holder(home: Path) -> None:
    command = [sys.executable, "-c", HOLD, str(home)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=os.environ) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == b"held\n"
        said: list[str] = []
        with (
            pytest.raises(WorkerError, match="another night has held the device"),
            devices.held("cuda", 1, home, 0.6, said.append),
        ):
            pytest.fail("the GPU was shared")
        assert len(said) == 1
        with devices.held("cuda", 0, home, 0):  # another GPU is free
            pass
        other.kill()
    with devices.held("cuda", 1, home, 5):
        pass


def test_gpus_are_dealt_out_among_the_visible_ones(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert [devices.visible_gpu(index) for index in range(3)] == ["4", "GPU-5c1d", "4"]
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    assert devices.visible_gpu(2) == "2"


class _Nvml(ModuleType):
    """Three GPUs, of which the second does not answer."""

    NVMLError = OSError
    uuids = ("GPU-5c1d02aa-1", None, "GPU-7f1f42a5-3")

    def nvmlInit(self) -> None: ...

    def nvmlShutdown(self) -> None: ...

    def nvmlDeviceGetCount(self) -> int:
        return len(self.uuids)

    def nvmlDeviceGetHandleByIndex(self, index: int) -> int:
        return index

    def nvmlDeviceGetUUID(self, handle: int) -> str:
        if (uuid := self.uuids[handle]) is None:
            raise self.NVMLError
        return uuid


@pytest.mark.parametrize(
    ("visible", "index", "name"),
    [
        (None, 0, "GPU-5c1d02aa-1"),
        ("0", 0, "GPU-5c1d02aa-1"),
        ("GPU-5c1d", 0, "GPU-5c1d02aa-1"),
        ("GPU-5c1d02aa-1", 0, "GPU-5c1d02aa-1"),
        ("2,0", 1, "GPU-5c1d02aa-1"),
        ("GPU", 0, "GPU"),  # of several
        ("1", 0, "1"),
        ("7", 0, "7"),
        ("MIG-5c1d", 0, "MIG-5c1d"),
    ],
)
def test_a_gpu_has_one_lock_whatever_it_is_called(
    home: Path, monkeypatch: pytest.MonkeyPatch, visible: str | None, index: int, name: str
) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", _Nvml("pynvml"))
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert devices.lock_file("cuda", index, home / "any") == home / f"fp8bench-gpu-{name}.lock"


def test_workers_count_gpus_as_their_locks_do(home: Path) -> None:
    env = worker_environment("cuda", gpu_index=0)
    assert (env["CUDA_VISIBLE_DEVICES"], env["CUDA_DEVICE_ORDER"]) == ("4", "PCI_BUS_ID")


def test_every_environment_of_a_machine_looks_for_locks_in_one_place(tmp_path: Path) -> None:
    command = [sys.executable, "-c", "from fp8bench import devices; print(devices.lock_file('cuda', 0, None).parent)"]
    places = {subprocess.check_output(command, env=os.environ | {"TMPDIR": str(place)}) for place in (tmp_path, "/tmp")}
    assert places == {b"/tmp\n"}


def test_a_lock_can_be_taken_by_other_users_whatever_the_umask(home: Path) -> None:
    before = os.umask(0o077)
    try:
        with devices.held("cuda", 0, home, 0):
            pass
    finally:
        os.umask(before)
    assert stat.S_IMODE(devices.lock_file("cuda", 0, home).stat().st_mode) == 0o644


def test_locks_lie_where_no_name_can_lead_elsewhere(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "../../etc/x")
    assert devices.lock_file("cuda", 0, home).parent == home
    (home / "elsewhere").write_text("")
    devices.lock_file("cuda", 0, home).symlink_to(home / "elsewhere")
    with pytest.raises(WorkerError, match="the lock of the device"), devices.held("cuda", 0, home, 0):
        pytest.fail("a link was followed")
