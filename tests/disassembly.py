"""What the disassembler says about a CUDA library, asked once for all test files: it takes seconds an architecture."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from conftest import HOME

FOLDER = HOME / "disassembled"


def functions(library: Path, architecture: str) -> dict[str, str]:
    """The listing of every kernel of `library` for sm_`architecture`, by its mangled name."""
    parts = re.split(r"^\s*Function : (\S+)$", _listing(library, architecture), flags=re.MULTILINE)[1:]
    return dict(zip(parts[::2], parts[1::2], strict=True))


def _listing(library: Path, architecture: str) -> str:
    """From the last time, if that was of this library: its name holds the hash of all that it was compiled from."""
    kept = FOLDER / f"sm_{architecture}.txt"
    if kept.is_file() and (text := kept.read_text()).startswith(f"{library.name}\n"):
        return text
    command = [_cuobjdump(), "-sass", "-arch", f"sm_{architecture}", str(library)]
    listed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    FOLDER.mkdir(parents=True, exist_ok=True)
    made = kept.with_suffix(f".{os.getpid()}")
    made.write_text(f"{library.name}\n{listed}")
    made.replace(kept)
    return listed


def _cuobjdump() -> str:
    """The disassembler: of the CUDA toolkit, or the one that Triton brings."""
    if tool := shutil.which("cuobjdump"):
        return tool
    triton = pytest.importorskip("triton")
    return str(triton.knobs.nvidia.cuobjdump.path)
