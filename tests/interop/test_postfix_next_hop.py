"""Postfix as the next hop of a relay: each recipient's fate as it gave it, each message byte for
byte.
"""

from __future__ import annotations

import asyncio
import os
import random
from collections.abc import Iterator

import pytest
from next_hop_kit import Talk
from on_loops import on_loops
from postfix_kit import Postfix, postfix, why_no_postfix
from scenario import COUNTERS_OFF, DEFAULTS

from fastsmtp import SMTPServer
from fastsmtp.delivery.relay import Relay
from fastsmtp.testing import running

REASON = why_no_postfix()
pytestmark = [pytest.mark.interop, pytest.mark.skipif(bool(REASON), reason=REASON)]

CLIENTS = 10
FATES = {
    "b": "250 2.1.5 Accepted",
    "no": "550 5.1.1 <{}>: Recipient address rejected: No such user",
    "later": "450 4.2.1 <{}>: Recipient address rejected: Later",
    "full": "452 4.2.2 <{}>: Recipient address rejected: No room",
}


@pytest.fixture(scope="module")
def hop() -> Iterator[Postfix]:
    with postfix() as hop:
        yield hop


def message(number: int, chance: random.Random) -> bytes:
    """A message with dots, eight bits and long lines; one in ten is refused after its end."""
    reject = b"X-Reject: 1\r\n" if number % 10 == 7 else b""
    lines = [b"." * chance.randint(0, 3) + chance.randbytes(chance.randint(0, 40)).hex().encode()
             for _ in range(chance.choice([0, 1, 10, 50, 3000]))]  # fmt: skip
    return (
        b"From: a@x.example\r\nMessage-ID: <%d@x.example>\r\nDate: Mon, 30 Nov 2026 12:00:00 +0000"
        b"\r\n%b\r\n%b\r\n.\r\n..\r\ngr\xc3\xbc\xc3\x9fe\r\n"
        % (number, reject, b"\r\n".join(lines))
    )


async def talk(address: object, numbers: range, expected: dict[tuple[str, bytes], int]) -> None:
    """Send messages with mixed fates; note what must be delivered."""
    async with await Talk.greeted(address) as client:
        for number in numbers:
            chance = random.Random(number)
            if number % 20 == 3:
                reply = await client.ask("MAIL FROM:<bad@x.example>")
                assert reply == "550 5.7.1 <bad@x.example>: Sender address rejected: Not from you"
            reply = await client.ask("MAIL FROM:<a@x.example> BODY=8BITMIME")
            assert reply == "250 2.1.0 Accepted"
            accepted: list[str] = []
            for kind in ["b", *chance.choices([*FATES], k=chance.randint(0, 3))]:
                recipient = f"{kind}{number}.{len(accepted)}@y.example"
                reply = await client.ask(f"RCPT TO:<{recipient}>")
                assert reply == FATES[kind].format(recipient)
                accepted += [recipient] if kind == "b" else []
            body = message(number, chance)
            reply = await client.data(body)
            if b"\r\nX-Reject" in body:
                assert reply == "550 5.7.1 Unwanted"
            else:
                assert reply.startswith("250 2.0.0 Ok: queued as ")
                expected.update({(recipient, body): 1 for recipient in accepted})


async def send_mixed(hop: Postfix, count: int) -> None:
    relay = Relay(*hop.address, tls="off", max_connections=CLIENTS)
    server = SMTPServer(**{**DEFAULTS, **COUNTERS_OFF, **relay.hooks(name="mx.example")})
    expected: dict[tuple[str, bytes], int] = {}
    async with running(server) as address:
        await asyncio.gather(
            *(talk(address, range(first, count, CLIENTS), expected) for first in range(CLIENTS))
        )
    async with asyncio.timeout(120):
        while len(os.listdir(hop.maildir / "new")) < len(expected):
            await asyncio.sleep(0.05)
    found = [*hop.delivered()]
    assert len(found) == len(expected)
    assert set(found) == set(expected)
    for path in (hop.maildir / "new").iterdir():
        path.unlink()


@on_loops
async def test_postfix_gives_each_recipient_its_fate_and_gets_each_message_byte_for_byte(
    hop: Postfix,
) -> None:
    await send_mixed(hop, 100)


@pytest.mark.nightly
@on_loops
async def test_postfix_gets_5000_messages_with_mixed_fates_byte_for_byte(hop: Postfix) -> None:
    await send_mixed(hop, 5000)
