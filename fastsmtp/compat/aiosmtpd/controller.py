"""Servers with a thread of their own, and on a loop of the program."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import socket
import ssl
import threading
from collections.abc import AsyncIterator
from contextlib import AbstractContextManager
from typing import Any

from fastsmtp import SMTPServer
from fastsmtp.compat.aiosmtpd.checks import hooks_of
from fastsmtp.compat.aiosmtpd.hooks import server_of
from fastsmtp.compat.aiosmtpd.smtp import SMTP
from fastsmtp.running import loop_factory

__all__ = ["Controller", "UnixSocketController", "UnixSocketUnthreadedController"]
__all__ += ["UnthreadedController", "get_localhost"]


def get_localhost() -> str:
    """Return "::1" where the machine has IPv6, else "127.0.0.1"."""
    try:
        with socket.socket(socket.AF_INET6, socket.SOCK_STREAM) as probe:
            probe.bind(("::1", 0))
    except OSError as error:
        if error.errno in (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT):
            return "127.0.0.1"
        raise
    return "::1"


class BaseController:
    """A server for one handler. What it and the keywords ask for is checked here.

    server_hostname: the name in the greeting. The other keywords are those of `SMTP`. Raises
    TypeError and ValueError for what cannot run.
    """

    server: SMTPServer | None = None
    smtpd: SMTP | None = None  # that of the last connection

    def __init__(
        self,
        handler: Any,
        loop: asyncio.AbstractEventLoop | None = None,
        *,
        ssl_context: ssl.SSLContext | None = None,
        server_hostname: str | None = None,
        server_kwargs: dict[str, Any] | None = None,
        **SMTP_parameters: Any,  # noqa: N803
    ) -> None:
        self.handler = handler
        self.loop = loop
        self.ssl_context = ssl_context
        self.SMTP_kwargs = {"enable_SMTPUTF8": True, **(server_kwargs or {}), **SMTP_parameters}
        if server_hostname:
            self.SMTP_kwargs["hostname"] = server_hostname
        if type(self).factory is BaseController.factory:
            self.factory()
        else:  # it may need what a subclass has not set yet; the start calls it
            hooks_of(handler)

    def factory(self) -> SMTP:
        """Return the `SMTP` of a connection; called once at the start too, for its options."""
        return SMTP(self.handler, **self.SMTP_kwargs)

    def _make_smtpd(self) -> SMTP:
        self.smtpd = self.factory()
        return self.smtpd

    @contextlib.asynccontextmanager
    async def _lifespan(self, server: SMTPServer) -> AsyncIterator[None]:
        self.loop = asyncio.get_running_loop()
        yield

    def _made(self) -> SMTPServer:
        return server_of(self._make_smtpd, ssl_context=self.ssl_context, lifespan=self._lifespan)

    def _place(self) -> dict[str, Any]:
        """Where it listens, as arguments of `SMTPServer.listen`."""
        raise NotImplementedError

    def _listens(self, address: tuple[str, int] | str) -> None:
        """Note the address that it has."""


class BaseThreadedController(BaseController):
    """Starts and ends a thread with a loop of its own."""

    def __init__(
        self,
        handler: Any,
        loop: asyncio.AbstractEventLoop | None = None,
        *,
        ready_timeout: float = 5.0,
        **kwargs: Any,
    ) -> None:
        if loop is not None:
            raise TypeError("loop: the thread makes its own; UnthreadedController takes one")
        super().__init__(handler, **kwargs)
        self.ready_timeout = ready_timeout
        self._serving: AbstractContextManager[tuple[str, int] | str] | None = None

    def start(self) -> None:
        """Return when the server listens. Raises what has prevented it, and AssertionError for a
        server that runs.
        """
        if self._serving is not None:
            raise AssertionError("SMTP daemon already running")
        server = self._made()
        serving = server.threaded(**self._place())
        self._listens(serving.__enter__())
        self._serving, self.server = serving, server

    def stop(self, no_assert: bool = False) -> None:
        """Finish the messages under way, and end the thread. Raises AssertionError for a server
        that does not run, unless `no_assert`.
        """
        serving, self._serving, self.server = self._serving, None, None
        if serving is not None:
            serving.__exit__(None, None, None)
        elif not no_assert:
            raise AssertionError("SMTP daemon not running")


class BaseUnthreadedController(BaseController):
    """Listens on a loop that the program runs."""

    def __init__(
        self, handler: Any, loop: asyncio.AbstractEventLoop | None = None, **kwargs: Any
    ) -> None:
        super().__init__(handler, loop, **kwargs)
        if self.loop is None:
            self.loop = (loop_factory() or asyncio.new_event_loop)()
        self.ended = threading.Event()

    def begin(self) -> None:
        """Listen; the loop must not run yet, and is not run afterwards. Raises what has prevented
        it, and AssertionError for a server that runs.
        """
        assert self.loop is not None
        if self.server is not None:
            raise AssertionError("SMTP daemon already running")
        server = self._made()
        self.loop.run_until_complete(self._begin(server))
        self._listens(server.addresses()[0])
        self.server = server

    async def _begin(self, server: SMTPServer) -> None:
        try:
            await server.listen(**self._place())
        except BaseException:
            await server.close()
            raise

    async def finalize(self) -> None:
        """Finish the messages under way, and close the server."""
        assert self.server is not None, "SMTP daemon not running"
        server, self.server = self.server, None
        await server.close()
        self.ended.set()

    def end(self) -> None:
        """Have `finalize` run: in the loop if that runs, else until it is done. `ended` tells."""
        assert self.loop is not None
        self.ended.clear()
        if self.loop.is_running():
            self._finalizing = self.loop.create_task(self.finalize())
        else:
            self.loop.run_until_complete(self.finalize())

    def cancel_tasks(self, stop_loop: bool = True) -> None:
        """Cancel all Tasks of the loop, and stop it; to be called in the loop, after `end`."""
        assert self.loop is not None
        if stop_loop:
            self.loop.stop()
        for task in asyncio.all_tasks(self.loop):
            task.cancel()


class InetMixin(BaseController):
    """Listens on a TCP port. hostname: None for this machine, "" for every address. port: 0 for
    any free one, which `port` is after the start.
    """

    def __init__(
        self,
        handler: Any,
        hostname: str | None = None,
        port: int = 8025,
        loop: asyncio.AbstractEventLoop | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(handler, loop, **kwargs)
        self.hostname = get_localhost() if hostname is None else hostname
        self.port = port

    def _place(self) -> dict[str, Any]:
        return {"port": self.port, "host": self.hostname or None}

    def _listens(self, address: tuple[str, int] | str) -> None:
        if isinstance(address, tuple):
            self.port = address[1]


class UnixSocketMixin(BaseController):
    """Listens on a UNIX socket, which is removed at the end."""

    def __init__(
        self,
        handler: Any,
        unix_socket: str | os.PathLike[str],
        loop: asyncio.AbstractEventLoop | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(handler, loop, **kwargs)
        self.unix_socket = os.fspath(unix_socket)

    def _place(self) -> dict[str, Any]:
        return {"path": self.unix_socket}


class Controller(InetMixin, BaseThreadedController):
    """A TCP server in a thread."""


class UnixSocketController(UnixSocketMixin, BaseThreadedController):
    """A server on a UNIX socket in a thread."""


class UnthreadedController(InetMixin, BaseUnthreadedController):
    """A TCP server on a loop of the program."""


class UnixSocketUnthreadedController(UnixSocketMixin, BaseUnthreadedController):
    """A server on a UNIX socket on a loop of the program."""
