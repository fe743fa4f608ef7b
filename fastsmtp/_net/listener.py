"""Listening sockets: bound once, watched, made again when they die.

In: a host and port, a path, or a socket. Out: an open listener whose socket has the options that
accepted connections inherit. Accept errors never reach a protocol, so the listener is checked once
a second.
"""

from __future__ import annotations

import asyncio
import errno
import os
import socket
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any, Final, TypeVar

from fastsmtp._log import logger
from fastsmtp._net.epoll_transport import AVAILABLE, Acceptor, Sockets
from fastsmtp._net.turns import Turns
from fastsmtp.blocking import call_in_thread
from fastsmtp.unix_sockets import bind_unix

__all__ = [
    "Listener",
    "bind",
    "bind_tcp",
    "check_place",
    "own_sockets",
]

T = TypeVar("T")

BACKLOG: Final = 1024
PORT_ATTEMPTS: Final = 16  # free ports of one address that another one may not have free
MAX_PORT: Final = 65_535
SMTP_PORT: Final = 25
KEEPALIVE_IDLE: Final = 120  # seconds before the kernel checks whether a silent peer still exists
USER_TIMEOUT: Final = 60_000  # milliseconds that sent octets may stay unacknowledged

_FAMILIES: Final = (socket.AF_INET, socket.AF_INET6, getattr(socket, "AF_UNIX", None))

# A name may have addresses of a family that this machine does not support.
_NOT_HERE: Final = (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT)


def _set_options(sock: socket.socket) -> None:
    """Set what accepted sockets inherit: one call per listener instead of one per connection."""
    wanted = [
        (socket.SOL_SOCKET, "SO_KEEPALIVE", 1),
        (socket.IPPROTO_TCP, "TCP_NODELAY", 1),
        (socket.IPPROTO_TCP, "TCP_KEEPIDLE", KEEPALIVE_IDLE),
        (socket.IPPROTO_TCP, "TCP_USER_TIMEOUT", USER_TIMEOUT),
        # The server speaks first.
        (socket.IPPROTO_TCP, "TCP_DEFER_ACCEPT", 0),
    ]
    for level, name, value in wanted:
        option = getattr(socket, name, None)
        if option is not None:
            with suppress(OSError):
                sock.setsockopt(level, option, value)


def own_sockets(turns: Turns) -> Sockets | None:
    """Return our own implementation of transports, None to use the loop's.

    On asyncio's own loop the loop's transports are used, so that the tests can compare the two.
    """
    if AVAILABLE and not isinstance(turns.loop, asyncio.BaseEventLoop):
        return Sockets(turns)
    return None


def check_place(port: object, host: object, path: object, sock: object, reuse_port: object) -> None:
    """Raise TypeError or ValueError, which name the argument, if this is not a place to listen on.

    The resolver would take a port modulo 65536, and text for a number.
    """
    if (port is not None) + (path is not None) + (sock is not None) != 1:
        raise TypeError("listen takes exactly one of port, path and sock")
    if port is not None and (isinstance(port, bool) or not isinstance(port, int)):
        raise TypeError(f"port takes an int from 0 to 65535, got {port!r:.80}")
    if isinstance(port, int) and not 0 <= port <= MAX_PORT:
        raise ValueError(f"port takes an int from 0 to 65535, got {port!r:.80}")
    if host is not None and not isinstance(host, str):
        raise TypeError(f"host takes a name or address as str, or None, got {host!r:.80}")
    if path is not None and (not isinstance(path, str) or not path):
        error = ValueError if isinstance(path, str) else TypeError
        raise error(f"path takes that of a UNIX socket as str, got {path!r:.80}")
    if isinstance(path, str) and "\0" in path:
        raise ValueError(f"path takes that of a UNIX socket in the file system, got {path!r:.80}")
    if sock is not None and not isinstance(sock, socket.socket):
        raise TypeError(f"sock takes a bound socket.socket, got {sock!r:.80}")
    if sock is not None:
        _check_sock(sock)
    if reuse_port and port is None:
        raise TypeError("reuse_port is for a port")
    if reuse_port and not hasattr(socket, "SO_REUSEPORT"):
        raise ValueError("reuse_port takes only False: this system does not have it")


def _check_sock(sock: socket.socket) -> None:
    """Raise ValueError for a socket to which clients cannot connect: `listen` would bind an unbound
    one to a random port.
    """
    if sock.fileno() < 0:
        raise ValueError("sock takes a bound socket, got one that is closed")
    if sock.family not in _FAMILIES or sock.type != socket.SOCK_STREAM:
        raise ValueError(f"sock takes a stream socket of TCP or UNIX, got {sock!r:.120}")
    with suppress(OSError):
        sock.getpeername()
        raise ValueError("sock takes a socket that listens, got one that is connected")
    name = sock.getsockname()
    if not name or (not isinstance(name, (str, bytes)) and name[1] == 0):
        raise ValueError("sock takes a bound socket: call its bind() first")


async def bind_tcp(host: str | None, port: int, *, reuse_port: bool = False) -> list[socket.socket]:
    """Return bound sockets, one per address that `host` stands for, None: that of every address of
    IPv4 and of IPv6. All have the same port. Raises OSError.
    """
    infos = list(dict.fromkeys(await _looked_up(host or None, port)))
    for attempt in range(PORT_ATTEMPTS):
        try:
            return _bind_each(infos, host, port, reuse_port=reuse_port)
        except OSError as error:
            if port or error.errno != errno.EADDRINUSE or attempt == PORT_ATTEMPTS - 1:
                raise
    raise AssertionError("the last attempt returns or raises")


def _bind_each(
    infos: list[Any], host: str | None, port: int, *, reuse_port: bool
) -> list[socket.socket]:
    sockets: list[socket.socket] = []
    missing: OSError | None = None
    try:
        for family, kind, protocol, _, address in infos:
            try:
                sock = socket.socket(family, kind, protocol)
            except OSError as error:
                missing = error
                continue
            sockets.append(sock)
            _set_bind_options(sock, reuse_port=reuse_port)
            try:
                sock.bind((address[0], port, *address[2:]))
            except OSError as error:
                missing = OSError(error.errno, f"{error.strerror}: {address[0]} port {port}")
                if error.errno not in _NOT_HERE:
                    raise missing from error
                sockets.pop().close()
            else:
                port = sock.getsockname()[1]
        if not sockets:
            raise missing or OSError(f"{host} has no address")
    except BaseException:
        for sock in sockets:
            sock.close()
        raise
    return sockets


def _set_bind_options(sock: socket.socket, *, reuse_port: bool) -> None:
    if os.name == "posix":
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if reuse_port:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    if sock.family == socket.AF_INET6:
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)


async def _looked_up(host: str | None, port: int) -> list[Any]:
    """Return the result of `getaddrinfo`. Names are looked up in a thread; neither a loop that
    closes nor a process that exits waits for it.
    """
    ask = partial(socket.getaddrinfo, host, port, type=socket.SOCK_STREAM)
    with suppress(socket.gaierror):  # not an address
        return ask(flags=socket.AI_PASSIVE | socket.AI_NUMERICHOST)
    call = partial(ask, flags=socket.AI_PASSIVE)
    outcome = await call_in_thread(asyncio.get_running_loop(), call, "fastsmtp-look-up")
    if isinstance(outcome, BaseException):
        raise outcome
    return outcome


def _is_listening(sock: socket.socket) -> bool:
    try:
        return bool(sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN))
    except OSError:
        return False


class Listener:
    """One listening socket and the loop's server on it.

    path: set for UNIX sockets, removed on close. is_given: `sock` is somebody else's too. Only a
    duplicate is listened on, for its owner may close it, and its number becomes that of another
    socket.
    """

    def __init__(
        self,
        sock: socket.socket,
        path: str | None = None,
        *,
        is_given: bool = False,
        reuse_port: bool = False,
    ) -> None:
        self._given = sock if is_given else None
        sock = self._sock = sock.dup() if is_given else sock
        self._path = path
        self._reuse_port = reuse_port
        self._server: asyncio.Server | Acceptor | None = None
        self._factory: Callable[[], Any] | None = None
        self._sockets: Sockets | None = None
        sock.setblocking(False)
        if sock.family != getattr(socket, "AF_UNIX", None):
            _set_options(sock)
        self.address: tuple[str, int] | str = self._name()

    def _name(self) -> tuple[str, int] | str:
        name = self._sock.getsockname()
        if isinstance(name, bytes):  # of Linux's abstract namespace
            return os.fsdecode(name)
        return name if isinstance(name, str) else (name[0], name[1])

    async def open(self, factory: Callable[[], Any], sockets: Sockets | None) -> None:
        """Begin to accept, into `sockets` where there are any, else by the loop. Raises OSError."""
        loop = asyncio.get_running_loop()
        self._factory = factory
        self._sockets = sockets
        if sockets is not None:
            self._sock.listen(BACKLOG)
            self._server = sockets.listen(self._sock, factory)
            return
        if self._sock.family == getattr(socket, "AF_UNIX", None):
            create = loop.create_unix_server
        else:
            create = loop.create_server  # type: ignore[assignment]  # called with what both take
        # asyncio's own loop accepts `backlog` connections a turn, and without descriptors it fails
        # and logs as many times: so it gets 1, and the kernel's queue is set separately.
        is_own = isinstance(loop, asyncio.BaseEventLoop)
        self._server = await create(factory, sock=self._sock, backlog=1 if is_own else BACKLOG)
        if is_own:
            self._sock.listen(BACKLOG)

    @property
    def is_alive(self) -> bool:
        """Whether the socket still listens."""
        return _is_listening(self._sock)

    async def revive(self) -> None:
        """Bind the same address again and continue. Raises OSError."""
        logger.error("the listening socket on %s has died and is made again", self.address)
        family = self._sock.family
        self._close_server()
        if isinstance(self.address, str):
            sock = bind_unix(self.address)
        else:
            sock = (await bind_tcp(*self.address, reuse_port=self._reuse_port))[0]
            if family != sock.family:
                raise OSError(f"{self.address} cannot be bound again")
            _set_options(sock)
        sock.setblocking(False)
        self._sock = sock
        assert self._factory is not None
        await self.open(self._factory, self._sockets)

    def close(self) -> None:
        """Stop accepting."""
        self._close_server()
        if self._path is not None:
            with suppress(OSError):
                os.unlink(self._path)

    def abandon(self) -> None:
        """Close the descriptors in a forked child; the parent continues to listen."""
        self._sock.close()
        if self._given is not None:
            self._given.close()

    def _close_server(self) -> None:
        if self._server is not None:
            self._server.close()
            self._server = None
        self._sock.close()
        if self._given is not None:
            self._given.close()
            self._given = None


async def bind(
    port: int | None,
    host: str | None,
    path: str | None,
    sock: socket.socket | None,
    *,
    reuse_port: bool,
    lmtp: bool,
) -> list[Listener]:
    """Return a listener for each address of a place that `check_place` has accepted.

    Raises OSError, and ValueError for LMTP on the port of SMTP.
    """
    if path is not None:
        return [Listener(bind_unix(path), path)]
    if sock is not None:
        if lmtp and sock.family != getattr(socket, "AF_UNIX", None):
            _check_lmtp_port(sock.getsockname()[1])
        return [Listener(sock, is_given=True)]
    assert port is not None
    if lmtp:
        _check_lmtp_port(port)
    sockets = await bind_tcp(host, port, reuse_port=reuse_port)
    return [Listener(bound, reuse_port=reuse_port) for bound in sockets]


def _check_lmtp_port(port: int) -> None:
    if port == SMTP_PORT:
        raise ValueError("LMTP must not be offered on TCP port 25 (RFC 2033 §5)")
