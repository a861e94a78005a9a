"""The arithmetic behind what a suite costs by the public benchmark's method; the rest of it needs a GPU."""

from __future__ import annotations

import importlib.util
import subprocess
import sys

import pytest
import torch

from fp8bench import paths, suite

PATH = paths.CHECKOUT / "ci" / "gpu" / "reference_method.py"
spec = importlib.util.spec_from_file_location("reference_method", PATH)
assert spec is not None
assert spec.loader is not None
method = importlib.util.module_from_spec(spec)
spec.loader.exec_module(method)

CELLS = [cell for cell in suite.load("reference", "cuda").cells if method.is_timed(cell)]
HOT = [cell for cell in CELLS if cell.regime == "hot"]
COUNTS = {name: sum(cell.backend == name for cell in HOT) for name in ("torch", "cuda", "triton")}


def timed(share: int) -> list[object]:
    """Cells of torch take 2 s a build, others 0.25 s."""
    each = {cell.id: 2.0 if cell.backend == "torch" else 0.25 for cell in HOT}
    return [method.Timed(cell.id, (each[cell.id],) * 2, (3.0, 3.1)) for cell in method.every(HOT, share)]


@pytest.mark.parametrize("share", [1, 3, 10, 10_000])
def test_every_backend_keeps_its_share_and_what_is_left_out_is_extrapolated(share: int) -> None:
    chosen = method.every(HOT, share)
    assert len(set(chosen)) == len(chosen)
    for name, count in COUNTS.items():
        mine = sum(cell.backend == name for cell in chosen)
        assert max(1, count // share) <= mine <= -(-count // share)
    assert method.extrapolated(timed(share), COUNTS) == pytest.approx(
        {name: count * (4.0 if name == "torch" else 0.5) for name, count in COUNTS.items()}
    )


def test_the_report_says_what_was_timed_and_what_was_not() -> None:
    one = 20 + 4.0 * COUNTS["torch"] + 0.5 * (COUNTS["cuda"] + COUNTS["triton"])
    said = "\n".join(method.report(timed(10), HOT, len(CELLS) - len(HOT), 20.0, 6))
    assert f"both builds: {one:.0f} s (20 s to start), extrapolated from {len(timed(10))} of {len(HOT)} cells" in said
    assert f"6 processes, as a night has launches: {6 * one:.0f} s" in said
    assert f"{len(CELLS) - len(HOT)} cold cells are not in it" in said
    assert "measured" in "\n".join(method.report(timed(1), HOT, 0, 20.0, 6))
    with pytest.raises(ValueError, match="no cell of triton was timed"):
        method.extrapolated([entry for entry in timed(1) if not entry.cell.startswith("triton/")], COUNTS)


@pytest.mark.parametrize(
    ("arguments", "code", "told"),
    [
        (["--share", "0"], 2, "'0' is not a number from 1 up"),
        (["--baseline", "HEAD"], 2, "give both --baseline and --candidate"),
        ([], 4, "no CUDA device is visible"),
    ],
)
def test_it_says_what_is_missing(arguments: list[str], code: int, told: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert torch.__version__
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    done = subprocess.run([sys.executable, str(PATH), *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == code
    assert told in done.stderr
