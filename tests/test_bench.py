"""The reference script's calls and command line: order, missing entries, tables, files, exit codes."""

from __future__ import annotations

import json
import math
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
import torch

import fp8bench
from fp8bench import GroupShape, bench, cli, paths, speedups
from fp8bench.cli import bench as cli_bench
from fp8bench.errors import UsageError

TOKEN, GROUP = GroupShape.PER_TOKEN, GroupShape(1, 64)


# ---- speedups ----------------------------------------------------------------------------------------------------

TIMES = pd.DataFrame(
    {
        "col_major": [True, True, False, False],
        "group_shape": ["group-64"] * 4,
        "Torch (Compiled)": [2.0, 8.0, 6.0, math.nan],
        "CUDA": [1.0, 1.0, 2.0, 1.0],
        "Triton": [4.0, math.nan, 0.0, None],
    }
)


def test_geometric_means_by_group_leave_out_and_count_what_is_missing() -> None:
    found = fp8bench.compute_geomean_speedups(
        TIMES, "Torch (Compiled)", ["CUDA", "Triton"], ["col_major", "group_shape"]
    )
    assert list(found.columns) == ["col_major", "group_shape", "CUDA", "Triton", "CUDA missing", "Triton missing"]
    assert found["col_major"].tolist() == [False, True]
    assert found["CUDA"].tolist() == pytest.approx([3.0, 4.0])  # 6 / 2, and sqrt(2 * 8)
    assert found["CUDA missing"].tolist() == [1, 0]
    assert found["Triton"].tolist() == pytest.approx([math.nan, 0.5], nan_ok=True)
    assert found["Triton missing"].tolist() == [2, 1]


def test_geometric_mean_over_everything() -> None:
    found = bench.compute_geomean_speedups(TIMES, "Torch (Compiled)", ["CUDA"])
    assert found.shape == (1, 2)
    assert found.loc[0, "CUDA"] == pytest.approx((2 * 8 * 3) ** (1 / 3))
    assert found.loc[0, "CUDA missing"] == 1


@pytest.mark.parametrize("bad", [None, math.nan, 0, 0.0, math.inf, -1.0])
def test_no_speedup_is_ever_infinite_or_zero(bad: float | None) -> None:
    assert speedups.geomean_speedup([(bad, 1.0), (1.0, bad)]) == (None, 0, 2)
    assert speedups.geomean_speedup([(3.0, 1.0), (1.0, bad)]) == (pytest.approx(3.0), 1, 1)


# ---- one configuration -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("regime", ["hot", "cold"])
def test_one_configuration(regime: str) -> None:
    threads = torch.get_num_threads()
    found = fp8bench.benchmark_quantization(4, 128, "cpu", GROUP, True, torch.bfloat16, device="cpu", regime=regime)
    median_us, max_us, min_us = found
    assert 0 < min_us <= median_us <= max_us
    assert min_us < max_us  # blocks are raw samples, not one number three times
    assert torch.get_num_threads() == threads


def test_the_order_is_median_max_min(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fp8bench.timing.cpu.CpuClock.measure", lambda *_, **__: [3e-6, 1e-6, 9e-6, 2e-6, 4e-6])
    found = fp8bench.benchmark_quantization(4, 128, "cpu", TOKEN, False, "half", device="cpu")
    assert found == pytest.approx((3.0, 9.0, 1.0))


def test_what_is_unsupported_is_missing_and_not_zero() -> None:
    found = fp8bench.benchmark_quantization(4, 128, "triton", TOKEN, False, torch.float16, device="cpu")
    assert all(math.isnan(value) for value in found)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"provider": "cudnn"}, "unknown backend 'cudnn'"),
        ({"batch_size": 0}, "tokens is 0"),
        ({"hidden_size": -1}, "hidden is -1"),
        ({"hidden_size": 100}, "100 is not divisible by the group size 64"),
        ({"group_shape": GroupShape(2, 64)}, "not supported"),
        ({"group_shape": TOKEN, "col_major": True}, "per group only"),
        ({"dtype": torch.float64}, "unknown dtype torch.float64"),
        ({"dtype": "double"}, "unknown dtype 'double'"),
        ({"regime": "warm"}, "unknown cache regime 'warm'"),
        ({"device": "tpu"}, "unknown device 'tpu'"),
    ],
)
def test_what_cannot_be_is_refused(change: dict, told: str) -> None:
    arguments = {
        "batch_size": 4,
        "hidden_size": 128,
        "provider": "cpu",
        "group_shape": GROUP,
        "col_major": False,
        "dtype": torch.bfloat16,
        "device": "cpu",
    }
    with pytest.raises(UsageError) as refusal:
        fp8bench.benchmark_quantization(**{**arguments, **change})
    assert told in str(refusal.value)


def test_configurations_are_those_of_the_reference_script() -> None:
    shapes = [GroupShape.PER_TENSOR, TOKEN, GROUP, GroupShape(1, 128)]
    cases = bench.configurations(
        shapes, [True, False], [1, 16, 128, 512, 1024], [896, 1024, 2048, 4096, 7168], "bfloat16"
    )
    assert len(cases) == len(set(cases)) == 150
    assert cases[0].id == "per-tensor/bfloat16/1x896"
    assert cases[-1].id == "group-128-row/bfloat16/1024x7168"


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (0.4276, "0.4276"),
        (0.01234567, "0.01235"),
        (1.2344, "1.234"),
        (56.789, "56.79"),
        (12345.6, "12346"),
        (0, "0.000"),
    ],
)
def test_tables_show_four_significant_digits(value: float, shown: str, capsys: pytest.CaptureFixture[str]) -> None:
    cli_bench._print_table("Times:", pd.DataFrame({"CUDA": [value]}).astype(float))
    assert capsys.readouterr().out.split() == ["Times:", "CUDA", shown]


# ---- the command line --------------------------------------------------------------------------------------------

SMALL = ["bench", "--device", "cpu", "--hidden-sizes", "128", "--batch-sizes", "1", "8", "--backends"]


def test_the_command_prints_tables_and_writes_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files = ["--json", str(tmp_path / "new" / "out.json"), "--csv", str(tmp_path / "out.csv")]
    sizes = ["--group-sizes", "-1", "64", "--dtype", "half"]
    assert cli.main([*SMALL, "cpu", "triton", "--check", *sizes, *files]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[:5] == [
        "Running 6 configurations:",
        "  Hidden sizes: [128]",
        "  Batch sizes: [1, 8]",
        "  Group shapes: ['GroupShape(row=1, col=-1)', 'GroupShape(row=1, col=64)']",
        "  Column major scales: [True, False]",
    ]
    assert "All 6 checks passed (cpu against the oracle)." in lines  # and triton was not checked
    title = lines.index("QuantFP8 performance:")
    header = ["hidden_size", "batch_size", "col_major", "group_shape", "CPU", "(us)", "Triton", "(us)"]
    assert lines[title + 1].split() == header
    assert [line.split()[:6] for line in lines[title + 2 : title + 4]] == [
        ["0", "128", "1", "False", "(1,", "-1)"],
        ["1", "128", "8", "False", "(1,", "-1)"],
    ]
    assert lines[title + 2].split()[-1] == "-"
    assert any(line.startswith("Triton: no time for 6 of 6 configurations: Triton needs a GPU") for line in lines)

    document = json.loads((tmp_path / "new" / "out.json").read_text())
    assert [row["backend"] for row in document["times"]] == ["cpu", "triton"] * 6
    assert document["times"][0]["min_us"] <= document["times"][0]["median_us"] <= document["times"][0]["max_us"]
    assert document["times"][1]["median_us"] is None
    assert "Triton needs a GPU" in document["times"][1]["reason"]
    assert document["times"][-1]["group_shape"] == "group-64"  # files have the names that ids have
    frame = pd.read_csv(tmp_path / "out.csv")
    assert frame["median_us"].notna().tolist() == [True, False] * 6


@pytest.mark.filterwarnings("ignore:.*torch.jit.script_method:DeprecationWarning")  # torch's own
def test_the_command_compares_with_torch(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main([*SMALL, "torch", "cpu", "--group-sizes", "0", "--no-column-major"]) == 0
    out = capsys.readouterr().out
    assert "Column major scales: [False]" in out
    table, _, compared = out.partition("Speedup over Torch (Compiled)\n")
    assert "Torch (Compiled)" in table
    header, row = (line.split() for line in compared.splitlines())
    assert header == ["col_major", "group_shape", "CPU"]
    assert row[:3] == ["False", "(-1,", "-1)"]
    assert float(row[3]) > 0


MINE = """
import torch

from .torch import quantize

class Mine:
    name = "mine"

    def supports(self, case, device):
        return None

    def bind(self, scheme, x, codes, scales, scale=None, scale_ub=None):
        def call():
            codes, scales = quantize(x, scheme, scale, scale_ub)
            codes.view(torch.uint8)[codes.isnan()] = 0x7F  # the one NaN that the oracle has
            return codes, scales

        return call

def create(build):
    return Mine()
"""


def test_a_new_backend_is_a_file_and_a_name(tmp_path: Path) -> None:
    """What CONTRIBUTING.md says of adding one, followed in a copy of the package."""
    package = shutil.copytree(
        paths.CHECKOUT / "fp8bench", tmp_path / "fp8bench", ignore=shutil.ignore_patterns("__pycache__")
    )
    (package / "backends" / "mine.py").write_text(MINE)
    registry = package / "backends" / "__init__.py"
    registry.write_text(registry.read_text().replace('NAMES = ("torch",', 'NAMES = ("mine", "torch",'))
    command = [sys.executable, "-m", "fp8bench", *SMALL, "mine", "--check", "--group-sizes", "-1"]
    done = subprocess.run(
        command, cwd=tmp_path, env=os.environ | {"PYTHONPATH": str(tmp_path)}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "All 2 checks passed (mine against the oracle)." in done.stdout


def test_flags_are_taken_with_underscores_too(capsys: pytest.CaptureFixture[str]) -> None:
    flags = ["--hidden_sizes", "128", "--batch_sizes=1", "--group_sizes", "-1", "--no_column_major"]
    assert cli.main(["bench", "--device", "cpu", "--backends", "cpu", *flags]) == 0
    assert "  Column major scales: [False]" in capsys.readouterr().out.splitlines()


def test_a_failed_check_is_told_not_timed_and_exits_with_2(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The oracle is made to disagree: the smallest code of the kernels' rounding moves by one."""
    monkeypatch.setattr("fp8bench.reference.BOUNDARIES", bench.torch.linspace(0, 448, 126, dtype=torch.float64))
    from fp8bench import checks

    checks._inputs.cache_clear()
    assert cli.main([*SMALL, "cpu", "--check", "--group-sizes", "-1"]) == cli.EXIT_WRONG
    checks._inputs.cache_clear()
    out = capsys.readouterr().out
    assert "WRONG cpu/per-token/bfloat16/1x128: random input, code (0, " in out
    assert "2 of 2 checks failed" in out
    table = out.partition("QuantFP8 performance:\n")[2]
    assert [line.split()[-1] for line in table.splitlines()[1:3]] == ["-", "-"]


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--backends", "cudnn"], "unknown backend 'cudnn': use one of torch, cuda, triton, cpu."),
        (["--dtype", "int8"], "unknown dtype 'int8'"),
        (["--batch-sizes", "0"], "tokens is 0"),
        (["--hidden-sizes", "-8"], "hidden is -8"),
        (["--hidden-sizes", "100", "--group-sizes", "64"], "100 is not divisible by the group size 64"),
        (["--group-sizes", "-2"], "group size -2 is not allowed"),
        (["--batch-sizes", "1", "9999999999"], "use fewer tokens or a smaller hidden size"),
        (["--device", "cuda"], "torch sees no GPU here"),
        (["--json", "/"], "/ is a directory"),
        (["--csv", "/dev/null/out.csv"], "cannot write /dev/null/out.csv"),
    ],
)
def test_bad_input_is_one_sentence_and_exits_with_4(
    arguments: list[str], told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    if "cuda" in arguments and torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    assert cli.main(["bench", *arguments]) == cli.EXIT_ERROR
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    assert lines[0].startswith("fp8bench bench: ")
    assert told in lines[0]


@pytest.mark.parametrize("check", [["--check"], []])
def test_nothing_to_check_or_time_is_no_success(check: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main([*SMALL, "triton", *check, "--group-sizes", "-1"]) == cli.EXIT_ERROR
    told = capsys.readouterr()
    assert "passed" not in told.out
    assert "Triton: no time for 2 of 2 configurations: Triton needs a GPU" in told.out
    assert told.err == "fp8bench bench: nothing could be checked or timed here: use --backends torch cpu.\n"


@pytest.mark.parametrize("arguments", [["--regime", "warm"], ["--batch-sizes", "many"], ["--device", "tpu"]])
def test_bad_flags_exit_with_4(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        cli.main(["bench", *arguments])
    assert ended.value.code == cli.EXIT_ERROR
    assert arguments[1] in capsys.readouterr().err
