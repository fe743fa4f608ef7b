"""A server whose hooks are those of a relay: what its client hears is what the next hop says."""

from __future__ import annotations

import asyncio

import pytest
from clients import until
from next_hop_kit import CLOSE, NextHop, Talk, gateway, mail, relay_to
from on_loops import on_loops
from scenario import COUNTERS_OFF, DEFAULTS

from fastsmtp import SMTPServer
from fastsmtp.delivery import Entry
from fastsmtp.testing import running

PLAIN = mail()


@on_loops
async def test_a_message_goes_through_with_dots_and_all_octets_as_they_are() -> None:
    body = mail(b".") + b"..\r\n.a\r\n" + bytes(range(14, 256)) + b"\r\n\r\n"
    async with NextHop() as hop, gateway(hop) as front, await Talk.greeted(front) as client:
        hop.answers["."] = b"250-2.0.0 Ok:\r\n250 2.0.0 queued as 4711\r\n"
        assert await client.send(body) == "250 2.0.0 Ok: / queued as 4711"
        assert hop.mails[0].body == body
        assert hop.mails[0].content.startswith(b"Received: from c.example (")
        assert b"Return-Path" not in hop.mails[0].content
        assert b"Delivered-To" not in hop.mails[0].content


@on_loops
async def test_each_mail_and_each_recipient_gets_the_answer_of_the_next_hop() -> None:
    answers = {
        "b": b"250 2.1.5 Ok\r\n",
        "no": b"550 5.1.1 <no@y.example>: no such user\r\n",
        "full": b"452-4.2.2 The mailbox\r\n452 4.2.2 is full\r\n",
        "old": b"551 User not local\r\n",
        "off": b"550 4.1.1 classes that differ\r\n",
    }
    async with NextHop() as hop, gateway(hop) as front, await Talk.greeted(front) as client:
        hop.answers["MAIL"] = b"451 4.7.1 Greylisted, come back\r\n"
        assert await client.ask("MAIL FROM:<a@x.example>") == "451 4.7.1 Greylisted, come back"
        del hop.answers["MAIL"]
        hop.answers["RCPT"] = lambda line: answers[line[9 : line.index("@")]]
        assert await client.ask("MAIL FROM:<a@x.example>") == "250 2.1.0 Accepted"
        heard = [await client.ask(f"RCPT TO:<{name}@y.example>") for name in answers]
        assert heard == [
            "250 2.1.5 Accepted",
            "550 5.1.1 <no@y.example>: no such user",
            "452-4.2.2 The mailbox\n452 4.2.2 is full",
            "551 5.1.6 User not local",
            "550 5.1.1 classes that differ",
        ]
        assert (await client.data(PLAIN)).startswith("250")
        assert hop.mails[0].recipients == ("RCPT TO:<b@y.example>",)


@pytest.mark.parametrize(
    ("step", "answer", "heard"),
    [
        ("DATA", b"554 5.5.1 No valid recipients\r\n", "554 5.5.1 No valid recipients"),
        ("DATA", b"451 Later\r\n", "451 4.3.0 Later"),
        (".", b"554 5.7.1 Spam\r\n", "554 5.7.1 Spam"),
        (".", b"550-5.7.26 Unsigned,\r\n550-5.7.26 so no\r\n550 5.7.26 mail\r\n",
         "550-5.7.26 Unsigned,\n550-5.7.26 so no\n550 5.7.26 mail"),
        (".", b"452 4.3.1 No room\r\n", "452 4.3.1 No room"),
        (".", b"421 4.3.2 Going down\r\n", "451 4.3.2 Going down"),
        ("DATA", b"421 Going down\r\n", "451 4.3.2 Going down"),
    ],
)  # fmt: skip
@on_loops
async def test_a_refused_message_gets_the_code_and_text_of_the_next_hop(
    step: str, answer: bytes, heard: str
) -> None:
    async with NextHop() as hop, gateway(hop) as front, await Talk.greeted(front) as client:
        hop.answers[step] = answer
        assert await client.send(PLAIN) == heard
        del hop.answers[step]
        assert (await client.send(PLAIN)).startswith("250")  # the client goes on


@on_loops
async def test_transactions_share_a_connection_and_leave_nothing_open_on_it() -> None:
    async with NextHop() as hop, gateway(hop) as front:
        for _ in range(3):
            async with await Talk.greeted(front) as client:
                await client.send(PLAIN)
                await client.begin()
                assert (await client.ask("RSET")).startswith("250")
                await client.begin("c@y.example")
            await until(lambda: hop.lines[-1] == "RSET")
        assert hop.starts <= 2  # the second while the first is reset
        assert len(hop.mails) == 3


@on_loops
async def test_a_client_that_has_gone_frees_its_connection() -> None:
    async with NextHop() as hop, gateway(hop, max_connections=1) as front:
        async with await Talk.greeted(front) as first:
            await first.begin()
        async with await Talk.greeted(front) as second:
            assert (await second.send(PLAIN)).startswith("250")
        assert hop.starts == 1


@on_loops
async def test_all_connections_in_use_a_client_waits_for_one() -> None:
    async with (
        NextHop() as hop,
        gateway(hop, max_connections=1) as front,
        await Talk.greeted(front) as first,
        await Talk.greeted(front) as second,
    ):
        await first.begin()
        waiting = asyncio.ensure_future(second.send(PLAIN))
        assert (await first.data(PLAIN)).startswith("250")
        assert (await waiting).startswith("250")
        assert hop.starts == 1


@on_loops
async def test_an_idle_client_loses_its_connection_and_goes_on_with_another(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("fastsmtp.delivery.relay.passages.IDLE", 0.0)
    async with (
        NextHop() as hop,
        gateway(hop, max_connections=1) as front,
        await Talk.greeted(front) as idle,
        await Talk.greeted(front) as other,
    ):
        await idle.begin("one@y.example", "two@y.example")
        assert (await other.send(PLAIN)).startswith("250")
        assert (await idle.ask("RCPT TO:<three@y.example>")).startswith("250")
        assert (await idle.data(PLAIN)).startswith("250")
        assert hop.mails[1].recipients == tuple(
            f"RCPT TO:<{name}@y.example>" for name in ("one", "two", "three")
        )


@on_loops
async def test_a_connection_that_was_lost_between_rcpt_and_data_is_replaced() -> None:
    async with NextHop() as hop, gateway(hop) as front, await Talk.greeted(front) as client:
        await client.begin("one@y.example")
        hop.cut()
        await until(lambda: not hop.open)
        assert (await client.ask("RCPT TO:<two@y.example>")).startswith("250")
        hop.cut()
        await until(lambda: not hop.open)
        assert (await client.data(PLAIN)).startswith("250")
        assert [len(each.recipients) for each in hop.mails] == [2]


@pytest.mark.parametrize("answer", [CLOSE, b"421 4.4.2 Idle for too long\r\n"])
@on_loops
async def test_a_dead_connection_found_at_mail_is_replaced(answer: bytes) -> None:
    async with NextHop() as hop, gateway(hop) as front, await Talk.greeted(front) as client:
        await client.send(PLAIN)
        answers = iter([answer])
        hop.answers["MAIL"] = lambda line: next(answers, b"250 Ok\r\n")
        assert (await client.send(PLAIN)).startswith("250")
        assert hop.starts == 2
        assert len(hop.mails) == 2


@on_loops
async def test_a_large_message_is_passed_on_while_it_arrives() -> None:
    body = mail(b".the quick brown fox", 300_000)
    async with NextHop() as hop, gateway(hop) as front, await Talk.greeted(front) as client:
        await client.begin()
        assert (await client.ask("DATA")).startswith("354")
        half = len(body) // 2 // 22 * 22 + 18
        client.writer.write(b"Subject: hello\r\n\r\n" + body[18:half].replace(b"\r\n.", b"\r\n.."))
        await asyncio.wait_for(hop.in_message.wait(), 60)
        assert not hop.mails
        rest = body[half:].replace(b"\r\n.", b"\r\n..")
        client.writer.write(rest + b".\r\n")
        assert (await client.reply()).startswith("250")
        assert len(hop.mails[0].body) > 200_000


@on_loops
async def test_a_next_hop_that_does_not_read_stops_the_reading_from_the_client() -> None:
    body = mail(b"x" * 70, 25_000_000)
    async with NextHop(keywords=()) as hop:
        hooks = relay_to(hop).hooks(name="mx.example")
        server = SMTPServer(**{**DEFAULTS, **COUNTERS_OFF, **hooks})
        async with (
            running(server) as front,
            await Talk.greeted(front) as client,
            await Talk.greeted(front) as other,
        ):
            await client.begin()
            assert (await client.ask("DATA")).startswith("354")
            hop.reads.clear()
            client.writer.write(body + b".\r\n")
            await asyncio.wait_for(hop.in_message.wait(), 60)
            # Meanwhile a server that went on reading would have read all of it.
            heard = {await other.ask("NOOP") for _ in range(500)}
            taken = server.stats()["octets"]["in"]
            hop.reads.set()
            assert heard == {"250 2.0.0 OK"}
            assert taken < len(body) // 2
            assert (await client.reply()).startswith("250")
        assert len(hop.mails[0].body) == len(body)


@on_loops
async def test_a_client_that_leaves_in_a_message_leaves_nothing_at_the_next_hop() -> None:
    log: list[Entry] = []
    async with NextHop() as hop, gateway(hop, log=log) as front:
        async with await Talk.greeted(front) as client:
            await client.begin()
            await client.ask("DATA")
            client.writer.write(mail(b"x" * 70, 200_000))
            await asyncio.wait_for(hop.in_message.wait(), 60)
        await until(lambda: log and not hop.open)
        assert log[0].what == "aborted"
        assert not hop.mails


@on_loops
async def test_a_message_that_loops_is_refused() -> None:
    looping = b"Received: from a by b\r\n\tid 1\r\n" * 3 + PLAIN
    async with (
        NextHop() as hop,
        gateway(hop, max_hops=2) as front,
        await Talk.greeted(front) as client,
    ):
        assert await client.send(looping) == "554 5.4.6 Too many hops, this message loops"
        assert (await client.send(PLAIN)).startswith("250")
        assert len(hop.mails) == 1
        assert hop.starts == 1


@on_loops
async def test_the_log_has_the_reply_of_the_next_hop() -> None:
    log: list[Entry] = []
    async with (
        NextHop() as hop,
        gateway(hop, log=log) as front,
        await Talk.greeted(front) as client,
    ):
        await client.send(PLAIN)
        hop.answers["."] = b"550 5.7.1 Spam\r\n"
        await client.send(PLAIN)
    assert [(each.what, each.key) for each in log] == [
        ("relayed", "next_hop"),
        ("refused", "reason"),
    ]
    assert log[0].value == "250 2.0.0 Ok: queued"
    assert log[1].value.endswith(": 550 5.7.1 Spam")
