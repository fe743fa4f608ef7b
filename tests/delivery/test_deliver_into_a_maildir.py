"""`deliver(Maildir(…))`: what is kept, what is answered, what is logged; without a server.

The body is handed to the hook as the engine would.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from fastsmtp._wire.grammar import Address, parse_forward_path, parse_reverse_path
from fastsmtp.delivery import Delivery, Entry, deliver
from fastsmtp.delivery.maildir import Maildir
from fastsmtp.errors import MessageAborted
from fastsmtp.session import Session
from fastsmtp.stream import DataStream, abort_stream, end_stream, feed_stream

type_run = Callable[[Coroutine[Any, Any, Any]], Any]

LARGE = 1024 * 1024  # octets of a body up to which it goes into a record
ADDR_10 = [
    *[";id;@x", "`id`@x", "$(id)@x", "|cmd@x", "a/b@x", "../../etc/passwd@x"],
    *["a'--@x", "{{7*7}}@x", "%s%n@x", '"../../etc/passwd"@x', '"a\\"b"@x'],
]


class Box:
    """A Maildir in a folder of the test, and the hook that delivers into it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.entries: list[Entry] = []

    @property
    def lines(self) -> list[str]:
        return [str(entry) for entry in self.entries]

    def kept(self) -> list[bytes]:
        """The messages in `new`; nothing may lie in `tmp`."""
        assert list((self.path / "tmp").iterdir()) == []
        return [path.read_bytes() for path in sorted((self.path / "new").iterdir())]

    def stored(self) -> bytes:
        """The one message that is kept, without our headers."""
        (message,) = self.kept()
        return body_of(message)

    @asynccontextmanager
    async def open(self) -> AsyncIterator[Delivery]:
        async with Maildir(str(self.path)) as sink:
            yield deliver(sink, name="mx.example", log=self.entries.append)

    async def take(self, stream: DataStream, session: Session | None = None) -> Any:
        """Deliver one message; return the answer, or raise the refusal."""
        async with self.open() as hook:
            return await answer(hook, stream, session or session_for())


@pytest.fixture
def box(tmp_path: Path) -> Box:
    return Box(tmp_path / "mail")


async def answer(hook: Delivery, stream: DataStream, session: Session) -> Any:
    answered = asyncio.get_running_loop().create_future()

    def callback(error: BaseException | None = None, result: Any = None) -> bool:
        if error is not None:
            answered.set_exception(error)
        else:
            answered.set_result(result)
        return True

    hook(stream, session, callback)
    return await answered


def address(mailbox: str) -> Address | None:
    parsed = parse_forward_path(f"TO:<{mailbox}>".encode(), True, False)
    return None if isinstance(parsed, int) else parsed[0]


def session_for(*recipients: str) -> Session:
    session = Session()
    session.opening_command = "EHLO"
    session.host_name_appears_as = "c.example"
    session.client_hostname = "client.example"
    session.remote_address = "192.0.2.7"
    parsed = parse_reverse_path(b"FROM:<a@x.example>", False, False)
    assert not isinstance(parsed, int)
    session.envelope.mail_from = parsed[0]
    session.envelope.rcpt_to = [
        found for mailbox in recipients or ("b@y.example",) if (found := address(mailbox))
    ]
    return session


def stream_of(*pieces: bytes) -> DataStream:
    stream = DataStream(lambda: None)
    for piece in pieces:
        feed_stream(stream, piece)
    return stream


def ended(*pieces: bytes, size_exceeded: bool = False) -> DataStream:
    stream = stream_of(*pieces)
    stream.size_exceeded = size_exceeded
    end_stream(stream)
    return stream


def body_of(message: bytes) -> bytes:
    """What follows our own headers, the last of which is Received with its two further lines."""
    head, mark, rest = message.partition(b"\nReceived: ")
    assert head.startswith(b"Return-Path: <a@x.example>\nDelivered-To: ")
    assert mark
    lines = rest.split(b"\n", 3)
    assert lines[1].startswith(b"\tby ")
    return b"\n".join(lines[3:]) if b"\tfor " in lines[2] else b"\n".join(lines[2:])


# --- what is kept ---


def test_a_message_is_stored_after_the_trace_headers(run: type_run, box: Box) -> None:
    text = run(box.take(ended(b"Subject: s\r\n\r\nbody\r\n")))
    assert box.stored() == b"Subject: s\n\nbody\n"
    assert "\n" not in text


def test_the_answer_names_the_id_of_the_received_header(run: type_run, box: Box) -> None:
    session = session_for()
    session.transaction = 7
    assert run(box.take(ended(b"x\r\n"), session)) == f"OK: message delivered, id {session.id}-7"
    assert f" id {session.id}-7\n".encode() in box.kept()[0]


def test_an_empty_message_has_the_trace_headers_only(run: type_run, box: Box) -> None:
    run(box.take(ended()))
    assert box.stored() == b""


@pytest.mark.parametrize("length", [1000, 65_535, 65_536, 65_537, LARGE - 1, LARGE, LARGE + 1])
@pytest.mark.parametrize("octets", [300_000, LARGE, LARGE + 18, 3 * LARGE])
def test_a_large_message_is_whole_however_it_came(
    run: type_run, box: Box, length: int, octets: int
) -> None:
    body = (b"0123456789abcdef\r\n" * (1 + octets // 18))[: octets // 18 * 18]
    pieces = [body[start : start + length] for start in range(0, len(body), length)]
    run(box.take(ended(*pieces)))
    assert box.stored() == body.replace(b"\r\n", b"\n")


@pytest.mark.parametrize("first", [b" by evil with ESMTP; x", b"\tfor <x@y>\r\n", b" "])
@pytest.mark.parametrize("more", [0, 2 * LARGE])
def test_smug_34_a_message_cannot_go_on_with_our_last_header(
    run: type_run, box: Box, first: bytes, more: int
) -> None:
    run(box.take(ended(first, b"x" * more) if more else ended(first)))
    assert box.stored() == b"\n" + first.replace(b"\r\n", b"\n") + b"x" * more


@pytest.mark.parametrize(
    "octets", [b"H: 1\r\n\rFrom: x\r\n", b"H: 1\n\nbody", b"a\r\r\nb", b"\r", b"a\r"]
)
def test_smug_34_only_crlf_becomes_a_line_end(run: type_run, box: Box, octets: bytes) -> None:
    # The engine refuses these; with nothing else done to them, no header of ours can be added to.
    run(box.take(ended(octets)))
    assert box.stored() == octets.replace(b"\r\n", b"\n")


def test_line_15_a_message_of_a_million_headers_is_only_copied(run: type_run, box: Box) -> None:
    octets = b"Received: x\r\n__class__: y\r\n" * 40_000
    run(box.take(ended(octets)))
    assert box.stored() == octets.replace(b"\r\n", b"\n")


def test_a_message_with_several_recipients_is_one_file(run: type_run, box: Box) -> None:
    text = run(box.take(ended(b"x\r\n"), session_for("b@y.example", "c@y.example")))
    (message,) = box.kept()
    assert message.count(b"Delivered-To: ") == 2
    assert isinstance(text, str)


def test_in_lmtp_each_recipient_has_an_answer(run: type_run, box: Box) -> None:
    session = session_for("b@y.example", "b@y.example", "c@y.example")
    session.opening_command = "LHLO"
    assert len(run(box.take(ended(b"x\r\n"), session))) == 3
    assert len(box.kept()) == 1


@pytest.mark.parametrize("mailbox", ADDR_10)
def test_addr_10_no_address_gets_into_a_path(
    run: type_run, box: Box, mailbox: str, tmp_path: Path
) -> None:
    recipient = address(mailbox)
    if recipient is None:
        return  # 501 by the grammar
    session = session_for(mailbox)
    session.envelope.mail_from = recipient
    session.host_name_appears_as = "../../helo"
    session.client_hostname = "../../name"
    run(box.take(ended(b"x\r\n"), session))
    found = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert [path.parent for path in found] == [box.path / "new"]
    assert found[0].name.startswith("1")
    assert "passwd" not in found[0].name
    assert f"Delivered-To: {mailbox}\n".encode() in found[0].read_bytes()


# --- what is not kept ---


@pytest.mark.parametrize("octets", [b"", b"x" * 10, b"x" * 3 * LARGE])
def test_size_03_nothing_is_kept_of_a_message_over_size(
    run: type_run, box: Box, octets: bytes
) -> None:
    stream = ended(*([octets] if octets else []), size_exceeded=True)
    assert run(box.take(stream)) is None
    assert box.kept() == []


@pytest.mark.parametrize("reason", ["disconnected", "timeout", "shutdown", "bare_newline", "reset"])
@pytest.mark.parametrize("octets", [b"x" * 10, b"x" * 3 * LARGE])
def test_nothing_is_kept_of_an_aborted_message(
    run: type_run, box: Box, octets: bytes, reason: str
) -> None:
    stream = stream_of(octets)
    abort_stream(stream, reason)
    with pytest.raises(MessageAborted):
        run(box.take(stream))
    assert box.kept() == []
    (line,) = box.lines
    assert line.endswith(f" reason={reason}")


def test_nothing_is_kept_of_a_large_message_that_is_aborted_while_it_is_written(
    run: type_run, box: Box
) -> None:
    async def scenario() -> None:
        async with box.open() as hook:
            stream = stream_of()
            answering = asyncio.ensure_future(answer(hook, stream, session_for()))
            await asyncio.sleep(0)
            for _ in range(5):
                feed_stream(stream, b"x" * LARGE)
            abort_stream(stream, "disconnected")
            with pytest.raises(MessageAborted):
                await answering

    run(scenario())
    assert box.kept() == []


def test_a_message_whose_client_was_not_told_of_it_is_taken_back(run: type_run, box: Box) -> None:
    async def scenario() -> None:
        answered = asyncio.get_running_loop().create_future()

        def callback(error: object = None, result: object = None) -> bool:
            answered.set_result(result)
            return False  # as when the time of the hook was up

        async with box.open() as hook:
            hook(ended(b"x\r\n"), session_for(), callback)
            assert await answered is not None
            await asyncio.sleep(0)
        assert hook.traffic.late == 1

    run(scenario())
    assert box.kept() == []


# --- one line per message ---


def test_a_delivery_is_one_line(run: type_run, box: Box) -> None:
    session = session_for("b@y.example", "c@y.example")
    run(box.take(ended(b"x\r\n"), session))
    (path,) = (box.path / "new").iterdir()
    assert box.lines == [
        f"delivered id={session.id}-1 from=<a@x.example> to=<b@y.example> recipients=2 "
        f"client=client.example[192.0.2.7] helo=c.example with=ESMTP size=3 file={path.name}"
    ]


def test_log_01_what_the_client_says_is_cleaned(run: type_run, box: Box) -> None:
    session = session_for('" to=<x"@y.example')
    session.host_name_appears_as = "\x1b[2J\x9b%n{0.__class__}\u202e\x07" + "x" * 2000
    session.client_hostname = "a\nforged"
    run(box.take(ended(b"x\r\n"), session))
    (line,) = box.lines
    assert line.isprintable()
    assert len(line) < 1000
    assert 'to=<"\\x20to=<x"@y.example> ' in line
    assert "client=a\\x0aforged[192.0.2.7]" in line


def test_the_line_of_a_login_inside_of_tls_has_both(run: type_run, box: Box) -> None:
    session = session_for()
    session.secure, session.user = True, "an ne"
    session.tls_options = {"version": "TLSv1.3", "standard_name": "TLS_AES_128_GCM_SHA256"}
    run(box.take(ended(b"x\r\n"), session))
    (line,) = box.lines
    assert " with=ESMTPSA tls=TLSv1.3/TLS_AES_128_GCM_SHA256 user=an\\x20ne size=3 " in line


class Nameless:
    """An object of a hook that has no text."""

    def __str__(self) -> str:
        raise LookupError("ours")


def test_mail_of_a_user_whose_object_has_no_text_is_delivered(run: type_run, box: Box) -> None:
    session = session_for()
    session.user = Nameless()
    run(box.take(ended(b"x\r\n"), session))
    (line,) = box.lines
    assert " user=<Nameless> " in line
