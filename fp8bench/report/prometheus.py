"""The night as metrics in the text format of Prometheus, e.g. for the textfile collector of node_exporter."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

from ..night import Night

Sample = tuple[dict[str, str], float]

_HELP = {
    "fp8bench_night_exit_code": "Of the latest night: 0 fine, 1 regression, 2 wrong or not built, 3 invalid.",
    "fp8bench_night_started_timestamp_seconds": "When the latest night began.",
    "fp8bench_cells": "Cells of the latest night by verdict.",
    "fp8bench_causes": "Causes of the latest night.",
    "fp8bench_worst_effect_ratio": "Candidate time over baseline time of the slowest cell.",
    "fp8bench_speedup_ratio": "Time of torch over that of the candidate, geometric mean over a family.",
}


def render(run_dir: Path) -> str:
    """The metrics of the judged night in `run_dir`. RunDirError when a record is missing."""
    night = Night.read(run_dir)
    found = dict(_samples(night))
    lines = []
    for name, meaning in _HELP.items():
        lines += [f"# HELP {name} {meaning}", f"# TYPE {name} gauge"]
        lines += [_line(name, {**_night(night), **labels}, value) for labels, value in found[name]]
    return "\n".join(lines) + "\n"


def _night(night: Night) -> dict[str, str]:
    return {"device": night.prepared.environment.device_name, "suite": night.prepared.suite}


def _samples(night: Night) -> Iterator[tuple[str, list[Sample]]]:
    verdicts = night.verdicts
    yield "fp8bench_night_exit_code", [({}, verdicts.exit_code)]
    yield "fp8bench_night_started_timestamp_seconds", [({}, night.prepared.created.timestamp())]
    yield (
        "fp8bench_cells",
        [
            ({"backend": entry.backend, "verdict": verdict.value}, count)
            for entry in verdicts.backends
            for verdict, count in entry.counts.items()
        ],
    )
    yield "fp8bench_causes", [({}, len(verdicts.causes))]
    yield "fp8bench_worst_effect_ratio", [entry for name in night.backends for entry in _worst(night, name)]
    yield (
        "fp8bench_speedup_ratio",
        [
            ({"backend": entry.backend, "family": entry.family, "regime": entry.regime}, entry.candidate)
            for entry in verdicts.speedups
            if entry.candidate
        ],
    )


def _worst(night: Night, backend: str) -> list[Sample]:
    effects = [facts.verdict.effect.value for facts in night.of(backend) if facts.verdict.effect]
    return [({"backend": backend}, math.exp(max(effects)))] if effects else []


def _line(name: str, labels: dict[str, str], value: float) -> str:
    told = ",".join(f'{key}="{_escaped(text)}"' for key, text in labels.items())
    return f"{name}{{{told}}} {value:.10g}"


def _escaped(text: str) -> str:
    return text.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")
