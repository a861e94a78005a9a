"""The night as lines for a terminal. Colour is a style beside the words, so that plain text loses nothing."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from rich.text import Text

from .. import wording
from ..metrics import CellFacts
from ..night import Night
from ..rundir import RunDir
from . import cells, digest
from .digest import BriefCause, Digest
from .speedups import Pair, Speedups
from .tones import Badge, Tone

STYLES: dict[Tone, str] = {"bad": "bold red", "warn": "bold yellow", "good": "bold green", "calm": "dim"}


def render(run_dir: Path, home: Path | None = None) -> list[Text]:
    """The lines of the judged night in `run_dir`. RunDirError when a record is missing.

    home: where decisions about causes are kept; without it none are shown.
    """
    night = Night.read(run_dir, home)
    found = digest.build(night)
    return [
        *_top(found),
        *_trust(found),
        *_causes(found),
        *_also(found),
        *_speedups(found.speedups),
        *_where(found, run_dir),
    ]


def cell_lines(run_dir: Path) -> list[str]:
    """A line a cell of the judged night in `run_dir`, the loudest first, for logs. RunDirError as `render`."""
    return [_cell_line(facts) for facts in cells.ranked(Night.read(run_dir))]


def _cell_line(facts: CellFacts) -> str:
    """`REGRESSED    cuda/per-token/bfloat16/1024x7168/cold  +4.1% [4.0, 4.2]  8.293 -> 8.637 us`"""
    found = facts.verdict
    effect = wording.effect_text(found.effect) if found.effect else wording.one_line(found.reason, 120)
    both = found.baseline_us and found.candidate_us
    times = f"  {found.baseline_us:.4g} -> {found.candidate_us:.4g} us" if both else ""
    return f"{found.verdict.value:<11}  {facts.cell.id}  {effect}{times}"


def _top(found: Digest) -> Iterator[Text]:
    header = found.header
    yield _line(_word(header.badge), (f"  {header.device}, {header.date}", "bold"))
    yield _line(header.lead, f" Suite {header.suite}, night {header.run_id}.")
    width = max((len(line.badge.word) for line in header.lines), default=0)
    for line in header.lines:
        yield _line("  ", _word(line.badge, width), "  ", line.text)
    for note in header.notes:
        yield _line("  ", (note, STYLES["warn"]))


def _trust(found: Digest) -> Iterator[Text]:
    parts: list[str | tuple[str, str]] = [("trust", "bold")]
    for tile in found.tiles:
        value = f"{tile.value} ({tile.note})" if tile.note else tile.value
        parts += ["  " if len(parts) == 1 else " · ", f"{tile.label.lower()} "]
        parts.append((value, STYLES["warn"]) if tile.tone == "warn" else value)
    yield Text()
    yield _line(*parts)


def _causes(found: Digest) -> Iterator[Text]:
    yield Text()
    if found.sentence:
        yield _line(found.sentence)
    for number, cause in enumerate(found.causes):
        if number:
            yield Text()
        yield from _cause(cause)


def _cause(cause: BriefCause) -> Iterator[Text]:
    state = f" ({cause.state})" if cause.state else ""
    yield _line(_word(cause.badge), "  ", (cause.title, "bold"), state, f"  {cause.summary}" if cause.summary else "")
    if cause.decision:
        yield _line("  decided  ", (cause.decision, STYLES["warn"]))
    if cause.detail:
        yield _line("  ", cause.detail)
    rows = [(cell.cell, cell.effect, cell.times) for cell in cause.cells]
    yield from _table(rows)
    if cause.more:
        yield _line("  ", f"and {wording.count(cause.more, 'more cell')}")
    if not cause.suspects:
        yield _line("  ", f"no suspect: {wording.NO_SUSPECT}")
    for suspect in cause.suspects:
        yield _line("  suspect  ", (suspect.short, "yellow"), f"  {suspect.text}")
        if suspect.files:
            yield _line("           ", (suspect.files, "dim"))
    if cause.more_suspects:
        yield _line("  ", f"and {wording.count(cause.more_suspects, 'more suspect')}")
    yield _line("  see it   ", (cause.reproduction, "cyan"))


def _also(found: Digest) -> Iterator[Text]:
    for group in found.also:
        yield Text()
        yield _line((group.title.lower(), "bold"))
        for item in group.items:
            yield _line("  ", item.name, "  ", item.text)
        if group.more:
            yield _line("  ", f"and {group.more} more")


def _speedups(found: Speedups | None) -> Iterator[Text]:
    if found is None:
        return
    yield Text()
    yield _line(("speedup over Torch (Compiled), baseline → candidate", "bold"))
    yield from _table([("", *found.columns), *((row.family, *map(_pair, row.pairs)) for row in found.rows)])


def _pair(pair: Pair | None) -> str:
    if pair is None:
        return "–"
    return f"{pair.baseline} → {pair.candidate}" + (f" ({pair.note})" if pair.note else "")


def _where(found: Digest, run_dir: Path) -> Iterator[Text]:
    yield Text()
    report = RunDir(run_dir).report
    links = found.links if found.links or not report.is_file() else (("Report", str(report)),)
    for name, address in links:
        yield _line(f"{name.lower():<8} ", address)
    yield _line(f"{'files':<8} ", str(run_dir))


def _table(rows: Sequence[Sequence[str]]) -> Iterator[Text]:
    """Columns beside each other: the first to the left, the others to the right."""
    widths = [max(len(row[index]) for row in rows) for index in range(len(rows[0]))] if rows else []
    for row in rows:
        first, *others = (
            cell.ljust(width) if not index else cell.rjust(width)
            for index, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        yield _line("    ", "  ".join([first, *others]))


def _word(badge: Badge, width: int = 0) -> tuple[str, str]:
    return badge.word.upper().ljust(width), STYLES[badge.tone]


def _line(*parts: str | tuple[str, str]) -> Text:
    """A line of parts with their styles; control characters, which a commit may hold, become spaces."""
    line = Text()
    for part in parts:
        text, style = (part, "") if isinstance(part, str) else part
        line.append("".join(character if character.isprintable() else " " for character in text), style)
    line.rstrip()
    return line
