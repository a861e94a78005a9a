"""The kernels divide by multiplying: proof that no code can tell, by exhaustion on the host."""

from __future__ import annotations

import ctypes
import platform
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch

from fp8bench import paths, toolchain
from fp8bench.spec import MIN_SCALE

SOURCE = Path(__file__).parent / "division.cpp"
MANTISSAS = 1 << 23


def _has_fused_operations() -> bool:
    cpu = Path("/proc/cpuinfo")
    return platform.machine() == "aarch64" or (cpu.is_file() and " fma " in cpu.read_text())


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    out = tmp_path_factory.mktemp("division") / "division.so"
    fused = ["-mfma"] if platform.machine() == "x86_64" and _has_fused_operations() else []
    flags = ["-O3", "-std=c++17", "-ffp-contract=off", "-fPIC", "-shared", *fused, f"-I{paths.CSRC}"]
    subprocess.run([*toolchain.find_cxx().command, *flags, str(SOURCE), "-o", str(out)], check=True)
    library = ctypes.CDLL(str(out))
    library.wrong_halves.restype = library.wrong_sides.restype = library.wrong_scales.restype = (
        library.wrong_codes.restype
    ) = ctypes.c_long
    library.wrong_sides.argtypes = [ctypes.c_uint32, ctypes.c_uint32]
    return library


def _wrong_codes(library: ctypes.CDLL, scales: np.ndarray, x: np.ndarray, own: bool) -> tuple[int, list[float]]:
    last = np.zeros(2, np.float32)
    scales, x = (np.ascontiguousarray(array, np.float32) for array in (scales, x))
    pointers = [ctypes.c_void_p(array.ctypes.data) for array in (scales, x, last)]
    count = library.wrong_codes(
        pointers[0], ctypes.c_long(scales.size), pointers[1], ctypes.c_long(x.size), int(own), pointers[2]
    )
    return count, last.tolist()


def test_division_by_an_own_scale_crosses_no_boundary(library: ctypes.CDLL) -> None:
    """All mantissas of the scale, and all floats within two steps of a boundary; the power of two changes nothing."""
    step = MANTISSAS if _has_fused_operations() else MANTISSAS // 64  # without, one is slow: the ends then
    wrong = library.wrong_sides(0, step) + library.wrong_sides(MANTISSAS - step, MANTISSAS)
    assert wrong == 0


def test_scales_are_quotients(library: ctypes.CDLL) -> None:
    assert library.wrong_scales() == 0


def _patterns(dtype: torch.dtype) -> np.ndarray:
    return torch.arange(65536, dtype=torch.int32).to(torch.int16).view(dtype).float().numpy()


@pytest.mark.parametrize("off", [-1, 0, 1])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_every_16_bit_element_by_every_largest_magnitude(library: ctypes.CDLL, dtype: torch.dtype, off: int) -> None:
    """With every reciprocal that the hardware may estimate: within a unit in the last place."""
    values = _patterns(dtype)[:32768]
    values = np.ascontiguousarray(values[np.isfinite(values)])
    if not _has_fused_operations():  # one is slow: a sixty-fourth of them, the largest kept
        values = np.ascontiguousarray(values[::-8][::-1])
    assert library.wrong_halves(ctypes.c_void_p(values.ctypes.data), ctypes.c_long(values.size), off) == 0


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_every_16_bit_element_by_an_own_scale(library: ctypes.CDLL, dtype: torch.dtype) -> None:
    x = _patterns(dtype)
    for absmax in (1e-3, 0.7, 448.0, 3000.0, 65504.0):
        scale = np.float32(max(np.float32(absmax) / np.float32(448), np.float32(MIN_SCALE)))
        assert _wrong_codes(library, np.array([scale]), x[np.abs(x) <= absmax], own=True) == (0, [0, 0])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_every_16_bit_element_by_any_scale(library: ctypes.CDLL, dtype: torch.dtype) -> None:
    generator = np.random.default_rng(5)
    powers = np.exp2(np.arange(-149, 128, 3, dtype=np.float64))
    scales = powers * generator.uniform(1, 2, powers.size) * generator.choice([-1, 1], powers.size)
    odd = [0.0, -0.0, np.inf, -np.inf, np.nan, 1e-45, -1e-45, 1.1754944e-38, 3.4e38, 1.0, 2 - 2.0**-23]
    assert _wrong_codes(library, np.concatenate([scales, odd]), _patterns(dtype), own=False) == (0, [0, 0])


def test_any_float_by_any_scale(library: ctypes.CDLL) -> None:
    generator = np.random.default_rng(6)
    bits = generator.integers(0, 1 << 32, (2, 4096), dtype=np.uint32)
    with np.errstate(invalid="ignore"):
        scales, x = bits.view(np.float32)
    near = np.float32(1) + np.arange(-8, 9, dtype=np.float32) * np.float32(2.0**-23)
    assert _wrong_codes(library, scales[:2048], x, own=False) == (0, [0, 0])
    assert _wrong_codes(library, near, np.concatenate([near, near * 1.5, near * 448]), own=False) == (0, [0, 0])
