"""All wording that people read in report, mail, MLflow and terminal: one place, so that it says one thing.

Effects are stored as logarithms of candidate over baseline and told in percent of time: +4.1% is slower.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable

from .backends import TITLES, YARDSTICKS
from .records import CellVerdict, Commit, Effect, Verdict

SUBJECT_LIMIT = 150  # characters

WORDS = {
    Verdict.WRONG: "wrong",
    Verdict.CRASHED: "crashed",
    Verdict.NOT_BUILT: "not built",
    Verdict.REGRESSED: "regressed",
    Verdict.INVALID: "invalid",
    Verdict.UNRESOLVED: "unresolved",
    Verdict.MISSING: "missing",
    Verdict.IMPROVED: "improved",
    Verdict.OK: "OK",
    Verdict.CONTROL: "control",
    Verdict.UNSUPPORTED: "unsupported",
}

LOUD = (Verdict.WRONG, Verdict.CRASHED, Verdict.NOT_BUILT, Verdict.REGRESSED)  # none hides behind another

MEANINGS = {
    Verdict.WRONG: "The candidate's codes or scales differ from the oracle by more than is allowed, or it refuses what "
    "the baseline takes. Not timed.",
    Verdict.CRASHED: "The kernel raised an error, ended its process or did not come back in time, twice.",
    Verdict.NOT_BUILT: "The candidate's sources do not compile; the compiler's words are in the report.",
    Verdict.REGRESSED: "Slower than the baseline, beyond the margin and beyond chance.",
    Verdict.INVALID: "The machine did not hold still: these numbers prove nothing, neither good nor bad.",
    Verdict.UNRESOLVED: "The interval is too wide to say whether it got slower by more than matters, or something else "
    "is in doubt.",
    Verdict.MISSING: "Expected, and not measured.",
    Verdict.IMPROVED: "Faster than the baseline, beyond the margin and beyond chance.",
    Verdict.OK: "Measured: within the margin, and the interval leaves no room for much more.",
    Verdict.CONTROL: "The same machine code in both builds, so it cannot have regressed by code. It shows the noise.",
    Verdict.UNSUPPORTED: "The backend does not offer this case, and says why.",
}

GLOSSARY = {
    "case": "What is computed: scheme, dtype, tokens and hidden size, e.g. per-token/bfloat16/1024x7168.",
    "cell": "What is timed: a case on a backend in a cache regime, e.g. cuda/per-token/bfloat16/1024x7168/cold.",
    "build": "The kernels of one commit, compiled.",
    "candidate": "The build under test.",
    "baseline": "The build that was last accepted. It moves only when somebody accepts another one.",
    "launch": "One fresh worker process that times both builds side by side. Launches are what the statistics count.",
    "effect": "Candidate time over baseline time. +4.1% [3.2, 5.0] reads: 4.1% slower, and with 95% confidence "
    "between 3.2% and 5.0% slower. Negative is faster.",
    "margin": "The smallest effect that is called a change on this machine.",
    "hot, cold": "Hot: inputs may lie in the cache. Cold: they come from memory.",
}


NO_SUSPECT = "no commit between baseline and candidate changes these kernels"


def percent(log_ratio: float, digits: int | None = None) -> str:
    """A log-ratio as a signed percentage: two decimals below 1%, else one."""
    value = 100 * math.expm1(log_ratio)
    return f"{_rounded(value, _digits(value) if digits is None else digits, '+')}%"


def interval(effect: Effect) -> str:
    """`[3.2, 5.0]`: the interval of an effect in percent, with as many decimals as the effect itself."""
    digits = _digits(100 * math.expm1(effect.value))
    return f"[{_rounded(100 * math.expm1(effect.lower), digits)}, {_rounded(100 * math.expm1(effect.upper), digits)}]"


def _digits(value: float) -> int:
    return 2 if abs(value) < 1 else 1


def _rounded(value: float, digits: int, sign: str = "-") -> str:
    """`value` with `digits` decimals and no negative zero."""
    return f"{round(value, digits) + 0.0:{sign}.{digits}f}"


def effect_text(effect: Effect | None) -> str:
    """`+4.1% [3.2, 5.0]`, or a dash where nothing was measured."""
    return "–" if effect is None else f"{percent(effect.value)} {interval(effect)}"


def count(number: int, noun: str) -> str:
    """`1 cell`, `3 cells`; nouns in -y get -ies, those in -ch -es."""
    plural = noun[:-1] + "ies" if noun.endswith("y") else noun + ("es" if noun.endswith("ch") else "s")
    return f"{number} {noun if number == 1 else plural}"


def screened_sentence(cells: int, families: int) -> str:
    """What a screen lets pass."""
    return f"{count(cells, 'cell')} to confirm, {count(families, 'whole family')}" if cells else "nothing to confirm"


def title(backend: str) -> str:
    return TITLES.get(backend, backend)


def suspect(commit: Commit) -> str:
    """`Unroll twice (Sam O'Neil, 2026-03-13)`: what a commit says of itself, to stand after its hash."""
    date = f"{commit.date:%Y-%m-%d}" if commit.date else ""
    who = ", ".join(part for part in (one_line(commit.author, 60), date) if part)
    return (one_line(commit.subject, 100) or "(no subject)") + (f" ({who})" if who else "")


def touched(commit: Commit, limit: int = 4) -> str:
    """`csrc/cpu/quantize.cpp, csrc/cuda/per_token.cu and 3 more`: the kernel files that a commit touches."""
    more = f" and {len(commit.files) - limit} more" if len(commit.files) > limit else ""
    return ", ".join(one_line(file, 80) for file in commit.files[:limit]) + more


def decision(kind: str, who: str, why: str, until: str = "") -> str:
    """`silenced up to +5.2% by jo: known since the driver moved`"""
    return " ".join(part for part in (kind, until, f"by {who}: {why}") if part)


def decide_command(cause: str) -> str:
    """The command that acknowledges a cause; `silence` or `accept` may stand in place of `ack`."""
    return f'fp8bench causes ack {cause} --why "..."'


def verdict_counts(counts: dict[Verdict, int]) -> str:
    """`3 regressed, 290 OK`, loudest first."""
    return ", ".join(f"{counts[verdict]} {WORDS[verdict]}" for verdict in Verdict if counts.get(verdict))


def headline(verdict: Verdict, exit_code: int) -> str:
    """The night in two or three words."""
    return "no regression" if exit_code == 0 else WORDS[verdict]


def backend_sentence(backend: str, verdict: Verdict, cells: Iterable[CellVerdict], reason: str = "") -> str:
    """One sentence on what the night found for a backend, from its cells."""
    cells = list(cells)
    accused = [cell for cell in cells if cell.verdict == verdict]
    name = title(backend)
    if verdict is Verdict.REGRESSED and accused:
        worst = max((cell for cell in accused if cell.effect), key=lambda cell: _value(cell.effect), default=None)
        tail = f", worst {effect_text(worst.effect)} {worst.cell.partition('/')[2]}" if worst else ""
        return f"{name}: {count(len(accused), 'cell')} regressed{tail}"
    if verdict is Verdict.CONTROL and backend in YARDSTICKS:
        return f"{name}: measured for the others to compare with ({count(len(cells), 'cell')})"
    if verdict is Verdict.CONTROL:
        return f"{name}: unchanged, the same machine code in both builds ({count(len(cells), 'cell')})"
    if verdict in (Verdict.OK, Verdict.IMPROVED, Verdict.UNRESOLVED):
        return f"{name}: no regression ({verdict_counts(Counter(cell.verdict for cell in cells))})"
    reason = reason or next((cell.reason for cell in accused if cell.reason), "")
    number = f"{count(len(accused), 'cell')} " if accused else ""
    told = f": {one_line(reason, 200).rstrip('.')}" if reason else ""
    others = Counter(cell.verdict for cell in cells if cell.verdict in LOUD and cell.verdict is not verdict)
    return f"{name}: {number}{WORDS[verdict]}{told}" + (f"; also {verdict_counts(others)}" if others else "")


def _value(effect: Effect | None) -> float:
    return effect.value if effect else -math.inf


def one_line(text: str, limit: int = SUBJECT_LIMIT) -> str:
    """`text` on one line without control characters, cut to `limit` characters: safe as a header."""
    line = re.sub(r"[\x00-\x20\x7f-\xa0\u2028\u2029\u200b-\u200f\u202a-\u202e\u2066-\u2069]+", " ", text).strip()
    return line if len(line) <= limit else line[: limit - 1].rstrip() + "…"


def short_device(name: str) -> str:
    """`H200` for `NVIDIA H200`, `Xeon Platinum 8481C` for what Intel calls it."""
    name = re.sub(r"\((R|TM|tm|r)\)|\bNVIDIA\b|\bIntel\b|\bAMD\b|\bCPU\b|\bProcessor\b|@.*", " ", name)
    return one_line(re.sub(r"\s+", " ", name), 28) or "device"
