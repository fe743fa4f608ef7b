"""What no client of others does: thousands of commands in one write, and BDAT, on each loop."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from clients import Client, Sink, digest
from scenario import COUNTERS_OFF, TX

from fastsmtp.testing import running

BIG = 30_000_000


@pytest.fixture(params=["smtp-tcp", "smtp-unix", "lmtp-tcp", "lmtp-unix"])
def way(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[bool, dict[str, Any]]:
    """(is it LMTP, what `listen` takes)."""
    protocol, kind = request.param.split("-")
    return protocol == "lmtp", {"path": str(tmp_path / "socket")} if kind == "unix" else {}


async def dialogue(
    sink: Sink, way: tuple[bool, dict[str, Any]], stream: bytes, **options: Any
) -> list[str]:
    """Greet, send `stream` in one go, read until the server closes; returns the replies to it."""
    lmtp, listen = way
    async with running(sink.server(lmtp=lmtp, **options), **listen) as address:
        where = listen.get("path", address)
        async with await Client.greeted(where, b"LHLO" if lmtp else b"EHLO") as client:
            client.send(stream)
            return await client.rest()


def test_ten_thousand_pipelined_commands_are_answered_in_order(run: Any, way: Any) -> None:
    stream, expected = bytearray(), []
    source = random.Random(10_000)
    kinds = [
        (b"NOOP\r\n", "250 2.0.0"),
        (b"VRFY x\r\n", "252 2.0.0"),
        (b"HELP\r\n", "214 2.0.0"),
        (b"WIZ\r\n", "500 5.5.2"),
        (b"RCPT TO:<b@y.example>\r\n", "503 5.5.1"),
        (b"EXPN x\r\n", "502 5.5.1"),
        (b"MAIL FROM:<a@x.example>\r\nRSET\r\n", "250 2.1.0,250 2.0.0"),
    ]
    for _ in range(10_000):
        octets, replies = source.choice(kinds)
        stream += octets
        expected += replies.split(",")
    replies = run(dialogue(Sink(), way, bytes(stream) + b"QUIT\r\n", **COUNTERS_OFF))
    assert replies == [*expected, "221 2.0.0"]


def test_messages_by_bdat_in_ten_thousand_pipelined_commands_all_arrive(run: Any, way: Any) -> None:
    sink = Sink()
    stream, bodies = bytearray(), []
    for number in range(2500):
        body = b"Subject: %d\r\n\r\n.\r\n" % number
        bodies.append(digest(body))
        stream += TX + b"BDAT %d\r\n" % len(body[:7]) + body[:7]
        stream += b"BDAT %d LAST\r\n" % len(body[7:]) + body[7:]
    replies = run(dialogue(sink, way, bytes(stream) + b"QUIT\r\n"))
    each = ["250 2.1.0", "250 2.1.5", "250 2.0.0", "250 2.6.0"]
    assert replies == each * 2500 + ["221 2.0.0"]
    assert [told.digest for told in sink.arrived] == bodies


def test_thirty_megabytes_of_binary_chunks_arrive(run: Any, way: Any) -> None:
    sink = Sink()
    source = random.Random(30)
    block = source.randbytes(1 << 20) + b"\r\n.\r\n\r\n.\nBDAT 0 LAST\r\n\r" + bytes(1000)
    body = block * (BIG // len(block)) + b"\r"
    stream = bytearray(b"MAIL FROM:<a@x.example> BODY=BINARYMIME\r\nRCPT TO:<b@y.example>\r\n")
    at, chunks = 0, 0
    while at < len(body):
        chunk = body[at : at + source.choice([1, 100, 70_000, 3_000_000])]
        at, chunks = at + len(chunk), chunks + 1
        stream += b"BDAT %d\r\n" % len(chunk) + chunk
    stream += b"BDAT 0 LAST\r\n"
    options = {"size": 2 * BIG, "hide_binarymime": False}
    replies = run(dialogue(sink, way, bytes(stream) + b"QUIT\r\n", **options))
    assert replies == [
        *("250 2.1.0", "250 2.1.5"),
        *["250 2.0.0"] * chunks,
        *("250 2.6.0", "221 2.0.0"),
    ]
    (told,) = sink.arrived
    assert (told.octets, told.digest, told.body_type) == (len(body), digest(body), "binarymime")


def test_chunks_of_an_eight_bit_text_arrive(run: Any, way: Any) -> None:
    sink = Sink()
    body = "Grüße\r\n.\r\n..\r\n".encode() * 20_000
    stream = bytearray(b"MAIL FROM:<a@x.example> BODY=8BITMIME\r\nRCPT TO:<b@y.example>\r\n")
    chunks = [body[at : at + 4099] for at in range(0, len(body), 4099)]
    for chunk in chunks[:-1]:
        stream += b"BDAT %d\r\n" % len(chunk) + chunk
    stream += b"BDAT %d LAST\r\n" % len(chunks[-1]) + chunks[-1]
    replies = run(dialogue(sink, way, bytes(stream) + b"QUIT\r\n"))
    assert replies[-2:] == ["250 2.6.0", "221 2.0.0"]
    assert sink.arrived[0].digest == digest(body)


def test_utf8_addresses_and_bdat_work_together(run: Any, way: Any) -> None:
    sink = Sink()
    stream = "MAIL FROM:<jörg@x.example> SMTPUTF8\r\nRCPT TO:<ю@y.example>\r\nBDAT 3 LAST\r\nхx"
    replies = run(dialogue(sink, way, stream.encode() + b"QUIT\r\n"))
    assert replies == ["250 2.1.0", "250 2.1.5", "250 2.6.0", "221 2.0.0"]
    (told,) = sink.arrived
    assert (told.sender, told.recipients, told.utf8) == ("jörg@x.example", ["ю@y.example"], True)
    assert told.kind == ("UTF8LMTP" if way[0] else "UTF8SMTP")


def test_a_slow_hook_holds_a_large_body_back_and_gets_all_of_it(run: Any, way: Any) -> None:
    """The hook waits for a turn of the loop at each piece, the client does not."""
    body = (b"y" * 100 + b"\r\n") * 100_000
    bodies: list[bytes] = []

    def on_data(stream: Any, session: Any, callback: Callable[..., object]) -> None:
        pieces: list[bytes] = []

        async def read() -> None:
            async for piece in stream:
                pieces.append(piece)
                assert stream._buffered < 64 * 1024 + 262_144
            bodies.append(b"".join(pieces))
            callback()

        keep.append(run.loop.create_task(read()))

    keep: list[Any] = []

    async def talk() -> None:
        lmtp, listen = way
        async with running(Sink().server(lmtp=lmtp, on_data=on_data), **listen) as address:
            where = listen.get("path", address)
            async with await Client.in_data(where, b"LHLO" if lmtp else b"EHLO") as client:
                client.send(body + b".\r\n")
                assert await client.reply() == "250 2.6.0"
                assert await client.ask(b"QUIT\r\n") == "221 2.0.0"  # it is read again

    run(talk())
    assert bodies == [body]
