"""A calibration for people, in Markdown."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence

from ..calibrated import Characteristic, FalseAlarms, Middle, Planted
from ..records import Rate
from .curve import ENOUGH


def markdown(found: Characteristic, planted: Sequence[Planted] = ()) -> str:
    """All tables of `calibration.md`."""
    return (
        "\n".join(
            [
                *_head(found),
                *_alarms(found),
                *_detectable(found),
                *_power(found),
                *_spending(found),
                *_coverage(found),
                *_planted(planted),
            ]
        )
        + "\n"
    )


def _head(found: Characteristic) -> Iterator[str]:
    plan = found.plan
    yield "# Calibration"
    yield ""
    on = found.device_name or found.device
    when = f", {found.measured}" if found.measured else ""
    yield (
        f"{found.launches} launches of {found.measured_cells} cells in which nothing changed "
        f"({', '.join(found.sources)}) on {on}{when}, drawn with replacement into nights of "
        f"{plan['cells']:.0f} cells: {plan['screening_launches']:.0f} launches screen, "
        f"{plan['confirming_launches']:.0f} confirm, and the rules "
        f"of real nights judge. Seed {plan['seed']:.0f}."
    )
    yield ""
    for place, (middle, high) in found.deviation.items():
        yield (
            f"- {place}: the effect of a launch deviates by {_percent(middle)} (median cell), {_percent(high)} (90th "
            f"percentile); a cell's own mean is off zero by {_percent(found.bias[place][0])} (median), "
            f"{_percent(found.bias[place][1])} (worst)"
        )
    yield ""
    yield _proposal(found)
    yield ""


def _proposal(found: Characteristic) -> str:
    limit = f"a mail without a cause in fewer than 1 of {1 / ENOUGH:.0f} nights, with 95% confidence"
    if found.proposed_margin is None:
        return f"No margin that was tried gives {limit}: resample more nights, or look for what sways."
    key = "margin_cuda" if found.device == "cuda" else "margin_cpu"
    setting = f"`verdicts.{key} = {found.proposed_margin:.3g}`"
    return f"Proposed margin: **{_percent(found.proposed_margin)}**, the smallest tried with {limit}: {setting}."


def _alarms(found: Characteristic) -> Iterator[str]:
    yield "## Nights without a change"
    yield ""
    yield f"The margin of a cell is at least {found.margin_spread:g} deviations of its launches."
    yield ""
    rows = (
        [
            _margin(entry, found),
            _rate(entry.mails),
            _percent(entry.mails.upper),
            f"{entry.screened:.1f}",
        ]
        for entry in found.alarms
    )
    yield from _table(["margin", "nights with a mail", "95% bound", "cells confirmed a night"], rows)


def _margin(entry: FalseAlarms, found: Characteristic) -> str:
    return _percent(entry.margin) + (" (set)" if entry.margin == found.margin else "")


def _detectable(found: Characteristic) -> Iterator[str]:
    yield "## Smallest detectable effects"
    yield ""
    yield "Of a cell that moves alone, with 80% power: the median cell / the 90th percentile, by margin."
    yield ""
    rows = ([place, *(_middle(entry.mde[place]) for entry in found.alarms)] for place in found.deviation)
    yield from _table(["cells", *(_margin(entry, found) for entry in found.alarms)], rows)


def _middle(values: Middle) -> str:
    return f"{_percent(values[0])} / {_percent(values[1])}"


def _power(found: Characteristic) -> Iterator[str]:
    yield f"## One family slower, margin {_percent(found.margin)}"
    yield ""
    rows = (
        [
            f"{entry.effect:+.1%}",
            _rate(entry.caught),
            _rate(entry.family),
            f"{entry.cells:.0%}",
            _rate(entry.others),
        ]
        for entry in found.power
    )
    yield from _table(["effect", "nights caught", "by its geometric mean", "of its cells", "another accused"], rows)
    if found.power and len(found.power[0].backends) > 1:
        yield from _by_backend(found)


def _by_backend(found: Characteristic) -> Iterator[str]:
    rows = (
        [f"{entry.effect:+.1%}", name, _rate(of.caught), _rate(of.family), f"{of.cells:.0%}"]
        for entry in found.power
        for name, of in entry.backends.items()
    )
    heads = ["effect", "one family of", "nights caught", "by its geometric mean", "of its cells"]
    yield from _table(heads, rows)


def _spending(found: Characteristic) -> Iterator[str]:
    yield f"## What launches buy, margin {_percent(found.margin)}"
    yield ""
    yield "Launches of single cells, in a night without a change: a cell that is known precisely enough gets no more."
    yield ""
    rows = (
        [
            "with the stop rule" if entry.stops else "always all",
            f"{entry.launches:,.0f}",
            _rate(entry.mails),
            _rate(entry.caught),
            f"{entry.cells:.0%}",
        ]
        for entry in found.spending
    )
    effect = f"{found.spending[0].effect:+.1%}"
    heads = ["launches", "a night", "nights with a mail", f"one family at {effect} caught", "of its cells"]
    yield from _table(heads, rows)


def _coverage(found: Characteristic) -> Iterator[str]:
    yield "## Intervals (nominal 95%)"
    yield ""
    rows = (
        [entry.place, str(entry.launches), str(entry.intervals), f"{entry.of_mean:.1%}", f"{entry.of_zero:.1%}"]
        for entry in found.coverage
    )
    yield from _table(["cells", "launches", "intervals", "hold the cell's mean", "hold zero"], rows)


def _planted(planted: Sequence[Planted]) -> Iterator[str]:
    if not planted:
        return
    yield "## Planted nights"
    yield ""
    rows = (
        [
            night.run_id,
            str(night.launches),
            night.verdict.value,
            entry.family,
            "" if entry.planted is None else f"{entry.planted:+.2%}",
            "" if entry.effect is None else f"{math.expm1(entry.effect):+.2%}",
            entry.verdict.value,
            f"{entry.cells} of {entry.of}",
            _rate(entry.caught),
        ]
        for night in planted
        for entry in night.accused
    )
    heads = ["night", "launches", "verdict", "family", "planted", "its mean", "its verdict", "cells accused"]
    heads += ["drawn nights that accuse it"]
    yield from _table(heads, rows)


def _table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> Iterator[str]:
    yield f"| {' | '.join(heads)} |"
    yield f"|{'---|' * len(heads)}"
    for row in rows:
        yield f"| {' | '.join(row)} |"
    yield ""


def _rate(entry: Rate) -> str:
    return f"{entry.count} of {entry.of}"


def _percent(value: float) -> str:
    return f"{100 * value:.2f}%"
