"""The types of hooks, for annotations in programs.

    from fastsmtp.hook_types import Callback, OnRcptTo

Each `On…` is the type of one hook in all its styles: a function that takes `callback` and may be a
coroutine function, or a coroutine function without it. The engine itself does not import this.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Mapping
from contextlib import AbstractAsyncContextManager
from typing import Any, Never, ParamSpec, Protocol, TypeAlias, TypeVar, overload

from fastsmtp._options.given import ListOf
from fastsmtp._options.of_session import SessionOptions
from fastsmtp._sasl.exchange import Auth, AuthResponse
from fastsmtp._sasl.scram import ScramKeys
from fastsmtp._tls.facts import TLSSocket
from fastsmtp._wire.grammar import Address
from fastsmtp.session import ClientGreeting, Session
from fastsmtp.stream import DataStream

__all__ = [
    "AuthAnswer", "AuthCallback", "Callback", "ConnectCallback", "DataAnswer", "DataCallback",
    "HeloCallback", "LMTPAnswer", "LifespanFactory", "OnAuth", "OnClose", "OnConnect", "OnData",
    "OnHelo", "OnMailFrom", "OnRcptTo", "OnScram", "OnSecure", "OnVrfy", "ScramCallback",
    "VrfyCallback",
]  # fmt: skip

# --- answers ---

# What `on_auth` answers; a mapping has the fields of an AuthResponse as keys.
AuthAnswer: TypeAlias = AuthResponse | Mapping[str, Any] | None
# The answer for one recipient, in LMTP: a text or None accepts, an exception rejects.
LMTPAnswer: TypeAlias = str | Exception | None
# What `on_data` answers: the text of the reply, or in LMTP one answer for each recipient. `list`
# is here besides `ListOf` so that a checker can infer the type of a list display.
DataAnswer: TypeAlias = str | list[LMTPAnswer] | ListOf[LMTPAnswer] | None

# What `on_helo` answers: the lines of the reply to EHLO after the first one; None: unchanged.
Keywords: TypeAlias = list[str] | tuple[str, ...] | None

# Of the server, which may be one of a class of the program's own.
LifespanFactory: TypeAlias = Callable[[Any], AbstractAsyncContextManager[object]]


# --- callbacks ---


class Callback(Protocol):
    """The argument `callback` of hooks whose answer is yes or no."""

    def __call__(self, error: Exception | None = None, /) -> bool:
        """Accept, or reject with `error`. Return whether the answer counts; it may be too late.

        Raises RuntimeError for a second call, and for a call from a thread other than the loop's.
        """


class ConnectCallback(Protocol):
    """The argument `callback` of `on_connect`."""

    def __call__(
        self, error: Exception | None = None, options: SessionOptions | None = None, /
    ) -> bool:
        """Reject with `error`, or accept, with `options` for this session; returns and raises as
        `Callback` does.
        """


class HeloCallback(Protocol):
    """The argument `callback` of `on_helo`."""

    def __call__(self, error: Exception | None = None, keywords: Keywords = None, /) -> bool:
        """Reject with `error`, or accept, with `keywords` in the reply to EHLO; returns and raises
        as `Callback` does.
        """


class VrfyCallback(Protocol):
    """The argument `callback` of `on_vrfy`."""

    def __call__(self, error: Exception | None = None, found: str | None = None, /) -> bool:
        """Reject with `error`, or answer with the name and the mailbox, None to tell nothing;
        returns and raises as `Callback` does.
        """


class AuthCallback(Protocol):
    """The argument `callback` of `on_auth`."""

    def __call__(self, error: Exception | None = None, answer: AuthAnswer = None, /) -> bool:
        """Reject with `error`, or answer; returns and raises as `Callback` does."""


class ScramCallback(Protocol):
    """The argument `callback` of `on_scram`."""

    def __call__(self, error: Exception | None = None, keys: ScramKeys | None = None, /) -> bool:
        """Reject with `error`, or answer with the user's keys, None for an unknown user; returns
        and raises as `Callback` does.
        """


class DataCallback(Protocol):
    """The argument `callback` of `on_data`."""

    def __call__(self, error: Exception | None = None, answer: DataAnswer = None, /) -> bool:
        """Reject with `error`, or accept with `answer` as the text; returns and raises as
        `Callback` does.
        """


# --- hooks ---

# What a function with `callback` returns: nothing; or, from a lambda, the result of `callback`; or
# a coroutine.
Done: TypeAlias = Coroutine[Any, Any, None] | bool | None

OnConnect: TypeAlias = (
    Callable[[Session, ConnectCallback], Done]
    | Callable[[Session], Coroutine[Any, Any, SessionOptions | None]]
)
OnSecure: TypeAlias = (
    Callable[[TLSSocket, Session, Callback], Done]
    | Callable[[TLSSocket, Session], Coroutine[Any, Any, None]]
)
OnHelo: TypeAlias = (
    Callable[[ClientGreeting, Session, HeloCallback], Done]
    | Callable[[ClientGreeting, Session], Coroutine[Any, Any, Keywords]]
)
OnAuth: TypeAlias = (
    Callable[[Auth, Session, AuthCallback], Done]
    | Callable[[Auth, Session], Coroutine[Any, Any, AuthAnswer]]
)
OnScram: TypeAlias = (
    Callable[[str, Session, ScramCallback], Done]
    | Callable[[str, Session], Coroutine[Any, Any, ScramKeys | None]]
)
OnMailFrom: TypeAlias = (
    Callable[[Address, Session, Callback], Done]
    | Callable[[Address, Session], Coroutine[Any, Any, None]]
)
OnRcptTo: TypeAlias = OnMailFrom
OnVrfy: TypeAlias = (
    Callable[[str, Session, VrfyCallback], Done]
    | Callable[[str, Session], Coroutine[Any, Any, str | None]]
)
OnData: TypeAlias = (
    Callable[[DataStream, Session, DataCallback], Done]
    | Callable[[DataStream, Session], Coroutine[Any, Any, DataAnswer]]
)
OnClose: TypeAlias = Callable[[Session], object]

# --- hooks as methods of a subclass ---

P = ParamSpec("P")
R_co = TypeVar("R_co", covariant=True)


class Method(Protocol[P, R_co]):
    """A method that overrides a hook of `HookAttributes`.

    pyright compares the function in the class, with its `self`, for which Never fits; mypy without
    it. The second overload keeps pyright from inferring the parameters of a lambda from here.
    """

    @overload
    def __call__(self, me: Never, /, *args: P.args, **kwargs: P.kwargs) -> R_co: ...
    @overload
    def __call__(self, *args: Any, **kwargs: Any) -> Any: ...


ConnectMethod: TypeAlias = (
    Method[[Session, ConnectCallback], Done]
    | Method[[Session], Coroutine[Any, Any, SessionOptions | None]]
)
SecureMethod: TypeAlias = (
    Method[[TLSSocket, Session, Callback], Done]
    | Method[[TLSSocket, Session], Coroutine[Any, Any, None]]
)
HeloMethod: TypeAlias = (
    Method[[ClientGreeting, Session, HeloCallback], Done]
    | Method[[ClientGreeting, Session], Coroutine[Any, Any, Keywords]]
)
AuthMethod: TypeAlias = (
    Method[[Auth, Session, AuthCallback], Done]
    | Method[[Auth, Session], Coroutine[Any, Any, AuthAnswer]]
)
ScramMethod: TypeAlias = (
    Method[[str, Session, ScramCallback], Done]
    | Method[[str, Session], Coroutine[Any, Any, ScramKeys | None]]
)
MailFromMethod: TypeAlias = (
    Method[[Address, Session, Callback], Done]
    | Method[[Address, Session], Coroutine[Any, Any, None]]
)
RcptToMethod: TypeAlias = MailFromMethod
VrfyMethod: TypeAlias = (
    Method[[str, Session, VrfyCallback], Done]
    | Method[[str, Session], Coroutine[Any, Any, str | None]]
)
DataMethod: TypeAlias = (
    Method[[DataStream, Session, DataCallback], Done]
    | Method[[DataStream, Session], Coroutine[Any, Any, DataAnswer]]
)
CloseMethod: TypeAlias = Method[[Session], object]
