"""Whether the machine can be believed tonight."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence

import numpy as np
import pandas as pd

from .. import stats, wording
from ..backends import YARDSTICKS
from ..records import ArmResult, TimingReport, Verdict
from ..screening import suspicious
from .decisions import is_significant, shown
from .evidence import BROKEN, Evidence, backend_of

_CHOSEN_CLOCKS = {"applications_clocks", "sync_boost"}  # steady, and so better for measuring than any other


def why_invalid(night: Evidence, arm: pd.DataFrame, judged: Collection[str]) -> str:
    """Why the machine cannot be believed tonight, or "".

    arm: effects of the A/A arm, launches x cells. judged: ids of the cells that launches say something of.
    """
    reasons = (
        _throttled(night),
        _dropped(night),
        _untimed(night, judged),
        _incomparable(night),
        _moved_controls(night),
        _moved_arm(night, arm),
    )
    return next((reason for reason in reasons if reason), "")


def invalidated(verdict: Verdict, reason: str = "") -> dict[str, object]:
    """The change that an invalid night makes to a verdict that rests on timing."""
    if verdict not in (Verdict.REGRESSED, Verdict.IMPROVED, Verdict.OK, Verdict.UNRESOLVED):
        return {}
    return {"verdict": Verdict.INVALID} | ({"reason": f"{reason}; alone it says {verdict}"} if reason else {})


def throttled_share(timed: Sequence[TimingReport]) -> float:
    """Share of launches before or after which the device held its clocks down unasked."""
    states = [(index, state) for index, report in enumerate(timed) for state in report.states]
    throttled = {(index, state.launch) for index, state in states if set(state.throttle or ()) - _CHOSEN_CLOCKS}
    launches = sum(report.launches for report in timed)
    return len(throttled) / launches if launches else 0.0


def arm_result(arm: pd.DataFrame, night: Evidence) -> ArmResult | None:
    """What the rules of tonight make of the A/A arm, where every alarm is false; None where there was none."""
    if arm.empty:
        return None
    settings, margin = night.settings, night.margin
    found = stats.estimates(arm, margin, settings.confidence, spread=settings.margin_spread)
    accused = is_significant(list(found["p_slower"]), settings.alpha)
    means = arm.mean()
    return ArmResult(
        cells=len(means),
        launches=len(arm),
        screened=len(suspicious(found, settings.screen_alpha)),
        alarms=sum(accused),
        largest=float(means.abs().max()),
        value=float(means.mean()),
    )


def _throttled(night: Evidence) -> str:
    share, where = _worst(night, throttled_share)
    said = f"the device was throttled in {share:.0%} of the launches{where}"
    return said if share > night.settings.max_throttled_share else ""


def _dropped(night: Evidence) -> str:
    share, where = _worst(night, _dropped_share)
    said = f"{share:.0%} of the blocks were disturbed and dropped{where}"
    return said if share > night.settings.max_dropped_share else ""


def _dropped_share(timed: Sequence[TimingReport]) -> float:
    quads = sum(report.quads for report in timed)
    return sum(report.dropped for report in timed) / quads if quads else 0.0


def _worst(night: Evidence, share_of: Callable[[Sequence[TimingReport]], float]) -> tuple[float, str]:
    """The largest share of a shard by itself, and which: still GPUs must not hide it, as its cells are its own."""
    shards: dict[int, list[TimingReport]] = {}
    for report in night.timed:
        shards.setdefault(report.shard, []).append(report)
    found = [(share_of(reports), f" of shard {shard}" if len(shards) > 1 else "") for shard, reports in shards.items()]
    return max(found, default=(0.0, ""))


def _untimed(night: Evidence, judged: Collection[str]) -> str:
    """Each backend counts by itself: one that is there must not hide one that is not."""
    for backend in night.backends:
        mine = [cell for cell, settled in night.settled.items() if settled is None and backend_of(cell) == backend]
        expected = [cell for cell in mine if cell not in night.controls] or mine
        measured = sum(cell in judged for cell in expected)
        if backend not in YARDSTICKS and measured < night.settings.min_timed_share * len(expected):
            return f"only {measured} of {len(expected)} cells of {wording.title(backend)} could be timed"
    return ""


def _incomparable(night: Evidence) -> str:
    """Where nothing that was expected could be compared with anything."""
    settled = [found for cell, found in night.settled.items() if backend_of(cell) not in YARDSTICKS]
    reasons = [found[1] for found in settled if found and found[0] is Verdict.MISSING]
    told = any(found is None or found[0] in BROKEN for found in settled)
    return f"nothing could be compared: {reasons[0]}" if reasons and not told else ""


def _moved_controls(night: Evidence) -> str:
    """Controls run the same machine code twice: when they move together, the machine cannot be believed."""
    effects = night.launches.screening
    for backend in night.backends:
        if backend in YARDSTICKS:  # may run other machine code in each build
            continue
        controls = [cell for cell in effects if backend_of(str(cell)) == backend and cell in night.controls]
        if moved := _moved(night, effects[controls].to_numpy(dtype=float).ravel()):
            name = wording.title(backend)
            return f"the controls of {name} moved by {moved} although their machine code is the same"
    return ""


def _moved_arm(night: Evidence, arm: pd.DataFrame) -> str:
    moved = _moved(night, arm.to_numpy(dtype=float).ravel())
    return f"the baseline moved by {moved} against itself" if moved else ""


def _moved(night: Evidence, effects: Iterable[float]) -> str:
    """How far cells moved together, or "". Few launches time each, so each cell and launch counts as a replicate."""
    moved = stats.estimate(np.asarray(effects), night.margin, night.settings.confidence)
    if moved and moved.launches > 2 and min(moved.p_slower, moved.p_faster) < night.settings.alpha:
        return wording.effect_text(shown(moved))
    return ""
