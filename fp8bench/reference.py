"""The oracle: one slow, plain definition of FP8 quantization for any group shape.

    scale = max(absmax / 448, 1 / (448 * 512))                 float32
    code  = round_to_nearest_even(clamp(x / scale, -448, 448))  float32, true IEEE division

The same for every granularity; column-major scales differ in memory order only. A NaN in a group makes its
scale and its codes NaN. An infinite absmax makes the scale infinite, finite elements 0 and infinite ones NaN.
Every NaN code is 0x7F. `scale_ub` bounds absmax (per-token). Power-of-two (ue8m0) scales are the scale above
rounded up to the next power of two, exactly.

The rounding uses a table of the 127 finite magnitudes in float64 and no library's cast: torch 2.11 casts
overflow to NaN, torch 2.13 saturates, Triton's interpreter loses carries and ties.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .errors import UsageError
from .spec import FP8_MAX, MIN_SCALE, Scheme

NAN_CODE = 0x7F


def _magnitudes() -> Tensor:
    """The finite magnitudes of float8_e4m3fn in float64, indexed by code.  # (127,)"""
    code = torch.arange(NAN_CODE, dtype=torch.int64)
    exponent, mantissa = code >> 3, (code & 7).double()
    subnormal = mantissa / 8 * 2.0**-6
    normal = (1 + mantissa / 8) * torch.exp2(exponent.double() - 7)
    return torch.where(exponent == 0, subnormal, normal)


MAGNITUDES = _magnitudes()


def _boundaries() -> Tensor:
    """Largest float64 that still rounds to code k and not to k + 1.  # (126,)

    A tie goes to the even code: for odd k the midpoint itself belongs to k + 1.
    """
    middle = (MAGNITUDES[:-1] + MAGNITUDES[1:]) / 2
    below = torch.nextafter(middle, torch.zeros_like(middle))
    odd = torch.arange(len(middle)) % 2 == 1
    return torch.where(odd, below, middle)


BOUNDARIES = _boundaries()


def decode(codes: Tensor) -> Tensor:
    """Values of float8_e4m3fn codes (uint8, any shape) in float64."""
    magnitude = torch.cat([MAGNITUDES, MAGNITUDES.new_tensor([torch.nan])])[(codes & 0x7F).long()]
    return torch.where(codes >= 0x80, -magnitude, magnitude)


def encode(y: Tensor) -> Tensor:
    """Codes (uint8) of the float8_e4m3fn values nearest to `y` (float32, any shape), ties to even.

    Saturates at +-448; NaN becomes 0x7F; the sign of a zero is kept.
    """
    magnitude = y.double().abs().clamp(max=FP8_MAX)
    code = torch.bucketize(magnitude.contiguous(), BOUNDARIES)  # number of boundaries strictly below
    code = code + 0x80 * torch.signbit(y)
    return torch.where(y.isnan(), NAN_CODE, code).to(torch.uint8)


def round_up_to_power_of_two(scale: Tensor) -> Tensor:
    """The smallest power of two that is not below `scale` (float32, positive); inf and NaN stay."""
    mantissa, exponent = torch.frexp(scale)  # scale = mantissa * 2**exponent, 0.5 <= mantissa < 1
    exponent = exponent - (mantissa == 0.5).to(exponent.dtype)
    rounded = torch.ldexp(torch.ones((), dtype=torch.float64), exponent.double()).float()
    return torch.where(scale.isfinite(), rounded, scale)


def _grouped(x: Tensor, scheme: Scheme) -> Tensor:
    """`x` (tokens, hidden) with the elements of each scale in the last dimension.  # (tokens or 1, groups, N)"""
    tokens, hidden = x.shape
    if scheme.group_shape.is_per_tensor():
        return x.reshape(1, 1, -1)
    if scheme.group_shape.is_per_token():
        return x.reshape(tokens, 1, hidden)
    return x.reshape(tokens, hidden // scheme.group_shape.col, scheme.group_shape.col)


def dynamic_scales(groups: Tensor, scheme: Scheme, scale_ub: Tensor | None = None) -> Tensor:
    """Scales (float32) of `groups` (rows, groups, N) in float32.  # (rows, groups, 1)"""
    padded = torch.nn.functional.pad(groups.abs(), (0, 1))  # a zero, so that zero tokens have a maximum too
    absmax = padded.amax(dim=-1, keepdim=True)
    if scale_ub is not None:
        absmax = torch.where(absmax.isnan(), absmax, torch.minimum(absmax, scale_ub.float()))
    scale = absmax / torch.tensor(FP8_MAX)
    scale = torch.where(scale.isnan(), scale, scale.clamp(min=MIN_SCALE))
    return round_up_to_power_of_two(scale) if scheme.ue8m0 else scale


def quantize(
    x: Tensor, scheme: Scheme, scale: Tensor | None = None, scale_ub: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Codes and scales of `x`, computed on the CPU.

    x: (tokens, hidden), bf16, fp16 or fp32, any device and strides.
    scale: for static schemes, float32, in the shape of the scales.
    scale_ub: float32 scalar tensor, an upper bound of absmax; per-token only.
    Returns codes (tokens, hidden) uint8 and scales float32 with `scheme`'s shape and strides.
    """
    if scheme.static != (scale is not None):
        raise UsageError(f"scheme {scheme.name} {'needs' if scheme.static else 'takes no'} given scale.")
    tokens, hidden = x.shape
    groups = _grouped(x.detach().cpu().float(), scheme)
    if scale is not None:
        scales = scale.detach().cpu().float().reshape(*groups.shape[:2], 1)
    else:
        scales = dynamic_scales(groups, scheme, None if scale_ub is None else scale_ub.cpu())
    codes = encode(groups / scales).reshape(tokens, hidden)
    shape, strides = scheme.scale_shape(tokens, hidden), scheme.scale_strides(tokens, hidden)
    out = torch.empty_strided(shape, strides, dtype=torch.float32)
    out.copy_(scales.reshape(shape))
    return codes, out
