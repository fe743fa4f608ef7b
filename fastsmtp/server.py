"""`SMTPServer`: options, hooks, listening, closing, events.

In: options and hooks, by keyword, by assignment or by subclass. Out: a server on any number of TCP
ports, UNIX sockets and given sockets, all with the same service. It needs a running event loop from
`listen` on; uvloop and asyncio both do.
"""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any, Final

from fastsmtp._connection.connection import Connection
from fastsmtp._connection.registry import ConnectionRegistry, Registered
from fastsmtp._failures import Place, log_failure, mark
from fastsmtp._hooks.binding import HOOK_ARGUMENTS, Hooks, check_hook_name, check_hook_names_of
from fastsmtp._hooks.callback import ends_process
from fastsmtp._hooks.coroutine_driver import current_hook_task
from fastsmtp._hooks.tasks import warn_of_stall
from fastsmtp._log import logger
from fastsmtp._net.epoll_transport import Sockets
from fastsmtp._net.listener import (
    Listener,
    bind_tcp,
    bind_unix,
    check_place,
    own_sockets,
)
from fastsmtp._net.reverse_dns import reverse_lookup
from fastsmtp._net.running import begin_unless_stopped, loop_factory
from fastsmtp._net.timer_wheel import Timers
from fastsmtp._net.turns import Turns
from fastsmtp._smtp.start import make_tables, warn_of_impossible_demands
from fastsmtp._tls.contexts import ListenerTLS, ServerTLS
from fastsmtp._tls.handshake_queue import Handshakes
from fastsmtp.options import Options, parse_options

__all__ = ["SMTPServer"]

EVENTS: Final = ("listening", "connect", "error", "close")
LISTENER_CHECK: Final = 1.0  # seconds between two looks at the listening sockets
CUT_GRACE: Final = 0.4  # seconds that hooks have to end after a cut, and again after a cancellation
SMTP_PORT: Final = 25

type_address = tuple[str, int] | str


class SMTPServer:
    """An SMTP or LMTP server.

    Options and hooks are keyword arguments; a hook can also be assigned (`server.on_rcpt_to = f`)
    or be a method of a subclass. Raises TypeError for an unknown option, a function that cannot be
    that hook, and a method `on_…` that is not one; ValueError for a bad value.
    """

    def __init__(self, **options: Any) -> None:
        check_hook_names_of(type(self), SMTPServer)
        hooks = {name: options.pop(name) for name in HOOK_ARGUMENTS if name in options}
        self._options: Options = parse_options(options)
        self._hooks = Hooks()
        for name in HOOK_ARGUMENTS:
            method = hooks.get(name, getattr(self, name, None))
            if method is not None:
                setattr(self, name, method)
        self.tls = ServerTLS(self._options)
        self.handshakes = Handshakes()
        self.tables = make_tables(self._options, self._hooks, tls=self.tls.is_configured)
        self.registry = ConnectionRegistry(self._options, self.tables)
        self.lookup = reverse_lookup(self._options, time.monotonic)
        self._listeners: list[Listener] = []
        self._listeners_check: asyncio.TimerHandle | None = None
        self._check_due = 0.0
        self._reviving: asyncio.Task[None] | None = None
        self._events: dict[str, list[tuple[Callable[..., Any], bool]]] = {e: [] for e in EVENTS}
        self._closing: asyncio.Task[None] | None = None
        self._cuts: list[asyncio.TimerHandle] = []
        self._at_once = False  # a second signal came
        self._loop: asyncio.AbstractEventLoop | None = None
        self._process = os.getpid()  # that listens
        self._sockets: Sockets | None = None  # None: those of the loop
        self.timers: Timers | None = None
        self.turns: Turns | None = None

    def __setattr__(self, name: str, value: Any) -> None:
        if name in HOOK_ARGUMENTS:
            self._hooks.set(name, value)
        elif callable(value) and not hasattr(getattr(type(self), name, None), "__set__"):
            check_hook_name(name)
        super().__setattr__(name, value)

    def __delattr__(self, name: str) -> None:
        super().__delattr__(name)
        if name in HOOK_ARGUMENTS:  # a method of a subclass is the hook again
            self._hooks.set(name, getattr(self, name, None))

    @property
    def options(self) -> Options:
        """The options, checked and complete; they do not change."""
        return self._options

    @property
    def connections(self) -> set[Registered]:
        """Connections that were let in and have not ended with all their hooks but `on_close`."""
        return self.registry.connections

    # Listening.

    async def listen(
        self,
        port: int | None = None,
        host: str | None = "0.0.0.0",
        callback: Callable[[], object] | None = None,
        *,
        path: str | None = None,
        sock: socket.socket | None = None,
        secure: bool | None = None,
    ) -> None:
        """Listen on a TCP port (0: any free one), on the UNIX socket `path`, or on a bound `sock`.

        May be called several times. callback: called when listening. secure: whether TLS comes
        before the first octet of SMTP here, None: as the option `secure` says. Raises OSError when
        the address cannot be had, TypeError and ValueError for what is no place to listen on, LMTP
        on TCP port 25 among it (RFC 2033 §5), ValueError for `secure` without a certificate,
        RuntimeError when the server was closed.
        """
        check_place(port, host, path, sock)
        if self._closing is not None:
            raise RuntimeError("the server is closed")
        self._use_loop(asyncio.get_running_loop())
        bound = await self._bound(port, host, path, sock)
        try:
            tls = self._tls_of_listener(self._options.secure if secure is None else secure)
            loop = asyncio.get_running_loop()
            factory = partial(Connection, self, loop, time.monotonic, tls)
            with self.registry.marked_context():
                for listener in bound:
                    await listener.open(factory, self._sockets)
            if self._closing is not None:  # by now
                raise RuntimeError("the server is closed")
        except BaseException:
            for listener in bound:
                listener.close()
            raise
        self._listeners += bound
        for listener in bound:
            self._emit("listening", listener.address)
        if self._listeners_check is None:
            self._watch_listeners()
        if len(self._listeners) == len(bound):  # the first call
            warn_of_impossible_demands(self.tables)
        if callback is not None:
            callback()

    def _use_loop(self, loop: asyncio.AbstractEventLoop) -> None:
        if loop is not self._loop:
            self._loop = loop
            self._process = os.getpid()
            self.turns = Turns(loop)
            self._sockets = own_sockets(self.turns)
            self.timers = Timers(loop, time.monotonic)

    async def _bound(
        self, port: int | None, host: str | None, path: str | None, sock: socket.socket | None
    ) -> list[Listener]:
        if path is not None:
            return [Listener(bind_unix(path), path)]
        if sock is not None:
            if self._options.lmtp and sock.family != getattr(socket, "AF_UNIX", None):
                self._check_lmtp_port(sock.getsockname()[1])
            return [Listener(sock, is_given=True)]
        assert port is not None
        self._check_lmtp_port(port)
        return [Listener(bound) for bound in await bind_tcp(host, port)]

    def _check_lmtp_port(self, port: int) -> None:
        if self._options.lmtp and port == SMTP_PORT:
            raise ValueError("LMTP must not be offered on TCP port 25 (RFC 2033 §5)")

    def _tls_of_listener(self, secure: bool) -> ListenerTLS:
        if secure and not self._options.secured and not self.tls.is_configured:
            self.tls.make_certificate()
            self.tables = make_tables(self._options, self._hooks, tls=True)
        return self.tls.listener(secure)

    def address(self) -> type_address | None:
        """Return (host, port) or the path of the first listener, None when there is none."""
        return self._listeners[0].address if self._listeners else None

    def addresses(self) -> list[type_address]:
        """Return the address of each listener."""
        return [listener.address for listener in self._listeners]

    def _watch_listeners(self) -> None:
        assert self._loop is not None
        late = self._loop.time() - self._check_due
        if self._listeners_check is not None:
            warn_of_stall(late)
        self._check_due = self._loop.time() + LISTENER_CHECK
        self._listeners_check = self._loop.call_later(LISTENER_CHECK, self._watch_listeners)
        dead = [listener for listener in self._listeners if not listener.is_alive]
        if dead and self._reviving is None:
            self._reviving = self._loop.create_task(self._revive(dead))

    async def _revive(self, dead: list[Listener]) -> None:
        for listener in dead:
            try:
                with self.registry.marked_context():
                    await listener.revive()
            except OSError as error:
                logger.error("listening on %s: %s", listener.address, error)
        self._reviving = None

    # What connections ask.

    def connected(self, connection: Registered) -> None:
        """Emit `connect`."""
        if self._events["connect"]:
            session = connection.session
            names = (
                "id",
                "local_address",
                "local_port",
                "remote_address",
                "remote_port",
                "host_name_appears_as",
                "client_hostname",
            )
            facts = {name: getattr(session, name) for name in names}
            self._emit("connect", facts, connection=connection)

    def report(self, error: BaseException, place: Place) -> None:
        """Emit `error`; without a listener it is logged, a failure of TLS in any case."""
        mark(error, place)
        if place.stage == "tls":  # caused by clients, so there may be many: a line for some of them
            self.handshakes.failed(error, place)
        if self._events["error"]:
            self._emit("error", error, connection=f"{place.session_id}: {place.client}")
        else:
            log_failure(error, place)

    # Events.

    def on(self, event: str, listener: Callable[..., Any]) -> SMTPServer:
        """Have `listener` called at each `event`: "listening", "connect", "error" or "close"."""
        self._listeners_of(event).append((listener, False))
        return self

    def once(self, event: str, listener: Callable[..., Any]) -> SMTPServer:
        """Have `listener` called at the next `event` only."""
        self._listeners_of(event).append((listener, True))
        return self

    def off(self, event: str, listener: Callable[..., Any]) -> SMTPServer:
        """Take `listener` away from `event`."""
        found = self._listeners_of(event)
        found[:] = [entry for entry in found if entry[0] != listener]
        return self

    def _listeners_of(self, event: str) -> list[tuple[Callable[..., Any], bool]]:
        if event not in self._events:
            raise ValueError(f"unknown event {event!r}: it is one of {', '.join(EVENTS)}")
        return self._events[event]

    def _emit(self, event: str, *arguments: Any, connection: object = None) -> None:
        listeners = self._events[event]
        for entry in list(listeners):
            if entry[1]:
                listeners.remove(entry)
            try:
                entry[0](*arguments)
            except BaseException as error:  # foreign code
                if ends_process(error):
                    raise
                start, who = ("", ()) if connection is None else ("%s: ", (connection,))
                logger.error(f"{start}a listener of %r failed", *who, event, exc_info=True)

    # Closing.

    async def close(self, callback: Callable[[], object] | None = None) -> None:
        """Stop accepting, let messages under way have their real reply, cut the rest at
        `close_timeout`.

        Idle clients hear 421 at once (RFC 5321 §3.8). A second call joins the first. callback:
        called at the end. In a hook of this server, or a Task that one has begun, it returns when
        all others have gone: the hook has yet to answer its own client, and the end comes then.

        In a forked child of the process that listens it closes the descriptors that the child has
        inherited, and nothing else: the connections are the parent's.
        """
        loop = asyncio.get_running_loop()
        if self._process != os.getpid():
            self._abandon()
            if callback is not None:
                callback()
            return
        self.registry.closing = True
        is_of_hook = self.registry.add_callers(current_hook_task(loop))
        if self._closing is None:
            self._loop = loop
            self._stop_listening()
            self._closing = loop.create_task(self._end())
        if is_of_hook:
            if callback is not None:
                self._closing.add_done_callback(lambda closing: callback())
            await self.registry.wait_for_the_rest()
        else:
            await asyncio.shield(self._closing)
            if callback is not None:
                callback()

    def _abandon(self) -> None:
        for listener in self._listeners:
            listener.abandon()
        self._listeners.clear()
        if self._sockets is not None:
            self._sockets.abandon()

    def _stop_listening(self) -> None:
        if self._listeners_check is not None:
            self._listeners_check.cancel()
        if self._reviving is not None:
            self._reviving.cancel()
        for listener in self._listeners:
            listener.close()
        self._listeners.clear()

    async def _end(self) -> None:
        """What `close` has begun; it goes on when those who have called that are cancelled."""
        if self._reviving is not None:
            with suppress(asyncio.CancelledError):
                await self._reviving
        try:
            await self._drain()
        finally:
            self.registry.release_callers()
            if self.lookup is not None:
                await self.lookup.close()
            if self.timers is not None and self.registry.is_empty:
                self.timers.stop()
        self._emit("close")

    async def _drain(self) -> None:
        # Handshakes that the kernel had finished are accepted in this turn; they are refused in
        # `admit`.
        await asyncio.sleep(0)
        for connection in self.registry.everyone():
            connection.shut_down()
        await self._let_end(self._options.close_timeout)
        self.registry.release_callers()
        await self._let_end(max(self._options.close_timeout, CUT_GRACE))

    async def _let_end(self, patience: float) -> None:
        assert self._loop is not None
        self._cuts = [self._loop.call_later(0.0 if self._at_once else patience, self._cut)]
        try:
            await self.registry.wait_for_the_last()
        finally:
            self._cancel_cuts()

    def _cancel_cuts(self) -> None:
        for cut in self._cuts:
            cut.cancel()

    def _cut(self) -> None:
        """`close_timeout` has passed, or a second signal came: everything that is left ends now."""
        self._cancel_cuts()
        for connection in self.registry.left():
            connection.abort()
        assert self._loop is not None
        # An aborted body ends its hook; what does not end by it is cancelled, and what swallows
        # that is not waited for.
        self._cuts = [
            self._loop.call_later(CUT_GRACE, self.registry.give_up),
            self._loop.call_later(2 * CUT_GRACE, self.registry.wait_no_more),
        ]

    def update_secure_context(self, **options: Any) -> None:
        """Read key and certificates anew, and use them for every handshake from now on.

        options: of TLS (`key`, `cert`, `sni_options` …) in place of those that were given before.
        Connections that are there live on. All contexts change at once, or, when one of them cannot
        be made, none: then ValueError or TypeError says which file it was, and why.
        """
        self.tls.update(options)

    def _reload(self) -> None:
        """SIGHUP: a mistake in the files must not stop a server that runs."""
        if self.tls.is_configured:
            try:
                self.update_secure_context()
            except ValueError as error:
                logger.error("the certificates stay as they were: %s", error)
            else:
                logger.info("the certificates were read anew")

    # Running.

    def run(
        self,
        port: int | None = None,
        host: str | None = "0.0.0.0",
        *,
        path: str | None = None,
        sock: socket.socket | None = None,
    ) -> None:
        """Listen and serve until SIGTERM or SIGINT, on uvloop where it is installed; blocking.

        The first signal closes with draining, a second one at once. SIGHUP reads key and
        certificates anew.
        """
        with asyncio.Runner(loop_factory=loop_factory()) as runner:
            runner.run(self._serve(port, host, path, sock))

    async def _serve(
        self, port: int | None, host: str | None, path: str | None, sock: socket.socket | None
    ) -> None:
        loop = asyncio.get_running_loop()
        stop = asyncio.Event()

        def on_signal() -> None:
            if stop.is_set():
                self._at_once = True
                if self._closing is not None:
                    self._cut()
            stop.set()

        for number in (signal.SIGTERM, signal.SIGINT):
            with suppress(NotImplementedError):
                loop.add_signal_handler(number, on_signal)
        if hasattr(signal, "SIGHUP"):
            with suppress(NotImplementedError):
                loop.add_signal_handler(signal.SIGHUP, self._reload)
        await begin_unless_stopped(self.listen(port, host, path=path, sock=sock), stop)
        await stop.wait()
        await self.close()
