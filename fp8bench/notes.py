"""What the page of a run in MLflow says of it, in Markdown: the verdict, what is accused, where to read on.

Whatever commits and logs say stands in code spans: there it stays text.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from . import wording
from .night import Night
from .records import Cause, Commit

SUSPECTS = 5


def write(night: Night, backend: str, links: Mapping[str, str]) -> str:
    """The description of a backend's run. links: addresses by name, as `records.Logged` has them."""
    # MLflow folds a description after four lines: verdict and links come first
    lines = [*_verdict(night, backend), *_where(backend, links), *_whole_night(night), *_commits(night)]
    for cause in night.verdicts.causes:
        if cause.backend == backend:
            lines += _cause(night, cause)
    return "\n".join([*lines, *_artifacts(night)])


def _verdict(night: Night, backend: str) -> Iterator[str]:
    entry = next(entry for entry in night.verdicts.backends if entry.backend == backend)
    yield f"**{_plain(entry.sentence)}**"
    yield ""


def _whole_night(night: Night) -> Iterator[str]:
    prepared = night.prepared
    device = wording.short_device(prepared.environment.device_name)
    yield f"Night {_code(prepared.run_id)}, suite {_code(prepared.suite)} on {_code(device)}. The whole night: "
    yield f"{_plain(night.verdicts.sentence)}"
    yield ""


def _where(backend: str, links: Mapping[str, str]) -> Iterator[str]:
    """Links to the report, to the comparison with the baseline's run, and to the night's other runs."""
    told = (
        ("Report", links.get("report", "")),
        ("Candidate against baseline", links.get(f"compare {backend}", "")),
        ("All backends of this night", links.get("night", "")),
        ("All nights", links.get("experiment", "")),
    )
    present = [f"[{name}]({address})" for name, address in told if address.startswith(("http://", "https://"))]
    if present:
        yield " · ".join(present)
        yield ""


def _commits(night: Night) -> Iterator[str]:
    prepared = night.prepared
    yield "| | commit | |"
    yield "|:--|:--|:--|"
    for role, commit in (("candidate", prepared.candidate), ("baseline", prepared.baseline)):
        yield f"| {role} | {_code(commit.short)} | {_code(_subject(commit))} |"
    yield ""


def _cause(night: Night, cause: Cause) -> Iterator[str]:
    cells = f", {wording.count(len(cause.cells), 'cell')}" if cause.cells else ""
    worst = f", worst {wording.effect_text(cause.worst)}" if cause.worst else ""
    yield f"### {cause.verdict.value}: {_code(', '.join(cause.families) or 'the build')}{cells}{worst}"
    yield ""
    suspects = [night.commit(sha) for sha in cause.suspects]
    for commit in suspects[:SUSPECTS]:
        yield f"- suspect {_code(commit.short)} {_code(_subject(commit))}"
    if len(suspects) > SUSPECTS:
        yield f"- and {len(suspects) - SUSPECTS} more suspects"
    if not suspects:
        yield f"- no suspect: {wording.NO_SUSPECT}"
    yield f"- see it again: {_code(night.reproduction(cause))}"
    yield f"- decide: {_code(wording.decide_command(cause.id))}, or `silence` or `accept` in place of `ack`"
    yield ""


def _artifacts(night: Night) -> Iterator[str]:
    accused = "; `figures/` shows the launches of what is accused" if night.verdicts.causes else ""
    yield (
        f"Among the artifacts: `report.html`, `cells.csv`, `samples.parquet` (raw blocks), `records/`{accused}. "
        "Charts sort by what matters: `00_summary`, `01_geomean_us`, `02_ratio_vs_baseline`, `03_regressed_cells`."
    )


def _subject(commit: Commit) -> str:
    return wording.one_line(f"{commit.subject} ({commit.author})")


def _code(text: str) -> str:
    """A code span that may stand in a table; what would end it is replaced."""
    return f"`{wording.one_line(text, 400).replace('`', chr(39)).replace('|', '¦')}`"


def _plain(text: str) -> str:
    """A sentence of ours that quotes what tools say: nothing in it can become markup."""
    line = wording.one_line(text, 1000)
    return "".join(f"\\{character}" if character in "\\`*_[]<>|#~" else character for character in line)
