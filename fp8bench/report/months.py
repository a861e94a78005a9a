"""Months of nights: a week a row, a square a night."""

from __future__ import annotations

from calendar import Calendar
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date

from .nights import Entry

WEEKDAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")


@dataclass(frozen=True)
class Day:
    number: int  # 0: of another month
    nights: tuple[Entry, ...]


@dataclass(frozen=True)
class Month:
    title: str
    weeks: tuple[tuple[Day, ...], ...]


def build(entries: Sequence[Entry]) -> tuple[Month, ...]:
    """The months that hold a night, newest first."""
    by_day: dict[date, list[Entry]] = {}
    for entry in sorted(entries, key=lambda entry: entry.created):
        by_day.setdefault(entry.created.date(), []).append(entry)
    held = sorted({(day.year, day.month) for day in by_day}, reverse=True)
    return tuple(_month(year, month, by_day) for year, month in held)


def _month(year: int, month: int, by_day: dict[date, list[Entry]]) -> Month:
    weeks = Calendar().monthdayscalendar(year, month)
    return Month(
        f"{date(year, month, 1):%B} {year}",
        tuple(tuple(_day(year, month, number, by_day) for number in week) for week in weeks),
    )


def _day(year: int, month: int, number: int, by_day: dict[date, list[Entry]]) -> Day:
    return Day(number, tuple(by_day.get(date(year, month, number), ())) if number else ())
