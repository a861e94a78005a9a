"""The compilers of this machine: where they are, which version, what they can do.

nvcc is looked for on PATH, under $CUDA_HOME, in /usr/local/cuda, and last in the PyPI packages
`cuda-toolkit[nvcc,cudart,cccl]`, which the extra `fp8bench[nvcc]` brings. The C++ compiler is $CXX, c++, g++ or
clang++.
"""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from .errors import ToolchainError

CXX_NAMES = ("c++", "g++", "clang++")
_TIMEOUT_S = 60.0


@dataclass(frozen=True)
class Compiler:
    """A C++ compiler of the host."""

    command: tuple[str, ...]  # $CXX may hold a launcher and options
    version: str  # the first line that it prints about itself

    @property
    def program(self) -> str:
        """The compiler itself, without launcher and options."""
        return [word for word in self.command if not word.startswith("-")][-1]


@dataclass(frozen=True)
class Nvcc:
    """A CUDA compiler."""

    path: Path
    version: str  # 13.0.88
    architectures: frozenset[str]  # of sm_XX that it can compile for
    library_dir: Path | None = None  # to link from, where nvcc does not know by itself (PyPI)


def _output(*command: str) -> str | None:
    """What the command prints, or None if it cannot be run or fails."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_TIMEOUT_S, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout if done.returncode == 0 else None


def find_cxx() -> Compiler:
    """The C++ compiler of the host; ToolchainError if there is none or $CXX is not one."""
    return _find_cxx(os.environ.get("CXX", ""), os.environ.get("PATH", ""))


@lru_cache
def _find_cxx(chosen: str, _path: str) -> Compiler:
    """`find_cxx` for an environment, so that a changed one is looked at anew."""
    for command in [chosen.split()] if chosen.strip() else [[name] for name in CXX_NAMES]:
        if version := _output(*command, "--version"):
            return Compiler(tuple(command), version.splitlines()[0].strip())
    if chosen.strip():
        raise ToolchainError(f"CXX is {chosen!r}, which does not run: set it to a C++ compiler or unset it.")
    raise ToolchainError(f"no C++ compiler on PATH ({', '.join(CXX_NAMES)}): install one (Debian: apt install g++).")


def find_nvcc() -> Nvcc:
    """The CUDA compiler; ToolchainError if there is none that runs."""
    return _find_nvcc(os.environ.get("CUDA_HOME", ""), os.environ.get("PATH", ""))


@lru_cache
def _find_nvcc(cuda_home: str, _path: str) -> Nvcc:
    """`find_nvcc` for an environment, so that a changed one is looked at anew."""
    on_path = shutil.which("nvcc")
    homes = [Path(cuda_home)] if cuda_home else []
    candidates = [Path(on_path)] if on_path else []
    candidates += [home / "bin" / "nvcc" for home in (*homes, Path("/usr/local/cuda"))]
    for path in candidates:
        if found := _inspect_nvcc(path):
            return found
    if (packaged := _packaged_cuda()) and (found := _inspect_nvcc(packaged / "bin" / "nvcc", packaged / "lib")):
        return found
    raise ToolchainError("no CUDA compiler on PATH, in $CUDA_HOME or /usr/local/cuda: pip install fp8bench[nvcc].")


def _packaged_cuda() -> Path | None:
    """Where the PyPI packages of the CUDA toolkit are installed."""
    spec = importlib.util.find_spec("nvidia")  # a namespace package: several places
    for place in spec.submodule_search_locations or () if spec else ():
        if (home := Path(place) / "cu13").is_dir():
            return home
    return None


def _inspect_nvcc(path: Path, library_dir: Path | None = None) -> Nvcc | None:
    """Version and architectures of the nvcc at `path`, or None if it does not run."""
    if not path.is_file() or not (about := _output(str(path), "--version")):
        return None
    version = re.search(r"\bV(\d[\d.]*)", about)
    architectures = re.findall(r"compute_(\w+)", _output(str(path), "--list-gpu-arch") or "")
    return Nvcc(path, version[1] if version else "unknown", frozenset(architectures), library_dir)
