"""The CUDA kernels' own sources on the host: every element is read, reduced and written where it should.

`tests/emulation` runs the threads of a block as fibers, and blocks that meet as processes, if asked. Copies come when
they are waited for. What it cannot show (clusters, hardware conversion, order between kernels, speed) is for
`ci/gpu/check_kernels.py` on a GPU.
"""

from __future__ import annotations

import ctypes
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor

from fp8bench import paths, reference, tensors, toolchain
from fp8bench.backends._native import NativeError, NativeLibrary, arguments
from fp8bench.spec import Case

HERE = Path(__file__).parent
MARGIN = 32  # poisoned codes before and behind
NO_CLUSTER = 15 << 24  # FP8BENCH_CLUSTER_SHIFT: two kernels instead
ONE_WARP, ONE_GRID, ONE_RING = 14 << 24, 13 << 24, 11 << 24

# Each kernel with vectors and without, segments that fill their threads and that do not, one token and many.
SIZES = {
    "per-tensor": ("1x1", "3x5", "16x1000", "9x4096", "40x2056"),
    "per-token": ("1x7", "5x96", "3x896", "33x513", "2x9001", "3x70000", "2x70001"),
    "group-1-row": ("3x16",),
    "group-7-row": ("5x35",),
    "group-8-col": ("9x24",),
    "group-64-row": ("1x896", "17x896"),
    "group-64-col": ("1x896", "19x896", "67x64"),
    "group-96-col": ("5x576",),
    "group-100-row": ("5x600",),
    "group-128-row": ("17x1024",),
    "group-128-col": ("17x1024",),
    "group-512-col": ("3x1024",),
    "group-1024-row": ("3x2048",),
    "group-1024-col": ("3x2048",),
}
# No vector fits: tokens begin and end anywhere between two vectors, and share those with their neighbours.
ODD = ("1x1", "40x1", "5x7", "33x9", "1x1023", "3x1023", "9x1025", "2x4095", "1x7167")
ODD_GROUPS = ("group-65-row/5x325", "group-100-col/7x600", "group-333-row/9x999", "group-1023-col/3x2046")
DTYPES = ("bfloat16", "float16", "float32")


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> NativeLibrary:
    out = tmp_path_factory.mktemp("emulation") / "libfp8bench_cuda-emulated.so"
    flags = ["-O1", "-std=c++17", "-ffp-contract=off", "-fPIC", "-shared", "-fvisibility=hidden"]
    flags += ['-DFP8BENCH_SOURCE_HASH="emulated"', f"-I{HERE / 'emulation'}", f"-I{paths.CSRC}"]
    source = str(HERE / "emulation" / "library.cpp")
    subprocess.run([*toolchain.find_cxx().command, *flags, source, "-o", str(out)], check=True)
    return NativeLibrary(out)


@pytest.fixture(scope="module")
def emulation(library: NativeLibrary) -> ctypes.CDLL:
    """What the library does not offer on a GPU: `tests/emulation/library.cpp`."""
    found = ctypes.CDLL(str(library.path))
    found.emulate_room.argtypes = [ctypes.c_uint, ctypes.c_uint64]
    found.emulated_fetches.argtypes = [ctypes.c_void_p, ctypes.c_uint64]
    found.emulated_shows.restype = found.emulated_fetches.restype = ctypes.c_uint64
    return found


def _input(case: Case, gap: int = 0, shift: int = 0) -> Tensor:
    """Random values with NaN, infinities and zeros in some rows, `gap` elements between rows, from `shift` on.

    NaN lies all around, so that whoever looks farther than a row gets another largest magnitude.
    """
    values = tensors.random_input(case, "cpu", seed=case.tokens)
    values[1::4, case.hidden // 2] = torch.nan
    values[2::4, case.hidden - 1] = -torch.inf
    values[3::4] = -0.0
    stride = case.hidden + gap
    buffer = torch.full((MARGIN + shift + case.tokens * stride + MARGIN,), torch.nan, dtype=values.dtype)
    x = buffer[MARGIN + shift :][: case.tokens * stride].view(case.tokens, stride)[:, : case.hidden]
    return x.copy_(values)


def _check(
    library: NativeLibrary, case: Case, x: Tensor, bound: float | None = None, flags: int = 0, shift: int | None = None
) -> None:
    """Codes and scales are the oracle's. The codes lie as badly as x, or `shift` bytes behind an aligned address."""
    scheme = case.scheme
    around = torch.full((x.numel() + 2 * MARGIN + 8,), tensors.POISON_CODE, dtype=torch.uint8)
    start = MARGIN + (x.storage_offset() % 8 if shift is None else shift)
    codes = around[start : start + x.numel()].view(x.shape)
    scales = tensors.empty_scales(scheme, *x.shape, "cpu").fill_(tensors.POISON_SCALE)
    scale = scales.clone().uniform_(1e-3, 2.0) if scheme.static else None
    scale_ub = None if bound is None else torch.tensor(bound)
    args = arguments(scheme, x, codes, scales, scale, scale_ub)
    workspace = torch.zeros(library.workspace_bytes(args), dtype=torch.uint8)
    args.workspace, args.flags = None if scheme.static else workspace.data_ptr(), flags
    library.quantize(args)
    expected_codes, expected_scales = reference.quantize(x, scheme, scale, scale_ub)
    assert torch.equal(codes, expected_codes)
    assert scheme.static or torch.equal(scales.nan_to_num(nan=-7.0), expected_scales.nan_to_num(nan=-7.0))
    around[start : start + x.numel()] = tensors.POISON_CODE
    assert (around == tensors.POISON_CODE).all()


def _cases(dtypes: tuple[str, ...] = DTYPES, suffix: str = "") -> list[Case]:
    return [Case.parse(f"{name}{suffix}/{d}/{size}") for name, sizes in SIZES.items() for size in sizes for d in dtypes]


@pytest.mark.parametrize("case", _cases(), ids=lambda case: case.id)
def test_bits(library: NativeLibrary, case: Case) -> None:
    _check(library, case, _input(case))


@pytest.mark.parametrize("case", _cases(("bfloat16",), "-static") + _cases(("float32",), "-ue8m0"), ids=lambda c: c.id)
def test_options(library: NativeLibrary, case: Case) -> None:
    _check(library, case, _input(case))


@pytest.mark.parametrize("scheme", ["per-tensor", "per-token", "group-64-row", "group-64-col"])
def test_places_in_memory(library: NativeLibrary, scheme: str) -> None:
    """Gaps between rows and odd addresses, with vectors where they still fit."""
    for size in ("5x640", "3x1088"):
        for gap, shift in ((8, 0), (8, 8), (3, 0), (0, 1), (8, 1)):
            for suffix in ("", "-static"):
                case = Case.parse(f"{scheme}{suffix}/bfloat16/{size}")
                _check(library, case, _input(case, gap, shift))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("flags", [0, NO_CLUSTER, ONE_WARP], ids=["usual", "two-kernels", "warp"])
def test_odd_sizes(library: NativeLibrary, dtype: str, flags: int) -> None:
    for size in ODD:
        for scheme in ("per-tensor", "per-token", "per-tensor-static", "per-token-static", "per-token-ue8m0"):
            case = Case.parse(f"{scheme}/{dtype}/{size}")
            _check(library, case, _input(case), flags=flags)


@pytest.mark.parametrize("name", ODD_GROUPS)
def test_odd_groups(library: NativeLibrary, name: str) -> None:
    scheme, size = name.split("/")
    for dtype in DTYPES:
        for gap in (0, 8, 3):  # of 8: vectors of elements and codes still agree
            case = Case.parse(f"{scheme}/{dtype}/{size}")
            _check(library, case, _input(case, gap))


ODD_TENSORS = ("1x17", "3x1023", "7x2049")


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("shape", "sizes"),
    [(0, ODD_TENSORS), (2 << 8 | 2 << 16, ODD_TENSORS[:2]), (8 << 8 | 14 << 16, ODD_TENSORS)],  # eight blocks hold them
    ids=["table", "2x64", "8x448"],
)
def test_odd_tensors_whose_blocks_meet(library: NativeLibrary, shape: int, sizes: tuple[str, ...], dtype: str) -> None:
    """Vectors a thread and threads a block; x and its codes are equally far from a vector."""
    for size in sizes:
        for shift in (0, 1, 7):
            case = Case.parse(f"per-tensor/{dtype}/{size}")
            of_codes = shift % (4 if dtype == "float32" else 8)
            _check(library, case, _input(case, shift=shift), flags=ONE_GRID | shape, shift=of_codes)


@pytest.mark.parametrize("shift", range(8))
def test_odd_places(library: NativeLibrary, shift: int) -> None:
    """Elements and codes away from a vector by as many elements, so that vectors are taken, and by others."""
    for size in ("3x1", "3x600", "3x1023", "1x2048"):
        for name in (f"per-tensor/bfloat16/{size}", f"per-token/float32/{size}", f"per-tensor-static/float16/{size}"):
            case = Case.parse(name)
            for of_codes in (shift, shift + 1):
                for flags in (0, NO_CLUSTER):
                    _check(library, case, _input(case, shift=shift), flags=flags, shift=of_codes)


@pytest.mark.parametrize("size", ["3x5", "3x200", "3x1023", "1x9001"])
def test_single_elements(library: NativeLibrary, size: str) -> None:
    """Where x and its codes are not away from vectors by the same number of elements."""
    for dtype in DTYPES:
        _check(library, case := Case.parse(f"per-token/{dtype}/{size}"), _input(case), shift=1)
        for flags in (0, NO_CLUSTER):
            _check(library, case := Case.parse(f"per-tensor/{dtype}/{size}"), _input(case), flags=flags, shift=1)


@pytest.mark.parametrize("bound", [0.5, 0.0, float("inf"), float("nan")])
def test_bounded_scales(library: NativeLibrary, bound: float) -> None:
    for name in ("per-token/bfloat16/9x896", "per-tensor/float16/4x96", "group-64-row/float32/5x128"):
        case = Case.parse(name)
        _check(library, case, _input(case), bound)


@pytest.mark.parametrize("vectors", [1, 2, 4, 8])
@pytest.mark.parametrize("threads", [0, 64, 1024])
def test_forced_launch_shapes(library: NativeLibrary, vectors: int, threads: int) -> None:
    for name in ("per-token/bfloat16/3x1096", "per-tensor/bfloat16/9x4096", "group-64-col/float16/9x128"):
        case = Case.parse(name)
        _check(library, case, _input(case), flags=NO_CLUSTER | vectors << 8 | threads // 32 << 16)


def _meet(library: NativeLibrary, case: Case, workspace: Tensor, shape: int = 0) -> None:
    """One kernel whose blocks meet quantizes a tensor; they run one after the other, so each looks for itself."""
    x = tensors.random_input(case, "cpu", seed=case.tokens)
    codes, scales = torch.empty(x.shape, dtype=torch.uint8), tensors.empty_scales(case.scheme, *x.shape, "cpu")
    args = arguments(case.scheme, x, codes, scales)
    args.workspace, args.flags = workspace.data_ptr(), ONE_GRID | shape
    library.quantize(args)
    expected_codes, expected_scales = reference.quantize(x, case.scheme)
    assert torch.equal(codes, expected_codes)
    assert torch.equal(scales, expected_scales)


def _zeros(library: NativeLibrary) -> Tensor:
    case = Case.parse("per-tensor/bfloat16/1x8")
    x = _input(case)
    return torch.zeros(library.workspace_bytes(arguments(case.scheme, x, x, x)), dtype=torch.uint8)


GRID_SHAPES = [(1, 1024), (2, 512), (4, 128), (4, 1024), (8, 64), (8, 448)]  # vectors a thread, threads a block


@pytest.mark.parametrize("shape", GRID_SHAPES, ids=str)
@pytest.mark.parametrize("dtype", DTYPES)
def test_blocks_that_meet(library: NativeLibrary, shape: tuple[int, int], dtype: str) -> None:
    flags = ONE_GRID | shape[0] << 8 | shape[1] // 32 << 16
    elements = 8 * shape[0] * shape[1] * (4 if dtype == "float32" else 8)  # of eight blocks
    for size in (f"8x{elements // 8}", "2x456"):
        case = Case.parse(f"per-tensor/{dtype}/{size}")
        _check(library, case, _input(case), flags=flags)


# ---- a GPU whose calls overlap their neighbours ------------------------------------------------------------------


@pytest.fixture
def overlapping(emulation: ctypes.CDLL) -> Iterator[ctypes.CDLL]:
    """Compute capability 9.0 without clusters: kernels that would have some are refused."""
    emulation.emulate_machine(1)
    yield emulation
    emulation.emulate_machine(0)


OVERLAPPING = (
    *(f"per-token/{dtype}/{size}" for dtype in DTYPES for size in ("9x896", "33x513", "130x256", "17x7168")),
    *(
        f"group-64-{order}/{dtype}/{size}"
        for order in ("row", "col")
        for dtype in DTYPES
        for size in ("9x64", "67x576")
    ),
    *(f"group-{length}/bfloat16/{size}" for length in ("128-row", "128-col-ue8m0") for size in ("17x1024", "131x1024")),
    "group-128-col/float32/67x1024",
    "group-100-row/bfloat16/7x600",
    "per-token-static/bfloat16/9x896",
    "per-tensor/bfloat16/3x5",
)


@pytest.mark.parametrize("start", [0, 1 << 28, 2 << 28], ids=["table", "at-once", "behind-loads"])
def test_tables_of_calls_that_overlap(library: NativeLibrary, overlapping: ctypes.CDLL, start: int) -> None:
    for name in OVERLAPPING:
        _check(library, case := Case.parse(name), _input(case), flags=start)
    for flags, size in ((ONE_GRID, "3x1023"), (ONE_GRID, "16x1000"), (ONE_RING, "33x1016")):
        _check(library, case := Case.parse(f"per-tensor/float16/{size}"), _input(case), flags=flags | start)
    assert not overlapping.emulated_fetches(None, 0)


def test_clusters_are_not_emulated(library: NativeLibrary, overlapping: ctypes.CDLL) -> None:
    case = Case.parse("per-tensor/bfloat16/16x1024")
    with pytest.raises(NativeError, match="LAUNCH_FAILED: a cluster"):
        _check(library, case, _input(case))


@pytest.mark.parametrize("length", [64, 128, 256])
@pytest.mark.parametrize("order", ["row", "col"])
@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_large_inputs_are_fetched_as_far_as_the_machine_holds_them(
    library: NativeLibrary, overlapping: ctypes.CDLL, length: int, order: str, dtype: str
) -> None:
    """Whole segments, each once, of those that the first 2,048 threads load, 16 elements each."""
    case = Case.parse(f"group-{length}-{order}/{dtype}/67x3072")  # a sixteenth of the threads 1,536 times, and more
    x = _input(case)
    _check(library, case, x)
    pairs = torch.zeros(4096, 2, dtype=torch.int64)
    places, sizes = pairs[: overlapping.emulated_fetches(pairs.data_ptr(), len(pairs))].T
    segments, rest = (places - x.data_ptr()).unique() // (2 * length), (places - x.data_ptr()) % (2 * length)
    assert len(segments) == len(places) == 2048 * 16 // length
    assert (sizes == 2 * length).all()
    assert (rest == 0).all()
    assert segments.min() >= 0
    assert segments.max() < x.numel() // length


# ---- blocks that meet again and again ----------------------------------------------------------------------------

# Steps of a thread, of 8 blocks: fewer than are asked for ahead, as many, as many as the ring holds, and more.
RING_STEPS = {"bfloat16": (7, 8, 9, 14, 15, 29), "float16": (1, 13), "float32": (14, 23)}


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_ring_of_shared_memory(library: NativeLibrary, dtype: str) -> None:
    vector = 4 if dtype == "float32" else 8
    for size in ("1x8", "33x1016", *(f"{steps * vector}x8192" for steps in RING_STEPS[dtype])):
        case = Case.parse(f"per-tensor/{dtype}/{size}")
        _check(library, case, _input(case), flags=ONE_RING)


def test_blocks_that_meet_again_and_again(library: NativeLibrary) -> None:
    """In one workspace, as many blocks as they like, from both widths of words, past the last number of half a word."""
    workspace, sizes = _zeros(library), ("4x1024", "40x1024", "3x1000")
    cases = [Case.parse(f"per-tensor/{dtype}/{size}") for size in sizes for dtype in ("bfloat16", "float32")]
    for meetings in (0, 4094, 65532):
        _pass(workspace, meetings)
        for round_ in range(3):
            for shape in (4 << 8 | 32 << 16, 8 << 8 | 4 << 16):
                for case in cases[round_ % 2 :]:
                    _meet(library, case, workspace, shape)
                    meetings += case.dtype == "bfloat16"
                    assert (_halves(workspace)[:, BLOCKS + 1] == meetings).all()


def _meet_together(library: NativeLibrary, emulation: ctypes.CDLL, room: int, seed: int, workspace: Tensor) -> int:
    """Of the eight blocks of a tensor, `room` run at a time. How many shows there are of the largest of a block."""
    case = Case.parse(f"per-tensor/{DTYPES[seed % 2 * 2]}/{('4x1024', '32x511')[seed // 2 % 2]}")
    x = tensors.random_input(case, "cpu", seed)
    x.view(-1)[seed * 7919 % x.numel()] = (torch.nan, 1e4, -3e4, torch.inf)[seed % 4]
    codes, scales = torch.empty(x.shape, dtype=torch.uint8), tensors.empty_scales(case.scheme, *x.shape, "cpu")
    args = arguments(case.scheme, x, codes.share_memory_(), scales.share_memory_())
    args.workspace, args.flags = workspace.data_ptr(), ONE_GRID | 4 << 8 | 4 << 16
    emulation.emulate_room(room, seed)
    try:
        library.quantize(args)
    finally:
        emulation.emulate_room(0, 0)
    expected_codes, expected_scales = reference.quantize(x, case.scheme)
    assert torch.equal(codes, expected_codes)
    assert torch.equal(scales.nan_to_num(nan=-7.0), expected_scales.nan_to_num(nan=-7.0))
    return emulation.emulated_shows() // COPIES


@pytest.mark.parametrize("room", [8, 6, 3])
def test_blocks_that_meet_at_the_same_time(library: NativeLibrary, emulation: ctypes.CDLL, room: int) -> None:
    """In any order, in one workspace; where some do not run, those that do look for what is missing."""
    workspace = _zeros(library).share_memory_()
    for seed in range(1, 9):
        _meet_together(library, emulation, room, seed, workspace)
    assert (_halves(workspace)[:, BLOCKS + 1] == 4).all()


def test_blocks_that_help_begin_at_different_places(library: NativeLibrary, emulation: ctypes.CDLL) -> None:
    """Four of eight are missing, four look for them in step: each is found once."""
    workspace = _zeros(library).share_memory_()
    _pass(workspace, 1)  # not the meeting in which all words are renewed
    assert _meet_together(library, emulation, 4, 0, workspace) == 8 + 4


COPIES, BLOCKS, SCRATCH = 8, 256, 4096  # kCopies, kMostMeeting of csrc/cuda/meeting.cuh; what comes before


def _halves(workspace: Tensor) -> Tensor:
    """The meeting of 16-bit elements: (copies, words and a line)."""
    size = BLOCKS * 4 + 128
    return workspace[SCRATCH : SCRATCH + COPIES * size].view(torch.int32).view(COPIES, -1)


def _pass(workspace: Tensor, meetings: int) -> None:
    """As if so many meetings of 16-bit elements had been."""
    _halves(workspace)[:, BLOCKS + 1] = meetings


def test_words_are_renewed_before_their_number_comes_again(library: NativeLibrary) -> None:
    case, workspace = Case.parse("per-tensor/bfloat16/4x1024"), _zeros(library)
    for meetings in (4095, 4096, 4097):
        _pass(workspace, meetings)
        _meet(library, case, workspace, 4 << 8 | 4 << 16)  # of eight blocks
        words = _halves(workspace)
        assert (words[:, BLOCKS + 1] == meetings + 1).all()
        assert (words[:, BLOCKS] == 0).all()
        numbers = words[:, :BLOCKS] >> 16 & 0xFFFF
        assert (numbers[:, :8] == meetings + 1).all()
        assert (numbers[:, 8:] == (0 if meetings < 4096 else 4097)).all()


def test_blocks_that_cannot_meet_are_refused(library: NativeLibrary) -> None:
    """Where a multiprocessor each is not enough: the emulated GPU has eight."""
    with pytest.raises(NativeError, match="UNSUPPORTED: the forced launch shape does not fit"):
        _meet(library, Case.parse("per-tensor/bfloat16/9x4096"), _zeros(library), 1 << 8 | 2 << 16)


@pytest.mark.parametrize("size", ["9x600", "37x1024"])
@pytest.mark.parametrize("threads", [32, 256])
def test_a_warp_a_token(library: NativeLibrary, size: str, threads: int) -> None:
    for dtype in DTYPES:
        case = Case.parse(f"per-token/{dtype}/{size}")
        _check(library, case, _input(case), flags=ONE_WARP | threads // 32 << 16)


@pytest.mark.parametrize("maxima", [1, 3, 8])
def test_blocks_that_look_for_the_largest_magnitude(library: NativeLibrary, maxima: int) -> None:
    for size in ("1x8", "40x2056", "3x5"):
        case = Case.parse(f"per-tensor/float16/{size}")
        _check(library, case, _input(case), flags=NO_CLUSTER | maxima << 4)


def test_bad_arguments_are_refused_in_words(library: NativeLibrary) -> None:
    case = Case.parse("group-64-row/bfloat16/2x128")
    x, scales = _input(case), torch.empty(2, 2)
    args = arguments(case.scheme, x, torch.empty(2, 128, dtype=torch.uint8), scales)
    args.group = 100
    with pytest.raises(NativeError, match="BAD_ARGUMENT: hidden is not divisible by the group size"):
        library.quantize(args)
    args.group, args.x = 64, None
    with pytest.raises(NativeError, match="x or codes is null"):
        library.quantize(args)
