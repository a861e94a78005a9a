"""Nights in short: a brief says what the night's records say, and never what they no longer say."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from nights import make_night

from fp8bench import brief, records
from fp8bench.config import Config
from fp8bench.errors import RunDirError
from fp8bench.records import Logged, Prepared, Verdicts
from fp8bench.report import nights


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    config = Config(home=tmp_path)
    for number, state in enumerate(("clean", "regressed")):
        make_night(config.runs_dir / state, state, seed=number, run_id=state, config=config)
    make_night(config.runs_dir / "open", "clean", run_id="open", until="check", config=config)
    return config.runs_dir


def _read_in_full(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the nights whose records are read from now on."""
    read: list[str] = []
    made = brief._made
    monkeypatch.setattr(brief, "_made", lambda night, now: read.append(night.name) or made(night, now))
    return read


def test_a_brief_is_the_records_without_what_grows_with_the_cells(runs: Path) -> None:
    records.write(Logged(tracking_uri="x", experiment_id="1", runs={}), runs / "regressed" / "mlflow.json")
    for told in (brief.of(runs / "regressed"), brief.of(runs / "regressed")):  # made, and read
        prepared, verdicts = records.read(Prepared, runs / "regressed" / "prepare.json"), _verdicts(runs / "regressed")
        assert told.prepared == prepared.model_copy(update={"cells": (), "shards": ()})
        nothing = dict.fromkeys(("cells", "families", "causes", "recovered", "shifts"), ())
        assert told.verdicts == verdicts.model_copy(update=nothing)
        assert verdicts.causes
        assert told.logged == records.read(Logged, runs / "regressed" / "mlflow.json")
    size = (runs / "regressed" / brief.FILE).stat().st_size
    assert size < (runs / "regressed" / "verdicts.json").stat().st_size / 4


def _verdicts(night: Path) -> Verdicts:
    return records.read(Verdicts, night / "verdicts.json")


def test_the_page_reads_records_once_and_is_the_same(runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = nights.read(runs)
    read = _read_in_full(monkeypatch)
    assert nights.read(runs) == first
    assert read == ["open"]  # its verdicts may come at any time
    assert not (runs / "open" / brief.FILE).exists()


@pytest.mark.parametrize("name", ["prepare.json", "verdicts.json", "mlflow.json"])
def test_whatever_changed_is_read_again(runs: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    brief.of(runs / "clean")
    other = make_night(runs.parent / "other", "wrong", seed=5, run_id="clean", config=Config(home=runs.parent))
    records.write(Logged(tracking_uri="new", experiment_id="1", runs={}), other / "mlflow.json")
    (other / name).rename(runs / "clean" / name)
    read = _read_in_full(monkeypatch)
    told = brief.of(runs / "clean")
    assert read == ["clean"]
    assert told.verdicts.exit_code == _verdicts(runs / "clean").exit_code
    assert told.prepared.candidate == records.read(Prepared, runs / "clean" / "prepare.json").candidate
    assert (told.logged is not None) == (name == "mlflow.json")


@pytest.mark.parametrize("damage", [b"", b"{", b'{"of": []}', b"\xff\xfe", b"null"])
def test_a_brief_that_cannot_be_read_is_made_anew(runs: Path, damage: bytes) -> None:
    first = brief.of(runs / "clean")
    (runs / "clean" / brief.FILE).write_bytes(damage)
    assert brief.of(runs / "clean") == first
    assert (runs / "clean" / brief.FILE).read_bytes() != damage


def test_a_night_that_was_moved_with_its_times_keeps_its_brief(runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = brief.of(runs / "clean")
    (runs / "clean").rename(runs / "moved")
    read = _read_in_full(monkeypatch)
    assert brief.of(runs / "moved") == first
    assert read == []


def test_where_nothing_can_be_written_the_night_is_told_all_the_same(
    runs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> None:
        raise RunDirError("no space left")

    monkeypatch.setattr(records, "write", full)
    assert {entry.name for entry in nights.read(runs)} == {"clean", "regressed", "open"}
    assert not (runs / "clean" / brief.FILE).exists()


def test_damage_is_told_by_the_name_of_the_file_and_stops_nobody(runs: Path) -> None:
    os.truncate(runs / "clean" / "verdicts.json", 1000)
    with pytest.raises(RunDirError, match=r"clean/verdicts\.json is not a valid Verdicts"):
        brief.of(runs / "clean")
    with pytest.raises(RunDirError, match=r"open/verdicts\.json is missing"):
        brief.of(runs / "open")
    assert [path.name for path, _ in brief.judged(runs)] == ["regressed"]


def test_a_night_that_is_removed_meanwhile_does_not_come_back(runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = brief._made
    monkeypatch.setattr(brief, "_made", lambda night, now: (made(night, now), night.rename(runs / ".pruned-x"))[0])
    assert brief.of(runs / "clean").verdicts.exit_code == 0
    assert not (runs / "clean").exists()
