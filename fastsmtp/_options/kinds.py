"""The elements of the options table: rows, and the kinds of values that options take.

A `Kind` has words for messages and docs, and a function that returns the normalised value. In: any
object, because users may pass anything. Out: a value of one type, so that the engine never has to
check again. Raised: only `Refused`.
"""

from __future__ import annotations

import math
import os
import socket
import ssl
from collections.abc import Callable, Mapping, MutableSequence
from enum import Enum
from functools import cache
from typing import Any, Final, Generic, TypeAlias, TypeVar, cast

from fastsmtp._options.names import nearest
from fastsmtp.networks import Networks

__all__ = [
    "COMMAND_LENGTH", "COUNT", "DEADLINE", "FLAG", "HOLD", "HOST_NAME", "ITERATIONS", "LENIENCY",
    "LINE", "LIST_COUNT", "MECHANISMS", "PASSWORD", "PEM", "RATE", "RESOLVER", "SECONDS", "SECRET",
    "SIZE", "SNI", "SSL_CONTEXT", "TEXT", "TLS_VERSION", "VERBS", "Group", "Kind",
    "Option", "Refused", "Resolver", "WrongType", "choice", "networks",
    "optional", "row",
]  # fmt: skip

T = TypeVar("T")

# Called with the address of a client; returns its PTR names, or an awaitable of them. A str is the
# name of a built-in resolver.
Resolver: TypeAlias = Callable[[str], object] | str
RESOLVERS: Final = ("aiodns", "system")

KNOWN_VERBS: Final = (
    "HELO", "EHLO", "LHLO", "MAIL", "RCPT", "DATA", "BDAT", "RSET", "NOOP", "VRFY", "HELP", "QUIT",
    "AUTH", "STARTTLS", "XCLIENT", "XFORWARD", "EXPN", "SEND", "SOML", "SAML", "TURN", "ETRN",
)  # fmt: skip
KNOWN_MECHANISMS: Final = (
    "PLAIN", "LOGIN", "CRAM-MD5", "XOAUTH2", "OAUTHBEARER", "SCRAM-SHA-256", "SCRAM-SHA-256-PLUS",
    "EXTERNAL",
)  # fmt: skip

MAX_COUNT: Final = 2**31 - 1
MAX_LIST_COUNT: Final = 999_999  # six digits at most in the LIMITS line, RFC 9422 §4
MAX_SIZE: Final = 2**62 - 1  # twice as much still fits in 64 bits
MAX_HOST_NAME: Final = 255  # octets, RFC 5321 §4.5.3.1.2


class Refused(Exception):
    """A value that an option does not accept. Its text, if any, follows the words of the kind."""


class WrongType(Refused):
    """The same for a value of a wrong type."""


class Kind(Generic[T]):
    """takes: allowed values, in words. given: their type, as an annotation in
    fastsmtp.server_options. normalize: checks a value and returns it in the engine's form.
    """

    __slots__ = ("given", "normalize", "takes")

    def __init__(self, takes: str, given: str, normalize: Callable[[object], T]) -> None:
        self.takes = takes
        self.given = given
        self.normalize = normalize


# --- rows ---


class Group(Enum):
    """The groups of the reference, by title."""

    CONNECTION = "Connection"
    AUTH = "Authentication"
    CAPABILITIES = "Capabilities"
    LIMITS = "Limits"
    DEADLINES = "Deadlines"
    NEWLINES = "Line endings and NUL"
    PIPELINING = "Pipelining"
    PROXYING = "Proxying"
    DNS = "DNS"
    TLS = "TLS"


class Option:
    """One row of the table.

    default: as a user would give it; a function is called for it, once per `Options`.
    section: the RFC section about it, "" if there is none.
    does, reason: a sentence each, what the option is for, and the reason for its default.
    default_text: the default in words. is_secret: the value must not appear in messages or reprs.
    """

    __slots__ = (
        "default", "default_text", "does", "group", "is_secret", "kind", "name", "reason",
        "section",
    )  # fmt: skip

    def __init__(
        self,
        group: Group,
        kind: Kind[Any],
        default: object,
        section: str,
        does: str,
        reason: str,
        default_text: str,
        is_secret: bool,
    ) -> None:
        self.name = ""
        self.group = group
        self.kind = kind
        self.default = default
        self.section = section
        self.does = does
        self.reason = reason
        self.default_text = default_text
        self.is_secret = is_secret

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name

    @property
    def takes(self) -> str:
        """The allowed values, in words."""
        return self.kind.takes

    def refusal(self, value: object) -> str | None:
        """Return None if the option takes `value`, else the reason, "" if `takes` says it."""
        try:
            self.kind.normalize(value)
        except Refused as refused:
            return str(refused)
        return None


def row(
    group: Group,
    kind: Kind[T],
    default: object,
    section: str = "",
    *,
    does: str,
    reason: str,
    default_text: str = "",
    is_secret: bool = False,
) -> T:
    """Return the row of one option; its name is that of the class attribute.

    It is typed as the option's value, so that mypy compares the annotation with the kind.
    """
    if not default_text:
        default_text = repr(list(default) if isinstance(default, tuple) else default)
    option = Option(group, kind, default, section, does, reason, default_text, is_secret)
    return cast("T", option)


# --- numbers ---


def _integer(value: object, low: int, high: int) -> int:
    if isinstance(value, bool):
        raise WrongType("a bool is not a number")
    if not isinstance(value, int):
        raise WrongType
    if not low <= value <= high:
        raise Refused(f"the largest is {high}" if value > high else "")
    return int(value)


def _number(value: object) -> float:
    if isinstance(value, bool):
        raise WrongType("a bool is not a number")
    if not isinstance(value, int | float):
        raise WrongType
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    if not math.isfinite(number):
        raise Refused("not a finite number")
    return number


def _limit(high: int) -> Callable[[object], int]:
    return lambda value: 0 if value is None else _integer(value, 0, high)


def _flag(value: object) -> bool:
    if not isinstance(value, bool):
        raise WrongType
    return value


def _seconds(value: object) -> float:
    number = _number(value)
    if number < 0:
        raise Refused
    return number


def _deadline(value: object) -> float:
    number = _number(value)
    if number <= 0:
        raise Refused("a deadline cannot be switched off")
    return number


def _rate(value: object) -> float:
    number = _number(value)
    if number <= 0:
        raise Refused
    return number


FLAG: Final = Kind("True or False", "bool", _flag)
COUNT: Final = Kind("an int, 0 or None for no limit", "int | None", _limit(MAX_COUNT))
LIST_COUNT: Final = Kind(
    f"an int up to {MAX_LIST_COUNT}, 0 or None for no limit", "int | None", _limit(MAX_LIST_COUNT)
)
SIZE: Final = Kind("an int of octets, 0 or None for no limit", "int | None", _limit(MAX_SIZE))
COMMAND_LENGTH: Final = Kind(
    "an int of octets from 512 to 65536", "int", lambda value: _integer(value, 512, 65_536)
)
ITERATIONS: Final = Kind(
    "an int from 4096 to 1000000", "int", lambda value: _integer(value, 4096, 1_000_000)
)
HOLD: Final = Kind(
    "an int of seconds from 1 to 999999999", "int", lambda value: _integer(value, 1, 999_999_999)
)
SECONDS: Final = Kind("seconds as an int or float, 0 or more", "float", _seconds)
# A deadline of 0 would expire at once, and without one a client could hold its connection forever.
DEADLINE: Final = Kind("seconds as an int or float, more than 0", "float", _deadline)
RATE: Final = Kind("octets per second as an int or float, more than 0", "float", _rate)


# --- text ---


def _line(value: object) -> str:
    if not isinstance(value, str):
        raise WrongType
    if not (value.isascii() and value.isprintable()):
        raise Refused("it has control or non-ASCII characters")
    return value


def _host_name(value: object) -> str:
    if value is None:
        own = socket.gethostname()
        return own if _is_token(own) else "localhost"
    if not isinstance(value, str):
        raise WrongType
    if not _is_token(value):
        raise Refused("" if value.isascii() else "an international name needs its xn-- form")
    return value


def _is_token(text: str) -> bool:
    printable = text.isascii() and text.isprintable() and " " not in text
    return printable and 1 <= len(text) <= MAX_HOST_NAME


# The characters of a reply, RFC 5321 §4.2 (textstring, without its tabs).
LINE: Final = Kind("a str of printable ASCII", "str", _line)
TEXT: Final = Kind(
    "a str of printable ASCII, empty or None for none",
    "str | None",
    lambda value: "" if value is None else _line(value),
)
HOST_NAME: Final = Kind(
    "a str of printable ASCII without spaces, 1 to 255 characters, None for the machine's name",
    "str | None",
    _host_name,
)


# --- words and lists ---


def choice(*words: str) -> Kind[str]:
    """Return the kind that takes one of `words`, spelled exactly."""

    def check(value: object) -> str:
        if not isinstance(value, str):
            raise WrongType
        if value not in words:
            raise Refused
        return value

    given = ", ".join(f'"{word}"' for word in words)
    return Kind(f"{', '.join(map(repr, words[:-1]))} or {words[-1]!r}", f"Literal[{given}]", check)


def _leniency(value: object) -> bool | str:
    if isinstance(value, str):
        if value != "common":
            raise Refused
        return value
    return _flag(value)


def optional(kind: Kind[T]) -> Kind[T | None]:
    """Return the kind that takes None besides the values of `kind`."""
    return Kind(
        f"{kind.takes}, or None",
        f"{kind.given} | None",
        lambda value: None if value is None else kind.normalize(value),
    )


def _words(value: object, known: tuple[str, ...], types: tuple[type, ...]) -> list[str]:
    if not isinstance(value, types):
        raise WrongType("one word must be in a list too" if isinstance(value, str) else "")
    words: dict[str, None] = {}  # a set that keeps the order
    for word in cast("list[object]", value):
        if not isinstance(word, str):
            raise WrongType(f"{word!r:.80} is not a str")
        if not word.isascii() or word.upper() not in known:  # "ſ" would become "S"
            near = nearest(word.upper(), known)
            raise Refused(
                f"{word!r:.80} is not known" + (f", did you mean {near!r}?" if near else "")
            )
        words[word.upper()] = None
    return list(words)


def networks(why_not_true: str) -> Kind[Networks]:
    """Return the kind that takes a list of networks. why_not_true: ends the message for True."""

    def check(value: object) -> Networks:
        if value is None or value is False:
            return Networks()
        if value is True:
            raise Refused(f"True is not allowed: {why_not_true}")
        if not isinstance(value, list | tuple | set | frozenset | Networks):
            raise WrongType("one network must be in a list too" if isinstance(value, str) else "")
        try:
            return Networks(value)
        except TypeError as error:
            raise WrongType(str(error)) from None
        except ValueError as error:
            raise Refused(str(error)) from None

    return Kind(
        "a list of networks (CIDR or address as str, 'unix' for UNIX sockets), None or False",
        "NetworkList | Literal[False] | None",
        check,
    )


LENIENCY: Final = Kind("False, 'common' or True", 'bool | Literal["common"]', _leniency)
TLS_VERSION: Final = choice("TLSv1", "TLSv1.1", "TLSv1.2", "TLSv1.3")
VERBS: Final = Kind(
    f"a list, tuple or set of commands as str, in any case: {', '.join(KNOWN_VERBS)}",
    "list[str] | tuple[str, ...] | set[str] | frozenset[str]",
    lambda value: frozenset(_words(value, KNOWN_VERBS, (list, tuple, set, frozenset))),
)
MECHANISMS: Final = Kind(
    f"a list or tuple of mechanisms as str, in any case: {', '.join(KNOWN_MECHANISMS)}",
    "list[str] | tuple[str, ...]",
    lambda value: tuple(_words(value, KNOWN_MECHANISMS, (list, tuple))),
)


# --- objects ---


def _resolver(value: object) -> Resolver | None:
    if value is None:
        return None
    if isinstance(value, str):
        if value not in RESOLVERS:
            raise Refused
        return value
    if not callable(value):  # an object, as the JavaScript libraries take it
        value = getattr(value, "reverse", None)
        if not callable(value) or isinstance(getattr(value, "__self__", None), MutableSequence):
            raise WrongType  # a list of name servers has a `reverse` too
    return cast("Resolver", value)


def _pem(value: object) -> str | bytes | None:
    if value is None or isinstance(value, str | bytes):
        return value
    if not isinstance(value, os.PathLike):
        raise WrongType
    return cast("str | bytes", os.fspath(value))


def _password(value: object) -> str | bytes | None:
    if value is not None and not isinstance(value, str | bytes):
        raise WrongType
    return value


def _secret(value: object) -> bytes:
    if value is None:
        return _process_secret()
    if not isinstance(value, bytes):
        raise WrongType
    if len(value) < 16:
        raise Refused
    return value


@cache
def _process_secret() -> bytes:
    return os.urandom(32)


def _sni(value: object) -> dict[str, object] | None:
    if value is None:
        return None
    if not isinstance(value, Mapping) or not all(isinstance(name, str) for name in value):
        raise WrongType
    return dict(value)


def _ssl_context(value: object) -> ssl.SSLContext | None:
    if value is not None and not isinstance(value, ssl.SSLContext):
        raise WrongType
    return value


RESOLVER: Final = Kind(
    "a function of an address (str) that returns or awaits a list of names, an object with such a"
    " method `reverse`, 'aiodns', 'system', or None for the first of these two that is there",
    'Resolve | HasReverse | Literal["aiodns", "system"] | None',
    _resolver,
)
PEM: Final = Kind(
    "a path (str or os.PathLike), PEM text as str or bytes, or None", "PemSource | None", _pem
)
PASSWORD: Final = Kind("a str or bytes, or None", "str | bytes | None", _password)
SECRET: Final = Kind("bytes, 16 or more; None for random ones", "bytes | None", _secret)
SNI: Final = Kind(
    "a mapping of host names (str) to TLS options, or None",
    "Mapping[str, TLSOptions | ssl.SSLContext] | None",
    _sni,
)
SSL_CONTEXT: Final = Kind("an ssl.SSLContext, or None", "ssl.SSLContext | None", _ssl_context)
