"""What of the home directory is no longer needed, by the `[retention]` settings: old nights, and builds of nobody.

Removed is only what fp8bench recognises as its own: a night by its `prepare.json`, one that never began by a stage's
lock and nothing that such a night does not leave, a build by a `build.json` that bears its name, a compiled library by
the name of its file. Symbolic links are left alone and not followed.

A night is given up under all locks of its stages and builds under the lock that builders share, so nothing in use is
touched; and it is renamed before it is removed, so an interrupted removal leaves no half night, and the next finishes.
"""

from __future__ import annotations

import re
import shutil
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, nullcontext
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

from . import alerts, builds, causes, store
from .config import Config
from .errors import RunDirError
from .records import Built, Prepared
from .rundir import RunDir
from .stages import STAGES
from .store import Baseline

_GIVEN_UP = ".pruned-"  # + the name that a directory had
_HASH = re.compile(r"[0-9a-f]{16}")
_LEFT_OVER = re.compile(r"\.(tree|build|compile|copy)-\w{8}")  # of a build or a launch that was killed
_LEFT_OVER_AGE = timedelta(days=1)
# of a night that never came to know what to measure: what it holds at least one of, and what else it may hold
_UNBEGUN_LOCKS = {".prepare.lock", ".alert.lock"}
_UNBEGUN = _UNBEGUN_LOCKS | {"config.json", "logs", "no-verdict"}


@dataclass(frozen=True)
class Entry:
    """A directory, and why it goes or stays."""

    path: Path
    reason: str


@dataclass
class Pruned:
    """What was removed, or would be; what stays although it is old; what could not be removed."""

    removed: list[Entry] = field(default_factory=list)
    kept: list[Entry] = field(default_factory=list)
    failed: list[Entry] = field(default_factory=list)
    freed: int = 0  # bytes; a file of several names counts where its last one goes


@dataclass(frozen=True)
class _Night:
    run: RunDir
    prepared: Prepared

    @property
    def is_finished(self) -> bool:
        return self.run.verdicts.is_file()

    @property
    def locks(self) -> list[str]:
        shards = range(len(self.prepared.shards))
        return [*STAGES, *(f"{stage}-{shard}" for stage in ("time", "confirm") for shard in shards)]


def prune(config: Config, *, dry_run: bool = False) -> Pruned:
    """Remove what the settings no longer keep; dry_run: only say what that is (directories in use are not told apart).

    StoreError when MLflow does not say which builds are accepted or its database is gone, RunDirError when the ledger
    of causes is damaged: nothing is removed then.
    """
    accepted = store.accepted_baselines(config) if store.exists(config) else []
    work = _Pruning(config, accepted, dry_run)
    work.prune_nights()
    work.prune_builds()
    return work.found


class _Pruning:
    """One pass over the home directory."""

    def __init__(self, config: Config, accepted: Sequence[Baseline], dry_run: bool) -> None:
        self.found = Pruned()
        self._config, self._policy, self._dry_run = config, config.retention, dry_run
        self._accepted_runs = {baseline.run_id for baseline in accepted}
        self._open_runs = causes.open_nights(config.home)
        self._accepted_shas = {baseline.sha for baseline in accepted}
        self._now = datetime.now(UTC)
        self._nights: list[_Night] = []  # those that stay
        self._names: Counter[tuple[int, int]] = Counter()  # names of a file that went, by device and inode

    # ---- nights ---------------------------------------------------------------------------------------------

    def prune_nights(self) -> None:
        for left in _directories(self._config.runs_dir, re.compile(re.escape(_GIVEN_UP) + ".+")):
            self._remove(left, "left by an interrupted removal")
        nights = sorted(self._own_nights(), key=lambda night: night.prepared.created, reverse=True)
        rank = 0
        for night in nights:
            rank += night.is_finished
            if not (reason := self._why_old(night, rank)) or not self._give_up(night, reason):
                self._nights.append(night)

    def _own_nights(self) -> Iterator[_Night]:
        for path in _directories(self._config.runs_dir, re.compile(r"[^.].*")):
            run = RunDir(path)
            if _never_began(path):
                self._give_up_unbegun(run)
                continue
            try:
                yield _Night(run, run.prepared())
            except (RunDirError, OSError):
                self._keep(path, "is no night that fp8bench can read")

    def _why_old(self, night: _Night, rank: int) -> str:
        """Why the night may go by age, or ""; rank: its place among the finished ones, the newest being 1."""
        policy = self._policy
        if night.is_finished:
            return f"a finished night, not among the newest {policy.keep_nights}" if rank > policy.keep_nights else ""
        if self._now - _last_sign(night) <= timedelta(days=policy.keep_unfinished_days):
            return ""
        return f"an unfinished night, untouched for more than {policy.keep_unfinished_days:g} days"

    def _why_needed(self, night: _Night) -> str:
        """Why an old night stays, or ""."""
        if night.prepared.run_id in self._accepted_runs:
            return "the baseline was accepted from it"
        if night.prepared.run_id in self._open_runs:
            return "a cause that is open was seen or told in it"
        if alerts.pending(night.run.path) or (not night.is_finished and alerts.pending(night.run.no_verdict)):
            return "has mails that were not sent"
        if night.is_finished and not night.run.mlflow.is_file():
            return "is not in MLflow yet"
        return ""

    def _give_up(self, night: _Night, reason: str) -> bool:
        """Remove an old night, unless it is needed or in use; whether it is gone."""
        path = night.run.path
        if why := self._why_needed(night):
            self._keep(path, why)
            return False
        if self._dry_run:
            return self._remove(path, reason)
        try:
            with ExitStack() as held:
                for name in night.locks:
                    held.enter_context(night.run.locked(name))
                if why := self._why_needed(night):  # a stage may have ended meanwhile
                    self._keep(path, why)
                    return False
                return self._remove(path, reason)
        except RunDirError as error:
            self._keep(path, f"in use: {error}")
            return False

    def _give_up_unbegun(self, run: RunDir) -> None:
        """Remove a night that never began, once nobody will take it up any more."""
        days = self._policy.keep_unfinished_days
        if self._now - _last_write(run.path) <= timedelta(days=days):
            return
        if alerts.pending(run.no_verdict):
            self._keep(run.path, "has mails that were not sent")
            return
        try:
            with nullcontext() if self._dry_run else run.locked("prepare"):
                self._remove(run.path, f"a night that never began, untouched for more than {days:g} days")
        except RunDirError as error:
            self._keep(run.path, f"in use: {error}")

    # ---- builds ---------------------------------------------------------------------------------------------

    def prune_builds(self) -> None:
        """Remove builds that no kept need speaks for, then the compiled libraries of none of the others."""
        home = self._config.builds_dir
        if not home.is_dir():
            return
        try:
            with builds.locked(home, alone=True):
                self._prune_left_overs(home)
                self._prune_libraries(home / ".libraries", self._prune_unused(home))
        except BlockingIOError:
            self._keep(home, "somebody builds just now: run this again later")
        except OSError as error:
            self.found.failed.append(Entry(home, error.strerror or str(error)))

    def _prune_unused(self, home: Path) -> list[Path]:
        """Remove unused builds; those that stay."""
        needed, stay = self._needed_builds(), []
        limit = timedelta(days=self._policy.keep_builds_days)
        for path in _directories(home, _HASH):
            manifest = _manifest(path)
            if manifest is None:
                self._keep(path, "is no build that fp8bench can read")
            elif (
                path.name not in needed
                and manifest.commit not in self._accepted_shas
                and self._age(path) > limit
                and self._remove(path, f"a build not used for {self._policy.keep_builds_days:g} days")
            ):
                continue
            stay.append(path)
        return stay

    def _needed_builds(self) -> set[str]:
        """Names of builds of accepted commits, of open causes, of unfinished nights, and of nights younger than builds
        are kept."""
        limit = timedelta(days=self._policy.keep_builds_days)
        names, needed = set(), self._accepted_runs | self._open_runs
        for night in self._nights:
            needs_all = not night.is_finished or self._now - night.prepared.created <= limit
            names |= {
                Path(built.path).name
                for built in _built(night)
                if needs_all or built.commit in self._accepted_shas or night.prepared.run_id in needed
            }
        return names

    def _prune_libraries(self, cache: Path, stay: Iterable[Path]) -> None:
        """Remove compiled libraries that no build holds and nobody made lately."""
        if cache.is_symlink():
            return
        used = {file.stem.rpartition("-")[2] for build in stay for file in build.glob("libfp8bench_*.so")}
        limit = timedelta(days=self._policy.keep_builds_days)
        for path in _directories(cache, _HASH):
            own = any(path.glob(f"libfp8bench_*-{path.name}.so"))
            if own and path.name not in used and self._age(path) > limit:
                self._remove(path, "a compiled library of no build")

    def _prune_left_overs(self, home: Path) -> None:
        places = [home] if (home / ".libraries").is_symlink() else [home, home / ".libraries"]
        for place in places:
            for path in _directories(place, re.compile(f"{re.escape(_GIVEN_UP)}{_HASH.pattern}")):
                self._remove(path, "left by an interrupted removal")
            for path in _directories(place, _LEFT_OVER):
                if self._age(path) > _LEFT_OVER_AGE:
                    self._remove(path, "left by an interrupted build")

    # ---- both -----------------------------------------------------------------------------------------------

    def _age(self, path: Path) -> timedelta:
        return self._now - datetime.fromtimestamp(path.lstat().st_mtime, UTC)

    def _keep(self, path: Path, reason: str) -> None:
        self.found.kept.append(Entry(path, reason))

    def _remove(self, path: Path, reason: str) -> bool:
        """Remove a directory and count its bytes; whether it is gone."""
        try:
            freed = self._count(path)
            if not self._dry_run:
                aside = path if path.name.startswith(_GIVEN_UP) else path.with_name(_GIVEN_UP + path.name)
                path.rename(aside)
                shutil.rmtree(aside)
        except OSError as error:
            self.found.failed.append(Entry(path, error.strerror or str(error)))
            return False
        self.found.removed.append(Entry(path, reason))
        self.found.freed += freed
        return True

    def _count(self, directory: Path) -> int:
        """Bytes that are free once the directory is gone."""
        total = 0
        for path in directory.rglob("*"):
            entry = path.lstat()
            if (path.is_dir() and not path.is_symlink()) or path.suffix == ".lock":  # which the removal itself takes
                continue
            self._names[entry.st_dev, entry.st_ino] += 1
            gone = self._names[entry.st_dev, entry.st_ino] if self._dry_run else 1
            total += entry.st_size * (entry.st_nlink == gone)
        return total


def _directories(place: Path, pattern: re.Pattern[str]) -> list[Path]:
    """Directories in `place`, by name, whose whole name fits; no symbolic links."""
    if not place.is_dir():
        return []
    return sorted(
        path for path in place.iterdir() if pattern.fullmatch(path.name) and path.is_dir() and not path.is_symlink()
    )


def _last_sign(night: _Night) -> datetime:
    """When an unfinished night last wrote a file, or when it began."""
    return max(night.prepared.created, _last_write(night.run.path))


def _last_write(directory: Path) -> datetime:
    times = [path.lstat().st_mtime for path in directory.rglob("*")]
    return datetime.fromtimestamp(max(times, default=0), UTC)


def _never_began(directory: Path) -> bool:
    held = {path.name for path in directory.iterdir()}
    return bool(held & _UNBEGUN_LOCKS) and held <= _UNBEGUN


def _manifest(build: Path) -> builds.Manifest | None:
    """The manifest of a build that bears its name."""
    try:
        manifest = builds.read_manifest(build)
    except (RunDirError, OSError):
        return None
    return manifest if manifest.hash == build.name else None


def _built(night: _Night) -> Sequence[Built]:
    """The builds of a night; none before it has built, or where the record is damaged."""
    try:
        return night.run.built().builds
    except RunDirError:
        return ()
