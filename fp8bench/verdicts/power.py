"""The smallest effect that a night would have caught."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

from scipy.special import stdtrit

from .. import stats
from ..config import TimingSettings, VerdictSettings

_beyond = lru_cache(maxsize=None)(stats.detectable)


@dataclass(frozen=True)
class Power:
    """What the tests of a night can see of a cell or family that moves alone.

    confirms: whether what is screened is confirmed; else the screening launches decide.
    hypotheses: how many are tested together; the false discovery rate leaves one that moves alone its share only.
    """

    settings: VerdictSettings
    timing: TimingSettings
    margin: float
    hypotheses: int
    confirms: bool = True

    def detectable(self, deviation: float) -> float:
        """Effect (log-ratio) that is caught with the power of the settings, where launches deviate so much."""
        required = max(self.margin, self.settings.margin_spread * deviation)
        return required + _beyond(self._tests(deviation), self.settings.power) * deviation

    def _tests(self, deviation: float) -> tuple[tuple[int, float], ...]:
        alone = self.settings.alpha / max(self.hypotheses, 1)
        if not self.confirms:
            return ((self.timing.launches, alone),)
        return ((self.timing.launches, self.settings.screen_alpha), (self._confirming(deviation), alone))

    def _confirming(self, deviation: float) -> int:
        """Launches after which the stop rule ends the confirmation of a cell that deviates so much."""
        for count in range(self.timing.confirm_least, self.timing.confirm_launches):
            half = float(stdtrit(count - 1, (1 + self.settings.confidence) / 2)) * deviation / count**0.5
            if half < self.timing.confirm_precision * self.margin:
                return count
        return self.timing.confirm_launches
