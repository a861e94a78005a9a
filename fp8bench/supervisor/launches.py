"""Baseline and candidate against each other, launch by launch."""

from __future__ import annotations

import io
import json
import random
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import BaseModel, ValidationError

from ..backends import REFERENCE, YARDSTICKS
from ..config import Config
from ..errors import RunDirError
from ..protocol import Device, TimeRequest
from ..records import DeviceState, LaunchFailure, Role, TimingReport, write_bytes
from ..spec import ROLES, Cell
from .items import Progress, counted, run_all
from .process import Worker, worker_environment


@dataclass
class _Launch:
    """What one launch gave; stored whole in one Parquet file, everything but the samples in its metadata."""

    number: int
    rows: list[tuple[str, int, int, str, int, float]] = field(default_factory=list)
    failures: list[LaunchFailure] = field(default_factory=list)
    states: list[DeviceState] = field(default_factory=list)
    seconds: float = 0.0

    class _Metadata(BaseModel):
        failures: list[LaunchFailure]
        states: list[DeviceState]
        seconds: float

    def write(self, path: Path) -> None:
        columns = list(zip(*self.rows, strict=True)) or [()] * (len(_SCHEMA) - 1)
        arrays = [pa.array([self.number] * len(self.rows), _SCHEMA.types[0])]
        arrays += [pa.array(column, kind) for column, kind in zip(columns, _SCHEMA.types[1:], strict=True)]
        metadata = self._Metadata(failures=self.failures, states=self.states, seconds=self.seconds)
        schema = _SCHEMA.with_metadata({_METADATA_KEY: metadata.model_dump_json().encode()})
        buffer = io.BytesIO()
        pq.write_table(pa.Table.from_arrays(arrays, schema=schema), buffer, compression="zstd")
        write_bytes(buffer.getvalue(), path)

    @classmethod
    def read(cls, number: int, path: Path) -> _Launch:
        """A launch of an earlier try, without its samples; RunDirError for a damaged file."""
        try:
            stored = (pq.read_schema(path).metadata or {})[_METADATA_KEY]
            metadata = cls._Metadata.model_validate_json(stored)
        except (OSError, KeyError, pa.ArrowInvalid, ValidationError):
            raise RunDirError(f"{path} is not a launch's samples: delete it and run the stage again.") from None
        return cls(number, failures=metadata.failures, states=metadata.states, seconds=metadata.seconds)


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
    ]
)


def launch_file(samples_dir: Path, launch: int) -> Path:
    """Where the samples of a launch lie."""
    return samples_dir / f"{launch:03}.parquet"


class LaunchPlan(NamedTuple):
    """What a launch does, decided by seed and number alone, so that a resumed night does the same."""

    cells: tuple[str, ...]
    load_order: tuple[Role, Role]


def plan_launch(cells: Sequence[Cell], controls: set[str], launch: int, seed: int, control_launches: int) -> LaunchPlan:
    """Cells in random order and builds in random load order.

    controls: backends that are the same in both builds, and yardsticks; the first launches alone have their cells.
    """
    generator = random.Random(f"{seed}/{launch}")  # noqa: S311 an order, not a secret
    order = [cell.id for cell in cells]
    generator.shuffle(order)
    load_order: list[Role] = ["baseline", "candidate"]
    generator.shuffle(load_order)
    kept = [entry for entry in order if launch < control_launches or Cell.parse(entry).backend not in controls]
    return LaunchPlan(tuple(kept), (load_order[0], load_order[1]))


def _identities(build: Path) -> dict[str, str]:
    """Backend -> content hash of what it would run, as `build.json` has it; nothing where there is none."""
    try:
        libraries = json.loads((build / "build.json").read_bytes())["libraries"]
        return {entry["backend"]: entry["identity"] for entry in libraries if entry["identity"]}
    except (OSError, ValueError, KeyError, TypeError):
        return {}


def equal_backends(builds: Mapping[Role, Path]) -> set[str]:
    """Backends whose machine code is the same in both builds."""
    baseline, candidate = _identities(builds["baseline"]), _identities(builds["candidate"])
    return {name for name, identity in baseline.items() if candidate.get(name) == identity}


class _Night:
    """The launches of one shard."""

    def __init__(
        self, config: Config, builds: Mapping[Role, Path], cells: Sequence[Cell], device: Device, seed: int
    ) -> None:
        self.config, self.builds, self.cells, self.device, self.seed = config, builds, cells, device, seed
        equal = equal_backends(builds)
        # torch compiles each case when it is bound; where both arms would run the same code, once is enough.
        self.shared = tuple(sorted(equal & {REFERENCE}))
        # One build against itself is an A/A night: what is bound twice is then measured in every launch.
        same = builds["baseline"] == builds["candidate"]
        self.controls = (set(self.shared) if same else equal) | set(YARDSTICKS)

    def plan(self, launch: int) -> LaunchPlan:
        return plan_launch(self.cells, self.controls, launch, self.seed, self.config.timing.control_launches)

    def planned(self, launches: int) -> int:
        """How many cells the first `launches` launches time together, if nothing fails."""
        return sum(len(self.plan(number).cells) for number in range(launches))

    def request(self, plan: LaunchPlan, cells: Sequence[str]) -> TimeRequest:
        timing = self.config.timing
        return TimeRequest(
            device=self.device,
            seed=self.seed,
            builds=dict(self.builds),
            load_order=plan.load_order,
            cells=tuple(cells),
            shared=self.shared,
            quads=timing.quads,
            block_s=timing.block_ms * 1e-3,
            warmup_s=timing.warmup_ms * 1e-3,
        )

    def launch(
        self, number: int, failed: set[str], env: Mapping[str, str], log: Path, note: Callable[[str], None]
    ) -> _Launch:
        """Run one launch; what dies in it is one of its failures."""
        plan, begin = self.plan(number), time.monotonic()
        cells = [cell for cell in plan.cells if cell not in failed]

        def start(items: Sequence[str]) -> Worker:
            return Worker.for_config(self.config, self.request(plan, items), env, log)

        outcome = run_all(cells, start, lambda item: Cell.parse(item).backend, note)
        rows = [
            (cell, quad, position, ROLES[arm], calls, seconds)
            for cell, blocks in outcome.done.items()
            for quad, position, arm, calls, seconds in blocks
        ]
        failures = [
            LaunchFailure(launch=number, cell=cell, status=status, detail=detail)
            for cell, (status, detail) in outcome.lost.items()
        ]
        states = [DeviceState(launch=number, **state) for state in outcome.states]
        return _Launch(number, rows, failures, states, time.monotonic() - begin)


def time_cells(
    config: Config,
    builds: Mapping[Role, Path],
    cells: Sequence[Cell],
    device: Device,
    seed: int,
    samples_dir: Path,
    log_dir: Path,
    progress: Progress,
    shard: int = 0,
    gpu_index: int | None = None,
) -> TimingReport:
    """Time `cells`, both builds against each other, in `config.timing.launches` fresh launches.

    Each launch leaves one Parquet file under `samples_dir`, and a launch found there is not repeated. A cell that
    crashes, hangs or fails is reported and left out of later launches; the others go on.
    Raises WorkerError where workers cannot be started, RunDirError for a damaged or unwritable samples file.
    """
    log_dir.mkdir(parents=True, exist_ok=True)
    night = _Night(config, builds, cells, device, seed)
    env = worker_environment(device, config.home / "cache", gpu_index)
    total = night.planned(config.timing.launches)
    launches: list[_Launch] = []
    for number in range(config.timing.launches):
        path = launch_file(samples_dir, number)
        if path.is_file():
            launches.append(_Launch.read(number, path))
            continue
        failed = {failure.cell for launch in launches for failure in launch.failures}
        log = log_dir / f"time-{shard}-{number:03}.log"
        note = counted(progress, "time", total, night.planned(number))
        launches.append(night.launch(number, failed, env, log, note))
        launches[-1].write(path)
    progress("time", total, total)
    return _report(shard, launches)


def _report(shard: int, launches: Sequence[_Launch]) -> TimingReport:
    return TimingReport(
        shard=shard,
        launches=len(launches),
        failures=tuple(failure for launch in launches for failure in launch.failures),
        states=tuple(state for launch in launches for state in launch.states),
        seconds=sum(launch.seconds for launch in launches),
    )
