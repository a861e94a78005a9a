"""The clocks: their decisions, the order of their blocks, and what they resolve on this machine's CPU."""

from __future__ import annotations

import gc
import math
import os
import random
import statistics
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import pandas as pd
import pytest
import torch

from fp8bench.timing import Call, Clock, Executables, clock_for, cpu, machine, plan
from fp8bench.timing.clock import Job
from fp8bench.timing.cpu import CpuClock
from fp8bench.timing.cuda import CudaGraphClock

GPU = pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA GPU"))


@contextmanager
def _clock(device: str) -> Iterator[Clock]:
    """A clock with short blocks; pinning and threads of the test process are put back."""
    cores, threads = os.sched_getaffinity(0), torch.get_num_threads()
    try:
        yield clock_for(device, block_s=0.2e-3, warmup_s=1e-3)
    finally:
        os.sched_setaffinity(0, cores)
        torch.set_num_threads(threads)


@pytest.fixture
def clock() -> Iterator[Clock]:
    with _clock("cpu") as made:
        yield made


@pytest.fixture(params=["cpu", GPU])
def device(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def any_clock(device: str) -> Iterator[Clock]:
    with _clock(device) as made:
        yield made


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [(5e-6, 100), (1e-3, 6), (0.5e-3, 6), (1e-9, 240), (0.0, 240), (-1.0, 240)],
)
def test_calls_fill_a_block_within_bounds(seconds: float, expected: int) -> None:
    assert plan.calls_per_block(seconds, 0.5e-3, 6, 240) == expected


def test_buffer_sets_outgrow_the_cache() -> None:
    cache = 50 << 20
    sets = plan.sets_needed(22 << 20, cache, 120)
    assert sets * (22 << 20) >= plan.ROTATION_FACTOR * cache
    assert plan.sets_needed(1 << 30, cache, 120) == 2  # one set alone would stay partly cached
    assert plan.sets_needed(1, cache, 120) == 120


def test_no_set_is_used_twice_between_flushes_where_the_sets_do_not_outgrow_the_cache() -> None:
    assert plan.calls_cold(240, 120, 120) == 120
    assert plan.calls_cold(240, 7, 120) == 240


def test_quads_alternate_and_cancel_a_linear_drift() -> None:
    order = plan.palindromes(2, 4)
    assert "".join("AB"[arm] for _, _, arm in order) == "ABBABAABABBABAAB"
    assert [position for _, position, _ in order[:8]] == [0, 1, 2, 3] * 2
    for quad in range(4):
        moments = [sum(position for q, position, a in order if q == quad and a == arm) for arm in (0, 1)]
        assert moments[0] == moments[1]


def test_three_arms_are_balanced_too() -> None:
    arms = [arm for _, _, arm in plan.palindromes(3, 2)]
    assert arms == [0, 1, 2, 2, 1, 0, 2, 1, 0, 0, 1, 2]


@pytest.mark.parametrize(
    ("quads", "executables", "shares"), [(10, 5, [2] * 5), (10, 1, [10]), (10, 3, [4, 3, 3]), (2, 5, [1, 0, 1, 0, 0])]
)
def test_executables_share_the_quads(quads: int, executables: int, shares: list[int]) -> None:
    order = plan.palindromes(2, quads)
    warmup, blocks = plan.replays(order, 2, executables, rounds=7)
    assert set(warmup) == set(range(2 * executables)), "every graph is warmed up"
    assert len(warmup) >= 2 * 7
    assert [graph % 2 for graph in blocks] == [arm for _, _, arm in order]
    used = [
        len({quad for graph, (quad, _, _) in zip(blocks, order, strict=True) if graph // 2 == n})
        for n in range(executables)
    ]
    assert sorted(used) == sorted(shares)
    assert blocks == sorted(blocks, key=lambda graph: graph // 2), "one after the other"


class _Device(CudaGraphClock):
    """The clock without a device: a graph is what its first call is, and its executables have numbers."""

    def __init__(self) -> None:
        super(CudaGraphClock, self).__init__()
        self.made = 0

    def _capture(self, calls: Sequence[Any], count: int, *, spin: int = 0) -> Any:
        return calls[0]

    def _ready(self, graph: Any) -> Any:
        self.made += 1
        return f"{self.made}{graph}"


@pytest.mark.parametrize(
    ("arms", "first", "expected"),
    [
        ("ab", 0, [["1a", "2b"], ["4a", "3b"], ["5a", "6b"]]),  # who comes first alternates
        ("ab", 3, [["2a", "1b"], ["3a", "4b"], ["6a", "5b"]]),  # from one series to the next as well
        ("aa", 0, [["1a", "1a"], ["2a", "2a"], ["3a", "3a"]]),  # what cannot differ is made once
    ],
)
def test_which_arm_is_made_ready_first_alternates(arms: str, first: int, expected: list[list[str]]) -> None:
    job = Job([[arm] for arm in arms], [], cold=False)  # type: ignore[list-item]
    clock = _Device()
    assert clock._executables(clock._graphs(job, 9), first, 3) == expected


class _Swaying(_Device):
    """A device on which every second executable of the second arm is slower."""

    calls_range = (10, 10)

    def __init__(self, sway: float, overlaps: bool) -> None:
        super().__init__()
        self._sway, self._overlaps = sway, overlaps

    def _call_once(self, arms: object, before: object) -> None:
        pass

    def _probe(self, arms: object, cold: bool) -> float:
        return 1e-6

    def _differ(self, job: Job, arms: object) -> bool:
        return self._overlaps

    def _ready(self, graph: Any) -> Any:
        self.made += 1
        return 1e-5 * (1 + self._sway * (graph == "b" and self.made % 2))

    def _replay(self, made: Sequence[Any], order: list[int], cold: bool) -> list[float]:
        return [made[number] for number in order]


@pytest.mark.parametrize(
    ("sway", "overlaps", "precision", "series"),
    [
        (0.01, True, 0.1, 1),
        (0.01, True, 0.0013, 4),
        (0.01, True, 0.0, 6),
        (0.0, True, 0.0, 1),
        (0.01, False, 0.0, 1),
    ],
    ids=["precise enough", "until precise", "no more than so many", "nothing sways", "all are alike"],
)
def test_series_go_on_until_the_effect_is_precise(sway: float, overlaps: bool, precision: float, series: int) -> None:
    arms: list[list[Any]] = [["a"], ["b"]]
    clock = _Swaying(sway, overlaps)
    blocks = clock.quads(arms, quads=8, executables=Executables(4, precision, 6))
    assert len(blocks) == series * 8 * 4
    assert [block.quad for block in blocks[::4]] == list(range(series * 8)), "quads are numbered on"
    assert clock.made == series * (4 if overlaps else 1) * 2


@pytest.mark.parametrize(("precision", "series"), [(1e9, 1), (0.0, 3)])
def test_a_cpu_goes_on_as_well(clock: Clock, precision: float, series: int) -> None:
    arm = [_doubling(1 << 10, "cpu")]
    blocks = clock.quads([arm, arm], quads=4, executables=Executables(1, precision, 3))
    assert [block.quad for block in blocks[::4]] == list(range(4 * series))


def test_the_standard_error_is_that_of_the_executables() -> None:
    order = plan.palindromes(2, 4)
    effects = {0: 0.01, 1: 0.03}  # of the two executables, each with two quads
    seconds = [math.exp(effects[quad // 2]) if arm else 1.0 for quad, _, arm in order]
    assert plan.standard_error(order, seconds, 2) == pytest.approx(0.01)
    assert plan.standard_error(order, seconds * 2, 2) == pytest.approx(0.02 * math.sqrt(1 / 3) / 2)
    assert plan.standard_error(order, seconds, 1) == math.inf


class _Spinning(_Device):
    """A device whose blocks take 100 us, a launch of the spinning kernel 1 us, and a cycle 0.5 ns."""

    def _capture(self, calls: Sequence[Any], count: int, *, spin: int = 0) -> Any:
        return 100e-6 + (1e-6 + spin * 0.5e-9 if spin else 0.0)

    def _ready(self, graph: Any) -> Any:
        return graph

    def _replay(self, made: Sequence[Any], order: list[int], cold: bool) -> list[float]:
        return [made[number] for number in order]


@pytest.mark.parametrize("share", [0.0005, 0.003, 0.05])
def test_a_planted_share_is_the_difference_of_two_arms_that_spin(share: float) -> None:
    job = Job([["a"], ["a"]], [], cold=False, planted=share)  # type: ignore[list-item]
    baseline, candidate = _Spinning()._graphs(job, 9)
    assert candidate / baseline == pytest.approx(1 + share, abs=1e-5)  # type: ignore[operator]
    assert _Spinning()._spins(job._replace(planted=0.0), 9) == [0, 0]


def test_a_clock_on_which_spinning_takes_no_time_plants_nothing() -> None:
    assert plan.spin_cycles(0.01, 100e-6, 200e-6, 2_000, 202_000) == 4_000
    with pytest.raises(ValueError, match="spins for 9 cycles"):
        plan.spin_cycles(0.01, 1.0, 1.0, 3, 9)


def test_a_planted_arm_is_slower_by_what_was_planted(any_clock: Clock, device: str) -> None:
    """Both arms are the same callables: without the plan they could not differ."""
    arm = [_doubling({"cpu": 1 << 14, "cuda": 1 << 24}[device], device)]
    effects = []
    for _ in range(5):
        blocks = any_clock.quads([arm, arm], quads=10, planted=0.5)
        effects.append(plan.effect([plan.Timed(block.quad, block.arm, block.seconds) for block in blocks]))
    assert statistics.median(effects) == pytest.approx(math.log(1.5), abs=0.1)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA GPU")
@pytest.mark.parametrize("share", [0.003, 0.01, 0.05])
def test_small_shares_are_planted_exactly_on_a_gpu(share: float) -> None:
    """The mean of ten measurements is what was planted, to a tenth of a per cent and a twentieth of it."""
    arm, effects = [_doubling(1 << 22, "cuda")], []
    clock = clock_for("cuda")
    for _ in range(10):
        blocks = clock.quads([arm, arm], quads=10, planted=share)
        effects.append(plan.effect([plan.Timed(block.quad, block.arm, block.seconds) for block in blocks]))
    assert statistics.mean(effects) == pytest.approx(math.log1p(share), abs=0.001 + share / 20)


def _blocks(effect: float, sway: float, quads: int = 10, seed: int = 1) -> list[plan.Timed]:
    generator = random.Random(seed)
    return [
        plan.Timed(quad, arm, 1e-6 * math.exp(effect * arm + generator.gauss(0, sway)))
        for quad, _, arm in plan.palindromes(2, quads)
    ]


def test_a_quad_that_was_disturbed_is_dropped_and_an_effect_is_not() -> None:
    blocks = _blocks(0.2, 0.001)
    assert plan.disturbed(blocks) == {}
    hit = blocks[9]
    assert plan.disturbed([*blocks[:9], hit._replace(seconds=1.05 * hit.seconds), *blocks[10:]]) == {hit.quad: hit.arm}
    assert plan.disturbed([]) == {}


def test_noise_that_is_usual_for_a_cell_is_no_disturbance() -> None:
    dropped = sum(len(plan.disturbed(_blocks(0.0, 0.05, seed=seed))) for seed in range(100))
    assert dropped < 0.005 * 1000


def test_the_effect_of_a_launch_is_the_mean_over_the_middle_of_its_quads() -> None:
    assert plan.effect(_blocks(0.02, 0.0)) == pytest.approx(0.02)
    blocks = _blocks(0.02, 0.0)
    assert plan.effect([blocks[0]._replace(seconds=9.0), *blocks[1:]]) == pytest.approx(0.02)
    assert plan.effect(blocks[:3]) is None


@pytest.mark.parametrize("quads", [1, 2, 3, 7, 10, 20])
def test_the_worker_side_and_the_judge_see_the_same_effect(quads: int) -> None:
    from fp8bench import stats

    blocks = _blocks(0.01, 0.02, quads)
    rows = [(0, "cell", block.quad, ("baseline", "candidate")[block.arm], block.seconds) for block in blocks]
    table = stats.launch_effects(pd.DataFrame(rows, columns=["launch", "cell", "quad", "role", "seconds"]))
    assert plan.effect(blocks) == pytest.approx(table.loc[0, "cell"], abs=1e-12)


def test_an_interval_is_that_of_student() -> None:
    found = plan.interval([0.01, 0.02, 0.03])
    assert found is not None
    assert found.mean == pytest.approx(0.02)
    assert found.half == pytest.approx(4.302653 * 0.01 / 3**0.5, rel=1e-6)
    assert plan.interval([0.01]) is None


def test_a_cell_that_did_not_move_stops_and_one_that_did_does_not() -> None:
    """Over simulated cells: most that stand still stop early, and of those beyond the margin next to none does."""
    generator = random.Random(3)

    def share_clear(effect: float) -> float:
        cells = [[generator.gauss(effect, 0.0005) for _ in range(4)] for _ in range(2000)]
        return sum(plan.is_clear(cell, 0.003, 0.5, 3) for cell in cells) / len(cells)

    assert share_clear(0.0) > 0.9
    assert share_clear(0.0035) < 0.003
    assert share_clear(-0.005) == 0


def _doubling(size: int, device: str) -> Call:
    values = torch.rand(size, device=device)
    return partial(torch.mul, values, 2.0, out=torch.empty_like(values))


@pytest.mark.parametrize("cold", [False, True])
def test_a_slower_arm_is_measured_as_slower(
    any_clock: Clock, device: str, cold: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(CpuClock, "cache_bytes", 1 << 20)  # flushing the real one takes its time
    small, large = {"cpu": (1 << 14, 1 << 16), "cuda": (1 << 24, 1 << 25)}[device]
    assert any_clock.sets_for(1 << 10, cold=cold) == (any_clock.max_sets if cold else 1)
    blocks = any_clock.quads([[_doubling(small, device)] * 3, [_doubling(large, device)] * 3], quads=4, cold=cold)
    assert len(blocks) == 16
    assert {block.calls for block in blocks} == {blocks[0].calls}
    assert [(block.quad, block.position, block.arm) for block in blocks] == plan.palindromes(2, 4)
    median = [statistics.median(b.seconds for b in blocks if b.arm == arm) for arm in (0, 1)]
    assert 1.2 < median[1] / median[0] < 8


def test_what_a_call_takes_can_be_said_and_executables_leave_the_order_as_it_is(any_clock: Clock, device: str) -> None:
    arms = [[_doubling(1 << 10, device)], [_doubling(1 << 10, device)]]
    blocks = any_clock.quads(arms, quads=4, executables=Executables(3), seconds=5e-6)
    assert {block.calls for block in blocks} == {40}, "as many as fill 0.2 ms"
    assert [(block.quad, block.position, block.arm) for block in blocks] == plan.palindromes(2, 4)
    assert all(block.seconds > 0 for block in blocks)


def test_cold_blocks_rotate_over_the_sets_and_hot_ones_do_not(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(CpuClock, "cache_bytes", 1 << 10)
    used: list[int] = []
    arm = [lambda number=number: used.append(number) for number in range(3)]
    clock.measure(arm, blocks=2, cold=True)
    assert set(used) == {0, 1, 2}
    used.clear()
    clock.measure(arm, blocks=2)
    assert set(used) == {0}


def test_one_arm_gives_one_value_a_block(any_clock: Clock, device: str) -> None:
    seconds = any_clock.measure([_doubling(1000, device)], blocks=5)
    assert len(seconds) == 5
    assert all(value > 0 for value in seconds)


def test_errors_of_a_callable_propagate_and_leave_the_collector_on(any_clock: Clock) -> None:
    def broken() -> None:
        raise ArithmeticError("planted")

    with pytest.raises(ArithmeticError, match="planted"):
        any_clock.measure([broken])
    assert gc.isenabled()


@pytest.mark.parametrize(
    ("preempted", "runs"), [((0, 0), 1), ((0, 1, 1, 1), 2), ((0, 1, 1, 2, 2, 2), 3), (tuple(range(99)), cpu.TRIES)]
)
def test_a_preempted_block_is_run_again(
    clock: Clock, monkeypatch: pytest.MonkeyPatch, preempted: tuple[int, ...], runs: int
) -> None:
    assert isinstance(clock, CpuClock)
    done: list[None] = []
    counter = iter(preempted)
    monkeypatch.setattr(machine, "preemptions", lambda: next(counter))
    assert clock._block([lambda: done.append(None)], Job([], [], cold=False)) > 0
    assert len(done) == runs


def test_the_clock_runs_on_one_core_with_one_thread(clock: Clock) -> None:
    assert clock.cache_bytes > 0
    assert len(os.sched_getaffinity(0)) == 1
    assert torch.get_num_threads() == 1


def test_machine_is_described_without_a_gpu() -> None:
    description = machine.describe("cpu")
    assert description["device_name"]
    assert description["versions"]["torch"] == torch.__version__
    assert machine.state("cpu")["load"] >= 0


@pytest.mark.parametrize(("text", "size"), [("32768K\n", 32 << 20), ("1M", 1 << 20), ("512", 512)])
def test_cache_sizes_parse(text: str, size: int) -> None:
    assert machine._parse_size(text) == size


def test_an_idle_gpu_is_not_throttled() -> None:
    assert machine.throttle_reasons(0x1) == ()
    assert machine.throttle_reasons(0x1 | 0x4 | 0x40) == ("sw_power_cap", "hw_thermal")


def test_what_nobody_can_read_is_unknown_and_not_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "_ask_nvml", dict.fromkeys)
    state = machine.state("cuda")
    assert (state["throttle"], state["held_s"]) == (None, None)
    assert machine.marked(state | {"held_s": 1.0}, state | {"held_s": 99.0})["throttle"] == ("held_down",)
    assert machine.state("cpu")["throttle"] == ()
    monkeypatch.setattr(machine, "_stolen_s", lambda: None)
    assert machine.state("cpu")["throttle"] is None


@pytest.mark.parametrize(
    ("held_s", "throttle"),
    [((5.0, 5.5), ()), ((5.0, 7.0), ("held_down",)), ((None, 7.0), ()), ((5.0, None), ())],
)
def test_a_launch_that_was_held_down_is_marked(
    held_s: tuple[float | None, float | None], throttle: tuple[str, ...]
) -> None:
    before, after = ({"at": at, "held_s": held, "throttle": ()} for at, held in zip((10.0, 20.0), held_s, strict=True))
    assert machine.marked(before, after)["throttle"] == throttle
