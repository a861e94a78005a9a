"""`fp8bench build`: compile the kernels of a commit, or of a worktree, and show what they need."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from itertools import groupby
from operator import attrgetter
from pathlib import Path

from rich import box
from rich.console import Console
from rich.table import Table

from .. import builds, config, git, resources
from ..config import Config
from ..records import Built, BuiltLibrary
from ..resources import KernelResources
from . import EXIT_ERROR, EXIT_OK, EXIT_WRONG


def configure(parser: argparse.ArgumentParser) -> None:
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--commit", metavar="REV", default="HEAD", help="commit to build (default: HEAD)")
    what.add_argument("--worktree", action="store_true", help="build the files as they lie in the repository now")
    parser.add_argument("--repo", metavar="URL|PATH", help="repository (default: setting repo)")
    parser.add_argument("--arch", nargs="+", metavar="XX", help="CUDA architectures, e.g. 90 100 for sm_90 and sm_100")
    parser.add_argument("--json", action="store_true", help="print the result as JSON")


def run(args: argparse.Namespace) -> int:
    settings = _settings(args.arch)
    built = _build(args.repo or settings.repo, args.commit, args.worktree, settings)
    kernels = resources.read(Path(built.path)) if built.path else []
    if args.json:
        print(
            json.dumps(built.model_dump(mode="json") | {"resources": [asdict(kernel) for kernel in kernels]}, indent=1)
        )
    else:
        _show(built, kernels)
    if any(library.error for library in built.libraries):
        return EXIT_WRONG
    # without a CUDA compiler a build goes on, unless somebody asked for architectures by name
    return EXIT_ERROR if args.arch and not all(library.ok for library in built.libraries) else EXIT_OK


def _settings(architectures: Sequence[str] | None) -> Config:
    if not architectures:
        return config.load()
    names = tuple(name.removeprefix("sm_").removeprefix("sm") for name in architectures)
    settings = config.load()
    return settings.model_copy(update={"build": settings.build.model_copy(update={"architectures": names})})


def _build(repo: str, revision: str, worktree: bool, settings: Config) -> Built:
    if worktree:
        return builds.build(Path(repo), "", "candidate", settings, worktree=True)
    directory = git.open_repo(repo, settings.home / "repos")
    commit = git.resolve(directory, revision, settings.home / "repos")
    return builds.build(directory, commit.sha, "candidate", settings)


def _show(built: Built, kernels: Sequence[KernelResources]) -> None:
    console = Console(highlight=False, soft_wrap=True)
    how = "was there" if built.cached else f"{built.seconds:.1f} s"
    console.print(f"build    {built.path or 'none'} ({how})", markup=False)
    for library in built.libraries:
        console.print(f"{library.backend:<8} {_state(library)}", markup=False, style="" if library.ok else "red")
        if library.log:
            console.print(library.log, markup=False, style="dim")
    if kernels:
        console.print(_summary(kernels, box.SIMPLE_HEAD if console.is_terminal else None))


def _state(library: BuiltLibrary) -> str:
    if library.ok:
        return library.note or "sources"
    return library.error or f"not built: {library.note}"


def _summary(kernels: Iterable[KernelResources], frame: box.Box | None) -> Table:
    """One row an architecture: how many kernels, and the most that one of them needs."""
    table = Table(*("most of one:", "kernels", "registers", "spilling", "stack", "shared memory"), box=frame)
    for name, group in groupby(sorted(kernels, key=_by_architecture), attrgetter("architecture")):
        entries = list(group)
        table.add_row(
            f"sm_{name}",
            str(len(entries)),
            str(max(entry.registers for entry in entries)),
            f"{sum(entry.spills > 0 for entry in entries)} kernels",
            f"{max(entry.stack for entry in entries)} B",
            f"{max(entry.shared for entry in entries)} B",
        )
    return table


def _by_architecture(kernel: KernelResources) -> tuple[int, str]:
    """90 before 100, 100 before 100a."""
    return int(kernel.architecture.rstrip("af")), kernel.architecture
