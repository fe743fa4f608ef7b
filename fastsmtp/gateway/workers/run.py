"""`fastsmtp serve --workers`: from a plan to the exit status."""

from __future__ import annotations

import signal
from collections.abc import Callable

from fastsmtp.gateway.workers.changes import Changes
from fastsmtp.gateway.workers.handover import HandOver
from fastsmtp.gateway.workers.inherited import inherited, name_of
from fastsmtp.gateway.workers.notes import Notes
from fastsmtp.gateway.workers.parent import Parent, Plan
from fastsmtp.gateway.workers.sockets import Sockets, places_of

__all__ = ["run_parent"]


def run_parent(plan: Plan, again: Callable[[], Plan]) -> int:
    """Serve by several processes until a signal; return the exit status.

    again: reads the configuration anew, for SIGHUP; ValueError says what is wrong with it. Raises
    StartError when nothing can be served, ValueError for wrong usage that only a worker finds.
    """
    notes = Notes()
    sockets = Sockets(inherited=inherited())
    sockets.open(plan.listeners, plan.workers)
    sockets.inherited.check_used()
    places = places_of(plan.listeners)
    for place, listener in places.items():
        for address in sockets.addresses([place]):
            notes.say(f"listening on {listener.kind.value}{name_of(address)}")
    parent = Parent(plan, sockets, notes)
    changes = Changes(parent, again, sockets.take_over)
    return parent.run(
        changes.start,
        {
            signal.SIGHUP: changes.on_hangup,
            signal.SIGTTIN: changes.on_more,
            signal.SIGTTOU: changes.on_fewer,
            signal.SIGUSR2: HandOver(parent).on_signal,
        },
    )
