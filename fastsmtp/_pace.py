"""How long a dialogue may go on before others have their turn.

In: nothing. Out: whether it is to stop before its next command. The dialogue knows no clock, so it
asks an object that may have one; `_net.turns.Turns` does.
"""

from __future__ import annotations

__all__ = ["UNHURRIED", "Pace"]


class Pace:
    """A pace without a limit, for a dialogue that has no others beside it."""

    def is_over(self) -> bool:
        """Whether what is left has to wait for the next turn."""
        return False


UNHURRIED = Pace()
