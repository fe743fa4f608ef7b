"""An in-memory wire with a clock of its own, and a server in the loop of the test."""

from __future__ import annotations

import asyncio
import selectors
from asyncio import _get_running_loop, _set_running_loop
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Generator
from concurrent.futures import Executor
from contextlib import asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING, Any, Final, TypeVar, TypeVarTuple, Unpack

from fastsmtp._connection.connection import Connection
from fastsmtp._net.turns import Turns
from fastsmtp.server import SMTPServer, state_of
from fastsmtp.session import Session

if TYPE_CHECKING:
    from fastsmtp.server_options import ServerOptions

__all__ = ["MemoryTransport", "VirtualLoop", "Wire", "running"]

try:
    from asyncio.tasks import _swap_current_task  # type: ignore[attr-defined]
except ImportError:  # Python 3.11, where each loop has a current task of its own

    def _swap_current_task(loop: object, task: object) -> object:
        return task


T = TypeVar("T")
Ts = TypeVarTuple("Ts")

PATIENCE: Final = 5.0  # real seconds: a call that takes longer has been forgotten, or hangs


class _VirtualSelector(selectors.SelectSelector):
    """Instead of sleeping until the next timer, jumps there in time, as far as the test allows.

    patience: real seconds to wait for a call in a thread while `has_calls()`.
    """

    def __init__(self, has_calls: Callable[[], bool]) -> None:
        super().__init__()
        self.time = 0.0
        self.until = 0.0
        self.patience = PATIENCE
        self.at_rest: Callable[[], None] = lambda: None
        self._has_calls = has_calls

    def select(self, timeout: float | None = None) -> Any:
        """Poll the real sockets, and wait for threads only; advance time, or report that nothing is
        due.
        """
        may_wait = (timeout is None or timeout > 0) and self._has_calls()
        ready = super().select(self.patience if may_wait else 0)
        if ready or (timeout is not None and timeout <= 0):
            return ready
        if timeout is None or self.time + timeout > self.until:
            self.time = self.until
            self.at_rest()
        else:
            self.time += timeout
        return ready


class VirtualLoop(asyncio.SelectorEventLoop):
    """An event loop whose `time()` stands still until `advance`: 300 seconds take microseconds.

    Calls by `asyncio.to_thread` and `run_in_executor` take real time, and are waited for while the
    virtual time stands still. Inside of another loop that runs, this one runs too, and the
    other one waits.
    """

    def __init__(self) -> None:
        self._calls: set[asyncio.Future[Any]] = set()  # in threads
        self._virtual = _VirtualSelector(lambda: bool(self._calls))
        self._virtual.at_rest = self.stop
        super().__init__(self._virtual)

    @property
    def patience(self) -> float:
        """Real seconds to wait for a call in a thread; then the time goes on without it."""
        return self._virtual.patience

    @patience.setter
    def patience(self, seconds: float) -> None:
        self._virtual.patience = seconds

    def run_in_executor(
        self, executor: Executor | None, func: Callable[[Unpack[Ts]], T], *args: *Ts
    ) -> asyncio.Future[T]:
        """As in asyncio."""
        call = super().run_in_executor(executor, func, *args)
        self._calls.add(call)
        call.add_done_callback(self._calls.discard)
        return call

    def run_forever(self) -> None:
        """As in asyncio, but also inside of another loop."""
        _call_outside_of_loops(super().run_forever)

    def run_until_complete(self, future: Generator[Any, None, T] | Awaitable[T]) -> T:
        """As in asyncio, but also inside of another loop."""
        return _call_outside_of_loops(partial(super().run_until_complete, future))

    def time(self) -> float:
        """Virtual seconds since the loop was made."""
        return self._virtual.time

    def advance(self, seconds: float = 0.0) -> None:
        """Let `seconds` pass, and run everything that is due by then."""
        self._virtual.until = self._virtual.time + seconds
        self.run_forever()

    def step(self, action: Callable[[], Any]) -> None:
        """Call `action` inside the loop, and run everything that is due now; raises what `action`
        raises.
        """
        errors: list[BaseException] = []

        def guarded() -> None:
            try:
                action()
            except BaseException as error:
                errors.append(error)

        self.call_soon(guarded)
        self.advance()
        if errors:
            raise errors[0]


def _call_outside_of_loops(call: Callable[[], T]) -> T:
    """Call it as if no event loop ran in this thread; the engine keeps to the thread."""
    loop = _get_running_loop()
    if loop is None:
        return call()
    task = _swap_current_task(loop, None)
    _set_running_loop(None)
    try:
        return call()
    finally:
        _set_running_loop(loop)
        _swap_current_task(loop, task)


class MemoryTransport(asyncio.Transport):
    """A transport with the test at its other end. `writes` has what the server has written."""

    def __init__(self, protocol: Connection, loop: asyncio.AbstractEventLoop, peer: Any) -> None:
        super().__init__({"peername": peer, "sockname": ("192.0.2.254", 25), "socket": None})
        self._protocol = protocol
        self._loop = loop
        self._high = 64 * 1024
        self._low = 16 * 1024
        self._waiting = 0
        self._closing = False
        self._paused_writing = False
        self.reading = True
        self.takes_output = True
        self.writes: list[bytes] = []
        self.eof_written = False
        self.closed = False

    def is_reading(self) -> bool:
        return self.reading and not self._closing

    def pause_reading(self) -> None:
        self.reading = False

    def resume_reading(self) -> None:
        self.reading = True

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        if high is not None:
            self._high = high
        if low is not None:
            self._low = low

    def get_write_buffer_size(self) -> int:
        return self._waiting

    def write(self, data: Any) -> None:
        if self._closing or self.eof_written:
            return
        self.writes.append(bytes(data))
        if not self.takes_output:
            self._waiting += len(data)
            if self._waiting > self._high and not self._paused_writing:
                self._paused_writing = True
                self._protocol.pause_writing()

    def take(self, octets: int | None = None) -> None:
        """The client reads `octets` of the waiting output, all of it by default."""
        self._waiting -= self._waiting if octets is None else min(octets, self._waiting)
        if self._paused_writing and self._waiting <= self._low:
            self._paused_writing = False
            self._protocol.resume_writing()
        if self._closing and not self._waiting:
            self.abort()

    def can_write_eof(self) -> bool:
        return True

    def write_eof(self) -> None:
        self.eof_written = True

    def is_closing(self) -> bool:
        return self._closing

    def close(self) -> None:
        self._closing = True
        if not self._waiting:
            self.abort()

    def abort(self) -> None:
        self.lose(None)

    def lose(self, error: Exception | None) -> None:
        """The connection is lost."""
        self._closing = True
        if not self.closed:
            self.closed = True
            self._loop.call_soon(self._protocol.connection_lost, error)


class Wire:
    """One connection to a server, in memory, with an event loop of its own, which may run inside of
    another one.

    Give a server, or the options and hooks of one. Octets are bytes, times virtual seconds.
    """

    def __init__(
        self,
        server: SMTPServer | None = None,
        *,
        peer: Any = ("192.0.2.1", 40000),
        loop: VirtualLoop | None = None,
        **options: Unpack[ServerOptions],
    ) -> None:
        if server is not None and options:
            raise TypeError("Wire takes a server, or the options of one, not both")
        self._owns_loop = loop is None
        self.loop = loop or VirtualLoop()
        defaults: ServerOptions = {"disable_reverse_lookup": True, "name": "srv.test"}
        self.server = server or SMTPServer(**(defaults | options))
        self._state = state_of(self.server)
        if self._state.turns is None or self._state.turns.loop is not self.loop:
            self._state.turns = Turns(self.loop, self.loop.time)
        self.connection = Connection(self._state, self.loop, self.loop.time)
        self.transport = MemoryTransport(self.connection, self.loop, peer)
        self._seen = 0
        self._step(lambda: self.connection.connection_made(self.transport))

    @property
    def session(self) -> Session:
        """The session that the hooks see."""
        return self.connection.session

    @property
    def closed(self) -> bool:
        """The server has written its last octet, or dropped the connection."""
        return self.transport.closed or self.transport.eof_written

    def send(self, *segments: bytes) -> bytes:
        """Deliver each segment as one read, and return what the server has written since the last
        call.
        """
        for segment in segments:
            self._step(lambda segment=segment: self._deliver(segment))  # type: ignore[misc]
        return self.receive()

    def receive(self) -> bytes:
        """Return what the server has written since the last call."""
        writes = self.transport.writes[self._seen :]
        self._seen = len(self.transport.writes)
        return b"".join(writes)

    def advance(self, seconds: float) -> bytes:
        """Let time pass, and return what the server has written since the last call."""
        self.loop.advance(seconds)
        return self.receive()

    def eof(self) -> bytes:
        """The client sends FIN; it still reads."""
        self._step(self.connection.eof_received)
        return self.receive()

    def reset(self) -> None:
        """The client sends RST."""
        self._step(lambda: self.transport.lose(ConnectionResetError("reset by the test")))

    def stop_reading(self) -> None:
        """The client stops reading."""
        self.transport.takes_output = False

    def take(self, octets: int | None = None) -> None:
        """The client reads `octets` of the waiting output, all of it by default."""
        self._step(lambda: self.transport.take(octets))

    def run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine on the wire's loop, with the time standing still."""
        return self.loop.run_until_complete(coroutine)

    def close(self) -> None:
        """End the connection if it is still open, and close the loop."""
        if not self.transport.closed:
            self.reset()
        if self._owns_loop and not self.loop.is_closed():
            self.loop.run_until_complete(self.loop.shutdown_asyncgens())
            self.loop.close()

    def __enter__(self) -> Wire:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def _deliver(self, segment: bytes) -> None:
        if self.transport.closed:
            return
        self.connection.data_received(segment)

    def _step(self, action: Callable[[], Any]) -> None:
        def marked() -> None:
            with self._state.registry.marked_context():
                action()

        self.loop.step(marked)


@asynccontextmanager
async def running(server: SMTPServer, **listen: Any) -> AsyncIterator[tuple[str, int]]:
    """Serve on a free port of 127.0.0.1; yields (host, port) and closes the server at the end."""
    where: dict[str, Any] = {"port": 0, "host": "127.0.0.1"}
    await server.listen(**(listen or where))
    address = server.address()
    try:
        yield address if isinstance(address, tuple) else (address or "", 0)
    finally:
        await server.close()
