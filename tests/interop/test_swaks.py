"""swaks, SMTP and LMTP, over TCP and UNIX sockets, against a server on each loop."""

from __future__ import annotations

import asyncio
import email
import email.policy
import random
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from clients import PATIENCE, Sink, digest, program, stuffed

from fastsmtp import MessageAborted, SMTPError, SMTPServer
from fastsmtp.testing import running

SWAKS, REASON = program("swaks", "swaks")

pytestmark = [pytest.mark.interop, pytest.mark.skipif(not SWAKS, reason=REASON)]

BIG = 30_000_000
# swaks knows no other ways: the protocol, and where its server listens
WAYS = {
    "smtp-tcp": ("ESMTP", False),
    "helo-tcp": ("SMTP", False),
    "smtp-unix": ("ESMTP", True),
    "lmtp-tcp": ("LMTP", False),
    "lmtp-unix": ("LMTP", True),
}


class Swaks:
    """Runs swaks against a server, one way; `way` is a key of WAYS."""

    def __init__(self, run: Any, way: str, folder: Path) -> None:
        self.run = run
        self.protocol, self.unix = WAYS[way]
        self.folder = folder

    def file(self, octets: bytes) -> str:
        """Write what swaks shall read."""
        path = self.folder / "octets"
        path.write_bytes(octets)
        return f"@{path}"

    def __call__(self, server: SMTPServer, *arguments: str) -> tuple[int, str]:
        """Return swaks' exit status and its transcript."""
        return self.run(self._talk(server, arguments))

    async def _talk(self, server: SMTPServer, arguments: tuple[str, ...]) -> tuple[int, str]:
        path = str(self.folder / "socket")
        where: dict[str, Any] = {"path": path} if self.unix else {}
        async with running(server, **where) as (host, port):
            target = ["--socket", path] if self.unix else ["--server", f"{host}:{port}"]
            command = [SWAKS, *target, "--protocol", self.protocol, "--timeout", f"{PATIENCE:.0f}"]
            command += ["--helo", "c.example", "--from", "a@x.example", *arguments]
            done = await asyncio.to_thread(
                subprocess.run, command, capture_output=True, timeout=2 * PATIENCE, check=False
            )
        return done.returncode, (done.stdout + done.stderr).decode("latin-1")


@pytest.fixture(params=WAYS)
def swaks(run: Any, request: pytest.FixtureRequest, tmp_path: Path) -> Swaks:
    return Swaks(run, request.param, tmp_path)


@pytest.fixture
def smtp(run: Any, tmp_path: Path) -> Swaks:
    return Swaks(run, "smtp-tcp", tmp_path)


def options_of(swaks: Swaks) -> dict[str, Any]:
    return {"lmtp": swaks.protocol == "LMTP"}


def test_a_message_of_eight_bits_and_dots_arrives(swaks: Swaks) -> None:
    sink = Sink()
    data = swaks.file(b"Subject: x\n\n.dot\n..\n.\n\xe4\xf6\xfc \x80\xff\nlast")
    status, transcript = swaks(
        sink.server(**options_of(swaks)), "--to", "b@y.example", "--data", data
    )
    assert status == 0, transcript
    (told,) = sink.arrived
    expected = b"Subject: x\r\n\r\n.dot\r\n..\r\n.\r\n\xe4\xf6\xfc \x80\xff\r\nlast\r\n"
    kind = {"ESMTP": "ESMTP", "SMTP": "SMTP", "LMTP": "LMTP"}[swaks.protocol]
    assert (told.digest, told.kind) == (digest(expected), kind)


@pytest.mark.parametrize("way", ["smtp-tcp", "lmtp-unix"])
def test_thirty_megabytes_arrive(run: Any, tmp_path: Path, way: str) -> None:
    swaks = Swaks(run, way, tmp_path)
    sink = Sink()
    body = (b"x" * 70 + b"\r\n..\r\n" + b"\xe4" * 50 + b"\r\n") * (BIG // 128)
    data = swaks.file(stuffed(body) + b".\r\n")
    server = sink.server(size=2 * BIG, **options_of(swaks))
    arguments = ["--data", data, "--no-data-fixup", "--hide-all"]
    assert swaks(server, "--to", "b@y.example", *arguments) == (0, "")
    assert [told.digest for told in sink.arrived] == [digest(body)]


def test_a_thousand_recipients_are_kept_in_order(swaks: Swaks) -> None:
    sink = Sink()
    recipients = [f"user{number}@y.example" for number in range(1000)]
    data = swaks.file(b"Subject: x\n\ntext\n")
    server = sink.server(**options_of(swaks))
    assert swaks(server, "--to", ",".join(recipients), "--data", data, "--hide-all") == (0, "")
    assert [told.recipients for told in sink.arrived] == [recipients]


def test_attachments_arrive_as_they_were(smtp: Swaks) -> None:
    bodies: list[bytes] = []

    async def on_data(stream: Any, session: Any) -> None:
        bodies.append(b"".join([piece async for piece in stream]))

    blob = random.Random(7).randbytes(200_000)
    status, transcript = smtp(
        Sink().server(on_data=on_data),
        *("--to", "b@y.example", "--body", "hello", "--attach-type", "image/png"),
        *("--attach", smtp.file(blob)),
    )
    assert status == 0, transcript
    message = email.message_from_bytes(bodies[0], policy=email.policy.default)
    text, image = message.iter_parts()
    assert text.get_content().strip() == "hello"
    assert (image.get_content_type(), image.get_content()) == ("image/png", blob)


def test_pipelined_commands_are_served(smtp: Swaks) -> None:
    sink = Sink()
    data = smtp.file(b"Subject: x\n\ntext\n")
    recipients = [f"user{number}@y.example" for number in range(100)]
    server = sink.server()
    arguments = ["--to", ",".join(recipients), "--data", data, "--pipeline"]
    status, transcript = smtp(server, *arguments)
    assert status == 0, transcript
    assert [told.recipients for told in sink.arrived] == [recipients]


def test_a_non_ascii_sender_without_smtputf8_is_refused(smtp: Swaks) -> None:
    status, transcript = smtp(Sink().server(), "--to", "b@y.example", "--from", "ü@x.example")
    assert status == 23
    assert "<** 553 5.6.7 " in transcript


def test_refused_recipients_do_not_stop_the_others(swaks: Swaks) -> None:
    def on_rcpt_to(address: Any, session: Any, callback: Callable[..., object]) -> None:
        refused = address.local_part == "no"
        callback(SMTPError("unknown\nhere", response_code=550) if refused else None)

    sink = Sink()
    server = sink.server(on_rcpt_to=on_rcpt_to, **options_of(swaks))
    data = swaks.file(b"Subject: x\n\ntext\n")
    recipients = "b@y.example,no@y.example,c@y.example"
    status, transcript = swaks(server, "--to", recipients, "--data", data)
    assert status == 0, transcript
    assert "<** 550-5.1.1 unknown" in transcript
    assert "<** 550 5.1.1 here" in transcript
    assert [told.recipients for told in sink.arrived] == [["b@y.example", "c@y.example"]]


@pytest.mark.parametrize("stage", ["CONNECT", "FIRST-HELO", "MAIL", "RCPT"])
def test_a_client_that_quits_early_is_let_go(smtp: Swaks, stage: str) -> None:
    sink = Sink()
    status, transcript = smtp(sink.server(), "--to", "b@y.example", "--quit-after", stage)
    assert status == 0, transcript
    assert sink.arrived == []
    assert len(sink.closed) == 1


def test_a_client_that_drops_the_connection_in_a_message_is_let_go(smtp: Swaks) -> None:
    reasons: list[str] = []

    async def on_data(stream: Any, session: Any) -> None:
        try:
            await stream.read()
        except MessageAborted as error:
            reasons.append(error.reason)
            raise

    sink = Sink()
    server = sink.server(on_data=on_data)
    smtp(server, "--to", "b@y.example", "--drop-after", "DATA")
    assert reasons == ["disconnected"]
    assert len(sink.closed) == 1
