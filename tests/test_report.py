"""The report: complete in every state, escaped, self-contained, small, and readable without JavaScript."""

import json
import re
import time
from dataclasses import replace
from datetime import UTC, datetime
from html.parser import HTMLParser

import pytest
from nights import STATES, SUITES, make_night

from fp8bench import causes, records, report
from fp8bench.errors import RunDirError
from fp8bench.night import Night
from fp8bench.records import Commit, DeviceState, Effect, Logged, Prepared, Recovered, Shift, Verdict, Verdicts
from fp8bench.report import SECTIONS, heatmaps, trust

VOID = {"meta", "link", "input", "br", "line", "circle", "polyline", "path", "img", "hr"}
SELF_CLOSING = {"line", "circle", "polyline", "path"}


class Page(HTMLParser):
    """Text and structure of a page; fails on tags that do not nest."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []
        self.ids: list[str] = []
        self.feed(html)
        self.close()
        self.words = re.sub(r"\s+", " ", " ".join(self.text))
        assert not self.open, f"never closed: {self.open}"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        attributes = dict(attrs)
        self.tags.append((tag, attributes))
        if attributes.get("id"):
            self.ids.append(str(attributes["id"]))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag not in VOID:
            assert self.open.pop() == tag

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert tag in SELF_CLOSING

    def handle_data(self, data: str) -> None:
        if not self.open or self.open[-1] not in ("style", "script"):
            self.text.append(data)


@pytest.fixture(scope="module", params=[(suite, state) for suite in SUITES for state in STATES], ids="-".join)
def rendered(request, tmp_path_factory):
    suite, state = request.param
    run_dir = make_night(tmp_path_factory.mktemp("night"), state, suite=suite)
    html = report.render(run_dir)
    return Night.read(run_dir), html, Page(html)


def test_it_says_for_every_backend_what_was_found(rendered):
    night, _, page = rendered
    for entry in night.verdicts.backends:
        assert re.sub(r"\s+", " ", entry.sentence) in page.words
    for facts in night.facts:
        assert facts.cell.id in page.words


def test_it_is_well_formed_and_its_links_lead_somewhere(rendered):
    _, _, page = rendered
    assert len(page.ids) == len(set(page.ids))
    anchors = [str(attrs["href"])[1:] for tag, attrs in page.tags if tag == "a" and str(attrs["href"]).startswith("#")]
    assert {section.name for section in SECTIONS} & set(page.ids) <= set(anchors)
    assert set(anchors) <= set(page.ids)


def test_it_is_self_contained(rendered):
    _, html, page = rendered
    assert not [attrs for tag, attrs in page.tags if tag in ("link", "img", "iframe") or attrs.get("src")]
    assert "@import" not in html
    assert "url(" not in html


def test_what_commits_say_stays_text(rendered):
    night, html, page = rendered
    assert "<script>alert(1)" not in html
    assert "<b>twice" not in html
    assert "hunter2" not in html
    if night.prepared.suspects:
        assert "Unroll <b>twice</b> & drop the vector path" in page.words


def test_every_accusation_names_suspects_and_a_command(rendered):
    night, _, page = rendered
    for cause in night.verdicts.causes:
        assert f"cause-{cause.id}" in page.ids
        assert night.reproduction(cause) in page.words
        assert night.commit(cause.suspects[0]).subject in page.words


def test_times_over_the_floor_are_told_where_there_is_one(rendered):
    night, _, page = rendered
    measured = any(facts.cell.backend == "floor" for facts in night.facts)
    assert ("floor" in page.ids) == measured
    assert ("of memory bandwidth" in page.words) == measured
    assert ("The floor is a plain cast of the same sizes." in page.words) == measured


def test_heatmaps_show_every_cell_once(rendered):
    night, _, page = rendered
    fields = [attrs for tag, attrs in page.tags if tag == "td" and str(attrs.get("class")).startswith("h ")]
    assert len(fields) == len(night.facts)
    assert all(attrs["title"] for attrs in fields)


def test_a_reference_night_is_small_and_quick(tmp_path):
    run_dir = make_night(tmp_path, "invalid", suite="reference")
    started = time.process_time()
    html = report.render(run_dir)
    assert len(html.encode()) < 1_500_000
    assert time.process_time() - started < 3


def test_each_hard_verdict_has_a_fill_of_its_own():
    css = (report.templating.paths.TEMPLATES / "report" / "style.css").read_text()
    kinds = [*heatmaps.SHORT, Verdict.UNRESOLVED, Verdict.CONTROL]
    for kind in kinds:
        assert f".h.{kind.lower()}" in css
    for step in ("s1", "s2", "s3", "f1", "f2", "f3", "z", "hit"):
        assert f".h.{step}" in css


@pytest.mark.parametrize(
    ("effect", "style"),
    [(0.0, "z"), (0.003, "z"), (0.0031, "s1"), (0.01, "s2"), (0.04, "s3"), (-0.0031, "f1"), (-0.04, "f3")],
)
def test_colour_steps_count_in_margins(effect, style):
    assert heatmaps.shade(effect, 0.003) == style


def test_links_and_notes_appear_when_there_are_any(tmp_path):
    run_dir = make_night(tmp_path, "regressed")
    assert 'id="links"' not in report.render(run_dir)
    prepared = records.read(Prepared, run_dir / "prepare.json")
    noted = prepared.model_copy(update={"notes": ("The worktree has <uncommitted> changes.",)})
    records.write(noted, run_dir / "prepare.json")
    links = {"cpu": "https://mlflow.example.org/#/runs/1?a=1&b=2"}
    records.write(
        Logged(tracking_uri="sqlite:///x", experiment_id="1", runs={"cpu": "1"}, links=links), run_dir / "mlflow.json"
    )
    html = report.render(run_dir)
    assert 'href="https://mlflow.example.org/#/runs/1?a=1&amp;b=2"' in html
    assert "The worktree has &lt;uncommitted&gt; changes." in html


def test_hostile_commits_paths_and_logs_cannot_break_out(tmp_path):
    run_dir = make_night(tmp_path, "not_built")
    hostile = '"><script>alert(1)</script><img src=x onerror=alert(2)>'
    for name in ("prepare.json", "build.json", "check.json", "verdicts.json"):
        content = json.loads((run_dir / name).read_text())
        (run_dir / name).write_text(json.dumps(_poison(content, hostile)))
    html = report.render(run_dir)
    assert "<script>alert" not in html
    assert "<img" not in html
    Page(html)


def _poison(value, hostile, key=""):
    """Every free text of a record made hostile."""
    free = {"subject", "author", "error", "log", "detail", "reason", "sentence", "suite", "note", "host", "device_name"}
    if isinstance(value, dict):
        return {name: _poison(entry, hostile, name) for name, entry in value.items()}
    if isinstance(value, list):
        return [
            hostile if key == "files" and isinstance(entry, str) else _poison(entry, hostile, key) for entry in value
        ]
    return hostile if key in free and isinstance(value, str) else value


def test_an_accused_cell_shows_its_launches_its_floor_and_its_machine_code(tmp_path):
    html = report.render(make_night(tmp_path, "regressed", suite="reference"))
    words = Page(html).words
    assert html.count('<circle class="launch"') == 4 * 6
    assert re.search(r"1\.7\d× → 1\.8\d×", words)
    assert "hot +4." in words
    assert "1 of 2 kernels for sm_90 differs between the builds" in words
    assert "40 → <b>44</b>" in html
    assert ">32 → " not in html
    assert "Last nights" not in words


def test_an_accused_cell_shows_its_last_nights_and_where_the_baseline_moved(tmp_path):
    for day, state in enumerate(("clean", "invalid", "clean", "regressed"), 1):
        make_night(tmp_path / f"n{day}", state, created=datetime(2026, 3, day, 2, tzinfo=UTC))
    make_night(tmp_path / "other", "clean", suite="reference", created=datetime(2026, 3, 2, 3, tzinfo=UTC))
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "verdicts.json").write_text("{")
    prepared = records.read(Prepared, tmp_path / "n1" / "prepare.json")
    earlier = prepared.baseline.model_copy(update={"sha": "e" * 40})
    records.write(prepared.model_copy(update={"baseline": earlier}), tmp_path / "n1" / "prepare.json")
    html = report.render(tmp_path / "n4")
    assert html.count('<circle class="past"') == 8 * 2  # cells, nights that prove something
    assert html.count("2026-03-02: baseline 4be1a0c2d") == 8
    assert re.search(r'aria-label="By night: 2026-03-01 [^;]*; 2026-03-03 [^;]*; 2026-03-04 \+15', html)


def test_launches_that_confirmed_and_dropped_quads_are_counted(tmp_path):
    night = Night.read(make_night(tmp_path, "clean"))
    (screened,) = night.timed
    confirmed = screened.model_copy(update={"phase": "confirm", "launches": 12, "quads": 400, "dropped": 3})
    tiles = {tile.label: tile for tile in trust.build(replace(night, timed=(screened, confirmed))).tiles}
    assert tiles["Launches"].value == "6 + 12"
    assert tiles["Launches"].note == "the second to confirm, 436 s, 0 failures, 0.8% of the quads dropped"


@pytest.mark.parametrize(
    ("device", "looks", "note", "tone"),
    [
        ("cuda", [(), ()], "not throttled", "calm"),
        ("cuda", [None, None], "throttling unseen", "warn"),
        ("cuda", [], "throttling unseen", "warn"),
        ("cuda", [(), None, ()], "throttling unseen at 1 of 3 looks", "warn"),
        ("cuda", [None, ("hw_thermal",)], "throttled: hw_thermal", "warn"),
        ("cpu", [(), ()], "not throttled", "calm"),
        ("cpu", [None, None], "throttling unseen", "calm"),
    ],
)
def test_where_nobody_could_look_nothing_is_said_of_throttling(tmp_path, device, looks, note, tone):
    night = Night.read(make_night(tmp_path, "clean", suite="reference" if device == "cuda" else "smoke"))
    states = tuple(DeviceState(when="after", launch=launch, throttle=look) for launch, look in enumerate(looks))
    timed = (night.timed[0].model_copy(update={"states": states}),)
    tiles = {tile.label: tile for tile in trust.build(replace(night, timed=timed)).tiles}
    assert (tiles["Clocks"].note, tiles["Clocks"].tone) == (note, tone)


def test_what_the_machine_does_not_support_was_never_expected(tmp_path):
    night = Night.read(make_night(tmp_path, "clean"))
    count, first = len(night.facts), night.facts[0]

    def cells(**changes):
        changed = replace(first, verdict=first.verdict.model_copy(update={"effect": None, **changes}))
        [tile] = [t for t in trust.build(replace(night, facts=(changed, *night.facts[1:]))).tiles if "Cells" in t.label]
        return tile.value, tile.note, tile.tone

    told = f"{count - 1} of {count - 1}", "none is missing; 1 unsupported here", "calm"
    assert cells(verdict=Verdict.UNSUPPORTED) == told
    assert cells(verdict=Verdict.MISSING) == (f"{count - 1} of {count}", "1 without a time", "warn")


def test_a_step_that_lasts_is_told_and_marked(tmp_path):
    for day in range(1, 12):
        state = "clean" if day < 7 else "regressed"
        make_night(tmp_path / f"n{day}", state, seed=day, created=datetime(2026, 3, day, 2, tzinfo=UTC))
    html = report.render(tmp_path / "n11")
    words = Page(html).words
    assert re.search(r"CPU, 2026-03-07 8 cells stepped by \+1\d\.\d% \(median\), e\.g\. cpu/group-128-row", words)
    assert len(re.findall(r'<path class="step"[^>]*><title>a step of \+1\d\.\d% since 2026-03-07', html)) == 8


def test_what_changed_since_the_baseline_is_told(tmp_path):
    for name, state in (("base", "clean"), ("night", "regressed")):
        make_night(tmp_path / name, state, run_id=name, created=datetime(2026, 3, 1 + len(name), 2, tzinfo=UTC))
    prepared = records.read(Prepared, tmp_path / "night" / "prepare.json")
    machine = prepared.environment
    newer = machine.model_copy(update={"versions": machine.versions | {"torch": "2.14.0"}})
    moved = {"baseline_run": "base", "environment": newer}
    records.write(prepared.model_copy(update={"baseline_run": "base"}), tmp_path / "night" / "prepare.json")
    assert "Since the baseline nothing changed" in Page(report.render(tmp_path / "night")).words
    records.write(prepared.model_copy(update=moved), tmp_path / "night" / "prepare.json")
    assert "Since the baseline 1 changed torch 2.13.0+cpu → 2.14.0" in Page(report.render(tmp_path / "night")).words


def test_decisions_and_what_recovered_or_shifted_are_told(tmp_path):
    run_dir = make_night(tmp_path / "runs" / "n", "regressed")
    verdicts = records.read(Verdicts, run_dir / "verdicts.json")
    cause = verdicts.causes[0].model_copy(update={"state": "ongoing", "nights": 3})
    over = Recovered(id="x", backend="torch", verdict=Verdict.WRONG, families=("per-token/bfloat16",), nights=2)
    shift = Shift(
        id="y", backend="cpu", families=("per-tensor/bfloat16",), cells=("c",), value=0.1, worst=0.2, worst_cell="c",
        recorded="20260101-base",
    )  # fmt: skip
    changed = {"causes": (cause,), "recovered": (over,), "shifts": (shift,)}
    records.write(verdicts.model_copy(update=changed), run_dir / "verdicts.json")
    with causes.changing(tmp_path) as held:
        known = causes.seen(held[0], cause, Night.read(run_dir).prepared, 0.03, "new").causes[0]
        held[0] = held[0].with_standing(causes.decide(known, "silenced", "jo", "<i>moving</i> house"))
    words = Page(report.render(run_dir, tmp_path)).words
    assert "for 3 nights" in words
    assert re.search(r"silenced up to \+\d+\.\d% by jo: <i>moving</i> house", words)
    assert "Torch (Compiled): per-token/bfloat16 was wrong for 2 nights" in words
    assert "CPU: per-tensor/bfloat16 +10.5% over night 20260101-base (1 cell)" in words


def test_achieved_bandwidth_is_drawn_for_every_family_and_regime(rendered):
    night, html, _ = rendered
    timed = {(facts.cell.case.family, facts.cell.regime) for facts in night.facts if facts.verdict.candidate_us}
    timed = {key for key in timed if any(key[0] == entry.family for entry in night.verdicts.speedups)}
    assert html.count('aria-label="Achieved bandwidth over size, ') == len(timed)
    assert ("4,800 GB/s (dashed)" in html) == (night.prepared.suite == "reference")


def test_a_family_that_moved_without_a_cell_is_told(tmp_path):
    run_dir = make_night(tmp_path, "regressed")
    verdicts = records.read(Verdicts, run_dir / "verdicts.json")
    effect = Effect(value=0.02, lower=0.015, upper=0.025, p_value=1e-4, launches=6)
    cause = verdicts.causes[0].model_copy(update={"cells": (), "worst_cell": "", "worst": effect, "suspects": ()})
    records.write(verdicts.model_copy(update={"causes": (cause,)}), run_dir / "verdicts.json")
    words = Page(report.render(run_dir)).words
    assert "worst +2.0% [1.5, 2.5] in the geometric mean of a family" in words
    assert "no commit between baseline and candidate changes these kernels" in words


def test_an_unknown_commit_is_shown_by_its_hash(tmp_path):
    night = Night.read(make_night(tmp_path, "clean"))
    assert night.commit("f" * 40) == Commit(sha="f" * 40)


def test_a_night_that_was_not_judged_is_a_sentence(tmp_path):
    with pytest.raises(RunDirError, match="run the stage that writes it first"):
        report.render(make_night(tmp_path, until="time"))
