"""What `on_auth` is given, and what it answers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from fastsmtp._log import clean

__all__ = ["Auth", "AuthResponse", "response_of"]


class Auth:
    """What `on_auth` is asked. method: the mechanism, or "XCLIENT"."""

    __slots__ = ("method", "password", "username")

    def __init__(self, method: str, username: str, *, password: str | None = None) -> None:
        self.method = method
        self.username = username
        self.password = password

    def __repr__(self) -> str:
        return f"<Auth {self.method} {clean(self.username)}>"


@dataclass(slots=True)
class AuthResponse:
    """What `on_auth` answers: `user` is who the client is from now on."""

    user: Any = None
    message: str | None = None
    response_code: int | None = None
    data: Any = None

    @property
    def has_user(self) -> bool:
        """Whether it says who the client is."""
        return not (self.user is None or self.user is False or self.user == "")


def response_of(result: object) -> AuthResponse | None:
    """Return what `on_auth` answered as an `AuthResponse`; None: it is nonsense."""
    if result is None:
        return AuthResponse()
    if isinstance(result, AuthResponse):
        return result if isinstance(result.message, str | None) else None
    if not isinstance(result, Mapping):
        return None
    fields = ("user", "message", "response_code", "data")
    try:
        response = AuthResponse(*[result.get(field) for field in fields])
    except Exception:  # the mapping is foreign code
        return None
    return response if isinstance(response.message, str | None) else None
