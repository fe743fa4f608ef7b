"""Where a process without workers listens: sockets that were open, and sockets that it binds while
it has the rights of root.

In: the configuration. Out: sockets. Nothing accepts on them yet, so a client waits, or is refused,
until everything else is ready. Raised: `StartError`.
"""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from typing import Self

from fastsmtp.delivery.errors import reason_of
from fastsmtp.gateway.activation import Activation
from fastsmtp.gateway.config import DEFAULT_LISTEN, Config, Listener, parse_listener
from fastsmtp.gateway.privileges import Account, account_of, drop, warning_of_root
from fastsmtp.gateway.start import StartError
from fastsmtp.gateway.workers.inherited import inherited
from fastsmtp.gateway.workers.sockets import inherited_for
from fastsmtp.running import begin_unless_stopped, handling
from fastsmtp.sockets import bind_tcp
from fastsmtp.unix_sockets import bind_unix

__all__ = ["Places", "take_places"]


class Places:
    """Listeners and their sockets, as pairs: several listeners may be for any free port of one
    address.

    account: whom the process is to become, None if it stays as it is. warning: a line for the log,
    "" for none. tell_ready: tells a process that this one takes over from, if there is one. lock:
    the lock on the spool that it has handed over, -1 for none.
    """

    def __init__(
        self,
        sockets: Iterable[tuple[Listener, Iterable[socket.socket]]],
        account: Account | None = None,
        tell_ready: Callable[[], object] = lambda: None,
        lock: int = -1,
    ) -> None:
        self.sockets = [(listener, list(found)) for listener, found in sockets]
        self.account = account
        self.warning = ""
        self.tell_ready = tell_ready
        self.lock = lock
        self._files: dict[str, tuple[int, int]] = {}  # path -> device and number of the file

    @property
    def listeners(self) -> tuple[Listener, ...]:
        """All listeners."""
        return tuple(listener for listener, _ in self.sockets)

    def __enter__(self) -> Self:
        """Remove the files of UNIX sockets at the end of the block, if they are still there."""
        return self

    def __exit__(self, *_: object) -> None:
        self.remove_files()

    async def bind(self) -> None:
        """Bind what has no sockets yet. Raises StartError."""
        for listener, sockets in self.sockets:
            if not sockets:
                sockets.extend(await _bound(listener, self.account))
                if listener.path:
                    self._files[listener.path] = _identity(listener.path)

    def give_up_root(self) -> None:
        """Become the account, if there is one. Raises StartError."""
        if self.account is not None:
            drop(self.account)

    def remove_files(self) -> None:
        """Remove the files of UNIX sockets that were bound here, and not replaced since."""
        for path, identity in self._files.items():
            # A file that is not ours to remove, in a directory of root, is replaced at the next
            # start.
            with suppress(OSError):
                if _identity(path) == identity:
                    os.unlink(path)
        self._files.clear()


def _identity(path: str) -> tuple[int, int]:
    found = os.lstat(path)
    return found.st_dev, found.st_ino


async def _bound(listener: Listener, account: Account | None) -> list[socket.socket]:
    """Return bound sockets, one for each address of the host."""
    try:
        if not listener.path:
            return await bind_tcp(listener.host, listener.port)
        sock = bind_unix(listener.path)
        if account is not None:
            os.lchown(listener.path, account.uid, account.gid)
        return [sock]
    except OSError as error:
        raise StartError(f"cannot listen on {listener}: {reason_of(error)}") from error
    except UnicodeError as error:  # a host name that cannot be looked up
        raise StartError(f"cannot listen on {listener}: no such host") from error


def take_places(config: Config) -> Places | None:
    """Return the sockets of all listeners; None: a signal came first. Raises StartError."""
    account = account_of(config.user, config.group)
    if config.umask is not None:
        os.umask(config.umask)
    found = inherited()
    listeners: Sequence[Listener] = config.listeners or [parse_listener(DEFAULT_LISTEN)]
    served = Activation(found).served(listeners)
    is_open = bool(found.sockets)
    sockets = inherited_for(served, found) if is_open else [(each, ()) for each in served]
    places = Places(sockets, account, found.tell_ready, found.spool)
    try:
        with asyncio.Runner() as runner:
            has_begun = runner.run(_bind_unless_stopped(places))
        if account is None:
            every = (sock for _, some in places.sockets for sock in some)
            places.warning = warning_of_root(every, stay_root=config.stay_root)
    except BaseException:
        places.remove_files()
        raise
    if not has_begun:
        places.remove_files()
    return places if has_begun else None


async def _bind_unless_stopped(places: Places) -> bool:
    stop = asyncio.Event()
    with handling(asyncio.get_running_loop(), dict.fromkeys(("SIGTERM", "SIGINT"), stop.set)):
        return await begin_unless_stopped(places.bind(), stop)
