"""The trust strip: what a reader must know before believing the rest."""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import median

from .. import wording
from ..backends import YARDSTICKS
from ..night import Night
from ..records import DeviceState, Environment, Rate, Verdict
from . import recent
from .tones import Tone

WANTED = 0.95  # of calibrated nights: the smallest effect that so many of them catch is told first
CHANGES = 3  # of the environment, told in a tile
EXPECTED = 0.05  # share of controls whose whole interval chance alone may carry beyond the margin


@dataclass(frozen=True)
class Tile:
    label: str
    value: str
    note: str = ""
    tone: Tone = "calm"


@dataclass(frozen=True)
class Trust:
    tiles: tuple[Tile, ...]


def build(night: Night) -> Trust:
    found = (_arm(night), _false_mails(night), _detectable(night), _caught(night), _since_baseline(night))
    always = (_cells(night), _controls(night), _precision(night), _launches(night), _machine(night), _clocks(night))
    return Trust((*always, *(tile for tile in found if tile)))


def _arm(night: Night) -> Tile | None:
    """Alarms where there can be none; None where the night had no A/A arm."""
    arm = night.verdicts.arm
    if arm is None or not arm.cells:
        return None
    note = (
        f"the baseline against itself, {wording.count(arm.launches, 'launch')}; largest {wording.percent(arm.largest)}"
    )
    return Tile("False alarms of the A/A arm", f"{arm.alarms} of {arm.cells}", note, "warn" if arm.alarms else "calm")


def _detectable(night: Night) -> Tile | None:
    """The smallest effect that tonight would have been caught; None where nobody computed it."""
    found = [facts.verdict.mde for facts in night.facts if facts.verdict.mde and facts.verdict.effect]
    if not found:
        return None
    middle, worst = (wording.percent(value).lstrip("+") for value in (median(found), max(found)))
    places = [
        f"{place.replace('/', ' ')} {wording.percent(mde).lstrip('+')}" for place, mde in night.verdicts.mde.items()
    ]
    each = f" ({', '.join(places)})" if len(places) > 1 else ""
    return Tile("Smallest effect caught", middle, f"with 80% power, median cell{each}; {worst} in the worst")


def _false_mails(night: Night) -> Tile | None:
    """How often such nights send a mail without a cause; None where nobody has calibrated."""
    found = night.verdicts.calibrated
    if found is None:
        return None
    where = wording.short_device(found.device_name) if found.device_name else "an unknown device"
    of = wording.count(found.launches, "launch")
    behind = f"{of} of {wording.count(found.cells, 'cell')} on {where}{', ' * bool(found.measured)}{found.measured}"
    bound = f"calibrated: below 1 in {1 / found.mails.upper:.0f} with 95% confidence"
    note = f"{bound}; {behind}" + "".join(f"; but {doubt}" for doubt in found.doubts)
    return Tile("Nights with a false mail", _rate(found.mails), note, "warn" if found.doubts else "calm")


def _caught(night: Night) -> Tile | None:
    """The power curve of a family that is slower as a whole."""
    found = night.verdicts.calibrated
    if found is None or not found.caught:
        return None
    middle = next((entry for entry in found.caught if entry.caught.rate >= WANTED), found.caught[-1])
    curve = ", ".join(f"{entry.effect:+.1%} in {entry.caught.rate:.1%}" for entry in found.caught)
    note = f"calibrated, one family slower: {curve} of nights"
    tone: Tone = "warn" if found.doubts else "calm"
    return Tile("Slower family caught", f"{middle.effect:+.1%} in {middle.caught.rate:.0%}", note, tone)


def _rate(rate: Rate) -> str:
    return f"{rate.count} of {rate.of:,}"


def _since_baseline(night: Night) -> Tile | None:
    """What is another machine, driver or version than in the night of the baseline; None where nobody knows."""
    before = recent.environment_of(night, night.prepared.baseline_run)
    if before is None:
        return None
    changed = environment_changes(before, night.prepared.environment)
    note = "; ".join(changed[:CHANGES]) + (f"; {len(changed) - CHANGES} more" if len(changed) > CHANGES else "")
    if not changed:
        return Tile("Since the baseline", "nothing changed", "machine, driver, versions")
    return Tile("Since the baseline", f"{len(changed)} changed", note, "warn")


def environment_changes(before: Environment, after: Environment) -> list[str]:
    """`driver 580.95 → 581.10`, for whatever of the machine can move a measurement."""
    named = ("host", "device_uuid", "driver", "cpu", "os")
    pairs = [(name, getattr(before, name), getattr(after, name)) for name in named]
    kinds = dict.fromkeys([*before.versions, *after.versions])
    pairs += [(name, before.versions.get(name, "none"), after.versions.get(name, "none")) for name in kinds]
    return [
        f"{name} {old or 'none'} → {new or 'none'}" for name, old, new in pairs if old != new and name != "fp8bench"
    ]


def _cells(night: Night) -> Tile:
    """Of those that the machine can time; what it does not support was never expected."""
    unsupported = sum(facts.verdict.verdict is Verdict.UNSUPPORTED for facts in night.facts)
    measured, expected = sum(facts.verdict.effect is not None for facts in night.facts), len(night.facts) - unsupported
    left_out = f"{expected - measured} without a time" if measured < expected else "none is missing"
    note = f"{left_out}; {unsupported} unsupported here" if unsupported else left_out
    return Tile("Cells measured", f"{measured} of {expected}", note, "calm" if measured == expected else "warn")


def _controls(night: Night) -> Tile:
    found = [facts for facts in night.facts if facts.cell.backend not in YARDSTICKS]
    controls = [facts.verdict for facts in found if facts.verdict.verdict is Verdict.CONTROL]
    effects = [verdict.effect for verdict in controls if verdict.effect]
    if not effects:
        return Tile("Controls", "none", "every backend changed")
    margin = night.verdicts.margin
    beyond = sum(effect.lower > margin or effect.upper < -margin for effect in effects)
    means = [abs(effect.value) for effect in effects]
    largest = wording.percent(max(means)).lstrip("+")
    note = (
        f"the same machine code twice; by their means alone {sum(mean > margin for mean in means)}, largest {largest}"
    )
    tone: Tone = "warn" if beyond > EXPECTED * len(effects) else "calm"
    return Tile("Controls beyond the margin", f"{beyond} of {len(effects)}", note, tone)


def _precision(night: Night) -> Tile:
    timed = [facts.verdict for facts in night.facts if facts.verdict.effect]
    judged = [verdict for verdict in timed if verdict.verdict is not Verdict.CONTROL] or timed
    effects = [verdict.effect for verdict in judged if verdict.effect]
    margin = f"margin {wording.percent(night.verdicts.margin).lstrip('+')}"
    if not effects:
        return Tile("Median interval", "–", margin)
    half = median((effect.upper - effect.lower) / 2 for effect in effects)
    tone: Tone = "warn" if half > night.verdicts.margin else "calm"
    confidence = f"{night.verdicts.confidence:.0%} confidence"
    of = "" if len(judged) == len(timed) else f"of {wording.count(len(judged), 'cell')} that could move, "
    return Tile("Median interval", f"± {100 * math.expm1(half):.2f}%", f"{of}{confidence}, {margin}", tone)


def _launches(night: Night) -> Tile:
    """Launches that screened every cell and, behind a plus sign, those that confirmed what was screened."""
    screening = [report for report in night.timed if report.phase == "screen"]
    confirming = [report for report in night.timed if report.phase == "confirm" and report.launches]
    failures = sum(len(report.failures) for report in night.timed)
    seconds = sum(report.seconds for report in night.timed)
    counts = [sum(report.launches for report in reports) for reports in (screening, confirming)]
    what = ["the second to confirm"] if confirming else []
    shards = [f"on {wording.count(len(screening), 'shard')}"] if len(screening) > 1 else []
    note = ", ".join([*what, *shards, f"{seconds:.0f} s", wording.count(failures, "failure"), *_dropped(night)])
    value = f"{counts[0]} + {counts[1]}" if confirming else str(counts[0])
    return Tile("Launches", value, note, "warn" if failures else "calm")


def _dropped(night: Night) -> list[str]:
    """Share of quads whose blocks disagreed with each other; nothing to say where nobody counted, or none did."""
    quads, dropped = (sum(getattr(report, name) for report in night.timed) for name in ("quads", "dropped"))
    return [f"{dropped / quads:.1%} of the quads dropped"] if quads and dropped else []


def _machine(night: Night) -> Tile:
    machine = night.prepared.environment
    driver = f"driver {machine.driver}, " if machine.driver else ""
    compilers = ("torch", "triton", "nvcc")
    versions = ", ".join(f"{name} {machine.versions[name]}" for name in compilers if name in machine.versions)
    return Tile("Machine", wording.short_device(machine.device_name), f"{driver}{versions}" or machine.host)


def _clocks(night: Night) -> Tile:
    states = [state for report in night.timed for state in report.states]
    throttle = sorted({reason for state in states for reason in state.throttle or ()})
    unseen = "" if throttle else _unseen(states)
    note = f"throttled: {', '.join(throttle)}" if throttle else unseen or "not throttled"
    alarming = throttle or (unseen and night.prepared.environment.device == "cuda")
    return Tile("Clocks", _range(states), note, "warn" if alarming else "calm")


def _unseen(states: list[DeviceState]) -> str:
    """How often nobody could look whether the clocks were held down; "" where somebody always did."""
    blind = sum(state.throttle is None for state in states)
    if blind == len(states):
        return "throttling unseen"
    return f"throttling unseen at {blind} of {wording.count(len(states), 'look')}" if blind else ""


def _range(states: list[DeviceState]) -> str:
    clocks = [state.clock_mhz for state in states if state.clock_mhz is not None]
    hottest = max((state.temperature_c for state in states if state.temperature_c is not None), default=None)
    load = max((state.load for state in states if state.load is not None), default=None)
    ends = list(dict.fromkeys(f"{clock:.0f}" for clock in (min(clocks), max(clocks)))) if clocks else []
    parts = [f"{'–'.join(ends)} MHz"] if ends else []
    parts += [f"{hottest:.0f}\N{NO-BREAK SPACE}°C"] if hottest is not None else []
    parts += [f"load {load:.1f}"] if load is not None and not clocks else []
    return ", ".join(parts) or "not readable"
