"""Nights in short: what the page over all nights, and the search for earlier ones, need to know of each.

The records of a fleet's year are two gigabytes, of which these need a hundredth. So a judged night's directory also
holds its brief, `.brief`, made by whoever first asks for it: the render stage of the night, as a rule. A brief names
the size and time of every file that it was made from; when one of them changed, or the brief is damaged or gone, it is
made anew. One that cannot be written is done without.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any, TypeVar, cast

from pydantic import ConfigDict, ValidationError, create_model

from . import records
from .errors import RunDirError
from .records import Document, Logged, Prepared, Verdicts

FILE = ".brief"
_SOURCES = ("prepare.json", "verdicts.json", "mlflow.json")
# what grows with the number of cells, and is left out
_OF_PREPARED = ("cells", "shards")
_OF_VERDICTS = ("cells", "families", "causes", "recovered", "shifts")

D = TypeVar("D", bound=Document)
Stamp = tuple[int, int] | None  # bytes and time in ns of a file; None: it is not there


class Brief(Document):
    """A judged night without what grows with the number of cells: these fields of its records are empty."""

    of: tuple[Stamp, ...]  # of the files that it was made from
    prepared: Prepared
    verdicts: Verdicts
    logged: Logged | None = None  # None: it is not in MLflow, or nobody can tell where


def of(night: Path) -> Brief:
    """The brief of the night in the directory `night`; RunDirError where it is not judged, or damaged."""
    now = tuple(_stamp(night / name) for name in _SOURCES)
    known = _known(night / FILE)
    if known is not None and known.of == now:
        return known
    made = _made(night, now)
    with suppress(RunDirError):
        records.write(made, night / FILE, sync=False)
    return made


def judged(runs_dir: Path) -> Iterator[tuple[Path, Brief]]:
    """Directory and brief of each judged night in `runs_dir`, in any order; those that are damaged are left out."""
    for verdicts in runs_dir.glob("*/verdicts.json"):
        with suppress(RunDirError, OSError):
            yield verdicts.parent, of(verdicts.parent)


def _stamp(file: Path) -> Stamp:
    try:
        found = file.stat()
    except OSError:
        return None
    return found.st_size, found.st_mtime_ns


def _known(file: Path) -> Brief | None:
    try:
        return Brief.model_validate_json(file.read_bytes())
    except (OSError, ValidationError):
        return None


def _made(night: Path, now: tuple[Stamp, ...]) -> Brief:
    prepared = _read_without(Prepared, night / "prepare.json", _OF_PREPARED)
    verdicts = _read_without(Verdicts, night / "verdicts.json", _OF_VERDICTS)
    return Brief.model_construct(of=now, prepared=prepared, verdicts=verdicts, logged=_logged(night / "mlflow.json"))


def _logged(file: Path) -> Logged | None:
    try:
        return records.read(Logged, file)
    except (RunDirError, OSError):
        return None


class _Part(Document):
    """A document of which some fields are not looked at."""

    model_config = ConfigDict(extra="ignore")


@cache
def _without(model: type[Document], left_out: tuple[str, ...]) -> type[Document]:
    fields: dict[str, Any] = {
        name: (info.annotation, info) for name, info in model.model_fields.items() if name not in left_out
    }
    return create_model(model.__name__, __base__=_Part, **fields)


def _read_without(model: type[D], path: Path, left_out: tuple[str, ...]) -> D:
    """The document at `path` with the fields `left_out` empty, in a fifth of the time that all of it takes."""
    found: dict[str, Any] = dict(records.read(_without(model, left_out), path))
    return cast(D, model.model_construct(**found | dict.fromkeys(left_out, ())))
