"""The floor: what moving the bytes takes, for measuring the others against.

A plain cast with a fixed scale that reads every element once and writes every code once, and does nothing else: no
reduction, no scales, no programmatic dependent launch. It is no quantization and nobody's candidate, but a yardstick:
`x / floor` says how much a kernel takes beyond what any kernel must.

Scales are the only bytes of a case that it does not move (0.1% to 2% of them), so one floor serves all granularities
of a size; its cells go by the name of the per-tensor case.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from ctypes import c_int, c_void_p
from pathlib import Path

import torch
from torch import Tensor

from fp8bench.spec import DTYPES, Case, Scheme

from ._native import Arguments, NativeError, NativeLibrary, architectures_of, arguments, find_library
from .cuda import CudaBackend

SCALE = 2.0  # that the cast divides by
VECTOR_BYTES = 16

# The launch shapes that the library offers, in its order: variant = index of vectors * len(THREADS) + index of threads.
VECTORS = (1, 2, 4, 8)  # a thread
THREADS = (64, 128, 256, 512, 1024)  # a block

# Up to so many 16-byte vectors of input: vectors a thread and threads a block. Chosen so that the fewest blocks that
# occupy every multiprocessor of an H200 cover the input in one wave; `ci/gpu/tune_floor.py` measures all the others.
SHAPES = (
    (16384, 1, 256),
    (32768, 1, 512),
    (131072, 1, 256),
    (262144, 1, 1024),
    (917504, 2, 256),
    (1 << 62, 2, 1024),
)


def choose_variant(elements: int, element_bytes: int) -> int:
    """Number of the launch shape for an input of that size: by size alone, so the same in every build and launch."""
    vectors = elements * element_bytes // VECTOR_BYTES
    _, a_thread, threads = next(entry for entry in SHAPES if vectors <= entry[0])
    return VECTORS.index(a_thread) * len(THREADS) + THREADS.index(threads)


class FloorLibrary(NativeLibrary):
    """The CUDA library with its floor. variants: how many launch shapes it has."""

    def _declare(self, library: ctypes.CDLL) -> None:
        super()._declare(library)
        self._cast = library.fp8bench_floor
        self._cast.argtypes, self._cast.restype = [c_void_p, c_int], c_int
        self.variants = int(library.fp8bench_floor_variants())

    def cast(self, args: Arguments, variant: int) -> None:
        """Enqueue the cast that `args` describes in one of the launch shapes; NativeError where it is refused."""
        self.require(self._cast(ctypes.byref(args), variant))


class FloorBackend:
    name = "floor"

    def __init__(self, library: FloorLibrary | None, architectures: tuple[str, ...] = ()) -> None:
        self._library = library
        self._cuda = CudaBackend(library, architectures)

    def supports(self, case: Case, device: str) -> str | None:
        """Dynamic per-tensor cases on a GPU, of whole 16-byte vectors: they stand for all cases of their size."""
        if torch.device(device).type != "cuda":
            return f"the floor is measured on an NVIDIA GPU, not on {device}"
        if case.scheme != Scheme.parse("per-tensor"):
            return "the floor is the same for every scheme, and measured as per-tensor"
        if case.tokens * case.hidden * DTYPES[case.dtype] % VECTOR_BYTES:
            return f"{case.tokens} x {case.hidden} elements are not a multiple of {VECTOR_BYTES} bytes"
        return self._cuda.supports(case, device)

    def bind(
        self,
        scheme: Scheme,
        x: Tensor,
        codes: Tensor,
        scales: Tensor,
        scale: Tensor | None = None,
        scale_ub: Tensor | None = None,
        variant: int | None = None,
    ) -> Callable[[], tuple[Tensor, Tensor]]:
        """As any backend's, but codes are those of x / SCALE, SCALE is what is returned and `scales` is not touched.

        x: contiguous. variant: a launch shape for measuring; None for the table's.
        """
        if self._library is None:
            raise NativeError("the build has no CUDA library: see its build.json for the compiler's words.")
        cast, result = self._library.cast, (codes, torch.full((1,), SCALE, device=x.device))
        chosen = choose_variant(x.numel(), x.element_size()) if variant is None else variant
        args = arguments(scheme, x, codes, scales)
        device = x.device

        def call(_alive: Tensor = x) -> tuple[Tensor, Tensor]:
            with torch.cuda.device(device):
                args.stream = torch.cuda.current_stream(device).cuda_stream
                cast(args, chosen)
            return result

        return call


def create(build: Path) -> FloorBackend:
    library = find_library(build, "cuda")
    return FloorBackend(None if library is None else FloorLibrary(library), architectures_of(build))
