"""Runs Triton's interpreter in a process of its own: `python tests/interpreter.py CASES.json OUT.json CASTS.npz`.

Whether kernels are interpreted is decided once a process, when triton is imported; so the tests of the interpreted
kernels share one such process, started by the fixture in `test_triton.py`.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np

from fp8bench import interpreter

interpreter.install()
interpreter.install()  # twice is once

import torch  # noqa: E402
import triton  # noqa: E402
import triton.language as tl  # noqa: E402

from fp8bench import checks, paths  # noqa: E402
from fp8bench.backends import load  # noqa: E402
from fp8bench.spec import Case  # noqa: E402


@triton.jit
def cast_kernel(x, codes, wide, BLOCK: tl.constexpr):
    index = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    values = tl.load(x + index)
    tl.store(codes + index, values.to(tl.float8e4nv))
    tl.store(wide + index, values.to(tl.float32))


def casts(dtype: torch.dtype) -> tuple[np.ndarray, np.ndarray]:
    """Codes, and float32 values' bits, of every 16-bit pattern, as an interpreted kernel casts them."""
    x = torch.arange(-(2**15), 2**15, dtype=torch.int32).to(torch.int16).view(dtype)
    codes = torch.full((2**16,), 0x55, dtype=torch.uint8)
    wide = torch.zeros(2**16)
    cast_kernel[(4,)](x, codes.view(torch.float8_e4m3fn), wide, BLOCK=2**14)
    return codes.numpy(), wide.view(torch.int32).numpy()


def main(cases: Path, out: Path, arrays: Path) -> None:
    backend = load("triton", paths.BACKENDS.parent)
    results = {}
    for case in json.loads(cases.read_text()):
        result = checks.check(backend, Case.parse(case), "cpu", seed=11)
        results[case] = [result.status, result.detail]
    found = {}
    for dtype in (torch.bfloat16, torch.float16):
        found[f"{dtype}-codes"], found[f"{dtype}-wide"] = casts(dtype)
    np.savez(arrays, **found)
    out.write_text(json.dumps(results))


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
