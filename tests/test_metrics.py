"""The table of metrics, and the wording of numbers."""

import math
from pathlib import Path

import pytest
from nights import make_night

from fp8bench import metrics, wording
from fp8bench.metrics import METRICS, CellFacts
from fp8bench.night import Night
from fp8bench.records import CellVerdict, Effect, Verdict
from fp8bench.spec import Cell

CELL = Cell.parse("cuda/per-token/bfloat16/1024x7168/cold")


def facts(**fields: object) -> CellFacts:
    return CellFacts(CELL, CellVerdict(cell=CELL.id, verdict=Verdict.OK, **fields))


def effect(value: float, lower: float, upper: float) -> Effect:
    return Effect(value=value, lower=lower, upper=upper, p_value=0.01, launches=6)


@pytest.fixture(scope="module")
def night(tmp_path_factory: pytest.TempPathFactory) -> Night:
    return Night.read(make_night(tmp_path_factory.mktemp("night"), "wrong"))


@pytest.fixture(scope="module")
def gpu_night(tmp_path_factory: pytest.TempPathFactory) -> Night:
    return Night.read(make_night(tmp_path_factory.mktemp("gpu"), "regressed", suite="reference"))


def test_names_are_unique():
    assert len(set(metrics.NAMES)) == len(METRICS)


@pytest.mark.parametrize("metric", METRICS, ids=lambda metric: metric.name)
def test_every_metric_is_undefined_where_nothing_was_measured(metric):
    assert metric.compute(facts()) is None
    assert metric.show(None) == "–"


@pytest.mark.parametrize("metric", METRICS, ids=lambda metric: metric.name)
def test_every_metric_is_defined_for_a_measured_cell(metric, gpu_night):
    cold = [entry for entry in gpu_night.facts if entry.cell.regime == "cold" and entry.verdict.effect]
    measured = [entry for entry in cold if entry.cell.backend == "cuda"]
    assert measured
    shown = {metric.show(metric.compute(entry)) for entry in measured}
    assert "–" not in shown


def test_bandwidth_counts_every_byte_once():
    moved = 1024 * 7168 * 3 + 4 * 1024
    assert metrics.metric("bandwidth_gbps").compute(facts(candidate_us=10.0)) == pytest.approx(moved / 10e-6 / 1e9)


def test_ratio_and_speedup():
    slower = facts(effect=effect(math.log(1.04), 0.03, 0.05), candidate_us=5.0)
    assert metrics.metric("ratio_vs_baseline").compute(slower) == pytest.approx(1.04)
    against = CellFacts(slower.cell, slower.verdict, reference_us=10.0)
    assert metrics.metric("speedup_over_torch").compute(against) == 2.0


def test_facts_join_the_candidates_check_and_the_reference_time(night):
    times = {verdict.cell: verdict.candidate_us for verdict in night.verdicts.cells}
    for entry in night.facts:
        assert entry.check is not None
        assert entry.check.role == "candidate"
        assert entry.reference_us == times[f"torch/{entry.cell.case.id}/{entry.cell.regime}"]


def test_every_cell_finds_the_floor_of_its_size(gpu_night):
    times = {entry.cell.id: entry.verdict.candidate_us for entry in gpu_night.facts}
    over, speedup = metrics.metric("over_floor").compute, metrics.metric("speedup_over_torch").compute
    for entry in gpu_night.facts:
        case = entry.cell.case
        floor = times[f"floor/per-tensor/{case.dtype}/{case.tokens}x{case.hidden}/{entry.cell.regime}"]
        if entry.cell.backend == "floor":
            assert over(entry) is speedup(entry) is None
        else:
            assert over(entry) == pytest.approx(entry.verdict.candidate_us / floor)


def test_share_of_memory_bandwidth_is_for_cold_caches_on_known_devices():
    share = metrics.metric("memory_share").compute
    timed = CellVerdict(cell=CELL.id, verdict=Verdict.OK, candidate_us=10.0)
    moved = (1024 * 7168 * 3 + 4 * 1024) / 10e-6
    assert share(CellFacts(CELL, timed, memory_gbps=4800.0)) == pytest.approx(moved / 4.8e12)
    assert share(CellFacts(CELL, timed)) is None
    hot = Cell(CELL.backend, CELL.case, "hot")
    assert share(CellFacts(hot, timed, memory_gbps=4800.0)) is None


def test_a_night_without_a_floor_has_no_times_over_it(night):
    assert {metrics.metric("over_floor").compute(entry) for entry in night.facts} == {None}


def test_geomean_leaves_out_what_is_undefined():
    assert metrics.geomean([1.0, None, 4.0]) == pytest.approx(2.0)
    assert metrics.geomean([None]) is None


@pytest.mark.parametrize(
    ("ratio", "text"),
    [(1.041, "+4.1%"), (1.0042, "+0.42%"), (0.96, "-4.0%"), (1.0, "+0.00%"), (0.999999, "+0.00%"), (1.5, "+50.0%")],
)
def test_percent(ratio, text):
    assert wording.percent(math.log(ratio)) == text


def test_effect_text():
    assert wording.effect_text(effect(math.log(1.041), math.log(1.032), math.log(1.05))) == "+4.1% [3.2, 5.0]"
    assert wording.effect_text(None) == "–"


@pytest.mark.parametrize("verdict", Verdict)
def test_every_verdict_has_a_word_and_a_meaning(verdict):
    assert wording.WORDS[verdict]
    assert wording.MEANINGS[verdict].endswith(".")


@pytest.mark.parametrize(
    ("name", "short"),
    [
        ("NVIDIA H200", "H200"),
        ("Intel(R) Xeon(R) Platinum 8481C CPU @ 2.70GHz", "Xeon Platinum 8481C"),
        ("AMD EPYC 7763 64-Core Processor", "EPYC 7763 64-Core"),
        ("", "device"),
    ],
)
def test_short_device(name, short):
    assert wording.short_device(name) == short


def test_one_line_holds_no_line_break_of_any_kind():
    text = wording.one_line("a\r\nBcc: x\u2028y\x0b\x85z" + "é" * 300)
    assert text.isprintable()
    assert text.startswith("a Bcc: x y z")
    assert len(text) == wording.SUBJECT_LIMIT


def test_a_night_cut_short_names_what_is_missing(tmp_path: Path):
    from fp8bench.errors import RunDirError

    with pytest.raises(RunDirError, match=r"check\.json is missing"):
        Night.read(make_night(tmp_path, until="build"))
