"""What the stop rule of a night spends: `is_clear` and `is_precise` of `timing.plan`, for all cells at once."""

from __future__ import annotations

import numpy as np
import pandas as pd
from scipy.special import stdtrit

from ..config import TimingSettings
from ..timing.plan import CONFIDENCE


def screened(effects: pd.DataFrame, margin: float, timing: TimingSettings) -> pd.DataFrame:
    """`effects` (launches x cells) without the screening launches that a night would not have made: NaN there."""
    return _spent(effects, margin, timing.screen_precision, timing.screen_least, within=True)


def confirmed(effects: pd.DataFrame, margin: float, timing: TimingSettings) -> pd.DataFrame:
    """`effects` (launches x cells) without the confirming launches that a night would not have made: NaN there."""
    return _spent(effects, margin, timing.confirm_precision, timing.confirm_least, within=False)


def _spent(effects: pd.DataFrame, margin: float, share: float, least: int, within: bool) -> pd.DataFrame:
    """within: stop only where the whole interval lies within the margin."""
    values = effects.to_numpy(dtype=float, copy=True)
    going = np.ones(values.shape[1], dtype=bool)
    for count in range(max(least, 2), len(values)):
        past = values[:count, going]
        half = stdtrit(count - 1, (1 + CONFIDENCE) / 2) * past.std(axis=0, ddof=1) / count**0.5
        stops = half < share * margin
        if within:
            stops &= np.abs(past.mean(axis=0)) + half < margin
        going[np.flatnonzero(going)[stops]] = False
        values[count:, ~going] = np.nan
    return pd.DataFrame(values, columns=effects.columns)
