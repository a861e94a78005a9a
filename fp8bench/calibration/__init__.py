"""The pipeline measures itself: how often it cries wolf, what it catches, from launches that were really made.

    sources     stored launches in which both arms run the same code: effects without a cause
    resample    nights drawn from such launches, and put through the screen and the decisions of real nights
    curve       what those nights come to: the operating characteristic
    planted     nights in which something was really slowed down
    text        all of it for people

A resampled night is drawn launch by launch, with replacement: cells that were timed in one launch stay together, and
what launches are like, heavy tails and two levels included, is what they were like on the machine.
"""

from __future__ import annotations

from ..calibrated import Calibration, Characteristic, Planted
from .curve import Plan, characterise
from .planted import look_at
from .sources import Source, read_sources
from .text import markdown

__all__ = [
    "Calibration",
    "Characteristic",
    "Plan",
    "Planted",
    "Source",
    "characterise",
    "look_at",
    "markdown",
    "read_sources",
]
