"""TLS before the first octet of SMTP: order of steps, refusals, clocks, ends. RFC 8314 §3.3."""

from __future__ import annotations

import logging
import ssl
from typing import Any

import pytest
from scenario import DEFAULTS, EH, TX, codes
from tls_kit import TLS12, MemoryClient, MemoryTLS, certified, client_context

from fastsmtp import SMTPError, SMTPServer
from fastsmtp._connection.tls_stage import SecureTalking
from fastsmtp._tls.pump import Pump
from fastsmtp.testing import VirtualLoop, Wire

row = pytest.mark.row


def secure(**options: Any) -> dict[str, Any]:
    return certified(secure=True, **options)


@row("TLS-26")
@pytest.mark.parametrize("cuts", [0, 1, 100])
@pytest.mark.parametrize("version", [{}, TLS12])
def test_the_greeting_comes_within_tls(cuts: int, version: dict[str, Any]) -> None:
    with Wire(**secure()) as wire:
        client = MemoryClient(wire, context=client_context(**version))
        assert wire.receive() == b""
        client.handshake(cuts)
        assert codes(client.hear()) == ["220"]
        assert client.codes(EH) == ["250"]
        assert wire.session.secure
        assert wire.session.transmission_type == "ESMTPS"
        assert client.codes(b"STARTTLS\r\n") == ["503 5.5.1"]


@row("PROXY-08")
def test_commands_in_one_read_with_the_last_flight_of_the_handshake_are_served() -> None:
    with Wire(**secure()) as wire:
        tls = MemoryTLS()
        flight = tls.shake(wire.send(tls.shake()))
        answer = wire.send(flight + tls.encrypt(EH))
        assert codes(tls.decrypt(answer)) == ["220", "250"]


@row("TLS-12", "SLOW-04")
@pytest.mark.parametrize("sent", [b"", b"\x16\x03\x01", "half", "hello"])
def test_a_handshake_that_does_not_finish_is_cut(sent: Any) -> None:
    hello = MemoryTLS().shake()
    octets = {"half": hello[:200], "hello": hello}.get(sent, sent)
    called: list[str] = []
    options = {
        "on_connect": lambda session, callback: called.append("connect"),
        "on_close": lambda session: called.append("close"),
    }
    with Wire(**secure(**options)) as wire:
        said = wire.send(octets)
        assert not said or said[0] == 0x16
        assert len(wire.server.connections) == 1
        assert wire.advance(14.9) == b""
        assert not wire.transport.closed
        assert wire.advance(0.2) == b""
        assert wire.transport.closed
        assert not wire.server.connections
        assert called == []


@row("TLS-12")
def test_octets_do_not_extend_the_timeout_of_the_handshake() -> None:
    with Wire(**secure()) as wire:
        hello = MemoryTLS().shake()
        for at in range(16):
            wire.send(hello[at : at + 1])
            wire.advance(1)
        assert wire.transport.closed


@row("TLS-14")
def test_plaintext_on_a_tls_port_gets_no_octet(caplog: pytest.LogCaptureFixture) -> None:
    with Wire(**secure()) as wire, caplog.at_level(logging.INFO, "fastsmtp"):
        assert wire.send(EH) == b""
        assert wire.closed
        (line,) = caplog.messages
        assert "does not speak TLS" in line


@row("TLS-14")
def test_a_hello_on_a_plain_port_is_answered_421() -> None:
    with Wire(**certified()) as wire:
        assert codes(wire.send(MemoryTLS().shake())) == ["220", "421 4.7.0"]
        assert wire.closed


@row("FLOOD-11")
def test_one_client_too_many_is_closed_without_an_octet() -> None:
    loop = VirtualLoop()
    server = SMTPServer(**secure(max_clients=1))
    with Wire(server, loop=loop) as first:
        with Wire(server, loop=loop) as second:
            assert second.receive() == b""
            assert second.closed
        MemoryClient(first).handshake()
        assert first.session.secure
    loop.run_until_complete(loop.shutdown_asyncgens())
    loop.close()


@row("FLOOD-11")
def test_one_client_of_a_host_too_many_is_closed_without_an_octet() -> None:
    loop = VirtualLoop()
    server = SMTPServer(**secure(max_clients_per_host=1))
    with Wire(server, loop=loop), Wire(server, loop=loop) as second:
        assert second.receive() == b""
        assert second.closed
    loop.run_until_complete(loop.shutdown_asyncgens())
    loop.close()


@row("TLS-27")
def test_closing_the_server_during_the_handshake_sends_no_reply() -> None:
    with Wire(**secure()) as wire:
        wire.send(MemoryTLS().shake()[:100])
        wire.run(wire.server.close())
        assert wire.receive() == b""
        assert wire.transport.closed


def test_a_client_that_leaves_the_handshake_is_released(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "fastsmtp"):
        with Wire(**secure()) as wire:
            assert wire.eof() == b""
            assert wire.transport.closed
        assert caplog.messages == []  # a look at whether the port is open
        with Wire(**secure()) as wire:
            wire.send(MemoryTLS().shake()[:60])
            assert wire.eof() == b""
            assert wire.transport.closed
        assert len(caplog.messages) == 1


@row("PIPE-01")
@pytest.mark.parametrize("delay", [0, 3])
def test_a_client_that_talks_before_the_greeting_is_refused_within_tls(delay: int) -> None:
    with Wire(**secure(greet_delay=delay)) as wire:
        tls = MemoryTLS()
        flight = tls.shake(wire.send(tls.shake()))
        answer = tls.decrypt(wire.send(flight + tls.encrypt(b"NOOP\r\n")))
        assert codes(answer) == (["421"] if delay else ["220", "250 2.0.0"])
        assert wire.closed is bool(delay)


def test_the_greeting_delay_begins_after_the_handshake() -> None:
    with Wire(**secure(greet_delay=3)) as wire:
        client = MemoryClient(wire)
        wire.advance(10)
        client.handshake()
        assert client.advance(2.9) == b""
        assert codes(client.advance(0.2)) == ["220"]


@row("STATE-09")
def test_on_connect_is_called_after_the_handshake_and_refuses_within_tls() -> None:
    def on_connect(session: Any, callback: Any) -> None:
        assert session.secure
        assert session.tls_options["version"] == "TLSv1.3"
        callback(SMTPError("no", 550))

    with Wire(**secure(on_connect=on_connect)) as wire:
        client = MemoryClient(wire)
        tls = client.handshake()
        assert codes(client.hear()) == ["550"]
        assert wire.closed
        assert tls is not None


@row("TLS-16", "TLS-17")
@pytest.mark.parametrize("delay", [0, 1])
def test_a_client_that_ends_before_the_greeting_has_its_commands_answered(delay: int) -> None:
    with Wire(**secure(disable_reverse_lookup=True, greet_delay=0)) as wire:
        tls = MemoryTLS()
        flight = tls.shake(wire.send(tls.shake()))
        answer = wire.send(flight + tls.encrypt(b"NOOP\r\n" * (1 + delay)) + tls.close_notify())
        assert codes(tls.decrypt(answer))[0] == "220"
        assert wire.closed


def test_quit_is_answered_and_then_tls_and_the_connection_end() -> None:
    with Wire(**secure()) as wire:
        client = MemoryClient(wire)
        tls = client.handshake()
        assert client.codes(b"QUIT\r\n") == ["221 2.0.0"]
        assert tls.ended
        assert wire.transport.eof_written
        assert not wire.transport.closed  # lingering for the client's FIN
        wire.eof()
        assert wire.transport.closed


@row("TLS-15")
def test_a_broken_record_in_a_body_aborts_it() -> None:
    ends: list[Any] = []
    errors: list[Any] = []

    def on_data(stream: Any, session: Any, callback: Any) -> None:
        stream.consume(lambda piece: None, lambda error: (ends.append(error), callback(error)))

    server = SMTPServer(**secure(on_data=on_data))
    server.on("error", errors.append)
    with Wire(server) as wire:
        client = MemoryClient(wire)
        tls = client.handshake()
        client.say(EH)
        client.say(TX + b"DATA\r\n")
        record = bytearray(tls.encrypt(b"text\r\n.\r\n"))
        record[-1] ^= 1
        alert = wire.send(bytes(record), b"\r\n.\r\n")
        assert alert[0] == 0x17  # encrypted
        assert [error.reason for error in ends] == ["disconnected"]
        assert wire.closed
        assert [error.stage for error in errors] == ["tls"]
        assert errors[0].remote_address == "192.0.2.1"


def test_a_server_with_tls_ended_upstream_does_no_handshake() -> None:
    with Wire(**secure(secured=True)) as wire:
        assert codes(wire.send(EH)) == ["220", "250"]
        assert wire.session.secure
    with Wire(**{**DEFAULTS, "secure": True, "secured": True}) as wire:
        assert codes(wire.send(EH)) == ["220", "250"]


@row("SLOW-01")
def test_deadlines_within_tls_are_those_in_clear() -> None:
    with Wire(**secure()) as wire:
        client = MemoryClient(wire)
        client.handshake()
        client.say(b"NOOP\r\n")
        assert codes(client.advance(299)) == ["220"]
        assert codes(client.advance(2)) == ["421 4.4.2"]
        assert client.tls is not None
        assert client.tls.ended


@row("MEM-01", "SLOW-08")
def test_a_body_whose_hook_lags_is_not_read() -> None:
    streams: list[Any] = []

    def on_data(stream: Any, session: Any, callback: Any) -> None:
        streams.append((stream, callback))

    with Wire(**secure(on_data=on_data)) as wire:
        client = MemoryClient(wire)
        tls = client.handshake()
        client.say(EH)
        client.say(TX + b"DATA\r\n")
        sent = 0
        while wire.transport.reading and sent < 1_000_000:
            sent += 30_000
            wire.send(tls.encrypt(b"x" * 30_000))
        assert sent == 90_000  # the read that crossed 64 KiB is the last
        got: list[bytes] = []
        wire.loop.step(lambda: streams[0][0].consume(got.append, streams[0][1]))
        assert wire.transport.reading
        assert codes(client.say(b"\r\n.\r\n")) == ["250 2.6.0"]
        assert b"".join(got) == b"x" * sent + b"\r\n"


@row("TLS-18", "SLOW-08")
def test_a_client_that_takes_nothing_is_not_read() -> None:
    with Wire(**secure(max_junk_commands=0)) as wire:
        client = MemoryClient(wire)
        tls = client.handshake()
        client.say(EH)
        wire.stop_reading()
        wire.send(tls.encrypt(b"HELP\r\n" * 2000))
        assert not wire.transport.reading
        assert wire.transport.get_write_buffer_size() < 80_000
        wire.take()
        assert wire.transport.reading


class KeyUpdates(Pump):
    """A pump whose client asks for new keys and sends nothing else."""

    def receive(self, data: bytes) -> bytes:
        return b""

    def take_output(self) -> bytes:
        return b"k" * 70_000


def no_context(name: str) -> ssl.SSLContext:
    raise LookupError(name)


@row("TLS-18")
def test_a_client_that_asks_for_keys_and_takes_none_is_not_read() -> None:
    with Wire(**secure()) as wire:
        MemoryClient(wire).handshake()
        wire.stop_reading()
        connection = wire.connection
        real = connection.output.pump
        parts = connection.protocol, connection.output
        stage = SecureTalking(*parts, KeyUpdates(no_context))
        wire.loop.step(lambda: stage.octets(connection, b"records"))
        assert not wire.transport.reading
        assert connection.output.pump is real
        wire.take()
        assert wire.transport.reading


@row("TLS-15")
def test_the_rate_of_a_body_counts_plaintext() -> None:
    def on_data(stream: Any, session: Any, callback: Any) -> None:
        stream.consume(lambda piece: None, callback)

    with Wire(**secure(on_data=on_data)) as wire:
        client = MemoryClient(wire)
        tls = client.handshake()
        client.say(EH)
        client.say(TX + b"DATA\r\n")
        said = client.hear()
        for _ in range(200):  # 22 octets of a record for each of body
            wire.send(*[tls.encrypt(b"x") for _ in range(25)])
            said += client.advance(1)
            if wire.closed:
                break
        assert codes(said) == ["220", "421 4.4.2"]


def test_a_failure_of_tls_is_logged_although_a_hook_has_deleted_session_facts(
    caplog: pytest.LogCaptureFixture,
) -> None:
    def on_connect(session: Any, callback: Any) -> None:
        del session.remote_address
        callback()

    caplog.set_level("INFO")
    with Wire(**certified(secure=True, on_connect=on_connect)) as wire:
        client = MemoryClient(wire)
        client.handshake()
        assert codes(client.hear()) == ["220"]
        wire.send(b"\x17\x03\x03\x00\x20" + bytes(32))
        assert wire.closed
    assert "192.0.2.1: TLS failed" in caplog.text


@row("NET-05")
def test_a_client_that_does_not_read_the_end_of_tls_is_cut() -> None:
    with Wire(**secure()) as wire:
        client = MemoryClient(wire)
        tls = client.handshake()
        assert codes(client.hear()) == ["220"]
        wire.advance(100)  # all is taken, and the output has no deadline any more
        wire.stop_reading()
        wire.send(tls.close_notify())
        assert wire.transport.get_write_buffer_size() > 0
        wire.advance(45)
        assert wire.transport.is_closing()
