"""Tensors of a case: inputs, poisoned outputs, dtypes. Shared by the layer, the checks and the clocks."""

from __future__ import annotations

import torch
from torch import Tensor

from .spec import Case, Scheme

TORCH_DTYPES = {"bfloat16": torch.bfloat16, "float16": torch.float16, "float32": torch.float32}
DTYPE_NAMES = {dtype: name for name, dtype in TORCH_DTYPES.items()}
FP8 = torch.float8_e4m3fn

POISON_CODE = 0x7D  # 416: not NaN, and nothing that a kernel leaves behind by chance everywhere
POISON_SCALE = -1.0  # no scale is negative


def random_input(case: Case, device: str, seed: int) -> Tensor:
    """Normally distributed input of a case: the same values for a seed on every device.  # (tokens, hidden)"""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(case.tokens, case.hidden, generator=generator)
    return x.to(TORCH_DTYPES[case.dtype]).to(device)


def empty_scales(scheme: Scheme, tokens: int, hidden: int, device: str | torch.device) -> Tensor:
    """Uninitialised float32 scales with the scheme's shape and strides."""
    shape, strides = scheme.scale_shape(tokens, hidden), scheme.scale_strides(tokens, hidden)
    return torch.empty_strided(shape, strides, dtype=torch.float32, device=device)


def empty_outputs(case: Case, device: str) -> tuple[Tensor, Tensor]:
    """Uninitialised codes (tokens, hidden) and scales."""
    codes = torch.empty(case.tokens, case.hidden, dtype=FP8, device=device)
    return codes, empty_scales(case.scheme, case.tokens, case.hidden, device)


def poisoned_outputs(case: Case, device: str) -> tuple[Tensor, Tensor]:
    """Codes (tokens, hidden) and scales whose every element shows whether it was written."""
    codes = torch.full((case.tokens, case.hidden), POISON_CODE, dtype=torch.uint8, device=device).view(FP8)
    scales = empty_scales(case.scheme, case.tokens, case.hidden, device).fill_(POISON_SCALE)
    return codes, scales
