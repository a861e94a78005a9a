"""One worker process: started, listened to, killed."""

from __future__ import annotations

import os
import resource
import selectors
import signal
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Literal, NamedTuple

from pydantic import ValidationError

from .. import paths
from ..config import Config
from ..devices import visible_gpu
from ..errors import WorkerError
from ..protocol import Event, Request
from ..records import write_bytes
from ..secrecy import scrubbed_environment

_GRACE_S = 5.0  # for a worker that has said its last word to exit
_TAIL_BYTES = 1 << 16


class Death(NamedTuple):
    """How a worker ended before its work was done."""

    status: Literal["crashed", "hung"]
    detail: str


def worker_environment(
    device: str, cache_dir: Path | None = None, gpu_index: int | None = None, *, interpret: bool = False
) -> dict[str, str]:
    """Environment variables of a worker: this process's own, without the control plane's, and with one thread.

    cache_dir: where Inductor and Triton keep what they compiled, shared by all launches.
    gpu_index: the GPU to use, counted over those visible here.
    """
    env = scrubbed_environment()
    if (paths.CHECKOUT / "pyproject.toml").is_file():  # not installed: the worker imports the same checkout
        env["PYTHONPATH"] = os.pathsep.join(filter(None, [str(paths.CHECKOUT), env.get("PYTHONPATH", "")]))
    if cache_dir is not None:
        env["TORCHINDUCTOR_CACHE_DIR"] = str(cache_dir.resolve() / "inductor")
        env["TRITON_CACHE_DIR"] = str(cache_dir.resolve() / "triton")
    # One thread of everything: several workers may share the machine, and Inductor's caches tell thread counts apart.
    env |= {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "TORCHINDUCTOR_COMPILE_THREADS": "1"}
    if device == "cpu":
        env["CUDA_VISIBLE_DEVICES"] = ""
    elif gpu_index is not None:
        env["CUDA_VISIBLE_DEVICES"] = visible_gpu(gpu_index)
    env["CUDA_DEVICE_ORDER"] = "PCI_BUS_ID"  # a number means the GPU that NVML means, and that `devices` locks
    env.pop("TRITON_INTERPRET", None)
    return env | ({"TRITON_INTERPRET": "1"} if interpret else {})


class Worker:
    """A running worker process, to be used in a `with` statement: it is dead at the end of it.

    request: what it is asked; stored beside the log. None: it gets ready and waits until `ask` says.
    log: where its standard error goes (appended).
    startup_s, item_s: most seconds until its first event, and between two events.
    wrapper: a command that becomes the worker, to take rights away. memory_gb: of address space; 0: no limit.
    """

    def __init__(
        self,
        python: str,
        request: Request | None,
        env: Mapping[str, str],
        log: Path,
        startup_s: float,
        item_s: float,
        *,
        wrapper: Sequence[str] = (),
        memory_gb: float = 0,
    ) -> None:
        self.log = log
        self._timeout_s, self._item_s = startup_s, item_s
        self._request_file = log.with_suffix(".request.json")
        command = [*wrapper, python, "-P", "-m", "fp8bench.worker", str(self._request_file.resolve())]
        if request:
            self.ask(request)
        else:
            self._request_file.unlink(missing_ok=True)  # of an earlier try
            command.append(str(os.getpid()))
        try:
            with log.open("ab") as stderr:
                self._log_start = stderr.tell()
                self._process = subprocess.Popen(
                    command,
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.PIPE,
                    stderr=stderr,
                    env=dict(env),
                    start_new_session=True,  # its own process group, to be killed with all it started
                )
        except OSError as error:
            which = (
                f"{wrapper[0]}: {error.strerror}. Check worker.wrapper"
                if wrapper
                else f"{python}: {error.strerror}. Check worker.python"
            )
            raise WorkerError(f"cannot start a worker with {which}.") from None
        _limit(self._process.pid, memory_gb)

    @classmethod
    def for_config(cls, config: Config, request: Request | None, env: Mapping[str, str], log: Path) -> Worker:
        settings = config.worker
        return cls(
            settings.python,
            request,
            env,
            log,
            settings.startup_timeout_s,
            settings.cell_timeout_s,
            wrapper=settings.wrapper,
            memory_gb=settings.memory_gb if env.get("CUDA_VISIBLE_DEVICES") == "" else 0,
        )

    def ask(self, request: Request) -> None:
        """Give it its request, once."""
        write_bytes(request.model_dump_json(indent=1).encode(), self._request_file)

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.kill()

    def kill(self) -> None:
        """Kill the worker and everything it started, once: later its number may be that of another process group."""
        assert self._process.stdout is not None
        if self._process.stdout.closed:
            return
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        self._process.stdout.close()

    def _lines(self) -> Iterator[bytes | None]:
        """Lines of its output; None, once, when the next one takes too long."""
        assert self._process.stdout is not None
        pipe, buffer = self._process.stdout.fileno(), b""
        with selectors.DefaultSelector() as selector:
            selector.register(pipe, selectors.EVENT_READ)
            while True:
                if not selector.select(self._timeout_s):
                    yield None
                    return
                if not (chunk := os.read(pipe, 1 << 16)):
                    return
                *lines, buffer = (buffer + chunk).split(b"\n")
                yield from lines

    def events(self) -> Iterator[Event | Death]:
        """Its events as they come, without `ready` and `end`; if it does not reach its end, how it died, at last."""
        for line in self._lines():
            if line is None:
                yield Death("hung", f"no sign of life for {self._timeout_s:g} s; killed")
                return
            try:
                event = Event.model_validate_json(line)
            except ValidationError:
                yield Death("crashed", f"the worker wrote something that is no event: {line[:200]!r}")
                return
            if event.event == "end":
                return
            self._timeout_s = self._item_s
            if event.event == "start":
                self._log_start = self.log.stat().st_size  # the last words of this item, not of the ones before
            if event.event != "ready":
                yield event
        yield Death("crashed", self._last_words())

    def _last_words(self) -> str:
        """How the process ended, with the last line of its log."""
        try:
            code = self._process.wait(_GRACE_S)
        except subprocess.TimeoutExpired:
            return "the worker closed its output and did not exit; killed"
        how = f"killed by {_signal_name(-code)}" if code < 0 else f"exit code {code}"
        words = self._log_tail()
        return f"{how}: {words}" if words else how

    def _log_tail(self) -> str:
        """The line of its log that says most: the fatal error, or else the last line; "" for an empty log."""
        with self.log.open("rb") as file:
            file.seek(max(self._log_start, file.seek(0, os.SEEK_END) - _TAIL_BYTES))
            lines = [line.strip() for line in file.read().decode(errors="replace").splitlines() if line.strip()]
        fatal = [line for line in lines if line.startswith("Fatal Python error")]
        return (fatal or lines or [""])[-1]


def _limit(pid: int, memory_gb: float) -> None:
    """No core files, which may fill a disk, and no more memory than is allowed. A worker that ended has no limits."""
    with suppress(ProcessLookupError):
        resource.prlimit(pid, resource.RLIMIT_CORE, (0, 0))
        if memory_gb:
            resource.prlimit(pid, resource.RLIMIT_AS, (int(memory_gb * 1e9),) * 2)


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
