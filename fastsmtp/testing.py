"""For tests of gateways, and of fastsmtp itself: an in-memory wire with a clock of its own, and a
running server.

`Wire` drives the whole engine, connection and flow control included, over a transport that is a
list of bytes; time passes only when the test advances it. `running` is a real server on a free port
of 127.0.0.1.
"""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, TypeVar

from fastsmtp._connection.connection import Connection
from fastsmtp._net.turns import Turns
from fastsmtp.server import SMTPServer, state_of
from fastsmtp.session import Session

if TYPE_CHECKING:
    from typing import Unpack

    from fastsmtp.server_options import ServerOptions

__all__ = ["MemoryTransport", "VirtualLoop", "Wire", "running"]

T = TypeVar("T")


class _VirtualSelector(selectors.SelectSelector):
    """Instead of sleeping until the next timer, jumps there in time, as far as the test allows."""

    def __init__(self) -> None:
        super().__init__()
        self.time = 0.0
        self.until = 0.0
        self.at_rest: Callable[[], None] = lambda: None

    def select(self, timeout: float | None = None) -> Any:
        """Poll the real sockets without waiting; advance time, or report that nothing is due."""
        ready = super().select(0)
        if ready or (timeout is not None and timeout <= 0):
            return ready
        if timeout is None or self.time + timeout > self.until:
            self.time = self.until
            self.at_rest()
        else:
            self.time += timeout
        return ready


class VirtualLoop(asyncio.SelectorEventLoop):
    """An event loop whose `time()` stands still until `advance`: 300 seconds take microseconds."""

    def __init__(self) -> None:
        self._virtual = _VirtualSelector()
        self._virtual.at_rest = self.stop
        super().__init__(self._virtual)

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
    """One connection to a server, in memory. Works without a running event loop; it has its own.

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
