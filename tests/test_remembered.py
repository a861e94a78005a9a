"""The memory of the page over all nights: what it remembers is what it would read."""

from __future__ import annotations

from pathlib import Path

import pytest
from nights import make_night

from fp8bench.config import Config
from fp8bench.report import nights, remembered


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    config = Config(home=tmp_path)
    for number, state in enumerate(("clean", "regressed")):
        make_night(config.runs_dir / state, state, seed=number, run_id=state, config=config)
    make_night(config.runs_dir / "open", "clean", run_id="open", until="check", config=config)
    return config.runs_dir


def test_remembered_nights_are_not_read_again_and_the_page_is_the_same(
    runs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = nights.read(runs)
    read: list[str] = []
    entry = nights._entry
    monkeypatch.setattr(nights, "_entry", lambda path: read.append(path.name) or entry(path))
    assert nights.read(runs) == first
    assert read == ["open"]  # its next file may come at any time


def test_a_changed_night_is_read_again_and_a_removed_one_forgotten(runs: Path) -> None:
    nights.read(runs)
    make_night(runs / "clean", "wrong", seed=5, run_id="clean", config=Config(home=runs.parent))
    assert {entry.name: entry.square for entry in nights.read(runs)}["clean"] == "wrong"
    (runs / "regressed").rename(runs.parent / "gone")
    assert {entry.name for entry in nights.read(runs)} == {"clean", "open"}
    assert b"regressed" not in (runs.parent / "cache" / "nights.json").read_bytes().partition(b"{")[2][:60]


@pytest.mark.parametrize("damage", [b"", b"{", b'["other", {}]', b"\xff\xfe"])
def test_a_memory_that_cannot_be_read_is_made_anew(runs: Path, damage: bytes) -> None:
    first = nights.read(runs)
    file = runs.parent / "cache" / "nights.json"
    file.write_bytes(damage)
    assert nights.read(runs) == first
    assert file.read_bytes() != damage


def test_code_that_changed_trusts_no_memory(runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nights.read(runs)
    monkeypatch.setattr(remembered, "_version", lambda: "another")
    read: list[str] = []
    entry = nights._entry
    monkeypatch.setattr(nights, "_entry", lambda path: read.append(path.name) or entry(path))
    nights.read(runs)
    assert sorted(read) == ["clean", "open", "regressed"]
