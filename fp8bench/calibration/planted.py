"""Nights in which something was really slowed down: what was accused, and how often it would be."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from .. import stats, verdicts
from ..config import VerdictSettings
from ..errors import UsageError
from ..records import Document, FamilyVerdict, Record, Verdict
from ..rundir import RunDir
from ..screening import family_of
from ..verdicts.evidence import Evidence
from .curve import Characteristic, Plan, Rate, rate
from .resample import Pool, Rules, nights

LEAST = 4  # launches to draw from
SHOWN = 0.01  # of the drawn nights accuse a family: it is told


class Accused(Record):
    """A family that a planted night accuses."""

    family: str  # backend/family/regime
    effect: float | None  # of its geometric mean (log-ratio)
    cells: int  # accused ones
    of: int
    caught: Rate  # of nights drawn from its launches


class Planted(Record):
    """`--planted DIR`"""

    run_id: str
    launches: int  # that stand behind it
    verdict: Verdict  # of the night itself, judged by tonight's rules
    accused: tuple[Accused, ...]  # by the night itself or in some of the drawn ones


class Calibration(Document):
    """`calibration.json`"""

    characteristic: Characteristic
    planted: tuple[Planted, ...] = ()


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
    found = [_accused(family, accused, caught, plan.moved_nights) for family in judged.families]
    told = tuple(entry for entry in found if entry.cells or entry.caught.rate > SHOWN)
    return Planted(run_id=prepared.run_id, launches=len(effects), verdict=judged.verdict, accused=told)


def _drawn(pool: Pool, settings: VerdictSettings, plan: Plan, device: str) -> Counter[str]:
    """How many of the drawn nights accuse each family."""
    rules = Rules(settings, settings.margin(device), plan.timing)
    drawn = nights(pool, rules, plan.moved_nights, plan.seed + 3)
    return Counter(family for outcome in drawn for family in outcome.accused)


def _accused(family: FamilyVerdict, accused: Counter[str], caught: Counter[str], of: int) -> Accused:
    name = f"{family.backend}/{family.family}/{family.regime}"
    effect = family.effect.value if family.effect else None
    return Accused(family=name, effect=effect, cells=accused[name], of=family.cells, caught=rate(caught[name], of))
