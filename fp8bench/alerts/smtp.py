"""Plain SMTP, as the `mail` settings say."""

from __future__ import annotations

import re
import smtplib
import ssl
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from email.message import EmailMessage
from email.utils import formatdate, getaddresses, make_msgid
from mimetypes import guess_type
from pathlib import Path
from typing import TYPE_CHECKING

from .. import wording
from ..errors import DeliveryError, RefusedError
from ..records import Message

if TYPE_CHECKING:
    from ..config import Config, MailSettings

TIMEOUT_S = 15.0
_TROUBLE = (OSError, ValueError, smtplib.SMTPException)


def why_not(config: Config) -> str | None:
    """Why no mail can be sent with these settings, or None."""
    if not config.mail.host:
        return "no mail host is set (mail.host)"
    return None if config.mail.about_kernels else "nobody is named to receive mail (mail.to)"


def send(message: Message, run_dir: Path, config: Config) -> None:
    """Hand one message to the mail host, for those who do not have it yet; nothing is lost.

    RefusedError when it is refused for some or all of them, another DeliveryError when the host lets nobody send.
    """
    told = f"mail host {config.mail.host}:{config.mail.port} did not take {message.subject!r}"
    kept = f"It is kept in {run_dir / 'outbox'}: mend the mail settings where they are wrong; `fp8bench tell` sends it."
    try:
        mail = compose(message, run_dir, config.mail.sender)
    except (OSError, ValueError) as error:
        raise RefusedError(f"{message.subject!r} cannot be composed: {_reason(error)}. {kept}") from None
    to = [address for _, address in getaddresses([mail["To"]]) if address and address not in message.taken]
    if message.taken and not to:  # who refused it is not named any more
        return
    try:
        with _session(config.mail) as client:
            taken, why = _hand_over(client, mail, to)
    except _TROUBLE as error:
        raise DeliveryError(f"{told}: {_reason(error)}. {kept}") from None
    if why:
        raise RefusedError(f"{told} {why}. {kept}", taken)


@contextmanager
def _session(mail: MailSettings) -> Iterator[smtplib.SMTP]:
    """A client that may send. Its goodbye waits for no answer: whatever that is, the host has what it took."""
    client = connect(mail)
    try:
        if mail.user:
            client.login(mail.user, mail.password.get_secret_value())
        yield client
    finally:
        with suppress(*_TROUBLE):
            client.putcmd("QUIT")
        client.close()


def _hand_over(client: smtplib.SMTP, mail: EmailMessage, to: Sequence[str]) -> tuple[tuple[str, ...], str]:
    """Who of `to` has the mail now, and why the others have not: "for ...: 550 ...", or "" where all have it."""
    try:
        refused = client.send_message(mail, to_addrs=to)
    except smtplib.SMTPRecipientsRefused as error:  # nobody has it, nor those whom it does not name
        return (), _refusals(error.recipients) or "for anybody: nobody is named to receive it"
    except _TROUBLE as error:
        return (), f"for {', '.join(to)}: {_reason(error)}"
    return tuple(address for address in to if address not in refused), _refusals(refused)


def _refusals(refused: Mapping[str, tuple[int, bytes]]) -> str:
    said = (f"for {to}: {code} {text.decode(errors='replace')}" for to, (code, text) in refused.items())
    return wording.one_line(", ".join(said), 300)


def _reason(error: Exception) -> str:
    return wording.one_line(str(error) or type(error).__name__, 200)


def connect(mail: MailSettings) -> smtplib.SMTP:
    """A greeted client of the mail host, not logged in. OSError or SMTPException where there is none."""
    if mail.security == "tls":
        return smtplib.SMTP_SSL(mail.host, mail.port, timeout=TIMEOUT_S, context=ssl.create_default_context())
    client = smtplib.SMTP(mail.host, mail.port, timeout=TIMEOUT_S)
    if mail.security == "starttls":
        try:
            client.starttls(context=ssl.create_default_context())
        except (OSError, smtplib.SMTPException):
            client.close()
            raise
    return client


def compose(message: Message, run_dir: Path, sender: str) -> EmailMessage:
    """The message as a MIME tree: plain text, HTML with its picture beside it, attachments.

    Headers are single lines by force.
    """
    mail = EmailMessage()
    mail["Subject"] = wording.one_line(message.subject)
    mail["From"] = wording.one_line(sender)
    mail["To"] = ", ".join(wording.one_line(address) for address in message.to)
    mail["Date"] = formatdate(localtime=False)
    mail["Message-ID"] = _header_id(message.message_id) or make_msgid(domain="fp8bench.invalid")
    if earlier := [found for entry in message.references if (found := _header_id(entry))]:
        mail["In-Reply-To"] = earlier[-1]
        mail["References"] = " ".join(earlier)
    mail.set_content(message.text)
    mail.add_alternative(message.html, subtype="html")
    if message.picture:
        _show(mail, _inside(run_dir, message.picture))
    for name in message.attachments:
        _attach(mail, _inside(run_dir, name))
    return mail


def _header_id(text: str) -> str:
    """`text` where it has the form of a message id, else "": it must not end the header."""
    return text if re.fullmatch(r"<[\w.-]+@[\w.-]+>", text, re.ASCII) else ""


def _inside(run_dir: Path, name: str) -> Path:
    path = (run_dir / name).resolve()
    if not path.is_relative_to(run_dir.resolve()):
        raise RefusedError(f"attachment {name!r} lies outside the run directory {run_dir}: it is not sent.")
    return path


def _show(mail: EmailMessage, path: Path) -> None:
    """The picture beside the HTML that shows it as cid:picture; no attachment to be opened."""
    html = mail.get_body(("html",))
    assert isinstance(html, EmailMessage)
    html.add_related(path.read_bytes(), "image", "png", cid="<picture>", disposition="inline", filename=path.name)


def _attach(mail: EmailMessage, path: Path) -> None:
    kind, _, subtype = (guess_type(path.name)[0] or "application/octet-stream").partition("/")
    if kind == "text":
        mail.add_attachment(path.read_text(encoding="utf-8"), subtype=subtype, filename=path.name)
        return
    mail.add_attachment(path.read_bytes(), maintype=kind, subtype=subtype, filename=path.name)
