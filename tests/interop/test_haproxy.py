"""HAProxy in front of a server, plain and with TLS, with both versions of the PROXY header, on each
loop.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from clients import PATIENCE, Client, Sink, digest, program
from next_hop_kit import Talk
from scenario import DEFAULTS, EH, MAILED, TX
from tls_kit import TLSClient, certified, pair

from fastsmtp import SMTPServer
from fastsmtp.delivery.relay import Relay
from fastsmtp.testing import running

HAPROXY, REASON = program("haproxy", "haproxy")

pytestmark = [pytest.mark.interop, pytest.mark.skipif(not HAPROXY, reason=REASON)]

CONFIGURATION = """
global
    maxconn 100
defaults
    mode tcp
    timeout connect 10s
    timeout client 20s
    timeout server 20s
frontend smtp
    bind fd@{fd} {bind}
    default_backend engine
backend engine
    server engine {host}:{port} {how}
"""
WAYS = {
    "v1": ("send-proxy", 1),
    "v2": ("send-proxy-v2", 2),
    "v2 with all it can tell": ("send-proxy-v2 proxy-v2-options crc32c,unique-id,authority", 2),
}


class Seen(Sink):
    """The facts about clients that the server had."""

    def __init__(self) -> None:
        super().__init__()
        self.proxies: list[Any] = []
        self.addresses: list[Any] = []

    def server(self, **options: Any) -> SMTPServer:
        return super().server(on_connect=self.on_connect, use_proxy=["127.0.0.1"], **options)

    async def on_connect(self, session: Any) -> None:
        self.proxies.append(session.proxy)
        self.addresses.append((session.remote_address, session.remote_port))


@asynccontextmanager
async def haproxy(
    folder: Path, how: str, engine: Any, bind: str = "", *, dual_stack: bool = False
) -> AsyncIterator[tuple[str, int]]:
    """Run HAProxy in front of `engine`; its listening socket is ours, so it is there at once.

    dual_stack: one IPv6 socket takes clients of IPv4 too, as HAProxy's `bind :::25 v4v6` does.
    """
    options: dict[str, Any] = {"family": socket.AF_INET6, "dualstack_ipv6": True}
    where = ("::", 0) if dual_stack else ("127.0.0.1", 0)
    with socket.create_server(where, **options if dual_stack else {}) as listener:
        configuration = folder / "haproxy.cfg"
        host, port = engine
        fd = listener.fileno()
        places = {"fd": fd, "host": host, "port": port}
        configuration.write_text(CONFIGURATION.format(**places, how=how, bind=bind))
        process = await asyncio.create_subprocess_exec(
            *(HAPROXY, "-db", "-f", str(configuration)),
            pass_fds=[fd],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            yield listener.getsockname()[:2]
        finally:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            async with asyncio.timeout(PATIENCE):
                await process.wait()


@pytest.mark.row("PROXY-01", "PROXY-07")
@pytest.mark.parametrize("way", WAYS)
def test_a_message_through_haproxy_is_that_of_its_client(
    run: Any, way: str, tmp_path: Path
) -> None:
    how, version = WAYS[way]
    text = b"Subject: x\r\n\r\n" + b"text\r\n" * 10_000

    async def scenario() -> None:
        sink = Seen()
        async with (
            running(sink.server()) as engine,
            haproxy(tmp_path, how, engine) as balancer,
            await Client.connect(balancer) as client,
        ):
            own = client.writer.get_extra_info("sockname")[:2]
            assert await client.reply() == "220"
            assert await client.ask(EH) == "250"
            client.send(TX + b"DATA\r\n")
            assert await client.replies(3) == [*MAILED, "354"]
            assert await client.ask(text + b".\r\n") == "250 2.6.0"
            assert await client.ask(b"QUIT\r\n") == "221 2.0.0"
        (proxy,) = sink.proxies
        assert sink.addresses == [tuple(own)]
        assert (proxy["version"], proxy["command"]) == (version, "PROXY")
        assert proxy["destination"] == tuple(balancer)
        assert proxy["peer"][0] == "127.0.0.1"
        assert [told.digest for told in sink.arrived] == [digest(text)]

    run(scenario())


@pytest.mark.parametrize("address", ["192.0.2.7", "2001:db8::7"])
def test_haproxy_accepts_the_proxy_header_of_a_relay(
    run: Any, address: str, tmp_path: Path
) -> None:
    family, here = ("TCP6", "2001:db8::25") if ":" in address else ("TCP4", "198.51.100.2")

    async def scenario() -> None:
        sink = Seen()
        async with (
            running(sink.server()) as engine,
            haproxy(tmp_path, "send-proxy-v2", engine, "accept-proxy") as balancer,
        ):
            relay = Relay(*balancer, forward="proxy")
            options = {**DEFAULTS, **relay.hooks(name="mx.example"), "use_proxy": ["127.0.0.1"]}
            async with running(SMTPServer(**options)) as front:
                header = f"PROXY {family} {address} {here} 4711 25\r\n".encode()
                async with await Talk.connected(front, header) as client:
                    assert (await client.send(b"Subject: x\r\n\r\nx\r\n")).startswith("250")
        start, proxy = sink.proxies
        assert start["command"] == "PROXY"  # HAProxy tells of our own connection at the start
        assert (proxy["source"], proxy["destination"]) == ((address, 4711), (here, 25))
        assert sink.addresses[1] == (address, 4711)
        assert len(sink.arrived) == 1

    run(scenario())


@pytest.mark.row("PROXY-01")
@pytest.mark.skipif(not socket.has_dualstack_ipv6(), reason="needs IPv6 sockets that take IPv4")
@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
@pytest.mark.parametrize("way", WAYS)
def test_clients_of_both_families_come_through_one_dual_stack_listener(
    run: Any, way: str, host: str, tmp_path: Path
) -> None:
    async def scenario() -> None:
        sink = Seen()
        async with (
            running(sink.server()) as engine,
            haproxy(tmp_path, WAYS[way][0], engine, dual_stack=True) as (_, port),
            await Client.connect((host, port)) as client,
        ):
            own = client.writer.get_extra_info("sockname")[:2]
            assert await client.reply() == "220"
            assert await client.ask(b"QUIT\r\n") == "221 2.0.0"
        assert sink.addresses == [tuple(own)]
        assert sink.proxies[0]["destination"] == (host, port)

    run(scenario())


@pytest.mark.row("PROXY-08")
@pytest.mark.parametrize("way", WAYS)
def test_a_client_that_talks_first_is_served_in_order(run: Any, way: str, tmp_path: Path) -> None:
    """HAProxy sends its header and the first octets of the client in one segment then."""

    async def scenario() -> None:
        sink = Seen()
        how = WAYS[way][0]
        async with running(sink.server()) as engine, haproxy(tmp_path, how, engine) as balancer:
            clients = [await Client.connect(balancer) for _ in range(20)]
            for client in clients:
                client.send(b"NOOP\r\nEHLO c.example\r\n")
            for client in clients:
                assert await client.replies(3) == ["220", "250 2.0.0", "250"]
                assert await client.ask(b"QUIT\r\n") == "221 2.0.0"
                await client.close()
        assert len(sink.addresses) == len(set(sink.addresses)) == 20

    run(scenario())


async def send_one(client: TLSClient, text: bytes) -> None:
    """One message, after the greeting."""
    client.send(TX + b"DATA\r\n")
    assert await client.replies(3) == [*MAILED, "354"]
    assert await client.ask(text + b".\r\n") == "250 2.6.0"
    assert await client.ask(b"QUIT\r\n") == "221 2.0.0"
    assert await client.rest() == []


@pytest.mark.row("PROXY-08", "TLS-26")
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("kind", ["implicit", "STARTTLS"])
def test_tls_ends_at_the_server_behind_haproxy(
    run: Any, way: str, kind: str, tmp_path: Path
) -> None:
    """Header and ClientHello come in one segment wherever the client was quick enough."""
    how, version = WAYS[way]
    text = b"Subject: x\r\n\r\n" + b"text\r\n" * 50_000

    async def scenario() -> None:
        sink = Seen()
        server = sink.server(**certified(secure=kind == "implicit"))
        async with running(server) as engine, haproxy(tmp_path, how, engine) as balancer:
            if kind == "implicit":
                client = await TLSClient.implicit(balancer)
                assert await client.reply() == "220"
                assert await client.ask(EH) == "250"
            else:
                client = await TLSClient.upgraded(balancer)
            async with client:
                own = client.writer.get_extra_info("sockname")[:2]
                await send_one(client, text)
        (proxy,) = sink.proxies
        assert sink.addresses == [tuple(own)]
        assert (proxy["version"], proxy["command"]) == (version, "PROXY")
        assert [(told.digest, told.kind) for told in sink.arrived] == [(digest(text), "ESMTPS")]

    run(scenario())


@pytest.mark.row("PROXY-07", "PROXY-08")
@pytest.mark.parametrize("secured", [True, False])
def test_tls_ends_at_haproxy_and_its_header_says_so(
    run: Any, secured: bool, tmp_path: Path
) -> None:
    own = pair()
    (tmp_path / "pem").write_bytes(own.cert + own.key)

    async def scenario() -> None:
        sink = Seen()
        bind = f"ssl crt {tmp_path / 'pem'}"
        how = "send-proxy-v2-ssl-cn proxy-v2-options ssl,cert-cn,authority"
        server = sink.server(secured=secured)
        async with (
            running(server) as engine,
            haproxy(tmp_path, how, engine, bind) as balancer,
            await TLSClient.implicit(balancer) as client,
        ):
            assert await client.reply() == "220"
            assert await client.ask(EH) == "250"
            client.send(TX + b"DATA\r\n")
            assert await client.replies(3) == [*MAILED, "354"]
            assert await client.ask(b"x\r\n.\r\n") == "250 2.6.0"
        (proxy,) = sink.proxies
        assert proxy["ssl"]["version"] == "TLSv1.3"
        assert proxy["ssl"]["client"] & 1
        assert proxy["authority"] == "srv.test"
        # What the header says secures nothing; that is for the operator to say.
        assert [told.kind for told in sink.arrived] == ["ESMTPS" if secured else "ESMTP"]

    run(scenario())
