"""The Triton kernels: bit-exact in the interpreter, and compiled ahead of time for the GPUs that matter."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import triton
from torch import Tensor
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from fp8bench import reference, tensors
from fp8bench.backends import _triton_kernels as kernels
from fp8bench.backends import triton as backend
from fp8bench.backends._triton_kernels import Start
from fp8bench.spec import Case

HERE = Path(__file__).parent

# Every kernel path: one row a program and several, all full or not, one chunk and several, loops, odd widths, one
# token, both tensor designs, all options. Small, for the interpreter's time grows with elements and programs.
CASES = [
    "per-token/bfloat16/4x896",
    "per-token/float16/7x96",
    "per-token/float32/3x33",
    "per-token/bfloat16/1x20000",
    "per-token/bfloat16/1x40000",
    "per-token-ue8m0/bfloat16/16x64",
    "per-token-static/float32/5x96",
    "per-token-static/bfloat16/1x40000",
    "group-64-row/bfloat16/4x896",
    "group-64-col/bfloat16/16x192",
    "group-128-col/float16/5x256",
    "group-128-col/float16/1x1024",
    "group-128-row/float32/9x256",
    "group-48-row-ue8m0/bfloat16/5x96",
    "group-48-col-static/bfloat16/5x96",
    "group-1-row/float16/3x16",
    "per-tensor/float16/1x7",
    "per-tensor/bfloat16/12x1000",
    "per-tensor/float32/9x1000",
    "per-tensor-ue8m0/bfloat16/19x896",
    "per-tensor-static/bfloat16/5x4000",
]
TABLES = {"alone": backend.ALONE, "overlapping": backend.OVERLAPPING}
TOO_LARGE = "per-token/bfloat16/1024x7168"


@pytest.fixture(scope="module")
def interpreted(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, list[str]], dict[str, np.ndarray]]:
    """Results of the checks by case, and casts by name, from one interpreting process."""
    folder = tmp_path_factory.mktemp("interpreted")
    cases, out, arrays = folder / "cases.json", folder / "out.json", folder / "casts.npz"
    cases.write_text(json.dumps([*CASES, TOO_LARGE]))
    command = [sys.executable, str(HERE / "interpreter.py"), str(cases), str(out), str(arrays)]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=200, cwd=HERE.parent)
    assert ended.returncode == 0, ended.stderr
    return json.loads(out.read_text()), dict(np.load(arrays))


@pytest.mark.parametrize("case", CASES)
def test_interpreted_kernels_are_bit_exact(case: str, interpreted: tuple) -> None:
    assert interpreted[0][case] == ["ok", ""]


@pytest.mark.parametrize(
    ("length", "lines", "loop", "chunks", "rows"),
    [(64, 16, False, 1, 16), (12_000, 1, False, 2, 1), (20_000, 1, False, 3, 1), (40_000, 1, True, 4, 1)],
)
def test_interpreted_cases_reach_every_plan(length: int, lines: int, loop: bool, chunks: int, rows: int) -> None:
    plan = backend.plan_segments(length, lines, 1, 2, True, backend.ALONE)
    assert (plan.loop, plan.chunks, plan.rows) == (loop, chunks, rows)


def test_launches_of_large_inputs_are_bit_exact(interpreted: tuple) -> None:
    assert set(interpreted[0]["large"].values()) == {"ok"}, interpreted[0]["large"]


def test_the_layer_runs_the_interpreted_kernels(interpreted: tuple) -> None:
    assert interpreted[0]["layer"] == [True] * 5


def test_the_layer_launches_each_kernel_once(interpreted: tuple) -> None:
    """Binding launches none: a call of the layer would be twice in a graph."""
    assert list(interpreted[0]["launches"].values()) == [[0, 1], [0, 2], [0, 1]]


def test_large_cases_are_not_interpreted(interpreted: tuple) -> None:
    status, detail = interpreted[0][TOO_LARGE]
    assert status == "unsupported"
    assert "too large for Triton's interpreter" in detail


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_patched_casts_on_every_16_bit_pattern(dtype: torch.dtype, interpreted: tuple) -> None:
    x = torch.arange(-(2**15), 2**15, dtype=torch.int32).to(torch.int16).view(dtype).float()
    codes, wide = (interpreted[1][f"{dtype}-{what}"] for what in ("codes", "wide"))
    assert np.array_equal(codes, reference.encode(x).numpy())
    if dtype == torch.bfloat16:  # the interpreter's own cast loses subnormals here
        sound = ~x.isnan().numpy()
        assert np.array_equal(wide[sound], x.view(torch.int32).numpy()[sound])


def test_without_a_gpu_or_the_interpreter_it_says_so() -> None:
    reason = backend.create(HERE).supports(Case.parse(CASES[0]), "cpu")
    assert reason is not None
    assert "TRITON_INTERPRET=1" in reason


# ---- plans -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("length", [1, 48, 64, 128, 896, 1024, 2048, 4096, 7168, 16385, 40_000, 100_000])
@pytest.mark.parametrize("lines", [1, 3, 1000])
@pytest.mark.parametrize("itemsize", [2, 4])
@pytest.mark.parametrize("dense", [True, False])
@pytest.mark.parametrize("tables", TABLES)
def test_plans_cover_every_element(length: int, lines: int, itemsize: int, dense: bool, tables: str) -> None:
    plan = backend.plan_segments(length, lines, 2, itemsize, dense, TABLES[tables])
    vector = backend.VECTOR_BYTES // itemsize
    assert plan.width & (plan.width - 1) == 0
    assert plan.rows & (plan.rows - 1) == 0
    assert plan.rows == 1 or plan.rows < 2 * lines
    assert plan.rows * plan.width == 32 * plan.warps * vector or plan.warps == 1  # a vector a thread and chunk
    assert plan.loop or (plan.chunks - 1) * plan.width < length <= plan.chunks * plan.width
    assert plan.chunks * vector <= 32 or plan.warps <= 8  # elements a thread, and no spills
    assert (plan.start == Start.ALONE) == (tables == "alone")


def tables_of(tables: backend.Tables) -> list[tuple]:
    longer = [table for _, table in tables.longer]
    return [tables.rows, tables.columns, *longer, tables.largest, tables.quantize]


@pytest.mark.parametrize("tables", TABLES)
def test_tables_are_in_order_and_end_nowhere(tables: str) -> None:
    for table in (*tables_of(TABLES[tables]), TABLES[tables].longer, TABLES[tables].most_partials):
        sizes = [most for most, _ in table]
        assert sizes == sorted(set(sizes))
        assert backend.look_up(table, 1 << 60) == table[-1][1]
        assert backend.look_up(table, 1) == table[0][1]
    assert max(most for _, most in TABLES[tables].most_partials) <= backend.MOST_PARTIALS


@pytest.mark.parametrize("tables", TABLES)
def test_all_launches_of_a_table_overlap_or_none(tables: str) -> None:
    starts = {launch.start for table in tables_of(TABLES[tables]) for _, launch in table}
    assert starts == {Start.ALONE} if tables == "alone" else Start.ALONE not in starts


# ---- binding -----------------------------------------------------------------------------------------------------


class Device:
    """As Triton's driver, of a GPU that is not there; `done` lists what it was told to do."""

    def __init__(self) -> None:
        self.done: list[str] = []
        self.utils = SimpleNamespace(
            load_binary=self.load,
            unload_module=lambda _: None,
            get_device_properties=lambda _: {"max_shared_mem": 1 << 17},
        )

    def load(self, name: str, *_: object) -> tuple[object, ...]:
        self.done.append(f"load {name}")
        return object(), 1, 0, 0, 1024  # module, function, registers, spills, threads

    def launcher_cls(self, *_: object) -> Callable[..., None]:
        return lambda *_: self.done.append("launch")

    @contextmanager
    def current(self, _: Tensor) -> Iterator[None]:
        """As `torch.cuda.device_of`."""
        self.done.append("enter")
        yield
        self.done.append("leave")

    def get_current_target(self) -> GPUTarget:
        return GPUTarget("cuda", 90, 32)

    def get_current_device(self) -> int:
        return 0

    def get_current_stream(self, _: int) -> int:
        return 0


@pytest.fixture
def device(monkeypatch: pytest.MonkeyPatch) -> Device:
    """The device that the kernels are compiled for, which has none of them yet."""
    made = Device()
    monkeypatch.setattr(triton.runtime.driver, "_active", made)
    for kernel in (kernels.segments_kernel, kernels.tensor_max_kernel, kernels.tensor_quantize_kernel):
        monkeypatch.setattr(kernel, "device_caches", defaultdict(kernel.create_binder))
    return made


@pytest.mark.filterwarnings("ignore:TRITON_DEFAULT_FP_FUSION:UserWarning")
@pytest.mark.parametrize(
    ("case", "names"),
    [
        ("group-128-row/bfloat16/4x896", ["segments_kernel"]),
        ("per-tensor/bfloat16/64x1024", ["tensor_quantize_kernel", "tensor_max_kernel"]),
    ],
)
def test_binding_compiles_and_loads_and_a_call_only_launches(device: Device, case: str, names: list[str]) -> None:
    parsed = Case.parse(case)
    x, outputs = tensors.random_input(parsed, "cpu", seed=1), tensors.poisoned_outputs(parsed, "cpu")
    call = backend.create(HERE).bind(parsed.scheme, x, *outputs)
    assert device.done == [f"load {name}" for name in names]
    device.done.clear()
    call()
    call()
    assert device.done == ["launch"] * 2 * len(names)


@pytest.mark.filterwarnings("ignore:TRITON_DEFAULT_FP_FUSION:UserWarning")
def test_kernels_are_loaded_and_launched_on_the_device_of_x(device: Device, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_of", device.current)
    case = Case.parse("per-token/bfloat16/4x64")
    x, outputs = tensors.random_input(case, "cpu", seed=1), tensors.poisoned_outputs(case, "cpu")
    backend.create(HERE).bind(case.scheme, x, *outputs)()
    assert device.done == ["enter", "load segments_kernel", "leave", "enter", "launch", "leave"]


@pytest.mark.parametrize(
    ("case", "bound", "error", "told"),
    [
        ("per-tensor/bfloat16/64x1024", torch.ones(1), ValueError, "scale_ub is for dynamic per-token"),
        ("per-tensor/bfloat16/4x64", torch.ones(1), ValueError, "scale_ub is for dynamic per-token"),
        ("per-token-static/bfloat16/4x64", torch.ones(1), ValueError, "scale_ub is for dynamic per-token"),
        ("per-token/bfloat16/4x64", torch.ones(1, device="meta"), AssertionError, "scale_ub is on meta, x on cpu"),
    ],
)
def test_bounds_that_kernels_would_not_look_at_are_refused(
    case: str, bound: Tensor, error: type[Exception], told: str
) -> None:
    parsed = Case.parse(case)
    x, outputs = tensors.random_input(parsed, "cpu", seed=1), tensors.poisoned_outputs(parsed, "cpu")
    with pytest.raises(error, match=told):
        backend.create(HERE).bind(parsed.scheme, x, *outputs, None, bound)


# ---- machine code ------------------------------------------------------------------------------------------------

# Before 3.7 Triton converted to float8_e4m3fn in software on sm_89.
OTHERS = [89, 100] if tuple(map(int, triton.__version__.split(".")[:2])) >= (3, 7) else [100]
SEGMENT_TYPES = {
    "codes": "*fp8e4nv",
    "scales": "*fp32",
    "scale_in": "*fp32",
    "scale_ub": "*fp32",
    **dict.fromkeys(("lines", "x_stride", "codes_stride", "line_step", "group_step"), "i32"),
}
TENSOR_TYPES = {
    "codes": "*fp8e4nv",
    "scales": "*fp32",
    "scale_in": "*fp32",
    "partials": "*i32",
    "count": "i32",
    "hidden": "i32",
    "x_stride": "i32",
    "total": "i32",
}
DTYPES = {"bfloat16": "*bf16", "float16": "*fp16", "float32": "*fp32"}


def compiled(kernel: object, types: dict[str, str], constants: dict[str, object], warps: int, target: int) -> dict:
    """Compile ahead of time; pointers and sizes are multiples of 16, as on the reference grid."""
    signature = {**types, **dict.fromkeys(constants, "constexpr")}
    attributes = {(index,): [["tt.divisibility", 16]] for index in range(len(types))}
    source = ASTSource(kernel, signature=signature, constexprs=constants, attrs=attributes)
    return triton.compile(source, target=GPUTarget("cuda", target, 32), options={"num_warps": warps}).asm


def segment_code(
    length: int,
    lines: int,
    dtype: str,
    dense: bool,
    target: int,
    pairs: bool = False,
    start: Start = Start.ALONE,
    **others: bool,
) -> dict:
    tables = backend.ALONE if start == Start.ALONE else backend.OVERLAPPING
    plan = backend.plan_segments(length, lines, 1, 4 if dtype == "float32" else 2, dense, tables)
    constants = {
        "LENGTH": length,
        "ROWS": plan.rows,
        "PAIRS": pairs,
        "WIDTH": plan.width,
        "CHUNKS": plan.chunks,
        "LOOP": plan.loop,
        "DENSE": dense,
        "EVEN": True,
        "FAR": False,
        "STATIC": False,
        "HAS_UB": False,
        "UE8M0": False,
        "START": int(start),
        **others,
    }
    types = {"x": DTYPES[dtype], **SEGMENT_TYPES}
    return compiled(kernels.segments_kernel, types, constants, plan.warps, target)


def resources(cubin: bytes, folder: Path) -> str:
    """What the disassembler says about registers, stack and local memory."""
    file = folder / "kernel.cubin"
    file.write_bytes(cubin)
    tool = triton.knobs.nvidia.cuobjdump.path
    return subprocess.run([tool, "--dump-resource-usage", str(file)], capture_output=True, text=True, check=True).stdout


def instructions(cubin: bytes, folder: Path) -> list[str]:
    """Of the machine code, in its order, without operands."""
    file = folder / "kernel.cubin"
    file.write_bytes(cubin)
    tool = triton.knobs.nvidia.nvdisasm.path
    listed = subprocess.run([tool, str(file)], capture_output=True, text=True, check=True).stdout
    return re.findall(r"^\s+/\*[0-9a-f]{4,}\*/\s+(?:@!?U?P\d+\s+)?([A-Z][A-Z0-9_.]*)", listed, re.MULTILINE)


def places(code: dict, folder: Path) -> dict[str, list[int]]:
    """Where the machine code waits for its predecessor, lets its successor start, loads and stores."""
    kinds = {"wait": "ACQBULK", "successor": "PREEXIT", "load": "LDG", "store": "STG"}
    names = instructions(code["cubin"], folder)
    return {kind: [at for at, name in enumerate(names) if name.startswith(of)] for kind, of in kinds.items()}


def assert_good_code(code: dict, folder: Path, quantizes: bool = True) -> None:
    """16-byte loads only, the hardware's conversion, no division but of the reciprocal; nothing spilled."""
    ptx = code["ptx"]
    loads = re.findall(r"ld\.global\S*", ptx)
    assert sum("v4.b32" in load for load in loads) >= 1
    assert [load for load in loads if "v4.b32" not in load and load != "ld.global.b32"] == []
    used = resources(code["cubin"], folder)
    assert re.search(r"STACK:0\b", used), used
    assert re.search(r"LOCAL:0\b", used), used
    used = instructions(code["cubin"], folder)
    assert "LDG.E.128" in used
    assert not [name for name in used if name.startswith(("LDL", "STL", "CALL"))]
    assert any(name.startswith("F2FP.SATFINITE.E4M3") for name in used) == quantizes
    if quantizes:
        assert "cvt.rn.satfinite.e4m3x2.f32" in ptx
        assert re.findall(r"div\.\S*|rcp\.\S*", ptx) == ["rcp.approx.ftz.f32"]
        assert len(re.findall("ftz", ptx)) == 1


@pytest.mark.filterwarnings("ignore:TRITON_DEFAULT_FP_FUSION:UserWarning")  # what is to be fused says so
class TestMachineCode:
    @pytest.mark.parametrize(
        ("target", "length", "lines", "dtype", "dense"),
        [
            (90, 64, 1 << 6, "bfloat16", True),
            (90, 64, 1 << 20, "bfloat16", True),
            (90, 128, 1 << 20, "bfloat16", False),
            (90, 128, 1 << 10, "float32", True),
            (90, 896, 1 << 10, "float16", True),
            (90, 7168, 1 << 4, "bfloat16", True),
            (90, 7168, 1 << 9, "bfloat16", True),
            (90, 7168, 1 << 20, "bfloat16", True),
            (90, 32768, 1, "bfloat16", True),
            (90, 131072, 1, "bfloat16", True),
            *((target, 128, 1 << 20, "bfloat16", False) for target in OTHERS),
            *((target, 7168, 1 << 20, "bfloat16", True) for target in OTHERS),
        ],
    )
    def test_segments(self, target: int, length: int, lines: int, dtype: str, dense: bool, tmp_path: Path) -> None:
        assert_good_code(segment_code(length, lines, dtype, dense, target), tmp_path)

    @pytest.mark.parametrize("target", [90, *OTHERS])
    def test_pairs_of_columns(self, target: int, tmp_path: Path) -> None:
        for lines in (1 << 10, 1 << 20):
            assert_good_code(segment_code(64, lines, "bfloat16", False, target, pairs=True), tmp_path)

    @pytest.mark.parametrize("length", [64, 128])
    @pytest.mark.parametrize("dense", [True, False], ids=["row", "column"])
    def test_what_a_warp_does_alone_waits_for_no_other(self, length: int, dense: bool, tmp_path: Path) -> None:
        code = segment_code(length, 1 << 14, "bfloat16", dense, 90)
        used = instructions(code["cubin"], tmp_path)
        assert not [name for name in used if name.startswith(("BAR", "STS", "LDS"))]

    @pytest.mark.parametrize("target", [90, 100])
    @pytest.mark.parametrize("start", [Start.AT_ONCE, Start.BEHIND_LOADS], ids=str)
    @pytest.mark.parametrize(("length", "lines"), [(64, 1 << 6), (128, 1 << 20), (7168, 1 << 9), (131072, 1)])
    def test_what_overlaps_waits_before_it_touches_memory(
        self, target: int, start: Start, length: int, lines: int, tmp_path: Path
    ) -> None:
        code = segment_code(length, lines, "bfloat16", True, target, start=start)
        assert_good_code(code, tmp_path)
        at = places(code, tmp_path)
        assert len(at["wait"]) == 1
        assert at["wait"][0] < min(at["load"] + at["store"])
        if start == Start.AT_ONCE:
            assert at["successor"][0] < at["wait"][0]
        elif length < 40_000:  # read once
            assert max(at["load"]) < at["successor"][0] < min(at["store"])
        else:
            assert at["successor"] == []

    @pytest.mark.parametrize("others", [{"STATIC": True}, {"HAS_UB": True}, {"EVEN": False}, {"FAR": True}], ids=str)
    @pytest.mark.parametrize("dense", [True, False], ids=["row", "column"])
    def test_options_do_not_come_before_the_wait(self, others: dict[str, bool], dense: bool, tmp_path: Path) -> None:
        at = places(segment_code(64, 1 << 10, "bfloat16", dense, 90, start=Start.AT_ONCE, **others), tmp_path)
        assert len(at["wait"]) == 1
        assert at["wait"][0] < min(at["load"] + at["store"])

    @pytest.mark.parametrize(("dense", "even"), [(True, True), (True, False), (False, False)])
    def test_numbers_of_far_segments_do_not_wrap(self, dense: bool, even: bool) -> None:
        """What 2^31 segments of 8 elements need; a layer of a grid (EVEN, not dense) has fewer than 2^16 programs."""
        for far in (True, False):
            ptx = segment_code(8, 1 << 20, "bfloat16", dense, 90, FAR=far, EVEN=even)["ptx"]
            numbers = re.findall(r"mov\.u32 \t(%r\d+), %ctaid\.\w;", ptx)
            taken = [line.split()[0] for line in ptx.splitlines() if any(re.search(rf", {r}\b", line) for r in numbers)]
            assert any(re.match(r"(shl|mul\.lo|mad\.lo|add)\.\w*32", name) for name in taken) != far, taken

    def test_a_tensor_with_a_given_scale_waits_first(self, tmp_path: Path) -> None:
        constants = {"BLOCK": 2048, "CHUNKS": 1, "PARTIALS": 256, "DENSE": True, "EVEN": True}
        constants |= {"STATIC": True, "UE8M0": False, "START": int(Start.BEHIND_LOADS)}
        types = {"x": "*bf16", **TENSOR_TYPES}
        at = places(compiled(kernels.tensor_quantize_kernel, types, constants, 8, 90), tmp_path)
        assert len(at["wait"]) == 1
        assert at["wait"][0] < min(at["load"] + at["store"])

    def test_what_is_alone_neither_waits_nor_starts_anything(self, tmp_path: Path) -> None:
        at = places(segment_code(64, 1 << 6, "bfloat16", True, 90), tmp_path)
        assert at["wait"] == at["successor"] == []

    @pytest.mark.parametrize("tables", TABLES)
    def test_tensor(self, tables: str, tmp_path: Path) -> None:
        for _, launch in TABLES[tables].quantize:
            block = {"BLOCK": launch.warps * 32 * 8, "CHUNKS": launch.vectors, "PARTIALS": launch.warps * 32}
            constants = {
                **block,
                "DENSE": True,
                "EVEN": True,
                "STATIC": False,
                "UE8M0": False,
                "START": int(launch.start),
            }
            types = {"x": "*bf16", **TENSOR_TYPES}
            code = compiled(kernels.tensor_quantize_kernel, types, constants, launch.warps, 90)
            assert_good_code(code, tmp_path)
            at = places(code, tmp_path)
            assert len(at["wait"]) == len(at["successor"]) == (launch.start != Start.ALONE)
            for wait in at["wait"]:  # only x is loaded before
                assert [load < wait for load in at["load"]] == [True] * launch.vectors + [False]
                assert all(store > wait for store in at["store"])

    @pytest.mark.parametrize("tables", TABLES)
    def test_largest_of_a_tensor(self, tables: str, tmp_path: Path) -> None:
        types = {"x": "*bf16", "partials": "*i32", "hidden": "i32", "x_stride": "i32", "total": "i32"}
        for _, launch in TABLES[tables].largest:
            block = {"BLOCK": launch.warps * 32 * 8, "CHUNKS": launch.vectors, "STEPS": 2}
            constants = {**block, "DENSE": True, "EVEN": True, "START": int(launch.start)}
            code = compiled(kernels.tensor_max_kernel, types, constants, launch.warps, 90)
            assert_good_code(code, tmp_path, quantizes=False)
            at = places(code, tmp_path)
            assert len(at["wait"]) == len(at["successor"]) == (launch.start != Start.ALONE)
            for wait in at["wait"]:  # and the second kernel, which loads x at once, starts when x is complete
                assert wait < min(at["successor"] + at["load"] + at["store"])
