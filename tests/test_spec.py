"""Ids, shapes, strides and refusals of the words that both halves share."""

from __future__ import annotations

import pytest

from fp8bench.errors import UsageError
from fp8bench.spec import Case, Cell, GroupShape, Scheme, parse_dtype

SCHEMES = [
    Scheme(shape, column_major, static, ue8m0)
    for shape in (GroupShape.PER_TENSOR, GroupShape.PER_TOKEN, GroupShape(1, 64))
    for column_major in ((False, True) if shape.is_per_group() else (False,))
    for static in (False, True)
    for ue8m0 in (False, True)
]


@pytest.mark.parametrize("scheme", SCHEMES, ids=lambda scheme: scheme.name)
def test_ids_parse_back(scheme: Scheme) -> None:
    cell = Cell("cuda", Case(scheme, "float16", 3, 128), "cold")
    assert Scheme.parse(scheme.name) == scheme
    assert Case.parse(cell.case.id) == cell.case
    assert Cell.parse(cell.id) == cell
    assert cell.id == f"cuda/{scheme.name}/float16/3x128/cold"


def test_ids_are_distinct() -> None:
    assert len({scheme.name for scheme in SCHEMES}) == len(SCHEMES)


@pytest.mark.parametrize(
    ("name", "shape", "strides"),
    [
        ("per-tensor", (1,), (1,)),
        ("per-token", (3, 1), (1, 1)),
        ("group-64-row", (3, 4), (4, 1)),
        ("group-64-col", (3, 4), (1, 3)),
    ],
)
def test_layout_of_the_scales(name: str, shape: tuple[int, ...], strides: tuple[int, ...]) -> None:
    scheme = Scheme.parse(name)
    assert scheme.scale_shape(3, 256) == shape
    assert scheme.scale_strides(3, 256) == strides


def test_bytes_moved_counts_input_codes_and_scales() -> None:
    assert Case.parse("group-64-col/bfloat16/3x256").bytes_moved == 3 * 256 * (2 + 1) + 4 * 3 * 4
    assert Case.parse("per-tensor/float32/3x256").bytes_moved == 3 * 256 * (4 + 1) + 4


def test_group_shape_knows_its_kind() -> None:
    assert GroupShape(-1, -1) == GroupShape.PER_TENSOR
    assert GroupShape(1, -1) == GroupShape.PER_TOKEN
    assert [shape.is_per_group() for shape in (GroupShape(1, 1), GroupShape.PER_TOKEN, GroupShape(2, 64))] == [
        True,
        False,
        False,
    ]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("group-64-row/bfloat16/4x100", "100 is not divisible by the group size 64"),
        ("per-token/int8/4x128", "unknown dtype 'int8'"),
        ("per-token/bfloat16/0x128", "tokens is 0"),
        ("per-token/bfloat16/4x0", "hidden is 0"),
        ("per-token/bfloat16/4", "is not a case"),
        ("per-row/bfloat16/4x128", "unknown scheme 'per-row'"),
        ("group-0-row/bfloat16/4x128", "group shape (1, 0) is not supported"),
        ("per-token-col/bfloat16/4x128", "unknown scheme"),
    ],
)
def test_a_case_that_cannot_be_is_refused_by_name(text: str, told: str) -> None:
    with pytest.raises(UsageError) as refusal:
        Case.parse(text)
    assert told in str(refusal.value)


def test_schemes_and_regimes_that_cannot_be_are_refused() -> None:
    with pytest.raises(UsageError, match="not supported"):
        Scheme(GroupShape(2, 64))
    with pytest.raises(UsageError, match="per group only"):
        Scheme(GroupShape.PER_TOKEN, column_major=True)
    with pytest.raises(UsageError, match="unknown cache regime 'warm'"):
        Cell.parse("cuda/per-token/bfloat16/4x128/warm")


def test_dtype_spellings_of_the_reference_script() -> None:
    assert [parse_dtype(name) for name in ("half", "float16", "bfloat16", "float", "float32")] == [
        "float16",
        "float16",
        "bfloat16",
        "float32",
        "float32",
    ]
    with pytest.raises(UsageError, match="half"):
        parse_dtype("double")
