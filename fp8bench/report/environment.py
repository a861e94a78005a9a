"""Builds, commits, machine, links and the page's own key."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from .. import wording
from ..night import Night
from ..records import Built, BuiltLibrary, Commit, Verdict
from ..secrecy import public
from .tones import Badge, badge

TAIL = 12_000  # characters of a log or a resource report that are shown


@dataclass(frozen=True)
class Text:
    """A piece of plain text that unfolds."""

    title: str
    text: str


@dataclass(frozen=True)
class BuildRow:
    role: str
    backend: str
    badge: Badge
    identity: str
    note: str


@dataclass(frozen=True)
class Builds:
    rows: tuple[BuildRow, ...]
    texts: tuple[Text, ...]


@dataclass(frozen=True)
class Role:
    name: str
    commit: Commit


@dataclass(frozen=True)
class Commits:
    roles: tuple[Role, ...]


@dataclass(frozen=True)
class Environment:
    rows: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Links:
    tracking_uri: str
    links: tuple[tuple[str, str], ...]
    runs: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Reading:
    words: tuple[tuple[str, str], ...]
    verdicts: tuple[tuple[Badge, str], ...]


def builds(night: Night) -> Builds:
    rows = [_build_row(built, library) for built in night.built.builds for library in built.libraries]
    texts = [text for built in night.built.builds for text in (*_logs(built), *_resources(built))]
    return Builds(tuple(rows), tuple(texts))


def _build_row(built: Built, library: BuiltLibrary) -> BuildRow:
    state = badge(Verdict.OK) if library.ok else badge(Verdict.NOT_BUILT if library.error else Verdict.UNSUPPORTED)
    note = library.error or library.note or "sources"  # as `fp8bench build` says: nothing to compile beforehand
    return BuildRow(built.role, wording.title(library.backend), state, library.identity[:16], note)


def _logs(built: Built) -> list[Text]:
    failed = [library for library in built.libraries if library.log and not library.ok]
    return [Text(f"{built.role}, {entry.backend}: what the compiler said", entry.log[-TAIL:]) for entry in failed]


def _resources(built: Built) -> list[Text]:
    """The compiler's reports of registers, shared memory and spills, where the build directory is still there."""
    files = sorted(Path(built.path).glob("resources-*.txt")) if built.path else []
    return [Text(f"{built.role}: {file.name}", file.read_text(errors="replace")[:TAIL]) for file in files]


def commits(night: Night) -> Commits:
    prepared = night.prepared
    suspects = [Role("suspect", commit) for commit in prepared.suspects if commit.sha != prepared.candidate.sha]
    named = [Role("candidate", prepared.candidate), *suspects, Role("baseline", prepared.baseline)]
    return Commits((*named, Role("harness", prepared.harness)))


def environment(night: Night) -> Environment:
    prepared, machine = night.prepared, night.prepared.environment
    rows = [
        ("night", prepared.run_id),
        ("repository", public(prepared.repo)),
        ("suite", f"{prepared.suite}, {wording.count(len(prepared.cells), 'cell')}, seed {prepared.seed}"),
        ("host", machine.host),
        ("device", f"{machine.device_name} {machine.device_uuid}".strip()),
        ("devices", str(machine.device_count)),
        ("compute capability", machine.compute_capability),
        ("multiprocessors", str(machine.multiprocessors or "")),
        ("L2 cache", f"{machine.l2_bytes / 2**20:.0f} MiB" if machine.l2_bytes else ""),
        ("driver", machine.driver),
        ("processor", machine.cpu),
        ("system", machine.os),
        *machine.versions.items(),
    ]
    return Environment(tuple((name, value) for name, value in rows if value))


def links(night: Night) -> Links | None:
    logged = night.logged
    if logged is None:
        return None
    return Links(logged.tracking_uri, tuple(logged.links.items()), tuple(logged.runs.items()))


def reading(_night: Night) -> Reading:
    verdicts = tuple((badge(verdict), meaning) for verdict, meaning in wording.MEANINGS.items())
    return Reading(tuple(wording.GLOSSARY.items()), verdicts)
