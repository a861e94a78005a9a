"""The C interface of a kernel library (`csrc/fp8bench.h`) from Python: one library, loaded; one call, described.

Shared by the backends `cuda` and `cpu`. Nothing here allocates or checks on the way of a call: `arguments` fills
the struct once and `NativeLibrary.quantize` passes its address.
"""

from __future__ import annotations

import ctypes
import json
import os
from ctypes import c_char_p, c_int, c_int32, c_int64, c_void_p
from pathlib import Path

import torch
from torch import Tensor

from fp8bench.spec import Scheme

ABI = 2  # FP8BENCH_ABI of the header that these files were written for

STATUS = {0: "OK", 1: "BAD_ARGUMENT", 2: "UNSUPPORTED", 3: "LAUNCH_FAILED"}
DTYPES = {torch.bfloat16: 0, torch.float16: 1, torch.float32: 2}


class NativeError(RuntimeError):
    """A kernel library that cannot be loaded, or a call that it refused."""


class Arguments(ctypes.Structure):
    """`fp8bench_args`: pointers and sizes of one quantization. It does not keep the tensors alive."""

    _fields_ = (
        ("x", c_void_p),
        ("codes", c_void_p),
        ("scales", c_void_p),
        ("scale_in", c_void_p),
        ("scale_ub", c_void_p),
        ("workspace", c_void_p),
        ("stream", c_void_p),
        ("tokens", c_int64),
        ("hidden", c_int64),
        ("x_stride", c_int64),
        ("group", c_int64),
        ("dtype", c_int32),
        ("column_major", c_int32),
        ("ue8m0", c_int32),
        ("flags", c_int32),
    )


def _pointer(tensor: Tensor | None) -> int | None:
    return None if tensor is None else tensor.data_ptr()


def _group(scheme: Scheme) -> int:
    """`group` of the C interface: 0 per-tensor, -1 per-token, N per-group."""
    return 0 if scheme.group_shape.is_per_tensor() else scheme.group_shape.col


def arguments(
    scheme: Scheme,
    x: Tensor,
    codes: Tensor,
    scales: Tensor,
    scale: Tensor | None = None,
    scale_ub: Tensor | None = None,
) -> Arguments:
    """The struct for one quantization; `workspace`, `stream` and `flags` are null and for the caller to set.

    x: (tokens, hidden), last dimension contiguous. codes: (tokens, hidden), contiguous. scales: the scheme's shape
    and strides. scale: given scales of a static scheme, laid out like `scales`. scale_ub: one float32.
    All are on one device. The caller keeps the tensors alive as long as the struct is used.
    """
    for tensor in (codes, scales, scale, scale_ub):
        assert tensor is None or tensor.device == x.device, f"one tensor is on {tensor.device}, x on {x.device}"
    tokens, hidden = x.shape
    return Arguments(
        x=_pointer(x),
        codes=_pointer(codes),
        scales=_pointer(scales),
        scale_in=_pointer(scale),
        scale_ub=_pointer(scale_ub),
        tokens=tokens,
        hidden=hidden,
        x_stride=x.stride(0),
        group=_group(scheme),
        dtype=DTYPES[x.dtype],
        column_major=scheme.column_major,
        ue8m0=scheme.ue8m0,
    )


def laid_out_like(scale: Tensor, scales: Tensor) -> Tensor:
    """Given scales in the dtype, shape and strides of `scales`: `scale` itself where it has them already."""
    if scale.dtype == scales.dtype and scale.shape == scales.shape and scale.stride() == scales.stride():
        return scale
    return torch.empty_like(scales).copy_(scale.reshape(scales.shape))  # empty_like keeps dense strides


def find_library(build: Path, backend: str) -> Path | None:
    """The kernel library of `backend` in the build directory `build`, or None where it was not built."""
    return next(iter(sorted(build.glob(f"libfp8bench_{backend}-*.so"))), None)


def architectures_of(build: Path) -> tuple[str, ...]:
    """XX of each sm_XX that the CUDA library in the build directory `build` has code for; () where nobody says it."""
    try:
        return tuple(map(str, json.loads((build / "build.json").read_bytes())["architectures"]))
    except (OSError, ValueError, KeyError, TypeError):
        return ()


class NativeLibrary:
    """One kernel library, loaded beside others: its symbols stay its own.

    path: the library; its file name contains the hash of the sources that it was compiled from, so that two builds
    never share a name (the loader gives the old library for a name that it knows).
    source_hash: what the library says about itself, checked against the file name.
    Raises NativeError for a file that is no kernel library, speaks another ABI or lies under another's name.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            library = ctypes.CDLL(str(path.resolve()), mode=os.RTLD_LOCAL | os.RTLD_NOW)
            self._declare(library)
        except (OSError, AttributeError) as error:
            raise NativeError(f"{path} is not a kernel library of fp8bench: {error}.") from None
        self._check_abi(library)
        self.source_hash: str = library.fp8bench_source_hash().decode()
        if not self.source_hash or self.source_hash not in path.name:
            raise NativeError(f"{path} was compiled from {self.source_hash!r}, not from what its name says: rebuild.")

    def _declare(self, library: ctypes.CDLL) -> None:
        """Bind the functions once; AttributeError for one that is missing."""
        self._quantize = library.fp8bench_quantize
        self._quantize.argtypes, self._quantize.restype = [c_void_p], c_int
        self._workspace_bytes = library.fp8bench_workspace_bytes
        self._workspace_bytes.argtypes, self._workspace_bytes.restype = [c_void_p], c_int64
        self._last_error = library.fp8bench_last_error
        self._last_error.restype = c_char_p
        library.fp8bench_abi.restype = c_int
        library.fp8bench_source_hash.restype = c_char_p

    def _check_abi(self, library: ctypes.CDLL) -> None:
        if (abi := library.fp8bench_abi()) != ABI:
            raise NativeError(f"{self.path} has ABI {abi}, its backend files need {ABI}: build both from one commit.")

    def quantize(self, args: Arguments) -> None:
        """Run (CPU) or enqueue (CUDA) the quantization that `args` describes; NativeError where it is refused."""
        if status := self._quantize(ctypes.byref(args)):
            self.require(status)

    def require(self, status: int) -> None:
        """NativeError for the status of a call that was refused."""
        if status:
            name, reason = STATUS.get(status, str(status)), self._last_error().decode(errors="replace")
            raise NativeError(f"{self.path.name}: {name}: {reason or 'no reason given'}.")

    def workspace_bytes(self, args: Arguments) -> int:
        """Bytes of workspace that `quantize` needs for these sizes; pointers are not looked at."""
        if (size := int(self._workspace_bytes(ctypes.byref(args)))) < 0:
            raise NativeError(f"{self.path.name}: no workspace for these arguments: {self._last_error().decode()}.")
        return size
