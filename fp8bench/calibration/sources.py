"""Stored launches in which nothing changed: A/A nights, A/A arms, controls, or a table of launch effects."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from .. import stats
from ..backends import YARDSTICKS
from ..config import VerdictSettings
from ..errors import UsageError
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


def read_sources(paths: Sequence[Path], device: str = "cuda", equal: bool = False) -> Source:
    """The A/A launches of all `paths`, run directories or CSV files, as one table.

    device: what CSV files were measured on; run directories know. equal: somebody knows that the builds of these nights
    are equally fast, though their code differs, as when it was linked in another order: all cells count.
    UsageError where they do not fit together, or hold too few launches. Launches that timed less than half of the cells
    are left out, and so are cells that less than half of the launches timed.
    """
    tables, devices = [], set()
    for number, path in enumerate(paths):
        table, measured_on = _read(path, device, equal)
        tables.append(table.set_axis([f"{number}/{launch}" for launch in table.index], axis=0))
        devices.add(measured_on)
    if len(devices) > 1:
        raise UsageError("some launches were made on a GPU and some on a CPU: calibrate one kind of machine at a time.")
    effects = _dense(pd.concat(tables)) if tables else pd.DataFrame()
    if len(effects) < LEAST:
        raise UsageError(
            f"{len(effects)} launches without a change were found in {len(paths)} sources, and {LEAST} are needed (40 "
            "for figures worth quoting): time a commit against itself, `fp8bench nightly --candidate X --baseline X`."
        )
    return Source(effects.sort_index(axis=1), devices.pop(), tuple(path.name for path in paths))


def _read(path: Path, device: str, equal: bool) -> tuple[pd.DataFrame, str]:
    if path.is_dir():
        run = RunDir(path)
        if run.prepared().planted:
            raise UsageError(f"{path.name} is a planted night: it shows what is caught, so name it with --planted.")
        return _unchanged(run, equal), run.prepared().environment.device
    return _read_csv(path), device


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
    same = {cell for cell in found if backend_of(cell) not in YARDSTICKS}
    return pd.concat(list(_by_phase(samples, same))) if len(samples) else pd.DataFrame()


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
