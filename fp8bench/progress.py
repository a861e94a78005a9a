"""Progress that fits where it is shown: bars on a terminal, one plain line per finished step elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TextIO

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn


class Reporter:
    """Call it with (what, done, total); use it in a `with` statement, and `step` around each step."""

    def __init__(self, stream: TextIO | None = None) -> None:
        self._console = Console(file=stream or sys.stderr)
        self._bars = Progress(
            TextColumn("{task.description:<12}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            console=self._console,
            transient=True,
            disable=not self._console.is_terminal,
        )
        self._tasks: dict[str, TaskID] = {}

    def __enter__(self) -> Reporter:
        self._bars.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bars.stop()

    def __call__(self, what: str, done: int, total: int) -> None:
        if what not in self._tasks:
            self._tasks[what] = self._bars.add_task(what, total=total)
        self._bars.update(self._tasks[what], completed=done, total=total)

    @contextmanager
    def step(self, name: str) -> Iterator[None]:
        """Print `name` and how long it took when the block ends; its bars disappear."""
        started = time.monotonic()
        try:
            yield
        finally:
            for task in self._tasks.values():
                self._bars.remove_task(task)
            self._tasks.clear()
        self.say(f"{name:<8} {time.monotonic() - started:6.1f} s")

    def say(self, line: str) -> None:
        """One line above the bars, as it is."""
        self._console.print(line, markup=False, highlight=False, soft_wrap=True)
