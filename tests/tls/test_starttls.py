"""STARTTLS: its replies, what it resets, what may stand around it, and its deadline. RFC 3207."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from resets import snapshot
from scenario import DEFAULTS, EH, LH, TX, codes
from tls_kit import TLS12, MemoryClient, MemoryTLS, certified, client_context, cut

from fastsmtp import SMTPError, SMTPServer, replies
from fastsmtp.testing import Wire

row = pytest.mark.row
BROKEN = "554 5.5.0"
STARTTLS = b"STARTTLS\r\n"


@contextmanager
def served(**options: Any) -> Iterator[MemoryClient]:
    with Wire(**certified(**options)) as wire:
        yield MemoryClient(wire)


def inside(client: MemoryClient) -> MemoryClient:
    """Greet, STARTTLS, handshake."""
    assert client.greet() == "220 2.0.0"
    client.handshake()
    return client


# --- injection ---


@row("TLS-01", "TLS-02", "TLS-05", "PIPE-04")
@pytest.mark.parametrize("strict", [True, False])
@pytest.mark.parametrize("after", [b"NOOP injected\r\n", b"NOOP ", b"N", b"\r\n", b"NOOP\r\n"])
def test_octets_after_starttls_are_refused(
    after: bytes, strict: bool, caplog: pytest.LogCaptureFixture
) -> None:
    with served(strict_pipelining=strict) as client:
        client.wire.send(EH)
        with caplog.at_level(logging.WARNING, "fastsmtp"):
            assert codes(client.wire.send(STARTTLS + after)) == [BROKEN]
        assert client.wire.closed
        assert not client.wire.session.secure
        assert [line for line in caplog.messages if "after STARTTLS" in line]


@row("TLS-04")
def test_a_hello_that_does_not_wait_for_the_220_ends_the_connection() -> None:
    with served() as client:
        client.wire.send(EH)
        assert codes(client.wire.send(STARTTLS + MemoryTLS().shake())) == [BROKEN]
        assert client.wire.closed


@row("TLS-03")
def test_a_command_in_the_place_of_the_hello_is_not_executed() -> None:
    with served() as client:
        assert client.greet() == "220 2.0.0"
        assert client.wire.send(b"RSET\r\n", b"NOOP\r\n") == b""
        assert client.wire.closed
        assert client.wire.session.opening_command == ""


@row("TLS-02")
def test_the_parser_holds_no_plaintext_after_the_handshake() -> None:
    with served() as client:
        inside(client)
        assert client.wire.connection.protocol.parser.buffered == 0
        assert client.codes(EH) == ["250"]


@row("TLS-05")
def test_starttls_may_end_a_group() -> None:
    with served() as client:
        client.wire.send(EH)
        assert codes(client.wire.send(b"NOOP\r\nSTARTTLS\r\n")) == ["250 2.0.0", "220 2.0.0"]
        client.handshake()
        assert client.codes(EH) == ["250"]


# --- the command ---


@row("TLS-06")
@pytest.mark.parametrize(
    ("line", "code"),
    [
        (b"STARTTLS foo\r\n", "501 5.5.4"),
        (b"STARTTLS \r\n", "220 2.0.0"),
        (b"starttls\r\n", "220 2.0.0"),
        (b"STARTTLS\x00\r\n", "500 5.5.2"),
    ],
)
def test_starttls_takes_any_case_and_no_argument(line: bytes, code: str) -> None:
    with served() as client:
        client.wire.send(EH)
        assert client.starttls(line) == code
        if code.startswith("220"):
            client.handshake()
            assert client.codes(EH) == ["250"]
        else:
            assert client.wire.send(b"NOOP\r\n") == b"250 2.0.0 OK\r\n"


def test_starttls_works_before_any_greeting_after_helo_and_in_lmtp() -> None:
    with served() as client:
        assert client.starttls() == "220 2.0.0"
        client.handshake()
        assert client.codes(EH) == ["250"]
    with served() as client:
        client.wire.send(b"HELO x\r\n")
        assert client.starttls() == "220 2.0.0"
    with served(lmtp=True) as client:
        client.wire.send(LH)
        assert client.starttls() == "220 2.0.0"
        client.handshake()
        assert client.codes(LH) == ["250"]
        assert client.wire.session.transmission_type == "LMTPS"


@row("TLS-08")
def test_a_second_starttls_is_refused_and_not_offered() -> None:
    with served() as client:
        inside(client)
        assert b"STARTTLS" not in client.say(EH)
        assert client.codes(STARTTLS) == ["503 5.5.1"]
        assert client.codes(b"STARTTLS foo\r\n") == ["503 5.5.1"]
        assert client.codes(b"NOOP\r\n") == ["250 2.0.0"]


@row("TLS-09")
def test_starttls_without_a_certificate_is_not_implemented_and_not_offered() -> None:
    with Wire(**DEFAULTS) as wire:
        assert b"STARTTLS" not in wire.send(EH)
        assert codes(wire.send(STARTTLS)) == ["502 5.5.1"]


def test_hidden_starttls_still_works_and_disabled_starttls_is_unknown() -> None:
    with served(hide_starttls=True) as client:
        assert b"STARTTLS" not in client.wire.send(EH)
        assert client.starttls() == "220 2.0.0"
    with served(disabled_commands=["STARTTLS"]) as client:
        assert b"STARTTLS" not in client.wire.send(EH)
        assert client.starttls() == "500 5.5.2"


def test_starttls_is_active_already_where_tls_ends_upstream() -> None:
    with served(secured=True) as client:
        assert b"STARTTLS" not in client.wire.send(EH)
        assert client.starttls() == "503 5.5.1"
        assert client.wire.session.secure
        assert client.wire.session.tls_options is None


def test_ehlo_lists_the_extensions_for_clear_and_for_tls() -> None:
    with served() as client:
        client.wire.receive()
        outside = (
            b"250-srv.test Nice to meet you, [192.0.2.1]\r\n250-PIPELINING\r\n250-8BITMIME\r\n"
            b"250-SMTPUTF8\r\n250-ENHANCEDSTATUSCODES\r\n250-DSN\r\n250-CHUNKING\r\n"
            b"250-STARTTLS\r\n250-SIZE 26214400\r\n250 LIMITS RCPTMAX=1000\r\n"
        )
        assert client.wire.send(EH) == outside
        assert client.starttls() == "220 2.0.0"
        client.handshake()
        assert client.say(EH) == outside.replace(b"STARTTLS", b"REQUIRETLS")


# --- what is reset ---


def states(before: tuple[bytes, ...]) -> dict[str, object]:
    """All fields of a connection that has said `before`, and then STARTTLS."""
    with served(strict_pipelining=False) as client:
        client.wire.send(*before)
        assert client.starttls() == "220 2.0.0"
        client.handshake()
        dialogue = client.wire.connection.protocol
        assert dialogue.session.envelope is not None
        found = snapshot(dialogue, "dialogue", {}, set())
        return {name: value for name, value in found.items() if "._end_point" not in name}


@row("TLS-07", "STATE-07")
@pytest.mark.parametrize(
    "before",
    [
        (EH,),
        (b"HELO x\r\n",),
        (EH, b"MAIL FROM:<a@x.example> SIZE=5 BODY=8BITMIME SMTPUTF8 RET=HDRS\r\n"),
        (EH, TX),
        (EH, b"MAIL\r\nNOPE\r\n" + TX + b"RSET\r\n"),
    ],
)
def test_the_engine_forgets_everything_that_a_client_sent_before_starttls(
    before: tuple[bytes, ...],
) -> None:
    found, fresh = states(before), states(())
    different = {name for name in found | fresh if found.get(name) != fresh.get(name)}
    # Which of two lines was the first of the connection is not forgotten.
    assert different <= {"dialogue.first_line", "dialogue.watch"}


@row("TLS-07", "XCL-08", "AUTH-15")
def test_starttls_ends_a_transaction_and_the_client_greets_again() -> None:
    def on_auth(auth: Any, session: Any, callback: Any) -> None:
        callback(None, {"user": auth.username})

    trusted = ["192.0.2.0/24"]
    with served(use_xclient=trusted, use_xforward=trusted, on_auth=on_auth) as client:
        session = client.wire.session
        said = b"XCLIENT ADDR=192.0.2.9 NAME=n.example HELO=h PROTO=ESMTP LOGIN=l\r\n"
        client.wire.receive()
        assert codes(client.wire.send(said)) == ["220"]
        assert codes(client.wire.send(EH)) == ["250"]
        assert codes(client.wire.send(b"XFORWARD NAME=x\r\n")) == ["250 2.0.0"]
        assert session.user == "l"
        client.wire.send(TX)
        before = {name: session.xclient[name] for name in session.xclient if ":" in name}
        assert client.starttls() == "220 2.0.0"
        client.handshake()
        assert session.secure
        assert session.tls_options["version"] == "TLSv1.3"
        assert session.servername == "srv.test"
        assert session.user is None
        assert not client.wire.connection.protocol.authenticated
        assert session.xclient == {"ADDR": "192.0.2.9", "NAME": "n.example", **before}
        assert session.xforward == {}
        assert session.envelope.mail_from is None
        assert session.envelope.rcpt_to == []
        assert session.opening_command == session.host_name_appears_as == ""
        for verb in (b"MAIL FROM:<a@x.example>", b"RCPT TO:<b@y.example>", b"DATA", b"BDAT 0 LAST"):
            assert client.codes(verb + b"\r\n") == ["503 5.5.1"], verb
        assert client.codes(EH) == ["250"]
        assert session.transmission_type == "ESMTPS"


@row("TLS-07", "BDAT-06")
@pytest.mark.parametrize("chunk", [b"BDAT 3\r\nabc", b"BDAT 0\r\nBDAT 99999999\r\n"])
def test_starttls_between_chunks_is_refused_and_the_transaction_stays(chunk: bytes) -> None:
    with served() as client:
        client.wire.send(EH, TX)
        client.wire.send(b"BDAT 3\r\nabc")
        assert client.starttls() == "503 5.5.1"
        assert codes(client.wire.send(b"BDAT 3 LAST\r\ndef")) == ["451 4.3.0"]


def test_counters_outlive_starttls() -> None:
    with served(max_junk_commands=4) as client:
        client.wire.send(EH, b"NOOP\r\n")
        assert client.starttls() == "220 2.0.0"
        client.handshake()
        assert client.codes(EH) == ["250"]
        assert client.codes(b"NOOP\r\n") == ["421 4.7.0"]


# --- needs_upgrade, REQUIRETLS ---


@row("TLS-11")
def test_commands_are_refused_before_tls_where_it_is_required() -> None:
    refused = [b"HELO x", b"HELP", b"RSET", b"VRFY x", b"MAIL FROM:<a@x.example>", b"DATA", b"RCPT"]
    refused += [b"AUTH", b"AUTH PLAIN AHUAcA=="]
    off = {"max_errors": 0, "max_allowed_unauthenticated_commands": 0}
    with served(needs_upgrade=True, auth_optional=False, **off) as client:
        client.wire.receive()
        for greeting in (b"", EH):
            client.wire.send(*filter(None, [greeting]))
            for verb in refused:
                assert codes(client.wire.send(verb + b"\r\n")) == ["530 5.7.0"], verb
        assert codes(client.wire.send(b"BDAT 4\r\nQUIT")) == ["530 5.7.0"]
        assert codes(client.wire.send(b"NOOP\r\n")) == ["250 2.0.0"]
        assert codes(client.wire.send(b"WHAT\r\n")) == ["500 5.5.2"]
        assert codes(client.wire.send(b"EXPN x\r\n")) == ["502 5.5.1"]
        assert client.starttls() == "220 2.0.0"
    with served(needs_upgrade=True) as client:
        inside(client)
        assert client.codes(EH) == ["250"]
        assert client.codes(TX + b"RSET\r\nVRFY x\r\n")[:3] == [
            "250 2.1.0",
            "250 2.1.5",
            "250 2.0.0",
        ]
    with served(needs_upgrade=True) as client:
        assert codes(client.wire.send(b"QUIT\r\n"))[-1] == "221 2.0.0"
    with served(needs_upgrade=True, lmtp=True) as client:
        assert codes(client.wire.send(LH, b"EHLO x\r\n"))[1:] == ["250", "500"]


def test_required_tls_has_no_effect_where_the_connection_is_secure() -> None:
    with Wire(**certified(needs_upgrade=True, secured=True)) as wire:
        assert codes(wire.send(b"HELO x\r\n")) == ["220", "250"]
    with served(needs_upgrade=True, secure=True) as client:
        client.handshake()
        assert client.codes(b"HELO x\r\n") == ["250"]


@row("TLS-28")
def test_requiretls_is_taken_inside_tls_only() -> None:
    seen: list[bool] = []

    def on_mail_from(address: Any, session: Any, callback: Any) -> None:
        seen.append(session.envelope.require_tls)
        callback()

    demand = b"MAIL FROM:<a@x.example> REQUIRETLS\r\n"
    with served(on_mail_from=on_mail_from) as client:
        assert b"REQUIRETLS" not in client.wire.send(EH)
        assert codes(client.wire.send(demand)) == ["530 5.7.0"]
        assert client.starttls() == "220 2.0.0"
        client.handshake()
        assert b"REQUIRETLS" in client.say(EH)
        assert client.codes(demand.replace(b"\r", b"=1\r")) == ["501 5.5.4"]
        assert client.codes(demand) == ["250 2.1.0"]
        assert client.wire.session.envelope.require_tls
        assert len(seen) == 1
    with served(hide_requiretls=True) as client:
        inside(client)
        assert b"REQUIRETLS" not in client.say(EH)
        assert client.codes(demand) == ["555 5.5.4"]


# --- the handshake's clock and end ---


@row("TLS-13", "SLOW-11")
@pytest.mark.parametrize("sent", [b"", b"\x16\x03\x01", "half", "hello"])
def test_a_handshake_that_does_not_finish_is_cut_without_a_reply(
    sent: Any, caplog: pytest.LogCaptureFixture
) -> None:
    hello = MemoryTLS().shake()
    octets = {"half": hello[:200], "hello": hello}.get(sent, sent)
    closed: list[Any] = []
    with served(on_close=closed.append) as client:
        assert client.greet() == "220 2.0.0"
        said = client.wire.send(octets)
        assert not said or said[0] == 0x16  # records of the handshake, no 421
        with caplog.at_level(logging.INFO, "fastsmtp"):
            assert client.wire.advance(14.9) == b""
            assert not client.wire.transport.closed
            assert client.wire.advance(0.2) == b""
        assert client.wire.transport.closed
        assert len(closed) == 1
        assert [line for line in caplog.messages if "TLS failed" in line]


@row("TLS-27")
def test_closing_the_server_during_a_handshake_sends_nothing_in_clear() -> None:
    with served() as client:
        assert client.greet() == "220 2.0.0"
        client.wire.send(MemoryTLS().shake()[:100])
        server = client.wire.server
        assert isinstance(server, SMTPServer)
        client.wire.run(server.close())
        assert client.wire.receive() == b""
        assert client.wire.transport.closed


@row("TLS-27", "SLOW-11")
def test_no_reply_is_sent_while_the_client_does_not_read_the_220() -> None:
    with served(max_junk_commands=0) as client:
        client.wire.send(EH)
        client.wire.stop_reading()
        client.wire.send(b"HELP\r\n" * (64 * 1024 // len(replies.HELP.wire)))
        assert client.starttls() == "220 2.0.0"
        assert client.wire.connection.protocol.blocked
        client.wire.take()
        assert client.wire.advance(16) == b""
        assert client.wire.transport.closed


@row("TLS-26")
@pytest.mark.parametrize("cuts", [0, 1, 259])
@pytest.mark.parametrize("version", [{}, TLS12])
def test_a_handshake_succeeds_in_any_segments(cuts: int, version: dict[str, Any]) -> None:
    with Wire(**certified()) as wire:
        client = MemoryClient(wire, context=client_context(**version))
        assert client.greet() == "220 2.0.0"
        client.handshake(cuts)
        assert client.codes(EH) == ["250"]
        assert wire.session.tls_options["version"] == ("TLSv1.2" if version else "TLSv1.3")


@row("TLS-16", "TLS-17")
def test_commands_before_close_notify_are_answered_and_none_after_it() -> None:
    with served() as client:
        tls = inside(client).tls
        assert tls is not None
        client.say(EH)
        octets = tls.encrypt(b"NOOP\r\nVRFY x\r\nRSE") + tls.close_notify() + b"QUIT\r\n"
        answers = tls.decrypt(client.wire.send(*cut(octets, 50)) + client.wire.send(b"RSET\r\n"))
        assert codes(answers) == ["250 2.0.0", "252 2.0.0"]
        assert tls.ended
        assert client.wire.closed


@row("TLS-16", "TLS-17")
@pytest.mark.parametrize("how", ["close_notify", "FIN"])
@pytest.mark.parametrize("begin", [b"DATA\r\n", b"BDAT 99\r\n"])
def test_a_body_within_which_tls_ends_is_aborted(how: str, begin: bytes) -> None:
    ends: list[Any] = []

    def on_data(stream: Any, session: Any, callback: Any) -> None:
        stream.consume(lambda piece: None, lambda error: (ends.append(error), callback(error)))

    with served(on_data=on_data) as client:
        tls = inside(client).tls
        assert tls is not None
        client.say(EH)
        client.say(TX + begin)
        client.say(b"half a body")
        if how == "FIN":
            last = client.wire.eof()
        else:
            last = client.wire.send(tls.close_notify() + b"\r\n.\r\n", b"X")
        assert b"250" not in tls.decrypt(last)
        assert [error.reason for error in ends] == ["disconnected"]
        assert client.wire.closed


def test_a_rejection_by_on_connect_is_sent_in_clear_before_starttls() -> None:
    def on_connect(session: Any, callback: Any) -> None:
        callback(SMTPError("no"))

    with served(on_connect=on_connect) as client:
        assert codes(client.wire.receive()) == ["554"]
