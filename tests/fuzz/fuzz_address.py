"""Paths and mailboxes: read as the oracle reads them, and what is accepted reads back the same.

An input is one octet of choices and then the argument of MAIL or RCPT. RFC 5321 §4.1.2, §4.1.3;
RFC 6531 §3.3.
"""

from __future__ import annotations

import reference
from fuzz.clean import UNCLEAN
from fuzz.inputs import Input

from fastsmtp._wire.grammar import (
    Address,
    Leniency,
    PathFault,
    has_parameter,
    parse_forward_path,
    parse_hostname_token,
    parse_mailbox,
    parse_reverse_path,
)

MAX_OCTETS = 12_288
PARSERS = {b"FROM": parse_reverse_path, b"TO": parse_forward_path}
FAULTS: dict[str, int] = {
    "syntax": PathFault.BAD_SYNTAX,
    "utf8": PathFault.NEEDS_SMTPUTF8,
}


def assert_reads_back(address: Address, word: bytes, leniency: int) -> None:
    """What was accepted formats to what parses the same."""
    parse = PARSERS[word]
    again = parse(word + b":" + address.raw.encode(), True, leniency)
    assert again == (address, b"")
    assert str(address) == address.address
    if address.domain:
        assert address.address == f"{address.local_part}@{address.domain}"
        short = parse(word + f":<{address.address}>".encode(), True, leniency)
        assert not isinstance(short, int)
        assert (short[0].local_part, short[0].domain) == (address.local_part, address.domain)
    for text in (address.address, address.local_part, address.domain, address.raw):
        assert not UNCLEAN.search(text)
    shown = repr(address)
    assert len(shown) < 2000
    assert shown.isascii() or shown.isprintable()


def check_path(argument: bytes, word: bytes, smtp_utf8: bool, leniency: int) -> None:
    expected = reference.parse_path(argument, word, smtp_utf8, leniency)
    result = PARSERS[word](argument, smtp_utf8, leniency)
    if isinstance(result, int):
        assert isinstance(expected, str)
        assert result == FAULTS[expected]
        return
    assert not isinstance(expected, str)
    address, rest = result
    assert address.is_null is (address.raw == "<>")
    found = (address.address, address.local_part, address.domain, address.raw)
    assert found == tuple(expected[:4])
    assert rest.strip(b" \t") == expected.rest.strip(b" \t")
    assert rest[:1] not in (b" ", b"\t")
    assert_reads_back(address, word, leniency)


def check(octets: bytes) -> None:
    """Assert the invariants for one input."""
    given = Input(octets[:MAX_OCTETS])
    kind = given.octet()
    argument = given.rest()
    smtp_utf8, word = bool(kind & 1), b"TO" if kind & 4 else b"FROM"
    for leniency in Leniency:
        check_path(argument, word, smtp_utf8, leniency)
        check_path(word + b":" + argument, word, smtp_utf8, leniency)
        check_path(word + b":<" + argument + b">", word, smtp_utf8, leniency)
    for keyword in (b"SMTPUTF8", b"a"):
        seen = reference.has_parameter(argument, b"FROM", keyword, leniency=reference.LENIENT)
        assert has_parameter(argument, keyword) is seen
    assert parse_hostname_token(argument) == reference.parse_hostname_token(argument)
    text = argument.decode("utf-8", "surrogateescape")
    whole = text.isascii() or max(text) < "\ud800" or max(text) > "\udfff"
    expected = whole and reference.is_mailbox(argument, smtp_utf8)
    assert parse_mailbox(text, smtp_utf8) is expected
