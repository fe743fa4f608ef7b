"""What every `fastsmtp serve` does at its start: a log, an event loop, addresses to listen on.

In: a server and the addresses of the command line. Out: where it listens. Raised: `StartError`.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
from collections.abc import Coroutine, Iterable, Iterator
from typing import Any, TypeVar

from fastsmtp.delivery.errors import reason_of
from fastsmtp.gateway.config import Config, Kind, Listener
from fastsmtp.gateway.log import LogWriter, logger
from fastsmtp.running import loop_factory, was_raised_at_start
from fastsmtp.server import SMTPServer

__all__ = ["StartError", "listen", "logging_to", "run_on_loop", "writer_of"]

T = TypeVar("T")


class StartError(Exception):
    """The service cannot start; the text is one line for the user."""


def writer_of(config: Config, number: int) -> LogWriter:
    """Return the log of a process. number: of a worker, 0 without a parent. Raises StartError."""
    try:
        return LogWriter(number, config.log_format, config.log_file)
    except OSError as error:
        reason = reason_of(error)
        raise StartError(f"--log-file: cannot open {config.log_file}: {reason}") from error


@contextlib.contextmanager
def logging_to(writer: LogWriter, *, verbose: bool) -> Iterator[LogWriter]:
    """Send records to `writer`: ours, warnings of the engine (verbose: all) and of asyncio."""
    package = logging.getLogger("fastsmtp")
    # Otherwise the loop itself would write asyncio's reports to stderr.
    sources = (package, logging.getLogger("asyncio"))
    for source in sources:
        source.addHandler(writer)
    package.setLevel(logging.DEBUG if verbose else logging.WARNING)
    for ours in (logger, logging.getLogger("fastsmtp.delivery")):
        ours.setLevel(logging.DEBUG if verbose else logging.INFO)
    logging.getLogger("fastsmtp.trace").setLevel(logging.INFO)
    # What it logs is in the outcomes of transactions.
    logging.getLogger("fastsmtp.rcpt").setLevel(logging.WARNING)
    try:
        yield writer
    finally:
        for source in sources:
            source.removeHandler(writer)
        writer.finish()


def run_on_loop(main: Coroutine[Any, Any, T], writer: LogWriter) -> T:
    """Return the result of `main`, run on uvloop, or without uvloop on asyncio's own loop."""
    factory = loop_factory()
    if factory is None:
        writer.say("uvloop is not installed: serving on the slower event loop of asyncio")
    with asyncio.Runner(loop_factory=factory) as runner:
        return runner.run(main)


async def listen(
    server: SMTPServer, listener: Listener, sockets: Iterable[socket.socket]
) -> list[Listener]:
    """Listen on the sockets of `listener`; return their addresses: a host may have several, and
    port 0 is any free one.
    """
    before = len(server.addresses())
    secure = True if listener.kind is Kind.SMTPS else None
    try:
        for sock in sockets:
            await server.listen(sock=sock, secure=secure)
    except (OSError, ValueError) as error:
        if was_raised_at_start(error):  # by the program that is served
            raise
        reason = reason_of(error) if isinstance(error, OSError) else str(error)
        raise StartError(f"cannot listen on {listener}: {reason}") from error
    return [
        listener
        if isinstance(address, str)
        else Listener(host=address[0], port=address[1], kind=listener.kind)
        for address in server.addresses()[before:]
    ]
