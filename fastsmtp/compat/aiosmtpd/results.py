"""What handlers return and are given around AUTH, and the decorators of their methods."""

from __future__ import annotations

import enum
import re
from collections.abc import Callable
from typing import Any, Final, NamedTuple, TypeVar

__all__ = ["MISSING", "AuthResult", "LoginPassword", "auth_mechanism"]

F = TypeVar("F", bound=Callable[..., Any])
MECHANISM_NAME: Final = "__auth_mechanism_name__"  # as the decorator of aiosmtpd sets it


class _Missing(enum.Enum):
    MISSING = "missing"


MISSING: Final = _Missing.MISSING  # the answer of a hook that leaves the step to the server


class AuthResult:
    """The answer of an authenticator or of an `auth_…` method.

    success: whether the client is who it says. message: the reply to a refusal, with its code; None
    for the usual one. auth_data: becomes `session.auth_data`. handled: read by nothing here, for a
    handler cannot send a reply of its own.
    """

    __slots__ = ("auth_data", "handled", "message", "success")

    def __init__(
        self,
        *,
        success: bool,
        handled: bool = True,
        message: str | None = None,
        auth_data: Any = None,
    ) -> None:
        self.success = success
        self.handled = handled
        self.message = message
        self.auth_data = auth_data

    __hash__ = None  # type: ignore[assignment]  # mutable

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, AuthResult):
            return NotImplemented
        return all(getattr(self, name) == getattr(other, name) for name in self.__slots__)

    def __repr__(self) -> str:
        return (
            f"AuthResult(success={self.success!r}, handled={self.handled!r},"
            f" message={self.message!r}, auth_data=...)"
        )


class LoginPassword(NamedTuple):
    """The name and the password that a client sent, as octets; only the name is in its repr."""

    login: bytes
    password: bytes

    def __repr__(self) -> str:
        return f"LoginPassword(login={self.login.decode('utf-8', 'replace')!r}, password=...)"

    def __str__(self) -> str:
        return repr(self)


def auth_mechanism(actual_name: str) -> Callable[[F], F]:
    """Decorate an `auth_…` method whose mechanism has another name than the method.

    Raises ValueError for what cannot be the name of a mechanism (RFC 4422 §3.1).
    """
    name = actual_name.upper()
    if not re.fullmatch(r"[A-Z0-9_-]+", name):
        raise ValueError(f"not the name of a mechanism: {actual_name!r}")

    def decorate(method: F) -> F:
        setattr(method, MECHANISM_NAME, name)
        return method

    return decorate
