"""Mail: one a cause, golden in every state, handed over once, to a real SMTP sink."""

import json
import os
import socket
from email import message_from_bytes, policy
from pathlib import Path

import pytest
from aiosmtpd.controller import Controller
from nights import STATES, make_night

from fp8bench import alerts, records
from fp8bench.alerts import smtp
from fp8bench.config import Config, MailSettings
from fp8bench.errors import DeliveryError
from fp8bench.records import Logged, Message

GOLDEN = Path(__file__).parent / "golden" / "mail"
TO = ("kernels@example.org", "on-call@example.org")
LINKS = {
    "report": "https://mlflow.example.org/#/experiments/1/runs/r1/artifacts/report.html",
    "cpu": "https://mlflow.example.org/#/experiments/1/runs/r1",
    "compare cpu": "https://mlflow.example.org/#/compare-runs?runs=%5B%22r0%22%2C%22r1%22%5D",
}


def settings(**mail: object) -> Config:
    return Config(mail=MailSettings(**{"to": TO, **mail}))


def messages(paths: list[Path]) -> list[Message]:
    return [records.read(Message, path) for path in paths]


class Sink:
    """Keeps what it is given, or refuses it."""

    def __init__(self, answer: str = "250 OK") -> None:
        self.answer, self.taken = answer, []

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
    controller = Controller(handler, hostname="127.0.0.1", port=_free_port())
    controller.start()
    handler.port = controller.port
    yield handler
    controller.stop()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.mark.parametrize("state", STATES)
def test_golden_mail_of_every_state(state, tmp_path):
    """To renew them after a change of wording: GOLDEN=write pytest tests/test_alerts.py"""
    run_dir = make_night(tmp_path, state)
    if state != "crashed":  # one state without MLflow: the report's path stands for its address
        records.write(Logged(tracking_uri="", experiment_id="1", runs={}, links=LINKS), run_dir / "mlflow.json")
    found = {}
    for message in messages(alerts.compose(run_dir, settings())):
        head = f"To: {', '.join(message.to)}\nSubject: {message.subject}\n\n"
        found[f"{state}.txt"] = head + message.text.replace(str(tmp_path), "RUN_DIR")
        found[f"{state}.html"] = message.html.replace(str(tmp_path), "RUN_DIR")
    if os.environ.get("GOLDEN") == "write":
        GOLDEN.mkdir(parents=True, exist_ok=True)
        for name, text in found.items():
            (GOLDEN / name).write_text(text)
    assert found == {path.name: path.read_text() for path in GOLDEN.glob(f"{state}.*")}


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


def test_the_subject_says_what_where_how_much_and_who(tmp_path):
    run_dir = make_night(tmp_path, "regressed", suite="reference")
    subject = messages(alerts.compose(run_dir, settings()))[0].subject
    assert subject == "[fp8bench] REGRESSED cuda/H200 +4.1% (4 cells) suspect abc1234de"


def test_composing_twice_doubles_nothing_and_leaves_sent_mail_alone(tmp_path):
    run_dir = make_night(tmp_path, "regressed")
    first = alerts.compose(run_dir, settings())
    before = first[0].read_bytes()
    assert alerts.compose(run_dir, settings()) == first
    assert sorted(path.name for path in (run_dir / "outbox").iterdir()) == ["001.json"]
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


def test_an_absent_host_is_a_sentence_and_the_mail_is_kept(tmp_path):
    run_dir = make_night(tmp_path, "wrong")
    config = settings(host="127.0.0.1", port=_free_port())
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
