"""Starts workers, bounds them in time and survives their death.

A worker runs code that nobody has looked at. When it crashes or hangs, the item in progress is reported as what
happened to it, and a fresh worker goes on with the rest.
"""

from .checking import check_builds
from .launches import time_cells
from .planning import equal_backends

__all__ = ["check_builds", "equal_backends", "time_cells"]
