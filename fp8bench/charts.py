"""The numbers of a night that are charted in MLflow, and its table of cells.

Metric prefixes sort what matters first:

    00_summary/...                     counts of verdicts, geometric means
    01_geomean_us/<family>/<regime>    02_ratio_vs_baseline/...   04_speedup_over_torch/...
    03_regressed_cells/<cell>          ratio of the offenders only
    05_geomean_over_floor/<family>/<regime>   06_geomean_memory_share/...   where a floor was measured
    10_candidate_us/<cell> ...         every charted metric of every cell
    20_curve_us/<family>/<regime>      time over size (step: elements), 21_curve_gbps likewise
"""

from __future__ import annotations

from collections.abc import Iterator
from statistics import median
from typing import Any

import pandas as pd

from . import metrics
from .metrics import CellFacts
from .night import Night
from .records import FamilyVerdict, Verdict


def points(night: Night, backend: str) -> Iterator[tuple[str, float, int]]:
    """(key, value, step) of everything that is charted, in the order in which it should be seen."""
    mine = night.of(backend)
    for key, value in (*_summary(night, backend), *_by_family(night, backend), *_by_cell(mine)):
        if value is not None:
            yield key, value, 0
    for key, value, step in _curves(mine):
        if value is not None:
            yield key, value, step


def cell_table(facts: list[CellFacts]) -> pd.DataFrame:
    """One row a cell: its coordinates, verdict, effect with interval, and every metric of the table."""
    return pd.DataFrame([_row(entry) for entry in facts])


def _row(facts: CellFacts) -> dict[str, Any]:
    case, effect = facts.cell.case, facts.verdict.effect
    return {
        "cell": facts.cell.id,
        "backend": facts.cell.backend,
        "scheme": case.scheme.name,
        "dtype": case.dtype,
        "tokens": case.tokens,
        "hidden": case.hidden,
        "regime": facts.cell.regime,
        "verdict": facts.verdict.verdict.value,
        "effect": effect and effect.value,
        "lower": effect and effect.lower,
        "upper": effect and effect.upper,
        "p_value": effect and effect.p_value,
        **{metric.name: metric.compute(facts) for metric in metrics.METRICS},
        "reason": facts.verdict.reason,
    }


def _summary(night: Night, backend: str) -> Iterator[tuple[str, float | None]]:
    verdict = next(entry for entry in night.verdicts.backends if entry.backend == backend)
    counts = verdict.counts
    failed = sum(counts.get(kind, 0) for kind in (Verdict.WRONG, Verdict.CRASHED, Verdict.NOT_BUILT))
    mine = night.of(backend)
    yield "00_summary/cells_regressed", counts.get(Verdict.REGRESSED, 0)
    yield "00_summary/cells_failed", failed
    yield "00_summary/cells_improved", counts.get(Verdict.IMPROVED, 0)
    yield "00_summary/cells_unresolved", counts.get(Verdict.UNRESOLVED, 0)
    yield "00_summary/cells_measured", sum(facts.verdict.effect is not None for facts in mine)
    yield "00_summary/cells_expected", len(mine)
    for name in ("candidate_us", "ratio_vs_baseline", "speedup_over_torch", "over_floor"):
        yield f"00_summary/geomean_{name}", metrics.geomean(metrics.metric(name).compute(facts) for facts in mine)
    caught = [facts.verdict.mde for facts in mine if facts.verdict.mde]
    yield "00_summary/median_detectable_effect", median(caught) if caught else None
    for place, effect in night.verdicts.mde.items():
        if place.startswith(f"{backend}/"):
            yield f"00_summary/median_detectable_effect_{place.partition('/')[2]}", effect
    if arm := night.verdicts.arm:
        yield "00_summary/aa_false_alarms", arm.alarms
        yield "00_summary/aa_cells", arm.cells
    if found := night.verdicts.calibrated:
        yield "00_summary/calibrated_false_mails", found.mails.rate
        yield "00_summary/calibrated_false_mails_bound", found.mails.upper
        for entry in found.caught:
            yield f"00_summary/calibrated_caught_at_{1000 * entry.effect:g}_per_mille", entry.caught.rate
    differing = metrics.metric("differing_share").compute
    yield "00_summary/largest_differing_share", metrics.worst(differing(facts) for facts in mine)


_FAMILY_MEANS = {  # prefix -> metric
    "01_geomean_us": "candidate_us",
    "02_ratio_vs_baseline": "ratio_vs_baseline",
    "05_geomean_over_floor": "over_floor",
    "06_geomean_memory_share": "memory_share",
}


def _by_family(night: Night, backend: str) -> Iterator[tuple[str, float | None]]:
    families: list[FamilyVerdict] = [entry for entry in night.verdicts.families if entry.backend == backend]
    for prefix, name in _FAMILY_MEANS.items():
        compute = metrics.metric(name).compute
        for family in families:
            mine = [facts for facts in night.of(backend) if _belongs(facts, family)]
            yield f"{prefix}/{family.family}/{family.regime}", metrics.geomean(compute(facts) for facts in mine)
    for facts in night.of(backend):
        if facts.verdict.verdict is Verdict.REGRESSED:
            yield f"03_regressed_cells/{_path(facts)}", metrics.metric("ratio_vs_baseline").compute(facts)
    for speedup in night.verdicts.speedups:
        if speedup.backend == backend:
            yield f"04_speedup_over_torch/{speedup.family}/{speedup.regime}", speedup.candidate


def _belongs(facts: CellFacts, family: FamilyVerdict) -> bool:
    return facts.cell.case.family == family.family and facts.cell.regime == family.regime


def _path(facts: CellFacts) -> str:
    """The cell's id without its backend, which the run already names."""
    return facts.cell.id.partition("/")[2]


def _by_cell(mine: list[CellFacts]) -> Iterator[tuple[str, float | None]]:
    for metric in metrics.METRICS:
        if metric.charted:
            for facts in mine:
                yield cell_key(metric.name, _path(facts)), metric.compute(facts)


def cell_key(metric: str, path: str) -> str:
    """Where a cell's metric is charted; path: its id without the backend."""
    return f"10_{metric}/{path}"


def _curves(mine: list[CellFacts]) -> Iterator[tuple[str, float | None, int]]:
    """Time and bandwidth over size: sizes with equally many elements are one point, their geometric mean."""
    points: dict[tuple[str, str, int], list[CellFacts]] = {}
    for facts in mine:
        case = facts.cell.case
        points.setdefault((case.family, facts.cell.regime, case.tokens * case.hidden), []).append(facts)
    for prefix, name in (("20_curve_us", "candidate_us"), ("21_curve_gbps", "bandwidth_gbps")):
        compute = metrics.metric(name).compute
        for (family, regime, elements), cells in sorted(points.items()):
            yield f"{prefix}/{family}/{regime}", metrics.geomean(compute(facts) for facts in cells), elements
