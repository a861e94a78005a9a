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

from fp8bench import GroupShape, QuantFP8, checks, paths, quant, reference, tensors  # noqa: E402
from fp8bench.backends import Backend, load  # noqa: E402
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


def layer_agrees() -> list[bool]:
    """Whether `QuantFP8.forward_triton` gives what the oracle does, for leading dimensions, options and no tokens."""
    x = torch.randn(3, 2, 96, generator=torch.Generator().manual_seed(2)).bfloat16()
    bound = torch.tensor(1.5)
    found = []
    for layer, rows, options in (
        (QuantFP8(False, GroupShape(1, 32), column_major_scales=True), x, {}),
        (QuantFP8(False, GroupShape.PER_TOKEN), x[..., 16:80], {"scale_ub": bound}),
        (QuantFP8(False, GroupShape.PER_TENSOR), x[:, 0, :].t().contiguous().t(), {}),
        (QuantFP8(True, GroupShape.PER_TENSOR), x, {"scale": torch.tensor([0.01])}),
        (QuantFP8(False, GroupShape.PER_TOKEN), x[:0], {}),
    ):
        codes, scales = layer.forward_triton(rows, **options)
        expected = reference.quantize(rows.reshape(-1, rows.shape[-1]), layer.scheme, **options)
        same = torch.equal(codes.view(torch.uint8).reshape(expected[0].shape), expected[0])
        found.append(same and codes.shape == rows.shape and torch.equal(scales, expected[1]))
    return found


def count_launches() -> dict[str, list[int]]:
    """How often the kernels ran when a call was bound, and then when the layer's was made."""
    module = sys.modules[type(quant.own_backend("triton")).__module__]
    launched = []
    for kernel in (module.segments_kernel, module.tensor_max_kernel, module.tensor_quantize_kernel):
        kernel.add_pre_run_hook(lambda *_, **__: launched.append(1))
    found = {}
    for name in ("per-token/bfloat16/4x896", "per-tensor/float32/9x1000", "per-tensor-static/bfloat16/5x400"):
        case = Case.parse(name)
        x, layer = tensors.random_input(case, "cpu", seed=3), QuantFP8(case.scheme.static, case.scheme.group_shape)
        codes, scales = tensors.poisoned_outputs(case, "cpu")
        scale = torch.ones(1) if case.scheme.static else None
        launched.clear()
        quant.own_backend("triton").bind(case.scheme, x, codes, scales, scale)
        bound = len(launched)
        layer.forward_triton(x, scale)
        found[name] = [bound, len(launched)]
    return found


def check_launches_of_large_inputs(backend: Backend) -> dict[str, str]:
    """What the checks say when small inputs get what the launch tables have for the largest."""
    module = sys.modules[type(backend).__module__]
    fields = ("rows", "columns", "largest", "quantize")
    last = {name: getattr(module.ALONE, name)[-1:] for name in fields}
    longer = tuple((most, table[-1:]) for most, table in module.ALONE.longer)
    few = ((module.EVERY, 2),)  # programs share many chunks
    module.ALONE = module.ALONE._replace(longer=longer, most_partials=few, **last)
    found = {}
    for case in (
        "group-128-row/bfloat16/9x256",
        "group-64-col/bfloat16/9x128",
        "per-token/bfloat16/3x896",
        "per-token-static/float16/3x896",
        "per-tensor/bfloat16/19x896",
    ):
        result = checks.check(backend, Case.parse(case), "cpu", seed=12)
        found[case] = result.status if result.status == "ok" else f"{result.status}: {result.detail}"
    return found


def main(cases: Path, out: Path, arrays: Path) -> None:
    backend = load("triton", paths.BACKENDS.parent)
    results = {}
    for case in json.loads(cases.read_text()):
        result = checks.check(backend, Case.parse(case), "cpu", seed=11)
        results[case] = [result.status, result.detail]
    results["layer"] = layer_agrees()
    results["launches"] = count_launches()
    results["large"] = check_launches_of_large_inputs(backend)
    found = {}
    for dtype in (torch.bfloat16, torch.float16):
        found[f"{dtype}-codes"], found[f"{dtype}-wide"] = casts(dtype)
    np.savez(arrays, **found)
    out.write_text(json.dumps(results))


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
