"""One fresh process: `python -m fp8bench.worker REQUEST.json [PID]`. Describes the machine, checks or times, reports
events. With the PID of its supervisor it gets ready while the request is not there yet, and waits for it.

It runs code of commits that nobody has looked at: what such code raises is reported for the item at hand, and its
death is the supervisor's business. `fp8bench.protocol` says what goes in and out.
"""

from __future__ import annotations

import ctypes
import faulthandler
import gc
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from functools import cache, partial
from pathlib import Path
from typing import Any, TextIO

import torch
from torch import Tensor

from . import backends, tensors
from .backends import Backend
from .protocol import REQUEST, CheckRequest, EnvironmentRequest, Event, TimeJob, TimeRequest
from .records import CheckStatus, Role
from .spec import FP8_MAX, Case, Cell
from .timing import Block, Call, Clock, Executables, clock_for, machine

INPUT_CACHE_BYTES = 1 << 30
WORKSPACE_ALIGNMENT = 256  # bytes
_PR_SET_PDEATHSIG = 1
_POISONED = 3  # exit code: the device does not answer any more
_DESERTED = 4  # exit code: the supervisor died


class Reporter:
    """Writes events to what was standard output, and sends everything else that is printed to standard error."""

    def __init__(self) -> None:
        sys.stdout.flush()
        self._out: TextIO = os.fdopen(os.dup(1), "w", buffering=1)
        os.dup2(2, 1)

    def emit(self, event: Event) -> None:
        self._out.write(event.model_dump_json(exclude_defaults=True) + "\n")

    def attempt(self, item: str, device: str, work: Callable[[], Any]) -> None:
        """Do the work of `item` and report its result or its error; leave the process where the device is lost."""
        self.emit(Event(event="start", item=item))
        try:
            result = work()
            _synchronise(device)
        except Exception as error:  # noqa: BLE001 code under test raises what it likes; here it becomes a result
            traceback.print_exc()
            sound = _is_sound(device)
            status = "failed" if sound else "crashed"
            self.emit(Event(event="failed", item=item, status=status, detail=_one_line(error)))
            if not sound:
                os._exit(_POISONED)
        else:
            self.emit(Event(event="done", item=item, result=result))


def _one_line(error: Exception) -> str:
    """The kind and the first line of an error."""
    text = str(error).strip()
    return f"{type(error).__name__}: {text.splitlines()[0]}" if text else type(error).__name__


def _synchronise(device: str) -> None:
    """Wait for the device, so that its errors are those of the item at hand."""
    if device == "cuda":
        torch.cuda.synchronize()


def _is_sound(device: str) -> bool:
    """Whether the device still works; an illegal access ends it for the whole process."""
    try:
        _synchronise(device)
    except RuntimeError:
        return False
    return True


def _die_with_supervisor() -> None:
    """Have the kernel kill this process when the supervisor dies, whatever kills that (Linux)."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


# ---- environment --------------------------------------------------------------------------------------------


def _environment(request: EnvironmentRequest, reporter: Reporter) -> None:
    device, works = request.device, torch.cuda.is_available()
    missed = {"no_gpu": _why_no_gpu()} if device == "auto" and not works else {}
    if device == "auto":
        device = "cuda" if works else "cpu"
    if device == "cuda" and not works:
        reporter.emit(Event(event="result", result=None))
        return
    reporter.emit(Event(event="state", result=machine.state(device)))
    reporter.emit(Event(event="result", result=machine.describe(device) | missed))


def _why_no_gpu() -> str:
    """Why torch can use no GPU, in its own words."""
    try:
        torch.cuda.current_device()
    except (RuntimeError, AssertionError) as error:  # a torch without CUDA asserts that
        return _one_line(error)
    return "torch finds none"


# ---- check --------------------------------------------------------------------------------------------------


def _check(request: CheckRequest, reporter: Reporter) -> None:
    if request.interpret:
        from . import interpreter

        interpreter.install()
    from . import checks, identity

    load = cache(lambda role, name: backends.load(name, request.builds[role]))
    identities = {role: identity.Identities(request.device, build) for role, build in request.builds.items()}

    def check(role: Role, name: str, text: str) -> Any:
        backend, case = load(role, name), Case.parse(text)
        result = checks.check(backend, case, request.device, request.seed, role)
        if result.status is CheckStatus.OK:
            result = result.model_copy(update={"identity": identities[role].of(backend, case)})
        return result.model_dump(mode="json")

    for job in request.jobs:
        reporter.attempt(job.id, request.device, partial(check, job.role, job.backend, job.case))


# ---- time ---------------------------------------------------------------------------------------------------


_Buffers = tuple[Tensor, Tensor, Tensor, Tensor | None]  # x, codes, scales, given scales


class _Inputs:
    """Inputs by size and dtype. Drawing one costs more than timing it, and many cells share one."""

    def __init__(self, device: str, seed: int) -> None:
        self._device, self._seed = device, seed
        self._cache: dict[tuple[str, int, int], Tensor] = {}

    def of(self, case: Case) -> Tensor:
        """(tokens, hidden) in the case's dtype, on the device."""
        key = (case.dtype, case.tokens, case.hidden)
        if key not in self._cache:
            if sum(tensor.nbytes for tensor in self._cache.values()) > INPUT_CACHE_BYTES:
                self._cache.clear()
            self._cache[key] = tensors.random_input(case, self._device, self._seed)
        return self._cache[key]


def _round_up(size: int) -> int:
    """The next multiple of what a cache line and every vector fit."""
    return -(-size // WORKSPACE_ALIGNMENT) * WORKSPACE_ALIGNMENT


def _given_scale(case: Case, x: Tensor) -> Tensor | None:
    """Scales for a static scheme that put the largest element at the end of the range; None for a dynamic one."""
    if not case.scheme.static:
        return None
    scale = tensors.empty_scales(case.scheme, case.tokens, case.hidden, x.device)
    return scale.fill_(float(x.abs().max()) / FP8_MAX)


class _Timer:
    """Does the jobs of one request: both arms on the same buffers, bound in the request's load order."""

    def __init__(self, request: TimeRequest) -> None:
        self._request = request
        self._clock: Clock = clock_for(request.device, request.block_s, request.warmup_s)
        self._inputs = _Inputs(request.device, request.seed)
        self._loaded: dict[tuple[Path, str], Backend] = {}

    def _backend(self, build: Path, name: str) -> Backend:
        if (build, name) not in self._loaded:
            self._loaded[build, name] = backends.load(name, build)
        return self._loaded[build, name]

    def _buffers(self, case: Case, cold: bool) -> list[_Buffers]:
        """As many sets as the regime needs. What the outputs hold before does not matter: the case was checked."""
        x = self._inputs.of(case)
        sets = self._clock.sets_for(case.bytes_moved, cold=cold)
        inputs = [x, *(x.clone() for _ in range(sets - 1))]
        scale = _given_scale(case, x)
        return [(entry, *tensors.empty_outputs(case, self._request.device), scale) for entry in inputs]

    def _bind(self, build: Path, cell: Cell, buffers: Sequence[_Buffers], workspaces: Tensor | None) -> list[Call]:
        backend = self._backend(build, cell.backend)
        if reason := backend.supports(cell.case, self._request.device):
            raise ValueError(f"the build {build.name} does not support {cell.id}: {reason}")
        bind = partial(backend.bind, cell.case.scheme)
        given = [{} for _ in buffers] if workspaces is None else [{"workspace": each} for each in workspaces]
        return [bind(*entry, **workspace) for entry, workspace in zip(buffers, given, strict=True)]

    def _workspaces(self, builds: Sequence[Path], cell: Cell, buffers: Sequence[_Buffers]) -> Tensor | None:
        """One for each set of buffers where all `builds` take one, filled with zeros.

        How far a workspace lies from a multiprocessor shows: with one of its own for each arm, effects of tensors of
        128x1024 swayed by 2.5% from launch to launch (H200, hot).
        """
        needs = [
            backends.workspace_bytes(self._backend(build, cell.backend), cell.case.scheme, buffers[0][0])
            for build in builds
        ]
        if not min(needs):
            return None
        return torch.zeros(len(buffers), _round_up(max(needs)), dtype=torch.uint8, device=self._request.device)

    def _builds(self, job: TimeJob) -> dict[Role, Path]:
        """What stands for each role: in the A/A arm the baseline for both, from two places."""
        builds = dict(self._request.builds)
        if job.phase == "aa":
            if self._request.copy_of_baseline is None:
                raise ValueError("the request names no copy of the baseline for its A/A arm")
            builds["candidate"] = self._request.copy_of_baseline
        return builds

    def time(self, job: TimeJob) -> list[Block]:
        """Raw blocks; arm 0 is the baseline, 1 the candidate."""
        cell, request = Cell.parse(job.cell), self._request
        cold, builds = cell.regime == "cold", self._builds(job)
        buffers = self._buffers(cell.case, cold)
        workspaces = self._workspaces([builds[role] for role in request.load_order], cell, buffers)
        if cell.backend in request.shared:
            arm = self._bind(builds["baseline"], cell, buffers, workspaces)
            arms = [arm, arm]
        else:
            bound = {role: self._bind(builds[role], cell, buffers, workspaces) for role in request.load_order}
            arms = [bound["baseline"], bound["candidate"]]
        quads = request.cold_quads if cold else request.quads
        executables = Executables(request.executables, job.precision, request.series if job.precision else 1)
        # What one build keeps in a workspace, the other may not understand: both find zeros.
        before = None if workspaces is None else workspaces.zero_
        return self._clock.quads(
            arms, quads, cold=cold, executables=executables, seconds=job.seconds, planted=job.planted, before=before
        )


def _time(request: TimeRequest, reporter: Reporter) -> None:
    timer = _Timer(request)
    gc.freeze()  # what was imported stays: collecting garbage between cells need not look at it
    before = machine.state(request.device)
    reporter.emit(Event(event="state", result={"when": "before", **before}))
    for job in request.jobs:
        reporter.attempt(job.id, request.device, partial(timer.time, job))
    after = machine.marked(before, machine.state(request.device))
    reporter.emit(Event(event="state", result={"when": "after", **after}))


# ---- main ---------------------------------------------------------------------------------------------------


def _await(path: Path, supervisor: int) -> None:
    """Wait for the request, as long as the supervisor lives."""
    while not path.exists():
        if os.getppid() != supervisor:
            os._exit(_DESERTED)
        time.sleep(0.02)


def main(path: str, supervisor: int = 0) -> None:
    """Answer the request at `path`. supervisor: process that will write it; 0: it is there."""
    _die_with_supervisor()
    faulthandler.enable()
    reporter = Reporter()
    if supervisor:
        _await(Path(path), supervisor)
    request = REQUEST.validate_json(Path(path).read_bytes())
    reporter.emit(Event(event="ready"))
    if isinstance(request, EnvironmentRequest):
        _environment(request, reporter)
    elif isinstance(request, CheckRequest):
        _check(request, reporter)
    else:
        _time(request, reporter)
    reporter.emit(Event(event="end"))
    sys.stderr.flush()
    os._exit(0)  # what the code under test left to be done at exit is not waited for


if __name__ == "__main__":
    main(sys.argv[1], *map(int, sys.argv[2:]))
