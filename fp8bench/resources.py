"""What a compiler says its kernels need: the report of `ptxas -v` as a table."""

from __future__ import annotations

import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

_ENTRY = re.compile(r"Compiling entry function '(?P<kernel>\S+)' for 'sm_(?P<architecture>\w+)'")
_STACK = re.compile(r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads")
_REGISTERS = re.compile(r"Used (\d+) registers")
_SHARED = re.compile(r"(\d+) bytes smem")


@dataclass(frozen=True)
class KernelResources:
    """What one kernel needs on one architecture; sizes in bytes a thread, shared memory a thread block."""

    kernel: str
    architecture: str  # of sm_XX
    registers: int
    stack: int
    spills: int  # stored and loaded
    shared: int


def parse(report: str) -> list[KernelResources]:
    """The kernels of a `ptxas -v` report, in its order, under readable names."""
    parts = re.split(r"(?=^.*Compiling entry function )", report, flags=re.MULTILINE)
    kernels = [kernel for part in parts if (kernel := _parse_entry(part))]
    names = readable([kernel.kernel for kernel in kernels])
    return [KernelResources(name, *_figures(kernel)) for name, kernel in zip(names, kernels, strict=True)]


def read(build: Path) -> list[KernelResources]:
    """The kernels of the CUDA library in the build directory `build`; none where it was not built."""
    report = build / "resources-cuda.txt"
    return parse(report.read_text()) if report.is_file() else []


def _figures(kernel: KernelResources) -> tuple[str, int, int, int, int]:
    return kernel.architecture, kernel.registers, kernel.stack, kernel.spills, kernel.shared


def _parse_entry(part: str) -> KernelResources | None:
    entry, registers = _ENTRY.search(part), _REGISTERS.search(part)
    if entry is None or registers is None:
        return None
    stack, stored, loaded = map(int, found.groups()) if (found := _STACK.search(part)) else (0, 0, 0)
    shared = int(found[1]) if (found := _SHARED.search(part)) else 0
    return KernelResources(entry["kernel"], entry["architecture"], int(registers[1]), stack, stored + loaded, shared)


def readable(names: list[str]) -> list[str]:
    """C++ names as people write them, where c++filt is there to translate; without their parameters."""
    tool = shutil.which("c++filt")
    if tool is None or not names:
        return names
    done = subprocess.run([tool, "-p"], input="\n".join(names), capture_output=True, text=True, check=False)
    lines = done.stdout.splitlines()
    return [line.removeprefix("void ") for line in lines] if len(lines) == len(names) else names
