"""`SMTPServer.threaded`: a server beside a program that has no event loop."""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import smtplib
import socket
import subprocess
import sys
import textwrap
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from clients import PATIENCE
from serving import errors_in

from fastsmtp import SMTPServer, _loop_thread

pytestmark = pytest.mark.usefixtures("no_leaks", "no_threads_left", "on_each_loop")

NAME = "fastsmtp-server"
TEXT = "Subject: hello\r\n\r\nworld\r\n"


@pytest.fixture
def no_threads_left() -> Iterator[None]:
    yield
    assert [thread for thread in threading.enumerate() if thread.name == NAME] == []


@pytest.fixture
def on_each_loop(
    loop_factory: Callable[[], asyncio.AbstractEventLoop], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The thread has the loop of the parameter."""
    monkeypatch.setattr(_loop_thread, "loop_factory", lambda: loop_factory)


class Keeper:
    """A server that keeps bodies, and the names of the threads that its hooks ran in."""

    def __init__(self, **options: Any) -> None:
        self.bodies: list[bytes] = []
        self.threads: set[str] = set()
        given = {"auth_optional": True, "disable_reverse_lookup": True, "on_data": self.on_data}
        self.server = SMTPServer(**(given | options))

    async def on_data(self, stream: Any, session: Any) -> None:
        self.threads.add(threading.current_thread().name)
        self.bodies.append(await stream.read())


def send(address: Any) -> None:
    with smtplib.SMTP(*address, timeout=PATIENCE) as client:
        client.sendmail("anne@x.example", ["bob@example.org"], TEXT)


def greeting(address: Any) -> bytes:
    with socket.create_connection(address, timeout=PATIENCE) as sock:
        return sock.makefile("rb").readline()


def test_a_synchronous_client_is_served_in_the_body_and_refused_after_it() -> None:
    keeper = Keeper()
    with keeper.server.threaded() as address:
        send(address)
        assert (keeper.bodies, keeper.threads) == ([TEXT.encode()], {NAME})
    with pytest.raises(ConnectionRefusedError):
        greeting(address)


def test_a_unix_socket_and_a_given_socket_are_served(tmp_path: Path) -> None:
    keeper = Keeper()
    path = str(tmp_path / "smtp")
    with keeper.server.threaded(path=path) as address, socket.socket(socket.AF_UNIX) as client:
        assert address == path
        client.connect(path)
        assert client.makefile("rb").readline().startswith(b"220 ")
    given = socket.create_server(("127.0.0.1", 0))
    with given, keeper.server.threaded(sock=given) as address:
        assert address == given.getsockname()
        send(address)


def test_a_server_can_be_used_again_in_a_thread_and_in_a_loop(run: Any) -> None:
    keeper = Keeper()
    for _ in range(3):
        with keeper.server.threaded() as address:
            send(address)

    async def scenario() -> None:
        await keeper.server.listen(0, "127.0.0.1")
        await asyncio.to_thread(send, keeper.server.address())
        await keeper.server.close()

    run(scenario())
    with keeper.server.threaded() as address:
        send(address)
    assert len(keeper.bodies) == 5


def test_the_thread_of_a_running_loop_can_use_it(run: Any) -> None:
    """As in a notebook."""
    keeper = Keeper()

    async def scenario() -> None:
        with keeper.server.threaded() as address:
            reader, writer = await asyncio.open_connection(*address)
            assert (await reader.readline()).startswith(b"220 ")
            writer.close()
            await writer.wait_closed()
            send(address)

    run(scenario())
    assert len(keeper.bodies) == 1


# --- the start ------------------------------------------------------------------------------------


def test_an_address_that_is_taken_is_an_error_before_the_body() -> None:
    taken = socket.create_server(("127.0.0.1", 0))
    server = Keeper().server
    with taken, pytest.raises(OSError), server.threaded(taken.getsockname()[1]):
        pytest.fail("the body has run")


def test_what_the_lifespan_raises_is_raised_before_the_body() -> None:
    @asynccontextmanager
    async def lifespan(server: Any) -> AsyncIterator[None]:
        raise LookupError("no database")
        yield

    server = Keeper(lifespan=lifespan).server
    with pytest.raises(LookupError, match="no database"), server.threaded():
        pytest.fail("the body has run")


def test_wrong_arguments_are_errors_before_the_body() -> None:
    server = Keeper().server
    with pytest.raises(TypeError, match="port takes an int"), server.threaded("25"):  # type: ignore[arg-type]
        pytest.fail("the body has run")
    with pytest.raises(ValueError), server.threaded(secure=True, port=70000):
        pytest.fail("the body has run")


def test_a_server_that_listens_is_refused_and_goes_on() -> None:
    keeper = Keeper()
    with keeper.server.threaded() as address:
        with pytest.raises(RuntimeError, match="listens already"), keeper.server.threaded():
            pytest.fail("the body has run")
        send(address)


def test_a_server_that_is_closed_in_its_start_is_an_error() -> None:
    @asynccontextmanager
    async def lifespan(server: Any) -> AsyncIterator[None]:
        await server.close()
        yield

    server = Keeper(lifespan=lifespan).server
    with pytest.raises(RuntimeError, match="the start was cancelled"), server.threaded():
        pytest.fail("the body has run")


# --- the end --------------------------------------------------------------------------------------


def test_the_lifespan_ends_before_the_statement_does() -> None:
    steps: list[str] = []

    @asynccontextmanager
    async def lifespan(server: Any) -> AsyncIterator[None]:
        steps.append("start")
        yield
        steps.append("end")

    with Keeper(lifespan=lifespan).server.threaded():
        steps.append("body")
    steps.append("after")
    assert steps == ["start", "body", "end", "after"]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit])
def test_an_exception_of_the_body_closes_the_server(error: type[BaseException]) -> None:
    with pytest.raises(error), Keeper().server.threaded() as address:
        raise error
    with pytest.raises(ConnectionRefusedError):
        greeting(address)


def test_a_client_that_is_idle_at_the_end_gets_421() -> None:
    with Keeper().server.threaded() as address:
        assert isinstance(address, tuple)
        sock = socket.create_connection(address, timeout=PATIENCE)
        file = sock.makefile("rb")
        assert file.readline().startswith(b"220 ")
    with sock, file:
        assert file.read().startswith(b"421 4.3.2 ")


def test_a_hook_that_closes_the_server_does_not_end_the_body() -> None:
    async def on_mail_from(address: Any, session: Any) -> None:
        await keeper.server.close()

    keeper = Keeper(on_mail_from=on_mail_from)
    with keeper.server.threaded() as address:
        with pytest.raises((smtplib.SMTPServerDisconnected, smtplib.SMTPRecipientsRefused)):
            send(address)
        with pytest.raises(ConnectionRefusedError):
            greeting(address)
    with keeper.server.threaded() as address:
        assert greeting(address).startswith(b"220 ")


def test_a_statement_that_ends_in_its_own_thread_does_not_wait_for_itself() -> None:
    left = threading.Event()

    def on_connect(session: Any, callback: Callable[..., object]) -> None:
        opened.__exit__(None, None, None)
        left.set()
        callback()

    opened = Keeper(on_connect=on_connect).server.threaded()
    address = opened.__enter__()
    threads = [thread for thread in threading.enumerate() if thread.name == NAME]
    assert greeting(address)[:3] in (b"220", b"421")
    assert left.wait(PATIENCE)
    for thread in threads:
        thread.join(PATIENCE)


def test_a_statement_that_is_forgotten_ends_with_its_object() -> None:
    opened: Any = Keeper().server.threaded()
    address = opened.__enter__()
    del opened
    gc.collect()
    with pytest.raises(ConnectionRefusedError):
        greeting(address)


# --- hooks that fail ------------------------------------------------------------------------------


def test_the_failure_of_a_hook_is_logged_and_the_server_goes_on(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def on_rcpt_to(address: Any, session: Any) -> None:
        raise LookupError("no such table")

    server = Keeper(on_rcpt_to=on_rcpt_to).server
    with caplog.at_level(logging.ERROR, "fastsmtp"), server.threaded() as address:
        for _ in range(2):
            with pytest.raises(smtplib.SMTPRecipientsRefused):
                send(address)
    assert ["LookupError" in text for text in caplog.messages] == [True, True]


def test_a_hook_that_ends_the_process_is_told_at_the_end_of_the_body() -> None:
    async def on_rcpt_to(address: Any, session: Any) -> None:
        raise SystemExit(3)

    ends: list[str] = []
    server = Keeper(on_rcpt_to=on_rcpt_to).server

    def program() -> None:
        with server.threaded() as address:
            with pytest.raises((smtplib.SMTPServerDisconnected, smtplib.SMTPRecipientsRefused)):
                send(address)
            ends.append("body")

    with pytest.raises(SystemExit, match="3"):
        program()
    assert ends == ["body"]


# --- many -----------------------------------------------------------------------------------------


def loops() -> int:
    gc.collect()
    return sum(isinstance(thing, asyncio.AbstractEventLoop) for thing in gc.get_objects())


@pytest.mark.parametrize("times", [20, pytest.param(1000, marks=pytest.mark.nightly)])
def test_starts_and_stops_leave_no_thread_no_descriptor_and_no_loop(times: int) -> None:
    keeper = Keeper()
    with keeper.server.threaded():  # the server remembers the last loop that it had
        pass
    before = loops()
    for count in range(times):
        with keeper.server.threaded() as address:
            if count % 10 == 0:
                send(address)
    assert loops() == before
    assert len(keeper.bodies) == times // 10


# --- processes ------------------------------------------------------------------------------------

PROGRAM = """
import asyncio, os, signal, smtplib, socket, sys, threading
from contextlib import asynccontextmanager
from fastsmtp import SMTPServer

# A run in the background of a shell ignores it.
signal.signal(signal.SIGINT, signal.default_int_handler)

def say(*words):
    print(*words, flush=True)

@asynccontextmanager
async def lifespan(server):
    say("start")
    if "hang" in sys.argv:
        try:
            os.kill(os.getpid(), signal.SIGINT)
            await asyncio.Event().wait()
        finally:
            say("cancelled")
    yield
    say("end")

async def on_data(stream, session):
    say("message")
    await stream.read()

server = SMTPServer(
    auth_optional=True, on_data=on_data, lifespan=lifespan, close_timeout=10_000,
    disable_reverse_lookup=True, name="srv.test",
)

opened = []

def connect(address):
    client = socket.create_connection(address)
    file = client.makefile("rb")
    opened.extend((client, file))
    say(file.readline().decode().strip())
    return client, file

def close_clients():
    for each in opened:
        each.close()

def ask(client, file, line):
    client.sendall(line.encode() + b"\\r\\n")
    while (reply := file.readline().decode().strip())[3:4] == "-":
        pass
    return reply
"""


def program(text: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    code = PROGRAM + textwrap.dedent(text)
    command = [sys.executable, "-W", "error", "-c", code, *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=60)


def test_the_end_of_the_interpreter_ends_it() -> None:
    done = program("""
        statement = server.threaded()
        connect(statement.__enter__())
        close_clients()
        say("body")
        """)
    assert errors_in(done.stderr.splitlines()) == []
    assert done.stdout.splitlines() == ["start", "220 srv.test ESMTP", "body", "end"]


def test_a_keyboard_interrupt_in_the_start_cancels_it() -> None:
    done = program(
        """
        try:
            with server.threaded():
                say("body")
        except KeyboardInterrupt:
            say("interrupted", threading.active_count())
        """,
        "hang",
    )
    assert errors_in(done.stderr.splitlines()) == []
    assert done.stdout.splitlines() == ["start", "cancelled", "interrupted 1"]


def test_a_keyboard_interrupt_while_it_closes_cuts_the_clients() -> None:
    """With a client in a message the end would take close_timeout, which is hours."""
    done = program("""
        def interrupt(file):
            say(file.readline().decode()[:9])  # so the server is closing
            os.kill(os.getpid(), signal.SIGINT)

        try:
            with server.threaded() as address:
                client, file = connect(address)
                for line in ("EHLO x", "MAIL FROM:<a@x.example>", "RCPT TO:<b@y.example>", "DATA"):
                    reply = ask(client, file, line)
                say(reply[:3])
                threading.Thread(target=interrupt, args=connect(address)[1:]).start()
        except KeyboardInterrupt:
            say("interrupted")
        close_clients()
        """)
    assert errors_in(done.stderr.splitlines()) == []
    lines = done.stdout.splitlines()
    assert lines[-4:] == ["220 srv.test ESMTP", "421 4.3.2", "end", "interrupted"]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_forked_child_that_leaves_the_body_takes_nothing_from_its_parent() -> None:
    done = program("""
        import warnings
        warnings.simplefilter("ignore", DeprecationWarning)  # of fork beside threads
        with server.threaded() as address:
            client, file = connect(address)
            child = os.fork()
            if child:
                assert os.waitpid(child, 0)[1] == 0
                say(ask(client, file, "NOOP"))
                connect(address)
        say("left", child == 0)
        close_clients()
        """)
    assert errors_in(done.stderr.splitlines()) == []
    said = ["start", "220 srv.test ESMTP", "left True", "250 2.0.0 OK", "220 srv.test ESMTP"]
    assert done.stdout.splitlines() == [*said, "end", "left False"]
