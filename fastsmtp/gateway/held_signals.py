"""Signals that come before the server can obey them: they wait in the system until it does. And
those that a process without workers cannot obey: it says so.

By default SIGHUP and SIGUSR2 end a process, and SIGTTIN and SIGTTOU stop it. A script that starts a
server and reloads it at once would end it.
"""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable
from typing import Final

__all__ = ["hold", "release", "survive_those_for_parents"]

_FOR_PARENTS: Final = ("SIGUSR2", "SIGTTIN", "SIGTTOU")
_NAMES: Final = ("SIGHUP", *_FOR_PARENTS)
_HELD: Final = {getattr(signal, name) for name in _NAMES if hasattr(signal, name)}


def hold() -> None:
    """Have them wait."""
    if hasattr(signal, "pthread_sigmask"):  # not on Windows
        signal.pthread_sigmask(signal.SIG_BLOCK, _HELD)


def release() -> None:
    """Have them take effect: those that wait, now. The handlers are set before."""
    if hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _HELD)


def survive_those_for_parents(
    loop: asyncio.AbstractEventLoop, warn: Callable[[str], object]
) -> None:
    """Have a process without workers only warn of the signals that change or replace workers."""
    for name in _FOR_PARENTS:
        if hasattr(signal, name):
            text = f"{name} changes nothing: this server has no --workers"
            loop.add_signal_handler(getattr(signal, name), warn, text)
