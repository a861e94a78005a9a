"""Implementations of FP8 quantization, one file each: `torch`, `cuda`, `triton`, `cpu`.

A backend file belongs to the commit under test: it is loaded from a build directory under a private package
name, two builds side by side in one process. So it imports `fp8bench.spec` (by that absolute name), its
siblings (`from ._native import ...`) and its own kernel language, and nothing else of this project. What it
must offer is `Backend`, made by its function `create(build)`, where `build` is the directory with the kernel
libraries (backends without one ignore it).

To add a backend: write `backends/<name>.py` and add its name to `NAMES`; one that is called otherwise than its name has
a title in `TITLES`. A yardstick is a file like any other and has its name in `YARDSTICKS`.
"""

from __future__ import annotations

import hashlib
import importlib
import sys
import types
from collections.abc import Callable, Sequence
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from ..errors import UsageError
from ..spec import Case, GroupShape, Scheme

if TYPE_CHECKING:
    from torch import Tensor

INTERFACE = 1  # counts changes of `Backend`; build.json records it, and other versions are refused

NAMES = ("torch", "cuda", "triton", "cpu")
FLOOR = "floor"  # what moving the bytes takes
YARDSTICKS = (FLOOR,)  # loaded and timed like backends, to measure these against: never judged, in no speedup
EVERY = (*NAMES, *YARDSTICKS)
TITLES = {"torch": "Torch (Compiled)", "cuda": "CUDA", "triton": "Triton", "cpu": "CPU", "floor": "Floor"}
REFERENCE = "torch"  # speedups are over this one
CHECKED_ONLY = {("triton", "cpu"): "Triton runs through its interpreter on a CPU: checked, and not worth timing"}


class Backend(Protocol):
    """One implementation, bound to the kernels of one build."""

    name: str

    def supports(self, case: Case, device: str) -> str | None:
        """Why this backend cannot compute `case` on `device` ("cuda" or "cpu") here, or None."""
        ...

    def bind(
        self,
        scheme: Scheme,
        x: Tensor,
        codes: Tensor,
        scales: Tensor,
        scale: Tensor | None = None,
        scale_ub: Tensor | None = None,
    ) -> Callable[[], tuple[Tensor, Tensor]]:
        """Prepare one quantization and return the call that performs it.

        x: (tokens, hidden), last dimension contiguous, tokens >= 1. codes: (tokens, hidden) float8_e4m3fn.
        scales: float32 with the scheme's shape and strides. scale: given scales of a static scheme.
        The call enqueues the work on the current stream and nothing else: no allocation, no synchronisation,
        no check. `bind` itself may enqueue work on the stream that is current then: calls on another one must come
        behind it. It returns where the result lies: `codes` and `scales` themselves, or (torch) tensors of its
        own. Everything slow (compilation, workspaces, pointers) happens in `bind`.
        """
        ...


@runtime_checkable
class TakesWorkspace(Protocol):
    """A backend some of whose calls need memory beside their results, and whose `bind` takes it as `workspace`."""

    def workspace_bytes(self, scheme: Scheme, x: Tensor) -> int:
        """Bytes of the workspace of one dynamic quantization of `x`; 0 where it needs none.

        `bind(..., workspace=...)` takes at least as many, uint8, on the device of `x`, filled with zeros before the
        first call, and again whenever calls of another build have used it. Calls that can run at the same time need
        one each. Without, `bind` allocates one for its call alone.
        """
        ...


def workspace_bytes(backend: Backend, scheme: Scheme, x: Tensor) -> int:
    """Bytes of the workspace that `backend` can be given for `scheme` and `x`; 0 where it takes none."""
    return backend.workspace_bytes(scheme, x) if isinstance(backend, TakesWorkspace) else 0


def check_name(name: str, allowed: Sequence[str] = NAMES) -> str:
    if name not in allowed:
        raise UsageError(f"unknown backend {name!r}: use one of {', '.join(allowed)}.")
    return name


def yardstick_case(case: Case) -> Case:
    """The case that a yardstick measures in place of `case`: it depends on size and dtype alone."""
    return Case(Scheme(GroupShape.PER_TENSOR), case.dtype, case.tokens, case.hidden)


@lru_cache
def _package(directory: Path) -> str:
    """Name of the private package whose modules are the backend files in `directory`."""
    name = f"_fp8bench_{hashlib.sha256(str(directory).encode()).hexdigest()[:16]}"
    package = types.ModuleType(name, f"Backend files of {directory}")
    package.__path__ = [str(directory)]
    sys.modules[name] = package
    return name


def load(name: str, build: Path) -> Backend:
    """The backend `name` with the sources (`backends/`) and libraries of the build directory `build`."""
    package = _package((build / "backends").resolve())
    backend: Backend = importlib.import_module(f"{package}.{check_name(name, EVERY)}").create(build)
    return backend
