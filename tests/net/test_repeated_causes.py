"""What happens many times a second has one line, and then a count: nothing is lost, and no flood of
clients or failures becomes a flood of lines.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest
from hook_kit import MAIL
from scenario import DEFAULTS, EH

from fastsmtp import SMTPError, SMTPServer
from fastsmtp import repeats as module
from fastsmtp.repeats import INTERVAL, Repeats
from fastsmtp.testing import VirtualLoop, Wire
from fastsmtp.transactions import Outcome

pytestmark = pytest.mark.usefixtures("no_leaks")


# --- by themselves ---


@pytest.fixture
def clock() -> Iterator[VirtualLoop]:
    found = VirtualLoop()
    yield found
    found.close()


class Told:
    """What is told of causes that happen on a loop."""

    def __init__(self, loop: VirtualLoop) -> None:
        self.loop, self.repeats, self.lines = loop, Repeats(), list[str]()

    def happen(self, cause: str, times: int = 1) -> None:
        def all_of_them() -> None:
            for _ in range(times):
                if not self.repeats.is_told(cause):
                    self.lines.append(cause)
                    self.repeats.add(cause, lambda more: self.lines.append(f"{cause} +{more}"))

        self.loop.step(all_of_them)


def test_the_first_is_told_at_once_and_the_others_as_a_number(clock: VirtualLoop) -> None:
    told = Told(clock)
    told.happen("a", 1000)
    told.happen("b")
    assert told.lines == ["a", "b"]
    clock.advance(INTERVAL)
    assert told.lines == ["a", "b", "a +999"]
    clock.advance(10 * INTERVAL)
    assert len(told.lines) == 3


def test_a_cause_that_goes_on_has_one_line_in_each_interval(clock: VirtualLoop) -> None:
    told = Told(clock)
    for _ in range(31):
        told.happen("a", 10)
        clock.advance(1)
    told.repeats.end()
    assert told.lines == ["a", "a +99", "a +100", "a +100", "a +10"]


def test_a_cause_that_comes_back_is_told_again(clock: VirtualLoop) -> None:
    told = Told(clock)
    told.happen("a")
    clock.advance(INTERVAL)
    told.happen("a")
    assert told.lines == ["a", "a"]


def test_what_is_not_told_at_the_end_is_told_then(clock: VirtualLoop) -> None:
    told = Told(clock)
    told.happen("a", 3)
    told.repeats.end()
    assert told.lines == ["a", "a +2"]
    clock.advance(INTERVAL)
    assert told.lines == ["a", "a +2"]


def test_causes_beyond_the_limit_are_counted_together(
    clock: VirtualLoop, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MAX_CAUSES", 3)
    told = Told(clock)
    for number in range(50):
        told.happen(f"c{number}", 2)
    assert told.lines == ["c0", "c1", "c2", "c3"]
    clock.advance(INTERVAL)
    assert sorted(told.lines[4:]) == ["c0 +1", "c1 +1", "c2 +1", "c3 +93"]
    clock.advance(INTERVAL)
    told.happen("new")
    assert told.lines[-1] == "new"


def test_without_a_loop_each_is_told() -> None:
    repeats = Repeats()
    repeats.add("a", lambda more: None)
    assert not repeats.is_told("a")


# --- failures of hooks and listeners ---


def test_a_hook_that_fails_again_and_again_has_one_traceback_and_a_count(log: list[str]) -> None:
    def on_mail_from(address: Any, session: Any, callback: Any) -> None:
        if address.local_part == "b":
            raise LookupError("another place")
        raise LookupError(address.local_part)

    with Wire(SMTPServer(**DEFAULTS, on_mail_from=on_mail_from)) as wire:
        wire.send(EH, MAIL * 500, b"MAIL FROM:<b@x.example>\r\n")
        start = f"{wire.session.id}: 192.0.2.1: on_mail_from failed: LookupError: "
        assert [line.removeprefix(start)[:7] for line in log if " failed: " in line] == [
            *("a; to r", "another"),
        ]
        wire.advance(INTERVAL)
        assert "on_mail_from failed: LookupError: a: 499 more times in 10 seconds" in log
        assert wire.server.stats()["hooks"]["failures"]["on_mail_from"] == 501


def test_the_event_error_has_every_failure() -> None:
    def on_mail_from(address: Any, session: Any, callback: Any) -> None:
        raise LookupError

    errors: list[BaseException] = []
    server = SMTPServer(**DEFAULTS, on_mail_from=on_mail_from).on("error", errors.append)
    with Wire(server) as wire:
        wire.send(EH, MAIL * 50)
    assert len(errors) == 50


def test_a_listener_and_on_close_that_fail_are_summed_up(log: list[str]) -> None:
    def fail(*arguments: Any) -> None:
        raise LookupError("ours")

    loop = VirtualLoop()
    server = SMTPServer(**DEFAULTS, on_close=fail).on("transaction", fail)
    for _ in range(5):
        with Wire(server, loop=loop) as wire:
            wire.send(EH, b"RCPT TO:<b@y.example>\r\n")
    loop.advance(INTERVAL)
    loop.close()
    failed = [line for line in log if " failed: " in line]
    assert sorted(line.partition(": 192.0.2.1: ")[2] or line for line in failed) == [
        "a listener of 'transaction' failed: LookupError: ours",
        "a listener of 'transaction' failed: LookupError: ours: 4 more times in 10 seconds",
        "on_close failed: LookupError: ours",
        "on_close failed: LookupError: ours: 4 more times in 10 seconds",
    ]
    assert server.stats()["hooks"]["failures"]["on_close"] == 5


def test_what_is_not_told_is_told_when_the_server_closes(run: Any, log: list[str]) -> None:
    def on_mail_from(address: Any, session: Any, callback: Any) -> None:
        raise LookupError("ours")

    async def scenario() -> None:
        server = SMTPServer(**DEFAULTS, on_mail_from=on_mail_from)
        async with server:
            await server.listen(0, "127.0.0.1")
            reader, writer = await asyncio.open_connection(*server.addresses()[0])
            await reader.readline()
            writer.write(EH)
            await reader.readuntil(b"250 ")
            writer.write(MAIL * 3 + b"QUIT\r\n")
            await reader.read()
            writer.close()

    run(scenario())
    assert "on_mail_from failed: LookupError: ours: 2 more times in 10 seconds" in log


# --- clients that are refused before their dialogue ---


def refused_at_once(server: SMTPServer, peers: list[str]) -> list[Outcome]:
    found: list[Outcome] = []
    server.on("transaction", found.append)
    loop = VirtualLoop()
    with Wire(server, loop=loop, peer=("192.0.2.1", 1)):
        for peer in peers:
            with Wire(server, loop=loop, peer=(peer, 1)) as wire:
                assert wire.receive().startswith(b"421 ")
        loop.advance(INTERVAL)
    loop.close()
    return found


@pytest.mark.parametrize("limit", ["max_clients", "max_clients_per_host"])
def test_a_client_that_is_refused_at_once_has_a_line_with_the_reason(limit: str) -> None:
    (outcome,) = refused_at_once(SMTPServer(**{**DEFAULTS, limit: 1}), ["192.0.2.1"])
    assert (outcome.result, outcome.stage, outcome.hook) == ("refused", "connect", "")
    assert (outcome.address, outcome.reply[:4]) == ("192.0.2.1", "421 ")
    line = str(outcome)
    assert line.startswith("refused id=")
    assert " client=[192.0.2.1] " in line
    assert f" reason={limit} " in line


def test_a_flood_of_refused_clients_has_a_line_for_each_host_and_a_count() -> None:
    server = SMTPServer(**DEFAULTS, max_clients=1)
    found = refused_at_once(server, ["192.0.2.1", "192.0.2.9"] * 50)
    assert [(each.address, each.notes.get("more")) for each in found] == [
        *(("192.0.2.1", None), ("192.0.2.9", None)),
        *(("192.0.2.1", "49"), ("192.0.2.9", "49")),
    ]
    assert server.stats()["connections"]["refused"]["max_clients"] == 100


def test_a_client_that_comes_while_the_server_closes_has_a_line() -> None:
    found: list[Outcome] = []
    server = SMTPServer(**DEFAULTS).on("transaction", found.append)
    with Wire(server) as wire:
        wire._state.registry.closing = True
        with Wire(server, loop=wire.loop) as late:
            assert late.receive().startswith(b"421 ")
    assert [(each.stage, each.notes) for each in found] == [("connect", {"reason": "closing"})]


def test_a_client_that_talks_too_early_and_one_that_a_hook_refuses_have_a_line() -> None:
    def on_connect(session: Any, callback: Any) -> None:
        callback(SMTPError("on our list", 554))

    found: list[Outcome] = []
    server = SMTPServer(**DEFAULTS, greet_delay=5, on_connect=on_connect)
    server.on("transaction", found.append)
    with Wire(server) as early:
        early.send(EH)
    with Wire(server) as blocked:
        blocked.advance(5)
    assert [(each.stage, each.hook, each.reply[:3]) for each in found] == [
        *(("connect", "", "421"), ("connect", "on_connect", "554")),
    ]
    assert all(each.address == "192.0.2.1" for each in found)
