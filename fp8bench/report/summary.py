"""The night as GitHub-flavoured Markdown, for pull requests and job summaries."""

from __future__ import annotations

from pathlib import Path

from .. import wording
from ..night import Night
from . import digest
from .templating import template


def render(run_dir: Path, home: Path | None = None) -> str:
    """The summary of the judged night in `run_dir`. RunDirError when a record is missing.

    home: where decisions about causes are kept; without it none are shown.
    """
    found = digest.build(Night.read(run_dir, home))
    return template("report/summary.md.j2").render(digest=found, no_suspect=wording.NO_SUSPECT)
