"""The parent of `fastsmtp serve --workers`: opens the sockets, starts workers, and keeps them.

In: a plan (what is served, by how many), signals. Out: the exit status. A worker that ends without
an order is replaced in the same slot, with the same sockets; clients in their queues wait for it.
Changes (`changes`) are made one after the other; signals that come meanwhile wait.
"""

from __future__ import annotations

import gc
import os
import signal
import time
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from typing import Final, Protocol

from fastsmtp.delivery.spool.family import ServerLock
from fastsmtp.gateway import held_signals
from fastsmtp.gateway.admin.address import AdminAddress
from fastsmtp.gateway.admin.pages import Pages
from fastsmtp.gateway.config import Listener
from fastsmtp.gateway.service_manager import ServiceManager
from fastsmtp.gateway.start import StartError
from fastsmtp.gateway.workers.child import Child, Serve, start
from fastsmtp.gateway.workers.notes import Notes
from fastsmtp.gateway.workers.reactor import Reactor, Timer
from fastsmtp.gateway.workers.sockets import Place, Sockets, SocketsOfSlot, places_of
from fastsmtp.gateway.workers.steering import new_salt
from fastsmtp.metrics import cell

__all__ = ["Failure", "Parent", "Plan", "Slot"]

Failure = tuple[str, int]  # one line, and the exit status

_WORKERS: Final = cell("workers")
_RESTARTS: Final = cell("worker_restarts_total")
_CLIENTS: Final = cell("open_connections")

# A worker that has ended is replaced at once; one that ends again within QUIET seconds of being
# ready waits before that: FIRST_PAUSE, then twice as long each time, up to LONGEST_PAUSE.
QUIET: Final = 30.0
FIRST_PAUSE: Final = 0.25
LONGEST_PAUSE: Final = 30.0

STATUS_CLEAN: Final = 0
STATUS_FAILED: Final = 1


@dataclass(frozen=True)
class Plan:
    """What the parent needs to know of a configuration.

    workers: how many. spool: the directory of the spool that they share, "" if there is none.
    is_steered: whether connections of one address go to one worker. serve: what a worker runs; it
    raises StartError, or ValueError for wrong usage. admin: where metrics are shown, by a process
    of its own. log_format, log_file: of the parent's own lines, too.
    """

    listeners: tuple[Listener, ...]
    workers: int
    spool: str
    is_steered: bool
    serve: Serve
    admin: AdminAddress | None = None
    log_format: str = "text"
    log_file: str = ""


@dataclass
class Slot:
    """The place of one worker. child: None while it waits to be started again."""

    number: int
    child: Child | None = None
    failures: int = 0  # in a row
    timer: Timer | None = None


class Process(Protocol):
    """What the parent has started: a worker, or the program that takes over."""

    def ended(self, status: int) -> None:
        """Take note of its end."""

    def stop(self) -> None:
        """Have it end."""

    def hurry(self) -> None:
        """Have it end now."""

    def abandon(self) -> None:
        """Close its descriptor, in a worker."""


class Parent:
    """One run. plan: the first one; its sockets are open, and lock is that on its spool. places:
    where they are, as text.
    """

    def __init__(
        self,
        plan: Plan,
        sockets: Sockets,
        lock: ServerLock,
        notes: Notes,
        manager: ServiceManager,
        places: str,
    ) -> None:
        self.plan = plan
        self.sockets = sockets
        self.lock = lock
        self.notes = notes
        self.manager = manager
        self.is_reloading = False
        self._places = places
        self.pages = Pages()
        self._tally = self.pages.take().tally
        self.reactor = Reactor()
        self.slots: list[Slot] = []
        self.children: dict[int, Process] = {}
        self.is_stopping = False
        self.failure: Failure | None = None  # why it cannot serve
        self._salt: Final = new_salt()
        self._is_plain = False  # the kernel does not know programs that steer
        self._status = STATUS_CLEAN
        self._waiting: deque[Callable[[], object]] = deque()
        self._is_changing = False
        self._has_signal = False  # to end

    def run(self, begin: Callable[[], object], more: dict[int, Callable[[], object]]) -> int:
        """Serve until a signal; return the exit status. Raises StartError, and ValueError for a
        wrong usage that only a worker finds.

        begin: called first, as the first change, which the others wait for. more: functions for
        other signals.
        """
        handlers: dict[int, Callable[[], object]] = {signal.SIGCHLD: self._reap, **more}
        for number in (signal.SIGTERM, signal.SIGINT):
            handlers[number] = partial(self._on_stop, number)
        self.reactor.on_signals(handlers)
        held_signals.release()
        gc.collect()
        gc.freeze()  # objects of the parent stay where all workers share them
        try:
            self._tick()
            self._is_changing = True
            begin()
            self.reactor.run()
        finally:
            self.sockets.close()
            self.lock.release()
            self.reactor.close()
            self.manager.close()
        if self.failure is not None:
            text, status = self.failure
            raise StartError(text) if status == STATUS_FAILED else ValueError(text)
        self.notes.say("ended")
        return self._status

    # The service manager.

    def status(self) -> str:
        """Return what the service manager shows."""
        children = [slot.child for slot in self.slots if slot.child is not None]
        serving = [child for child in children if child.ready_at is not None]
        words = [self._places, *(str(child.facts["delivering"]) for child in serving[:1])]
        if self.is_stopping:
            words = ["ending"]
        words += [f"workers: {len(serving)}", f"clients: {self.pages.total(_CLIENTS)}"]
        return "; ".join(filter(None, words))

    def _tick(self) -> None:
        if self.manager.is_there:
            self.reactor.call_later(self.manager.tick(self.status), self._tick)

    # Workers.

    def fork(self, number: int, plan: Plan, count: int) -> Child:
        """Start a worker for slot `number` of `count`, which serves `plan`. Raises OSError."""
        abandon = partial(self._abandon, number - 1, places_of(plan.listeners))
        return self._start(number, count, self.sockets.of(number - 1), plan.serve, abandon)

    def fork_helper(self, serve: Serve) -> Child:
        """Start a process that is no worker and has none of the sockets. Raises OSError."""
        return self._start(0, 0, {}, serve, partial(self._abandon, 0, ()))

    def _abandon(self, slot: int, places: Iterable[Place]) -> None:
        """Close, in a process that was forked, what only the parent needs."""
        self.manager.close()  # it does not speak for the service
        self.notes.close()
        for other in self.children.values():
            other.abandon()
        self.sockets.abandon_all_but(slot, places)  # the files of UNIX sockets stay
        self.lock.release()

    def _start(
        self,
        number: int,
        count: int,
        sockets: SocketsOfSlot,
        serve: Serve,
        abandon: Callable[[], None],
    ) -> Child:
        page = self.pages.take()
        try:
            child = start(number, count, sockets, page, self.reactor, serve, abandon)
        except BaseException:
            self.pages.give_back(page)
            raise
        self.children[child.pid] = child
        return child

    def keep(self, slot: Slot, child: Child) -> None:
        """Have `child` be the worker of `slot`, and replace it if it ends."""
        slot.child = child
        self._tell_count()
        child.forget()
        child.on_ready = partial(self._is_back, slot)
        child.on_end = partial(self._has_crashed, slot)

    def _tell_count(self) -> None:
        self._tally.set(_WORKERS, len([slot for slot in self.slots if slot.child is not None]))

    def _is_back(self, slot: Slot, child: Child) -> None:
        self.notes.tell(f"worker {slot.number} is process {child.pid} now")

    def _has_crashed(self, slot: Slot, child: Child) -> None:
        slot.child = None
        self._tell_count()
        if child.ready_at is not None and time.monotonic() - child.ready_at >= QUIET:
            slot.failures = 0
        self._restart_later(slot, f"process {child.pid}: {child.reason()}")

    def _restart_later(self, slot: Slot, reason: str) -> None:
        pause = 0.0
        if slot.failures:
            pause = min(LONGEST_PAUSE, FIRST_PAUSE * 2.0 ** (slot.failures - 1))
        slot.failures = min(slot.failures + 1, 32)
        when = f"in {pause:g} seconds" if pause else "now"
        self.notes.complain(f"worker {slot.number}, {reason}; another one starts {when}")
        slot.timer = self.reactor.call_later(pause, partial(self._restart, slot))

    def _restart(self, slot: Slot) -> None:
        slot.timer = None
        self._tally.add(_RESTARTS)
        try:
            self.keep(slot, self.fork(slot.number, self.plan, len(self.slots)))
        except OSError as error:
            self._restart_later(slot, f"which cannot be started: {error.strerror}")

    def _reap(self) -> None:
        """Take note of the processes that have ended."""
        while self.children:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if pid == 0:
                return
            # As process 1 of a container it gets processes that are not its own.
            if (child := self.children.pop(pid, None)) is not None:
                if isinstance(child, Child):
                    self.pages.give_back(child.page)
                child.ended(os.waitstatus_to_exitcode(status))
        if self.is_stopping:
            self.reactor.stop()

    def steer(self, slots: int) -> None:
        """Spread new clients over the first `slots`; one line says it if the kernel cannot."""
        try:
            self.sockets.steer(slots, self._salt if self.plan.is_steered else None)
        except OSError as error:
            if len(self.slots) > 1 and not self._is_plain:
                self._is_plain = True
                self.notes.warn(
                    f"the kernel cannot keep the clients of an address together ({error.strerror}):"
                    " limits per client hold for each worker alone"
                )

    # Changes.

    def change(self, begin: Callable[[], object]) -> None:
        """Make a change, which calls `is_changed` at its end: now, or after those that wait. One
        that waits already is not added.
        """
        if begin not in self._waiting and not self.is_stopping:
            self._waiting.append(begin)
        self._next_change()

    def is_changed(self) -> None:
        """The change that was begun has come to its end."""
        self._is_changing = False
        if self.is_reloading:
            self.is_reloading = False
            self.manager.ready(self.status())
        self._next_change()

    def _next_change(self) -> None:
        if self._waiting and not self._is_changing and not self.is_stopping:
            self._is_changing = True
            self._waiting.popleft()()

    # The end.

    def _on_stop(self, number: signal.Signals) -> None:
        if self._has_signal:
            self.notes.say(f"{number.name} again: ending at once")
            self._status = STATUS_FAILED
            for child in self.children.values():
                child.hurry()
            return
        self._has_signal = True
        self.notes.say(f"{number.name}: no new clients; messages in flight are finished first")
        self.stop()

    def fail(self, failure: Failure) -> None:
        """End, because there is nothing that can serve."""
        self.failure = failure
        self.stop()

    def stop(self) -> None:
        """Refuse new clients, and end when the workers have."""
        self.sockets.close()
        for child in self._ending():
            child.stop()

    def leave(self) -> None:
        """Another process serves all new clients: end when those that are here do."""
        self.sockets.leave()
        for child in self._ending():
            if isinstance(child, Child):
                child.drain([])

    def _ending(self) -> list[Process]:
        """Begin no more; return what is still running."""
        self.is_stopping = True
        self._waiting.clear()
        self.manager.stopping(self.status())
        for slot in self.slots:
            if slot.timer is not None:
                slot.timer.cancel()
        for child in self.children.values():
            if isinstance(child, Child):
                child.forget()
                child.on_end = self._has_stopped
        if not self.children:
            self.reactor.stop()
        return list(self.children.values())

    def _has_stopped(self, child: Child) -> None:
        is_clean = child.status == 0 or (child.ready_at is None and child.status == -signal.SIGTERM)
        if not is_clean:
            self._status = STATUS_FAILED
            if child.status != STATUS_FAILED:  # which it has reported itself
                self.notes.complain(f"worker {child.number}, process {child.pid}: {child.reason()}")
