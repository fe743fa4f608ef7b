"""The engine's way to the log: a handler that fails costs a line, never a connection."""

from __future__ import annotations

import logging
from contextlib import suppress
from typing import Any, Final

__all__ = ["logger", "rcpt_logger"]


class GuardedLogger:
    """A logger of the engine; what its handlers raise ends here."""

    def __init__(self, name: str) -> None:
        self._logger = logging.getLogger(name)

    @property
    def shows_debug(self) -> bool:
        """Whether lines of level DEBUG go anywhere: ask before making their text."""
        return self._logger.isEnabledFor(logging.DEBUG)

    def debug(self, message: str, *values: object) -> None:
        """What happened on one connection."""
        self._log(logging.DEBUG, message, *values)

    def info(self, message: str, *values: object) -> None:
        """What is worth a line, and nobody's fault."""
        self._log(logging.INFO, message, *values)

    def warning(self, message: str, *values: object) -> None:
        """What an operator should look at."""
        self._log(logging.WARNING, message, *values)

    def error(self, message: str, *values: object, exc_info: Any = None) -> None:
        """What has failed; exc_info: the exception whose traceback goes with it."""
        self._log(logging.ERROR, message, *values, exc_info=exc_info)

    def _log(self, level: int, message: str, *values: object, exc_info: Any = None) -> None:
        # Handlers and the __repr__ of what they are given are foreign code.
        with suppress(Exception):
            self._logger.log(level, message, *values, exc_info=exc_info)


logger: Final = GuardedLogger("fastsmtp")
# Refused recipients, which can be shown without all else that has the level DEBUG.
rcpt_logger: Final = GuardedLogger("fastsmtp.rcpt")
