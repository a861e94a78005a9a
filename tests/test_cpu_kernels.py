"""The C++ kernels against the oracle, bit for bit."""

from __future__ import annotations

import math
import platform
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from fp8bench import backends, builds, config, paths, reference, tensors
from fp8bench.backends import Backend
from fp8bench.spec import DTYPES, MIN_SCALE, Case, Scheme

SCHEMES = ("per-tensor", "per-token", "group-128-row", "group-128-col", "group-64-row", "group-64-col", "group-1-row")
ODD_SCHEMES = ("group-7-row", "group-21-col", "group-63-row")  # of 63 or 189 elements: no multiple of any vector
FAMILIES = ("per-tensor", "per-token", "group-64-row", "group-16-col")
NAN, INF = math.nan, math.inf
EXACT = {"rtol": 0, "atol": 0}


@pytest.fixture(scope="session")
def backend() -> Backend:
    return backends.load("cpu", builds.default_build())


def run(backend: Backend, x: Tensor, scheme: Scheme, scale: Tensor | None = None, scale_ub: Tensor | None = None):
    """Codes (uint8) and scales of the kernel, written over poison."""
    case = Case(scheme, tensors.DTYPE_NAMES[x.dtype], *x.shape)
    codes, scales = tensors.poisoned_outputs(case, "cpu")
    codes, scales = backend.bind(scheme, x, codes, scales, scale, scale_ub)()
    return codes.view(torch.uint8), scales


def assert_exact(
    backend: Backend, x: Tensor, scheme: Scheme, scale: Tensor | None = None, scale_ub: Tensor | None = None
) -> None:
    """Codes and scales are the oracle's bits, in the oracle's layout."""
    codes, scales = run(backend, x, scheme, scale, scale_ub)
    expected_codes, expected_scales = reference.quantize(x, scheme, scale, scale_ub)
    torch.testing.assert_close(scales, expected_scales, equal_nan=True, **EXACT)
    assert scales.stride() == expected_scales.stride()
    wrong = (codes != expected_codes).nonzero()
    first = tuple(wrong[0].tolist()) if len(wrong) else None
    assert first is None, (
        f"{len(wrong)} codes differ, first at {first}: x = {x[first].item()!r}, code {codes[first]:#x}"
    )


def random(case: Case, seed: int = 0) -> Tensor:
    return tensors.random_input(case, "cpu", seed)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", [name + option for name in SCHEMES for option in ("", "-static", "-ue8m0")])
def test_exact_on_random_input(backend: Backend, name: str, dtype: str) -> None:
    scheme = Scheme.parse(name)
    for tokens, hidden in ((1, 128), (3, 896), (33, 1024)):
        x = random(Case(scheme, dtype, tokens, hidden))
        scale = tensors.empty_scales(scheme, tokens, hidden, "cpu").uniform_(1e-3, 1e-1) if scheme.static else None
        assert_exact(backend, x, scheme, scale)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", ["per-tensor", "per-token", *ODD_SCHEMES])
def test_exact_on_odd_sizes_and_strides(backend: Backend, name: str, dtype: str) -> None:
    scheme = Scheme.parse(name)
    for tokens, hidden in ((1, 63), (5, 189), (17, 63)):
        wide = random(Case(scheme, dtype, tokens, hidden + 63))
        assert_exact(backend, wide[:, 5 : 5 + hidden], scheme)  # rows apart and not aligned
        assert_exact(backend, wide[:1, :hidden].expand(tokens, hidden), scheme)  # one row, several times


@pytest.mark.parametrize("hidden", range(1, 70))
def test_exact_at_every_length_of_a_row(backend: Backend, hidden: int) -> None:
    for name in ("per-tensor", "per-token", f"group-{hidden}-row"):
        assert_exact(backend, random(Case(Scheme.parse(name), "bfloat16", 3, hidden), seed=hidden), Scheme.parse(name))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", [*FAMILIES, "group-1-col"])
def test_exact_on_every_pattern(backend: Backend, name: str, dtype: torch.dtype) -> None:
    """All 65,536: NaN, infinity, subnormals; with scales of their own, and with given ones that reach ties."""
    x = torch.arange(65536, dtype=torch.int32).to(torch.uint16).view(dtype).reshape(1024, 64)
    dynamic, static = Scheme.parse(name), Scheme.parse(f"{name}-static")
    assert_exact(backend, x, dynamic)
    for value in (1.0, 3.0, 1e-30, 0.0, -1.0, INF, NAN) if name == "per-token" else (0.0078125,):
        scale = tensors.empty_scales(static, *x.shape, "cpu").fill_(value)
        assert_exact(backend, x, static, scale)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", [*FAMILIES, "per-token-ue8m0"])
@pytest.mark.parametrize(
    "values",
    [
        (0.0,),
        (-0.0,),
        (NAN, 1.0),
        (-NAN, 2.0),
        (INF, 1.0, -1.0),
        (-INF, INF),
        (NAN, INF),
        (1e-38, -1e-45),
        (448.0, 17.0),
    ],
    ids=str,
)
def test_exact_on_edge_values(backend: Backend, name: str, dtype: str, values: tuple[float, ...]) -> None:
    """A row with edge values between rows without: they must not spread further than the group."""
    x = random(Case(Scheme.parse(name), dtype, 3, 128))
    x[1] = torch.tensor(values).to(x.dtype).repeat(128)[:128]
    assert_exact(backend, x, Scheme.parse(name))


@pytest.mark.parametrize("name", FAMILIES)
def test_exact_on_ties_and_their_neighbours(backend: Backend, name: str) -> None:
    """The midpoints between all codes, and the floats beside them."""
    middle = ((reference.MAGNITUDES[:-1] + reference.MAGNITUDES[1:]) / 2).float()
    up, down = (torch.nextafter(middle, torch.tensor(end)) for end in (INF, -INF))
    y = torch.cat([middle, up, down, torch.tensor([448.0, 464.0, 480.0, 1e30, 0.0, 1e-45])])
    x = torch.cat([y, -y]).repeat(16)[: 64 * 96].reshape(96, 64)
    static = Scheme.parse(f"{name}-static")
    assert_exact(backend, x, static, tensors.empty_scales(static, *x.shape, "cpu").fill_(1.0))


@pytest.mark.parametrize("bound", [0.0, 0.5, 3.0, 1e30, -1.0, INF, NAN])
def test_upper_bound_of_absmax(backend: Backend, bound: float) -> None:
    scheme = Scheme.parse("per-token")
    x = random(Case(scheme, "float32", 4, 100))
    x[1, 7], x[2] = NAN, 0.0
    assert_exact(backend, x, scheme, scale_ub=torch.tensor([bound]))


def test_given_scales_in_another_layout(backend: Backend) -> None:
    scheme = Scheme.parse("group-32-col-static")
    x = random(Case(scheme, "float16", 6, 128))
    assert_exact(backend, x, scheme, torch.rand(6, 4) + 0.01)  # row-major, wanted column-major


def test_call_keeps_its_tensors_alive_and_reads_them_anew(backend: Backend) -> None:
    scheme, x = Scheme.parse("per-token"), torch.zeros(2, 64)
    call = backend.bind(scheme, x, *tensors.poisoned_outputs(Case(scheme, "float32", 2, 64), "cpu"))
    _, scales = call()
    assert scales.tolist() == [[torch.tensor(MIN_SCALE).item()]] * 2
    x.fill_(448.0)
    assert call()[1].tolist() == [[1.0], [1.0]]


def test_supports_the_cpu_only(backend: Backend, tmp_path: Path) -> None:
    case = Case.parse("per-token/bfloat16/4x64")
    assert backend.supports(case, "cpu") is None
    assert "not on cuda" in str(backend.supports(case, "cuda"))
    shutil.copytree(paths.BACKENDS, tmp_path / "backends")
    assert "no CPU library" in str(backends.load("cpu", tmp_path).supports(case, "cpu"))


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (lambda args: setattr(args, "group", 7), "not divisible"),
        (lambda args: setattr(args, "group", -2), "group must be"),
        (lambda args: setattr(args, "tokens", -1), "must not be negative"),
        (lambda args: setattr(args, "dtype", 9), "unknown dtype"),
        (lambda args: setattr(args, "column_major", 1), "per group only"),
        (lambda args: setattr(args, "x", None), "null"),
    ],
)
def test_library_refuses_what_it_must_not_get(spoil: Callable[[object], None], reason: str) -> None:
    build = builds.default_build()
    backends.load("cpu", build)
    native = __import__(backends._package((build / "backends").resolve()) + "._native", fromlist=["_native"])
    scheme, x = Scheme.parse("per-token"), torch.zeros(2, 64)
    args = native.arguments(scheme, x, *tensors.poisoned_outputs(Case(scheme, "float32", 2, 64), "cpu"))
    spoil(args)
    library = native.NativeLibrary(native.find_library(build, "cpu"))
    with pytest.raises(native.NativeError, match=f"BAD_ARGUMENT: .*{reason}"):
        library.quantize(args)


@pytest.mark.skipif(platform.machine() != "x86_64", reason="other machines have one instruction set")
@pytest.mark.parametrize("flags", ["", "-mavx2\n"], ids=["baseline", "avx2"])
def test_other_instruction_sets_give_the_same_bits(backend: Backend, tmp_path: Path, flags: str) -> None:
    """Machines without AVX-512 run other code: compile that alone and run it here."""
    shutil.copytree(paths.CSRC, tmp_path / "csrc")
    shutil.copytree(paths.BACKENDS, tmp_path / "fp8bench" / "backends")
    with (tmp_path / "csrc" / "cpu" / "compile_flags.txt").open("a") as file:
        file.write(f"-DFP8BENCH_ONE_INSTRUCTION_SET\n{flags}")
    built = builds.build(tmp_path, "", "candidate", config.load(), worktree=True, backends=["cpu"])
    other = backends.load("cpu", Path(built.path))
    every = torch.arange(65536, dtype=torch.int32).to(torch.uint16).reshape(1024, 64)
    for scheme in map(Scheme.parse, FAMILIES):
        for x in (every.view(torch.float16), every.view(torch.bfloat16), every.int().view(torch.float32)[:, :63]):
            if scheme.why_not(x.shape[1]) is None:
                torch.testing.assert_close(run(other, x, scheme), run(backend, x, scheme), equal_nan=True, **EXACT)
