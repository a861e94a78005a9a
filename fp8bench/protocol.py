"""What supervisor and worker say to each other.

A worker is given one request, a JSON file, and answers with one event a line on its standard output (whatever the
code under test prints there goes to the log instead):

    ready                      the interpreter stands, torch is imported
    start   item               an item (a job) begins
    done    item, result       ... is done: a check result, or the timed blocks
    failed  item, status, ...  ... raised an error; the worker goes on if the device is still sound
    state   state              the device before and after a launch, or before it is described
    result  result             the answer to an environment request
    end                        all items were done or failed

Samples travel in the events and the supervisor stores them, so what was done survives the death of a worker.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter

from .records import Role

Device = Literal["cuda", "cpu"]


class _Message(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class EnvironmentRequest(_Message):
    """Describe the machine; device "auto" means CUDA where it works, else the CPU with `no_gpu`, the reason."""

    mode: Literal["environment"] = "environment"
    device: Literal["auto", "cuda", "cpu"]


class CheckJob(_Message):
    role: Role
    backend: str
    case: str

    @property
    def id(self) -> str:
        return f"{self.role}/{self.backend}/{self.case}"


class CheckRequest(_Message):
    """Check each job against the oracle, in order."""

    mode: Literal["check"] = "check"
    device: Device
    seed: int
    builds: dict[Role, Path]
    jobs: tuple[CheckJob, ...]
    interpret: bool = False  # through Triton's interpreter


Phase = Literal["screen", "confirm", "aa"]


class TimeJob(_Message):
    """Time a cell; in phase "aa" the baseline against a second copy of itself, which takes the candidate's place."""

    cell: str
    phase: Phase = "screen"
    seconds: float = 0.0  # that a call takes, as an earlier launch found; 0: not known
    planted: float = 0.0  # share by which the candidate is made slower on purpose
    precision: float = 0.0  # standard error (log-ratio) of its effect in this launch that more of it is timed for

    @property
    def id(self) -> str:
        return f"{self.phase}/{self.cell}"


class TimeRequest(_Message):
    """Do each job, in order, baseline and candidate against each other."""

    mode: Literal["time"] = "time"
    device: Device
    seed: int
    builds: dict[Role, Path]
    copy_of_baseline: Path | None = None  # needed for phase "aa": the same build in another place
    load_order: tuple[Role, Role]
    jobs: tuple[TimeJob, ...]
    shared: tuple[str, ...] = ()  # backends that are bound once, for both roles: they cannot differ
    quads: int
    cold_quads: int
    executables: int = 1  # of a CUDA graph that the quads of a cell are spread over, where they differ
    series: int = 1  # of executables, at most, where the effect is not known precisely enough
    block_s: float
    warmup_s: float


Request = Annotated[EnvironmentRequest | CheckRequest | TimeRequest, Field(discriminator="mode")]
REQUEST: TypeAdapter[Request] = TypeAdapter(Request)


class Event(_Message):
    event: Literal["ready", "start", "done", "failed", "state", "result", "end"]
    item: str = ""
    status: Literal["", "failed", "crashed"] = ""  # crashed: the device is not sound any more
    detail: str = ""
    result: Any = None
