"""The effect of every launch of single cells: the dots behind an interval."""

from __future__ import annotations

from collections.abc import Collection

import pandas as pd

from .. import stats
from ..errors import RunDirError
from ..night import Night
from ..rundir import RunDir


def effects(night: Night, cells: Collection[str]) -> dict[str, tuple[float, ...]]:
    """Log-ratios by cell, one a launch, of the launches that the verdict rests on; {} where no samples are left."""
    if not cells or not (night.run_dir / "samples").is_dir():
        return {}
    try:
        samples = RunDir(night.run_dir).raw_samples()
    except RunDirError:
        return {}  # a verdict outlives its samples
    table = stats.launch_effects(_judged(samples[samples["cell"].isin(list(cells))]))
    return {str(cell): tuple(float(value) for value in table[cell].dropna()) for cell in table.columns}


def _judged(samples: pd.DataFrame) -> pd.DataFrame:
    """Confirming launches where a cell has them, else screening ones; never the A/A arm."""
    if "phase" not in samples:
        return samples
    confirmed = set(samples.loc[samples["phase"] == "confirm", "cell"])
    wanted = samples["cell"].isin(list(confirmed)).map({True: "confirm", False: "screen"})
    return samples[samples["phase"] == wanted]
