"""`fp8bench index`: write the page over all nights anew. Every night's render stage does the same."""

from __future__ import annotations

import argparse

from .. import config, stages


def configure(parser: argparse.ArgumentParser) -> None:
    """It takes no arguments."""


def run(args: argparse.Namespace) -> int:
    print(stages.refresh_index(config.load()))
    return 0
