"""`SMTPServer`: options, hooks, listening, closing, events.

In: options and hooks, by keyword, by assignment or by subclass. Out: a server on any number of TCP
ports, UNIX sockets and given sockets, all with the same service. From `listen` on, it needs a
running event loop, of uvloop or of asyncio.
"""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Callable, Coroutine
from contextlib import AbstractContextManager
from functools import partial
from typing import TYPE_CHECKING, Any, Literal, Self, TypeAlias

from fastsmtp._connection.closing import Closing
from fastsmtp._connection.connection import Connection
from fastsmtp._connection.listeners import Listeners
from fastsmtp._connection.registry import Registered
from fastsmtp._connection.server_state import ServerState
from fastsmtp._hooks.binding import Hooks, check_hook_name, check_hook_names_of
from fastsmtp._hooks.coroutine_driver import current_hook_task
from fastsmtp._hooks.lifespans import Lifespan, check_lifespan, managers_of
from fastsmtp._loop_thread import serving_in_thread
from fastsmtp._net.listener import bind, check_place
from fastsmtp._smtp.start import warn_of_impossible_demands
from fastsmtp.metrics import Stats, Tally, stats_of
from fastsmtp.options import HOOKS, OPTIONS, Options, parse_options
from fastsmtp.running import begin_unless_stopped, check_can_run, handling, loop_factory

if TYPE_CHECKING:
    from typing import Unpack

    from fastsmtp._options.given import NetworkList
    from fastsmtp.hook_types import LifespanFactory
    from fastsmtp.server_options import HookAttributes, ServerOptions, TLSOptions
else:  # an import would take longer than the rest of this module
    HookAttributes = object

__all__ = ["SMTPServer"]

type_address = tuple[str, int] | str
Event: TypeAlias = Literal["listening", "connect", "transaction", "trace", "error", "close"]


class SMTPServer(HookAttributes):
    """An SMTP or LMTP server.

    Options and hooks are keyword arguments; a hook can also be assigned (`server.on_rcpt_to = f`)
    or be a method of a subclass. lifespan: what begins before the server listens and ends after its
    last client, as a function of the server that returns an asynchronous context manager. Raises
    TypeError for an unknown option, a function that cannot be that hook, and a method `on_…` that
    is not one; ValueError for a bad value.
    """

    def __init__(
        self, *, lifespan: LifespanFactory | None = None, **options: Unpack[ServerOptions]
    ) -> None:
        check_hook_names_of(type(self), SMTPServer)
        check_lifespan(lifespan)
        given: dict[str, Any] = {**options}
        hooks = {name: given.pop(name) for name in HOOKS if name in given}
        self._options: Options = parse_options(given)
        self._hooks = Hooks()
        for name in HOOKS:
            method = hooks.get(name, getattr(self, name, None))
            if method is not None:
                setattr(self, name, method)
        self._lifespan_factory = lifespan
        self._tally = Tally()
        self._server_state = ServerState(self._options, self._hooks, self._tally)
        self._begin_life()

    def _begin_life(self) -> None:
        """Make what lives to the end of `close`."""
        self._listeners = Listeners(self._server_state.registry, self._tally)
        self._closing = Closing(self._server_state.registry, self._options.close_timeout)
        self._lifespan: Lifespan | None = None  # begun by the first `listen`
        self._opening = 0  # calls of `listen` under way
        self._ending: asyncio.Task[None] | None = None  # begun by the first `close`
        self._has_drained = asyncio.Event()
        self._has_ended = asyncio.Event()

    if not TYPE_CHECKING:  # a type checker would then allow assignment to every name

        def __setattr__(self, name: str, value: Any) -> None:
            if name in HOOKS:
                self._hooks.set(name, value)
                if hasattr(self, "_listeners"):  # after the constructor
                    self._enter(value)
            elif name == "lifespan" or (name in OPTIONS and not hasattr(type(self), name)):
                raise AttributeError(f"{name} is an option: give it when the server is made")
            elif callable(value) and not hasattr(getattr(type(self), name, None), "__set__"):
                check_hook_name(name)
            super().__setattr__(name, value)

    def __delattr__(self, name: str) -> None:
        super().__delattr__(name)
        if name in HOOKS:  # the method of a subclass becomes the hook again
            self._hooks.set(name, getattr(self, name, None))

    @property
    def options(self) -> Options:
        """The options, checked and complete; they do not change."""
        return self._options

    @property
    def connections(self) -> set[Registered]:
        """Connections that were admitted and have not ended; `on_close` may still be running."""
        return self._server_state.registry.connections

    def stats(self) -> Stats:
        """Return what was counted since the server was made, as a plain dict (docs/metrics.md)."""
        tallies = {self._tally: None}
        for hook in self._hooks_that_count():
            hook.measure()
            tallies[hook.tally] = None
        return stats_of(*tallies, is_one_process=True)

    def count_in(self, tally: Tally) -> None:
        """Count in `tally`, and so do its hooks of `fastsmtp.delivery`: to be called before
        `listen`. Raises RuntimeError when the server listens or has clients.
        """
        if self._opening or self._listeners.addresses or not self._server_state.registry.is_empty:
            raise RuntimeError("the server listens already: count_in() comes before listen()")
        self._tally = tally
        self._server_state = ServerState(self._options, self._hooks, tally, self._server_state)
        self._begin_life()
        for hook in self._hooks_that_count():
            hook.count_in(tally)

    def _hooks_that_count(self) -> list[Any]:
        """Return the hooks that have a tally, as a `Delivery` does."""
        hooks = [getattr(self, name, None) for name in HOOKS]
        return [hook for hook in hooks if isinstance(getattr(hook, "tally", None), Tally)]

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
        reuse_port: bool = False,
    ) -> None:
        """Listen on a TCP port (0: any free one), on the UNIX socket `path`, or on a bound `sock`.

        May be called several times, and again after `close`. host: None for every address of IPv4
        and IPv6. callback: called when listening. secure: whether TLS starts before the first octet
        of SMTP here, None: as the option `secure`. reuse_port: several processes may listen on this
        port. The first call enters the lifespan, and hooks that are asynchronous context managers.

        Raises OSError when the address is not available, TypeError and ValueError for an invalid
        address and for LMTP on TCP port 25 (RFC 2033 §5), ValueError for `secure` without a
        certificate, RuntimeError when the server is closing, and what the lifespan raises.
        """
        check_place(port, host, path, sock, reuse_port)
        state, loop = self._state_to_listen(), asyncio.get_running_loop()
        state.use_loop(loop)
        bound = await bind(port, host, path, sock, reuse_port=reuse_port, lmtp=self._options.lmtp)
        self._opening += 1
        try:
            tls = state.tls_of_listener(secure=self._options.secure if secure is None else secure)
            self._check_still_open(state)
            await self._start_lifespan()
            factory = partial(Connection, state, loop, time.monotonic, tls)
            await self._listeners.open(bound, factory, state.sockets)
            self._check_still_open(state)
        except BaseException:
            for listener in bound:
                listener.close()
            self._opening -= 1
            await self._end_useless_lifespan()
            raise
        self._opening -= 1
        is_first = not self._listeners.addresses
        self._listeners.add(bound)
        for listener in bound:
            state.events.emit("listening", listener.address)
        self._listeners.watch(loop)
        if is_first:
            warn_of_impossible_demands(state.tables)
        if callback is not None:
            callback()

    def _state_to_listen(self) -> ServerState:
        """Return the state to listen with: a new one if the last one has come to its end."""
        if self._ending is not None:
            if not self._ending.done():
                raise RuntimeError("the server is closing: listen when close() has returned")
            earlier = self._server_state
            self._server_state = ServerState(self._options, self._hooks, self._tally, earlier)
            self._begin_life()
        return self._server_state

    def _check_still_open(self, state: ServerState) -> None:
        if self._ending is not None or self._server_state is not state:
            raise RuntimeError("the server was closed")

    async def _start_lifespan(self) -> None:
        if self._lifespan is None or self._lifespan.is_over:
            hooks = [getattr(self, name, None) for name in HOOKS]
            managers = managers_of(self, self._lifespan_factory, hooks)
            self._lifespan = Lifespan(managers) if managers else None
        if self._lifespan is not None:
            await self._lifespan.wait_started()

    def _enter(self, hook: object) -> None:
        """Enter a hook that is set in the start of the lifespan, or later."""
        if self._ending is not None:
            return
        for manager in managers_of(self, None, [hook]):
            if self._lifespan is None and self._listeners.addresses:
                self._lifespan = Lifespan([])
            if self._lifespan is not None:
                self._lifespan.add(manager)

    async def _end_useless_lifespan(self) -> None:
        """A call of `listen` has failed: nothing begins if no other one has succeeded, or may."""
        lifespan = self._lifespan
        if lifespan is not None and not self._opening and not self._listeners.addresses:
            self._lifespan = None
            await lifespan.leave()

    def close_listener(self, address: type_address) -> None:
        """Stop listening on one of `addresses`; its connections, and other listeners, go on.

        Raises ValueError for an address that the server does not listen on.
        """
        self._listeners.close_one(address)

    def address(self) -> type_address | None:
        """Return (host, port) or the path of the first listener, None without a listener."""
        return next(iter(self._listeners.addresses), None)

    def addresses(self) -> list[type_address]:
        """Return the address of each listener."""
        return self._listeners.addresses

    # Events.

    def on(self, event: Event, listener: Callable[..., object]) -> Self:
        """Have `listener` called at each `event`. Raises ValueError for an unknown one."""
        self._server_state.events.add(event, listener, once=False)
        return self

    def once(self, event: Event, listener: Callable[..., object]) -> Self:
        """Have `listener` called at the next `event` only."""
        self._server_state.events.add(event, listener, once=True)
        return self

    def off(self, event: Event, listener: Callable[..., object]) -> Self:
        """Remove `listener` from `event`."""
        self._server_state.events.remove(event, listener)
        return self

    def trace(self, networks: NetworkList) -> None:
        """Trace clients of `networks` that connect from now on, no others: event `trace`. Raises
        TypeError and ValueError for what is not a network or "unix".
        """
        self._server_state.trace(networks)

    # Closing.

    async def close(self, callback: Callable[[], object] | None = None) -> None:
        """Stop accepting, finish messages in transfer with their real reply, cut the rest at
        `close_timeout`.

        Idle clients get 421 at once (RFC 5321 §3.8). A second call joins the first. callback:
        called at the end. Called in a hook of this server, or in a Task that a hook has started, it
        returns when all other connections have ended: the hook still has to answer its own client.
        Called in the lifespan, it returns before the clean-up. Errors of a clean-up are logged.

        In a forked child of the listening process it closes the inherited descriptors and nothing
        else: the connections belong to the parent.
        """
        if self._server_state.is_forked:
            self._abandon()
            if callback is not None:
                callback()
            return
        loop, registry = asyncio.get_running_loop(), self._server_state.registry
        registry.closing = True
        is_of_hook = registry.add_callers(current_hook_task(loop))
        if self._ending is None:
            self._listeners.close()
            self._ending = loop.create_task(self._end())
        is_of_lifespan = self._lifespan is not None and self._lifespan.is_current
        if is_of_hook or is_of_lifespan:
            if callback is not None:
                self._ending.add_done_callback(lambda end: callback())
            await (registry.wait_for_the_rest() if is_of_hook else self._has_drained.wait())
        else:
            await asyncio.shield(self._ending)
            if callback is not None:
                callback()

    def _abandon(self) -> None:
        """Close the inherited descriptors in a forked child."""
        self._listeners.abandon()
        self._server_state.abandon_sockets()

    async def _end(self) -> None:
        """The Task of `close`; it continues when the callers of `close` are cancelled."""
        await self._listeners.wait_closed()
        try:
            await self._closing.drain()
        finally:
            self._server_state.registry.release_callers()
            self._has_drained.set()
            await self._server_state.end()
            if self._lifespan is not None:
                await self._lifespan.leave()
            self._has_ended.set()
        self._server_state.events.emit("close")

    async def __aenter__(self) -> Self:
        """`async with server:` closes the server at the end; `listen` is called inside."""
        return self

    async def __aexit__(self, *exception: object) -> None:
        await self.close()

    def update_secure_context(self, **options: Unpack[TLSOptions]) -> None:
        """Read key and certificates again, and use them for every handshake from now on.

        options: TLS options (`key`, `cert`, `sni_options` …) that replace those given before. Open
        connections continue. All contexts change together; if one of them cannot be made, none
        changes, and ValueError or TypeError names the file and the reason.
        """
        self._server_state.tls.update(options)

    # Running.

    async def serve_forever(self) -> None:
        """Wait until the server is closed; a call that is cancelled closes it first. Raises
        RuntimeError if the server does not listen.
        """
        if self._ending is None and not self._listeners.addresses:
            raise RuntimeError("the server does not listen: await listen() first")
        try:
            await self._has_ended.wait()
        except asyncio.CancelledError:
            await self.close()
            raise

    def run(
        self,
        port: int | None = None,
        host: str | None = "0.0.0.0",
        *,
        path: str | None = None,
        sock: socket.socket | None = None,
        reuse_port: bool = False,
        handle_signals: bool = True,
    ) -> None:
        """Listen and serve until SIGTERM, SIGINT or `close`, on uvloop where it is installed;
        blocking.

        The first signal closes as `close` does, a second one at once. SIGHUP reloads key and
        certificates. handle_signals: False leaves signals to the program, which is necessary in any
        thread except the main one.

        Raises RuntimeError in a running event loop and for signals in another thread, what `listen`
        raises, and SystemExit with status 1 when a clean-up has failed, which is logged.
        """
        check_can_run(handle_signals=handle_signals)
        with asyncio.Runner(loop_factory=loop_factory()) as runner:
            start = self.listen(port, host, path=path, sock=sock, reuse_port=reuse_port)
            if not runner.run(self.serve_until_stopped(start, handle_signals=handle_signals)):
                raise SystemExit(1)

    async def serve_until_stopped(
        self,
        start: Coroutine[Any, Any, object],
        *,
        handle_signals: bool = True,
        stop: asyncio.Event | None = None,
        on_signal: Callable[[str], object] | None = None,
    ) -> bool:
        """Await `start`, which calls `listen`, and serve as `run` does, in the loop that runs.

        stop: an event that ends it as the first signal does. on_signal: called with the name of
        each signal, such as "SIGHUP", before it has its effect. Return whether every clean-up has
        succeeded. Raises what `start` raises; a signal during `start` cancels it.
        """
        loop = asyncio.get_running_loop()
        stop = asyncio.Event() if stop is None else stop

        def end() -> None:
            if stop.is_set():
                self.hurry()
            stop.set()

        def handle(name: str) -> None:
            if on_signal is not None:
                on_signal(name)
            (self._server_state.tls.reload if name == "SIGHUP" else end)()

        signals = {name: partial(handle, name) for name in ("SIGTERM", "SIGINT", "SIGHUP")}
        with handling(loop, signals if handle_signals else {}):
            try:
                if await begin_unless_stopped(start, stop):
                    await begin_unless_stopped(self._has_ended.wait(), stop)
            finally:
                if self._ending or self._lifespan or self._listeners.addresses:
                    await self.close()
        return self._lifespan is None or not self._lifespan.has_failed

    def threaded(
        self,
        port: int | None = None,
        host: str | None = "127.0.0.1",
        *,
        path: str | None = None,
        sock: socket.socket | None = None,
        secure: bool | None = None,
    ) -> AbstractContextManager[type_address]:
        """Serve while the body of `with server.threaded() as address:` runs, in a thread with an
        event loop of its own; hooks run in that thread.

        Arguments are those of `listen`; without one, any free port. The end of the body closes the
        server as `close` does; a KeyboardInterrupt meanwhile cuts the connections. Raises what
        `listen` raises, RuntimeError for a server that listens, and at the end of the body the
        SystemExit of a hook.
        """
        if port is None and path is None and sock is None:
            port = 0

        async def start() -> type_address:
            await self.listen(port, host, path=path, sock=sock, secure=secure)
            return self.addresses()[0]

        return serving_in_thread(self, self._check_idle, start, self._abandon)

    def _check_idle(self) -> None:
        is_closing = self._ending is not None and not self._ending.done()
        if self._listeners.addresses or self._opening or is_closing:
            raise RuntimeError("the server listens already: threaded() needs one that does not")

    def hurry(self) -> None:
        """Have a running `close` cut the connections, or later the clean-up: a second signal."""
        self._closing.hurry()
        if self._lifespan is not None:
            self._lifespan.hurry()


def state_of(server: SMTPServer) -> ServerState:
    """Return the state that `server` shares with its connections, for `fastsmtp.testing`."""
    return server._server_state  # noqa: SLF001 - the one intended access
