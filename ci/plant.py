"""Plant a fault in the kernels: a branch with one commit, for nights that must report it as what it is.

    python ci/plant.py wrong                                   # the first scale of one case is 0
    python ci/plant.py hang --backend cuda --case group-128-row/bfloat16/128x4096
    python ci/plant.py crash --after 40                        # passes the check, and dies while it is timed
    python ci/plant.py twice                                   # computed twice: about 100% slower
    python ci/plant.py broken                                  # does not compile

The commit lies on top of --from and touches `csrc/BACKEND/library.*` alone; nothing is checked out, so the worktree
stays as it is. The fault is in one case, and all others run what they ran before. Plants may be planted on top of each
other. Prints the command that runs the night, and the one that removes the branch.

    wrong    the first scale of the result is 0
    hang     the device (on a CPU: the host) spins for ten minutes
    crash    an access that is not allowed (on a CPU: abort)
    twice    the work is done two times
    broken   an error of the compiler, for every case

Effects of any size need no commit: `fp8bench nightly --plant`.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from fp8bench.errors import Fp8BenchError, UsageError  # noqa: E402
from fp8bench.spec import Case  # noqa: E402

KINDS = ("wrong", "hang", "crash", "twice", "broken")
SOURCES = {"cpu": "csrc/cpu/library.cpp", "cuda": "csrc/cuda/library.cu"}
DTYPES = {"bfloat16": "FP8BENCH_BF16", "float16": "FP8BENCH_FP16", "float32": "FP8BENCH_FP32"}
ENTRY = re.compile(r"\bint fp8bench_quantize\(const fp8bench_args \*args\) \{")
NAME, MAIL = "fp8bench plant", "plant@fp8bench.invalid"

FAULTS = {  # what stands in for `return before(args);` in the planted case
    ("cpu", "wrong"): "const int status = {before}(args);\n  args->scales[0] = 0.0f;\n  return status;",
    ("cpu", "hang"): "for (volatile int forever = 1; forever;) {{\n  }}\n  return {before}(args);",
    ("cpu", "crash"): "__builtin_trap();\n  return {before}(args);",
    ("cuda", "wrong"): "const int status = {before}(args);\n"
    "  cudaMemsetAsync(args->scales, 0, sizeof(float), static_cast<cudaStream_t>(args->stream));\n  return status;",
    (
        "cuda",
        "hang",
    ): "{before}_spins<<<1, 1, 0, static_cast<cudaStream_t>(args->stream)>>>();\n  return {before}(args);",
    (
        "cuda",
        "crash",
    ): "{before}_faults<<<1, 1, 0, static_cast<cudaStream_t>(args->stream)>>>();\n  return {before}(args);",
}
KERNELS = {  # what they launch
    ("cuda", "hang"): "static __global__ void {before}_spins() {{  // some ten minutes\n"
    "  for (const long long start = clock64(); clock64() - start < (1LL << 40);) __nanosleep(1000);\n}}\n\n",
    ("cuda", "crash"): "static __global__ void {before}_faults() {{ *reinterpret_cast<volatile int *>(64) = 1; }}\n\n",
}


def main() -> int:
    options = _options()
    try:
        sha = plant(
            options.repo, options.kind, options.backend, options.case, options.start, options.branch, options.after
        )
    except (Fp8BenchError, subprocess.CalledProcessError) as error:
        told = error.stderr.strip() if isinstance(error, subprocess.CalledProcessError) else error
        print(f"plant: {told}", file=sys.stderr)
        return 4
    branch = options.branch or f"planted/{options.kind}"
    print(f"{branch} is {sha[:9]}. Run the night, and remove it:\n")
    print(f"fp8bench nightly --repo {options.repo} --candidate {branch} --baseline {options.start}")
    print(f"git -C {options.repo} branch -D {branch}")
    return 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kind", choices=KINDS)
    parser.add_argument("--backend", choices=SOURCES, default="cuda")
    parser.add_argument(
        "--case", default="per-token/bfloat16/128x1024", help="SCHEME/DTYPE/TOKENSxHIDDEN (%(default)s)"
    )
    parser.add_argument("--after", type=int, default=0, metavar="N", help="the first N calls of the case are sound (0)")
    parser.add_argument("--repo", type=Path, default=Path(), help="a repository on this machine (.)")
    parser.add_argument("--from", dest="start", default="HEAD", metavar="REV", help="the commit to plant on (HEAD)")
    parser.add_argument("--branch", default="", help="default: planted/KIND; one that is there is moved")
    return parser.parse_args()


def plant(repo: Path, kind: str, backend: str, case: str, start: str = "HEAD", branch: str = "", after: int = 0) -> str:
    """Make the branch; returns its commit. UsageError for a case or a source that cannot be planted in."""
    path, parent = SOURCES[backend], _git(repo, "rev-parse", "--verify", f"{start}^{{commit}}")
    source = faulty(_git(repo, "show", f"{parent}:{path}") + "\n", kind, backend, Case.parse(case), after)
    with tempfile.TemporaryDirectory() as folder:
        index = {"GIT_INDEX_FILE": f"{folder}/index"}
        _git(repo, "read-tree", parent, **index)
        blob = _git(repo, "hash-object", "-w", "--stdin", text=source)
        _git(repo, "update-index", "--cacheinfo", f"100644,{blob},{path}", **index)
        tree = _git(repo, "write-tree", **index)
    who = {
        f"GIT_{role}_{what}": value
        for role in ("AUTHOR", "COMMITTER")
        for what, value in (("NAME", NAME), ("EMAIL", MAIL))
    }
    commit = _git(repo, "commit-tree", tree, "-p", parent, "-m", f"Plant: {kind} in {backend} {case}", **who)
    _git(repo, "update-ref", f"refs/heads/{branch or f'planted/{kind}'}", commit)
    return commit


def faulty(source: str, kind: str, backend: str, case: Case, after: int = 0) -> str:
    """The source of a backend's library with the fault in it."""
    if kind == "broken":
        return f'#error "planted"\n{source}'
    if len(ENTRY.findall(source)) != 1:
        raise UsageError(
            f"{SOURCES[backend]} has no function that begins as {ENTRY.pattern}: nothing can be planted in it."
        )
    before = f"unplanted_{len(re.findall(r'static int unplanted_[0-9]+', source))}"
    fault = FAULTS.get((backend, kind), "{before}(args);\n  return {before}(args);").format(before=before)
    return (
        ENTRY.sub(f"static int {before}(const fp8bench_args *args) {{", source)
        + "\n"
        + KERNELS.get((backend, kind), "").format(before=before)
        + f'extern "C" {{ // planted: {kind}\nint fp8bench_quantize(const fp8bench_args *args) {{\n'
        + "  static long long calls = 0;\n"
        + f"  if (!({_is(case)}) || ++calls <= {after}) return {before}(args);\n  {fault}\n}}\n}}\n"
    )


def _is(case: Case) -> str:
    """Whether the arguments are those of the case, in C."""
    scheme = case.scheme
    shape = scheme.group_shape
    group = 0 if shape.is_per_tensor() else -1 if shape.is_per_token() else shape.col
    wanted = {
        "group": group,
        "dtype": DTYPES[case.dtype],
        "tokens": case.tokens,
        "hidden": case.hidden,
        "column_major": int(scheme.column_major),
        "ue8m0": int(scheme.ue8m0),
    }
    given = "!=" if scheme.static else "=="
    return " && ".join(
        [*(f"args->{name} == {value}" for name, value in wanted.items()), f"args->scale_in {given} nullptr"]
    )


def _git(repo: Path, *arguments: str, text: str | None = None, **environment: str) -> str:
    command = ["git", "-C", str(repo), *arguments]
    done = subprocess.run(command, input=text, capture_output=True, text=True, check=True, env=os.environ | environment)
    return done.stdout.strip()


if __name__ == "__main__":
    sys.exit(main())
