"""Many nights: slow creep and steps that no single night shows. Informs, and never pages.

    anchored       every night's effect against one frozen build, from run directories
    change_points  where a series of nights steps
    trends         what in it is a step, what is creep, and what is neither

Looked at is the paired effect of each night, never raw times: machine, driver and clocks are in both of its arms.
"""

from __future__ import annotations

from .anchored import anchored_effects
from .trends import Trend, find_trends

__all__ = ["Trend", "anchored_effects", "find_trends"]
