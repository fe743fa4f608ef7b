"""Handshakes share the turns of the loop, and failures share the lines of the log."""

from __future__ import annotations

import logging
import ssl
from collections.abc import Callable
from contextvars import ContextVar, copy_context
from typing import Any

import pytest
from scenario import EH, codes
from tls_kit import MemoryClient, MemoryTLS, certified

from fastsmtp import SMTPServer
from fastsmtp._counts.tally import Tally
from fastsmtp._failures import Place
from fastsmtp._tls.handshake_queue import LOG_EVERY, TURN, Handshakes
from fastsmtp.server import state_of
from fastsmtp.testing import VirtualLoop, Wire

row = pytest.mark.row


class Loop:
    """As much of a loop as turns take."""

    def __init__(self) -> None:
        self.due: list[tuple[Callable[..., object], Any]] = []

    def call_soon(self, callback: Callable[..., object], argument: Any) -> None:
        self.due.append((callback, argument))

    def turn(self) -> None:
        due, self.due = self.due, []
        for callback, argument in due:
            callback(argument)


class Steps:
    """Connections whose steps take `seconds` each."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self.time = 0.0
        self.done = 0
        self.context: Any = None
        self.loop: Any = Loop()
        self.handshakes = Handshakes(Tally(), lambda: self.time)

    def handshake_step(self) -> None:
        self.time += self.seconds
        self.done += 1

    def request(self) -> bool:
        return self.handshakes.request(self, self.loop)


@row("TLS-24")
@pytest.mark.parametrize(("seconds", "in_a_turn"), [(TURN * 10, 1), (TURN / 3.5, 4)])
def test_a_turn_of_the_loop_takes_a_limited_number_of_steps(seconds: float, in_a_turn: int) -> None:
    steps = Steps(seconds)
    at_once = [steps.request() for _ in range(20)]
    assert at_once == [True] * in_a_turn + [False] * (20 - in_a_turn)
    for turns in range(1, 30):
        steps.loop.turn()
        assert steps.done == min(20, in_a_turn * (turns + 1))
    assert steps.loop.due == []  # at rest nothing keeps the loop awake
    assert steps.request()


@row("TLS-24")
def test_a_handshake_that_has_waited_runs_in_its_own_context() -> None:
    mark: ContextVar[str] = ContextVar("mark", default="")
    seen = []

    class Marked(Steps):
        def handshake_step(self) -> None:
            super().handshake_step()
            seen.append(mark.get())

    steps = Marked(TURN * 10)
    steps.context = copy_context()
    steps.context.run(mark.set, "its own")
    assert steps.context.run(steps.request)
    copy_context().run(steps.request)
    steps.loop.turn()
    assert seen == ["its own", "its own"]


@row("TLS-24")
def test_a_late_handshake_does_not_overtake_those_that_wait() -> None:
    steps = Steps(TURN * 10)
    assert steps.request()
    assert not steps.request()
    steps.loop.turn()
    assert steps.done == 2
    assert not steps.request()
    steps.loop.turn()
    assert steps.done == 3


@row("TLS-24")
@pytest.mark.parametrize("kind", ["implicit", "STARTTLS"])
def test_a_connection_that_waits_is_not_read_and_expires(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    loop = VirtualLoop()
    server = SMTPServer(**certified(secure=kind == "implicit"))
    with Wire(server, loop=loop) as wire:
        client = MemoryClient(wire)
        if kind == "STARTTLS":
            assert client.greet() == "220 2.0.0"
        monkeypatch.setattr(state_of(server).handshakes, "request", lambda connection, loop: False)
        assert wire.send(MemoryTLS().shake()) == b""
        assert not wire.transport.reading
        assert len(server.connections) == 1
        assert wire.advance(15.1) == b""
        assert wire.transport.closed
    assert not server.connections
    loop.run_until_complete(loop.shutdown_asyncgens())
    loop.close()


def test_a_connection_whose_turn_comes_is_read_again() -> None:
    server = SMTPServer(**certified())
    with Wire(server) as wire:
        client = MemoryClient(wire)
        assert client.greet() == "220 2.0.0"
        state_of(server).handshakes._turning = True  # the budget of this turn is used up
        state_of(server).handshakes._spent = TURN
        tls = MemoryTLS()
        assert wire.send(tls.shake()) == b""
        assert not wire.transport.reading
        wire.loop.step(lambda: state_of(server).handshakes._next_turn(wire.loop))
        flight = tls.shake(wire.receive())
        assert wire.transport.reading
        answer = wire.send(flight + tls.encrypt(EH))
        assert codes(tls.decrypt(answer)) == ["250"]


@row("TLS-14")
@pytest.mark.parametrize("listens", [False, True])
def test_a_listener_gets_each_failure_and_all_are_still_counted_and_logged(
    listens: bool, caplog: pytest.LogCaptureFixture
) -> None:
    loop = VirtualLoop()
    server = SMTPServer(**certified(secure=True))
    heard: list[Any] = []
    names: list[str] = []
    if listens:
        server.on("error", heard.append)
    with caplog.at_level(logging.INFO, "fastsmtp"):
        for _ in range(3):
            with Wire(server, loop=loop) as wire:
                wire.send(EH)  # no TLS
                assert wire.closed
                names.append(wire.session.id)
    assert state_of(server).handshakes.failures == 3
    assert [error.stage for error in heard] == ["tls"] * 3 * listens
    assert [error.session_id for error in heard] == names * listens
    (line,) = caplog.messages
    assert line == f"{names[0]}: 192.0.2.1: TLS failed: the client does not speak TLS"
    assert [str(error) for error in heard] == ["the client does not speak TLS"] * 3 * listens
    loop.close()


@row("TLS-14")
def test_failures_are_counted_and_few_of_them_logged(caplog: pytest.LogCaptureFixture) -> None:
    time = 100.0
    handshakes = Handshakes(Tally(), lambda: time)
    first_client = Place("id1", "tls", "192.0.2.1", "192.0.2.1 via 10.0.0.7")
    second_client = Place("id2", "tls", "192.0.2.2", "192.0.2.2")
    with caplog.at_level(logging.INFO, "fastsmtp"):
        for _ in range(50):
            handshakes.failed(ValueError("bad\r\nthing"), first_client)
        time += LOG_EVERY
        handshakes.failed(ssl.SSLError("another"), second_client)  # its str() is that of a tuple
    assert handshakes.failures == 51
    first, second = caplog.messages
    assert first == "id1: 192.0.2.1 via 10.0.0.7: TLS failed: bad\\x0d\\x0athing"
    assert second == "id2: 192.0.2.2: TLS failed: another (49 more since the last such line)"
