"""Nights in which something was really slowed down: what was accused, and how often it would be."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from .. import planting, stats, verdicts
from ..calibrated import Accused, Planted
from ..config import VerdictSettings
from ..errors import UsageError
from ..records import FamilyVerdict, Prepared, Verdict
from ..rundir import RunDir
from ..screening import family_of
from ..verdicts.evidence import Evidence
from .curve import Plan, rate
from .resample import Pool, Rules, nights

LEAST = 4  # launches to draw from
SHOWN = 0.01  # of the drawn nights accuse a family: it is told


def look_at(path: Path, settings: VerdictSettings, plan: Plan) -> Planted:
    """Judge a planted night again, and draw `plan.moved_nights` nights from its launches.

    Few launches stand behind the drawn nights, and each is drawn several times: they look alike, and the share of
    nights is an estimate of the power at this effect, not a bound on it.
    """
    run = RunDir(path)
    prepared, samples = run.prepared(), run.raw_samples()
    screened = run.screened() if run.screen.is_file() else None
    records = (prepared, run.built(), run.checked(), run.timed())
    judged = verdicts.judge(*records, samples, settings, screened)
    effects = stats.launch_effects(samples[samples["phase"] != "aa"])
    controls = Evidence(*records, samples, settings, screened).controls
    tested = effects[[cell for cell in effects if cell not in controls]].dropna(axis=1, thresh=LEAST)
    if tested.empty:
        raise UsageError(
            f"{path} has no cell that changed and was timed in {LEAST} launches: nothing was planted there."
        )
    caught = _drawn(Pool.of(tested, 1), settings, plan, prepared.environment.device)
    accused = Counter(family_of(cell.cell) for cell in judged.cells if cell.verdict is Verdict.REGRESSED)
    shares = _shares(prepared)
    found = [_accused(family, shares, accused, caught, plan.moved_nights) for family in judged.families]
    told = tuple(entry for entry in found if entry.planted or entry.cells or _is_told(entry))
    return Planted(run_id=prepared.run_id, launches=len(effects), verdict=judged.verdict, accused=told)


def _drawn(pool: Pool, settings: VerdictSettings, plan: Plan, device: str) -> Counter[str]:
    """How many of the drawn nights accuse each family."""
    rules = Rules(settings, settings.margin(device), plan.timing)
    drawn = nights(pool, rules, plan.moved_nights, plan.seed + 3)
    return Counter(family for outcome in drawn for family in outcome.accused)


def _is_told(entry: Accused) -> bool:
    return entry.verdict is Verdict.REGRESSED or entry.caught.rate > SHOWN


def _shares(prepared: Prepared) -> dict[str, float]:
    """The largest share that is planted in a cell of each family; nothing of a family that the plan does not name."""
    found: dict[str, float] = {}
    for cell in prepared.cells:
        if (share := planting.share_of(prepared.planted, cell)) is not None:
            found[family_of(cell)] = max(share, found.get(family_of(cell), 0.0))
    return found


def _accused(
    family: FamilyVerdict, shares: dict[str, float], accused: Counter[str], caught: Counter[str], of: int
) -> Accused:
    name = f"{family.backend}/{family.family}/{family.regime}"
    return Accused(
        family=name,
        planted=shares.get(name),
        effect=family.effect.value if family.effect else None,
        verdict=family.verdict,
        cells=accused[name],
        of=family.cells,
        caught=rate(caught[name], of),
    )
