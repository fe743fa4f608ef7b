"""`fastsmtp serve --workers`: from a plan to the exit status."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Final

from fastsmtp.delivery.errors import reason_of
from fastsmtp.delivery.spool import SpoolError
from fastsmtp.delivery.spool.family import ServerLock
from fastsmtp.gateway.activation import Activation
from fastsmtp.gateway.config import Loaded
from fastsmtp.gateway.privileges import Account, account_of, drop, warning_of_root
from fastsmtp.gateway.service_manager import ServiceManager
from fastsmtp.gateway.start import StartError
from fastsmtp.gateway.workers.admin import AdminKeeper
from fastsmtp.gateway.workers.changes import Changes, Plans
from fastsmtp.gateway.workers.handover import HandOver
from fastsmtp.gateway.workers.inherited import inherited, name_of
from fastsmtp.gateway.workers.names import Names, names_in
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
    config = loaded.config
    notes = Notes(config.log_format)
    manager = ServiceManager(os.environ, notes.warn)
    account = account_of(config.user, config.group)
    if config.umask is not None:
        os.umask(config.umask)
    sockets = Sockets(inherited=inherited(), owner=account)
    plans = _Plans(loaded, plan_of, sockets, notes)
    first = plans.make(loaded, is_start=True)
    sockets.open(first.listeners, first.workers)
    sockets.inherited.check_used()
    try:
        warning = _give_up_root(account, sockets, stay_root=config.stay_root)
        _log_to(notes, config.log_file)
        lock = _lock_of(first, sockets)
    except StartError:
        sockets.close()
        raise
    addresses = _addresses(first, sockets)
    for line in (*(f"listening on {each}" for each in addresses), warning, *_shared(sockets)):
        if line:
            notes.say(line)
    return _run(Parent(first, sockets, lock, notes, manager, ", ".join(addresses)), plans)


def _run(parent: Parent, plans: Plans) -> int:
    def on_ready() -> None:
        parent.lock.note_holder()
        parent.sockets.take_over()

    changes = Changes(parent, plans, on_ready)
    return parent.run(
        partial(AdminKeeper(parent, parent.plan.admin).begin, changes.start),
        {
            signal.SIGHUP: changes.on_hangup,
            signal.SIGTTIN: changes.on_more,
            signal.SIGTTOU: changes.on_fewer,
            signal.SIGUSR2: HandOver(parent).on_signal,
        },
    )


class _Plans:
    """Makes plans of the configuration, which is read again for each reload."""

    def __init__(
        self, loaded: Loaded, plan_of: Callable[[Loaded], Plan], sockets: Sockets, notes: Notes
    ) -> None:
        self._loaded = loaded
        self._plan_of = plan_of
        self._sockets = sockets
        self._notes = notes
        self._activation = Activation(sockets.inherited)

    def again(self) -> Loaded:
        """Read the configuration. Raises ValueError."""
        later = self._loaded.again()
        for key in AT_START:
            if key in self._loaded.changed(later):
                self._notes.warn(f"SIGHUP: {key} has another value, which the next start will use")
        return later

    def names(self, loaded: Loaded) -> set[str]:
        """Return the hosts whose addresses are needed, and that are names."""
        listeners = loaded.config.listeners
        if self._activation:  # every listener may be for one of its sockets
            return names_in(listeners)
        places = places_of(listeners)
        return names_in(places[each] for each in places.keys() - self._sockets.groups.keys())

    def make(self, loaded: Loaded, names: Names | None = None, *, is_start: bool = False) -> Plan:
        """Return the plan. names: what was looked up before. Raises ValueError, StartError."""
        self._sockets.names = self._activation.names = names or {}
        if self._activation:
            listeners = self._activation.served(loaded.config.listeners, is_start=is_start)
            loaded = replace(loaded, config=replace(loaded.config, listeners=listeners))
        return self._plan_of(loaded)


def _log_to(notes: Notes, path: str) -> None:
    """Write to the log file, which belongs to the user that the workers are too."""
    try:
        notes.write_to(path)
    except OSError as error:
        raise StartError(f"--log-file: cannot open {path}: {reason_of(error)}") from error


def _lock_of(plan: Plan, sockets: Sockets) -> ServerLock:
    """Return the lock on the spool, locked: by the one who uses it, without the rights of root."""
    lock = ServerLock(plan.spool, sockets.inherited.spool)
    try:
        lock.acquire()
    except SpoolError as error:
        raise StartError(str(error)) from error
    return lock


def _addresses(plan: Plan, sockets: Sockets) -> list[str]:
    """Return where the workers will listen."""
    return [
        str(listener) if listener.path else f"{listener.kind.value}{name_of(address)}"
        for place, listener in places_of(plan.listeners).items()
        for address in sockets.addresses([place])
    ]


def _shared(sockets: Sockets) -> list[str]:
    """Return a line for each port whose clients cannot be kept together."""
    if sockets.slots == 1:
        return []
    return [
        f"{name_of(address)} has one socket for all workers:"
        " limits per client hold for each worker alone"
        for address in sockets.shared_ports()
    ]


def _give_up_root(account: Account | None, sockets: Sockets, *, stay_root: bool) -> str:
    """Become the account, if there is one; return a line for the log if this is root, else ""."""
    every = (sock for some in sockets.all().values() for sock in some)
    if account is None:
        return warning_of_root(every, stay_root=stay_root)
    drop(account)
    return ""
