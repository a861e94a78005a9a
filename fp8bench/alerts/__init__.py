"""Mail about a night: planned once, composed as finished messages into the outbox, handed over, never twice.

The plan (`alerts.json`) says which mails the night sends; it follows from the verdicts and from what was told before
(`fp8bench.causes`), and stays as it is however often the stage runs.

A channel is a module with two functions: `why_not(config)`, a reason why it cannot be used or None, and
`send(message, run_dir, config)`, which raises DeliveryError, and RefusedError where others may be taken. To add one,
write `alerts/<name>.py` and add it here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

from .. import causes, records
from ..causes import Ledger
from ..config import SMTP_CONNECTION
from ..errors import DeliveryError, RefusedError
from ..night import Night
from ..records import Alerts, Message, PlannedMail, Shift
from ..rundir import RunDir
from . import digest, messages, smtp
from .messages import Finished

if TYPE_CHECKING:
    from ..config import Config

CHANNELS = (smtp,)
SHIFT_REMEMBERED = timedelta(days=14)  # a shift that no night saw for so long is news when it comes back


def compose(run_dir: Path, config: Config) -> list[Path]:
    """Write the messages that the night sends to the outbox; returns their paths.

    One for every cause that is new or worse, one for every cause that recovered, one when the night is invalid or its
    environment has shifted, and in the first night of a week a digest. The same night composes the same files: a
    message that was handed over already is left as it is.
    """
    night = Night.read(run_dir)
    with causes.changing(config.home) as held:
        # A planted night is told as if nothing were known, and leaves nothing behind.
        before = Ledger() if night.prepared.planted else held[0]
        plan = _plan(night, before, config)
        ledger = _after(night, before, plan)
        held[0] = held[0] if night.prepared.planted else ledger
    finished = messages.build(night, plan, ledger, config)
    if any(planned.kind == "digest" for planned in plan.mails):
        finished.append(Finished(digest.build(config, night.prepared.created)))
    written = [_keep(run_dir, number, entry) for number, entry in enumerate(finished, start=1)]
    if not (mark := RunDir(run_dir).composed).exists():
        records.write_bytes(b"", mark)
    return written


def compose_digest(config: Config, now: datetime) -> Path:
    """Write a digest of the days up to `now` below the home directory; returns the directory with its outbox.

    It takes the place of one of these days that still waits: nobody needs both.
    """
    first = digest.directory(config, now - timedelta(days=digest.DAYS))
    late = [path for path in waiting_digests(config) if path > first]
    where = late[-1] if late else digest.directory(config, now)
    _keep(where, 1, Finished(digest.build(config, now)))
    return where


def compose_no_verdict(run_dir: Path, config: Config, why: str) -> Path:
    """Write what the operators are told of a night without a verdict, one message however often it is tried.

    Returns the directory with its outbox: it is none of the mails of the verdict that the night may still get.
    """
    where = RunDir(run_dir).no_verdict
    _keep(where, 1, Finished(messages.no_verdict(run_dir, config, why)))
    return where


def _keep(run_dir: Path, number: int, finished: Finished) -> Path:
    path = run_dir / "outbox" / f"{number:03}.json"
    if _marker(path).exists():
        return path
    message = finished.message.model_copy(update={"taken": _taken(path)})
    if finished.png:
        image = path.with_suffix(".png")
        records.write_bytes(finished.png, image)
        message = message.model_copy(update={"picture": str(image.relative_to(run_dir))})
    records.write(message, path)
    return path


def _taken(path: Path) -> tuple[str, ...]:
    """Who has the message at `path` already, while others were refused."""
    return records.read(Message, path).taken if path.is_file() else ()


# ---- the plan -----------------------------------------------------------------------------------------------


def _plan(night: Night, ledger: Ledger, config: Config) -> Alerts:
    """What the night tells: as decided before, or decided now and kept."""
    path = RunDir(night.run_dir).alerts
    if path.is_file():
        return records.read(Alerts, path)
    quiet: dict[str, str] = {}
    mails = [*_of_causes(night, ledger, quiet), *_of_recovered(night, ledger, quiet)]
    if night.verdicts.is_invalid:
        mails.append(PlannedMail(kind="invalid"))
    elif _has_shifted(night, ledger, config):
        mails.append(PlannedMail(kind="shifted"))
    mails += [PlannedMail(kind="digest")] if _digest_is_due(night, ledger, config) else []
    plan = Alerts(mails=tuple(mails), quiet=quiet)
    records.write(plan, path)
    return plan


def _of_causes(night: Night, ledger: Ledger, quiet: dict[str, str]) -> Iterator[PlannedMail]:
    prepared, verdicts = night.prepared, night.verdicts
    device = prepared.environment.device_name
    for cause in verdicts.causes:
        known = ledger.find(cause.id, device)
        news, reason = causes.news_of(cause, known, prepared.run_id, verdicts.margin, prepared.created)
        told = known.told if known and known.told and known.told.night != prepared.run_id else None
        if reason:
            quiet[cause.id] = reason
        elif news == "worse":
            yield _planned("worse", cause.id, device, told, known.since if known else "")
        else:
            yield _planned("new", cause.id, device, told, prepared.run_id)


def _of_recovered(night: Night, ledger: Ledger, quiet: dict[str, str]) -> Iterator[PlannedMail]:
    """What is mended is told; what is gone because the baseline moved is known to whoever moved it."""
    prepared = night.prepared
    for entry in _cleared(night, ledger):
        if causes.is_moved(entry, prepared.baseline.sha):
            quiet[entry.id] = f"the baseline moved: nights compare with {prepared.baseline.short} now"
        else:
            yield _planned("recovered", entry.id, entry.device, entry.told, entry.since)


def _cleared(night: Night, ledger: Ledger) -> list[causes.Standing]:
    """The causes that the night clears; one against a baseline of somebody's own choosing clears nothing."""
    prepared = night.prepared
    if "baseline" in prepared.requested:
        return []
    return causes.cleared(ledger, night.verdicts, prepared.environment.device_name, prepared.run_id)


def _planned(kind: str, cause: str, device: str, told: causes.Told | None, since: str) -> PlannedMail:
    previous = messages.message_id(told.night, cause, device) if told else ""
    before = told.effect if told else None
    return PlannedMail.model_validate(
        {"kind": kind, "cause": cause, "previous": previous, "before": before, "since": since}
    )


def _has_shifted(night: Night, ledger: Ledger, config: Config) -> bool:
    """Whether the night's shifts are news: one that comes and goes is told once, unless it takes or slows down more."""
    quiet_since = night.prepared.created - SHIFT_REMEMBERED
    farther = config.verdicts.shift(night.prepared.environment.device)
    return any(
        (last := ledger.shifts.get(key)) is None
        or last < quiet_since
        or shift.value > ledger.shift_sizes.get(key, shift.value) + farther
        for shift in night.verdicts.shifts
        for key in _of_shift(night, shift)
    )


def _of_shift(night: Night, shift: Shift) -> list[str]:
    return [f"{night.prepared.environment.device_name} {shift.id} {family}" for family in shift.families]


def _digest_is_due(night: Night, ledger: Ledger, config: Config) -> bool:
    """In the first night of a week that follows one with nights; never for a night from elsewhere."""
    week = digest.week_of(night.prepared.created)
    here = night.run_dir.resolve().parent == config.runs_dir.resolve()
    return config.mail.digest and here and bool(ledger.digest_week) and ledger.digest_week < week


def _after(night: Night, ledger: Ledger, plan: Alerts) -> Ledger:
    """The ledger after the night, which may have been seen before."""
    prepared, verdicts = night.prepared, night.verdicts
    news = {planned.cause: planned.kind for planned in plan.mails if planned.kind in ("new", "worse")}
    for cause in verdicts.causes:
        ledger = causes.seen(ledger, cause, prepared, verdicts.margin, news.get(cause.id, ""))
    for entry in _cleared(night, ledger):
        if entry.is_open and entry.seen <= prepared.created:
            ledger = causes.recovered(ledger, entry, prepared.run_id)
    week = max(ledger.digest_week, digest.week_of(prepared.created))
    told = any(planned.kind == "shifted" for planned in plan.mails)
    shifts = _shifts_after(night, ledger)
    update = {"digest_week": week, "shifts": shifts, "shift_sizes": _sizes_after(night, ledger, set(shifts), told)}
    return causes.without_old(ledger.model_copy(update=update), prepared.created, prepared.run_id)


def _shifts_after(night: Night, ledger: Ledger) -> dict[str, datetime]:
    """When each shift was last seen, the night's own among them; those that nobody remembers are left out."""
    now = night.prepared.created
    shifts = () if night.verdicts.is_invalid else night.verdicts.shifts
    seen = {key: now for shift in shifts for key in _of_shift(night, shift)}
    known = {key: max(last, seen.get(key, last)) for key, last in ledger.shifts.items()}
    return {key: last for key, last in (seen | known).items() if last >= now - SHIFT_REMEMBERED}


def _sizes_after(night: Night, ledger: Ledger, kept: set[str], told: bool) -> dict[str, float]:
    """How far each shift of `kept` went when it was told; where nobody told, as far as it goes tonight at first."""
    tonight = {key: shift.value for shift in night.verdicts.shifts for key in _of_shift(night, shift)}
    sizes = ledger.shift_sizes | tonight if told else tonight | ledger.shift_sizes
    return {key: size for key, size in sizes.items() if key in kept}


# ---- the outbox ---------------------------------------------------------------------------------------------


def pending(run_dir: Path) -> list[Path]:
    """Messages that nobody has taken yet, in order."""
    return [path for path in sorted((run_dir / "outbox").glob("*.json")) if not _marker(path).exists()]


def waiting_digests(config: Config) -> list[Path]:
    """Directories of digests that no night sends and that not everybody has taken, oldest first."""
    return [path for path in sorted(digest.directories(config)) if pending(path)]


def deliver_apart(where: Path, config: Config, say: Callable[[str], None] = print) -> int:
    """Hand over what waits in an outbox of its own, a digest's say, as `deliver` does; one process at a time."""
    with RunDir(where).locked("alert"):
        return deliver(where, config, say)


def mark_sent(path: Path) -> None:
    """Record that the message at `path` was handed over."""
    records.write_bytes(f"{datetime.now(UTC).isoformat()}\n".encode(), _marker(path))


def deliver(run_dir: Path, config: Config, say: Callable[[str], None] = print) -> int:
    """Hand the pending messages over and return how many were; says why when nothing can be sent, unless that was
    tried before.

    DeliveryError when a channel refuses: what is refused stays in the outbox for those who have not taken it, and so
    does the reason, for the report, until all are taken. Mails behind it are not held up, unless nothing can be sent.
    """
    waiting, refused = pending(run_dir), RunDir(run_dir).refused
    reasons = {channel: channel.why_not(config) for channel in CHANNELS}
    usable = [channel for channel, reason in reasons.items() if reason is None]
    if waiting and not usable:
        why = "; ".join(reason for reason in reasons.values() if reason)
        told = f"{len(waiting)} mail(s) stay in {run_dir / 'outbox'}: {why}."
        if refused.is_file():
            raise DeliveryError(f"{told} What Airflow's connection {SMTP_CONNECTION} refused, fp8bench_tell sends.")
        say(told)
        return 0
    troubles: list[DeliveryError] = []
    for path in waiting:
        try:
            _send(path, run_dir, config, usable)
        except DeliveryError as error:
            troubles.append(error)
            if not isinstance(error, RefusedError):
                break
    if troubles:
        records.write_bytes("\n".join(map(str, troubles)).encode(errors="replace"), refused)
        raise troubles[0]
    refused.unlink(missing_ok=True)
    return len(waiting)


def _send(path: Path, run_dir: Path, config: Config, channels: Iterable[ModuleType]) -> None:
    """Hand the message at `path` over; where some have taken it and others not, note who needs it no more."""
    message = records.read(Message, path)
    try:
        for channel in channels:
            channel.send(message, run_dir, config)
    except RefusedError as error:
        if error.taken:
            records.write(message.model_copy(update={"taken": (*message.taken, *error.taken)}), path)
        raise
    mark_sent(path)  # at once: a crash after this line sends nothing twice


def _marker(path: Path) -> Path:
    return path.with_suffix(".sent")
