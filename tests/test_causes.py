"""Decisions about causes on the command line, and the file that keeps them."""

import json
import shlex
from datetime import UTC, datetime
from pathlib import Path

import pytest
from nights import make_night

from fp8bench import alerts, causes, cli, wording
from fp8bench.causes import Ledger, Standing
from fp8bench.config import Config
from fp8bench.errors import RunDirError
from fp8bench.records import Effect, Verdict

NIGHT = datetime(2026, 3, 14, 2, tzinfo=UTC)


@pytest.fixture
def home(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("FP8BENCH_HOME", str(tmp_path))
    monkeypatch.setattr("getpass.getuser", lambda: "kim")
    return tmp_path


def standing(identity: str, device: str = "NVIDIA H200", effect: float | None = 0.04) -> Standing:
    worst = None
    if effect is not None:
        worst = Effect(value=effect, lower=effect - 0.01, upper=effect + 0.01, p_value=1e-9, launches=6)
    return Standing(
        id=identity,
        device=device,
        backend="cuda",
        verdict=Verdict.REGRESSED if worst else Verdict.WRONG,
        families=("per-token/bfloat16",),
        since="n1",
        first=NIGHT,
        last="n2",
        seen=NIGHT,
        worst=worst,
        accused=("cuda/per-token/bfloat16/1x1024/hot",),
        margin=0.003,
    )


def keep(home: Path, *entries: Standing) -> None:
    with causes.changing(home) as held:
        held[0] = Ledger(causes=entries)


def test_a_night_is_listed_decided_about_and_reopened(home, capsys):
    alerts.compose(make_night(home / "runs" / "n", "regressed"), Config())
    assert cli.main(["causes", "list"]) == 0
    listed = capsys.readouterr().out
    (known,) = causes.read(home).causes
    assert f"{known.id}  REGRESSED" in listed
    assert "cpu/Xeon Platinum 8481C group-128-row/bfloat16" in listed
    assert cli.main(["causes", "ack", known.id[:6], "--why", "looking\nnow"]) == 0
    assert capsys.readouterr().out.endswith("acknowledged by kim: looking now\n")
    assert (
        cli.main(["causes", "silence", known.id, "--why", "moving", "--who", "jo", "--limit", "20", "--days", "3"]) == 0
    )
    assert "silenced up to +20.0%, until 20" in capsys.readouterr().out
    assert cli.main(["causes", "reopen", known.id]) == 0
    assert cli.main(["causes", "reopen", known.id]) == 4
    assert "open already" in capsys.readouterr().err


def test_the_limit_is_what_was_seen_with_its_slack(home, capsys):
    keep(home, standing("abc"))
    assert cli.main(["causes", "accept", "abc", "--why", "a trade"]) == 0
    (known,) = causes.read(home).causes
    assert known.decision.limit == pytest.approx(0.05)
    assert cli.main(["causes", "list", "--json"]) == 0
    out = capsys.readouterr().out
    assert json.loads(out[out.index("[") :])[0]["decision"]["kind"] == "accepted"


def test_recovered_causes_are_listed_on_request(home, capsys):
    keep(home, standing("abc").model_copy(update={"recovered": "n3"}))
    cli.main(["causes", "list"])
    assert f"No cause is open in {causes.path_of(home)}: nothing got slower" in capsys.readouterr().out
    cli.main(["causes", "list", "--all"])
    assert "recovered REGRESSED" in capsys.readouterr().out


def test_the_command_of_mails_and_reports_decides_as_it_stands(home, capsys):
    keep(home, standing("abc"))
    for given in (wording.decide_command("abc"), wording.decide_command("abc").replace(" ack ", " silence ")):
        _, *arguments = shlex.split(given)
        assert cli.main(arguments) == 0
        assert capsys.readouterr().out.endswith(": ...\n")


def test_a_home_that_knows_nothing_gives_no_good_news(home, capsys):
    told = f"night was told in {home} yet: set FP8BENCH_HOME to the home of the nights that you mean.\n"
    assert cli.main(["causes", "list"]) == 0
    assert capsys.readouterr().out == f"No {told}"
    assert cli.main(["causes", "ack", "abc", "--why", "x"]) == 4
    assert capsys.readouterr().err.endswith(f"no cause 'abc' is known in {home}/causes.json: no {told}")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["zzz", "--why", "x"], "causes.json: `fp8bench causes list --all` shows those that are"),
        (["", "--why", "x"], "no cause '' is known in /"),
        (["ab", "--why", "x"], "begins several ids (abc, abd, abe)"),
        (["abd", "--why", "x"], "known on NVIDIA H200, NVIDIA A100: say which with --device-name"),
        (["abc", "--why", " \n"], "--why is empty"),
        (["abc", "--why", "x", "--days", "-1"], "--days -1"),
        (["abc", "--why", "x", "--days", "nan"], "--days nan"),
        (["abc", "--why", "x", "--limit", "fast"], "no effect: give percent"),
        (["abe", "--device-name", "NVIDIA A100", "--why", "x", "--limit", "3"], "has no effect to put a limit to"),
    ],
)
def test_what_cannot_be_meant_is_a_sentence(arguments, said, home, capsys):
    twice = (standing("abd"), standing("abd", "NVIDIA A100"), standing("abe", "NVIDIA A100", None))
    keep(home, standing("abc"), *twice)
    before = causes.path_of(home).read_bytes()
    try:
        code = cli.main(["causes", "silence", *arguments])
    except SystemExit as error:
        code = error.code
    assert code == 4
    assert said in capsys.readouterr().err
    assert causes.path_of(home).read_bytes() == before


def test_a_damaged_ledger_is_told_and_not_overwritten(home, capsys):
    causes.path_of(home).write_text('{"causes": [')
    assert cli.main(["causes", "list"]) == 4
    assert "mend it, or move it away" in capsys.readouterr().err
    with pytest.raises(RunDirError), causes.changing(home):
        pass
    assert causes.path_of(home).read_text() == '{"causes": ['


@pytest.mark.parametrize("command", [["causes", "list"], ["digest", "--print"], ["prune", "--dry-run"]])
def test_a_ledger_that_cannot_be_read_is_one_sentence(command, home, capsys):
    make_night(home / "runs" / "night")
    causes.path_of(home).mkdir()
    assert cli.main(command) == 4
    (said,) = capsys.readouterr().err.splitlines()
    assert f"{causes.path_of(home)} cannot be read (Is a directory): mend it, or move it away" in said


def test_the_page_over_all_nights_needs_no_ledger(home):
    make_night(home / "runs" / "night")
    causes.path_of(home).mkdir()
    assert cli.main(["index"]) == 0
    assert "causes.json cannot be read (Is a directory)" in (home / "index.html").read_text()


def test_what_nothing_changed_is_not_written(home):
    keep(home, standing("abc"))
    before = causes.path_of(home).stat().st_mtime_ns
    with causes.changing(home) as held:
        held[0] = held[0].with_standing(standing("abc"))
    assert causes.path_of(home).stat().st_mtime_ns == before


def test_a_digest_is_printed_or_kept(home, capsys):
    keep(home, standing("abc"))
    assert cli.main(["digest", "--print"]) == 0
    out = capsys.readouterr().out
    assert "no night ran" in out
    assert "abc REGRESSED cuda/H200 +4.1% per-token/bfloat16 since 2026-03-14, nobody has taken it" in out
    assert cli.main(["digest"]) == 0
    assert "no mail host is set" in capsys.readouterr().out
    assert len(list(home.glob("digests/*/outbox/001.json"))) == 1
