"""What is mailed about a night: a message for every cause that is news, one for every cause that recovered, one to the
operators when the night is invalid or its machine has shifted. What has been told and did not get worse is not told
again.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from .. import planting, wording
from ..causes import Ledger, Standing
from ..night import Night
from ..records import Alerts, Cause, Effect, Message, PlannedMail, Verdict
from ..report import figures, recent
from ..report.causes import summary
from ..report.templating import template
from ..report.trust import environment_changes
from ..rundir import RunDir

if TYPE_CHECKING:
    from ..config import Config

SHOWN = 4  # cells told in a mail; the report has them all
SUSPECTS = 3
TAG = "[fp8bench]"
DOMAIN = "fp8bench.invalid"  # of message ids: they name threads, not machines


@dataclass(frozen=True)
class Suspect:
    short: str
    subject: str
    author: str


@dataclass(frozen=True)
class Mail:
    """What the templates of a mail are given."""

    verdict: str
    tone: str  # bad, warn or good
    lead: str
    detail: str = ""
    cells: tuple[tuple[str, str], ...] = ()  # cell, effect
    more: int = 0
    suspects: tuple[Suspect, ...] = ()
    more_suspects: int = 0
    compared: str = ""
    reproduction: str = ""
    decision: str = ""  # the command that decides about the cause
    links: tuple[tuple[str, str], ...] = ()  # name, address or path
    picture: str = ""  # what the picture shows, in words; "" where there is none


@dataclass(frozen=True)
class Finished:
    """A message, and the PNG that it shows (b"": none)."""

    message: Message
    png: bytes = b""


def build(night: Night, plan: Alerts, ledger: Ledger, config: Config) -> list[Finished]:
    """The messages of a night as planned, but for the digest."""
    causes = {cause.id: cause for cause in night.verdicts.causes}
    device = night.prepared.environment.device_name
    found = []
    for planned in plan.mails:
        if planned.kind in ("new", "worse") and planned.cause in causes:
            found.append(_of_cause(night, config, causes[planned.cause], planned))
        elif planned.kind == "recovered" and (standing := ledger.find(planned.cause, device)):
            found.append(_of_recovered(night, config, standing, planned))
        elif planned.kind == "invalid":
            found.append(_of_operators(night, config))
        elif planned.kind == "shifted":
            found.append(_of_shift(night, config))
    return found


def no_verdict(run_dir: Path, config: Config, why: str) -> Message:
    """What the operators are told of a night that proves nothing because it could not be measured or judged."""
    mail = Mail(
        verdict="NO VERDICT",
        tone="warn",
        lead=f"Night {run_dir.name} ended without a verdict and proves nothing.",
        detail=wording.one_line(why, 600),
        compared="nothing that was judged; what was done is kept, and the night can be run again",
        links=(("Run directory", str(run_dir)),),
    )
    title = wording.one_line(f"{TAG} NO VERDICT: {why}")
    return Message(
        subject=title,
        to=config.mail.about_machines,
        text=template("mail/mail.txt.j2").render(mail=mail),
        html=template("mail/mail.html.j2").render(mail=mail, title=title),
        cause="no verdict",
        message_id=message_id(run_dir.name, "no verdict", ""),
    )


def message_id(run_id: str, about: str, device: str) -> str:
    """The id of a night's mail about a cause: the same whenever it is composed."""
    return f"<{_plain(run_id)}.{_plain(about)}.{_short(device)}@{DOMAIN}>"


def thread_id(cause: str, device: str) -> str:
    """What all mails about a cause refer to: it names the thread, and no mail has it."""
    return f"<cause-{_plain(cause)}.{_short(device)}@{DOMAIN}>"


def _plain(text: str) -> str:
    return re.sub(r"[^A-Za-z0-9_-]", "-", text)


def _short(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:8]


# ---- causes -------------------------------------------------------------------------------------------------


def subject(night: Night, cause: Cause, worse: bool = False) -> str:
    """`[fp8bench] REGRESSED cuda/H200 +4.1% (3 cells) suspect abc1234de`, and `WORSE REGRESSED ...` when it grew."""
    effect = wording.percent(cause.worst.value) if cause.worst else ""
    cells = f"({wording.count(len(cause.cells), 'cell')})" if cause.cells else ""
    suspects = [night.commit(sha).short for sha in cause.suspects]
    accused = f"suspect {suspects[0]}" if len(suspects) == 1 else f"{len(suspects)} suspects" if suspects else ""
    words = [TAG, "WORSE" * worse, cause.verdict.value, _where(night, cause.backend), effect, cells, accused]
    return wording.one_line(" ".join(word for word in words if word))


def _where(night: Night, backend: str) -> str:
    return f"{backend}/{wording.short_device(night.prepared.environment.device_name)}"


def _of_cause(night: Night, config: Config, cause: Cause, planned: PlannedMail) -> Finished:
    effects = {facts.verdict.cell: facts.verdict.effect for facts in night.facts}
    named = () if cause.verdict is Verdict.NOT_BUILT else cause.cells  # without a build it is all of them
    ranked = sorted(named, key=lambda cell: -(effect.value if (effect := effects[cell]) else 0.0))
    shown = [(cell, effects[cell]) for cell in ranked[:SHOWN]]
    png = figures.draw(night, figures.worst(night, cause)[:SHOWN])
    suspects = [night.commit(sha) for sha in cause.suspects[:SUSPECTS]]
    mail = Mail(
        verdict=cause.verdict.value,
        tone="bad",
        lead=_lead(cause, planned),
        detail="" if cause.verdict is Verdict.REGRESSED else wording.one_line(cause.detail, 300),
        cells=tuple((cell, wording.effect_text(effect) if effect else "") for cell, effect in shown),
        more=len(ranked) - len(shown),
        suspects=tuple(
            Suspect(commit.short, wording.one_line(commit.subject, 80), wording.one_line(commit.author, 60))
            for commit in suspects
        ),
        more_suspects=len(cause.suspects) - len(suspects),
        compared=_compared(night),
        reproduction=night.reproduction(cause),
        decision=wording.decide_command(cause.id),
        links=_links(night, cause.backend),
        picture=_in_words(shown, night.verdicts.margin) if png else "",
    )
    title = subject(night, cause, planned.kind == "worse")
    return _finished(night, config.mail.about_kernels, title, mail, planned, png)


def _lead(cause: Cause, planned: PlannedMail) -> str:
    about = summary(cause)
    lead = f"{wording.title(cause.backend)} {wording.WORDS[cause.verdict]}" + (f": {about}." if about else ".")
    if planned.kind == "worse":
        told = f" ({wording.percent(planned.before)})" if planned.before is not None else ""
        seen = f", and seen for {cause.nights} nights" if cause.nights > 1 else ""
        lead += f" Worse than last told{told}{seen}."
    if cause.label == "reference":
        lead += " It is the torch reference that moved."
    return lead


def _in_words(shown: Sequence[tuple[str, Effect | None]], margin: float) -> str:
    told = "; ".join(f"{cell} {wording.effect_text(effect)}" for cell, effect in shown if effect)
    limit = wording.percent(margin).lstrip("+")
    return f"Effect of every launch with interval, margin {limit} dotted: {told}"


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


# ---- recovered, invalid -------------------------------------------------------------------------------------


def _of_recovered(night: Night, config: Config, standing: Standing, planned: PlannedMail) -> Finished:
    name = wording.title(standing.backend)
    what = ", ".join(standing.families) or "the build"
    was = wording.WORDS[standing.verdict]
    told = f", last told {wording.percent(planned.before)}" if planned.before is not None else ""
    mail = Mail(
        verdict="RECOVERED",
        tone="good",
        lead=f"{name} recovered: {what}. It was {was}{told}, first seen in night {planned.since}.",
        detail=f"Every cell that was accused ({len(standing.accused)}) was measured and is fine again."
        if standing.accused
        else "",
        compared=_compared(night),
        links=_links(night, standing.backend),
    )
    title = wording.one_line(f"{TAG} RECOVERED {_where(night, standing.backend)} {what} (was {was})")
    return _finished(night, config.mail.about_kernels, title, mail, planned)


def _of_operators(night: Night, config: Config) -> Finished:
    """An invalid night says nothing about a commit: it goes to whoever runs the machine."""
    verdicts = night.verdicts
    device = wording.short_device(night.prepared.environment.device_name)
    reason = verdicts.invalid or verdicts.sentence
    detail = wording.one_line(f"The reason: {reason}." if verdicts.invalid else reason, 300)
    mail = Mail(
        verdict=Verdict.INVALID.value,
        tone="warn",
        lead=f"The night on {device} ({night.prepared.environment.host}) is invalid and proves nothing.",
        detail=detail,
        compared=_compared(night),
        links=_links(night, ""),
    )
    title = wording.one_line(f"{TAG} INVALID night on {device}: {reason}")
    return _finished(night, config.mail.about_machines, title, mail, PlannedMail(kind="invalid"))


def _of_shift(night: Night, config: Config) -> Finished:
    """One build that is slower than it was says nothing about a commit either; it says what the machine became."""
    shifts, machine = night.verdicts.shifts, night.prepared.environment
    device = wording.short_device(machine.device_name)
    worst = max(shifts, key=lambda shift: shift.value)
    reference = " Only the torch reference moved." if all(shift.label == "reference" for shift in shifts) else ""
    mail = Mail(
        verdict="SHIFTED",
        tone="warn",
        lead=f"On {device} ({machine.host}) the baseline build is slower than when it was recorded: driver, toolkit, "
        f"clocks or machine moved, and no commit is to blame.{reference}",
        detail=_changed_since(night, worst.recorded),
        cells=tuple(
            (f"{shift.backend} {', '.join(shift.families)}", f"{wording.percent(shift.value)} (median of its cells)")
            for shift in shifts
        ),
        compared=f"baseline {night.prepared.baseline.short} against its times in night {worst.recorded}",
        links=_links(night, ""),
    )
    backends = ", ".join(shift.backend for shift in shifts)
    title = wording.one_line(f"{TAG} SHIFTED {device}: baseline build {wording.percent(worst.value)} ({backends})")
    return _finished(night, config.mail.about_machines, title, mail, PlannedMail(kind="shifted"))


def _changed_since(night: Night, recorded: str) -> str:
    """What is known to be another one since the night `recorded`."""
    before = recent.environment_of(night, recorded)
    if before is None:
        return "What the machine was like then is not known here any more."
    changed = environment_changes(before, night.prepared.environment)
    if not changed:
        return "Nothing that is recorded of the machine has changed: look at clocks, cooling, and who else uses it."
    return wording.one_line(f"Changed since: {'; '.join(changed)}.", 300)


def _finished(
    night: Night, to: tuple[str, ...], title: str, mail: Mail, planned: PlannedMail, png: bytes = b""
) -> Finished:
    """The report travels along where no link leads to it, as long as MLflow does not have it."""
    run = RunDir(night.run_dir)
    attached = ("report.html",) if run.report.is_file() and not (night.link("report") and run.is_attached()) else ()
    run_id, device = night.prepared.run_id, night.prepared.environment.device_name
    earlier = (thread_id(planned.cause, device), planned.previous) if planned.cause else ()
    if told := planting.sentence(night.prepared.planted):
        title = wording.one_line(f"{TAG} PLANTED {title.removeprefix(TAG).lstrip()}")
        mail = replace(mail, lead=f"{told}. {mail.lead}", decision="")  # there is nothing to decide about
    message = Message(
        subject=title,
        to=to,
        text=template("mail/mail.txt.j2").render(mail=mail),
        html=template("mail/mail.html.j2").render(mail=mail, title=title),
        attachments=attached,
        cause=planned.cause or planned.kind,
        message_id=message_id(run_id, planned.cause or planned.kind, device),
        references=tuple(entry for entry in earlier if entry),
    )
    return Finished(message, png)
