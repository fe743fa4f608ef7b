"""The kinds of values: what each takes, in words, and how its texts and values are checked.

A value has the type of the file (TOML): text, numbers, true and false, lists, tables. In the
environment and in flags it is text, from which msgspec makes that type. A checked value is what a
`Config` holds. Raised: `WrongValue`, whose text follows the name of the key.
"""

from __future__ import annotations

import os
import re
import reprlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

import msgspec

from fastsmtp.delivery import Promise
from fastsmtp.gateway.admin.address import AdminAddress, parse_address
from fastsmtp.gateway.config.domains import parse_domain
from fastsmtp.gateway.config.recipients import MAX_PATTERNS, is_pattern, parse_rule
from fastsmtp.gateway.log_lines import FORMS
from fastsmtp.networks import Networks
from fastsmtp.options import Option

__all__ = [
    *(
        "DIRECTORY",
        "DOMAINS",
        "FILE",
        "FLAG",
        "MECHANISMS",
        "NAME",
        "NETWORKS",
        "NUMBER",
        "QUOTA",
        "RULES",
        "SECRET",
    ),
    *(
        "ADMIN",
        "LOG_FORMAT",
        "SIZE",
        "UMASK",
        "WORKERS",
        "ValueKind",
        "WrongValue",
        "check_type",
        "kind_of",
        "listed",
    ),
    *("MASK", "PROMISE", "SECONDS", "TEXTS", "octets_of"),
]

MAX_SIZE: Final = 2**62 - 1  # octets; the maximum of the engine's option `size`
MAX_NUMBER: Final = 2**31 - 1
MAX_WORKERS: Final = 1024
MAX_UMASK: Final = 0o777

MASK: Final = "********"  # is shown in place of a secret

_UNITS: Final = {"": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30}
_SIZE: Final = re.compile(r"([0-9]{1,19})([kKmMgG]?)")
_UMASK: Final = re.compile(r"0?[0-7]{1,3}")
_NAME: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,63}\$?")
_ITEM: Final = re.compile(r"`\$\[(\d+)\]")  # in a message of msgspec: the item of a list
_TYPES: Final = (
    (bool, ""),  # before int, of which it is one
    (str, " (text)"),
    (int | float, " (a number)"),
)


class WrongValue(ValueError):
    """A value that a key does not take. path: the place inside of the value, () for all of it."""

    def __init__(self, text: str, path: tuple[str | int, ...] = ()) -> None:
        super().__init__(text)
        self.path = path


@dataclass(frozen=True, slots=True)
class ValueKind:
    """takes: the allowed values, in words. type: their type in a file.

    check: returns the checked value, or raises ValueError with a sentence, WrongValue for an item
    of it; `refused` makes the usual sentence. from_text: makes the type of a file of a text, or of
    a list of texts if `is_list`. mask: returns a value as it is shown, without its secrets.
    """

    takes: str
    type: Any
    check: Callable[[Any], Any] = lambda value: value
    from_text: Callable[[Any], Any] = lambda text: text
    is_list: bool = False
    mask: Callable[[Any], Any] = lambda value: value

    def has_secret(self, value: Any) -> bool:
        """Whether the value must not appear in messages as it is."""
        shown = self.mask(value)
        return shown is not value and bool(shown != value)

    def refused(self, value: object, reason: str = "", path: tuple[int, ...] = ()) -> WrongValue:
        """Return the error for `value`, or for the item of it at `path`."""
        for index in path:
            value = value[index]  # type: ignore[index]  # it is a list where there is a path
        what = "this text" if self.has_secret(value) else shown(value)
        return WrongValue(
            f"it takes {self.takes}, not {what}" + (f": {reason}" if reason else ""), path
        )


def shown(value: object) -> str:
    """Return a value as it is shown in messages: on one line, short, with its type."""
    if isinstance(value, bool):
        return str(value).lower()
    for kind, words in _TYPES:
        if isinstance(value, kind):
            return _short.repr(value) + words
    if isinstance(value, list):
        return "a list"
    return "a table" if isinstance(value, Mapping) else "a date or time"


_short: Final = reprlib.Repr()
_short.maxstring = _short.maxother = _short.maxlong = 80


def check_type(kind: ValueKind, value: object) -> Any:
    """Return `value` if it has the type of `kind`. Raises WrongValue."""
    try:
        return msgspec.convert(value, kind.type)
    except msgspec.ValidationError as error:
        item = _ITEM.search(str(error))
        path = (int(item[1]),) if item is not None and isinstance(value, list) else ()
        raise kind.refused(value, path=path) from None


def listed(text: str) -> list[str]:
    r"""Read the list in an environment variable: items separated by commas, spaces around them
    dropped; `\,` is a comma in an item, and `\\` a backslash. An empty text is an empty list.
    """
    if not text.strip():
        return []
    items = re.findall(r"((?:\\.|[^,\\]|\\$)*)(?:,|$)", text, re.DOTALL)
    del items[-1]  # the empty match at the end
    return [re.sub(r"\\([,\\])", r"\1", item.strip()) for item in items]


# --- sizes, numbers, words ---


def octets_of(value: int | str) -> int:
    """Read octets: a number, or text with or without k, M or G (powers of 1024, any case)."""
    match = _SIZE.fullmatch(str(value))
    octets = -1 if match is None else int(match[1]) * _UNITS[match[2].lower()]
    if octets < 0:
        raise SIZE.refused(value)
    if octets > MAX_SIZE:
        raise SIZE.refused(value, f"the largest is {MAX_SIZE}")
    return octets


def _quota(value: int | str) -> int:
    octets = octets_of(value)
    if octets == 0:
        raise WrongValue("a spool without room takes no mail")
    return octets


def _number(value: int) -> int:
    if not 0 <= value <= MAX_NUMBER:
        raise NUMBER.refused(value)
    return value


def _seconds(value: float) -> float:
    if not 0 < value <= MAX_NUMBER:
        raise SECONDS.refused(value)
    return value


def _promise(value: str) -> Promise:
    try:
        return Promise(value)
    except ValueError:
        raise PROMISE.refused(value) from None


def _workers(value: int | str) -> int:
    if value == "auto":
        return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 1
    if isinstance(value, str) or not 0 <= value <= MAX_WORKERS:
        raise WORKERS.refused(value)
    return value


def _umask(value: str) -> int | None:
    if not value:
        return None
    if not _UMASK.fullmatch(value):
        raise UMASK.refused(value)
    return int(value, 8)


def _name(value: str) -> str:
    if value and not _NAME.fullmatch(value):
        raise NAME.refused(value)
    return value


def _path(value: str) -> str:
    """Return the whole path, "" for none; what is there is seen at the start."""
    if "\0" in value:
        raise WrongValue("a path has no NUL")
    return os.path.abspath(value) if value else ""


def _directory(value: str) -> str:
    if not value:
        raise WrongValue("a directory is needed")
    return _path(value)


def _domains(value: list[str]) -> frozenset[str]:
    return frozenset(each_of(value, parse_domain))


def _networks(value: list[str]) -> Networks:
    each_of(value, lambda entry: Networks([entry]))  # an error names the item
    return Networks(value)


def _rules(value: list[str]) -> frozenset[str]:
    rules = frozenset(each_of(value, parse_rule))
    if sum(map(is_pattern, rules)) > MAX_PATTERNS:
        raise WrongValue(f"it takes at most {MAX_PATTERNS} patterns, and any number of others")
    return rules


def each_of(items: list[Any], check: Callable[[Any], Any]) -> list[Any]:
    """Return the checked items of a list; an error names the item."""
    found = []
    for index, item in enumerate(items):
        try:
            found.append(check(item))
        except WrongValue as error:
            raise WrongValue(str(error), (index, *error.path)) from None
        except ValueError as error:
            raise WrongValue(str(error), (index,)) from None
    return found


def _log_format(value: str) -> str:
    if value not in FORMS:
        raise LOG_FORMAT.refused(value)
    return value


def _admin(value: str) -> AdminAddress | None:
    if not value:
        return None
    try:
        return parse_address(value)
    except ValueError as error:
        raise ADMIN.refused(value, str(error)) from None


def _mechanisms(value: list[str]) -> list[str]:
    names = [each.upper() for each in value]
    if not names or not set(names) <= {"PLAIN", "LOGIN"}:
        raise WrongValue("it takes PLAIN, LOGIN or both: only these can be checked with a hash")
    return names


def from_msgspec(kind: Any) -> Callable[[str], Any]:
    """Return the function that makes a value of `kind` of a text; of no such text the text stays,
    and is refused by its type.
    """

    def read(text: str) -> Any:
        try:
            return msgspec.convert(text, kind, strict=False)
        except msgspec.ValidationError:
            return text

    return read


_whole: Final = from_msgspec(int)

ADMIN: Final = ValueKind("127.0.0.1:port, [::1]:port, port or unix:/path", str, _admin)
LOG_FORMAT: Final = ValueKind("text, logfmt or json", str, _log_format)
FLAG: Final = ValueKind("true or false", bool, from_text=from_msgspec(bool))
NUMBER: Final = ValueKind("a whole number, 0 or more", int, _number, _whole)
SIZE: Final = ValueKind("octets such as 500000, or '500k', '25M', '1G'", int | str, octets_of)
QUOTA: Final = ValueKind(SIZE.takes, int | str, _quota)
WORKERS: Final = ValueKind(
    f"a number of processes, at most {MAX_WORKERS}, or 'auto'", int | str, _workers, _whole
)
UMASK: Final = ValueKind("octal digits in quotes, such as '027'", str, _umask)
NAME: Final = ValueKind("a name or a number as text", str, _name)
FILE: Final = ValueKind("the path of a file, or empty", str, _path)
FOLDER: Final = ValueKind("the path of a directory, or empty", str, _path)
DIRECTORY: Final = ValueKind("the path of a directory", str, _directory)
TEXT: Final = ValueKind("text", str)
TEXTS: Final = ValueKind("a list of texts", list[str], tuple, is_list=True)
SECRET: Final = ValueKind("text", str, mask=lambda value: MASK if value else value)
SECONDS: Final = ValueKind("seconds above 0", float, _seconds, from_msgspec(float))
PROMISE: Final = ValueKind(", ".join(each.value for each in Promise), str, _promise)
DOMAINS: Final = ValueKind("a list of domains", list[str], _domains, is_list=True)
NETWORKS: Final = ValueKind(
    "a list of networks such as '192.0.2.0/24', or 'unix'", list[str], _networks, is_list=True
)
RULES: Final = ValueKind("a list of recipients", list[str], _rules, is_list=True)
MECHANISMS: Final = ValueKind("a list of PLAIN and LOGIN", list[str], _mechanisms, is_list=True)


# --- options of the engine ---

# The beginning of their type in Python -> the type in a file, and how a text is read.
_OF_ENGINE: Final[tuple[tuple[str, Any, Callable[[Any], Any]], ...]] = (
    ("bool | Literal", bool | str, from_msgspec(bool)),
    ("bool", bool, from_msgspec(bool)),
    ("int", int, _whole),
    ("float", float, from_msgspec(float)),
    ("list[str]", list[str], lambda items: items),
    ("NetworkList", list[str], lambda items: items),
    ("", str, lambda text: text),
)
# The words of Python in the table of the engine -> those of a file.
_WORDS: Final = (
    (r", 0 or None for no limit", ", 0 for no limit"),
    (r", None for the machine's name", ", empty for the machine's name"),
    (r", empty or None for none", ", or empty"),
    (r", or None$", ", or empty"),
    (r", None or False$", ""),
    (r"a function .*?(?='aiodns')", ""),
    (r"or None for the first", "or empty for the first"),
    (r"False, 'common' or True", "false, 'common' or true"),
    (r"True or False", "true or false"),
    (r"a list or tuple of|a list, tuple or set of", "a list of"),
    (r" as an int or float", ""),
    (r" as str|\ba str of ", ""),
    (r"\ban int\b", "a whole number"),
)


def kind_of(option: Option) -> ValueKind:
    """Return the kind of value that an option of the engine takes."""
    given = option.kind.given
    takes = option.takes
    for pattern, words in _WORDS:
        takes = re.sub(pattern, words, takes)
    of_file, from_text = next(
        (kind, read) for beginning, kind, read in _OF_ENGINE if given.startswith(beginning)
    )
    is_list = given.startswith(("list[str]", "NetworkList"))

    def check(value: Any) -> Any:
        # What is None in Python is empty in a file.
        checked = None if value == "" and option.default is None else value
        reason = option.refusal(checked)
        if reason is not None:
            raise kind.refused(value, reason)
        return tuple(value) if is_list else checked

    kind = ValueKind(takes, of_file, check, from_text, is_list)
    return kind
