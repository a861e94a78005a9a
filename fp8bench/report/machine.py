"""What the compilers made of the two builds of a backend: the kernels whose code or whose needs differ."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from .. import machine_code, resources, wording
from ..night import Night
from ..resources import KernelResources
from ..spec import BASELINE, CANDIDATE

SHOWN = 12  # kernels
COLUMNS = ("Registers", "Spills, bytes", "Stack, bytes", "Shared memory, bytes", "Instructions")
_Values = tuple[int | None, ...]  # in the order of COLUMNS


@dataclass(frozen=True)
class Figure:
    baseline: str
    candidate: str

    @property
    def changed(self) -> bool:
        return self.baseline != self.candidate


@dataclass(frozen=True)
class Kernel:
    name: str
    figures: tuple[Figure, ...]


@dataclass(frozen=True)
class MachineCode:
    sentence: str
    columns: tuple[str, ...]
    kernels: tuple[Kernel, ...]
    more: int


def build(night: Night, backend: str) -> MachineCode | None:
    """None where the builds are gone, or say nothing about a backend's kernels."""
    architecture = night.prepared.environment.compute_capability.replace(".", "")
    before, after = (_kernels(_build(night, role), backend, architecture) for role in (BASELINE, CANDIDATE))
    if not before or not after:
        return None
    changed = [name for name in dict.fromkeys([*before, *after]) if before.get(name) != after.get(name)]
    ranked = sorted(changed, key=lambda name: -_distance(before.get(name), after.get(name)))
    rows = [Kernel(name, _figures(before.get(name), after.get(name))) for name in ranked[:SHOWN]]
    where = f"sm_{architecture}" if architecture else "all architectures"
    counted = f"{len(changed)} of {wording.count(len(after), 'kernel')}" if changed else "No kernel"
    verb = "differ" if len(changed) != 1 else "differs"
    sentence = f"{counted} for {where} {verb} between the builds in registers, memory or instructions."
    return MachineCode(sentence, COLUMNS, tuple(rows), len(changed) - len(rows))


def _build(night: Night, role: str) -> Path:
    return Path(night.built.role(role).path or "/nonexistent")


def _kernels(build: Path, backend: str, architecture: str) -> dict[str, _Values]:
    """Figures of every kernel of a build by name; only CUDA's compiler tells them."""
    if backend != "cuda" or not build.is_dir():
        return {}
    sizes = _instructions(build, architecture)
    found: dict[str, _Values] = {}
    for kernel in resources.read(build):
        if not architecture or kernel.architecture.rstrip("af") == architecture:
            found[_name(kernel, architecture)] = (*_needs(kernel), sizes.get(kernel.kernel))
    return found


def _name(kernel: KernelResources, architecture: str) -> str:
    return kernel.kernel if architecture else f"{kernel.kernel} sm_{kernel.architecture}"


def _needs(kernel: KernelResources) -> tuple[int, int, int, int]:
    return kernel.registers, kernel.spills, kernel.stack, kernel.shared


def _instructions(build: Path, architecture: str) -> dict[str, int]:
    """Instructions of every kernel by its readable name; {} where the library cannot be read."""
    found: dict[str, int] = {}
    for library in build.glob("libfp8bench_cuda-*.so"):
        found |= _instructions_of(library, library.stat().st_mtime_ns).get(architecture, {})
    return found


@lru_cache(maxsize=4)
def _instructions_of(library: Path, _written: int) -> dict[str, dict[str, int]]:
    counted = machine_code.instructions_of_library(library.read_bytes())
    return {
        architecture: dict(zip(resources.readable(list(kernels)), kernels.values(), strict=True))
        for architecture, kernels in counted.items()
    }


def _distance(before: _Values | None, after: _Values | None) -> float:
    """How much two kernels differ, in shares; one that only one build has differs most."""
    if before is None or after is None:
        return float("inf")
    return sum(abs(a - b) / max(a, b) for a, b in zip(before, after, strict=True) if a and b and a != b)


def _figures(before: _Values | None, after: _Values | None) -> tuple[Figure, ...]:
    nothing: _Values = (None,) * len(COLUMNS)
    return tuple(Figure(_show(a), _show(b)) for a, b in zip(before or nothing, after or nothing, strict=True))


def _show(value: int | None) -> str:
    return "–" if value is None else str(value)
