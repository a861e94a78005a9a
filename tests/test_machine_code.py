"""The CUDA kernels as machine code, for every architecture that matters: what can be told without a GPU."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path

import disassembly
import pytest
import torch

from fp8bench import backends, builds, config, paths, resources, toolchain
from fp8bench.errors import ToolchainError
from fp8bench.spec import Case

ARCHITECTURES = ("89", "90", "100")
KERNELS = 417  # 135 for each dtype, and 6 for each of 16 bits
# Before sm_90: two of the three starts of 23 kernels, one of the two of 11, the ring, and those that fetch.
EMPTY = 3 * (2 * 23 + 7 + 4 + 1) + 12
DESIGNS = (
    "quantize_usual_by_lanes",
    "quantize_by_lanes",
    "quantize_by_blocks",
    "quantize_in_two_passes",
    "largest_of_row",
    "quantize_by_grid",
    "quantize_by_ring",
    "quantize_row",
    "largest_of_tiles",
    "quantize_tiles",
    "cast_tiles",
)

# Of global memory, by whatever way, copies included; not of shared or constant memory.
READS = r"(LD|LDG|LDGSTS|UBLKCP|UTMALDG)(\.|$)"
WRITES = r"(ST|STG|RED|REDG|ATOM|ATOMG|UBLKRED|UTMASTG|UTMAREDG)(\.|$)"

NO_ROOM = [("quantize_by_ring", "89")]  # compiled empty, as a block has too little shared memory there


@dataclass(frozen=True)
class Kernel:
    """One kernel on one architecture: its mangled name, its instructions in their order, without operands."""

    name: str
    instructions: tuple[str, ...]

    @property
    def uses_vectors(self) -> bool:
        return "6VectorI" in self.name

    @property
    def begins_anywhere(self) -> bool:
        """Its segments or its tensor begin and end between two vectors: single elements are left over."""
        odd = "CaseE[04]|by_grid.*Lb1E|[0-9]quantize_by_lanes.*Li32E|two_passes|_of_tiles|quantize_tiles"
        return bool(re.search(odd, self.name))

    @property
    def is_empty(self) -> bool:
        """Of a start that the architecture does not have: it loads and stores nothing."""
        return not self.has("LDG|STG")

    @property
    def is_alone(self) -> bool:
        """Launched when everything before it has ended (Start 2), as the floor is."""
        return "StartE2" in self.name or "cast_tiles" in self.name

    @property
    def reads_before_it_waits(self) -> bool:
        """On purpose: the second of two kernels, for which x is complete when it starts."""
        return "12quantize_row" in self.name or "14quantize_tiles" in self.name

    @cached_property
    def _different(self) -> frozenset[str]:
        return frozenset(self.instructions)

    def has(self, pattern: str) -> bool:
        return any(re.match(pattern, instruction) for instruction in self._different)

    def places(self, pattern: str) -> list[int]:
        return [place for place, instruction in enumerate(self.instructions) if re.match(pattern, instruction)]

    @property
    def touches_before_it_waits(self) -> bool:
        """Memory, but for what it reads on purpose. (A fetch into a cache does not touch it.)"""
        touches = self.places(WRITES if self.reads_before_it_waits else f"{READS}|{WRITES}")
        return min(touches) < min(self.places("ACQBULK"))


@pytest.fixture(scope="module")
def build() -> Path:
    """A build directory with the CUDA library of the checkout, for all architectures."""
    try:
        toolchain.find_nvcc()
    except ToolchainError as error:
        pytest.skip(str(error))
    built = builds.build(paths.CHECKOUT, "", "candidate", config.load(), worktree=True, backends=("cuda",))
    cuda = built.library("cuda")
    assert cuda is not None
    assert cuda.ok, f"{cuda.error}\n{cuda.log}"
    return Path(built.path)


@lru_cache
def _kernels(build: Path, architecture: str) -> tuple[Kernel, ...]:
    library = next(build.glob("libfp8bench_cuda-*.so"))
    opcode = re.compile(r"^\s+/\*[0-9a-f]{4,}\*/\s+(?:@!?U?P\d+\s+)?([A-Z][A-Z0-9_.]*)", re.MULTILINE)
    found = disassembly.functions(library, architecture)
    return tuple(Kernel(name, tuple(opcode.findall(body))) for name, body in found.items())


@pytest.fixture(params=ARCHITECTURES)
def kernels(request: pytest.FixtureRequest, build: Path) -> tuple[Kernel, ...]:
    return _kernels(build, request.param)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_every_kernel_is_there(build: Path, architecture: str) -> None:
    kernels = _kernels(build, architecture)
    assert len(kernels) == KERNELS
    for design in DESIGNS:
        compiled = [kernel for kernel in kernels if design in kernel.name and not kernel.is_empty]
        assert bool(compiled) == ((design, architecture) not in NO_ROOM), design


def test_what_cannot_overlap_is_compiled_once(build: Path) -> None:
    """Kernels of the usual case have three starts; before sm_90 two of them would be the third once more.

    Those of odd sizes and of the whole grid have two; those that fetch, and the ring, which needs more shared memory
    than there was, begin with it. From then on none is empty.
    """
    assert sum(kernel.is_empty for kernel in _kernels(build, "89")) == EMPTY
    assert not any(kernel.is_empty for name in ("90", "100") for kernel in _kernels(build, name))


def test_nothing_spills_and_nothing_has_a_stack(build: Path) -> None:
    table = [entry for entry in resources.read(build) if entry.architecture in ARCHITECTURES]
    assert len(table) == KERNELS * len(ARCHITECTURES)
    assert [entry for entry in table if entry.spills or entry.stack] == []


def test_no_kernel_touches_local_memory(kernels: tuple[Kernel, ...]) -> None:
    assert [kernel.name for kernel in kernels if kernel.has("LDL|STL")] == []


def test_vectors_are_loaded_16_bytes_at_a_time(kernels: tuple[Kernel, ...]) -> None:
    assert sum(kernel.uses_vectors for kernel in kernels) == KERNELS - 3 * 6
    for kernel in kernels:
        if kernel.is_empty:
            continue
        if kernel.uses_vectors:
            assert kernel.has(r"LDG\.E\.128"), kernel.name
            single = kernel.begins_anywhere and "Float32" not in kernel.name
            assert kernel.has(r"LDG\.E\.(U|S)(8|16)") == single, kernel.name
        elif "quantize_tiles" not in kernel.name:  # which reads the blocks' maxima as vectors
            assert not kernel.has(r"LDG\.E\.128"), kernel.name


def test_codes_come_from_the_hardware_conversion(kernels: tuple[Kernel, ...]) -> None:
    for kernel in kernels:
        if kernel.is_empty:
            continue
        assert kernel.has(r"F2FP\.SATFINITE\.E4M3") == ("largest_of" not in kernel.name), kernel.name


def test_every_kernel_waits_for_its_predecessor(build: Path) -> None:
    """Each of them that overlaps it, as a kernel that is complete must have complete predecessors."""
    for architecture in ("90", "100"):
        for kernel in _kernels(build, architecture):
            assert kernel.has("ACQBULK") != kernel.is_alone, kernel.name


def test_no_kernel_touches_memory_before_its_wait(build: Path) -> None:
    for architecture in ("90", "100"):
        waiting = [kernel for kernel in _kernels(build, architecture) if not kernel.is_alone]
        assert [kernel.name for kernel in waiting if kernel.touches_before_it_waits] == []
        assert sum(kernel.reads_before_it_waits for kernel in waiting) == 3 * (3 + 4)


@pytest.mark.parametrize(
    ("name", "instructions", "early"),
    [
        ("quantize_by_lanes", ("UBLKPF", "ACQBULK", "LDG.E.128", "STG.E"), False),
        ("quantize_by_lanes", ("LDG.E.128", "ACQBULK", "STG.E"), True),
        ("quantize_by_ring", ("LDGSTS.E.BYPASS.128", "ACQBULK", "REDG.E.ADD"), True),
        ("quantize_by_grid", ("LDC.64", "LDS", "STS", "ACQBULK", "LDG.E.128"), False),
        ("12quantize_row", ("LDG.E.128", "ACQBULK", "LDG.E", "STG.E"), False),
        ("12quantize_row", ("LDG.E.128", "STG.E", "ACQBULK"), True),
    ],
)
def test_what_comes_before_a_wait_is_seen(name: str, instructions: tuple[str, ...], early: bool) -> None:
    assert Kernel(name, instructions).touches_before_it_waits == early


def test_those_that_fetch_do(build: Path) -> None:
    for architecture in ("90", "100"):
        for kernel in _kernels(build, architecture):
            assert kernel.has("UBLKPF") == ("StartE3" in kernel.name), kernel.name


def test_nothing_divides_the_slow_way(build: Path) -> None:
    """Division has a slow path that is called; nothing here calls anything."""
    for architecture in ("90", "100"):
        for kernel in _kernels(build, architecture):
            assert not kernel.has(r"CALL"), kernel.name


@pytest.mark.parametrize("name", ["cuda", "floor"])
@pytest.mark.parametrize(("capability", "runs"), [((8, 6), True), ((9, 0), True), ((10, 3), True), ((12, 0), False)])
def test_gpus_that_the_library_has_no_code_for_are_refused(
    build: Path, monkeypatch: pytest.MonkeyPatch, name: str, capability: tuple[int, int], runs: bool
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: capability)
    reason = backends.load(name, build).supports(Case.parse("per-tensor/bfloat16/4x64"), "cuda")
    assert (reason is None) == runs
    assert runs or (reason is not None and 'sm_100, which does not run here: add "120" to' in reason)


def test_the_library_exports_its_interface_alone(build: Path) -> None:
    nm = shutil.which("nm")
    if nm is None:
        pytest.skip("no nm here")
    library = next(build.glob("libfp8bench_cuda-*.so"))
    listed = subprocess.run([nm, "-D", "--defined-only", str(library)], capture_output=True, text=True, check=True)
    names = {line.split()[-1] for line in listed.stdout.splitlines()}
    header = (paths.CSRC / "fp8bench.h").read_text()
    declared = set(re.findall(r"\b(fp8bench_\w+)\((?:const|void)", header))
    assert {name for name in names if not name.startswith("_")} == declared
    assert not any("fp8bench" in name for name in names - declared)


def test_every_kernel_has_a_hash_of_its_own(build: Path) -> None:
    """All that the disassembler names; before sm_90, where nothing overlaps, kernels that start differently agree."""
    stored = json.loads((build / "code-cuda.json").read_bytes())
    assert stored["host"]
    for architecture in ARCHITECTURES:
        hashes = stored["kernels"][architecture]
        assert set(hashes) == {kernel.name for kernel in _kernels(build, architecture)}
        assert len(set(hashes.values())) == KERNELS or architecture == "89"
