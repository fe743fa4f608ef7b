"""Whether the service can take mail, from the pages of its processes."""

from __future__ import annotations

from typing import Final

from fastsmtp.gateway.admin.pages import Pages
from fastsmtp.metrics import PROMISES, cell

__all__ = ["readiness"]

_READY: Final = cell("ready")
_UP: Final = cell("delivery_up")
# An application without a delivery promises nothing.
_PROMISES: Final = slice(cell("delivery_promise"), cell("delivery_promise") + len(PROMISES))


def readiness(pages: Pages) -> tuple[bool, str]:
    """Return whether a process takes mail, and the reason in a few words."""
    rows = [page.tally.values() for page in pages.used()]
    ready = [row for row in rows if row[_READY]]
    if not ready:
        return False, "no process accepts clients: it starts, or it ends"
    if not any(row[_UP] or not any(row[_PROMISES]) for row in ready):
        return False, "mail cannot be stored"
    return True, "ok"
