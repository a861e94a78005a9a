"""The report's other forms: Markdown, JUnit XML, the terminal's text and the schema of the verdicts."""

import json
import os
import re
import shutil
import subprocess
import sys
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path
from xml.etree import ElementTree

import jsonschema
import pytest
from markdown_it import MarkdownIt
from nights import EXIT_CODES, STATES, make_night
from rich.console import Console

from fp8bench import alerts, causes, cli, records, stages
from fp8bench.config import Config
from fp8bench.night import Night
from fp8bench.records import Logged, Recovered, Verdict, Verdicts
from fp8bench.report import junit, markdown, summary, terminal
from fp8bench.rundir import RunDir

CHECKOUT = Path(__file__).resolve().parent.parent
GOLDEN = Path(__file__).parent / "golden" / "summary"
LINKS = {
    "report": "https://mlflow.example.org/#/experiments/1/runs/r1/artifacts/report.html",
    "night": "https://mlflow.example.org/#/experiments/1/runs?searchFilter=tags.`fp8bench.run_id`(1)",
}
HOSTILE = (
    "](https://evil.example) <script>alert(1)</script> `` ``` |x| ![i](https://evil.example/i.png) <b>b</b> \x1b[31m"
    "\x00 www.evil.example @everyone #17 GH-9 https://evil.example/x\n\n# Big\n\n- item\n]]>&amp; \ufffe $a$ *e* _e_"
)
FREE = {"subject", "author", "error", "detail", "reason", "sentence", "suite", "note", "host", "device_name", "run_id"}


@pytest.fixture(scope="module", params=STATES)
def night(request, tmp_path_factory) -> Night:
    return Night.read(make_night(tmp_path_factory.mktemp("night") / request.param, request.param))


def plain(run_dir: Path) -> str:
    return "\n".join(line.plain for line in terminal.render(run_dir))


def poisoned(value, key=""):
    """Every free text of a record made hostile."""
    if isinstance(value, dict):
        return {name: poisoned(entry, name) for name, entry in value.items()}
    if isinstance(value, list):
        return [HOSTILE if key in ("files", "notes") else poisoned(entry, key) for entry in value]
    return HOSTILE if key in FREE and isinstance(value, str) else value


@pytest.fixture(scope="module", params=["wrong", "not_built", "invalid"])
def hostile(request, tmp_path_factory) -> Path:
    run_dir = make_night(tmp_path_factory.mktemp("night"), request.param)
    for name in ("prepare.json", "build.json", "check.json", "verdicts.json"):
        content = json.loads((run_dir / name).read_text())
        (run_dir / name).write_text(json.dumps(poisoned(content)))
    return run_dir


def tokens(text: str) -> list:
    parser = MarkdownIt("commonmark").enable("table")
    return [inner for token in parser.parse(text) for inner in (token, *(token.children or ()))]


# ---- Markdown -----------------------------------------------------------------------------------------------


def test_golden_summary_of_every_state(night):
    """To renew them after a change of wording: GOLDEN=write pytest tests/test_report_forms.py"""
    golden, text = GOLDEN / f"{night.run_dir.name}.md", summary.render(night.run_dir)
    if os.environ.get("GOLDEN") == "write":
        GOLDEN.mkdir(parents=True, exist_ok=True)
        golden.write_text(text)
    assert text == golden.read_text()


def test_the_summary_links_to_the_logged_night(tmp_path):
    run_dir = make_night(tmp_path, "clean")
    records.write(Logged(tracking_uri="", experiment_id="1", runs={}, links=LINKS), run_dir / "mlflow.json")
    links = [token.attrs["href"] for token in tokens(summary.render(run_dir)) if token.type == "link_open"]
    assert links[0] == LINKS["report"]
    assert links[1].endswith("tags.%60fp8bench.run_id%60%281%29")


def test_hostile_text_stays_text_in_markdown(hostile):
    text = summary.render(hostile)
    kinds = {token.type for token in tokens(text)}
    assert not kinds & {"html_inline", "html_block", "image", "link_open", "em_open", "softbreak"}
    headings = [following.content for token, following in _pairs(text) if token.type == "heading_open"]
    assert not [heading for heading in headings if heading.startswith("Big")]
    outside = "".join(token.content for token in tokens(text) if token.type == "text")
    assert "<script>alert(1)</script>" in outside
    for sign, name in (("@", "everyone"), ("#", "17"), ("GH-", "9")):
        assert f"{sign}\u200b{name}" in outside
        assert f"{sign}{name}" not in outside


def _pairs(text: str):
    found = MarkdownIt("commonmark").parse(text)
    return pairwise(found)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("plain", "`plain`"),
        ("a`b", "``a`b``"),
        ("`a``", "``` `a`` ```"),
        ("a|b", "`a¦b`"),
        ("a\n\nb", "`a b`"),
        ("", ""),
    ],
)
def test_code_spans_hold_what_they_are_given(value, expected):
    assert markdown.code(value) == expected


def test_a_fence_is_longer_than_any_inside():
    assert markdown.block("echo '````'").splitlines()[0] == "`````sh"


def test_an_address_that_is_none_is_no_link():
    assert "](" not in markdown.link("MLflow", "javascript:alert(1)")


# ---- JUnit --------------------------------------------------------------------------------------------------


def test_junit_has_a_test_case_a_cell_with_its_outcome(night):
    root = ElementTree.fromstring(junit.render(night.run_dir))
    cases = {f"{case.get('classname')}/{case.get('name')}": case for case in root.iter("testcase")}
    for facts in night.facts:
        case = cases[f"fp8bench.{facts.cell.id}"]
        outcomes = [child for child in case if child.tag in ("failure", "skipped")]
        expected = ["failure"] * (facts.verdict.verdict in junit.FAILED) + ["skipped"] * (
            facts.verdict.verdict in junit.SKIPPED
        )
        assert [child.tag for child in outcomes] == expected
        assert all(len(child.get("message", "")) > 12 for child in outcomes)
    assert len(cases) == int(root.get("tests", "")) == len(night.facts)
    assert (int(root.get("failures", "")) > 0) == (EXIT_CODES.get(night.run_dir.name, 0) in (1, 2))


def test_every_verdict_has_one_outcome():
    passed = {Verdict.OK, Verdict.IMPROVED, Verdict.CONTROL}
    assert {*junit.FAILED, *junit.SKIPPED} | passed == set(Verdict)
    assert not set(junit.FAILED) & set(junit.SKIPPED)


def test_a_cause_without_cells_fails_too(tmp_path):
    run_dir = make_night(tmp_path, "regressed")
    found = records.read(Verdicts, run_dir / "verdicts.json")
    ok = tuple(cell.model_copy(update={"verdict": Verdict.OK}) for cell in found.cells)
    cause = found.causes[0].model_copy(update={"cells": (), "worst_cell": ""})
    records.write(found.model_copy(update={"cells": ok, "causes": (cause,)}), run_dir / "verdicts.json")
    [failure] = ElementTree.fromstring(junit.render(run_dir)).iter("failure")
    assert failure.get("message", "").startswith("regressed: +15.")


def test_hostile_text_stays_text_in_junit(hostile):
    root = ElementTree.fromstring(junit.render(hostile))
    assert {element.tag for element in root.iter()} <= {
        "testsuites", "testsuite", "testcase", "failure", "skipped", "system-out"
    }  # fmt: skip
    assert any("<script>alert(1)</script>" in element.get("message", "") for element in root.iter())


# ---- terminal -----------------------------------------------------------------------------------------------


def test_the_terminal_tells_what_the_page_tells(night):
    text = plain(night.run_dir)
    for entry in night.verdicts.backends:
        assert entry.sentence in text
    for cause in night.verdicts.causes:
        assert night.reproduction(cause) in text
        assert night.commit(cause.suspects[0]).short in text
    assert "cells measured" in text
    assert "speedup over Torch" in text or night.run_dir.name == "not_built"


def test_no_escape_sequence_of_a_commit_reaches_the_terminal(hostile):
    assert all(character.isprintable() or character == "\n" for character in plain(hostile))


def test_colour_on_a_terminal_only(tmp_path):
    lines = terminal.render(make_night(tmp_path, "regressed"))
    shown = {}
    for colour in (True, False):
        console = Console(force_terminal=colour, no_color=False, color_system="standard" if colour else None, width=60)
        with console.capture() as capture:
            for line in lines:
                console.print(line, soft_wrap=True)
        shown[colour] = capture.get()
    assert "\x1b[" in shown[True]
    assert "\x1b[" not in shown[False]
    assert shown[False].splitlines() == [line.plain for line in lines]


# ---- the command --------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Path:
    """A home with two judged nights, one that is not judged, and one that is damaged."""
    path = tmp_path_factory.mktemp("home")
    make_night(path / "runs" / "one", "clean", run_id="night-1")
    make_night(path / "runs" / "two", "wrong", run_id="night-2", created=_later(1))
    make_night(path / "runs" / "three", "clean", run_id="night-3", created=_later(2), until="build")
    (path / "runs" / "four").mkdir()
    (path / "runs" / "four" / "prepare.json").write_text("{")
    return path


def _later(days: int) -> datetime:
    return datetime(2026, 3, 14 + days, 2, 0, tzinfo=UTC)


@pytest.mark.parametrize(("run", "shown"), [("", "night-2"), ("night-1", "night-1"), ("two", "night-2")])
def test_the_command_finds_the_night(home, run, shown, monkeypatch, capsys):
    monkeypatch.setenv("FP8BENCH_HOME", str(home))
    assert cli.main(["report", *([run] if run else [])]) == 0
    assert f"night {shown}." in capsys.readouterr().out
    monkeypatch.chdir(home / "runs")
    assert cli.main(["report", str(home / "runs" / "one")]) == 0
    assert "night night-1." in capsys.readouterr().out


@pytest.mark.parametrize(
    ("run", "why"), [("nix", "no such night"), ("night-3", "has no verdict yet"), ("..", "no run directory")]
)
def test_no_such_night_is_one_sentence(home, run, why, monkeypatch, capsys):
    monkeypatch.setenv("FP8BENCH_HOME", str(home))
    monkeypatch.chdir(home / "runs")
    assert cli.main(["report", run]) == 4
    said = capsys.readouterr()
    assert why in said.err
    assert (said.out, said.err.count("\n")) == ("", 1)


def test_a_night_that_cannot_be_read_hides_no_other(home, monkeypatch, capsys, tmp_path):
    shutil.copytree(home / "runs", tmp_path / "runs")
    monkeypatch.setenv("FP8BENCH_HOME", str(tmp_path))
    (tmp_path / "runs" / "five" / "prepare.json").mkdir(parents=True)
    assert cli.main(["report"]) == 0
    assert "night night-2." in capsys.readouterr().out


def test_before_the_first_night_it_says_so(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("FP8BENCH_HOME", str(tmp_path / "nowhere"))
    assert cli.main(["report"]) == 4
    assert "has a verdict yet" in capsys.readouterr().err


@pytest.mark.parametrize(("form", "module"), [("markdown", summary), ("junit", junit)])
def test_the_command_prints_the_other_forms(home, form, module, monkeypatch, capsys):
    monkeypatch.setenv("FP8BENCH_HOME", str(home))
    assert cli.main(["report", "one", "--format", form]) == 0
    assert capsys.readouterr().out == module.render(home / "runs" / "one")


@pytest.mark.parametrize("form", ["text", "markdown", "junit"])
def test_pipes_that_close_early_and_narrow_encodings_are_no_trouble(home, form):
    command = f"{sys.executable} -m fp8bench report one --format {form}; echo $? >&2"
    environment = os.environ | {"FP8BENCH_HOME": str(home), "PYTHONIOENCODING": "ascii", "PYTHONPATH": str(CHECKOUT)}
    for rest in ("| :", "> /dev/null"):
        done = subprocess.run(f"({command}) {rest}", shell=True, env=environment, capture_output=True, text=True)
        assert done.stderr == "0\n"


# ---- the stage ----------------------------------------------------------------------------------------------


def test_render_writes_every_form_once_and_the_page_last(tmp_path):
    run = RunDir(make_night(tmp_path, "regressed"))
    stages.run_stage("render", run.path, Config())
    files = (run.summary, run.junit, run.report)
    written = [file.stat().st_mtime_ns for file in files]
    assert written == sorted(written)
    stages.run_stage("render", run.path, Config())
    assert [file.stat().st_mtime_ns for file in files] == written
    run.report.unlink()  # as if it had been interrupted before the page
    stages.run_stage("render", run.path, Config())
    assert all(file.stat().st_mtime_ns > old for file, old in zip(files, written, strict=True))


# ---- the schema ---------------------------------------------------------------------------------------------


def test_the_published_schema_is_up_to_date(capsys):
    """To renew it after a change of records: fp8bench report --schema > docs/verdicts.schema.json"""
    assert cli.main(["report", "--schema"]) == 0
    assert capsys.readouterr().out == (CHECKOUT / "docs" / "verdicts.schema.json").read_text()


def test_the_schema_takes_what_a_night_writes_and_nothing_else(night):
    check = jsonschema.Draft202012Validator(json.loads(records.schema(Verdicts)))
    document = json.loads((night.run_dir / "verdicts.json").read_text())
    assert not list(check.iter_errors(document))
    assert list(check.iter_errors(document | {"verdict": "FINE"}))
    assert list(check.iter_errors(document | {"more": 1}))


def test_every_form_tells_decisions_what_recovered_and_what_shifted(tmp_path):
    run_dir = make_night(tmp_path / "runs" / "n", "regressed")
    verdicts = records.read(Verdicts, run_dir / "verdicts.json")
    over = Recovered(id="x", backend="torch", verdict=Verdict.WRONG, families=("per-token/bfloat16",), nights=2)
    cause = verdicts.causes[0].model_copy(update={"state": "worse", "nights": 3})
    changed = {"recovered": (over,), "causes": (cause,)}
    records.write(verdicts.model_copy(update=changed), run_dir / "verdicts.json")
    alerts.compose(run_dir, Config(home=tmp_path))
    with causes.changing(tmp_path) as held:
        held[0] = held[0].with_standing(causes.decide(held[0].causes[0], "accepted", "jo", "a <b>trade</b>"))
    lines = "\n".join(line.plain for line in terminal.render(run_dir, tmp_path))
    text = summary.render(run_dir, tmp_path)
    for form in (lines, text):
        assert "(worse, for 3 nights)" in form
        assert "was wrong for 2 nights" in form
        assert "accepted up to +1" in form
    assert "a <b>trade</b>" in lines
    assert "a &lt;b&gt;trade&lt;/b&gt;" in text


def test_the_log_of_the_judge_has_a_line_a_cell_the_loudest_first(tmp_path, capsys):
    run_dir = make_night(tmp_path / "n", "regressed")
    assert cli.main(["stage", "judge", "--run-dir", str(run_dir)]) == 0
    lines = [line for line in capsys.readouterr().err.splitlines() if "/bfloat16/" in line]
    assert len(lines) == 64
    assert re.fullmatch(r"REGRESSED +cpu/group-128-row\S+  \+15\.8% \[\S+ \S+\]  \S+ -> \S+ us", lines[0])
    assert lines[-1].startswith("CONTROL ")


def test_metrics_are_in_the_text_format_whatever_the_names(tmp_path, capsys):
    run_dir = make_night(tmp_path / "n", "regressed")
    prepared = json.loads((run_dir / "prepare.json").read_text())
    prepared["suite"] = 'a"b\\c\nd'
    (run_dir / "prepare.json").write_text(json.dumps(prepared))
    assert cli.main(["report", str(run_dir), "--format", "prometheus"]) == 0
    text = capsys.readouterr().out
    label = r'"(?:[^"\\\n]|\\[\\"n])*"'
    sample = re.compile(rf"[a-z_0-9]+\{{[a-z]+={label}(?:,[a-z]+={label})*\}} -?[0-9.e+-]+")
    lines = text.splitlines()
    assert all(line.startswith("# ") or sample.fullmatch(line) for line in lines)
    assert next(line for line in lines if line.startswith("fp8bench_night_exit_code{")).endswith(" 1")
    assert any('backend="cpu",verdict="REGRESSED"} 8' in line for line in lines)
