"""`fp8bench prune`: remove old run directories and builds that nobody needs, as the `[retention]` settings say."""

from __future__ import annotations

import argparse

from .. import config
from . import EXIT_ERROR, EXIT_OK


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--dry-run", action="store_true", help="say what would be removed, and remove nothing")


def run(args: argparse.Namespace) -> int:
    from .. import retention, stages  # pandas takes its time, and --help needs none of it

    settings = config.load()
    found = retention.prune(settings, dry_run=args.dry_run)
    if not args.dry_run and any(entry.path.parent == settings.runs_dir for entry in found.removed):
        stages.refresh_index(settings)  # its links lead to the nights that are left
    did = "would remove" if args.dry_run else "removed"
    for entry in found.removed:
        print(f"{did}  {entry.path}  ({entry.reason})")
    for entry in found.kept:
        print(f"kept  {entry.path}  ({entry.reason})")
    for entry in found.failed:
        print(f"could not remove  {entry.path}  ({entry.reason})")
    directories = "1 directory" if len(found.removed) == 1 else f"{len(found.removed)} directories"
    print(f"{did} {directories}, {found.freed:,} bytes")
    return EXIT_ERROR if found.failed else EXIT_OK
