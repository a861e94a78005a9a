"""Decisions of the clocks as plain arithmetic: numbers in, decision out. Tested without a device."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import fmean

ROTATION_FACTOR = 3  # cold buffer sets cover this many times the last-level cache


def calls_per_block(seconds_per_call: float, block_s: float, lowest: int, highest: int) -> int:
    """How many calls make a block last about `block_s`, within [lowest, highest]."""
    if seconds_per_call <= 0:  # below the clock's resolution
        return highest
    return min(max(round(block_s / seconds_per_call), lowest), highest)


def sets_needed(bytes_per_set: int, cache_bytes: int, highest: int) -> int:
    """How many buffer sets a cold measurement rotates over.

    Enough that a set has left the cache when its turn comes again, or `highest`: then no set may be used twice
    between two flushes (see `calls_cold`).
    """
    return min(max(math.ceil(ROTATION_FACTOR * cache_bytes / max(bytes_per_set, 1)), 2), highest)


def calls_cold(calls: int, sets: int, highest: int) -> int:
    """Calls of a cold block: no more than sets where the sets are too few to outlive the cache."""
    return min(calls, sets) if sets >= highest else calls


def palindromes(arms: int, rounds: int) -> list[tuple[int, int, int]]:
    """(round, position, arm) of every block: each round runs the arms forth and back, every second one reversed.

    Two arms give the quads A B B A, B A A B, ...: a linear drift cancels within a quad and a cost of being first
    over two.
    """
    forth = list(range(arms))
    order = []
    for number in range(rounds):
        half = forth if number % 2 == 0 else forth[::-1]
        order += [(number, position, arm) for position, arm in enumerate(half + half[::-1])]
    return order


def by_difference(with_call: Sequence[tuple[int, float]], without: Sequence[tuple[int, float]]) -> list[float]:
    """What a call adds, by round: the mean time of the blocks with it less that of those without it.

    Blocks are (round, seconds) in any order. A drift cancels in a round that is a palindrome.
    """
    rounds = sorted({number for number, _ in with_call})
    return [_mean_of(with_call, number) - _mean_of(without, number) for number in rounds]


def _mean_of(blocks: Sequence[tuple[int, float]], number: int) -> float:
    return fmean(seconds for which, seconds in blocks if which == number)
