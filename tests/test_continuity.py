"""Tonight against earlier nights: new, worse, ongoing, recovered; and the machine that moved instead of the code."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from math import log
from pathlib import Path

import pytest
from nights import make_night

from fp8bench import earlier, verdicts
from fp8bench.records import CellVerdict, Prepared, Verdict, Verdicts, read, write
from fp8bench.verdicts.shifts import find_shifts

BEGIN = datetime(2026, 3, 1, 2, tzinfo=UTC)


@pytest.fixture(scope="module")
def night(tmp_path_factory: pytest.TempPathFactory) -> Verdicts:
    """A night whose group-128-row family regressed on the CPU backend."""
    return read(Verdicts, make_night(tmp_path_factory.mktemp("night"), "regressed") / "verdicts.json")


@pytest.fixture(scope="module")
def quiet(night: Verdicts) -> Verdicts:
    """The same night with all that regressed found well."""
    cells = tuple(_cleared(cell) for cell in night.cells)
    families = tuple(_cleared(family) for family in night.families)
    return night.model_copy(update={"cells": cells, "families": families, "causes": (), "verdict": Verdict.OK})


def _cleared(entry):
    return entry.model_copy(update={"verdict": Verdict.OK}) if entry.verdict is Verdict.REGRESSED else entry


def _slower(night: Verdicts, by: float, families: Sequence[str] | None = None) -> Verdicts:
    """`night` with the effect of its cause moved, and perhaps in other families."""
    (cause,) = night.causes
    effect = cause.worst
    moved = {name: getattr(effect, name) + by for name in ("value", "lower", "upper")}
    changes = {"worst": effect.model_copy(update=moved), "families": tuple(families or cause.families), "id": "another"}
    return night.model_copy(update={"causes": (cause.model_copy(update=changes),)})


def test_a_first_night_has_no_state_but_new(night: Verdicts) -> None:
    assert verdicts.continued(night, None) is night
    assert [cause.state for cause in night.causes] == ["new"]


def test_a_cause_that_stays_is_ongoing_and_counts_its_nights(night: Verdicts) -> None:
    second = verdicts.continued(_slower(night, 0.0), night, "first")
    third = verdicts.continued(night, second, "second")
    assert [(cause.state, cause.nights) for cause in (*second.causes, *third.causes)] == [
        ("ongoing", 2),
        ("ongoing", 3),
    ]
    assert second.causes[0].id == third.causes[0].id == night.causes[0].id
    assert (second.previous, second.recovered) == ("first", ())


@pytest.mark.parametrize(("by", "state"), [(0.005, "ongoing"), (0.2, "worse"), (-0.1, "ongoing")])
def test_worse_is_beyond_what_both_intervals_leave_open(night: Verdicts, by: float, state: str) -> None:
    assert verdicts.continued(_slower(night, by), night).causes[0].state == state


def test_a_cause_that_spreads_is_worse_and_keeps_its_id(night: Verdicts) -> None:
    (old,) = night.causes
    spread = verdicts.continued(_slower(night, 0.0, [*old.families, "per-token/bfloat16"]), night).causes[0]
    assert (spread.state, spread.id) == ("worse", old.id)
    other = verdicts.continued(_slower(night, 0.0, ["per-token/bfloat16"]), night).causes[0]
    assert (other.state, other.id) == ("new", "another")


def test_a_cause_is_known_again_after_a_night_that_could_not_resolve_it(night: Verdicts) -> None:
    """It is new tonight, under the id by which it was told, and perhaps silenced."""
    unresolved = night.model_copy(update={"causes": ()})
    (found,) = verdicts.continued(_slower(night, 0.0), unresolved, older=iter([unresolved, night])).causes
    assert (found.state, found.id) == ("new", night.causes[0].id)
    (other,) = verdicts.continued(_slower(night, 0.0, ["per-token/bfloat16"]), unresolved, older=[night]).causes
    assert other.id == "another"


def test_what_is_well_again_has_recovered(night: Verdicts, quiet: Verdicts) -> None:
    found = verdicts.continued(quiet, verdicts.continued(night, night))
    (entry,) = found.recovered
    assert (entry.id, entry.verdict, entry.nights) == (night.causes[0].id, Verdict.REGRESSED, 2)


def test_what_was_not_measured_has_not_recovered(night: Verdicts, quiet: Verdicts) -> None:
    accused = night.causes[0].cells[0]
    lost = [CellVerdict(cell=c.cell, verdict=Verdict.MISSING) if c.cell == accused else c for c in quiet.cells]
    assert verdicts.continued(quiet.model_copy(update={"cells": tuple(lost)}), night).recovered == ()
    assert verdicts.continued(quiet.model_copy(update={"verdict": Verdict.INVALID}), night).recovered == ()


def test_a_baseline_that_moved_accepts_and_does_not_mend(night: Verdicts, quiet: Verdicts) -> None:
    assert verdicts.continued(quiet, night, same_baseline=False).recovered == ()
    again = verdicts.continued(_slower(night, 0.0), night, same_baseline=False).causes[0]
    assert (again.state, again.nights, again.id) == ("new", 1, "another")
    broken = night.causes[0].model_copy(update={"verdict": Verdict.WRONG})
    before = night.model_copy(update={"causes": (broken,)})
    assert [entry.verdict for entry in verdicts.continued(quiet, before, same_baseline=False).recovered] == ["WRONG"]


# ---- the environment ----------------------------------------------------------------------------------------


def test_the_same_build_on_a_slower_machine_is_a_shift_and_blames_no_commit(quiet: Verdicts) -> None:
    before = {cell.cell: cell.baseline_us / 1.2 for cell in quiet.cells if cell.baseline_us}
    shifts = find_shifts(quiet.cells, before, "recorded", threshold=0.1)
    assert [(entry.backend, entry.label) for entry in shifts] == [("torch", "environment"), ("cpu", "environment")]
    assert all(entry.value == pytest.approx(log(1.2)) and entry.recorded == "recorded" for entry in shifts)
    assert find_shifts(quiet.cells, before, "recorded", threshold=0.2) == []
    assert find_shifts(quiet.cells, {}, "", threshold=0.1) == []


def test_one_cell_is_no_shift_and_torch_alone_is_the_reference(quiet: Verdicts) -> None:
    times = {cell.cell: cell.baseline_us for cell in quiet.cells if cell.baseline_us}
    single = next(iter(times))
    assert find_shifts(quiet.cells, times | {single: times[single] / 3}, "r", threshold=0.1) == []
    torch = {cell: time / (1.3 if cell.startswith("torch/") else 1.0) for cell, time in times.items()}
    (shift,) = find_shifts(quiet.cells, torch, "r", threshold=0.1)
    assert (shift.backend, shift.label) == ("torch", "reference")


def test_what_the_launch_speed_of_a_device_makes_of_short_calls_is_no_shift(quiet: Verdicts) -> None:
    times = {cell.cell: cell.baseline_us for cell in quiet.cells if cell.baseline_us}
    short = tuple(cell.model_copy(update={"baseline_us": 2.18}) for cell in quiet.cells if cell.cell in times)
    recorded = dict.fromkeys(times, 2.0)
    assert find_shifts(short, recorded, "r", threshold=0.06)
    assert find_shifts(short, recorded, "r", threshold=0.06, least_us=0.25) == []


def test_a_yardstick_is_no_shift(quiet: Verdicts) -> None:
    timed = [cell for cell in quiet.cells if cell.baseline_us and cell.cell.startswith("cpu/")]
    floor = [cell.model_copy(update={"cell": cell.cell.replace("cpu/", "floor/")}) for cell in timed]
    for cells, shifts in ((timed, 1), (floor, 0)):
        assert len(find_shifts(cells, {cell.cell: cell.baseline_us / 2 for cell in cells}, "r", 0.1)) == shifts


def test_a_shift_is_carried_from_night_to_night(quiet: Verdicts) -> None:
    before = {cell.cell: cell.baseline_us / 1.2 for cell in quiet.cells if cell.baseline_us}
    first = quiet.model_copy(update={"shifts": tuple(find_shifts(quiet.cells, before, "r", 0.1))})
    slower = {cell: time / 1.3 for cell, time in before.items()}
    second = quiet.model_copy(update={"shifts": tuple(find_shifts(quiet.cells, slower, "r", 0.1))})
    assert {entry.state for entry in verdicts.continued(first, first).shifts} == {"ongoing"}
    assert {(entry.state, entry.nights) for entry in verdicts.continued(second, first).shifts} == {("worse", 2)}


# ---- which night came before --------------------------------------------------------------------------------


def test_the_previous_night_is_the_newest_valid_one_of_the_device_and_suite(tmp_path: Path) -> None:
    for day, state in enumerate(("clean", "regressed", "invalid")):
        make_night(tmp_path / f"n{day}", state, run_id=f"n{day}", created=BEGIN + timedelta(days=day))
    make_night(tmp_path / "later", run_id="later", created=BEGIN + timedelta(days=9))
    make_night(tmp_path / "unjudged", run_id="unjudged", created=BEGIN + timedelta(days=3), until="time")
    (tmp_path / "damaged").mkdir()
    (tmp_path / "damaged" / "verdicts.json").write_text("{")
    tonight = read(Prepared, tmp_path / "later" / "prepare.json").model_copy(
        update={"run_id": "tonight", "created": BEGIN + timedelta(days=4), "baseline_run": "n0"}
    )
    found = earlier.previous(tmp_path, tonight)
    assert found is not None
    assert (found[0].run_id, found[1].exit_code) == ("n1", 1)
    assert earlier.previous(tmp_path, tonight.model_copy(update={"suite": "another"})) is None
    times = earlier.recorded_times(tmp_path, tonight)
    judged = read(Verdicts, tmp_path / "n0" / "verdicts.json")
    assert times == {cell.cell: cell.candidate_us for cell in judged.cells}
    assert earlier.recorded_times(tmp_path, tonight.model_copy(update={"baseline_run": "gone"})) == {}
    write(judged.model_copy(update={"verdict": Verdict.INVALID}), tmp_path / "n0" / "verdicts.json")
    assert earlier.recorded_times(tmp_path, tonight) == {}


@pytest.mark.parametrize(
    ("before", "tonight", "found"),
    [
        ({}, {"candidate": "HEAD"}, True),
        ({"candidate": "a" * 40}, {"candidate": "b" * 40}, True),  # commit after commit
        ({"candidate": "my-branch"}, {}, False),
        ({"candidate": "my-branch"}, {"candidate": "my-branch"}, True),
        ({"baseline": "v0.1.0"}, {}, False),
        ({"baseline": "v0.1.0"}, {"baseline": "v0.1.0"}, True),
    ],
)
def test_what_somebody_tried_in_between_is_no_part_of_the_story(
    tmp_path: Path, before: dict[str, str], tonight: dict[str, str], found: bool
) -> None:
    run = make_night(tmp_path / "before", run_id="before", created=BEGIN)
    prepared = read(Prepared, run / "prepare.json")
    write(prepared.model_copy(update={"requested": before}), run / "prepare.json")
    later = {"run_id": "tonight", "created": BEGIN + timedelta(days=1), "requested": tonight, "baseline_run": "before"}
    now = prepared.model_copy(update=later)
    assert (earlier.previous(tmp_path, now) is not None) == found
    assert earlier.recorded_times(tmp_path, now)
