"""What became of each cause over the nights: when it was told, and what people decided about it.

One file, `home/causes.json`, replaced as a whole under a lock. A cause is known by its id on a device. It is told when
it is new or worse than when it was last told; a decision keeps it quiet up to a limit, and beyond that it speaks again:

    acknowledged   somebody is looking; changes nothing about mails, ends when the cause recovers
    silenced       no mails up to the limit, also when the cause goes and comes back; ends by hand or at a date
    accepted       known and wanted; no mails up to the limit, ends when the cause recovers
"""

from __future__ import annotations

import fcntl
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Literal

from pydantic import Field

from . import records
from .errors import RunDirError, UsageError
from .records import Cause, Document, Effect, Prepared, Record, Verdict, Verdicts

FORGET_AFTER = timedelta(days=90)  # a recovered cause that nobody decided anything about
GROWN = 3  # so many cells more, and twice as many, are worse whatever the effect
CLEARED = (Verdict.OK, Verdict.IMPROVED, Verdict.CONTROL)

Kind = Literal["acknowledged", "silenced", "accepted"]
News = Literal["new", "worse"]


class Decision(Record):
    """What somebody decided about a cause, and up to where it holds."""

    kind: Kind
    who: str
    when: datetime
    why: str
    limit: float | None = None  # log-ratio of the worst cell; None: the cause has no effect, its cells count
    cells: int = 0  # of a cause without an effect
    until: datetime | None = None  # None: without end

    def is_past(self, now: datetime) -> bool:
        return self.until is not None and now > self.until


class Told(Record):
    """A mail about a cause: what it said."""

    night: str
    news: News
    effect: float | None
    cells: int


class Standing(Record):
    """A cause as it is known over the nights."""

    id: str
    device: str
    backend: str
    verdict: Verdict
    families: tuple[str, ...]
    since: str  # run id of the night that saw it first
    first: datetime
    last: str  # run id of the night that saw it last
    seen: datetime
    worst: Effect | None = None  # as last seen
    accused: tuple[str, ...] = ()  # cells, as last seen
    margin: float = 0.0
    baseline: str = ""  # sha that it was last seen against
    told: Told | None = None
    decision: Decision | None = None
    recovered: str = ""  # run id of the night that cleared it; "" while it is open

    @property
    def is_open(self) -> bool:
        return not self.recovered

    @property
    def effect(self) -> float | None:
        return self.worst.value if self.worst else None


class Ledger(Document):
    """`home/causes.json`"""

    causes: tuple[Standing, ...] = ()
    digest_week: str = ""  # ISO week of the last weekly digest, e.g. 2026-W12
    shifts: dict[str, datetime] = Field(default_factory=dict)  # device, shift and family -> when a night last saw it
    shift_sizes: dict[str, float] = Field(default_factory=dict)  # likewise -> log-ratio that was told last

    def find(self, cause: str, device: str) -> Standing | None:
        return next((entry for entry in self.causes if (entry.id, entry.device) == (cause, device)), None)

    def with_standing(self, standing: Standing) -> Ledger:
        """The ledger with `standing` in the place of what was known of the same cause."""
        key = (standing.id, standing.device)
        others = tuple(entry for entry in self.causes if (entry.id, entry.device) != key)
        return self.model_copy(update={"causes": (*others, standing)})


# ---- the file -----------------------------------------------------------------------------------------------


def path_of(home: Path) -> Path:
    return home / "causes.json"


def read(home: Path) -> Ledger:
    """What is known under `home`; an empty ledger where nothing is. RunDirError when the file is damaged."""
    path = path_of(home)
    if not path.exists():
        return Ledger()
    try:
        return records.read(Ledger, path)
    except RunDirError as error:
        raise RunDirError(
            f"{str(error).rpartition('): ')[0]}): mend it, or move it away; decisions in it are then forgotten."
        ) from None


@contextmanager
def changing(home: Path) -> Iterator[list[Ledger]]:
    """The ledger in a list of one, under a lock: what stands in the list afterwards is written, if it changed."""
    try:
        home.mkdir(parents=True, exist_ok=True)
        lock = (home / ".causes.lock").open("a")
    except OSError as error:
        raise RunDirError(f"cannot write to {home}: {error.strerror}.") from None
    with lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # waits: nobody holds it for longer than a small file takes
        held = [before := read(home)]
        yield held
        if held[0] != before:
            records.write(held[0], path_of(home))


def open_nights(home: Path) -> set[str]:
    """Run ids of the nights that an open cause points to: where it was seen first, last, and told."""
    found = [entry for entry in read(home).causes if entry.is_open]
    return {night for entry in found for night in (entry.since, entry.last, entry.told.night if entry.told else "")}


# ---- what is told -------------------------------------------------------------------------------------------


def news_of(cause: Cause, standing: Standing | None, run_id: str, margin: float, now: datetime) -> tuple[str, str]:
    """(news, "") where `cause` must be told tonight, ("", why not) where it is left untold."""
    told = standing.told if standing and (standing.is_open or standing.recovered == run_id) else None
    if told and told.night == run_id:
        return told.news, ""
    if standing and (reason := _kept_quiet(cause, standing.decision, now)):
        return "", reason
    if told is None:
        return "new", ""
    if _is_worse(cause, told, margin):
        return "worse", ""
    return "", f"unchanged since night {told.night}"


def _kept_quiet(cause: Cause, decision: Decision | None, now: datetime) -> str:
    if decision is None or decision.kind == "acknowledged" or decision.is_past(now) or exceeds(cause, decision):
        return ""
    return f"{decision.kind} by {decision.who}: {decision.why}"


def exceeds(cause: Cause, decision: Decision) -> bool:
    """Whether the cause is worse than the decision covers."""
    if cause.worst is not None and decision.limit is not None:
        return cause.worst.value > decision.limit
    return len(cause.cells) > decision.cells


def _is_worse(cause: Cause, told: Told, margin: float) -> bool:
    """Slower by more than noise and margin, or many more cells. Without effects every cell counts."""
    cells = len(cause.cells)
    if cause.worst is None or told.effect is None:
        return cells > told.cells
    if cause.worst.value > told.effect + slack(cause.worst, margin):
        return True
    return cells >= max(2 * told.cells, told.cells + GROWN)


def slack(effect: Effect, margin: float) -> float:
    """How much an effect may grow before it counts as worse: the margin, or what its interval leaves open."""
    return max(margin, effect.upper - effect.value)


def cleared(ledger: Ledger, verdicts: Verdicts, device: str, run_id: str) -> list[Standing]:
    """Open causes of the device whose every accused cell was measured tonight and found fine.

    What was only in part measured, or in another suite, stays open: silence proves nothing.
    """
    found = {cell.cell: cell.verdict for cell in verdicts.cells}
    families = {f"{entry.backend}/{entry.family}/{entry.regime}": entry.verdict for entry in verdicts.families}
    backends = {entry.backend: entry.verdict for entry in verdicts.backends}
    accused = {cause.id for cause in verdicts.causes}
    gone = []
    for entry in ledger.causes:
        asked = entry.is_open or entry.recovered == run_id
        if not asked or entry.device != device or entry.id in accused or verdicts.is_invalid:
            continue
        if entry.accused:
            fine = all(found.get(cell) in CLEARED for cell in entry.accused)
        elif entry.families:
            mine = [kind for name, kind in families.items() if _is_in(name, entry)]
            fine = bool(mine) and all(kind in CLEARED for kind in mine)
        else:  # a build without cells here
            fine = backends.get(entry.backend) in CLEARED
        gone += [entry] if fine else []
    return gone


def is_moved(standing: Standing, baseline: str) -> bool:
    """Whether a cause is gone because somebody accepted the slower build as the baseline, not because it is mended."""
    return standing.verdict is Verdict.REGRESSED and bool(standing.baseline) and standing.baseline != baseline


def _is_in(name: str, entry: Standing) -> bool:
    backend, _, rest = name.partition("/")
    return backend == entry.backend and rest.rpartition("/")[0] in entry.families


# ---- what a night adds --------------------------------------------------------------------------------------


def seen(ledger: Ledger, cause: Cause, prepared: Prepared, margin: float, news: str) -> Ledger:
    """The ledger after the night `prepared` saw `cause`, and told it where `news` is not ""."""
    device, run_id, created = prepared.environment.device_name, prepared.run_id, prepared.created
    known = ledger.find(cause.id, device)
    if known and (known.seen > created or (known.last == run_id and not known.is_open)):
        return ledger  # an older night that is run again teaches nothing
    effect = cause.worst.value if cause.worst else None
    told = known.told if known and known.is_open else None
    if news:
        told = Told(night=run_id, news="worse" if news == "worse" else "new", effect=effect, cells=len(cause.cells))
    fresh = known is None or not known.is_open
    return ledger.with_standing(
        Standing(
            id=cause.id,
            device=device,
            backend=cause.backend,
            verdict=cause.verdict,
            families=cause.families,
            since=run_id if fresh or known is None else known.since,
            first=created if fresh or known is None else known.first,
            last=run_id,
            seen=created,
            worst=cause.worst,
            accused=cause.cells,
            margin=margin,
            baseline=prepared.baseline.sha,
            told=told,
            decision=known.decision if known else None,
        )
    )


def recovered(ledger: Ledger, standing: Standing, run_id: str) -> Ledger:
    """The ledger after night `run_id` cleared the cause: only a silence outlives that."""
    keeps = standing.decision if standing.decision and standing.decision.kind == "silenced" else None
    return ledger.with_standing(standing.model_copy(update={"recovered": run_id, "decision": keeps}))


def without_old(ledger: Ledger, now: datetime, run_id: str) -> Ledger:
    """The ledger without causes that recovered long ago and that nobody decided anything about.

    What night `run_id` cleared stays, however long ago it was seen last: its mail is still to be written.
    """

    def is_kept(entry: Standing) -> bool:
        return entry.is_open or bool(entry.decision) or entry.recovered == run_id or now - entry.seen < FORGET_AFTER

    kept = [entry for entry in ledger.causes if is_kept(entry)]
    return ledger.model_copy(update={"causes": tuple(kept)})


# ---- what people decide -------------------------------------------------------------------------------------


def nothing_told(home: Path) -> str:
    """Why nothing can be known under `home`, where no night has been told yet; else ""."""
    if path_of(home).exists():
        return ""
    return f"no night was told in {home} yet: set FP8BENCH_HOME to the home of the nights that you mean"


def choose(ledger: Ledger, wanted: str, device: str, home: Path) -> Standing:
    """The cause that a person means by an id or its beginning. UsageError when that is none, or several.

    home: where `ledger` was read.
    """
    found = [
        entry for entry in ledger.causes if entry.id.startswith(wanted) and wanted and device in ("", entry.device)
    ]
    if len(found) == 1:
        return found[0]
    if not found:
        where = f" on {device}" if device else ""
        advice = nothing_told(home) or "`fp8bench causes list --all` shows those that are"
        raise UsageError(f"no cause {wanted!r}{where} is known in {path_of(home)}: {advice}.")
    if len({entry.id for entry in found}) == 1:
        devices = ", ".join(entry.device for entry in found)
        raise UsageError(f"cause {wanted} is known on {devices}: say which with --device-name.")
    several = ", ".join(dict.fromkeys(entry.id for entry in found))
    raise UsageError(f"{wanted!r} begins several ids ({several}): give more of it.")


def decide(
    standing: Standing,
    kind: Kind,
    who: str,
    why: str,
    limit: float | None = None,
    days: float | None = None,
    now: datetime | None = None,
) -> Standing:
    """`standing` with a decision. limit: log-ratio up to which it holds (default: what was last seen, with slack)."""
    now = now or datetime.now(UTC)
    if limit is None and standing.worst is not None:
        limit = standing.worst.value + slack(standing.worst, standing.margin)
    if limit is not None and standing.worst is None:
        raise UsageError(
            f"cause {standing.id} ({standing.verdict.value}) has no effect to put a limit to: leave it out."
        )
    until = now + timedelta(days=days) if days is not None else None
    decision = Decision(kind=kind, who=who, when=now, why=why, limit=limit, cells=len(standing.accused), until=until)
    return standing.model_copy(update={"decision": decision})


def ranked(causes: Sequence[Standing]) -> list[Standing]:
    """Open ones first, then the loudest, then those seen last."""
    loudness = {verdict: rank for rank, verdict in enumerate(Verdict)}
    newest = sorted(causes, key=lambda entry: entry.seen, reverse=True)
    return sorted(newest, key=lambda entry: (not entry.is_open, loudness[entry.verdict]))
