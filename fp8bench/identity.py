"""What a case runs: a hash of machine code and launch shape. Cells with the same one in both builds are controls.

On a GPU, calls are captured into a CUDA graph and its kernels are looked up: those of the build's library in
`code-cuda.json`, those of Triton and Inductor among the compiled kernels that are loaded. What decides the parameters
of a kernel counts as well: of a library the host code that computes them and the backend file that calls it, else the
parameters themselves, addresses aside. On a CPU it is the identity of the whole backend.

Whatever cannot be read, or is not known to be complete, gives "": unknown, and equal to nothing.
"""

from __future__ import annotations

import gc
import hashlib
import json
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from . import builds, graphs, machine_code, tensors
from .backends import Backend
from .errors import RunDirError
from .spec import FP8_MAX, Case

CALLS = 2  # in the graph: one alone would not show whether calls overlap
_LEAST_ADDRESS = 1 << 40  # no size, stride or count of a case comes near it, and every address lies above


class Identities:
    """Identities of the cases of one build on the current device.

    device: "cuda" or "cpu". build: its directory.
    """

    def __init__(self, device: str, build: Path) -> None:
        self._device, self._sources = device, build / "backends"
        self._backends = _of_backends(build)
        capability = torch.cuda.get_device_capability() if device == "cuda" else (0, 0)
        self._code = Code(build, capability)

    def of(self, backend: Backend, case: Case) -> str:
        """The identity of what `backend` runs for `case`; "" if unknown."""
        if self._device != "cuda":
            return self._backends.get(backend.name, "")
        try:
            graph = captured(_bound(backend, case))
        except RuntimeError:  # such as too little memory: the case was found correct, and that stands
            return ""
        return self._code.identity(graph, builds.source_identity(self._sources, backend.name)) if graph else ""


def _of_backends(build: Path) -> dict[str, str]:
    try:
        libraries = builds.read_manifest(build).libraries
    except RunDirError:
        return {}
    return {library.backend: library.identity for library in libraries}


def _bound(backend: Backend, case: Case) -> Callable[[], object]:
    x = torch.zeros(case.tokens, case.hidden, dtype=tensors.TORCH_DTYPES[case.dtype], device="cuda")
    codes, scales = tensors.poisoned_outputs(case, "cuda")
    given = torch.full_like(scales, 1 / FP8_MAX) if case.scheme.static else None
    return backend.bind(case.scheme, x, codes, scales, given)


def captured(call: Callable[[], object]) -> graphs.Graph | None:
    """The graph of `CALLS` calls on the current CUDA device; None where it cannot be read. RuntimeError where it cannot
    be captured.
    """
    stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
    graph = torch.cuda.CUDAGraph(keep_graph=True)
    torch.cuda.synchronize()
    with torch.cuda.stream(stream):
        call()  # lazily loaded code may not be loaded inside a capture
        stream.synchronize()
        graph.capture_begin(capture_error_mode="thread_local")
        try:
            results = [call() for _ in range(CALLS)]
        finally:
            graph.capture_end()
        found = graphs.read(graph.raw_cuda_graph())
        del results
    return found


class Code:
    """The machine code of kernels by where they come from.

    build: the directory whose CUDA library counts. capability: of the device, (major, minor).
    """

    def __init__(self, build: Path, capability: tuple[int, int]) -> None:
        self._host, self._kernels = _of_library(build, capability)
        self._loaded: dict[int, str] = {}  # by CUfunction

    def identity(self, graph: graphs.Graph, source: str) -> str:
        """Hash of a graph whose kernels are all known; "" of any other. source: hash of the backend's own file."""
        parts: list[object] = [graph.edges]
        for kernel in graph.kernels:
            if not (code := self._of(kernel, source)):
                return ""
            parts.append((code, kernel.grid, kernel.block, kernel.cluster, kernel.shared))
        return hashlib.sha256(repr(parts).encode()).hexdigest() if graph.kernels else ""

    def _of(self, kernel: graphs.Kernel, source: str) -> str:
        """Machine code of a kernel and what decides its parameters; "" if unknown."""
        if code := self._kernels.get(kernel.name):
            return f"{code} {self._host} {source}"
        if kernel.function not in self._loaded:
            self._loaded |= _loaded_kernels()
        code = self._loaded.get(kernel.function)
        if not code or kernel.parameters is None:
            return ""
        return f"{code} {[_without_address(value).hex() for value in kernel.parameters]}"


def _of_library(build: Path, capability: tuple[int, int]) -> tuple[str, Mapping[str, str]]:
    """Hash of the host code, and those of the kernels that `capability` runs; nothing where the build has none."""
    try:
        stored = json.loads((build / "code-cuda.json").read_bytes())
        by_architecture: dict[str, dict[str, str]] = stored["kernels"]
        major, minor = capability
        fitting = [name for name in by_architecture if major * 10 <= int(name) <= major * 10 + minor]
        return str(stored["host"]), by_architecture[max(fitting, key=int)] if fitting else {}
    except (OSError, ValueError, KeyError, TypeError):
        return "", {}


def _without_address(value: bytes) -> bytes:
    """A parameter that is an address, blanked: where buffers lie differs from process to process."""
    is_address = len(value) == 8 and int.from_bytes(value, "little") >= _LEAST_ADDRESS
    return b"address" if is_address else value


# What holds a loaded kernel, in the releases of Triton and torch that there are: module, class.
_COMPILED = (
    ("triton.compiler.compiler", "CompiledKernel"),
    ("torch._inductor.runtime.static_cuda_launcher", "StaticallyLaunchedCudaKernel"),
    ("torch._inductor.runtime.static_triton_launcher", "StaticallyLaunchedCudaKernel"),
)


def _loaded_kernels() -> dict[int, str]:
    """Hash of each compiled kernel that Triton or Inductor has loaded, by its CUfunction."""
    classes = [getattr(sys.modules.get(module), name, None) for module, name in _COMPILED]
    present = tuple(found for found in classes if isinstance(found, type))
    loaded = {}
    for value in gc.get_referrers(*present):  # an object refers to its class
        if isinstance(value, present) and isinstance(function := getattr(value, "function", None), int):
            codes = set(machine_code.kernels(_cubin(value)).values())
            if len(codes) == 1:
                loaded[function] = codes.pop()
    return loaded


def _cubin(kernel: Any) -> bytes:
    """The cubin that a compiled kernel was loaded from; b"" where it is not to be had."""
    asm, path, raw = (getattr(kernel, name, None) for name in ("asm", "cubin_path", "cubin_raw"))
    code = asm.get("cubin") if isinstance(asm, Mapping) else raw
    if isinstance(code, bytes):
        return code
    try:
        return Path(path).read_bytes() if isinstance(path, str) else b""
    except OSError:
        return b""
