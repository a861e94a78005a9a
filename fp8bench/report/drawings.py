"""Places in the small drawings of an accused cell: its launches, and its last nights. In user units of the SVG."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import pairwise

from .. import wording
from ..history import Trend
from ..records import Effect
from .recent import Point

WIDTH, PAD = 220.0, 8.0  # of the launches of a cell
NIGHTS_WIDTH, NIGHTS_HEIGHT, NIGHTS_PAD = 170.0, 44.0, 6.0  # of its last nights


@dataclass(frozen=True)
class Scale:
    """From log-ratios to places along an axis."""

    low: float
    high: float
    start: float
    end: float

    def at(self, value: float) -> float:
        share = (value - self.low) / ((self.high - self.low) or 1.0)
        return round(self.start + share * (self.end - self.start), 1)


@dataclass(frozen=True)
class Bar:
    """An effect with its interval, its launches and the margin."""

    lower: float
    value: float
    upper: float
    zero: float
    margin: float
    launches: tuple[tuple[float, float], ...]  # x, y
    summary: str  # for those who do not see it


@dataclass(frozen=True)
class Dot:
    x: float
    y: float
    low: float
    high: float
    hint: str
    tonight: bool


@dataclass(frozen=True)
class Moved:
    """Where another baseline was accepted, or where a level changed."""

    x: float
    hint: str


@dataclass(frozen=True)
class Nights:
    dots: tuple[Dot, ...]
    moved: tuple[Moved, ...]
    steps: tuple[Moved, ...]  # change points
    zero: float
    margin: float
    summary: str


def scale_of(effects: Iterable[Effect | None], launches: Iterable[Sequence[float]], margin: float) -> Scale:
    """The range that a cause's drawings share: zero and the margin are always in it."""
    present = [effect for effect in effects if effect]
    single = [value for values in launches for value in values]
    low = min([-margin, *single, *(effect.lower for effect in present)])
    high = max([2 * margin, *single, *(effect.upper for effect in present)])
    return Scale(low, high, PAD, WIDTH - PAD)


def bar(effect: Effect, launches: Sequence[float], margin: float, scale: Scale) -> Bar:
    """Launches lie above the interval, in the order in which they ran, so that a drift shows as a slope."""
    step = 12 / max(1, len(launches) - 1)
    dots = tuple((scale.at(value), round(4 + place * step, 1)) for place, value in enumerate(launches))
    single = f"; launches {', '.join(wording.percent(value) for value in launches)}" if launches else ""
    return Bar(
        scale.at(effect.lower),
        scale.at(effect.value),
        scale.at(effect.upper),
        scale.at(0.0),
        scale.at(margin),
        dots,
        f"{wording.effect_text(effect)}, margin {wording.percent(margin).lstrip('+')}{single}",
    )


def nights(points: Sequence[Point], margin: float, trends: Sequence[Trend] = ()) -> Nights | None:
    """The effect of a cell over its last nights; None where there is nothing before tonight.

    trends: steps and creep of the cell, of which those that begin in these nights are marked.
    """
    measured = [point.found.effect for point in points if point.found and point.found.effect]
    if len(measured) < 2:
        return None
    low = min([-margin, *(effect.lower for effect in measured)])
    high = max([2 * margin, *(effect.upper for effect in measured)])
    up = Scale(low, high, NIGHTS_HEIGHT - NIGHTS_PAD, NIGHTS_PAD)
    along = Scale(0, len(points) - 1, NIGHTS_PAD, NIGHTS_WIDTH - NIGHTS_PAD)
    dots = [_dot(point, along.at(place), up, place == len(points) - 1) for place, point in enumerate(points)]
    told = "; ".join(_in_words(point) for point in points if point.found)
    return Nights(
        tuple(dot for dot in dots if dot),
        _moves(points, along),
        _steps(points, along, trends),
        up.at(0.0),
        up.at(margin),
        f"By night: {told}",
    )


def _dot(point: Point, x: float, up: Scale, tonight: bool) -> Dot | None:
    effect = point.found.effect if point.found else None
    if effect is None or not math.isfinite(effect.value):
        return None
    return Dot(x, up.at(effect.value), up.at(effect.lower), up.at(effect.upper), _in_words(point), tonight)


def _in_words(point: Point) -> str:
    assert point.found is not None
    return f"{point.created:%Y-%m-%d} {wording.effect_text(point.found.effect)}"


def _moves(points: Sequence[Point], along: Scale) -> tuple[Moved, ...]:
    found = []
    for place, (before, after) in enumerate(pairwise(points)):
        if before.baseline != after.baseline:
            x = (along.at(place) + along.at(place + 1)) / 2
            found.append(Moved(round(x, 1), f"{after.created:%Y-%m-%d}: baseline {after.baseline[:9]}"))
    return tuple(found)


def _steps(points: Sequence[Point], along: Scale, trends: Sequence[Trend]) -> tuple[Moved, ...]:
    places = {point.created: along.at(place) for place, point in enumerate(points)}
    words = {"step": "a step of", "creep": "a creep of"}
    return tuple(
        Moved(places[trend.since], f"{words[trend.kind]} {wording.percent(trend.change)} since {trend.since:%Y-%m-%d}")
        for trend in trends
        if isinstance(trend.since, datetime) and trend.since in places
    )
