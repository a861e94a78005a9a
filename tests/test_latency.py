"""Isolated latency: what one call adds to a chain of another kernel."""

from __future__ import annotations

import importlib
import os
from collections.abc import Iterator, Sequence
from functools import partial
from statistics import median
from typing import ClassVar

import pytest
import torch

from fp8bench import cli, paths
from fp8bench.timing import Call, Clock, clock_for, plan

GPU = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")


def test_a_call_is_the_difference_by_round() -> None:
    with_call = [(0, 5.0), (0, 7.0), (1, 8.0), (1, 8.0)]
    without = [(1, 5.0), (0, 1.0), (0, 2.0), (1, 6.0)]
    assert plan.by_difference(with_call, without) == pytest.approx([4.5, 2.5])


def test_a_drift_cancels_in_a_palindrome() -> None:
    drifting = {arm: [] for arm in (0, 1)}
    for when, (number, _, arm) in enumerate(plan.palindromes(2, 6)):
        drifting[arm].append((number, (3.0 if arm == 0 else 1.0) + 0.1 * when))
    assert plan.by_difference(drifting[0], drifting[1]) == pytest.approx([2.0] * 6)


@pytest.fixture
def cpu_clock() -> Iterator[Clock]:
    cores, threads = os.sched_getaffinity(0), torch.get_num_threads()
    yield clock_for("cpu", block_s=0.2e-3, warmup_s=1e-3)
    os.sched_setaffinity(0, cores)
    torch.set_num_threads(threads)


def test_on_a_cpu_a_call_is_isolated_anyway(cpu_clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[Sequence[Call], bool]] = []

    def measure(arm: Sequence[Call], blocks: int = 20, *, cold: bool = False) -> list[float]:
        seen.append((arm, cold))
        return [1.0] * blocks

    monkeypatch.setattr(cpu_clock, "measure", measure)
    calls: list[Call] = [int]
    assert cpu_clock.isolated([calls, calls], 3, cold=True) == [[1.0] * 3] * 2
    assert seen == [(calls, True)] * 2


SMALL = ["bench", "--device", "cpu", "--hidden-sizes", "128", "--batch-sizes", "1", "--group-sizes", "-1"]


def test_the_command_prints_a_table_of_its_own(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main([*SMALL, "--backends", "cpu", "--latency"]) == 0
    _, _, table = capsys.readouterr().out.partition("\nIsolated latency:\n")
    header, row, said = table.splitlines()
    assert header.split() == ["hidden_size", "batch_size", "col_major", "group_shape", "CPU", "(us)"]
    assert float(row.split()[-1]) > 0
    assert said.startswith("On a CPU calls cannot overlap")


def test_the_script_tells_what_dependent_launch_gives(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(paths.CHECKOUT / "ci" / "gpu"))
    latency = importlib.import_module("latency")
    times = {"cuda": (1.0, 1.8), "cuda-no-pdl": (2.0, 2.0), "floor": (1.0, 1.5)}  # chained, isolated
    rows = [
        dict(zip(latency.COLUMNS, (name, "per-tensor", tokens, 896, regime, *both), strict=True))
        for name, both in times.items()
        for tokens in (1, 16)
        for regime in ("hot", "cold")
    ]
    lines = list(latency.summary(rows, list(times)))
    assert " ".join(lines[1].split()) == "per-tensor cuda 1.000 / 1.000 1.800 / 1.800 1.000 / 1.000 1.200 / 1.200"
    assert [line.rpartition(" ")[2] for line in lines[-2:]] == ["0.500", "0.900"]


@GPU
class TestOnAGpu:
    CYCLES: ClassVar[int] = 40_000  # some 20 us

    def test_a_call_of_known_length(self) -> None:
        """A kernel that spins for a given time, isolated, takes that time; twice the call, twice the time."""
        clock = clock_for("cuda")
        arms = [[partial(torch.cuda._sleep, cycles)] for cycles in (self.CYCLES, 2 * self.CYCLES)]
        one, two = map(min, clock.isolated(arms, 4))
        assert one < two < 2.2 * one

    @pytest.mark.parametrize("cold", [False, True])
    def test_nothing_overlaps(self, cold: bool) -> None:
        """A chain of kernels that overlap is faster by the call than one of them by itself."""
        from fp8bench import tensors
        from fp8bench.quant import own_backend
        from fp8bench.spec import Case

        case = Case.parse("per-token/bfloat16/16x2048")
        clock = clock_for("cuda")
        sets = clock.sets_for(case.bytes_moved, cold=cold)
        inputs = [tensors.random_input(case, "cuda", seed) for seed in range(sets)]
        calls = [own_backend("cuda").bind(case.scheme, x, *tensors.poisoned_outputs(case, "cuda")) for x in inputs]
        assert median(clock.isolated([calls], 9, cold=cold)[0]) > 0.9 * median(clock.measure(calls, 9, cold=cold))
