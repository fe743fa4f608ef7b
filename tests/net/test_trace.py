"""The wire of chosen clients as lines: both directions, no secret, no mail, nothing without end."""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from proxy_kit import LINE
from sasl_kit import ALL_METHODS, OPEN, ScramClient, b64
from scenario import DEFAULTS, EH, LH, TX
from tls_kit import MemoryClient, pair

from fastsmtp import SMTPError, SMTPServer
from fastsmtp._smtp import tracing
from fastsmtp.testing import Wire

pytestmark = pytest.mark.usefixtures("no_leaks")

CANARY = "c4n4ry-s3cret"
OURS = ["192.0.2.0/24"]


def accept(stream: Any, session: Any, callback: Any) -> None:
    stream.consume(lambda piece: None, callback)


def refuse_login(*arguments: Any) -> None:
    arguments[-1](SMTPError("no", 535))


class Traced:
    """A connection whose server traces `networks`, and the lines."""

    def __init__(self, networks: list[str] = OURS, peer: Any = None, **options: Any) -> None:
        server = SMTPServer(**{**DEFAULTS, "on_data": accept, **options})
        server.trace(networks)
        self.lines: list[str] = []
        server.on("trace", self.lines.append)
        self.wire = Wire(server, **({} if peer is None else {"peer": peer}))

    def __enter__(self) -> Traced:
        return self

    def __exit__(self, *exception: object) -> None:
        self.wire.close()

    def shown(self) -> list[str]:
        """The lines without what all of them begin with."""
        start = rf"trace id={self.wire.session.id} client=\S+ at=\d+\.\d{{3}} "
        return [re.sub(start, "", line) for line in self.lines]


def test_both_directions_are_traced_with_the_session_the_client_and_the_time() -> None:
    with Traced() as it:
        it.wire.advance(1.5)
        it.wire.send(EH, TX, b"DATA\r\n")
        it.wire.send(b"Subject: x\r\n\r\nhello\r\n.\r\n", b"QUIT\r\n")
        it.wire.eof()
        ident = it.wire.session.id
    assert f"trace id={ident} client=192.0.2.1 at=1.500 C: EHLO c.example" in it.lines
    found = [line for line in it.shown() if not line.startswith("S: 250-")]
    assert found == [
        *("*: connected", "S: 220 srv.test ESMTP", "C: EHLO c.example", found[3]),
        *("C: MAIL FROM:<a@x.example>", "C: RCPT TO:<b@y.example>"),
        *("S: 250 2.1.0 Accepted", "S: 250 2.1.5 Accepted"),
        *("C: DATA", "S: 354 End data with <CR><LF>.<CR><LF>", "C: <24 octets of content>"),
        *("S: 250 2.6.0 OK: message queued", "C: QUIT", "S: 221 2.0.0 Bye"),
        "*: the connection has ended",
    ]


def test_a_client_of_another_network_is_not_traced() -> None:
    with Traced(["198.51.100.0/24", "unix"]) as it:
        it.wire.send(EH, TX)
    assert it.lines == []


def test_a_list_holds_for_clients_that_connect_later_and_an_empty_one_ends_it() -> None:
    with Traced([]) as it:
        it.wire.server.trace(OURS)
        it.wire.send(EH)
        assert it.lines == []
        with Wire(it.wire.server) as other:
            it.wire.server.trace([])
            other.send(EH)
            assert [line for line in it.lines if "C: EHLO" in line]
            count = len(it.lines)
            with Wire(it.wire.server) as third:
                third.send(EH)
                assert len(it.lines) == count


@pytest.mark.parametrize("entry", ["192.0.2.1/24", "host.example", 5])
def test_what_is_not_a_network_is_refused(entry: Any) -> None:
    with pytest.raises((TypeError, ValueError), match=r"network|net is"):
        SMTPServer(**DEFAULTS).trace([entry])


def test_without_a_listener_the_lines_go_to_a_logger(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "fastsmtp.trace")
    server = SMTPServer(**DEFAULTS)
    server.trace(OURS)
    with Wire(server) as wire:
        wire.send(EH)
    found = [each for each in caplog.records if each.name == "fastsmtp.trace"]
    assert [each for each in found if each.getMessage().endswith(" C: EHLO c.example")]


# --- secrets and mail ---


def scram(it: Traced) -> None:
    client = ScramClient(username=CANARY, password="pw")
    got = it.wire.send(b"AUTH SCRAM-SHA-256 " + b64(client.first) + b"\r\n")
    assert got.startswith(b"334 ")
    it.wire.send(b64(b"c=biws,r=" + CANARY.encode() + b",p=AAAA") + b"\r\n")


SECRETS: dict[str, list[bytes] | Callable[[Traced], None]] = {
    "PLAIN at once": [b"AUTH PLAIN " + b64(f"\0u\0{CANARY}")],
    "PLAIN after a 334": [b"AUTH PLAIN", b64(f"\0u\0{CANARY}")],
    "LOGIN": [b"AUTH LOGIN", b64("u"), b64(CANARY)],
    "LOGIN with a name": [b"AUTH LOGIN " + b64("u"), b64(CANARY)],
    "CRAM-MD5": [b"AUTH CRAM-MD5", b64(f"u {CANARY}")],
    "XOAUTH2": [b"AUTH XOAUTH2 " + b64(f"user=u\1auth=Bearer {CANARY}\1\1"), b""],
    "OAUTHBEARER": [b"AUTH OAUTHBEARER " + b64(f"n,a=u,\1auth=Bearer {CANARY}\1\1"), b""],
    "SCRAM": scram,
    "a mechanism that is not offered": [b"AUTH NTLM " + b64(CANARY), b64(CANARY)],
    "a mechanism in lower case": [b"auth plain " + b64(f"\0u\0{CANARY}")],
    "no mechanism": [b"AUTH " + CANARY.encode()],
    "too many words": [b"AUTH PLAIN x " + CANARY.encode()],
    "not base64": [b"AUTH PLAIN " + CANARY.encode(), b"AUTH LOGIN", CANARY.encode()],
    "a line that is too long": [b"AUTH LOGIN", b64(CANARY) * 5000],
    "a control character": [b"AUTH LOGIN", CANARY.encode() + b"\x1b"],
    "answers to a 334 that was not sent": [b"AUTH NTLM", b64("u"), b64(CANARY), CANARY.encode()],
    "another protocol": [b"PASS " + CANARY.encode(), b"a1 LOGIN u " + CANARY.encode()],
    "a web form": [b"POST /" + CANARY.encode(), b"Authorization: " + CANARY.encode()],
    "free text": [b"NOOP " + CANARY.encode(), b"HELP " + CANARY.encode()],
    "a path of free text": [b"MAIL " + CANARY.encode(), b"RCPT " + CANARY.encode()],
}


@pytest.mark.parametrize("case", SECRETS)
def test_no_secret_is_in_a_trace_or_any_other_log(
    case: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    options = {
        **OPEN,
        **dict.fromkeys(("max_auth_failures", "max_errors", "max_unrecognized_commands")),
        "auth_methods": ALL_METHODS,
        "on_auth": refuse_login,
        "on_scram": lambda name, session, callback: callback(None, None),
    }
    with Traced(**options) as it:
        outcomes: list[Any] = []
        it.wire.server.on("transaction", outcomes.append)
        it.wire.send(EH)
        script = SECRETS[case]
        if callable(script):
            script(it)
        else:
            for line in script:
                it.wire.send(line + b"\r\n")
    everything = "\n".join([*it.lines, *caplog.messages, *map(repr, outcomes)])
    assert "C: EHLO c.example" in everything
    # The log has the name of every user, and the path of every refused command.
    is_for_the_log = case in ("SCRAM", "a path of free text")
    secrets = [CANARY, b64(CANARY).decode()[:8], b64(f"\0u\0{CANARY}").decode()[:16]]
    for secret in secrets:
        assert secret not in "\n".join(it.lines)
        assert is_for_the_log or secret not in everything


@pytest.mark.parametrize(
    "script",
    [
        [b"BDAT 26\r\nSubject: c4n4ry-s3cret\r\n\r\n", b"BDAT 3 LAST\r\nx\r\n"],
        [b"RSET\r\nDATA\r\nSubject: c4n4ry-s3cret\r\nc4n4ry\r\n.\r\n"],
        [b"RSET\r\nBDAT 26 LAST\r\nSubject: c4n4ry-s3cret\r\n\r\n"],
        [b"DATA\r\n", b"Subject: c4n4ry-s3cret\r\n"],
    ],
    ids=["chunks", "a refused DATA with its content", "a refused chunk", "half a message"],
)
def test_content_is_shown_as_its_size(script: list[bytes]) -> None:
    with Traced(max_errors=None, max_unrecognized_commands=None) as it:
        it.wire.send(EH, TX)
        it.wire.send(*script)
        it.wire.reset()
    assert "c4n4ry" not in "\n".join(it.lines)
    if b"BDAT" in script[0]:
        assert "C: <26 octets of content>" in it.shown()
    elif script[0] == b"DATA\r\n":
        assert "*: the connection has ended, after 24 octets of content" in it.shown()


# --- bounds, and hostile octets ---


@given(st.binary(max_size=60))
def test_every_line_is_printable_and_bounded_whatever_a_client_sends(octets: bytes) -> None:
    with Traced() as it:
        it.wire.send(EH, b"MAIL FROM:<" + octets + b"a@x.example>\r\n", octets, b"\r\n")
    assert all(line.isprintable() and len(line) < 700 for line in it.lines)


def test_a_long_argument_is_cut() -> None:
    with Traced(max_command_length=4096) as it:
        it.wire.send(EH, b"MAIL FROM:<" + b"\x80" * 3000 + b">\r\n")
    (line,) = [line for line in it.shown() if "C: MAIL" in line]
    assert line.endswith("...")
    assert len(line) < 600


def test_lines_beyond_the_limit_of_a_second_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tracing, "LINES_PER_SECOND", 20)
    with Traced(max_junk_commands=None) as it:
        it.wire.advance(1)
        it.wire.send(EH)
        it.wire.advance(1)
        it.wire.send(b"NOOP\r\n" * 50)
        assert len([line for line in it.shown() if line == "C: NOOP"]) == 20
        it.wire.advance(1)
        it.wire.send(b"RSET\r\n")
        assert it.shown()[-3:] == [
            *("*: 80 lines were left out here", "C: RSET", "S: 250 2.0.0 Flushed"),
        ]
        it.wire.send(b"NOOP\r\n" * 10)
    assert it.shown()[-2:] == [
        "*: 3 lines were left out here",
        "*: the connection has ended",
    ]


# --- stages ---


def test_what_happens_inside_tls_is_traced_and_the_handshake_noted() -> None:
    with Traced(**pair()._asdict()) as it:
        it.wire.send(EH)
        client = MemoryClient(it.wire)
        client.greet()
        client.handshake()
        client.say(EH)
    shown = it.shown()
    start = shown.index("C: STARTTLS")
    assert [line for line in shown[start:] if line.startswith("*: TLSv1.3 TLS_")]
    assert "C: EHLO c.example" in shown[start:]


def test_the_client_of_a_balancer_counts_not_the_balancer() -> None:
    with Traced(peer=("10.0.0.7", 1), use_proxy=["10.0.0.0/8"]) as it:
        it.wire.send(LINE)
        it.wire.send(EH)
    assert it.lines[0].endswith("*: connected")
    assert "client=192.0.2.1\\x20via\\x2010.0.0.7 " in it.lines[0]
    with Traced(["10.0.0.7"], peer=("10.0.0.7", 1), use_proxy=["10.0.0.0/8"]) as it:
        it.wire.send(LINE)
        it.wire.send(EH)
    assert [line.rpartition(": ")[2] for line in it.lines] == [
        "connected", "the client is another one, which is not traced",
    ]  # fmt: skip


def test_xclient_makes_it_another_client() -> None:
    with Traced(["198.51.100.9"], use_xclient=OURS) as it:
        it.wire.send(EH, b"XCLIENT ADDR=198.51.100.9\r\n")
        it.wire.send(EH)
    assert it.shown()[0] == "*: connected"
    assert "C: EHLO c.example" in it.shown()


async def speak_lmtp(server: SMTPServer, path: str) -> None:
    async with server:
        await server.listen(path=path)
        reader, writer = await asyncio.open_unix_connection(path)
        await reader.readline()
        writer.write(LH)
        await reader.readuntil(b"250 ")
        writer.close()
        await writer.wait_closed()


def test_clients_of_unix_sockets_are_traced_by_their_word(tmp_path: Path) -> None:
    server = SMTPServer(**DEFAULTS, lmtp=True)
    lines: list[str] = []
    server.trace(["unix"])
    server.on("trace", lines.append)
    asyncio.run(speak_lmtp(server, str(tmp_path / "lmtp.sock")))
    assert [line for line in lines if " client=unix " in line and line.endswith("LHLO c.example")]


def test_a_client_that_is_refused_at_once_is_traced() -> None:
    with Traced(max_clients=1) as it, Wire(it.wire.server):
        assert it.lines[-1].endswith(
            " S: 421 srv.test Too many connected clients, try again in a moment"
        )


def test_a_listener_that_fails_harms_nobody(log: list[str]) -> None:
    def fail(line: str) -> None:
        raise LookupError("ours")

    server = SMTPServer(**DEFAULTS)
    server.trace(OURS)
    server.on("trace", fail)
    with Wire(server) as wire:
        assert b"250 " in wire.send(EH)
    assert [line for line in log if "a listener of 'trace' failed: LookupError: ours" in line]
