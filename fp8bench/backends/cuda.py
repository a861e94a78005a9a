"""CUDA C++ kernels of `csrc/cuda`, for NVIDIA GPUs of compute capability 8.0 and above."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from fp8bench.spec import Case, Scheme

from ._native import NativeError, NativeLibrary, architectures_of, arguments, find_library, laid_out_like

LEAST_CAPABILITY = (8, 0)


def _runs(architecture: str, capability: tuple[int, int]) -> bool:
    """Whether machine code for sm_`architecture` runs there: on its own major capability, from its minor one on."""
    major, minor = divmod(int(architecture.rstrip("af")), 10)
    return major == capability[0] and minor <= capability[1]


class CudaBackend:
    """architectures: XX of each sm_XX that `library` has machine code for; () where that is not known."""

    name = "cuda"

    def __init__(self, library: NativeLibrary | None, architectures: tuple[str, ...] = ()) -> None:
        self._library, self._architectures = library, architectures

    def supports(self, case: Case, device: str) -> str | None:
        if torch.device(device).type != "cuda":
            return f"the CUDA kernels run on an NVIDIA GPU, not on {device}"
        if self._library is None:
            return "the build has no CUDA library"
        if not torch.cuda.is_available():
            return "PyTorch finds no NVIDIA GPU here"
        if (capability := torch.cuda.get_device_capability(device)) < LEAST_CAPABILITY:
            return "the CUDA kernels need compute capability {}.{}, this GPU has {}.{}".format(
                *LEAST_CAPABILITY, *capability
            )
        if self._architectures and not any(_runs(name, capability) for name in self._architectures):
            return 'the build has code for {}, which does not run here: add "{}{}" to build.architectures'.format(
                ", ".join(f"sm_{name}" for name in self._architectures), *capability
            )
        return case.scheme.why_not(case.hidden)

    def _loaded(self) -> NativeLibrary:
        if self._library is None:
            raise NativeError("the build has no CUDA library: see its build.json for the compiler's words.")
        return self._library

    def workspace_bytes(self, scheme: Scheme, x: Tensor) -> int:
        return self._loaded().workspace_bytes(arguments(scheme, x, x, x))

    def bind(
        self,
        scheme: Scheme,
        x: Tensor,
        codes: Tensor,
        scales: Tensor,
        scale: Tensor | None = None,
        scale_ub: Tensor | None = None,
        workspace: Tensor | None = None,
    ) -> Callable[[], tuple[Tensor, Tensor]]:
        quantize = self._loaded().quantize
        given = None if scale is None else laid_out_like(scale, scales)
        bound = None if scale_ub is None else scale_ub.float()
        result = codes, scales if given is None else given
        args = arguments(scheme, x, codes, scales, given, bound)
        if workspace is None and given is None:  # one of this call alone: calls on several streams must not share one
            workspace = torch.zeros(self._loaded().workspace_bytes(args), dtype=torch.uint8, device=x.device)
        args.workspace = None if workspace is None else workspace.data_ptr()
        device = x.device

        def call(_alive: tuple[Tensor | None, ...] = (x, bound, workspace)) -> tuple[Tensor, Tensor]:
            with torch.cuda.device(device):
                args.stream = torch.cuda.current_stream(device).cuda_stream  # another one while a graph is captured
                quantize(args)
            return result

        return call


def create(build: Path) -> CudaBackend:
    library = find_library(build, "cuda")
    return CudaBackend(None if library is None else NativeLibrary(library), architectures_of(build))
