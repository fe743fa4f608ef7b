"""TLS over real sockets, with OpenSSL's own clients, on both loops: sessions, the certificate
swapped under load, a flood of handshakes, what is left behind, what an idle connection costs.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import shutil
import signal
import smtplib
import ssl
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from clients import Client, Sink, digest, stuffed, until
from conftest import Run
from connections import Connections, closed, tell
from memory import needs_own_memory, private_octets
from scenario import DEFAULTS, EH, TX
from serving import Lines, environment
from tls_kit import TLS12, TLSClient, certified, client_context, issue

from fastsmtp import SMTPServer
from fastsmtp.testing import running

row = pytest.mark.row
OPENSSL = shutil.which("openssl")
needs_openssl = pytest.mark.skipif(OPENSSL is None, reason="openssl is not installed")


async def connected(kind: str, address: Any, context: ssl.SSLContext | None = None) -> TLSClient:
    """A client that has greeted inside TLS."""
    if kind == "STARTTLS":
        return await TLSClient.upgraded(address, context)
    client = await TLSClient.implicit(address, context)
    assert await client.reply() == "220"
    assert await client.ask(EH) == "250"
    return client


KINDS = pytest.mark.parametrize("kind", ["implicit", "STARTTLS"])


@KINDS
@pytest.mark.parametrize("version", [{}, TLS12])
def test_a_message_of_megabytes_arrives_whole(run: Run, kind: str, version: dict[str, Any]) -> None:
    body = b"".join(b"line %d\r\n.\r\n" % number for number in range(200_000))

    async def main() -> None:
        sink = Sink()
        server = sink.server(**certified(secure=kind == "implicit"))
        context = client_context(**version)
        async with running(server) as address, await connected(kind, address, context) as client:
            client.send(TX + b"DATA\r\n")
            assert await client.replies(3) == ["250 2.1.0", "250 2.1.5", "354"]
            client.send(stuffed(body) + b".\r\n")
            assert await client.reply() == "250 2.6.0"
            assert await client.ask(b"QUIT\r\n") == "221 2.0.0"
            assert await client.rest() == []
        (arrived,) = sink.arrived
        assert arrived.digest == digest(body)
        assert arrived.kind == "ESMTPS"

    run(main())


@KINDS
def test_smtplib_sends_through_tls(run: Run, kind: str) -> None:
    def send(port: int) -> None:
        context = client_context()
        if kind == "implicit":
            client: smtplib.SMTP = smtplib.SMTP_SSL("127.0.0.1", port, context=context)
        else:
            client = smtplib.SMTP("127.0.0.1", port)
            client.starttls(context=context)
        with client:
            assert not client.sendmail(
                "a@x.example", ["b@y.example"], b"Subject: x\r\n\r\ntext\r\n"
            )

    async def main() -> None:
        sink = Sink()
        async with running(sink.server(**certified(secure=kind == "implicit"))) as address:
            await asyncio.to_thread(send, address[1])
        assert len(sink.arrived) == 1

    run(main())


def s_client(port: int, lines: bytes, *more: str, starttls: bool = True) -> str:
    """What `openssl s_client` says when it is given `lines`."""
    assert OPENSSL is not None
    command = [OPENSSL, "s_client", "-connect", f"127.0.0.1:{port}", "-crlf", *more]
    if starttls:
        command += ["-starttls", "smtp"]
    done = subprocess.run(command, input=lines, capture_output=True, timeout=60, check=False)
    return (done.stdout + done.stderr).decode(errors="replace")


@needs_openssl
@row("TLS-18")
def test_openssl_sees_no_renegotiation_and_no_compression(run: Run) -> None:
    async def main() -> None:
        async with running(SMTPServer(**certified())) as (_, port):
            said = await asyncio.to_thread(s_client, port, b"NOOP\nR\n", "-tls1_2")
            assert "Compression: NONE" in said
            assert "renegotiation" in said.lower()  # refused by the server, told by the client
            said = await asyncio.to_thread(s_client, port, b"NOOP\nQUIT\n", "-quiet")
            assert "250 2.0.0 OK" in said

    run(main())


def update_keys(port: int) -> None:
    """Ask for new keys again and again: K asks for the server's too, k is the client's only."""
    assert OPENSSL is not None
    command = [OPENSSL, "s_client", "-connect", f"127.0.0.1:{port}", "-crlf", "-starttls", "smtp"]
    child = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    assert child.stdin is not None
    assert child.stdout is not None
    said = Lines(child.stdout)
    said.wait("^250 ")
    for letter in "K" * 20 + "k":
        print(letter, file=child.stdin, flush=True)
        said.wait("KEYUPDATE")
    print("NOOP", file=child.stdin, flush=True)
    said.wait("250 2.0.0 OK")
    print("QUIT", file=child.stdin, flush=True)
    child.stdin.close()
    child.wait(60)
    said.finish()


@needs_openssl
@row("TLS-18")
def test_key_updates_are_answered(run: Run) -> None:
    async def main() -> None:
        async with running(SMTPServer(**certified())) as (_, port):
            await asyncio.to_thread(update_keys, port)

    run(main())


@row("TLS-12", "TLS-13", "SLOW-04", "SLOW-11")
@KINDS
def test_silence_in_the_handshake_is_cut_on_the_wire(run: Run, kind: str) -> None:
    async def main() -> None:
        options = certified(secure=kind == "implicit", tls_handshake_timeout=0.2)
        server = SMTPServer(**options)
        async with running(server) as address:
            async with await Client.connect(address) as client:
                if kind == "STARTTLS":
                    assert await client.reply() == "220"
                    assert await client.ask(b"STARTTLS\r\n") == "220 2.0.0"
                client.send(b"\x16\x03\x01")
                with contextlib.suppress(ConnectionResetError):  # the server may be first
                    assert await client.reader.read(-1) == b""
            await until(lambda: not server.connections)

    run(main())


@row("TLS-14")
def test_plaintext_to_a_port_with_tls_gets_not_an_octet(run: Run) -> None:
    async def main() -> None:
        server = SMTPServer(**certified())
        await server.listen(0, "127.0.0.1", secure=True)
        address = server.address()
        await server.listen(0, "127.0.0.1")  # as the option says: plain
        async with await Client.connect(address) as client:
            client.send(EH)
            assert await client.reader.read(-1) == b""
        async with await Client.connect(server.addresses()[1]) as client:
            assert await client.reply() == "220"
        async with await connected("STARTTLS", server.addresses()[1]) as client:
            assert await client.ask(b"NOOP\r\n") == "250 2.0.0"
        await server.close()

    run(main())


@row("TLS-16")
@KINDS
def test_close_notify_is_answered_and_what_follows_is_dropped(run: Run, kind: str) -> None:
    async def main() -> None:
        sink = Sink()
        server = sink.server(**certified(secure=kind == "implicit"))
        async with running(server) as address:
            client = await connected(kind, address)
            client.send(TX + b"DATA\r\n")
            assert await client.replies(3) == ["250 2.1.0", "250 2.1.5", "354"]
            client.send(b"half")
            await client.close()
            await until(lambda: not server.connections)
        assert sink.arrived == []
        assert len(sink.closed) == 1

    run(main())


@row("OPS-02", "TLS-27")
def test_closing_the_server_ends_tls_in_order(run: Run) -> None:
    async def main() -> None:
        server = SMTPServer(**certified())
        await server.listen(0, "127.0.0.1")
        idle = await connected("STARTTLS", server.address())
        shaking = await TLSClient.greeted(server.address())
        assert await shaking.ask(b"STARTTLS\r\n") == "220 2.0.0"
        closing = asyncio.ensure_future(server.close())
        assert await idle.rest() == ["421 4.3.2"]
        with contextlib.suppress(ConnectionResetError):
            assert await shaking.reader.read(-1) == b""
        await idle.close()
        await shaking.close()
        await closing

    run(main())


@row("NET-07")
@KINDS
def test_a_session_in_segments_of_one_octet_succeeds(run: Run, kind: str) -> None:
    async def relay(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while octets := await reader.read(4096):
                for octet in octets:
                    tell(writer, bytes([octet]))
                    await asyncio.sleep(0)
            if not writer.is_closing():
                writer.write_eof()

    async def main() -> None:
        sink = Sink()
        async with running(sink.server(**certified(secure=kind == "implicit"))) as address:

            async def slice_up(reader: Any, writer: Any) -> None:
                inner_reader, inner_writer = await asyncio.open_connection(*address)
                await asyncio.gather(relay(reader, inner_writer), relay(inner_reader, writer))
                await closed(inner_writer)

            connections = Connections(slice_up)
            proxy = await asyncio.start_server(connections.accept, "127.0.0.1", 0)
            async with await connected(kind, proxy.sockets[0].getsockname()) as client:
                client.send(TX + b"DATA\r\n")
                assert await client.replies(3) == ["250 2.1.0", "250 2.1.5", "354"]
                client.send(b"text\r\n.\r\n")
                assert await client.reply() == "250 2.6.0"
                assert await client.ask(b"QUIT\r\n") == "221 2.0.0"
                await client.rest()
            await until(lambda: not connections)
            proxy.close()
            await proxy.wait_closed()
        assert len(sink.arrived) == 1

    run(main())


# --- many ---


@row("OPS-01")
def test_the_certificate_is_swapped_under_load_and_no_client_fails(run: Run) -> None:
    pairs = [issue("srv.test"), issue("srv.test")]

    async def main() -> None:
        server = SMTPServer(**DEFAULTS, key=pairs[0].key, cert=pairs[0].cert)
        seen: set[bytes] = set()
        stop = False

        async def visit(address: Any) -> None:
            while not stop:
                async with await connected("STARTTLS", address) as client:
                    tls = client.writer.get_extra_info("ssl_object")
                    seen.add(tls.getpeercert(True))
                    assert await client.ask(b"QUIT\r\n") == "221 2.0.0"

        async with running(server) as address:
            visits = [asyncio.ensure_future(visit(address)) for _ in range(5)]
            for turn in range(20):
                await asyncio.sleep(0.02)  # load between two swaps, not a wait for anything
                one, other = pairs[turn % 2], pairs[1 - turn % 2]
                server.update_secure_context(key=one.key, cert=one.cert)
                with pytest.raises(ValueError, match="is not the key"):
                    server.update_secure_context(key=other.key, cert=one.cert)
            stop = True
            await asyncio.gather(*visits)
        assert len(seen) == 2

    run(main())


@row("TLS-24")
def test_a_flood_of_handshakes_is_worked_off_in_turns(run: Run) -> None:
    async def main() -> None:
        server = SMTPServer(**certified(secure=True, max_junk_commands=0))
        await server.listen(0, "127.0.0.1")
        await server.listen(0, "127.0.0.1", secure=False)
        secure, plain = server.addresses()
        async with await Client.greeted(plain) as honest:
            flood = [asyncio.ensure_future(connected("implicit", secure)) for _ in range(60)]
            while not all(one.done() for one in flood):
                assert await honest.ask(b"NOOP\r\n") == "250 2.0.0"
        for one in flood:
            await one.result().close()
        await server.close()

    run(main())


IDLE_CLIENTS = """
import socket, sys
sys.path.insert(0, {tests!r})
from tls_kit import client_context
context, clients = client_context(ca=None), []
for _ in range({count}):
    plain = socket.create_connection(("127.0.0.1", {port}))
    plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    client = context.wrap_socket(plain)
    assert client.recv(4096).startswith(b"220")
    client.sendall(b"EHLO x\\r\\n")
    assert client.recv(4096).startswith(b"250")
    clients.append(client)
print("idle", flush=True)
sys.stdin.readline()
for client in clients:
    client.sendall(b"MAIL FROM:<a@x.example>\\r\\nRCPT TO:<b@y.example>\\r\\nDATA\\r\\n")
    while b"354" not in client.recv(4096):
        pass
    client.sendall(b"x" * 60000 + b"\\r\\n.\\r\\n")
    assert client.recv(4096).startswith(b"250")
print("burst", flush=True)
sys.stdin.readline()
"""


@row("MEM-03")
@needs_own_memory
def test_an_idle_connection_is_small_before_and_after_a_burst(run: Run) -> None:
    count = 300

    async def main() -> tuple[float, float]:
        server = Sink().server(**certified(secure=True, max_clients=0))
        async with running(server) as (_, port):
            support = str(Path(__file__).parents[1] / "support")
            script = IDLE_CLIENTS.format(tests=support, count=count, port=port)
            pipe = asyncio.subprocess.PIPE
            child = await asyncio.create_subprocess_exec(
                sys.executable, "-c", script, stdin=pipe, stdout=pipe, env=environment()
            )
            assert child.stdin is not None
            assert child.stdout is not None
            gc.collect()
            before = private_octets()
            assert await child.stdout.readline() == b"idle\n"
            gc.collect()
            idle = private_octets() - before
            child.stdin.write(b"\n")
            assert await child.stdout.readline() == b"burst\n"
            gc.collect()
            after = private_octets() - before
            child.stdin.close()
            await child.wait()
        return idle / count / 1024, after / count / 1024

    idle, after = run(main())
    # 16 KiB of it are OpenSSL's (3.0) own structures, 3.5 a plaintext connection's; the loop's own
    # TLS has 46 and 161.
    assert idle < 24
    assert after < 44


# --- run() ---


@row("OPS-01")
def test_sighup_reads_the_files_again(tmp_path: Path) -> None:
    old, new = issue("srv.test"), issue("srv.test")

    def put(pair: Any) -> None:
        (tmp_path / "key.pem").write_bytes(pair.key)
        (tmp_path / "cert.pem").write_bytes(pair.cert)

    put(old)
    script = (
        "import logging, sys; from fastsmtp import SMTPServer\n"
        "logging.basicConfig(level='INFO', format='%(message)s')\n"
        "server = SMTPServer(key='key.pem', cert='cert.pem', disable_reverse_lookup=True)\n"
        "server.on('listening', lambda at: print('port', at[1], file=sys.stderr))\n"
        "server.run(0, '127.0.0.1')\n"
    )
    child = subprocess.Popen(
        [sys.executable, "-c", script], cwd=tmp_path, stderr=subprocess.PIPE, text=True,
        env=environment(),
    )  # fmt: skip
    assert child.stderr is not None
    said = Lines(child.stderr)
    try:
        port = int(said.wait(r"port (\d+)")[1])

        def shown() -> bytes:
            with smtplib.SMTP("127.0.0.1", port) as client:
                client.starttls(context=client_context(ca=None))
                assert isinstance(client.sock, ssl.SSLSocket)
                return client.sock.getpeercert(True) or b""

        first = shown()
        (tmp_path / "cert.pem").write_bytes(new.cert)
        os.kill(child.pid, signal.SIGHUP)
        said.wait("stay as they were: .*key.pem is not the key of the certificate in")
        assert shown() == first
        put(new)
        os.kill(child.pid, signal.SIGHUP)
        said.wait("were reloaded")
        assert shown() != first
    finally:
        child.terminate()
        assert child.wait(60) == 0
        said.finish()
