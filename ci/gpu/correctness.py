"""Bit-exactness of the CUDA kernels against the oracle, over granularities, layouts, dtypes, options, odd shapes and
places in memory, launch shapes, and kernels that depend on each other."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import product

import torch
from native import LARGE_CLUSTER, NO_PDL, ONE_BLOCK, ONE_GRID, ONE_RING, ONE_WARP, STARTS, TWO_KERNELS, Kernels, forced
from torch import Tensor

from fp8bench import reference
from fp8bench.spec import Scheme

BF16, FP16, FP32 = DTYPES = (torch.bfloat16, torch.float16, torch.float32)
POISON = 0x7D
MARGIN = 64  # poisoned bytes before and behind the codes
SCHEMES = (
    "per-tensor", "per-token", "group-1-row", "group-7-row", "group-8-col", "group-16-row", "group-32-col",
    "group-48-row", "group-64-row", "group-64-col", "group-96-col", "group-100-row", "group-128-row", "group-128-col",
    "group-256-row", "group-512-col", "group-1024-row", "group-1024-col",
)  # fmt: skip
KINDS = ("random", "ties", "range", "outliers", "special", "zeros")


@dataclass(frozen=True)
class Trial:
    """One quantization: what, on what, where in memory, how launched."""

    scheme: str
    dtype: torch.dtype
    tokens: int
    hidden: int
    kind: str = "random"
    bound: float | None = None
    gap: int = 0  # elements between rows
    shift: int = 0  # elements from an aligned address
    flags: int = 0
    apart: int = 0  # elements that the codes are farther from an aligned address than x

    def __str__(self) -> str:
        extras = [
            f"{name}={value}" for name in ("bound", "gap", "shift", "flags", "apart") if (value := getattr(self, name))
        ]
        name = str(self.dtype).removeprefix("torch.")
        return " ".join([f"{self.scheme}/{name}/{self.tokens}x{self.hidden}", self.kind, *extras])


# ---- inputs -------------------------------------------------------------------------------------------------


def make_input(trial: Trial, generator: torch.Generator) -> Tensor:
    """float32 values that survive the dtype as far as they can.  # (tokens, hidden)"""
    shape = (trial.tokens, trial.hidden)
    x = torch.randn(shape, generator=generator)
    if trial.kind == "ties":  # midpoints between codes times powers of two, with a scale that is a power of two
        middles = ((reference.MAGNITUDES[:-1] + reference.MAGNITUDES[1:]) / 2).float()
        pick = torch.randint(len(middles), shape, generator=generator)
        x = middles[pick] * x.sign() * 2.0 ** (trial.tokens % 5 - 4)
        x[:, :: _segment(trial)] = 448.0 * 2.0 ** (trial.tokens % 5 - 4)
    elif trial.kind == "range":  # from below the smallest subnormal to the largest number
        x = x * torch.exp2(torch.randint(-140, 127, shape, generator=generator).float())
    elif trial.kind == "outliers":
        x[:, :: _segment(trial)] = 3e4
    elif trial.kind == "special":
        pick = torch.rand(shape, generator=generator)
        for index, value in enumerate((torch.nan, torch.inf, -torch.inf, 0.0, -0.0, 1e-42, -65504.0)):
            x[(pick - index * 0.01).abs() < 0.0005] = value
    elif trial.kind == "zeros":
        x = torch.zeros(shape)
        x[:, 1::2] = -0.0
    return x


def _segment(trial: Trial) -> int:
    size = Scheme.parse(trial.scheme).group_shape.col
    return size if size > 0 else trial.hidden


def place(values: Tensor, trial: Trial) -> Tensor:
    """`values` in the trial's dtype on the GPU, with its gap and shift."""
    stride = trial.hidden + trial.gap
    buffer = torch.full((trial.tokens * stride + trial.shift,), 1e30 if trial.dtype != FP16 else 6e4)
    buffer = buffer.to(trial.dtype).cuda()
    x = buffer[trial.shift :].view(trial.tokens, stride)[:, : trial.hidden]
    x.copy_(values.to(trial.dtype))
    return x


def given_scales(scheme: Scheme, trial: Trial, generator: torch.Generator) -> Tensor:
    shape = scheme.scale_shape(trial.tokens, trial.hidden)
    scales = torch.exp2(torch.rand(shape, generator=generator) * 20 - 12)
    odd = torch.tensor([0.0, -0.0, torch.inf, torch.nan, 1e-42, -1e-3, 3e38, 1e-38])
    if scales.numel() >= 4 * len(odd):
        scales.view(-1)[:: scales.numel() // len(odd)][: len(odd)] = odd
    return scales


# ---- one trial ----------------------------------------------------------------------------------------------


def run(kernels: Kernels, trial: Trial, values: Tensor, generator: torch.Generator) -> str | None:
    """What is wrong, or None."""
    scheme = Scheme.parse(trial.scheme)
    x = place(values, trial)
    count, start = trial.tokens * trial.hidden, MARGIN + trial.shift + trial.apart
    raw = torch.full((start + count + MARGIN,), POISON, dtype=torch.uint8, device="cuda")
    inner = slice(start, start + count)
    codes = raw[inner].view(trial.tokens, trial.hidden)
    shape, strides = (f(trial.tokens, trial.hidden) for f in (scheme.scale_shape, scheme.scale_strides))
    scales = torch.empty_strided(shape, strides, device="cuda").fill_(-1.0)
    scale = torch.empty_strided(shape, strides).copy_(given_scales(scheme, trial, generator)) if scheme.static else None
    bound = None if trial.bound is None else torch.tensor(trial.bound)
    on_gpu = [None if tensor is None else tensor.cuda() for tensor in (scale, bound)]
    kernels.bind(scheme, x, codes, scales, *on_gpu, flags=trial.flags)()
    expected_codes, expected_scales = reference.quantize(x, scheme, scale, bound)
    torch.cuda.synchronize()
    if not torch.equal(codes.cpu(), expected_codes):
        return _first_difference(codes.cpu(), expected_codes, x)
    raw[inner] = POISON
    if (raw != POISON).any():
        return "wrote beyond the codes"
    if not scheme.static and not torch.equal(_bits(scales.cpu()), _bits(expected_scales)):
        return f"{int((_bits(scales.cpu()) != _bits(expected_scales)).sum())} scales differ"
    return None


def _first_difference(codes: Tensor, expected: Tensor, x: Tensor) -> str:
    wrong = (codes != expected).nonzero()
    row, column = wrong[0].tolist()
    value, code, want = float(x[row, column]), int(codes[row, column]), int(expected[row, column])
    return f"{len(wrong)} codes differ, first at ({row}, {column}): x {value!r}, code {code:#04x}, not {want:#04x}"


def _bits(scales: Tensor) -> Tensor:
    return torch.where(scales.isnan(), -7.0, scales).contiguous().view(torch.int32)


def _mismatch(codes: Tensor, expected: Tensor, x: Tensor) -> str:
    return f"codes differ, for inputs like {x.flatten()[:4].tolist()}"


def trials() -> Iterator[Trial]:
    """Every scheme, dtype and kind; then options, places, launch shapes and the shapes of the reference grid."""
    for scheme in SCHEMES:
        size = Scheme.parse(scheme).group_shape.col
        hidden = size * max(1, 600 // size) if size > 0 else 896
        for dtype in DTYPES:
            for tokens, kind in ((17, kind) for kind in KINDS):
                yield Trial(scheme, dtype, tokens, hidden, kind)
            yield Trial(scheme, dtype, 1, hidden)
            yield Trial(f"{scheme}-ue8m0", dtype, 33, hidden, "range")
            yield Trial(f"{scheme}-ue8m0", dtype, 33, hidden, "special")
            yield Trial(f"{scheme}-static", dtype, 33, hidden, "range")
            yield Trial(f"{scheme}-static", dtype, 33, hidden, "special")
            for bound in (0.5, 0.0, float("nan"), float("inf")):
                yield Trial(scheme, dtype, 9, hidden, "special", bound=bound)
                yield Trial(scheme, dtype, 9, hidden, "random", bound=bound)
            for gap, shift in ((8, 0), (3, 0), (0, 1), (5, 3)):
                yield Trial(scheme, dtype, 19, hidden, gap=gap, shift=shift)
                yield Trial(f"{scheme}-static", dtype, 19, hidden, gap=gap, shift=shift)
    yield from _odd_sizes()
    yield from _launch_shapes()
    yield from _grid()
    yield from waits()
    for scheme in ("group-64-row", "group-64-col", "group-128-row", "group-128-col"):
        yield Trial(scheme, BF16, 4096, 7168)  # larger than the L2: blocks fetch before they wait


def waits() -> Iterator[Trial]:
    """Blocks that wait for each other: clusters of 8 and 16, meetings, the ring. Small enough for racecheck."""
    for tokens, hidden in ((16, 896), (16, 7168), (128, 2048), (512, 7168), (1024, 8192), (2048, 8192)):
        for flags in (0, NO_PDL):
            yield Trial("per-tensor", BF16, tokens, hidden, flags=flags)
    for tokens, hidden in ((1, 7168), (4, 8192)):
        yield Trial("per-token", BF16, tokens, hidden)
    yield Trial("per-tensor", FP32, 128, 2048)


def _odd_sizes() -> Iterator[Trial]:
    for dtype in DTYPES:
        for tokens, hidden in (
            (1, 1),
            (1, 7),
            (3, 5),
            (5, 513),
            (9, 1023),
            (130, 7167),
            (7, 9001),
            (2, 40001),
            (3, 70000),
            (2, 131072),
        ):
            for scheme in ("per-tensor", "per-token", f"group-{hidden}-row"):
                yield Trial(scheme, dtype, tokens, hidden, "outliers")
    yield from odd_places()
    yield Trial("group-64-col", BF16, 1031, 64)
    yield Trial("group-8-col", FP32, 259, 24)


def odd_places() -> Iterator[Trial]:
    """Rows that begin and end anywhere between two vectors, beside neighbours that share those."""
    schemes = ("per-tensor", "per-token", "per-tensor-static", "per-token-static", "per-token-ue8m0")
    for dtype in DTYPES:
        for tokens, hidden in ((1, 9), (40, 7), (40, 9), (1, 1023), (39, 1025), (257, 1023), (40, 4095), (129, 7167)):
            for scheme in schemes:
                for flags in (0, NO_PDL, forced(cluster=TWO_KERNELS if "tensor" in scheme else ONE_BLOCK)):
                    yield Trial(scheme, dtype, tokens, hidden, flags=flags)
        for shift in range(1, 8):
            yield from _shifted(dtype, shift)
        for cluster in (1, 2, 4, 8, LARGE_CLUSTER, ONE_GRID):
            yield Trial("per-tensor", dtype, 3, 2047, flags=forced(cluster=cluster))
        for vectors, threads in ((2, 1024), (4, 512), (8, 448)):
            for flags in (0, NO_PDL):
                yield Trial("per-tensor", dtype, 129, 2047, flags=forced(vectors, threads, ONE_GRID) | flags)
        for vectors, start in product((1, 2, 4, 8), STARTS):
            yield Trial("per-token", dtype, 37, 7167, flags=forced(vectors=vectors, start=start))


def _shifted(dtype: torch.dtype, shift: int) -> Iterator[Trial]:
    """x and codes away from an aligned address, by as many elements or not."""
    for scheme in ("per-tensor", "per-token", "group-100-row", "group-320-col"):
        for apart in (0, 1):
            yield Trial(scheme, dtype, 9, 1600, shift=shift, apart=apart)
    yield Trial("per-token", dtype, 1031, 1023, shift=shift)
    yield Trial("per-token", dtype, 33, 1023, gap=8 * shift, shift=shift)
    yield Trial("per-token", dtype, 3, 70001 + shift)
    yield Trial("per-tensor", dtype, 33, 7167, shift=shift)


def _launch_shapes() -> Iterator[Trial]:
    for dtype in DTYPES:
        yield from _tensor_shapes(dtype)
        yield from _ring(dtype)
        yield from _token_and_group_shapes(dtype)
        for start in STARTS:
            for scheme in ("per-tensor", "per-tensor-static", "per-token", "group-128-col"):
                for tokens, hidden in ((1, 896), (333, 1024)):
                    yield Trial(scheme, dtype, tokens, hidden, flags=forced(start=start))


def _tensor_shapes(dtype: torch.dtype) -> Iterator[Trial]:
    for tokens, hidden in ((1, 2048), (16, 4096), (64, 7168)):
        for cluster in (1, 2, 4, 8, LARGE_CLUSTER, TWO_KERNELS):
            yield Trial("per-tensor", dtype, tokens, hidden, flags=forced(cluster=cluster))
        for vectors, threads in ((1, 128), (2, 512), (4, 1024)):
            yield Trial("per-tensor", dtype, tokens, hidden, flags=forced(vectors, threads, TWO_KERNELS) | NO_PDL)
        for maxima in (1, 2, 4, 8):
            yield Trial("per-tensor", dtype, tokens, hidden, flags=forced(cluster=TWO_KERNELS, maxima=maxima))
        for vectors, threads in ((1, 1024), (2, 512), (4, 256), (4, 1024), (8, 128), (8, 448)):
            for flags in (0, NO_PDL):
                yield Trial("per-tensor", dtype, tokens, hidden, flags=forced(vectors, threads, ONE_GRID) | flags)
    for tokens, hidden in ((129, 1024), (513, 1024), (1000, 2048), (512, 7168), (1024, 7168)):
        for flags in (0, NO_PDL):
            yield Trial("per-tensor", dtype, tokens, hidden, flags=flags)
            yield Trial("per-token", dtype, tokens // 64, hidden, flags=flags)


def _ring(dtype: torch.dtype) -> Iterator[Trial]:
    for tokens, hidden in ((1, 8), (64, 7168), (1031, 7168), (5000, 7168)):
        for flags in (0, NO_PDL):
            yield Trial("per-tensor", dtype, tokens, hidden, flags=forced(cluster=ONE_RING) | flags)


def _token_and_group_shapes(dtype: torch.dtype) -> Iterator[Trial]:
    for hidden in (600, 896, 4096, 7168):
        for vectors in (1, 2, 4, 8):
            yield Trial("per-token", dtype, 37, hidden, flags=forced(vectors=vectors))
        for cluster in (2, 8, LARGE_CLUSTER):
            yield Trial("per-token", dtype, 37, hidden, flags=forced(cluster=cluster))
        yield Trial("per-token", dtype, 1037, hidden // 4, flags=forced(cluster=ONE_WARP))
        yield Trial("per-token", dtype, 1037, hidden // 4, flags=forced(cluster=ONE_BLOCK))
    for threads in (64, 128, 256):
        for vectors in (0, 1, 2):
            yield Trial("group-64-col", dtype, 129, 7168, flags=forced(vectors, threads))
            yield Trial("group-128-row", dtype, 129, 896, flags=forced(vectors, threads) | NO_PDL)
    for scheme in ("per-tensor", "per-token", "group-64-row", "group-64-col", "group-128-row", "group-128-col"):
        for tokens, hidden in ((1, 896), (16, 7168), (129, 2048), (333, 7168)):
            yield Trial(scheme, dtype, tokens, hidden, flags=NO_PDL)


def _grid() -> Iterator[Trial]:
    for tokens, hidden in ((1, 7168), (16, 1024), (128, 2048), (128, 7168), (512, 896), (512, 4096), (1024, 7168)):
        for scheme in ("per-tensor", "per-token", "group-64-row", "group-64-col", "group-128-row", "group-128-col"):
            yield Trial(scheme, BF16, tokens, hidden)
    yield Trial("per-tensor", FP32, 1024, 4096)
    yield Trial("per-token", FP16, 1024, 4096)


# ---- all values ---------------------------------------------------------------------------------------------


def check_all_patterns(kernels: Kernels) -> Iterator[tuple[str, str | None]]:
    """All 65,536 patterns of the 16-bit dtypes: each alone, in rows, and against many given scales."""
    for dtype in (BF16, FP16):
        patterns = torch.arange(65536, dtype=torch.int32).to(torch.int16).view(dtype).cuda()
        finite = torch.where(patterns.isfinite(), patterns, torch.zeros_like(patterns))
        for name, x in (
            ("all", patterns.view(256, 256)),
            ("finite", finite.view(256, 256)),
            ("each", patterns.view(-1, 1)),
        ):
            for scheme in map(
                Scheme.parse, ("per-tensor", "per-token", "group-64-col") if name != "each" else ("group-1-row",)
            ):
                yield f"{name} patterns {dtype} {scheme.name}", _compare(kernels, scheme, x, None)
        for exponent in (-20, -9, 0, 3, 8):
            scale = (torch.linspace(1, 2, 33) * 2.0**exponent).float()
            for value in scale:
                scheme = Scheme.parse("per-tensor-static")
                yield (
                    f"patterns {dtype} over {float(value)}",
                    _compare(kernels, scheme, finite.view(256, 256), value.view(1)),
                )


def _compare(kernels: Kernels, scheme: Scheme, x: Tensor, scale: Tensor | None) -> str | None:
    codes = torch.full(x.shape, POISON, dtype=torch.uint8, device="cuda")
    shape, strides = scheme.scale_shape(*x.shape), scheme.scale_strides(*x.shape)
    scales = torch.empty_strided(shape, strides, device="cuda").fill_(-1.0)
    kernels.bind(scheme, x, codes, scales, None if scale is None else scale.cuda())()
    expected_codes, expected_scales = reference.quantize(x, scheme, scale)
    if not torch.equal(codes.cpu(), expected_codes):
        return f"{int((codes.cpu() != expected_codes).sum())} codes differ"
    same = scheme.static or torch.equal(_bits(scales.cpu()), _bits(expected_scales))
    return None if same else "scales differ"


# ---- order between kernels ----------------------------------------------------------------------------------


def check_order(kernels: Kernels) -> Iterator[tuple[str, str | None]]:
    """Each kernel reads what the one before wrote: of ours, and of PyTorch, which knows no dependent launch."""
    for name in ("per-tensor", "per-token", "group-64-row", "group-128-col"):
        for tokens, hidden in ((1, 4096), (16, 8192), (128, 4096), (1024, 8192)):
            yield f"chain of {name} {tokens}x{hidden}", _chain(kernels, Scheme.parse(name), tokens, hidden)
    two = forced(cluster=TWO_KERNELS)
    for name, tokens, hidden, flags in (
        ("per-tensor", 256, 2048, two),
        ("per-tensor", 256, 2048, two | NO_PDL),
        ("per-tensor-ue8m0", 256, 2048, 0),
        ("per-tensor-ue8m0", 256, 2048, NO_PDL),
        ("per-tensor", 257, 2047, two),
        ("per-tensor", 64, 4096, 0),
        ("per-token", 64, 4096, 0),
        ("group-64-col", 64, 4096, 0),
    ):
        what = f"{name} {tokens}x{hidden} flags={flags:#x}"
        yield f"x changed in place, {what}", _changed_in_place(kernels, Scheme.parse(name), tokens, hidden, flags)
        yield f"to and fro, {what}", _to_and_fro(kernels, Scheme.parse(name), tokens, hidden, flags)


def check_fetching(kernels: Kernels) -> Iterator[tuple[str, str | None]]:
    """A call reads what the one before wrote, also where it fetches before it waits; against calls that do neither."""
    for name in ("group-64-row", "group-64-col", "group-128-row", "group-128-col"):
        yield f"large chain of {name}", _large_chain(kernels, Scheme.parse(name), 8192, 7168)


def _large_chain(kernels: Kernels, scheme: Scheme, tokens: int, hidden: int) -> str | None:
    sources = [torch.randn(tokens, hidden, device="cuda").bfloat16() for _ in range(2)]
    x = torch.empty_like(sources[0])
    first, first_scales = _outputs(scheme, tokens, hidden)
    second, second_scales = _outputs(scheme, tokens, hidden // 2)
    found = []
    for flags in (0, NO_PDL):
        one = kernels.bind(scheme, x, first, first_scales, flags=flags)
        two = kernels.bind(scheme, first.view(torch.bfloat16), second, second_scales, flags=flags)
        for index in range(6):
            x.copy_(sources[index % 2])
            one()
            two()
            found.append([first.clone(), second.clone(), second_scales.clone()])
        torch.cuda.synchronize()
    for index, (got, wanted) in enumerate(zip(found[:6], found[6:], strict=True)):
        if not all(torch.equal(a.view(torch.uint8), b.view(torch.uint8)) for a, b in zip(got, wanted, strict=True)):
            return f"results differ in step {index}"
    return None


def _chain(kernels: Kernels, scheme: Scheme, tokens: int, hidden: int) -> str | None:
    """In a graph, over and over: copy an input, quantize it, then twice the bytes of the codes as if an input."""
    sources = [torch.randn(tokens, hidden, device="cuda").bfloat16() for _ in range(4)]
    x = torch.empty_like(sources[0])
    first, first_scales = _outputs(scheme, tokens, hidden)
    again = first.view(torch.bfloat16)  # (tokens, hidden / 2)
    second, second_scales = _outputs(scheme, tokens, hidden // 2)
    third, third_scales = _outputs(scheme, tokens, hidden // 4)
    one = kernels.bind(scheme, x, first, first_scales)
    two = kernels.bind(scheme, again, second, second_scales)
    three = kernels.bind(scheme, second.view(torch.bfloat16), third, third_scales)
    made = (first, first_scales, second, second_scales, third, third_scales)
    kept = [[torch.empty_like(t) for t in made] for _ in range(8)]

    def body() -> None:
        for index, keep in enumerate(kept):
            x.copy_(sources[index % 4])
            one()
            two()
            three()
            for target, tensor in zip(keep, made, strict=True):
                target.copy_(tensor)

    body()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        body()
    for _ in range(20):
        graph.replay()
    torch.cuda.synchronize()
    for index, keep in enumerate(kept[:4]):
        x = sources[index]
        for codes, scales in (keep[0:2], keep[2:4], keep[4:6]):
            wanted, wanted_scales = reference.quantize(x, scheme)
            if not torch.equal(codes.cpu(), wanted):
                return f"codes differ in step {index}"
            if not torch.equal(_bits(scales.cpu()), _bits(wanted_scales)):
                return f"scales differ in step {index}"
            x = wanted.view(torch.bfloat16)
    return None


CHANGES = 6  # of x
RETURNS = 4  # from one buffer to the other; with more nothing changes any more
REPLAYS = 20


def _captured(body: Callable[[], None]) -> torch.cuda.CUDAGraph:
    """A graph of `body`, which has run once before, so that everything is loaded."""
    body()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        body()
    return graph


def _changed_in_place(kernels: Kernels, scheme: Scheme, tokens: int, hidden: int, flags: int) -> str | None:
    """One call, and x overwritten before each: no call may still read what was there, or already the next."""
    sources = [torch.randn(tokens, hidden, device="cuda").bfloat16() * 2.0**step for step in range(CHANGES)]
    x = torch.empty_like(sources[0])
    codes, scales = _outputs(scheme, tokens, hidden)
    call = kernels.bind(scheme, x, codes, scales, flags=flags)
    kept = [torch.empty_like(tensor) for _ in sources for tensor in (codes, scales)]
    wanted = [tensor for source in sources for tensor in reference.quantize(source, scheme)]

    def body() -> None:
        for step, source in enumerate(sources):
            x.copy_(source)
            call()
            kept[2 * step].copy_(codes)
            kept[2 * step + 1].copy_(scales)

    return _first_wrong_replay(_captured(body), kept, wanted)


def _to_and_fro(kernels: Kernels, scheme: Scheme, tokens: int, hidden: int, flags: int) -> str | None:
    """Calls and nothing between them: each reads codes of the one before, and writes over what that one read.

    Codes go to the last half of the other buffer. Each call has scales of its own, which tell what it read.
    """
    generator = torch.Generator().manual_seed(8)
    start = [torch.randn(tokens, hidden, generator=generator).bfloat16() for _ in range(2)]
    buffers, expected = [values.cuda() for values in start], [values.clone() for values in start]
    fresh = [values.cuda() for values in start]
    scales, wanted_scales, calls = [], [], []
    for number in range(2 * RETURNS):
        source, target = number % 2, 1 - number % 2
        scales.append(_outputs(scheme, tokens, hidden)[1])
        calls.append(kernels.bind(scheme, buffers[source], _last_half(buffers[target]), scales[-1], flags=flags))
        codes, of_step = reference.quantize(expected[source], scheme)
        _last_half(expected[target]).copy_(codes)
        wanted_scales.append(of_step)

    def body() -> None:
        for values, first in zip(buffers, fresh, strict=True):
            values.copy_(first)
        for call in calls:
            call()

    return _first_wrong_replay(_captured(body), [*scales, *buffers], [*wanted_scales, *expected])


def _first_wrong_replay(graph: torch.cuda.CUDAGraph, found: list[Tensor], wanted: list[Tensor]) -> str | None:
    """Replays a graph over and over; which of the tensors that it makes differ from the wanted ones."""
    on_gpu = [tensor.cuda() for tensor in wanted]
    for replay in range(REPLAYS):
        graph.replay()
        torch.cuda.synchronize()
        for index, (tensor, expected) in enumerate(zip(found, on_gpu, strict=True)):
            if not torch.equal(tensor.contiguous().view(torch.uint8), expected.contiguous().view(torch.uint8)):
                return f"tensor {index} of {len(found)} differs in replay {replay}"
    return None


def _last_half(values: Tensor) -> Tensor:
    """The last half of the bytes of (tokens, hidden) 16-bit elements, as (tokens, hidden) codes."""
    return values.view(torch.uint8).view(-1)[values.numel() :].view(values.shape)


def _outputs(scheme: Scheme, tokens: int, hidden: int) -> tuple[Tensor, Tensor]:
    shape, strides = scheme.scale_shape(tokens, hidden), scheme.scale_strides(tokens, hidden)
    codes = torch.full((tokens, hidden), POISON, dtype=torch.uint8, device="cuda")
    return codes, torch.empty_strided(shape, strides, device="cuda").fill_(-1.0)
