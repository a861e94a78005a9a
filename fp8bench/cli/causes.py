"""`fp8bench causes list|ack|silence|accept|reopen`: what is open, and what people decided about it.

A decision holds up to a limit: a cause that gets worse than that is mailed again. None of them changes a verdict: the
night stays red until the kernels are mended or another baseline is accepted.
"""

from __future__ import annotations

import argparse
import getpass
import json
import math
import re
import sys
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

from .. import causes, wording
from .. import config as settings
from ..causes import Decision, Kind, Standing
from ..errors import UsageError
from . import EXIT_OK

PIPED_WIDTH = 400  # characters

KINDS: dict[str, tuple[Kind, str]] = {
    "ack": ("acknowledged", "say that somebody is looking at a cause"),
    "silence": ("silenced", "send no mails about a cause until it gets worse"),
    "accept": ("accepted", "a cause is known and wanted: no mails until it gets worse"),
}


def configure(parser: argparse.ArgumentParser) -> None:
    parser.epilog = "Exits 0 when it could do what was asked, else 4."
    actions = parser.add_subparsers(dest="action", metavar="list|ack|silence|accept|reopen", required=True)
    listed = actions.add_parser("list", help="open causes, the loudest first")
    listed.add_argument("--all", action="store_true", help="also those that recovered")
    listed.add_argument("--json", action="store_true", help="as JSON, for other programs")
    for name, (_, summary) in KINDS.items():
        _configure_decision(actions.add_parser(name, help=summary), name)
    reopen = actions.add_parser("reopen", help="take back what was decided about a cause")
    _configure_cause(reopen)


def _configure_cause(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("cause", metavar="CAUSE", help="id, or its beginning, as mails and reports give it")
    parser.add_argument("--device-name", default="", help="of this device, where several know the cause")


def _configure_decision(parser: argparse.ArgumentParser, name: str) -> None:
    _configure_cause(parser)
    parser.add_argument("--why", required=True, metavar="TEXT", help="one sentence that others will read")
    parser.add_argument("--who", default="", metavar="NAME", help="who decides (default: your user name)")
    if name != "ack":
        parser.add_argument(
            "--limit", type=_percent, metavar="PERCENT", help="holds up to this effect, e.g. +6%% (what was seen last)"
        )
    if name == "silence":
        parser.add_argument("--days", type=float, metavar="N", help="ends after so many days (without end)")


def _percent(text: str) -> float:
    """The log-ratio of `+6%`."""
    match = re.fullmatch(r"\+?(\d+(?:\.\d+)?)%?", text.strip())
    if match is None or not 0 < float(match[1]) < 10_000:
        raise argparse.ArgumentTypeError(f"{text!r} is no effect: give percent of time, e.g. +6%")
    return math.log1p(float(match[1]) / 100)


def run(args: argparse.Namespace) -> int:
    home = settings.load().home
    if args.action == "list":
        found = causes.ranked([entry for entry in causes.read(home).causes if args.all or entry.is_open])
        print(_as_json(found)) if args.json else _show(found, home)
        return EXIT_OK
    with causes.changing(home) as held:
        standing = causes.choose(held[0], args.cause, args.device_name, home)
        changed = _reopened(standing) if args.action == "reopen" else _decided(standing, args)
        held[0] = held[0].with_standing(changed)
    print(_sentence(changed))
    return EXIT_OK


def _reopened(standing: Standing) -> Standing:
    if standing.decision is None:
        raise UsageError(f"cause {standing.id} is open already: nothing was decided about it.")
    return standing.model_copy(update={"decision": None})


def _decided(standing: Standing, args: argparse.Namespace) -> Standing:
    who, why = wording.one_line(args.who or getpass.getuser(), 60), wording.one_line(args.why, 200)
    if not why:
        raise UsageError("--why is empty: say in one sentence why, for those who wonder later.")
    days = getattr(args, "days", None)
    if days is not None and not 0 < days < 10_000:
        raise UsageError(f"--days {days:g}: give a number above 0 and below 10000.")
    return causes.decide(standing, KINDS[args.action][0], who, why, getattr(args, "limit", None), days)


def _sentence(standing: Standing) -> str:
    where = f"{standing.id} ({wording.title(standing.backend)}, {standing.verdict.value}, {standing.device})"
    decision = standing.decision
    return f"{where}: {_decision(decision)}" if decision else f"{where}: open, nothing is decided about it"


def _decision(decision: Decision) -> str:
    return wording.decision(decision.kind, decision.who, decision.why, _until(decision))


def _until(decision: Decision) -> str:
    """Up to where it holds; nothing to say of what changes no mail."""
    if decision.kind == "acknowledged":
        return ""
    limit = wording.percent(decision.limit) if decision.limit is not None else wording.count(decision.cells, "cell")
    return f"up to {limit}" + (f", until {decision.until:%Y-%m-%d}" if decision.until else "")


def _show(found: Sequence[Standing], home: Path) -> None:
    if not found:
        print(_nothing_open(home))
        return
    table = Table(box=None, pad_edge=False)
    for column in ("cause", "verdict", "where", "effect", "cells", "since", "decided"):
        table.add_column(column, overflow="fold")
    for entry in found:
        table.add_row(*_row(entry))
    wide = None if sys.stdout.isatty() else PIPED_WIDTH  # a program that reads it must find rows whole
    Console(highlight=False, markup=False, width=wide).print(table)


def _nothing_open(home: Path) -> str:
    """Good news, or that nothing can be known."""
    if reason := causes.nothing_told(home):
        return f"{reason[0].upper()}{reason[1:]}."
    good = "nothing got slower, wrong, or failed to build since the last one recovered"
    return f"No cause is open in {causes.path_of(home)}: {good}."


def _row(entry: Standing) -> tuple[str, ...]:
    where = f"{entry.backend}/{wording.short_device(entry.device)} {', '.join(entry.families)}"
    state = "" if entry.is_open else "recovered "
    return (
        entry.id,
        f"{state}{entry.verdict.value}",
        where,
        wording.effect_text(entry.worst),
        str(len(entry.accused)),
        f"{entry.first:%Y-%m-%d}",
        _decision(entry.decision) if entry.decision else "–",
    )


def _as_json(found: Sequence[Standing]) -> str:
    return json.dumps([entry.model_dump(mode="json") for entry in found], indent=1)
