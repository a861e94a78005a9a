"""How a verdict looks: its word, and a tone that style sheets and mails turn into a colour. Never colour alone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from .. import wording
from ..records import Verdict

Tone = Literal["bad", "warn", "good", "calm"]

TONES: dict[Verdict, Tone] = {
    Verdict.WRONG: "bad",
    Verdict.CRASHED: "bad",
    Verdict.NOT_BUILT: "bad",
    Verdict.REGRESSED: "bad",
    Verdict.INVALID: "warn",
    Verdict.UNRESOLVED: "warn",
    Verdict.MISSING: "warn",
    Verdict.IMPROVED: "good",
    Verdict.OK: "good",
    Verdict.CONTROL: "calm",
    Verdict.UNSUPPORTED: "calm",
}


@dataclass(frozen=True)
class Badge:
    word: str
    tone: Tone


def badge(verdict: Verdict) -> Badge:
    return Badge(wording.WORDS[verdict], TONES[verdict])


def night_badge(verdict: Verdict, exit_code: int) -> Badge:
    return Badge(wording.headline(verdict, exit_code), "good" if exit_code == 0 else TONES[verdict])
