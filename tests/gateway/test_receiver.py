"""The hooks of the gateway, without a server: what they keep, what they answer, what they log."""

from __future__ import annotations

import asyncio
import logging
import os
import threading
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any

import pytest

from fastsmtp._wire.grammar import Address, parse_forward_path, parse_reverse_path
from fastsmtp.errors import MessageAborted, SMTPError
from fastsmtp.gateway.delivery.maildir import Maildir
from fastsmtp.gateway.receiver import WRITE_OCTETS, Disk, Receiver
from fastsmtp.session import Session
from fastsmtp.stream import DataStream, abort_stream, end_stream, feed_stream

PATIENCE = 60.0

type_run = Callable[[Coroutine[Any, Any, Any]], Any]

ADDR_10 = [
    *[";id;@x", "`id`@x", "$(id)@x", "|cmd@x", "a/b@x", "../../etc/passwd@x"],
    *["a'--@x", "{{7*7}}@x", "%s%n@x", '"../../etc/passwd"@x', '"a\\"b"@x'],
]


@pytest.fixture
def disk() -> Iterator[Disk]:
    disk = Disk(4)
    yield disk
    disk.close()


@pytest.fixture
def box(tmp_path: Path) -> Maildir:
    return Maildir(str(tmp_path / "mail"))


class Gate:
    """Holds a function of `os` up until `open` is set."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
        self.reached, self.open = threading.Event(), threading.Event()
        self._function = getattr(os, name)
        monkeypatch.setattr(os, name, self._held)

    def _held(self, *arguments: Any) -> Any:
        self.reached.set()
        assert self.open.wait(20)
        return self._function(*arguments)


def receiver(box: Maildir, disk: Disk, *domains: str, lmtp: bool = False) -> Receiver:
    return Receiver(box, disk, name="mx.example", domains=frozenset(domains), lmtp=lmtp)


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


def kept(box: Maildir) -> list[bytes]:
    """The messages in `new`; nothing may lie in `tmp`."""
    assert list(Path(box.tmp).iterdir()) == []
    return [path.read_bytes() for path in sorted(Path(box.new).iterdir())]


def body_of(message: bytes) -> bytes:
    """What follows our own headers, the last of which is Received with its two further lines."""
    head, mark, rest = message.partition(b"\nReceived: ")
    assert head.startswith(b"Return-Path: <a@x.example>\nDelivered-To: ")
    assert mark
    lines = rest.split(b"\n", 3)
    assert lines[1].startswith(b"\tby ")
    return b"\n".join(lines[3:]) if b"\tfor " in lines[2] else b"\n".join(lines[2:])


def stored(box: Maildir) -> bytes:
    (message,) = kept(box)
    return body_of(message)


# What is stored.


def test_a_message_is_stored_after_the_trace_headers(
    run: type_run, box: Maildir, disk: Disk
) -> None:
    answer = run(receiver(box, disk).on_data(ended(b"Subject: s\r\n\r\nbody\r\n"), session_for()))
    assert stored(box) == b"Subject: s\n\nbody\n"
    assert "\n" not in answer


def test_the_answer_names_the_id_of_the_received_header(
    run: type_run, box: Maildir, disk: Disk
) -> None:
    session = session_for()
    session.transaction = 7
    answer = run(receiver(box, disk).on_data(ended(b"x\r\n"), session))
    assert f"{session.id}-7" in answer
    assert f" id {session.id}-7\n".encode() in kept(box)[0]


def test_an_empty_message_has_the_trace_headers_only(
    run: type_run, box: Maildir, disk: Disk
) -> None:
    run(receiver(box, disk).on_data(ended(), session_for()))
    assert stored(box) == b""


@pytest.mark.parametrize("length", [1, 1000, WRITE_OCTETS - 1, WRITE_OCTETS, WRITE_OCTETS + 1])
def test_a_large_message_is_whole_however_it_came(
    run: type_run, box: Maildir, disk: Disk, length: int
) -> None:
    octets = (b"0123456789abcdef\r\n" * (1 + 300_000 // 18))[:300_000]
    pieces = [
        octets[start : start + length] for start in range(0, min(len(octets), 64 * length), length)
    ]
    run(receiver(box, disk).on_data(ended(*pieces), session_for()))
    assert stored(box) == b"".join(pieces).replace(b"\r\n", b"\n")


def test_a_large_message_is_on_its_way_to_disk_before_its_end(
    run: type_run, box: Maildir, disk: Disk
) -> None:
    async def send() -> None:
        stream = stream_of(b"x" * WRITE_OCTETS)
        task = asyncio.create_task(receiver(box, disk).on_data(stream, session_for()))
        feed_stream(stream, b"y" * WRITE_OCTETS)
        while stream._buffered:
            await asyncio.sleep(0)
        (path,) = Path(box.tmp).iterdir()
        assert path.stat().st_size > WRITE_OCTETS
        assert list(Path(box.new).iterdir()) == []
        end_stream(stream)
        await task

    run(send())
    assert len(stored(box)) == 2 * WRITE_OCTETS


@pytest.mark.parametrize("first", [b" by evil with ESMTP; x", b"\tfor <x@y>\r\n", b" "])
def test_smug_34_a_message_cannot_go_on_with_our_last_header(
    run: type_run, box: Maildir, disk: Disk, first: bytes
) -> None:
    run(receiver(box, disk).on_data(ended(first), session_for()))
    assert stored(box) == b"\n" + first.replace(b"\r\n", b"\n")


@pytest.mark.parametrize(
    "octets", [b"H: 1\r\n\rFrom: x\r\n", b"H: 1\n\nbody", b"a\r\r\nb", b"\r", b"a\r"]
)
def test_smug_34_only_crlf_becomes_a_line_end(
    run: type_run, box: Maildir, disk: Disk, octets: bytes
) -> None:
    # The engine refuses these; with nothing else done to them, no header of ours can be added to.
    run(receiver(box, disk).on_data(ended(octets), session_for()))
    assert stored(box) == octets.replace(b"\r\n", b"\n")


def test_line_15_a_message_of_a_million_headers_is_only_copied(
    run: type_run, box: Maildir, disk: Disk
) -> None:
    octets = b"Received: x\r\n__class__: y\r\n" * 40_000
    run(receiver(box, disk).on_data(ended(octets), session_for()))
    assert stored(box) == octets.replace(b"\r\n", b"\n")


def test_a_message_with_several_recipients_is_one_file(
    run: type_run, box: Maildir, disk: Disk
) -> None:
    session = session_for("b@y.example", "c@y.example")
    answer = run(receiver(box, disk).on_data(ended(b"x\r\n"), session))
    (message,) = kept(box)
    assert message.count(b"Delivered-To: ") == 2
    assert isinstance(answer, str)


def test_each_recipient_has_an_answer_in_lmtp(run: type_run, box: Maildir, disk: Disk) -> None:
    session = session_for("b@y.example", "b@y.example", "c@y.example")
    answer = run(receiver(box, disk, lmtp=True).on_data(ended(b"x\r\n"), session))
    assert len(answer) == 3
    assert len(kept(box)) == 1


@pytest.mark.parametrize("mailbox", ADDR_10)
def test_addr_10_no_address_gets_into_a_path(
    run: type_run, box: Maildir, disk: Disk, mailbox: str, tmp_path: Path
) -> None:
    recipient = address(mailbox)
    if recipient is None:
        return  # 501 by the grammar
    session = session_for(mailbox)
    session.envelope.mail_from = recipient
    session.host_name_appears_as = "../../helo"
    session.client_hostname = "../../name"
    run(receiver(box, disk).on_data(ended(b"x\r\n"), session))
    found = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert [path.parent for path in found] == [Path(box.new)]
    assert found[0].name.startswith("1")
    assert "passwd" not in found[0].name
    assert f"Delivered-To: {mailbox}\n".encode() in found[0].read_bytes()


# What is not kept.


@pytest.mark.parametrize("octets", [b"", b"x" * 10, b"x" * 3 * WRITE_OCTETS])
def test_size_03_a_message_over_size_leaves_nothing(
    run: type_run, box: Maildir, disk: Disk, octets: bytes
) -> None:
    stream = ended(*([octets] if octets else []), size_exceeded=True)
    assert run(receiver(box, disk).on_data(stream, session_for())) is None
    assert kept(box) == []


@pytest.mark.parametrize("reason", ["disconnected", "timeout", "shutdown", "bare_newline", "reset"])
@pytest.mark.parametrize("octets", [b"x" * 10, b"x" * 3 * WRITE_OCTETS])
def test_an_aborted_message_leaves_nothing(
    run: type_run, box: Maildir, disk: Disk, octets: bytes, reason: str
) -> None:
    stream = stream_of(octets)
    abort_stream(stream, reason)
    with pytest.raises(MessageAborted):
        run(receiver(box, disk).on_data(stream, session_for()))
    assert kept(box) == []


@pytest.mark.parametrize("call", ["write", "fsync", "link"])
def test_a_cancelled_hook_leaves_nothing(
    run: type_run, box: Maildir, disk: Disk, call: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = Gate(monkeypatch, call)

    async def cancel() -> None:
        task = asyncio.create_task(receiver(box, disk).on_data(ended(b"x\r\n"), session_for()))
        while not gate.reached.is_set():
            await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task  # at once: it does not wait for the disk
        gate.open.set()

    run(cancel())
    disk.close()
    assert kept(box) == []


@pytest.mark.parametrize("octets", [b"x" * 10, b"x" * 3 * WRITE_OCTETS])
def test_a_fault_of_the_disk_is_the_answer(
    run: type_run, box: Maildir, disk: Disk, octets: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_descriptor: int, _octets: object) -> int:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as broken:
        broken.setattr(os, "write", full)
        with pytest.raises(SMTPError) as refused:
            run(receiver(box, disk).on_data(ended(octets), session_for()))
    assert refused.value.response_code == 452
    assert kept(box) == []
    run(receiver(box, disk).on_data(ended(octets), session_for()))
    assert len(kept(box)) == 1


def test_the_loop_goes_on_while_the_disk_is_at_work(
    run: type_run, box: Maildir, disk: Disk, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = Gate(monkeypatch, "fsync")

    async def deliver() -> None:
        task = asyncio.create_task(receiver(box, disk).on_data(ended(b"x\r\n"), session_for()))
        while not gate.reached.is_set():
            await asyncio.sleep(0)
        for _ in range(10):  # turns of the loop, with the disk still busy
            await asyncio.sleep(0)
        assert not task.done()
        gate.open.set()
        await task

    run(deliver())
    assert len(kept(box)) == 1


# Recipients.


def answer_for(hooks: Receiver, mailbox: str) -> Exception | None:
    answers: list[Exception | None] = []
    recipient = address(mailbox)
    assert recipient is not None
    hooks.on_rcpt_to(recipient, Session(), answers.append)
    (answer,) = answers
    return answer


def test_every_recipient_is_taken_where_no_domains_are_given(box: Maildir, disk: Disk) -> None:
    for mailbox in ("b@y.example", "b@[192.0.2.1]", "postmaster", "ü@ü.example"):
        assert answer_for(receiver(box, disk), mailbox) is None


@pytest.mark.parametrize(
    "mailbox",
    [
        *["b@y.example", "B@Y.EXAMPLE", '"a@b"@y.example', "postmaster", "POSTMASTER"],
        *["b@bücher.example", "b@BÜCHER.example", "b@xn--bcher-kva.example"],
        "@evil.example:b@y.example",
    ],
)
def test_recipients_of_our_domains_are_taken(box: Maildir, disk: Disk, mailbox: str) -> None:
    hooks = receiver(box, disk, "y.example", "xn--bcher-kva.example")
    assert answer_for(hooks, mailbox) is None


@pytest.mark.parametrize(
    "mailbox",
    [
        *["b@x.example", "b@sub.y.example", "b@y.example.org", "b@y", "b@[192.0.2.1]"],
        *['"b@y.example"@x.example', "b%y.example@x.example", "postmaster@x.example"],
        "b@ÿ.example",
    ],
)
def test_recipients_elsewhere_are_refused_as_relaying(
    box: Maildir, disk: Disk, mailbox: str
) -> None:
    refused = answer_for(receiver(box, disk, "y.example"), mailbox)
    assert isinstance(refused, SMTPError)
    assert (refused.response_code, refused.enhanced_code) == (550, "5.1.1")
    assert "relay denied" in refused.message


# One line per message.


@pytest.fixture
def lines(caplog: pytest.LogCaptureFixture) -> Callable[[], list[str]]:
    caplog.set_level(logging.INFO, "fastsmtp.gateway")
    return lambda: [record.getMessage() for record in caplog.records]


def test_a_delivery_is_logged_in_one_line(
    run: type_run, box: Maildir, disk: Disk, lines: Callable[[], list[str]]
) -> None:
    session = session_for("b@y.example", "c@y.example")
    run(receiver(box, disk).on_data(ended(b"x\r\n"), session))
    (name,) = os.listdir(box.new)
    assert lines() == [
        f"delivered id={session.id}-1 from=<a@x.example> to=<b@y.example> recipients=2 "
        f"client=client.example[192.0.2.7] helo=c.example with=ESMTP size=3 file={name}"
    ]


def test_a_refusal_is_logged_in_one_line_with_the_reason(
    run: type_run,
    box: Maildir,
    disk: Disk,
    lines: Callable[[], list[str]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def broken(_descriptor: int) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(os, "fsync", broken)
    with pytest.raises(SMTPError):
        run(receiver(box, disk).on_data(ended(b"x\r\n"), session_for()))
    (line,) = lines()
    assert line.startswith("refused id=")
    assert line.endswith(" size=3 reason=EIO:Input/output\\x20error")


def test_an_abort_is_logged_in_one_line_with_the_reason(
    run: type_run, box: Maildir, disk: Disk, lines: Callable[[], list[str]]
) -> None:
    stream = stream_of(b"x")
    abort_stream(stream, "disconnected")
    with pytest.raises(MessageAborted):
        run(receiver(box, disk).on_data(stream, session_for()))
    (line,) = lines()
    assert line.startswith("aborted id=")
    assert line.endswith(" reason=disconnected")


def test_log_01_text_of_a_client_is_cleaned(
    run: type_run, box: Maildir, disk: Disk, lines: Callable[[], list[str]]
) -> None:
    session = session_for('" to=<x"@y.example')
    session.host_name_appears_as = "\x1b[2J\x9b%n{0.__class__}\u202e\x07" + "x" * 2000
    session.client_hostname = "a\nforged"
    run(receiver(box, disk).on_data(ended(b"x\r\n"), session))
    (line,) = lines()
    assert line.isprintable()
    assert len(line) < 1000
    assert 'to=<"\\x20to=<x"@y.example> ' in line
    assert "client=a\\x0aforged[192.0.2.7]" in line


def test_the_end_does_not_wait_for_a_disk_for_ever(run: type_run) -> None:
    async def scenario() -> None:
        disk, go = Disk(1), threading.Event()
        disk.start(go.wait)
        assert not await disk.close_within(0.01)
        go.set()
        assert await disk.close_within(PATIENCE)

    run(scenario())
