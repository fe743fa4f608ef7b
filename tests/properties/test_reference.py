"""The oracle against the tables it was written from, and its two readings of a body against each
other. RFC 5321 §4.1.1.4, §4.1.2, §4.5.2; RFC 3461 §4; RFC 3030 §2."""

from __future__ import annotations

from itertools import product

import pytest
import reference
from hypothesis import given, settings
from hypothesis import strategies as st

# Octets after 354; does the message end with the last of them; the body as "accept", and as
# "normalize" gives it; does "reject" refuse it. Where it does not end, the stream is closed by
# CR LF . CR LF, and the body is compared up to there.
DATA_ROWS = [
    (b".\r\n", True, b"", b"", False),
    (b"\r\n.\r\n", True, b"\r\n", b"\r\n", False),
    (b"a\r\n.\r\n", True, b"a\r\n", b"a\r\n", False),
    (b"a\r\n\r\n.\r\n", True, b"a\r\n\r\n", b"a\r\n\r\n", False),
    (b"..\r\n.\r\n", True, b".\r\n", b".\r\n", False),
    (b"...\r\nz\r\n.\r\n", True, b"..\r\nz\r\n", b"..\r\nz\r\n", False),
    (b"a\r\n.foo\r\n.\r\n", True, b"a\r\nfoo\r\n", b"a\r\nfoo\r\n", False),
    (b"a\r\n. \r\n", False, b"a\r\n \r\n", b"a\r\n \r\n", False),
    (b"a\r\n.\t\r\n", False, b"a\r\n\t\r\n", b"a\r\n\t\r\n", False),
    (b"a\r\n.\x00\r\n", False, b"a\r\n\x00\r\n", b"a\r\n\x00\r\n", False),
    (b"a\r\n .\r\n", False, b"a\r\n .\r\n", b"a\r\n .\r\n", False),
    (b"a\r\n\x00.\r\n", False, b"a\r\n\x00.\r\n", b"a\r\n\x00.\r\n", False),
    (b"\x85.\x85", False, b"\x85.\x85", b"\x85.\x85", False),
    (b"\xe2\x80\xa8.\xe2\x80\xa8", False) + (b"\xe2\x80\xa8.\xe2\x80\xa8",) * 2 + (False,),
    (b"\x0b.\x0b", False, b"\x0b.\x0b", b"\x0b.\x0b", False),
    (b"\x0c.\x0c", False, b"\x0c.\x0c", b"\x0c.\x0c", False),
    (b"a\x00\r\n.\r\n", True, b"a\x00\r\n", b"a\x00\r\n", False),
    (b"a\r\r\n.\r\n", True, b"a\r\r\n", b"a \r\n", True),
    (b"a\n.\n", False, b"a\n.\n", b"a\r\n.\r\n", True),
    (b"a\n.\r\n", False, b"a\n.\r\n", b"a\r\n.\r\n", True),
    (b"a\r\n.\n", False, b"a\r\n\n", b"a\r\n\r\n", True),
    (b"a\r.\rQ", False, b"a\r.\rQ", b"a . Q", True),
    (b"a\n.\rQ", False, b"a\n.\rQ", b"a\r\n. Q", True),
    (b"a\r.\n", False, b"a\r.\n", b"a .\r\n", True),
    (b"a\r.\r\n", False, b"a\r.\r\n", b"a .\r\n", True),
    (b"a\r\n.\rQ", False, b"a\r\n\rQ", b"a\r\n Q", True),
    (b"a\r\n.\r\r\n", False, b"a\r\n\r\r\n", b"a\r\n \r\n", True),
    (b"a\r\r\n.\r\r\n", False, b"a\r\r\n\r\r\n", b"a \r\n \r\n", True),
    (b"a\n..Q", False, b"a\n..Q", b"a\r\n..Q", True),
    (b"\r\n.foo\r\n.\r\n", True, b"\r\nfoo\r\n", b"\r\nfoo\r\n", False),
    (b".foo\r\n.\r\n", True, b"foo\r\n", b"foo\r\n", False),
    (b"x\n..x\r\n.\r\n", True, b"x\n..x\r\n", b"x\r\n..x\r\n", True),
    (b"\r\n.\rX\r\n.\r\n", True, b"\r\n\rX\r\n", b"\r\n X\r\n", True),
]

# What stands between `a` and the commands of a smuggler; is it an end of data; what of the body
# stands before those commands; does "reject" refuse it (SMUG-01 to SMUG-18).
SMUGGLED = b"MAIL FROM:<evil@x.example>\r\nRCPT TO:<victim@y.example>\r\nDATA\r\nsmuggled\r\n.\r\n"
SMUGGLING_ROWS = [
    (b"\r\n.\r\n", True, b"a\r\n", False),
    (b"\n.\n", False, b"a\n.\n", True),
    (b"\n.\r\n", False, b"a\n.\r\n", True),
    (b"\r\n.\n", False, b"a\r\n\n", True),
    (b"\r.\r", False, b"a\r.\r", True),
    (b"\r.\n", False, b"a\r.\n", True),
    (b"\n.\r", False, b"a\n.\r", True),
    (b"\r.\r\n", False, b"a\r.\r\n", True),
    (b"\r\n.\r", False, b"a\r\n\r", True),
    (b"\r\n.\r\r\n", False, b"a\r\n\r\r\n", True),
    (b"\r\r\n.\r\r\n", False, b"a\r\r\n\r\r\n", True),
    (b"\r\r\n.\r\n", True, b"a\r\r\n", True),
    (b"\r\n\x00.\r\n", False, b"a\r\n\x00.\r\n", False),
    (b"\r\n.\x00\r\n", False, b"a\r\n\x00\r\n", False),
    (b"\x00\r\n.\r\n", True, b"a\x00\r\n", False),
    (b"\r\n. \r\n", False, b"a\r\n \r\n", False),
    (b"\r\n.\t\r\n", False, b"a\r\n\t\r\n", False),
    (b"\r\n .\r\n", False, b"a\r\n .\r\n", False),
    (b"\r\x00\n.\r\x00\n", False, b"a\r\x00\n.\r\x00\n", True),
    (b"\x0b.\x0b", False, b"a\x0b.\x0b", False),
    (b"\x0c.\x0c", False, b"a\x0c.\x0c", False),
    (b"\x85.\x85", False, b"a\x85.\x85", False),
    (b"\xe2\x80\xa8.\xe2\x80\xa8", False, b"a\xe2\x80\xa8.\xe2\x80\xa8", False),
    (b"\r\n\r\n.\r\n", True, b"a\r\n\r\n", False),
]


@pytest.mark.parametrize("row", DATA_ROWS, ids=lambda row: repr(row[0]))
def test_mail_data_means_what_the_table_says(row: tuple[bytes, bool, bytes, bytes, bool]) -> None:
    wire, ends, accepted, normalized, refused = row
    for oracle in (reference.end_of_data, reference.end_of_data_by_octet):
        found = oracle(wire)
        assert (found is not None) is ends
        if found is None:
            found = oracle(wire + b"\r\n.\r\n")
        assert found is not None
        body, rest, bare = found
        assert rest == b""
        closing = b"" if ends else b"\r\n"
        assert body == accepted + closing
        assert reference.apply_policy(body, "accept") == body
        assert reference.apply_policy(body, "normalize") == normalized + closing
        assert bool(bare) is refused
        assert reference.has_bare_newline(body) is refused


@pytest.mark.parametrize("row", SMUGGLING_ROWS, ids=lambda row: repr(row[0]))
def test_smuggled_octets_come_out_after_the_true_end_only(
    row: tuple[bytes, bool, bytes, bool],
) -> None:
    between, ends, before, refused = row
    found = reference.end_of_data(b"a" + between + SMUGGLED)
    assert found is not None
    body, rest, bare = found
    assert bool(bare) is refused
    assert body.startswith(before)
    assert rest == (SMUGGLED if ends else b"")
    if not ends:
        assert body == before + SMUGGLED.removesuffix(b".\r\n")


def test_both_readings_agree_on_every_short_string() -> None:
    for length in range(9):
        for octets in product(b"\r\n.a", repeat=length):
            wire = bytes(octets)
            assert reference.end_of_data(wire) == reference.end_of_data_by_octet(wire)


@settings(deadline=None, max_examples=300)
@given(st.lists(st.sampled_from([b"\r", b"\n", b".", b"a", b"\x00", b"\r\n", b"\r\n."])))
def test_both_readings_agree_on_long_strings(parts: list[bytes]) -> None:
    wire = b"".join(parts)
    assert reference.end_of_data(wire) == reference.end_of_data_by_octet(wire)
    closed = wire + b"\r\n.\r\n"
    assert reference.end_of_data(closed) == reference.end_of_data_by_octet(closed)


@settings(deadline=None, max_examples=300)
@given(st.lists(st.sampled_from([b"\r", b"\n", b".", b"a", b"\x00"])))
def test_a_normalized_body_has_no_bare_newline(parts: list[bytes]) -> None:
    normalized = reference.apply_policy(b"".join(parts), "normalize")
    assert not reference.has_bare_newline(normalized)


def test_the_facts_of_a_body_are_those_of_the_table() -> None:
    body = b"one\r\n\x00three\xff\nfour\r\nlast line"
    assert reference.facts(body) == (len(body), True, True, True, len(b"\x00three\xff\nfour"))
    assert reference.facts(b"") == (0, False, False, False, 0)
    assert reference.longest_line(b"a\r\nbcd") == 3


def test_a_body_is_cut_at_size_before_the_policy_is_applied() -> None:
    assert reference.deliver(b"a\nb\n", 3, "normalize") == (b"a\r\nb", True)
    assert reference.deliver(b"a\nb\n", 4, "normalize") == (b"a\r\nb\r\n", False)
    assert reference.deliver(b"a\nb\n", 0, "accept") == (b"a\nb\n", False)


# The octets between FROM: or TO: and the parameters; what the path means by the grammar, with what
# is common beside it, and most leniently. A str alone is the address.
BAD = "syntax"
PATH_ROWS = [
    (b"<a@x>", "a@x", "a@x", "a@x"),
    (b"<{id}@x>", "{id}@x", "{id}@x", "{id}@x"),
    (b"<-a@x>", "-a@x", "-a@x", "-a@x"),
    (b'<"a b"@x>', '"a b"@x', '"a b"@x', '"a b"@x'),
    (b'<"a@b"@x>', '"a@b"@x', '"a@b"@x', '"a@b"@x'),
    (b'<"a>b"@x>', '"a>b"@x', '"a>b"@x', '"a>b"@x'),
    (b'<"a\\"b"@x>', '"a\\"b"@x', '"a\\"b"@x', '"a\\"b"@x'),
    (b'<"a\\\\"@x>', '"a\\\\"@x', '"a\\\\"@x', '"a\\\\"@x'),
    (b'<"@"@x>', '"@"@x', '"@"@x', '"@"@x'),
    (b'<""@x>', '""@x', '""@x', '""@x'),
    (b"<@r1,@r2:u@x>", "u@x", "u@x", "u@x"),
    (b"<a@[192.0.2.1]>", "a@[192.0.2.1]", "a@[192.0.2.1]", "a@[192.0.2.1]"),
    (b"<a@[IPv6:::1]>", "a@[IPv6:::1]", "a@[IPv6:::1]", "a@[IPv6:::1]"),
    (b"<a@[ipv6:::1]>", "a@[ipv6:::1]", "a@[ipv6:::1]", "a@[ipv6:::1]"),
    (b"<a@[IPv6:::ffff:192.0.2.1]>", *["a@[IPv6:::ffff:192.0.2.1]"] * 3),
    (b"<.a@x>", BAD, ".a@x", ".a@x"),
    (b"<a.@x>", BAD, "a.@x", "a.@x"),
    (b"<a..b@x>", BAD, "a..b@x", "a..b@x"),
    (b"<$(id)@x>", BAD, BAD, "$(id)@x"),
    (b"<;id;@x>", BAD, BAD, ";id;@x"),
    (b"<`id`@x>", "`id`@x", "`id`@x", "`id`@x"),
    (b"<|cmd@x>", "|cmd@x", "|cmd@x", "|cmd@x"),
    (b"<a/b@x>", "a/b@x", "a/b@x", "a/b@x"),
    (b"<../../etc/passwd@x>", BAD, "../../etc/passwd@x", "../../etc/passwd@x"),
    (b"<a'--@x>", "a'--@x", "a'--@x", "a'--@x"),
    (b"<{{7*7}}@x>", "{{7*7}}@x", "{{7*7}}@x", "{{7*7}}@x"),
    (b"<%s%n@x>", "%s%n@x", "%s%n@x", "%s%n@x"),
    (b"<a+0D+0A@x>", "a+0D+0A@x", "a+0D+0A@x", "a+0D+0A@x"),
    (b"<a@b@c>", BAD, BAD, BAD),
    (b"<a@>", BAD, BAD, BAD),
    (b"<@x>", BAD, BAD, BAD),
    (b"<a>", BAD, BAD, BAD),
    (b'<"a@b">', BAD, BAD, '"a@b"'),
    (b'<"a@x>', BAD, BAD, '"a@x'),
    (b"<@r1:>", BAD, BAD, BAD),
    (b"<@:u@x>", BAD, BAD, BAD),
    (b"<@a,b:u@x>", BAD, BAD, BAD),
    (b"<a@[999.1.1.1]>", BAD, BAD, "a@[999.1.1.1]"),
    (b"<a@[01.1.1.1]>", BAD, BAD, "a@[01.1.1.1]"),
    (b"<a@[1.2.3]>", BAD, BAD, "a@[1.2.3]"),
    (b"<a@[1.2.3.4>", BAD, BAD, "a@[1.2.3.4"),
    (b"<a@x]>", BAD, BAD, "a@x]"),
    (b"<a@[tag:x]>", BAD, BAD, "a@[tag:x]"),
    (b"<a@[]>", BAD, BAD, "a@[]"),
    (b"<a@[IPv6:1:2:3:4:5:6::]>", *["a@[IPv6:1:2:3:4:5:6::]"] * 3),
    (b"<a@[IPv6:1:2:3:4:5:6:7::]>", BAD, BAD, "a@[IPv6:1:2:3:4:5:6:7::]"),
    (b"<a@[IPv6:::3:4:5:6:192.0.2.1]>", *["a@[IPv6:::3:4:5:6:192.0.2.1]"] * 3),
    (b"<a@[IPv6:::2:3:4:5:6:192.0.2.1]>", BAD, BAD, "a@[IPv6:::2:3:4:5:6:192.0.2.1]"),
    (b"<a@[IPv6:fe80::1%0]>", BAD, BAD, "a@[IPv6:fe80::1%0]"),
    (b"<a@-x>", BAD, BAD, "a@-x"),
    (b"<a@x->", BAD, BAD, "a@x-"),
    (b"<a@x.>", BAD, "a@x.", "a@x."),
    (b"<a@.x>", BAD, BAD, "a@.x"),
    (b"<a@x..y>", BAD, BAD, "a@x..y"),
    (b"<a@x_y>", BAD, "a@x_y", "a@x_y"),
    (b"<a b@x>", BAD, BAD, BAD),
    (b"a@x", BAD, "a@x", "a@x"),
    (b"a..b@x_y", BAD, "a..b@x_y", "a..b@x_y"),
    (b"a@x..y", BAD, BAD, "a@x..y"),
    (b'"a@b"@x', BAD, '"a@b"@x', '"a@b"@x'),
    (b'"a b"@x', BAD, BAD, BAD),
    (b'"a@x', BAD, BAD, BAD),
    (b"@r:a@x", BAD, BAD, BAD),
    (b"<..@x>", BAD, BAD, "..@x"),
    (b'<"a b"@x_y>', BAD, *['"a b"@x_y'] * 2),
    (b"<a@x_y.z.>", BAD, *["a@x_y.z."] * 2),
    (b"<a@x", BAD, BAD, BAD),
    (b"a@x>", BAD, BAD, BAD),
    (b"<<a@x>>", BAD, BAD, BAD),
    (b"<a@x>>", BAD, BAD, BAD),
    (b"<a@x>b", BAD, BAD, BAD),
    (b'<"a\tb"@x>', BAD, BAD, BAD),
    (b"<a\t@x>", BAD, BAD, BAD),
    (b"<a@x\x00@evil>", BAD, BAD, BAD),
    (b"<" + b"a" * 65 + b"@x>", *["a" * 65 + "@x"] * 3),
    (b"<a@" + b"x" * 63 + b">", *["a@" + "x" * 63] * 3),
    (b"<a@" + b"x" * 64 + b">", BAD, BAD, "a@" + "x" * 64),
    (b"<" + b"a" * 252 + b"@x>", *["a" * 252 + "@x"] * 3),
    (b"<" + b"a" * 253 + b"@x>", BAD, BAD, BAD),
    (b"<a@" + b"x." * 600 + b"x>", BAD, BAD, BAD),
]


@pytest.mark.parametrize("row", PATH_ROWS, ids=lambda row: repr(row[0][:40]))
def test_a_path_means_what_the_table_says(row: tuple[bytes, str, str, str]) -> None:
    path, *meanings = row
    for prefix, keyword in ((b"FROM:", b"FROM"), (b"to:", b"TO"), (b"TO : ", b"TO")):
        for leniency, expected in enumerate(meanings):
            found = reference.parse_path(prefix + path, keyword, False, leniency)
            if expected == BAD:
                assert found == BAD
                continue
            assert isinstance(found, reference.Path)
            assert found.address == expected
            assert found.address == f"{found.local_part}@{found.domain}"
            raw = path if path.startswith(b"<") else b"<%s>" % path
            assert found.raw == raw.decode()
            assert found.rest == b""


def test_other_forms_around_the_path_are_refused() -> None:
    null = reference.Path("", "", "", "<>", b"")
    postmaster = reference.Path("postMASTER", "postMASTER", "", "<postMASTER>", b"")
    assert reference.parse_path(b"FROM:<>", b"FROM") == null
    assert reference.parse_path(b"TO:<>", b"TO") == BAD
    assert reference.parse_path(b"TO:<postMASTER>", b"TO") == postmaster
    assert reference.parse_path(b"FROM:<postmaster>", b"FROM") == BAD
    assert reference.parse_path(b"FROM <a@x>", b"FROM") == BAD
    assert reference.parse_path(b" FROM:<a@x>", b"FROM") == BAD
    assert reference.parse_path(b"FROM:", b"FROM") == BAD
    assert reference.parse_path(b"", b"FROM") == BAD
    for argument in (b"FROM: <a@x> SIZE=1", b"FROM :<a@x> SIZE=1", b"from:<a@x> SIZE=1"):
        found = reference.parse_path(argument, b"FROM")
        assert isinstance(found, reference.Path)
        assert found.rest == b" SIZE=1"
    assert reference.parse_path(b"FROM:<a@x> <b@y>", b"FROM") == BAD


UTF8_ROWS = [
    (b"\xc3\xa9", True),
    (b"e\xcc\x81", True),
    (b"\xe2\x80\x8c", True),
    (b"\xe2\x80\x8d", True),
    (b"\xef\xbc\x8e", True),
    (b"\xf0\x9f\x93\xa7", True),
    (b"\xff", False),
    (b"\xc0\xaf", False),
    (b"\xed\xa0\x80", False),
    (b"\xf4\x90\x80\x80", False),
    (b"\xe2\x82", False),
    (b"\xc2\x85", False),
    (b"\xe2\x80\x8b", False),
    (b"\xe2\x80\xa8", False),
    (b"\xe2\x80\xae", False),
    (b"\xe2\x81\xa0", False),
    (b"\xe2\x81\xa9", False),
    (b"\xef\xbb\xbf", False),
]


@pytest.mark.parametrize("row", UTF8_ROWS, ids=lambda row: row[0].hex())
def test_non_ascii_needs_smtputf8_and_good_utf8(row: tuple[bytes, bool]) -> None:
    octets, good = row
    for path in (b"<" + octets + b"@x>", b"<a@" + octets + b">", b'<"' + octets + b'"@x>'):
        for leniency in range(3):
            with_it = reference.parse_path(b"FROM:" + path, b"FROM", True, leniency)
            without = reference.parse_path(b"FROM:" + path, b"FROM", False, leniency)
            assert isinstance(with_it, reference.Path) is good
            assert without == ("utf8" if good else BAD)
    assert reference.split_parameters(b" X=" + octets, True)[-1][0] == ("X" if good else "")
    assert reference.split_parameters(b" X=" + octets, False) == [("", None)]


def test_fullwidth_signs_do_not_separate() -> None:
    assert reference.parse_path(b"FROM:<a\xef\xbc\xa0x>", b"FROM", True) == BAD


@pytest.mark.parametrize(
    ("rest", "expected"),
    [
        (b"", []),
        (b" SIZE=1 body=8BITMIME", [("SIZE", "1"), ("BODY", "8BITMIME")]),
        (b"\tSIZE=1  SMTPUTF8", [("SIZE", "1"), ("SMTPUTF8", None)]),
        (b" =1", [("", None)]),
        (b" A==B", [("", None)]),
        (b" A=1 X= B=1", [("A", "1"), ("", None)]),
        (b" -A=1", [("", None)]),
        (b" A_B=1", [("", None)]),
        (b" 1-=~", [("1-", "~")]),
        (b" A=\x7f", [("", None)]),
        (b" A" * 64, [("A", None)] * 64),
        (b" A" * 65, [("A", None)] * 64 + [("", None)]),
    ],
)
def test_parameters_are_split_as_the_table_says(
    rest: bytes, expected: list[tuple[str, str | None]]
) -> None:
    assert reference.split_parameters(rest) == expected


def test_a_keyword_inside_the_path_is_not_a_parameter() -> None:
    def has(argument: bytes) -> bool:
        return reference.has_parameter(argument, b"FROM", b"SMTPUTF8")

    assert has(b"FROM:<\xc3\xa9@x> SIZE=1 smtputf8")
    assert has(b"FROM:<a@x> SMTPUTF8=1")
    assert not has(b'FROM:<" SMTPUTF8"@x>')
    assert not has(b"FROM:<a@x> X=SMTPUTF8 SMTPUTF88")


@pytest.mark.parametrize(
    ("value", "plain", "with_utf8"),
    [
        ("abc", "abc", "abc"),
        ("+2B+3D", "+=", "+="),
        ("+2B0D+2B0A", "+0D+0A", "+0D+0A"),
        ("a+20b", "a b", "a b"),
        ("+4", None, None),
        ("+GG", None, None),
        ("+4g", None, None),
        ("+0d", None, None),
        ("+", None, None),
        ("a=b", None, None),
        ("+00", None, None),
        ("+0D+0A", None, None),
        ("+1B", None, None),
        ("+7F", None, None),
        ("+C3+A9", None, "é"),
        ("é", None, "é"),
        ("+E2+80+AE", None, None),
        ("+FF", None, None),
    ],
)
def test_xtext_is_decoded_as_the_table_says(
    value: str, plain: str | None, with_utf8: str | None
) -> None:
    assert reference.decode_xtext(value) == plain
    assert reference.decode_xtext(value, smtp_utf8=True) == with_utf8


@pytest.mark.parametrize(
    ("argument", "expected"),
    [
        (b"5", (5, False)),
        (b"5 LAST", (5, True)),
        (b"0\tlast", (0, True)),
        (b"9" * 20, (10**20 - 1, False)),
        (b"9" * 21, None),
        (b"", None),
        (b"-1", None),
        (b"+5", None),
        (b"5x", None),
        (b"0x5", None),
        (b" 5", None),
        (b"5  LAST", None),
        (b"5 LASTX", None),
        (b"5 LAST X", None),
        (b"5\n", None),
        (b"\xd9\xa5", None),
    ],
)
def test_an_argument_of_bdat_is_read_as_the_table_says(
    argument: bytes, expected: tuple[int, bool] | None
) -> None:
    assert reference.parse_bdat_argument(argument) == expected


def test_a_host_name_is_taken_or_refused_as_the_table_says() -> None:
    good = [b"[1.2.3.4]", b"_x", b"LocalHost", b"<script>", b"%s", b"-x", b"a" * 255]
    bad = [b"", b"a b", b"a" * 256, b"\xc3\xa9", b"a\tb", b"a\x7f", b"a\n"]
    assert [reference.parse_hostname_token(name) for name in good] == [
        name.decode().lower() for name in good
    ]
    assert [reference.parse_hostname_token(name) for name in bad] == [None] * len(bad)


def test_a_mailbox_is_taken_or_refused_as_the_table_says() -> None:
    assert reference.is_mailbox(b"a@x", False)
    assert reference.is_mailbox(b'"a b"@[192.0.2.1]', False)
    assert not reference.is_mailbox(b"postmaster", False)
    assert not reference.is_mailbox(b"@r:a@x", False)
    assert not reference.is_mailbox(b"a@[192.0.2.1", False)
    assert not reference.is_mailbox(b"\xc3\xa9@x", False)
    assert reference.is_mailbox(b"\xc3\xa9@x", True)
