"""The engine's grammar against the oracle, for generated and mutated arguments; and round trips.

Oracle: tests/reference.py, written from the RFCs with regular expressions, slow and obvious.
"""

from __future__ import annotations

import reference
from hypothesis import given
from hypothesis import strategies as st

from fastsmtp._wire.grammar import (
    Address,
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

PARSERS = {b"FROM": parse_reverse_path, b"TO": parse_forward_path}
FAULTS: dict[str, int] = {
    "syntax": PathFault.BAD_SYNTAX,
    "utf8": PathFault.NEEDS_SMTPUTF8,
}

LENIENCIES = st.sampled_from(Leniency)

# --- what is generated ---------------------------------------------------------------------------

ATEXT = "abcXYZ019!#$%&'*+-/=?^_`{|}~"
LETTERS = "abcXYZ019"
WIDE = "éß€．＠\u200c\U0001f4e7"
NEVER = "\u0080\u0085\u009f\u200b\u2028\u2029\u202a\u202e\u2060\u2066\u2069\ufeff"
SPACES = st.sampled_from([b"", b"", b"", b" ", b"\t", b"  "])


def words(alphabet: str, wide: bool, most: int = 8) -> st.SearchStrategy[str]:
    return st.text(alphabet + (WIDE if wide else ""), min_size=1, max_size=most)


def quoted_strings(wide: bool) -> st.SearchStrategy[str]:
    plain = st.sampled_from(list(" !#@<>,:.[]ab" + (WIDE if wide else "")))
    pairs = st.sampled_from([r"\"", r"\\", r"\ ", r"\a", r"\>", r"\@"])
    return st.lists(plain | pairs, max_size=12).map(lambda parts: f'"{"".join(parts)}"')


def local_parts(wide: bool) -> st.SearchStrategy[str]:
    atoms = st.lists(words(ATEXT, wide), min_size=1, max_size=4).map(".".join)
    return atoms | quoted_strings(wide)


def domains(wide: bool) -> st.SearchStrategy[str]:
    label = st.builds(
        lambda first, inner, last: first + inner + last if inner else first,
        words(LETTERS, wide, 1),
        st.text(LETTERS + "-" + (WIDE if wide else ""), max_size=20),
        words(LETTERS, wide, 1),
    )
    return st.lists(label, min_size=1, max_size=5).map(".".join)


IPV4 = st.lists(st.integers(0, 300).map(str), min_size=4, max_size=4).map(".".join)
IPV6 = (
    st.ip_addresses(v=6).map(str)
    | st.ip_addresses(v=6).map(lambda address: address.exploded)
    | st.lists(st.sampled_from(["1", "ab", "0", "FFFF", "12345", "", ""]), max_size=9).map(":".join)
    | st.builds("{}{}".format, st.sampled_from(["::", "1::", "::ffff:", "1:2:3:4:5:6:"]), IPV4)
)
LITERALS = IPV4.map("[{}]".format) | st.builds(
    "[{}{}]".format, st.sampled_from(["IPv6:", "ipV6:", "x:"]), IPV6
)


def mailboxes(wide: bool) -> st.SearchStrategy[str]:
    return st.builds("{}@{}".format, local_parts(wide), domains(wide) | LITERALS)


def paths(wide: bool) -> st.SearchStrategy[str]:
    hops = st.lists(domains(wide), min_size=1, max_size=3)
    routes = st.just("") | hops.map(lambda names: ",".join(f"@{name}" for name in names) + ":")
    return st.builds("<{}{}>".format, routes, mailboxes(wide)) | st.sampled_from(
        ["<>", "<Postmaster>", "<postMASTER>", f"<{'l' * 252}@x>", f"<{'l' * 253}@x>"]
    )


# As old devices send them, without brackets, and with what many get wrong.
ODD_PATHS = st.one_of(
    mailboxes(False),
    mailboxes(True),
    st.builds("{}@{}".format, st.text("ab.-_é", max_size=6), st.text("xy._-é", max_size=8)),
    st.sampled_from(
        ["postmaster", "PostMaster", "postmaster@", f"{'l' * 252}@x", f"{'l' * 253}@x"]
    ),
)
PATHS = st.one_of(
    paths(False), paths(False), paths(True), ODD_PATHS, ODD_PATHS.map("<{}>".format)
).map(str.encode)

# What mutation puts in: what separates, what ends, and what must never be there.
PIECES = st.sampled_from(
    [bytes([octet]) for octet in b'@.<>"\\ \t:,[]=+;-_a1(\x00\x01\x0b\r\n\x7f\x80\xc3\xe2\xed\xff']
    + [sign.encode() for sign in WIDE + NEVER]
    + [b"::", b"IPv6:", b"@x", b"> ", b'"@x>', b"\xc0\xaf", b"\xed\xa0\x80", b"\xf4\x90\x80\x80"]
    + [b" SMTPUTF8", b" SMTPUTF8=1", b" X=1", b"+2B", b"+2b", b"LAST", b"d" * 60]
)


@st.composite
def mutated(draw: st.DrawFn, octets: st.SearchStrategy[bytes]) -> bytes:
    """Octets with up to three places in which something was put in, taken out or replaced."""
    text = draw(octets)
    for _ in range(draw(st.integers(0, 3))):
        start = draw(st.integers(0, len(text)))
        end = min(len(text), start + draw(st.integers(0, 3)))
        text = text[:start] + draw(PIECES | st.just(b"")) + text[end:]
    return text


VALUES = st.text(ATEXT + "<>;:@,." + WIDE, min_size=1, max_size=10)
PARAMETERS = (
    st.lists(
        st.builds("{}={}".format, words(LETTERS + "-", False), VALUES)
        | words(LETTERS + "-", False)
        | st.sampled_from(["SMTPUTF8", "smtputf8", "SMTPUTF8=", "SIZE=1", "=", "A==", "<b@y>"]),
        max_size=5,
    )
    .map(" ".join)
    .map(str.encode)
)
ARGUMENTS = st.builds(
    lambda word, before, after, path, gap, rest: word + before + b":" + after + path + gap + rest,
    st.sampled_from([b"FROM", b"from", b"TO", b"To"]),
    SPACES,
    SPACES,
    mutated(PATHS),
    st.sampled_from([b"", b" ", b" ", b"\t", b"  "]),
    mutated(PARAMETERS),
)
HEX = st.integers(0, 255).map("+{:02X}".format)
XTEXT = (
    st.lists(HEX | st.text(ATEXT + WIDE + NEVER, max_size=5), max_size=8).map("".join)
    | st.text(max_size=8).map(lambda text: "".join(f"+{octet:02X}" for octet in text.encode()))
    | st.text("+0AaFfGg=é 2B", max_size=12)
)


def expected_path(
    argument: bytes, word: bytes, smtp_utf8: bool, leniency: int
) -> tuple[str, str, str, str, bytes] | int:
    path = reference.parse_path(argument, word, smtp_utf8, leniency)
    if isinstance(path, str):
        return FAULTS[path]
    return path.address, path.local_part, path.domain, path.raw, path.rest.strip(b" \t")


def found_path(
    argument: bytes, word: bytes, smtp_utf8: bool, leniency: int
) -> tuple[str, str, str, str, bytes] | int:
    result = PARSERS[word](argument, smtp_utf8, leniency)
    if isinstance(result, int):
        return result
    address, rest = result
    assert address.is_null == (address.raw == "<>")
    assert rest[:1] not in (b" ", b"\t")
    return address.address, address.local_part, address.domain, address.raw, rest.strip(b" \t")


# --- engine and oracle ---------------------------------------------------------------------------


@given(argument=ARGUMENTS | mutated(ARGUMENTS), smtp_utf8=st.booleans(), leniency=LENIENCIES)
def test_paths_are_read_as_the_oracle_reads_them(
    argument: bytes, smtp_utf8: bool, leniency: int
) -> None:
    for word in PARSERS:
        expected = expected_path(argument, word, smtp_utf8, leniency)
        assert found_path(argument, word, smtp_utf8, leniency) == expected


@given(
    argument=mutated(ARGUMENTS), keyword=st.sampled_from([b"SMTPUTF8", b"smtputf8", b"X", b"SIZE"])
)
def test_a_parameter_is_seen_before_the_path_is_read_as_the_oracle_sees_it(
    argument: bytes, keyword: bytes
) -> None:
    found = has_parameter(argument, keyword)
    assert found == reference.has_parameter(argument, b"FROM", keyword, leniency=Leniency.LENIENT)
    for leniency in Leniency:
        result = parse_reverse_path(argument, True, leniency)
        if not isinstance(result, int):
            split = split_parameters(result[1], True)
            if ("", None) not in split:
                assert found == (keyword.decode().upper() in [name for name, _ in split])


@given(rest=mutated(PARAMETERS), smtp_utf8=st.booleans())
def test_parameters_are_split_as_the_oracle_splits_them(rest: bytes, smtp_utf8: bool) -> None:
    assert split_parameters(rest, smtp_utf8) == reference.split_parameters(rest, smtp_utf8)


@given(value=XTEXT, smtp_utf8=st.booleans())
def test_xtext_is_decoded_as_the_oracle_decodes_it(value: str, smtp_utf8: bool) -> None:
    assert decode_xtext(value, smtp_utf8) == reference.decode_xtext(value, smtp_utf8)


@given(text=mutated((mailboxes(False) | mailboxes(True)).map(str.encode)), smtp_utf8=st.booleans())
def test_mailboxes_are_known_as_the_oracle_knows_them(text: bytes, smtp_utf8: bool) -> None:
    try:
        decoded = text.decode()
    except UnicodeDecodeError:
        assert not parse_mailbox(text.decode("utf-8", "surrogateescape"), smtp_utf8)
    else:
        assert parse_mailbox(decoded, smtp_utf8) == reference.is_mailbox(text, smtp_utf8)


@given(
    argument=mutated(
        st.builds(
            lambda size, last: str(size).encode() + last,
            st.integers(0, 10**21),
            st.sampled_from([b"", b" LAST", b"\tlast", b" Last"]),
        )
    )
)
def test_arguments_of_bdat_are_read_as_the_oracle_reads_them(argument: bytes) -> None:
    assert parse_bdat_argument(argument) == reference.parse_bdat_argument(argument)


@given(argument=mutated(st.binary(max_size=3) | domains(False).map(str.encode)))
def test_host_names_are_read_as_the_oracle_reads_them(argument: bytes) -> None:
    assert parse_hostname_token(argument) == reference.parse_hostname_token(argument)


@given(argument=st.binary(max_size=300), smtp_utf8=st.booleans(), leniency=LENIENCIES)
def test_parsing_never_raises_on_any_octets(
    argument: bytes, smtp_utf8: bool, leniency: int
) -> None:
    for word in PARSERS:
        for octets in (argument, word + b":<" + argument, word + b":<a@x> " + argument):
            assert found_path(octets, word, smtp_utf8, leniency) == expected_path(
                octets, word, smtp_utf8, leniency
            )
    assert split_parameters(argument, smtp_utf8) == reference.split_parameters(argument, smtp_utf8)


# --- round trips ---------------------------------------------------------------------------------


@given(argument=ARGUMENTS, leniency=LENIENCIES)
def test_an_accepted_path_formats_to_text_that_parses_the_same(
    argument: bytes, leniency: int
) -> None:
    """ADDR-14."""
    for word, parse in PARSERS.items():
        result = parse(argument, True, leniency)
        if isinstance(result, int):
            continue
        address, rest = result
        again = parse(word + b":" + address.raw.encode() + b" " + rest, True, leniency)
        assert again == (address, rest)
        if address.domain:
            short = parse(word + f":<{address.address}>".encode(), True, leniency)
            assert not isinstance(short, int)
            assert short[0].address == address.address
            assert (short[0].local_part, short[0].domain) == (address.local_part, address.domain)
            assert parse_mailbox(address.address, True) or leniency
        if not isinstance(parse(argument, True, Leniency.STRICT), int):
            assert Address(address.raw) == address


@given(text=st.text(max_size=20))
def test_xtext_is_decoded_to_what_was_encoded(text: str) -> None:
    """What decodes, decodes to what was encoded; and a refusal does not depend on the escapes."""
    octets = text.encode("utf-8")
    escaped = "".join(f"+{octet:02X}" for octet in octets)
    decoded = decode_xtext(escaped, True)
    clean = reference.acceptable_utf8(octets) and all(32 <= x != 127 for x in octets)
    assert decoded == (text if clean else None)
    if decoded is not None and not set(text) & {"+", "=", " "}:
        assert decode_xtext(text, True) == text
