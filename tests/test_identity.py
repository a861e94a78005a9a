"""What a case runs, as a hash: what must change it, what must not, and what must leave it unknown."""

from __future__ import annotations

import json
import runpy
import subprocess
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from fp8bench import builds, graphs, identity, machine_code, toolchain
from fp8bench.errors import ToolchainError
from fp8bench.graphs import Graph, Kernel
from fp8bench.identity import Code

SOURCE = """
struct Job { float *y; int count; };
template <int kTimes> __global__ void scale(Job job) {
  __shared__ float held[64];
  const int at = blockIdx.x * blockDim.x + threadIdx.x;
  held[threadIdx.x % 64] = at < job.count ? job.y[at] : 0;
  __syncthreads();
  if (at < job.count) job.y[at] = held[threadIdx.x % 64] * kTimes;
}
namespace { __attribute__((noinline)) int grid_of(int count) { return count / 64; } }
template <int kTimes> __global__ void shift(Job job) { if (threadIdx.x < job.count) job.y[threadIdx.x] += kTimes; }
extern "C" void run(float *y, int count) {
  scale<3><<<grid_of(count), 64>>>({y, count});
  shift<5><<<1, 32>>>({y, count});
}
"""


@pytest.fixture(scope="module")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], bytes]:
    """Compiles CUDA source to an object file, for sm_90 alone."""
    try:
        nvcc = toolchain.find_nvcc()
    except ToolchainError as error:
        pytest.skip(str(error))
    folder = tmp_path_factory.mktemp("objects")

    def compile_(source: str) -> bytes:
        (folder / "a.cu").write_text(source)
        command = [str(nvcc.path), "-gencode=arch=compute_90,code=sm_90", "-c", "a.cu", "-o", "a.o"]
        subprocess.run(command, cwd=folder, check=True)
        return (folder / "a.o").read_bytes()

    return compile_


@pytest.fixture(scope="module")
def plain(compiled: Callable[[str], bytes]) -> bytes:
    return compiled(SOURCE)


def _kernels(content: bytes) -> dict[str, str]:
    """Hashes under short names."""
    [found] = machine_code.kernels_of_library(content).values()
    return {"scale" if "scale" in name else "shift": code for name, code in found.items()}


def test_one_changed_kernel_changes_its_own_hash_alone(compiled: Callable[[str], bytes], plain: bytes) -> None:
    changed = compiled("// Lines move, and a comment is new.\n" + SOURCE.replace("+= kTimes", "-= 2 * kTimes"))
    assert set(machine_code.kernels_of_library(plain)) == {"90"}
    assert _kernels(changed)["scale"] == _kernels(plain)["scale"]
    assert _kernels(changed)["shift"] != _kernels(plain)["shift"]
    assert machine_code.host_code([changed]) == machine_code.host_code([plain])


def test_another_launch_is_other_host_code(compiled: Callable[[str], bytes], plain: bytes) -> None:
    changed = compiled(SOURCE.replace("grid_of(count), 64", "grid_of(2 * count), 32"))
    assert _kernels(changed) == _kernels(plain)
    assert machine_code.host_code([changed]) != machine_code.host_code([plain])


TABLES = """
static const int first[8] = {1, 2, 3, 4, 5, 6, 7, 8}, second[8] = {8, 7, 6, 5, 4, 3, 2, 1};
int one_way(const int *), other_way(const int *);
extern "C" int *unused(void);
int pick(int i, int j) { return one_way(first + i) * one_way(second + j); }
"""


@pytest.fixture(scope="module")
def host_code(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], str]:
    """Hash of C++ source compiled in a directory of its own."""
    compiler = toolchain.find_cxx().command

    def hash_(source: str) -> str:
        folder = tmp_path_factory.mktemp("host")
        (folder / "a.cpp").write_text(source)
        subprocess.run([*compiler, "-O2", "-fPIC", "-c", "a.cpp", "-o", "a.o"], cwd=folder, check=True)
        return machine_code.host_code([(folder / "a.o").read_bytes()])

    return hash_


@pytest.mark.parametrize(
    ("what", "other"),
    [("one_way(first", "other_way(first"), ("first + i) * one_way(second + j", "second + i) * one_way(first + j")],
    ids=["function", "table"],
)
def test_what_host_code_refers_to_counts(host_code: Callable[[str], str], what: str, other: str) -> None:
    """The same bytes but for relocations: another function, another table."""
    assert host_code(TABLES.replace(what, other)) != host_code(TABLES)


def test_host_code_does_not_change_with_names_and_places(host_code: Callable[[str], str]) -> None:
    renamed = TABLES.replace("first", "renamed").replace("unused", "unused_too")
    assert host_code(f"// Moved down.\n{renamed}") == host_code(TABLES)


TRITON = """
import triton
import triton.language as tl


@triton.jit
def double(x, y, SIZE: tl.constexpr):
    at = tl.arange(0, SIZE)
    tl.store(y + at, tl.load(x + at) * 2)
"""


def _compiled(folder: Path, source: str) -> Any:
    """What Triton makes for sm_90 of the kernel in `source`."""
    triton = pytest.importorskip("triton")
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    folder.mkdir()
    (folder / "kernels.py").write_text(source)
    kernel = runpy.run_path(str(folder / "kernels.py"))["double"]
    signature = {"x": "*fp32", "y": "*fp32", "SIZE": "constexpr"}
    made = ASTSource(kernel, signature=signature, constexprs={(2,): 128})
    return triton.compile(made, target=GPUTarget("cuda", 90, 32))


def _cubin(folder: Path, source: str) -> bytes:
    return bytes(_compiled(folder, source).asm["cubin"])


@pytest.mark.filterwarnings("ignore:TRITON_DEFAULT_FP_FUSION:UserWarning")
def test_a_kernel_of_triton_does_not_change_with_its_place(tmp_path: Path) -> None:
    first = machine_code.kernels(_cubin(tmp_path / "a", TRITON))
    assert set(first) == {"double"}
    moved = _cubin(tmp_path / "b", f"# Moved down,\n# and commented on.\n{TRITON}")
    assert machine_code.kernels(moved) == first
    assert machine_code.kernels(_cubin(tmp_path / "c", TRITON.replace("* 2", "* 3"))) != first


@pytest.mark.filterwarnings("ignore:TRITON_DEFAULT_FP_FUSION:UserWarning")
def test_loaded_kernels_are_found_by_their_handle(tmp_path: Path) -> None:
    kernel = _compiled(tmp_path / "a", TRITON)
    assert None not in identity._loaded_kernels(), "not loaded yet"
    kernel.function = 4711  # as loading it on a device would
    assert identity._loaded_kernels()[4711] == machine_code.kernels(kernel.asm["cubin"])["double"]


@pytest.mark.parametrize("cut", [0, 5, 64, 1000])
def test_what_is_no_elf_file_has_no_code(plain: bytes, cut: int) -> None:
    assert machine_code.kernels(plain[:cut]) == {}
    assert machine_code.kernels_of_library(b"#!" + plain[2:]) == {}


# ---- from kernels to an identity ----------------------------------------------------------------------------

KERNEL = Kernel(7, "scale", (4, 1, 1), (64, 1, 1), (0, 0, 0), 0, (b"\x01\0\0\0",))
CHAIN = Graph((KERNEL, KERNEL), ((0, 1, 1),))


def _code(path: Path, host: str = "h", **kernels: str) -> Code:
    path.mkdir(exist_ok=True)
    table = {"80": {"scale": "old"}, "90": kernels, "100": {"scale": "new"}}
    (path / "code-cuda.json").write_text(json.dumps({"host": host, "kernels": table}))
    return Code(path, (9, 0))


@pytest.mark.parametrize(
    "other",
    [
        Graph((KERNEL, KERNEL), ((0, 1, 0),)),  # no overlap
        Graph((KERNEL,), ()),
        *[
            Graph((KERNEL, KERNEL._replace(**{name: value})), CHAIN.edges)
            for name, value in (("grid", (8, 1, 1)), ("block", (32, 1, 1)), ("cluster", (2, 1, 1)), ("shared", 1024))
        ],
    ],
)
def test_the_shape_of_a_launch_counts(tmp_path: Path, other: Graph) -> None:
    code = _code(tmp_path, scale="1")
    assert code.identity(CHAIN, "s")
    assert code.identity(other, "s") not in (code.identity(CHAIN, "s"), "")


def test_machine_code_host_code_and_the_backend_file_count(tmp_path: Path) -> None:
    first = _code(tmp_path, scale="1").identity(CHAIN, "s")
    assert _code(tmp_path, scale="1", other="2").identity(CHAIN, "s") == first
    others = [_code(tmp_path, scale="2"), _code(tmp_path, host="i", scale="1")]
    assert len({first, _code(tmp_path, scale="1").identity(CHAIN, "t"), *(c.identity(CHAIN, "s") for c in others)}) == 4


def test_what_is_unknown_is_equal_to_nothing(tmp_path: Path) -> None:
    assert _code(tmp_path, other="1").identity(CHAIN, "s") == ""
    assert _code(tmp_path, scale="1").identity(Graph((), ()), "s") == ""
    assert Code(tmp_path / "nowhere", (9, 0)).identity(CHAIN, "s") == ""
    _code(tmp_path, scale="1")
    assert Code(tmp_path, (12, 0)).identity(CHAIN, "s") == "", "no code of the library runs there"
    assert Code(tmp_path, (8, 6)).identity(CHAIN, "s"), "code of sm_80 runs on sm_86"


def test_addresses_do_not_count_and_sizes_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(identity, "_loaded_kernels", lambda: {7: "triton"})

    def of(*parameters: int) -> str:
        values = tuple(value.to_bytes(8, "little") for value in parameters)
        return Code(tmp_path, (9, 0)).identity(Graph((KERNEL._replace(parameters=values),), ()), "")

    assert of(0x7F12_3400_0000, 4096) == of(0x7F55_6600_0000, 4096) != ""
    assert of(0x7F12_3400_0000, 4096) != of(0x7F12_3400_0000, 1024)
    unread = KERNEL._replace(parameters=None)
    assert Code(tmp_path, (9, 0)).identity(Graph((unread,), ()), "") == ""


def test_a_graph_overlaps_where_an_edge_says_so() -> None:
    assert CHAIN.overlaps
    assert not Graph((KERNEL, KERNEL), ((0, 1, 0),)).overlaps


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a driver")
def test_without_a_driver_no_graph_is_read() -> None:
    assert graphs.read(1) is None


# ---- on a GPU -----------------------------------------------------------------------------------------------

on_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")


@on_gpu
@pytest.mark.parametrize("name", ["cuda", "triton", "floor"])
def test_identities_on_a_gpu(name: str) -> None:
    from fp8bench import backends
    from fp8bench.spec import Case

    build = builds.default_build()
    backend = backends.load(name, build)
    texts = ["per-tensor/bfloat16/16x896", "per-tensor/bfloat16/1024x7168"]
    texts += [] if name == "floor" else ["per-token/bfloat16/16x896", "group-128-col/bfloat16/1024x4096"]
    first, second = ([identity.Identities("cuda", build).of(backend, Case.parse(text)) for text in texts] for _ in "ab")
    assert first == second
    assert "" not in first
    assert len(set(first)) == len(texts)


@on_gpu
def test_a_graph_tells_its_kernels() -> None:
    values = torch.zeros(1 << 20, device="cuda")
    graph = identity.captured(partial(values.mul_, 2))
    assert graph is not None
    assert len(graph.kernels) == identity.CALLS
    assert not graph.overlaps
    assert graph.edges == ((0, 1, 0),)
    assert all(kernel.grid[0] > 0 and kernel.block[0] > 0 and "elementwise" in kernel.name for kernel in graph.kernels)
