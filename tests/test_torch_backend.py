"""The compiled torch backend: close to the oracle, of its own for every size, and the same in eager mode."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from fp8bench import backends, checks, paths, reference
from fp8bench.backends import torch as module
from fp8bench.records import CheckStatus
from fp8bench.spec import Case
from fp8bench.tensors import poisoned_outputs, random_input

# Inductor imports a module of torch that warns about torch's own past.
pytestmark = pytest.mark.filterwarnings("ignore:.*torch.jit.script_method:DeprecationWarning")


@pytest.fixture(scope="module")
def backend() -> module.TorchBackend:
    return backends.load("torch", paths.BACKENDS.parent)


# One case for each way through the formula; compiling is slow.
@pytest.mark.parametrize(
    "case",
    [
        "per-tensor/float16/3x64",
        "per-token/float32/40x1024",
        "group-32-col-ue8m0/bfloat16/9x64",
        "group-32-row-static/bfloat16/9x4096",
    ],
)
def test_compiled_code_is_within_the_bounds(case: str, backend: module.TorchBackend) -> None:
    result = checks.check(backend, Case.parse(case), "cpu", seed=5)
    assert (result.status, result.detail) == (CheckStatus.OK, "")
    assert result.largest_code_step in (0, 1)


@pytest.mark.parametrize("name", ["per-tensor-ue8m0", "per-token-ue8m0", "per-token", "per-tensor", "group-32-col"])
def test_the_eager_formula_is_exact_on_a_cpu(name: str) -> None:
    scheme = Case.parse(f"{name}/bfloat16/9x96").scheme
    for entry, codes, scales in checks._inputs(Case(scheme, "bfloat16", 9, 96), 3):
        got = module.quantize(entry.x, scheme, entry.scale, entry.scale_ub)
        same = got[0].view(torch.uint8) == codes
        assert (same | (checks._is_nan(got[0].view(torch.uint8)) & checks._is_nan(codes))).all(), entry.name
        assert torch.equal(got[1].nan_to_num(-1), scales.nan_to_num(-1)), entry.name


def test_power_of_two_scales_from_the_bits_alone() -> None:
    """Every absmax of bfloat16 and the float32 neighbours of where the power changes."""
    patterns = torch.arange(0, 2**15, dtype=torch.int32).to(torch.int16).view(torch.bfloat16).float()
    edges = 448.0 * torch.exp2(torch.arange(-18, 100).float())
    up, down = (torch.nextafter(edges, torch.full_like(edges, way)) for way in (torch.inf, 0.0))
    absmax = torch.cat([patterns, edges, up, down])
    scheme = Case.parse("per-token-ue8m0/float32/1x1").scheme
    expected = reference.dynamic_scales(absmax.reshape(-1, 1, 1), scheme).reshape(-1)
    assert torch.equal(module._power_of_two_scale(absmax).nan_to_num(-1), expected.nan_to_num(-1))


def test_sizes_share_no_compiled_code_and_buffer_sets_do(backend: module.TorchBackend) -> None:
    calls = {}
    for tokens in (3, 4):
        case = Case.parse(f"per-token/bfloat16/{tokens}x32")
        first, second = random_input(case, "cpu", 0), random_input(case, "cpu", 1)
        calls[tokens] = [backend.bind(case.scheme, x, *poisoned_outputs(case, "cpu")) for x in (first, second)]
        run = backend._run(case.scheme, first, None)
        assert run is backend._run(case.scheme, second, None)
        calls[tokens].append(run)
        assert torch.equal(calls[tokens][1]()[1], reference.quantize(second, case.scheme)[1])
    codes = [entry[2]._torchdynamo_orig_callable.__code__ for entry in calls.values()]
    assert codes[0] is not codes[1]
    assert codes[0] != codes[1]


def test_a_machine_without_a_compiler_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    case = Case.parse("per-token/bfloat16/4x32")
    made = module.create(Path())
    assert made.supports(case, "cpu") is None
    monkeypatch.setenv("CXX", "no-such-compiler")
    assert made.supports(case, "cpu") == "Inductor needs a C++ compiler, and no-such-compiler is not here"
