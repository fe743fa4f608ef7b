"""`close()`: what each connection gets, by what it is at, over real sockets."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from clients import CLOSING, PATIENCE, Client, Sink, closing, digest, happened, refused, until
from scenario import TX

from fastsmtp import SMTPError
from fastsmtp._connection import output
from fastsmtp.testing import running

NEVER = 10_000.0


# --- waits for a command --------------------------------------------------------------------------

WAITING = {
    "after the greeting": (b"", 0),
    "greeted": (b"EHLO c.example\r\n", 1),
    "in half a command": (b"EHLO c.ex", 0),
    "after half a line end": (b"EHLO c.example\r", 0),
    "after MAIL": (b"HELO c\r\nMAIL FROM:<a@x.example>\r\n", 2),
    "after RCPT": (b"HELO c\r\n" + TX, 3),
    "after a refused message": (b"HELO c\r\n" + TX + b"DATA\r\n.\r\n", 5),
    "after a failed chunk": (b"EHLO c\r\n", 1),
}


@pytest.mark.row("OPS-02", "OPS-03")
@pytest.mark.parametrize("state", WAITING)
def test_a_client_that_may_send_a_command_gets_421_at_once(run: Any, state: str) -> None:
    async def scenario() -> None:
        octets, count = WAITING[state]
        server = Sink().server(strict_pipelining=False, size=100)
        async with running(server) as address, await Client.connect(address) as client:
            assert await client.reply() == "220"
            client.send(octets)
            await client.replies(count)
            if state == "after a failed chunk":
                client.send(TX + b"BDAT 101\r\n" + b"x" * 101)
                assert (await client.replies(3))[-1] == "552 5.3.4"
            async with closing(server, address):
                assert await client.rest() == [CLOSING]
                await client.close()

    run(scenario())


def test_commands_after_the_421_are_not_executed(run: Any) -> None:
    async def scenario() -> None:
        sink = Sink()
        server = sink.server()
        async with running(server) as address, await Client.greeted(address) as client:
            client.send(TX)
            await client.replies(2)
            async with closing(server, address):
                client.send(b"BDAT 1 LAST\r\nx")
                assert await client.rest() == [CLOSING]
                await client.close()
            assert sink.arrived == []

    run(scenario())


@pytest.mark.row("OPS-02")
@pytest.mark.parametrize("others", [0, 3])
def test_close_does_not_wait_for_clients_that_have_their_421_and_stay(
    run: Any, others: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They would have until `LINGER`; here that is beyond any patience."""
    monkeypatch.setattr(output, "LINGER", NEVER)

    async def scenario() -> None:
        sink = Sink()
        server = sink.server(close_timeout=NEVER)
        async with running(server) as address:
            idle = [await Client.greeted(address) for _ in range(2)]
            busy = [await Client.greeted(address) for _ in range(others)]
            for client in busy:
                client.send(TX + b"DATA\r\n")
                await client.replies(3)
            task = asyncio.ensure_future(server.close())
            for client in idle:
                assert await client.rest() == [CLOSING]
            for client in busy:
                assert not task.done()
                client.send(b"text\r\n.\r\n")
                assert await client.rest() == ["250 2.6.0", CLOSING]
            async with asyncio.timeout(PATIENCE):
                await task
            for client in [*idle, *busy]:
                await client.close()
        assert len(sink.arrived) == others

    run(scenario())


# --- before the greeting --------------------------------------------------------------------------


@pytest.mark.row("OPS-02")
@pytest.mark.parametrize("stage", ["delay", "lookup", "callback hook", "coroutine hook"])
def test_a_client_that_was_not_greeted_gets_421_without_enhanced_code(run: Any, stage: str) -> None:
    async def scenario() -> None:
        reached: list[str] = []
        sink = Sink()

        async def resolver(address: str) -> list[str]:
            reached.append("lookup")
            await asyncio.sleep(NEVER)
            return []

        def held(session: Any, callback: Callable[..., object]) -> None:
            reached.append("hook")

        async def coroutine(session: Any) -> None:
            reached.append("hook")
            try:
                await asyncio.sleep(NEVER)
            finally:
                reached.append("cancelled")

        options: dict[str, dict[str, Any]] = {
            "delay": {"greet_delay": NEVER},
            "lookup": {"disable_reverse_lookup": False, "resolver": resolver},
            "callback hook": {"on_connect": held},
            "coroutine hook": {"on_connect": coroutine},
        }
        server = sink.server(**options[stage])
        async with running(server) as address, await Client.connect(address) as client:
            await until(lambda: reached or (stage == "delay" and server.connections))
            closed = asyncio.ensure_future(server.close())
            assert await client.rest() == ["421"]
            await client.close()
            await closed
        assert reached[1:] == (["cancelled"] if stage == "coroutine hook" else [])
        assert len(sink.closed) == (1 if "hook" in stage else 0)

    run(scenario())


# --- a hook at work -------------------------------------------------------------------------------


@pytest.mark.row("OPS-02")
@pytest.mark.parametrize("style", ["callback", "coroutine"])
@pytest.mark.parametrize("command", ["MAIL", "RCPT"])
@pytest.mark.parametrize("error", [None, SMTPError("no", response_code=450)])
def test_a_hook_of_a_command_answers_and_then_comes_421(
    run: Any, style: str, command: str, error: SMTPError | None
) -> None:
    async def scenario() -> None:
        at_work, may_end = asyncio.Event(), asyncio.Event()
        callbacks: list[Callable[..., object]] = []

        def plain(address: Any, session: Any, callback: Callable[..., object]) -> None:
            callbacks.append(callback)
            at_work.set()

        async def coroutine(address: Any, session: Any) -> None:
            at_work.set()
            await may_end.wait()
            if error is not None:
                raise error

        name = {"MAIL": "on_mail_from", "RCPT": "on_rcpt_to"}[command]
        server = Sink().server(**{name: plain if style == "callback" else coroutine})
        async with running(server) as address, await Client.greeted(address) as client:
            client.send(TX + b"NOOP\r\n")
            await happened(at_work)
            async with closing(server, address) as closed:
                assert not closed.done()
                may_end.set()
                for callback in callbacks:
                    callback(error)
                accepted = {"MAIL": ["250 2.1.0"], "RCPT": ["250 2.1.0", "250 2.1.5"]}[command]
                refusal = {"MAIL": "450 4.7.1", "RCPT": "450 4.2.1"}[command]
                expected = accepted if error is None else [*accepted[:-1], refusal]
                assert await client.rest() == [*expected, CLOSING]
                await client.close()

    run(scenario())


# --- a message under way --------------------------------------------------------------------------


@pytest.mark.row("OPS-02", "OPS-03")
@pytest.mark.parametrize("sent", [b"", b"first\r\n", b"first\r\n.", b"first\r\n.\r"])
@pytest.mark.parametrize("error", [None, SMTPError("no", response_code=554)])
def test_a_body_is_taken_to_its_end_and_has_its_real_reply(
    run: Any, sent: bytes, error: SMTPError | None
) -> None:
    async def scenario() -> None:
        bodies: list[bytes] = []

        async def on_data(stream: Any, session: Any) -> None:
            bodies.append(b"".join([piece async for piece in stream]))
            if error is not None:
                raise error

        server = Sink().server(on_data=on_data)
        async with running(server) as address, await Client.in_data(address) as client:
            client.send(sent)
            async with closing(server, address) as closed:
                await refused(address)
                client.send(b"first\r\n.\r\n"[len(sent) :] + b"MAIL FROM:<c@x.example>\r\n")
                final = "250 2.6.0" if error is None else "554 5.6.0"
                assert not closed.done()
                assert await client.rest() == [final, CLOSING]
                await client.close()
        assert bodies == [b"first\r\n"]

    run(scenario())


@pytest.mark.row("OPS-02", "OPS-03")
@pytest.mark.parametrize("sent", [b"BDAT 3\r\nab", b"BDAT 3\r\nabc", b"BDAT 3\r\nabcBDAT 4 L"])
def test_chunks_go_on_to_the_last_one(run: Any, sent: bytes) -> None:
    async def scenario() -> None:
        sink = Sink()
        server = sink.server()
        async with running(server) as address, await Client.greeted(address) as client:
            client.send(TX + sent)
            assert await client.replies(2) == ["250 2.1.0", "250 2.1.5"]
            async with closing(server, address) as closed:
                assert not closed.done()
                client.send(b"BDAT 3\r\nabcBDAT 4 LAST\r\ndef\n"[len(sent) :] + b"NOOP\r\n")
                assert await client.rest() == ["250 2.0.0", "550 5.5.2", CLOSING]
                await client.close()

    run(scenario())


@pytest.mark.row("OPS-03")
def test_the_octets_of_a_refused_chunk_come_before_the_421(run: Any) -> None:
    async def scenario() -> None:
        server = Sink().server()
        async with running(server) as address, await Client.greeted(address) as client:
            assert await client.ask(b"NOOP\r\n") == "250 2.0.0"
            client.send(b"BDAT 9 LAST\r\nabc")
            await client.writer.drain()
            async with closing(server, address):
                client.send(b"QUIT\r\n" + b"NOOP\r\n")  # the first six are the rest of the chunk
                assert await client.rest() == ["503 5.5.1", CLOSING]
                await client.close()

    run(scenario())


def test_other_commands_between_chunks_are_still_answered(run: Any) -> None:
    async def scenario() -> None:
        sink = Sink()
        server = sink.server()
        async with running(server) as address, await Client.greeted(address) as client:
            client.send(TX + b"BDAT 3\r\nabc")
            assert (await client.replies(3))[-1] == "250 2.0.0"
            async with closing(server, address):
                assert await client.ask(b"NOOP\r\n") == "250 2.0.0"
                assert await client.ask(b"MAIL FROM:<a@x.example>\r\n") == "503 5.5.1"
                assert await client.ask(b"BDAT 3\r\ndef") == "250 2.0.0"
                client.send(b"BDAT 0 LAST\r\n")
                assert await client.rest() == ["250 2.6.0", CLOSING]
                await client.close()
        assert [told.digest for told in sink.arrived] == [digest(b"abcdef")]

    run(scenario())


def test_a_reset_between_chunks_is_answered_and_then_comes_421(run: Any) -> None:
    async def scenario() -> None:
        server = Sink().server()
        async with running(server) as address, await Client.greeted(address) as client:
            client.send(TX + b"BDAT 3\r\nabc")
            assert (await client.replies(3))[-1] == "250 2.0.0"
            async with closing(server, address):
                client.send(b"RSET\r\n")
                assert await client.rest() == ["250 2.0.0", CLOSING]
                await client.close()

    run(scenario())


@pytest.mark.row("OPS-02")
@pytest.mark.parametrize("lmtp", [False, True])
@pytest.mark.parametrize("style", ["callback", "coroutine"])
def test_a_complete_message_waits_for_its_hook(run: Any, style: str, lmtp: bool) -> None:
    async def scenario() -> None:
        at_end, may_end = asyncio.Event(), asyncio.Event()
        callbacks: list[Callable[..., object]] = []
        answer = ["one", SMTPError("full", response_code=452)] if lmtp else "one"

        def plain(stream: Any, session: Any, callback: Callable[..., object]) -> None:
            callbacks.append(callback)
            stream.consume(lambda piece: None, lambda error: at_end.set())

        async def coroutine(stream: Any, session: Any) -> Any:
            async for _ in stream:
                pass
            at_end.set()
            await may_end.wait()
            return answer

        hook = plain if style == "callback" else coroutine
        server = Sink().server(lmtp=lmtp, on_data=hook)
        verb = b"LHLO" if lmtp else b"EHLO"
        async with running(server) as address, await Client.greeted(address, verb) as client:
            more = b"RCPT TO:<c@y.example>\r\n" if lmtp else b""
            client.send(TX + more + b"BDAT 1 LAST\r\nxNOOP\r\n")
            await client.replies(3 if lmtp else 2)
            await happened(at_end)
            async with closing(server, address, verb) as closed:
                assert not closed.done()
                may_end.set()
                for callback in callbacks:
                    callback(None, answer)
                final = ["250 2.6.0", "452 4.2.2"] if lmtp else ["250 2.6.0"]
                assert await client.rest() == [*final, CLOSING]
                await client.close()

    run(scenario())


def test_listening_ends_before_the_messages_under_way_do(run: Any, tmp_path: Path) -> None:
    async def scenario() -> None:
        path = str(tmp_path / "smtp")
        server = Sink().server(lmtp=True)
        await server.listen(path=path)
        client = await Client.in_data(path, b"LHLO")
        async with client, closing(server, path, b"LHLO"):
            assert server.address() is None
            assert not os.path.exists(path)
            client.send(b".\r\n")
            assert await client.rest() == ["250 2.6.0", CLOSING]
            await client.close()

    run(scenario())
