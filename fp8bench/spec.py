"""What is computed: group shapes, schemes, cases and cells, with readable ids.

This module is the one thing that both halves of the project and the kernels of every commit share, so it
imports nothing but the standard library, and `BACKEND_INTERFACE` in `fp8bench.backends` counts its changes.

Ids read from coarse to fine and parse back:

    family  per-token/bfloat16
    case    per-token/bfloat16/1024x7168              tokens x hidden
    cell    cuda/per-token/bfloat16/1024x7168/cold    backend / case / cache regime
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar, NamedTuple

from .errors import UsageError

FP8_MAX = 448.0  # largest finite float8_e4m3fn
MIN_SCALE = 1.0 / (FP8_MAX * 512.0)  # the scale of an all-zero group

DTYPES = {"bfloat16": 2, "float16": 2, "float32": 4}  # name -> bytes an element
DTYPE_ALIASES = {"half": "float16", "float": "float32"}  # as the reference script spells them

REGIMES = ("hot", "cold")
BASELINE, CANDIDATE = ROLES = ("baseline", "candidate")


class _Extent(NamedTuple):
    row: int
    col: int


class GroupShape(_Extent):  # a class of its own, as a NamedTuple cannot declare class constants
    """Extent of the block of elements that share one scale; -1 means "all".

    `GroupShape.PER_TENSOR` is (-1, -1), `GroupShape.PER_TOKEN` is (1, -1), `GroupShape(1, N)` is one scale
    for every N neighbouring elements of a token.
    """

    __slots__ = ()
    PER_TENSOR: ClassVar[GroupShape]
    PER_TOKEN: ClassVar[GroupShape]

    def is_per_tensor(self) -> bool:
        return self.row == -1 and self.col == -1

    def is_per_token(self) -> bool:
        return self.row == 1 and self.col == -1

    def is_per_group(self) -> bool:
        return self.row == 1 and self.col >= 1

    def __str__(self) -> str:
        if self.is_per_tensor():
            return "per-tensor"
        if self.is_per_token():
            return "per-token"
        return f"group-{self.col}" if self.is_per_group() else f"({self.row}, {self.col})"


GroupShape.PER_TENSOR = GroupShape(-1, -1)
GroupShape.PER_TOKEN = GroupShape(1, -1)


@dataclass(frozen=True, order=True)
class Scheme:
    """How a tensor is quantized, whatever its size and dtype.

    group_shape: which elements share a scale.
    column_major: scales lie in memory with strides (1, tokens); per-group only, values are the same.
    static: the scale is given, not computed.
    ue8m0: scales are rounded up to powers of two.
    """

    group_shape: GroupShape
    column_major: bool = False
    static: bool = False
    ue8m0: bool = False

    def __post_init__(self) -> None:
        shape = self.group_shape
        if not (shape.is_per_tensor() or shape.is_per_token() or shape.is_per_group()):
            raise UsageError(
                f"group shape ({shape.row}, {shape.col}) is not supported: use GroupShape.PER_TENSOR (-1, -1), "
                "GroupShape.PER_TOKEN (1, -1) or GroupShape(1, N) with N >= 1."
            )
        if self.column_major and not shape.is_per_group():
            raise UsageError(f"column-major scales exist per group only, not {shape}: leave column_major off.")

    @property
    def name(self) -> str:
        """`per-tensor`, `per-token`, `group-128-row`, `group-64-col`, with `-static` or `-ue8m0` behind."""
        layout = ("-col" if self.column_major else "-row") if self.group_shape.is_per_group() else ""
        return f"{self.group_shape}{layout}{'-static' * self.static}{'-ue8m0' * self.ue8m0}"

    @classmethod
    def parse(cls, name: str) -> Scheme:
        match = re.fullmatch(r"(per-tensor|per-token|group-(\d+)-(row|col))(-static)?(-ue8m0)?", name)
        if match is None:
            raise UsageError(
                f"unknown scheme {name!r}: use per-tensor, per-token, group-N-row or group-N-col, "
                "optionally followed by -static or -ue8m0."
            )
        kind, size, layout, static, ue8m0 = match.groups()
        shape = GroupShape(1, int(size)) if size else GroupShape(-1 if kind == "per-tensor" else 1, -1)
        return cls(shape, layout == "col", bool(static), bool(ue8m0))

    def why_not(self, hidden: int) -> str | None:
        """A reason why `hidden` elements a token cannot be quantized so, or None."""
        size = self.group_shape.col
        if self.group_shape.is_per_group() and hidden % size:
            return f"hidden size {hidden} is not divisible by the group size {size}"
        return None

    def scale_shape(self, tokens: int, hidden: int) -> tuple[int, ...]:
        """(1,) per-tensor, (tokens, 1) per-token, (tokens, hidden / N) per-group."""
        if self.group_shape.is_per_tensor():
            return (1,)
        return (tokens, 1 if self.group_shape.is_per_token() else hidden // self.group_shape.col)

    def scale_strides(self, tokens: int, hidden: int) -> tuple[int, ...]:
        """Strides of the scales in elements: contiguous, or (1, tokens) when column-major."""
        if self.group_shape.is_per_tensor():
            return (1,)
        return (1, tokens) if self.column_major else (self.scale_shape(tokens, hidden)[1], 1)


@dataclass(frozen=True, order=True)
class Case:
    """What is computed: a scheme on `tokens` x `hidden` elements of `dtype`."""

    scheme: Scheme
    dtype: str
    tokens: int
    hidden: int

    def __post_init__(self) -> None:
        if self.dtype not in DTYPES:
            raise UsageError(f"unknown dtype {self.dtype!r}: use one of {', '.join(DTYPES)}.")
        for what, value in (("tokens", self.tokens), ("hidden", self.hidden)):
            if value < 1:
                raise UsageError(f"{what} is {value}: a case needs at least 1.")
        if reason := self.scheme.why_not(self.hidden):
            raise UsageError(f"case {self.id}: {reason}.")

    @cached_property
    def family(self) -> str:
        return f"{self.scheme.name}/{self.dtype}"

    @cached_property
    def id(self) -> str:
        return f"{self.family}/{self.tokens}x{self.hidden}"

    @classmethod
    def parse(cls, text: str) -> Case:
        try:
            scheme, dtype, size = text.split("/")
            tokens, hidden = map(int, size.split("x"))
        except ValueError:
            raise UsageError(
                f"{text!r} is not a case: write scheme/dtype/TOKENSxHIDDEN, e.g. per-token/bfloat16/1024x7168."
            ) from None
        return cls(Scheme.parse(scheme), dtype, tokens, hidden)

    @property
    def bytes_moved(self) -> int:
        """Fewest bytes that must move: every input read once, every code and scale written once."""
        scales = 1
        for extent in self.scheme.scale_shape(self.tokens, self.hidden):
            scales *= extent
        return self.tokens * self.hidden * (DTYPES[self.dtype] + 1) + 4 * scales


@dataclass(frozen=True, order=True)
class Cell:
    """What is timed: a case on a backend in a cache regime."""

    backend: str
    case: Case
    regime: str

    def __post_init__(self) -> None:
        if self.regime not in REGIMES:
            raise UsageError(f"unknown cache regime {self.regime!r}: use one of {', '.join(REGIMES)}.")

    @cached_property
    def id(self) -> str:
        return f"{self.backend}/{self.case.id}/{self.regime}"

    @classmethod
    def parse(cls, text: str) -> Cell:
        backend, _, rest = text.partition("/")
        case, _, regime = rest.rpartition("/")
        return cls(backend, Case.parse(case), regime)


def parse_dtype(name: str) -> str:
    """The dtype's own name for any spelling that the reference script knows."""
    dtype = DTYPE_ALIASES.get(name, name)
    if dtype not in DTYPES:
        raise UsageError(f"unknown dtype {name!r}: use one of {', '.join([*DTYPES, *DTYPE_ALIASES])}.")
    return dtype
