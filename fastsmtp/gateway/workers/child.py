"""A worker as its parent sees it: started by a fork, ready or not, told to end, ended.

The parent has no threads and no event loop, so that a fork of it is a complete program. A signal
that comes during the fork waits until the worker has its own handlers.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from typing import Any, Final, NoReturn

from fastsmtp.gateway.admin.pages import Page
from fastsmtp.gateway.start import StartError
from fastsmtp.gateway.workers.channel import Channel, channel
from fastsmtp.gateway.workers.inherited import Address
from fastsmtp.gateway.workers.reactor import Reactor
from fastsmtp.gateway.workers.sockets import SocketsOfSlot
from fastsmtp.gateway.workers.worker import Worker

__all__ = ["Child", "Serve", "start"]

Serve = Callable[[Worker], int]

READY_SECONDS: Final = 60.0  # a spool may be checked for ten, a lifespan may wait for a database
LEAVE_SECONDS: Final = 120.0  # to end when told to: messages in flight have 30
HURRY_SECONDS: Final = 5.0

PR_SET_PDEATHSIG: Final = 1
STATUS_FAILED: Final = 1
STATUS_USAGE: Final = 2


class Child:
    """One worker process. on_ready, on_emptied, on_end: called with it, once each at most.

    failure: why it could not start, with its status. ready_at: time.monotonic(), None before.
    facts: what it has reported when it was ready.
    """

    def __init__(self, number: int, pid: int, end: Channel, reactor: Reactor, page: Page) -> None:
        self.number = number
        self.page = page
        self.pid = pid
        self.failure: tuple[str, int] | None = None
        self.ready_at: float | None = None
        self.facts: dict[str, Any] = {}
        self.status = 0  # as of os.waitstatus_to_exitcode
        self.on_ready: Callable[[Child], object] = _nothing
        self.on_emptied: Callable[[Child], object] = _nothing
        self.on_end: Callable[[Child], object] = _nothing
        self._channel = end
        self._reactor = reactor
        self._deadline = reactor.call_later(READY_SECONDS, self._is_late)
        reactor.watch(end, self._read)

    def _read(self) -> None:
        for word, facts in self._channel.receive():
            if word == "ready" and self.ready_at is None:
                self._deadline.cancel()
                self.ready_at = time.monotonic()
                self.facts = facts
                self.on_ready(self)
            elif word == "emptied":
                self.on_emptied(self)
            elif word == "failed":
                self.failure = str(facts["text"]), int(facts["status"])
        if self._channel.is_over:  # the end of the process is reported by the system
            self._reactor.forget(self._channel)

    def _is_late(self) -> None:
        self.failure = f"it was not ready after {READY_SECONDS:.0f} seconds", STATUS_FAILED
        self.kill(signal.SIGKILL)

    def stop(self) -> None:
        """As SIGTERM to a server without a parent: finish what is under way, and end.

        A worker that does not end is killed after LEAVE_SECONDS.
        """
        self.kill(signal.SIGTERM)
        self._is_to_end()

    def drain(self, empty: Sequence[Address]) -> None:
        """Have it accept no more clients, and end when those it has are done.

        empty: addresses that no other worker has; it takes what waits there first.
        """
        if self.ready_at is None:
            self.stop()
        else:
            self._channel.send("drain", empty=list(empty))
            self._is_to_end()

    def _is_to_end(self) -> None:
        self._deadline.cancel()
        self._deadline = self._reactor.call_later(LEAVE_SECONDS, self.hurry)

    def hurry(self) -> None:
        """Have it end now; kill it if it does not."""
        self._deadline.cancel()
        self._channel.send("hurry")
        self._deadline = self._reactor.call_later(HURRY_SECONDS, self._kill)

    def _kill(self) -> None:
        self.kill(signal.SIGKILL)

    def kill(self, number: signal.Signals) -> None:
        """Send a signal. It has not been waited for, so the number is still its own."""
        os.kill(self.pid, number)

    def ended(self, status: int) -> None:
        """The process has ended; read what it has said before."""
        self._deadline.cancel()
        if not self._channel.is_over:
            self._read()
        if not self._channel.is_over:
            self._reactor.forget(self._channel)
        self._channel.close()
        self.status = status
        self.on_end(self)

    def reason(self) -> str:
        """Return in words why it has ended."""
        if self.failure is not None:
            return self.failure[0]
        if self.status < 0:
            return f"it was killed by {_signal_name(-self.status)}"
        return f"it ended with status {self.status}"

    def forget(self) -> None:
        """Call nothing from now on."""
        self.on_ready = self.on_emptied = self.on_end = _nothing

    def abandon(self) -> None:
        """Close the descriptor, in another worker."""
        self._channel.close()


def _nothing(_child: Child) -> None:
    pass


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:  # a real-time signal
        return f"signal {number}"


# The fork.


def start(
    number: int,
    count: int,
    sockets: SocketsOfSlot,
    page: Page,
    reactor: Reactor,
    serve: Serve,
    abandon: Callable[[], None],
) -> Child:
    """Start a worker for slot `number` (from 1) of `count`; it runs `serve`. Raises OSError.

    abandon: closes, in the worker, what only the parent needs.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    parent, own = channel()
    parent_pid = os.getpid()
    before = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    try:
        pid = os.fork()
        if pid == 0:
            parent.close()
            worker = Worker(number, count, sockets, own, page)
            _be(worker, serve, abandon, parent_pid, reactor, before)
    except BaseException:
        parent.close()
        raise
    finally:
        own.close()
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    return Child(number, pid, parent, reactor, page)


def _be(
    worker: Worker,
    serve: Serve,
    abandon: Callable[[], None],
    parent_pid: int,
    reactor: Reactor,
    before: set[int],
) -> NoReturn:
    """Be the worker; nothing of the parent's runs in this process after it."""
    status = STATUS_FAILED
    try:
        signal.set_wakeup_fd(-1)
        # First, and never ignored: one that the parent has sent already would be lost.
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        for number in {*reactor.signals} - {signal.SIGTERM}:
            signal.signal(number, signal.SIG_IGN)  # they are the parent's business
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        _end_with(parent_pid)
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        reactor.abandon()
        abandon()
        status = serve(worker)
    except StartError as error:
        worker.failed(str(error), STATUS_FAILED)
    except ValueError as error:  # a name that is not that of an application
        status = STATUS_USAGE
        worker.failed(str(error), status)
    except BaseException as error:
        traceback.print_exc()
        worker.failed(f"{type(error).__name__}: {error}", status)
    finally:
        os._exit(status)


def _end_with(parent_pid: int) -> None:
    """Get SIGTERM when the parent ends: an import that hangs would keep the sockets open."""
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != parent_pid:
        os._exit(STATUS_FAILED)
