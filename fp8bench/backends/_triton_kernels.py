"""The Triton kernels and their arithmetic; `triton` decides how they are launched.

A segment is read in chunks of 16 bytes a thread, each a tensor of its own: one of all chunks would get a layout with
32 neighbouring bytes a thread, for the sake of its stores, whose loads are not contiguous across threads.

absmax is a maximum of bit patterns without their sign: exact, cheap on integers, and a NaN, whose pattern lies
above that of infinity, is never lost. Elements are divided by their own scale as in csrc/division.h, where it is
explained and proven: two operations for 16-bit elements, three for others, no branch for rare cases.
"""

# mypy: disable-error-code="no-untyped-def,untyped-decorator,misc,assignment"
# ruff: noqa: N803 (constants of a kernel are in capitals, as Triton's own are)
# ruff: noqa: RUF005 (Triton knows sums of tuples only)

from __future__ import annotations

from enum import IntEnum

import triton
import triton.language as tl
from triton.language.extra.cuda import gdc_launch_dependents


class Start(IntEnum):
    """Where a kernel lets its successor on the stream start, which still waits for its end: START of a kernel.

    ALONE: nowhere, and it does not wait for its predecessor either. Programmatic dependent launch is explained in
    csrc/cuda/device.cuh; the rules there hold here too, as these kernels and those may follow each other.
    The first kernel of a tensor does it behind its wait, whatever is asked; the second behind its loads; segments that
    are read twice at once or at their end.
    """

    ALONE = 0
    AT_ONCE = 1
    BEHIND_LOADS = 2


_ALONE = tl.constexpr(int(Start.ALONE))
_AT_ONCE = tl.constexpr(int(Start.AT_ONCE))
_BEHIND_LOADS = tl.constexpr(int(Start.BEHIND_LOADS))
_FP8_MAX = tl.constexpr(448.0)
_OVER_FP8_MAX = tl.constexpr(1.0 / 448.0)
_MIN_SCALE = tl.constexpr(1.0 / (448.0 * 512.0))
_MAGNITUDE = tl.constexpr(0x7FFFFFFF)
_INFINITY = tl.constexpr(0x7F800000)
_ALL = tl.constexpr(tl.PropagateNan.ALL)
_INTERPRETED = tl.constexpr(bool(triton.knobs.runtime.interpret))
_BITS_OF_WARP = tl.constexpr(32 * 128)  # a load of each lane
INTERPRETED = bool(_INTERPRETED.value)


# ---- programmatic dependent launch --------------------------------------------------------------------------


@triton.jit
def _let_successor_start_at(START: tl.constexpr, HERE: tl.constexpr):
    if START == HERE:
        gdc_launch_dependents()


@triton.jit
def _wait_unless_alone(START: tl.constexpr):
    """Until the predecessor has ended: before any access to memory that it may write.

    The condition is always true. Without it, ptxas puts the addresses of the loads behind the wait.
    """
    if START != _ALONE:
        tl.inline_asm_elementwise(
            "{.reg .pred always; setp.ne.s32 always, $1, -1; @always griddepcontrol.wait; mov.b32 $0, 0;}",
            "=r,r",
            [tl.program_id(0)],
            dtype=tl.int32,
            is_pure=False,
            pack=1,
        )


# ---- arithmetic ---------------------------------------------------------------------------------------------


@triton.jit
def _bits(x):
    """Bit patterns of |x| in float32 as non-negative integers, in the order of the values; NaN above all."""
    return x.to(tl.float32).to(tl.int32, bitcast=True) & _MAGNITUDE


@triton.jit
def _scale(absmax_bits, scale_ub, HAS_UB: tl.constexpr, UE8M0: tl.constexpr):
    """Scales (float32) from the bit patterns of absmax."""
    absmax = absmax_bits.to(tl.float32, bitcast=True)
    if HAS_UB:
        absmax = tl.minimum(absmax, tl.load(scale_ub), propagate_nan=_ALL)
    quotient = absmax * _OVER_FP8_MAX
    corrected = tl.fma(tl.fma(quotient, _FP8_MAX, absmax * -1.0), -_OVER_FP8_MAX, quotient)
    scale = tl.where(absmax < float("inf"), corrected, absmax)
    scale = tl.where(scale < _MIN_SCALE, _MIN_SCALE, scale)  # NaN stays
    if UE8M0:  # any mantissa bit carries into the exponent; infinity stays, NaN must not wrap
        power = ((scale.to(tl.int32, bitcast=True) + 0x7FFFFF) & _INFINITY).to(tl.float32, bitcast=True)
        scale = tl.where(scale == scale, power, scale)
    return scale


@triton.jit
def _estimated_reciprocal(value):
    """1 / value within one unit in the last place, for normal values with a normal reciprocal.

    Triton's own approximate quotient would scale the operands of the same instruction, eight instructions more.
    """
    if _INTERPRETED:
        estimate = 1.0 / value
    else:
        estimate = tl.inline_asm_elementwise(
            "rcp.approx.ftz.f32 $0, $1;", "=f,f", [value], dtype=tl.float32, is_pure=True, pack=1
        )
    return estimate


@triton.jit
def _reciprocal(value):
    """The same, corrected: rounded to nearest."""
    estimate = _estimated_reciprocal(value)
    return tl.fma(tl.fma(estimate, value, -1.0) * -1.0, estimate, estimate)


@triton.jit
def _quantized(x, scale, OWN: tl.constexpr):
    """Codes of x / scale. OWN: the scale is computed from absmax, so that no element exceeds 448 times it.

    An infinite scale gives zeros for all finite elements and NaN for infinite ones: as a product with 0. The conversion
    saturates. Negation is a product with -1: Triton's minus is 0 - x, which loses the sign of a zero.
    """
    infinite = scale == float("inf")
    if not OWN:
        y = tl.clamp(tl.div_rn(x.to(tl.float32), scale), -_FP8_MAX, _FP8_MAX, propagate_nan=_ALL)
    elif x.dtype.primitive_bitwidth == 16:
        upper = (_estimated_reciprocal(scale).to(tl.int32, bitcast=True) - 2).to(tl.float32, bitcast=True)
        lower = tl.fma(scale * -1.0, upper, 1.0) * upper
        upper, lower = tl.where(infinite, 0.0, upper), tl.where(infinite, 0.0, lower)
        values = x.to(tl.float32)
        y = tl.fma(values, upper, values * lower)
    else:
        divisor = tl.where(infinite, 0.0, scale)
        reciprocal = tl.where(infinite, 0.0, _reciprocal(scale))
        quotient = x * reciprocal
        y = tl.fma(tl.fma(quotient, divisor, x * -1.0), reciprocal * -1.0, quotient)
    return y.to(tl.float8e4nv)


@triton.jit
def _store_scales(places, scale, there, AT_ONCE: tl.constexpr):
    """Scales of segments; AT_ONCE: each lane of a segment stores it.

    A store of Triton's first exchanges the scales through shared memory, so that neighbouring lanes have neighbouring
    ones: a barrier at the end of every program, for a few bytes. Worth it only where many lanes have the same scale.
    """
    if _INTERPRETED or not AT_ONCE:
        tl.store(places, scale, mask=there)
    else:
        tl.inline_asm_elementwise(
            "{.reg .pred there; setp.ne.b32 there, $3, 0; @there st.global.f32 [$1], $2; mov.b32 $0, 0;}",
            "=r,l,f,r",
            [places.to(tl.int64), scale, there.to(tl.int32)],
            dtype=tl.int32,
            is_pure=False,
            pack=1,
        )


# ---- segments -----------------------------------------------------------------------------------------------


@triton.jit
def _program(AXIS: tl.constexpr, FAR: tl.constexpr):
    """Its number, wide enough for what it is multiplied with: there may be 2^31 segments and more."""
    return tl.program_id(AXIS).to(tl.int64) if FAR else tl.program_id(AXIS)


@triton.jit
def segments_kernel(  # noqa: C901 (constants decide when it is compiled)
    x,
    codes,
    scales,
    scale_in,  # given scales, laid out like `scales`; only if STATIC
    scale_ub,
    lines,  # each has a segment for every program_id(0), a half of it if PAIRS; or, if DENSE, is a segment
    x_stride,  # between lines, as the three below
    codes_stride,
    line_step,  # of scales
    group_step,  # of scales, between the segments of a line
    LENGTH: tl.constexpr,  # elements of a segment
    ROWS: tl.constexpr,  # segments of a program
    PAIRS: tl.constexpr,  # of them, two each are side by side
    WIDTH: tl.constexpr,  # columns of a chunk: a power of two
    CHUNKS: tl.constexpr,
    LOOP: tl.constexpr,  # the chunks do not reach the end: go through the segment step by step, twice
    DENSE: tl.constexpr,  # segments follow each other in memory, and so do their scales
    EVEN: tl.constexpr,  # no program goes beyond the last line: masks are always true, and vanish
    FAR: tl.constexpr,  # offsets may exceed 32 bits
    STATIC: tl.constexpr,
    HAS_UB: tl.constexpr,
    UE8M0: tl.constexpr,
    START: tl.constexpr,
):
    _let_successor_start_at(START, _AT_ONCE)
    line = tl.arange(0, ROWS)
    column = tl.arange(0, WIDTH)[None, :]
    # Offsets in 32 bits as far as these reach: the fewer instructions until the first load, the sooner it starts.
    if DENSE:
        first = _program(0, FAR) * ROWS
        place = first + line
        source = (place * LENGTH)[:, None]
        target = source
    else:
        group = _program(0, FAR)
        first = _program(1, FAR) * ROWS if EVEN else (_program(1, FAR) + _program(2, FAR) * tl.num_programs(1)) * ROWS
        number = first + line
        if PAIRS:
            group = group * 2 + (number & 1)
            number = number >> 1
        place = number * line_step + group * group_step
        source = (number * x_stride + group * LENGTH)[:, None]
        target = (number * codes_stride + group * LENGTH)[:, None]
    x_tile = x + (source + column)
    codes_tile = codes + (target + column)
    there = ((first + line < lines) | EVEN)[:, None]
    own: tl.constexpr = not STATIC and not HAS_UB

    _wait_unless_alone(START)
    if STATIC:
        scale = tl.load(scale_in + place, mask=(first + line < lines) | EVEN, other=1.0)
    if LOOP:
        if not STATIC:
            largest = tl.zeros((ROWS, WIDTH), tl.int32)
            for begin in range(0, LENGTH, WIDTH * CHUNKS):
                for chunk in tl.static_range(CHUNKS):
                    at = begin + chunk * WIDTH
                    values = tl.load(x_tile + at, mask=there & (column + at < LENGTH), other=0.0)
                    largest = tl.maximum(largest, _bits(values))
            scale = _scale(tl.max(largest, axis=1), scale_ub, HAS_UB, UE8M0)
        for begin in range(0, LENGTH, WIDTH * CHUNKS):
            for chunk in tl.static_range(CHUNKS):
                at = begin + chunk * WIDTH
                inside = there & (column + at < LENGTH)
                values = tl.load(x_tile + at, mask=inside, other=0.0)
                tl.store(codes_tile + at, _quantized(values, scale[:, None], own), mask=inside)
    else:
        held = ()
        for chunk in tl.static_range(CHUNKS):
            inside = there & ((column + chunk * WIDTH < LENGTH) | (chunk * WIDTH + WIDTH <= LENGTH))
            held = held + (tl.load(x_tile + chunk * WIDTH, mask=inside, other=0.0),)
        _let_successor_start_at(START, _BEHIND_LOADS)
        if not STATIC:
            largest = _bits(held[0])
            for chunk in tl.static_range(1, CHUNKS):
                largest = tl.maximum(largest, _bits(held[chunk]))
            scale = _scale(tl.max(largest, axis=1), scale_ub, HAS_UB, UE8M0)
        for chunk in tl.static_range(CHUNKS):
            inside = there & ((column + chunk * WIDTH < LENGTH) | (chunk * WIDTH + WIDTH <= LENGTH))
            tl.store(codes_tile + chunk * WIDTH, _quantized(held[chunk], scale[:, None], own), mask=inside)
    if not STATIC:
        bits: tl.constexpr = WIDTH * x.dtype.element_ty.primitive_bitwidth  # that a segment's lanes load at once
        _store_scales(scales + place, scale, (first + line < lines) | EVEN, bits < _BITS_OF_WARP)


# ---- tensor -------------------------------------------------------------------------------------------------


@triton.jit
def _load_numbered(x, first, offset, hidden, x_stride, total, DENSE: tl.constexpr, EVEN: tl.constexpr):
    """Elements number first + offset; zeros beyond `total` (EVEN: there are none)."""
    inside = (offset < total - first) | EVEN  # always true, masks vanish
    if DENSE:
        values = tl.load(x + first + offset, mask=inside, other=0.0)
    else:
        index = first + offset
        values = tl.load(x + (index // hidden * x_stride + index % hidden), mask=inside, other=0.0)
    return values


@triton.jit
def tensor_max_kernel(
    x,
    partials,
    hidden,
    x_stride,
    total,
    BLOCK: tl.constexpr,  # elements of a chunk
    CHUNKS: tl.constexpr,
    STEPS: tl.constexpr,
    DENSE: tl.constexpr,
    EVEN: tl.constexpr,
    START: tl.constexpr,
):
    """partials[program]: bit pattern of the largest magnitude among the program's elements.

    The second kernel, its successor, may start behind the wait: x is complete then.
    """
    largest = tl.zeros((BLOCK,), tl.int32)
    offset = tl.arange(0, BLOCK)
    program = tl.program_id(0).to(tl.int64)
    _wait_unless_alone(START)
    if START != _ALONE:
        gdc_launch_dependents()
    for step in range(STEPS):
        first = (program + step * tl.num_programs(0)) * (BLOCK * CHUNKS)
        for chunk in tl.static_range(CHUNKS):
            values = _load_numbered(x, first + chunk * BLOCK, offset, hidden, x_stride, total, DENSE, EVEN)
            largest = tl.maximum(largest, _bits(values))
    tl.store(partials + program, tl.max(largest, axis=0))


@triton.jit
def tensor_quantize_kernel(
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
    CHUNKS: tl.constexpr,
    PARTIALS: tl.constexpr,  # count, rounded up to a power of two
    DENSE: tl.constexpr,
    EVEN: tl.constexpr,
    STATIC: tl.constexpr,
    UE8M0: tl.constexpr,
    START: tl.constexpr,
):
    """Loads x before it waits, as the first kernel lets it start only when x is complete; but not if STATIC."""
    offset = tl.arange(0, BLOCK)
    first = tl.program_id(0).to(tl.int64) * (BLOCK * CHUNKS)
    if STATIC:  # nobody went before
        _wait_unless_alone(START)
    held = ()
    for chunk in tl.static_range(CHUNKS):
        values = _load_numbered(x, first + chunk * BLOCK, offset, hidden, x_stride, total, DENSE, EVEN)
        held = held + (values,)
    _let_successor_start_at(START, _BEHIND_LOADS)
    if STATIC:
        scale = tl.load(scale_in)
    else:
        _wait_unless_alone(START)
        number = tl.arange(0, PARTIALS)
        largest = tl.max(tl.load(partials + number, mask=number < count, other=0), axis=0)
        scale = _scale(largest, scales, False, UE8M0)
    for chunk in tl.static_range(CHUNKS):
        begin = first + chunk * BLOCK
        quantized = _quantized(held[chunk], scale, not STATIC)
        tl.store(codes + begin + offset, quantized, mask=(offset < total - begin) | EVEN)
    if not STATIC and tl.program_id(0) == 0:
        tl.store(scales, scale)
