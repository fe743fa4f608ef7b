"""The pool of connections: their number, which caller gets one, what a cancelled one leaves."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from clients import until
from next_hop_kit import STALL, NextHop, Talk, gateway, mail, relay_to
from on_loops import on_loops
from scenario import DEFAULTS

from fastsmtp import SMTPServer
from fastsmtp.delivery import Full, Recipient, Record, Unavailable, Unclear
from fastsmtp.delivery.relay import Patience, Relay
from fastsmtp.delivery.relay.connection import HopConnection
from fastsmtp.delivery.relay.next_hop import next_hop
from fastsmtp.delivery.relay.opening import Opening
from fastsmtp.delivery.relay.pool import Pool
from fastsmtp.delivery.relay.replies import HopLost
from fastsmtp.testing import running

PLAIN = mail()


def record() -> Record:
    return Record("s-1", "a@x.example", (Recipient("b@y.example"),), PLAIN)


def pool_of(hop: NextHop, connections: int = 1) -> Pool:
    opening = Opening(next_hop(*hop.address), Patience())
    return Pool(opening.open, max_connections=connections, idle_timeout=30.0)


async def one_used_and_one_waiting(
    hop: NextHop,
) -> tuple[Pool, HopConnection, asyncio.Future[HopConnection]]:
    """A pool of one connection, that connection in use, and a caller that waits for it."""
    pool = pool_of(hop)
    used = await pool.acquire(None, 20)
    waiting = asyncio.ensure_future(pool.acquire(None, 20))
    await until(lambda: pool.waiting == 1)
    return pool, used, waiting


@on_loops
async def test_a_connection_on_its_way_to_one_that_waits_counts_as_used() -> None:
    async with NextHop() as hop:
        pool, first, second = await one_used_and_one_waiting(hop)
        # Its first step comes before that of the one that waits.
        third = asyncio.ensure_future(pool.acquire(None, 20))
        pool.release(first)
        assert await second is first
        await until(lambda: pool.waiting == 1)
        assert hop.starts == 1
        pool.release(first)
        assert await third is first
        pool.fail_used()
        pool.close()


@on_loops
async def test_a_caller_that_has_given_up_waits_no_more() -> None:
    async with NextHop() as hop:
        pool = pool_of(hop)
        first = await pool.acquire(None, 20)
        with pytest.raises(Full):
            await pool.acquire(None, 0.01)
        cancelled = asyncio.ensure_future(pool.acquire(None, 20))
        await until(lambda: pool.waiting == 1)
        cancelled.cancel()
        await asyncio.wait([cancelled])
        assert pool.waiting == 0
        pool.discard(first)
        pool.close()


@on_loops
async def test_a_caller_that_is_cancelled_as_it_gets_a_connection_gives_it_back() -> None:
    async with NextHop() as hop:
        pool, first, waiting = await one_used_and_one_waiting(hop)
        pool.release(first)
        waiting.cancel()
        await asyncio.wait([waiting])
        assert waiting.cancelled()
        assert await pool.acquire(None, 20) is first
        pool.discard(first)
        pool.close()


@on_loops
async def test_the_end_of_the_pool_ends_a_connection_on_its_way() -> None:
    async with NextHop() as hop:
        pool, first, waiting = await one_used_and_one_waiting(hop)
        pool.release(first)
        pool.fail_used()
        pool.close()
        await asyncio.wait([waiting])
        await until(lambda: not hop.open)


@on_loops
async def test_the_counts_of_a_server_have_connections_and_what_waits_for_one() -> None:
    async with NextHop() as hop:
        relay = relay_to(hop, max_connections=1)
        server = SMTPServer(**{**DEFAULTS, **relay.hooks(name="mx.example")})
        async with (
            running(server) as front,
            await Talk.greeted(front) as one,
            await Talk.greeted(front) as other,
        ):
            assert server.stats()["relay"]["connections"] == {"idle": 1, "in_use": 0, "opening": 0}
            await one.begin()
            other.writer.write(b"MAIL FROM:<a@x.example>\r\n")
            await until(lambda: server.stats()["relay"]["waiting"] == 1)
            assert server.stats()["relay"]["connections"] == {"idle": 0, "in_use": 1, "opening": 0}
            assert (await one.data(PLAIN)).startswith("250")
            assert (await other.reply()).startswith("250")
            found = server.stats()["relay"]
        assert (found["waiting"], found["waits"], found["opened"]) == (0, 1, 1)


@on_loops
async def test_a_next_hop_that_takes_fewer_connections_gets_all_messages_on_those() -> None:
    async with NextHop() as hop:
        hop.answers["greeting"] = lambda line: (
            b"421 4.7.0 Too many connections from you\r\n"
            if hop.open > 2
            else b"220 hop.example ESMTP\r\n"
        )
        async with relay_to(hop, max_connections=20) as relay:
            sent = [relay.put(record()) for _ in range(60)]
            assert await asyncio.gather(*sent) == ["250 2.0.0 Ok: queued"] * 60
            assert relay.refusal() is None
            after = hop.starts
            await asyncio.gather(*[relay.put(record()) for _ in range(60)])
            assert hop.starts == after  # it has learned
        assert len(hop.mails) == 120


@on_loops
async def test_a_next_hop_that_takes_no_connection_gives_no_answer_to_wait_for() -> None:
    async with NextHop() as hop, relay_to(hop, max_connections=4, idle_timeout=0.01) as relay:
        await until(lambda: not hop.open)
        hop.answers["greeting"] = b"421 4.7.0 Too many connections\r\n"
        sent = [relay.put(record()) for _ in range(10)]
        await asyncio.wait(sent, timeout=20)
        assert all(isinstance(each.exception(), Unavailable) for each in sent)


@on_loops
async def test_a_connection_that_is_lost_before_its_proxy_header_says_so() -> None:
    connection = HopConnection("hop:25")
    connection.connection_lost(ConnectionResetError("reset by peer"))
    with pytest.raises(HopLost, match="hop:25: the connection has broken: reset by peer"):
        connection.send(b"PROXY", replies=0)


@on_loops
async def test_a_start_that_is_cancelled_leaves_nothing_and_can_be_repeated() -> None:
    async with NextHop() as hop:
        hop.answers["EHLO"] = STALL
        relay = relay_to(hop, max_connections=1)
        starting = asyncio.ensure_future(relay.start())
        await until(lambda: hop.lines)
        starting.cancel()
        await asyncio.wait([starting])
        assert starting.cancelled()
        del hop.answers["EHLO"]
        async with relay:
            assert await relay.put(record()) == "250 2.0.0 Ok: queued"


@on_loops
async def test_a_close_that_is_cancelled_has_ended_all_connections() -> None:
    async with NextHop() as hop:
        relay = relay_to(hop)
        await relay.start()
        hop.answers["."] = STALL
        sent = relay.put(record())
        await until(lambda: hop.mails)
        closing = asyncio.ensure_future(relay.close(0.05))
        await asyncio.sleep(0)
        closing.cancel()
        await asyncio.wait([closing])
        await asyncio.wait([sent], timeout=60)
        assert isinstance(sent.exception(), Unclear)
        await until(lambda: hop.starts == 1)
        hop.answers.clear()
        async with relay:
            assert await relay.put(record()) == "250 2.0.0 Ok: queued"


@on_loops
async def test_a_message_that_is_cancelled_after_its_end_may_have_arrived() -> None:
    async with NextHop() as hop, relay_to(hop, max_connections=1) as relay:
        hop.answers["."] = STALL
        sent = relay.put(record())
        await until(lambda: hop.mails)
        sent.cancel()
        await asyncio.wait([sent])
        assert isinstance(sent.exception(), Unclear)
        hop.answers["MAIL"] = STALL
        begun = relay.put(record())
        await until(lambda: hop.starts == 2 and hop.lines[-1].startswith("MAIL"))
        begun.cancel()
        await asyncio.wait([begun])
        assert isinstance(begun.exception(), Unavailable)
        hop.answers.clear()
        assert await relay.put(record()) == "250 2.0.0 Ok: queued"


@pytest.mark.parametrize("step", ["MAIL", "RCPT", "DATA", "."])
@on_loops
async def test_a_connection_is_not_used_again_after_421_even_if_it_stays_open(step: str) -> None:
    async with (
        NextHop() as hop,
        gateway(hop, max_connections=1) as front,
        await Talk.greeted(front) as client,
    ):
        hop.stays = True
        hop.answers[step] = b"421 4.3.2 Going down\r\n"
        assert await heard_at(client, step) == "451 4.3.2 Going down"
        hop.answers.clear()
        if step == "RCPT":
            assert (await client.ask("RCPT TO:<c@y.example>")).startswith("250")
            assert (await client.data(PLAIN)).startswith("250")
        else:
            assert (await client.send(PLAIN)).startswith("250")
        assert hop.starts == 2


async def heard_at(client: Talk, step: str) -> str:
    heard = await client.ask("MAIL FROM:<a@x.example>")
    if step != "MAIL":
        heard = await client.ask("RCPT TO:<b@y.example>")
    return await client.data(PLAIN) if step in ("DATA", ".") else heard


@on_loops
async def test_replies_may_come_octet_by_octet() -> None:
    async with NextHop() as hop:
        hop.in_pieces = True
        hop.answers["RCPT"] = b"250-2.1.5 Well,\r\n250 2.1.5 yes\r\n"
        hop.answers["."] = b"550-5.7.1 No,\r\n550-5.7.1 no\r\n550 5.7.1 no\r\n"
        async with gateway(hop) as front, await Talk.greeted(front) as client:
            for _ in range(2):
                assert await client.send(PLAIN) == "550-5.7.1 No,\n550-5.7.1 no\n550 5.7.1 no"
        assert hop.starts == 1


@pytest.mark.parametrize(
    "wrong",
    [
        {"name": "mx example"},
        {"name": "mx\r\nMAIL"},
        {"user": "u\0", "password": "p"},
        {"host": "mx..example"},
        {"host": f"{'x' * 64}.example"},
        {"host": "mx\0.example"},
        {"host": "/run/a\0"},
    ],
    ids=ascii,
)
def test_a_name_or_login_that_cannot_be_used_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=f"^{next(iter(wrong))}[: ]"):
        Relay(**{"host": "127.0.0.1", **wrong})
