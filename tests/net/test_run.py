"""`SMTPServer.run` in a process of its own: signals, the loop it takes, how it ends."""

from __future__ import annotations

import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from clients import CLOSING, PATIENCE
from scenario import TX, codes
from serving import errors_in

pytestmark = [
    pytest.mark.usefixtures("no_leaks"),
    pytest.mark.skipif(sys.platform == "win32", reason="signals are those of POSIX"),
]

PROGRAM = """
import asyncio, sys
from fastsmtp import MessageAborted, SMTPServer

def say(*words):
    print(*words, flush=True)

async def on_data(stream, session):
    try:
        body = b"".join([piece async for piece in stream])
    except MessageAborted as error:
        say("aborted", error.reason)
        raise
    say("accepted", len(body))

async def on_rcpt_to(address, session):
    say("rcpt")
    if address.local_part == "hang":
        await asyncio.sleep(10_000)

async def resolver(address):
    say("lookup")
    await asyncio.sleep(10_000)

options = {"disable_reverse_lookup": True, "close_timeout": 10_000}
server = SMTPServer(
    auth_optional=True, name="srv.test", on_data=on_data, on_rcpt_to=on_rcpt_to,
    resolver=resolver, on_close=lambda session: say("on_close"), **options | MORE,
)
server.on("listening", lambda address: say(address[1]))
server.on("connect", lambda facts: say("loop", type(asyncio.get_running_loop()).__module__))
server.on("close", lambda: say("close"))
server.run(PORT, "127.0.0.1")
say("returned")
"""


class Program:
    """The server process, read line by line, and clients of it."""

    def __init__(self, port: int, options: dict[str, Any]) -> None:
        text = f"MORE = {options!r}\nPORT = {port}\n{PROGRAM}"
        command = [sys.executable, "-W", "error", "-c", text]
        pipe = subprocess.PIPE
        # Unbuffered: what `line` does not take is left to `ends`.
        self.process = subprocess.Popen(command, stdout=pipe, stderr=pipe, bufsize=0)
        self.port = port
        self.clients: list[Client] = []

    def line(self) -> str:
        """The next line that it says."""
        assert self.process.stdout is not None
        return self.process.stdout.readline().decode().rstrip()

    def until(self, said: str) -> None:
        """Read on to the line that is `said`."""
        while (line := self.line()) != said:
            assert line, f"it has ended without {said!r}"

    def client(self) -> Client:
        """A client that was not greeted yet."""
        self.clients.append(Client(self.port))
        return self.clients[-1]

    def tell(self, *numbers: signal.Signals) -> None:
        """Send signals."""
        for number in numbers:
            self.process.send_signal(number)

    def ends(self) -> list[str]:
        """It ends by itself without an error; returns what it still says."""
        out, err = self.process.communicate(timeout=PATIENCE)
        assert errors_in(err.decode().splitlines()) == []
        assert self.process.returncode == 0
        return out.decode().splitlines()


class Client:
    """A client that blocks."""

    def __init__(self, port: int) -> None:
        self.sock = socket.create_connection(("127.0.0.1", port), timeout=PATIENCE)
        self.file = self.sock.makefile("rb")

    def reply(self) -> str:
        octets = b""
        while line := self.file.readline():
            octets += line
            if line[3:4] == b" ":
                return codes(octets)[0]
        return ""

    def ask(self, *groups: bytes) -> str:
        """Send groups; returns the last reply to the last one."""
        reply = ""
        for group in groups:
            self.sock.sendall(group)
            for _ in range(group.count(b"\r\n")):
                reply = self.reply()
        return reply

    def rest(self) -> list[str]:
        """All replies up to the end, and close."""
        octets = self.file.read()
        self.close()
        return codes(octets)

    def close(self) -> None:
        self.file.close()
        self.sock.close()


@contextmanager
def program(port: int = 0, **options: Any) -> Iterator[Program]:
    running = Program(port, options)
    try:
        if not port:
            running.port = int(running.line())
        yield running
    finally:
        for client in running.clients:
            client.close()
        running.process.kill()
        running.process.communicate()


@pytest.mark.row("OPS-02")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_closes_the_server_and_run_returns(number: signal.Signals) -> None:
    with program() as server:
        client = server.client()
        assert client.reply() == "220"
        server.tell(number)
        assert client.rest() == [CLOSING]
        assert server.line().startswith("loop uvloop")
        assert server.ends() == ["on_close", "close", "returned"]


@pytest.mark.row("OPS-02", "OPS-03")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_message_under_way_is_finished_after_the_signal(number: signal.Signals) -> None:
    with program() as server:
        idle, client = server.client(), server.client()
        assert idle.reply() == client.reply() == "220"
        assert client.ask(b"HELO c\r\n", TX, b"DATA\r\n") == "354"
        server.tell(number)
        assert idle.rest() == [CLOSING]
        server.until("on_close")  # of the idle client, whose end and the message may cross
        with pytest.raises(ConnectionRefusedError):
            server.client()
        client.sock.sendall(b"x\r\n.\r\n")
        assert client.rest() == ["250 2.6.0", CLOSING]
        assert server.ends() == ["accepted 3", "on_close", "close", "returned"]


@pytest.mark.row("OPS-02")
@pytest.mark.parametrize("second", [signal.SIGTERM, signal.SIGINT])
def test_a_second_signal_ends_run_at_once(second: signal.Signals) -> None:
    with program() as server:
        idle, body, hook = server.client(), server.client(), server.client()
        assert idle.reply() == body.reply() == hook.reply() == "220"
        assert body.ask(b"HELO c\r\n", TX, b"DATA\r\n") == "354"
        assert hook.ask(b"HELO c\r\n", b"MAIL FROM:<a@x.example>\r\n") == "250 2.1.0"
        hook.sock.sendall(b"RCPT TO:<hang@y.example>\r\n")
        assert [server.line() for _ in range(5)][-2:] == ["rcpt", "rcpt"]
        server.tell(signal.SIGTERM)
        assert idle.rest() == [CLOSING]
        server.tell(second)
        said = server.ends()
        assert said.count("on_close") == 3
        assert said[-2:] == ["close", "returned"]
        assert "aborted shutdown" in said


@pytest.mark.row("OPS-02")
def test_two_signals_at_the_same_time_end_run_at_once() -> None:
    with program() as server:
        body = server.client()
        assert body.reply() == "220"
        assert body.ask(b"HELO c\r\n", TX, b"DATA\r\n") == "354"
        server.tell(signal.SIGTERM, signal.SIGINT)
        assert server.ends()[-4:] == ["aborted shutdown", "on_close", "close", "returned"]


@pytest.mark.row("OPS-02")
def test_a_signal_during_a_lookup_is_answered_421_and_nothing_is_left() -> None:
    with program(disable_reverse_lookup=False) as server:
        client = server.client()
        assert server.line() == "lookup"
        server.tell(signal.SIGTERM)
        assert client.rest() == ["421"]
        assert server.ends() == ["close", "returned"]


def test_sighup_is_ignored() -> None:
    with program() as server:
        client = server.client()
        assert client.reply() == "220"
        server.tell(signal.SIGHUP)
        assert client.ask(b"NOOP\r\n") == "250 2.0.0"
        server.tell(signal.SIGTERM)
        assert client.rest() == [CLOSING]
        assert server.ends()[-1] == "returned"


@pytest.mark.row("OPS-10")
def test_a_client_that_has_sent_while_the_process_was_stopped_is_served() -> None:
    with program(socket_timeout=2) as server:
        client = server.client()
        assert client.reply() == "220"
        server.tell(signal.SIGSTOP)
        client.sock.sendall(b"NOOP\r\n")
        with pytest.raises(subprocess.TimeoutExpired):  # the deadline passes
            server.process.wait(2.2)
        server.tell(signal.SIGCONT)
        assert client.reply() == "250 2.0.0"
        assert client.rest() == ["421 4.4.2"]
        server.tell(signal.SIGTERM)
        assert server.ends()[-1] == "returned"


def test_a_port_in_use_ends_run_with_an_oserror() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with program(taken.getsockname()[1]) as server:
            out, err = server.process.communicate(timeout=PATIENCE)
        assert out == b""
        assert err.splitlines()[-1].startswith(b"OSError: ")
        assert server.process.returncode == 1


LIFESPAN = """
import asyncio, contextlib, threading
from fastsmtp import SMTPServer

def say(*words):
    print(*words, flush=True)

@contextlib.asynccontextmanager
async def lifespan(server):
    say("start")
    if FAULT == "start raises":
        raise OSError("no database")
    try:
        if FAULT == "start hangs":
            await asyncio.Event().wait()
        yield
    finally:
        say("clean up")
    if FAULT == "clean-up raises":
        raise OSError("no goodbye")
    if FAULT == "clean-up hangs":
        await asyncio.Event().wait()

async def on_data(stream, session):
    await server.close()

server = SMTPServer(auth_optional=True, on_data=on_data, lifespan=lifespan)
server.on("listening", lambda address: say(address[1]))
server.run(0, "127.0.0.1")
say("returned")
"""


@contextmanager
def lifespan_program(fault: str) -> Iterator[subprocess.Popen[bytes]]:
    """A program whose lifespan has a fault; its first line is read."""
    process = subprocess.Popen(
        [sys.executable, "-W", "error", "-c", f"FAULT = {fault!r}\n{LIFESPAN}"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        bufsize=0,
    )
    with process:
        try:
            assert line_of(process) == "start"
            yield process
        finally:
            process.kill()


def line_of(process: subprocess.Popen[bytes]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().decode().rstrip()


def end_of(process: subprocess.Popen[bytes]) -> tuple[int, list[str], str]:
    """Its status, what it still says, and its last error on stderr, without notes."""
    out, err = process.communicate(timeout=PATIENCE)
    errors = [line for line in err.decode().splitlines() if re.match(r"\w+: ", line)]
    return process.returncode, out.decode().split(), errors[-1] if errors else err.decode()


def test_a_start_that_raises_is_the_error_of_run() -> None:
    with lifespan_program("start raises") as process:
        assert end_of(process) == (1, [], "OSError: no database")


def test_a_signal_ends_a_start_that_hangs() -> None:
    with lifespan_program("start hangs") as process:
        process.send_signal(signal.SIGTERM)
        assert end_of(process) == (0, ["clean", "up", "returned"], "")


def test_a_clean_up_that_raises_makes_the_status_of_run_1() -> None:
    with lifespan_program("clean-up raises") as process:
        line_of(process)
        process.send_signal(signal.SIGTERM)
        assert end_of(process) == (1, ["clean", "up"], "OSError: no goodbye")


def test_a_second_signal_ends_a_clean_up_that_hangs() -> None:
    with lifespan_program("clean-up hangs") as process:
        line_of(process)
        process.send_signal(signal.SIGTERM)
        assert line_of(process) == "clean up"
        process.send_signal(signal.SIGTERM)
        assert end_of(process)[:2] == (1, [])


def test_run_returns_when_a_hook_closes_the_server() -> None:
    with lifespan_program("") as process:
        client = Client(int(line_of(process)))
        try:
            assert client.reply() == "220"
            assert client.ask(b"HELO c\r\n", TX, b"DATA\r\n", b".\r\n") == "250 2.6.0"
            assert client.rest() == [CLOSING]
        finally:
            client.close()
        assert end_of(process) == (0, ["clean", "up", "returned"], "")


IN_A_THREAD = """
import asyncio, threading
from fastsmtp import SMTPServer

async def on_data(stream, session):
    stream.discard()
    await server.close()

def serve():
    try:
        server.run(0, "127.0.0.1")
    except RuntimeError as error:
        print(error, flush=True)
    server.run(0, "127.0.0.1", handle_signals=False)
    print("returned", flush=True)

server = SMTPServer(auth_optional=True, on_data=on_data)
server.on("listening", lambda address: print(address[1], flush=True))
thread = threading.Thread(target=serve)
thread.start()
thread.join()
"""


def test_run_in_another_thread_needs_to_be_told_that_it_has_no_signals() -> None:
    process = subprocess.Popen(
        [sys.executable, "-W", "error", "-c", IN_A_THREAD],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        bufsize=0,
    )
    with process:
        try:
            assert "handle_signals=False" in line_of(process)
            client = Client(int(line_of(process)))
            assert client.reply() == "220"
            assert client.ask(b"HELO c\r\n", TX, b"DATA\r\n", b".\r\n") == "250 2.6.0"
            assert client.rest() == [CLOSING]
            assert end_of(process) == (0, ["returned"], "")
        finally:
            process.kill()


DEAD_RESOLVER = """
import os, socket, time

def getaddrinfo(host, *arguments, flags=0, **named):
    if flags & socket.AI_NUMERICHOST:
        raise socket.gaierror(socket.EAI_NONAME, "no address")
    os.write(1, b"asked\\n")  # print's lock may still be this thread's when the process ends
    time.sleep(10_000)

socket.getaddrinfo = getaddrinfo
"""
STARTS = {
    "run": "from fastsmtp import SMTPServer\nSMTPServer(auth_optional=True).run(0, 'mx.test')\n",
    "serve": "from fastsmtp.gateway.cli import main\nmain()\n",
}


@pytest.mark.row("OPS-02")
@pytest.mark.parametrize("way", STARTS)
def test_a_signal_ends_a_start_that_waits_for_the_resolver(way: str, tmp_path: Path) -> None:
    text = f"{DEAD_RESOLVER}\n{STARTS[way]}"
    arguments = ["serve", "--listen=mx.test:0", f"--maildir={tmp_path}/mail"]
    process = subprocess.Popen(
        [sys.executable, "-W", "error", "-c", text, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        bufsize=0,
    )
    with process:
        assert process.stdout is not None
        try:
            assert process.stdout.readline() == b"asked\n"
            process.send_signal(signal.SIGTERM)
            _, err = process.communicate(timeout=PATIENCE)
        finally:
            process.kill()
    assert (process.returncode, errors_in(err.decode().splitlines())) == (0, [])
