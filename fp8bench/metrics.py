"""The table of metrics: name, unit, direction, format and how to compute it from what a night recorded.

Store and report iterate over `METRICS`: to add a metric is to add a row. A metric that is not defined for a
cell is None there, never 0.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from statistics import geometric_mean
from typing import Literal

from .backends import FLOOR, REFERENCE, YARDSTICKS, yardstick_case
from .records import CellVerdict, CheckReport, CheckResult, Verdicts
from .spec import CANDIDATE, Case, Cell

# Peak bandwidth of a GPU's memory in GB/s, as its data sheet has it, by the name that the driver gives.
MEMORY_GBPS = {
    "NVIDIA H200": 4800.0,
    "NVIDIA H100 80GB HBM3": 3350.0,
    "NVIDIA H100 PCIe": 2000.0,
    "NVIDIA A100-SXM4-80GB": 2039.0,
    "NVIDIA A100-SXM4-40GB": 1555.0,
    "NVIDIA B200": 8000.0,
    "NVIDIA L40S": 864.0,
    "NVIDIA L4": 300.0,
}


@dataclass(frozen=True)
class CellFacts:
    """All that a night knows of one cell."""

    cell: Cell
    verdict: CellVerdict
    check: CheckResult | None = None  # of the candidate
    reference_us: float | None = None  # the reference backend's candidate build on the same case and regime
    floor_us: float | None = None  # the floor's, on the same size, dtype and regime
    memory_gbps: float | None = None  # what the device's memory can do; None where nobody knows


@dataclass(frozen=True)
class Metric:
    """One row of the table. `charted` metrics are logged for every cell, the others stand in tables only."""

    name: str
    kind: Literal["time", "numerics"]
    title: str
    unit: str
    better: Literal["lower", "higher", "neither"]
    pattern: str
    compute: Callable[[CellFacts], float | None]
    charted: bool = False

    def show(self, value: float | None) -> str:
        if value is None:
            return "–"
        return self.pattern.format(value) if value else "0"


def _ratio(facts: CellFacts) -> float | None:
    effect = facts.verdict.effect
    return math.exp(effect.value) if effect else None


def _speedup(facts: CellFacts) -> float | None:
    if facts.cell.backend not in (REFERENCE, *YARDSTICKS) and facts.reference_us and facts.verdict.candidate_us:
        return facts.reference_us / facts.verdict.candidate_us
    return None


def _bandwidth(facts: CellFacts) -> float | None:
    microseconds = facts.verdict.candidate_us
    return facts.cell.case.bytes_moved / microseconds / 1e3 if microseconds else None


def over_floor(microseconds: float | None, floor_us: float | None) -> float | None:
    """How many times the floor a call takes."""
    return microseconds / floor_us if microseconds and floor_us else None


def memory_share(case: Case, regime: str, microseconds: float | None, memory_gbps: float | None) -> float | None:
    """Share of the memory's peak bandwidth that a call reaches; defined for cold caches, as hot ones serve it."""
    if regime != "cold" or not microseconds or not memory_gbps:
        return None
    return case.bytes_moved / microseconds / 1e3 / memory_gbps


def _over_floor(facts: CellFacts) -> float | None:
    if facts.cell.backend in YARDSTICKS:
        return None
    return over_floor(facts.verdict.candidate_us, facts.floor_us)


def _memory_share(facts: CellFacts) -> float | None:
    return memory_share(facts.cell.case, facts.cell.regime, facts.verdict.candidate_us, facts.memory_gbps)


def _as_share(field: str) -> Callable[[CellFacts], float | None]:
    """A log-ratio of the verdict as ratio - 1, as effects are shown."""

    def share(facts: CellFacts) -> float | None:
        value = getattr(facts.verdict, field)
        return None if value is None else math.expm1(value)

    return share


def _checked(field: str) -> Callable[[CellFacts], float | None]:
    return lambda facts: None if facts.check is None else getattr(facts.check, field)


METRICS = (
    Metric(
        "candidate_us",
        "time",
        "Candidate",
        "µs",
        "lower",
        "{:.4g}",
        lambda facts: facts.verdict.candidate_us,
        charted=True,
    ),
    Metric("baseline_us", "time", "Baseline", "µs", "lower", "{:.4g}", lambda facts: facts.verdict.baseline_us),
    Metric("ratio_vs_baseline", "time", "Ratio", "×", "lower", "{:.4f}", _ratio, charted=True),
    Metric("speedup_over_torch", "time", "Speedup over Torch", "×", "higher", "{:.2f}", _speedup),
    Metric("over_floor", "time", "Over the floor", "×", "lower", "{:.3f}", _over_floor, charted=True),
    Metric("memory_share", "time", "Of memory bandwidth", "", "higher", "{:.1%}", _memory_share),
    Metric("bandwidth_gbps", "time", "Bandwidth", "GB/s", "higher", "{:.4g}", _bandwidth),
    Metric("margin", "time", "Margin", "", "neither", "{:.2%}", _as_share("margin")),
    Metric("mde", "time", "Smallest caught", "", "lower", "{:.2%}", _as_share("mde")),
    Metric("spread", "time", "Spread", "", "lower", "{:.2%}", lambda facts: facts.verdict.spread),
    Metric("differing_share", "numerics", "Differing codes", "", "lower", "{:.2%}", _checked("differing_share")),
    Metric("largest_code_step", "numerics", "Largest step", "codes", "lower", "{:.0f}", _checked("largest_code_step")),
    Metric("saturated_share", "numerics", "Saturated", "", "neither", "{:.2%}", _checked("saturated_share")),
    Metric("scale_error", "numerics", "Scale error", "", "lower", "{:.1e}", _checked("scale_error")),
)
NAMES = tuple(metric.name for metric in METRICS)


def metric(name: str) -> Metric:
    return METRICS[NAMES.index(name)]


def facts(verdicts: Verdicts, checks: CheckReport | None, device_name: str = "") -> list[CellFacts]:
    """What is known of each cell, in the order of the verdicts. device_name: as the driver gives it."""
    checked = {(result.backend, result.case): result for result in _of_candidate(checks)}
    times = {verdict.cell: verdict.candidate_us for verdict in verdicts.cells}
    found = []
    for verdict in verdicts.cells:
        cell = Cell.parse(verdict.cell)
        reference = Cell(REFERENCE, cell.case, cell.regime).id
        floor = Cell(FLOOR, yardstick_case(cell.case), cell.regime).id
        check = checked.get((cell.backend, cell.case.id))
        beside = (times.get(reference), times.get(floor), MEMORY_GBPS.get(device_name))
        found.append(CellFacts(cell, verdict, check, *beside))
    return found


def _of_candidate(checks: CheckReport | None) -> list[CheckResult]:
    return [result for result in checks.results if result.role == CANDIDATE] if checks else []


def geomean(values: Iterable[float | None]) -> float | None:
    """Geometric mean of the values that are there; None when there is none."""
    present = [value for value in values if value]
    return geometric_mean(present) if present else None


def worst(values: Iterable[float | None]) -> float | None:
    """The largest of the values that are there; None when there is none."""
    return max((value for value in values if value is not None), default=None)
