"""Verdicts: what each finding is called, who is accused, and how often by mistake."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime

import numpy as np
import pandas as pd
import pytest

from fp8bench import verdicts
from fp8bench.config import VerdictSettings
from fp8bench.records import (
    BuildReport,
    Built,
    BuiltLibrary,
    CheckReport,
    CheckResult,
    CheckStatus,
    Commit,
    DeviceState,
    Effect,
    Environment,
    LaunchFailure,
    Prepared,
    Screened,
    TimingReport,
    Verdict,
    Verdicts,
)
from fp8bench.spec import ROLES, Case, Cell, Scheme
from fp8bench.verdicts.evidence import Evidence

SCHEMES = ("per-tensor", "per-token", "group-128-row", "group-128-col")
CELLS = tuple(
    Cell(backend, Case(Scheme.parse(scheme), "bfloat16", tokens, 1024), "hot")
    for backend in ("torch", "cpu")
    for scheme in SCHEMES
    for tokens in (16, 256, 512)
)
CULPRIT = Commit(sha="c" * 40, subject="Slow down", files=("csrc/cpu/per_token.cpp",))
OTHER = Commit(sha="d" * 40, subject="Touch CUDA", files=("csrc/cuda/per_token.cu",))
SETTINGS = VerdictSettings()


def prepared(**changes: object) -> Prepared:
    ids = tuple(cell.id for cell in CELLS)
    night = Prepared(
        run_id="night",
        created=datetime(2026, 1, 1, tzinfo=UTC),
        repo="/repo",
        candidate=CULPRIT,
        baseline=Commit(sha="b" * 40),
        suspects=(OTHER, CULPRIT),
        suite="test",
        cells=ids,
        shards=(ids,),
        environment=Environment(host="host", device="cpu", device_name="CPU"),
        harness=Commit(sha="e" * 40),
        seed=1,
    )
    return night.model_copy(update=changes)


def built(**candidate: BuiltLibrary) -> BuildReport:
    """torch is the same in both builds, cpu is not; `candidate` replaces libraries of the candidate."""

    def libraries(role: str) -> Iterable[BuiltLibrary]:
        yield BuiltLibrary(backend="torch", ok=True, identity="same")
        yield BuiltLibrary(backend="cpu", ok=True, identity=role)

    def of(role: str) -> tuple[BuiltLibrary, ...]:
        return tuple(candidate.get(entry.backend, entry) if role == "candidate" else entry for entry in libraries(role))

    return BuildReport(builds=tuple(Built(role=role, commit=role, libraries=of(role)) for role in ROLES))  # type: ignore[arg-type]


def checked(**status: CheckStatus) -> CheckReport:
    """All well, but for the candidate's cases of the schemes (with _ for -) that are named."""
    results = []
    for role in ROLES:
        for backend, case in dict.fromkeys((cell.backend, cell.case) for cell in CELLS):
            bad = status.get(case.scheme.name.replace("-", "_")) if (role, backend) == ("candidate", "cpu") else None
            kind, detail = bad or CheckStatus.OK, f"what is {bad}" if bad else ""
            results.append(CheckResult(role=role, backend=backend, case=case.id, status=kind, detail=detail))
    return CheckReport(results=tuple(results))


def samples(
    effects: dict[str, float],
    *,
    launches: int = 6,
    launch_sd: float = 0.01,
    seed: int = 1,
    cells: Sequence[Cell] = CELLS,
) -> pd.DataFrame:
    """Blocks of a night. `effects` adds to the cpu cells of a scheme; every launch has an effect of its own."""
    generator = np.random.default_rng(seed)
    tables = []
    for cell in cells:
        true = effects.get(cell.case.scheme.name, 0.0) if cell.backend == "cpu" else 0.0
        own = true + generator.normal(0, launch_sd, launches)
        index = np.arange(launches * 4 * 4)
        launch, quad, position = index // 16, index // 4 % 4, index % 4
        is_candidate = np.isin(position, (1, 2)) ^ (quad % 2 == 1)
        log = own[launch] * is_candidate + generator.normal(0, 0.01, len(index))
        columns = {"launch": launch, "quad": quad, "position": position, "calls": 10}
        role = np.where(is_candidate, "candidate", "baseline")
        tables.append(pd.DataFrame({**columns, "cell": cell.id, "role": role, "seconds": 1e-5 * np.exp(log)}))
    return pd.concat(tables, ignore_index=True)


def judge(
    data: pd.DataFrame,
    *,
    builds: BuildReport | None = None,
    checks: CheckReport | None = None,
    timing: TimingReport | None = None,
    night: Prepared | None = None,
    screened: Screened | None = None,
) -> Verdicts:
    timing = timing or TimingReport(shard=0, launches=6)
    records = (night or prepared(), builds or built(), checks or checked(), [timing])
    return verdicts.judge(*records, data, SETTINGS, screened)


def regressed_families(found: Verdicts) -> set[str]:
    families = {family.family for family in found.families if family.verdict is Verdict.REGRESSED}
    return families | {Cell.parse(c.cell).case.family for c in found.cells if c.verdict is Verdict.REGRESSED}


# ---- what is said -------------------------------------------------------------------------------------------


def test_a_regression_accuses_its_family_and_its_commit() -> None:
    found = judge(samples({"per-token": 0.14}))
    assert (found.verdict, found.exit_code) == (Verdict.REGRESSED, 1)
    assert regressed_families(found) == {"per-token/bfloat16"}
    (cause,) = found.causes
    assert cause.families == ("per-token/bfloat16",)
    assert cause.suspects == (CULPRIT.sha,)
    assert len(cause.cells) == 3
    assert cause.worst is not None
    assert cause.worst.lower < 0.14 < cause.worst.upper
    sentence = next(entry.sentence for entry in found.backends if entry.backend == "cpu")
    assert sentence.startswith("CPU: 3 cells regressed, worst +1")
    assert "per-token" in sentence


def test_an_improvement_is_no_regression() -> None:
    found = judge(samples({"per-token": -0.14}))
    assert found.exit_code == 0
    assert found.causes == ()
    assert sum(cell.verdict is Verdict.IMPROVED for cell in found.cells) == 3


def test_the_same_machine_code_is_a_control_and_never_accused() -> None:
    same = BuiltLibrary(backend="cpu", ok=True, identity="baseline")
    found = judge(samples({"per-token": 0.5}), builds=built(cpu=same))
    assert {cell.verdict for cell in found.cells if cell.cell.startswith("cpu/")} == {Verdict.CONTROL}
    assert found.causes == ()


def test_controls_that_moved_make_the_night_invalid() -> None:
    same = BuiltLibrary(backend="cpu", ok=True, identity="baseline")
    found = judge(samples(dict.fromkeys(SCHEMES, 0.2), launches=2), builds=built(cpu=same))
    assert (found.verdict, found.exit_code) == (Verdict.INVALID, 3)
    assert "controls of CPU moved by +2" in found.sentence


def test_a_throttled_night_accuses_nobody() -> None:
    states = tuple(DeviceState(when="after", launch=launch, throttle=("thermal",)) for launch in range(3))
    timing = TimingReport(shard=0, launches=6, states=states)
    found = judge(samples({"per-token": 0.14}), timing=timing)
    assert (found.verdict, found.exit_code) == (Verdict.INVALID, 3)
    assert not any(cell.verdict in (Verdict.REGRESSED, Verdict.OK) for cell in found.cells)
    assert found.causes == ()
    assert "throttled in 50% of the launches" in found.sentence


def test_clocks_that_somebody_fixed_are_not_throttled() -> None:
    states = tuple(DeviceState(when="after", launch=launch, throttle=("applications_clocks",)) for launch in range(6))
    assert judge(samples({}), timing=TimingReport(shard=0, launches=6, states=states)).exit_code == 0


def test_a_night_that_timed_little_is_invalid() -> None:
    found = judge(samples({}, cells=CELLS[:3]))
    assert found.exit_code == 3
    assert "only 3 of 12 cells of Torch" in found.sentence


def test_a_backend_that_was_timed_does_not_hide_one_that_was_not() -> None:
    """Nor do first launches that came to an end hide that there were not enough of them."""
    for few in (samples({}, cells=CELLS[:12]), samples({"per-token": 0.5}, launches=2)):
        found = judge(few)
        assert (found.verdict, found.exit_code) == (Verdict.INVALID, 3)
        assert found.invalid == "only 0 of 12 cells of CPU could be timed"


def test_a_night_in_which_nothing_could_be_compared_is_invalid() -> None:
    crashed = {"status": CheckStatus.CRASHED, "detail": "signal 11"}
    results = [entry.model_copy(update=crashed if entry.role == "baseline" else {}) for entry in checked().results]
    found = judge(samples({}).iloc[:0], checks=CheckReport(results=tuple(results)))
    assert (found.verdict, found.exit_code) == (Verdict.INVALID, 3)
    assert "nothing could be compared: nothing to compare with, the baseline is crashed" in found.sentence


@pytest.mark.parametrize(
    ("status", "verdict", "code"),
    [
        (CheckStatus.WRONG, Verdict.WRONG, 2),
        (CheckStatus.CRASHED, Verdict.CRASHED, 2),
        (CheckStatus.HUNG, Verdict.CRASHED, 2),
        (CheckStatus.MISSING, Verdict.MISSING, 0),
        (CheckStatus.UNSUPPORTED, Verdict.WRONG, 2),  # the baseline supports it
    ],
)
def test_findings_of_the_checks(status: CheckStatus, verdict: Verdict, code: int) -> None:
    timed = [cell for cell in CELLS if (cell.backend, cell.case.scheme.name) != ("cpu", "per-token")]
    found = judge(samples({}, cells=timed), checks=checked(per_token=status))
    touched = [cell for cell in found.cells if cell.cell.startswith("cpu/per-token/")]
    assert {cell.verdict for cell in touched} == {verdict}
    assert all(str(status) in cell.reason for cell in touched)
    assert found.exit_code == code
    assert [cause.verdict for cause in found.causes] == ([verdict] if code else [])
    assert all(cell.effect for cell in found.cells if cell not in touched)


def test_what_does_not_compile_is_not_built_and_the_rest_is_kept() -> None:
    broken = BuiltLibrary(backend="cpu", ok=False, error="per_token.cpp does not compile")
    found = judge(samples({}, cells=CELLS[:12]), builds=built(cpu=broken))
    assert (found.verdict, found.exit_code) == (Verdict.NOT_BUILT, 2)
    assert {cell.verdict for cell in found.cells if cell.cell.startswith("torch/")} == {Verdict.CONTROL}
    assert "per_token.cpp does not compile" in found.causes[0].detail


def test_an_inspected_backend_that_does_not_compile_is_told() -> None:
    found = judge(samples({}), night=prepared(inspected=("cuda",)))
    cuda = next(entry for entry in found.backends if entry.backend == "cuda")
    assert (cuda.verdict, found.exit_code) == (Verdict.UNSUPPORTED, 0)
    broken = BuiltLibrary(backend="cuda", ok=False, error="no such header")
    report = built()
    candidate = report.role("candidate")
    both = (report.role("baseline"), candidate.model_copy(update={"libraries": (*candidate.libraries, broken)}))
    found = judge(samples({}), night=prepared(inspected=("cuda",)), builds=BuildReport(builds=both))
    assert found.exit_code == 2
    assert [(cause.backend, cause.verdict) for cause in found.causes] == [("cuda", Verdict.NOT_BUILT)]


def failed(cell: str, launches: Sequence[int], status: str = "crashed", detail: str = "signal 11") -> TimingReport:
    failures = [LaunchFailure(launch=launch, cell=cell, status=status, detail=detail) for launch in launches]  # type: ignore[arg-type]
    return TimingReport(shard=0, launches=6, failures=tuple(failures))


@pytest.mark.parametrize(
    ("status", "detail"), [("crashed", "signal 11"), ("failed", "RuntimeError: not while capturing")]
)
def test_a_crash_while_timing_is_told(status: str, detail: str) -> None:
    cell = CELLS[-1].id
    found = judge(samples({}), timing=failed(cell, (2, 3), status, detail))
    assert found.exit_code == 2
    assert [(entry.cell, entry.verdict) for entry in found.cells if entry.verdict in verdicts.BROKEN] == [
        (cell, Verdict.CRASHED)
    ]


def test_one_death_accuses_nobody_and_what_died_is_not_called_well() -> None:
    alone = judge(samples({}), timing=failed(CELLS[-1].id, [2]))
    assert (alone.exit_code, alone.causes) == (0, ())
    died = next(cell for cell in alone.cells if cell.cell == CELLS[-1].id)
    assert died.verdict is Verdict.UNRESOLVED
    assert died.reason == "crashed in launch 2 (signal 11), and not in 6 others"
    control = judge(samples({}), timing=failed(CELLS[0].id, [2]))
    assert control.cells[0].verdict is Verdict.CONTROL
    slower = judge(samples({"group-128-col": 0.2}), timing=failed(CELLS[-1].id, [2]))
    assert slower.cells[-1].verdict is Verdict.REGRESSED


def test_what_runs_the_same_code_has_no_suspects_when_it_crashes() -> None:
    (cause,) = judge(samples({}), timing=failed(CELLS[0].id, (0, 1))).causes
    assert (cause.backend, cause.verdict, cause.suspects) == ("torch", Verdict.CRASHED, ())


@pytest.mark.parametrize(
    "detail", ["OutOfMemoryError: CUDA out of memory", "OSError: [Errno 28] No space left on device"]
)
def test_a_machine_without_room_accuses_nobody(detail: str) -> None:
    few = samples({}, cells=CELLS[:-1])
    found = judge(few, timing=failed(CELLS[-1].id, (0, 1), "failed", detail))
    assert (found.cells[-1].verdict, found.exit_code) == (Verdict.MISSING, 0)
    assert detail in found.cells[-1].reason


@pytest.mark.parametrize(
    ("counts", "verdict"), [((0, 14), Verdict.UNRESOLVED), ((9, 14), Verdict.OK), ((14, 0), Verdict.OK)]
)
def test_a_candidate_that_is_slow_now_and_then_is_not_called_well(counts: tuple[int, int], verdict: Verdict) -> None:
    """Its slow blocks were dropped with their quads; the baseline loses none."""
    timing = TimingReport(shard=0, launches=6, quads=96, dropped=sum(counts), disturbed={CELLS[-1].id: counts})
    cell = judge(samples({}), timing=timing).cells[-1]
    assert (cell.verdict, "disagree" in cell.reason) == (verdict, verdict is Verdict.UNRESOLVED)


def test_chance_alone_calls_a_cell_unsteady_as_rarely_as_promised() -> None:
    """Nights of 24 cells whose 96 quads are each disturbed with a chance of 5%, of either arm alike."""
    generator, called, nights = np.random.default_rng(7), 0, 400
    for _ in range(nights):
        dropped = generator.binomial(96, 0.05, len(CELLS))
        mine = generator.binomial(dropped, 0.5)
        disturbed = {cell.id: (int(n - k), int(k)) for cell, n, k in zip(CELLS, dropped, mine, strict=True)}
        timing = TimingReport(shard=0, launches=6, quads=2304, dropped=int(dropped.sum()), disturbed=disturbed)
        night = Evidence(prepared(), built(), checked(), [timing], samples({}).iloc[:0], SETTINGS)
        called += bool(night.unsteady)
    assert called / nights <= SETTINGS.alpha


def test_an_invalid_night_that_also_found_something_wrong_is_invalid_to_all_that_follows() -> None:
    states = tuple(DeviceState(when="before", launch=launch, throttle=("power",)) for launch in range(6))
    throttled = TimingReport(shard=0, launches=6, states=states)
    found = judge(samples({"per-token": 0.2}), checks=checked(per_tensor=CheckStatus.WRONG), timing=throttled)
    assert (found.verdict, found.exit_code, found.is_invalid) == (Verdict.WRONG, 2, True)
    assert not judge(samples({}), checks=checked(per_tensor=CheckStatus.WRONG)).is_invalid


def test_a_still_gpu_does_not_hide_one_that_is_throttled() -> None:
    """One of eight: an eighth of the launches of the night, and all of those that timed its cells."""
    states = tuple(DeviceState(when="before", launch=launch, throttle=("power",)) for launch in range(6))
    reports = [TimingReport(shard=shard, launches=6, states=states if shard == 5 else ()) for shard in range(8)]
    found = verdicts.judge(prepared(), built(), checked(), reports, samples({}), SETTINGS)
    assert found.invalid == "the device was throttled in 100% of the launches of shard 5"


def test_times_are_those_of_the_gpu_that_timed_all_backends_of_a_case() -> None:
    """What confirms may run on another one, 8% slower: its effects count, its times do not."""
    first = samples({"per-token": 0.14}).assign(phase="screen")
    second = samples({"per-token": 0.14}, seed=2, cells=CELLS[15:18]).assign(phase="confirm")
    second["seconds"] *= 1.08
    cells = tuple(cell.id for cell in CELLS[15:18])
    found = judge(pd.concat([first, second]), screened=Screened(cells=cells, families=()))
    slower = [cell for cell in found.cells if cell.verdict is Verdict.REGRESSED]
    assert {cell.cell for cell in slower} == set(cells)
    assert all(cell.phase == "confirm" and cell.baseline_us == pytest.approx(10.0, rel=0.01) for cell in slower)


def test_what_is_loud_does_not_hide_behind_what_is_louder() -> None:
    """A wrong, a hanging, a crashing and a slower cell of one backend: each is told, with its own reason."""
    hung, dead, _ = (cell.id for cell in CELLS if cell.id.startswith("cpu/group-128-row/"))
    failures = (
        *failed(hung, (2, 3), "hung", "no sign of life for 10 s; killed").failures,
        *failed(dead, (3, 4)).failures,
    )
    timing = TimingReport(shard=0, launches=6, failures=failures)
    found = judge(samples({"per-token": 0.2}), checks=checked(per_tensor=CheckStatus.WRONG), timing=timing)
    [sentence] = [entry.sentence for entry in found.backends if entry.backend == "cpu"]
    assert re.fullmatch(r"CPU: \d+ cells wrong: .*; also 2 crashed, \d+ regressed", sentence)
    causes = {cause.verdict: cause for cause in found.causes}
    assert set(causes) == {Verdict.WRONG, Verdict.CRASHED, Verdict.REGRESSED}
    assert "no sign of life" in causes[Verdict.CRASHED].detail
    assert "signal 11" in causes[Verdict.CRASHED].detail
    assert [verdict for verdict, cause in causes.items() if cause.worst] == [Verdict.REGRESSED]


def test_few_launches_are_missing_and_wide_intervals_unresolved() -> None:
    few = judge(samples({}).query("launch < 2 or cell not in @few", local_dict={"few": [CELLS[-1].id]}))
    assert few.cells[-1].verdict is Verdict.MISSING
    assert few.cells[-1].reason == "timed in 2 launches, 3 are needed"
    wide = judge(samples({}, launch_sd=0.2))
    unresolved = [cell for cell in wide.cells if cell.verdict is Verdict.UNRESOLVED]
    assert len(unresolved) >= 9
    assert wide.exit_code == 0


def test_wrong_comes_before_invalid_before_regressed() -> None:
    states = tuple(DeviceState(when="before", launch=launch, throttle=("power",)) for launch in range(6))
    throttled = TimingReport(shard=0, launches=6, states=states)
    checks = checked(per_tensor=CheckStatus.WRONG)
    assert judge(samples({"per-token": 0.2}), checks=checks, timing=throttled).exit_code == 2
    assert judge(samples({"per-token": 0.2}), timing=throttled).exit_code == 3
    assert judge(samples({"per-token": 0.2}), checks=checks).exit_code == 2


def test_speedups_leave_out_and_count_what_is_missing() -> None:
    data = samples({"per-token": 0.1}, launch_sd=0.0)
    data.loc[data["cell"].str.startswith("cpu/"), "seconds"] /= 4
    data = data[data["cell"] != "torch/per-token/bfloat16/16x1024/hot"]
    speedup = {entry.family: entry for entry in judge(data).speedups}["per-token/bfloat16"]
    assert (speedup.counted, speedup.missing) == (2, 1)
    assert speedup.baseline == pytest.approx(4.0, rel=0.02)
    assert speedup.candidate == pytest.approx(4.0 / np.exp(0.1), rel=0.02)


def test_what_is_only_checked_is_not_missed() -> None:
    """Triton on a CPU is right or wrong, and never timed: that does not make a night invalid."""
    triton = [Cell("triton", cell.case, "hot") for cell in CELLS[:12]]
    night = prepared(cells=tuple(cell.id for cell in (*CELLS[12:], *triton)))
    report = built()
    library = BuiltLibrary(backend="triton", ok=True, identity="triton")
    builds = [entry.model_copy(update={"libraries": (*entry.libraries, library)}) for entry in report.builds]
    results = [
        CheckResult(role=role, backend="triton", case=cell.case.id, status=CheckStatus.OK)
        for role in ROLES  # type: ignore[arg-type]
        for cell in triton
    ]
    checks = CheckReport(results=(*checked().results, *results))
    found = judge(samples({}, cells=CELLS[12:]), night=night, builds=BuildReport(builds=tuple(builds)), checks=checks)
    assert {cell.verdict for cell in found.cells if cell.cell.startswith("triton/")} == {Verdict.UNSUPPORTED}
    assert found.exit_code == 0
    assert "interpreter" in next(entry.sentence for entry in found.backends if entry.backend == "triton")


def test_order_of_rows_and_results_does_not_matter() -> None:
    data, checks = samples({"per-token": 0.05}), checked(per_tensor=CheckStatus.WRONG)
    again = judge(data.sample(frac=1, random_state=2), checks=CheckReport(results=checks.results[::-1]))
    assert again == judge(data, checks=checks)


def test_suspects_touch_what_the_backend_runs() -> None:
    shared = Commit(sha="f" * 40, files=("csrc/numerics.h",))
    binding = Commit(sha="a" * 40, files=("fp8bench/backends/_native.py",))
    found = {
        backend: [c.sha[0] for c in verdicts.suspects_of(backend, [CULPRIT, OTHER, shared, binding])]
        for backend in ("cpu", "cuda", "triton", "torch")
    }
    assert found == {"cpu": ["c", "f", "a"], "cuda": ["d", "f", "a"], "triton": ["a"], "torch": ["a"]}
    assert verdicts.suspects_of("torch", [CULPRIT]) == [CULPRIT]


@pytest.mark.parametrize(
    ("value", "upper", "significant", "verdict"),
    [
        (0.05, 0.06, True, Verdict.REGRESSED),
        (-0.05, -0.04, True, Verdict.IMPROVED),
        (0.02, 0.025, True, Verdict.OK),  # surely there, and too small to matter
        (0.05, 0.2, False, Verdict.UNRESOLVED),
        (0.0, 0.01, False, Verdict.OK),
    ],
)
def test_significance_magnitude_and_direction_are_put_together_once(
    value: float, upper: float, significant: bool, verdict: Verdict
) -> None:
    effect = Effect(value=value, lower=value - 0.01, upper=upper, p_value=0.0, launches=6)
    assert verdicts.change(effect, significant, margin=0.03) is verdict


@pytest.mark.parametrize(
    ("value", "upper", "verdict"),
    [(0.02, 0.05, Verdict.OK), (0.02, 0.07, Verdict.UNRESOLVED), (0.04, 0.05, Verdict.UNRESOLVED)],
)
def test_an_ok_is_below_the_margin_and_excludes_two(value: float, upper: float, verdict: Verdict) -> None:
    effect = Effect(value=value, lower=value - 0.03, upper=upper, p_value=0.5, launches=6)
    assert verdicts.change(effect, significant=False, margin=0.03, excluded=0.06) is verdict


# ---- screen and confirmation --------------------------------------------------------------------------------

PER_TOKEN = tuple(cell for cell in CELLS if (cell.backend, cell.case.scheme.name) == ("cpu", "per-token"))
SCREENED = Screened(cells=tuple(sorted(cell.id for cell in PER_TOKEN)), families=("cpu/per-token/bfloat16/hot",))


def two_phases(screening: float, confirming: float, *, launches: int = 12) -> pd.DataFrame:
    """A night in which the per-token cells of the CPU seemed to move by `screening` and then by `confirming`."""
    first = samples({"per-token": screening}).assign(phase="screen")
    second = samples({"per-token": confirming}, launches=launches, seed=2, cells=PER_TOKEN).assign(phase="confirm")
    return pd.concat([first, second], ignore_index=True)


def test_luck_in_the_screen_accuses_nobody() -> None:
    found = judge(two_phases(0.14, 0.0), screened=SCREENED)
    assert (found.verdict, found.causes) == (Verdict.OK, ())
    assert {cell.phase for cell in found.cells if cell.cell in SCREENED.cells} == {"confirm"}
    assert {cell.phase for cell in found.cells if cell.cell not in SCREENED.cells} == {"screen"}


def test_what_is_confirmed_is_judged_by_the_confirming_launches_alone() -> None:
    found = judge(two_phases(0.03, 0.14), screened=SCREENED)
    assert regressed_families(found) == {"per-token/bfloat16"}
    assert [cause.worst.launches for cause in found.causes if cause.worst] == [12]
    family = next(entry for entry in found.families if entry.verdict is Verdict.REGRESSED)
    assert family.phase == "confirm"
    assert family.effect is not None
    assert family.effect.value == pytest.approx(0.14, abs=0.02)


def test_what_was_not_screened_is_not_accused_whatever_it_shows() -> None:
    """The confirmation is the only way to an accusation."""
    none = Screened(cells=(), families=())
    assert judge(samples({"per-token": 0.14}), screened=none).exit_code == 0


def test_too_few_confirming_launches_leave_it_unresolved() -> None:
    found = judge(two_phases(0.14, 0.14, launches=2), screened=SCREENED)
    assert found.exit_code == 0
    told = [cell for cell in found.cells if cell.cell in SCREENED.cells]
    assert {cell.verdict for cell in told} == {Verdict.UNRESOLVED}
    assert all("too few launches confirmed" in cell.reason for cell in told)


def test_a_cell_whose_machine_code_is_the_same_is_a_control_by_itself() -> None:
    found = checked()
    same = tuple(
        result.model_copy(update={"identity": "same" if "per-token" in result.case else result.role})
        for result in found.results
    )
    cells = judge(samples({"per-token": 0.01}), checks=CheckReport(results=same)).cells
    controls = {cell.cell for cell in cells if cell.verdict is Verdict.CONTROL and cell.cell.startswith("cpu/")}
    assert controls == set(SCREENED.cells)


def test_the_arm_counts_its_false_alarms_and_touches_no_verdict() -> None:
    arm = samples({"per-token": 0.14}, cells=CELLS[12:], seed=5).assign(phase="aa")
    arm.loc[arm["role"] == "candidate", "seconds"] *= np.exp(-0.035)  # the other cells balance those
    found = judge(pd.concat([samples({}).assign(phase="screen"), arm]))
    assert found.exit_code == 0
    assert found.arm is not None
    assert (found.arm.cells, found.arm.launches, found.arm.alarms) == (12, 6, 3)
    assert found.arm.largest == pytest.approx(0.105, abs=0.02)
    assert found.cells == judge(samples({})).cells
    assert judge(samples({})).arm is None


def test_a_baseline_that_moved_against_itself_makes_the_night_invalid() -> None:
    arm = samples(dict.fromkeys(SCHEMES, 0.1), cells=CELLS[12:], seed=5).assign(phase="aa")
    found = judge(pd.concat([samples({"per-token": 0.14}).assign(phase="screen"), arm]))
    assert (found.exit_code, found.causes) == (3, ())
    assert "the baseline moved by +1" in found.sentence


def test_many_dropped_blocks_make_the_night_invalid() -> None:
    timing = TimingReport(shard=0, launches=6, quads=100, dropped=40)
    found = judge(samples({"per-token": 0.14}), timing=timing)
    assert found.exit_code == 3
    assert "40% of the blocks were disturbed" in found.sentence
    assert judge(samples({}), timing=timing.model_copy(update={"dropped": 20})).exit_code == 0


def test_the_smallest_detectable_effect_grows_with_the_noise() -> None:
    still, noisy = (judge(samples({}, launch_sd=sd)).mde["cpu/hot"] for sd in (0.005, 0.02))
    assert SETTINGS.margin_cpu < still < noisy
    found = judge(samples({}))
    assert all((cell.mde is None) == (cell.verdict is Verdict.CONTROL) for cell in found.cells)


def test_a_confirmation_sees_smaller_effects() -> None:
    alone, confirmed = judge(samples({})), judge(two_phases(0.0, 0.0), screened=SCREENED)
    assert confirmed.mde["cpu/hot"] < alone.mde["cpu/hot"]


def test_a_fallen_speedup_names_the_side_that_moved() -> None:
    slower = {entry.family: entry.moved for entry in judge(samples({"per-token": 0.14})).speedups}
    assert slower["per-token/bfloat16"] == "backend slower"
    assert {side for family, side in slower.items() if family != "per-token/bfloat16"} == {""}
    changed = BuiltLibrary(backend="torch", ok=True, identity="another")
    data = samples({"per-token": 0.14})
    reference = data["cell"].str.startswith("torch/per-t") & (data["role"] == "candidate")
    data.loc[reference, "seconds"] *= 0.8
    found = {entry.family: entry.moved for entry in judge(data, builds=built(torch=changed)).speedups}
    assert found["per-token/bfloat16"] == "both"
    assert found["per-tensor/bfloat16"] == "reference faster"


# ---- how often ----------------------------------------------------------------------------------------------


def test_quiet_nights_are_quiet() -> None:
    """60 whole nights without a change, launches moving by 2%; test_simulated_nights.py has many more."""
    nights = [judge(samples({}, launch_sd=0.02, seed=seed, cells=CELLS[12:]), night=CPU_NIGHT) for seed in range(60)]
    assert sum(found.exit_code != 0 for found in nights) == 0


@pytest.mark.parametrize(("effect", "launch_sd", "least"), [(0.14, 0.04, 0.99), (0.052, 0.01, 0.95)])
def test_planted_slowdowns_are_caught_and_nobody_else_is_accused(effect: float, launch_sd: float, least: float) -> None:
    nights = [
        judge(samples({"per-token": effect}, launch_sd=launch_sd, seed=seed, cells=CELLS[12:]), night=CPU_NIGHT)
        for seed in range(40)
    ]
    accused = [regressed_families(found) for found in nights]
    assert np.mean([families == {"per-token/bfloat16"} for families in accused]) >= least


CPU_NIGHT = prepared(cells=tuple(cell.id for cell in CELLS[12:]))
