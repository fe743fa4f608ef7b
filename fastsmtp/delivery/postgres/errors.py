"""Errors of PostgreSQL and of asyncpg, as errors of a delivery. SQLSTATE decides."""

from __future__ import annotations

from typing import Final

from fastsmtp.delivery.errors import DeliveryError, Full, Refused, Unavailable, Unclear
from fastsmtp.errors import SMTPError

__all__ = ["connect_error", "store_error"]

_DISK_FULL: Final = "53100"
# Classes of errors that the row itself has caused, or a rule of the table: no other server and no
# later try would take it, and it says nothing about other messages.
_OF_THE_ROW: Final = frozenset({"22", "23", "44", "54", "P0"})
# After these the statement may have been done: the connection was lost, also between a pooler and
# the server; and 40003, which says so.
_CONNECTION: Final = "08"
_UNKNOWN: Final = "40003"
# Only these are sent before a transaction has ended; it was rolled back.
_ROLLED_BACK: Final = "ERROR"
# At connect: what an operator has to change, and not what may pass by itself.
_SETTINGS: Final = frozenset({"28", "3D", "42", "0A"})


def store_error(error: BaseException) -> DeliveryError:
    """Return the error of a batch whose statement has failed."""
    if isinstance(error, DeliveryError):
        return error
    state = getattr(error, "sqlstate", None)
    text = _text(error)
    if not isinstance(state, str) or state[:2] == _CONNECTION or state == _UNKNOWN:
        return Unclear(text)
    if state == _DISK_FULL:
        return Full(text)
    if getattr(error, "severity_en", None) != _ROLLED_BACK:
        return Unclear(text)
    if state[:2] in _OF_THE_ROW:
        return Refused(SMTPError("Message could not be stored", 451, "4.3.0"), text)
    return Unavailable(text)


def connect_error(error: Exception) -> Exception:
    """Return what `Postgres.connect` raises: ValueError for what an operator has to change,
    `Unavailable` for what may pass.
    """
    state = getattr(error, "sqlstate", None)
    text = _text(error)
    if isinstance(error, DeliveryError):
        return error
    is_setting = isinstance(state, str) and state[:2] in _SETTINGS
    return ValueError(text) if is_setting or isinstance(error, ValueError) else Unavailable(text)


def _text(error: BaseException) -> str:
    """Return one line: SQLSTATE and the text of the server, without the row that it may show."""
    state = getattr(error, "sqlstate", None)
    first = str(error).partition("\n")[0].strip() or type(error).__name__
    return f"{first} (SQLSTATE {state})" if isinstance(state, str) else first
