"""`fastsmtp serve --workers`: from a plan to the exit status."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Final

from fastsmtp.delivery.spool import SpoolError
from fastsmtp.delivery.spool.family import ServerLock
from fastsmtp.gateway.activation import Activation
from fastsmtp.gateway.config import Loaded
from fastsmtp.gateway.privileges import Account, account_of, drop, warning_of_root
from fastsmtp.gateway.service_manager import ServiceManager
from fastsmtp.gateway.start import StartError
from fastsmtp.gateway.workers.admin import AdminKeeper
from fastsmtp.gateway.workers.changes import Changes
from fastsmtp.gateway.workers.handover import HandOver
from fastsmtp.gateway.workers.inherited import inherited, name_of
from fastsmtp.gateway.workers.notes import Notes
from fastsmtp.gateway.workers.parent import Parent, Plan
from fastsmtp.gateway.workers.sockets import Sockets, places_of

__all__ = ["run_parent"]


# Keys of the configuration that have their effect once, before the first worker.
AT_START: Final = ("user", "group", "umask", "stay_root")


def run_parent(loaded: Loaded, plan_of: Callable[[Loaded], Plan]) -> int:
    """Serve by several processes until a signal; return the exit status.

    plan_of: makes the plan of a configuration, which is loaded anew for SIGHUP. Raises StartError
    when nothing can be served, ValueError for wrong usage that only a worker finds.
    """
    notes, config = Notes(), loaded.config
    manager = ServiceManager(os.environ, notes.warn)
    account = account_of(config.user, config.group)
    if config.umask is not None:
        os.umask(config.umask)
    sockets = Sockets(inherited=inherited(), owner=account)
    activation = Activation(sockets.inherited)

    def plan(loaded: Loaded, *, is_start: bool) -> Plan:
        if activation:
            listeners = activation.served(loaded.config.listeners, is_start=is_start)
            loaded = replace(loaded, config=replace(loaded.config, listeners=listeners))
        return plan_of(loaded)

    def again() -> Plan:
        later = loaded.again()
        for key in AT_START:
            if key in loaded.changed(later):
                notes.warn(f"SIGHUP: {key} has another value, which the next start will use")
        return plan(later, is_start=False)

    first = plan(loaded, is_start=True)
    sockets.open(first.listeners, first.workers)
    sockets.inherited.check_used()
    addresses = _say_places(first, sockets, notes)
    _give_up_root(account, sockets, notes, stay_root=config.stay_root)
    lock = _lock_of(first, sockets)
    parent = Parent(first, sockets, lock, notes, manager, ", ".join(addresses))
    return _run(parent, again)


def _run(parent: Parent, again: Callable[[], Plan]) -> int:
    def on_ready() -> None:
        parent.lock.note_holder()
        parent.sockets.take_over()

    changes = Changes(parent, again, on_ready)
    return parent.run(
        partial(AdminKeeper(parent, parent.plan.admin).begin, changes.start),
        {
            signal.SIGHUP: changes.on_hangup,
            signal.SIGTTIN: changes.on_more,
            signal.SIGTTOU: changes.on_fewer,
            signal.SIGUSR2: HandOver(parent).on_signal,
        },
    )


def _lock_of(plan: Plan, sockets: Sockets) -> ServerLock:
    """Return the lock on the spool, locked: by the one who uses it, without the rights of root."""
    lock = ServerLock(plan.spool, sockets.inherited.spool)
    try:
        lock.acquire()
    except SpoolError as error:
        sockets.close()
        raise StartError(str(error)) from error
    return lock


def _say_places(plan: Plan, sockets: Sockets, notes: Notes) -> list[str]:
    """Say where the workers will listen, and return that."""
    addresses = [
        str(listener) if listener.path else f"{listener.kind.value}{name_of(address)}"
        for place, listener in places_of(plan.listeners).items()
        for address in sockets.addresses([place])
    ]
    for address in addresses:
        notes.say(f"listening on {address}")
    return addresses


def _give_up_root(
    account: Account | None, sockets: Sockets, notes: Notes, *, stay_root: bool
) -> None:
    every = (sock for some in sockets.all().values() for sock in some)
    try:
        if account is not None:
            drop(account)
        elif warning := warning_of_root(every, stay_root=stay_root):
            notes.say(warning)
    except StartError:
        sockets.close()
        raise
