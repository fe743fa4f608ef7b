"""What a connection may hold at most, and loops in threads that share nothing.

Octets are counted by tracemalloc, those of the test's own transport included.
"""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Callable
from typing import Any

import pytest
import reference
from consumers import Consumer, server_in_style
from hook_kit import BODY, END, MAIL, RCPT, STYLES
from memory import growth
from scenario import COUNTERS_OFF, DEFAULTS, EH, TX, codes

from fastsmtp import SMTPServer
from fastsmtp._smtp.policy import RECIPIENT_OCTETS
from fastsmtp.testing import VirtualLoop, Wire

row = pytest.mark.row

KIB = 1024
READ = 256_000  # octets that one read may bring, whatever was asked for


def fresh(octets: bytes, size: int) -> bytes:
    """A read that has no other reference: `octets` over and over, up to `size`."""
    return bytes(bytearray((octets * (size // len(octets) + 1))[:size]))


# --- MEM-01, -02: the bound of one connection ---


def body_and_replies(wire: Wire, octet: bytes = b"x") -> None:
    """A body that no hook reads, replies that the client does not read, and one last large read."""
    wire.send(EH)
    wire.send(MAIL + RCPT + b"BDAT 60000\r\n" + fresh(b"x", 60_000))
    wire.stop_reading()
    reply = len(b"250 2.0.0 OK: 1 octets received\r\n")
    wire.send(fresh(b"BDAT 1\r\nx", 9 * (64 * KIB // reply)))
    start = b"BDAT 10000000\r\n"
    wire.send(fresh(start + fresh(octet, READ - len(start)), READ))


def line_feeds_and_replies(wire: Wire) -> None:
    """The same, with a read that waits while what it becomes is handed out."""
    body_and_replies(wire, b"\n")


def a_body(wire: Wire) -> None:
    wire.send(EH)
    wire.send(MAIL + RCPT + b"DATA\r\n")
    wire.send(fresh(b"x", 64 * KIB))
    if wire.transport.reading:
        wire.send(fresh(b"..\r\n", READ))


def a_body_in_crumbs(wire: Wire) -> None:
    """Two octets in each read: an object of Python's for each takes thirty times as much."""
    wire.send(EH)
    wire.send(MAIL + RCPT + b"DATA\r\n")
    while wire.transport.reading:
        wire.connection.data_received(fresh(b"xy", 2))


def replies_only(wire: Wire) -> None:
    wire.send(EH)
    wire.stop_reading()
    while wire.transport.reading:
        wire.send(fresh(b"HELP\r\n", READ))


def a_long_line(wire: Wire) -> None:
    wire.send(EH)
    wire.send(fresh(b"NOOP x", 2047))
    wire.send(fresh(b"x", 30_000))


def a_hook_that_waits(wire: Wire) -> None:
    wire.send(EH)
    wire.send(MAIL + RCPT + b"RCPT TO:<late@y.example>\r\n" + fresh(b"NOOP\r\n", READ - 200))


WORST = [
    body_and_replies,
    line_feeds_and_replies,
    a_body,
    a_body_in_crumbs,
    replies_only,
    a_long_line,
    a_hook_that_waits,
]


def hold_on(address: Any, session: Any, callback: Callable[..., object]) -> None:
    if address.local_part != "late":
        callback()


@row("MEM-01", "I7")
@pytest.mark.parametrize("behaves", WORST, ids=lambda each: each.__name__)
def test_the_worst_client_holds_less_than_400_kib(
    behaves: Callable[[Wire], None], loop: VirtualLoop
) -> None:
    hooks: dict[str, Any] = {"on_rcpt_to": hold_on, "on_data": lambda *given: None}
    server = SMTPServer(
        **{**DEFAULTS, **COUNTERS_OFF, **hooks}, size=10**9, bare_newline="normalize"
    )
    wires: list[Wire] = []

    def work(count: int) -> list[Wire]:
        for _ in range(count):
            wires.append(Wire(server, loop=loop))
            behaves(wires[-1])
            if behaves is not a_long_line:
                assert not wires[-1].transport.reading
        return wires

    held = growth(lambda: work(20), lambda: work(1))
    assert held < 20 * 400 * KIB
    for wire in wires:
        wire.close()
    del wire
    wires.clear()
    assert not server.connections


@row("MEM-01", "I7")
@pytest.mark.parametrize(
    "path, parameters",
    [
        (b"<" + b"a" * 60 + b"@" + b".".join([b"b" * 47] * 4) + b">", b" ORCPT=x;" + b"o" * 498),
        (b"<" + b"a" * 60 + b"@" + b".".join([b"b" * 47] * 4) + b">", b""),
        (b"<a@b>", b" NOTIFY=SUCCESS,FAILURE,DELAY"),
        (b"<a@b>", b""),
    ],
)
def test_recipients_take_less_than_the_octets_that_are_set_aside_for_them(
    path: bytes, parameters: bytes, loop: VirtualLoop
) -> None:
    server = SMTPServer(**{**DEFAULTS, **COUNTERS_OFF})
    wires: list[Wire] = []

    def work(count: int) -> list[Wire]:
        for _ in range(count):
            wires.append(Wire(server, loop=loop))
            wires[-1].send(EH)
            wires[-1].send(MAIL)
            for _ in range(1001):  # a new object for each line, as for one that was read
                wires[-1].send(b"RCPT TO:%s%s\r\n" % (path, parameters))
        return wires

    bound = RECIPIENT_OCTETS * server.options.max_recipients
    assert growth(lambda: work(5), lambda: work(1)) < 5 * (bound + 20 * KIB)
    for wire in wires:
        assert wire.connection.protocol.transaction.accepted >= 100
        wire.close()


def unread_bodies(count: int, loop: VirtualLoop) -> None:
    bodies: list[bytes] = []

    def on_data(stream: Any, session: Any, callback: Callable[..., object]) -> None:
        if session.envelope.mail_from.local_part == "honest":
            stream.consume(bodies.append, callback)

    server = SMTPServer(**DEFAULTS, max_clients=count + 1, on_data=on_data)
    wires: list[Wire] = []

    def work(clients: int) -> list[Wire]:
        for _ in range(clients):
            wires.append(Wire(server, loop=loop))
            a_body(wires[-1])
        return wires

    assert growth(lambda: work(count - 1), lambda: work(1)) < count * 400 * KIB
    with Wire(server, loop=loop) as honest:
        honest.send(EH)
        honest.send(MAIL.replace(b"a@", b"honest@") + RCPT + b"DATA\r\n")
        assert codes(honest.send(BODY + END)) == ["250 2.6.0"]
    assert b"".join(bodies) == BODY
    for wire in wires:
        wire.close()
    assert not server.connections


@row("MEM-02")
def test_bodies_that_are_not_read_are_bounded_each_by_itself(loop: VirtualLoop) -> None:
    unread_bodies(50, loop)


@row("MEM-02")
@pytest.mark.nightly
def test_five_thousand_bodies_that_are_not_read_are_bounded(loop: VirtualLoop) -> None:
    unread_bodies(5000, loop)


@row("CPU-04", "CPU-05")
def test_words_of_clients_do_not_grow_any_table(loop: VirtualLoop) -> None:
    server = SMTPServer(**DEFAULTS, **COUNTERS_OFF, allow_unknown_params=True)
    wire = Wire(server, loop=loop)
    number = 0

    def work(rounds: int) -> None:
        nonlocal number
        for _ in range(rounds):
            number += 1
            name = b"n%d" % number
            wire.send(b"EHLO " + name + b"\r\n")
            wire.send(name + b"\r\nVRFY " + name + b"\r\nXCLIENT NAME=" + name + b"\r\n")
            wire.send(b"MAIL FROM:<" + name + b"@" + name + b".example> " + name + b"=1\r\n")
            wire.send(b"RCPT TO:<b@" + name + b".example> NOTIFY=NEVER\r\n")
        wire.receive()
        wire.transport.writes.clear()
        wire._seen = 0

    assert growth(lambda: work(3000), lambda: work(100)) < 32 * KIB
    wire.close()


# --- MEM-10: threads and interpreters ---


@row("MEM-10")
def test_loops_in_threads_share_nothing() -> None:
    results: dict[int, list[str]] = {}
    begin = threading.Barrier(4)

    def client(number: int) -> None:
        loop = VirtualLoop()
        server = server_in_style(STYLES[number % 3], name=f"srv{number}.test")
        told: list[str] = []
        begin.wait()
        for _ in range(50):
            wire = Wire(server, loop=loop)
            assert wire.receive().startswith(b"220 srv%d.test " % number)
            told += codes(wire.send(EH)) + codes(wire.send(TX + b"DATA\r\n"))
            told += codes(wire.send(BODY + END)) + codes(wire.send(b"QUIT\r\n"))
            wire.close()
        loop.close()
        results[number] = told

    threads = [threading.Thread(target=client, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    expected = ["250", "250 2.1.0", "250 2.1.5", "354", "250 2.6.0", "221 2.0.0"] * 50
    assert results == dict.fromkeys(range(4), expected)


IN_A_SUB_INTERPRETER = """
try:
    import _interpreters as interpreters
except ImportError:
    import _xxsubinterpreters as interpreters
import fastsmtp
known = interpreters.create()
try:
    told = interpreters.run_string(known, "import fastsmtp; fastsmtp.SMTPServer()")
except Exception as error:
    told = error
print("told:", told)
"""


@row("MEM-10")
def test_a_sub_interpreter_works_or_says_why_not() -> None:
    done = subprocess.run(
        [sys.executable, "-c", IN_A_SUB_INTERPRETER], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    assert "told: None" in done.stdout or "ImportError" in done.stdout, done.stdout


# --- CPU-01: bodies of every shape are read to their end ---

SHAPES = {
    "plain": b"x",
    "lf": b"\n",
    "cr": b"\r",
    "dots": b".",
    "crlf": b"\r\n",
    "stuffed lines": b"\r\n.x",
    "stuffed dots": b"..\r\n",
    "dot cr": b"\r\n.\r",
    "mixed": bytes(range(256)) + b"\r\n..\r\n.",
}


@row("CPU-01", "LINE-09")
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("size", [7, 4093, 65536], ids=lambda size: f"reads of {size}")
def test_a_body_of_any_shape_is_what_the_oracle_says(
    shape: str, size: int, loop: VirtualLoop
) -> None:
    octets = fresh(SHAPES[shape], 20_000 if size == 7 else 300_000) + b"\r\n.\r\n"
    expected = reference.end_of_data(octets)
    assert expected is not None
    consumer = Consumer("consume")
    options: dict[str, Any] = {"bare_newline": "accept", "on_data": consumer.hook()}
    with Wire(loop=loop, **DEFAULTS, **options) as wire:
        wire.send(EH)
        wire.send(TX + b"DATA\r\n")
        end = len(octets) - len(expected[1])
        for at in range(0, end, size):
            wire.send(octets[at : min(at + size, end)])
        assert codes(wire.receive()) == [] or wire.session.transaction == 2
        assert consumer.body == expected[0]
        assert consumer.ends == [None]
