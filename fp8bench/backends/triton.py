"""FP8 quantization in Triton, bit-exact with the oracle: how the kernels of `_triton_kernels` are launched.

Two designs cover every scheme:

*Segments* (per-token, per-group, small tensors): a segment is the run of elements that share a scale. A program
takes some whole segments, holds them in registers, reduces, and quantizes: one read, one write. The segments of a
program lie one behind the other or, column-major, in neighbouring tokens, so that their scales are stored side by
side. Segments too long for registers are read twice.

*Tensor* (per-tensor): one kernel writes a partial maximum for each program, a second one reduces the partials
again in every program and quantizes. No atomics, nothing to clear between calls.

Where the GPU can (compute capability 9.0 and above), calls overlap their neighbours on the stream: programmatic
dependent launch.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import torch
import triton
from torch import Tensor

from fp8bench.spec import Case, Scheme

from ._triton_kernels import INTERPRETED, Start, segments_kernel, tensor_max_kernel, tensor_quantize_kernel

INTERPRETED_ELEMENTS = 1 << 17  # the interpreter is slow: larger cases are not run by it
INTERPRETED_PROGRAMS = 512
MOST_NEAR = 1 << 31


# ---- the tables ---------------------------------------------------------------------------------------------


class Launch(NamedTuple):
    """How a program works: 16-byte vectors of each of its threads, warps, and where its successor starts.

    Of segments, `vectors` are at most that many: all threads of a program share a longer segment.
    """

    vectors: int
    warps: int
    start: Start = Start.ALONE


Row = TypeVar("Row")

VECTOR_BYTES = 16
LANES = 32
MOST_WARPS = 32
MOST_ELEMENTS = 32  # that a thread holds, where its program has MOST_WARPS
MOST_PARTIALS = 528  # maxima of a tensor, at most

# Vectors in all of x -> launch, the first row that reaches.
Table = tuple[tuple[int, Launch], ...]
EVERY = 1 << 62


class Tables(NamedTuple):
    """Which launch for which size. Measured on an H200: docs/kernels.md."""

    rows: Table  # short segments, one behind the other
    columns: Table  # with column-major scales, or with gaps between tokens
    longer: tuple[tuple[int, Table], ...]  # segments that a warp does not load at once: by the vectors of one
    one_by_one: tuple[int, int]  # sizes between which columns of less than a line of codes are not taken in pairs
    largest: Table  # the two kernels of a tensor
    most_partials: tuple[tuple[int, int], ...]  # of the first, at most: every program of the second reads them all
    quantize: Table


ALONE = Tables(
    rows=((1 << 16, Launch(1, 4)), (EVERY, Launch(2, 4))),
    columns=(
        (1 << 12, Launch(1, 4)),
        (1 << 14, Launch(1, 8)),
        (1 << 15, Launch(1, 4)),
        (1 << 17, Launch(1, 8)),
        (EVERY, Launch(2, 4)),
    ),
    longer=(
        (256, ((1 << 13, Launch(1, 1)), (EVERY, Launch(4, 4)))),
        (512, ((1 << 16, Launch(2, 1)), (EVERY, Launch(4, 4)))),
        (EVERY, ((1 << 14, Launch(1, 1)), (1 << 19, Launch(2, 1)), (EVERY, Launch(4, 4)))),
    ),
    one_by_one=(1 << 14, 1 << 17),
    largest=((1 << 17, Launch(1, 8)), (EVERY, Launch(4, 8))),
    most_partials=((EVERY, 264),),
    quantize=((1 << 17, Launch(1, 8)), (EVERY, Launch(4, 4))),
)
# For calls that overlap their neighbours.
_BEHIND_LOADS, _AT_ONCE = Start.BEHIND_LOADS, Start.AT_ONCE
OVERLAPPING = Tables(
    rows=(
        (1 << 16, Launch(1, 4, _AT_ONCE)),
        (1 << 17, Launch(1, 8, _BEHIND_LOADS)),
        (1 << 18, Launch(2, 4, _BEHIND_LOADS)),
        (EVERY, Launch(2, 8, _AT_ONCE)),
    ),
    columns=(
        (1 << 14, Launch(1, 8, _AT_ONCE)),
        (1 << 16, Launch(1, 4, _AT_ONCE)),
        (1 << 17, Launch(1, 8, _BEHIND_LOADS)),
        (1 << 18, Launch(2, 4, _BEHIND_LOADS)),
        (EVERY, Launch(2, 8, _AT_ONCE)),
    ),
    longer=(
        (
            256,
            (
                (1 << 14, Launch(1, 1, _AT_ONCE)),
                (1 << 15, Launch(2, 1, _AT_ONCE)),
                (EVERY, Launch(4, 4, _BEHIND_LOADS)),
            ),
        ),
        (
            512,
            (
                (1 << 13, Launch(2, 1, _AT_ONCE)),
                (1 << 16, Launch(2, 1, _BEHIND_LOADS)),
                (EVERY, Launch(2, 1, _AT_ONCE)),
            ),
        ),
        (
            EVERY,
            (
                (1 << 14, Launch(1, 1, _AT_ONCE)),
                (1 << 17, Launch(1, 1, _BEHIND_LOADS)),
                (1 << 19, Launch(2, 1, _AT_ONCE)),
                (EVERY, Launch(4, 1, _AT_ONCE)),
            ),
        ),
    ),
    one_by_one=(1 << 14, 1 << 18),
    largest=(
        (1 << 17, Launch(1, 8, _BEHIND_LOADS)),
        (1 << 18, Launch(4, 8, _BEHIND_LOADS)),
        (1 << 19, Launch(1, 4, _BEHIND_LOADS)),
        (EVERY, Launch(4, 8, _BEHIND_LOADS)),
    ),
    most_partials=((1 << 16, 264), (1 << 17, 132), (1 << 18, 264), (EVERY, MOST_PARTIALS)),
    quantize=(
        (1 << 17, Launch(1, 8, _BEHIND_LOADS)),
        (1 << 18, Launch(2, 8, _BEHIND_LOADS)),
        (EVERY, Launch(4, 8, _BEHIND_LOADS)),
    ),
)
LINE_BYTES = 128
LOOPED = Launch(4, 8)  # segments that do not fit: read twice
ONE_PROGRAM = 2048  # vectors of a dense tensor that is quantized by one program
PARTIAL_BYTES = 4


def look_up(table: tuple[tuple[int, Row], ...], size: int) -> Row:
    """What the table has for this size."""
    return next(row for most, row in table if size <= most)


def table_of_segments(tables: Tables, packs: int, dense: bool) -> Table:
    """For segments of `packs` vectors; not dense: with column-major scales, or with gaps between tokens."""
    if packs > LANES:
        return look_up(tables.longer, packs)
    return tables.rows if dense else tables.columns


# ---- host ---------------------------------------------------------------------------------------------------

MOST_BLOCKS_Y = 65535
OVERLAPPING_FROM = (9, 0)  # compute capability

Call = Callable[[], tuple[Tensor, Tensor]]
Launcher = Callable[[], object]


class SegmentPlan(NamedTuple):
    """How segments are cut into programs: `rows` segments in `chunks` of `width` columns."""

    rows: int
    width: int
    chunks: int
    loop: bool
    warps: int
    start: Start


def plan_segments(
    length: int, lines: int, groups: int, itemsize: int, dense: bool, tables: Tables, launch: Launch | None = None
) -> SegmentPlan:
    """The plan for `lines` of `groups` segments of `length` elements; `launch` instead of the tables', to measure."""
    vector = VECTOR_BYTES // itemsize
    packs = triton.cdiv(length, vector)  # of a segment
    launch = launch or look_up(table_of_segments(tables, packs, dense), packs * lines * groups)
    lanes = triton.next_power_of_2(triton.cdiv(packs, launch.vectors))
    if lanes > LANES * MOST_WARPS:
        lanes = LANES * MOST_WARPS
        if triton.cdiv(packs, lanes) * vector > MOST_ELEMENTS:
            return SegmentPlan(1, LANES * LOOPED.warps * vector, LOOPED.vectors, True, LOOPED.warps, launch.start)
    warps = max(launch.warps, lanes // LANES)
    rows = min(warps * LANES // lanes, triton.next_power_of_2(lines))
    warps = max(1, rows * lanes // LANES)
    return SegmentPlan(rows, lanes * vector, triton.cdiv(packs, lanes), False, warps, launch.start)


def _segment_length(scheme: Scheme, x: Tensor) -> int | None:
    """Elements of a segment of `x` in this scheme; None where the tensor design is used."""
    if not scheme.group_shape.is_per_tensor():
        return x.shape[1] if scheme.group_shape.is_per_token() else scheme.group_shape.col
    small = x.is_contiguous() and x.numel() * x.element_size() <= ONE_PROGRAM * VECTOR_BYTES
    return x.numel() if small and not scheme.static else None


def in_pairs(length: int, tokens: int, hidden: int, itemsize: int, tables: Tables) -> bool:
    """Whether a program takes groups with column-major scales two by two, side by side."""
    vectors = tokens * hidden * itemsize // VECTOR_BYTES
    short = length < LINE_BYTES and hidden // length % 2 == 0
    return short and not tables.one_by_one[0] < vectors <= tables.one_by_one[1]


def _compiled(
    kernel: Any, grid: tuple[int, ...], start: Start, warps: int, *arguments: object, **constants: object
) -> Launcher:
    """The launch of `kernel`, compiled and loaded but not launched: a call may be captured, where neither can be done.

    On the current device.
    """
    options = {**constants, "START": int(start), "num_warps": warps, "launch_pdl": start != Start.ALONE}
    if found := kernel.run(*arguments, grid=grid, warmup=True, **options):  # the interpreter has nothing to compile
        found._init_handles()
    return partial(kernel.run, *arguments, grid=grid, warmup=False, **options)


def bind_segments(
    length: int,
    scheme: Scheme,
    x: Tensor,
    codes: Tensor,
    scales: Tensor,
    scale: Tensor | None = None,
    scale_ub: Tensor | None = None,
    tables: Tables = ALONE,
    launch: Launch | None = None,
) -> Launcher:
    """The launch of the segment kernel, compiled; `launch` instead of the tables', to measure."""
    tokens, hidden = x.shape
    dense = x.is_contiguous() and (not scheme.column_major or tokens == 1)
    pairs = not dense and in_pairs(length, tokens, hidden, x.element_size(), tables)
    lines, groups = (x.numel() // length, 1) if dense else (tokens << pairs, hidden // length >> pairs)
    plan = plan_segments(length, lines, groups, x.element_size(), dense, tables, launch)
    blocks = triton.cdiv(lines, plan.rows)
    layers = triton.cdiv(blocks, MOST_BLOCKS_Y)
    grid = (blocks,) if dense else (groups, min(blocks, MOST_BLOCKS_Y), layers)
    strides = (lines, x.stride(0), hidden, *((1, groups) if len(scales.stride()) == 1 else scales.stride()))
    return _compiled(
        segments_kernel,
        grid,
        plan.start,
        plan.warps,
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
    )


def bind_tensor(
    scheme: Scheme,
    x: Tensor,
    codes: Tensor,
    scales: Tensor,
    scale: Tensor | None = None,
    workspace: Tensor | None = None,
    tables: Tables = ALONE,
    find: Launch | None = None,
    quantize: Launch | None = None,
    most_partials: int | None = None,
) -> Launcher:
    """The launches of the two tensor kernels, compiled.

    find, quantize, most_partials: instead of the tables', to measure.
    workspace: for the partial maxima; one of the call's own if None.
    """
    total, hidden, dense = x.numel(), x.shape[1], x.is_contiguous()
    vector = VECTOR_BYTES // x.element_size()
    packs = triton.cdiv(total, vector)
    find = find or look_up(tables.largest, packs)
    quantize = quantize or look_up(tables.quantize, packs)
    find_block, block = (LANES * launch.warps * vector for launch in (find, quantize))
    tiles = triton.cdiv(total, find_block * find.vectors)
    steps = triton.cdiv(tiles, most_partials or look_up(tables.most_partials, packs))
    count = triton.cdiv(tiles, steps)
    if workspace is None:
        workspace = torch.empty(count * PARTIAL_BYTES, dtype=torch.uint8, device=x.device)
    partials = workspace[: count * PARTIAL_BYTES].view(torch.int32)
    given = scales if scale is None else scale
    sizes = (hidden, x.stride(0), total)
    run = _compiled(
        tensor_quantize_kernel,
        (triton.cdiv(total, block * quantize.vectors),),
        quantize.start,
        quantize.warps,
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
    )
    if scheme.static:
        return run
    run_find = _compiled(
        tensor_max_kernel,
        (count,),
        find.start,
        find.warps,
        x,
        partials,
        *sizes,
        BLOCK=find_block,
        CHUNKS=find.vectors,
        STEPS=steps,
        DENSE=dense,
        EVEN=total == count * steps * find_block * find.vectors,
    )

    def call() -> None:
        run_find()
        run()

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


def _check_bound(scheme: Scheme, x: Tensor, scale_ub: Tensor) -> None:
    """What the kernels take for granted of a bound: they would not look at it, or at memory that is not theirs."""
    if scheme.static or not scheme.group_shape.is_per_token():
        raise ValueError(f"scale_ub is for dynamic per-token scales, not {scheme.name}: pass none.")
    assert scale_ub.device == x.device, f"scale_ub is on {scale_ub.device}, x on {x.device}"


def _device_of(x: Tensor) -> torch.cuda.device_of:
    """Triton compiles for the current device and launches there: it is that of `x` meanwhile."""
    return torch.cuda.device_of(x)  # type: ignore[no-untyped-call]


class TritonBackend:
    """overlaps: calls may overlap their neighbours on the stream, where the GPU can do that."""

    name = "triton"

    def __init__(self, overlaps: bool = True) -> None:
        self._overlaps = overlaps

    def _tables(self, x: Tensor) -> Tables:
        able = self._overlaps and x.is_cuda and torch.cuda.get_device_capability(x.device) >= OVERLAPPING_FROM
        return OVERLAPPING if able else ALONE

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

        scale: given scales, laid out like `scales`, which are not written then. scale_ub: for dynamic per-token scales
        only; ValueError otherwise.
        """
        if scale_ub is not None:
            _check_bound(scheme, x, scale_ub)
        if scale is not None and scale.stride() != scales.stride():
            scale = torch.empty_like(scales).copy_(scale.reshape(scales.shape))
        length = _segment_length(scheme, x)
        with _device_of(x):
            if length is None:
                launch = bind_tensor(scheme, x, codes, scales, scale, workspace, self._tables(x))
            else:
                launch = bind_segments(length, scheme, x, codes, scales, scale, scale_ub, self._tables(x))
        result = codes, scales if scale is None else scale

        def call() -> tuple[Tensor, Tensor]:
            with _device_of(x):
                launch()
            return result

        return call


def create(build: Path) -> TritonBackend:
    """`build` is not needed: Triton compiles its kernels itself."""
    return TritonBackend()
