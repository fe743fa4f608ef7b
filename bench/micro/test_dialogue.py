"""What do whole sessions cost in process: parser, rules, hooks and connection, without kernel and
sockets?

The other end is a wire of `fastsmtp.testing`, on uvloop. A client that waits sends its next read
when the last one is answered; with hooks in callback style that is inside the same call, coroutines
take turns of the loop. `extra_info` has the rates; commands are MAIL, RCPT, DATA and the like,
without the line that ends mail data.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterator
from typing import Any

import pytest
from micro.engine import Client, Loop

from fastsmtp import DataStream, SMTPServer

# pytest-benchmark brings no types of its own for the fixture
Benchmark = Any

# Messages, sessions or groups of one measured call. It takes about a millisecond, which has to fit
# between two interruptions on a machine that is shared: the fastest call is what counts.
TURNS = 25
GREETING = (b"HELO client.example\r\n", 1)
MAIL = b"MAIL FROM:<someone@example.com>\r\n"
RCPT = b"RCPT TO:<other@example.org>\r\n"
LINE = b"x" * 76 + b"\r\n"
BODIES = {"1 KiB": LINE * 13 + b".\r\n", "50 KiB": LINE * 656 + b".\r\n"}


# Hooks, as small as they can be: what is measured is the way to them and back.


def accept(address: Any, session: Any, callback: Any) -> None:
    callback()


def take(stream: DataStream, session: Any, callback: Any) -> None:
    stream.consume(len, callback)


async def accept_in_a_task(address: Any, session: Any) -> None:
    pass


async def take_in_a_task(stream: DataStream, session: Any) -> None:
    async for _ in stream:
        pass


HOOKS: dict[str, dict[str, Callable[..., Any]]] = {
    "callbacks": {"on_mail_from": accept, "on_rcpt_to": accept, "on_data": take},
    "coroutines": {
        "on_mail_from": accept_in_a_task,
        "on_rcpt_to": accept_in_a_task,
        "on_data": take_in_a_task,
    },
}


@pytest.fixture
def runner() -> Iterator[asyncio.Runner]:
    with asyncio.Runner(loop_factory=Loop) as runner:
        yield runner


@pytest.fixture(params=HOOKS)
def server(request: pytest.FixtureRequest) -> SMTPServer:
    """Default options, but that one client may do so much, and that no name is looked up."""
    return SMTPServer(
        auth_optional=True,
        disable_reverse_lookup=True,
        max_junk_commands=None,
        **HOOKS[request.param],
    )


@pytest.fixture
def client(runner: asyncio.Runner, server: SMTPServer) -> Iterator[Client]:
    """A client that was greeted, and has greeted."""

    async def greeted() -> Client:
        client = Client(server)
        await client.send(GREETING)
        return client

    client = runner.run(greeted())
    yield client
    runner.run(client.quit())


def per_second(
    benchmark: Benchmark,
    runner: asyncio.Runner,
    work: Callable[[], Coroutine[Any, Any, None]],
    **counts: int,
) -> None:
    """Benchmark a coroutine, and note how much of each kind it does per second."""
    benchmark(lambda: runner.run(work()))
    if benchmark.stats is not None:  # with --benchmark-disable there are none
        seconds = benchmark.stats.stats.min
        benchmark.extra_info.update(
            {f"{unit}/s": round(count / seconds) for unit, count in counts.items()}
        )


@pytest.mark.parametrize("body", BODIES)
def test_messages_of_a_client_that_waits(
    benchmark: Benchmark, runner: asyncio.Runner, client: Client, body: str
) -> None:
    reads = [(MAIL, 1), (RCPT, 1), (b"DATA\r\n", 1), (BODIES[body], 1)]

    async def work() -> None:
        for _ in range(TURNS):
            await client.send(*reads)

    per_second(benchmark, runner, work, messages=TURNS, commands=3 * TURNS)


def test_messages_of_a_client_that_pipelines(
    benchmark: Benchmark, runner: asyncio.Runner, client: Client
) -> None:
    """RFC 2920: each read is a body and the group of commands of the next message."""
    group = MAIL + RCPT + b"DATA\r\n"
    body = BODIES["1 KiB"]

    async def work() -> None:
        await client.send((group, 3))
        await client.send(*[(body + group, 4)] * (TURNS - 1))
        await client.send((body, 1))

    per_second(benchmark, runner, work, messages=TURNS, commands=3 * TURNS)


def test_messages_in_chunks(
    benchmark: Benchmark, runner: asyncio.Runner, server: SMTPServer
) -> None:
    """RFC 3030, all of a message in one read."""
    body = LINE * 13
    whole = MAIL + RCPT + b"BDAT %d LAST\r\n" % len(body) + body

    async def extended() -> Client:
        client = Client(server)
        await client.send((b"EHLO client.example\r\n", 2))
        return client

    client = runner.run(extended())

    async def work() -> None:
        await client.send(*[(whole, 3)] * TURNS)

    per_second(benchmark, runner, work, messages=TURNS, commands=3 * TURNS)
    runner.run(client.quit())


def test_sessions_of_one_message(
    benchmark: Benchmark, runner: asyncio.Runner, server: SMTPServer
) -> None:
    """From the greeting to QUIT and the end of the connection."""
    reads = [GREETING, (MAIL, 1), (RCPT, 1), (b"DATA\r\n", 1), (BODIES["1 KiB"], 1)]

    async def work() -> None:
        for _ in range(TURNS):
            client = Client(server)
            await client.send(*reads)
            await client.quit()

    per_second(benchmark, runner, work, messages=TURNS, commands=5 * TURNS)


@pytest.mark.parametrize("pipelined", [False, True], ids=["waiting", "pipelined"])
def test_commands(
    benchmark: Benchmark, runner: asyncio.Runner, client: Client, pipelined: bool
) -> None:
    """A transaction of eight recipients that is given up: no content, so commands alone."""
    lines = [MAIL, *[RCPT] * 8, b"RSET\r\n"]
    reads = [(b"".join(lines), len(lines))] if pipelined else [(line, 1) for line in lines]

    async def work() -> None:
        for _ in range(TURNS):
            await client.send(*reads)

    per_second(benchmark, runner, work, commands=TURNS * len(lines))
