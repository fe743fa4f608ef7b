"""SIGUSR2: another program, such as a newer version of this one, goes on with the same sockets.

The command of this process is started again, with the sockets (LISTEN_FDS) and with a descriptor on
which it reports that its workers are ready. Then this parent's workers accept no more clients, and
end when theirs do. If the new program fails, everything stays as it was.
"""

from __future__ import annotations

import fcntl
import os
import signal
import socket
import sys
from collections.abc import Mapping
from typing import Final, NoReturn

from fastsmtp.gateway.workers.inherited import (
    FIRST,
    IS_READY,
    NAMED_SOCKET,
    READY,
    SOCKET,
    SPOOL,
    Inherited,
    address_of,
    variables,
)
from fastsmtp.gateway.workers.parent import Parent
from fastsmtp.gateway.workers.reactor import Reactor

__all__ = ["HandOver"]

READY_SECONDS: Final = 120.0  # for all workers, one of which may take 60
KILL_SECONDS: Final = 10.0
STATUS_NO_PROGRAM: Final = 127  # as shells have it


class HandOver:
    """Hands the sockets of `parent` over at a signal."""

    def __init__(self, parent: Parent) -> None:
        self._parent = parent

    def on_signal(self) -> None:
        """Begin, unless the end of this process would be that of its container."""
        if os.getpid() == 1:
            self._parent.notes.complain(
                "SIGUSR2: this is process 1, whose end would be that of the new program too"
            )
            return
        self._parent.change(self._begin)

    def _begin(self) -> None:
        parent = self._parent
        try:
            successor = Successor(parent)
        except OSError as error:
            parent.notes.complain(f"SIGUSR2: cannot start a program: {error.strerror}")
            parent.is_changed()
            return
        parent.children[successor.pid] = successor
        parent.notes.tell(f"SIGUSR2: process {successor.pid} is to take over")


class Successor:
    """The new program until it is ready or has failed. Raises OSError if it cannot be started."""

    def __init__(self, parent: Parent) -> None:
        self._parent = parent
        sockets = [sock for group in parent.sockets.all().values() for sock in group]
        self._end, its_end = socket.socketpair()
        given = [(sock.fileno(), _name_of(sock, parent.sockets.inherited)) for sock in sockets]
        given.append((its_end.fileno(), READY))
        if parent.lock.descriptor >= 0:
            given.append((parent.lock.descriptor, SPOOL))
        try:
            more = {**variables([name for _, name in given]), **parent.manager.variables}
            self.pid = _start([number for number, _ in given], more, parent.reactor)
        except OSError:
            self._end.close()
            raise
        finally:
            its_end.close()
        self._is_over = False
        self._deadline = parent.reactor.call_later(READY_SECONDS, self._is_late)
        parent.reactor.watch(self._end, self._read)

    def _read(self) -> None:
        said = self._end.recv(len(IS_READY))
        self._forget_end()
        if said == IS_READY:
            self._deadline.cancel()
            del self._parent.children[self.pid]
            self._parent.manager.say_last(MAINPID=self.pid)
            self._parent.notes.tell(f"SIGUSR2: process {self.pid} has taken over")
            self._parent.leave()
        elif not self._is_over:  # without a word: it is about to end
            self._deadline.cancel()
            self._deadline = self._parent.reactor.call_later(KILL_SECONDS, self.stop)

    def _forget_end(self) -> None:
        self._parent.reactor.forget(self._end)
        self._end.close()

    def _is_late(self) -> None:
        self._parent.notes.complain(
            f"SIGUSR2: process {self.pid} was not ready after {READY_SECONDS:.0f} seconds"
        )
        self.stop()

    def ended(self, status: int) -> None:
        """It has ended without having been ready."""
        self._is_over = True
        self._deadline.cancel()
        if self._end.fileno() >= 0:
            self._forget_end()
        if self._parent.is_stopping:
            return
        self._parent.notes.complain(
            f"SIGUSR2: process {self.pid} has not taken over, it ended with status {status}:"
            " this one goes on"
        )
        self._parent.is_changed()

    def stop(self) -> None:
        """Have it end; kill it if it does not."""
        os.kill(self.pid, signal.SIGTERM)
        self._deadline.cancel()
        self._deadline = self._parent.reactor.call_later(KILL_SECONDS, self.hurry)

    def hurry(self) -> None:
        """Kill it; its workers end by themselves."""
        os.kill(self.pid, signal.SIGKILL)

    def abandon(self) -> None:
        """Close the descriptor, in a worker."""
        self._end.close()


def _name_of(sock: socket.socket, inherited: Inherited) -> str:
    """Return the name of a socket for the new program: what a service manager has said stays."""
    name = inherited.names.get(address_of(sock))
    return SOCKET if name is None else f"{NAMED_SOCKET}{name}"


def _start(descriptors: list[int], more: Mapping[str, str], reactor: Reactor) -> int:
    """Start the command of this process with `descriptors`; return its number. Raises OSError.

    more: variables.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    try:
        pid = os.fork()
        if pid == 0:
            _become(descriptors, more, reactor, before)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    return pid


def _become(
    descriptors: list[int], more: Mapping[str, str], reactor: Reactor, before: set[int]
) -> NoReturn:
    """Be the new program."""
    try:
        signal.set_wakeup_fd(-1)
        for number in reactor.signals:
            signal.signal(number, signal.SIG_DFL)
        above = FIRST + len(descriptors)
        copies = [fcntl.fcntl(each, fcntl.F_DUPFD_CLOEXEC, above) for each in descriptors]
        for number, copy in enumerate(copies, FIRST):
            os.dup2(copy, number, inheritable=True)
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        environ = {**os.environ, **more, "LISTEN_PID": str(os.getpid())}
        os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], environ)
    finally:
        os._exit(STATUS_NO_PROGRAM)
