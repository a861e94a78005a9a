"""`fp8bench tell`: log and mail the nights, and mail the digests, that MLflow or the mail host did not take.

Exits 4 while some are left.
"""

from __future__ import annotations

import argparse

from .. import config
from . import EXIT_ERROR, EXIT_OK


def configure(parser: argparse.ArgumentParser) -> None:
    """It takes no arguments."""


def run(args: argparse.Namespace) -> int:
    from .. import late  # pandas takes its time, and --help needs none of it

    code = EXIT_OK
    for told in late.tell(config.load()):
        print(f"could not tell  {told.path}: {told.trouble}" if told.trouble else f"told  {told.path}")
        code = EXIT_ERROR if told.trouble else code
    return code
