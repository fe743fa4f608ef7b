"""Runs the gateway: binds its sockets, reads keys and users, gives up the rights of root, opens the
destination, listens, reports that, and ends on SIGTERM or SIGINT.

The first signal stops listening and lets messages in flight get their real reply; a second one
ends the process at once. Nothing acknowledged is lost by either: a 250 is sent only when the
message is on disk. SIGHUP reloads keys and users; if they are invalid, nothing changes.
"""

from __future__ import annotations

import asyncio
import os
import signal
from dataclasses import replace
from functools import partial
from typing import Final

from fastsmtp.gateway import held_signals
from fastsmtp.gateway.admin.start import Metrics
from fastsmtp.gateway.binding import Places, take_places
from fastsmtp.gateway.certificates import (
    NO_LIBRARY,
    Certificate,
    CertificateError,
    read_certificate,
)
from fastsmtp.gateway.config import Config, Kind, Loaded
from fastsmtp.gateway.destinations import Destination, DestinationError
from fastsmtp.gateway.log import LogWriter, logger
from fastsmtp.gateway.logins import Checker, Logins, MissingPackage
from fastsmtp.gateway.refreshing import Refresher, users_of
from fastsmtp.gateway.servers import FOR_USERS, Servers
from fastsmtp.gateway.service_manager import ServiceManager
from fastsmtp.gateway.start import StartError, listen, logging_to, run_on_loop, writer_of
from fastsmtp.gateway.users import UsersError
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
    manager = ServiceManager(os.environ)
    with logging_to(writer_of(config, number), verbose=config.verbose) as writer:
        places = take_places(config) if worker is None else Places(worker.sockets(config.listeners))
        if places is None:
            writer.say("ended")
            return EXIT_CLEAN
        with places:
            config = replace(config, listeners=places.listeners)
            certificate = _certificate_of(config)
            logins = _logins_of(config)
            places.give_up_root()
            loaded = replace(loaded, config=config)
            destination = _destination_of(config, writer, worker, places.lock)
            service = _Service(
                loaded, places, destination, writer, certificate, logins, manager, worker
            )
            return run_on_loop(service.run(), writer)


def _destination_of(
    config: Config, writer: LogWriter, worker: Worker | None, lock: int
) -> Destination:
    workers = 0 if worker is None else worker.count
    try:
        return Destination(config, writer.add_late, workers=workers, lock=lock)
    except DestinationError as error:
        raise StartError(str(error)) from error


def _certificate_of(config: Config) -> Certificate | None:
    try:
        return read_certificate(config)
    except CertificateError as error:
        raise StartError(str(error)) from error


def _logins_of(config: Config) -> Logins | None:
    if not config.users:
        if any(listener.kind is Kind.SUBMISSION for listener in config.listeners):
            raise StartError("submission needs --users: otherwise no client can log in")
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
        places: Places,
        destination: Destination,
        writer: LogWriter,
        certificate: Certificate | None,
        logins: Logins | None,
        manager: ServiceManager,
        worker: Worker | None,
    ) -> None:
        self._loaded = loaded
        self._config = config = loaded.config
        self._places = places
        self._destination = destination
        self._writer = writer
        self._certificate = certificate
        self._logins = logins
        self._manager = manager
        self._worker = worker
        self._serving = "starting"  # or where and what a 250 means, or ending
        self._servers = Servers(config, destination.delivery, certificate, logins, writer.add)
        self._stop = asyncio.Event()
        self._hangup = asyncio.Event()
        self._metrics = Metrics(config.admin, worker, writer.say)
        tally = self._metrics.page.tally
        destination.delivery.count_in(tally)
        writer.tally = tally
        for server in self._servers:
            server.count_in(tally)
            server.on("transaction", self._metrics.tell_to(writer.tell))
        self._servers.trace(config.trace)

    async def run(self) -> int:
        """Serve until a signal, then finish messages in flight."""
        self._listen_to_orders(asyncio.get_running_loop())
        async with self._manager.watched(self._status):
            try:
                has_begun = await begin_unless_stopped(self._begin(), self._stop)
                if has_begun:
                    self._manager.ready(self._status())
                    await self._reload_until_stopped()
            finally:
                status = await self._end()
        if self._worker is None:
            self._writer.say("ended")
        if status != EXIT_CLEAN or not has_begun:
            # A thread hangs in a disk: a normal exit would wait for it.
            self._leave(status)
        return status

    async def _begin(self) -> None:
        """Open the destination, listen everywhere, and report both."""
        await self._metrics.begin(self._destination.delivery.measure)
        try:
            delivering = await self._destination.start()
        except DestinationError as error:
            raise StartError(str(error)) from error
        addresses = [
            address
            for listener, sockets in self._places.sockets
            for address in await listen(self._servers.of(listener), listener, sockets)
        ]
        if self._worker is None:  # otherwise the parent has said so
            for address in addresses:
                self._writer.say(f"listening on {address}")
        self._say_what_is_secure()
        if self._places.warning:
            self._writer.say(self._places.warning)
        for remark in self._destination.remarks:
            self._writer.say(remark)
        self._writer.say(delivering)
        self._serving = f"{', '.join(map(str, addresses))}; {delivering}"
        if self._worker is None:
            self._places.tell_ready()
        else:
            self._worker.ready(delivering=delivering)

    def _status(self) -> str:
        """Return what the service manager shows."""
        clients = sum(len(server.connections) for server in self._servers)
        return f"{self._serving}; clients: {clients}"

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
        self._places.remove_files()
        await self._servers.close()
        await self._metrics.end()
        if await self._destination.close(DISK_PATIENCE):
            return EXIT_CLEAN
        logger.error("%s does not answer: ending without it", self._destination.place)
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
        held_signals.survive_those_for_parents(loop, logger.warning)
        held_signals.release()

    def _on_signal(self, number: int) -> None:
        name = signal.Signals(number).name
        if self._stop.is_set():
            # Not sys.exit(), which would wait for a thread that hangs in a write to a dead disk.
            # Unfinished files are in tmp/, and the next start removes them.
            self._writer.say(f"{name} again: ending at once")
            self._leave(EXIT_AT_ONCE)
        self._writer.say(f"{name}: no new clients; messages in flight are finished first")
        self._serving = "ending"
        self._manager.stopping(self._status())
        self._stop.set()

    async def _reload_on_sighup(self, refresher: Refresher) -> None:
        """Reload the files at each SIGHUP, one after the other; several at once count as one."""
        while True:
            await self._hangup.wait()
            self._hangup.clear()
            self._manager.reloading()
            try:
                self._writer.reopen()
            except OSError as error:
                logger.error("SIGHUP: the log goes on in the file that was renamed: %s", error)
            await refresher.refresh()
            self._manager.ready(self._status())
