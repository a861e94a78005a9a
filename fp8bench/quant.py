"""The `QuantFP8` layer: validate, delegate.

Each backend with kernels of its own is one custom operator of torch (`fp8bench::quantize_cuda`, `_triton`, `_cpu`)
with a fake kernel, so the layer works inside `torch.compile(fullgraph=True)`, whatever the number of tokens.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cache

import torch
from torch import Tensor, nn

from . import backends, paths, tensors
from .backends import Backend
from .backends.torch import quantize as quantize_native
from .errors import UsageError
from .libraries import NATIVE
from .spec import MIN_SCALE, Case, GroupShape, Scheme

Quantized = tuple[Tensor, Tensor]

SMALLEST_POWER = 2.0 ** math.ceil(math.log2(MIN_SCALE))


# ---- operators ----------------------------------------------------------------------------------------------

OPERATORS = ("cuda", "triton", "cpu")  # the other backend, torch, is plain torch code


@cache
def own_backend(name: str) -> Backend:
    """The backend of the sources that fp8bench itself runs from; builds the kernel libraries at first use."""
    if name not in NATIVE:
        return backends.load(name, paths.BACKENDS.parent)
    from .builds import default_build

    return backends.load(name, default_build())


@cache
def _scheme(name: str) -> Scheme:
    return Scheme.parse(name)


def _require(backend: Backend, case: Case, device: str) -> None:
    if reason := backend.supports(case, device):
        raise UsageError(f"backend {backend.name} cannot compute {case.id} on {device}: {reason}.")


def _outputs(x: Tensor, scheme: Scheme) -> Quantized:
    """Uninitialised codes and scales for `x` (tokens, hidden)."""
    tokens, hidden = x.shape
    codes = torch.empty((tokens, hidden), dtype=tensors.FP8, device=x.device)
    return codes, tensors.empty_scales(scheme, tokens, hidden, x.device)


def _empty(x: Tensor, scheme: Scheme) -> Quantized:
    """Codes and scales of no token; per-tensor there still is one scale, the smallest."""
    codes, scales = _outputs(x, scheme)
    return codes, scales.fill_(SMALLEST_POWER if scheme.ue8m0 else MIN_SCALE)


def _rows(x: Tensor) -> Tensor:
    """`x` (tokens, hidden) as the backends take it: rows contiguous, and not overlapping."""
    if x.shape[0] == 1:
        return x.reshape(-1).reshape(1, -1)  # one token may come with any stride
    return x if x.stride(1) == 1 and x.stride(0) >= x.shape[1] else x.contiguous()


def _quantize(name: str, x: Tensor, scale: Tensor | None, scale_ub: Tensor | None, scheme: Scheme) -> Quantized:
    """What the operator of backend `name` does: allocate, bind, call."""
    if x.shape[0] == 0:
        return _empty(x, scheme)
    codes, scales = _outputs(x, scheme)
    if scale is not None:
        scale = scales.copy_(scale)  # a static scheme reads its scales and writes none
    backend = own_backend(name)
    _require(backend, Case(scheme, tensors.DTYPE_NAMES[x.dtype], *x.shape), x.device.type)
    with torch.cuda.device_of(x):  # type: ignore[no-untyped-call]  # kernels go to the current device
        backend.bind(scheme, _rows(x), codes, scales, scale, scale_ub)()
    return codes, scales


def _operator(name: str) -> Callable[[Tensor, Tensor | None, Tensor | None, str], Quantized]:
    """The custom operator of backend `name`."""

    @torch.library.custom_op(f"fp8bench::quantize_{name}", mutates_args=())
    def quantize(
        x: Tensor, scale: Tensor | None, scale_ub: Tensor | None, scheme: str
    ) -> tuple[Tensor, Tensor]:  # spelled out: torch derives the operator's schema from it
        return _quantize(name, x, scale, scale_ub, _scheme(scheme))

    @quantize.register_fake
    def _(x: Tensor, scale: Tensor | None, scale_ub: Tensor | None, scheme: str) -> Quantized:
        return _outputs(x, _scheme(scheme))

    return quantize


_OPERATORS = {name: _operator(name) for name in OPERATORS}


# ---- layer --------------------------------------------------------------------------------------------------


def _check_padding(num_token_padding: int | None) -> None:
    if num_token_padding is not None and num_token_padding < 1:
        raise UsageError(f"num_token_padding is {num_token_padding}: give at least 1 token, or None for no padding.")


class QuantFP8(nn.Module):
    """Quantizes to float8_e4m3fn with float32 scales: `(x, scale=None, scale_ub=None) -> (quantized, scales)`.

    static: the scales are given with each call instead of computed.
    group_shape: `GroupShape.PER_TENSOR`, `GroupShape.PER_TOKEN` or `GroupShape(1, N)`.
    num_token_padding: the codes get at least that many tokens; those added are zeros. Scales are those of the
        tokens in `x`, without padding.
    column_major_scales: per-group scales with strides (1, tokens).
    use_ue8m0: round dynamic scales up to powers of two; None means no.

    x: (..., hidden) in bf16, fp16 or fp32, any leading dimensions and strides, zero tokens too; `tokens` is the
        product of the leading dimensions.
    scale: float32, for static schemes only: one element per-tensor, else (tokens, 1) or (tokens, groups).
    scale_ub: float32, one element, an upper bound of absmax, on the device of `x`; dynamic per-token only.
    quantized: shape of `x`, contiguous. scales: (1,), (tokens, 1) or (tokens, groups); given ones come back.
    Raises UsageError (a ValueError) for what is not allowed.
    """

    def __init__(
        self,
        static: bool,
        group_shape: GroupShape,
        num_token_padding: int | None = None,
        column_major_scales: bool = False,
        use_ue8m0: bool | None = None,
    ) -> None:
        super().__init__()
        _check_padding(num_token_padding)
        if static and use_ue8m0:
            raise UsageError("use_ue8m0 rounds computed scales, and static ones are given: leave use_ue8m0 off.")
        self.scheme = Scheme(GroupShape(*group_shape), column_major_scales, static, bool(use_ue8m0))
        self.num_token_padding = num_token_padding
        self._scheme_name = self.scheme.name

    def extra_repr(self) -> str:
        padding = f", num_token_padding={self.num_token_padding}" if self.num_token_padding is not None else ""
        return self._scheme_name + padding

    def forward(self, x: Tensor, scale: Tensor | None = None, scale_ub: Tensor | None = None) -> Quantized:
        """The best for the device of `x`: CUDA kernels on a GPU, C++ on a CPU."""
        return self._run(_OPERATORS["cuda" if x.is_cuda else "cpu"], x, scale, scale_ub)

    def forward_cuda(self, x: Tensor, scale: Tensor | None = None, scale_ub: Tensor | None = None) -> Quantized:
        """CUDA kernels; bit-exact with the oracle."""
        return self._run(_OPERATORS["cuda"], x, scale, scale_ub)

    def forward_triton(self, x: Tensor, scale: Tensor | None = None, scale_ub: Tensor | None = None) -> Quantized:
        """Triton kernels; bit-exact with the oracle."""
        return self._run(_OPERATORS["triton"], x, scale, scale_ub)

    def forward_cpu(self, x: Tensor, scale: Tensor | None = None, scale_ub: Tensor | None = None) -> Quantized:
        """C++ kernels on the CPU; bit-exact with the oracle."""
        return self._run(_OPERATORS["cpu"], x, scale, scale_ub)

    def forward_native(self, x: Tensor, scale: Tensor | None = None, scale_ub: Tensor | None = None) -> Quantized:
        """Plain torch code on any device, made to be compiled by torch.compile."""
        return self._run(self._native, x, scale, scale_ub)

    def _native(self, x: Tensor, scale: Tensor | None, scale_ub: Tensor | None, _: str) -> Quantized:
        return quantize_native(x, self.scheme, scale, scale_ub) if x.shape[0] else _empty(x, self.scheme)

    def _run(
        self,
        quantize: Callable[[Tensor, Tensor | None, Tensor | None, str], Quantized],
        x: Tensor,
        scale: Tensor | None,
        scale_ub: Tensor | None,
    ) -> Quantized:
        self._check_input(x)
        rows = x.detach().reshape(math.prod(x.shape[:-1]), x.shape[-1])
        scale = self._given_scale(scale, rows)
        scale_ub = self._given_bound(scale_ub, rows)
        codes, scales = quantize(rows, scale, scale_ub, self._scheme_name)
        codes = self._padded(codes, x)
        return codes, (scales if scale is None else scale)

    def _check_input(self, x: Tensor) -> None:
        if x.dtype not in tensors.DTYPE_NAMES:
            raise UsageError(f"x has dtype {x.dtype}: use one of {', '.join(tensors.TORCH_DTYPES)}.")
        if x.dim() < 1 or x.shape[-1] < 1:
            raise UsageError(f"x has shape {tuple(x.shape)}: the last dimension needs at least one element.")
        if reason := self.scheme.why_not(x.shape[-1]):
            raise UsageError(f"{self._scheme_name}: {reason}.")
        if self.num_token_padding is not None and x.dim() != 2:
            raise UsageError(f"x has {x.dim()} dimensions: token padding is for (tokens, hidden) only.")

    def _given_scale(self, scale: Tensor | None, rows: Tensor) -> Tensor | None:
        """`scale` as float32 in the scheme's shape; None for a dynamic scheme."""
        if self.scheme.static != (scale is not None):
            wanted = "needs a given scale" if self.scheme.static else "computes its scales: pass no scale"
            raise UsageError(f"{self._scheme_name} {wanted}.")
        if scale is None:
            return None
        shape = self.scheme.scale_shape(*rows.shape)
        same = scale.numel() == 1 if len(shape) == 1 else tuple(scale.shape) == shape
        if scale.dtype != torch.float32 or not same:
            raise UsageError(f"scale has shape {tuple(scale.shape)} and dtype {scale.dtype}: give {shape} in float32.")
        return scale.detach().reshape(shape) if len(shape) == 1 else scale.detach()

    def _given_bound(self, scale_ub: Tensor | None, rows: Tensor) -> Tensor | None:
        if scale_ub is None:
            return None
        if self.scheme.static or not self.scheme.group_shape.is_per_token():
            raise UsageError(f"scale_ub is for dynamic per-token scales, not {self._scheme_name}: pass none.")
        if scale_ub.numel() != 1 or scale_ub.dtype != torch.float32:
            raise UsageError(f"scale_ub has shape {tuple(scale_ub.shape)}, {scale_ub.dtype}: give one float32 element.")
        if scale_ub.device != rows.device:
            raise UsageError(f"scale_ub is on {scale_ub.device} and x on {rows.device}: put both on one device.")
        return scale_ub.detach().reshape(())

    def _padded(self, codes: Tensor, x: Tensor) -> Tensor:
        """`codes` in the shape of `x`, with zero tokens behind up to `num_token_padding`."""
        if self.num_token_padding is None:
            return codes.reshape(x.shape)
        missing = max(self.num_token_padding - x.shape[0], 0)
        padded = nn.functional.pad(codes.view(torch.uint8), (0, 0, 0, missing))
        return padded.view(tensors.FP8)
