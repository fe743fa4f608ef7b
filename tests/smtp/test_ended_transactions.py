"""A message whose transaction ends without it: what its hook still sees, and how long it may stay.

RSET, a greeting command and a lost client end a transaction between two chunks (RFC 3030 §2,
RFC 5321 §4.1.1.5); the hook of its message may not even have begun.
"""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from hook_kit import MAIL, RCPT
from scenario import DEFAULTS, EH, codes

from fastsmtp import MessageAborted, SMTPServer
from fastsmtp.testing import Wire

pytestmark = pytest.mark.usefixtures("no_leaks")
row = pytest.mark.row

NEXT = b"MAIL FROM:<other@z.example>\r\nRCPT TO:<third@z.example>\r\n"


@row("I3", "I4", "I5")
@pytest.mark.parametrize("ends", [b"RSET\r\n", b"NOOP\r\nRSET\r\n"])
@pytest.mark.parametrize("cut", [0, 1, 2])
def test_a_coroutine_sees_the_transaction_that_it_was_called_for(ends: bytes, cut: int) -> None:
    seen: list[Any] = []

    async def on_data(stream: Any, session: Any) -> None:
        envelope = session.envelope
        seen.append((envelope.mail_from.address, [to.address for to in envelope.rcpt_to]))
        try:
            await anext(stream)
            seen.append(await anext(stream))
        except MessageAborted as error:
            seen.append(error.reason)
            raise

    steps = [MAIL + RCPT + b"BDAT 1\r\nx", ends, NEXT]
    octets = [b"".join(steps[:cut]), b"".join(steps[cut:])]
    with Wire(**{**DEFAULTS, "on_data": on_data}) as wire:
        wire.send(EH)
        for part in octets:
            wire.send(part)
        assert seen == [("a@x.example", ["b@y.example"]), "reset"]


@row("HOOK-02", "I12")
def test_a_coroutine_of_an_ended_transaction_is_cancelled_at_its_timeout() -> None:
    ended: list[str] = []

    async def on_data(stream: Any, session: Any) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            ended.append(session.id)

    with Wire(**{**DEFAULTS, "on_data": on_data, "data_hook_timeout": 240}) as wire:
        wire.send(EH)
        for _ in range(3):
            wire.send(MAIL + RCPT + b"BDAT 1\r\nxRSET\r\n")
            wire.advance(10)
        wire.advance(200)
        assert not ended
        wire.advance(30)
        assert len(ended) == 3
        assert not asyncio.all_tasks(wire.loop)
        assert codes(wire.send(b"NOOP\r\n")) == ["250 2.0.0"]


@row("SLOW-12", "SLOW-14")
def test_a_client_that_has_sent_its_fin_may_take_its_replies_slowly() -> None:
    count = 300
    with Wire(**{**DEFAULTS, "max_junk_commands": 0}) as wire:
        wire.send(EH)
        wire.stop_reading()
        replies = codes(wire.send(b"NOOP\r\n" * count + b"QUIT\r\n") + wire.eof())
        assert replies == ["250 2.0.0"] * count + ["221 2.0.0"]
        waiting = wire.transport.get_write_buffer_size()
        while wire.transport.get_write_buffer_size():
            assert not wire.transport.closed
            wire.take(waiting // 10 + 1)
            wire.advance(20)
        assert wire.transport.closed


@row("SLOW-14")
def test_a_client_that_has_sent_its_fin_and_takes_nothing_is_cut() -> None:
    with Wire(**DEFAULTS) as wire:
        wire.send(EH)
        wire.stop_reading()
        wire.send(b"QUIT\r\n")
        wire.eof()
        assert not wire.transport.closed
        wire.advance(60)
        assert wire.transport.closed


@row("HOOK-13", "I10", "I12")
def test_a_fact_that_a_hook_deletes_is_not_missed_by_the_engine() -> None:
    told: list[Any] = []

    def on_rcpt_to(address: Any, session: Any, callback: Any) -> None:
        del session.remote_address
        del session.envelope.mail_from
        raise LookupError

    server = SMTPServer(**{**DEFAULTS, "on_rcpt_to": on_rcpt_to})
    server.on("error", told.append)
    with Wire(server) as wire:
        wire.send(EH)
        assert codes(wire.send(MAIL + RCPT)) == ["250 2.1.0", "451 4.3.0"]
        wire.reset()
        assert not server.connections
    assert [(type(error), error.remote_address) for error in told] == [
        (LookupError, "192.0.2.1"),
        (ConnectionResetError, "192.0.2.1"),
    ]
