"""Stored launches in which nothing changed, measured as cells are that may have: not the controls.

They are A/A nights, A/A arms, what runs the same code in a night planted with shares of 0, or tables of effects.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd

from .. import planting, stats
from ..backends import REFERENCE, YARDSTICKS
from ..calibrated import MEASURING, settings_of, versions_of
from ..config import VerdictSettings
from ..errors import UsageError
from ..records import Prepared
from ..rundir import RunDir
from ..verdicts.evidence import Evidence, backend_of

LEAST = 12  # launches: fewer say nothing about the tails that false alarms come from
COLUMNS = ("launch", "cell", "effect")


@dataclass(frozen=True)
class Source:
    """Effects without a cause: log-ratios, launches in rows, cell ids in columns."""

    effects: pd.DataFrame
    device: str  # cuda or cpu
    names: tuple[str, ...]  # where they come from
    device_name: str = ""  # "": nobody said
    versions: Mapping[str, str] = field(default_factory=dict)  # of compilers and drivers; several, by commas
    measured: str = ""  # the day, or the first and the last
    settings: Mapping[str, str] = field(default_factory=dict)  # of `MEASURING`; several values of one, by commas


def read_sources(paths: Sequence[Path], device: str = "cuda", equal: bool = False, device_name: str = "") -> Source:
    """The A/A launches of all `paths`, run directories or CSV files, as one table.

    device, device_name: what CSV files were measured on; run directories know. equal: somebody knows that the builds of
    these nights are equally fast, though their code differs, as when it was linked in another order: all cells count,
    but for controls and for those that were bound once for both arms.
    UsageError where they do not fit together, or hold too few launches. Launches that timed less than half of the cells
    are left out, and so are cells that less than half of the launches timed.
    """
    runs = [RunDir(path) for path in paths if path.is_dir()]
    tables, nights = list(_numbered(paths, equal)), [run.prepared() for run in runs]
    devices = {night.environment.device for night in nights} | ({device} if len(nights) < len(paths) else set())
    if len(devices) > 1:
        raise UsageError("some launches were made on a GPU and some on a CPU: calibrate one kind of machine at a time.")
    effects = _dense(pd.concat(tables)) if tables else pd.DataFrame()
    if len(effects) < LEAST:
        raise UsageError(
            f"{len(effects)} launches without a change were found in {len(paths)} sources, and {LEAST} are needed (40 "
            "for figures worth quoting): time a commit against itself, `fp8bench nightly --candidate X --baseline X`."
        )
    names = tuple(path.name for path in paths)
    versions = _pooled(versions_of(night.environment) for night in nights)
    told = (_one_device(nights, device_name), versions, _days(nights), _pooled(map(_settings, runs)))
    return Source(effects.sort_index(axis=1), devices.pop(), names, *told)


def _one_device(nights: Sequence[Prepared], given: str) -> str:
    names = {night.environment.device_name for night in nights} | ({given} if given else set())
    if len(names) > 1:
        raise UsageError(
            f"the launches were made on {' and '.join(sorted(names))}: calibrate one kind of device at a time."
        )
    return next(iter(names), "")


def _pooled(tables: Iterable[Mapping[str, str]]) -> dict[str, str]:
    """Every value of each name, by commas; nothing of a name that is "" throughout."""
    found: dict[str, set[str]] = {}
    for name, value in (entry for table in tables for entry in table.items()):
        found.setdefault(name, set()).add(value)
    return {name: ", ".join(sorted(values - {""})) for name, values in sorted(found.items()) if values - {""}}


def _settings(run: RunDir) -> dict[str, str]:
    """How well its launches measure; nothing where its settings are gone."""
    try:
        return settings_of(json.loads(run.config.read_text()), MEASURING)
    except (OSError, ValueError):
        return {}


def _days(nights: Sequence[Prepared]) -> str:
    days = sorted(f"{night.created:%Y-%m-%d}" for night in nights)
    return " to ".join(dict.fromkeys((days[0], days[-1]))) if days else ""


def _numbered(paths: Sequence[Path], equal: bool) -> Iterator[pd.DataFrame]:
    """Effects of each source; launches are named by its number too."""
    for number, path in enumerate(paths):
        table = _unchanged(RunDir(path), equal) if path.is_dir() else _read_csv(path)
        yield table.set_axis([f"{number}/{launch}" for launch in table.index], axis=0)


def _dense(effects: pd.DataFrame) -> pd.DataFrame:
    cells = effects.loc[:, effects.notna().mean() >= 0.5]
    return cells[cells.notna().mean(axis=1) >= 0.5]


def _read_csv(path: Path) -> pd.DataFrame:
    """A table with the columns launch, cell (an id), effect (log-ratio); `.gz` is read as it is."""
    try:
        table = pd.read_csv(path)
    except (OSError, ValueError) as error:
        raise UsageError(f"{path} cannot be read ({error}): give a run directory or a CSV file.") from None
    if missing := [name for name in COLUMNS if name not in table]:
        raise UsageError(
            f"{path} has no column {missing[0]!r}: it needs {', '.join(COLUMNS)}, one row a launch and cell."
        )
    return table.pivot_table(index="launch", columns="cell", values="effect")


def _unchanged(run: RunDir, equal: bool) -> pd.DataFrame:
    """Every launch effect of a night that no code can have caused."""
    if planting.slows(run.prepared().planted):
        raise UsageError(f"{run.path.name} is a planted night: it shows what is caught, so name it with --planted.")
    samples = run.raw_samples()
    said_nothing = {*YARDSTICKS, *_bound_once(run)}
    same = {cell for cell in _unchanged_cells(run, samples, equal) if backend_of(cell) not in said_nothing}
    return pd.concat(list(_by_phase(samples, same))) if len(samples) else pd.DataFrame()


def _bound_once(run: RunDir) -> set[str]:
    """The backend whose one binding stood for both arms: how far two of them are apart was not measured."""
    return {REFERENCE} if run.built().same_code(REFERENCE) else set()


def _by_phase(samples: pd.DataFrame, same: Collection[str]) -> Iterator[pd.DataFrame]:
    for phase, rows in samples.groupby("phase"):
        effects = stats.launch_effects(rows if phase == "aa" else rows[rows["cell"].isin(same)])
        yield effects.set_axis([f"{phase}/{launch}" for launch in effects.index], axis=0)


def _unchanged_cells(run: RunDir, samples: pd.DataFrame, equal: bool) -> Collection[str]:
    """All cells of a build measured against itself; otherwise those with the same machine code in both builds.

    Controls have that too, and are no sources: a launch times them in one series, however much they sway, so their
    effects are not what a night would have judged. Cells that a share of 0 is planted in are measured in full.
    """
    prepared = run.prepared()
    if _is_one_build(run):
        return prepared.cells
    same = prepared.cells if equal else _controls(run, prepared.model_copy(update={"planted": {}}), samples)
    return set(same) - _controls(run, prepared, samples)


def _is_one_build(run: RunDir) -> bool:
    """Whether the night bound one build twice: then there are no controls but what was bound once."""
    prepared, paths = run.prepared(), {built.path for built in run.built().builds}
    return prepared.candidate.sha == prepared.baseline.sha or (len(paths) == 1 and "" not in paths)


def _controls(run: RunDir, prepared: Prepared, samples: pd.DataFrame) -> frozenset[str]:
    night = Evidence(prepared, run.built(), run.checked(), run.timed(), samples, VerdictSettings())
    return night.controls
