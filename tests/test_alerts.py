"""Mail: one a cause, golden in every state, handed over once, to a real SMTP sink."""

import io
import json
import os
from datetime import UTC, datetime, timedelta
from email import message_from_bytes, policy
from pathlib import Path

import pytest
from aiosmtpd.controller import Controller
from nights import STATES, make_night
from PIL import Image
from ports import free_port

from fp8bench import alerts, causes, config, late, records, stages
from fp8bench.alerts import digest, smtp
from fp8bench.cli import main
from fp8bench.config import Config, MailSettings
from fp8bench.errors import DeliveryError, UsageError
from fp8bench.records import Cause, Effect, Logged, Message, Prepared, Shift, Verdict, Verdicts

GOLDEN = Path(__file__).parent / "golden" / "mail"
TO = ("kernels@example.org", "on-call@example.org")
LINKS = {
    "report": "https://mlflow.example.org/#/experiments/1/runs/r1/artifacts/report.html",
    "cpu": "https://mlflow.example.org/#/experiments/1/runs/r1",
    "compare cpu": "https://mlflow.example.org/#/compare-runs?runs=%5B%22r0%22%2C%22r1%22%5D",
}


@pytest.fixture(autouse=True)
def home(tmp_path_factory, monkeypatch):
    """A home of its own for every test: what one tells must not keep another quiet."""
    path = tmp_path_factory.mktemp("home")
    monkeypatch.setenv("FP8BENCH_HOME", str(path))
    return path


def settings(**mail: object) -> Config:
    return Config(mail=MailSettings(**{"to": TO, **mail}))


def messages(paths: list[Path]) -> list[Message]:
    return [records.read(Message, path) for path in paths]


class Sink:
    """Keeps what it is given, or refuses it, or some of its recipients; `goodbye` answers QUIT."""

    def __init__(self, answer: str = "250 OK") -> None:
        self.answer, self.taken = answer, []
        self.refused: dict[str, str] = {}
        self.goodbye = "221 Bye"

    async def handle_RCPT(self, server, session, envelope, address, options):
        if address in self.refused:
            return self.refused[address]
        envelope.rcpt_tos.append(address)
        return "250 OK"

    async def handle_QUIT(self, server, session, envelope):
        return self.goodbye

    async def handle_DATA(self, server, session, envelope):
        if self.answer.startswith("250"):
            self.taken.append((envelope.rcpt_tos, message_from_bytes(envelope.content, policy=policy.default)))
        return self.answer


@pytest.fixture
def sink():
    yield from _serve(Sink())


@pytest.fixture
def refusing():
    yield from _serve(Sink("554 no thanks"))


def _serve(handler):
    controller = Controller(handler, hostname="127.0.0.1", port=free_port())
    controller.start()
    handler.port = controller.port
    yield handler
    controller.stop()


def assert_golden(name: str, paths: list[Path], run_dir: Path) -> None:
    """To renew them after a change of wording: GOLDEN=write pytest tests/test_alerts.py"""
    found = {}
    for message in messages(paths):
        head = f"To: {', '.join(message.to)}\nSubject: {message.subject}\n\n"
        found[f"{name}.txt"] = head + message.text.replace(str(run_dir), "RUN_DIR")
        found[f"{name}.html"] = message.html.replace(str(run_dir), "RUN_DIR")
    if os.environ.get("GOLDEN") == "write":
        GOLDEN.mkdir(parents=True, exist_ok=True)
        for file, text in found.items():
            (GOLDEN / file).write_text(text)
    assert found == {path.name: path.read_text() for path in GOLDEN.glob(f"{name}.*")}
    assert all(len(text.strip().splitlines()) < 22 for file, text in found.items() if file.endswith(".txt"))


@pytest.mark.parametrize("state", STATES)
def test_golden_mail_of_every_state(state, tmp_path):
    run_dir = make_night(tmp_path, state)
    if state != "crashed":  # one state without MLflow: the report's path stands for its address
        records.write(Logged(tracking_uri="", experiment_id="1", runs={}, links=LINKS), run_dir / "mlflow.json")
    assert_golden(state, alerts.compose(run_dir, settings()), tmp_path)


@pytest.mark.parametrize("state", STATES)
def test_who_hears_what(state, tmp_path):
    run_dir = make_night(tmp_path, state)
    composed = messages(alerts.compose(run_dir, settings(operators=("ops@example.org",))))
    assert len(composed) == (0 if state in ("clean", "first_night") else 1)
    for message in composed:
        assert message.to == (("ops@example.org",) if state == "invalid" else TO)
        assert len(message.text.splitlines()) < 20
        assert message.subject.startswith(f"[fp8bench] {state.upper()} ")
        assert "<script>" not in message.html


@pytest.mark.parametrize("state", ["regressed", "invalid"])
@pytest.mark.parametrize("named", ["to", "operators"])
def test_whoever_is_named_alone_hears_everything(state, named, tmp_path, sink):
    config = Config(mail={named: TO, "host": "127.0.0.1", "port": sink.port})
    run_dir = make_night(tmp_path, state)
    alerts.compose(run_dir, config)
    assert alerts.deliver(run_dir, config) == 1
    assert [tuple(recipients) for recipients, _ in sink.taken] == [TO]


def test_the_subject_says_what_where_how_much_and_who(tmp_path):
    run_dir = make_night(tmp_path, "regressed", suite="reference")
    subject = messages(alerts.compose(run_dir, settings()))[0].subject
    assert subject == "[fp8bench] REGRESSED cuda/H200 +4.1% (4 cells) suspect abc1234de"


def test_composing_twice_doubles_nothing_and_leaves_sent_mail_alone(tmp_path):
    run_dir = make_night(tmp_path, "regressed")
    first = alerts.compose(run_dir, settings())
    before = first[0].read_bytes()
    assert alerts.compose(run_dir, settings()) == first
    assert sorted(path.name for path in (run_dir / "outbox").iterdir()) == ["001.json", "001.png"]
    assert first[0].read_bytes() == before
    alerts.mark_sent(first[0])
    alerts.compose(run_dir, settings(to=("somebody-else@example.org",)))
    assert first[0].read_bytes() == before
    assert alerts.pending(run_dir) == []


def test_mail_reaches_a_real_sink_once(tmp_path, sink):
    run_dir = make_night(tmp_path, "regressed")
    (run_dir / "report.html").write_text("<p>Bericht – µs</p>")
    config = settings(host="127.0.0.1", port=sink.port)
    alerts.compose(run_dir, config)
    assert alerts.deliver(run_dir, config) == 1
    assert alerts.deliver(run_dir, config) == 0
    alerts.compose(run_dir, config)
    assert alerts.deliver(run_dir, config) == 0
    [(recipients, mail)] = sink.taken
    assert tuple(recipients) == TO
    assert mail["Subject"].startswith("[fp8bench] REGRESSED cpu/Xeon Platinum 8481C +15.")
    text = mail.get_body(("plain",)).get_content()
    assert "abc1234de" in text
    assert "group-128-row/bfloat16" in text
    assert "+15." in mail.get_body(("html",)).get_content()
    [attachment] = mail.iter_attachments()
    assert attachment.get_filename() == "report.html"
    assert attachment.get_content().strip() == "<p>Bericht – µs</p>"


def test_a_refusing_host_is_a_sentence_and_the_mail_is_kept(tmp_path, refusing):
    run_dir = make_night(tmp_path, "wrong")
    config = settings(host="127.0.0.1", port=refusing.port)
    alerts.compose(run_dir, config)
    with pytest.raises(DeliveryError, match=rf"127\.0\.0\.1:{refusing.port} did not take .*no thanks.*It is kept in"):
        alerts.deliver(run_dir, config)
    assert len(alerts.pending(run_dir)) == 1


@pytest.mark.parametrize("answer", ["550 no such user", "451 try again later", "421 going down"])
def test_a_recipient_who_is_refused_gets_the_mail_later_and_the_others_once(tmp_path, sink, answer):
    run_dir = make_night(tmp_path, "regressed")
    config = settings(host="127.0.0.1", port=sink.port)
    sink.refused = {TO[1]: answer}
    told = () if answer.startswith("421") else (TO[0],)  # then the host has hung up, and nobody has it
    alerts.compose(run_dir, config)
    for _ in range(2):
        with pytest.raises(DeliveryError, match=f"for {TO[1]}: {answer}") as error:
            alerts.deliver(run_dir, config)
        assert str(error.value) == (run_dir / "outbox" / "refused.txt").read_text()
        alerts.compose(run_dir, config)
    assert [tuple(recipients) for recipients, _ in sink.taken] == [told] * bool(told)
    sink.refused = {}
    assert alerts.deliver(run_dir, config) == 1
    assert [address for recipients, _ in sink.taken for address in recipients] == list(TO)
    assert all(mail["To"] == ", ".join(TO) for _, mail in sink.taken)
    assert not (run_dir / "outbox" / "refused.txt").exists()


def test_a_recipient_who_is_refused_may_be_taken_off_the_settings(tmp_path, sink):
    run_dir = make_night(tmp_path, "regressed")
    mail = {"host": "127.0.0.1", "port": sink.port}
    sink.refused = {TO[1]: "550 no such user"}
    alerts.compose(run_dir, settings(**mail))
    with pytest.raises(DeliveryError):
        alerts.deliver(run_dir, settings(**mail))
    alerts.compose(run_dir, settings(to=TO[:1], **mail))
    assert alerts.deliver(run_dir, settings(to=TO[:1], **mail)) == 1
    assert [recipients for recipients, _ in sink.taken] == [[TO[0]]]
    assert alerts.pending(run_dir) == []


def test_a_mail_that_is_refused_holds_up_no_other(tmp_path, sink):
    run_dir = make_night(tmp_path, "regressed")
    config = settings(host="127.0.0.1", port=sink.port)
    [first] = alerts.compose(run_dir, config)
    records.write(records.read(Message, first).model_copy(update={"to": ("gone@example.org",)}), first)
    for number in (2, 3):
        records.write(Message(subject=f"mail {number}", to=TO, text="t", html="h"), first.with_name(f"00{number}.json"))
    sink.refused = {"gone@example.org": "550 no such user"}
    with pytest.raises(DeliveryError, match=r"gone@example\.org"):
        alerts.deliver(run_dir, config)
    assert [mail["Subject"] for _, mail in sink.taken] == ["mail 2", "mail 3"]
    assert alerts.pending(run_dir) == [first]


@pytest.mark.parametrize("goodbye", ["421 going down", "500 what?"])
def test_a_mail_that_was_taken_is_not_sent_again_whatever_the_host_says_at_the_end(tmp_path, sink, goodbye):
    run_dir = make_night(tmp_path, "regressed")
    config = settings(host="127.0.0.1", port=sink.port)
    sink.goodbye = goodbye
    alerts.compose(run_dir, config)
    assert [alerts.deliver(run_dir, config) for _ in range(3)] == [1, 0, 0]
    assert len(sink.taken) == 1


def test_the_report_says_that_a_mail_was_refused_until_it_is_taken(home, refusing, sink):
    config = Config(home=home, mail={"to": TO, "host": "127.0.0.1", "port": refusing.port})
    run_dir = make_night(config.runs_dir / "night", "wrong", config=config)
    stages.run_stage("render", run_dir, config)
    before = (run_dir / "report.html").read_bytes()
    for _ in range(2):
        with pytest.raises(DeliveryError):
            stages.run_stage("alert", run_dir, config)
        told = (run_dir / "report.html").read_text()
        assert told.count("was not taken, and is kept to be sent again") == 1
        assert "no thanks" in told
    stages.run_stage("render", run_dir, config)  # says the same
    assert (run_dir / "report.html").read_text() == told
    mended = config.model_copy(update={"mail": config.mail.model_copy(update={"port": sink.port})})
    stages.run_stage("alert", run_dir, mended)
    assert len(sink.taken) == 1
    assert (run_dir / "report.html").read_bytes() == before


def test_an_absent_host_is_a_sentence_and_the_mail_is_kept(tmp_path):
    run_dir = make_night(tmp_path, "wrong")
    config = settings(host="127.0.0.1", port=free_port())
    alerts.compose(run_dir, config)
    with pytest.raises(DeliveryError, match="refused"):
        alerts.deliver(run_dir, config)
    assert len(alerts.pending(run_dir)) == 1


@pytest.mark.parametrize(("mail", "why"), [({"host": ""}, "mail.host"), ({"host": "h", "to": ()}, "mail.to")])
def test_without_settings_it_says_so_and_keeps_the_mail(mail, why, tmp_path):
    run_dir = make_night(tmp_path, "not_built")
    said: list[str] = []
    alerts.compose(run_dir, settings(**mail))
    assert alerts.deliver(run_dir, settings(**mail), said.append) == 0
    assert why in said[0]
    assert str(run_dir / "outbox") in said[0]
    assert len(alerts.pending(run_dir)) == 1


def test_a_clean_night_says_nothing(tmp_path, capsys):
    run_dir = make_night(tmp_path, "clean")
    assert alerts.compose(run_dir, settings()) == []
    assert alerts.deliver(run_dir, settings()) == 0
    assert capsys.readouterr().out == ""


def test_no_header_can_be_smuggled_in(tmp_path, sink):
    run_dir = make_night(tmp_path, "regressed")
    name = run_dir / "prepare.json"
    content = json.loads(name.read_text())
    content["environment"]["device_name"] = "X\r\nBcc: thief@example.org\n\nbody"
    name.write_text(json.dumps(content))
    config = settings(host="127.0.0.1", port=sink.port, sender="me@example.org")
    [path] = alerts.compose(run_dir, config)
    crafted = records.read(Message, path).model_copy(update={"subject": "a\nBcc: thief@example.org\r\n\r\nbody"})
    records.write(crafted, path)
    alerts.deliver(run_dir, config)
    [(recipients, mail)] = sink.taken
    assert tuple(recipients) == TO
    assert mail["Bcc"] is None
    assert mail["Subject"] == "a Bcc: thief@example.org body"


def test_an_attachment_outside_the_run_directory_is_refused(tmp_path):
    (tmp_path / "secret").write_text("x")
    message = Message(subject="s", to=TO, text="t", html="h", attachments=("../secret",))
    with pytest.raises(DeliveryError, match="outside the run directory"):
        smtp.compose(message, tmp_path / "run", "me@example.org")


# ---- no verdict ---------------------------------------------------------------------------------------------

WHY = "prepare: stage prepare could not work (exit code 4): MLflow at http://127.0.0.1:9 did not answer"


def tell_no_verdict(run_dir: Path, config: Config) -> None:
    stages.run_stage("alert", run_dir, config, stages.Options(no_verdict=WHY))


def test_golden_mail_of_a_night_without_a_verdict(tmp_path):
    where = alerts.compose_no_verdict(tmp_path / "night", settings(), WHY)
    assert_golden("no_verdict", sorted((where / "outbox").glob("*.json")), tmp_path)


def test_a_night_without_a_verdict_is_told_to_the_operators_once(home, sink):
    config = settings(operators=("ops@example.org",), host="127.0.0.1", port=sink.port)
    unmade, unjudged = config.runs_dir / "unmade", make_night(config.runs_dir / "unjudged", until="build")
    for run_dir in (unmade, unjudged, unmade):
        tell_no_verdict(run_dir, config)
    assert [recipients for recipients, _ in sink.taken] == [["ops@example.org"]] * 2
    assert all(mail["Subject"].startswith(f"[fp8bench] NO VERDICT: {WHY}"[:149]) for _, mail in sink.taken)


def test_a_refused_mail_about_no_verdict_is_told_later_unless_there_is_one_by_then(home, refusing, sink):
    config = settings(host="127.0.0.1", port=refusing.port)
    for name in ("one", "judged"):
        with pytest.raises(DeliveryError, match="no thanks"):
            tell_no_verdict(config.runs_dir / name, config)
    make_night(config.runs_dir / "judged", "clean", config=config)
    back = settings(host="127.0.0.1", port=sink.port)
    assert list(late._without_verdict(back, young_s=3600)) == []  # the task tries again itself
    assert [told.path.name for told in late.tell(back, young_s=-1)] == ["judged", "one"]
    assert len(sink.taken) == 1
    assert [told.path.name for told in late.tell(back, young_s=-1)] == []


def test_a_mail_about_no_verdict_stands_in_for_no_other(home, sink):
    """A night that was cleared and judged after all says what it found."""
    config = settings(host="127.0.0.1", port=sink.port)
    run_dir = config.runs_dir / "night"
    tell_no_verdict(run_dir, config)
    make_night(run_dir, "regressed", config=config)
    with pytest.raises(UsageError, match="has a verdict: leave --no-verdict out"):
        tell_no_verdict(run_dir, config)
    stages.run_stage("alert", run_dir, config)
    assert [mail["Subject"].split()[1] for _, mail in sink.taken] == ["NO", "REGRESSED"]


# ---- over several nights ------------------------------------------------------------------------------------


class Nights:
    """Nights one after the other in one home; each is a day later and may have its causes changed."""

    def __init__(self, home: Path) -> None:
        self.home, self.day = home, 0

    def run(self, state: str = "regressed", change=None, requested=None) -> tuple[Path, list[Message]]:
        created = datetime(2026, 3, 10, 2, tzinfo=UTC) + timedelta(days=self.day)
        self.day += 1
        run_dir = make_night(self.home / "runs" / f"night-{self.day}", state, created=created)
        if change:
            verdicts = records.read(Verdicts, run_dir / "verdicts.json")
            changed = tuple(change(cause) for cause in verdicts.causes)
            records.write(verdicts.model_copy(update={"causes": changed}), run_dir / "verdicts.json")
        if requested:
            prepared = records.read(Prepared, run_dir / "prepare.json")
            records.write(prepared.model_copy(update={"requested": requested}), run_dir / "prepare.json")
        return run_dir, messages(alerts.compose(run_dir, settings(digest=False)))

    def standing(self) -> causes.Standing:
        (found,) = causes.read(self.home).causes
        return found

    def decide(self, kind: str, **how) -> None:
        with causes.changing(self.home) as held:
            held[0] = held[0].with_standing(causes.decide(self.standing(), kind, "jo", "known", **how))


@pytest.fixture
def nights(home):
    return Nights(home)


def slower(effect: float):
    """The cause with `effect` as its worst."""

    def change(cause: Cause) -> Cause:
        worst = Effect(value=effect, lower=effect - 0.01, upper=effect + 0.01, p_value=1e-9, launches=6)
        return cause.model_copy(update={"worst": worst})

    return change


def kinds(found: list[Message]) -> list[str]:
    return [message.subject.split()[1] for message in found]


def test_what_was_told_is_told_again_only_when_it_gets_worse(nights):
    assert kinds(nights.run()[1]) == ["REGRESSED"]
    quiet, none = nights.run()
    assert none == []
    assert "unchanged since night" in next(iter(records.read(records.Alerts, quiet / "alerts.json").quiet.values()))
    assert kinds(nights.run(change=slower(0.17))[1]) == []  # within what its interval leaves open
    assert kinds(nights.run(change=slower(0.25))[1]) == ["WORSE"]
    assert kinds(nights.run(change=slower(0.25))[1]) == []
    assert kinds(nights.run(change=slower(0.15))[1]) == []


def test_a_creep_speaks_when_it_adds_up(nights):
    told = [kinds(nights.run(change=slower(0.10 + 0.02 * night))[1]) for night in range(5)]
    assert told == [["REGRESSED"], [], ["WORSE"], [], ["WORSE"]]


def test_a_cause_recovers_once_and_is_new_when_it_comes_back(nights):
    nights.run()
    assert kinds(nights.run("clean", requested={"baseline": "v1"})[1]) == []
    _, [mail] = nights.run("clean")
    assert "RECOVERED cpu/Xeon Platinum 8481C group-128-row/bfloat16 (was regressed)" in mail.subject
    assert nights.run("clean")[1] == []
    assert not nights.standing().is_open
    assert causes.open_nights(nights.home) == set()
    assert kinds(nights.run()[1]) == ["REGRESSED"]
    assert len(causes.open_nights(nights.home)) == 1


def test_a_cause_that_was_accepted_as_the_baseline_ends_without_a_word(nights):
    nights.run()
    run_dir = make_night(nights.home / "runs" / "accepted", "clean", created=datetime(2026, 3, 12, tzinfo=UTC))
    prepared = records.read(Prepared, run_dir / "prepare.json")
    slower_build = prepared.baseline.model_copy(update={"sha": "f" * 40})
    records.write(prepared.model_copy(update={"baseline": slower_build}), run_dir / "prepare.json")
    assert alerts.compose(run_dir, settings(digest=False)) == []
    assert not nights.standing().is_open
    (reason,) = records.read(records.Alerts, run_dir / "alerts.json").quiet.values()
    assert reason == "the baseline moved: nights compare with fffffffff now"


def test_a_night_that_proves_nothing_clears_nothing(nights):
    nights.run()
    assert kinds(nights.run("invalid")[1]) == ["INVALID"]
    assert nights.standing().is_open
    assert kinds(nights.run("not_built")[1]) == ["NOT_BUILT"]
    assert {entry.verdict for entry in causes.read(nights.home).causes if entry.is_open} == {
        Verdict.REGRESSED,
        Verdict.NOT_BUILT,
    }


def test_the_same_night_says_the_same_whatever_happened_since(nights):
    first, [mail] = nights.run()
    nights.run("clean")
    assert messages(alerts.compose(first, settings(digest=False))) == [mail]
    assert nights.standing().recovered


def test_what_recovers_after_months_is_told_before_it_is_forgotten(nights):
    """Nothing measured its cells meanwhile, so it stayed open."""
    nights.run()
    nights.day += 120
    assert kinds(nights.run("clean")[1]) == ["RECOVERED"]
    nights.day += 120
    nights.run("clean")
    assert causes.read(nights.home).causes == ()


@pytest.mark.parametrize("kind", ["silenced", "accepted"])
def test_a_decision_keeps_a_cause_quiet_until_it_worsens(kind, nights):
    nights.run(change=slower(0.10))
    nights.decide(kind, limit=0.20)
    quiet, none = nights.run(change=slower(0.19))
    assert none == []
    assert f"{kind} by jo: known" in records.read(records.Alerts, quiet / "alerts.json").quiet.values()
    assert kinds(nights.run(change=slower(0.24))[1]) == ["WORSE"]
    assert kinds(nights.run(change=slower(0.24))[1]) == []


@pytest.mark.parametrize(("kind", "outlives"), [("acknowledged", False), ("silenced", True), ("accepted", False)])
def test_only_a_silence_outlives_a_recovery(kind, outlives, nights):
    nights.run()
    nights.decide(kind)
    assert kinds(nights.run("clean")[1]) == ["RECOVERED"]
    assert bool(nights.standing().decision) == outlives
    assert kinds(nights.run()[1]) == ([] if outlives else ["REGRESSED"])


def test_a_silence_ends_at_its_date(nights):
    nights.run()
    nights.decide("silenced", days=1, now=datetime(2026, 3, 11, tzinfo=UTC))
    nights.run("clean")
    nights.day += 2
    assert kinds(nights.run()[1]) == ["REGRESSED"]


def test_a_broken_cause_is_worse_with_every_cell_more(nights):
    nights.run("wrong", change=lambda cause: cause.model_copy(update={"cells": cause.cells[:2]}))
    nights.decide("silenced")
    assert nights.run("wrong", change=lambda cause: cause.model_copy(update={"cells": cause.cells[1:3]}))[1] == []
    assert kinds(nights.run("wrong")[1]) == ["WORSE"]


def test_mails_of_a_cause_are_one_thread(nights):
    (_, [first]), (_, [worse]), (_, [over]) = nights.run(), nights.run(change=slower(0.3)), nights.run("clean")
    thread = first.references[0]
    assert first.references == (thread,)
    assert worse.references == (thread, first.message_id)
    assert over.references == (thread, worse.message_id)
    assert len({first.message_id, worse.message_id, over.message_id}) == 3


def test_golden_mail_of_a_story(nights, tmp_path):
    nights.run()
    nights.run(change=slower(0.3))
    assert_golden("worse", sorted((nights.home / "runs" / "night-2" / "outbox").glob("*.json")), nights.home)
    nights.run("clean")
    assert_golden("recovered", sorted((nights.home / "runs" / "night-3" / "outbox").glob("*.json")), nights.home)


def test_the_picture_and_the_thread_reach_the_reader(nights, sink):
    nights.run()
    worse, _ = nights.run(change=slower(0.3))
    alerts.deliver(worse, settings(host="127.0.0.1", port=sink.port))
    [(_, mail)] = sink.taken
    assert mail["In-Reply-To"].strip() == mail["References"].split()[-1]
    html = mail.get_body(("html",)).get_content()
    assert 'src="cid:picture"' in html
    [image] = [part for part in mail.walk() if part.get_content_type() == "image/png"]
    assert image["Content-ID"] == "<picture>"
    assert image.get_content_disposition() == "inline"
    with Image.open(io.BytesIO(image.get_content())) as picture:
        assert picture.size == (1240, 2 * (8 + 46 * 4 + 30))
        assert len(picture.getcolors()) > 4
    assert len(image.get_content()) < 40_000


# ---- the weekly digest --------------------------------------------------------------------------------------


def test_the_first_night_of_a_week_sends_a_digest_once(home):
    def compose(day: int, state: str = "clean") -> list[str]:
        run_dir = home / "runs" / f"day-{day}"
        if not run_dir.exists():
            make_night(run_dir, state, created=datetime(2026, 3, day, 2, tzinfo=UTC))
        return kinds(messages(alerts.compose(run_dir, settings())))

    assert compose(13, "regressed") == ["REGRESSED"]  # a Friday: the first night of all has nothing to look back at
    assert compose(15) == ["RECOVERED"]
    assert compose(16) == ["DIGEST"]
    assert compose(17) == []
    assert compose(16) == ["DIGEST"]
    assert compose(23, "wrong") == ["WRONG", "DIGEST"]


def test_golden_digest(nights):
    nights.run()
    nights.decide("acknowledged")
    nights.run("invalid")
    nights.run("clean", requested={"baseline": "v1"})
    now = datetime(2026, 3, 13, tzinfo=UTC)
    where = alerts.compose_digest(settings(), now)
    assert_golden("digest", sorted((where / "outbox").glob("*.json")), nights.home)
    assert digest.build(settings(), now + timedelta(days=30)).subject == (
        "[fp8bench] DIGEST week 2026-W15: no night ran, 1 cause open"
    )


def test_a_night_that_never_began_is_no_night_of_the_digest(home):
    """It measured nothing; that it was there is told all the same."""
    now = datetime.now(UTC)
    for name in ("one", "two"):
        (home / "runs" / name).mkdir(parents=True)
    assert digest.build(settings(), now).subject.endswith(": no night ran, 2 that never began, 0 causes open")
    make_night(home / "runs" / "clean", "clean", created=now)
    told = "1 night, 1 without a regression, 2 that never began, 0 causes open"
    assert digest.build(settings(), now + timedelta(seconds=1)).subject.endswith(f": {told}")


def test_a_digest_that_was_refused_is_replaced_by_the_next_and_sent_by_tell(home, refusing, sink, monkeypatch, capsys):
    for name, value in (("TO", json.dumps(TO)), ("HOST", "127.0.0.1"), ("PORT", str(refusing.port))):
        monkeypatch.setenv(f"FP8BENCH_MAIL__{name}", value)
    old = alerts.compose_digest(config.load(), datetime(2026, 3, 13, tzinfo=UTC))
    for _ in range(2):
        assert main(["digest"]) == 4
        assert "`fp8bench tell` sends it" in capsys.readouterr().err
    assert main(["tell"]) == 4
    assert capsys.readouterr().out.count("could not tell") == 2
    monkeypatch.setenv("FP8BENCH_MAIL__PORT", str(sink.port))
    assert main(["tell"]) == 0
    first, second = (mail["Subject"] for _, mail in sink.taken)
    assert "week 2026-W11" in first
    assert f"week {digest.week_of(datetime.now(UTC))}" in second
    assert alerts.pending(old) == []
    assert (main(["tell"]), capsys.readouterr().out.count("told")) == (0, 2)  # these two, and no more


# ---- the environment has shifted ------------------------------------------------------------------------------


def _shifted(
    home: Path, day: int, state: str = "clean", shifts: bool = True, value: float = 0.117, families: int = 1
) -> list[Message]:
    """The mails of a night whose baseline build was, or was not, slower than on record."""
    run_dir = make_night(home / "runs" / f"day-{day}", state, run_id=f"day-{day}", created=_on_day(day))
    found = records.read(Verdicts, run_dir / "verdicts.json")
    shift = Shift(
        id="cpu-environment",
        backend="cpu",
        families=("per-token/bfloat16", "per-tensor/bfloat16")[:families],
        cells=tuple(cell.cell for cell in found.cells[:3]),
        value=value,
        worst=0.2,
        worst_cell=found.cells[0].cell,
        recorded="day-0",
    )
    records.write(found.model_copy(update={"shifts": (shift,) * shifts}), run_dir / "verdicts.json")
    return messages(alerts.compose(run_dir, settings(operators=("ops@example.org",), digest=False)))


def _on_day(day: int) -> datetime:
    return datetime(2026, 4, 1, 2, tzinfo=UTC) + timedelta(days=day)


def test_a_shift_is_told_once_to_the_operators_and_blames_no_commit(home):
    assert _shifted(home, 0, shifts=False) == []
    (mail,) = _shifted(home, 1)
    assert mail.to == ("ops@example.org",)
    assert mail.subject == "[fp8bench] SHIFTED Xeon Platinum 8481C: baseline build +12.4% (cpu)"
    assert "no commit is to blame" in mail.text
    assert "Nothing that is recorded of the machine has changed" in mail.text
    assert "Suspect" not in mail.text
    assert "cpu per-token/bfloat16  +12.4% (median of its cells)" in mail.text
    assert _shifted(home, 2) == []
    assert _shifted(home, 3, shifts=False) == []
    assert _shifted(home, 4) == []  # it comes and goes
    assert len(_shifted(home, 30)) == 1  # forgotten meanwhile
    assert len(_shifted(home, 1)) == 1  # as it was told then


def test_a_shift_that_takes_or_slows_down_more_is_news(home):
    assert len(_shifted(home, 1)) == 1
    assert _shifted(home, 2, value=0.3) == []  # on a CPU, so much more is nobody's news
    assert len(_shifted(home, 3, value=0.5)) == 1
    assert _shifted(home, 4, value=0.7) == []
    assert len(_shifted(home, 5, families=2)) == 1
    assert _shifted(home, 6, families=2) == []


def test_a_shift_names_what_changed_since(home):
    _shifted(home, 0, shifts=False)
    file = home / "runs" / "day-0" / "prepare.json"
    before = records.read(Prepared, file)
    older = before.environment.model_copy(update={"versions": before.environment.versions | {"torch": "2.11.0"}})
    records.write(before.model_copy(update={"environment": older}), file)
    (mail,) = _shifted(home, 1)
    assert "Changed since: torch 2.11.0 → 2.13.0+cpu." in mail.text


def test_an_invalid_night_tells_that_and_no_shift(home):
    assert kinds(_shifted(home, 1, "invalid")) == ["INVALID"]
    assert kinds(_shifted(home, 2)) == ["SHIFTED"]
