"""A backend's output against the oracle, on inputs made to break it.

Inputs of a case, in its own size where that is small: random; adversarial (ties, subnormals, a huge dynamic range,
an outlier a group, signed zeros); special (rows of zeros, with NaN, with infinities); the options (row stride, and
`scale_ub` per-token). A large case is checked on random input in its own size, and on the others with few tokens.
Outputs are poisoned and padded by guards before each call, so that what is not written, or written beside, shows.

`cuda`, `triton` and `cpu` must agree bit for bit. For `torch` a compiler owns the arithmetic: see `TorchBounds`. A
yardstick is checked for what it claims to be: see `FIXED_SCALES`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor

from . import reference, tensors
from .backends import Backend
from .records import CheckResult, CheckStatus, Role
from .spec import FP8_MAX, Case, Scheme

LARGE = 1 << 18  # elements; larger cases get random input only, the rest with FEW_TOKENS
FEW_TOKENS = 16
OPTIONS_UP_TO = 1 << 15  # elements; options cost a compilation of their own, so small cases stand for all
GUARD = 64  # elements behind each output


@dataclass(frozen=True)
class TorchBounds:
    """How far torch.compile may be from the oracle: a division by 448 may become a multiplication by 1/448."""

    code_step: int = 1  # between neighbouring codes
    differing_share: float = 0.01  # of the codes of random input; ties flip together, so not of adversarial ones
    scale_ulps: int = 2


BOUNDS = TorchBounds()
BOUNDED = frozenset({"torch"})  # every other backend is bit-exact
# Yardsticks that compute no scale: their codes are those of a static scheme with this scale, bit for bit, and they take
# no options.
FIXED_SCALES = {"floor": 2.0}


# ---- inputs -------------------------------------------------------------------------------------------------


class Input(NamedTuple):
    """One input of a check: `x` (tokens, hidden) in the case's dtype on the CPU, and the options it comes with."""

    name: str
    case: Case
    x: Tensor
    scale: Tensor | None = None
    scale_ub: Tensor | None = None
    strided: bool = False


def _ties(hidden: int) -> Tensor:
    """Midpoints between neighbouring codes, one of them 448: with absmax 448 the scale is 1 and every one a tie."""
    magnitudes = reference.MAGNITUDES.float()
    middles = (magnitudes[:-1] + magnitudes[1:]) / 2
    row = middles.repeat(math.ceil(hidden / len(middles)))[:hidden].clone()
    row[1::2] *= -1
    row[:: min(64, hidden)] = FP8_MAX
    return row


def _adversarial_rows(hidden: int, dtype: torch.dtype, generator: torch.Generator) -> list[Tensor]:
    """Finite rows (hidden,) in float32."""
    info = torch.finfo(dtype)
    noise = torch.randn(hidden, generator=generator)
    widest = 0.9 * math.log2(info.max)
    spread = noise.sign() * torch.exp2((torch.rand(hidden, generator=generator) * 2 - 1) * widest)
    outlier = noise.clone()
    outlier[hidden // 2 :: 64] = 3e4
    signed_zeros = torch.where(noise > 0, 0.0, -0.0)
    signed_zeros[-1] = 1.0
    subnormal = noise.sign() * torch.linspace(0.5, 64, hidden) * 2.0**-15  # codes and their scale at the low end
    return [
        _ties(hidden),
        spread,
        outlier,
        signed_zeros,
        noise * info.tiny,  # subnormal in the input's own dtype, too
        subnormal,
        noise.sign() * info.max,
        torch.full((hidden,), info.smallest_normal),
    ]


def _special_rows(hidden: int, generator: torch.Generator) -> list[Tensor]:
    nan, inf = torch.nan, torch.inf
    rows = [torch.randn(hidden, generator=generator) for _ in range(5)]
    for row, values in zip(rows, ([nan], [inf], [-inf, inf], [inf, nan]), strict=False):
        for index, value in enumerate(values):
            row[(hidden // 2 + index) % hidden] = value
    return [*rows, torch.zeros(hidden), torch.full((hidden,), -0.0)]


def _tiled(rows: list[Tensor], case: Case) -> Tensor:
    """The rows, repeated to the case's tokens and cast."""
    x = torch.stack([rows[token % len(rows)] for token in range(case.tokens)])
    return x.to(tensors.TORCH_DTYPES[case.dtype])


def _given_scale(case: Case, x: Tensor, generator: torch.Generator) -> Tensor | None:
    """Scales for a static scheme: up to half the dynamic ones, so that some values saturate; None for a dynamic one."""
    if not case.scheme.static:
        return None
    scales = reference.quantize(x, replace(case.scheme, static=False))[1]
    factors = torch.exp2(torch.rand(scales.shape, generator=generator) - 1)
    return scales.mul_(factors)


def _sets(case: Case, generator: torch.Generator) -> Iterator[tuple[str, Tensor]]:
    """Adversarial and special inputs. Per-tensor, one row decides for all, so each such row is an input."""
    dtype = tensors.TORCH_DTYPES[case.dtype]
    adversarial = _adversarial_rows(case.hidden, dtype, generator)
    special = _special_rows(case.hidden, generator)
    if not case.scheme.group_shape.is_per_tensor():
        for start in range(0, len(adversarial), case.tokens):
            yield "adversarial", _tiled(adversarial[start : start + case.tokens], case)
        for start in range(0, len(special), case.tokens):
            yield "special", _tiled(special[start : start + case.tokens], case)
        return
    for row in (*adversarial, special[0], special[1], special[-2]):
        last = case.tokens - 1
        calm = torch.zeros(case.hidden) if not row.any() else row * 0.5
        yield "adversarial", _tiled([row if token == last else calm for token in range(case.tokens)], case)


@lru_cache(maxsize=4)
def _inputs(case: Case, seed: int, fixed_scale: float | None = None) -> tuple[tuple[Input, Tensor, Tensor], ...]:
    """Inputs of a case with the oracle's codes and scales; kept, as every backend and build asks for the same.

    fixed_scale: the scale that stands in for computed ones.
    """
    generator = torch.Generator().manual_seed(seed)
    x = tensors.random_input(case, "cpu", seed)
    scale = _given_scale(case, x, generator)
    found = [Input("random", case, x, scale)]
    small = case if case.tokens * case.hidden <= LARGE else replace(case, tokens=min(case.tokens, FEW_TOKENS))
    if small is not case:
        scale = _given_scale(small, x[: small.tokens], generator)
    found += [Input(name, small, values, scale) for name, values in _sets(small, generator)]
    if case.tokens * case.hidden <= OPTIONS_UP_TO and fixed_scale is None:
        bound = torch.tensor(1.5) if case.scheme.group_shape.is_per_token() and not case.scheme.static else None
        found.append(Input("options", case, x, found[0].scale, bound, strided=True))
    return tuple((entry, *_expected(entry, fixed_scale)) for entry in found)


def _expected(entry: Input, fixed_scale: float | None) -> tuple[Tensor, Tensor]:
    """The oracle's codes and scales."""
    if fixed_scale is None:
        return reference.quantize(entry.x, entry.case.scheme, entry.scale, entry.scale_ub)
    scales = torch.full(entry.case.scheme.scale_shape(*entry.x.shape), fixed_scale)
    return reference.quantize(entry.x, replace(entry.case.scheme, static=True), scales)


# ---- one call -----------------------------------------------------------------------------------------------


class _Bound:
    """A backend bound to buffers of one size, which inputs are copied into one after the other."""

    def __init__(self, backend: Backend, first: Input, device: str) -> None:
        case = first.case
        self.x = self._buffer(first, device)
        count = math.prod(case.scheme.scale_shape(case.tokens, case.hidden))
        self._codes = torch.empty(case.tokens * case.hidden + GUARD, dtype=torch.uint8, device=device)
        self._scales = torch.empty(count + GUARD, dtype=torch.float32, device=device)
        codes = self._codes[: case.tokens * case.hidden].view(tensors.FP8).view(case.tokens, case.hidden)
        scales = self._scales.as_strided(
            case.scheme.scale_shape(case.tokens, case.hidden), case.scheme.scale_strides(case.tokens, case.hidden)
        )
        self.x.copy_(first.x)
        options = [None if value is None else value.to(device) for value in (first.scale, first.scale_ub)]
        self.call = backend.bind(case.scheme, self.x, codes, scales, *options)

    @staticmethod
    def _buffer(entry: Input, device: str) -> Tensor:
        tokens, hidden = entry.x.shape
        width = hidden + (16 if entry.strided else 0)
        return torch.empty(tokens, width, dtype=entry.x.dtype, device=device)[:, :hidden]

    def run(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Codes (uint8) and scales of `x`, on the CPU."""
        self.x.copy_(x)
        self._codes.fill_(tensors.POISON_CODE)
        self._scales.fill_(tensors.POISON_SCALE)
        codes, scales = self.call()
        return codes.view(torch.uint8).cpu(), scales.cpu()

    def overrun(self) -> str:
        """Which guard was written to, or ''."""
        if (self._codes[-GUARD:] != tensors.POISON_CODE).any():
            return "wrote behind the codes"
        return "wrote behind the scales" if (self._scales[-GUARD:] != tensors.POISON_SCALE).any() else ""


# ---- comparison ---------------------------------------------------------------------------------------------


class _Comparison(NamedTuple):
    """One output against the oracle."""

    detail: str  # the first mismatch that is not allowed, or ""
    codes: int
    differing: int
    largest_step: int
    saturated: int
    scale_error: float


def _ordinals(codes: Tensor) -> Tensor:
    """Codes as integers in the order of their values, both zeros 0."""
    magnitude = (codes & 0x7F).short()
    return torch.where(codes >= 0x80, -magnitude, magnitude)


def _is_nan(codes: Tensor) -> Tensor:
    return (codes & 0x7F) == 0x7F


def _first(wrong: Tensor) -> tuple[int, ...]:
    return tuple(int(index) for index in wrong.nonzero()[0])


def _code_detail(entry: Input, wrong: Tensor, codes: Tensor, expected: Tensor) -> str:
    at = _first(wrong)
    got, want = int(codes[at]), int(expected[at])
    values = reference.decode(torch.tensor([got, want], dtype=torch.uint8)).tolist()
    return (
        f"{entry.name} input, code {at}: got 0x{got:02X} ({values[0]:g}), expected 0x{want:02X} ({values[1]:g}) "
        f"for x = {float(entry.x[at]):.9g}; {int(wrong.sum())} of {wrong.numel()} codes are wrong."
    )


def _scale_detail(entry: Input, wrong: Tensor, scales: Tensor, expected: Tensor) -> str:
    at = _first(wrong)
    got, want = scales[at], expected[at]
    patterns = [int(value.view(torch.int32)) & 0xFFFFFFFF for value in (got, want)]
    return (
        f"{entry.name} input, scale {at}: got {float(got):.9g} (0x{patterns[0]:08X}), expected {float(want):.9g} "
        f"(0x{patterns[1]:08X}); {int(wrong.sum())} of {wrong.numel()} scales are wrong."
    )


def _layout_detail(scheme: Scheme, entry: Input, codes: Tensor, scales: Tensor) -> str:
    """What is wrong with shapes, dtype and strides, or ''; a stride along one element means nothing."""
    shape = scheme.scale_shape(*entry.x.shape)
    if codes.shape != entry.x.shape or tuple(scales.shape) != shape or scales.dtype != torch.float32:
        return f"codes {tuple(codes.shape)}, scales {tuple(scales.shape)} {scales.dtype}: expected scales {shape}."
    strides = scheme.scale_strides(*entry.x.shape)
    meant = [(got, want) for got, want, size in zip(scales.stride(), strides, shape, strict=True) if size > 1]
    if any(got != want for got, want in meant):
        return f"scales have strides {scales.stride()}, expected {strides}."
    return ""


def _wrong_scales(scales: Tensor, expected: Tensor, ulps: int) -> Tensor:
    """Scales whose bit patterns are more than `ulps` apart; any NaN equals NaN."""
    distance = (scales.contiguous().view(torch.int32).long() - expected.contiguous().view(torch.int32).long()).abs()
    both_nan = scales.isnan() & expected.isnan()
    same_kind = scales.isfinite() == expected.isfinite()
    return ~both_nan & ((distance > ulps) | ~same_kind)


def _scale_error(scales: Tensor, expected: Tensor) -> float:
    """Largest relative error of a finite scale."""
    finite = expected.isfinite() & scales.isfinite()
    errors = ((scales.double() - expected) / expected).abs()[finite]
    return float(errors.max()) if errors.numel() else 0.0


def _compare(entry: Input, actual: tuple[Tensor, Tensor], expected: tuple[Tensor, Tensor], exact: bool) -> _Comparison:
    (codes, scales), (want_codes, want_scales) = actual, expected
    if detail := _layout_detail(entry.case.scheme, entry, codes, scales):
        return _Comparison(detail, want_codes.numel(), 0, 0, 0, 0.0)
    if entry.scale is not None:
        scales = want_scales  # given, not computed
    both_nan = _is_nan(codes) & _is_nan(want_codes)
    differs = codes != want_codes if exact else (codes != want_codes) & ~both_nan
    steps = (_ordinals(codes) - _ordinals(want_codes)).abs()
    wrong = differs if exact else (differs & ((steps > BOUNDS.code_step) | (_is_nan(codes) != _is_nan(want_codes))))
    wrong_scales = _wrong_scales(scales, want_scales, 0 if exact else BOUNDS.scale_ulps)
    detail = ""
    if wrong_scales.any():
        detail = _scale_detail(entry, wrong_scales, scales, want_scales)
    elif wrong.any():
        detail = _code_detail(entry, wrong, codes, want_codes)
    elif entry.name == "random" and differs.float().mean() > BOUNDS.differing_share:
        detail = f"{float(differs.float().mean()):.2%} of the codes differ, allowed are {BOUNDS.differing_share:.0%}."
    return _Comparison(
        detail,
        codes.numel(),
        int(differs.sum()),
        int(steps[differs].max()) if differs.any() else 0,
        int(((codes & 0x7F) == 0x7E).sum()),
        _scale_error(scales, want_scales),
    )


# ---- the check ----------------------------------------------------------------------------------------------


def _comparisons(backend: Backend, case: Case, device: str, seed: int) -> Iterator[_Comparison]:
    """Input after input; inputs of one size share a bound call."""
    bound: dict[tuple[Case, bool], _Bound] = {}
    for entry, codes, scales in _inputs(case, seed, FIXED_SCALES.get(backend.name)):
        key = (entry.case, entry.strided)
        if key not in bound:
            bound[key] = _Bound(backend, entry, device)
        result = _compare(entry, bound[key].run(entry.x), (codes, scales), backend.name not in BOUNDED)
        if not result.detail and (overrun := bound[key].overrun()):
            result = result._replace(detail=f"{entry.name} input: {overrun}.")
        yield result


def check(backend: Backend, case: Case, device: str, seed: int = 0, role: Role = "baseline") -> CheckResult:
    """Compare what `backend` computes for `case` on `device` ("cuda" or "cpu") with the oracle.

    The figures (share of differing codes and so on) are those of random input in the case's own size. Wrong output
    gives status WRONG, with the first mismatch in `detail`; what the backend raises propagates.
    """
    base = CheckResult(role=role, backend=backend.name, case=case.id, status=CheckStatus.OK)
    if reason := backend.supports(case, device):
        return base.model_copy(update={"status": CheckStatus.UNSUPPORTED, "detail": reason})
    results = []
    for result in _comparisons(backend, case, device, seed):
        results.append(result)
        if result.detail:
            break
    first, detail = results[0], results[-1].detail
    return base.model_copy(
        update={
            "status": CheckStatus.WRONG if detail else CheckStatus.OK,
            "detail": detail,
            "differing_share": first.differing / first.codes,
            "largest_code_step": max(result.largest_step for result in results),
            "saturated_share": first.saturated / first.codes,
            "scale_error": first.scale_error,
        }
    )
