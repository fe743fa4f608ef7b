"""Changes of a running parent: its start, a new configuration, more and fewer workers.

In: a signal. Out: all of the change, or nothing of it and one line that gives the reason. Workers
that are replaced accept no more clients once the new ones are ready, and end when their clients do.
"""

from __future__ import annotations

import signal
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Final, Protocol

from fastsmtp.delivery.spool.family import ServerLock
from fastsmtp.gateway.config import Loaded
from fastsmtp.gateway.start import StartError
from fastsmtp.gateway.workers.child import Child
from fastsmtp.gateway.workers.inherited import Address
from fastsmtp.gateway.workers.lookup import look_up
from fastsmtp.gateway.workers.names import Names
from fastsmtp.gateway.workers.parent import Failure, Parent, Plan, Slot
from fastsmtp.gateway.workers.rollout import Rollout
from fastsmtp.gateway.workers.sockets import places_of

__all__ = ["Changes", "Plans"]

# A reload waits while more old workers than so many for each slot still have clients.
MAX_LEAVING: Final = 8
LOOK_AGAIN: Final = 0.5  # seconds


class Plans(Protocol):
    """The configuration, as a reload needs it. Texts of errors are one line."""

    def again(self) -> Loaded:
        """Read it. Raises ValueError."""

    def names(self, loaded: Loaded) -> set[str]:
        """Return the names of hosts that must be looked up."""

    def make(self, loaded: Loaded, names: Names) -> Plan:
        """Return the plan. Raises ValueError and StartError."""


class Changes:
    """plans: reads the configuration. on_ready: called when the first workers are ready."""

    def __init__(self, parent: Parent, plans: Plans, on_ready: Callable[[], object]) -> None:
        self._parent = parent
        self._plans = plans
        self._on_ready = on_ready
        # Workers, as SIGTTIN and SIGTTOU have asked for, which may come before the start.
        self._wanted = parent.sockets.slots
        self._leaving: set[Child] = set()  # workers that were told to end

    # The start.

    def start(self) -> None:
        """Start all workers, as the first change; the parent ends if one of them cannot start."""
        parent = self._parent
        count = parent.sockets.slots
        numbers = range(1, count + 1)

        def done(failure: Failure | None) -> None:
            if failure is not None:
                parent.fail(failure)
                return
            self._take(rollout)
            # Fewer than the sockets that were inherited; signals may have come meanwhile.
            self._wanted = max(1, self._wanted + parent.plan.workers - count)
            parent.steer(count)  # of a parent that took over, only now
            parent.notes.say(_ready(count))
            parent.manager.ready(parent.status())
            self._on_ready()
            self._resize()

        rollout = Rollout(parent, parent.plan, numbers, count=count, at_once=True, done=done)
        if not parent.sockets.inherited.is_handed_over:
            parent.steer(count)  # clients may connect already
        rollout.begin()

    def _take(self, rollout: Rollout) -> list[Child]:
        """Put the new workers into their slots; return those that were there."""
        parent = self._parent
        old = []
        for number, child in sorted(rollout.fresh.items()):
            if number > len(parent.slots):
                parent.slots.append(Slot(number))
            slot = parent.slots[number - 1]
            if slot.timer is not None:
                slot.timer.cancel()
                slot.timer = None
            if slot.child is not None:
                old.append(slot.child)
            slot.failures = 0
            parent.keep(slot, child)
        return old

    # SIGHUP.

    def on_hangup(self) -> None:
        """Read the configuration, and serve it by new workers."""
        self._parent.manager.reloading()
        self._parent.change(self._reload)

    def _reload(self) -> None:
        parent = self._parent
        if parent.is_stopping:  # since it began to wait
            return
        if len(self._leaving) > MAX_LEAVING * len(parent.slots):  # each takes its memory
            parent.reactor.call_later(LOOK_AGAIN, self._reload)
            return
        parent.is_reloading = True
        parent.notes.reopen()
        try:
            loaded = self._plans.again()
            if names := self._plans.names(loaded):
                look_up(parent, names, partial(self._apply, loaded))
                return
        except ValueError as error:
            self._give_up(str(error))
        except OSError as error:
            self._give_up(f"cannot start a process: {error.strerror}")
        else:
            self._apply(loaded, {})

    def _give_up(self, reason: str) -> None:
        self._parent.notes.complain(f"SIGHUP: everything stays as it was: {reason}")
        self._parent.is_changed()

    def _apply(self, loaded: Loaded, names: Names) -> None:
        """Start new workers for a configuration. names: the addresses that its hosts have."""
        parent, sockets = self._parent, self._parent.sockets
        places, slots = set(sockets.groups), sockets.slots

        def give_up(reason: str) -> None:
            sockets.close(set(sockets.groups) - places)
            sockets.narrow_to(slots)
            self._give_up(reason)

        def done(failure: Failure | None) -> None:
            if failure is None:
                self._switch(plan, rollout, count, lock)
                return
            if lock is not parent.lock:
                lock.release()
            give_up(failure[0])

        try:
            plan = self._plans.make(loaded, names)
            count = len(parent.slots) if plan.workers == parent.plan.workers else plan.workers
            lock = self._open(plan, count)
        except (ValueError, StartError) as error:
            give_up(str(error))
            return
        numbers = range(1, count + 1)
        rollout = Rollout(parent, plan, numbers, count=count, at_once=False, done=done)
        rollout.begin()

    def _open(self, plan: Plan, count: int) -> ServerLock:
        """Open the sockets that are not open yet; return the lock on the spool, locked.

        Raises ValueError and StartError; then some of the sockets may be open.
        """
        parent = self._parent
        lock = parent.lock
        if plan.spool != parent.plan.spool:
            lock = ServerLock(plan.spool)
            lock.acquire()
        try:
            parent.sockets.open(plan.listeners)
            while parent.sockets.slots < count:
                parent.sockets.widen()
        except StartError:
            if lock is not parent.lock:
                lock.release()
            raise
        return lock

    def _switch(self, plan: Plan, rollout: Rollout, count: int, lock: ServerLock) -> None:
        """The new workers are ready: let the old ones end."""
        parent, sockets = self._parent, self._parent.sockets
        if lock is not parent.lock:
            parent.lock.release()
            parent.lock = lock
        for child in self._leaving:  # since an earlier reload
            child.stop()
        if plan.workers != parent.plan.workers:
            self._wanted = count
        parent.plan = plan
        self._log_as(plan)
        old = self._take(rollout)
        surplus = [slot.child for slot in parent.slots[count:] if slot.child is not None]
        del parent.slots[count:]
        parent.steer(count)
        removed = set(sockets.groups) - set(places_of(plan.listeners))
        sockets.refuse_new(removed)
        gone = sockets.addresses(removed)
        own = list({*gone, *sockets.addresses(sockets.groups, are_shared=False)})

        def close() -> None:
            sockets.close(removed)
            sockets.narrow_to(count)
            parent.notes.tell(f"SIGHUP: {_ready(count, 'new ')}")
            parent.is_changed()

        self._retire(dict.fromkeys(old, gone) | dict.fromkeys(surplus, own), close)

    def _log_as(self, plan: Plan) -> None:
        notes = self._parent.notes
        notes.form = plan.log_format
        try:
            notes.write_to(plan.log_file)
        except OSError as error:
            notes.complain(f"SIGHUP: cannot open {plan.log_file}: {error.strerror}")

    def _retire(
        self, children: Mapping[Child, Sequence[Address]], then: Callable[[], object]
    ) -> None:
        """Have workers end that are not needed any more; call `then` when they accept no more, and
        have emptied the queues of the addresses beside them.
        """
        emptying = set(children)

        def is_empty(child: Child) -> None:
            if child in emptying:
                emptying.remove(child)
                if not emptying:
                    then()

        def has_ended(child: Child) -> None:
            self._leaving.discard(child)
            if child.status not in (0, -signal.SIGTERM):
                self._parent.notes.complain(
                    f"worker {child.number}, process {child.pid}, which was to end:"
                    f" {child.reason()}"
                )
            is_empty(child)

        for child, addresses in children.items():
            self._leaving.add(child)
            child.forget()
            child.on_emptied, child.on_end = is_empty, has_ended
            child.drain(addresses)
        if not emptying:
            then()

    # SIGTTIN and SIGTTOU.

    def on_more(self) -> None:
        """Add a worker."""
        self._wanted += 1
        self._parent.change(self._resize)

    def on_fewer(self) -> None:
        """Remove the last worker."""
        if self._wanted <= 1:
            self._parent.notes.warn("SIGTTOU: the last worker stays")
            return
        self._wanted -= 1
        self._parent.change(self._resize)

    def _resize(self) -> None:
        count = len(self._parent.slots)
        if self._wanted > count:
            self._add(count + 1)
        elif self._wanted < count:
            self._remove(count)
        else:
            self._parent.is_changed()

    def _add(self, number: int) -> None:
        parent = self._parent

        def give_up(reason: str) -> None:
            parent.notes.complain(f"SIGTTIN: there is no worker {number}: {reason}")
            self._wanted = number - 1
            parent.sockets.narrow_to(number - 1)
            parent.is_changed()

        def done(failure: Failure | None) -> None:
            if failure is not None:
                give_up(failure[0])
                return
            self._take(rollout)
            parent.steer(number)
            parent.notes.tell(f"SIGTTIN: {number} workers")
            self._resize()

        try:
            parent.sockets.widen()
        except StartError as error:
            give_up(str(error))
            return
        rollout = Rollout(parent, parent.plan, [number], count=number, at_once=False, done=done)
        rollout.begin()

    def _remove(self, number: int) -> None:
        """Remove the last worker; one that has crashed comes back first, to empty its queue."""
        parent, slot = self._parent, self._parent.slots[-1]

        def done(failure: Failure | None) -> None:
            self._take(rollout)
            self._remove_last()

        if slot.child is not None and slot.child.ready_at is not None:
            self._remove_last()
            return
        if slot.timer is not None:
            slot.timer.cancel()
        if slot.child is not None:
            self._retire({slot.child: []}, _nothing)
            slot.child = None
        rollout = Rollout(parent, parent.plan, [number], count=number, at_once=False, done=done)
        rollout.begin()

    def _remove_last(self) -> None:
        parent, sockets = self._parent, self._parent.sockets
        slot = parent.slots.pop()
        parent.steer(len(parent.slots))

        def close() -> None:
            sockets.narrow_to(len(parent.slots))
            parent.notes.tell(f"SIGTTOU: {len(parent.slots)} workers")
            self._resize()

        own = sockets.addresses(sockets.groups, are_shared=False)
        if slot.child is None:
            close()
        else:
            self._retire({slot.child: own}, close)


def _nothing() -> None:
    pass


def _ready(count: int, new: str = "") -> str:
    return f"1 {new}worker is ready" if count == 1 else f"{count} {new}workers are ready"
