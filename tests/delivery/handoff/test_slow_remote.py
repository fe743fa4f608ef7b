"""A thousand clients beside a machine that is slow: memory is bounded, new mail hears 452 in time,
and every message with a 250 is stored.
"""

from __future__ import annotations

import asyncio
from collections import Counter

from on_loops import on_loops
from remote_kit import RemoteServer, ScriptedSink

from fastsmtp import SMTPServer
from fastsmtp.delivery import deliver
from fastsmtp.delivery.arrival import OVERHEAD

PATIENCE = 60.0
CLIENTS = 1000
BODY = b"Subject: x\r\n\r\n" + b"x" * 78 + b"\r\n"
LARGE = BODY + (b"y" * 78 + b"\r\n") * 600  # 48 KB
MAX_IN_FLIGHT = 4 << 20
PIECE = 256_000  # octets, the most that one read of a transport gives


class Client:
    """One that sends a message; the replies to MAIL and to the message."""

    def __init__(self) -> None:
        self.mail = self.data = b""

    async def send(self, port: int) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        try:
            await self._talk(reader, writer)
        finally:
            writer.transport.abort()

    async def _talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readline()
        writer.write(b"HELO c.example\r\n")
        await reader.readline()
        writer.write(b"MAIL FROM:<a@x.example>\r\n")
        self.mail = await reader.readline()
        if not self.mail.startswith(b"250"):
            return
        writer.write(b"RCPT TO:<b@y.example>\r\nDATA\r\n")
        await reader.readline()
        await reader.readline()
        writer.write(LARGE + b".\r\n")
        self.data = await reader.readline()


@on_loops
async def test_a_thousand_clients_beside_a_slow_machine_fit_into_the_memory_that_is_allowed() -> (
    None
):
    async with asyncio.timeout(PATIENCE), RemoteServer() as remote:
        remote.go_on.clear()
        hook = deliver(ScriptedSink(remote.port), max_in_flight=MAX_IN_FLIGHT)
        server = SMTPServer(
            auth_optional=True,
            disable_reverse_lookup=True,
            max_clients=CLIENTS + 10,
            on_mail_from=hook.on_mail_from,
            on_data=hook,
        )
        await server.listen(0, "127.0.0.1")
        ((_, port),) = server.addresses()
        clients = [Client() for _ in range(CLIENTS)]
        sending = [asyncio.create_task(client.send(port)) for client in clients]
        highest = 0
        while hook.refusal() is None:
            highest = max(highest, hook.traffic.in_flight)
            await asyncio.sleep(0)
        late = Client()
        await late.send(port)
        assert late.mail.startswith(b"452 4.3.1")
        remote.go_on.set()
        while any(not each.done() for each in sending):
            highest = max(highest, hook.traffic.in_flight)
            await asyncio.sleep(0)
        await asyncio.gather(*sending)
        await server.close()
    # A message that goes beyond the limit is refused at its next piece.
    assert highest <= MAX_IN_FLIGHT + CLIENTS * OVERHEAD + PIECE
    replies = Counter((client.data or client.mail)[:9] for client in clients)
    assert set(replies) <= {b"250 2.6.0", b"452 4.3.1"}, replies
    stored = sum(len(copies) for copies in remote.stored.values())
    assert stored == replies[b"250 2.6.0"] >= MAX_IN_FLIGHT // (2 * len(LARGE))
    assert hook.traffic.in_flight == 0
