"""Postfix's sink, SMTP and LMTP, as the server of `fastsmtp bench`, on each loop."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from clients import PATIENCE, program
from free_ports import free_port
from load_kit import send
from on_loops import on_loops
from serving import environment_of_others

from fastsmtp.gateway.bench.target import BenchError

SMTP_SINK, REASON = program("smtp-sink", "postfix")

pytestmark = [pytest.mark.interop, pytest.mark.skipif(not SMTP_SINK, reason=REASON)]


@asynccontextmanager
async def sink(*options: str) -> AsyncIterator[str]:
    """A sink on a free port; yields its address."""
    place = f"127.0.0.1:{free_port()}"
    # As root it wants another user; started by another one, it keeps that.
    user = ["-u", "nobody"] if os.getuid() == 0 else []
    process = await asyncio.create_subprocess_exec(
        *(SMTP_SINK, *user, *options, place, "100"), env=environment_of_others()
    )
    try:
        await listens(place)
        yield place
    finally:
        process.kill()
        await process.wait()


async def listens(place: str) -> None:
    host, _, port = place.partition(":")
    async with asyncio.timeout(PATIENCE):
        while True:
            try:
                _, writer = await asyncio.open_connection(host, int(port))
            except ConnectionRefusedError:
                await asyncio.sleep(0)
            else:
                writer.close()
                return await writer.wait_closed()


@pytest.mark.parametrize("profile", ["keep", "conn", "big", "pipe"])
@on_loops
async def test_postfix_accepts_every_message(profile: str) -> None:
    async with sink() as place:
        outcome = await send(place, profile=profile, messages=20, recipients=2)
    assert outcome.figures.accepted == 20
    assert not outcome.figures.has_failed
    assert outcome.is_pipelining == (profile == "pipe")


@pytest.mark.parametrize("profile", ["keep", "pipe"])
@on_loops
async def test_postfix_accepts_every_message_by_lmtp(profile: str) -> None:
    async with sink("-L") as place:
        outcome = await send(f"lmtp:{place}", profile=profile, messages=20, recipients=2)
    assert (outcome.figures.accepted, outcome.figures.recipients_accepted) == (20, 40)
    assert not outcome.figures.has_failed


@pytest.mark.parametrize("verb", ["connect", "mail", "rcpt", "data", "."])
@pytest.mark.parametrize("how", ["-q", "-r", "-f", "-Q"])
@on_loops
async def test_whatever_postfix_refuses_is_counted(how: str, verb: str) -> None:
    """-q: closes; -r: refuses for now; -f: refuses; -Q: refuses with 421, and closes."""
    if verb == "connect":
        return await refused_at_once(how)
    async with sink(how, verb) as place:
        outcome = await send(place, messages=4)
    figures = outcome.figures
    assert figures.accepted == 0
    assert (figures.failed, figures.refused) == ((4, 0) if how == "-q" else (0, 4))
    assert figures.has_failed


async def refused_at_once(how: str) -> None:
    async with sink(how, "connect") as place:
        with pytest.raises(BenchError):
            await send(place, messages=4)
