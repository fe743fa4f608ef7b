"""A next hop that stalls, resets, closes and speaks nonsense at each stage; one that attacks."""

from __future__ import annotations

import asyncio
import gc
from pathlib import Path
from typing import Any

import pytest
from clients import until
from next_hop_kit import CLOSE, RESET, STALL, NextHop, Talk, gateway, mail, relay_to
from on_loops import on_loops

from fastsmtp.delivery import Promise, Recipient, Record, Unavailable, Unclear
from fastsmtp.delivery.body_files import BodyFile
from fastsmtp.delivery.handoff import availability
from fastsmtp.delivery.relay import Patience

PLAIN = mail()
LONG = Patience()
SHORT = Patience(connect=0.5, command=0.5, block=0.5, final=0.5)
NONSENSE = b"Hello, this is not SMTP\r\n"
TRY_AGAIN = "451 4.3.0 Message could not be stored, try again later"


@pytest.fixture(autouse=True)
def _short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(availability, "FIRST_PAUSE", 0.005)
    monkeypatch.setattr(availability, "MOST_PAUSE", 0.02)


def patience(answer: bytes) -> Patience:
    """Short only where the next hop is silent: a busy machine must not be taken for that."""
    return SHORT if answer == STALL else LONG


async def heard(client: Talk) -> tuple[str, str]:
    """The step at which a transaction ends, and its reply."""
    for step, line in (("MAIL", "MAIL FROM:<a@x.example>"), ("RCPT", "RCPT TO:<b@y.example>")):
        reply = await client.ask(line)
        if not reply.startswith("250"):
            return step, reply
    return "message", await client.data(PLAIN)


@pytest.mark.parametrize("answer", [STALL, RESET, CLOSE, NONSENSE, b"354 What?\r\n"], ids=repr)
@pytest.mark.parametrize(
    ("step", "ends_at"), [("MAIL", "MAIL"), ("RCPT", "RCPT"), ("DATA", "message"), (".", "message")]
)
@on_loops
async def test_a_fault_of_the_next_hop_is_451_and_the_client_can_go_on(
    step: str, ends_at: str, answer: bytes
) -> None:
    if (step, answer) == ("DATA", b"354 What?\r\n"):
        answer = b"250 What?\r\n"
    async with (
        NextHop() as hop,
        gateway(hop, patience=patience(answer)) as front,
        await Talk.greeted(front) as client,
    ):
        hop.answers[step] = answer
        assert await heard(client) == (ends_at, TRY_AGAIN)
        await client.ask("RSET")
        del hop.answers[step]
        assert (await client.send(PLAIN)).startswith("250")
        assert len(hop.mails) == (2 if step == "." else 1)


@pytest.mark.parametrize("step", ["greeting", "EHLO"])
@pytest.mark.parametrize("answer", [STALL, RESET, CLOSE, NONSENSE, b"554 No\r\n"], ids=repr)
@on_loops
async def test_a_next_hop_that_cannot_be_used_fails_the_start(step: str, answer: bytes) -> None:
    async with NextHop() as hop:
        hop.answers[step] = answer
        relay = relay_to(hop, patience=patience(answer))
        with pytest.raises(Unavailable, match=r"127\.0\.0\.1:\d+: "):
            await relay.start()
        assert relay.promise is None
        del hop.answers[step]
        async with relay:
            assert Promise.NEXT_HOP.covers(Promise.DISK)
            assert await relay.put(record()) == "250 2.0.0 Ok: queued"
    with pytest.raises(Unavailable, match="Connection refused"):
        await relay.start()


def record(body: bytes = PLAIN, **more: Any) -> Record:
    return Record("s-1", "a@x.example", (Recipient("b@y.example"),), body, **more)


@pytest.mark.parametrize("answer", [STALL, RESET, CLOSE, NONSENSE, b"354 What?\r\n"], ids=repr)
@on_loops
async def test_a_lost_answer_after_the_message_is_unclear(answer: bytes) -> None:
    async with NextHop() as hop, relay_to(hop, patience=patience(answer)) as relay:
        hop.answers["."] = answer
        with pytest.raises(Unclear):
            await relay.put(record())
        assert len(hop.mails) == 1
        hop.answers.clear()
        assert await relay.put(record()) == "250 2.0.0 Ok: queued"


@pytest.mark.parametrize("step", ["MAIL", "RCPT", "DATA"])
@on_loops
async def test_a_lost_answer_before_the_message_says_that_nothing_was_stored(step: str) -> None:
    async with NextHop() as hop, relay_to(hop, patience=LONG) as relay:
        hop.answers[step] = CLOSE
        with pytest.raises(Unavailable):
            await relay.put(record())
        assert not hop.mails


@on_loops
async def test_an_early_answer_ends_a_large_message() -> None:
    async with NextHop() as hop, gateway(hop) as front, await Talk.greeted(front) as client:
        hop.early = b"552 5.3.4 Far too large\r\n"
        hop.reads.clear()
        await client.begin()
        assert (await client.ask("DATA")).startswith("354")
        client.writer.write(mail(b"x" * 70, 200_000))
        await asyncio.wait_for(hop.in_message.wait(), 60)
        # The refusal reaches the client with the next piece, or at its end.
        client.writer.write(mail(b"y" * 70, 500_000) + b".\r\n")
        assert await client.reply() == "552 5.3.4 Far too large"
        assert not hop.mails


@on_loops
async def test_an_acceptance_before_the_end_of_a_message_is_not_believed() -> None:
    async with NextHop() as hop, gateway(hop) as front, await Talk.greeted(front) as client:
        hop.early = b"250 2.0.0 Thanks, enough\r\n"
        hop.reads.clear()
        await client.begin()
        assert (await client.ask("DATA")).startswith("354")
        client.writer.write(mail(b"x" * 70, 200_000))
        await asyncio.wait_for(hop.in_message.wait(), 60)
        client.writer.write(mail(b"y" * 70, 500_000) + b".\r\n")
        assert await client.reply() == TRY_AGAIN


@on_loops
async def test_a_next_hop_that_is_down_refuses_at_once_until_it_is_up_again() -> None:
    async with NextHop() as hop, relay_to(hop) as relay:
        await hop.stop()
        for _ in range(3):
            with pytest.raises(Unavailable):
                await relay.put(record())
        refusal = relay.refusal()
        assert refusal is not None
        assert refusal.response_code == 451
        await hop.listen()
        await until(lambda: relay.refusal() is None)
        assert await relay.put(record()) == "250 2.0.0 Ok: queued"


@on_loops
async def test_too_many_waiting_clients_get_452() -> None:
    async with (
        NextHop() as hop,
        gateway(hop, max_connections=1, patience=Patience(connect=0.2)) as front,
        await Talk.greeted(front) as first,
        await Talk.greeted(front) as second,
    ):
        await first.begin()
        assert (await second.ask("MAIL FROM:<a@x.example>")).startswith("452 4.3.1")
        assert (await first.data(PLAIN)).startswith("250")


@on_loops
async def test_the_end_of_the_sink_answers_all_messages() -> None:
    async with NextHop() as hop:
        relay = relay_to(hop)
        await relay.start()
        hop.answers["."] = STALL
        sent = relay.put(record())
        await asyncio.wait_for(hop.in_message.wait(), 60)
        await until(lambda: hop.mails)
        hop.answers["MAIL"] = STALL
        begun = relay.put(record())
        await until(lambda: hop.lines[-1].startswith("MAIL") or hop.lines[-1].startswith("RCPT"))
        await relay.close(0.01)
        assert isinstance(sent.exception(), Unclear)
        assert isinstance(begun.exception(), Unavailable)
        with pytest.raises(RuntimeError, match="not started"):
            relay.put(record())


@on_loops
async def test_idle_connections_are_closed_after_their_time() -> None:
    async with NextHop() as hop, relay_to(hop, idle_timeout=0.05) as relay:
        await relay.put(record())
        await until(lambda: not hop.open)
        assert hop.lines[-1] == "QUIT"
        await relay.put(record())
        assert hop.starts == 2


# What an attacker in the place of the next hop can do.

HOSTILE = {
    "a line of 64 KiB": b"550 " + b"x" * 65536 + b"\r\n",
    "a line without an end": b"550 " + b"x" * 1_000_000,
    "endless lines": b"550-5.7.1 more\r\n" * 100_000,
    "NUL": b"550 5.7.1 a\0b\r\n",
    "bare LF": b"550 5.7.1 a\n250 b\r\n",
    "bare CR": b"550 5.7.1 a\r250 OK\r\n",
    "another reply after it": b"550 5.7.1 a\r\n250 2.0.0 Ok\r\n250 2.0.0 Ok\r\n",
    "codes that differ": b"550-5.7.1 a\r\n250 2.0.0 Ok\r\n",
    "terminal escapes": b"550 5.7.1 \x1b]0;owned\x07\x9b31m\r\n",
    "not UTF-8": b"550 5.7.1 \xff\xfe\xc3\x28\r\n",
    "code below 200": b"150 5.7.1 a\r\n",
    "code above 599": b"999 5.7.1 a\r\n",
    "nothing but a code": b"550\r\n",
    "digits that are not ASCII": "550 5.\u0663.\u0664 a\r\n".encode(),
}


@pytest.mark.parametrize("step", ["MAIL", "RCPT", "DATA", "."])
@pytest.mark.parametrize("kind", HOSTILE)
@on_loops
async def test_a_hostile_reply_is_one_bounded_harmless_refusal(kind: str, step: str) -> None:
    async with (
        NextHop() as hop,
        gateway(hop, patience=LONG) as front,
        await Talk.greeted(front) as client,
    ):
        hop.answers[step] = HOSTILE[kind]
        _, reply = await heard(client)
        lines = reply.split("\n")
        assert len(reply) < 8192
        assert {line[:3] for line in lines} <= {"550"} or reply == TRY_AGAIN
        assert all(line.isprintable() and line.isascii() for line in lines)
        hop.answers.clear()
        await client.ask("RSET")
        assert (await client.send(PLAIN)).startswith("250")  # and it is the answer to this one
        assert hop.mails[-1].body == PLAIN


@on_loops
async def test_octets_between_transactions_are_not_taken_for_answers() -> None:
    async with NextHop() as hop, gateway(hop) as front, await Talk.greeted(front) as client:
        hop.answers["."] = b"250 2.0.0 Ok\r\n550 5.7.1 For the next one\r\n"
        await client.send(PLAIN)
        hop.answers.clear()
        assert (await client.send(PLAIN)).startswith("250")
        assert hop.starts == 2


@on_loops
async def test_endless_replies_take_bounded_memory() -> None:
    async with (
        NextHop() as hop,
        gateway(hop, patience=LONG) as front,
        await Talk.greeted(front) as client,
    ):
        hop.answers["MAIL"] = b"250-more\r\n" * 1_000_000
        assert await client.ask("MAIL FROM:<a@x.example>") == TRY_AGAIN
        gc.collect()
        held = [each for each in gc.get_objects() if isinstance(each, list) and len(each) > 1000]
        assert not [each for each in held if each[0] == b"250-more"]


@on_loops
async def test_a_body_that_another_sink_has_stored_is_refused_and_nothing_is_sent(
    tmp_path: Path,
) -> None:
    """The next hop would take the headers for the whole message, and its 250 would be passed on."""
    async with NextHop() as hop, relay_to(hop) as relay:
        kept = record()
        kept.set_body(BodyFile(str(tmp_path / "body"), 7, "", lambda: None))
        with pytest.raises(Unavailable, match="begun itself"):
            await relay.put(kept)
        assert hop.mails == []
