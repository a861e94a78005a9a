"""`home/calibration/calibration.json`: what `fp8bench calibrate` found, for whoever only reads it.

`of_night` picks what a night's reader needs to know: how often verdicts like tonight's are wrong, what they catch, and
every reason to doubt that this holds tonight.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from pydantic import Field

from . import records
from .config import Config, TimingSettings, VerdictSettings
from .records import Calibrated, CaughtAt, Document, Environment, Prepared, Rate, Record, Verdict

# What must be tonight as it was, or the figures may not hold; the margin stands by itself. What runs, ...
_VERSIONS = ("driver", "torch", "triton", "nvcc")
# ... by which rules the nights that were drawn were spent and judged, ...
RULES = (
    "verdicts.margin_spread",
    "verdicts.alpha",
    "verdicts.screen_alpha",
    "verdicts.min_launches",
    "timing.launches",
    "timing.screen_least",
    "timing.screen_precision",
    "timing.confirm_launches",
    "timing.confirm_least",
    "timing.confirm_precision",
)
# ... and how well the launches that they were drawn from had measured.
MEASURING = (
    "timing.quads",
    "timing.cold_factor",
    "timing.executables",
    "timing.series",
    "timing.launch_precision",
    "timing.cold_launch_precision",
    "timing.block_ms",
)
Middle = tuple[float, float]  # median and 90th percentile over cells


class FalseAlarms(Record):
    """Nights in which nothing changed, at a margin."""

    margin: float
    mails: Rate  # nights with at least one
    screened: float  # cells that went to confirmation, a night
    families: float  # that did as a whole, a night
    mde: dict[str, Middle]  # backend/regime -> smallest effect that is caught with 80% power


class Caught(Record):
    """Nights in which one family was slower."""

    effect: float  # ratio - 1
    caught: Rate  # the family was accused, by itself or by a cell
    family: Rate  # its geometric mean was
    cells: float  # share of its cells that were accused
    others: Rate  # nights in which another family was accused as well
    backends: dict[str, CaughtOf] = Field(default_factory=dict)  # the same, by the backend of the family


class CaughtOf(Record):
    """Those nights of `Caught` in which the family was one of this backend's."""

    caught: Rate
    family: Rate
    cells: float


class Spent(Record):
    """What launches buy, at the margin in the settings: with the stop rule, or always all of them."""

    stops: bool
    launches: float  # of single cells, in a night without a change
    mails: Rate  # in nights without a change
    effect: float  # ratio - 1 of the one family that is slower
    caught: Rate
    cells: float


class Coverage(Record):
    """How often the interval of so many launches holds what it should, a cell each."""

    place: str  # backend/regime
    launches: int
    intervals: int
    of_mean: float  # the mean of all stored launches of the cell
    of_zero: float  # no change: a cell whose builds lie differently in memory can have a mean of its own


class Characteristic(Record):
    """What resampled nights without a change, and with one, came to."""

    sources: tuple[str, ...]
    device: str  # cuda or cpu
    device_name: str = ""  # "": nobody said
    versions: dict[str, str] = Field(default_factory=dict)  # of compilers and drivers; several, by commas
    settings: dict[str, str] = Field(default_factory=dict)  # of `RULES` and `MEASURING`, likewise, as far as known
    measured: str = ""  # the day, or the days, of the sources
    launches: int  # stored
    measured_cells: int
    deviation: dict[str, Middle]  # of launches, by backend/regime
    bias: dict[str, Middle]  # |mean over launches|, likewise; the second is the largest
    plan: dict[str, float]
    margin: float  # in the settings
    margin_spread: float
    proposed_margin: float | None  # the smallest tried that meets the bound with all larger ones; None: none does
    alarms: tuple[FalseAlarms, ...]
    power: tuple[Caught, ...]
    spending: tuple[Spent, ...]
    coverage: tuple[Coverage, ...]

    def at_margin(self) -> FalseAlarms:
        """The nights without a change at the margin in the settings."""
        return min(self.alarms, key=lambda entry: abs(entry.margin - self.margin))


class Accused(Record):
    """A family of a planted night: one that is planted, or is accused."""

    family: str  # backend/family/regime
    planted: float | None  # share that its cells were slowed down by; 0: counts as changed; None: by a commit, or not
    effect: float | None  # of its geometric mean (log-ratio)
    verdict: Verdict  # of the family
    cells: int  # accused ones
    of: int
    caught: Rate  # of nights drawn from its launches


class Planted(Record):
    """`--planted DIR`"""

    run_id: str
    launches: int  # that stand behind it
    verdict: Verdict  # of the night itself, judged by tonight's rules
    accused: tuple[Accused, ...]


class Calibration(Document):
    """`calibration.json`"""

    characteristic: Characteristic
    planted: tuple[Planted, ...] = ()


def path_of(home: Path) -> Path:
    return home / "calibration" / "calibration.json"


def versions_of(machine: Environment) -> dict[str, str]:
    """Of compilers, libraries and the driver; "" of what it has not."""
    return machine.versions | {"driver": machine.driver}


def sections_of(verdicts: VerdictSettings, timing: TimingSettings) -> dict[str, dict[str, Any]]:
    """As in the `config.json` of a night."""
    return {"verdicts": verdicts.model_dump(), "timing": timing.model_dump()}


def settings_of(sections: Mapping[str, Mapping[str, Any]], names: Iterable[str]) -> dict[str, str]:
    """`timing.quads` -> "8" and the like: those of `names` that the settings have, by sections as in `config.json`."""
    found = {name: sections.get(name.partition(".")[0], {}).get(name.partition(".")[2]) for name in names}
    return {name: f"{value:g}" for name, value in found.items() if value is not None}


def of_night(config: Config, prepared: Prepared) -> Calibrated | None:
    """What the calibration in the home directory says about the night; None where there is none of its kind of device.

    config: that the night is measured and judged by. RunDirError when the file is damaged.
    """
    path = path_of(config.home)
    if not path.is_file():
        return None
    found = records.read(Calibration, path).characteristic
    if found.device != prepared.environment.device:
        return None
    return Calibrated(
        mails=found.at_margin().mails,
        caught=tuple(CaughtAt(effect=entry.effect, caught=entry.caught, family=entry.family) for entry in found.power),
        margin=found.margin,
        launches=found.launches,
        cells=found.measured_cells,
        measured=found.measured,
        device_name=found.device_name,
        doubts=tuple(_doubts(found, prepared, config)),
    )


def _doubts(found: Characteristic, prepared: Prepared, config: Config) -> Iterator[str]:
    machine, margin = prepared.environment, config.verdicts.margin(prepared.environment.device)
    if not found.device_name:
        yield "it does not say which device its launches were made on"
    elif found.device_name != machine.device_name:
        yield f"its launches were made on {found.device_name}, not on {machine.device_name}"
    sections = sections_of(config.verdicts, config.timing)
    before, tonight = _as_it_was(found), versions_of(machine) | settings_of(sections, (*RULES, *MEASURING))
    for name in (*_VERSIONS, *RULES, *MEASURING):
        then, now = before.get(name), tonight.get(name)
        if then and now and now not in then.split(", "):
            yield f"{name} was {then} then and is {now} now"
    if abs(found.margin - margin) > 1e-9:
        yield f"its margin was {100 * found.margin:g}%, and tonight's is {100 * margin:g}%"


def _as_it_was(found: Characteristic) -> dict[str, str]:
    """Versions and settings of a calibration; one of before `settings` says three of these elsewhere."""
    told = {"margin_spread": found.margin_spread}
    plan = {"launches": found.plan.get("screening_launches"), "confirm_launches": found.plan.get("confirming_launches")}
    return found.versions | settings_of({"verdicts": told, "timing": plan}, RULES) | found.settings
