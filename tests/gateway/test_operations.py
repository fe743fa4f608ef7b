"""Operations: what a child of a hook inherits, and what a server does with few rights or files.

Faults OPS-11 and OPS-13; the others of this group are in test_serve.py and test_disk_faults.py.
"""

from __future__ import annotations

import asyncio
import os
import resource
import smtplib
import socket
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from serving import PATIENCE, Gateway, environment, messages

from fastsmtp import SMTPServer
from fastsmtp.delivery import Record
from fastsmtp.delivery.maildir import Maildir
from fastsmtp.session import Session
from fastsmtp.stream import DataStream
from fastsmtp.testing import running

type_run = Callable[[Coroutine[Any, Any, Any]], Any]

# What a child has open beside its three standard files.
LIST_FILES = (
    "import os\n"
    "for name in os.listdir('/proc/self/fd'):\n"
    "    try:\n"
    "        if int(name) > 2:\n"
    "            print(os.readlink('/proc/self/fd/' + name))\n"
    "    except FileNotFoundError:\n"  # the directory that is being listed
    "        pass\n"
)


async def send(port: int, *lines: bytes) -> list[bytes]:
    """Send lines one by one; return the first line of each reply, the greeting first."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    replies = [await reader.readline()]
    for line in lines:
        writer.write(line)
        replies.append(await reader.readline())
    writer.close()
    await writer.wait_closed()
    return replies


@pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="no /proc")
def test_ops_11_a_child_of_a_hook_has_no_socket_and_no_mail_of_ours(
    run: type_run, tmp_path: Path
) -> None:
    inherited: list[str] = []
    sink = Maildir(str(tmp_path))

    async def on_data(stream: DataStream, session: Session) -> None:
        await stream.read()
        writer = sink.begin(Record("id-1", "", ()))
        writing = writer.write(bytes(1_000_000))
        assert writing is not None
        await writing
        assert len(os.listdir(tmp_path / "tmp")) == 1
        # close_fds would hide what is only kept from the child by its flag.
        done = subprocess.run(
            [sys.executable, "-c", LIST_FILES],
            close_fds=False,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=True,
        )
        inherited.extend(done.stdout.splitlines())
        writer.discard()

    async def serve() -> list[bytes]:
        server = SMTPServer(auth_optional=True, disable_reverse_lookup=True, on_data=on_data)
        async with sink, running(server) as (_, port):
            return await send(
                port,
                b"HELO c.example\r\n",
                b"MAIL FROM:<a@x.example>\r\n",
                b"RCPT TO:<b@y.example>\r\n",
                b"DATA\r\n",
                b"hello\r\n.\r\n",
                b"QUIT\r\n",
            )

    replies = run(serve())
    assert [reply[:3] for reply in replies] == [
        *[b"220", b"250", b"250", b"250", b"354", b"250", b"221"]
    ]
    ours = [name for name in inherited if name.startswith("socket:") or str(tmp_path) in name]
    assert ours == []


SERVE_AS_NOBODY = """
import asyncio, os, signal, socket, sys
import smtplib, encodings.idna  # what may be looked for later, and could not be read then
from fastsmtp import SMTPServer

async def main():
    server = SMTPServer(auth_optional=True, disable_reverse_lookup=True, on_data=on_data)
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    sock = bound()
    os.setgroups([])
    os.setgid(65534)
    os.setuid(65534)
    await server.listen(sock=sock)
    print(server.address()[1], os.getuid(), flush=True)
    await stop.wait()
    await server.close()

def bound():
    for port in range(1023, 800, -1):
        try:
            return socket.create_server(("127.0.0.1", port))
        except OSError:
            continue

async def on_data(stream, session):
    print(len(await stream.read()), flush=True)

if len(sys.argv) > 1 and sys.argv[1] == "uvloop":
    import uvloop
    uvloop.run(main())
else:
    asyncio.run(main())
"""


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="needs root")
@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
def test_ops_13_a_server_bound_as_root_serves_without_its_rights(loop: str) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", SERVE_AS_NOBODY, loop],
        env=environment(),
        stdout=subprocess.PIPE,
        text=True,
    )
    with process:
        assert process.stdout is not None
        port, user = process.stdout.readline().split()
        assert int(port) < 1024
        assert user == "65534"
        for _ in range(2):
            with smtplib.SMTP("127.0.0.1", int(port), "c.example", timeout=PATIENCE) as client:
                client.sendmail("a@x.example", ["b@y.example"], b"hello\r\n")
            assert process.stdout.readline() == "7\n"
        process.terminate()
        assert process.wait(PATIENCE) == 0


def allow_few_files() -> None:
    resource.setrlimit(resource.RLIMIT_NOFILE, (100, 100))


def as_many_as_are_let_in(gateway: Gateway) -> list[smtplib.SMTP]:
    clients: list[smtplib.SMTP] = []
    while True:
        try:
            clients.append(gateway.client())
        except smtplib.SMTPConnectError:
            return clients


def test_every_client_that_is_let_in_has_room_for_its_message(tmp_path: Path) -> None:
    maildir = tmp_path / "mail"
    with Gateway(maildir, preexec_fn=allow_few_files) as gateway:
        clients = as_many_as_are_let_in(gateway)
        assert 20 < len(clients) < 50
        for client in clients:
            client.mail("a@x.example")
            client.rcpt("b@y.example")
            client.docmd("DATA")
            client.send(b"x\r\n" * 30_000)  # enough for the file to be begun
        for client in clients:
            client.send(b".\r\n")
        assert {client.getreply()[0] for client in clients} == {250}
        for client in clients:
            client.close()
        assert gateway.stop() == 0
    assert len(messages(maildir)) == len(clients)


HELD = 200


@contextmanager
def crowd(port: int) -> Iterator[None]:
    """Clients that are refused, one after the other without end. None of them leaves by itself:
    the last HELD keep their end of the connection open.
    """
    all_here, may_leave = threading.Event(), threading.Event()

    def come() -> None:
        held: deque[socket.socket] = deque()
        try:
            while not may_leave.is_set():
                held.append(socket.create_connection(("127.0.0.1", port), PATIENCE))
                if len(held) > HELD:
                    all_here.set()
                    held.popleft().close()
        finally:
            for sock in held:
                sock.close()

    thread = threading.Thread(target=come)
    thread.start()
    try:
        assert all_here.wait(PATIENCE)
        yield
    finally:
        may_leave.set()
        thread.join()


@pytest.mark.row("FLOOD-11", "MEM-04")
def test_refused_clients_take_no_descriptor_that_a_message_needs(tmp_path: Path) -> None:
    maildir = tmp_path / "mail"
    with Gateway(maildir, preexec_fn=allow_few_files) as gateway:
        clients = as_many_as_are_let_in(gateway)
        with crowd(gateway.ports[0]):
            for lines in (30_000, 1, 30_000):  # many: the file is begun before the end
                for client in clients:
                    client.mail("a@x.example")
                    assert client.rcpt("b@y.example")[0] == 250
                    client.docmd("DATA")
                    client.send(b"x\r\n" * lines)
                for client in clients:
                    client.send(b".\r\n")
                assert {client.getreply()[0] for client in clients} == {250}
        for client in clients:
            client.close()
        assert gateway.stop() == 0
        assert gateway.errors() == []
    assert len(messages(maildir)) == 3 * len(clients)
