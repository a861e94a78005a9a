"""Which commits get a night: on a small real repository, and through the command line."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest
from nights import make_night

from fp8bench import cli, commits, records
from fp8bench.config import Config
from fp8bench.records import Prepared


def run(repo: Path, *arguments: str) -> str:
    command = ["git", "-C", str(repo), "-c", "user.name=a", "-c", "user.email=a@example.org", *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


@pytest.fixture(scope="module")
def repo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five commits; the second and the fourth touch no kernels."""
    path = tmp_path_factory.mktemp("commits") / "repo"
    (path / "csrc").mkdir(parents=True)
    run(path, "init", "-q", "-b", "main")
    for number in range(1, 6):
        (path / ("csrc/a" if number % 2 else "README")).write_text(str(number))
        run(path, "add", "-A")
        run(path, "commit", "-qm", f"Commit {number}")
    return path


def measure(config: Config, repo: Path, revision: str) -> None:
    """A night whose candidate is `revision`."""
    night = make_night(config.runs_dir / revision, "clean", until="prepare", config=config)
    prepared = records.read(Prepared, night / "prepare.json")
    candidate = prepared.candidate.model_copy(update={"sha": run(repo, "rev-parse", revision)})
    records.write(prepared.model_copy(update={"candidate": candidate}), night / "prepare.json")


def subjects(wanted: list[commits.Wanted]) -> list[str]:
    return [entry.commit.subject for entry in wanted]


def test_new_commits_are_those_since_the_last_night(repo: Path, tmp_path: Path) -> None:
    config = Config(home=tmp_path)
    assert subjects(commits.new(config, str(repo))) == ["Commit 5"]  # nothing was measured: the latest alone
    measure(config, repo, "main~4")
    assert subjects(commits.new(config, str(repo))) == ["Commit 3", "Commit 5"]
    few = Config(home=tmp_path, nights={"max_commits": 1})
    assert subjects(commits.new(few, str(repo))) == ["Commit 5"]
    (config.runs_dir / "broken").mkdir()
    (config.runs_dir / "broken" / "prepare.json").write_text('{"candidate": 1}')
    measure(config, repo, "main~2")
    assert subjects(commits.new(config, str(repo))) == ["Commit 5"]
    measure(config, repo, "main")
    assert commits.new(config, str(repo)) == []


def test_a_night_that_failed_is_owed_also_behind_a_later_one(repo: Path, tmp_path: Path) -> None:
    """A later night contains the commit, and yet says nothing about it alone."""
    config = Config(home=tmp_path)
    measure(config, repo, "main~4")
    first = run(repo, "rev-parse", "main~2")[:12]
    (config.runs_dir / f"commit-{first}").mkdir()  # failed before it was prepared
    measure(config, repo, "main")
    (owed,) = commits.new(config, str(repo))
    assert owed.commit.subject == "Commit 3"
    assert commits.runs(config, owed) == (f"commit-{first}", f"commit-{first}-try-2", f"commit-{first}-try-3")
    (config.runs_dir / f"commit-{first}-try-2").mkdir()  # failed again
    assert subjects(commits.new(config, str(repo))) == ["Commit 3"]
    assert subjects(commits.new(config, str(repo), "main~4")) == []  # that was no night against this baseline
    (config.runs_dir / f"commit-{first}-try-2" / "verdicts.json").write_text("{}")
    assert commits.new(config, str(repo)) == []
    assert commits.runs(config, owed) == (f"commit-{first}", f"commit-{first}-try-2")
    (config.runs_dir / f"commit-{'0' * 12}").mkdir()  # of another repository
    assert commits.new(config, str(repo)) == []


def test_a_range_is_compared_with_its_start_or_a_baseline(repo: Path, tmp_path: Path) -> None:
    config = Config(home=tmp_path)
    found = commits.in_range(config, str(repo), "main~4..main")
    assert subjects(found) == ["Commit 3", "Commit 5"]
    assert {entry.baseline for entry in found} == {run(repo, "rev-parse", "main~4")}
    other = commits.in_range(config, str(repo), "main~4..main", "main~1")
    assert {entry.baseline for entry in other} == {run(repo, "rev-parse", "main~1")}
    assert len({entry.run_name for entry in (*found, *other)}) == 4


def test_the_command_lists_them(
    repo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("FP8BENCH_HOME", str(tmp_path))
    assert cli.main(["commits", "--repo", str(repo), "--commits", "main~4..main", "--json"]) == 0
    entries = json.loads(capsys.readouterr().out)
    assert [entry["candidate"] for entry in entries] == [run(repo, "rev-parse", name) for name in ("main~2", "main")]
    assert all(entry["repo"] == str(repo) for entry in entries)
    monkeypatch.setenv("FP8BENCH_REPO", str(repo))
    assert cli.main(["commits", "--commits", "main~4..main", "--json"]) == 0
    assert all("repo" not in entry for entry in json.loads(capsys.readouterr().out))  # each night takes the setting
    assert cli.main(["commits", "--repo", str(repo), "--commits", "main..main"]) == 0
    assert "No commit is waiting" in capsys.readouterr().out


@pytest.mark.parametrize("extra", ["--run-dir=x", "--candidate=main", "--at=2026-03-01T02:00+00:00"])
def test_a_range_names_its_nights_itself(extra: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["nightly", "--commits", "main~1..main", extra]) == 4
    assert "leave out --run-dir, --candidate and --at" in capsys.readouterr().err


def test_a_range_without_kernel_commits_is_fine(
    repo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("FP8BENCH_HOME", str(tmp_path))
    assert cli.main(["nightly", "--repo", str(repo), "--commits", "main~2..main~1"]) == 0
    assert "nothing to measure" in capsys.readouterr().out


def test_a_time_that_is_none_is_told(
    repo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("FP8BENCH_HOME", str(tmp_path))
    assert cli.main(["nightly", "--repo", str(repo), "--device", "cpu", "--at", "yesterday"]) == 4
    assert "'yesterday' is no time" in capsys.readouterr().err
