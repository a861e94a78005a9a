"""The night as JUnit XML, for whatever shows test results: a suite a backend, a test case a cell."""

from __future__ import annotations

import re
from pathlib import Path
from xml.etree.ElementTree import Element, SubElement, indent, tostring

from .. import wording
from ..metrics import CellFacts
from ..night import Night
from ..records import Cause, Verdict

FAILED = (Verdict.WRONG, Verdict.CRASHED, Verdict.NOT_BUILT, Verdict.REGRESSED)
SKIPPED = (Verdict.INVALID, Verdict.UNRESOLVED, Verdict.MISSING, Verdict.UNSUPPORTED)

_FORBIDDEN = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")  # in XML 1.0, escaped or not


def render(run_dir: Path) -> str:
    """The judged night in `run_dir` as XML. RunDirError when a record is missing."""
    night = Night.read(run_dir)
    root = Element("testsuites", name=_text(f"fp8bench {night.prepared.run_id}"))
    for backend in night.backends:
        _suite(root, night, backend)
    _count(root)
    indent(root)
    return '<?xml version="1.0" encoding="UTF-8"?>\n' + tostring(root, encoding="unicode") + "\n"


def _suite(root: Element, night: Night, backend: str) -> None:
    """A backend's cells, and what is held against it beside them: a build without cells, a family as a whole."""
    prepared = night.prepared
    suite = SubElement(root, "testsuite", name=_text(backend))
    suite.set("timestamp", f"{prepared.created:%Y-%m-%dT%H:%M:%S}")
    suite.set("hostname", _text(prepared.environment.host))
    for facts in night.of(backend):
        _cell(suite, facts)
    for cause in night.verdicts.causes:
        if cause.backend == backend and not cause.cells:
            _beside(suite, cause)
    _count(suite)


def _cell(suite: Element, facts: CellFacts) -> None:
    cell, found = facts.cell, facts.verdict
    place = {"classname": f"fp8bench.{cell.backend}", "name": f"{cell.case.id}/{cell.regime}"}
    case = SubElement(suite, "testcase", place)
    case.set("time", f"{(found.candidate_us or 0.0) / 1e6:.9f}")  # seconds of one call
    effect = wording.effect_text(found.effect) if found.effect else ""
    reason = found.reason or wording.MEANINGS[found.verdict]
    if found.verdict in FAILED:
        _outcome(case, "failure", found.verdict, f"{effect} {reason}" if effect else reason)
    elif found.verdict in SKIPPED:
        _outcome(case, "skipped", found.verdict, f"{effect} {reason}" if effect else reason)
    elif effect:
        SubElement(case, "system-out").text = f"{wording.WORDS[found.verdict]} {effect}"


def _beside(suite: Element, cause: Cause) -> None:
    name = ", ".join(cause.families) or "build"
    case = SubElement(suite, "testcase", {"classname": f"fp8bench.{cause.backend}", "name": _text(name)})
    effect = wording.effect_text(cause.worst) if cause.worst else ""
    _outcome(case, "failure", cause.verdict, " ".join(part for part in (effect, cause.detail) if part))


def _outcome(case: Element, tag: str, verdict: Verdict, text: str) -> None:
    message = f"{wording.WORDS[verdict]}: {wording.one_line(text, 300)}"
    outcome = SubElement(case, tag, message=_text(message))
    if tag == "failure":
        outcome.set("type", verdict.value)
        outcome.text = _text(text)


def _count(element: Element) -> None:
    counts = {"tests": "testcase", "failures": "failure", "skipped": "skipped"}
    for name, tag in counts.items():
        element.set(name, str(sum(1 for _ in element.iter(tag))))
    element.set("errors", "0")


def _text(text: str) -> str:
    return _FORBIDDEN.sub("\N{REPLACEMENT CHARACTER}", text)
