"""`fp8bench baseline show|accept`: which build the nights are measured against."""

from __future__ import annotations

import argparse
from pathlib import Path

from .. import config as settings
from .. import records
from ..config import Config
from ..errors import UsageError
from ..records import Prepared


def configure(parser: argparse.ArgumentParser) -> None:
    actions = parser.add_subparsers(dest="action", metavar="show|accept", required=True)
    show = actions.add_parser("show", help="the accepted build of every device")
    show.add_argument("--device-name", help="of this device only, e.g. 'NVIDIA H200'")
    accept = actions.add_parser("accept", help="make the candidate of a night the baseline of its device")
    accept.add_argument("run", nargs="?", default="", metavar="RUN", help="run id or run directory (the latest night)")
    accept.add_argument("--device-name", help="accept it for this device (the one that the night ran on)")
    accept.add_argument("--force", action="store_true", help="even if the night ended wrong, crashed or invalid")


def run(args: argparse.Namespace) -> int:
    config = settings.load()
    return _show(config, args.device_name) if args.action == "show" else _accept(config, args)


def _show(config: Config, device_name: str | None) -> int:
    from .. import store  # mlflow takes seconds to import

    place = store.where(config)
    if not store.exists(config):
        print(f"No night was logged to {place} yet: set FP8BENCH_HOME to the home of the nights that you mean.")
        return 0
    found = store.accepted_baselines(config)
    chosen = [baseline for baseline in found if device_name in (None, baseline.device_name)]
    for baseline in chosen:
        when = f"{baseline.accepted_at[:16].replace('T', ' ')} UTC" if baseline.accepted_at else "an unknown time"
        print(f"{baseline.device_name}: {baseline.sha} (night {baseline.run_id}, accepted {when})")
    if not chosen:
        device = f" for {device_name}" if device_name else ""
        known = f" Known devices: {', '.join(baseline.device_name for baseline in found)}." if found else ""
        print(f"No baseline is accepted{device} in {place} yet: the first night sets one.{known}")
    return 0


def _accept(config: Config, args: argparse.Namespace) -> int:
    from .. import store

    accepted = store.accept(config, _run_id(args.run), args.device_name, force=args.force)
    print(f"{accepted.device_name}: the baseline is now {accepted.sha} (night {accepted.run_id}).")
    return 0


def _run_id(run: str) -> str:
    """The run id that a person means by a run id, a run directory, or nothing (the latest night)."""
    directory = Path(run) if run else None
    if directory is None or not directory.is_dir():
        return run
    if not (directory / "prepare.json").is_file():
        raise UsageError(f"{run} is no run directory (it has no prepare.json): give one, or a run id.")
    return records.read(Prepared, directory / "prepare.json").run_id
