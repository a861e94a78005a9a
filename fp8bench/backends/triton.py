"""FP8 quantization in Triton, bit-exact with the oracle.

Two designs cover every scheme:

*Segments* (per-token, per-group, small tensors): a segment is the run of elements that share a scale. A program
takes some whole segments, holds them in registers, reduces, and quantizes: one read, one write. The segments of a
program lie one behind the other or, column-major, in neighbouring tokens, so that their scales are stored side by
side. Segments too long for registers are read twice.

*Tensor* (per-tensor): one kernel writes a partial maximum for each program, a second one reduces the partials
again in every program and quantizes. No atomics, nothing to clear between calls.

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

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import torch
import triton
import triton.language as tl
from torch import Tensor

from fp8bench.spec import Case, Scheme

_FP8_MAX = tl.constexpr(448.0)
_OVER_FP8_MAX = tl.constexpr(1.0 / 448.0)
_MIN_SCALE = tl.constexpr(1.0 / (448.0 * 512.0))
_MAGNITUDE = tl.constexpr(0x7FFFFFFF)
_INFINITY = tl.constexpr(0x7F800000)
_ALL = tl.constexpr(tl.PropagateNan.ALL)
_INTERPRETED = tl.constexpr(bool(triton.knobs.runtime.interpret))
_BITS_OF_WARP = tl.constexpr(32 * 128)  # a load of each lane

INTERPRETED_ELEMENTS = 1 << 17  # the interpreter is slow: larger cases are not run by it
INTERPRETED_PROGRAMS = 512
MOST_NEAR = 1 << 31


# ---- the table ----------------------------------------------------------------------------------------------


class Launch(NamedTuple):
    """How a program works: 16-byte vectors of each of its threads, and warps.

    Of segments, `vectors` are at most that many: all threads of a program share a longer segment.
    """

    vectors: int
    warps: int


Row = TypeVar("Row")

VECTOR_BYTES = 16
LANES = 32
MOST_WARPS = 32
MOST_ELEMENTS = 32  # that a thread holds, where its program has MOST_WARPS

# Tables: vectors in all of x -> launch, the first row that reaches. Measured on an H200: docs/kernels.md.
Table = tuple[tuple[int, Launch], ...]
EVERY = 1 << 62
ROWS: Table = ((1 << 16, Launch(1, 4)), (EVERY, Launch(2, 4)))
COLUMNS: Table = (
    (1 << 12, Launch(1, 4)),
    (1 << 14, Launch(1, 8)),
    (1 << 15, Launch(1, 4)),
    (1 << 17, Launch(1, 8)),
    (EVERY, Launch(2, 4)),
)
# Of longer segments than a warp loads at once: by the vectors of one.
LONGER: tuple[tuple[int, Table], ...] = (
    (256, ((1 << 13, Launch(1, 1)), (EVERY, Launch(4, 4)))),
    (512, ((1 << 16, Launch(2, 1)), (EVERY, Launch(4, 4)))),
    (EVERY, ((1 << 14, Launch(1, 1)), (1 << 19, Launch(2, 1)), (EVERY, Launch(4, 4)))),
)
# Columns whose codes are less than a line of memory: two groups side by side, but not between these sizes.
LINE_BYTES = 128
ONE_BY_ONE = (1 << 14, 1 << 17)
LOOPED = Launch(4, 8)  # segments that do not fit: read twice
ONE_PROGRAM = 2048  # vectors of a dense tensor that is quantized by one program
TENSOR_MAX: Table = ((1 << 17, Launch(1, 8)), (EVERY, Launch(4, 8)))
TENSOR_QUANTIZE: Table = ((1 << 17, Launch(1, 8)), (EVERY, Launch(4, 4)))
MOST_PARTIALS = 264  # of the per-tensor reduction; every program of the second kernel reads them all
PARTIAL_BYTES = 4


def look_up(table: tuple[tuple[int, Row], ...], size: int) -> Row:
    """What the table has for this size."""
    return next(row for most, row in table if size <= most)


def table_of_segments(packs: int, dense: bool) -> Table:
    """For segments of `packs` vectors; not dense: with column-major scales, or with gaps between tokens."""
    if packs > LANES:
        return look_up(LONGER, packs)
    return ROWS if dense else COLUMNS


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
def _segments_kernel(  # noqa: C901 (constants decide when it is compiled)
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
):
    line = tl.arange(0, ROWS)
    column = tl.arange(0, WIDTH)[None, :]
    # Offsets in 32 bits as far as these reach: the fewer instructions until the first load, the sooner it starts.
    if DENSE:
        first = tl.program_id(0) * ROWS
        place = first.to(tl.int64) + line if FAR else first + line
        source = (place * LENGTH)[:, None]
        target = source
    else:
        group = tl.program_id(0).to(tl.int64) if FAR else tl.program_id(0)
        first = tl.program_id(1) * ROWS if EVEN else (tl.program_id(1) + tl.program_id(2) * tl.num_programs(1)) * ROWS
        number = first.to(tl.int64) + line if FAR else first + line
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
def _tensor_max_kernel(
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
):
    """partials[program]: bit pattern of the largest magnitude among the program's elements."""
    largest = tl.zeros((BLOCK,), tl.int32)
    offset = tl.arange(0, BLOCK)
    program = tl.program_id(0).to(tl.int64)
    for step in range(STEPS):
        first = (program + step * tl.num_programs(0)) * (BLOCK * CHUNKS)
        for chunk in tl.static_range(CHUNKS):
            values = _load_numbered(x, first + chunk * BLOCK, offset, hidden, x_stride, total, DENSE, EVEN)
            largest = tl.maximum(largest, _bits(values))
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
    CHUNKS: tl.constexpr,
    PARTIALS: tl.constexpr,  # count, rounded up to a power of two
    DENSE: tl.constexpr,
    EVEN: tl.constexpr,
    STATIC: tl.constexpr,
    UE8M0: tl.constexpr,
):
    offset = tl.arange(0, BLOCK)
    first = tl.program_id(0).to(tl.int64) * (BLOCK * CHUNKS)
    held = ()
    for chunk in tl.static_range(CHUNKS):
        values = _load_numbered(x, first + chunk * BLOCK, offset, hidden, x_stride, total, DENSE, EVEN)
        held = held + (values,)
    if STATIC:
        scale = tl.load(scale_in)
    else:
        number = tl.arange(0, PARTIALS)
        largest = tl.max(tl.load(partials + number, mask=number < count, other=0), axis=0)
        scale = _scale(largest, scales, False, UE8M0)
    for chunk in tl.static_range(CHUNKS):
        begin = first + chunk * BLOCK
        quantized = _quantized(held[chunk], scale, not STATIC)
        tl.store(codes + begin + offset, quantized, mask=(offset < total - begin) | EVEN)
    if not STATIC and tl.program_id(0) == 0:
        tl.store(scales, scale)


# ---- host ---------------------------------------------------------------------------------------------------

INTERPRETED = bool(_INTERPRETED.value)
MOST_BLOCKS_Y = 65535

Call = Callable[[], tuple[Tensor, Tensor]]
Launcher = Callable[[], object]


class SegmentPlan(NamedTuple):
    """How segments are cut into programs: `rows` segments in `chunks` of `width` columns."""

    rows: int
    width: int
    chunks: int
    loop: bool
    warps: int


def plan_segments(
    length: int, lines: int, groups: int, itemsize: int, dense: bool, launch: Launch | None = None
) -> SegmentPlan:
    """The plan for `lines` of `groups` segments of `length` elements; `launch` instead of the table's, to measure."""
    vector = VECTOR_BYTES // itemsize
    packs = triton.cdiv(length, vector)  # of a segment
    launch = launch or look_up(table_of_segments(packs, dense), packs * lines * groups)
    lanes = triton.next_power_of_2(triton.cdiv(packs, launch.vectors))
    if lanes > LANES * MOST_WARPS:
        lanes = LANES * MOST_WARPS
        if triton.cdiv(packs, lanes) * vector > MOST_ELEMENTS:
            return SegmentPlan(1, LANES * LOOPED.warps * vector, LOOPED.vectors, True, LOOPED.warps)
    warps = max(launch.warps, lanes // LANES)
    rows = min(warps * LANES // lanes, triton.next_power_of_2(lines))
    warps = max(1, rows * lanes // LANES)
    return SegmentPlan(rows, lanes * vector, triton.cdiv(packs, lanes), False, warps)


def _segment_length(scheme: Scheme, x: Tensor) -> int | None:
    """Elements of a segment of `x` in this scheme; None where the tensor design is used."""
    if not scheme.group_shape.is_per_tensor():
        return x.shape[1] if scheme.group_shape.is_per_token() else scheme.group_shape.col
    small = x.is_contiguous() and x.numel() * x.element_size() <= ONE_PROGRAM * VECTOR_BYTES
    return x.numel() if small and not scheme.static else None


def in_pairs(length: int, tokens: int, hidden: int, itemsize: int) -> bool:
    """Whether a program takes groups with column-major scales two by two, side by side."""
    vectors = tokens * hidden * itemsize // VECTOR_BYTES
    short = length < LINE_BYTES and hidden // length % 2 == 0
    return short and not ONE_BY_ONE[0] < vectors <= ONE_BY_ONE[1]


def bind_segments(
    length: int,
    scheme: Scheme,
    x: Tensor,
    codes: Tensor,
    scales: Tensor,
    scale: Tensor | None = None,
    scale_ub: Tensor | None = None,
    launch: Launch | None = None,
) -> Launcher:
    """The launch of the segment kernel; `launch` instead of the table's, to measure."""
    tokens, hidden = x.shape
    dense = x.is_contiguous() and (not scheme.column_major or tokens == 1)
    pairs = not dense and in_pairs(length, tokens, hidden, x.element_size())
    lines, groups = (x.numel() // length, 1) if dense else (tokens << pairs, hidden // length >> pairs)
    plan = plan_segments(length, lines, groups, x.element_size(), dense, launch)
    blocks = triton.cdiv(lines, plan.rows)
    layers = triton.cdiv(blocks, MOST_BLOCKS_Y)
    grid = (blocks,) if dense else (groups, min(blocks, MOST_BLOCKS_Y), layers)
    strides = (lines, x.stride(0), hidden, *((1, groups) if len(scales.stride()) == 1 else scales.stride()))
    run: Any = _segments_kernel[grid]

    def call() -> None:
        run(
            x,
            codes,
            scales,
            scales if scale is None else scale,
            scales if scale_ub is None else scale_ub,
            *strides,
            LENGTH=length,
            ROWS=plan.rows,
            PAIRS=pairs,
            WIDTH=plan.width,
            CHUNKS=plan.chunks,
            LOOP=plan.loop,
            DENSE=dense,
            EVEN=lines % plan.rows == 0 and (dense or layers == 1),
            FAR=(tokens + plan.rows) * max(x.stride(0), hidden) >= MOST_NEAR,
            STATIC=scheme.static,
            HAS_UB=scale_ub is not None,
            UE8M0=scheme.ue8m0,
            num_warps=plan.warps,
        )

    return call


def bind_tensor(
    scheme: Scheme,
    x: Tensor,
    codes: Tensor,
    scales: Tensor,
    scale: Tensor | None = None,
    find: Launch | None = None,
    quantize: Launch | None = None,
    most_partials: int | None = None,
    workspace: Tensor | None = None,
) -> Launcher:
    """The launches of the two tensor kernels; `find`, `quantize` and `most_partials` as the table's, to measure.

    workspace: for the partial maxima; one of the call's own if None.
    """
    total, hidden, dense = x.numel(), x.shape[1], x.is_contiguous()
    vector = VECTOR_BYTES // x.element_size()
    find = find or look_up(TENSOR_MAX, triton.cdiv(total, vector))
    quantize = quantize or look_up(TENSOR_QUANTIZE, triton.cdiv(total, vector))
    find_block, block = (LANES * launch.warps * vector for launch in (find, quantize))
    tiles = triton.cdiv(total, find_block * find.vectors)
    steps = triton.cdiv(tiles, most_partials or MOST_PARTIALS)
    count = triton.cdiv(tiles, steps)
    if workspace is None:
        workspace = torch.empty(count * PARTIAL_BYTES, dtype=torch.uint8, device=x.device)
    partials = workspace[: count * PARTIAL_BYTES].view(torch.int32)
    run_find: Any = _tensor_max_kernel[(count,)]
    run: Any = _tensor_quantize_kernel[(triton.cdiv(total, block * quantize.vectors),)]
    given = scales if scale is None else scale
    sizes = (hidden, x.stride(0), total)

    def call() -> None:
        if not scheme.static:
            run_find(
                x,
                partials,
                *sizes,
                BLOCK=find_block,
                CHUNKS=find.vectors,
                STEPS=steps,
                DENSE=dense,
                EVEN=total == count * steps * find_block * find.vectors,
                num_warps=find.warps,
            )
        run(
            x,
            codes,
            scales,
            given,
            partials,
            count,
            *sizes,
            BLOCK=block,
            CHUNKS=quantize.vectors,
            PARTIALS=triton.next_power_of_2(count),
            DENSE=dense,
            EVEN=total % (block * quantize.vectors) == 0,
            STATIC=scheme.static,
            UE8M0=scheme.ue8m0,
            num_warps=quantize.warps,
        )

    return call


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

    def workspace_bytes(self, scheme: Scheme, x: Tensor) -> int:
        return MOST_PARTIALS * PARTIAL_BYTES if _segment_length(scheme, x) is None else 0

    def bind(
        self,
        scheme: Scheme,
        x: Tensor,
        codes: Tensor,
        scales: Tensor,
        scale: Tensor | None = None,
        scale_ub: Tensor | None = None,
        workspace: Tensor | None = None,
    ) -> Call:
        """Compiles the kernels (through Triton's cache) and allocates the partial maxima of a large tensor.

        scale: given scales, laid out like `scales`, which are not written then.
        """
        if scale is not None and scale.stride() != scales.stride():
            scale = torch.empty_like(scales).copy_(scale.reshape(scales.shape))
        length = _segment_length(scheme, x)
        if length is None:
            launch = bind_tensor(scheme, x, codes, scales, scale, workspace=workspace)
        else:
            launch = bind_segments(length, scheme, x, codes, scales, scale, scale_ub)
        launch()  # compiles
        result = codes, scales if scale is None else scale

        def call() -> tuple[Tensor, Tensor]:
            launch()
            return result

        return call


def create(build: Path) -> TritonBackend:
    """`build` is not needed: Triton compiles its kernels itself."""
    return TritonBackend()
