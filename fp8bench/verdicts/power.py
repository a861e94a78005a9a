"""The smallest effect that a night would have caught."""

from __future__ import annotations

from dataclasses import dataclass

from .. import stats
from ..config import VerdictSettings


@dataclass(frozen=True)
class Power:
    """What tonight's tests can see: beyond the margin, so many standard deviations of a launch."""

    margin: float
    spread: float  # the margin of a cell is at least so many of its deviations
    deviations: float

    def detectable(self, deviation: float) -> float:
        """Effect (log-ratio) that is caught with the power of the settings, where launches deviate so much."""
        return max(self.margin, self.spread * deviation) + self.deviations * deviation


def tonight(settings: VerdictSettings, margin: float, launches: int, confirmed: int, hypotheses: int) -> Power:
    """Power for a cell that moves alone.

    launches: of the screen; confirmed: of the confirmation, 0 where there is none and the screening launches decide.
    hypotheses: how many are tested together tonight: the false discovery rate leaves one that moves alone its
    share of the error only.
    """
    alone = settings.alpha / max(hypotheses, 1)
    tests = [(launches, settings.screen_alpha), (confirmed, alone)] if confirmed else [(launches, alone)]
    return Power(margin, settings.margin_spread, stats.detectable(tests, settings.power))
