"""FP8 quantization in plain PyTorch, compiled by `torch.compile`: the reference that speedups are over.

The formula stands here once, as functional code: the layer runs it eagerly, the backend compiles it. A compiler
owns the arithmetic (it may turn a division into a multiplication), so a compiled result may differ from the
oracle by one code step and its scales by 2 ulp; `fp8bench.checks` bounds that.

Every bound call has a code object of its own, so nothing that was compiled (or tuned) for one size is reused for
another, and no limit on recompilations is ever met.
"""

from __future__ import annotations

import os
import shutil
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fp8bench.spec import FP8_MAX, MIN_SCALE, Case, Scheme

_SMALLEST_ABSMAX = 1.0 / 512.0  # FP8_MAX * MIN_SCALE, exactly
_MANTISSA_OF_FP8_MAX = 0x600000  # 448 = 1.75 * 2**8
_EXPONENT_OF_FP8_MAX = 8 << 23


def _power_of_two_scale(absmax: Tensor) -> Tensor:
    """The smallest power of two not below absmax / 448, from the bits of `absmax`: no rounding for a compiler to own.

    With absmax = m * 2**e, 1 <= m < 2, it is 2**(e - 8) if m <= 1.75, else 2**(e - 7).
    """
    bits = absmax.clamp(min=_SMALLEST_ABSMAX).view(torch.int32)
    rounded = (bits + (0x7FFFFF - _MANTISSA_OF_FP8_MAX)) & 0x7F800000
    return torch.where(absmax.isfinite(), (rounded - _EXPONENT_OF_FP8_MAX).view(torch.float32), absmax)


def _dynamic_scales(groups: Tensor, scheme: Scheme, scale_ub: Tensor | None) -> Tensor:
    """Scales of `groups` (rows, groups, N) in float32.  # (rows, groups, 1)"""
    absmax = groups.abs().amax(dim=-1, keepdim=True)  # NaN stays NaN
    if scale_ub is not None:
        absmax = torch.minimum(absmax, scale_ub)
    if scheme.ue8m0:
        return _power_of_two_scale(absmax)
    return (absmax / FP8_MAX).clamp(min=MIN_SCALE)


def _laid_out(scales: Tensor, scheme: Scheme, tokens: int, hidden: int) -> Tensor:
    """`scales` with the scheme's shape and strides."""
    scales = scales.reshape(scheme.scale_shape(tokens, hidden))
    if not scheme.column_major:
        return scales
    return scales.t().reshape(-1).view(-1, tokens).t()  # through one dimension: exact strides for one token too


def quantize(
    x: Tensor, scheme: Scheme, scale: Tensor | None = None, scale_ub: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Codes (tokens, hidden) in float8_e4m3fn and float32 scales of `x` (tokens, hidden), tokens >= 1.

    scale: the given scales of a static scheme, in the scheme's shape; they are returned as they are.
    scale_ub: float32 scalar tensor, an upper bound of absmax.
    """
    tokens, hidden = x.shape
    size = scheme.group_shape.col
    extent = (1, 1, -1) if scheme.group_shape.is_per_tensor() else (tokens, -1, hidden if size == -1 else size)
    groups = x.float().reshape(extent)
    scales = _dynamic_scales(groups, scheme, scale_ub) if scale is None else scale.reshape(*groups.shape[:2], 1)
    # Clamp first: some releases of torch cast what is out of range to NaN, others saturate.
    codes = (groups / scales).clamp(-FP8_MAX, FP8_MAX).to(torch.float8_e4m3fn).reshape(tokens, hidden)
    codes = codes.contiguous()  # those of a transposed `x` are not yet
    return codes, (_laid_out(scales, scheme, tokens, hidden) if scale is None else scale)


def _inductor_options() -> dict[str, Any]:
    """Choices that do not change from process to process, as far as this release of torch offers them."""
    import torch._inductor.config as config

    wanted = {"deterministic": True, "max_autotune": False, "coordinate_descent_tuning": False}
    options: dict[str, Any] = {name: value for name, value in wanted.items() if hasattr(config, name)}
    return {**options, "cpp.threads": torch.get_num_threads()}  # said aloud, so that caches tell them apart


def _compiled(scheme: Scheme, name: str) -> Callable[..., tuple[Tensor, Tensor]]:
    """A freshly compiled `quantize` of `scheme`: its code object is new, so it shares no compile cache entry."""

    def run(x: Tensor, scale: Tensor | None, scale_ub: Tensor | None) -> tuple[Tensor, Tensor]:
        return quantize(x, scheme, scale, scale_ub)

    code = run.__code__.replace(co_name=name)
    fresh = types.FunctionType(code, run.__globals__, name, None, run.__closure__)
    compiled: Callable[..., tuple[Tensor, Tensor]] = torch.compile(
        fresh, fullgraph=True, dynamic=False, options=_inductor_options()
    )
    return compiled


class TorchBackend:
    name = "torch"

    def __init__(self) -> None:
        self._runs: dict[object, Callable[..., tuple[Tensor, Tensor]]] = {}

    def _run(self, scheme: Scheme, x: Tensor, scale_ub: Tensor | None) -> Callable[..., tuple[Tensor, Tensor]]:
        """Compiled once for an exact size and layout, however many buffer sets it is bound to."""
        key = (scheme, x.dtype, x.shape, x.stride(), x.device, scale_ub is None, torch.get_num_threads())
        if key not in self._runs:
            tokens, hidden = x.shape
            self._runs[key] = _compiled(scheme, f"quantize_{scheme.name.replace('-', '_')}_{tokens}x{hidden}")
        return self._runs[key]

    def supports(self, case: Case, device: str) -> str | None:
        if device == "cuda":
            if not torch.cuda.is_available():
                return "torch sees no CUDA device"
            major, minor = torch.cuda.get_device_capability()
            return (
                None if (major, minor) >= (8, 9) else f"Inductor needs sm_89 for float8_e4m3fn, not sm_{major}{minor}"
            )
        compiler = os.environ.get("CXX", "g++")
        return (
            None if shutil.which(compiler.split()[0]) else f"Inductor needs a C++ compiler, and {compiler} is not here"
        )

    def bind(
        self,
        scheme: Scheme,
        x: Tensor,
        codes: Tensor,
        scales: Tensor,
        scale: Tensor | None = None,
        scale_ub: Tensor | None = None,
    ) -> Callable[[], tuple[Tensor, Tensor]]:
        """Compiles for this very size and runs once. The call returns tensors of its own, not `codes`, `scales`."""
        run = self._run(scheme, x, scale_ub)
        run(x, scale, scale_ub)
        return lambda: run(x, scale, scale_ub)


def create(build: Path) -> TorchBackend:
    """`build` is not needed: the kernels are generated by torch."""
    return TorchBackend()
