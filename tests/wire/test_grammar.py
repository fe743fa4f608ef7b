"""Paths, parameters, xtext and other arguments of commands: RFC 5321 §4.1.2, 3461, 6531, 3030.

Rows carry the id of the promise that they keep. What the dialogue makes of the answers (reply
codes, hooks, state) is tested where the dialogue is.
"""

from __future__ import annotations

import copy
import gc
import inspect
import pickle
import sys
import weakref
from collections.abc import Callable, Iterable
from typing import Any

import pytest

from fastsmtp._wire.grammar import (
    Address,
    AddressDSN,
    Leniency,
    PathFault,
    decode_xtext,
    has_parameter,
    parse_bdat_argument,
    parse_forward_path,
    parse_hostname_token,
    parse_mailbox,
    parse_reverse_path,
    split_parameters,
)

BAD_SYNTAX = PathFault.BAD_SYNTAX
NEEDS_SMTPUTF8 = PathFault.NEEDS_SMTPUTF8

PARSERS = {b"FROM:": parse_reverse_path, b"TO:": parse_forward_path}


def octets(text: str | bytes) -> bytes:
    return text.encode() if isinstance(text, str) else text


def read(
    argument: str | bytes, smtp_utf8: bool = False, leniency: int = Leniency.STRICT
) -> tuple[Address, bytes] | int:
    """A whole argument; whether of MAIL or of RCPT is seen from its first letter."""
    argument = octets(argument)
    parse = parse_reverse_path if argument[:1] in b"fF" else parse_forward_path
    return parse(argument, smtp_utf8, leniency)


def accepted(
    argument: str | bytes, smtp_utf8: bool = False, leniency: int = Leniency.STRICT
) -> tuple[Address, bytes]:
    result = read(argument, smtp_utf8, leniency)
    assert not isinstance(result, int), result
    return result


def both(path: str | bytes) -> list[bytes]:
    """The path as the argument of MAIL and of RCPT."""
    return [word + octets(path) for word in PARSERS]


def rows(row: str, *values: Any) -> list[Any]:
    """Parameters of a test, with the id of the promise before the value."""
    return [
        pytest.param(
            *(value if isinstance(value, tuple) else (value,)),
            id=f"{row} {(value[0] if isinstance(value, tuple) else value)!a:.60}",
        )
        for value in values
    ]


def strings_of(address: Address) -> Iterable[str]:
    return address.address, address.local_part, address.domain, address.raw, str(address)


# --- what is taken as it is ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "local_part", "domain"),
    [
        *rows("ADDR-07", ("<a@x>", "a", "x")),
        *rows(
            "ADDR-03",
            ('<"a b"@x>', '"a b"', "x"),
            (r'<"a\"b"@x>', r'"a\"b"', "x"),
            (r'<"a\\"@x>', r'"a\\"', "x"),
            ('<"@"@x>', '"@"', "x"),
            ('<""@x>', '""', "x"),
            ('<"a>b"@x>', '"a>b"', "x"),
            ('<"a@b"@x>', '"a@b"', "x"),
            ('<"a,b:c<d"@x>', '"a,b:c<d"', "x"),
            (r'<"\ \@\>"@x>', r'"\ \@\>"', "x"),
        ),
        *rows(
            "ADDR-05",
            ("<a@[192.0.2.1]>", "a", "[192.0.2.1]"),
            ("<a@[1.2.3.4]>", "a", "[1.2.3.4]"),
            ("<a@[0.0.0.0]>", "a", "[0.0.0.0]"),
            ("<a@[255.255.255.255]>", "a", "[255.255.255.255]"),
            ("<a@[IPv6:::1]>", "a", "[IPv6:::1]"),
            ("<a@[ipv6:::1]>", "a", "[ipv6:::1]"),
            ("<a@[IPV6:::]>", "a", "[IPV6:::]"),
            ("<a@[IPv6:1::]>", "a", "[IPv6:1::]"),
            ("<a@[IPv6:1:2:3:4:5:6:7:8]>", "a", "[IPv6:1:2:3:4:5:6:7:8]"),
            ("<a@[IPv6:1:2:3::4:5:6]>", "a", "[IPv6:1:2:3::4:5:6]"),
            ("<a@[IPv6:1:2:3:4:5:6::]>", "a", "[IPv6:1:2:3:4:5:6::]"),
            ("<a@[IPv6:::1:2:3:4:5:6]>", "a", "[IPv6:::1:2:3:4:5:6]"),
            ("<a@[IPv6:2001:0DB8::aBcD]>", "a", "[IPv6:2001:0DB8::aBcD]"),
            ("<a@[IPv6:::ffff:192.0.2.1]>", "a", "[IPv6:::ffff:192.0.2.1]"),
            ("<a@[IPv6:::192.0.2.1]>", "a", "[IPv6:::192.0.2.1]"),
            ("<a@[IPv6:1:2:3:4::192.0.2.1]>", "a", "[IPv6:1:2:3:4::192.0.2.1]"),
            ("<a@[IPv6:1:2:3:4:5:6:192.0.2.1]>", "a", "[IPv6:1:2:3:4:5:6:192.0.2.1]"),
        ),
        *rows(
            "ADDR-10",
            ("<`id`@x>", "`id`", "x"),
            ("<|cmd@x>", "|cmd", "x"),
            ("<a/b@x>", "a/b", "x"),
            ("<a'--@x>", "a'--", "x"),
            ("<{{7*7}}@x>", "{{7*7}}", "x"),
            ("<%s%n@x>", "%s%n", "x"),
            ("<{id}@x>", "{id}", "x"),
            ("<-a@x>", "-a", "x"),
            ("<!#$%&'*+-/=?^_`{|}~@x>", "!#$%&'*+-/=?^_`{|}~", "x"),
        ),
        *rows(
            "ADDR-11",
            ("<a+0D+0A@x>", "a+0D+0A", "x"),
            ("<a%0d%0a@x>", "a%0d%0a", "x"),
        ),
        *rows(
            "G5",
            ("<a@X-y.z--1.9>", "a", "X-y.z--1.9"),
            ("<a@9>", "a", "9"),
            ("<AbC@DeF.example>", "AbC", "DeF.example"),
            ("<a.b.c@d.e.f>", "a.b.c", "d.e.f"),
        ),
    ],
)
def test_a_path_of_the_grammar_is_taken_verbatim(path: str, local_part: str, domain: str) -> None:
    for argument in both(path):
        address, rest = accepted(argument)
        assert (address.local_part, address.domain) == (local_part, domain)
        assert address.address == f"{local_part}@{domain}" == str(address)
        assert address.raw == path
        assert address.is_null is False
        assert rest == b""


@pytest.mark.parametrize(
    "path",
    [
        *rows("ADDR-03", '<"a@b">', '<"unterminated@x>', '<"a"b@x>', '<a"b"@x>', '<"@x>'),
        *rows("ADDR-03", '<"a""b"@x>', '<"a".b@x>', '<"\\"@x>', '<"a\\', '<"a\\"@x>', '<"'),
        *rows("ADDR-04", "<@h1:>", "<@:u@x>", "<@a,b:u@x>", "<@a,:u@x>", "<@a,@:u@x>", "<@a u@x>"),
        *rows("ADDR-04", "<@a:@b:u@x>", "<@a>", "<@>", "<@a", "<@a,", "<@a:", "<@a_b:u@x>"),
        *rows("ADDR-04", "<@[1.2.3.4]:u@x>", "<@a,@b u@x>", "<@a.:u@x>", "<@a:Postmaster>"),
        *rows("ADDR-05", "<a@[999.1.1.1]>", "<a@[1.2.3]>", "<a@[IPv6:fe80::1%eth0]>", "<a@[]>"),
        *rows("ADDR-05", "<a@[1.2.3.4>", "<a@1.2.3.4]>", "<a@x]>", "<a@[tag:x]>", "<a@[x]>"),
        *rows("ADDR-05", "<a@[IPv6:fe80::1%0]>", "<a@[256.0.0.1]>", "<a@[1.2.3.4.5]>"),
        *rows("ADDR-05", "<a@[01.2.3.4]>", "<a@[1.2.3.00]>", "<a@[1.2.3.4]x>", "<a@[1.2.3.]>"),
        *rows("ADDR-05", "<a@[1..3.4]>", "<a@[1.2.3.0004]>", "<a@[+1.2.3.4]>", "<a@[ 1.2.3.4]>"),
        *rows("ADDR-05", "<a@[IPv6:]>", "<a@[IPv6::]>", "<a@[IPv6:1]>", "<a@[IPv6::::]>"),
        *rows("ADDR-05", "<a@[IPv6:1::2::3]>", "<a@[IPv6:1:2:3:4:5:6:7]>", "<a@[IPv6:12345::]>"),
        *rows("ADDR-05", "<a@[IPv6:1:2:3:4:5:6:7:8:9]>", "<a@[IPv6:g::]>", "<a@[IPv6::1:2]>"),
        *rows("ADDR-05", "<a@[IPv6:1::2:]>", "<a@[IPv6:1:2:3:4:5:6:7:]>", "<a@[IPv6:1:::2]>"),
        *rows("ADDR-05", "<a@[IPv6:1:2:3:4:5:6:7:1.2.3.4]>", "<a@[IPv6:1.2.3.4]>"),
        *rows("ADDR-05", "<a@[IPv6:::1.2.3.256]>", "<a@[IPv6:::1.2.3]>", "<a@[IPv6:::1.2.3.4:1]>"),
        *rows("ADDR-05", "<a@[IPv61::]>", "<a@[::1]>", "<a@[IPv6:::1", "<a@[IPv6:", "<a@["),
        # RFC 5321 §4.1.3: `::` stands for at least two groups
        *rows("ADDR-05", "<a@[IPv6:1:2:3:4:5:6:7::]>", "<a@[IPv6:1:2:3:4:5::1.2.3.4]>"),
        *rows("ADDR-08", "<a@x> <b@y>", "<a@x>b", "<a@x", "a@x>", "<<a@x>>", "<a@x>>"),
        *rows("ADDR-08", "<a@x>\t<b@y>", "<a@x>  <b@y>", "<a@x> <", "<a@x><b@y>", "<a@x>="),
        *rows("ADDR-09", "<a@b@c>", "<a@>", "<@x>", "<a>", "<a@x.>", "<.a@x>", "<a.@x>"),
        *rows("ADDR-09", "<a..b@x>", "<a@-x>", "<a@x->", "<a@.x>", "<a@x..y>", "<a@x_y>"),
        *rows("ADDR-09", "<a@x-.y>", "<a@x.-y>", "<.@x>", "<a@.>", "<a@->", "< a@x>", "<a@x >"),
        *rows("ADDR-09", "<a b@x>", "<a@x y>", "< >", "<", ">", "", "< ", "<a", "<a@", "<a@x."),
        *rows("ADDR-10", "<;id;@x>", "<$(id)@x>", "<../../etc/passwd@x>", "<a@x;id>"),
        *rows("ADDR-11", '<"a\rb"@x>', '<"a\nb"@x>', '<"a\\\rb"@x>'),
        *rows("BYTE-01", "<a\tb@x>", '<"a\tb"@x>', '<"a\\\tb"@x>', "<a@x\t>", "<\ta@x>"),
        *rows(
            "BYTE-02", b"<a@x\x00@evil>", b"<a\x00@x>", b'<"\x00"@x>', b"<a@x>\x00", b"\x00<a@x>"
        ),
    ],
)
def test_an_invalid_path_is_bad_syntax(path: str | bytes) -> None:
    for argument in both(path):
        assert read(argument) == BAD_SYNTAX
        assert read(argument, smtp_utf8=True) == BAD_SYNTAX


@pytest.mark.parametrize("octet", [*range(0x21), 0x7F])
def test_no_control_octet_is_taken_inside_a_path(octet: int) -> None:
    """BYTE-01: also for lenient parsing; SP is taken between quotes alone."""
    sign = bytes([octet])
    for template in (b"<a*@x>", b"<*a@x>", b"<a@x*>", b"<a@*x>", b'<"a"*@x>'):
        for argument in both(template.replace(b"*", sign)):
            for leniency in Leniency:
                assert read(argument, True, leniency) == BAD_SYNTAX
    for argument in both(b'<"a*b"@x>'.replace(b"*", sign)):
        assert (read(argument, True, Leniency.LENIENT) == BAD_SYNTAX) == (octet != 0x20)


# --- the words before the path -------------------------------------------------------------------


@pytest.mark.parametrize(
    "argument",
    [
        *rows("ADDR-07", "FROM:<a@x>", "from:<a@x>", "fRoM:<a@x>", "FROM: <a@x>", "FROM :<a@x>"),
        *rows("ADDR-07", "FROM : <a@x>", "FROM\t:\t<a@x>", "FROM  :   <a@x>"),
        *rows("ADDR-07", "TO:<a@x>", "to:<a@x>", "tO: <a@x>", "TO :<a@x>", "TO : <a@x>"),
    ],
)
def test_case_and_space_around_the_colon_do_not_matter(argument: str) -> None:
    address, rest = accepted(argument)
    assert address.address == "a@x"
    assert rest == b""


@pytest.mark.parametrize(
    "argument",
    [
        *rows("ADDR-07", b"FROM <a@x>", b" FROM:<a@x>", b"\tFROM:<a@x>", b"FROM;<a@x>"),
        *rows("ADDR-07", b"FROM a@x", b"FROMa@x", b"FROM: :<a@x>"),
        *rows(
            "ADDR-07", b"FROM::<a@x>", b"FRM:<a@x>", b"FROMX:<a@x>", b"FROM<a@x>", b"F ROM:<a@x>"
        ),
        *rows("ADDR-07", b"TO a@x", b"TO <a@x>", b" TO:<a@x>", b"T:<a@x>", b"TOO:<a@x>", b"<a@x>"),
        *rows("ADDR-07", b"", b" ", b"FROM", b"FROM:", b"FROM: ", b"FROM :", b"TO", b"TO:", b":"),
        *rows(
            "ADDR-07", b"\x46\x52\x4f\x2d:<a@x>", b"F\x12OM:<a@x>", b"\xc6ROM:<a@x>", b"T\x2f:<a@x>"
        ),
    ],
)
def test_other_words_before_the_path_are_bad_syntax(argument: bytes) -> None:
    for parse in PARSERS.values():
        for leniency in Leniency:
            assert parse(argument, True, leniency) == BAD_SYNTAX


def test_each_command_takes_its_own_word_only() -> None:
    assert parse_forward_path(b"FROM:<a@x>", False, False) == BAD_SYNTAX
    assert parse_reverse_path(b"TO:<a@x>", False, False) == BAD_SYNTAX


# --- null path, postmaster, source route ---------------------------------------------------------


@pytest.mark.parametrize("leniency", Leniency)
def test_the_null_path_is_for_mail_only(leniency: int) -> None:
    """ADDR-01."""
    address, rest = accepted("FROM:<> BODY=8BITMIME", leniency=leniency)
    assert address.is_null is True
    assert (address.address, address.local_part, address.domain, address.raw) == ("", "", "", "<>")
    assert rest == b"BODY=8BITMIME"
    assert read("TO:<>", leniency=leniency) == BAD_SYNTAX
    assert read("FROM:<>x", leniency=leniency) == BAD_SYNTAX
    assert read("FROM:< >", leniency=leniency) == BAD_SYNTAX


@pytest.mark.parametrize("leniency", Leniency)
@pytest.mark.parametrize("name", rows("ADDR-02", "Postmaster", "postMASTER", "POSTMASTER"))
def test_postmaster_without_domain_is_for_rcpt_only(name: str, leniency: int) -> None:
    address, rest = accepted(f"TO:<{name}> NOTIFY=NEVER", leniency=leniency)
    assert (address.address, address.local_part, address.domain) == (name, name, "")
    assert (address.raw, address.is_null) == (f"<{name}>", False)
    assert rest == b"NOTIFY=NEVER"
    assert read(f"FROM:<{name}>", leniency=leniency) == BAD_SYNTAX


@pytest.mark.parametrize(
    "path",
    rows(
        "ADDR-02", "<Postmaste>", "<Postmasters>", '<"Postmaster">', "<Postmaster", "<Postmaster@>"
    ),
)
def test_a_word_that_only_resembles_postmaster_is_bad_syntax(path: str) -> None:
    assert read(f"TO:{path}") == BAD_SYNTAX


def test_postmaster_with_a_domain_is_an_ordinary_mailbox() -> None:
    for argument in both("<Postmaster@x>"):
        assert accepted(argument)[0].domain == "x"


@pytest.mark.parametrize(
    ("path", "address"),
    rows(
        "ADDR-04",
        ("<@h1,@h2:u@x>", "u@x"),
        ("<@r1,@r2:u@x>", "u@x"),
        ("<@a.b-c:u@x>", "u@x"),
        ('<@h1:"a:b@c"@x>', '"a:b@c"@x'),
        ("<@h1:u@[192.0.2.1]>", "u@[192.0.2.1]"),
    ),
)
def test_a_source_route_is_kept_in_raw_only(path: str, address: str) -> None:
    for argument in both(path):
        found, _ = accepted(argument)
        assert found.address == address == f"{found.local_part}@{found.domain}"
        assert found.raw == path
        assert found != Address(f"<{address}>")


# --- lengths -------------------------------------------------------------------------------------


def domain_of(size: int) -> str:
    """A domain of `size` octets, which must not be a multiple of 62."""
    return (("d" * 61 + ".") * 9)[:size]


@pytest.mark.parametrize(
    ("path", "good"),
    [
        pytest.param(f"<{'l' * 64}@x>", True, id="ADDR-06 local part of 64"),
        pytest.param(f"<{'l' * 65}@x>", True, id="ADDR-06 local part of 65"),
        pytest.param(f"<{'l' * 252}@x>", True, id="ADDR-06 path of 256"),
        pytest.param(f"<{'l' * 253}@x>", False, id="ADDR-06 path of 257"),
        pytest.param(f'<"{"l" * 250}"@x>', True, id="ADDR-06 quoted path of 256"),
        pytest.param(f'<"{"l" * 251}"@x>', False, id="ADDR-06 quoted path of 257"),
        pytest.param(f"<@{domain_of(100)}:a@{domain_of(150)}>", True, id="ADDR-06 route, 256"),
        pytest.param(f"<@{domain_of(100)}:a@{domain_of(151)}>", False, id="ADDR-06 route, 257"),
        pytest.param(f"<@{domain_of(260)}:a@x>", False, id="ADDR-06 route of 260"),
        pytest.param(f"<a@{domain_of(252)}>", True, id="ADDR-06 domain of 252, path of 256"),
        pytest.param(f"<a@{domain_of(255)}>", False, id="ADDR-06 domain of 255, path of 259"),
        pytest.param(f"<a@{domain_of(256)}>", False, id="ADDR-06 domain of 256"),
        pytest.param(f"<a@{'d' * 63}>", True, id="ADDR-06 label of 63"),
        pytest.param(f"<a@{'d' * 64}>", False, id="ADDR-06 label of 64"),
        pytest.param(f"<a@{'d' * 63}.{'d' * 63}.{'d' * 63}>", True, id="ADDR-06 labels of 63"),
        pytest.param(f"<a@x.{'d' * 64}.y>", False, id="ADDR-06 inner label of 64"),
        pytest.param(f"<@{'d' * 64}:a@x>", False, id="ADDR-06 label of 64 in a route"),
        pytest.param("<a@" + "d." * 125 + "dd>", True, id="ADDR-06 126 labels"),
        pytest.param("<a@" + ".".join(["d"] * 1000) + ">", False, id="ADDR-06 1000 labels"),
        pytest.param("<a@[IPv6:" + "0" * 250 + "]>", False, id="ADDR-06 literal"),
    ],
)
def test_lengths_are_counted_in_octets_with_the_brackets(path: str, good: bool) -> None:
    for argument in both(path):
        if good:
            assert accepted(argument)[0].raw == path
            assert accepted(argument + b" X=1")[1] == b"X=1"
        else:
            assert read(argument) == BAD_SYNTAX


def test_lengths_of_utf8_are_counted_in_octets() -> None:
    """ADDR-06."""
    assert accepted(f"TO:<{'é' * 126}@x>", smtp_utf8=True)[0].local_part == "é" * 126
    assert read(f"TO:<{'é' * 126}a@x>", smtp_utf8=True) == BAD_SYNTAX
    assert accepted(f"TO:<a@{'é' * 31}d>", smtp_utf8=True)[0].domain == "é" * 31 + "d"
    assert read(f"TO:<a@{'é' * 32}>", smtp_utf8=True) == BAD_SYNTAX


@pytest.mark.parametrize("leniency", Leniency)
@pytest.mark.parametrize(
    "path",
    rows(
        "ADDR-13",
        '<"' + r"\"" * 1000 + '"@x>',
        '<"' + r"\\" * 1000,
        "<" + "(" * 2000 + "a@x>",
        "<" * 2000,
        "<a@" + "[" * 2000,
        "<@" + "a,@" * 700 + "a:u@x>",
        "<" + "a." * 1000 + "@x>",
        "<a@" + "x." * 1000 + ">",
        "<a@[IPv6:" + ":" * 2000 + "]>",
        "<" + "@" * 2000 + ">",
        "<" + "é" * 1000 + "@x>",
    ),
)
def test_paths_of_two_thousand_octets_are_bad_syntax(path: str, leniency: int) -> None:
    for argument in both(path):
        assert read(argument, smtp_utf8=True, leniency=leniency) == BAD_SYNTAX


# --- what stands after the path -----------------------------------------------------------------


@pytest.mark.parametrize(
    ("argument", "rest"),
    [
        ("FROM:<a@x>", b""),
        ("FROM:<a@x> ", b""),
        ("FROM:<a@x> \t ", b""),
        ("FROM:<a@x> SIZE=1", b"SIZE=1"),
        ("FROM:<a@x>\tSIZE=1", b"SIZE=1"),
        ("FROM:<a@x>  SIZE=1  BODY=7BIT", b"SIZE=1  BODY=7BIT"),
        ("TO:<a@x> =", b"="),
        ("TO:<a@x> a>", b"a>"),
        ('TO:<"a> SIZE=1"@x> B', b"B"),
    ],
)
def test_the_octets_after_a_path_are_handed_back(argument: str, rest: bytes) -> None:
    assert accepted(argument)[1] == rest


# --- SMTPUTF8 ------------------------------------------------------------------------------------

FORBIDDEN = [
    *(*range(0x80, 0xA0), 0x200B, 0x2028, 0x2029, *range(0x202A, 0x202F), 0x2060),
    *(*range(0x2066, 0x206A), 0xFEFF),
]
ALLOWED = [
    *(0xA0, 0xE9, 0x7FF, 0x800, 0x200A, 0x200C, 0x200D, 0x200E, 0x2027, 0x202F, 0x205F, 0x2061),
    *(0x2065, 0x206A, 0x20AC, 0x3002, 0xD7FF, 0xE000, 0xFEFE, 0xFF00, 0xFF20, 0xFFFD),
    *(0x10000, 0x1F4E7, 0x10FFFF),
]


@pytest.mark.parametrize("code", ALLOWED, ids=lambda code: f"BYTE-04 U+{code:04X}")
def test_utf8_is_kept_as_sent_with_smtputf8(code: int) -> None:
    sign = chr(code)
    for path in (f"<{sign}@x>", f"<a{sign}.b@x>", f'<"{sign}"@x>', f"<a@{sign}>", f"<@{sign}:a@x>"):
        for argument in both(path):
            address, _ = accepted(argument, smtp_utf8=True)
            assert address.raw == path
            assert address.address == f"{address.local_part}@{address.domain}"
            assert read(argument) == NEEDS_SMTPUTF8


@pytest.mark.parametrize("code", FORBIDDEN, ids=lambda code: f"BYTE-04 U+{code:04X}")
def test_forbidden_characters_are_bad_syntax(code: int) -> None:
    sign = chr(code)
    for path in (f"<{sign}@x>", f"<a{sign}.b@x>", f'<"{sign}"@x>', f"<a@{sign}>", f"<@{sign}:a@x>"):
        for argument in both(path):
            for leniency in Leniency:
                assert read(argument, True, leniency) == BAD_SYNTAX
                assert read(argument, False, leniency) == BAD_SYNTAX


MALFORMED = [
    *(b"\xff", b"\xfe", b"\x80", b"\xbf"),  # never, or never first
    *(b"\xc0\xaf", b"\xc1\xbf", b"\xe0\x80\xaf", b"\xe0\x9f\xbf", b"\xf0\x80\x80\xaf"),  # overlong
    *(b"\xf0\x8f\xbf\xbf", b"\xf8\x88\x80\x80\x80"),
    *(b"\xed\xa0\x80", b"\xed\xbf\xbf", b"\xed\xa0\xbd\xed\xb0\x80"),  # surrogates
    *(b"\xf4\x90\x80\x80", b"\xf5\x80\x80\x80"),  # beyond U+10FFFF
    *(b"\xe2\x82", b"\xc3", b"\xf0\x9f\x93", b"\xc3\xa9\xa9", b"\xe9"),  # cut, or too long
]


@pytest.mark.parametrize("sign", rows("BYTE-04", *MALFORMED))
def test_malformed_utf8_is_bad_syntax(sign: bytes) -> None:
    for template in (b"<*@x>", b"<a*.b@x>", b'<"*"@x>', b"<a@*>", b"<a@x*y>", b"<@*:a@x>", b"<a@*"):
        for argument in both(template.replace(b"*", sign)):
            for leniency in Leniency:
                assert read(argument, True, leniency) == BAD_SYNTAX
                assert read(argument, False, leniency) == BAD_SYNTAX


def test_every_code_point_is_taken_or_refused_as_the_rule_says() -> None:
    """BYTE-04, for all there are, as `str` and as octets."""
    forbidden = set(FORBIDDEN)
    for code in range(0x80, sys.maxunicode + 1):
        sign = chr(code).encode("utf-8", "surrogatepass")
        good = code not in forbidden and not 0xD800 <= code <= 0xDFFF
        assert isinstance(parse_forward_path(b"TO:<" + sign + b"@x>", True, False), tuple) is good


def test_a_utf8_address_needs_smtputf8_on_every_level() -> None:
    """BYTE-03, BYTE-06."""
    for argument in both(b"<\xc3\xa9@x.example>"):
        assert read(argument) == NEEDS_SMTPUTF8
        assert read(argument, leniency=Leniency.LENIENT) == NEEDS_SMTPUTF8
    assert read("TO:<a@é.example> NOTIFY=NEVER") == NEEDS_SMTPUTF8
    assert read("TO:<@é:a@x>") == NEEDS_SMTPUTF8


def test_a_path_that_smtputf8_would_not_allow_is_bad_syntax_without_it() -> None:
    for path in ("<é@>", "<é..é@x>", "<é@x", "<é>", "<é@x>y", "<é@x> <b@y>"):
        for argument in both(path):
            assert read(argument) == BAD_SYNTAX


@pytest.mark.parametrize(
    "path",
    rows(
        "BYTE-07",
        "<jürgen@bücher.example>",
        "<a@xn--bcher-kva.example>",
        "<a@xn--99999999.example>",
        "<a@XN--zzzz.example>",
        "<a．b@x>",
        "<a@x．y>",
        "<a＠b@x>",
        "<e\u0301@x>",
        "<\u00e9@x>",
        "<a\u200db@x>",
    ),
)
def test_paths_are_neither_converted_nor_normalised(path: str) -> None:
    for argument in both(path):
        address, _ = accepted(argument, smtp_utf8=True)
        assert address.raw == path
        assert address.local_part == path[1:].partition("@")[0]


def test_fullwidth_signs_do_not_separate() -> None:
    """BYTE-07."""
    for path in ("<a＠x>", "＜a@x＞", "<a@x＞", "<＂a b＂@x>"):
        for argument in both(path):
            assert read(argument, smtp_utf8=True) == BAD_SYNTAX
    assert accepted("TO:<a．@x>", smtp_utf8=True)[0].local_part == "a．"


def test_a_quoted_pair_is_ascii() -> None:
    """RFC 6531 §3.3 extends qtextSMTP, not quoted-pairSMTP."""
    assert read('TO:<"\\é"@x>', smtp_utf8=True) == BAD_SYNTAX


@pytest.mark.parametrize(
    "argument",
    ["TO:<a@x>", "TO:<ä.ö@ü.x>", "TO:<@é,@b:ß@ü>", 'TO:<"é\\"é"@[1.2.3.4]>', "TO:<𝒳@𝒴.z>"],
)
def test_strings_are_clean_and_hold_no_surrogate(argument: str) -> None:
    """BYTE-09."""
    address, _ = accepted(argument, smtp_utf8=True)
    for text in strings_of(address):
        text.encode("utf-8")
        assert text.isprintable()
    assert address.raw == argument[3:]
    assert address.raw.endswith(f"{address.local_part}@{address.domain}>")


# --- lenient_address_parsing ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "local_part", "domain"),
    rows(
        "L",
        ("<.a@x>", ".a", "x"),
        ("<a.@x>", "a.", "x"),
        ("<a..b@x>", "a..b", "x"),
        ("<$(id)@x>", "$(id)", "x"),
        ("<a@-x>", "a", "-x"),
        ("<a@x->", "a", "x-"),
        ("<a@x.>", "a", "x."),
        ("<a@x..y>", "a", "x..y"),
        ("<a@x_y>", "a", "x_y"),
        ("<a@[999.1.1.1]>", "a", "[999.1.1.1]"),
        ("<a@[]>", "a", "[]"),
        ('<"a@x>', '"a', "x"),
        ('<a"b"c@x>', 'a"b"c', "x"),
        ("<a,b:c;d@x>", "a,b:c;d", "x"),
        ("<ä..b@x_y>", "ä..b", "x_y"),
        (f"<a@{'d' * 64}>", "a", "d" * 64),
        ("<a..b@x>", "a..b", "x"),
    ),
)
def test_lenient_parsing_takes_text_with_one_at_sign(
    path: str, local_part: str, domain: str
) -> None:
    for argument in both(path):
        address, rest = accepted(argument + b" X=1", smtp_utf8=True, leniency=Leniency.LENIENT)
        assert (address.local_part, address.domain) == (local_part, domain)
        assert (address.address, address.raw) == (f"{local_part}@{domain}", path)
        assert rest == b"X=1"
        assert read(argument, smtp_utf8=True) == BAD_SYNTAX


@pytest.mark.parametrize(
    "path",
    [
        *rows("L", "<a@b@c>", "<a@>", "<@x>", "<a>", "<@>", "<a b@x_y>", "<a@x_ y>", "<a<b@x>"),
        *rows("L", "<a..b@x", "<a..b@x>>", "<a..b@x>y", "<a@x> <b@y>", "<<a@x>>"),
        *rows("L", "<@a,b:u@x>", "<@:u@x>", "<@a_b:u@x>", "<@h1:>"),
        *rows("L", f"<a..b@{'d' * 255}>", "<a\tb@x_y>", "<a\x7f@x_y>"),
    ],
)
def test_lenient_parsing_refuses_text_without_one_at_sign(path: str) -> None:
    for argument in both(path):
        assert read(argument, smtp_utf8=True, leniency=Leniency.LENIENT) == BAD_SYNTAX


@pytest.mark.parametrize(
    ("path", "local_part", "domain"),
    rows(
        "L",
        ("a@x", "a", "x"),
        ("a..b@x_y", "a..b", "x_y"),
        ('"a@b"@x', '"a@b"', "x"),
        ('"a>b"@x', '"a>b"', "x"),
        ("a@[192.0.2.1]", "a", "[192.0.2.1]"),
        ("a@[IPv6:::1]", "a", "[IPv6:::1]"),
        ("é@x.", "é", "x."),
        (f"{'l' * 252}@x", "l" * 252, "x"),
    ),
)
def test_both_lenient_levels_take_a_path_without_brackets(
    path: str, local_part: str, domain: str
) -> None:
    for argument in both(path):
        for gap in (b"", b" ", b"\t  "):
            rest = b"X=1" if gap else b""
            for leniency in (Leniency.COMMON, Leniency.LENIENT):
                address, found = accepted(argument + gap + rest, True, leniency)
                assert found == rest
                assert (address.local_part, address.domain) == (local_part, domain)
                assert address.raw == f"<{path}>"
        assert read(argument, smtp_utf8=True) == BAD_SYNTAX


@pytest.mark.parametrize("path", rows("L", "$(id)@x", "a@-x", "a@x..y", 'a"b"@x', "..@x"))
def test_the_last_level_alone_takes_any_text_with_one_at_sign_without_brackets(path: str) -> None:
    for argument in both(path):
        assert accepted(argument, leniency=Leniency.LENIENT)[0].raw == f"<{path}>"
        assert read(argument, leniency=Leniency.COMMON) == BAD_SYNTAX


@pytest.mark.parametrize("leniency", [Leniency.COMMON, Leniency.LENIENT])
@pytest.mark.parametrize("name", ["postmaster", "Postmaster", "POSTMASTER"])
def test_postmaster_needs_no_brackets_where_other_paths_need_none(name: str, leniency: int) -> None:
    address, rest = accepted(f"TO:{name} NOTIFY=NEVER", leniency=leniency)
    assert (address.address, address.domain, address.raw) == (name, "", f"<{name}>")
    assert rest == b"NOTIFY=NEVER"
    assert read(f"TO:{name}") == BAD_SYNTAX
    assert read(f"FROM:{name}", leniency=leniency) == BAD_SYNTAX
    assert read(f"TO:{name}s", leniency=leniency) == BAD_SYNTAX


@pytest.mark.parametrize("leniency", [Leniency.COMMON, Leniency.LENIENT])
@pytest.mark.parametrize(
    "path",
    [
        *rows("L", "", "a", "a@", "@x", "@", "a@x>", "<a@x", "a@b@c", "a@x<b@y>", "a b@x", "a@x>b"),
        *rows("L", "@r:u@x", "a@x,b@y", "a@x <b@y>", "Anne <a@x>", '"Anne" <a@x>', '"a" b@x'),
        *rows("L", f"{'l' * 253}@x", f"a@{'d' * 300}", "a\x7f@x", "a@x\x01", '"a b"@x_y', ">a@x"),
        *rows("L", '"a b"@x', '"a@x b"@y', '"a@x'),
    ],
)
def test_no_level_takes_a_path_without_brackets_that_has_two_readings(
    path: str, leniency: int
) -> None:
    for argument in both(path):
        assert read(argument, smtp_utf8=True, leniency=leniency) == BAD_SYNTAX


@pytest.mark.parametrize("leniency", Leniency)
@pytest.mark.parametrize("argument", ["FROM:", "FROM: ", "FROM: \t", "TO:", "FROM: SIZE=1", "FROM"])
def test_an_empty_argument_is_never_the_null_path(argument: str, leniency: int) -> None:
    assert read(argument, leniency=leniency) == BAD_SYNTAX


@pytest.mark.parametrize(
    ("path", "local_part", "domain"),
    rows(
        "L",
        ("<a@x_y>", "a", "x_y"),
        ("<a@_dmarc.x>", "a", "_dmarc.x"),
        ("<a@x.example.>", "a", "x.example."),
        ("<.a@x>", ".a", "x"),
        ("<a.@x>", "a.", "x"),
        ("<a..b@x>", "a..b", "x"),
        ("<..a...b..@x>", "..a...b..", "x"),
        ("<a@_>", "a", "_"),
        (f"<a@{'d.' * 125}>", "a", "d." * 125),
        ('<"a b"@x_y>', '"a b"', "x_y"),
        ("<é.@ü_.>", "é.", "ü_."),
        (f"<a.@{'d' * 63}.>", "a.", "d" * 63 + "."),
    ),
)
def test_the_level_common_takes_paths_that_devices_send(
    path: str, local_part: str, domain: str
) -> None:
    for argument in both(path):
        assert read(argument, smtp_utf8=True) == BAD_SYNTAX
        for leniency in (Leniency.COMMON, Leniency.LENIENT):
            address, _ = accepted(argument + b" X=1", True, leniency)
            assert (address.local_part, address.domain) == (local_part, domain)
            assert (address.address, address.raw) == (f"{local_part}@{domain}", path)


@pytest.mark.parametrize(
    "path",
    [
        *rows("L", "<a@-x>", "<a@x->", "<a@x..y>", "<a@.x>", "<a@.>", "<a@x..>", "<$(id)@x>"),
        *rows("L", "<a,b@x_y>", "<a@[]>", "<a@[1.2.3]>", '<"a@x_y>', "<a:b@x_y>", "<a@x_y", "<a@>"),
        *rows("L", "<@x_y>", "<a b@x_y>", f"<a.@{'d' * 64}>", "<@a_b:u@x>", "<a@b@x_y>", "<>x"),
        *rows("L", "<.@x>", "<..@x>", "<a@x_-.y>", "<a@x.-_>", "<@a.:u@x>", "<a@[192.0.2.1].>"),
    ],
)
def test_common_parsing_takes_nothing_else(path: str) -> None:
    for argument in both(path):
        assert read(argument, smtp_utf8=True, leniency=Leniency.COMMON) == BAD_SYNTAX


def test_lenient_parsing_reads_what_the_grammar_allows_by_the_grammar() -> None:
    for path in ('<"a b"@x>', '<"a>b"@x>', '<"a@b"@x>', "<@r1,@r2:u@x>", "<a@[IPv6:::1]>"):
        for argument in both(path):
            assert accepted(argument, leniency=Leniency.LENIENT)[0].raw == path
    address, _ = accepted("TO:<@h1:a..b@x_y>", leniency=Leniency.LENIENT)
    assert (address.address, address.raw) == ("a..b@x_y", "<@h1:a..b@x_y>")


# --- has_parameter -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "argument",
    [
        "FROM:<a@x> SMTPUTF8",
        "FROM:a@x SMTPUTF8",
        "FROM:<a@x> smtpUTF8",
        "FROM:<a@x>\tSMTPUTF8",
        "FROM:<a@x> SIZE=1 SMTPUTF8",
        "FROM:<a@x> SMTPUTF8 SIZE=1",
        "FROM:<a@x> SMTPUTF8=1",
        "FROM:<a@x> SMTPUTF8=",
        "FROM:<> SMTPUTF8",
        "from : <é@x>  SMTPUTF8 ",
        'FROM:<"a>b"@x> SMTPUTF8',
        "FROM:<a..b@x_y> X=> SMTPUTF8",
        "FROM:<a@x> =bad SMTPUTF8",
    ],
)
def test_a_parameter_is_found_after_the_path(argument: str) -> None:
    assert has_parameter(argument.encode(), b"SMTPUTF8") is True
    assert has_parameter(argument.encode(), b"smtputf8") is True


@pytest.mark.parametrize(
    "argument",
    [
        "",
        "SMTPUTF8",
        " SMTPUTF8",
        "FROM:",
        "FROM: SMTPUTF8",
        "FROM:<a@x>",
        "FROM:<a@x>SMTPUTF8",
        "FROM:<SMTPUTF8@x>",
        'FROM:<" SMTPUTF8 "@x>',
        'FROM:<"> SMTPUTF8 "@x>',
        "FROM:< SMTPUTF8 >",
        "FROM:<a@x> SMTPUTF",
        "FROM:<a@x> SMTPUTF88",
        "FROM:<a@x> XSMTPUTF8",
        "FROM:<a@x> X=SMTPUTF8",
        "FROM:<a@x> SMTPUTF8-X",
        "FROM:<a@x> SMTPUTF8:",
        "TO:<a@x> SMTPUTF8",
        "FROM:<a@x SMTPUTF8",
    ],
)
def test_text_that_is_not_the_parameter_is_not_found_as_one(argument: str) -> None:
    assert has_parameter(argument.encode(), b"SMTPUTF8") is False


# --- parameters ----------------------------------------------------------------------------------

MALFORMED_PARAMETER = ("", None)


@pytest.mark.parametrize(
    ("rest", "parameters"),
    [
        (b"", []),
        (b" ", []),
        *rows(
            "PARM-01",
            (b"FOO=1", [("FOO", "1")]),
            (b"size=1", [("SIZE", "1")]),
            (b"SIZE=1 SIZE=2", [("SIZE", "1"), ("SIZE", "2")]),
            (b"=1", [MALFORMED_PARAMETER]),
            (b"A==B", [MALFORMED_PARAMETER]),
            (b"A=B=C", [MALFORMED_PARAMETER]),
            (b"X=", [MALFORMED_PARAMETER]),
            (b"=", [MALFORMED_PARAMETER]),
            (b"A B= C", [("A", None), MALFORMED_PARAMETER]),
        ),
        *rows(
            "P01",
            (b" SIZE=1", [("SIZE", "1")]),
            (b"BODY=8BITMIME SMTPUTF8", [("BODY", "8BITMIME"), ("SMTPUTF8", None)]),
            (b"A\tB \t C ", [("A", None), ("B", None), ("C", None)]),
            (b"MT-PRIORITY=-9", [("MT-PRIORITY", "-9")]),
            (b"9a-Z-=x", [("9A-Z-", "x")]),
            (b"-A=1", [MALFORMED_PARAMETER]),
            (b"A_B=1", [MALFORMED_PARAMETER]),
            (b"A:B", [MALFORMED_PARAMETER]),
            (b"A;", [MALFORMED_PARAMETER]),
            (b"<b@y>", [MALFORMED_PARAMETER]),
            (b"X=!\"#$%&'()*+,-./09:;<", [("X", "!\"#$%&'()*+,-./09:;<")]),
            (b"X=>?@AZ[\\]^_`az{|}~", [("X", ">?@AZ[\\]^_`az{|}~")]),
            (b"X=a\x00b", [MALFORMED_PARAMETER]),
            (b"X=a\x7fb", [MALFORMED_PARAMETER]),
            (b"A\x00", [MALFORMED_PARAMETER]),
            (b"X=a\rb", [MALFORMED_PARAMETER]),
        ),
        *rows(
            "BYTE-05",
            (b"SMTPUTF8=1", [("SMTPUTF8", "1")]),
            (b"SMTPUTF8 SMTPUTF8", [("SMTPUTF8", None), ("SMTPUTF8", None)]),
            (b"A=1 \xc3\xa9=1", [("A", "1"), MALFORMED_PARAMETER]),
        ),
    ],
)
def test_parameters_are_split_from_left_to_right(
    rest: bytes, parameters: list[tuple[str, str | None]]
) -> None:
    assert split_parameters(rest, False) == parameters
    assert split_parameters(rest, True) == parameters


@pytest.mark.parametrize("octet", range(256))
def test_a_value_holds_printable_ascii_but_equals(octet: int) -> None:
    """P01: 33-60, 62-126."""
    good = 33 <= octet <= 126 and octet != 61
    value = bytes([0x61, octet, 0x62])
    if octet in (0x09, 0x20):
        assert split_parameters(b"X=" + value, False) == [("X", "a"), ("B", None)]
    elif good:
        assert split_parameters(b"X=" + value, False) == [("X", value.decode())]
    else:
        assert split_parameters(b"X=" + value, False) == [MALFORMED_PARAMETER]


@pytest.mark.parametrize("octet", range(256))
def test_a_keyword_holds_letters_digits_and_hyphens(octet: int) -> None:
    """P01."""
    sign = bytes([octet])
    expected: list[tuple[str, str | None]]
    if octet in (0x09, 0x20):
        expected = [("A", None), ("B", None)]
    elif octet == 0x3D:
        expected = [("A", "b")]
    elif sign.isalnum() or sign == b"-":
        expected = [((b"A" + sign + b"b").decode().upper(), None)]
    else:
        expected = [MALFORMED_PARAMETER]
    assert split_parameters(b"A" + sign + b"b", False) == expected


def test_a_value_holds_utf8_with_smtputf8_only() -> None:
    assert split_parameters("ENVID=é A".encode(), True) == [("ENVID", "é"), ("A", None)]
    assert split_parameters("ENVID=é A".encode(), False) == [MALFORMED_PARAMETER]
    assert split_parameters("ENVID\u200b=é".encode(), True) == [MALFORMED_PARAMETER]
    for code in FORBIDDEN:
        assert split_parameters(f"X=a{chr(code)}".encode(), True) == [MALFORMED_PARAMETER]
    for sign in MALFORMED:
        assert split_parameters(b"X=a" + sign, True) == [MALFORMED_PARAMETER]
        assert split_parameters(b"X=" + sign + b"a", True) == [MALFORMED_PARAMETER]


@pytest.mark.parametrize("rest", rows("PARM-12", b"A " * 1000, b"A=1 " * 500))
def test_the_sixty_fifth_parameter_ends_the_list(rest: bytes) -> None:
    first = split_parameters(rest.split(b" ")[0], False)
    assert split_parameters(rest, False) == [*first * 64, MALFORMED_PARAMETER]


def test_sixty_four_parameters_are_taken() -> None:
    """PARM-12."""
    assert split_parameters(b" ".join([b"A"] * 64), False) == [("A", None)] * 64
    assert split_parameters(b" ".join([b"A"] * 65), False)[64:] == [MALFORMED_PARAMETER]


# --- xtext ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "decoded"),
    [
        *rows("PARM-02", ("", "")),
        *rows(
            "PARM-02",
            ("+4", None),
            ("+GG", None),
            ("+4g", None),
            ("+0d", None),
            ("+", None),
            ("a=b", None),
            ("=", None),
            ("a+", None),
            ("++2B", None),
            ("+2b", None),
            ("+ 1", None),
            ("a b", None),
            ("a\tb", None),
            ("+2B+3D", "+="),
            ("a+20b", "a b"),
            ("QQ314159", "QQ314159"),
            ("+41+42", "AB"),
            ("+7E", "~"),
            ("<>", "<>"),
            ("rfc822;user@example.com", "rfc822;user@example.com"),
        ),
        *rows("PARM-03", ("+00", None), ("+0D+0A", None), ("+1B", None), ("+7F", None)),
        *rows("PARM-03", ("a+09", None), ("+1F", None), ("a\x00", None), ("a\x7f", None)),
        *rows("PARM-04", ("+2B0D+2B0A", "+0D+0A")),
        *rows("PARM-05", ("\\x{20ac}", "\\x{20ac}"), ("+5Cx{20AC}", "\\x{20AC}")),
        *rows("PARM-09", ("u@x", "u@x"), ("u+40x", "u@x")),
        *rows("PARM-12", ("a" * 2000, "a" * 2000), ("+41" * 700, "A" * 700)),
    ],
)
def test_xtext_is_decoded_once_and_strictly(value: str, decoded: str | None) -> None:
    assert decode_xtext(value, False) == decoded
    assert decode_xtext(value, True) == decoded


def test_every_octet_of_xtext_is_as_the_grammar_says() -> None:
    """PARM-02, PARM-03."""
    for octet in range(256):
        plain = chr(octet) if 33 <= octet <= 126 and chr(octet) not in "+=" else None
        escaped = chr(octet) if 32 <= octet <= 126 else None
        assert decode_xtext(chr(octet), False) == plain
        assert decode_xtext(f"+{octet:02X}", False) == escaped


def test_xtext_holds_utf8_with_smtputf8_only() -> None:
    for value in ("é", "+C3+A9", "é+2B", "€", "+E2+82+AC", "𝒳"):
        assert decode_xtext(value, False) is None
        assert decode_xtext(value, True) is not None
    assert decode_xtext("+C3+A9é+E2+82+AC", True) == "éé€"
    for code in FORBIDDEN:
        escaped = "".join(f"+{octet:02X}" for octet in chr(code).encode())
        assert decode_xtext(chr(code), True) is None
        assert decode_xtext(escaped, True) is None
    for sign in MALFORMED:
        assert decode_xtext("".join(f"+{octet:02X}" for octet in sign), True) is None
    assert decode_xtext("\udcc3\udca9", True) is None


# --- mailbox -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    ["a@x", "u@x", '"a b"@x', "a@[192.0.2.1]", "a@[IPv6:::1]", f"a@{domain_of(255)}", '""@x'],
)
def test_a_mailbox_is_known_without_brackets(text: str) -> None:
    assert parse_mailbox(text, False) is True
    assert parse_mailbox(text, True) is True


@pytest.mark.parametrize(
    "text",
    [
        *("", "<>", "a", "@x", "a@", "<a@x>", "@r:a@x", "Postmaster", "a@x ", " a@x", "a@x>"),
        *("a@x b", "a..b@x", "a@b@c", "a@x_y", '"a@x', f"a@{domain_of(256)}", "a@x\x00", "\x00"),
        *("a@[1.2.3]", "a@x\udc80"),
    ],
)
def test_an_invalid_mailbox_is_refused(text: str) -> None:
    assert parse_mailbox(text, False) is False
    assert parse_mailbox(text, True) is False


def test_a_mailbox_in_utf8_needs_smtputf8() -> None:
    assert parse_mailbox("é@ü.x", True) is True
    assert parse_mailbox("é@ü.x", False) is False
    assert parse_mailbox("é\u200b@ü.x", True) is False


# --- BDAT ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("argument", "result"),
    [
        (b"0", (0, False)),
        (b"0 LAST", (0, True)),
        (b"1000 last", (1000, True)),
        (b"1000 LaSt", (1000, True)),
        (b"1000\tLAST", (1000, True)),
        (b"007", (7, False)),
        (b"999999999999999999", (10**18 - 1, False)),
        (b"9999999999999999999", (10**19 - 1, False)),
        (b"9223372036854775807", (2**63 - 1, False)),
        (b"9223372036854775808", (2**63, False)),
        (b"18446744073709551615", (2**64 - 1, False)),
        (b"18446744073709551616 LAST", (2**64, True)),
        (b"99999999999999999999", (10**20 - 1, False)),
        (b"00000000000000000001", (1, False)),
    ],
)
def test_the_size_of_a_chunk_is_read_exactly(argument: bytes, result: tuple[int, bool]) -> None:
    assert parse_bdat_argument(argument) == result
    found = parse_bdat_argument(argument)
    assert found is not None
    assert type(found[1]) is bool


@pytest.mark.parametrize(
    "argument",
    [
        *(b"", b"-1", b"+5", b"5x", b"x", b"LAST", b"5 LASTX", b"5 LAS", b"5 LAST x", b"5 x"),
        *(b"5  LAST", b" 5", b"5 ", b"5LAST", b"5 \tLAST", b"1" * 21, b"0" * 21, b"1" * 2000),
        *(b"5 6", b"0x10", b"1_0", b"5 LAST ", b"5\x00", b"\xb2", "٣".encode(), b"1e3", b"5.0"),
        *(b"5\x0bLAST", b"5\xa0LAST"),
    ],
)
def test_a_malformed_chunk_size_is_refused(argument: bytes) -> None:
    assert parse_bdat_argument(argument) is None


# --- EHLO ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name",
    rows(
        "ADDR-12", "[1.2.3.4]", "_x", "localhost", "<script>", "%s", "-x", "x" * 255, "Mail.EXAMPLE"
    ),
)
def test_any_printable_word_is_a_host_name(name: str) -> None:
    assert parse_hostname_token(name.encode()) == name.lower()


@pytest.mark.parametrize(
    "argument",
    rows(
        "ADDR-12", b"", b"a b", b"x" * 256, "é".encode(), b"a\tb", b"a\x00b", b"\x7f", b" a", b"a "
    ),
)
def test_a_word_that_is_not_printable_is_not_a_host_name(argument: bytes) -> None:
    assert parse_hostname_token(argument) is None


@pytest.mark.parametrize("octet", range(256))
def test_a_host_name_changes_only_in_the_case_of_letters(octet: int) -> None:
    good = 0x21 <= octet <= 0x7E
    expected = ("A" + chr(octet)).lower() if good else None
    assert parse_hostname_token(bytes([0x41, octet])) == expected


# --- Address -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "path",
    [
        *("<a@x>", '<"a b"@x>', "<@h1,@h2:u@x>", "<a@[IPv6:::1]>", "<é@ü.x>", "<Postmaster>"),
        *("<>", '<@é:"\\""@x>', "<!#$%&'*+-/=?^_`{|}~@x-y.z>"),
    ],
)
def test_a_parsed_path_can_be_written_and_parsed_again(path: str) -> None:
    """ADDR-14."""
    again = Address(path)
    assert again.raw == path
    for word, parse in PARSERS.items():
        result = parse(word + path.encode(), True, False)
        if not isinstance(result, int):
            assert result[0] == again
            assert hash(result[0]) == hash(again)
            assert list(strings_of(result[0])) == list(strings_of(again))


@pytest.mark.parametrize(
    "raw", ["", "a@x", "<a@x", "<a@x> ", "<a@x>b", "<a..b@x>", "<\udc80@x>", "< >"]
)
def test_an_address_cannot_be_made_from_an_invalid_path(raw: str) -> None:
    with pytest.raises(ValueError, match="must be a path") as caught:
        Address(raw)
    assert str(caught.value).isascii()


def test_equality_of_addresses_is_that_of_raw_paths() -> None:
    assert Address("<a@x>") == Address("<a@x>")
    assert Address("<a@x>") != Address("<A@x>")
    assert Address("<a@x>") != Address("<a@X>")
    assert Address("<a@x>") != Address("<@r:a@x>")
    assert Address("<a@x>") != "a@x"
    assert len({Address("<a@x>"), Address("<a@x>"), Address("<@r:a@x>")}) == 2


def test_args_and_dsn_of_an_address_are_its_own_and_kept() -> None:
    first, second = Address("<a@x>"), Address("<a@x>")
    assert first.args == {}
    first.args["SIZE"] = "1"
    assert first.args == {"SIZE": "1"}
    assert second.args == {}
    assert (first.dsn.notify, first.dsn.orcpt) == ([], None)
    first.dsn.notify = ["NEVER"]
    first.dsn.orcpt = "rfc822;a@x"
    assert first.dsn is first.dsn
    assert first.dsn == AddressDSN(["NEVER"], "rfc822;a@x")
    assert second.dsn == AddressDSN()
    assert first == second


@pytest.mark.parametrize(
    "name", ["address", "local_part", "domain", "raw", "is_null", "args", "dsn", "x"]
)
def test_an_address_cannot_be_changed(name: str) -> None:
    with pytest.raises(AttributeError):
        setattr(Address("<a@x>"), name, None)
    assert not hasattr(Address("<a@x>"), "__dict__")


def test_an_address_made_again_keeps_nothing_of_the_first() -> None:
    address = Address("<@r:user@example.com>")
    address.__init__("<>")
    assert list(strings_of(address)) == ["", "", "", "<>", ""]


def test_repr_is_ascii_and_bounded() -> None:
    """I11."""
    assert repr(Address("<a@x>")) == "Address('<a@x>')"
    assert eval(repr(Address("<é@x>"))) == Address("<é@x>")
    long = repr(Address(f"<{'é' * 126}@x>"))
    assert long.isascii()
    assert len(long) < 160
    dsn = repr(AddressDSN(["\u202e"] * 100, "\n" * 1000))
    assert dsn.isascii()
    assert len(dsn) < 320
    assert dsn.isprintable()


def test_an_address_is_neither_copied_nor_pickled_into_an_empty_one() -> None:
    for action in (copy.copy, copy.deepcopy, pickle.dumps):
        with pytest.raises(TypeError):
            action(Address("<a@x>"))


def test_an_address_made_without_a_path_is_the_null_path() -> None:
    address = Address.__new__(Address)
    assert address == Address("<>")
    assert list(strings_of(address)) == ["", "", "", "<>", ""]
    assert address.is_null


def test_a_cycle_through_args_is_collected() -> None:
    class Marker:
        pass

    address, marker = Address("<a@x>"), Marker()
    args: dict[str, Any] = address.args
    args.update(SELF=address, MARKER=marker)
    gone = weakref.ref(marker)
    del address, marker, args
    gc.collect()
    assert gone() is None


def test_signatures_can_be_read_at_run_time() -> None:
    assert str(inspect.signature(Address)) == "(raw)"
    assert str(inspect.signature(AddressDSN)) == "(notify=None, orcpt=None)"
    assert str(inspect.signature(parse_reverse_path)) == "(argument, smtp_utf8, leniency)"


@pytest.mark.parametrize("value", [None, "FROM:<a@x>", bytearray(b"FROM:<a@x>"), 1])
def test_arguments_of_another_type_are_a_type_error(value: Any) -> None:
    calls: list[Callable[[], object]] = [
        lambda: parse_reverse_path(value, False, False),
        lambda: parse_forward_path(value, False, False),
        lambda: has_parameter(value, b"X"),
        lambda: has_parameter(b"FROM:<a@x>", value),
        lambda: split_parameters(value, False),
        lambda: parse_bdat_argument(value),
        lambda: parse_hostname_token(value),
    ]
    if not isinstance(value, str):
        calls += [
            lambda: decode_xtext(value, False),
            lambda: parse_mailbox(value, False),
            lambda: Address(value),
        ]
    for call in calls:
        with pytest.raises(TypeError):
            call()


def test_parsing_leaks_no_reference() -> None:
    argument = b"FROM:<user@example.com> SIZE=1"
    before = sys.getrefcount(argument)
    results = [parse_reverse_path(argument, False, False) for _ in range(100)]
    results += [parse_reverse_path(b"FROM:<a..b@x>", False, False) for _ in range(100)]
    del results
    assert sys.getrefcount(argument) == before
