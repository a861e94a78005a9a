"""What every launch measured of the worst cells, as a PNG for mails and MLflow: mail clients show no SVG.

Drawn at twice its size for sharp screens. Everything that it says stands in the text beside it too.
"""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from dataclasses import dataclass

from PIL import Image, ImageDraw, ImageFont

from .. import wording
from ..records import Effect

WIDTH, ROW, TOP, FOOT = 620, 46, 8, 30  # of the picture, its rows and its edges, in pixels of a mail
LEFT, RIGHT = 16, 604
SCALE = 2
INK, SOFT, LINE, BAD, PALE = "#1b2430", "#566273", "#d7dce3", "#a3320b", "#e3a184"


@dataclass(frozen=True)
class Row:
    """A cell: its name, its effect and what single launches measured (log-ratios)."""

    name: str
    effect: Effect
    launches: tuple[float, ...]


def draw(rows: Sequence[Row], margin: float) -> bytes:
    """A PNG: a row a cell, dots for launches, a bar for the interval, lines for no change and for the margin."""
    values = [value for row in rows for value in (*row.launches, row.effect.lower, row.effect.upper)]
    axis = _Axis(min([-margin, *values]), max([2 * margin, *values]))
    height = TOP + ROW * len(rows) + FOOT
    image = Image.new("RGB", (WIDTH * SCALE, height * SCALE), "white")
    pen = _Pen(ImageDraw.Draw(image))
    _draw_axis(pen, axis, height)
    for place, row in enumerate(rows):
        _draw_row(pen, axis, row, TOP + ROW * place, margin)
    out = io.BytesIO()
    image.quantize(64).save(out, "PNG", optimize=True)
    return out.getvalue()


@dataclass(frozen=True)
class _Axis:
    low: float
    high: float

    def x(self, value: float) -> float:
        return LEFT + (RIGHT - LEFT) * (value - self.low) / ((self.high - self.low) or 1.0)


class _Pen:
    """Lines, dots and words in the mail's pixels."""

    def __init__(self, canvas: ImageDraw.ImageDraw) -> None:
        self._canvas = canvas

    def line(self, x0: float, y0: float, x1: float, y1: float, colour: str, width: float = 1) -> None:
        points = [(x0 * SCALE, y0 * SCALE), (x1 * SCALE, y1 * SCALE)]
        self._canvas.line(points, fill=colour, width=round(width * SCALE))

    def dashes(self, x: float, y0: float, y1: float, colour: str, length: float) -> None:
        steps = int((y1 - y0) / (2 * length))
        for step in range(steps):
            start = y0 + 2 * step * length
            self.line(x, start, x, start + length, colour)

    def dot(self, x: float, y: float, radius: float, colour: str) -> None:
        box = [(x - radius) * SCALE, (y - radius) * SCALE, (x + radius) * SCALE, (y + radius) * SCALE]
        self._canvas.ellipse(box, fill=colour)

    def words(self, x: float, y: float, text: str, colour: str, size: float = 12, anchor: str = "la") -> None:
        font = ImageFont.load_default(size * SCALE)
        self._canvas.text((x * SCALE, y * SCALE), text, fill=colour, font=font, anchor=anchor)


def _draw_axis(pen: _Pen, axis: _Axis, height: int) -> None:
    bottom = height - FOOT + 4
    pen.line(LEFT, bottom, RIGHT, bottom, LINE)
    step = _step(axis)
    value = math.ceil(100 * math.expm1(axis.low) / step) * step
    while value <= 100 * math.expm1(axis.high):
        x = axis.x(math.log1p(value / 100))
        pen.line(x, bottom, x, bottom + 4, SOFT)
        pen.words(x, bottom + 6, f"{value:+.{_digits(step)}f}%" if round(value, 6) else "0", SOFT, 11, "ma")
        value += step


def _step(axis: _Axis) -> float:
    """Percent between two ticks: about six of them, at 1, 2 or 5 times a power of ten."""
    rough = 100 * (math.expm1(axis.high) - math.expm1(axis.low)) / 6
    power: float = 10.0 ** math.floor(math.log10(rough))
    return next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough)


def _digits(step: float) -> int:
    return max(0, -math.floor(math.log10(step)))


def _draw_row(pen: _Pen, axis: _Axis, row: Row, top: float, margin: float) -> None:
    pen.words(LEFT, top, row.name, INK)
    pen.words(RIGHT, top, f"{wording.percent(row.effect.value)} {wording.interval(row.effect)}", INK, anchor="ra")
    middle = top + 30
    pen.dashes(axis.x(0.0), middle - 12, middle + 13, SOFT, 4)
    pen.dashes(axis.x(margin), middle - 12, middle + 13, SOFT, 2)
    for value in row.launches:
        pen.dot(axis.x(value), middle, 3.5, PALE)
    pen.line(axis.x(row.effect.lower), middle, axis.x(row.effect.upper), middle, BAD, 2.5)
    pen.dot(axis.x(row.effect.value), middle, 4.5, BAD)
