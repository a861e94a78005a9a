"""One night a device at a time, on real locks of real processes."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from fp8bench import devices
from fp8bench.errors import WorkerError

HOLD = """
import sys
from pathlib import Path
from fp8bench import devices
with devices.held("cuda", 1, Path(sys.argv[1]), 0):
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(devices.tempfile, "tempdir", str(tmp_path))
    monkeypatch.setenv("TMPDIR", str(tmp_path))
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


def test_locks_lie_where_no_name_can_lead_elsewhere(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "../../etc/x")
    assert devices.lock_file("cuda", 0, home).parent == home
    (home / "elsewhere").write_text("")
    devices.lock_file("cuda", 0, home).symlink_to(home / "elsewhere")
    with pytest.raises(WorkerError, match="the lock of the device"), devices.held("cuda", 0, home, 0):
        pytest.fail("a link was followed")
