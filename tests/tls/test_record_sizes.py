"""How much plaintext the server puts into a record, read from the headers of its records."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from clients import Client, Sink
from conftest import Run
from scenario import codes
from tls_kit import TLS12, MemoryTLS, certified, client_context

from fastsmtp import SMTPError, SMTPServer
from fastsmtp._connection import server_state
from fastsmtp._net.turns import Turns
from fastsmtp.testing import running

APPLICATION_DATA = 23
MOST = 4096  # octets of plaintext: Exim with GnuTLS reads so many, and then polls the socket
KINDS = pytest.mark.parametrize("kind", ["implicit", "STARTTLS"])
VERSIONS = pytest.mark.parametrize("version", [{}, TLS12], ids=["1.3", "1.2"])


class RecordingTLS:
    """A client inside TLS that keeps the sizes of the plaintext in the server's records."""

    def __init__(self, client: Client, version: dict[str, Any]) -> None:
        context = client_context(**version)
        context.set_ciphers("ECDHE+AESGCM")
        self.client = client
        self.tls = MemoryTLS(context)
        # What a record has beside its plaintext: the type and a tag (RFC 8446 §5.2), or the
        # explicit part of the nonce and a tag (RFC 5288 §3).
        self.overhead = 8 + 16 if version else 1 + 16
        self.sizes: list[int] = []

    async def shake(self) -> None:
        flight = self.tls.shake()
        while True:
            self.client.send(flight)
            if self.tls.done:
                return
            flight = self.tls.shake(await self.client.reader.read(65536))

    async def read(self) -> bytes:
        """Read one record and return its plaintext."""
        header = await self.client.reader.readexactly(5)
        size = int.from_bytes(header[3:])
        if header[0] == APPLICATION_DATA:
            self.sizes.append(size - self.overhead)
        return self.tls.decrypt(header + await self.client.reader.readexactly(size))

    async def replies(self, count: int, heard: bytes = b"") -> list[str]:
        while len(codes(heard) if heard.endswith(b"\r\n") else []) < count:
            heard += await self.read()
        return codes(heard)

    async def ask(self, octets: bytes, count: int = 1) -> list[str]:
        self.client.send(self.tls.encrypt(octets))
        return await self.replies(count)


async def begun(
    address: Any, kind: str, version: dict[str, Any], verb: bytes = b"EHLO"
) -> RecordingTLS:
    """A client that has greeted inside TLS."""
    greeting = verb + b" c.example\r\n"
    if kind == "implicit":
        client = RecordingTLS(await Client.connect(address), version)
        await client.shake()
        assert await client.replies(1, client.tls.decrypt(b"")) == ["220"]
    else:
        plain = await Client.greeted(address, verb)
        assert await plain.ask(b"STARTTLS\r\n") == "220 2.0.0"
        client = RecordingTLS(plain, version)
        await client.shake()
    assert await client.ask(greeting) == ["250"]
    client.sizes.clear()
    return client


@pytest.fixture(autouse=True)
def no_turn_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    """What one visit leaves unsaid goes out in a write of its own, so time stands still here."""
    monkeypatch.setattr(server_state, "Turns", lambda loop: Turns(loop, lambda: 0.0))


def refuse(address: Any, session: Any, callback: Callable[..., object]) -> None:
    callback(SMTPError("no such user, " + "x" * 400, 550))


@KINDS
@VERSIONS
@pytest.mark.parametrize("hook", [None, refuse], ids=["accepted", "refused at length"])
def test_a_burst_of_replies_leaves_in_records_of_4096_octets(
    run: Run, kind: str, version: dict[str, Any], hook: Any
) -> None:
    count = 250
    recipients = b"".join(b"RCPT TO:<r%d@y.example>\r\n" % number for number in range(count))

    async def main() -> None:
        server = SMTPServer(
            **certified(secure=kind == "implicit", max_errors=None), on_rcpt_to=hook
        )
        async with running(server) as address:
            client = await begun(address, kind, version)
            async with client.client:
                told = await client.ask(b"MAIL FROM:<a@x.example>\r\n" + recipients, 1 + count)
        assert told == ["250 2.1.0", *["550 5.1.1" if hook else "250 2.1.5"] * count]
        assert max(client.sizes) == MOST  # full ones: they are not cut at lines

    run(main())


@KINDS
@VERSIONS
def test_the_replies_of_lmtp_to_one_message_leave_in_records_of_4096_octets(
    run: Run, kind: str, version: dict[str, Any]
) -> None:
    count = 250
    recipients = b"".join(b"RCPT TO:<r%d@y.example>\r\n" % number for number in range(count))

    async def main() -> None:
        sink = Sink()
        server = sink.server(**certified(secure=kind == "implicit", lmtp=True))
        async with running(server) as address:
            client = await begun(address, kind, version, b"LHLO")
            async with client.client:
                await client.ask(b"MAIL FROM:<a@x.example>\r\n" + recipients, 1 + count)
                assert await client.ask(b"DATA\r\n") == ["354"]
                client.sizes.clear()
                assert await client.ask(b"x\r\n.\r\n", count) == ["250 2.6.0"] * count
        assert max(client.sizes) == MOST

    run(main())
