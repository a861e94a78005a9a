"""The check finds what is wrong and says where: each flaw is planted in an otherwise right backend."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from fp8bench import checks, reference
from fp8bench.records import CheckStatus
from fp8bench.spec import MIN_SCALE, Case, Scheme

Result = tuple[Tensor, Tensor]
Flaw = Callable[[Scheme, Tensor, Result], Result]


class Exact:
    """The oracle as a backend, with a flaw."""

    name = "cpu"

    def __init__(self, flaw: Flaw | None = None, name: str = "cpu", reason: str | None = None) -> None:
        self.flaw, self.name, self.reason = flaw, name, reason

    def supports(self, case: Case, device: str) -> str | None:
        return self.reason

    def bind(
        self,
        scheme: Scheme,
        x: Tensor,
        codes: Tensor,
        scales: Tensor,
        scale: Tensor | None = None,
        scale_ub: Tensor | None = None,
    ) -> Callable[[], Result]:
        def call() -> Result:
            result = reference.quantize(x, scheme, scale, scale_ub)
            found = self.flaw(scheme, x, result) if self.flaw else result
            codes.view(torch.uint8).copy_(found[0])
            scales.copy_(found[1])
            return codes, scales

        return call


CASES = [
    "per-tensor/bfloat16/5x96",
    "per-token/float16/1x96",
    "per-token-ue8m0/bfloat16/5x96",
    "group-32-row/float32/5x96",
    "group-32-col/bfloat16/5x96",
    "group-32-col-static/float16/5x96",
    "per-tensor-static/float32/2x96",
]


@pytest.mark.parametrize("case", CASES)
def test_the_oracle_passes_its_own_check(case: str) -> None:
    result = checks.check(Exact(), Case.parse(case), "cpu", 7, "candidate")
    assert (result.status, result.detail) == (CheckStatus.OK, "")
    assert (result.role, result.backend, result.case) == ("candidate", "cpu", case)
    assert (result.differing_share, result.largest_code_step, result.scale_error) == (0.0, 0, 0.0)
    assert result.saturated_share is not None
    assert result.saturated_share < 0.5
    assert result.saturated_share > 0 or case.startswith("per-token-ue8m0")


def encoded(scheme: Scheme, x: Tensor, scales: Tensor) -> Tensor:
    """Codes of `x` for other scales than the oracle's."""
    return reference.quantize(x, Scheme(scheme.group_shape, scheme.column_major, static=True), scales)[0]


def reciprocal(scheme: Scheme, x: Tensor, result: Result) -> Result:
    scales = (result[1] * 448) * torch.tensor(1 / 448)
    return encoded(scheme, x, scales), scales


def scale_one_ulp_off(scheme: Scheme, x: Tensor, result: Result) -> Result:
    return result[0], torch.nextafter(result[1], torch.tensor(torch.inf))


def no_smallest_scale(scheme: Scheme, x: Tensor, result: Result) -> Result:
    return result[0], torch.where(result[1] == torch.tensor(MIN_SCALE), 0.0, result[1])


def ties_away(scheme: Scheme, x: Tensor, result: Result) -> Result:
    y = x.float() / result[1]
    return reference.encode(torch.nextafter(y, y * 2)), result[1]


def subnormals_flushed(scheme: Scheme, x: Tensor, result: Result) -> Result:
    return torch.where((result[0] & 0x7F) < 8, result[0] & 0x80, result[0]), result[1]


def sign_of_zero_lost(scheme: Scheme, x: Tensor, result: Result) -> Result:
    return torch.where(result[0] == 0x80, 0, result[0]), result[1]


def nan_hidden(scheme: Scheme, x: Tensor, result: Result) -> Result:
    codes, scales = result
    return torch.where((codes & 0x7F) == 0x7F, 0, codes), scales


def nan_code_with_sign(scheme: Scheme, x: Tensor, result: Result) -> Result:
    return torch.where(result[0] == 0x7F, 0xFF, result[0]), result[1]


def last_row_forgotten(scheme: Scheme, x: Tensor, result: Result) -> Result:
    codes = result[0].clone()
    codes[-1, -1] = 0x7D
    return codes, result[1]


FLAWS = [
    reciprocal,
    scale_one_ulp_off,
    no_smallest_scale,
    ties_away,
    subnormals_flushed,
    sign_of_zero_lost,
    nan_hidden,
    nan_code_with_sign,
    last_row_forgotten,
]


@pytest.mark.parametrize("flaw", FLAWS, ids=lambda flaw: flaw.__name__)
@pytest.mark.parametrize("case", ["per-token/bfloat16/9x96", "per-tensor/bfloat16/9x96"])
def test_every_flaw_is_found(flaw: Flaw, case: str) -> None:
    result = checks.check(Exact(flaw), Case.parse(case), "cpu")
    assert result.status is CheckStatus.WRONG
    assert "input" in result.detail
    assert "expected" in result.detail


def test_a_mismatch_names_place_values_and_bytes() -> None:
    def flaw(scheme: Scheme, x: Tensor, result: Result) -> Result:
        codes = result[0].clone()
        codes[3, 17] = 0x38
        return codes, result[1]

    case = Case.parse("per-token/bfloat16/5x96")
    detail = checks.check(Exact(flaw), case, "cpu", 1).detail
    assert detail.startswith("random input, code (3, 17): got 0x38 (1), expected 0x")
    assert detail.endswith("; 1 of 480 codes are wrong.")


def one_step(scheme: Scheme, x: Tensor, result: Result) -> Result:
    """Every 200th code one step off, and every NaN with a sign."""
    codes = nan_code_with_sign(scheme, x, result)[0].clone().reshape(-1)
    every = codes[::200]
    codes[::200] = torch.where(((every & 0x7F) > 1) & ((every & 0x7F) < 0x7F), every - 1, every)
    return codes.reshape(result[0].shape), result[1]


def every_step(scheme: Scheme, x: Tensor, result: Result) -> Result:
    magnitude = result[0] & 0x7F
    return torch.where((magnitude > 1) & (magnitude < 0x7F), result[0] - 1, result[0]), result[1]


def two_steps(scheme: Scheme, x: Tensor, result: Result) -> Result:
    codes = result[0].clone()
    codes[0, 0] ^= 2
    return codes, result[1]


def test_a_compiler_may_be_one_step_off_but_not_often() -> None:
    case = Case.parse("per-token/bfloat16/9x96")
    allowed = checks.check(Exact(one_step, "torch"), case, "cpu")
    assert allowed.status is CheckStatus.OK
    assert allowed.largest_code_step == 1
    assert 0 < (allowed.differing_share or 0) <= checks.BOUNDS.differing_share
    assert checks.check(Exact(scale_one_ulp_off, "torch"), case, "cpu").status is CheckStatus.OK
    often = checks.check(Exact(every_step, "torch"), case, "cpu")
    assert often.status is CheckStatus.WRONG
    assert "of the codes differ, allowed are 1%" in often.detail
    assert checks.check(Exact(two_steps, "torch"), case, "cpu").status is CheckStatus.WRONG
    assert checks.check(Exact(nan_hidden, "torch"), case, "cpu").status is CheckStatus.WRONG


def test_writing_behind_the_outputs_is_found() -> None:
    class Overrun(Exact):
        def bind(self, scheme: Scheme, x: Tensor, codes: Tensor, scales: Tensor, *rest: Tensor | None) -> Callable:
            call = super().bind(scheme, x, codes, scales, *rest)

            def overrun() -> Result:
                codes.view(torch.uint8).view(-1).as_strided((codes.numel() + 1,), (1,))[-1] = 0
                return call()

            return overrun

    result = checks.check(Overrun(), Case.parse("per-token/bfloat16/5x96"), "cpu")
    assert result.detail == "random input: wrote behind the codes."


def test_a_wrong_layout_is_found() -> None:
    class RowMajor(Exact):
        def bind(self, *arguments: Tensor, **options: Tensor | None) -> Callable:
            call = super().bind(*arguments, **options)  # type: ignore[arg-type]
            return lambda: (call()[0], call()[1].contiguous())

    result = checks.check(RowMajor(), Case.parse("group-32-col/bfloat16/5x96"), "cpu")
    assert result.status is CheckStatus.WRONG
    assert result.detail == "scales have strides (3, 1), expected (1, 5)."


def test_what_is_unsupported_is_said_and_not_run() -> None:
    result = checks.check(Exact(reason="no such kernel"), Case.parse(CASES[0]), "cpu")
    assert (result.status, result.detail, result.differing_share) == (CheckStatus.UNSUPPORTED, "no such kernel", None)


def test_what_the_backend_raises_propagates() -> None:
    def flaw(scheme: Scheme, x: Tensor, result: Result) -> Result:
        raise RuntimeError("the kernel is not well")

    with pytest.raises(RuntimeError, match="not well"):
        checks.check(Exact(flaw), Case.parse(CASES[0]), "cpu")
