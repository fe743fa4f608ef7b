"""How long a dialogue may go on before other connections are served.

In: nothing. Out: whether the dialogue has to stop before its next command, and the time. The
dialogue does not read clocks, so it asks an object that may; `_net.turns.Turns` does.
"""

from __future__ import annotations

__all__ = ["UNHURRIED", "Pace"]


class Pace:
    """A pace without a limit, for a dialogue that is alone."""

    def is_over(self) -> bool:
        """Whether the remaining input has to wait for the next turn."""
        return False

    def now(self) -> float:
        """The time in seconds, to measure how long a hook takes; 0 without a clock."""
        return 0.0


UNHURRIED = Pace()
