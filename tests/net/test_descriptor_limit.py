"""A process without free descriptors, and one whose accepts fail: it goes on, and does not spin.

The server is a process of its own, for the limits are those of a process.
"""

from __future__ import annotations

import contextlib
import errno
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from c_library import build_library, preload
from serving import PATIENCE, Lines, environment

resource = pytest.importorskip("resource")

row = pytest.mark.row
each_loop = pytest.mark.parametrize("loop", ["asyncio", "uvloop"])

# Commands come by stdin: "eat" takes all descriptors that are left, "release" gives them back. Its
# end closes the server.
SERVER = """
import asyncio, logging, os, sys
import fastsmtp

logging.basicConfig(stream=sys.stderr, format="LOG %(message).60s")

async def main():
    loop = asyncio.get_running_loop()
    server = fastsmtp.SMTPServer(
        auth_optional=True,
        disable_reverse_lookup=True,
        name="srv.test",
        close_timeout=1,
        on_data=lambda stream, session, callback: callback(),
    )
    await server.listen(0, "127.0.0.1")
    print(server.address()[1], flush=True)
    reader = asyncio.StreamReader()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    eaten = []
    while command := (await reader.readline()).strip():
        if command == b"eat":
            try:
                while True:
                    eaten.append(os.open("/dev/null", os.O_RDONLY))
            except OSError:
                pass
        elif command == b"release":
            while eaten:
                os.close(eaten.pop())
        print("done", flush=True)
    await server.close()

if sys.argv[1] == "uvloop":
    import uvloop
    uvloop.run(main())
else:
    asyncio.run(main())
"""


class Server:
    """The process. `ask` gives it a command and waits until it has been carried out."""

    def __init__(self, loop: str, descriptors: int | None = None, **env: str) -> None:
        def limit() -> None:
            if descriptors is not None:
                resource.setrlimit(resource.RLIMIT_NOFILE, (descriptors, descriptors))

        self.process = subprocess.Popen(
            [sys.executable, "-c", SERVER, loop],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=environment(**env),
            preexec_fn=limit,
        )
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        assert self.process.stderr is not None
        self._commands = self.process.stdin
        self._told = self.process.stdout
        self._log = Lines(self.process.stderr)
        self.port = int(self._told.readline())

    def ask(self, command: str) -> None:
        self._commands.write(command + "\n")
        self._commands.flush()
        assert self._told.readline() == "done\n"

    def end(self) -> list[str]:
        """End it, and return the lines of its log."""
        self._commands.close()
        assert self.process.wait(PATIENCE) == 0, self._log.all
        return [line for line in self._log.finish() if line.startswith("LOG ")]

    def close(self) -> None:
        """Whatever has happened, nothing is left."""
        self.process.kill()
        self.process.wait(PATIENCE)
        self._log.finish()
        for stream in (self._commands, self._told):
            with contextlib.suppress(OSError):
                stream.close()

    def connect(self) -> socket.socket:
        sock = socket.create_connection(("127.0.0.1", self.port), PATIENCE)
        sock.settimeout(PATIENCE)
        return sock

    def served(self) -> None:
        """Come back until there is a greeting: at some time there must be one."""
        while True:
            with self.connect() as sock, contextlib.suppress(ConnectionResetError):
                if sock.recv(100).startswith(b"220 "):
                    return


@contextmanager
def serving(loop: str, descriptors: int | None = None, **env: str) -> Iterator[Server]:
    if loop == "uvloop":
        pytest.importorskip("uvloop")
    server = Server(loop, descriptors, **env)
    try:
        yield server
    finally:
        server.close()


# The loop, the limit of descriptors, how many of them the loop leaves to `max_clients`: libuv has
# a few more of its own, and the epoll and the spare one are two.
LIMITS = [("asyncio", 64, 51), ("uvloop", 100, 80)]


@row("MEM-04")
@pytest.mark.parametrize("loop, descriptors, expected", LIMITS)
def test_clients_beyond_the_limit_are_refused_while_descriptors_are_left(
    loop: str, descriptors: int, expected: int
) -> None:
    with serving(loop, descriptors) as server, contextlib.ExitStack() as held:
        told: list[bytes] = []
        clients: list[socket.socket] = []
        for _ in range(200):
            with contextlib.ExitStack() as closing:
                sock = closing.enter_context(server.connect())
                told.append(sock.recv(100)[:4])
                if told[-1] == b"220 ":
                    held.enter_context(closing.pop_all())
                    clients.append(sock)
        assert told == [b"220 "] * expected + [b"421 "] * (200 - expected)
        for sock in clients:
            sock.sendall(b"QUIT\r\n")
            assert sock.recv(100).startswith(b"221 ")
        held.close()
        server.served()
        assert not server.end()


@row("MEM-04")
@each_loop
def test_clients_beyond_the_descriptors_are_refused_or_closed_and_nothing_else(loop: str) -> None:
    with serving(loop, 64) as server, contextlib.ExitStack() as held:
        told: list[bytes] = []
        for _ in range(100):
            with contextlib.ExitStack() as closing:
                sock = closing.enter_context(server.connect())
                told.append(sock.recv(100)[:4])
                if told[-1] == b"220 ":
                    held.enter_context(closing.pop_all())
        assert set(told) <= {b"220 ", b"421 ", b""}
        assert told.count(b"220 ") >= 48
        held.close()
        server.served()
        server.end()


@row("MEM-05", "MEM-04")
@each_loop
def test_a_process_without_descriptors_waits_and_serves_again(loop: str) -> None:
    with serving(loop, 64) as server, contextlib.ExitStack() as closing:
        first = closing.enter_context(server.connect())
        assert first.recv(100).startswith(b"220 ")
        server.ask("eat")
        waiting = [closing.enter_context(server.connect()) for _ in range(10)]
        first.sendall(b"NOOP\r\n")
        assert first.recv(100).startswith(b"250 ")
        # libuv accepts and closes the newcomers, asyncio lets them wait: there is no third thing.
        for sock in waiting[:3]:
            sock.settimeout(0.5)
            with contextlib.suppress(TimeoutError, ConnectionResetError):
                assert sock.recv(100) == b""
        server.ask("release")
        server.served()
        first.sendall(b"QUIT\r\n")
        assert first.recv(100).startswith(b"221 ")
        closing.close()
        assert len(server.end()) <= 10


@pytest.fixture(scope="module")
def accept_faults(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The library that makes accepts fail."""
    if sys.platform != "linux":
        pytest.skip("not Linux")
    return preload(build_library("accept_faults", tmp_path_factory.mktemp("accept")))


FAULTS = ["ENOMEM", "ENOBUFS", "EPERM", "EPROTO", "ECONNABORTED", "EMFILE", "ENFILE"]


@pytest.mark.slow
@row("MEM-06")
@each_loop
def test_a_listener_whose_accepts_fail_goes_on(loop: str, accept_faults: str) -> None:
    numbers = ",".join(str(getattr(errno, name)) for name in FAULTS)
    with serving(loop, LD_PRELOAD=accept_faults, ACCEPT_FAULTS=numbers) as server:
        for _ in range(2 * len(FAULTS) + 2):
            server.served()
        assert server.end() or loop == "uvloop", "nothing has failed"
