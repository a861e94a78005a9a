"""SQLite databases that a new version of their program migrates: copied before, and never by a half-migrated one.

A migration that failed or was cut off leaves a database that is neither old nor new, and the next start tries again. So
the stamp beside a database says which version migrated it last or, until that is done, which copy is the good one.
"""

from __future__ import annotations

import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

from fp8bench.errors import Fp8BenchError

_UNFINISHED = "unfinished, copied to "


class MigrationError(Fp8BenchError):
    """A database could not be copied or migrated."""


def migrate_once(database: Path, stamp: Path, version: str, migrate: Callable[[], str]) -> None:
    """Run `migrate`, which returns what went wrong or "", unless `stamp` says that `version` did; copy before.

    Without a `database`, `migrate` makes it. MigrationError says what went wrong, and where the copy lies.
    """
    if not database.exists():
        _insist(migrate(), database, "")
    elif _said(stamp) != version:
        kept = _good_copy(database, stamp) or copy(database, database.with_name(f"{database.name}.before-{version}"))
        stamp.write_text(f"{_UNFINISHED}{kept.name}")
        _insist(migrate(), database, f" As it was, it lies in {kept}: docs/operations.md tells how to go back.")
    stamp.write_text(version)


def is_unfinished(stamp: Path) -> bool:
    """Whether a migration is under way, or did not come to its end."""
    return _said(stamp).startswith(_UNFINISHED)


def copy(database: Path, target: Path) -> Path:
    """Copy by SQLite's own means: what only its log (`-wal`) holds is in it. `target` is there when it is whole."""
    part = target.with_name(f"{target.name}.part")
    part.unlink(missing_ok=True)
    part.touch(0o600)
    try:
        with closing(sqlite3.connect(database)) as source, closing(sqlite3.connect(part)) as into:
            source.backup(into)
    except sqlite3.Error as error:
        raise MigrationError(
            f"{database} could not be copied before its migration ({error}): make room for a second one, or look "
            "whether another program uses it."
        ) from None
    shutil.copymode(database, part)
    return part.replace(target)


def _said(stamp: Path) -> str:
    return stamp.read_text() if stamp.exists() else ""


def _good_copy(database: Path, stamp: Path) -> Path | None:
    """The copy that was made before a migration that is not done; None where there is none."""
    if not is_unfinished(stamp):
        return None
    kept = database.with_name(_said(stamp).removeprefix(_UNFINISHED))
    return kept if kept.exists() else None


def _insist(wrong: str, database: Path, rest: str) -> None:
    if wrong:
        raise MigrationError(f"{database} could not be migrated: {wrong}.{rest}")
