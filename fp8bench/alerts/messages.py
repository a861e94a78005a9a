"""What is mailed: one message a cause, one to the operators when the night is invalid, none on a clean night."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from .. import wording
from ..night import Night
from ..records import Cause, Message, Verdict
from ..report.causes import summary
from ..report.templating import template

if TYPE_CHECKING:
    from ..config import Config

SHOWN = 4  # cells and suspects told in a mail; the report has them all
TAG = "[fp8bench]"


@dataclass(frozen=True)
class Suspect:
    short: str
    subject: str
    author: str


@dataclass(frozen=True)
class Mail:
    """What the templates of a mail are given."""

    verdict: str
    lead: str
    detail: str
    cells: tuple[tuple[str, str], ...]  # cell, effect
    more: int
    suspects: tuple[Suspect, ...]
    more_suspects: int
    compared: str
    reproduction: str
    links: tuple[tuple[str, str], ...]  # name, address or path


def build(night: Night, config: Config) -> list[Message]:
    """The messages of a night, in the order of its causes."""
    return [*_of_causes(night, config), *_of_operators(night, config)]


def _of_causes(night: Night, config: Config) -> Iterator[Message]:
    for cause in night.verdicts.causes:
        yield _message(night, config.mail.to, subject(night, cause), _mail(night, cause), cause.id)


def subject(night: Night, cause: Cause) -> str:
    """`[fp8bench] REGRESSED cuda/H200 +4.1% (3 cells) suspect abc1234de`"""
    effect = wording.percent(cause.worst.value) if cause.worst else ""
    cells = f"({wording.count(len(cause.cells), 'cell')})" if cause.cells else ""
    suspects = [night.commit(sha).short for sha in cause.suspects]
    accused = f"suspect {suspects[0]}" if len(suspects) == 1 else f"{len(suspects)} suspects" if suspects else ""
    where = f"{cause.backend}/{wording.short_device(night.prepared.environment.device_name)}"
    words = [TAG, cause.verdict.value, where, effect, cells, accused]
    return wording.one_line(" ".join(word for word in words if word))


def _mail(night: Night, cause: Cause) -> Mail:
    effects = {facts.verdict.cell: facts.verdict.effect for facts in night.facts}
    named = () if cause.verdict is Verdict.NOT_BUILT else cause.cells  # without a build it is all of them
    ranked = sorted(named, key=lambda cell: -(effect.value if (effect := effects[cell]) else 0.0))
    told = [(cell, wording.effect_text(effects[cell]) if effects[cell] else "") for cell in ranked[:SHOWN]]
    suspects = [night.commit(sha) for sha in cause.suspects[:SHOWN]]
    name = wording.title(cause.backend)
    about = summary(cause)
    return Mail(
        verdict=cause.verdict.value,
        lead=f"{name} {wording.WORDS[cause.verdict]}" + (f": {about}." if about else "."),
        detail="" if cause.verdict is Verdict.REGRESSED else wording.one_line(cause.detail, 300),
        cells=tuple(told),
        more=len(ranked) - len(told),
        suspects=tuple(
            Suspect(commit.short, wording.one_line(commit.subject, 80), wording.one_line(commit.author, 60))
            for commit in suspects
        ),
        more_suspects=len(cause.suspects) - len(suspects),
        compared=_compared(night),
        reproduction=night.reproduction(cause),
        links=_links(night, cause.backend),
    )


def _compared(night: Night) -> str:
    prepared = night.prepared
    device = wording.short_device(prepared.environment.device_name)
    return f"{prepared.candidate.short} against baseline {prepared.baseline.short} on {device}, night {prepared.run_id}"


def _links(night: Night, backend: str) -> tuple[tuple[str, str], ...]:
    report = night.link("report") or str(night.run_dir / "report.html")
    links = (
        ("Report", report),
        ("MLflow", night.link(backend) or night.link("night")),
        ("Compare", night.link(f"compare {backend}")),
    )
    return tuple((name, link) for name, link in links if link)


def _of_operators(night: Night, config: Config) -> Iterator[Message]:
    """An invalid night says nothing about a commit: it goes to whoever runs the machine."""
    verdicts = night.verdicts
    if verdicts.verdict is not Verdict.INVALID and all(
        entry.verdict is not Verdict.INVALID for entry in verdicts.backends
    ):
        return
    device = wording.short_device(night.prepared.environment.device_name)
    reason = next(
        (entry.sentence for entry in verdicts.backends if entry.verdict is Verdict.INVALID), verdicts.sentence
    )
    mail = Mail(
        verdict=Verdict.INVALID.value,
        lead=f"The night on {device} ({night.prepared.environment.host}) is invalid and proves nothing.",
        detail=wording.one_line(reason, 300),
        cells=(),
        more=0,
        suspects=(),
        more_suspects=0,
        compared=_compared(night),
        reproduction="",
        links=_links(night, ""),
    )
    title = wording.one_line(f"{TAG} INVALID night on {device}: {reason}")
    yield _message(night, config.mail.operators or config.mail.to, title, mail, "invalid")


def _message(night: Night, to: tuple[str, ...], title: str, mail: Mail, cause: str) -> Message:
    """The report travels along where no link leads to it."""
    attached = () if night.link("report") or not (night.run_dir / "report.html").is_file() else ("report.html",)
    return Message(
        subject=title,
        to=to,
        text=template("mail/mail.txt.j2").render(mail=mail),
        html=template("mail/mail.html.j2").render(mail=mail, title=title),
        attachments=attached,
        cause=cause,
    )
