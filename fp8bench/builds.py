"""A commit -> a build directory: its kernel libraries and backend sources, cached by content.

    builds/
    ├── <hash>/                         named by what lies in it, so that equal kernels of two commits share one
    │   ├── build.json                  `Manifest`, written last: a directory without it is not a build
    │   ├── backends/                   the backend files of the commit
    │   ├── libfp8bench_<backend>-<hash of its sources>.so
    │   ├── resources-cuda.txt          the compiler's report (`fp8bench.resources`)
    │   └── code-cuda.json              hashes of kernels and host code (`fp8bench.machine_code`)
    ├── .libraries/<hash>/              compiled libraries, shared by builds (`fp8bench.libraries`)
    └── .lock                           shared by those who build, held alone by `fp8bench.retention`

Everything is made under another name and renamed, so builds of the same commit at the same time are safe. A backend
that does not compile is left out of the directory and is tried again the next time.
"""

from __future__ import annotations

import ast
import fcntl
import hashlib
import os
import shutil
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from . import config as settings
from . import devices, git, libraries, paths, records
from .backends import EVERY, INTERFACE, NAMES, YARDSTICKS
from .config import Config
from .errors import BuildError, RunDirError, ToolchainError
from .records import Built, BuiltLibrary, Document, Role
from .toolchain import find_cxx

_BACKENDS = "fp8bench/backends"
_HASH_LETTERS = 16
# Backends are attempted in threads, and CPython 3.11's `ast.parse` fails when two run at once (python/cpython#106905).
_PARSER = threading.Lock()


class Manifest(Document):
    """`build.json` of a build directory."""

    hash: str
    commit: str  # the first one with this content; "" for the sources that fp8bench ran from
    dirty: bool  # built from files of a worktree
    interface: int  # of the backend files
    created: datetime
    compilers: dict[str, str]  # name -> version
    flags: dict[str, tuple[str, ...]]  # backend -> how a source of it was compiled
    architectures: tuple[str, ...]  # of sm_XX
    libraries: tuple[BuiltLibrary, ...]


@dataclass(frozen=True)
class _Attempt:
    """What became of one backend: its record, and the plan and place of its library where it has one."""

    record: BuiltLibrary
    plan: libraries.Plan | None = None
    directory: Path | None = None


def build(
    repo: Path, sha: str, role: Role, config: Config, *, worktree: bool = False, backends: Sequence[str] = NAMES
) -> Built:
    """Build the kernels of commit `sha` of `repo`, or (worktree) of the files that lie there now.

    backends: those that are wanted; no others are compiled. Kernels that do not compile are no exception: their
    `BuiltLibrary` says why. ToolchainError when nothing can be compiled, BuildError when the disk takes nothing.
    """
    with _tree(config.builds_dir) as tree:
        if worktree:
            _copy_sources(repo / "csrc", repo / _BACKENDS, tree)
        else:
            git.export(repo, sha, ("csrc", _BACKENDS), tree)
        return _build_tree(tree, sha, role, config, backends, worktree)


def default_build(config: Config | None = None) -> Path:
    """The build directory of the sources that fp8bench itself runs from, built at first use.

    The CUDA library is part of it where there are a GPU and a CUDA compiler. BuildError if a library does not compile.
    """
    config = config or settings.load()
    wanted = [name for name in EVERY if name != "cuda" or devices.has_driver()]
    with _tree(config.builds_dir) as tree:
        _copy_sources(paths.CSRC, paths.BACKENDS, tree)
        built = _build_tree(tree, "", "candidate", config, wanted, True)
    for library in built.libraries:
        if library.error:
            raise BuildError(library.error, library.log)
    return Path(built.path)


def read_manifest(build: Path) -> Manifest:
    """What `build.json` says about a build directory; RunDirError if it is not one."""
    return records.read(Manifest, build / "build.json")


# ---- sources ------------------------------------------------------------------------------------------------


@contextmanager
def _tree(builds_dir: Path) -> Iterator[Path]:
    """A directory for sources, on the file system of the builds; what the disk refuses becomes a BuildError."""
    try:
        builds_dir.mkdir(parents=True, exist_ok=True)
        with locked(builds_dir), tempfile.TemporaryDirectory(dir=builds_dir, prefix=".tree-") as name:
            yield Path(name)
    except OSError as error:
        reason = error.strerror or str(error)
        raise BuildError(f"cannot build in {builds_dir}: {reason}. Set home to a directory that takes files.") from None


@contextmanager
def locked(builds_dir: Path, *, alone: bool = False) -> Iterator[None]:
    """Share the directory of builds with others that build, or (alone) have it; BlockingIOError when it is not free."""
    with (builds_dir / ".lock").open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB if alone else fcntl.LOCK_SH)
        yield


def _copy_sources(csrc: Path, backends: Path, tree: Path) -> None:
    """Copy kernel and backend sources as they lie there."""
    for source, target in ((csrc, tree / "csrc"), (backends, tree / _BACKENDS)):
        if not source.is_dir():
            raise BuildError(f"{source} is missing: it should hold the sources of fp8bench's kernels.")
        shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__"))


def _interface(backends: Path) -> int:
    """`INTERFACE` of the backend files, without running them; 0 if they have none."""
    file = backends / "__init__.py"
    for node in ast.parse(file.read_bytes()).body if file.is_file() else ():
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "INTERFACE":
            return int(ast.literal_eval(node.value))
    return 0


def source_identity(backends: Path, name: str) -> str:
    """Hash of what a backend file and its siblings that it imports say, comments and layout aside."""
    waiting, seen = [name], dict[str, str]()
    while waiting:
        module = waiting.pop()
        if module in seen or not (file := backends / f"{module}.py").is_file():
            continue
        with _PARSER:
            code = ast.parse(file.read_bytes())
        seen[module] = ast.dump(code)
        relative = (node for node in ast.walk(code) if isinstance(node, ast.ImportFrom) and node.level == 1)
        for node in relative:
            waiting += [node.module] if node.module else [alias.name for alias in node.names]
    return hashlib.sha256(repr(sorted(seen.items())).encode()).hexdigest()


def _check_source(backends: Path, name: str) -> str:
    """The source identity of backend `name`; BuildError where the commit has no such file or it is no Python."""
    if not (backends / f"{name}.py").is_file():
        raise BuildError(f"the commit has no backend file {_BACKENDS}/{name}.py.")
    try:
        return source_identity(backends, name)
    except (SyntaxError, ValueError) as error:
        where = f", line {error.lineno}" if isinstance(error, SyntaxError) else ""
        raise BuildError(f"the {name} backend is not valid Python: {error.args[0]}{where}.") from None


# ---- libraries ----------------------------------------------------------------------------------------------


def _attempt(name: str, tree: Path, config: Config, compilers: ThreadPoolExecutor) -> _Attempt:
    """Check and, where it has a library, compile one backend."""
    try:
        identity = _check_source(tree / _BACKENDS, name)
        if name not in libraries.NATIVE:
            return _Attempt(BuiltLibrary(backend=name, ok=True, identity=identity))
        plan = libraries.plan(name, tree, config.build.architectures)
        cache = config.builds_dir / ".libraries"
        note = "cached" if (cache / plan.hash).is_dir() else ""
        started = time.monotonic()
        directory = libraries.compile_library(plan, cache, compilers)
        note = note or f"compiled in {time.monotonic() - started:.1f} s"
        code = libraries.machine_code(directory / plan.file_name, plan.hash)
        identity = hashlib.sha256(f"{code}{identity}".encode()).hexdigest()
        return _Attempt(BuiltLibrary(backend=name, ok=True, identity=identity, note=note), plan, directory)
    except BuildError as error:
        return _Attempt(BuiltLibrary(backend=name, ok=False, error=str(error), log=error.log))
    except ToolchainError as error:
        return _Attempt(BuiltLibrary(backend=name, ok=False, note=str(error)))


def _attempt_all(tree: Path, config: Config, wanted: Sequence[str]) -> list[_Attempt]:
    """Attempt the wanted backends and those that need no compiler, libraries side by side."""
    names = [name for name in EVERY if name in wanted or name not in (*libraries.NATIVE, *YARDSTICKS)]
    if set(names) & set(libraries.NATIVE):
        find_cxx()  # without it nothing can be compiled, and that is no fault of the commit
    with (
        ThreadPoolExecutor(config.build.jobs or len(os.sched_getaffinity(0))) as compilers,
        ThreadPoolExecutor() as waiting,
    ):
        return list(waiting.map(lambda name: _attempt(name, tree, config, compilers), names))


# ---- the directory ------------------------------------------------------------------------------------------


def _build_tree(tree: Path, sha: str, role: Role, config: Config, wanted: Sequence[str], dirty: bool) -> Built:
    started = time.monotonic()
    interface = _interface(tree / _BACKENDS)
    if interface != INTERFACE:
        return Built(role=role, commit=sha, libraries=_refused(wanted, interface))
    attempts = _attempt_all(tree, config, wanted)
    name = _hash(tree, attempts)
    target = config.builds_dir / name
    if cached := _is_whole(target, tree, attempts):
        with suppress(OSError):  # another user's build: that one's nights keep it
            os.utime(target)  # the time of its last use, for `fp8bench.retention`
    else:
        _assemble(tree, target, attempts, sha, dirty)
    return Built(
        role=role,
        commit=sha,
        path=str(target.resolve()),
        libraries=tuple(attempt.record for attempt in attempts if attempt.record.backend in wanted),
        seconds=time.monotonic() - started,
        cached=cached,
    )


def _refused(wanted: Sequence[str], interface: int) -> tuple[BuiltLibrary, ...]:
    error = f"the commit's backend files have interface {interface}, this fp8bench speaks interface {INTERFACE}."
    return tuple(BuiltLibrary(backend=name, ok=False, error=error) for name in wanted)


def _hash(tree: Path, attempts: Sequence[_Attempt]) -> str:
    """Hash of what the build directory will hold: the backend files and the libraries that there are."""
    sources = libraries.hash_files(tree, (tree / _BACKENDS).rglob("*.py"))
    parts = [sources, *sorted(attempt.plan.file_name for attempt in attempts if attempt.plan)]
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:_HASH_LETTERS]


def _kept(attempt: _Attempt) -> list[Path]:
    """Files of a compiled library that go into a build."""
    files = sorted(attempt.directory.iterdir()) if attempt.directory else []
    return [file for file in files if file.name != libraries.DIGESTS]


def _is_whole(target: Path, tree: Path, attempts: Sequence[_Attempt]) -> bool:
    """Whether a build holds what it should, byte for byte: backend files of the commit, libraries as compiled."""
    try:
        if read_manifest(target).hash != target.name:
            return False
        wanted = [(file, target / file.name) for attempt in attempts for file in _kept(attempt)]
        sources = tree / _BACKENDS
        wanted += [(file, target / "backends" / file.relative_to(sources)) for file in sources.rglob("*.py")]
        return all(ours.samefile(theirs) or ours.read_bytes() == theirs.read_bytes() for ours, theirs in wanted)
    except (RunDirError, OSError):
        return False


def _assemble(tree: Path, target: Path, attempts: Sequence[_Attempt], sha: str, dirty: bool) -> None:
    """Put a build directory together and give it its name."""
    made = Path(tempfile.mkdtemp(dir=target.parent, prefix=".build-"))
    try:
        shutil.copytree(tree / _BACKENDS, made / "backends")
        for attempt in attempts:
            for file in _kept(attempt):
                libraries.copy(file, made / file.name)
        records.write(_manifest(target.name, attempts, sha, dirty), made / "build.json")
        made.chmod(0o755)  # mkdtemp's is for its owner only
        if target.is_dir() and not _is_whole(target, tree, attempts):
            shutil.rmtree(target)  # damaged: by hand, or by a disk
        libraries.settle(made, target)
    finally:
        shutil.rmtree(made, ignore_errors=True)


def _manifest(name: str, attempts: Sequence[_Attempt], sha: str, dirty: bool) -> Manifest:
    plans = [attempt.plan for attempt in attempts if attempt.plan]
    return Manifest(
        hash=name,
        commit=sha,
        dirty=dirty,
        interface=INTERFACE,
        created=datetime.now(UTC),
        compilers={tool: version for plan in plans for tool, version in plan.compilers.items()},
        flags={plan.backend: plan.compile[1:] for plan in plans},
        architectures=next((plan.architectures for plan in plans if plan.architectures), ()),
        libraries=tuple(attempt.record.model_copy(update={"note": ""}) for attempt in attempts if attempt.record.ok),
    )
