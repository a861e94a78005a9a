"""One night a device at a time: a lock that every night of this machine takes while it checks or times on a GPU.

Pools of a scheduler keep its own nights apart; the lock also keeps apart nights of several schedulers, homes and users,
and those started by hand: it is named by the GPU's UUID, whatever a night calls the GPU, and lies where all of them
look. It ends with the process that holds it, however that ends. Nights in containers that share a GPU see each other's
locks when they share `/tmp`.
"""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from .errors import WorkerError

LOCKS = Path("/tmp")  # noqa: S108 not $TMPDIR, which differs between users and sessions of a machine
_LOOK_S = 0.5
# Of the NVIDIA driver: Linux, the same without device files, Windows' Linux, Jetson.
DRIVER_FILES = ("/dev/nvidiactl", "/proc/driver/nvidia/version", "/dev/dxg", "/dev/nvhost-ctrl-gpu")


def has_driver() -> bool:
    """False where there is no NVIDIA driver, and so no GPU to ask a worker about or to build for."""
    return any(Path(name).exists() for name in DRIVER_FILES)


def visible_gpu(index: int) -> str:
    """The GPU that a worker for shard `index` is given, as CUDA names it: those visible here are dealt out in turn."""
    visible = [entry.strip() for entry in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if entry.strip()]
    return visible[index % len(visible)] if visible else str(index)


def lock_file(device: str, index: int, home: Path) -> Path:
    """A GPU's lock is the machine's; a CPU has room for several nights, so that only those of a home wait."""
    if device != "cuda":
        return home / ".cpu.lock"
    gpu = _identity(visible_gpu(index), _uuids())
    name = "".join(character if character.isalnum() or character in "-_" else "-" for character in gpu)
    return LOCKS / f"fp8bench-gpu-{name}.lock"


def _identity(gpu: str, uuids: Sequence[str]) -> str:
    """The UUID of what CUDA_VISIBLE_DEVICES calls `gpu`, a number or the beginning of a UUID; else the name itself."""
    if gpu.isdecimal():
        return dict(enumerate(uuids)).get(int(gpu)) or gpu
    found = [uuid for uuid in uuids if uuid.startswith(gpu)]
    return found[0] if len(found) == 1 else gpu


def _uuids() -> list[str]:
    """Of the machine's GPUs as NVML counts them, "" of one that does not answer; nothing where there is no NVML."""
    import pynvml

    found: list[str] = []
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        return found
    with suppress(pynvml.NVMLError):
        for index in range(pynvml.nvmlDeviceGetCount()):
            found.append("")
            with suppress(pynvml.NVMLError):
                found[index] = pynvml.nvmlDeviceGetUUID(pynvml.nvmlDeviceGetHandleByIndex(index))
    pynvml.nvmlShutdown()
    return found


@contextmanager
def held(
    device: str, index: int, home: Path, patience_s: float, say: Callable[[str], None] | None = None
) -> Iterator[float]:
    """Hold the lock of a device; wait for it up to `patience_s` seconds, and say so once. Yields the seconds waited.

    WorkerError when another night holds it for longer, or when the lock cannot be taken at all.
    """
    path = lock_file(device, index, home)
    descriptor, began = _open(path), time.monotonic()
    try:
        _take(descriptor, path, patience_s, say)
        yield time.monotonic() - began
    finally:
        os.close(descriptor)


def _open(path: Path) -> int:
    """A descriptor to lock. Another user's file can be locked too, though not written, and no link is followed."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            return os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
        except FileNotFoundError:
            descriptor = os.open(path, os.O_RDONLY | os.O_CREAT | os.O_NOFOLLOW, 0o644)
            os.fchmod(descriptor, 0o644)  # whatever the umask: to lock it, others must be able to read it
            return descriptor
    except OSError as error:
        raise WorkerError(f"cannot open {path}, the lock of the device: {error.strerror}. Remove it.") from None


def _take(descriptor: int, path: Path, patience_s: float, say: Callable[[str], None] | None) -> None:
    deadline = time.monotonic() + patience_s
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > deadline:
                raise WorkerError(
                    f"another night has held the device for {patience_s:.0f} s ({path}): run this again after it."
                ) from None
        else:
            return
        if say:
            say(f"another night measures on this device ({path}): waiting for it")
            say = None
        time.sleep(_LOOK_S)
