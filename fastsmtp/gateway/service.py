"""Runs the gateway: reads keys and users, opens the destination, listens, reports that, and ends on
SIGTERM or SIGINT.

The first signal stops listening and lets messages in flight get their real reply; a second one
ends the process at once. Nothing acknowledged is lost by either: a 250 is sent only when the
message is on disk. SIGHUP reloads keys and users; if they are invalid, nothing changes.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import signal
from functools import partial
from typing import Final

from fastsmtp.gateway.certificates import (
    NO_LIBRARY,
    Certificate,
    CertificateError,
    read_certificate,
)
from fastsmtp.gateway.config import Config, Kind, Loaded
from fastsmtp.gateway.destination import Destination, DestinationError
from fastsmtp.gateway.log import LogWriter, logger
from fastsmtp.gateway.logins import Checker, Logins, MissingPackage
from fastsmtp.gateway.refreshing import Refresher, users_of
from fastsmtp.gateway.servers import FOR_USERS, Servers
from fastsmtp.gateway.start import StartError, listen, logging_to, run_on_loop
from fastsmtp.gateway.users import UsersError
from fastsmtp.gateway.workers.inherited import inherited
from fastsmtp.gateway.workers.sockets import inherited_for
from fastsmtp.gateway.workers.worker import Worker
from fastsmtp.running import begin_unless_stopped

__all__ = ["run_service"]

EXIT_CLEAN: Final = 0
EXIT_AT_ONCE: Final = 1

# Seconds for disk calls to end after the last client. With `close_timeout` it is less than the 40
# seconds after which systemd would kill the process (docs/serve.md).
DISK_PATIENCE: Final = 5.0


def run_service(loaded: Loaded, worker: Worker | None = None) -> int:
    """Serve until a signal ends it; return the exit status. Raises StartError at the start.

    worker: what this process is, if it has a parent, which then gives it sockets and orders.
    """
    # At a limit on file sizes, write() fails with EFBIG instead of killing the process.
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    number = 0 if worker is None else worker.number
    config = loaded.config
    with logging_to(LogWriter(number), verbose=config.verbose) as writer:
        certificate = _certificate_of(config)
        logins = _logins_of(config)
        destination = Destination(config, writer.add)
        service = _Service(loaded, destination, writer, certificate, logins, worker)
        return run_on_loop(service.run(), writer)


def _certificate_of(config: Config) -> Certificate | None:
    try:
        return read_certificate(config)
    except CertificateError as error:
        raise StartError(str(error)) from error


def _logins_of(config: Config) -> Logins | None:
    if not config.users:
        return None
    try:
        logins = Logins(users_of(config), Checker())
    except UsersError as error:
        raise StartError(f"--users {error}") from error
    except MissingPackage as error:
        raise StartError(str(error)) from error
    if not any(listener.kind in FOR_USERS for listener in config.listeners):
        logger.warning("nobody can log in: logins need a listener on smtps:// or submission://")
    return logins


class _Service:
    """One run: its servers, its threads for the disk and for logins, and the signals."""

    def __init__(
        self,
        loaded: Loaded,
        destination: Destination,
        writer: LogWriter,
        certificate: Certificate | None,
        logins: Logins | None,
        worker: Worker | None,
    ) -> None:
        self._loaded = loaded
        self._config = loaded.config
        self._destination = destination
        self._writer = writer
        self._certificate = certificate
        self._logins = logins
        self._worker = worker
        self._servers = Servers(
            loaded.config, destination.delivery, certificate, logins, writer.add
        )
        self._stop = asyncio.Event()
        self._hangup = asyncio.Event()

    async def run(self) -> int:
        """Serve until a signal, then finish messages in flight."""
        self._listen_to_orders(asyncio.get_running_loop())
        try:
            has_begun = await begin_unless_stopped(self._begin(), self._stop)
            if has_begun:
                await self._reload_until_stopped()
        finally:
            status = await self._end()
        if self._worker is None:
            self._writer.say("ended")
        if status != EXIT_CLEAN or not has_begun:
            # A thread hangs in a disk or in a host name lookup: a normal exit would wait for it.
            self._leave(status)
        return status

    async def _begin(self) -> None:
        """Open the destination, listen everywhere, and report both."""
        try:
            delivering = await self._destination.start()
        except DestinationError as error:
            raise StartError(str(error)) from error
        worker, listeners = self._worker, self._config.listeners
        found = inherited()
        given = inherited_for(listeners, found) if worker is None else worker.sockets(listeners)
        places = [await listen(self._servers.of(each), each, sockets) for each, sockets in given]
        if worker is None:  # otherwise the parent has said so
            for address in itertools.chain.from_iterable(places):
                self._writer.say(f"listening on {address}")
        self._say_what_is_secure()
        self._writer.say(delivering)
        if worker is None:
            found.tell_ready()
        else:
            worker.ready()

    async def _reload_until_stopped(self) -> None:
        refresher = Refresher(self._loaded, self._servers, self._certificate, self._logins)
        reloading = asyncio.create_task(self._reload_on_sighup(refresher))
        try:
            await self._stop.wait()
        finally:
            reloading.cancel()

    async def _end(self) -> int:
        """Close the servers and wait for the disk for a limited time; return the exit status."""
        if self._logins is not None:
            self._logins.close()  # first, so that delayed logins do not hold up the end
        await self._servers.close()
        if await self._destination.close(DISK_PATIENCE):
            return EXIT_CLEAN
        logger.error("the disk of %s does not answer: ending without it", self._config.maildir)
        return EXIT_AT_ONCE

    def _leave(self, status: int) -> None:
        """End the process without waiting for its threads."""
        self._writer.finish()
        os._exit(status)

    def _say_what_is_secure(self) -> None:
        if self._certificate is not None:
            self._writer.say(self._certificate.origin)
        elif any(each.kind is Kind.SMTP for each in self._config.listeners):
            self._writer.say(f"STARTTLS is not offered: {NO_LIBRARY}")

    def _listen_to_orders(self, loop: asyncio.AbstractEventLoop) -> None:
        """Listen to signals, or to the parent."""
        if self._worker is not None:
            hurry = partial(self._leave, EXIT_AT_ONCE)
            self._worker.obey(loop, [*self._servers], self._stop, hurry)
            return
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._on_signal, number)
        loop.add_signal_handler(signal.SIGHUP, self._hangup.set)

    def _on_signal(self, number: int) -> None:
        name = signal.Signals(number).name
        if self._stop.is_set():
            # Not sys.exit(), which would wait for a thread that hangs in a write to a dead disk.
            # Unfinished files are in tmp/, and the next start removes them.
            self._writer.say(f"{name} again: ending at once")
            self._leave(EXIT_AT_ONCE)
        self._writer.say(f"{name}: no new clients; messages in flight are finished first")
        self._stop.set()

    async def _reload_on_sighup(self, refresher: Refresher) -> None:
        """Reload the files at each SIGHUP, one after the other; several at once count as one."""
        while True:
            await self._hangup.wait()
            self._hangup.clear()
            await refresher.refresh()
