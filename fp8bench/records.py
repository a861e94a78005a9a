"""What is stored: every file of a run directory is one of these records, or a Parquet table described here.

Records are frozen, refuse unknown fields, and carry the schema version. `read` refuses a file that is missing,
cut off or of another version; `write` is atomic, so a file that is there is whole.
"""

from __future__ import annotations

import json
import os
import platform
from contextlib import suppress
from datetime import datetime
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from .errors import RunDirError

SCHEMA_VERSION: Literal[1] = 1

Role = Literal["baseline", "candidate"]


class Record(BaseModel):
    # built at first use: parsing a DAG imports this module, and reads no record
    model_config = ConfigDict(frozen=True, extra="forbid", defer_build=True)


class Document(Record):
    """A record that is a file of its own."""

    schema_version: Literal[1] = SCHEMA_VERSION


# ---- prepare ------------------------------------------------------------------------------------------------


class Commit(Record):
    sha: str
    author: str = ""
    email: str = ""
    date: datetime | None = None
    subject: str = ""
    files: tuple[str, ...] = ()  # touched under csrc/ and fp8bench/backends/
    dirty: bool = False  # a worktree with uncommitted changes was built, not the commit itself

    @property
    def short(self) -> str:
        return self.sha[:9] + ("+dirty" if self.dirty else "")


class Environment(Record):
    """The machine, as far as it can move a measurement."""

    host: str
    device: Literal["cuda", "cpu"]
    device_name: str
    device_uuid: str = ""
    device_count: int = 1
    compute_capability: str = ""
    multiprocessors: int = 0
    l2_bytes: int = 0
    driver: str = ""
    cpu: str = ""
    os: str = ""
    versions: dict[str, str] = Field(default_factory=dict)  # python, torch, triton, nvcc, fp8bench, ...


class Prepared(Document):
    """`prepare.json`: what this night is about."""

    run_id: str
    created: datetime
    repo: str
    candidate: Commit
    baseline: Commit
    baseline_run: str = ""  # run id of the night that the baseline was accepted from; "" on a first night
    first_night: bool = False  # there was no accepted baseline: the candidate is measured against itself
    suspects: tuple[Commit, ...] = ()  # commits after the baseline up to the candidate that touch kernels
    suite: str
    cells: tuple[str, ...]  # ids, in the suite's order
    shards: tuple[tuple[str, ...], ...]  # cell ids; one shard a GPU
    environment: Environment
    harness: Commit
    seed: int
    inspected: tuple[str, ...] = ()  # backends that are built and looked at, but have no cells here
    requested: dict[str, str] = Field(default_factory=dict)  # repo, candidate, baseline, suite as they were asked for
    notes: tuple[str, ...] = ()  # sentences for the reader, e.g. about uncommitted changes that are not measured
    planted: dict[str, float] = Field(default_factory=dict)  # pattern of cell ids -> share; {}: an ordinary night


# ---- build --------------------------------------------------------------------------------------------------


class BuiltLibrary(Record):
    """One backend's share of a build."""

    backend: str
    ok: bool
    identity: str = ""  # content hash of what would run; equal identities cannot differ in speed
    error: str = ""  # one sentence
    log: str = ""  # tail of the compiler's output
    note: str = ""  # e.g. why it was not built here


class Built(Record):
    role: Role
    commit: str
    path: str = ""  # build directory
    libraries: tuple[BuiltLibrary, ...] = ()
    seconds: float = 0.0
    cached: bool = False

    def library(self, backend: str) -> BuiltLibrary | None:
        return next((entry for entry in self.libraries if entry.backend == backend), None)


class BuildReport(Document):
    """`build.json`"""

    builds: tuple[Built, ...]

    def role(self, role: str) -> Built:
        return next(entry for entry in self.builds if entry.role == role)

    def same_code(self, backend: str) -> bool:
        """Whether both builds have the same code of a backend, as far as it is known."""
        ours, theirs = (self.role(role).library(backend) for role in ("candidate", "baseline"))
        return ours is not None and theirs is not None and bool(ours.identity) and ours.identity == theirs.identity


# ---- check --------------------------------------------------------------------------------------------------


class CheckStatus(StrEnum):
    OK = "ok"
    WRONG = "wrong"
    CRASHED = "crashed"
    HUNG = "hung"
    UNSUPPORTED = "unsupported"
    MISSING = "missing"  # not built, or not reached


class CheckResult(Record):
    role: Role
    backend: str
    case: str
    status: CheckStatus
    detail: str = ""  # reason, or the first mismatch: coordinate, values, bytes
    differing_share: float | None = None  # of the codes
    largest_code_step: int | None = None
    saturated_share: float | None = None
    scale_error: float | None = None  # largest relative error of a scale
    # Hash of the machine code and launch shape that the case runs on this device; "" unknown, equal to nothing.
    identity: str = ""


class CheckReport(Document):
    """`check.json`"""

    results: tuple[CheckResult, ...]


# ---- time ---------------------------------------------------------------------------------------------------

# samples/<shard>/<launch>.parquet and samples/confirm-<shard>/<launch>.parquet, one row a timed block:
#   launch int, cell str, quad int, position int (0-3 in the quad), role str, calls int, seconds float (a call),
#   phase str ("screen", "confirm", "aa": the A/A arm, whose candidate is the baseline bound a second time),
#   dropped bool: the blocks of a quad that disagreed with each other, stored but not read, and
#   planted float: the share by which the cell's candidate was made slower on purpose, 0 in ordinary nights.
# Launches of one shard are numbered through: those of the confirmation follow those of the screening.
SAMPLE_COLUMNS = ("launch", "cell", "quad", "position", "role", "calls", "seconds", "phase")


FAILURES_TO_GIVE_UP = 2  # launches that a cell spoils: one may be the machine's doing, another says it is the cell's


class LaunchFailure(Record):
    launch: int
    cell: str  # "" when the launch failed before its first cell
    status: Literal["crashed", "hung", "failed"]
    detail: str = ""


class DeviceState(Record):
    """Read before and after a launch."""

    when: Literal["before", "after"]
    launch: int
    clock_mhz: float | None = None
    temperature_c: float | None = None
    power_w: float | None = None
    # Reasons of that moment, and "held_down" after a launch: for much of the launch. None: nobody could look.
    throttle: tuple[str, ...] | None = None
    held_s: float | None = None  # counts up: how long power or heat held down the clocks, or others took the cores
    load: float | None = None  # 1-minute load average of the machine
    at: float | None = None  # seconds of a clock that starts with the machine


class TimingReport(Document):
    """`time-<shard>.json`, `confirm-<shard>.json`: what was launched; the samples lie in `samples/`."""

    shard: int
    launches: int
    phase: Literal["screen", "confirm"] = "screen"
    quads: int = 0  # that were timed; 0 where nobody counted
    dropped: int = 0  # of these, whose blocks disagreed with each other
    # cell -> quads dropped for what the baseline's blocks did, and for what the candidate's did
    disturbed: dict[str, tuple[int, int]] = Field(default_factory=dict)
    failures: tuple[LaunchFailure, ...] = ()
    states: tuple[DeviceState, ...] = ()
    seconds: float = 0.0


# ---- screen -------------------------------------------------------------------------------------------------


class Screened(Document):
    """`screen.json`: what the screening launches could not clear, and which GPU confirms what."""

    cells: tuple[str, ...]  # ids of all cells to be confirmed, those of screened families among them; sorted
    families: tuple[str, ...]  # screened as a whole: backend/family/regime; sorted
    shards: tuple[tuple[str, ...], ...] = ()  # of `cells`; one a GPU, may be empty


# ---- judge --------------------------------------------------------------------------------------------------

Phase = Literal["screen", "confirm"]  # which launches a verdict comes from; samples also have "aa", the A/A arm


class Verdict(StrEnum):
    """In order of how loudly they are told."""

    WRONG = "WRONG"
    CRASHED = "CRASHED"  # also: hung, raised an error
    NOT_BUILT = "NOT_BUILT"
    REGRESSED = "REGRESSED"
    INVALID = "INVALID"
    UNRESOLVED = "UNRESOLVED"
    MISSING = "MISSING"
    IMPROVED = "IMPROVED"
    OK = "OK"
    CONTROL = "CONTROL"  # the same machine code in both builds: cannot have regressed by code
    UNSUPPORTED = "UNSUPPORTED"


class Effect(Record):
    """log(candidate time / baseline time), with its 95% interval, over launches."""

    value: float
    lower: float
    upper: float
    p_value: float  # one-sided, against the margin
    launches: int


class CellVerdict(Record):
    cell: str
    verdict: Verdict
    reason: str = ""
    effect: Effect | None = None
    baseline_us: float | None = None
    candidate_us: float | None = None
    spread: float | None = None  # relative interquartile range of the candidate's samples
    phase: Phase | None = None  # whose launches gave the effect
    mde: float | None = None  # smallest effect that tonight would have been caught with 80% power (log-ratio)
    margin: float | None = None  # that the effect was judged by: the machine's, or the cell's own (log-ratio)


class FamilyVerdict(Record):
    """Geometric mean over the cells of a family, by launch."""

    backend: str
    family: str
    regime: str
    verdict: Verdict
    effect: Effect | None = None
    cells: int = 0
    phase: Phase | None = None
    mde: float | None = None  # as of a cell
    margin: float | None = None  # as of a cell


class Speedup(Record):
    """Geometric mean of time(torch) / time(backend) over the sizes of a family."""

    backend: str
    family: str
    regime: str
    baseline: float | None
    candidate: float | None
    counted: int
    missing: int  # sizes left out: one of the two has no time
    moved: Literal["", "backend slower", "reference faster", "both"] = ""  # why it fell; "" where it did not


class BackendVerdict(Record):
    backend: str
    verdict: Verdict  # the loudest of its cells and families
    sentence: str
    counts: dict[Verdict, int]


State = Literal["new", "worse", "ongoing"]  # against the previous night of the same device and suite
Label = Literal["code", "environment", "reference"]


class Cause(Record):
    """Cells that moved together and share a suspect: what one mail is about."""

    id: str
    backend: str
    verdict: Verdict
    families: tuple[str, ...]
    cells: tuple[str, ...]
    worst: Effect | None = None
    worst_cell: str = ""
    suspects: tuple[str, ...] = ()  # shas
    detail: str = ""
    state: State = "new"
    nights: int = 1  # in a row that it was seen, this one included
    label: Label = "code"  # reference: it is the torch reference that moved


class Recovered(Record):
    """What the previous night accused and this one clears."""

    id: str  # as the cause had
    backend: str
    verdict: Verdict  # that the previous night gave
    families: tuple[str, ...]
    nights: int  # in a row that it was seen
    worst: Effect | None = None  # as last seen


class Shift(Record):
    """Cells that are slower than on the night their baseline was recorded, though both builds agree tonight.

    Driver, toolkit, clocks or machine moved: never a commit, never the exit code.
    """

    id: str
    backend: str
    families: tuple[str, ...]
    cells: tuple[str, ...]
    value: float  # log(baseline build tonight / on record), the median over the cells
    worst: float
    worst_cell: str
    recorded: str  # run id of the night with the record
    state: State = "new"
    nights: int = 1
    label: Label = "environment"
    detail: str = ""


class ArmResult(Record):
    """The A/A arm: the baseline bound twice and judged as if it were a candidate, so that every alarm is false."""

    cells: int  # with an effect
    launches: int
    screened: int  # of these cells, those that the screening rule would have sent to be confirmed
    alarms: int  # of these cells, those that the test of a whole night at the night's rate would have accused
    largest: float  # |mean effect| of the cell that moved most (log-ratio)
    value: float  # mean effect over the cells; should be 0


class Rate(Record):
    """A share of nights, with its one-sided 95% Clopper-Pearson bounds."""

    count: int
    of: int
    rate: float
    lower: float
    upper: float


class CaughtAt(Record):
    """Calibrated nights in which one family was slower."""

    effect: float  # ratio - 1
    caught: Rate  # nights that accused the family, by itself or by a cell
    family: Rate  # nights that accused its geometric mean


class Calibrated(Record):
    """How far verdicts like these can be trusted, as the calibration found that was there when the night was judged."""

    mails: Rate  # nights without a change, and a mail all the same
    caught: tuple[CaughtAt, ...]
    margin: float
    launches: int  # real ones that the nights were drawn from
    cells: int  # that these timed
    measured: str  # the day, or the days, of these launches; "": nobody said
    device_name: str  # likewise
    doubts: tuple[str, ...]  # why it may not hold for tonight


ExitCode = Annotated[int, Field(ge=0, le=4)]


class Verdicts(Document):
    """`verdicts.json`: what the night found."""

    verdict: Verdict  # of the night
    exit_code: ExitCode
    sentence: str
    invalid: str = ""  # why the machine cannot be believed; whatever is louder stands beside it
    cells: tuple[CellVerdict, ...]
    families: tuple[FamilyVerdict, ...]
    speedups: tuple[Speedup, ...]
    backends: tuple[BackendVerdict, ...]
    causes: tuple[Cause, ...] = ()
    margin: float
    confidence: float = 0.95
    recovered: tuple[Recovered, ...] = ()
    shifts: tuple[Shift, ...] = ()
    previous: str = ""  # run id of the night that states are relative to; "": there was none
    arm: ArmResult | None = None  # None: the night had no A/A arm
    mde: dict[str, float] = Field(default_factory=dict)  # median over cells, by backend/regime (log-ratio)
    calibrated: Calibrated | None = None  # None: nobody has calibrated this kind of device

    @property
    def is_invalid(self) -> bool:
        """Whether nothing that was timed may be believed; nights of before `invalid` say it by their verdict."""
        return bool(self.invalid) or self.verdict is Verdict.INVALID or self.exit_code == 3


# ---- log, alert ---------------------------------------------------------------------------------------------


class Logged(Document):
    """`mlflow.json`: where the night lies in MLflow."""

    tracking_uri: str
    experiment_id: str
    runs: dict[str, str]  # backend -> MLflow run id
    links: dict[str, str] = Field(default_factory=dict)


class Message(Document):
    """`outbox/<nnn>.json`: a finished mail. `outbox/<nnn>.sent` stands beside it once it was handed over."""

    subject: str
    to: tuple[str, ...]
    text: str
    html: str
    attachments: tuple[str, ...] = ()  # files of the run directory
    cause: str = ""
    picture: str = ""  # file of the run directory that the HTML shows as cid:picture; "" where it shows none
    message_id: str = ""  # <...>; "" leaves it to the channel
    references: tuple[str, ...] = ()  # ids of the thread's earlier mails, first to last
    taken: tuple[str, ...] = ()  # addresses that have it, while others were refused


class PlannedMail(Record):
    kind: Literal["new", "worse", "recovered", "invalid", "shifted", "digest"]
    cause: str = ""  # id; "" of mails that are about none
    previous: str = ""  # message id of the last mail about the cause
    before: float | None = None  # its effect (log-ratio)
    since: str = ""  # run id of the night that saw the cause first


class Alerts(Document):
    """`alerts.json`: which mails the night sends, decided once, and why others are not sent."""

    mails: tuple[PlannedMail, ...] = ()
    quiet: dict[str, str] = Field(default_factory=dict)  # cause id -> why nothing is sent


D = TypeVar("D", bound=Document)


def read(model: type[D], path: Path) -> D:
    """The document at `path`; RunDirError names the file and what is wrong with it."""
    try:
        return model.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        raise RunDirError(f"{path} is missing: run the stage that writes it first.") from None
    except OSError as error:
        raise RunDirError(f"{path} cannot be read ({error.strerror}): give this user a file that can be.") from None
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "the file"
        raise RunDirError(
            f"{path} is not a valid {model.__name__} ({where}: {first['msg']}): delete it and run its stage again."
        ) from None


def schema(model: type[Document]) -> str:
    """The JSON Schema of the files that hold a `model`, as text that is the same every time."""
    described = {"$schema": "https://json-schema.org/draft/2020-12/schema"}
    return json.dumps(described | model.model_json_schema(mode="serialization"), indent=1) + "\n"


def write(document: Document, path: Path, *, sync: bool = True) -> None:
    """Write `document` to `path` so that the file is either whole or not there; sync: as of `write_bytes`."""
    write_bytes(document.model_dump_json(indent=1).encode() + b"\n", path, sync=sync)


def _remove_left_overs(directory: Path, begin: str) -> None:
    """Remove files named `begin` + process id whose process of this machine is gone."""
    for left in directory.iterdir():
        pid = left.name.removeprefix(begin)
        if left.name.startswith(begin) and pid.isdigit() and not Path(f"/proc/{pid}").exists():
            left.unlink(missing_ok=True)


def write_bytes(data: bytes, path: Path, *, sync: bool = True) -> None:
    """Atomic replacement of `path` by `data`; also removes what a process that was killed meanwhile left of it.

    sync: wait until the disk has it, so that it is whole after a power cut too. What can be made anew needs no wait;
    its directory must be there, as one that was removed meanwhile must not come back with it.
    """
    begin = f".{path.name}.{platform.node()}-"
    temporary = path.parent / f"{begin}{os.getpid()}"
    try:
        if sync:
            path.parent.mkdir(parents=True, exist_ok=True)
        _remove_left_overs(path.parent, begin)
        with temporary.open("wb") as file:
            file.write(data)
            file.flush()
            if sync:
                os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise RunDirError(f"cannot write {path}: {error.strerror or error}. What was written before is kept.") from None
