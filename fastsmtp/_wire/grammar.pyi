"""The grammar of command arguments: octets of one line in, paths, parameters and xtext out.

No input of a peer raises: there is a return value for malformed input. Arguments are exactly
`bytes` or `str`; any other type is a TypeError. The argument of a command is the text after the one
SP or TAB that ends the verb, without trailing SP and TAB.
"""

from enum import IntEnum
from typing import ClassVar, final

from fastsmtp.session import ValidSince

class PathFault(IntEnum):
    """Why a path was refused."""

    BAD_SYNTAX = 1
    """Not a path by RFC 5321 §4.1.2, too long, or with octets that RFC 6531 §3.3 does not allow."""
    NEEDS_SMTPUTF8 = 2
    """Well-formed, but not ASCII, and the transaction has no SMTPUTF8."""

class Leniency(IntEnum):
    """What is accepted as a path: each level accepts all that the one before it accepts."""

    STRICT = 0
    """The grammar of RFC 5321 §4.1.2, RFC 6531 §3.3."""
    COMMON = 1
    """Also dots anywhere in a local part, `_` in a domain and a dot at its end (`a..b@x_y.`), and a
    path without brackets, which ends at the first SP and has no source route."""
    LENIENT = 2
    """Also anything with exactly one `@`, at least one octet on both sides of it, and no SP, `<`,
    `>` or control character."""

@final
class AddressDSN:
    """The DSN parameters of one RCPT (RFC 3461 §4.1, §4.2)."""

    notify: list[str]
    """`["NEVER"]`, or some of `SUCCESS`, `FAILURE`, `DELAY`, upper-case; empty when not given."""
    orcpt: str | None
    """Original recipient as `type;address`, xtext decoded; None when not given."""

    __hash__: ClassVar[None]  # type: ignore[assignment]  # it can be changed
    def __init__(self, notify: list[str] | None = None, orcpt: str | None = None) -> None: ...
    def __eq__(self, other: object, /) -> bool: ...

@final
class Address:
    """The path of a MAIL or RCPT command, as it was sent (RFC 5321 §4.1.2).

    Nothing in it is rewritten: no case folding, no Punycode either way. `str(a)` is `a.address`;
    two are equal if their raw paths are. `repr(a)` is ASCII and bounded, safe for a log.

    `Address("<user@example.com>")` makes one from the text of a path, for tests of hooks: by the
    strict grammar, with SMTPUTF8, `<>` and `<Postmaster>` included. Raises ValueError if the text
    is not a path.
    """

    def __init__(self, raw: str) -> None: ...
    @property
    def address(self) -> str:
        """The mailbox: `user@example.com`; `""` for the null path. At most 254 octets of UTF-8."""
    @property
    def local_part(self) -> str:
        """The part before the `@`, with its quotes if it has them."""
    @property
    def domain(self) -> str:
        """The part after the `@`: a domain or a bracketed literal; `""` for `<Postmaster>`."""
    @property
    def raw(self) -> str:
        """The whole path with its source route, at most 256 octets of UTF-8. It has brackets, even
        if it was sent without them.
        """
    @property
    def is_null(self) -> bool:
        """Whether this is `<>`, the sender of delivery reports (RFC 5321 §4.5.5)."""
    @property
    def args(self) -> dict[str, str | bool]:
        """The parameters after the path: upper-case keyword to its value, True without a value."""
    @property
    def dsn(self) -> AddressDSN:
        """The DSN parameters of this recipient (RFC 3461); always empty for a sender."""
    valid_since: ValidSince | None
    """The RRVS parameter of this recipient (RFC 7293); None when not given."""
    def __eq__(self, other: object, /) -> bool: ...
    def __hash__(self) -> int: ...

def parse_reverse_path(
    argument: bytes, smtp_utf8: bool, leniency: int
) -> tuple[Address, bytes] | int:
    """Read the argument of MAIL, from `FROM:` on (RFC 5321 §4.1.1.2, RFC 6531 §3.3).

    Returns the Address and the octets of the parameters, for `split_parameters` (`b""` without
    parameters), or a PathFault as int. `smtp_utf8`: the command has SMTPUTF8, so the path need not
    be ASCII. `leniency`: a value of `Leniency`: which paths are accepted beyond the grammar.
    """

def parse_forward_path(
    argument: bytes, smtp_utf8: bool, leniency: int
) -> tuple[Address, bytes] | int:
    """Read the argument of RCPT, from `TO:` on (RFC 5321 §4.1.1.3); else as `parse_reverse_path`.

    `<>` is refused; `<Postmaster>` without a domain is accepted, in any case (RFC 5321 §4.5.1).
    """

def has_parameter(argument: bytes, keyword: bytes) -> bool:
    """Whether the argument of MAIL has the parameter `keyword`, with or without a value.

    Looks only after the path, ignores case, and does not check the form of the parameters. False if
    no path is found. Needed before `parse_reverse_path`, since what a path may contain depends on
    SMTPUTF8 (RFC 6531 §3.4).
    """

def split_parameters(rest: bytes, smtp_utf8: bool) -> list[tuple[str, str | None]]:
    """Split the octets after a path into (KEYWORD, value or None), from left to right.

    Keywords come in upper case, values as sent (RFC 5321 §4.1.2); with `smtp_utf8` a value may hold
    UTF-8 (RFC 6531 §3.3). A malformed parameter, or the 65th, ends the list as `("", None)`.
    """

def decode_xtext(value: str, smtp_utf8: bool) -> str | None:
    """Decode xtext (RFC 3461 §4), once.

    None if `value` is malformed (for example with lower-case hexadecimal digits), or if it decodes
    to anything other than 0x20 to 0x7E and, with `smtp_utf8`, well-formed UTF-8 without forbidden
    characters.
    """

def parse_mailbox(text: str, smtp_utf8: bool) -> bool:
    """Whether `text` is a Mailbox by the strict grammar (RFC 5321 §4.1.2, RFC 6531 §3.3).

    No brackets, no source route, no bare `Postmaster`. Only labels and the domain are limited in
    length. `smtp_utf8`: it need not be ASCII.
    """

def parse_bdat_argument(argument: bytes) -> tuple[int, bool] | None:
    """Read the argument of BDAT: octets of the chunk (up to 20 digits), and whether it is the last.

    None if it is not `size [LAST]` with one SP or TAB between (RFC 3030 §2).
    """

def parse_hostname_token(argument: bytes) -> str | None:
    """Read the argument of EHLO, HELO or LHLO: the name in lower case (RFC 5321 §4.1.1.1).

    None if it is not one word of 1 to 255 printable ASCII characters. Nothing else is checked,
    since many clients do not know their name (RFC 5321 §4.1.4).
    """
