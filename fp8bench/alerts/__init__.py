"""Mail about a night: composed as finished messages into the outbox, handed over by channels, never twice.

A channel is a module with two functions: `why_not(config)`, a reason why it cannot be used or None, and
`send(message, run_dir, config)`, which raises DeliveryError. To add one, write `alerts/<name>.py` and add it here.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from .. import records
from ..night import Night
from ..records import Message
from . import messages, smtp

if TYPE_CHECKING:
    from ..config import Config

CHANNELS = (smtp,)


def compose(run_dir: Path, config: Config) -> list[Path]:
    """Write one message a cause (and one when the night is invalid) to the outbox; returns their paths.

    The same night composes the same files: a message that was handed over already is left as it is.
    """
    outbox = run_dir / "outbox"
    written = []
    for number, message in enumerate(messages.build(Night.read(run_dir), config), start=1):
        path = outbox / f"{number:03}.json"
        if not _marker(path).exists():
            records.write(message, path)
        written.append(path)
    return written


def pending(run_dir: Path) -> list[Path]:
    """Messages that nobody has taken yet, in order."""
    return [path for path in sorted((run_dir / "outbox").glob("*.json")) if not _marker(path).exists()]


def mark_sent(path: Path) -> None:
    """Record that the message at `path` was handed over."""
    records.write_bytes(f"{datetime.now(UTC).isoformat()}\n".encode(), _marker(path))


def deliver(run_dir: Path, config: Config, say: Callable[[str], None] = print) -> int:
    """Hand the pending messages over and return how many were; says why when nothing can be sent.

    DeliveryError when a channel refuses: that message and those after it stay in the outbox.
    """
    waiting = pending(run_dir)
    reasons = {channel: channel.why_not(config) for channel in CHANNELS}
    usable = [channel for channel, reason in reasons.items() if reason is None]
    if waiting and not usable:
        why = "; ".join(reason for reason in reasons.values() if reason)
        say(f"{len(waiting)} mail(s) stay in {run_dir / 'outbox'}: {why}.")
        return 0
    for path in waiting:
        message = records.read(Message, path)
        for channel in usable:
            channel.send(message, run_dir, config)
        mark_sent(path)  # at once: a crash after this line sends nothing twice
    return len(waiting)


def _marker(path: Path) -> Path:
    return path.with_suffix(".sent")
