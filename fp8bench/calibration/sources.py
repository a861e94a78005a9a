"""Stored launches in which nothing changed: A/A nights, A/A arms, controls, or a table of launch effects."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd

from .. import stats
from ..backends import REFERENCE, YARDSTICKS
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


def read_sources(paths: Sequence[Path], device: str = "cuda", equal: bool = False, device_name: str = "") -> Source:
    """The A/A launches of all `paths`, run directories or CSV files, as one table.

    device, device_name: what CSV files were measured on; run directories know. equal: somebody knows that the builds of
    these nights are equally fast, though their code differs, as when it was linked in another order: all cells count,
    but for those that were bound once for both arms.
    UsageError where they do not fit together, or hold too few launches. Launches that timed less than half of the cells
    are left out, and so are cells that less than half of the launches timed.
    """
    tables, nights = [], []
    for number, path in enumerate(paths):
        table, night = _read(path, equal)
        tables.append(table.set_axis([f"{number}/{launch}" for launch in table.index], axis=0))
        nights += [night] if night else []
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
    told = (_one_device(nights, device_name), _versions(nights), _days(nights))
    return Source(effects.sort_index(axis=1), devices.pop(), names, *told)


def _one_device(nights: Sequence[Prepared], given: str) -> str:
    names = {night.environment.device_name for night in nights} | ({given} if given else set())
    if len(names) > 1:
        raise UsageError(
            f"the launches were made on {' and '.join(sorted(names))}: calibrate one kind of device at a time."
        )
    return next(iter(names), "")


def _versions(nights: Sequence[Prepared]) -> dict[str, str]:
    found: dict[str, set[str]] = {}
    for night in nights:
        for name, version in (night.environment.versions | {"driver": night.environment.driver}).items():
            found.setdefault(name, set()).add(version)
    return {name: ", ".join(sorted(versions - {""})) for name, versions in sorted(found.items()) if versions - {""}}


def _days(nights: Sequence[Prepared]) -> str:
    days = sorted(f"{night.created:%Y-%m-%d}" for night in nights)
    return " to ".join(dict.fromkeys((days[0], days[-1]))) if days else ""


def _read(path: Path, equal: bool) -> tuple[pd.DataFrame, Prepared | None]:
    """Effects, and the night that they are of; None of a table."""
    if path.is_dir():
        run = RunDir(path)
        if run.prepared().planted:
            raise UsageError(f"{path.name} is a planted night: it shows what is caught, so name it with --planted.")
        return _unchanged(run, equal), run.prepared()
    return _read_csv(path), None


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
    samples = run.raw_samples()
    found = run.prepared().cells if equal else _unchanged_cells(run, samples)
    said_nothing = {*YARDSTICKS, *_bound_once(run)}
    same = {cell for cell in found if backend_of(cell) not in said_nothing}
    return pd.concat(list(_by_phase(samples, same))) if len(samples) else pd.DataFrame()


def _bound_once(run: RunDir) -> set[str]:
    """The backend whose one binding stood for both arms: how far two of them are apart was not measured."""
    return {REFERENCE} if run.built().same_code(REFERENCE) else set()


def _by_phase(samples: pd.DataFrame, same: Collection[str]) -> Iterator[pd.DataFrame]:
    for phase, rows in samples.groupby("phase"):
        effects = stats.launch_effects(rows if phase == "aa" else rows[rows["cell"].isin(same)])
        yield effects.set_axis([f"{phase}/{launch}" for launch in effects.index], axis=0)


def _unchanged_cells(run: RunDir, samples: pd.DataFrame) -> Collection[str]:
    """All cells of a commit measured against itself; otherwise those with the same machine code in both builds."""
    prepared = run.prepared()
    if prepared.candidate.sha == prepared.baseline.sha:
        return prepared.cells
    night = Evidence(prepared, run.built(), run.checked(), run.timed(), samples, VerdictSettings())
    return night.controls
