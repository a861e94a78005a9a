"""Retention on real directories: what goes, what must never go, and what happens beside a running night."""

from __future__ import annotations

import json
import os
import shutil
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from nights import make_night

from fp8bench import alerts, builds, causes, cli, records, retention, stages, store
from fp8bench.config import Config
from fp8bench.errors import RunDirError, StoreError
from fp8bench.records import Built, Logged, Prepared, Verdict
from fp8bench.retention import Pruned
from fp8bench.rundir import RunDir
from fp8bench.store import Baseline

NOW = datetime.now(UTC)
DAY = 86400
POLICY = {"keep_nights": 2, "keep_builds_days": 30, "keep_unfinished_days": 7}


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished and logged night without findings."""
    run = make_night(tmp_path_factory.mktemp("night"), "clean")
    records.write(Logged(tracking_uri="", experiment_id="1", runs={}), run / "mlflow.json")
    return run


class Home:
    """A home directory that is filled by hand."""

    def __init__(self, path: Path, template: Path) -> None:
        self.config = Config(home=path, retention=POLICY, build={"architectures": ("90",)})
        self._template = template
        self.made: list[Path] = []

    def night(self, name: str, days: float, built: dict[str, Path] | None = None) -> Path:
        """A night that was prepared so many days ago, with these builds by role."""
        path = self.config.runs_dir / name
        shutil.copytree(self._template, path)
        prepared = records.read(Prepared, path / "prepare.json")
        aged = prepared.model_copy(update={"run_id": f"id-{name}", "created": NOW - timedelta(days=days)})
        records.write(aged, path / "prepare.json")
        if built:
            report = tuple(
                Built(role=role, commit=f"sha-{place.name}", path=str(place)) for role, place in built.items()
            )
            records.write(records.BuildReport(builds=report), path / "build.json")
        for file in path.rglob("*"):
            os.utime(file, (time.time() - days * DAY,) * 2)
        return path

    def build(self, letter: str, days: float, commit: str = "") -> Path:
        """A build last used so many days ago, with a library that the cache shares."""
        name, library = letter * 16, letter * 15 + "0"
        path, cached = self.config.builds_dir / name, self.config.builds_dir / ".libraries" / library
        path.mkdir(parents=True)
        cached.mkdir(parents=True)
        (cached / f"libfp8bench_cpu-{library}.so").write_bytes(b"x" * 1000)
        os.link(cached / f"libfp8bench_cpu-{library}.so", path / f"libfp8bench_cpu-{library}.so")
        manifest = builds.Manifest(
            hash=name, commit=commit, dirty=False, interface=1, created=NOW, compilers={}, flags={}, architectures=(),
            libraries=(),
        )  # fmt: skip
        records.write(manifest, path / "build.json")
        for place in (path, cached):
            os.utime(place, (time.time() - days * DAY,) * 2)
        return path

    def prune(self, dry_run: bool = False) -> Pruned:
        return retention.prune(self.config, dry_run=dry_run)


@pytest.fixture
def home(tmp_path: Path, template: Path) -> Home:
    return Home(tmp_path / "home", template)


def names(entries: list[retention.Entry]) -> set[str]:
    return {entry.path.name for entry in entries}


def tree(path: Path) -> set[str]:
    return {str(entry.relative_to(path)) for entry in path.rglob("*")}


def test_the_newest_nights_stay_and_a_second_time_finds_nothing(home: Home) -> None:
    nights = [home.night(name, days) for name, days in (("d", 400), ("a", 1), ("c", 100), ("b", 99))]
    before = tree(home.config.home)
    told = home.prune(dry_run=True)
    assert tree(home.config.home) == before
    found = home.prune()
    assert names(found.removed) == names(told.removed) == {"c", "d"}
    assert found.freed == told.freed > 1000
    assert [night.is_dir() for night in nights] == [False, True, False, True]
    assert home.prune() == Pruned()


def test_freed_bytes_are_those_of_the_files(home: Home) -> None:
    gone = home.night("old", 3)
    for name in ("a", "b"):
        home.night(name, 1)
    size = sum(file.stat().st_size for file in gone.rglob("*") if file.is_file())
    assert home.prune().freed == size


def test_old_nights_that_are_needed_stay(home: Home) -> None:
    for name in ("x", "y"):
        home.night(name, 1)
    home.night("sent", 50)
    home.night("unsent", 51)
    home.night("unlogged", 52)
    for name in ("sent", "unsent"):
        message = home.config.runs_dir / name / "outbox" / "001.json"
        records.write(records.Message(subject="s", to=("a@example.org",), text="t", html="h"), message)
    alerts.mark_sent(home.config.runs_dir / "sent" / "outbox" / "001.json")
    (home.config.runs_dir / "unlogged" / "mlflow.json").unlink()
    found = home.prune()
    assert names(found.removed) == {"sent"}
    assert {entry.path.name: entry.reason for entry in found.kept} == {
        "unsent": "has mails that were not sent",
        "unlogged": "is not in MLflow yet",
    }


@pytest.mark.parametrize(("days", "goes"), [(0.5, False), (6, False), (8, True)])
def test_an_unfinished_night_goes_when_nobody_resumes_it(home: Home, days: float, goes: bool) -> None:
    night = home.night("night", days)
    for file in ("verdicts.json", "mlflow.json", "report.html"):
        (night / file).unlink(missing_ok=True)
    assert names(home.prune().removed) == ({"night"} if goes else set())
    assert night.is_dir() is not goes


def test_an_unfinished_night_that_was_resumed_is_as_young_as_its_last_file(home: Home) -> None:
    night = home.night("night", 8)
    (night / "verdicts.json").unlink()
    (night / "logs").mkdir(exist_ok=True)
    (night / "logs" / "resumed.log").touch()
    assert home.prune().removed == []


@pytest.mark.parametrize("lock", ["alert", "judge", "time-0", "confirm-0"])
def test_a_night_in_use_is_left_alone_until_it_is_free(home: Home, lock: str) -> None:
    for name, days in (("a", 1), ("b", 2), ("old", 3)):
        home.night(name, days)
    old = RunDir(home.config.runs_dir / "old")
    with old.locked(lock):
        found = home.prune()
    assert found.removed == []
    assert "in use" in found.kept[0].reason
    assert old.verdicts.is_file()
    assert names(home.prune().removed) == {"old"}


def test_what_is_not_its_own_is_left_and_links_are_not_followed(home: Home, tmp_path: Path) -> None:
    for name, days in (("a", 1), ("b", 2), ("old", 90)):
        home.night(name, days)
    treasure = tmp_path / "treasure"
    shutil.copytree(home.config.runs_dir / "old", treasure)
    (home.config.runs_dir / "link").symlink_to(treasure)
    (home.config.runs_dir / "old" / "logs").mkdir(exist_ok=True)
    (home.config.runs_dir / "old" / "logs" / "link").symlink_to(treasure)
    foreign = [home.config.runs_dir / "photos", home.config.builds_dir / "mine", home.config.builds_dir / ("f" * 16)]
    for place in foreign:
        place.mkdir(parents=True)
        (place / "file").write_text("dear")
        os.utime(place, (0, 0))
    renamed = home.build("a", 99).rename(home.config.builds_dir / ("b" * 16))  # a copy by hand: not under its name
    before = tree(treasure)
    found = home.prune()
    assert names(found.removed) == {"old"}
    assert tree(treasure) == before
    assert all((place / "file").read_text() == "dear" for place in foreign)
    assert renamed.is_dir()
    assert names(found.kept) == {"photos", "f" * 16, "b" * 16}


def test_builds_go_with_their_libraries_when_nobody_used_them_for_long(home: Home) -> None:
    young, old = home.build("1", 29), home.build("2", 31)
    of_night, of_old_night, of_unfinished = home.build("3", 99), home.build("4", 99), home.build("5", 99)
    home.night("young", 10, {"candidate": of_night})
    home.night("old", 60, {"baseline": of_old_night})
    unfinished = home.night("unfinished", 5, {"candidate": of_unfinished})
    (unfinished / "verdicts.json").unlink()
    told = home.prune(dry_run=True)
    found = home.prune()
    gone = {old.name, of_old_night.name}
    assert names(found.removed) == names(told.removed) == gone | {name[:15] + "0" for name in gone}
    assert found.freed == told.freed > 2000  # each library once, not by each of its names
    assert found.freed < 4000
    assert all(build.is_dir() for build in (young, of_night, of_unfinished))
    assert len(list((home.config.builds_dir / ".libraries").iterdir())) == 3
    assert home.prune() == Pruned()


def test_what_was_accepted_stays_whatever_its_age(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    shared, named, other = home.build("1", 900), home.build("2", 900, commit="sha-accepted"), home.build("3", 900)
    home.night("accepted", 900, {"baseline": other, "candidate": shared})
    for name in ("x", "y"):
        home.night(name, 1)
    baseline = Baseline(sha="sha-accepted", run_id="id-accepted", mlflow_run_id="1")
    monkeypatch.setattr(store, "exists", lambda config: True)
    monkeypatch.setattr(store, "accepted_baselines", lambda config: [baseline])
    found = home.prune()
    assert found.removed == []
    assert {entry.path.name: entry.reason for entry in found.kept} == {"accepted": "the baseline was accepted from it"}
    assert shared.is_dir()
    assert named.is_dir()


def test_without_an_answer_from_mlflow_nothing_goes(home: Home) -> None:
    for name, days in (("a", 1), ("b", 2), ("old", 90)):
        home.night(name, days)
    silent = home.config.mlflow.model_copy(update={"tracking_uri": "http://127.0.0.1:9"})
    with pytest.raises(StoreError, match=r"127\.0\.0\.1:9"):
        retention.prune(home.config.model_copy(update={"mlflow": silent}))
    assert (home.config.runs_dir / "old").is_dir()


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of MLflow's own use of SQLAlchemy
def test_while_the_disk_of_mlflow_is_away_nothing_goes_and_no_baseline_is_forgotten(home: Home, tmp_path: Path) -> None:
    """The accepted baseline's night is the oldest, and the database lies on a disk that comes and goes."""
    place = tmp_path / "disk" / "mlflow.db"
    stored = home.config.mlflow.model_copy(update={"tracking_uri": f"sqlite:///{place}"})
    config = home.config.model_copy(update={"mlflow": stored})
    long_ago = NOW - timedelta(days=90)
    first = make_night(config.runs_dir / "first", "first_night", created=long_ago, config=config)
    stages.run_stage("log", first, config)
    accepted = store.accepted_baselines(config)
    for name, days in (("a", 1), ("b", 2)):
        home.night(name, days)
    place.parent.rename(tmp_path / "unmounted")
    for ask in (retention.prune, store.accepted_baselines, store.exists):
        with pytest.raises(StoreError, match=rf"{place} is gone, though nights were logged: mount its disk"):
            ask(config)
    assert not place.parent.exists()
    (tmp_path / "unmounted").rename(place.parent)
    assert names(retention.prune(config).removed) == set()
    assert store.accepted_baselines(config) == accepted
    place.rename(tmp_path / "old.db")
    place.touch()  # to begin anew, as the sentence says
    assert store.exists(config)


def test_builds_are_left_while_somebody_builds(home: Home) -> None:
    old = home.build("1", 99)
    with builds.locked(home.config.builds_dir):
        found = home.prune()
        with builds.locked(home.config.builds_dir):  # builders do not wait for one another
            assert old.is_dir()
    assert found.removed == []
    assert "builds just now" in found.kept[0].reason
    assert old.name in names(home.prune().removed)


def test_a_real_build_is_younger_for_being_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(builds, "EVERY", ("torch",))
    config = Config(home=tmp_path / "home")
    made = builds.default_build(config)
    os.utime(made, (0, 0))
    assert builds.default_build(config) == made
    assert retention.prune(config) == Pruned()
    os.utime(made, (0, 0))
    assert names(retention.prune(config).removed) == {made.name}
    assert builds.default_build(config) == made
    assert builds.read_manifest(made).hash == made.name


def test_what_killed_processes_left_is_cleared_away(home: Home) -> None:
    home.build("1", 1)
    cache = home.config.builds_dir / ".libraries"
    left = [home.config.builds_dir / ".tree-abcd_123", cache / ".compile-abcd_123"]
    fresh = home.config.builds_dir / ".build-abcd_123"
    half = home.config.runs_dir / ".pruned-night"
    for place in (*left, fresh, half):
        place.mkdir(parents=True)
    for place in left:
        os.utime(place, (time.time() - 2 * DAY,) * 2)
    assert names(home.prune().removed) == {place.name for place in (*left, half)}
    assert fresh.is_dir()


def test_what_cannot_be_removed_is_told_and_stays_whole(home: Home) -> None:
    for name, days in (("a", 1), ("b", 2), ("old", 90)):
        home.night(name, days)
    (home.config.runs_dir / ".pruned-old").write_text("a file where the night would be put aside")
    found = home.prune()
    assert names(found.failed) == {"old"}
    assert (found.removed, found.freed) == ([], 0)
    assert RunDir(home.config.runs_dir / "old").judged().exit_code == 0


def test_the_command_says_what_it_did(
    home: Home, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, days in (("a", 1), ("b", 2), ("old", 90)):
        (home.night(name, days) / "report.html").touch()
    monkeypatch.setenv("FP8BENCH_HOME", str(home.config.home))
    monkeypatch.setenv("FP8BENCH_RETENTION", json.dumps(POLICY))
    assert cli.main(["prune", "--dry-run"]) == 0
    assert f"would remove  {home.config.runs_dir / 'old'}" in capsys.readouterr().out
    assert cli.main(["prune"]) == 0
    assert "removed 1 directory, " in capsys.readouterr().out.splitlines()[-1]
    assert "runs/a/report.html" in (index := (home.config.home / "index.html").read_text())
    assert "runs/old/" not in index
    assert cli.main(["prune"]) == 0
    assert capsys.readouterr().out == "removed 0 directories, 0 bytes\n"


def test_an_open_cause_keeps_its_nights_and_their_builds_until_it_recovers(home: Home) -> None:
    build = home.build("a", 200)
    old = home.night("seen-first", 100, {"baseline": build, "candidate": build})
    for name, days in (("one", 3), ("two", 2)):
        home.night(name, days)
    cause = causes.Standing(
        id="c1", device="cpu", backend="cpu", verdict=Verdict.REGRESSED, families=(), since="id-seen-first", first=NOW,
        last="id-two", seen=NOW,
    )  # fmt: skip
    records.write(causes.Ledger(causes=(cause,)), causes.path_of(home.config.home))
    assert home.prune().removed == []
    assert (old.is_dir(), build.is_dir()) == (True, True)

    recovered = cause.model_copy(update={"recovered": "id-two"})
    records.write(causes.Ledger(causes=(recovered,)), causes.path_of(home.config.home))
    home.prune()
    assert (old.is_dir(), build.is_dir()) == (False, False)


def test_a_damaged_ledger_of_causes_stops_the_removal(home: Home) -> None:
    for name, days in (("old", 9), ("one", 3), ("two", 2)):
        home.night(name, days)
    causes.path_of(home.config.home).write_text("{")
    with pytest.raises(RunDirError, match="causes"):
        home.prune()
    assert len(list(home.config.runs_dir.iterdir())) == 3


def test_a_night_that_never_began_goes_when_nobody_takes_it_up_any_more(home: Home) -> None:
    def unbegun(name: str, days: float, *files: str) -> Path:
        path = home.config.runs_dir / name
        for file in files:
            records.write_bytes(b"{}", path / file)
        for entry in path.rglob("*"):
            os.utime(entry, (time.time() - days * DAY,) * 2)
        return path

    message = "no-verdict/outbox/001.json"
    gone = [
        unbegun("failed", 8, ".prepare.lock", "config.json", "logs/failed-prepare.txt"),
        unbegun("told", 8, ".alert.lock", message, "no-verdict/outbox/001.sent"),
    ]
    kept = [
        unbegun("young", 6, ".prepare.lock"),
        unbegun("untold", 8, ".prepare.lock", message),
        unbegun("thesis", 8, ".prepare.lock", "thesis.tex"),
        unbegun("foreign", 8, "config.json"),
    ]
    with RunDir(unbegun("used", 8, ".prepare.lock")).locked("prepare"):
        os.utime(home.config.runs_dir / "used" / ".prepare.lock", (time.time() - 8 * DAY,) * 2)
        assert names(home.prune(dry_run=True).removed) == {"failed", "told", "used"}
        found = home.prune()
    assert names(found.removed) == {"failed", "told"}
    assert not any(path.exists() for path in gone)
    assert all(path.is_dir() for path in kept)
    assert {entry.path.name: entry.reason for entry in found.kept}["untold"] == "has mails that were not sent"
    assert "in use" in {entry.path.name: entry.reason for entry in found.kept}["used"]
