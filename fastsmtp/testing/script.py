"""What a server for tests is told to refuse, or to delay.

In: rules by stage, from the thread of the test. Out: what to do for one command, in the thread of
the server.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import Literal, TypeAlias, get_args

from fastsmtp import SMTPError

__all__ = ["Script", "Stage"]

Stage: TypeAlias = Literal["connect", "auth", "mail_from", "rcpt_to", "data"]


@dataclass(slots=True)
class _Rule:
    stage: Stage
    only: str | None
    left: float  # times
    seconds: float = 0.0
    refusal: tuple[str, int | None] | None = None


class Script:
    """Rules that are applied in the order in which they were given; the first refusal counts."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._rules: list[_Rule] = []

    def refuse(
        self, stage: Stage, code: int | None, text: str, only: str | None, times: int | None
    ) -> None:
        """Refuse at `stage`; raises TypeError and ValueError as `SMTPError` does."""
        SMTPError(text, code)
        self._add(_Rule(stage, only, _count(times), refusal=(text, code)))

    def delay(self, stage: Stage, seconds: float, only: str | None, times: int | None) -> None:
        """Wait at `stage` before the reply."""
        if not seconds >= 0:
            raise ValueError(f"seconds: 0 or more, got {seconds!r:.20}")
        self._add(_Rule(stage, only, _count(times), seconds=seconds))

    def clear(self) -> None:
        """Forget all rules."""
        with self._lock:
            self._rules.clear()

    def apply(self, stage: Stage, *subjects: str) -> tuple[float, SMTPError | None]:
        """Return how many seconds to wait, and the refusal."""
        seconds, refusal = 0.0, None
        with self._lock:
            for rule in self._rules:
                if rule.stage != stage or rule.left <= 0:
                    continue
                if rule.only not in (None, *subjects) or (rule.refusal and refusal):
                    continue
                rule.left -= 1
                seconds += rule.seconds
                if rule.refusal is not None:
                    refusal = SMTPError(*rule.refusal)
        return seconds, refusal

    def _add(self, rule: _Rule) -> None:
        if rule.stage not in get_args(Stage):
            known = ", ".join(get_args(Stage))
            raise ValueError(f"stage: one of {known}, got {rule.stage!r:.40}")
        with self._lock:
            self._rules.append(rule)


def _count(times: int | None) -> float:
    return float("inf") if times is None else times
