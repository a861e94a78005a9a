"""What launches alone say: significance, magnitude, direction, and the one place that puts them together.

A timed cell is judged by three functions that know nothing of each other: `is_significant` (could chance alone have
done it?), `is_relevant` (is it large enough to matter?) and `direction` (slower or faster?). Only `change` puts them
together. `decide` applies them to a night: what the screen cleared is judged by the screening launches, what it did
not is judged by the confirming launches alone, so a night's luck in the screen cannot accuse anybody.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

import pandas as pd

from .. import stats
from ..config import VerdictSettings
from ..records import Effect, Phase, Screened, Verdict
from ..screening import families_of, in_order, whole

_Group = Callable[[pd.DataFrame], list[str]] | None
_LOUDNESS = {verdict: rank for rank, verdict in enumerate(Verdict)}


def is_significant(p_values: Sequence[float], rate: float) -> list[bool]:
    """Significance: which of a night's one-sided p values stand, at the false discovery rate `rate`."""
    return stats.benjamini_hochberg(p_values, rate)


def is_relevant(value: float, margin: float) -> bool:
    """Magnitude: whether the effect itself exceeds the margin."""
    return abs(value) > margin


def direction(value: float) -> Literal[-1, 0, 1]:
    """Direction: 1 slower, -1 faster, 0 neither."""
    return 1 if value > 0 else -1 if value < 0 else 0


def change(
    effect: Effect | stats.Estimate,
    significant: bool,
    margin: float,
    required: float | None = None,
    excluded: float | None = None,
) -> Verdict:
    """REGRESSED or IMPROVED when significant and relevant, OK when surely not much slower, else UNRESOLVED.

    margin: the machine's. required: the margin of this very cell, where its launches sway. excluded: what an OK's
    interval must lie below, while the effect itself is below `margin`. Both are `margin` unless given.
    """
    if significant and is_relevant(effect.value, margin if required is None else required):
        return Verdict.REGRESSED if direction(effect.value) > 0 else Verdict.IMPROVED
    clear = effect.value <= margin and effect.upper <= (margin if excluded is None else excluded)
    return Verdict.OK if clear else Verdict.UNRESOLVED


def loudest(verdicts: Iterable[Verdict]) -> Verdict:
    """The verdict that must be told first; MISSING of none."""
    return min(verdicts, key=_LOUDNESS.__getitem__, default=Verdict.MISSING)


# ---- a night ------------------------------------------------------------------------------------------------


class Decision(NamedTuple):
    """What launches say of a cell or a family."""

    verdict: Verdict
    estimate: stats.Estimate
    phase: Phase
    reason: str = ""

    @property
    def effect(self) -> Effect:
        """The estimate as it is recorded."""
        return shown(self.estimate)


@dataclass(frozen=True)
class Launches:
    """Effects of a night's launches: log-ratios, launches in rows, cell ids in columns, NaN where there is none."""

    screening: pd.DataFrame
    confirming: pd.DataFrame = field(default_factory=pd.DataFrame)
    controls: frozenset[str] = frozenset()  # cells that cannot have changed, and are never accused


@dataclass(frozen=True)
class Decisions:
    """By cell id and by family (backend/family/regime); what lacks launches is not among them."""

    cells: dict[str, Decision]
    families: dict[str, Decision]


def decide(launches: Launches, screened: Screened | None, settings: VerdictSettings, margin: float) -> Decisions:
    """Judge every cell and family that was timed. The order of rows and columns does not matter.

    screened: what the screen let through; None when there was no screen, and the screening launches decide alone.
    """
    controls, least = launches.controls, settings.min_launches
    first = in_order(whole(launches.screening, controls, least))
    second = in_order(whole(launches.confirming, controls, least))
    of_cells, of_families = (screened.cells, screened.families) if screened else (None, None)
    rule = _Rule(settings, margin)
    return Decisions(
        rule.decide(first, second, None, of_cells) | rule.excuse(launches.screening, controls, None),
        rule.decide(first, second, families_of, of_families) | rule.excuse(launches.screening, controls, families_of),
    )


@dataclass(frozen=True)
class _Rule:
    """The test of a night, the same for cells and families. `group` names the family of each column; None: cells."""

    settings: VerdictSettings
    margin: float

    def estimates(
        self,
        table: pd.DataFrame,
        group: _Group,
        earlier: pd.DataFrame | None = None,
        weights: pd.Series[float] | None = None,
    ) -> pd.DataFrame:
        groups = group(table) if group else None
        spread = self.settings.margin_spread
        return stats.estimates(table, self.margin, self.settings.confidence, groups, spread, earlier, weights)

    def decide(
        self, first: pd.DataFrame, second: pd.DataFrame, group: _Group, chosen: Collection[str] | None
    ) -> dict[str, Decision]:
        # How much each cell counts is said by the screening launches: those that confirm must not choose it.
        weights = stats.steadiness(first, group(first)) if group else None
        found = self.estimates(first, group, None, weights)
        if chosen is None:
            return self._tested(found, "screen", len(found))
        names = set(chosen)
        confirmed = self.estimates(second, group, found, weights)
        confirmed = confirmed[confirmed.index.isin(names)]
        cleared = found[~found.index.isin(names)]
        short = found[found.index.isin(names - set(confirmed.index))]
        return {
            **self._decisions(cleared, "screen", [False] * len(cleared)),
            **{name: _unconfirmed(entry) for name, entry in self._tested(short, "screen", len(short)).items()},
            **self._tested(confirmed, "confirm", len(names)),
        }

    def excuse(self, table: pd.DataFrame, controls: Collection[str], group: _Group) -> dict[str, Decision]:
        """Controls, which two launches are enough for. A family that has other cells too is judged by those."""
        if not controls:
            return {}
        mine = table.loc[:, [cell in controls for cell in table.columns]]
        found = self.estimates(mine, group)
        if group:
            others = set(group(table.loc[:, [cell not in controls for cell in table.columns]]))
            found = found[~found.index.isin(others)]
        decisions = self._decisions(found, "screen", [False] * len(found))
        return {name: entry._replace(verdict=Verdict.CONTROL) for name, entry in decisions.items()}

    def _tested(self, found: pd.DataFrame, phase: Phase, hypotheses: int) -> dict[str, Decision]:
        """Slower and faster are two questions. Hypotheses that could not be tested count, and stand for nothing."""
        untested = [1.0] * (hypotheses - len(found))
        sides = (is_significant([*found[side], *untested], self.settings.alpha) for side in ("p_slower", "p_faster"))
        return self._decisions(found, phase, [up or down for up, down in zip(*sides, strict=True)][: len(found)])

    def _decisions(self, found: pd.DataFrame, phase: Phase, significant: Sequence[bool]) -> dict[str, Decision]:
        excluded = self.settings.resolution * self.margin
        verdicts = zip(stats.as_estimates(found).items(), significant, strict=True)
        return {
            name: Decision(change(entry, stands, self.margin, entry.margin, excluded), entry, phase)
            for (name, entry), stands in verdicts
        }


def shown(estimate: stats.Estimate) -> Effect:
    """An estimate as it is recorded."""
    return Effect(
        value=estimate.value,
        lower=estimate.lower,
        upper=estimate.upper,
        p_value=estimate.p_slower if estimate.value >= 0 else estimate.p_faster,
        launches=estimate.launches,
    )


def _unconfirmed(entry: Decision) -> Decision:
    reason = "the screening launches could not clear it, and too few launches confirmed it"
    return entry._replace(verdict=Verdict.UNRESOLVED, reason=reason)
