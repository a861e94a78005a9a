"""FP8 quantization in Triton, bit-exact with the oracle.

Two designs cover every scheme:

*Segments* (per-token, per-group, small tensors): a segment is the run of elements that share a scale. A program
takes a tile of whole segments, holds it in registers, reduces, and quantizes: one read, one write. Segments are
numbered in the order in which their scales lie in memory, so scales are always stored contiguously: for
column-major ones neighbours in a tile are neighbouring tokens. Segments too long for registers are read twice.

*Tensor* (per-tensor): one kernel writes a partial maximum for each program, a second one reduces the partials
again in every program and quantizes. No atomics, nothing to clear between calls.

absmax is a maximum of bit patterns without their sign: exact, cheap on integers, and a NaN, whose pattern lies
above that of infinity, is never lost.
"""

# mypy: disable-error-code="no-untyped-def,untyped-decorator"
# ruff: noqa: N803 (constants of a kernel are in capitals, as Triton's own are)

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from fp8bench.spec import Case, Scheme

_FP8_MAX = tl.constexpr(448.0)
_MIN_SCALE = tl.constexpr(1.0 / (448.0 * 512.0))
_ABS = tl.constexpr(0x7FFFFFFF)
_ALL = tl.constexpr(tl.PropagateNan.ALL)

MAX_TILE = 16384  # elements of a program that stay in registers
ONE_PROGRAM = 32768  # a dense tensor up to this size is one segment of one program
MAX_PARTIALS = 1024  # of the per-tensor reduction; every program of the second kernel reads them all
INTERPRETED_ELEMENTS = 1 << 17  # the interpreter is slow: larger cases are not run by it
INTERPRETED_PROGRAMS = 512


class Launch(NamedTuple):
    """Shape of a program: elements in its tile and warps."""

    elements: int
    warps: int


# Largest segment (in elements, rounded up to a power of two) -> how a program works on it. Few warps a program for
# short segments: their reductions stay within a warp.
SEGMENTS: tuple[tuple[int, Launch], ...] = (
    (256, Launch(1024, 1)),
    (512, Launch(1024, 1)),
    (1024, Launch(1024, 2)),
    (2048, Launch(2048, 4)),
    (8192, Launch(8192, 8)),
    (MAX_TILE, Launch(MAX_TILE, 16)),
    (ONE_PROGRAM, Launch(ONE_PROGRAM, 32)),
)
LOOPED = Launch(8192, 8)  # segments that do not fit: chunks of this size, read twice
TENSOR_MAX = Launch(4096, 8)  # first kernel of the per-tensor scheme, a chunk
TENSOR_QUANTIZE = Launch(4096, 8)


# ---- arithmetic ---------------------------------------------------------------------------------------------


@triton.jit
def _bits(x):
    """Bit patterns of |x| as non-negative integers, in the order of the values; NaN above all."""
    return x.to(tl.int32, bitcast=True) & _ABS


@triton.jit
def _scale(absmax_bits, scale_ub, HAS_UB: tl.constexpr, UE8M0: tl.constexpr):
    """Scales (float32) from the bit patterns of absmax."""
    absmax = absmax_bits.to(tl.float32, bitcast=True)
    if HAS_UB:
        absmax = tl.minimum(absmax, tl.load(scale_ub), propagate_nan=_ALL)
    scale = tl.maximum(tl.div_rn(absmax, _FP8_MAX), _MIN_SCALE, propagate_nan=_ALL)
    if UE8M0:  # any mantissa bit carries into the exponent; infinity stays, NaN must not wrap
        power = ((scale.to(tl.int32, bitcast=True) + 0x7FFFFF) & 0x7F800000).to(tl.float32, bitcast=True)
        scale = tl.where(scale == scale, power, scale)
    return scale


@triton.jit
def _quantized(x, scale):
    y = tl.clamp(tl.div_rn(x, scale), -_FP8_MAX, _FP8_MAX, propagate_nan=_ALL)
    return y.to(tl.float8e4nv)


# ---- segments -----------------------------------------------------------------------------------------------


@triton.jit
def _segments_kernel(
    x,  # [tokens, hidden], row stride x_stride
    codes,  # [tokens, hidden], contiguous
    scales,  # [segments], in memory order
    scale_in,  # given scales, laid out likewise; only if STATIC
    scale_ub,
    tokens,
    hidden,
    x_stride,
    segments,
    LENGTH: tl.constexpr,  # elements of a segment
    ROWS: tl.constexpr,  # segments of a tile
    WIDTH: tl.constexpr,  # columns of a tile: a power of two
    LOOP: tl.constexpr,  # WIDTH is less than LENGTH: go through the segment in chunks, twice
    DENSE: tl.constexpr,  # segments follow each other in memory, in their order
    COLUMN_MAJOR: tl.constexpr,
    STATIC: tl.constexpr,
    HAS_UB: tl.constexpr,
    UE8M0: tl.constexpr,
):
    segment = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    there = segment < segments
    if DENSE:
        source = segment.to(tl.int64) * LENGTH  # offsets may exceed 32 bits, numbers of segments do not
        target = source
    else:
        groups = segments // tokens
        if COLUMN_MAJOR:
            token = (segment % tokens).to(tl.int64)
            group = segment // tokens
        else:
            token = (segment // groups).to(tl.int64)
            group = segment % groups
        source = token * x_stride + group * LENGTH
        target = token * hidden + group * LENGTH
    column = tl.arange(0, WIDTH)
    x_tile = x + source[:, None] + column[None, :]
    codes_tile = codes + target[:, None] + column[None, :]

    if LOOP:
        if STATIC:
            scale = tl.load(scale_in + segment, mask=there, other=1.0)
        else:
            largest = tl.zeros((ROWS, WIDTH), tl.int32)
            for start in range(0, LENGTH, WIDTH):
                inside = there[:, None] & (column[None, :] + start < LENGTH)
                largest = tl.maximum(largest, _bits(tl.load(x_tile + start, mask=inside, other=0.0).to(tl.float32)))
            scale = _scale(tl.max(largest, axis=1), scale_ub, HAS_UB, UE8M0)
        for start in range(0, LENGTH, WIDTH):
            inside = there[:, None] & (column[None, :] + start < LENGTH)
            values = tl.load(x_tile + start, mask=inside, other=0.0).to(tl.float32)
            tl.store(codes_tile + start, _quantized(values, scale[:, None]), mask=inside)
    else:
        inside = there[:, None] & (column[None, :] < LENGTH)
        values = tl.load(x_tile, mask=inside, other=0.0).to(tl.float32)
        if STATIC:
            scale = tl.load(scale_in + segment, mask=there, other=1.0)
        else:
            scale = _scale(tl.max(_bits(values), axis=1), scale_ub, HAS_UB, UE8M0)
        tl.store(codes_tile, _quantized(values, scale[:, None]), mask=inside)
    if not STATIC:
        tl.store(scales + segment, scale, mask=there)


# ---- tensor -------------------------------------------------------------------------------------------------


@triton.jit
def _source(index, hidden, x_stride, DENSE: tl.constexpr):
    """Offsets in x of the elements numbered `index` in row-major order."""
    if DENSE:
        return index
    return index // hidden * x_stride + index % hidden


@triton.jit
def _tensor_max_kernel(
    x, partials, hidden, x_stride, total, BLOCK: tl.constexpr, CHUNKS: tl.constexpr, DENSE: tl.constexpr
):
    """partials[program]: bit pattern of the largest magnitude among the program's chunks."""
    largest = tl.zeros((BLOCK,), tl.int32)
    program = tl.program_id(0).to(tl.int64)
    for chunk in range(CHUNKS):
        index = (program + chunk * tl.num_programs(0)) * BLOCK + tl.arange(0, BLOCK)
        values = tl.load(x + _source(index, hidden, x_stride, DENSE), mask=index < total, other=0.0)
        largest = tl.maximum(largest, _bits(values.to(tl.float32)))
    tl.store(partials + program, tl.max(largest, axis=0))


@triton.jit
def _tensor_quantize_kernel(
    x,
    codes,
    scales,
    scale_in,
    partials,
    count,
    hidden,
    x_stride,
    total,
    BLOCK: tl.constexpr,
    PARTIALS: tl.constexpr,  # count, rounded up to a power of two
    DENSE: tl.constexpr,
    STATIC: tl.constexpr,
    UE8M0: tl.constexpr,
):
    index = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    values = tl.load(x + _source(index, hidden, x_stride, DENSE), mask=index < total, other=0.0).to(tl.float32)
    if STATIC:
        scale = tl.load(scale_in)
    else:
        number = tl.arange(0, PARTIALS)
        largest = tl.max(tl.load(partials + number, mask=number < count, other=0), axis=0)
        scale = _scale(largest, scales, False, UE8M0)
        if tl.program_id(0) == 0:
            tl.store(scales, scale)
    tl.store(codes + index, _quantized(values, scale), mask=index < total)


# ---- host ---------------------------------------------------------------------------------------------------

INTERPRETED = not isinstance(_segments_kernel, triton.JITFunction)

Call = Callable[[], tuple[Tensor, Tensor]]
Launcher = Callable[[], object]


class SegmentPlan(NamedTuple):
    """Everything that the segment kernel is launched with, but its pointers."""

    length: int
    segments: int
    rows: int
    width: int
    loop: bool
    dense: bool
    warps: int

    @property
    def grid(self) -> tuple[int]:
        return (triton.cdiv(self.segments, self.rows),)


def plan_segments(length: int, segments: int, dense: bool) -> SegmentPlan:
    """How `segments` segments of `length` elements are cut into programs."""
    width = triton.next_power_of_2(length)
    launch = next((launch for largest, launch in SEGMENTS if width <= largest), LOOPED)
    loop = width > launch.elements
    width = min(width, launch.elements)
    rows = min(launch.elements // width, triton.next_power_of_2(segments))
    return SegmentPlan(length, segments, rows, width, loop, dense, launch.warps)


def _segment_length(scheme: Scheme, x: Tensor) -> int | None:
    """Elements of a segment of `x` in this scheme; None where the tensor design is used."""
    if not scheme.group_shape.is_per_tensor():
        return x.shape[1] if scheme.group_shape.is_per_token() else scheme.group_shape.col
    small = x.is_contiguous() and x.numel() <= ONE_PROGRAM
    return x.numel() if small and not scheme.static else None


def _bind_segments(
    length: int, scheme: Scheme, x: Tensor, codes: Tensor, scales: Tensor, scale: Tensor | None, scale_ub: Tensor | None
) -> Launcher:
    tokens, hidden = x.shape
    dense = x.is_contiguous() and (not scheme.column_major or tokens == 1)
    plan = plan_segments(length, x.numel() // length, dense)
    run: Any = _segments_kernel[plan.grid]

    def launch() -> None:
        run(
            x,
            codes,
            scales,
            scales if scale is None else scale,
            scales if scale_ub is None else scale_ub,
            tokens,
            hidden,
            x.stride(0),
            plan.segments,
            LENGTH=plan.length,
            ROWS=plan.rows,
            WIDTH=plan.width,
            LOOP=plan.loop,
            DENSE=plan.dense,
            COLUMN_MAJOR=scheme.column_major,
            STATIC=scheme.static,
            HAS_UB=scale_ub is not None,
            UE8M0=scheme.ue8m0,
            num_warps=plan.warps,
        )

    return launch


def _bind_tensor(scheme: Scheme, x: Tensor, codes: Tensor, scales: Tensor, scale: Tensor | None) -> Launcher:
    total, hidden, dense = x.numel(), x.shape[1], x.is_contiguous()
    count = min(triton.cdiv(total, TENSOR_MAX.elements), MAX_PARTIALS)
    chunks = triton.cdiv(total, count * TENSOR_MAX.elements)
    partials = torch.empty(count, dtype=torch.int32, device=x.device)
    find: Any = _tensor_max_kernel[(count,)]
    run: Any = _tensor_quantize_kernel[(triton.cdiv(total, TENSOR_QUANTIZE.elements),)]
    given = scales if scale is None else scale

    def launch() -> None:
        sizes = (hidden, x.stride(0), total)
        if not scheme.static:
            find(
                x,
                partials,
                *sizes,
                BLOCK=TENSOR_MAX.elements,
                CHUNKS=chunks,
                DENSE=dense,
                num_warps=TENSOR_MAX.warps,
            )
        run(
            x,
            codes,
            scales,
            given,
            partials,
            count,
            *sizes,
            BLOCK=TENSOR_QUANTIZE.elements,
            PARTIALS=triton.next_power_of_2(count),
            DENSE=dense,
            STATIC=scheme.static,
            UE8M0=scheme.ue8m0,
            num_warps=TENSOR_QUANTIZE.warps,
        )

    return launch


def _interpretable(case: Case) -> str | None:
    """Why the interpreter should not be asked for this case, or None."""
    elements = case.tokens * case.hidden
    size = case.scheme.group_shape.col
    segments = elements // size if size > 0 else case.tokens
    programs = triton.cdiv(segments, max(1, 1024 // size)) if size > 0 else segments
    if elements > INTERPRETED_ELEMENTS or programs > INTERPRETED_PROGRAMS:
        return f"too large for Triton's interpreter ({elements} elements, {programs} programs)"
    return None


class TritonBackend:
    name = "triton"

    def supports(self, case: Case, device: str) -> str | None:
        if device == "cpu":
            return (
                _interpretable(case) if INTERPRETED else "Triton needs a GPU (or TRITON_INTERPRET=1, for checks only)"
            )
        if INTERPRETED:
            return "Triton is interpreted in this process (TRITON_INTERPRET=1)"
        if not torch.cuda.is_available():
            return "torch sees no CUDA device"
        major, minor = torch.cuda.get_device_capability()
        return None if (major, minor) >= (8, 9) else f"Triton needs sm_89 for float8_e4m3fn, not sm_{major}{minor}"

    def bind(
        self,
        scheme: Scheme,
        x: Tensor,
        codes: Tensor,
        scales: Tensor,
        scale: Tensor | None = None,
        scale_ub: Tensor | None = None,
    ) -> Call:
        """Compiles the kernels (through Triton's cache) and allocates the partial maxima of a large tensor.

        scale: given scales, laid out like `scales`, which are not written then.
        """
        if scale is not None and scale.stride() != scales.stride():
            scale = torch.empty_like(scales).copy_(scale.reshape(scales.shape))
        length = _segment_length(scheme, x)
        if length is None:
            launch = _bind_tensor(scheme, x, codes, scales, scale)
        else:
            launch = _bind_segments(length, scheme, x, codes, scales, scale, scale_ub)
        launch()  # compiles
        result = codes, scales if scale is None else scale

        def call() -> tuple[Tensor, Tensor]:
            launch()
            return result

        return call


def create(build: Path) -> TritonBackend:
    """`build` is not needed: Triton compiles its kernels itself."""
    return TritonBackend()
