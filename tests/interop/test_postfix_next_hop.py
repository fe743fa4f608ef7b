"""Postfix as the next hop of a relay: each recipient's fate as it gave it, each message byte for
byte; what it is told of the client, and certificates of ours.
"""

from __future__ import annotations

import asyncio
import os
import random
import re
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from clients import PATIENCE
from next_hop_kit import Talk
from on_loops import on_loops
from postfix_kit import Postfix, postfix, why_no_postfix
from scenario import COUNTERS_OFF, DEFAULTS
from tls_kit import ca_pem, pair

from fastsmtp import Session, SMTPServer
from fastsmtp.delivery import Unavailable
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


@asynccontextmanager
async def front_of(relay: Relay, **options: Any) -> AsyncIterator[Any]:
    hooks = relay.hooks(name="mx.example")
    async with running(SMTPServer(**{**DEFAULTS, **hooks, **options})) as address:
        yield address


async def sent(hop: Postfix, client: Talk) -> str:
    """Send a message; return the field Received of Postfix in one line, and remove the message."""
    assert (await client.send(b"Subject: x\r\n\r\nx\r\n")).startswith("250 2.0.0 Ok: queued as")
    new = hop.maildir / "new"
    async with asyncio.timeout(PATIENCE):
        while not (paths := [*new.iterdir()]):
            await asyncio.sleep(0.02)
    (path,) = paths
    found = re.search(r"^Received: (.*\n(?:[ \t].*\n)*)", path.read_text(), re.MULTILINE)
    path.unlink()
    assert found is not None
    return " ".join(found[1].split())


async def believe(auth: Any, session: Session) -> dict[str, str]:
    return {"user": auth.username}


@on_loops
async def test_postfix_believes_what_xclient_tells_of_the_client(hop: Postfix) -> None:
    relay = Relay(*hop.addresses["xclient"], forward="xclient")
    told = "ADDR=192.0.2.7 NAME=client.example HELO=[UNAVAILABLE] LOGIN=ann+2Bb PORT=4711"
    async with (
        front_of(relay, use_xclient=["127.0.0.1"], on_auth=believe) as front,
        await Talk.greeted(front) as client,
    ):
        assert (await client.ask(f"XCLIENT {told}")).startswith("220")
        assert (await client.ask("EHLO helo.example")).startswith("250")
        first, second = [await sent(hop, client) for _ in range(2)]
    assert first.startswith(
        "from helo.example (client.example [192.0.2.7]) (Authenticated sender: ann+b) "
        "by hop.example (Postfix) with ESMTPA id "
    )
    assert second.partition(" id ")[0] == first.partition(" id ")[0]
    assert "client=client.example[192.0.2.7], sasl_method=XCLIENT, sasl_username=ann+b" in (
        hop.log.read_text()
    )


@on_loops
async def test_postfix_takes_the_client_from_a_proxy_header(hop: Postfix) -> None:
    relay = Relay(*hop.addresses["proxy"], forward="proxy")
    async with front_of(relay, use_proxy=["127.0.0.1"]) as front:
        for source in ("192.0.2.8", "192.0.2.9"):
            header = f"PROXY TCP4 {source} 198.51.100.1 4000 25\r\n".encode()
            async with await Talk.connected(front, header) as client:
                found = await sent(hop, client)
            assert f"[{source}])" in found


@on_loops
async def test_postfix_that_demands_a_certificate_gets_ours(hop: Postfix, tmp_path: Path) -> None:
    files = {name: str(tmp_path / name) for name in ("ca", "cert", "key")}
    for path, octets in zip(files.values(), (ca_pem(), *pair("relay.test")), strict=True):
        Path(path).write_bytes(octets)
    trusting: Any = {"tls": "starttls", "server_name": "srv.test", "ca": files["ca"]}
    place = hop.addresses["certificate"]
    relay = Relay(*place, **trusting, cert=files["cert"], key=files["key"])
    async with front_of(relay) as front, await Talk.greeted(front) as client:
        found = await sent(hop, client)
    assert "with ESMTPS" in found
    assert re.search(r"\(Client CN .*\(verified OK\)\)", found)
    with pytest.raises(Unavailable, match="No client certificate presented"):
        await Relay(*place, **trusting).start()
