"""Builds realistic run directories in every state a night can end in, written through `fp8bench.records`.

    make_night(directory, "regressed")                          # smoke-like: torch and cpu on a CPU
    make_night(directory, "wrong", suite="reference")           # reference-like: 900 cells on an H200

The samples are drawn with a fixed seed around a simple model of each kernel (bytes over bandwidth plus a fixed
cost, a launch effect, noise); the verdicts are what `fp8bench.verdicts` makes of them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pandas as pd

from fp8bench.backends import YARDSTICKS, yardstick_case
from fp8bench.config import Config, VerdictSettings
from fp8bench.records import (
    BuildReport,
    Built,
    BuiltLibrary,
    CheckReport,
    CheckResult,
    CheckStatus,
    Commit,
    DeviceState,
    Environment,
    LaunchFailure,
    Prepared,
    TimingReport,
    Verdicts,
    read,
    write,
    write_bytes,
)
from fp8bench.spec import BASELINE, CANDIDATE, ROLES, Case, Cell, Scheme
from fp8bench.verdicts import judge

STATES = ("clean", "regressed", "wrong", "crashed", "not_built", "invalid", "first_night")
SUITES = ("smoke", "reference")
EXIT_CODES = {"regressed": 1, "wrong": 2, "crashed": 2, "not_built": 2, "invalid": 3}

REFERENCE_SCHEMES = ("per-tensor", "per-token", "group-64-row", "group-64-col", "group-128-row", "group-128-col")
BASE = Commit(
    sha="4be1a0c2d95f0e6b7c8a1f23d4e5f60718293a4b",
    author="Jo Berg",
    email="jo@example.org",
    date=datetime(2026, 3, 10, 16, 2, tzinfo=UTC),
    subject="Hold the row in registers (per-token)",
    files=("csrc/cuda/per_token.cu",),
)
SUSPECT = Commit(
    sha="abc1234de5f60718293a4b5c6d7e8f9012345678",
    author="Sam O'Neil <script>alert(1)</script>",
    email="sam@example.org",
    date=datetime(2026, 3, 13, 17, 40, tzinfo=UTC),
    subject="Unroll <b>twice</b> & drop the vector path",
    files=("csrc/cpu/quantize.cpp", "csrc/cuda/per_token.cu"),
)
HARNESS = Commit(sha="77aa00bb11cc22dd33ee44ff5566778899001122", author="fp8bench", subject="Release 0.1.0")
ENVIRONMENTS = {
    "cpu": Environment(
        host="runner-7",
        device="cpu",
        device_name="Intel(R) Xeon(R) Platinum 8481C CPU @ 2.70GHz",
        cpu="Intel(R) Xeon(R) Platinum 8481C CPU @ 2.70GHz",
        os="Linux 6.8.0",
        versions={"python": "3.11.2", "torch": "2.13.0+cpu", "triton": "3.9.0", "g++": "12.2.0", "fp8bench": "0.1.0"},
    ),
    "cuda": Environment(
        host="gpu-box-3",
        device="cuda",
        device_name="NVIDIA H200",
        device_uuid="GPU-5c1d6b1e-8f0a-4c55-9d3e-2f6f0a1b2c3d",
        compute_capability="9.0",
        multiprocessors=132,
        l2_bytes=62_914_560,
        driver="580.159.04",
        cpu="Intel(R) Xeon(R) Platinum 8480C",
        os="Linux 6.8.0",
        versions={
            "python": "3.12.3",
            "torch": "2.11.0+cu130",
            "triton": "3.6.0",
            "nvcc": "13.0.88",
            "fp8bench": "0.1.0",
        },
    ),
}
FAILURES = {  # state -> (check status, detail)
    "wrong": (
        CheckStatus.WRONG,
        "code at [3, 517]: got -448.0 (0xFE), oracle has -416.0 (0xFD); 0.8% of the codes differ",
    ),
    "crashed": (CheckStatus.CRASHED, "the worker process ended by signal 11 (segmentation fault)"),
}
BUILD_ERROR = "csrc/cpu/quantize.cpp:118: error: expected ';' before 'return' <unknown>"
SLOWER = {  # backend -> scheme -> how much slower than the fastest
    "torch": {"per-tensor": 2.9, "per-token": 1.35, "group-64-row": 1.9, "group-64-col": 1.6, "group-128-row": 1.7},
    "floor": {"per-tensor": 0.45},
    "triton": {"per-tensor": 1.4, "group-64-row": 1.1, "group-64-col": 1.2, "group-128-col": 1.15},
}


@dataclass(frozen=True)
class Plan:
    """What a night consists of, and what is planted in it."""

    suite: str
    state: str
    device: str
    backends: tuple[str, ...]
    cells: tuple[Cell, ...]
    launches: int
    quads: int
    noise: float  # standard deviation of the effect of a launch
    margin: float
    planted: dict[str, float] = field(default_factory=dict)  # cell id -> log-ratio
    failed: frozenset[str] = frozenset()  # cell ids without times

    @property
    def victim(self) -> str:
        """The backend that a planted failure hits."""
        return "cuda" if self.suite == "reference" else "cpu"

    @property
    def inspected(self) -> tuple[str, ...]:
        """Backends that are built without being timed."""
        return () if self.device == "cuda" else ("cuda",)


def make_night(
    directory: Path,
    state: str = "clean",
    *,
    suite: str = "smoke",
    seed: int = 0,
    run_id: str = "",
    created: datetime = datetime(2026, 3, 14, 2, 0, tzinfo=UTC),
    config: Config | None = None,
    until: str = "judge",
) -> Path:
    """Write a night that ended in `state` into `directory`; `until` is the last stage that has run."""
    plan = _plan(suite, state)
    random = np.random.default_rng(seed)
    prepared = _prepared(plan, run_id or f"{created:%Y%m%dT%H%M%SZ}-{state}-{suite}", created, seed)
    samples = _samples(plan, random)
    steps = {
        "prepare": lambda: _write_prepare(directory, prepared, config or Config(home=directory / "home")),
        "build": lambda: _write_build(directory, plan),
        "check": lambda: write(_check_report(plan, random), directory / "check.json"),
        "time": lambda: _write_times(directory, plan, samples),
        "judge": lambda: write(_verdicts(directory, plan, samples), directory / "verdicts.json"),
    }
    for name, step in steps.items():
        step()
        if name == until:
            break
    return directory


# ---- the plan -----------------------------------------------------------------------------------------------


def _plan(suite: str, state: str) -> Plan:
    if suite == "reference":
        backends, regimes, schemes = ("torch", "cuda", "triton"), ("hot", "cold"), REFERENCE_SCHEMES
        sizes = [(tokens, hidden) for tokens in (1, 16, 128, 512, 1024) for hidden in (896, 1024, 2048, 4096, 7168)]
        device, launches, quads, noise, margin = "cuda", 6, 5, 0.0008, 0.003
    else:
        backends, regimes = ("torch", "cpu"), ("hot", "cold")
        schemes = ("per-tensor", "per-token", "group-128-row", "group-128-col")
        sizes = [(16, 1024), (16, 4096), (128, 1024), (128, 4096)]
        device, launches, quads, noise, margin = "cpu", 6, 3, 0.006, 0.03
    cells = tuple(
        Cell(backend, Case(Scheme.parse(scheme), "bfloat16", tokens, hidden), regime)
        for backend in backends
        for scheme in schemes
        for tokens, hidden in sizes
        for regime in regimes
    )
    if device == "cuda":
        backends += YARDSTICKS
        cells += tuple(dict.fromkeys(Cell("floor", yardstick_case(cell.case), cell.regime) for cell in cells))
    plan = Plan(suite, state, device, backends, cells, launches, quads, noise, margin)
    return replace(plan, planted=_planted(plan), failed=frozenset(_failed(plan)))


def _planted(plan: Plan) -> dict[str, float]:
    """Planted log-ratios: one slow family in a regressed night, two faster sizes in every reference night."""
    effects = {}
    for cell in plan.cells:
        mine = plan.state == "regressed" and cell.backend == plan.victim
        if mine and plan.suite == "smoke" and cell.case.scheme.name == "group-128-row":
            effects[cell.id] = math.log(1.15)
        if mine and plan.suite == "reference" and cell.case.family == "per-token/bfloat16" and _is_large(cell.case):
            effects[cell.id] = math.log(1.016 + 0.025 * cell.case.hidden / 7168)
        if cell.backend == "triton" and cell.case.family == "group-128-col/bfloat16" and cell.case.tokens >= 512:
            effects[cell.id] = math.log(0.962) if cell.case.hidden == 7168 else 0.0
    return effects


def _is_large(case: Case) -> bool:
    return case.tokens == 1024 and case.hidden >= 4096


def _noise(plan: Plan, cell: Cell) -> float:
    """Standard deviation of a launch's effect; two-kernel cells sway more, an invalid night's all do."""
    sways = plan.suite == "reference" and cell.case.scheme.name == "per-tensor" and _is_large(cell.case)
    return plan.noise * (12.0 if sways or plan.state == "invalid" else 1.0)


def _failed(plan: Plan) -> list[str]:
    """Cells that have no times: a whole backend that is not built, or one family that is wrong or crashes."""
    mine = [cell for cell in plan.cells if cell.backend == plan.victim]
    if plan.state == "not_built":
        return [cell.id for cell in mine]
    if plan.state in FAILURES:
        return [cell.id for cell in mine if cell.case.scheme.name == "per-token"]
    return []


# ---- stages -------------------------------------------------------------------------------------------------


def _prepared(plan: Plan, run_id: str, created: datetime, seed: int) -> Prepared:
    first = plan.state == "first_night"
    changed = plan.state not in ("clean", "first_night")
    cells = tuple(cell.id for cell in plan.cells)
    return Prepared(
        run_id=run_id,
        created=created,
        repo="https://builder:hunter2@git.example.org/kernels/fp8.git",
        candidate=SUSPECT if changed else BASE,
        baseline=BASE,
        baseline_run="" if first else "20260311T020000Z-accepted",
        first_night=first,
        suspects=(SUSPECT,) if changed else (),
        suite=plan.suite,
        cells=cells,
        inspected=plan.inspected,
        shards=(cells,),
        environment=ENVIRONMENTS[plan.device],
        harness=HARNESS,
        seed=seed,
    )


def _write_prepare(directory: Path, prepared: Prepared, config: Config) -> None:
    write_bytes(config.frozen_json().encode(), directory / "config.json")
    write(prepared, directory / "prepare.json")


def _write_build(directory: Path, plan: Plan) -> None:
    write(BuildReport(builds=tuple(_built(directory, plan, role) for role in ROLES)), directory / "build.json")
    write_bytes(b"g++ -O3 -c csrc/cpu/quantize.cpp\n", directory / "logs" / "build-candidate-cpu.log")
    write_bytes(b"launch 0: 32 cells\n", directory / "logs" / "worker-0.log")


def _built(directory: Path, plan: Plan, role: str) -> Built:
    changed = plan.state not in ("clean", "first_night") and role == CANDIDATE
    path = directory / "builds" / ("9f2c41d07e" if changed else "51aa07c3d2")
    if plan.device == "cuda":
        write_bytes(_resources(44 if changed else 40).encode(), path / "resources-cuda.txt")
    libraries = tuple(_library(plan, backend, changed) for backend in (*plan.backends, *plan.inspected))
    commit = SUSPECT if changed else BASE
    return Built(role=role, commit=commit.sha, path=str(path), libraries=libraries, seconds=21.4, cached=not changed)


def _resources(registers: int) -> str:
    """What `ptxas -v` prints of two kernels, of which one differs between builds."""
    kernels = {"_Z9per_tokenI13__nv_bfloat16Li4EEvv": registers, "_Z9per_groupI13__nv_bfloat16Li128EEvv": 32}
    return "".join(
        f"ptxas info    : Compiling entry function '{name}' for 'sm_90'\n"
        "    0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads\n"
        f"ptxas info    : Used {count} registers, used 1 barriers, 1024 bytes smem\n"
        for name, count in kernels.items()
    )


def _library(plan: Plan, backend: str, changed: bool) -> BuiltLibrary:
    if changed and backend == plan.victim and plan.state == "not_built":
        return BuiltLibrary(backend=backend, ok=False, error=BUILD_ERROR, log=f"{BUILD_ERROR}\n  118 | return <x>;\n")
    moved = changed and backend != "torch"
    return BuiltLibrary(backend=backend, ok=True, identity=("c0ffee" if moved else "5eaf00d") + f"-{backend}")


def _check_report(plan: Plan, random: np.random.Generator) -> CheckReport:
    cases = {(cell.backend, cell.case.id): cell for cell in plan.cells}
    return CheckReport(
        results=tuple(
            _check(plan, backend, case, role, cell.id in plan.failed and role == CANDIDATE, random)
            for role in ROLES
            for (backend, case), cell in cases.items()
        )
    )


def _check(plan: Plan, backend: str, case: str, role: str, failed: bool, random: np.random.Generator) -> CheckResult:
    if failed and plan.state == "not_built":
        return CheckResult(role=role, backend=backend, case=case, status=CheckStatus.MISSING, detail="not built")
    if failed:
        status, detail = FAILURES[plan.state]
        wrong = {"differing_share": 0.008, "largest_code_step": 3, "scale_error": 0.0} if plan.state == "wrong" else {}
        return CheckResult(role=role, backend=backend, case=case, status=status, detail=detail, **wrong)
    share = float(np.round(random.uniform(0, 0.004), 5)) if backend == "torch" else 0.0
    return CheckResult(
        role=role,
        backend=backend,
        case=case,
        status=CheckStatus.OK,
        differing_share=share,
        largest_code_step=1 if share else 0,
        saturated_share=0.0003,
        scale_error=6e-8 if share else 0.0,
    )


def _seconds(plan: Plan, cell: Cell) -> float:
    """What a call of the baseline takes: a fixed cost, and the bytes over the bandwidth of the backend."""
    bandwidth, fixed = (4.0e12, 1.7e-6) if plan.device == "cuda" else (6.0e9, 1.2e-6)
    slower = (1.15 if cell.regime == "cold" else 1.0) * SLOWER.get(cell.backend, {}).get(cell.case.scheme.name, 1.0)
    return slower * (fixed * (2 if cell.case.scheme.name == "per-tensor" else 1) + cell.case.bytes_moved / bandwidth)


def _samples(plan: Plan, random: np.random.Generator) -> pd.DataFrame:
    """Raw samples in the columns of `records.SAMPLE_COLUMNS`: every cell, launch, quad and position."""
    timed = [cell for cell in plan.cells if cell.id not in plan.failed]
    shape = (plan.launches, len(timed), plan.quads, 4)
    base = np.log([_seconds(plan, cell) for cell in timed])[None, :, None, None]
    planted = np.array([plan.planted.get(cell.id, 0.0) for cell in timed])[None, :, None, None]
    sway = np.array([_noise(plan, cell) for cell in timed])
    launch = (random.normal(0, 1, shape[:2]) * sway)[..., None, None]
    order = np.array([[0, 1, 1, 0], [1, 0, 0, 1]])[np.arange(plan.quads) % 2]  # ABBA, BAAB
    is_candidate = np.broadcast_to(order[None, None], shape)
    log_seconds = base + is_candidate * (planted + launch) + np.abs(random.normal(0, 2 * plan.noise, shape))
    index = np.indices(shape).reshape(4, -1)
    return pd.DataFrame(
        {
            "launch": index[0],
            "cell": np.array([cell.id for cell in timed], dtype=object)[index[1]],
            "quad": index[2],
            "position": index[3],
            "role": np.where(is_candidate.ravel() == 1, CANDIDATE, BASELINE),
            "calls": 40,
            "seconds": np.exp(log_seconds).ravel(),
            "phase": "screen",
        }
    )


def _write_times(directory: Path, plan: Plan, samples: pd.DataFrame) -> None:
    folder = directory / "samples" / "0"
    folder.mkdir(parents=True, exist_ok=True)
    for launch, rows in samples.groupby("launch"):
        rows.to_parquet(folder / f"{launch}.parquet", index=False)
    write(_timing_report(plan), directory / "time-0.json")


def _timing_report(plan: Plan) -> TimingReport:
    throttled = ("sw_power_cap", "hw_thermal") if plan.state == "invalid" else ()
    states = tuple(
        DeviceState(
            when=when,
            launch=launch,
            clock_mhz=(1410.0 if throttled else 1980.0) if plan.device == "cuda" else None,
            temperature_c=88.0 if throttled else 41.0 + launch,
            power_w=310.0,
            throttle=throttled,
            load=1.2,
        )
        for launch in range(plan.launches)
        for when in ("before", "after")
    )
    failures = ()
    if plan.state == "crashed":
        failed = min(plan.failed)
        died = LaunchFailure(launch=0, cell=failed, status="crashed", detail=FAILURES["crashed"][1])
        failures = (died, died.model_copy(update={"launch": 1}))
    return TimingReport(shard=0, launches=plan.launches, failures=failures, states=states, seconds=218.0)


# ---- verdicts -----------------------------------------------------------------------------------------------


def _verdicts(directory: Path, plan: Plan, samples: pd.DataFrame) -> Verdicts:
    """What the project's own judge makes of the records and samples written so far."""
    return judge(
        read(Prepared, directory / "prepare.json"),
        read(BuildReport, directory / "build.json"),
        read(CheckReport, directory / "check.json"),
        [_timing_report(plan)],
        samples,
        VerdictSettings(),
    )
