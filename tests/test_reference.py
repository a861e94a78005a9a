"""The oracle: blocks worked by hand, properties, edge values, and every 16-bit pattern against a second computation."""

from __future__ import annotations

from fractions import Fraction
from itertools import pairwise

import numpy as np
import pytest
import torch
from torch import Tensor

from fp8bench import reference
from fp8bench.errors import UsageError
from fp8bench.spec import MIN_SCALE, Scheme

DYNAMIC = ["per-tensor", "per-token", "group-64-row", "group-64-col", "per-token-ue8m0"]
INF, NAN = float("inf"), float("nan")


def scheme(name: str) -> Scheme:
    return Scheme.parse(name)


def encode(*values: float) -> list[int]:
    return reference.encode(torch.tensor(values, dtype=torch.float32)).tolist()


# ---- a second computation: the format by its definition, nearest by exact fractions ------------------------------


def value_of(code: int) -> Fraction:
    """Value of a finite, positive float8_e4m3fn code: 1 sign, 4 exponent (bias 7), 3 mantissa bits."""
    exponent, mantissa = divmod(code, 8)
    if exponent == 0:
        return Fraction(mantissa, 8) / 2**6
    return Fraction(8 + mantissa, 8) * Fraction(2) ** (exponent - 7)


VALUES = [value_of(code) for code in range(0x7F)]


def nearest(value: float) -> int:
    """Brute force over all 127 magnitudes; ties to the even code."""
    if np.isnan(value):
        return 0x7F
    sign = 0x80 if np.signbit(value) else 0
    if abs(value) >= 448:
        return sign | 0x7E
    exact = abs(Fraction(float(value)))
    return sign | min(range(0x7F), key=lambda code: (abs(VALUES[code] - exact), code % 2))


def all_patterns(dtype: torch.dtype) -> Tensor:
    """Every bit pattern of a 16-bit float.  # (65536,)"""
    return torch.arange(-(2**15), 2**15, dtype=torch.int32).to(torch.int16).view(dtype)


def rounded_by_arithmetic(y: np.ndarray) -> np.ndarray:
    """Nearest float8_e4m3fn in float64 by rounding to the quantum of the value's binade; independent of any table."""
    with np.errstate(all="ignore"):
        _, exponent = np.frexp(y)
        quantum = np.exp2(np.maximum(exponent - 1, -6) - 3.0)
        return np.clip(np.rint(y / quantum) * quantum, -448.0, 448.0)  # rint: ties to even


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_every_16_bit_pattern(dtype: torch.dtype) -> None:
    y = all_patterns(dtype).float()
    codes = reference.encode(y)
    nan = y.isnan()
    assert torch.equal(codes[nan], torch.full_like(codes[nan], 0x7F))
    expected = rounded_by_arithmetic(y[~nan].double().numpy())
    assert np.array_equal(reference.decode(codes[~nan]).numpy(), expected)
    assert torch.equal(codes[~nan] >= 0x80, torch.signbit(y[~nan]))  # decode cannot tell zeros apart: signs


def test_rounding_against_exact_fractions() -> None:
    middles = [float((a + b) / 2) for a, b in pairwise(VALUES)]
    around = [np.nextafter(np.float32(m), np.float32(way)) for m in middles for way in (0, 999)]
    values = [float(v) for v in VALUES] + middles + [float(v) for v in around]
    values += [-v for v in values]
    assert encode(*values) == [nearest(v) for v in values]


def test_magnitudes_are_the_format_by_definition() -> None:
    assert [Fraction(v) for v in reference.MAGNITUDES.tolist()] == VALUES


def test_decode_agrees_with_torch_on_every_code() -> None:
    codes = torch.arange(256).to(torch.uint8)
    assert torch.equal(
        reference.decode(codes).nan_to_num(nan=-1e9), codes.view(torch.float8_e4m3fn).double().nan_to_num(nan=-1e9)
    )


def test_every_finite_code_survives_the_round_trip() -> None:
    codes = torch.tensor([code for code in range(256) if code & 0x7F != 0x7F], dtype=torch.uint8)
    assert torch.equal(reference.encode(reference.decode(codes).float()), codes)


def test_edge_values() -> None:
    assert encode(0.0, -0.0, INF, -INF, NAN) == [0x00, 0x80, 0x7E, 0xFE, 0x7F]
    assert encode(448.0, 464.0, 465.0, 1e30, -1e30) == [0x7E, 0x7E, 0x7E, 0x7E, 0xFE]
    smallest = 2.0**-9
    assert encode(smallest, smallest / 2, smallest * 0.51, smallest * 1.5) == [0x01, 0x00, 0x01, 0x02]
    assert encode(1e-45, -1e-45) == [0x00, 0x80]
    assert encode(1.0625, 1.1875, -1.0625) == [0x38, 0x3A, 0xB8]  # ties: 1.0|1.125 and 1.125|1.25


# ---- blocks worked by hand ---------------------------------------------------------------------------------------


def test_a_row_worked_by_hand() -> None:
    x = torch.tensor([[896.0, -2.0, 1.0, 0.0]])  # absmax / 448 = 2
    codes, scales = reference.quantize(x, scheme("per-token"))
    assert scales.tolist() == [[2.0]]
    assert codes.tolist() == [[0x7E, 0xB8, 0x30, 0x00]]  # 448, -1, 0.5, 0


def test_groups_worked_by_hand() -> None:
    x = torch.zeros(2, 4)
    x[0] = torch.tensor([448.0, 1.0, 56.0, -1.0])
    x[1] = torch.tensor([0.0, 0.0, 896.0, 448.0])
    for name, strides in (("group-2-row", (2, 1)), ("group-2-col", (1, 2))):
        codes, scales = reference.quantize(x, scheme(name))
        assert scales.tolist() == [[1.0, 0.125], [np.float32(MIN_SCALE), 2.0]]
        assert scales.stride() == strides
        assert codes.tolist() == [[0x7E, 0x38, 0x7E, 0xD0], [0x00, 0x00, 0x7E, 0x76]]


def test_a_tensor_worked_by_hand() -> None:
    codes, scales = reference.quantize(torch.tensor([[1.0, 2.0], [-4.0, 448.0]]), scheme("per-tensor"))
    assert scales.tolist() == [1.0]
    assert codes.tolist() == [[0x38, 0x40], [0xC8, 0x7E]]


def test_a_given_scale_saturates_and_comes_back() -> None:
    x = torch.tensor([[1.0, 1000.0, -1000.0]])
    codes, scales = reference.quantize(x, scheme("per-tensor-static"), scale=torch.tensor([0.5]))
    assert codes.tolist() == [[0x40, 0x7E, 0xFE]]
    assert scales.tolist() == [0.5]


def test_an_upper_bound_caps_the_scale() -> None:
    x = torch.tensor([[896.0, 448.0], [44.8, 1.0]])
    codes, scales = reference.quantize(x, scheme("per-token"), scale_ub=torch.tensor(448.0))
    assert scales[:, 0].tolist() == [1.0, np.float32(44.8) / np.float32(448)]
    assert codes[0].tolist() == [0x7E, 0x7E]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32], ids=str)
@pytest.mark.parametrize("name", DYNAMIC)
def test_nan_inf_and_zero_stay_in_their_group(name: str, dtype: torch.dtype) -> None:
    x = torch.ones(4, 128, dtype=dtype)
    x[0, 0], x[1, 0], x[1, 1], x[2] = NAN, INF, -INF, 0.0
    codes, scales = reference.quantize(x, scheme(name))
    if name == "per-tensor":
        assert scales.isnan().all()
        assert (codes == 0x7F).all()
        return
    width = 64 if name.startswith("group") else 128
    assert scales[0, 0].isnan()
    assert (codes[0, :width] == 0x7F).all()
    assert scales[1, 0] == INF
    assert codes[1, :3].tolist() == [0x7F, 0x7F, 0x00]
    smallest = 2.0**-17 if name.endswith("ue8m0") else np.float32(MIN_SCALE)
    assert (scales[2] == smallest).all()
    assert (codes[2] == 0).all()
    assert scales[3].isfinite().all()


def test_an_infinite_tensor() -> None:
    codes, scales = reference.quantize(torch.tensor([[INF, 1.0, -1.0]]), scheme("per-tensor"))
    assert scales.tolist() == [INF]
    assert codes.tolist() == [[0x7F, 0x00, 0x80]]


# ---- properties --------------------------------------------------------------------------------------------------


def random_x(seed: int, tokens: int = 16, hidden: int = 128) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    spread = torch.exp2(torch.randint(-8, 9, (tokens, 1), generator=generator).float())
    return torch.randn(tokens, hidden, generator=generator) * spread


@pytest.mark.parametrize("name", DYNAMIC)
def test_dynamic_scales_fill_the_range_and_never_exceed_it(name: str) -> None:
    codes, scales = reference.quantize(random_x(1), scheme(name))
    largest = reference.decode(codes).abs().reshape(1 if name == "per-tensor" else 16, -1).amax(dim=-1)
    assert not reference.decode(codes).isnan().any()
    if name.endswith("ue8m0"):
        assert ((largest > 208) & (largest <= 448)).all()  # rounding up halves the range at most
    else:
        assert (largest == 448).all()
    assert (scales >= np.float32(MIN_SCALE)).all()


@pytest.mark.parametrize("name", DYNAMIC)
@pytest.mark.parametrize("power", [-3, 5])
def test_powers_of_two_move_the_scales_only(name: str, power: int) -> None:
    x = random_x(2) * 16  # far from the smallest scale
    codes, scales = reference.quantize(x, scheme(name))
    moved_codes, moved_scales = reference.quantize(x * 2.0**power, scheme(name))
    assert torch.equal(codes, moved_codes)
    assert torch.equal(scales * 2.0**power, moved_scales)


@pytest.mark.parametrize("name", DYNAMIC)
def test_a_larger_input_never_gets_a_smaller_value(name: str) -> None:
    x = torch.cat([torch.linspace(-7, 7, 127), torch.tensor([8.0])]).reshape(1, 128)
    decoded = reference.decode(reference.quantize(x, scheme(name))[0])
    step = 64 if name.startswith("group") else 128
    for start in range(0, 128, step):
        assert (decoded[0, start : start + step].diff() >= 0).all()


def test_layouts_and_equal_groupings_agree() -> None:
    x = random_x(3)
    row, column = (reference.quantize(x, scheme(f"group-64-{layout}")) for layout in ("row", "col"))
    assert torch.equal(row[0], column[0])
    assert torch.equal(row[1], column[1])
    whole, token = (reference.quantize(x, scheme(name)) for name in ("group-128-row", "per-token"))
    assert torch.equal(whole[0], token[0])
    assert torch.equal(whole[1], token[1])


def test_error_is_at_most_half_a_step() -> None:
    x = random_x(4)
    codes, scales = reference.quantize(x, scheme("per-token"))
    y = (x / scales).double()
    decoded = reference.decode(codes)
    assert ((decoded - y).abs() <= torch.maximum(y.abs() / 16, torch.tensor(2.0**-10))).all()


def test_power_of_two_scales() -> None:
    scale = torch.tensor([1.0, 1.0000001, 0.75, 0.5, MIN_SCALE, 3e38, INF])
    assert reference.round_up_to_power_of_two(scale).tolist() == [1.0, 2.0, 1.0, 0.5, 2.0**-17, INF, INF]
    assert reference.round_up_to_power_of_two(torch.tensor([NAN])).isnan().all()


@pytest.mark.parametrize("name", [*DYNAMIC, "per-tensor-static"])
def test_any_strides_give_the_same(name: str) -> None:
    wide = random_x(5, 6, 256)
    scale = torch.tensor([0.25]) if "static" in name else None
    strided = reference.quantize(wide[::2, 64:192], scheme(name), scale)
    dense = reference.quantize(wide[::2, 64:192].contiguous(), scheme(name), scale)
    assert torch.equal(strided[0], dense[0])
    assert torch.equal(strided[1], dense[1])


@pytest.mark.parametrize("name", DYNAMIC)
def test_zero_tokens(name: str) -> None:
    codes, scales = reference.quantize(torch.empty(0, 128), scheme(name))
    assert codes.shape == (0, 128)
    assert tuple(scales.shape) == scheme(name).scale_shape(0, 128)


def test_a_scale_is_given_exactly_when_the_scheme_is_static() -> None:
    x = torch.ones(1, 64)
    with pytest.raises(UsageError, match="needs given scale"):
        reference.quantize(x, scheme("per-token-static"))
    with pytest.raises(UsageError, match="takes no given scale"):
        reference.quantize(x, scheme("per-token"), scale=torch.ones(1, 1))
