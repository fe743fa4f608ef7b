"""Signals that come before the server can obey them: they wait in the system until it does.

By default SIGHUP and SIGUSR2 end a process, and SIGTTIN and SIGTTOU stop it. A script that starts a
server and reloads it at once would end it.
"""

from __future__ import annotations

import signal
from typing import Final

__all__ = ["hold", "release"]

_NAMES: Final = ("SIGHUP", "SIGUSR2", "SIGTTIN", "SIGTTOU")
_HELD: Final = {getattr(signal, name) for name in _NAMES if hasattr(signal, name)}


def hold() -> None:
    """Have them wait."""
    if hasattr(signal, "pthread_sigmask"):  # not on Windows
        signal.pthread_sigmask(signal.SIG_BLOCK, _HELD)


def release() -> None:
    """Have them take effect: those that wait, now. The handlers are set before."""
    if hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _HELD)
