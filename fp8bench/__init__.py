"""Nightly performance-regression pipeline for FP8 quantization kernels.

The library's public face; everything that needs torch is imported on first use, so that the analysis half and
the scheduler work without it.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from .spec import GroupShape

if TYPE_CHECKING:
    from .bench import benchmark_quantization, compute_geomean_speedups
    from .quant import QuantFP8

__version__ = "0.1.0"

__all__ = ["GroupShape", "QuantFP8", "__version__", "benchmark_quantization", "compute_geomean_speedups"]

_LAZY = {"QuantFP8": "quant", "benchmark_quantization": "bench", "compute_geomean_speedups": "bench"}


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(importlib.import_module(f"{__name__}.{_LAZY[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
