"""Suites: what they hold, what they refuse, how they are spread."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from fp8bench import suite
from fp8bench.backends import EVERY
from fp8bench.errors import SuiteError
from fp8bench.spec import Cell

GOOD = """
schemes = ["per-token", "group-128-col"]
tokens = [1, 16]
hidden = [1024]
cases = ["per-tensor/float16/4x896", "per-token/bfloat16/1x1024"]
inspect = ["cuda", "cpu"]
[cpu]
backends = ["cpu"]
[cuda]
backends = ["cuda"]
regimes = ["hot", "cold"]
"""


def written(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "mine.toml"
    path.write_text(text)
    return path


@pytest.mark.parametrize("device", suite.DEVICES)
@pytest.mark.parametrize("name", suite.names())
def test_shipped_suites_load(name: str, device: str) -> None:
    found = suite.load(name, device)
    assert found.name == name
    assert len(set(found.cells)) == len(found.cells)
    assert {"torch", device} <= set(found.backends) <= set(EVERY)
    assert not set(found.inspect) & set(found.backends)


def test_reference_is_the_reference_grid() -> None:
    cells = suite.load("reference", "cuda").cells
    assert len(cells) == 6 * 25 * 3 * 2 + 25 * 2  # and the floor, once a size
    assert len({cell.case.family for cell in cells}) == 6


def test_a_file_of_ones_own(tmp_path: Path) -> None:
    path = written(tmp_path, GOOD)
    on_cpu, on_cuda = (suite.load(path, device) for device in ("cpu", "cuda"))
    assert [cell.id for cell in on_cpu.cells][:2] == [
        "cpu/per-token/bfloat16/1x1024/hot",
        "cpu/per-token/bfloat16/16x1024/hot",
    ]
    assert len(on_cpu.cells) == 5  # the case that is in the grid already counts once
    assert len(on_cuda.cells) == 10
    assert on_cpu.inspect == ("cuda",)
    assert on_cuda.inspect == ("cpu",)


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ("tokens", "token", "unknown key 'token'; use backends, inspect"),
        ("[1, 16]", "[0]", "tokens is 0"),
        ("[1, 16]", "[-4]", "tokens is -4"),
        ("[1, 16]", '["16"]', "tokens.0 = '16'"),
        ("[1, 16]", "[true]", "tokens.0 = True"),
        ("[1024]", "[1000]", "hidden size 1000 is not divisible by the group size 128"),
        ("per-token", "per-word", "unknown scheme 'per-word'"),
        ('["cpu"]', '["gpu"]', "unknown backend 'gpu': use one of torch, cuda, triton, cpu"),
        ('["cuda", "cpu"]', '["gpu"]', "unknown backend 'gpu'"),
        ("float16/4x896", "int8/4x896", "unknown dtype 'int8'"),
        ("4x896", "4by896", "is not a case"),
        ('"cold"]', '"warm"]', "unknown cache regime 'warm': use one of hot, cold"),
        ('["cpu"]', "[]", "has no cells on cpu"),
        ("[cuda]", "[rocm]", "unknown key 'rocm'"),
        ("[cpu]", "[cpu", "is not valid TOML"),
    ],
)
def test_mistakes_are_told(tmp_path: Path, old: str, new: str, told: str) -> None:
    path = written(tmp_path, GOOD.replace(old, new))
    with pytest.raises(SuiteError) as error:
        [suite.load(path, device) for device in suite.DEVICES]
    assert told in str(error.value)


@pytest.mark.parametrize("name", ["nightly", "/no/such.toml", "", "../suites/smoke"])
def test_unknown_suites_are_told(name: str) -> None:
    with pytest.raises(SuiteError, match="use reference, smoke or the path"):
        suite.load(name, "cpu")


@pytest.mark.parametrize("count", [1, 2, 3, 8, 1000])
def test_shards_keep_cases_together_and_are_balanced(count: int) -> None:
    cells = suite.load("reference", "cuda").cells
    shards = suite.shard(cells, count)
    assert sorted(cell for shard in shards for cell in shard) == sorted(cells)
    homes: dict[object, set[int]] = {}
    for index, shard in enumerate(shards):
        for cell in shard:
            homes.setdefault(cell.case, set()).add(index)
    assert all(len(indices) == 1 for indices in homes.values())
    assert len(shards) == min(count, 150)
    sizes = [len(shard) for shard in shards]
    assert max(sizes) <= 1.25 * min(sizes) + 6


def test_shards_do_not_depend_on_the_order() -> None:
    cells = list(suite.load("smoke", "cuda").cells)
    shuffled = random.Random(1).sample(cells, len(cells))

    def as_sets(found: tuple[tuple[Cell, ...], ...]) -> list[set[Cell]]:
        return [set(shard) for shard in found]

    assert as_sets(suite.shard(cells, 4)) == as_sets(suite.shard(shuffled, 4))
