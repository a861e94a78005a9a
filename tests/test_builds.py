"""Builds of a real repository: cached by content, side by side in one process, and what happens when they fail."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from conftest import with_compiled_kernels

from fp8bench import backends, builds, cli, config, libraries, paths, reference, resources, tensors, toolchain
from fp8bench.config import Config
from fp8bench.errors import BuildError, RevisionError, ToolchainError
from fp8bench.records import Built
from fp8bench.spec import Case

QUICK = ("torch", "triton", "cpu")  # all that needs no CUDA compiler
CASE = Case.parse("per-token/bfloat16/16x256")

# What a commit may do to the per-token kernel.
ENCODE = "encode_all<T>(x, args.hidden, scale,"
TWICE = "encode_all<T>(x, args.hidden, scale * 2,"


class Repo:
    """A git repository with the sources of fp8bench's kernels."""

    def __init__(self, path: Path) -> None:
        self.path = path
        shutil.copytree(paths.CSRC, path / "csrc")
        shutil.copytree(paths.BACKENDS, path / "fp8bench" / "backends", ignore=shutil.ignore_patterns("__pycache__"))
        self.git("init", "--quiet", "--initial-branch=main")
        self.commit("kernels")

    def git(self, *arguments: str) -> str:
        identity = ("-c", "user.name=Ada", "-c", "user.email=ada@example.org", "-c", "commit.gpgsign=false")
        done = subprocess.run(["git", *identity, *arguments], cwd=self.path, capture_output=True, text=True, check=True)
        return done.stdout.strip()

    def commit(self, subject: str) -> str:
        self.git("add", "--all")
        self.git("commit", "--quiet", "--allow-empty", "-m", subject)
        return self.git("rev-parse", "HEAD")

    def edit(self, file: str, old: str, new: str) -> str:
        """Replace `old` by `new` once and commit it."""
        text = (self.path / file).read_text()
        assert text.count(old) == 1, f"{file} has {text.count(old)} times {old!r}"
        (self.path / file).write_text(text.replace(old, new))
        return self.commit(f"edit {file}")


@pytest.fixture
def repo(tmp_path: Path) -> Repo:
    return Repo(tmp_path / "repo")


@pytest.fixture
def settings() -> Config:
    """The home that all sessions of tests share: what was compiled once is not compiled again."""
    return config.load()


@pytest.fixture
def empty_home(tmp_path: Path, settings: Config) -> Config:
    """A home of its own that has the compiled libraries, but no build yet."""
    home = tmp_path / "home"
    (home / "builds").mkdir(parents=True)
    settings.builds_dir.joinpath(".libraries").mkdir(parents=True, exist_ok=True)
    (home / "builds" / ".libraries").symlink_to(settings.builds_dir.resolve() / ".libraries")
    return settings.model_copy(update={"home": home})


def build(repo: Repo, revision: str, settings: Config, wanted: tuple[str, ...] = QUICK, **options: bool) -> Built:
    sha = repo.git("rev-parse", revision)
    return builds.build(repo.path, sha, "candidate", settings, backends=wanted, **options)


def identities(built: Built) -> dict[str, str]:
    return {library.backend: library.identity for library in built.libraries if library.ok}


def test_a_build_holds_what_it_says(repo: Repo, empty_home: Config) -> None:
    built = build(repo, "HEAD", empty_home)
    directory = Path(built.path)
    manifest = builds.read_manifest(directory)
    assert (manifest.commit, manifest.hash, manifest.dirty) == (built.commit, directory.name, False)
    assert manifest.interface == backends.INTERFACE
    assert {library.backend: library.identity for library in manifest.libraries} == identities(built)
    assert "c++" in manifest.compilers
    assert "-O3" in manifest.flags["cpu"]
    assert sorted(file.name for file in (directory / "backends").glob("*.py")) == sorted(
        file.name for file in paths.BACKENDS.glob("*.py")
    )
    assert [path.name for path in empty_home.builds_dir.iterdir() if path.name.startswith((".tree", ".build"))] == []


def test_second_build_is_a_no_op(repo: Repo, empty_home: Config) -> None:
    first = build(repo, "HEAD", empty_home)
    stamp = (Path(first.path) / "build.json").stat().st_mtime_ns
    second = build(repo, "HEAD", empty_home)
    assert not first.cached
    assert second.cached
    assert second.path == first.path
    assert identities(second) == identities(first)
    assert (Path(second.path) / "build.json").stat().st_mtime_ns == stamp


def test_commits_with_the_same_kernels_share_a_build(repo: Repo, empty_home: Config) -> None:
    first = build(repo, "HEAD", empty_home)
    (repo.path / "README").write_text("no kernel")
    second = build(repo, repo.commit("a README"), empty_home)
    assert first.commit != second.commit
    assert (first.path, second.cached) == (second.path, True)


def test_a_comment_changes_the_build_and_not_the_identity(repo: Repo, settings: Config) -> None:
    first = build(repo, "HEAD", settings)
    repo.edit(
        "fp8bench/backends/triton.py",
        "from __future__ import annotations\n",
        "# Moved.\n\nfrom __future__ import annotations\n",
    )
    second = build(
        repo, repo.edit("csrc/numerics.h", "#pragma once\n", "#pragma once\n\n// Lines below move.\n"), settings
    )
    assert first.path != second.path
    assert identities(first) == identities(second)


def test_changed_kernels_run_beside_the_old_ones(repo: Repo, settings: Config) -> None:
    """Both in one process: each build answers for itself, and only the changed backend's identity differs."""
    old = build(repo, "HEAD", settings)
    new = build(repo, repo.edit("csrc/cpu/per_token.cpp", ENCODE, TWICE), settings)
    x = tensors.random_input(CASE, "cpu", 0)
    expected, _ = reference.quantize(x, CASE.scheme)
    answers = []
    for built in (old, new, old):
        call = backends.load("cpu", Path(built.path)).bind(CASE.scheme, x, *tensors.poisoned_outputs(CASE, "cpu"))
        answers.append(call()[0].view(torch.uint8).clone())
    assert torch.equal(answers[0], expected)
    assert not torch.equal(answers[1], expected)
    assert torch.equal(answers[2], expected)
    assert {name for name, identity in identities(old).items() if identities(new)[name] != identity} == {"cpu"}


def test_a_backend_file_has_an_identity_of_its_own(repo: Repo, settings: Config) -> None:
    old = build(repo, "HEAD", settings)
    with (repo.path / "fp8bench/backends/_native.py").open("a") as file:
        file.write("\nMORE = 1\n")
    new = build(repo, repo.commit("more"), settings)
    assert {name for name, identity in identities(old).items() if identities(new)[name] != identity} == {"cpu"}


def test_kernels_that_do_not_compile_leave_the_others_whole(repo: Repo, settings: Config) -> None:
    sha = repo.edit(
        "csrc/cpu/per_group.cpp", "namespace fp8bench {\n", "namespace fp8bench {\nint planted = missing;\n"
    )
    for _ in range(2):  # a failure is tried again, not remembered
        built = build(repo, sha, settings)
        cpu = built.library("cpu")
        assert cpu is not None
        assert not cpu.ok
        assert "do not compile: csrc/cpu/per_group.cpp" in cpu.error
        assert "missing" in cpu.error
        assert "missing" in cpu.log
        assert {library.backend for library in built.libraries if library.ok} == {"torch", "triton"}
        assert not list(Path(built.path).glob("*.so"))
        assert backends.load("torch", Path(built.path)).name == "torch"


def test_a_symbol_without_definition_is_found_at_the_build(repo: Repo, settings: Config) -> None:
    sha = repo.edit(
        "csrc/cpu/library.cpp",
        'extern "C" {\n',
        'extern "C" {\nint nowhere(void);\nint used(void) { return nowhere(); }\n',
    )
    cpu = build(repo, sha, settings).library("cpu")
    assert cpu is not None
    assert "nowhere" in cpu.error


def test_backend_files_are_checked(repo: Repo, settings: Config) -> None:
    (repo.path / "fp8bench/backends/triton.py").write_text("def broken(:\n")
    repo.git("rm", "--quiet", "fp8bench/backends/torch.py")
    built = build(repo, repo.commit("broken"), settings)
    errors = {library.backend: library.error for library in built.libraries}
    assert "not valid Python" in errors["triton"]
    assert "line 1" in errors["triton"]
    assert "no backend file" in errors["torch"]
    assert errors["cpu"] == ""


def test_another_interface_is_refused(repo: Repo, settings: Config) -> None:
    sha = repo.edit("fp8bench/backends/__init__.py", f"\nINTERFACE = {backends.INTERFACE} ", "\nINTERFACE = 99 ")
    built = build(repo, sha, settings)
    assert {(library.ok, "interface 99" in library.error) for library in built.libraries} == {(False, True)}
    assert built.path == ""


def test_a_worktree_is_built_as_it_lies(repo: Repo, empty_home: Config) -> None:
    committed = build(repo, "HEAD", empty_home)
    file = repo.path / "csrc/cpu/per_token.cpp"
    file.write_text(file.read_text().replace(ENCODE, TWICE))
    assert build(repo, "HEAD", empty_home).path == committed.path  # the commit, whatever lies there
    dirty = build(repo, "HEAD", empty_home, worktree=True)
    assert identities(dirty)["cpu"] != identities(committed)["cpu"]
    assert builds.read_manifest(Path(dirty.path)).dirty


@pytest.mark.parametrize("damage", [Path.unlink, lambda file: file.write_text("{")], ids=["missing", "cut off"])
def test_a_damaged_build_is_made_anew(repo: Repo, empty_home: Config, damage: Callable[[Path], object]) -> None:
    first = build(repo, "HEAD", empty_home)
    damage(Path(first.path) / "build.json")
    second = build(repo, "HEAD", empty_home)
    assert (second.path, second.cached) == (first.path, False)
    assert build(repo, "HEAD", empty_home).cached


def _flip(file: Path) -> None:
    """Change one byte in place, as a disk, or a kernel that writes where it should not, would."""
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.chmod(0o644)
    file.write_bytes(data)


@pytest.mark.parametrize("name", ["libfp8bench_cpu-*.so", "backends/cpu.py"])
def test_a_poisoned_build_is_never_measured(repo: Repo, tmp_path: Path, name: str) -> None:
    # With compiled libraries of its own: builds share them as hard links, and other tests run those of the shared home.
    own_home = config.load(home=with_compiled_kernels(tmp_path / "home"))
    first = build(repo, "HEAD", own_home)
    (file,) = Path(first.path).glob(name)
    sound = file.read_bytes()
    _flip(file)
    second = build(repo, "HEAD", own_home)
    assert (second.path, second.cached) == (first.path, False)
    assert file.read_bytes() == sound
    assert build(repo, "HEAD", own_home).cached


def test_builds_at_the_same_time_agree(repo: Repo, tmp_path: Path) -> None:
    home = config.load(home=tmp_path / "home")  # nothing compiled: all of them compile and rename
    with ThreadPoolExecutor(2) as pool:
        made = list(pool.map(lambda _: build(repo, "HEAD", home, ("cpu",)), range(2)))
    assert len({built.path for built in made}) == 1
    assert all(library.ok for built in made for library in built.libraries)
    assert len(list(home.builds_dir.glob("[!.]*"))) == 1


def test_the_cuda_library_does_not_depend_on_the_cpu_kernels(repo: Repo) -> None:
    nvcc_or_skip()
    plan = libraries.plan("cuda", repo.path, ("90",))
    repo.edit("csrc/cpu/per_token.cpp", ENCODE, TWICE)
    assert libraries.plan("cuda", repo.path, ("90",)).hash == plan.hash
    assert libraries.plan("cuda", repo.path, ("80", "90")).hash != plan.hash
    repo.edit("csrc/numerics.h", "#pragma once\n", "#pragma once\n\n")
    assert libraries.plan("cuda", repo.path, ("90",)).hash != plan.hash


def nvcc_or_skip() -> toolchain.Nvcc:
    try:
        return toolchain.find_nvcc()
    except ToolchainError as error:
        pytest.skip(str(error))


def test_cuda_kernels_compile_for_every_architecture(settings: Config) -> None:
    nvcc = nvcc_or_skip()
    built = builds.build(paths.CHECKOUT, "", "candidate", settings, worktree=True, backends=("cuda",))
    cuda = built.library("cuda")
    assert cuda is not None
    assert cuda.ok, f"{cuda.error}{cuda.note}\n{cuda.log}"
    table = resources.read(Path(built.path))
    assert {entry.architecture for entry in table} == set(settings.build.architectures) & nvcc.architectures
    assert min(entry.registers for entry in table) > 0
    library = next(Path(built.path).glob("libfp8bench_cuda-*.so"))
    native = backends.load("cuda", Path(built.path))  # loads without a GPU, and says what it was compiled from
    assert native.name == "cuda"
    assert library.stat().st_size < 20e6


def test_an_architecture_that_nvcc_lacks_is_no_fault_of_the_commit(repo: Repo, settings: Config) -> None:
    nvcc_or_skip()
    odd = settings.model_copy(update={"build": settings.build.model_copy(update={"architectures": ("12345",)})})
    cuda = build(repo, "HEAD", odd, ("cuda",)).library("cuda")
    assert cuda is not None
    assert (cuda.ok, cuda.error) == (False, "")
    assert "none of the architectures 12345" in cuda.note


def test_no_compiler_is_said_plainly(
    repo: Repo, settings: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(ToolchainError, match="CXX is 'no-such-compiler'"):
        build(repo, "HEAD", settings)
    monkeypatch.delenv("CXX")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ToolchainError, match=r"no C\+\+ compiler on PATH"):
        toolchain.find_cxx()


def test_a_disk_that_takes_nothing_is_said_plainly(repo: Repo, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(BuildError, match=r"cannot build in .*file/home/builds: Not a directory"):
        build(repo, "HEAD", config.load(home=tmp_path / "file" / "home"))


def test_a_disk_that_fills_up_is_no_fault_of_the_kernels(
    repo: Repo, settings: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    compiler = tmp_path / "c++"
    compiler.write_text(
        '#!/bin/sh\n[ "$1" = --version ] && echo c++ 99 && exit\necho "a.s: No space left on device"; exit 1\n'
    )
    compiler.chmod(0o755)
    monkeypatch.setenv("CXX", str(compiler))
    with pytest.raises(BuildError, match=r"cannot build in .*: No space left on device"):
        build(repo, "HEAD", settings, ("cpu",))


def test_a_commit_of_another_project_is_refused(repo: Repo, settings: Config) -> None:
    repo.git("rm", "-r", "--quiet", "csrc", "fp8bench")
    with pytest.raises(RevisionError, match="not a commit of this project"):
        build(repo, repo.commit("empty"), settings)


def test_default_build_is_the_checkouts_own() -> None:
    manifest = builds.read_manifest(builds.default_build())
    assert {library.backend for library in manifest.libraries} >= {"torch", "triton", "cpu"}


REPORT = """\
ptxas info    : 0 bytes gmem
ptxas info    : Compiling entry function '_ZN8fp8bench3rowIfLi4EEEvPKf' for 'sm_90'
ptxas info    : Function properties for _ZN8fp8bench3rowIfLi4EEEvPKf
    16 bytes stack frame, 8 bytes spill stores, 4 bytes spill loads
ptxas info    : Used 40 registers, used 1 barriers, 16 bytes cumulative stack size, 1024 bytes smem
ptxas info    : Compiling entry function 'plain' for 'sm_100a'
ptxas info    : Function properties for plain
    0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads
ptxas info    : Used 12 registers, used 0 barriers
"""


def test_the_compilers_report_is_read() -> None:
    first, second = resources.parse(REPORT)
    assert "row" in first.kernel
    assert (first.architecture, first.registers, first.stack, first.spills, first.shared) == ("90", 40, 16, 12, 1024)
    assert second == resources.KernelResources("plain", "100a", 12, 0, 0, 0)
    assert resources.parse("") == []


def test_command_prints_the_build_and_then_finds_it(
    repo: Repo, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUDA_HOME", "")
    shutil.rmtree(repo.path / "csrc" / "cuda")  # not compiled here: said, and the code for what does not build
    repo.commit("no CUDA")
    arguments = ["build", "--repo", str(repo.path)]
    assert cli.main([*arguments, "--json"]) == (cli.EXIT_WRONG if has_nvcc() else cli.EXIT_OK)
    built = json.loads(capsys.readouterr().out)
    assert built["commit"] == repo.git("rev-parse", "HEAD")
    cli.main(arguments)
    shown = capsys.readouterr().out
    assert f"{built['path']} (was there)" in shown
    assert "cpu      cached" in shown


def has_nvcc() -> bool:
    try:
        return bool(toolchain.find_nvcc())
    except ToolchainError:
        return False


def test_an_architecture_asked_for_by_name_must_be_known(repo: Repo, capsys: pytest.CaptureFixture[str]) -> None:
    nvcc_or_skip()
    assert cli.main(["build", "--repo", str(repo.path), "--arch", "12345"]) == cli.EXIT_ERROR
    assert "none of the architectures 12345" in capsys.readouterr().out


def test_command_errors_are_one_line(tmp_path: Path, repo: Repo, capsys: pytest.CaptureFixture[str]) -> None:
    for arguments in (["--repo", str(tmp_path)], ["--repo", str(repo.path), "--commit", "no-such-branch"]):
        assert cli.main(["build", *arguments]) == cli.EXIT_ERROR
        assert len(capsys.readouterr().err.splitlines()) == 1


def test_a_library_under_anothers_name_is_refused(repo: Repo, settings: Config, tmp_path: Path) -> None:
    built = Path(build(repo, "HEAD", settings, ("cpu",)).path)
    library = next(built.glob("libfp8bench_cpu-*.so"))
    foreign = tmp_path / "build"
    shutil.copytree(built / "backends", foreign / "backends")
    shutil.copy(library, foreign / "libfp8bench_cpu-0123456789abcdef.so")
    with pytest.raises(RuntimeError, match="not from what its name says"):
        backends.load("cpu", foreign)
    (foreign / "libfp8bench_cpu-0000.so").write_bytes(b"not a library")  # comes first
    with pytest.raises(RuntimeError, match="is not a kernel library"):
        backends.load("cpu", foreign)
