"""Failures say where they happened: `error` events and log lines name session, client, and the hook
or stage by its public name. What is not a failure is not logged, and one refused RCPT has one line.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import ssl
import struct
from pathlib import Path
from typing import Any

import pytest
from clients import Client, Sink, until
from hook_kit import BODY, END, MAIL, RCPT, STAGES, STYLES, AtHook, Call, forever
from proxy_kit import LINE, LOCAL, binary
from sasl_kit import OPEN, b64
from scenario import DEFAULTS, EH, codes

from fastsmtp import SMTPError, SMTPServer
from fastsmtp.testing import VirtualLoop, Wire, running

pytestmark = pytest.mark.usefixtures("no_leaks")
row = pytest.mark.row

each_style = pytest.mark.parametrize("style", STYLES)
RESET = struct.pack("ii", 1, 0)


def facts(error: Any) -> tuple[str, str, str]:
    return error.session_id, error.remote_address, error.stage


def raises(call: Call) -> None:
    raise LookupError("ours")


# --- hooks ---


@row("HOOK-19")
@pytest.mark.parametrize("name", STAGES)
@each_style
def test_an_error_has_session_client_and_the_name_of_its_hook(name: str, style: str) -> None:
    with AtHook(name, style, raises) as it:
        session_id = it.wire.session.id
        assert [facts(error) for error in it.errors] == [(session_id, "192.0.2.1", name)]


@row("HOOK-19")
@pytest.mark.parametrize("name", STAGES)
@each_style
def test_a_log_line_without_a_listener_has_session_client_and_hook(
    name: str, style: str, log: list[str]
) -> None:
    with AtHook(name, style, raises, listen=False) as it:
        start = f"{it.wire.session.id}: 192.0.2.1: {name} failed: LookupError: ours"
    assert [line for line in log if line.startswith(start)]


@pytest.mark.parametrize("name", STAGES)
@each_style
def test_a_hook_that_never_answers_is_named(name: str, style: str) -> None:
    def act(call: Call) -> Any:
        return None if style == "callback" else forever()

    with AtHook(name, style, act) as it:
        it.wait(241)
        (error,) = it.errors
        assert facts(error) == (it.wire.session.id, "192.0.2.1", name)
        assert str(error).startswith(f"{name} gave no answer in time")


def accepts_then_raises(call: Call) -> None:
    call.callback()
    raise LookupError("ours")


@pytest.mark.parametrize("name", STAGES)
def test_an_exception_after_the_answer_is_reported_with_its_hook(name: str) -> None:
    # The state of the dialogue is another one by then.
    with AtHook(name, "callback", accepts_then_raises) as it:
        assert it.reply == it.stage.accepted
        assert [facts(error)[2] for error in it.errors] == [name]


@pytest.mark.parametrize(
    ("hook", "line"),
    [
        ("on_auth", b"AUTH PLAIN " + b64("\0ann\0pencil")),
        ("on_scram", b"AUTH SCRAM-SHA-256 " + b64("n,,n=ann,r=nonce")),
    ],
)
@pytest.mark.parametrize("answer", [LookupError("ours"), "nonsense"])
def test_the_hooks_of_auth_are_named(hook: str, line: bytes, answer: Any) -> None:
    def fails(subject: Any, session: Any, callback: Any) -> None:
        if isinstance(answer, Exception):
            raise answer
        callback(None, answer)

    told: list[Any] = []
    server = SMTPServer(**{**DEFAULTS, **OPEN, hook: fails})
    server.on("error", told.append)
    with Wire(server) as wire:
        wire.send(EH)
        assert codes(wire.send(line + b"\r\n")) == ["451 4.3.0"]
        assert [facts(error) for error in told] == [(wire.session.id, "192.0.2.1", hook)]


def test_a_consumer_that_fails_is_reported_as_on_data() -> None:
    def on_data(stream: Any, session: Any, callback: Any) -> None:
        def on_chunk(piece: bytes) -> None:
            raise LookupError("ours")

        stream.consume(on_chunk, lambda error: None)

    told: list[Any] = []
    server = SMTPServer(**{**DEFAULTS, "on_data": on_data})
    server.on("error", told.append)
    with Wire(server) as wire:
        wire.send(EH)
        assert codes(wire.send(MAIL + RCPT + b"DATA\r\n", BODY + END))[-1] == "451 4.3.0"
        assert [facts(error)[2] for error in told] == ["on_data"]


def test_a_failure_after_the_end_of_a_connection_has_session_and_client_too(
    log: list[str],
) -> None:
    with Wire(**DEFAULTS) as wire:
        dialogue, session_id = wire.connection.protocol, wire.session.id
        wire.reset()
        error = LookupError("ours")
        dialogue.report(error, "on_data")
    assert facts(error) == (session_id, "192.0.2.1", "on_data")
    assert log[-1] == f"{session_id}: 192.0.2.1: on_data failed: LookupError: ours"


def test_an_lmtp_list_of_the_wrong_length_is_a_failure_of_on_data() -> None:
    told: list[Any] = []
    server = SMTPServer(
        **{
            **DEFAULTS,
            "lmtp": True,
            "on_data": lambda stream, session, callback: callback(None, ["one", "two"]),
        }
    )
    server.on("error", told.append)
    with Wire(server) as wire:
        wire.send(b"LHLO c.example\r\n", MAIL + RCPT + b"BDAT 1 LAST\r\nx")
        assert [facts(error) for error in told] == [(wire.session.id, "192.0.2.1", "on_data")]
    assert "2 of 1 recipients" in str(told[0])


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (ssl.SSLError("No cipher can be selected."), "SSLError: No cipher can be selected."),
        (ssl.SSLError(1, "[SSL] wrong"), "SSLError: [SSL] wrong"),
        (ssl.SSLError(), "SSLError"),
    ],
    ids=["a text", "a number and a text", "nothing"],
)
def test_an_ssl_error_in_a_hook_is_logged_with_its_text(
    error: Exception, told: str, log: list[str]
) -> None:
    def fail(address: Any, session: Any, callback: Any) -> None:
        raise error

    with Wire(**DEFAULTS, on_mail_from=fail) as wire:
        wire.send(EH)
        wire.send(MAIL)
    (line,) = [line for line in log if "on_mail_from failed" in line]
    assert f"on_mail_from failed: {told};" in line


def test_an_ssl_error_that_rejects_is_sent_with_its_text() -> None:
    def reject(address: Any, session: Any, callback: Any) -> None:
        callback(ssl.SSLError("No cipher can be selected."))

    with Wire(**DEFAULTS, on_mail_from=reject) as wire:
        wire.send(EH)
        got = wire.send(MAIL)
    assert got.endswith(b" No cipher can be selected.\r\n")


def test_hooks_that_are_abandoned_are_named(log: list[str]) -> None:
    gate: list[asyncio.Event] = []

    async def on_rcpt_to(address: Any, session: Any) -> None:
        gate.append(asyncio.Event())
        while not gate[0].is_set():
            with contextlib.suppress(asyncio.CancelledError):
                await gate[0].wait()

    with Wire(**DEFAULTS, on_rcpt_to=on_rcpt_to) as wire:
        wire.send(EH)
        wire.send(MAIL + RCPT)
        wire.advance(36)
        start = f"{wire.session.id}: 192.0.2.1: "
        assert [line for line in log if line.startswith(start) and line.endswith(": on_rcpt_to")]
        wire.loop.step(gate[0].set)


@pytest.mark.parametrize("name", ["on_rcpt_to", "on_data"])
def test_dropped_parts_of_an_answer_are_logged_with_session_and_hook(
    name: str, log: list[str]
) -> None:
    def act(call: Call) -> None:
        call.callback(SMTPError("x" * 5000, 550, "4.7.1"))

    with AtHook(name, "callback", act) as it:
        start = f"{it.wire.session.id}: 192.0.2.1: {name}: "
    assert f"{start}cut the text of a reply from 5000 characters" in log
    assert f"{start}dropped the enhanced code '4.7.1', which does not fit 550" in log


def test_on_close_that_fails_has_session_and_client(log: list[str]) -> None:
    def on_close(session: Any) -> None:
        raise LookupError("ours")

    with Wire(**DEFAULTS, on_close=on_close) as wire:
        session_id = wire.session.id
        wire.reset()
    assert f"{session_id}: 192.0.2.1: on_close failed: LookupError: ours" in log


@pytest.mark.parametrize("event", ["connect", "error"])
def test_a_listener_that_fails_is_logged_with_session_and_client(
    event: str, log: list[str]
) -> None:
    def fail(told: Any) -> None:
        raise LookupError("ours")

    def on_mail_from(address: Any, session: Any, callback: Any) -> None:
        raise LookupError("ours")

    server = SMTPServer(**DEFAULTS, on_mail_from=on_mail_from).on(event, fail)
    with Wire(server) as wire:
        wire.send(EH)
        wire.send(MAIL)
        start = f"{wire.session.id}: 192.0.2.1: "
    assert f"{start}a listener of {event!r} failed: LookupError: ours" in log


def test_a_client_that_reads_no_output_is_logged_with_session_and_client(log: list[str]) -> None:
    with Wire(**DEFAULTS, socket_timeout=30) as wire:
        wire.send(EH)
        wire.stop_reading()
        wire.send(b"NOOP\r\n")
        wire.advance(120)
        assert wire.closed
        start = f"{wire.session.id}: 192.0.2.1: "
    assert f"{start}the client takes no output" in log


# --- TLS and sockets ---


def test_a_socket_that_fails_in_a_transaction_is_reported_with_its_session(log: list[str]) -> None:
    told: list[Any] = []
    for listens in (True, False):
        with Wire(**DEFAULTS) as wire:
            if listens:
                wire.server.on("error", told.append)
            wire.send(EH)
            wire.send(MAIL)
            wire.reset()
            session_id = wire.session.id
        if listens:
            assert [facts(error) for error in told] == [(session_id, "192.0.2.1", "socket")]
    start = f"{session_id}: 192.0.2.1: connection lost inside a transaction: ConnectionResetError"
    assert [line for line in log if line.startswith(start)]


# --- the client in log lines ---


def test_a_client_of_a_unix_socket_has_a_name(run: Any, tmp_path: Path, log: list[str]) -> None:
    told: list[Any] = []

    def on_rcpt_to(address: Any, session: Any, callback: Any) -> None:
        told.append(session)
        raise LookupError("ours")

    async def scenario(listens: bool) -> None:
        path = str(tmp_path / "socket")
        server = Sink().server(on_rcpt_to=on_rcpt_to)
        if listens:
            server.on("error", told.append)
        async with running(server, path=path), await Client.greeted(path) as client:
            assert await client.ask(MAIL) == "250 2.1.0"
            assert await client.ask(RCPT) == "451 4.3.0"

    run(scenario(True))
    session, error = told
    assert session.remote_address == ""
    assert facts(error) == (session.id, "unix", "on_rcpt_to")
    run(scenario(False))
    session = told[-1]
    assert [line for line in log if line.startswith(f"{session.id}: unix: on_rcpt_to failed: ")]
    assert [line for line in log if f"{session.id}: RCPT refused: client=localhost[unix] " in line]


@pytest.mark.parametrize(
    ("header", "named", "address"),
    [
        (LINE, "192.0.2.1 via 10.0.0.7", "192.0.2.1"),
        (b"PROXY UNKNOWN\r\n", "- via 10.0.0.7", "10.0.0.7"),
        (binary(command=LOCAL), "10.0.0.7", "10.0.0.7"),
    ],
    ids=["PROXY", "UNKNOWN", "LOCAL"],
)
def test_a_balancer_is_never_taken_for_its_client_nor_named_twice(
    header: bytes, named: str, address: str, log: list[str]
) -> None:
    def on_mail_from(given: Any, session: Any, callback: Any) -> None:
        raise LookupError("ours")

    server = SMTPServer(**DEFAULTS, use_proxy=["10.0.0.7"], on_mail_from=on_mail_from)
    with Wire(server, peer=("10.0.0.7", 4)) as wire:
        wire.send(header)
        wire.send(EH)
        assert codes(wire.send(MAIL)) == ["451 4.3.0"]
        start = f"{wire.session.id}: {named}: on_mail_from failed: "
        assert [line for line in log if line.startswith(start)]
        told: list[Any] = []
        server.on("error", told.append)
        wire.send(MAIL)
        assert [error.remote_address for error in told] == [address]


def test_a_client_whose_address_a_relay_does_not_know_is_not_the_relay(log: list[str]) -> None:
    def on_mail_from(given: Any, session: Any, callback: Any) -> None:
        raise LookupError("ours")

    server = SMTPServer(**DEFAULTS, use_xclient=["192.0.2.1"], on_mail_from=on_mail_from)
    with Wire(server) as wire:
        wire.send(EH)
        wire.send(b"XCLIENT ADDR=[UNAVAILABLE]\r\n")
        wire.send(EH)
        assert codes(wire.send(MAIL)) == ["451 4.3.0"]
        start = f"{wire.session.id}: - via 192.0.2.1: on_mail_from failed: "
        assert [line for line in log if line.startswith(start)]


# --- one refused RCPT is one line ---


def refuse(address: Any, session: Any, callback: Any) -> None:
    if address.local_part == "later":
        asyncio.get_running_loop().call_soon(callback, SMTPError("Not now", 450))
    elif address.local_part == "bye":
        callback(SMTPError("Enough", 421))
    elif address.local_part.strip('"').startswith("no"):
        callback(SMTPError("No such user\r\nhere", 550))
    else:
        callback()


@pytest.mark.parametrize(
    ("argument", "recipient", "reply"),
    [
        (b"<no@y.example>", "no@y.example", "550-5.1.1 No such user 550 5.1.1 here"),
        (b'<"no \\x"@y.example>', '"no\\x20\\x5cx"@y.example', "550-5.1.1 No such user"),
        (b"<later@y.example>", "later@y.example", "450 4.2.1 Not now"),
        (b"<bye@y.example>", "bye@y.example", "421 4.7.0 Enough"),
        (b"<b@@y.example>", "b@@y.example", "501 5.1.3 Error: Bad recipient address syntax"),
        (b"", "", "501 5.1.3 Error: Bad recipient address syntax"),
        (b"<b@y.example> FOO=1", "b@y.example", "555 5.5.4 RCPT TO parameters"),
        (b"<third@y.example>", "third@y.example", "452 4.5.3 Error: too many recipients"),
    ],
)
def test_one_refused_rcpt_is_logged_with_client_sender_recipient_and_reply(
    argument: bytes, recipient: str, reply: str, log: list[str]
) -> None:
    server = SMTPServer(**DEFAULTS, on_rcpt_to=refuse, max_recipients=2)
    with Wire(server) as wire:
        wire.send(EH)
        wire.send(MAIL + b"RCPT TO:<one@y.example>\r\n")
        if argument.startswith(b"<third"):
            wire.send(b"RCPT TO:<two@y.example>\r\n")
        wire.send(b"RCPT TO:" + argument + b"\r\n")
        wire.advance(0)
        start = f"{wire.session.id}: RCPT refused: client=[192.0.2.1] from=<a@x.example> "
        (line,) = log
    assert line.startswith(f"{start}to=<{recipient}> reply={reply}")
    assert line.isprintable()
    assert len(line) <= 1024


def test_the_reply_that_is_logged_is_the_one_that_the_client_got(log: list[str]) -> None:
    with Wire(**DEFAULTS, on_rcpt_to=refuse, max_errors=2) as wire:
        wire.send(EH)
        assert codes(wire.send(MAIL + b"RCPT TO:<no@y.example>\r\n" * 2))[-1] == "421 4.7.0"
        first, second = log
    assert "reply=550-5.1.1 " in first
    assert "reply=421 4.7.0 Error: too many errors" in second


@row("FLOOD-14")
@pytest.mark.parametrize("count", [10, 11, 500])
def test_ten_of_many_refused_recipients_are_logged_and_the_rest_is_counted(
    count: int, log: list[str]
) -> None:
    with Wire(**DEFAULTS, on_rcpt_to=refuse) as wire:
        wire.send(EH)
        wire.send(MAIL + b"RCPT TO:<later@y.example>\r\n" * count)
        start = f"{wire.session.id}: RCPT refused: client=[192.0.2.1]"
        assert len(log) == 10
        assert all(f"{start} from=" in line for line in log)
        wire.send(b"QUIT\r\n")
    rest = [] if count == 10 else [f"{start} and {count - 10} more recipients, without a line each"]
    assert log[10:] == rest


def test_all_transactions_of_a_connection_share_the_lines_for_refused_recipients(
    log: list[str],
) -> None:
    loop = VirtualLoop()
    server = SMTPServer(**DEFAULTS, on_rcpt_to=refuse)
    for _ in range(2):
        with Wire(server, loop=loop) as wire:
            wire.send(EH)
            for _ in range(3):
                wire.send(MAIL + b"RCPT TO:<later@y.example>\r\n" * 5 + b"RSET\r\n")
            wire.send(b"QUIT\r\n")
        assert len(log) == 11
        assert log[10].endswith(
            ": RCPT refused: client=[192.0.2.1] and 5 more recipients, without a line each"
        )
        log.clear()
    loop.close()


def test_the_logger_of_refused_recipients_can_be_shown_without_all_else(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.DEBUG, "fastsmtp.rcpt")
    with Wire(**DEFAULTS, on_rcpt_to=refuse) as wire:
        wire.send(EH)
        wire.send(MAIL + b"FOO\r\n" + b"RCPT TO:<no@y.example>\r\n")
    assert [record.name for record in caplog.records] == ["fastsmtp.rcpt"]


def test_refusals_of_other_commands_are_logged_in_one_line_each(log: list[str]) -> None:
    with Wire(**DEFAULTS, on_rcpt_to=refuse) as wire:
        wire.send(EH)
        wire.send(b"RCPT TO:<b@y.example>\r\n" + MAIL + b"RCPT TO:<no@y.example>\r\nFOO\r\n")
        start = f"{wire.session.id}: "
        assert [line.removeprefix(start)[:20] for line in log] == [
            *("192.0.2.1: 503 5.5.1", "RCPT refused: client", "192.0.2.1: 500 5.5.2")
        ]


# --- a client that leaves after QUIT ---


def test_a_client_that_resets_after_quit_is_not_logged(log: list[str]) -> None:
    with Wire(**DEFAULTS) as wire:
        wire.send(EH)
        wire.send(b"QUIT\r\n")
        wire.reset()
    assert log == []


def test_a_client_that_resets_before_quit_is_logged_at_debug(log: list[str]) -> None:
    with Wire(**DEFAULTS) as wire:
        wire.send(EH)
        wire.reset()
        start = f"{wire.session.id}: 192.0.2.1: "
    assert [line for line in log if line.startswith(start)] == log
    assert len(log) == 1


@pytest.mark.parametrize("leaves", ["close", "reset"])
def test_a_client_that_leaves_after_quit_without_reading_is_not_logged(
    run: Any, leaves: str, log: list[str]
) -> None:
    async def scenario() -> None:
        sink = Sink()
        server = sink.server()
        async with running(server) as (host, port):
            loop = asyncio.get_running_loop()
            with socket.socket() as client:
                client.setblocking(False)
                await loop.sock_connect(client, (host, port))
                await loop.sock_recv(client, 1000)
                await loop.sock_sendall(client, EH)
                await loop.sock_recv(client, 1000)
                await loop.sock_sendall(client, b"QUIT\r\n")
                if leaves == "reset":
                    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
            await until(lambda: bool(sink.closed))

    run(scenario())
    if leaves == "close":
        assert log == []
    else:  # a reset may overtake the QUIT
        assert len(log) <= 1
