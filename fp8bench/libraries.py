"""Kernel libraries: what it takes to compile one from a source tree, and a cache of those that were compiled.

A library is named by the hash of all that goes into it (sources, compilers, flags, architectures), and is kept in
`builds/.libraries/<hash>/`: a commit that touches `csrc/cpu` alone does not compile CUDA again. The flags that the
kernels themselves ask for stand beside them in `csrc/<backend>/compile_flags.txt` and belong to the commit.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import platform
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterable, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from pathlib import Path

from . import machine_code as code
from .errors import BuildError, ToolchainError
from .secrecy import scrubbed_environment
from .toolchain import Compiler, Nvcc, find_cxx, find_nvcc

NATIVE = ("cuda", "cpu")  # backends with a library; the longest to compile first
DIGESTS = "SHA256SUMS"  # beside a compiled library: what its files were when they were written
_TIMEOUT_S = 900.0
_LOG_LINES = 60
_HASH_LETTERS = 16
_CONTENTS = "4"  # counts changes of what lies beside a library: its hash includes it
_SPARE_BYTES = 1 << 20  # with less the disk is full

# What every library needs, whatever its kernels ask for. Paths are kept out of it, so that the same sources give the
# same bytes wherever they are compiled; symbols left undefined are found here and not when a night loads the library.
_HOST_FLAGS = ("-fPIC", "-fvisibility=hidden")
_LINK_FLAGS = ("-Wl,-z,defs", "-Wl,--build-id=none", "-Wl,--exclude-libs,ALL", "-Wl,-s")


@dataclass(frozen=True)
class Plan:
    """How one library is compiled."""

    backend: str
    tree: Path  # holds csrc/; commands run in it
    sources: tuple[str, ...]  # relative to the tree, one object each
    compile: tuple[str, ...]  # command without source and output
    link: tuple[str, ...]  # command without objects and output
    link_with: tuple[str, ...]  # what stands behind the objects
    compilers: dict[str, str]  # name -> version
    architectures: tuple[str, ...]  # of sm_XX
    hash: str

    @property
    def file_name(self) -> str:
        return f"libfp8bench_{self.backend}-{self.hash}.so"


def hash_files(root: Path, files: Iterable[Path]) -> str:
    """Hash of the names below `root` and the contents of `files`, in any order."""
    digest = hashlib.sha256()
    for file in sorted(files):
        content = file.read_bytes()
        digest.update(f"{file.relative_to(root).as_posix()}\0{len(content)}\0".encode() + content)
    return digest.hexdigest()


def plan(backend: str, tree: Path, architectures: Sequence[str]) -> Plan:
    """How the library of `backend` is compiled from `tree`; ToolchainError without a compiler for it.

    architectures: of sm_XX; those that nvcc does not know are left out. BuildError where the tree has no sources.
    """
    cxx = find_cxx()
    nvcc = find_nvcc() if backend == "cuda" else None
    folder = tree / "csrc" / backend
    sources = tuple(sorted(file.relative_to(tree).as_posix() for file in folder.rglob("*.cu" if nvcc else "*.cpp")))
    if not sources:
        raise BuildError(f"the commit has no sources of the {backend} kernels in csrc/{backend}.")
    compilers = {"c++": cxx.version} | ({"nvcc": nvcc.version} if nvcc else {})
    known = _known(nvcc, architectures) if nvcc else ()
    flags = _flags_of(folder / "compile_flags.txt")
    command = (*_nvcc_command(nvcc, cxx, known), *flags) if nvcc else (*cxx.command, *_HOST_FLAGS, *flags)
    link, link_with = _nvcc_link(nvcc, cxx) if nvcc else ((*cxx.command, "-shared", *_LINK_FLAGS), ())
    shared = [file for file in (tree / "csrc").iterdir() if file.is_file()]
    content = hash_files(tree, [*shared, *(file for file in folder.rglob("*") if file.is_file())])
    options = [word for word in (*command[1:], *link[1:], *link_with) if not word.startswith(("-L", "-ccbin"))]
    digest = hashlib.sha256("\0".join([_CONTENTS, content, platform.machine(), *compilers.values(), *options]).encode())
    name = digest.hexdigest()[:_HASH_LETTERS]
    return Plan(backend, tree, sources, (*command, _definition(name)), link, link_with, compilers, known, name)


def compile_library(plan: Plan, cache: Path, pool: Executor) -> Path:
    """The directory in `cache` with the library of `plan`, compiled now if it is not there.

    BuildError with the compiler's words when it does not compile; then nothing is kept.
    """
    target = cache / plan.hash
    if is_sound(target, plan.file_name):
        return target
    if target.is_dir():
        shutil.rmtree(target)  # cut off, or changed since it was compiled
    cache.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=cache, prefix=".compile-") as name:
        made = Path(name) / "library"
        made.mkdir()
        log = _compile(plan, pool) + _link(plan, made / plan.file_name)
        if plan.backend == "cuda":
            (made / "resources-cuda.txt").write_text(log)
            (made / "code-cuda.json").write_text(_code(plan, made / plan.file_name))
        (made / DIGESTS).write_text(_digests(made))
        settle(made, target)
    return target


def is_sound(directory: Path, name: str) -> bool:
    """Whether a compiled library's directory holds what was written there: each file by its SHA-256, and `name`.

    It finds files that a disk, a person or a candidate's code changed, not somebody who also changes the digests.
    """
    try:
        return (directory / name).is_file() and (directory / DIGESTS).read_text() == _digests(directory)
    except OSError:
        return False


def _digests(directory: Path) -> str:
    files = sorted(file for file in directory.iterdir() if file.name != DIGESTS)
    return "".join(f"{hashlib.sha256(file.read_bytes()).hexdigest()}  {file.name}\n" for file in files)


def settle(made: Path, target: Path) -> None:
    """Give the finished directory `made` its name; one that another process finished first is as good."""
    try:
        made.rename(target)
    except OSError:
        if not target.is_dir():
            raise


def machine_code(library: Path, source_hash: str) -> str:
    """Hash of a library's bytes without the hash of its sources, which differs where a comment does."""
    return hashlib.sha256(library.read_bytes().replace(source_hash.encode(), b"0" * len(source_hash))).hexdigest()


def _code(plan: Plan, library: Path) -> str:
    """Hashes of a CUDA library's kernels and of the host code that launches them, as JSON: see `machine_code`."""
    blank = b"0" * len(plan.hash)
    objects = [(plan.tree / name).read_bytes().replace(plan.hash.encode(), blank) for name in _objects(plan)]
    return json.dumps({"host": code.host_code(objects), "kernels": code.kernels_of_library(library.read_bytes())})


def _definition(source_hash: str) -> str:
    return f'-DFP8BENCH_SOURCE_HASH="{source_hash}"'


def _known(nvcc: Nvcc, architectures: Sequence[str]) -> tuple[str, ...]:
    known = tuple(entry for entry in architectures if entry in nvcc.architectures)
    if not known:
        raise ToolchainError(
            f"nvcc {nvcc.version} compiles for none of the architectures {', '.join(architectures) or '(none given)'}: "
            f"it knows {', '.join(sorted(nvcc.architectures, key=lambda name: (len(name), name)))}."
        )
    return known


def _flags_of(file: Path) -> tuple[str, ...]:
    """Flags of `compile_flags.txt`, one a line; optimised C++17 where a commit has no such file."""
    return (
        tuple(filter(None, map(str.strip, file.read_text().splitlines()))) if file.is_file() else ("-std=c++17", "-O3")
    )


def _nvcc_command(nvcc: Nvcc, cxx: Compiler, architectures: Sequence[str]) -> tuple[str, ...]:
    host = ",".join(_HOST_FLAGS)
    targets = [f"-gencode=arch=compute_{entry},code=sm_{entry}" for entry in architectures]
    return (str(nvcc.path), f"-ccbin={cxx.program}", *targets, f"-Xcompiler={host}", "-Xptxas=-v")


def _nvcc_link(nvcc: Nvcc, cxx: Compiler) -> tuple[tuple[str, ...], tuple[str, ...]]:
    search = (f"-L{nvcc.library_dir}",) if nvcc.library_dir else ()
    options = tuple(f"-Xlinker={flag.removeprefix('-Wl,')}" for flag in _LINK_FLAGS)
    return (str(nvcc.path), f"-ccbin={cxx.program}", "-shared", "-nodlink", "-cudart=static", *options), search


def _objects(plan: Plan) -> tuple[str, ...]:
    """Names relative to the tree, the same in every build: linkers order data by them."""
    return tuple(f".objects/{plan.backend}/{index:03d}.o" for index in range(len(plan.sources)))


def _compile(plan: Plan, pool: Executor) -> str:
    """Compile all sources; what the compiler printed, in the order of the sources."""
    (plan.tree / ".objects" / plan.backend).mkdir(parents=True)
    made = zip(plan.sources, _objects(plan), strict=True)
    commands = [(*plan.compile, "-c", source, "-o", target) for source, target in made]
    return "".join(pool.map(lambda command: _run(command, plan), commands))


def _link(plan: Plan, library: Path) -> str:
    return _run((*plan.link, *_objects(plan), *plan.link_with, "-o", str(library)), plan)


def _run(command: Sequence[str], plan: Plan) -> str:
    """Run a compiler in the tree; what it printed. BuildError with its words if it fails or hangs."""
    environment = scrubbed_environment() | {"LC_ALL": "C", "SOURCE_DATE_EPOCH": "0"}
    try:
        done = subprocess.run(
            command,
            cwd=plan.tree,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            timeout=_TIMEOUT_S,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise BuildError(f"the {plan.backend} kernels did not compile in {_TIMEOUT_S:.0f} s.") from None
    if done.returncode:
        _refuse_full_disk(done.stdout, plan.tree)
        tail = "\n".join(done.stdout.splitlines()[-_LOG_LINES:])
        raise BuildError(f"the {plan.backend} kernels do not compile: {_first_error(done.stdout)}", tail)
    return done.stdout


def _refuse_full_disk(output: str, tree: Path) -> None:
    """OSError where a compiler failed for want of space: that is no fault of the kernels."""
    if "No space left on device" in output or shutil.disk_usage(tree).free < _SPARE_BYTES:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(tree))


def _first_error(output: str) -> str:
    """The first line of a compiler's output that says what is wrong."""
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    told = (line for line in lines if re.search(r"\berror\b|undefined (symbol|reference)|cannot find", line))
    return next(told, lines[-1] if lines else "the compiler said nothing")


def copy(source: Path, target: Path) -> None:
    """Put the file `source` at `target` too, without a second copy where the file system allows."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)
