"""Escaping for GitHub-flavoured Markdown: what commits, paths and logs say stays text.

It can neither format, link, mention a person nor refer to an issue, and it cannot begin a block of its own.
"""

from __future__ import annotations

import re

from .. import wording

LIMIT = 2000  # characters of one piece of text
_INVISIBLE = "&#8203;"  # zero-width space: GitHub looks for mentions after the backslashes are gone


class Markdown(str):
    """Text that is Markdown already."""

    __slots__ = ()


def escape(value: object) -> Markdown:
    """`value` as one line of text. To stand after other text of its line: a list or heading could begin otherwise."""
    if isinstance(value, Markdown):
        return value
    text = wording.one_line(str(value), LIMIT).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    text = re.sub(r"([\\`*_\[\]|~$])", r"\\\1", text)
    text = re.sub(r"(?i)(?<=\bwww)\.|:(?=//)", r"\\\g<0>", text)
    return Markdown(re.sub(r"(@|\bGH-|#)(?=\w)", rf"\1{_INVISIBLE}", text))


def code(value: object) -> Markdown:
    """`value` as a code span, which may stand in a table."""
    text = wording.one_line(str(value), LIMIT).replace("|", "¦")
    fence = _fence(text, 1)
    pad = " " if text.startswith("`") or text.endswith("`") else ""
    return Markdown(f"{fence}{pad}{text}{pad}{fence}" if text else "")


def block(value: object) -> Markdown:
    """`value` as a fenced block of shell."""
    fence = _fence(str(value), 3)
    return Markdown(f"{fence}sh\n{value}\n{fence}")


def link(name: str, address: str) -> Markdown:
    """`name` as a link to a web address; text where `address` is none."""
    if not address.startswith(("https://", "http://")):
        return escape(f"{name}: {address}")
    quoted = re.sub(r"[\s<>()\[\]\\`|]", lambda found: f"%{ord(found[0]):02X}", address)
    return Markdown(f"[{escape(name)}]({quoted})")


def _fence(text: str, shortest: int) -> str:
    """Backticks, more of them than stand together anywhere in `text`."""
    longest = max((len(run) for run in re.findall(r"`+", text)), default=0)
    return "`" * max(shortest, longest + 1)
