"""Build, load and call the CUDA library on a machine with a GPU; needs torch and nvcc, and of fp8bench no more than
its specification, oracle and backend files."""

from __future__ import annotations

import ctypes
import importlib
import shutil
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from fp8bench import backends  # noqa: E402
from fp8bench.spec import Scheme  # noqa: E402

NO_PDL = 1
TWO_KERNELS, ONE_WARP, ONE_GRID, LARGE_CLUSTER, ONE_RING, ONE_BLOCK = 15, 14, 13, 12, 11, 1
STARTS = {"at once": 1, "behind loads": 2}


def forced(
    vectors: int = 0, threads: int = 0, cluster: int = 0, start: str = "", maxima: int = 0, maxima_vectors: int = 0
) -> int:
    """Flags that force a launch shape; see csrc/fp8bench.h."""
    return (
        vectors << 8
        | threads // 32 << 16
        | cluster << 24
        | STARTS.get(start, 0) << 28
        | maxima << 4
        | maxima_vectors << 2
    )


def build(directory: Path) -> Path:
    """Compile the CUDA library for the GPU of this machine into a build directory."""
    shutil.rmtree(directory, ignore_errors=True)
    shutil.copytree(ROOT / "fp8bench" / "backends", directory / "backends")
    major, minor = torch.cuda.get_device_capability()
    flags = ["-O3", "-std=c++17", f"-arch=sm_{major}{minor}", "-Xcompiler=-fPIC,-fvisibility=hidden"]
    flags.append('-DFP8BENCH_SOURCE_HASH="local"')
    sources = sorted((ROOT / "csrc" / "cuda").glob("*.cu"))
    objects = [directory / f"{source.stem}.o" for source in sources]
    with ThreadPoolExecutor() as pool:
        list(
            pool.map(
                lambda pair: _nvcc(*flags, "-c", str(pair[0]), "-o", str(pair[1])), zip(sources, objects, strict=True)
            )
        )
    _nvcc("-shared", "-cudart=static", *map(str, objects), "-o", str(directory / "libfp8bench_cuda-local.so"))
    return directory


def _nvcc(*arguments: str) -> None:
    done = subprocess.run(["nvcc", *arguments], capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"nvcc {' '.join(arguments)}:\n{done.stdout}{done.stderr}")


class Kernels:
    """The library of a build directory, called with any flags, beside the backend that users call."""

    def __init__(self, build_directory: Path) -> None:
        self.backend: Any = backends.load("cuda", build_directory)
        self._native = importlib.import_module(f"{type(self.backend).__module__.rpartition('.')[0]}._native")
        self._library = self.backend._library
        if self._library is None:
            raise RuntimeError(f"{build_directory} has no CUDA library.")
        self._raw = ctypes.CDLL(str(self._library.path.resolve()))
        self._raw.fp8bench_floor.argtypes = [ctypes.c_void_p, ctypes.c_int]
        self.floor_variants = int(self._raw.fp8bench_floor_variants())

    def bind(
        self,
        scheme: Scheme,
        x: Tensor,
        codes: Tensor,
        scales: Tensor,
        scale: Tensor | None = None,
        scale_ub: Tensor | None = None,
        flags: int = 0,
    ) -> Callable[[], None]:
        """The call of one quantization with `flags`; as the backend's `bind` otherwise."""
        args = self._native.arguments(scheme, x, codes, scales, scale, scale_ub)
        workspace = torch.zeros(self._library.workspace_bytes(args), dtype=torch.uint8, device=x.device)
        args.workspace, args.flags = workspace.data_ptr(), flags

        def call(_alive: object = (x, codes, scales, scale, scale_ub, workspace)) -> None:
            args.stream = torch.cuda.current_stream().cuda_stream
            self._library.quantize(args)

        return call

    def bind_floor(self, x: Tensor, codes: Tensor, variant: int) -> Callable[[], None]:
        """The call of one cast with a fixed scale."""
        args = self._native.arguments(Scheme.parse("per-tensor"), x, codes, codes)

        def call(_alive: object = (x, codes)) -> None:
            args.stream = torch.cuda.current_stream().cuda_stream
            if status := self._raw.fp8bench_floor(ctypes.byref(args), variant):
                raise RuntimeError(f"floor variant {variant}: status {status}.")

        return call
