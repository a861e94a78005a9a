"""One launch as it is stored: a Parquet file, raw blocks in its rows, everything else in its metadata."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import BaseModel, ValidationError

from ..errors import RunDirError
from ..records import DeviceState, LaunchFailure, write_bytes
from ..spec import ROLES
from ..timing import plan

_METADATA_KEY = b"fp8bench"
_SCHEMA = pa.schema(
    [
        ("launch", pa.int32()),
        ("cell", pa.string()),
        ("quad", pa.int32()),
        ("position", pa.int32()),
        ("role", pa.string()),
        ("calls", pa.int32()),
        ("seconds", pa.float64()),
        ("phase", pa.string()),
        ("dropped", pa.bool_()),
        ("planted", pa.float64()),
    ]
)
_Row = tuple[int, str, int, int, str, int, float, str, bool, float]
RawBlock = tuple[int, int, int, int, float]  # quad, position, arm, calls, seconds a call


class Launch(BaseModel):
    """What a launch gave, without its samples: what later launches are planned by, and what is reported."""

    number: int
    effects: dict[str, float] = {}  # job id -> log(candidate / baseline)
    call_s: dict[str, float] = {}  # cell id -> seconds a call, of its slower arm
    quads: int = 0
    dropped: int = 0  # of the quads
    disturbed: dict[str, tuple[int, int]] = {}  # job id -> dropped for the baseline's blocks, for the candidate's
    failures: list[LaunchFailure] = []
    states: list[DeviceState] = []
    seconds: float = 0.0


def launch_file(samples_dir: Path, launch: int) -> Path:
    """Where the samples of a launch lie."""
    return samples_dir / f"{launch:03}.parquet"


def taken(
    launch: Launch, timed: Mapping[str, Sequence[RawBlock]], planted: Mapping[str, float]
) -> tuple[Launch, list[_Row]]:
    """`launch` with what its timed blocks say, and their rows.

    timed: job id -> blocks in order of time. planted: job id -> share that was planted in its candidate.
    """
    rows: list[_Row] = []
    found = launch.model_copy(update={"effects": {}, "call_s": {}, "disturbed": {}})
    for job, blocks in timed.items():
        phase, _, cell = job.partition("/")
        seen = [plan.Timed(quad, arm, seconds) for quad, _, arm, _, seconds in blocks]
        dropped = plan.disturbed(seen)
        found.quads += len({block.quad for block in seen})
        found.dropped += len(dropped)
        if dropped:
            found.disturbed[job] = (list(dropped.values()).count(0), list(dropped.values()).count(1))
        if (effect := plan.effect([block for block in seen if block.quad not in dropped])) is not None:
            found.effects[job] = effect
        found.call_s[cell] = max(median(block.seconds for block in seen if block.arm == arm) for arm in (0, 1))
        rows += [
            (
                launch.number,
                cell,
                quad,
                position,
                ROLES[arm],
                calls,
                seconds,
                phase,
                quad in dropped,
                planted.get(job, 0.0),
            )
            for quad, position, arm, calls, seconds in blocks
        ]
    return found, rows


def write(launch: Launch, rows: Sequence[_Row], path: Path) -> None:
    columns = list(zip(*rows, strict=True)) or [()] * len(_SCHEMA)
    arrays = [pa.array(column, kind) for column, kind in zip(columns, _SCHEMA.types, strict=True)]
    schema = _SCHEMA.with_metadata({_METADATA_KEY: launch.model_dump_json().encode()})
    buffer = io.BytesIO()
    pq.write_table(pa.Table.from_arrays(arrays, schema=schema), buffer, compression="zstd")
    write_bytes(buffer.getvalue(), path)


def read(path: Path) -> Launch:
    """A launch of an earlier try; RunDirError for a damaged file."""
    try:
        return Launch.model_validate_json((pq.read_schema(path).metadata or {})[_METADATA_KEY])
    except (OSError, KeyError, pa.ArrowInvalid, ValidationError):
        raise RunDirError(f"{path} is not a launch's samples: delete it and run the stage again.") from None
