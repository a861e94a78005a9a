"""The layer: its results, its options, its refusals, and that torch.compile sees through it."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import fp8bench
from fp8bench import GroupShape, QuantFP8, quant, reference
from fp8bench.errors import UsageError
from fp8bench.spec import MIN_SCALE
from fp8bench.tensors import FP8

TENSOR, TOKEN, GROUP = GroupShape.PER_TENSOR, GroupShape.PER_TOKEN, GroupShape(1, 32)
LAYERS = {
    layer.scheme.name: layer
    for layer in (
        QuantFP8(False, TENSOR),
        QuantFP8(False, TOKEN),
        QuantFP8(False, GROUP),
        QuantFP8(False, GROUP, column_major_scales=True),
        QuantFP8(False, TENSOR, use_ue8m0=True),
        QuantFP8(False, GROUP, column_major_scales=True, use_ue8m0=True),
        QuantFP8(True, TENSOR),
        QuantFP8(True, TOKEN),
        QuantFP8(True, GROUP, column_major_scales=True),
    )
}
FORWARDS = ["forward", "forward_cpu", "forward_native"]
DTYPES = [torch.bfloat16, torch.float16, torch.float32]

every_layer = pytest.mark.parametrize("layer", LAYERS.values(), ids=LAYERS)
every_forward = pytest.mark.parametrize("forward", FORWARDS)


def some(*shape: int, dtype: torch.dtype = torch.bfloat16, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def given(layer: QuantFP8, tokens: int, hidden: int) -> Tensor | None:
    """Scales for a static layer."""
    if not layer.scheme.static:
        return None
    return (
        torch.rand(layer.scheme.scale_shape(tokens, hidden), generator=torch.Generator().manual_seed(1)) * 0.01 + 0.003
    )


def assert_equals_oracle(result: tuple[Tensor, Tensor], layer: QuantFP8, x: Tensor, *options: Tensor | None) -> None:
    """Bit for bit; `x` is (tokens, hidden). Eager torch divides truly, so forward_native is exact on a CPU too."""
    codes, scales = reference.quantize(x, layer.scheme, *options)
    assert result[0].dtype == FP8
    assert torch.equal(result[0].view(torch.uint8).reshape(x.shape), codes)
    assert torch.equal(result[1], scales)
    if layer.scheme.column_major and not layer.scheme.static:
        assert result[1].stride() == (1, x.shape[0])


@every_layer
@every_forward
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_agrees_with_the_oracle(layer: QuantFP8, forward: str, dtype: torch.dtype) -> None:
    x, scale = some(6, 64, dtype=dtype), given(layer, 6, 64)
    assert_equals_oracle(getattr(layer, forward)(x, scale), layer, x, scale)


@every_layer
@every_forward
def test_any_leading_dimensions_and_strides(layer: QuantFP8, forward: str) -> None:
    run, wide = getattr(layer, forward), some(2, 6, 160, seed=3)
    inputs = {
        "leading": wide[..., :64].contiguous(),
        "vector": wide[0, 0, :64],
        "rows apart": wide[0, ::2, 96:160],
        "transposed": some(64, 6).t(),
        "expanded": wide[0, :1, :64].expand(4, 64),
        "one token": wide[:1, 3, 32:96],
    }
    for name, x in inputs.items():
        flat = x.reshape(-1, 64)
        scale = given(layer, *flat.shape)
        result = run(x, scale)
        assert result[0].shape == x.shape, name
        assert result[0].is_contiguous(), name
        assert_equals_oracle(result, layer, flat, scale)


@every_layer
@every_forward
@pytest.mark.parametrize("shape", [(0, 64), (2, 0, 64)], ids=str)
def test_zero_tokens(layer: QuantFP8, forward: str, shape: tuple[int, ...]) -> None:
    x = torch.empty(shape, dtype=torch.float16)
    scale = given(layer, 0, 64)
    codes, scales = getattr(layer, forward)(x, scale)
    assert codes.shape == shape
    assert codes.dtype == FP8
    assert tuple(scales.shape) == layer.scheme.scale_shape(0, 64)
    if layer.scheme.group_shape.is_per_tensor() and scale is None:
        assert torch.equal(scales, reference.quantize(x.reshape(-1, 64), layer.scheme)[1])
        assert float(scales) >= torch.tensor(MIN_SCALE)


@every_forward
@pytest.mark.parametrize("padding", [1, 5, 9])
def test_token_padding_adds_zero_codes_only(forward: str, padding: int) -> None:
    layer, x = QuantFP8(False, TOKEN, num_token_padding=padding), some(5, 64)
    codes, scales = getattr(layer, forward)(x)
    assert codes.shape == (max(5, padding), 64)
    assert (codes[5:].view(torch.uint8) == 0).all()
    assert_equals_oracle((codes[:5], scales), layer, x)


@every_forward
def test_an_upper_bound_caps_absmax(forward: str) -> None:
    layer, x, bound = QuantFP8(False, TOKEN), some(6, 64), torch.tensor([1.25])
    result = getattr(layer, forward)(x, scale_ub=bound)
    assert_equals_oracle(result, layer, x, None, bound)
    assert (result[1] <= torch.tensor(1.25) / 448).all()


@every_forward
def test_given_scales_come_back(forward: str) -> None:
    layer, scale = QuantFP8(True, TENSOR), torch.tensor(0.01)
    _, scales = getattr(layer, forward)(some(3, 64), scale)
    assert scales.tolist() == scale.reshape(1).tolist()


@pytest.mark.parametrize("name", ["cpu", "cuda", "triton"])
def test_operators_keep_their_promises_to_torch(name: str) -> None:
    """Schema and fake kernel: shapes, strides and dtypes of the fake outputs, also with dynamic shapes."""
    operator = getattr(torch.ops.fp8bench, f"quantize_{name}").default
    with torch._subclasses.FakeTensorMode():
        x = torch.empty(6, 64, dtype=torch.bfloat16)
        codes, scales = operator(x, None, None, "group-32-col")
    assert (codes.shape, codes.dtype) == ((6, 64), FP8)
    assert (scales.shape, scales.stride(), scales.dtype) == ((6, 2), (1, 6), torch.float32)


@pytest.mark.parametrize("name", ["group-32-col", "per-tensor-static"])
def test_opcheck(name: str) -> None:
    layer, x = LAYERS[name], some(6, 64)
    operator = torch.ops.fp8bench.quantize_cpu.default
    tests = ("test_schema", "test_faketensor")
    torch.library.opcheck(operator, (x, given(layer, 6, 64), None, name), test_utils=tests)


class Twice(torch.nn.Module):
    """Work around the layer, so that there is a graph to break."""

    def __init__(self, layer: QuantFP8, forward: str) -> None:
        super().__init__()
        self.layer, self.forward_name = layer, forward

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        codes, scales = getattr(self.layer, self.forward_name)(x * 2)
        return codes, scales * 2


@pytest.mark.parametrize("forward", ["forward", "forward_native"])
@pytest.mark.parametrize("name", ["per-tensor", "per-token", "group-32-col"])
def test_compiles_whole_with_a_dynamic_first_dimension(name: str, forward: str) -> None:
    torch._dynamo.reset()
    module = Twice(LAYERS[name], forward)
    backend = "aot_eager"  # traces, runs the fake kernels and functionalises as Inductor does; no C++ to compile
    compiled = torch.compile(module, fullgraph=True, dynamic=False, backend=backend)
    for tokens in (6, 9, 17):
        x = some(tokens, 64, seed=tokens)
        torch._dynamo.mark_dynamic(x, 0)
        for got, expected in zip(compiled(x), module(x), strict=True):
            assert torch.equal(got.float(), expected.float())
            assert got.stride() == expected.stride()


@pytest.mark.filterwarnings("ignore:.*torch.jit.script_method:DeprecationWarning")  # torch's own
def test_inductor_runs_the_operator_with_column_major_scales() -> None:
    module = Twice(LAYERS["group-32-col"], "forward")
    x = some(7, 64)
    torch._dynamo.mark_dynamic(x, 0)
    codes, scales = torch.compile(module, fullgraph=True)(x)
    expected = module(x)
    assert torch.equal(codes.view(torch.uint8), expected[0].view(torch.uint8))
    assert torch.equal(scales, expected[1])
    assert scales.stride() == (1, 7)


# ---- refusals ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ((False, GroupShape(2, 64)), "not supported"),
        ((False, GroupShape(1, 0)), "not supported"),
        ((False, TOKEN, None, True), "per group only"),
        ((True, TENSOR, None, False, True), "leave use_ue8m0 off"),
        ((False, TOKEN, 0), "num_token_padding is 0"),
        ((False, TOKEN, -3), "num_token_padding is -3"),
    ],
)
def test_layers_that_cannot_be_are_refused(arguments: tuple, told: str) -> None:
    with pytest.raises(ValueError, match=told):
        QuantFP8(*arguments)


@every_forward
def test_inputs_that_cannot_be_are_refused(forward: str) -> None:
    def refused(layer: QuantFP8, told: str, *arguments: Tensor | None) -> None:
        with pytest.raises(UsageError) as refusal:
            getattr(layer, forward)(*arguments)
        assert told in str(refusal.value)

    x = some(4, 64)
    refused(LAYERS["per-token"], "dtype torch.float64", x.double())
    refused(LAYERS["per-token"], "last dimension", torch.tensor(1.0))
    refused(LAYERS["per-token"], "last dimension", torch.empty(4, 0))
    refused(LAYERS["group-32-row"], "48 is not divisible by the group size 32", some(4, 48))
    refused(LAYERS["per-token"], "pass no scale", x, torch.ones(4, 1))
    refused(LAYERS["per-token-static"], "needs a given scale", x)
    refused(LAYERS["per-token-static"], "give (4, 1) in float32", x, torch.ones(3, 1))
    refused(LAYERS["per-tensor-static"], "give (1,) in float32", x, torch.ones(1, dtype=torch.float64))
    refused(LAYERS["per-tensor"], "scale_ub is for dynamic per-token", x, None, torch.tensor(1.0))
    refused(LAYERS["per-token"], "give one float32 element", x, None, torch.ones(2))
    refused(LAYERS["per-token"], "scale_ub is on meta and x on cpu", x, None, torch.ones(1, device="meta"))
    refused(QuantFP8(False, TOKEN, num_token_padding=8), "token padding is for", some(2, 2, 64))


def test_kernels_that_cannot_run_here_say_why() -> None:
    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    for forward in ("forward_cuda", "forward_triton"):
        with pytest.raises(UsageError, match="cannot compute per-token/bfloat16/4x64 on cpu"):
            getattr(LAYERS["per-token"], forward)(some(4, 64))


def test_the_public_face() -> None:
    assert fp8bench.QuantFP8 is quant.QuantFP8
    assert "group-32-col" in repr(LAYERS["group-32-col"])
    assert "num_token_padding=7" in repr(QuantFP8(False, TOKEN, 7))
