"""Hooks that are asynchronous context managers: entered before the first client, left after the
last one.
"""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from clients import Client, Sink, refused
from on_loops import on_loops
from scenario import DEFAULTS

from fastsmtp import SMTPServer
from fastsmtp.testing import running


class Hook:
    """An `on_data` with a beginning and an end; `said` is what has happened to all of them."""

    said: list[str]

    def __init__(self, said: list[str], name: str = "data", error: Exception | None = None) -> None:
        self.said, self.name, self.error = said, name, error

    __hash__ = None  # type: ignore[assignment]  # as a dataclass has it

    def __eq__(self, other: object) -> bool:
        return True

    async def __aenter__(self) -> Hook:
        await asyncio.sleep(0)
        self.said.append(f"enter {self.name}")
        if self.error is not None:
            raise self.error
        return self

    async def __aexit__(self, *exception: object) -> None:
        self.said.append(f"leave {self.name}")

    def __call__(self, subject: Any, session: Any, callback: Any) -> None:
        self.said.append(f"call {self.name}")
        callback()


@on_loops
async def test_a_hook_is_entered_before_the_first_client_and_left_after_the_last() -> None:
    said: list[str] = []
    server = Sink().server(on_data=Hook(said), on_close=lambda session: said.append("close"))
    async with running(server) as address, await Client.in_data(address) as client:
        assert await client.ask(b".\r\n") == "250 2.6.0"
    assert said == ["enter data", "call data", "close", "leave data"]


@on_loops
async def test_hooks_are_left_in_the_reverse_order_and_one_of_two_places_is_entered_once() -> None:
    said: list[str] = []
    both = Hook(said, "both")
    server = SMTPServer(**DEFAULTS, on_mail_from=both, on_rcpt_to=both, on_data=Hook(said, "data"))
    async with running(server):
        await server.listen(0, "127.0.0.1")
    assert said == ["enter both", "enter data", "leave data", "leave both"]


@on_loops
async def test_listening_side_by_side_enters_a_hook_once() -> None:
    said: list[str] = []
    server = SMTPServer(**DEFAULTS, on_data=Hook(said))
    await asyncio.gather(*(server.listen(0, "127.0.0.1") for _ in range(3)))
    await server.close()
    assert said == ["enter data", "leave data"]


@on_loops
async def test_an_error_of_a_hook_that_is_entered_is_raised_by_listen_and_nothing_listens() -> None:
    said: list[str] = []
    server = SMTPServer(
        **DEFAULTS,
        on_mail_from=Hook(said, "first"),
        on_data=Hook(said, "second", OSError("no such folder")),
    )
    with pytest.raises(OSError, match="no such folder"):
        await server.listen(0, "127.0.0.1")
    assert server.address() is None
    assert said == ["enter first", "enter second", "leave first"]
    await server.close()
    assert said == ["enter first", "enter second", "leave first"]


@on_loops
async def test_a_hook_is_left_although_its_server_is_cut() -> None:
    said: list[str] = []
    server = Sink().server(on_data=Hook(said), close_timeout=0)
    async with running(server) as address, await Client.in_data(address):
        await server.close()
        await refused(address)
        assert said[-1] == "leave data"
