"""Commits with a planted fault: each is found as what it is, in the one case that it is planted in."""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

from fp8bench import builds, config, paths
from fp8bench.config import WorkerSettings
from fp8bench.errors import UsageError
from fp8bench.records import CheckStatus
from fp8bench.spec import Case
from fp8bench.supervisor import check_builds

SCRIPTS = paths.CHECKOUT / "ci"
SOUND = "per-token/bfloat16/16x256"
PLANTED = {  # kind -> case, what the check must say, and of what
    "wrong": ("per-token/bfloat16/8x256", CheckStatus.WRONG, "scale"),
    "hang": ("group-64-col/float32/8x256", CheckStatus.HUNG, "no sign of life for 4 s"),
    "crash": ("per-tensor-static/float16/8x256", CheckStatus.CRASHED, "SIGILL"),
    "twice": ("per-tensor/bfloat16/8x256", CheckStatus.OK, ""),
}


def script(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


plant = script(SCRIPTS / "plant.py")


@pytest.fixture(scope="module")
def repo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The kernels as they lie here, committed."""
    path = tmp_path_factory.mktemp("repo")
    shutil.copytree(paths.CSRC, path / "csrc")
    shutil.copytree(paths.BACKENDS, path / "fp8bench" / "backends", ignore=shutil.ignore_patterns("__pycache__"))
    git(path, "init", "--quiet", "--initial-branch=main")
    git(path, "add", "--all")
    git(path, "-c", "user.name=Ada", "-c", "user.email=ada@example.org", "commit", "--quiet", "-m", "kernels")
    return path


def git(repo: Path, *arguments: str) -> str:
    return subprocess.run(["git", *arguments], cwd=repo, capture_output=True, text=True, check=True).stdout.strip()


def test_each_fault_is_found_as_what_it_is_and_nowhere_else(repo: Path, tmp_path: Path) -> None:
    """All of them in one commit, planted on top of each other."""
    tip = "main"
    for kind, (case, _, _) in PLANTED.items():
        tip = plant.plant(repo, kind, "cpu", case, tip)
    settings = config.load().model_copy(update={"worker": WorkerSettings(cell_timeout_s=4)})
    built = builds.build(repo, tip, "candidate", settings, backends=("cpu",))
    library = built.library("cpu")
    assert library is not None
    assert library.ok, library.log
    jobs = [("cpu", Case.parse(case)) for case in (SOUND, *(case for case, _, _ in PLANTED.values()))]
    found = check_builds(settings, {"candidate": Path(built.path)}, jobs, "cpu", 7, tmp_path, lambda *_: None)
    results = {result.case: result for result in found}
    assert results[SOUND].status is CheckStatus.OK
    for case, status, word in PLANTED.values():
        assert results[case].status is status, results[case]
        assert word in results[case].detail


def test_a_fault_can_wait(repo: Path, tmp_path: Path) -> None:
    """The first calls are sound, so that a case passes its check and fails later."""
    source = plant.faulty((repo / plant.SOURCES["cpu"]).read_text(), "crash", "cpu", Case.parse(SOUND), after=40)
    assert "args->group == -1 && args->dtype == FP8BENCH_BF16 && args->tokens == 16 && args->hidden == 256" in source
    assert "++calls <= 40) return unplanted_0(args);" in source
    static = plant.faulty(
        "int fp8bench_quantize(const fp8bench_args *args) {}",
        "hang",
        "cuda",
        Case.parse("group-64-col-static/float16/8x256"),
    )
    assert "args->column_major == 1 && args->ue8m0 == 0 && args->scale_in != nullptr" in static
    assert "unplanted_0_spins<<<1, 1, 0, static_cast<cudaStream_t>(args->stream)>>>();" in static


def test_what_does_not_compile_is_not_built(repo: Path) -> None:
    sha = plant.plant(repo, "broken", "cpu", SOUND, "main", "broken")
    library = builds.build(repo, sha, "candidate", config.load(), backends=("cpu",)).library("cpu")
    assert library is not None
    assert not library.ok
    assert "planted" in library.error


def test_the_branch_is_told_and_the_worktree_left_alone(repo: Path) -> None:
    arguments = ["wrong", "--backend", "cpu", "--case", SOUND, "--repo", str(repo), "--from", "main"]
    done = run("plant.py", *arguments)
    assert done.returncode == 0, done.stderr
    assert f"fp8bench nightly --repo {repo} --candidate planted/wrong --baseline main" in done.stdout
    assert git(repo, "status", "--porcelain") == ""
    assert git(repo, "diff", "--name-only", "main", "planted/wrong") == "csrc/cpu/library.cpp"
    again = run("plant.py", *arguments, "--from", "nowhere")
    assert again.returncode == 4
    assert "Needed a single revision" in again.stderr
    with pytest.raises(UsageError, match="nothing can be planted in it"):
        plant.faulty("int main() {}", "wrong", "cpu", Case.parse(SOUND))


def test_throttling_needs_a_gpu_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    done = run("gpu/throttle.py", "--seconds", "1")
    assert done.returncode == 4
    assert "no CUDA device is visible" in done.stderr
    refused = run("gpu/throttle.py", "--share", "0")
    assert refused.returncode == 2
    assert "--share above 0" in refused.stderr


def run(name: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(SCRIPTS / name), *arguments], capture_output=True, text=True, check=False, timeout=60
    )
