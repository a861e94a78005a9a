"""Many items over as many workers as it takes."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from ..errors import WorkerError
from .process import Death, Worker

Progress = Callable[[str, int, int], None]  # what, done, total
Status = Literal["crashed", "hung", "failed"]

# A backend that keeps dying is not given another process for each of its items.
DEATHS_TO_GIVE_UP: dict[Status, int] = {"crashed": 5, "hung": 2}


@dataclass
class Outcome:
    """What came of the items of one request, over as many workers as it took."""

    done: dict[str, Any] = field(default_factory=dict)  # item -> result
    lost: dict[str, tuple[Status, str]] = field(default_factory=dict)  # item -> status, detail
    states: list[dict[str, Any]] = field(default_factory=list)

    def missing(self, items: Sequence[str]) -> list[str]:
        return [item for item in items if item not in self.done and item not in self.lost]


def _run_once(worker: Worker, outcome: Outcome, note: Callable[[str], None]) -> tuple[str, Death | None]:
    """Follow one worker to its end: the item that it was at when it died, and how."""
    current = ""
    for event in worker.events():
        if isinstance(event, Death):
            return current, event
        if event.event == "start":
            current = event.item
            continue
        if event.event == "done":
            outcome.done[event.item] = event.result
        elif event.event == "failed":
            outcome.lost[event.item] = (event.status or "failed", event.detail)
        elif event.event == "state":
            outcome.states.append(event.result)
            continue
        current = ""
        note(event.item)
    return current, None


def _give_up(remaining: Sequence[str], outcome: Outcome, group_of: Callable[[str], str]) -> None:
    """Lose what remains of groups that have died too often."""
    deaths = Counter((group_of(item), status) for item, (status, _) in outcome.lost.items())
    for item in remaining:
        for status, limit in DEATHS_TO_GIVE_UP.items():
            if item not in outcome.done and item not in outcome.lost and deaths[group_of(item), status] >= limit:
                outcome.lost[item] = (status, f"not tried: {limit} others of {group_of(item)} {status} before")


def run_all(
    items: Sequence[str],
    start: Callable[[Sequence[str]], Worker],
    group_of: Callable[[str], str],
    note: Callable[[str], None],
) -> Outcome:
    """Run `items` in workers made by `start`, a fresh one after each death, until each is done or lost.

    group_of: the group of an item that is given up together after too many deaths. note: told of each item.
    Raises WorkerError where workers die between items, that is for no item's sake, twice in a row.
    """
    outcome, fruitless = Outcome(), 0
    while remaining := outcome.missing(items):
        with start(remaining) as worker:
            current, death = _run_once(worker, outcome, note)
        if current and death:
            outcome.lost[current] = (death.status, death.detail)
            note(current)
        fruitless = fruitless + 1 if len(outcome.missing(items)) == len(remaining) else 0
        if fruitless == 2:
            reason = death.detail if death else "it ended without doing anything"
            raise WorkerError(f"a worker cannot do its work: {reason}. Its log is {worker.log}.")
        _give_up(remaining, outcome, group_of)
    return outcome


def counted(progress: Progress, what: str, total: int, done: int = 0) -> Callable[[str], None]:
    """A function to be told of each item, which tells `progress` how many there were, counting from `done`.

    Threads may share it.
    """
    lock = threading.Lock()

    def note(_: str) -> None:
        nonlocal done
        with lock:
            done += 1
            progress(what, done, total)

    return note
