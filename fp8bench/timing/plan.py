"""Decisions of the clocks as plain arithmetic: numbers in, decision out. Tested without a device."""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from statistics import fmean, median, stdev
from typing import NamedTuple

ROTATION_FACTOR = 3  # cold buffer sets cover this many times the last-level cache
CONFIDENCE = 0.95  # of the interval that a stop rule looks at
# Two blocks of one arm in one quad are milliseconds apart. Apart by more than this, and by more than so many times what
# is usual for the cell, and something else happened to one of them.
LEAST_DISAGREEMENT = 0.01
UNUSUAL = 6.0


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


def in_series(order: Sequence[tuple[int, int, int]], series: int) -> list[tuple[int, int, int]]:
    """The places of `order` so many times, quads numbered on."""
    each = quads(order)
    return [(quad + number * each, position, arm) for number in range(series) for quad, position, arm in order]


def quads(order: Sequence[tuple[int, int, int]]) -> int:
    """How many quads `order` has."""
    return 1 + max(quad for quad, _, _ in order)


def standard_error(order: Sequence[tuple[int, int, int]], seconds: Sequence[float], executables: int) -> float:
    """Standard error of the mean effect (log-ratio) of arm 1 over arm 0, from how far executables differ.

    order: of one series. seconds: of the blocks of one series or several, `executables` each. Infinite with one.
    """
    each, logs = quads(order), (math.log(max(value, sys.float_info.min)) for value in seconds)
    found: dict[int, tuple[list[float], list[float]]] = {}
    for (quad, _, arm), value in zip(in_series(order, len(seconds) // len(order)), logs, strict=True):
        found.setdefault(quad * executables // each, ([], []))[arm].append(value)
    effects = [fmean(candidate) - fmean(baseline) for baseline, candidate in found.values()]
    return stdev(effects) / math.sqrt(len(effects)) if len(effects) > 1 else math.inf


def replays(
    order: Sequence[tuple[int, int, int]], arms: int, executables: int, rounds: int
) -> tuple[list[int], list[int]]:
    """Which graph each replay takes: of the warm-up (so many rounds in all), and of the blocks of `order`.

    Graphs are numbered executable by executable, arms within them. Neighbouring quads share one, and each
    serves as many quads as another, give or take one.
    """
    every = quads(order)
    blocks = [quad * executables // every * arms + arm for quad, _, arm in order]
    return list(range(executables * arms)) * max(1, math.ceil(rounds / executables)), blocks


def by_difference(with_call: Sequence[tuple[int, float]], without: Sequence[tuple[int, float]]) -> list[float]:
    """What a call adds, by round: the mean time of the blocks with it less that of those without it.

    Blocks are (round, seconds) in any order. A drift cancels in a round that is a palindrome.
    """
    rounds = sorted({number for number, _ in with_call})
    return [_mean_of(with_call, number) - _mean_of(without, number) for number in rounds]


def spin_cycles(share: float, short_s: float, long_s: float, short: int, long: int) -> int:
    """Cycles to spin for at the end of a block so that it takes `share` longer than one that spins for `short`.

    short_s, long_s: seconds of the block when it spins for `short` and for `long` cycles. ValueError where spinning
    for longer did not take longer: nothing can be planted with such a clock.
    """
    if long_s <= short_s:
        raise ValueError(
            f"a block that spins for {long} cycles took {long_s:g} s, and for {short} cycles {short_s:g} s"
        )
    return short + round(share * short_s * (long - short) / (long_s - short_s))


def _mean_of(blocks: Sequence[tuple[int, float]], number: int) -> float:
    return fmean(seconds for which, seconds in blocks if which == number)


# ---- from blocks to effects ---------------------------------------------------------------------------------


class Timed(NamedTuple):
    """What the plan looks at of a timed block."""

    quad: int
    arm: int  # 0 baseline, 1 candidate
    seconds: float  # a call


def _by_quad(blocks: Sequence[Timed]) -> dict[int, tuple[list[float], list[float]]]:
    """Logarithms of the times of both arms, by quad."""
    quads: dict[int, tuple[list[float], list[float]]] = {}
    for block in blocks:
        quads.setdefault(block.quad, ([], []))[block.arm].append(math.log(block.seconds))
    return quads


def disturbed(blocks: Sequence[Timed]) -> dict[int, int]:
    """The quads of a cell and launch whose blocks of one arm disagree with each other far more than is usual for it.

    Returns quad -> that arm. The arms are not compared with each other, so an effect is no reason to drop anything.
    But a build that is slow now and then loses those quads in which it is: whoever judges counts them by arm.
    """
    spreads = {quad: [max(arm) - min(arm) if arm else 0.0 for arm in arms] for quad, arms in _by_quad(blocks).items()}
    bound = max(LEAST_DISAGREEMENT, UNUSUAL * median(map(max, spreads.values()))) if spreads else 0.0
    return {quad: int(apart[1] > apart[0]) for quad, apart in spreads.items() if max(apart) > bound}


def effect(blocks: Sequence[Timed]) -> float | None:
    """log(candidate / baseline) of a cell in one launch: the mean over its middle quads; None without a whole one.

    The same as `fp8bench.stats.launch_effects` finds in the stored samples.
    """
    quads = [fmean(arms[1]) - fmean(arms[0]) for arms in _by_quad(blocks).values() if len(arms[0]) == len(arms[1]) == 2]
    cut = math.ceil(len(quads) / 10) if len(quads) >= 3 else 0
    return fmean(sorted(quads)[cut : len(quads) - cut]) if quads else None


# ---- when to stop -------------------------------------------------------------------------------------------


class Interval(NamedTuple):
    """Mean of launches and half the width of its interval, as log-ratios."""

    mean: float
    half: float


def interval(effects: Sequence[float], confidence: float = CONFIDENCE) -> Interval | None:
    """Student t interval of the mean effect over launches; None below two of them."""
    from scipy.special import stdtrit  # a process that asks for no interval does not wait for it

    count = len(effects)
    if count < 2:
        return None
    mean = fmean(effects)
    deviation = math.sqrt(sum((value - mean) ** 2 for value in effects) / (count - 1))
    return Interval(mean, float(stdtrit(count - 1, (1 + confidence) / 2)) * deviation / math.sqrt(count))


def is_precise(effects: Sequence[float], margin: float, share: float, least: int) -> bool:
    """Whether half the width of the interval over launches is below `share` of the margin, after `least` launches.

    Precision is the one reason to stop: the half-width says nothing about where the mean lies. Whoever stops as soon
    as an effect looks large, or looks small, gives chance one more try with every launch, and reports too many
    effects, or too few.
    """
    found = interval(effects) if len(effects) >= least else None
    return found is not None and found.half < share * margin


def is_clear(effects: Sequence[float], margin: float, share: float, least: int) -> bool:
    """Whether a screened cell needs no more launches: precise, and the whole interval within the margin, either side.

    What is precise but not within the margin goes on, however clear it looks: it will be confirmed, and launches
    that were taken because of what the earlier ones said must not be mixed with these.
    """
    found = interval(effects)
    return (
        is_precise(effects, margin, share, least)
        and found is not None
        and -margin < found.mean - found.half
        and found.mean + found.half < margin
    )
