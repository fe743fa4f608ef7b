"""Runs of the load generator against servers of the engine, on each loop: everything that was sent
has arrived, and the figures are those of the server.
"""

from __future__ import annotations

import asyncio
import socket
from pathlib import Path
from typing import Any

import pytest
from clients import Sink
from load_kit import Run, peers, plan_of, send
from on_loops import on_loops
from tls_kit import certified

from fastsmtp import SMTPError, SMTPServer
from fastsmtp.gateway.bench.report import as_json
from fastsmtp.gateway.bench.target import BenchError, addresses
from fastsmtp.testing import running

MESSAGES = 12


@pytest.mark.parametrize("profile", ["keep", "conn", "mid", "big", "pipe"])
@on_loops
async def test_every_message_of_a_profile_arrives(profile: str) -> None:
    sink = Sink()
    async with running(sink.server(size=0)) as address:
        outcome = await send(
            address, profile=profile, messages=MESSAGES, connections=3, per_connection=None
        )
    figures = outcome.figures
    assert (figures.accepted, figures.refused, figures.failed) == (MESSAGES, 0, 0)
    assert not figures.has_failed
    assert len(sink.arrived) == MESSAGES
    assert len({each.digest for each in sink.arrived}) == MESSAGES
    assert {each.octets for each in sink.arrived} == {outcome.octets}
    assert figures.octets == MESSAGES * outcome.octets
    assert figures.connections + 1 == len(sink.closed)  # one more to look at the server
    assert figures.connections == 3 if profile != "conn" else figures.connections >= MESSAGES
    assert outcome.is_pipelining == (profile == "pipe")
    assert figures.replies["end"] == {250: MESSAGES}
    assert figures.replies["mail"] == figures.replies["rcpt"] == {250: MESSAGES}
    assert figures.replies["quit"] == {221: figures.connections}
    assert figures.message.count == figures.end.count == MESSAGES
    assert figures.connect.count == figures.connections
    assert 0 < figures.end.lowest <= figures.message.highest
    assert not figures.refusals
    assert not figures.errors


@pytest.mark.parametrize("profile", ["keep", "pipe"])
@pytest.mark.parametrize("kind", ["starttls", "implicit"])
@on_loops
async def test_messages_arrive_inside_tls(kind: str, profile: str) -> None:
    sink = Sink()
    server = sink.server(**certified(secure=kind == "implicit"))
    async with running(server) as (host, port):
        target = f"smtps://{host}:{port}" if kind == "implicit" else f"{host}:{port}"
        outcome = await send(target, starttls=kind == "starttls", profile=profile, size="300k")
    assert (outcome.figures.accepted, len(sink.arrived)) == (6, 6)
    assert outcome.figures.tls.count == 2
    assert not outcome.figures.has_failed


@pytest.mark.parametrize("profile", ["keep", "pipe"])
@on_loops
async def test_lmtp_counts_a_reply_for_each_recipient(profile: str, tmp_path: Path) -> None:
    sink = Sink()
    path = str(tmp_path / "lmtp.sock")
    async with running(sink.server(lmtp=True), path=path):
        outcome = await send(f"lmtp:{path}", recipients=3, profile=profile)
    figures = outcome.figures
    assert (figures.accepted, figures.recipients_accepted) == (6, 18)
    assert figures.replies["end"] == {250: 18}
    assert {tuple(each.recipients) for each in sink.arrived} == {
        ("b@y.example", "b+2@y.example", "b+3@y.example")
    }
    assert outcome.address == path


class Refusing:
    """Hooks that refuse: a recipient whose name has `b+`, or what `at` names."""

    def __init__(self, at: str) -> None:
        self.at = at

    def server(self) -> SMTPServer:
        hooks = {"on_mail_from": self.on_mail_from, "on_rcpt_to": self.on_rcpt_to}
        return SMTPServer(
            auth_optional=True, disable_reverse_lookup=True, on_data=self.on_data, **hooks
        )

    async def on_mail_from(self, address: Any, session: Any) -> None:
        if self.at == "mail":
            raise SMTPError("Go away", 550)

    async def on_rcpt_to(self, address: Any, session: Any) -> None:
        if self.at == "rcpt" or (self.at == "some" and "b+" in address.address):
            raise SMTPError("Later", 450)

    async def on_data(self, stream: Any, session: Any) -> None:
        await stream.read()
        if self.at == "end":
            raise SMTPError("[red]No\x1b room", 452)


REFUSED = {"mail": 550, "rcpt": 450, "end": 452}


@pytest.mark.parametrize("profile", ["keep", "pipe"])
@pytest.mark.parametrize("at", REFUSED)
@on_loops
async def test_a_refusal_is_counted_by_stage_and_code(at: str, profile: str) -> None:
    async with running(Refusing(at).server()) as address:
        outcome = await send(address, profile=profile)
    figures = outcome.figures
    assert (figures.accepted, figures.refused, figures.failed) == (0, 6, 0)
    assert figures.unexpected == 6
    assert figures.has_failed
    assert [(key, each.count) for key, each in figures.refusals.items()] == [((at, REFUSED[at]), 6)]
    assert not figures.errors
    assert figures.connections == 2


@pytest.mark.parametrize("profile", ["keep", "pipe"])
@on_loops
async def test_a_refusal_that_is_expected_is_no_failure(profile: str) -> None:
    async with running(Refusing("rcpt").server()) as address:
        outcome = await send(address, profile=profile, expect=[450])
    assert (outcome.figures.refused, outcome.figures.unexpected) == (6, 0)
    assert not outcome.figures.has_failed
    assert outcome.figures.message.count == 6


@pytest.mark.parametrize("profile", ["keep", "pipe"])
@on_loops
async def test_a_message_that_some_recipients_get_is_accepted_and_still_a_failure(
    profile: str,
) -> None:
    async with running(Refusing("some").server()) as address:
        outcome = await send(address, profile=profile, recipients=3)
    figures = outcome.figures
    assert (figures.accepted, figures.refused) == (6, 0)
    assert (figures.recipients_accepted, figures.recipients_refused) == (6, 12)
    assert figures.has_failed


@on_loops
async def test_a_server_without_pipelining_is_sent_one_command_at_a_time() -> None:
    sink = Sink()
    async with running(sink.server(hide_pipelining=True)) as address:
        outcome = await send(address, profile="pipe")
    assert len(sink.arrived) == 6
    assert not outcome.is_pipelining


@on_loops
async def test_a_limit_of_the_server_on_messages_per_connection_loses_no_message() -> None:
    """RFC 5321 §3.8: 421 may come instead of any reply, also of one that was pipelined."""

    async def talk(peer: Any) -> None:
        await peer.greets()
        for _ in range(2):
            for reply in (b"250 OK\r\n", b"250 OK\r\n", b"354 go\r\n"):
                if (await peer.hears()).startswith(b"QUIT"):
                    peer.says(b"221 bye\r\n")
                    return
                peer.says(reply)
            await peer.reads_message()
            peer.says(b"250 OK\r\n")
        if (await peer.hears()).startswith(b"QUIT"):
            peer.says(b"221 bye\r\n")
            return
        peer.says(b"421 enough\r\n")

    async with peers(talk) as address:
        outcome = await send(address, profile="pipe", messages=8, connections=1, expect=[421])
    # The 421 comes to the commands that were sent ahead, whose message is refused with it.
    assert outcome.figures.accepted + outcome.figures.refused == 8
    assert outcome.figures.failed == 0
    assert not outcome.figures.has_failed


@on_loops
async def test_messages_per_connection_are_limited() -> None:
    sink = Sink()
    async with running(sink.server()) as address:
        outcome = await send(address, per_connection=2, messages=8, connections=1, profile="pipe")
    assert len(sink.arrived) == 8
    assert outcome.figures.connections == 4


@on_loops
async def test_a_rate_is_not_exceeded() -> None:
    sink = Sink()
    async with running(sink.server()) as address:
        outcome = await send(address, rate=500, messages=20, connections=3)
    assert len(sink.arrived) == 20
    assert outcome.seconds >= 19 / 500
    assert not outcome.figures.has_failed


@on_loops
async def test_a_run_ends_after_its_duration() -> None:
    sink = Sink()
    async with running(sink.server()) as address:
        outcome = await send(address, duration=0.2, messages=None, connections=3)
        waiting = await send(address, duration=0.2, messages=None, connections=3, rate=0.5)
    assert outcome.figures.accepted > 3
    assert waiting.figures.accepted == 1
    assert len(sink.arrived) == outcome.figures.accepted + 1
    assert not outcome.figures.has_failed
    assert outcome.ended_early == ""


@on_loops
async def test_stop_lets_the_messages_under_way_end() -> None:
    arrived = asyncio.Event()
    go_on = asyncio.Event()

    async def on_data(stream: Any, session: Any) -> None:
        await stream.read()
        arrived.set()
        await go_on.wait()

    server = SMTPServer(auth_optional=True, disable_reverse_lookup=True, on_data=on_data)
    async with running(server) as address:
        run = Run(plan_of(address, messages=None, duration=60, connections=2))
        task = asyncio.ensure_future(run.perform())
        await arrived.wait()
        run.stop()
        go_on.set()
        outcome = await task
    assert outcome.ended_early == "interrupted"
    assert 1 <= outcome.figures.accepted <= 2
    assert not outcome.figures.has_failed


@on_loops
async def test_a_second_stop_ends_at_once_and_counts_what_was_under_way_as_failed() -> None:
    heard = asyncio.Event()

    async def talk(peer: Any) -> None:
        await peer.greets()
        if peer.number == 0:
            return await peer.serves()
        await peer.hears()
        heard.set()
        await asyncio.Event().wait()

    async with peers(talk) as address:
        run = Run(plan_of(address, connections=1))
        task = asyncio.ensure_future(run.perform())
        await heard.wait()
        run.stop()
        run.stop()
        outcome = await task
    assert (outcome.figures.accepted, outcome.figures.failed) == (0, 1)
    assert outcome.figures.has_failed


@on_loops
async def test_stop_before_the_first_message_cancels_the_run() -> None:
    heard = asyncio.Event()

    async def talk(peer: Any) -> None:
        heard.set()
        await asyncio.Event().wait()

    async with peers(talk) as address:
        run = Run(plan_of(address))
        task = asyncio.ensure_future(run.perform())
        await heard.wait()
        run.stop()
        with pytest.raises(asyncio.CancelledError):
            await task


@on_loops
async def test_the_second_address_of_a_name_is_used_where_the_first_has_no_server(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    sink = Sink()
    async with running(sink.server()) as (host, port):
        found = Names(monkeypatch, "127.0.0.2", host)
        outcome = await send(f"mx.example:{port}")
    assert (outcome.address, found.asked) == (f"{host}:{port}", ["mx.example"])
    assert len(sink.arrived) == 6


class Names:
    """Answers every lookup with the same addresses. asked: the names."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *addresses: str) -> None:
        self.asked: list[str] = []
        self.addresses = addresses
        self._real = socket.getaddrinfo
        monkeypatch.setattr(socket, "getaddrinfo", self._look_up)

    def _look_up(self, host: Any, port: Any, *rest: Any, **options: Any) -> Any:
        if host != "mx.example":
            return self._real(host, port, *rest, **options)
        self.asked.append(host)
        return [
            found
            for address in self.addresses
            for found in self._real(address, port, type=socket.SOCK_STREAM)
        ]


ALLOWED = (
    "127.0.0.1",
    "127.255.255.254",
    "10.1.2.3",
    "172.31.0.1",
    "192.168.0.1",
    "::1",
    "fd00::1",
)
REFUSED_ADDRESSES = (
    *("192.0.2.1", "172.32.0.1", "11.0.0.1", "0.0.0.0", "169.254.169.254", "224.0.0.1"),
    *("2001:db8::1", "fe80::1", "::", "::ffff:192.0.2.1", "64:ff9b::7f00:1"),
)


@pytest.mark.parametrize("address", REFUSED_ADDRESSES)
@on_loops
async def test_an_address_that_is_neither_loopback_nor_private_is_refused(
    address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Every address of the name is checked, not the first one only.
    Names(monkeypatch, "127.0.0.1", address)
    with pytest.raises(BenchError, match="--anywhere"):
        await send("mx.example:25")


@pytest.mark.parametrize("address", ALLOWED)
@on_loops
async def test_loopback_and_private_addresses_are_allowed(
    address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    Names(monkeypatch, address)
    (found,) = await addresses(plan_of("mx.example:25").target, anywhere=False)
    assert found.place[:2] == (address, 25)


@on_loops
async def test_a_name_that_changes_its_address_during_a_run_redirects_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    sink = Sink()
    async with running(sink.server()) as (host, port):
        found = Names(monkeypatch, host)
        run = Run(plan_of(f"mx.example:{port}", profile="conn", messages=5))
        task = asyncio.ensure_future(run.perform())
        while not found.asked:
            await asyncio.sleep(0)
        found.addresses = ("192.0.2.1",)
        await task
    assert (len(sink.arrived), found.asked) == (5, ["mx.example"])


@on_loops
async def test_a_name_without_an_address_is_one_line() -> None:
    with pytest.raises(BenchError, match="cannot look up") as caught:
        await send("no-such-name.invalid:25")
    assert "\n" not in str(caught.value)


@on_loops
async def test_no_server_is_one_line_with_the_address_and_the_reason() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
        with pytest.raises(
            BenchError, match=f"127.0.0.1:{port}: cannot connect: connection refused"
        ):
            await send(f"127.0.0.1:{port}")


@on_loops
async def test_a_server_that_refuses_clients_is_one_line_with_its_reply() -> None:
    async def talk(peer: Any) -> None:
        peer.says(b"554 5.7.1 not you\r\n")

    async with peers(talk) as address:
        with pytest.raises(BenchError, match=r"554 5\.7\.1 not you"):
            await send(address)


@on_loops
async def test_a_server_without_starttls_is_one_line() -> None:
    async with running(Sink().server(hide_starttls=True)) as address:
        with pytest.raises(BenchError, match="no STARTTLS"):
            await send(address, starttls=True)


@on_loops
async def test_the_figures_as_json_are_those_of_the_run() -> None:
    async with running(Refusing("end").server()) as address:
        outcome = await send(address, messages=4)
    figures = as_json(outcome)
    assert figures["messages"] == {"accepted": 0, "refused": 4, "failed": 0}
    assert figures["refusals"] == [
        {
            "stage": "end",
            "code": 452,
            "text": "4.3.1 [red]No? room",
            "count": 4,
            "expected": False,
        }
    ]
    assert figures["replies"]["end"] == {"452": 4}
    assert sum(each["count"] for each in figures["times"]["connect"]["histogram"]) == 2
