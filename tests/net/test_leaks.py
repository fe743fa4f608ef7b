"""What sessions, handshakes, floods and servers leave: after a thousand of each, objects, tasks,
timers and descriptors are as before, and every exception was retrieved. Where the collector is off,
what a connection made goes with the connection.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import random
import sys
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
from clients import CLOSING, Client, Sink, refused, until
from conftest import open_files, opened_since
from consumers import server_in_style
from hook_kit import BODY, END, MAIL, STYLES
from memory import collector_off, engine_objects, growth
from scenario import COUNTERS_OFF, DEFAULTS, EH, LH, TX, codes
from tls_kit import TLSClient, certified, client_context

from fastsmtp import MessageAborted, SMTPError, SMTPServer, replies
from fastsmtp._parser import END_OF_CHUNK, END_OF_DATA
from fastsmtp.server import state_of
from fastsmtp.testing import VirtualLoop, Wire, running

pytestmark = pytest.mark.usefixtures("no_leaks")
row = pytest.mark.row

KIB = 1024
SESSIONS = 1000
AT_ONCE = 20

type_address = tuple[str, int]


# Of other modules: what a connection needs. Left out is what asyncio keeps for a while of its own:
# transports, which refer to themselves, and timers that were cancelled.
FOREIGN = {"Task", "coroutine", "cell", "Future"}


def living() -> Counter[str]:
    """How many objects there are of each type of ours, and of those that connections need."""
    kinds: Counter[str] = Counter()
    for thing in gc.get_objects():
        kind = type(thing)
        if str(getattr(kind, "__module__", "")).partition(".")[0] == "fastsmtp":
            kinds[f"{kind.__module__}.{kind.__name__}"] += 1
        elif kind.__name__ in FOREIGN or (kind.__name__ == "TimerHandle" and not thing.cancelled()):
            kinds[kind.__name__] += 1
    return kinds


# --- hooks of both styles -------------------------------------------------------------------------


def plain_hooks() -> dict[str, Any]:
    sink = Sink()

    def on_rcpt_to(address: Any, session: Any, callback: Callable[..., object]) -> None:
        session.data["recipient"] = address
        callback(SMTPError("no") if address.local_part == "no" else None)

    return {"on_rcpt_to": on_rcpt_to, "on_data": sink.on_data, "on_close": lambda session: None}


def coroutine_hooks() -> dict[str, Any]:
    async def on_connect(session: Any) -> None:
        await asyncio.sleep(0)

    async def on_rcpt_to(address: Any, session: Any, callback: Callable[..., object]) -> None:
        await asyncio.sleep(0)
        callback(SMTPError("no") if address.local_part == "no" else None)

    async def on_data(stream: Any, session: Any) -> str:
        session.data["stream"] = stream
        async for piece in stream:
            session.data["last"] = piece
        return "kept"

    async def on_close(session: Any) -> None:
        await asyncio.sleep(0)

    return {
        "on_connect": on_connect,
        "on_rcpt_to": on_rcpt_to,
        "on_data": on_data,
        "on_close": on_close,
    }


HOOKS = {"plain": plain_hooks, "coroutine": coroutine_hooks}


@asynccontextmanager
async def serving(style: str, **options: Any) -> AsyncIterator[tuple[SMTPServer, type_address]]:
    """A server that has been warmed up: what is made once is there."""
    server = Sink().server(**HOOKS[style](), **options)
    async with running(server) as address:
        yield server, address


# --- sessions -------------------------------------------------------------------------------------


async def good(address: type_address) -> None:
    async with await Client.in_data(address) as client:
        assert await client.ask(b"Subject: x\r\n\r\ntext\r\n.\r\n") == "250 2.6.0"
        assert await client.ask(b"QUIT\r\n") == "221 2.0.0"
        assert await client.rest() == []


async def by_chunks(address: type_address) -> None:
    async with await Client.greeted(address) as client:
        client.send(TX + b"BDAT 3\r\nabcBDAT 3 LAST\r\ndef" + TX + b"BDAT 1\r\nxRSET\r\nQUIT\r\n")
        assert (await client.rest())[-2:] == ["250 2.0.0", "221 2.0.0"]


async def half_closed(address: type_address) -> None:
    async with await Client.in_data(address) as client:
        client.send(b"text\r\n.\r\n")
        client.finish()
        assert await client.rest() == ["250 2.6.0"]


async def closed_in_a_body(address: type_address) -> None:
    async with await Client.in_data(address) as client:
        client.send(b"text\r\n.")


async def reset_in_a_body(address: type_address) -> None:
    async with await Client.in_data(address) as client:
        client.send(b"x" * 10_000)
        await client.writer.drain()
        client.reset()


async def reset_between_chunks(address: type_address) -> None:
    async with await Client.greeted(address) as client:
        client.send(TX + b"BDAT 3\r\nabc")
        assert (await client.replies(3))[-1] == "250 2.0.0"
        client.reset()


async def reset_before_the_greeting(address: type_address) -> None:
    async with await Client.connect(address) as client:
        client.reset()


async def reset_behind_a_complete_message(address: type_address) -> None:
    async with await Client.in_data(address) as client:
        client.send(b".\r\n")
        await client.writer.drain()
        client.reset()


async def full_of_errors(address: type_address) -> None:
    async with await Client.greeted(address) as client:
        client.send(
            b"RCPT TO:<no@y.example>\r\nMAIL FROM:<a@x.example>\r\nRCPT TO:<no@y.example>\r\n"
        )
        assert await client.replies(3) == ["503 5.5.1", "250 2.1.0", "550 5.1.1"]
        client.send(b"WIZ\r\n" * 20)
        assert (await client.rest())[-1].startswith("421")


async def of_another_protocol(address: type_address) -> None:
    async with await Client.connect(address) as client:
        client.send(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        assert (await client.rest())[-1] == "421 4.7.0"


async def out_of_step(address: type_address) -> None:
    async with await Client.connect(address) as client:
        client.send(EH + TX)
        assert (await client.rest())[-1] == "554 5.5.0"


async def bare_newlines(address: type_address) -> None:
    async with await Client.in_data(address) as client:
        assert await client.ask(b"a\n.\nb\r\n.\r\n") == "550 5.5.2"


async def too_large(address: type_address) -> None:
    async with await Client.in_data(address) as client:
        assert await client.ask(b"x" * 100_000 + b"\r\n.\r\n") == "552 5.3.4"


KINDS = (
    *(good, by_chunks, half_closed, closed_in_a_body, reset_in_a_body, reset_between_chunks),
    *(reset_before_the_greeting, reset_behind_a_complete_message, full_of_errors),
    *(of_another_protocol, out_of_step, bare_newlines, too_large),
)


async def sessions(kinds: Any, address: type_address, count: int) -> None:
    """Run so many sessions, some at a time."""
    source = random.Random(count)
    chosen: list[Callable[[type_address], Awaitable[None]]] = [
        kinds[at % len(kinds)] for at in range(count)
    ]
    source.shuffle(chosen)
    for at in range(0, count, AT_ONCE):
        async with asyncio.TaskGroup() as group:
            for kind in chosen[at : at + AT_ONCE]:
                group.create_task(kind(address))  # type: ignore[arg-type]


async def all_gone(server: SMTPServer) -> None:
    await until(lambda: not server.connections)
    for _ in range(10):
        await asyncio.sleep(0)


# --- what is left ---------------------------------------------------------------------------------


def grown(before: Counter[str], after: Counter[str]) -> dict[str, int]:
    """What there is more of now; a few stray cells and methods of the test itself are no leak."""
    return {
        kind: after[kind] - before[kind]
        for kind in after
        if after[kind] - before[kind] > (0 if kind.startswith("fastsmtp") else AT_ONCE)
    }


@row("MEM-08", "MEM-09")
@pytest.mark.parametrize("style", HOOKS)
def test_a_thousand_sessions_leave_nothing_without_the_collector(run: Any, style: str) -> None:
    logging.getLogger("fastsmtp").setLevel(logging.CRITICAL)

    async def scenario() -> None:
        async with serving(style, size=50_000) as (server, address):
            with collector_off():
                await sessions(KINDS, address, 2 * len(KINDS))
                await all_gone(server)
                before, files, tasks = living(), open_files(), asyncio.all_tasks()
                await sessions(KINDS, address, SESSIONS)
                await all_gone(server)
                assert asyncio.all_tasks() == tasks
                assert opened_since(files) == {}
                assert grown(before, living()) == {}

    try:
        run(scenario())
    finally:
        logging.getLogger("fastsmtp").setLevel(logging.NOTSET)


@row("MEM-09")
@pytest.mark.parametrize("style", HOOKS)
@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_a_session_leaves_no_object_of_ours(run: Any, kind: Any, style: str) -> None:
    """The same one by one, so that a failure says which kind it is."""

    async def scenario() -> None:
        async with serving(style, size=50_000) as (server, address):
            with collector_off():
                await kind(address)
                await all_gone(server)
                before = living()
                for _ in range(5):
                    await kind(address)
                    await all_gone(server)
                after = living()
        ours = {name: after[name] - before[name] for name in after if name.startswith("fastsmtp")}
        assert not any(count > 0 for count in ours.values()), ours

    run(scenario())


@row("MEM-09")
def test_clients_that_are_refused_leave_nothing(run: Any) -> None:
    async def refused_client(address: type_address) -> None:
        async with await Client.connect(address) as client:
            assert await client.rest() == ["421"]

    async def scenario() -> None:
        async with serving("plain", max_clients=1) as (server, address):
            first = await Client.greeted(address)
            with collector_off():
                await sessions([refused_client], address, AT_ONCE)
                await until(lambda: not state_of(server).registry.refused)
                before, files = living(), open_files()
                await sessions([refused_client], address, 200)
                await until(lambda: not state_of(server).registry.refused)
                await asyncio.sleep(0)
                assert opened_since(files) == {}
                assert grown(before, living()) == {}
            await first.close()

    run(scenario())


@row("MEM-09", "OPS-14")
def test_lookups_and_delays_leave_nothing(run: Any) -> None:
    async def resolver(address: str) -> list[str]:
        await asyncio.sleep(0.001)
        return []

    async def impatient(address: type_address) -> None:
        async with await Client.connect(address) as client:
            client.send(b"x")
            assert await client.reply() in ("421", "220")  # it may have come in time

    async def scenario() -> None:
        options = {"disable_reverse_lookup": False, "resolver": resolver, "greet_delay": 0.002}
        async with serving("plain", **options) as (server, address):
            kinds = [good, reset_before_the_greeting, impatient]
            with collector_off():
                await sessions(kinds, address, 60)
                await all_gone(server)
                before = living()
                await sessions(kinds, address, 200)
                await all_gone(server)
                assert grown(before, living()) == {}

    run(scenario())


@row("MEM-09")
@pytest.mark.parametrize("style", HOOKS)
def test_servers_that_were_closed_leave_nothing(run: Any, style: str) -> None:
    async def one_server() -> None:
        async with serving(style) as (server, address):
            await good(address)
            idle, body = await Client.greeted(address), await Client.in_data(address)
            closed = asyncio.ensure_future(server.close())
            assert await idle.rest() == [CLOSING]
            body.reset()
            await idle.close()
            await body.close()
            await closed
        await refused(address)

    async def scenario() -> None:
        for _ in range(3):
            await one_server()
        gc.collect()
        before, files = living(), open_files()
        for _ in range(20):
            await one_server()
        gc.collect()
        assert opened_since(files) == {}
        assert {k: n for k, n in (living() - before).items() if k.startswith("fastsmtp")} == {}

    run(scenario())


def test_a_stream_that_is_kept_keeps_no_connection(run: Any) -> None:
    kept: list[Any] = []

    async def on_data(stream: Any, session: Any) -> None:
        kept.append((stream, session))
        try:
            async for _ in stream:
                pass
        except MessageAborted as error:
            kept.append(error)
            raise

    async def scenario() -> None:
        server = Sink().server(on_data=on_data)
        async with running(server) as address:
            with collector_off():
                before = living()  # what other tests have kept
                for kind in (good, reset_in_a_body):
                    await kind(address)
                    await all_gone(server)
                left = living() - before
        assert [name for name in left if name.endswith((".Connection", ".SMTPProtocol"))] == []
        assert "fastsmtp.stream.DataStream" in left

    run(scenario())


# --- without sockets: objects and octets ---


def message(wire: Wire) -> None:
    wire.send(LH if wire.server.options.lmtp else EH)
    wire.send(TX + b"DATA\r\n")
    wire.send(BODY + END)
    wire.send(TX + b"BDAT 4 LAST\r\ntextQUIT\r\n")
    wire.eof()


def broken_message(wire: Wire) -> None:
    wire.send(EH)
    wire.send(TX + b"DATA\r\n")
    wire.send(BODY)
    wire.reset()


def refusals(wire: Wire) -> None:
    wire.send(EH)
    wire.send(
        b"FOO\r\nMAIL FROM:<>x\r\n" + MAIL + b"RCPT TO:<no@y.example>\r\n" + b"NOOP\r\n" * 100
    )
    wire.eof()


def silence(wire: Wire) -> None:
    wire.send(EH)
    wire.advance(301)
    wire.eof()


ENDS = [message, broken_message, refusals, silence]


@row("MEM-09")
@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("end", ENDS, ids=lambda each: each.__name__)
def test_a_connection_that_ended_is_gone_without_the_collector(
    style: str, end: Callable[[Wire], None], loop: VirtualLoop
) -> None:
    server = server_in_style(style)
    counts = []
    with collector_off():
        others = engine_objects()["Connection"]
        for number in range(12):
            wire = Wire(server, loop=loop)
            end(wire)
            wire.close()
            wire.transport._protocol = None  # type: ignore[assignment]  # as asyncio's own do
            del wire
            if number in (1, 11):
                counts.append(engine_objects())
    assert counts[0] == counts[1]
    assert counts[0]["Connection"] - others <= 1  # the consumer of the test keeps its last stream
    assert not asyncio.all_tasks(loop)


SINGLETONS = [
    *[END_OF_DATA, END_OF_CHUNK, replies.OK, replies.MAIL_ACCEPTED, replies.RCPT_ACCEPTED],
    *[replies.LOCAL_ERROR, replies.BYE, replies.UNRECOGNIZED, replies.START_MAIL_INPUT],
]


def sessions_without_growth(count: int, style: str, loop: VirtualLoop) -> None:
    server = server_in_style(style, max_errors=None)

    def work(rounds: int) -> None:
        for number in range(rounds):
            wire = Wire(server, loop=loop)
            ENDS[number % len(ENDS)](wire)
            wire.close()

    def references() -> list[int]:
        return [sys.getrefcount(each) for each in SINGLETONS]

    before: list[int] = []

    def warm_up() -> None:
        work(40)
        gc.collect()
        before.extend(references())

    assert growth(lambda: work(count), warm_up) < 32 * KIB
    assert references() == before
    assert not server.connections


@row("MEM-08")
@pytest.mark.parametrize("style", STYLES)
def test_many_sessions_leave_nothing(style: str, loop: VirtualLoop) -> None:
    sessions_without_growth(400, style, loop)


@row("MEM-08")
@pytest.mark.nightly
@pytest.mark.parametrize("style", STYLES)
def test_very_many_sessions_leave_nothing(style: str, loop: VirtualLoop) -> None:
    sessions_without_growth(20_000, style, loop)


# --- floods ---


def transactions_without_growth(count: int) -> None:
    with Wire(**DEFAULTS, **COUNTERS_OFF) as wire:
        wire.send(EH)

        def work(rounds: int) -> None:
            for _ in range(rounds):
                assert len(codes(wire.send((TX + b"RSET\r\n") * 50))) == 150
            wire.transport.writes.clear()
            wire.receive()

        assert growth(lambda: work(count // 50), lambda: work(4)) < 16_384


@row("FLOOD-07")
def test_many_transactions_that_come_to_nothing_leave_nothing() -> None:
    transactions_without_growth(2000)


@row("FLOOD-07")
@pytest.mark.nightly
def test_a_hundred_thousand_transactions_that_come_to_nothing_leave_nothing() -> None:
    transactions_without_growth(100_000)


@row("FLOOD-13", "SIZE-05")
def test_messages_aborted_just_below_the_limit_leave_nothing() -> None:
    ends: list[str] = []
    loop = VirtualLoop()

    def on_data(stream: Any, session: Any, callback: Any) -> None:
        kept: list[bytes] = []
        stream.consume(kept.append, lambda error: (ends.append(error.reason), callback(error)))

    server = SMTPServer(**DEFAULTS, size=100_000, on_data=on_data)

    def abort_one() -> None:
        with Wire(server, loop=loop) as wire:
            wire.send(EH)
            wire.send(TX + b"DATA\r\n")
            wire.send(b"x" * 99_999)

    def work(rounds: int) -> None:
        for _ in range(rounds):
            abort_one()

    assert growth(lambda: work(50), lambda: work(5)) < 32_768
    assert ends == ["disconnected"] * 55
    assert not server.connections
    loop.close()


# --- TLS ---


@row("TLS-25")
def test_many_handshakes_and_disconnects_leave_nothing(run: Any) -> None:
    async def main() -> None:
        server = SMTPServer(**certified())
        async with running(server) as address:
            context = client_context()

            async def visit() -> None:
                client = await TLSClient.greeted(address)
                assert await client.ask(b"STARTTLS\r\n") == "220 2.0.0"
                await client.upgrade(context)
                await client.close()

            async def visits(count: int) -> int:
                for _ in range(count):
                    await asyncio.gather(*[visit() for _ in range(10)])
                await until(lambda: not server.connections)
                gc.collect()
                kinds = (type(found).__name__ for found in gc.get_objects())
                return sum(kind in ("Pump", "SSLObject", "Connection") for kind in kinds)

            before = await visits(2)
            files = open_files()
            assert await visits(20) <= before
            assert opened_since(files) == {}

    run(main())
