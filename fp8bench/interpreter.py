"""Triton kernels on a machine without a GPU: Triton's interpreter, with its casts put right.

The interpreter casts to float8_e4m3fn wrongly (lost carries, ties, subnormals, no saturation) and loses subnormals
on the way from bfloat16 to float32. So a bit-exact check of a kernel would fail for the interpreter's sake.
`patch` replaces these two casts by correct ones, and fused multiply-add, which it rounded twice before Triton 3.9;
hardware is not touched, and neither are the other casts.

Whether a kernel is interpreted is decided when its file is imported: call `install` before that.
"""

from __future__ import annotations

import os
from typing import Any

import numpy as np
import numpy.typing as npt

NAN_CODE = 0x7F
LARGEST = 448.0
_SMALLEST_EXPONENT = -6  # of a normal number; below, the quantum stays
_MANTISSA_BITS = 3


def install() -> None:
    """Interpret every Triton kernel that is imported from now on, and patch the casts. For a process of its own."""
    os.environ["TRITON_INTERPRET"] = "1"
    patch()


def to_float8_e4m3fn(values: npt.NDArray[Any]) -> npt.NDArray[np.uint8]:
    """Codes nearest to `values` (any float dtype and shape): ties to even, saturating, every NaN 0x7F.

    Rounds by arithmetic on the binade's quantum; independent of the oracle's tables.
    """
    with np.errstate(invalid="ignore"):  # NaNs, quiet and signalling
        magnitude = np.atleast_1d(np.minimum(np.abs(values.astype(np.float64)), LARGEST))  # NaN stays NaN
        exponent = np.maximum(np.frexp(magnitude)[1] - 1, _SMALLEST_EXPONENT)
        exponent[magnitude == 0] = _SMALLEST_EXPONENT  # frexp gives a zero the exponent of 0.5
        steps = np.rint(np.ldexp(magnitude, _MANTISSA_BITS - exponent))  # in quanta, 0 to 16
        # A normal number has 8 to 15 quanta; 16 carry into the next binade, which is just what the sum does.
        code = steps + (exponent - _SMALLEST_EXPONENT) * 2**_MANTISSA_BITS
        code = np.where(np.signbit(values), code + 0x80, code)
    return np.where(np.isnan(magnitude), NAN_CODE, code).astype(np.uint8).reshape(values.shape)


def _bfloat16_bits_to_float32(bits: npt.NDArray[Any]) -> npt.NDArray[np.uint32]:
    return bits.view(np.uint16).astype(np.uint32) << np.uint32(16)


def patch() -> None:
    """Correct the interpreter's casts in this process. Doing it twice is doing it once."""
    import triton.language as tl
    from triton.runtime import interpreter

    theirs = interpreter._convert_float
    if getattr(theirs, "patched_by_fp8bench", False):
        return

    def convert(values: Any, source: Any, target: Any, rounding: Any) -> Any:
        if target == tl.float8e4nv and source in (tl.float32, tl.float16):
            return to_float8_e4m3fn(values)
        if source == tl.bfloat16 and target == tl.float32:
            return _bfloat16_bits_to_float32(values)
        if target == tl.float8e4nv and source == tl.bfloat16:
            return to_float8_e4m3fn(_bfloat16_bits_to_float32(values).view(np.float32))
        return theirs(values, source, target, rounding)

    convert.patched_by_fp8bench = True  # type: ignore[attr-defined]
    interpreter._convert_float = convert
    _fuse_multiply_add(interpreter)
    _silence_invalid_arithmetic(interpreter.InterpreterBuilder)


def _fuse_multiply_add(interpreter: Any) -> None:
    """One rounding for float32: products are exact in float64. (A sum rounded to a midpoint there is yet rounded twice:
    1 in 2**28, where the interpreter alone rounded every product.)
    """
    if hasattr(interpreter._interpreter, "fma_fp32"):
        return
    theirs = interpreter.InterpreterBuilder.create_fma

    def create_fma(self: Any, x: Any, y: Any, z: Any) -> Any:
        if x.data.dtype != np.float32:
            return theirs(self, x, y, z)
        with np.errstate(all="ignore"):
            exact = x.data.astype(np.float64) * y.data + z.data
            return interpreter.TensorHandle(exact.astype(np.float32), z.dtype.scalar)

    interpreter.InterpreterBuilder.create_fma = create_fma


def _silence_invalid_arithmetic(builder: Any) -> None:
    """NaN from inf / inf is what the kernels mean; NumPy would warn."""
    theirs = builder.binary_op

    def binary_op(self: Any, *arguments: Any) -> Any:
        with np.errstate(all="ignore"):
            return theirs(self, *arguments)

    builder.binary_op = binary_op
