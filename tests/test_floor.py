"""The floor: a yardstick that is checked for what it claims, timed as a control, divided by, and never accused."""

from __future__ import annotations

import importlib
import math
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import disassembly
import pandas as pd
import pytest
import torch
from nights import make_night
from torch import Tensor

from fp8bench import backends, bench, builds, checks, config, paths, reference, suite, toolchain
from fp8bench.backends import YARDSTICKS, floor, yardstick_case
from fp8bench.bench import Limits, Timing
from fp8bench.config import TimingSettings, VerdictSettings
from fp8bench.errors import ToolchainError, UsageError
from fp8bench.records import CheckReport, CheckStatus, Verdict, Verdicts
from fp8bench.rundir import RunDir
from fp8bench.spec import BASELINE, CANDIDATE, DTYPES, Case, Cell, Scheme
from fp8bench.supervisor.planning import Work, controls
from fp8bench.supervisor.samples import Launch
from fp8bench.verdicts import judge

GPU = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")
CASE = Case.parse("per-tensor/bfloat16/5x96")


# ---- the backend ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", DTYPES)
def test_every_size_has_a_launch_shape(dtype: str) -> None:
    for exponent in range(3, 40):
        for elements in (2**exponent - 8, 2**exponent, 2**exponent + 8):
            variant = floor.choose_variant(elements, DTYPES[dtype])
            assert 0 <= variant < len(floor.VECTORS) * len(floor.THREADS)


def test_shapes_go_from_small_inputs_to_large_ones() -> None:
    assert [most for most, _, _ in floor.SHAPES] == sorted(most for most, _, _ in floor.SHAPES)


@pytest.fixture(scope="module")
def built() -> Path:
    """The build directory of the checkout's CUDA library."""
    try:
        toolchain.find_nvcc()
    except ToolchainError as error:
        pytest.skip(str(error))
    wanted = ("cuda", "floor")
    made = builds.build(paths.CHECKOUT, "", "candidate", config.load(), worktree=True, backends=wanted)
    assert {library.backend for library in made.libraries if library.ok} == set(wanted)
    return Path(made.path)


@pytest.mark.parametrize("architecture", ["89", "90", "100"])
def test_the_cast_moves_bytes_and_does_nothing_else(built: Path, architecture: str) -> None:
    found = disassembly.functions(next(built.glob("libfp8bench_cuda-*.so")), architecture)
    casts = [body for name, body in found.items() if "cast_tiles" in name]
    assert len(casts) == len(DTYPES) * len(floor.VECTORS)
    for body in casts:
        assert set(re.findall(r"\bLDG\.\S+", body)) <= {"LDG.E.128", "LDG.E.128.CONSTANT"}
        assert re.search(r"F2FP\.SATFINITE\.E4M3", body)
        assert not re.search(r"\b(SHFL|REDUX|BAR|ATOM\w*|RED|LDS|STS|LDL|STL|MUFU|CALL)\b", body)


def test_the_table_knows_the_launch_shapes_of_the_library(built: Path) -> None:
    library = next(built.glob("libfp8bench_cuda-*.so"))
    assert floor.FloorLibrary(library).variants == len(floor.VECTORS) * len(floor.THREADS)
    source = (paths.CSRC / "cuda/kernels.cuh").read_text() + (paths.CSRC / "cuda/library.cu").read_text()
    assert f"kFloorVectors[] = {{{', '.join(map(str, floor.VECTORS))}}}" in source
    assert f"kFloorThreads[] = {{{', '.join(map(str, floor.THREADS))}}}" in source
    assert backends.load("floor", built).supports(CASE, "cpu") is not None


def test_it_says_what_it_cannot_do() -> None:
    made = floor.FloorBackend(None)
    assert "not on cpu" in str(made.supports(CASE, "cpu"))
    assert "the same for every scheme" in str(made.supports(Case.parse("per-token/bfloat16/5x96"), "cuda"))
    assert "not a multiple of 16 bytes" in str(made.supports(Case.parse("per-tensor/bfloat16/5x33"), "cuda"))
    assert made.supports(CASE, "cuda") == "the build has no CUDA library"


def test_it_is_no_backend_of_users() -> None:
    with pytest.raises(UsageError, match="unknown backend 'floor'"):
        backends.check_name("floor")


@GPU
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("size", ["1x896", "16x1024", "130x2048", "1024x7168"])
def test_it_casts_every_element(size: str, dtype: str) -> None:
    from fp8bench.quant import own_backend

    result = checks.check(own_backend("floor"), Case.parse(f"per-tensor/{dtype}/{size}"), "cuda")
    assert (result.status, result.detail) == (CheckStatus.OK, "")


# ---- the check --------------------------------------------------------------------------------------------------


class Cast:
    """What the floor claims to be, on the CPU, with another scale, or with scales written."""

    name = "floor"

    def __init__(self, scale: float = floor.SCALE, writes_scales: bool = False) -> None:
        self.scale, self.writes_scales = scale, writes_scales

    def supports(self, case: Case, device: str) -> str | None:
        return None

    def bind(
        self,
        scheme: Scheme,
        x: Tensor,
        codes: Tensor,
        scales: Tensor,
        scale: Tensor | None = None,
        scale_ub: Tensor | None = None,
    ) -> Callable[[], tuple[Tensor, Tensor]]:
        assert scale is None
        assert scale_ub is None
        assert x.is_contiguous()

        def call() -> tuple[Tensor, Tensor]:
            codes.view(torch.uint8).copy_(reference.encode(x.float() / self.scale))
            if self.writes_scales:
                scales.fill_(1.0)
            return codes, scales if self.writes_scales else torch.full((1,), floor.SCALE)

        return call


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_cast_with_the_fixed_scale_is_right(dtype: str) -> None:
    case = replace(CASE, dtype=dtype)
    assert checks.check(Cast(), case, "cpu").status is CheckStatus.OK


def test_another_cast_is_wrong() -> None:
    result = checks.check(Cast(scale=1.0), CASE, "cpu")
    assert result.status is CheckStatus.WRONG
    assert result.detail.startswith("random input, code (")


def test_a_cast_that_returns_other_scales_is_wrong() -> None:
    assert "scale (0,)" in checks.check(Cast(writes_scales=True), CASE, "cpu").detail


def test_the_scale_is_the_one_that_is_checked() -> None:
    assert checks.FIXED_SCALES == {"floor": floor.SCALE}


# ---- nights -----------------------------------------------------------------------------------------------------


def test_a_suite_measures_it_once_a_size(tmp_path: Path) -> None:
    file = tmp_path / "mine.toml"
    file.write_text(
        'schemes = ["per-token", "group-128-col"]\ntokens = [1, 16]\nhidden = [1024]\n'
        'cases = ["per-tensor-static/float16/1x1024"]\nbackends = ["cuda", "floor"]\n'
    )
    cells = [cell for cell in suite.load(file, "cuda").cells if cell.backend == "floor"]
    assert [cell.id for cell in cells] == [
        "floor/per-tensor/bfloat16/1x1024/hot",
        "floor/per-tensor/bfloat16/16x1024/hot",
        "floor/per-tensor/float16/1x1024/hot",
    ]


@pytest.mark.parametrize("name", suite.names())
def test_shipped_suites_have_a_floor_for_every_cell_on_a_gpu(name: str) -> None:
    cells = set(suite.load(name, "cuda").cells)
    for cell in cells:
        assert Cell("floor", yardstick_case(cell.case), cell.regime) in cells


@pytest.mark.parametrize("candidate", ["a", "b"])
def test_it_is_timed_in_the_first_launches_alone(candidate: str, tmp_path: Path) -> None:
    cells = suite.load("smoke", "cuda").cells
    folders = {BASELINE: tmp_path / "a", CANDIDATE: tmp_path / candidate}
    work = Work(cells, controls(folders, cells, frozenset()), "screen", TimingSettings(), 0.003, 0)
    past = [Launch(number=number) for number in range(2)]
    kept = {launch: {Cell.parse(job.cell).backend for job in work.plan(past[:launch]).jobs} for launch in (1, 2)}
    assert "floor" in kept[1]
    assert "floor" not in kept[2]
    assert "cuda" in kept[2]


def judged(run_dir: Path, samples: pd.DataFrame | None = None, checked: CheckReport | None = None) -> Verdicts:
    run = RunDir(run_dir)
    samples = run.raw_samples() if samples is None else samples
    return judge(run.prepared(), run.built(), checked or run.checked(), run.timed(), samples, VerdictSettings())


def of_floor(verdicts: Verdicts) -> set[Verdict]:
    return {cell.verdict for cell in verdicts.cells if cell.cell.startswith("floor/")}


@pytest.fixture(scope="module")
def night(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_night(tmp_path_factory.mktemp("night"), "clean", suite="reference", until="time")


def test_a_slower_floor_accuses_nobody_and_spoils_no_night(night: Path) -> None:
    samples = RunDir(night).raw_samples()
    slower = samples["cell"].str.startswith("floor/") & (samples["role"] == CANDIDATE)
    found = judged(night, samples.assign(seconds=samples["seconds"].where(~slower, samples["seconds"] * 1.5)))
    assert found.exit_code == 0
    assert of_floor(found) == {Verdict.CONTROL}
    assert not found.causes
    sentence = next(entry.sentence for entry in found.backends if entry.backend == "floor")
    assert sentence == "Floor: measured for the others to compare with (50 cells)"
    assert all(speedup.backend not in YARDSTICKS for speedup in found.speedups)


@pytest.mark.parametrize("status", [CheckStatus.WRONG, CheckStatus.CRASHED])
def test_a_broken_floor_is_missing(night: Path, status: CheckStatus) -> None:
    checked = RunDir(night).checked()
    results = [
        result.model_copy(update={"status": status, "detail": "planted"} if result.backend == "floor" else {})
        for result in checked.results
    ]
    found = judged(night, checked=CheckReport(results=tuple(results)))
    assert of_floor(found) == {Verdict.MISSING}
    assert found.exit_code == 0
    assert not found.causes


# ---- tables of the command --------------------------------------------------------------------------------------

CASES = [Case.parse("per-token/bfloat16/1024x4096"), Case.parse("per-token/bfloat16/16x4096")]
TIMES = {("cuda", CASES[0]): Timing(6.0, 7.0, 5.0), ("cuda", CASES[1]): Timing(3.0, 3.0, 3.0)}
LIMITS = Limits("cold", {yardstick_case(CASES[0]): 4.0}, 4800.0)


def test_times_over_the_floor() -> None:
    over = bench.floor_table(CASES, TIMES, ["cuda", "triton"], LIMITS)
    assert list(over.columns) == [*bench.CASE_COLUMNS, "Floor (us)", "CUDA", "Triton"]
    assert over["CUDA"].tolist() == pytest.approx([1.5, math.nan], nan_ok=True)
    assert over["Triton"].isna().all()
    means = bench.geomeans(over, ["cuda", "triton"])
    assert means["CUDA"].tolist() == pytest.approx([1.5])
    assert means["Triton"].isna().all()


def test_shares_of_memory_bandwidth() -> None:
    share = bench.memory_table(CASES, TIMES, ["cuda"], LIMITS)
    moved = 1024 * 4096 * 3 + 4 * 1024
    assert share["CUDA"].tolist()[0] == pytest.approx(100 * moved / 6e-6 / 4.8e12)
    assert bench.memory_table(CASES, TIMES, ["cuda"], LIMITS._replace(regime="hot"))["CUDA"].isna().all()
    assert bench.memory_table(CASES, TIMES, ["cuda"], LIMITS._replace(memory_gbps=None))["CUDA"].isna().all()


def test_there_is_no_floor_on_a_cpu() -> None:
    assert bench.limits_of(CASES, "cpu", "hot", lambda *_: None) == Limits("hot", {})


@GPU
def test_every_size_gets_a_floor_on_a_gpu() -> None:
    limits = bench.limits_of(CASES, "cuda", "hot", lambda *_: None)
    assert all((limits.floor_us(case) or 0) > 0 for case in CASES)


# ---- tuning -----------------------------------------------------------------------------------------------------


def test_the_search_finds_the_table_that_loses_least(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(paths.CHECKOUT / "ci" / "gpu"))
    tune_floor = importlib.import_module("tune_floor")
    best = {100: 3, 200: 3, 300: 7, 400: 7, 500: 1}
    times = {
        (size, regime): {variant: 1.0 if variant == right else 1.1 for variant in range(20)}
        for size, right in best.items()
        for regime in ("hot", "cold")
    }
    assert tune_floor.best_table(tune_floor.losses(times)) == [(200, 3), (400, 7), (500, 1)]
    monkeypatch.setattr(tune_floor, "MOST_ROWS", 2)
    assert tune_floor.best_table(tune_floor.losses(times))[-1][1] in (7, 1)
    for variant in range(20):
        vectors, threads = tune_floor.shape_of(variant)
        assert floor.VECTORS.index(vectors) * len(floor.THREADS) + floor.THREADS.index(threads) == variant
