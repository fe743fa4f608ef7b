"""A hook that accepts has read its message to the end, or has said that it does not want to.

A 250 after a body of which the hook took a part would say that the whole of it is safe
(RFC 5321 §4.2.5): the client gets 451, and the log says how to mend the hook.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

import pytest
from clients import Client, Sink
from consumers import LINE, READ
from hook_kit import BODY, END, MAIL, RCPT
from scenario import COUNTERS_OFF, DEFAULTS, EH, LH, codes

from fastsmtp import MessageAborted, MessageTooLarge, SMTPError
from fastsmtp.testing import VirtualLoop, Wire, running

pytestmark = pytest.mark.usefixtures("no_leaks")
row = pytest.mark.row

# Bodies by the reads in which they come, and how they are sent.
BODIES = {"one read": [BODY], "many reads": [BODY, LINE, READ, READ, BODY]}
SENT = ("DATA", "DATA in one read", "BDAT", "BDAT in chunks")


# --- hooks that have taken a part of a body and accept ---


async def takes_one_piece(stream: Any, session: Any) -> None:
    await anext(stream)


async def breaks_off(stream: Any, session: Any) -> str:
    async for _ in stream:
        break
    return "stored"


async def counts_octets(stream: Any, session: Any) -> None:
    """It knows from elsewhere how long the body is, so it never looks for the end."""
    size = session.data["size"]
    while size:
        size -= len(await anext(stream))


async def gives_up_waiting(stream: Any, session: Any) -> None:
    try:
        async with asyncio.timeout(0):
            async for _ in stream:
                await asyncio.sleep(0)
            await asyncio.Event().wait()
    except TimeoutError:
        return


async def ignores_the_limit(stream: Any, session: Any) -> None:
    try:
        await stream.read(3)
    except MessageTooLarge:
        return


async def lets_another_task_read(stream: Any, session: Any) -> None:
    async def read() -> None:
        with suppress(MessageAborted):
            await anext(stream)

    session.data["reading"] = asyncio.ensure_future(read())
    await asyncio.sleep(0)


async def accepts_and_goes_on_reading(stream: Any, session: Any, callback: Any) -> None:
    await anext(stream)
    callback(None, "stored")
    try:
        async for _ in stream:
            pass
    except MessageAborted:
        return


def consumes_and_accepts(stream: Any, session: Any, callback: Any) -> None:
    stream.consume(lambda piece: None, lambda error: None)
    callback(None, "stored")


def accepts_and_consumes(stream: Any, session: Any, callback: Any) -> None:
    callback()
    stream.consume(lambda piece: None, lambda error: None)


def accepts_at_the_first_piece(stream: Any, session: Any, callback: Any) -> None:
    def on_chunk(piece: bytes) -> None:
        if stream.byte_length == len(piece):
            callback()

    stream.consume(on_chunk, lambda error: None)


def accepts_at_the_last_piece(stream: Any, session: Any, callback: Any) -> None:
    def on_chunk(piece: bytes) -> None:
        if stream.byte_length == session.data["size"]:
            callback()

    stream.consume(on_chunk, lambda error: None)


HALF_READ: list[Callable[..., Any]] = [
    takes_one_piece,
    breaks_off,
    counts_octets,
    gives_up_waiting,
    ignores_the_limit,
    lets_another_task_read,
    accepts_and_goes_on_reading,
    consumes_and_accepts,
    accepts_and_consumes,
    accepts_at_the_first_piece,
    accepts_at_the_last_piece,
]


# --- hooks that have seen the end, or never looked ---


async def iterates(stream: Any, session: Any) -> None:
    async for _ in stream:
        pass


async def reads(stream: Any, session: Any) -> None:
    await stream.read()


async def reads_the_rest(stream: Any, session: Any) -> None:
    await anext(stream, None)
    await stream.read()


async def reads_twice(stream: Any, session: Any) -> None:
    try:
        await stream.read(3)
    except MessageTooLarge:
        await stream.read()


async def waits_for_another_task(stream: Any, session: Any) -> None:
    await asyncio.ensure_future(stream.read())


def consumes(stream: Any, session: Any, callback: Any) -> None:
    stream.consume(lambda piece: None, callback)


def consumes_and_answers_later(stream: Any, session: Any, callback: Any) -> None:
    loop = asyncio.get_running_loop()
    stream.consume(lambda piece: None, lambda error: loop.call_soon(callback, error))


async def never_looks(stream: Any, session: Any) -> None:
    pass


async def only_asks_for_an_iterator(stream: Any, session: Any) -> None:
    aiter(stream)


def accepts_at_once(stream: Any, session: Any, callback: Any) -> None:
    callback()


WHOLE: list[Callable[..., Any]] = [
    iterates,
    reads,
    reads_the_rest,
    reads_twice,
    waits_for_another_task,
    consumes,
    consumes_and_answers_later,
    never_looks,
    only_asks_for_an_iterator,
    accepts_at_once,
]


def discarding(hook: Callable[..., Any]) -> Callable[..., Any]:
    """`hook`, which begins by saying that it does not want the body."""
    if asyncio.iscoroutinefunction(hook):
        if hook.__code__.co_argcount == 3:

            async def both(stream: Any, session: Any, callback: Any) -> Any:
                stream.discard()
                return await hook(stream, session, callback)

            return both

        async def coroutine(stream: Any, session: Any) -> Any:
            stream.discard()
            return await hook(stream, session)

        return coroutine

    def plain(stream: Any, session: Any, callback: Any) -> None:
        stream.discard()
        hook(stream, session, callback)

    return plain


@pytest.fixture(params=["driven", "task"])
def loop(request: pytest.FixtureRequest) -> Iterator[VirtualLoop]:
    """A loop on which the engine drives coroutines itself, and one whose factory makes Tasks."""
    loop = VirtualLoop()
    if request.param == "task":
        loop.set_task_factory(
            lambda loop, coroutine, **options: asyncio.Task(coroutine, loop=loop, **options)
        )
    yield loop
    loop.run_until_complete(loop.shutdown_asyncgens())
    loop.close()


def replies_to(
    wire: Wire, reads: list[bytes], sent: str = "DATA", greeting: bytes = EH, rcpt: bytes = RCPT
) -> list[str]:
    """Send a message, and return what its end is answered by."""
    wire.send(greeting)
    wire.session.data["size"] = sum(map(len, reads))
    wire.send(MAIL + rcpt)
    if sent == "DATA":
        wire.send(b"DATA\r\n", *reads[:-1])
        octets = reads[-1] + END
    elif sent == "DATA in one read":
        wire.send(b"DATA\r\n")
        octets = b"".join(reads) + END
    elif sent == "BDAT":
        body = b"".join(reads)
        octets = b"BDAT %d LAST\r\n" % len(body) + body
    else:
        wire.send(*(b"BDAT %d\r\n" % len(read) + read for read in reads))
        octets = b"BDAT 0 LAST\r\n"
    return codes(wire.send(octets) + wire.advance(1))


def server_options(hook: Callable[..., Any], **options: Any) -> dict[str, Any]:
    return {**DEFAULTS, **COUNTERS_OFF, "strict_pipelining": False, "on_data": hook, **options}


@row("HOOK-09", "HOOK-12", "I8")
@pytest.mark.parametrize("body", BODIES)
@pytest.mark.parametrize("sent", SENT)
@pytest.mark.parametrize("hook", HALF_READ, ids=lambda hook: hook.__name__)
def test_a_hook_that_accepts_a_body_it_has_half_read_is_answered_451(
    loop: VirtualLoop, caplog: pytest.LogCaptureFixture, hook: Any, sent: str, body: str
) -> None:
    with Wire(loop=loop, **server_options(hook)) as wire:
        assert replies_to(wire, BODIES[body], sent) == ["451 4.3.0"]
        (record,) = caplog.records
        line = logging.Formatter().format(record)
        assert wire.session.id in line
        assert "on_data" in line
        assert "stream.discard()" in line
        assert codes(wire.send(MAIL)) == ["250 2.1.0"]


@row("HOOK-09", "HOOK-12")
@pytest.mark.parametrize("body", BODIES)
@pytest.mark.parametrize("sent", SENT)
@pytest.mark.parametrize("hook", WHOLE, ids=lambda hook: hook.__name__)
def test_a_hook_that_accepts_a_whole_or_untouched_body_is_answered_250(
    loop: VirtualLoop, caplog: pytest.LogCaptureFixture, hook: Any, sent: str, body: str
) -> None:
    with Wire(loop=loop, **server_options(hook)) as wire:
        assert replies_to(wire, BODIES[body], sent) == ["250 2.6.0"]
    assert not caplog.records


@row("HOOK-09", "HOOK-12")
@pytest.mark.parametrize("sent", SENT)
@pytest.mark.parametrize("hook", [iterates, reads, consumes, never_looks, breaks_off])
def test_a_hook_may_accept_an_empty_body_read_or_not(
    loop: VirtualLoop, hook: Any, sent: str
) -> None:
    with Wire(loop=loop, **server_options(hook)) as wire:
        assert replies_to(wire, [b""], sent) == ["250 2.6.0"]


@row("HOOK-09", "HOOK-12")
@pytest.mark.parametrize("sent", SENT)
@pytest.mark.parametrize(
    "hook",
    [
        *(breaks_off, iterates, gives_up_waiting, never_looks, consumes, accepts_at_once),
        *(consumes_and_answers_later, consumes_and_accepts, accepts_and_consumes),
        only_asks_for_an_iterator,
    ],
    ids=lambda hook: hook.__name__,
)
def test_a_hook_that_has_discarded_the_body_may_accept_at_any_time(
    loop: VirtualLoop, caplog: pytest.LogCaptureFixture, hook: Any, sent: str
) -> None:
    with Wire(loop=loop, **server_options(discarding(hook))) as wire:
        assert replies_to(wire, BODIES["many reads"], sent) == ["250 2.6.0"]
    assert not caplog.records


async def discards_after_a_piece(stream: Any, session: Any) -> None:
    await anext(stream)
    stream.discard()


async def discards_twice(stream: Any, session: Any) -> None:
    await anext(stream)
    stream.discard()
    stream.discard()


async def discards_what_is_too_large(stream: Any, session: Any) -> None:
    try:
        await stream.read(3)
    except MessageTooLarge:
        stream.discard()


def discards_in_on_chunk(stream: Any, session: Any, callback: Any) -> None:
    stream.consume(lambda piece: stream.discard(), callback)


def discards_and_accepts_in_on_chunk(stream: Any, session: Any, callback: Any) -> None:
    def on_chunk(piece: bytes) -> None:
        stream.discard()
        callback()

    stream.consume(on_chunk, lambda error: None)


@row("HOOK-09", "HOOK-12")
@pytest.mark.parametrize("body", BODIES)
@pytest.mark.parametrize("sent", SENT)
@pytest.mark.parametrize(
    "hook",
    [
        *(discards_after_a_piece, discards_twice, discards_what_is_too_large),
        *(discards_in_on_chunk, discards_and_accepts_in_on_chunk),
    ],
    ids=lambda hook: hook.__name__,
)
def test_a_hook_may_discard_the_rest_of_a_body_that_it_has_half_read(
    loop: VirtualLoop, caplog: pytest.LogCaptureFixture, hook: Any, sent: str, body: str
) -> None:
    with Wire(loop=loop, **server_options(hook)) as wire:
        assert replies_to(wire, BODIES[body], sent) == ["250 2.6.0"]
    assert not caplog.records


@row("HOOK-08", "HOOK-12")
def test_a_reader_of_a_discarded_body_gets_its_end_without_another_piece(loop: VirtualLoop) -> None:
    seen: list[Any] = []

    async def on_data(stream: Any, session: Any) -> None:
        seen.append(await anext(stream))
        stream.discard()
        seen.extend([piece async for piece in stream])
        seen.append((stream.byte_length, stream.longest_line))

    with Wire(loop=loop, **server_options(on_data)) as wire:
        assert replies_to(wire, [BODY, LINE, READ]) == ["250 2.6.0"]
    assert seen == [BODY, (len(BODY + LINE + READ), len(LINE) - 2)]


@row("HOOK-08")
def test_a_client_whose_body_waited_is_read_again_when_it_is_discarded() -> None:
    streams: list[Any] = []

    def on_data(stream: Any, session: Any, callback: Any) -> None:
        streams.append((stream, callback))

    with Wire(**server_options(on_data)) as wire:
        wire.send(EH)
        wire.send(MAIL + RCPT + b"DATA\r\n")
        while wire.transport.reading:
            wire.send(READ)
        wire.loop.step(streams[0][0].discard)
        for _ in range(20):
            wire.send(READ)
            assert wire.transport.reading
            assert not streams[0][0]._buffered
        wire.send(END)
        wire.loop.step(streams[0][1])
        assert codes(wire.receive()) == ["250 2.6.0"]


# --- what stands over it ---


@row("HOOK-09", "SIZE-03")
@pytest.mark.parametrize(
    "octets, options, reply",
    [(LINE * 30, {"size": 1000}, "552 5.3.4"), (b"a\nb\r\n", {}, "550 5.5.2")],
    ids=["over size", "bare newline"],
)
@pytest.mark.parametrize("lmtp", [False, True])
def test_a_fault_of_the_message_is_answered_before_that_of_the_hook(
    caplog: pytest.LogCaptureFixture, octets: bytes, options: Any, reply: str, lmtp: bool
) -> None:
    with Wire(**server_options(breaks_off, lmtp=lmtp, **options)) as wire:
        assert replies_to(wire, [LINE, octets], greeting=LH if lmtp else EH) == [reply]
    assert not caplog.records


@row("HOOK-09")
def test_a_rejection_of_a_half_read_body_is_the_reply(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def on_data(stream: Any, session: Any) -> None:
        await anext(stream)
        raise SMTPError("no", 554)

    with Wire(**server_options(on_data)) as wire:
        assert replies_to(wire, [BODY, LINE]) == ["554 5.6.0"]
    assert not caplog.records


RCPTS = RCPT + b"RCPT TO:<c@y.example>\r\n"
# What an LMTP hook answers after one piece -> what its two recipients are answered, and lines.
LISTS: list[tuple[Any, list[str], int]] = [
    (None, ["451 4.3.0", "451 4.3.0"], 1),
    ("stored", ["451 4.3.0", "451 4.3.0"], 1),
    (["stored", None], ["451 4.3.0", "451 4.3.0"], 1),
    (["stored", SMTPError("full", 452)], ["451 4.3.0", "452 4.2.2"], 1),
    ([SMTPError("full", 452), SMTPError("no", 550)], ["452 4.2.2", "550 5.7.1"], 0),
]


@row("HOOK-09")
@pytest.mark.parametrize("answer, expected, lines", LISTS)
def test_no_recipient_of_a_half_read_body_is_accepted(
    caplog: pytest.LogCaptureFixture, answer: Any, expected: list[str], lines: int
) -> None:
    async def on_data(stream: Any, session: Any) -> Any:
        await anext(stream)
        return answer

    with Wire(**server_options(on_data, lmtp=True)) as wire:
        assert replies_to(wire, [BODY], greeting=LH, rcpt=RCPTS) == expected
    assert len(caplog.records) == lines


@row("HOOK-04", "HOOK-09")
def test_the_event_error_reports_a_half_read_body() -> None:
    errors: list[BaseException] = []
    with Wire(**server_options(breaks_off)) as wire:
        wire.server.on("error", errors.append)
        assert replies_to(wire, [BODY, LINE]) == ["451 4.3.0"]
    assert ["stream.discard()" in str(error) for error in errors] == [True]


@row("HOOK-09", "I8")
def test_a_hook_that_reads_on_after_its_answer_sees_no_end(loop: VirtualLoop) -> None:
    """The body was there to its last octet, but the hook has accepted before it had looked."""
    ends: list[str] = []

    async def on_data(stream: Any, session: Any, callback: Any) -> None:
        await anext(stream)
        await asyncio.sleep(0.5)
        callback()
        try:
            await anext(stream)
        except MessageAborted as error:
            ends.append(error.reason)

    with Wire(loop=loop, **server_options(on_data)) as wire:
        assert replies_to(wire, [BODY]) == ["451 4.3.0"]
    assert ends == ["answered"]


# --- over real connections ---


@row("HOOK-09", "I8")
@pytest.mark.parametrize("lmtp", [False, True])
def test_a_hook_that_takes_one_piece_of_five_megabytes_does_not_store_it(
    run: Any, lmtp: bool
) -> None:
    async def scenario() -> None:
        server = Sink().server(on_data=breaks_off, lmtp=lmtp)
        server.on("error", lambda error: None)
        verb = b"LHLO" if lmtp else b"EHLO"
        async with running(server) as address, await Client.in_data(address, verb) as client:
            assert await client.ask(READ * 80 + END) == "451 4.3.0"
            assert await client.ask(b"QUIT\r\n") == "221 2.0.0"

    run(scenario())
