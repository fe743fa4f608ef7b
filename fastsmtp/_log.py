"""The engine's loggers: a failing handler costs a log line, never a connection."""

from __future__ import annotations

import logging
from contextlib import suppress
from typing import Any, Final

__all__ = ["logger", "rcpt_logger", "trace_logger"]


class GuardedLogger:
    """A logger of the engine; exceptions of its handlers are suppressed."""

    def __init__(self, name: str) -> None:
        self._logger = logging.getLogger(name)

    @property
    def shows_debug(self) -> bool:
        """Whether lines of level DEBUG are logged; ask before making their text."""
        return self._logger.isEnabledFor(logging.DEBUG)

    def debug(self, message: str, *values: object) -> None:
        """Log an event of one connection."""
        self._log(logging.DEBUG, message, *values)

    def info(self, message: str, *values: object) -> None:
        """Log a notable event that is not an error."""
        self._log(logging.INFO, message, *values)

    def warning(self, message: str, *values: object) -> None:
        """Log something that an operator should look at."""
        self._log(logging.WARNING, message, *values)

    def error(self, message: str, *values: object, exc_info: Any = None) -> None:
        """Log a failure; exc_info: the exception whose traceback is added."""
        self._log(logging.ERROR, message, *values, exc_info=exc_info)

    def _log(self, level: int, message: str, *values: object, exc_info: Any = None) -> None:
        # Handlers, and the __repr__ of the values, are foreign code.
        with suppress(Exception):
            self._logger.log(level, message, *values, exc_info=exc_info)


logger: Final = GuardedLogger("fastsmtp")
# Refused recipients: their lines can be enabled without all other DEBUG lines.
rcpt_logger: Final = GuardedLogger("fastsmtp.rcpt")
trace_logger: Final = GuardedLogger("fastsmtp.trace")
