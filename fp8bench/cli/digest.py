"""`fp8bench digest`: mail what the last seven days were like. The first night of a week does the same."""

from __future__ import annotations

import argparse
from datetime import UTC, datetime

from .. import alerts
from .. import config as settings
from . import EXIT_OK


def configure(parser: argparse.ArgumentParser) -> None:
    parser.epilog = "Exits 0 when the digest was sent or printed, or could be kept where no mail host is set, else 4."
    parser.add_argument("--print", dest="show", action="store_true", help="print it and send nothing")


def run(args: argparse.Namespace) -> int:
    config, now = settings.load(), datetime.now(UTC)
    if args.show:
        message = alerts.digest.build(config, now)
        print(f"Subject: {message.subject}\n\n{message.text}", end="")
        return EXIT_OK
    where = alerts.compose_digest(config, now)
    if alerts.deliver_apart(where, config):
        print(f"sent to {', '.join(config.mail.about_kernels)}")
    return EXIT_OK
