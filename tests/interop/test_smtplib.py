"""The standard library's client, SMTP and LMTP, against a server on each loop."""

from __future__ import annotations

import asyncio
import random
import smtplib
from collections.abc import Callable
from email.message import EmailMessage
from pathlib import Path
from typing import Any, TypeVar

import pytest
from clients import PATIENCE, Sink, digest, stuffed

from fastsmtp import SMTPError, SMTPServer
from fastsmtp.testing import running

pytestmark = pytest.mark.interop

T = TypeVar("T")
BIG = 30_000_000
SENDER = "a@x.example"
RECIPIENT = "b@y.example"


class RecordingSMTP(smtplib.SMTP):
    """Keeps the octets of each message as they were before dots were stuffed."""

    flat: bytes = b""

    def sendmail(self, from_addr: Any, to_addrs: Any, msg: Any, *more: Any, **options: Any) -> Any:
        self.flat = msg
        return super().sendmail(from_addr, to_addrs, msg, *more, **options)


def client(address: tuple[str, int], kind: type[smtplib.SMTP] = RecordingSMTP) -> Any:
    host, port = address
    return kind(host, port, local_hostname="c.example", timeout=PATIENCE)


async def talk(server: SMTPServer, do: Callable[[Any], T], **listen: Any) -> T:
    """Serve while `do` talks to the address in a thread of its own."""
    async with running(server, **listen) as address:
        return await asyncio.to_thread(do, address)


def letter(**headers: str) -> EmailMessage:
    message = EmailMessage()
    message["From"] = headers.get("sender", SENDER)
    message["To"] = headers.get("recipient", RECIPIENT)
    message["Subject"] = headers.get("subject", "Hi")
    message.set_content("Hello,\n.\n..\n.dots\nthe end\n")
    return message


def all_octets(count: int) -> bytes:
    """Lines of every octet but CR and LF, ended by CRLF; many of them begin with a dot."""
    source = random.Random(count)
    text = bytes(octet for octet in range(256) if octet not in b"\r\n")
    lines = bytearray()
    while len(lines) < count:
        lines += b"." * source.randint(0, 2) + text[source.randint(0, 254) :] + b"\r\n"
    return bytes(lines)


def test_a_message_with_attachments_arrives_octet_for_octet(run: Any) -> None:
    sink = Sink()
    message = letter(subject="Grüße")
    blob = random.Random(1).randbytes(300_000)
    message.add_attachment(blob, maintype="application", subtype="octet-stream", filename="ü.bin")
    message.add_attachment("text\n.\n", filename="a.txt")

    def do(address: tuple[str, int]) -> bytes:
        with client(address) as smtp:
            assert smtp.send_message(message) == {}
            return smtp.flat

    flat = run(talk(sink.server(), do))
    (told,) = sink.arrived
    assert (told.octets, told.digest) == (len(flat), digest(flat))
    assert (told.sender, told.recipients, told.kind) == (SENDER, [RECIPIENT], "ESMTP")


def test_a_body_of_all_octets_arrives_octet_for_octet(run: Any) -> None:
    sink = Sink()
    body = all_octets(200_000)

    def do(address: tuple[str, int]) -> None:
        with client(address) as smtp:
            smtp.sendmail(SENDER, RECIPIENT, body, mail_options=["BODY=8BITMIME"])

    run(talk(sink.server(), do))
    (told,) = sink.arrived
    assert (told.digest, told.body_type) == (digest(body), "8bitmime")


def test_utf8_addresses_go_through_smtputf8(run: Any) -> None:
    sink = Sink()
    message = letter(sender="jörg@münchen.example", recipient="δοκιμή@παράδειγμα.example")

    def do(address: tuple[str, int]) -> bytes:
        with client(address) as smtp:
            assert smtp.send_message(message) == {}
            return smtp.flat

    flat = run(talk(sink.server(), do))
    (told,) = sink.arrived
    assert told.digest == digest(flat)
    assert (told.sender, told.recipients) == (
        "jörg@münchen.example",
        ["δοκιμή@παράδειγμα.example"],
    )
    assert (told.utf8, told.body_type, told.kind) == (True, "8bitmime", "UTF8SMTP")


def test_thirty_megabytes_arrive(run: Any) -> None:
    sink = Sink()
    body = (b"x" * 70 + b"\r\n..\r\n" + b"y" * 50 + b"\r\n") * (BIG // 128)

    def do(address: tuple[str, int]) -> None:
        with client(address) as smtp:
            smtp.sendmail(SENDER, RECIPIENT, body)
            smtp.sendmail(SENDER, RECIPIENT, b"small\r\n")

    run(talk(sink.server(size=2 * BIG), do))
    assert [told.digest for told in sink.arrived] == [digest(body), digest(b"small\r\n")]


def test_too_large_a_message_is_refused_by_its_declared_size(run: Any) -> None:
    sink = Sink()

    def do(address: tuple[str, int]) -> None:
        with client(address) as smtp:
            with pytest.raises(smtplib.SMTPSenderRefused) as refused:
                smtp.sendmail(SENDER, RECIPIENT, b"x" * 100_000)
            assert refused.value.smtp_code == 552
            assert refused.value.smtp_error.startswith(b"5.3.4 ")
            assert smtp.sendmail(SENDER, RECIPIENT, b"small\r\n") == {}

    run(talk(sink.server(size=50_000), do))
    assert [told.digest for told in sink.arrived] == [digest(b"small\r\n")]


def test_too_large_a_message_is_refused_at_its_end(run: Any) -> None:
    sink = Sink()

    def do(address: tuple[str, int]) -> None:
        with client(address) as smtp:
            with pytest.raises(smtplib.SMTPDataError) as refused:
                smtp.sendmail(SENDER, RECIPIENT, b"x" * 100_000)
            assert refused.value.smtp_code == 552
            assert smtp.sendmail(SENDER, RECIPIENT, b"small\r\n") == {}

    run(talk(sink.server(size=50_000, hide_size=True), do))
    assert sink.arrived[-1].digest == digest(b"small\r\n")


def test_a_thousand_recipients_are_kept_in_order(run: Any) -> None:
    sink = Sink()
    recipients = [f"user{number}@y.example" for number in range(1000)]

    def do(address: tuple[str, int]) -> None:
        with client(address) as smtp:
            assert smtp.sendmail(SENDER, recipients, b"text\r\n") == {}

    run(talk(sink.server(), do))
    assert sink.arrived[0].recipients == recipients


def test_refused_recipients_are_reported_one_by_one(run: Any) -> None:
    def on_rcpt_to(address: Any, session: Any, callback: Callable[..., object]) -> None:
        refused = address.local_part.startswith("no")
        callback(SMTPError("unknown here", response_code=550) if refused else None)

    sink = Sink()

    def do(address: tuple[str, int]) -> dict[str, tuple[int, bytes]]:
        with client(address) as smtp:
            told = smtp.sendmail(SENDER, ["no1@y.example", RECIPIENT, "no2@y.example"], b"t\r\n")
            with pytest.raises(smtplib.SMTPRecipientsRefused):
                smtp.sendmail(SENDER, ["no3@y.example"], b"t\r\n")
            assert smtp.noop()[0] == 250
            return told

    told = run(talk(sink.server(on_rcpt_to=on_rcpt_to), do))
    expected = (550, b"5.1.1 unknown here")
    assert told == {"no1@y.example": expected, "no2@y.example": expected}
    assert [one.recipients for one in sink.arrived] == [[RECIPIENT]]


def test_the_other_commands_are_answered(run: Any) -> None:
    def do(address: tuple[str, int]) -> None:
        with client(address) as smtp:
            assert smtp.helo()[0] == 250
            assert smtp.ehlo()[0] == 250
            assert smtp.esmtp_features["size"] == "26214400"
            assert {"pipelining", "8bitmime", "smtputf8", "chunking", "dsn"} <= set(
                smtp.esmtp_features
            )
            assert smtp.verify(RECIPIENT)[0] == 252
            assert smtp.expn("list")[0] == 502
            assert smtp.noop()[0] == 250
            assert smtp.rset()[0] == 250
            assert smtp.help().startswith(b"2.0.0 ")
            assert smtp.quit()[0] == 221

    run(talk(Sink().server(), do))


# --- LMTP -----------------------------------------------------------------------------------------


def deliver(lmtp: smtplib.SMTP, recipients: list[str], body: bytes) -> list[int]:
    """Send one message and read a reply per recipient, which `sendmail` of LMTP does not do."""
    assert lmtp.ehlo_or_helo_if_needed() is None
    assert lmtp.mail(SENDER)[0] == 250
    for recipient in recipients:
        assert lmtp.rcpt(recipient)[0] == 250
    assert lmtp.docmd("DATA")[0] == 354
    lmtp.send(stuffed(body) + b".\r\n")
    return [lmtp.getreply()[0] for _ in recipients]


@pytest.fixture(params=["tcp", "unix"])
def where(request: pytest.FixtureRequest, tmp_path: Path) -> dict[str, Any]:
    """What `listen` takes."""
    if request.param == "unix":
        return {"path": str(tmp_path / "lmtp")}
    return {"port": 0, "host": "127.0.0.1"}


def test_lmtp_takes_a_large_message(run: Any, where: dict[str, Any]) -> None:
    sink = Sink()
    body = all_octets(BIG)

    def do(address: tuple[str, int]) -> list[int]:
        with client(address, smtplib.LMTP) as lmtp:
            return deliver(lmtp, [RECIPIENT], body)

    assert run(talk(sink.server(lmtp=True, size=2 * BIG), do, **where)) == [250]
    (told,) = sink.arrived
    assert (told.digest, told.kind) == (digest(body), "LMTP")


def test_lmtp_answers_each_of_a_thousand_recipients(run: Any, where: dict[str, Any]) -> None:
    async def on_data(stream: Any, session: Any) -> list[Any]:
        async for _ in stream:
            pass
        count = len(session.envelope.rcpt_to)
        return [SMTPError("full", response_code=452) if at % 3 else "kept" for at in range(count)]

    recipients = [f"user{number}@y.example" for number in range(1000)]

    def do(address: tuple[str, int]) -> list[int]:
        with client(address, smtplib.LMTP) as lmtp:
            told = deliver(lmtp, recipients, b"text\r\n")
            assert deliver(lmtp, [RECIPIENT, RECIPIENT], b"text\r\n") == [250, 452]
            return told

    told = run(talk(Sink().server(lmtp=True, on_data=on_data), do, **where))
    assert told == [452 if at % 3 else 250 for at in range(1000)]


def test_sendmail_of_lmtp_delivers_to_one_recipient(run: Any, where: dict[str, Any]) -> None:
    sink = Sink()

    def do(address: tuple[str, int]) -> None:
        with client(address, smtplib.LMTP) as lmtp:
            assert lmtp.sendmail(SENDER, RECIPIENT, b"one\r\n") == {}
            assert lmtp.sendmail(SENDER, RECIPIENT, b".two\r\n") == {}

    run(talk(sink.server(lmtp=True), do, **where))
    assert [told.digest for told in sink.arrived] == [digest(b"one\r\n"), digest(b".two\r\n")]
