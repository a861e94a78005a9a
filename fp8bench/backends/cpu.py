"""C++ kernels of `csrc/cpu` on one thread of the host."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from torch import Tensor

from fp8bench.spec import Case, Scheme

from ._native import NativeError, NativeLibrary, arguments, find_library, laid_out_like


class CpuBackend:
    name = "cpu"

    def __init__(self, library: NativeLibrary | None) -> None:
        self._library = library

    def supports(self, case: Case, device: str) -> str | None:
        if device != "cpu":
            return f"the C++ kernels run on the CPU, not on {device}"
        return None if self._library else "the build has no CPU library"

    def bind(
        self,
        scheme: Scheme,
        x: Tensor,
        codes: Tensor,
        scales: Tensor,
        scale: Tensor | None = None,
        scale_ub: Tensor | None = None,
    ) -> Callable[[], tuple[Tensor, Tensor]]:
        if self._library is None:
            raise NativeError("the build has no CPU library: see its build.json for the compiler's words.")
        quantize = self._library.quantize
        given = None if scale is None else laid_out_like(scale, scales)
        bound = None if scale_ub is None else scale_ub.float()
        result = codes, scales if given is None else given
        args = arguments(scheme, x, codes, scales, given, bound)

        def call(_alive: tuple[Tensor | None, ...] = (x, bound)) -> tuple[Tensor, Tensor]:
            quantize(args)
            return result

        return call


def create(build: Path) -> CpuBackend:
    library = find_library(build, "cpu")
    return CpuBackend(None if library is None else NativeLibrary(library))
