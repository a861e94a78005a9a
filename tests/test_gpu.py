"""What only a GPU can show: kernels against the oracle, streams, graphs, the layer, and times. Skipped without one."""

from __future__ import annotations

import math

import pytest
import torch

import fp8bench
from fp8bench import GroupShape, QuantFP8, backends, checks, reference, tensors
from fp8bench.quant import own_backend
from fp8bench.records import CheckStatus
from fp8bench.spec import DTYPES, Case, Scheme

pytestmark = [
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here"),
    pytest.mark.filterwarnings("ignore:.*torch.jit.script_method:DeprecationWarning"),  # torch's own
    pytest.mark.filterwarnings("ignore:TRITON_DEFAULT_FP_FUSION:UserWarning"),
]

DEVICE = "cuda"
KERNELS = ["cuda", "triton"]
SCHEMES = [
    "per-tensor",
    "per-token",
    "group-64-row",
    "group-64-col",
    "group-128-row",
    "group-128-col",
    "per-tensor-static",
    "per-token-static",
    "group-128-col-static",
    "per-tensor-ue8m0",
    "per-token-ue8m0",
    "group-128-col-ue8m0",
]
SIZES = ["1x896", "16x1024", "33x1152", "130x2048", "7x7168"]  # multiples of 128; other widths below
ODD = [
    "per-tensor/3x7",
    "per-tensor/1000x33",
    "per-token/5x33",
    "per-token/3x20001",
    "group-48-row/5x96",
    "group-24-col/9x72",
]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("backend", KERNELS)
def test_kernels_are_bit_exact(backend: str, scheme: str, dtype: str) -> None:
    for size in SIZES:
        result = checks.check(own_backend(backend), Case.parse(f"{scheme}/{dtype}/{size}"), DEVICE, seed=3)
        assert (result.status, result.detail) == (CheckStatus.OK, ""), result.case


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("case", ODD)
@pytest.mark.parametrize("backend", KERNELS)
def test_odd_sizes_are_bit_exact(backend: str, case: str, dtype: str) -> None:
    scheme, size = case.split("/")
    result = checks.check(own_backend(backend), Case.parse(f"{scheme}/{dtype}/{size}"), DEVICE, seed=4)
    assert (result.status, result.detail) == (CheckStatus.OK, "")


@pytest.mark.parametrize("scheme", ["per-tensor", "per-token", "group-128-col", "per-token-ue8m0"])
def test_compiled_torch_is_within_its_bounds(scheme: str) -> None:
    result = checks.check(own_backend("torch"), Case.parse(f"{scheme}/bfloat16/16x896"), DEVICE)
    assert (result.status, result.detail) == (CheckStatus.OK, "")


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("backend", KERNELS)
def test_every_16_bit_pattern(backend: str, dtype: torch.dtype) -> None:
    """With scale 1 the codes are the roundings of the inputs themselves."""
    x = torch.arange(-(2**15), 2**15, dtype=torch.int32).to(torch.int16).view(dtype).reshape(64, 1024)
    layer = QuantFP8(True, GroupShape.PER_TENSOR)
    codes, _ = getattr(layer, f"forward_{backend}")(x.to(DEVICE), torch.ones(1, device=DEVICE))
    assert torch.equal(codes.view(torch.uint8).cpu(), reference.encode(x.float()))


@pytest.mark.parametrize("scheme", ["per-tensor", "per-token", "group-64-col"])
@pytest.mark.parametrize("backend", KERNELS)
def test_calls_can_be_captured_and_follow_their_buffers(backend: str, scheme: str) -> None:
    """A graph captured on a stream of its own computes anew at each replay: nothing is left over between calls."""
    case = Case.parse(f"{scheme}/bfloat16/96x1024")
    x = tensors.random_input(case, DEVICE, 0)
    codes, scales = tensors.poisoned_outputs(case, DEVICE)
    call = own_backend(backend).bind(case.scheme, x, codes, scales)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, stream=torch.cuda.Stream()):
        call()
    for factor in (1.0, 0.01, 100.0):
        other = tensors.random_input(case, DEVICE, 1) * factor
        x.copy_(other)
        codes.view(torch.uint8).fill_(tensors.POISON_CODE)
        graph.replay()
        expected = reference.quantize(other, case.scheme)
        assert torch.equal(codes.view(torch.uint8).cpu(), expected[0])
        assert torch.equal(scales.cpu(), expected[1])


@pytest.mark.parametrize("size", ["256x1024", "513x2047", "2048x7168"])
@pytest.mark.parametrize("backend", KERNELS)
def test_a_workspace_of_the_caller_suffices(backend: str, size: str) -> None:
    case = Case.parse(f"per-tensor/bfloat16/{size}")
    x = tensors.random_input(case, DEVICE, 2)
    codes, scales = tensors.poisoned_outputs(case, DEVICE)
    kernels = own_backend(backend)
    needed = backends.workspace_bytes(kernels, case.scheme, x)
    memory = torch.full((needed + 256,), 0xFF, dtype=torch.uint8, device=DEVICE)
    memory[:needed] = 0
    call = kernels.bind(case.scheme, x, codes, scales, workspace=memory[:needed])  # type: ignore[call-arg]
    expected = reference.quantize(x.cpu(), case.scheme)
    for _ in range(3):
        codes.view(torch.uint8).fill_(tensors.POISON_CODE)
        call()
        assert torch.equal(codes.view(torch.uint8).cpu(), expected[0])
        assert torch.equal(scales.cpu(), expected[1])
    assert needed > 0
    assert (memory[:needed] != 0).any()
    assert (memory[needed:] == 0xFF).all()


@pytest.mark.parametrize("size", ["128x1024", "512x7168", "1024x7168"])
def test_tensors_on_several_streams_wait_for_nobody_for_ever(size: str) -> None:
    """Each call would like all multiprocessors at once, and they take them from each other."""
    case, kernels = Case.parse(f"per-tensor/bfloat16/{size}"), own_backend("cuda")
    inputs = [tensors.random_input(case, DEVICE, seed) for seed in range(4)]
    outputs = [tensors.poisoned_outputs(case, DEVICE) for _ in inputs]
    calls = [kernels.bind(case.scheme, x, *out) for x, out in zip(inputs, outputs, strict=True)]
    streams = [torch.cuda.Stream() for _ in calls]
    torch.cuda.synchronize()
    for _ in range(100):
        for stream, call in zip(streams, calls, strict=True):
            with torch.cuda.stream(stream):
                call()
    torch.cuda.synchronize()
    for x, (codes, scales) in zip(inputs, outputs, strict=True):
        expected = reference.quantize(x.cpu(), case.scheme)
        assert torch.equal(codes.view(torch.uint8).cpu(), expected[0])
        assert torch.equal(scales.cpu(), expected[1])


@pytest.mark.parametrize("forward", ["forward", "forward_cuda", "forward_triton"])
@pytest.mark.parametrize("scheme", ["per-tensor", "per-token", "group-32-col"])
def test_the_layer_on_a_gpu(forward: str, scheme: str) -> None:
    parsed = Scheme.parse(scheme)
    layer = QuantFP8(False, parsed.group_shape, column_major_scales=parsed.column_major)
    wide = torch.randn(3, 5, 192, generator=torch.Generator().manual_seed(0)).bfloat16().to(DEVICE)
    for x in (wide, wide[..., 32:160], wide[0, ::2], wide[0, 0], wide[0, :1, :32].expand(4, 32), wide[:0]):
        codes, scales = getattr(layer, forward)(x)
        expected = reference.quantize(x.reshape(math.prod(x.shape[:-1]), x.shape[-1]), parsed)
        assert codes.shape == x.shape
        assert torch.equal(codes.view(torch.uint8).cpu().reshape(expected[0].shape), expected[0])
        assert torch.equal(scales.cpu(), expected[1])


@pytest.mark.parametrize("forward", ["forward", "forward_triton"])
def test_the_layer_compiles_whole_on_a_gpu(forward: str) -> None:
    layer = QuantFP8(False, GroupShape(1, 32), column_major_scales=True)

    def work(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        codes, scales = getattr(layer, forward)(x * 2)
        return codes, scales * 2

    compiled = torch.compile(work, fullgraph=True)
    for tokens in (6, 9):
        x = torch.randn(tokens, 64, device=DEVICE, dtype=torch.bfloat16)
        torch._dynamo.mark_dynamic(x, 0)
        for got, expected in zip(compiled(x), work(x), strict=True):
            assert torch.equal(got.float(), expected.float())
            assert got.stride() == expected.stride()


@pytest.mark.parametrize("regime", ["hot", "cold"])
@pytest.mark.parametrize("provider", ["torch", *KERNELS])
def test_times_of_every_provider(provider: str, regime: str) -> None:
    times = fp8bench.benchmark_quantization(
        16, 896, provider, GroupShape(1, 128), True, torch.bfloat16, device=DEVICE, regime=regime
    )
    median_us, max_us, min_us = times
    assert 0 < min_us <= median_us <= max_us
