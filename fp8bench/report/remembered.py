"""What the page over all nights knows of each, remembered in `home/cache`: reading a year of records takes minutes.

A night is remembered by the identity, size and time of its files, and read again when any of them changed. The memory
can be removed at any time, and one that cannot be read or written is done without.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Generic, TypeVar

from pydantic import TypeAdapter, ValidationError

from .. import records
from ..errors import RunDirError

T = TypeVar("T")
_SOURCES = ("nights.py", "tones.py", "../wording.py", "../records.py")  # what a result follows from, beside the files
FILES = ("prepare.json", "verdicts.json", "mlflow.json", "report.html")

Stamp = tuple[tuple[int, int, int] | None, ...]


def stamp(night: Path) -> Stamp:
    """Identity, size and time of each of a night's files that the page reads; None for one that is not there."""
    return tuple(_stamp(night / name) for name in FILES)


def _stamp(file: Path) -> tuple[int, int, int] | None:
    try:
        found = file.stat()
    except OSError:
        return None
    return found.st_ino, found.st_size, found.st_mtime_ns


def _version() -> str:
    """Changes whenever the code does that makes results."""
    here = Path(__file__).parent
    return hashlib.sha256(b"".join((here / name).read_bytes() for name in _SOURCES)).hexdigest()


class Memory(Generic[T]):
    """Results of `make` by directory name, kept in `file`; kind: of a result, something that pydantic can read."""

    def __init__(self, file: Path, kind: type[T], make: Callable[[Path], T | None], keep: Callable[[T], bool]) -> None:
        self._file, self._make, self._keep = file, make, keep
        self._adapter = TypeAdapter(tuple[str, dict[str, tuple[Stamp, kind]]])  # type: ignore[valid-type]
        self._known: dict[str, tuple[Stamp, T]] = self._load()
        self._used: dict[str, tuple[Stamp, T]] = {}

    def _load(self) -> dict[str, tuple[Stamp, T]]:
        try:
            version, known = self._adapter.validate_json(self._file.read_bytes())
        except (OSError, ValidationError):
            return {}
        return known if version == _version() else {}

    def of(self, night: Path) -> T | None:
        """The result for a night, remembered or made now; None when there is none."""
        now = stamp(night)
        known = self._known.get(night.name)
        if known is None or known[0] != now:
            made = self._make(night)
            if made is None:
                return None
            known = (now, made)
        if self._keep(known[1]):
            self._used[night.name] = known
        return known[1]

    def save(self) -> None:
        """Remember what was asked for since, and nothing else."""
        if self._used == self._known:
            return
        try:
            records.write_bytes(self._adapter.dump_json((_version(), self._used)), self._file)
        except (RunDirError, UnicodeEncodeError):
            return  # a full disk, a name that is no text: the page is made all the same
