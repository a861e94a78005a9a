"""The page over all nights: complete, in order, escaped, quick, and not to be broken by any directory."""

from __future__ import annotations

import json
import math
import os
import shutil
import time
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from nights import STATES, make_night
from test_report import SELF_CLOSING, Page

from fp8bench import alerts, causes, records, report, stages
from fp8bench.cli import main
from fp8bench.config import Config
from fp8bench.records import Logged, Verdicts
from fp8bench.report import curves, months, nights

START = datetime(2026, 2, 20, 2, 0, tzinfo=UTC)
HOSTILE = '"><script>alert(1)</script><img src=x onerror=alert(2)>'


class IndexPage(Page):
    """A page that also draws polylines."""

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert tag in {*SELF_CLOSING, "polyline"}
        self.tags.append((tag, dict(attrs)))

    def links(self, style: str = "") -> list[str]:
        return [str(a["href"]) for tag, a in self.tags if tag == "a" and style in str(a.get("class", ""))]

    def count(self, tag: str) -> int:
        return sum(name == tag for name, _ in self.tags)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A night in every state, one a day with the 2nd missing, then one unfinished, one damaged, one never prepared."""
    home = tmp_path_factory.mktemp("home")
    for place, state in enumerate(STATES):
        run_dir = make_night(home / "runs" / f"n{place}-{state}", state, created=_day(place + (place > 0)))
        (run_dir / "report.html").write_text("<!DOCTYPE html>")
    make_night(home / "runs" / "unfinished", created=_day(20), until="check")
    damaged = make_night(home / "runs" / "damaged", created=_day(21))
    text = (damaged / "verdicts.json").read_text()
    (damaged / "verdicts.json").write_text(text[: len(text) // 2])
    (home / "runs" / "never").mkdir()
    return home


def _day(number: int) -> datetime:
    return START + timedelta(days=number)


@pytest.fixture(scope="module")
def page(home: Path) -> IndexPage:
    return IndexPage(report.render_index(home / "runs"))


def _edit(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_every_night_is_told_newest_first(home: Path, page: IndexPage) -> None:
    entries = nights.read(home / "runs")
    assert [entry.name for entry in entries[:2]] == ["never", "damaged"]  # a bare directory is as old as it is
    assert [entry.created for entry in entries] == sorted((entry.created for entry in entries), reverse=True)
    for state, entry in zip(STATES, reversed(entries[3:]), strict=True):
        found = records.read(Verdicts, home / "runs" / entry.name / "verdicts.json")
        assert state in entry.name
        assert found.sentence in page.words
        assert f"runs/{entry.name}/report.html" in page.links()


def test_what_did_not_end_well_is_listed_as_such(home: Path, page: IndexPage) -> None:
    told = {entry.name: entry for entry in nights.read(home / "runs") if not entry.judged}
    assert {name: entry.badge.word for name, entry in told.items()} == {
        "unfinished": "unfinished",
        "damaged": "damaged",
        "never": "unfinished",
    }
    assert told["unfinished"].sentence == "The stage time has not ended."
    assert told["damaged"].sentence.startswith("verdicts.json is not a valid Verdicts")
    assert all(entry.sentence in page.words and not entry.report for entry in told.values())


def test_nights_that_never_ended_do_not_hide_behind_a_good_one(home: Path, tmp_path: Path, page: IndexPage) -> None:
    assert "Since then 1 night damaged and 1 night unfinished." in page.words
    shutil.copytree(home / "runs" / "n0-clean", tmp_path / "runs" / "good")
    html = report.render_index(tmp_path / "runs")
    assert '<header class="top good">' in html
    assert "Since then" not in html
    shutil.copytree(home / "runs" / "unfinished", tmp_path / "runs" / "later")
    assert '<header class="top warn">' in report.render_index(tmp_path / "runs")


def test_the_loudest_device_stands_first(home: Path, tmp_path: Path) -> None:
    shutil.copytree(home / "runs" / "n1-regressed", tmp_path / "runs" / "older")
    newer = shutil.copytree(home / "runs" / "n0-clean", tmp_path / "runs" / "newer")
    _edit(newer / "prepare.json", suite="other", created=_day(9).isoformat())
    words = IndexPage(report.render_index(tmp_path / "runs")).words
    assert words.index("suite smoke") < words.index("suite other")


def test_a_square_a_night_leads_to_its_report_or_its_row(home: Path, page: IndexPage) -> None:
    squares = page.links("square")
    assert len(squares) == len(STATES) + 2  # the night that never began has no day
    for link in squares:
        assert link[1:] in page.ids if link.startswith("#") else (home / link).is_file()
    words = {entry.square for entry in nights.read(home / "runs")}
    assert words >= {"ok", "slow", "wrong", "crash", "build", "inv", "…", "?"}


def test_it_is_self_contained_and_needs_no_script(page: IndexPage) -> None:
    assert not [a for tag, a in page.tags if tag in ("link", "img", "iframe", "script") or a.get("src")]
    assert len(page.ids) == len(set(page.ids))
    assert {"header", "nav", "main", "caption"} <= {tag for tag, _ in page.tags}
    assert all(a["aria-label"] for tag, a in page.tags if tag == "svg")


def test_months_hold_whole_weeks_and_every_night(home: Path) -> None:
    entries = [entry for entry in nights.read(home / "runs") if entry.device]
    found = months.build(entries)
    assert [month.title for month in found] == ["March 2026", "February 2026"]
    assert all(len(week) == 7 for month in found for week in month.weeks)
    placed = [night for month in found for week in month.weeks for day in week for night in day.nights]
    assert sorted(night.name for night in placed) == sorted(entry.name for entry in entries)


def test_a_missing_or_invalid_night_breaks_the_curve(home: Path) -> None:
    charts = curves.build(nights.read(home / "runs"))
    judged = {chart.title: chart for chart in charts}["group-128-row/bfloat16, hot"]
    assert [line.title for line in judged.lines] == ["CPU"]
    assert len(judged.lines[0].dots) == len(STATES) - 2  # not built and invalid nights have no value
    assert [len(run.split()) for run in judged.lines[0].runs] == [3]  # days 2, 3 and 4; 0 and 7 stand alone
    assert judged.lines[0].end == judged.lines[0].dots[-1]


@pytest.mark.parametrize(("days", "lengths"), [([], []), ([1], [1]), ([1, 2, 4], [2, 1]), ([1, 3, 5], [1, 1, 1])])
def test_stretches_end_where_a_day_is_missing(days: list[int], lengths: list[int]) -> None:
    assert [len(found) for found in curves._stretches([date(2026, 3, day) for day in days])] == lengths


def test_curves_lie_in_the_plot_and_rise_with_the_speedup(home: Path) -> None:
    scale = curves._Scale(date(2026, 3, 1), date(2026, 3, 11), 0.5, 2.0)
    assert scale.x(date(2026, 3, 1)) == curves.LEFT
    assert scale.x(date(2026, 3, 11)) == curves.RIGHT
    assert scale.y(1.0) == (curves.TOP + curves.BOTTOM) / 2  # twice as fast is as far up as half is down
    for chart in curves.build(nights.read(home / "runs")):
        for dot in (dot for line in chart.lines for dot in line.dots):
            assert curves.LEFT <= dot.x <= curves.RIGHT
            assert curves.TOP <= dot.y <= curves.BOTTOM


@pytest.mark.parametrize(("lowest", "written"), [(1.5, 1), (1.4999, 1), (1.2, 2)])
def test_ticks_are_never_written_over_each_other(lowest: float, written: int) -> None:
    scale = curves._Scale(date(2026, 3, 1), date(2026, 3, 1), lowest / 1.03, 1.5 * 1.03)
    assert len(curves._ticks(scale, 1.5, lowest)) == written


@pytest.mark.parametrize("value", [None, 0.0, -1.0, math.inf])
def test_what_is_no_speedup_is_not_drawn(home: Path, value: float | None) -> None:
    entry = next(entry for entry in nights.read(home / "runs") if entry.speedups)
    speedup = entry.speedups[0].model_copy(update={"candidate": value})
    object.__setattr__(entry, "speedups", (speedup,))
    assert curves.build([entry]) == ()


def test_nothing_that_nights_say_breaks_out(tmp_path: Path) -> None:
    run_dir = make_night(tmp_path / "runs" / 'a"b<c>#?%', "regressed")
    (run_dir / "report.html").write_text("")
    content = json.loads((run_dir / "prepare.json").read_text())
    content["candidate"]["subject"] = content["suite"] = content["environment"]["device_name"] = HOSTILE
    (run_dir / "prepare.json").write_text(json.dumps(content))
    _edit(run_dir / "verdicts.json", sentence=HOSTILE)
    logged = Logged(tracking_uri="x", experiment_id="1", runs={}, links={"night": "javascript:alert(1)"})
    records.write(logged, run_dir / "mlflow.json")
    html = report.render_index(tmp_path / "runs")
    assert "<script" not in html
    assert "<img" not in html
    assert "javascript:" not in html
    assert "runs/a%22b%3Cc%3E%23%3F%25/report.html" in IndexPage(html).links()


def test_a_night_in_mlflow_has_a_link_to_it(tmp_path: Path) -> None:
    run_dir = make_night(tmp_path / "runs" / "one", "clean")
    logged = Logged(tracking_uri="x", experiment_id="1", runs={}, links={"night": "https://ml.example.org/#/1?a=1&b=2"})
    records.write(logged, run_dir / "mlflow.json")
    assert "https://ml.example.org/#/1?a=1&b=2" in IndexPage(report.render_index(tmp_path / "runs")).links()
    (run_dir / "mlflow.json").write_text("{")
    assert "ml.example.org" not in report.render_index(tmp_path / "runs")


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe", b"[" * 10_000, b'{"schema_version": 2}', b"null"])
@pytest.mark.parametrize("name", ["prepare.json", "verdicts.json"])
def test_damage_of_any_kind_is_one_row(home: Path, tmp_path: Path, name: str, content: bytes) -> None:
    run_dir = shutil.copytree(home / "runs" / "n0-clean", tmp_path / "runs" / "one")
    (run_dir / name).write_bytes(content)
    (entry,) = nights.read(tmp_path / "runs")
    assert entry.badge is nights.DAMAGED
    assert str(tmp_path) not in entry.sentence
    IndexPage(report.render_index(tmp_path / "runs"))


def test_odd_directories_and_times_do_no_harm(home: Path, tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    for name, created in (("naive", "2026-03-01T02:00:00"), ("ahead", "9999-12-31T23:00:00-05:00")):
        run_dir = shutil.copytree(home / "runs" / "n0-clean", runs / name)
        _edit(run_dir / "prepare.json", created=created)
    (runs / "verdictless" / "verdicts.json").mkdir(parents=True)
    (runs / "a file").write_text("x")
    (runs / ".hidden").mkdir()
    (runs / "gone").symlink_to(runs / "nowhere")
    Path(os.fsdecode(os.fsencode(runs) + b"/\xff")).mkdir()
    assert {entry.name for entry in nights.read(runs)} == {"naive", "ahead", "verdictless", "\\udcff"}
    IndexPage(report.render_index(runs).encode().decode())


def test_without_nights_it_says_how_to_get_one(tmp_path: Path) -> None:
    assert "No night has run yet" in IndexPage(report.render_index(tmp_path / "runs")).words


def test_the_command_writes_it_beside_the_nights(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(home / "runs" / "n1-regressed", tmp_path / "runs" / "n1-regressed")
    monkeypatch.setenv("FP8BENCH_HOME", str(tmp_path))
    assert main(["index"]) == 0
    assert capsys.readouterr().out.strip() == str(tmp_path / "index.html")
    page = IndexPage((tmp_path / "index.html").read_text())
    assert page.links("square") == ["runs/n1-regressed/report.html"]


def test_rendering_a_night_refreshes_it(tmp_path: Path) -> None:
    config = Config(home=tmp_path)
    inside = make_night(tmp_path / "runs" / "one", "regressed", config=config)
    outside = make_night(tmp_path / "elsewhere", "clean", config=config)
    stages.run_stage("render", outside, config)
    assert not (tmp_path / "index.html").exists()
    stages.run_stage("render", inside, config)
    assert "runs/one/report.html" in (tmp_path / "index.html").read_text()


def test_a_month_of_reference_nights_is_quick(tmp_path: Path) -> None:
    run_dir = make_night(tmp_path / "runs" / "n0", "regressed", suite="reference")
    prepared = json.loads((run_dir / "prepare.json").read_text())
    for number in range(1, 30):
        copy = tmp_path / "runs" / f"n{number}"
        copy.mkdir()
        (copy / "verdicts.json").hardlink_to(run_dir / "verdicts.json")
        (copy / "prepare.json").write_text(json.dumps(prepared | {"created": _day(number).isoformat()}))
    started = time.process_time()
    html = report.render_index(tmp_path / "runs")
    assert time.process_time() - started < 10 * 30 / 365 + 1  # ten seconds a year, and the templates
    assert len(html) < 1_500_000
    assert IndexPage(html).count("polyline") > 0


def test_open_causes_are_listed_with_what_was_decided(tmp_path):
    run_dir = make_night(tmp_path / "runs" / "n", "regressed", created=_day(1))
    alerts.compose(run_dir, Config(home=tmp_path))
    with causes.changing(tmp_path) as held:
        (known,) = held[0].causes
        held[0] = held[0].with_standing(causes.decide(known, "acknowledged", "jo", HOSTILE))
    html = report.render_index(tmp_path / "runs")
    words = IndexPage(html).words
    assert "<script>alert" not in html
    assert "Open causes (1)" in words
    assert f"{known.id} regressed CPU on Xeon Platinum 8481C: group-128-row/bfloat16 +15." in words
    assert "acknowledged by jo:" in words
    assert 'id="open"' not in report.render_index(tmp_path / "other" / "runs")
    causes.path_of(tmp_path).write_text("{")
    assert "causes.json is not a valid Ledger" in IndexPage(report.render_index(tmp_path / "runs")).words
