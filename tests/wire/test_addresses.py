"""Addresses, rows ADDR: paths by grammar, kept as they were sent, whatever they hold.

RFC 5321 §4.1.1.1, §4.1.2, §4.1.3, §4.5.1, §4.5.3.1.
"""

from __future__ import annotations

import hypothesis
import pytest
import scenario
from conftest import Run
from hypothesis import strategies as st
from scenario import EH, LH, MAILED, TX, Conversation, Script, every_cut, one_way

from fastsmtp import Address

BAD_SENDER, BAD_RECIPIENT = "501 5.1.7", "501 5.1.3"
SENDER = b"MAIL FROM:<a@x.example>\r\n"


def row(row_id: str, *paths: str) -> list[object]:
    """One parameter set per path, with the row's id in front."""
    return [
        pytest.param(path, id=f"{row_id} {path[:40]}", marks=pytest.mark.row(row_id))
        for path in paths
    ]


def taken(path: str, **options: object) -> Address:
    """The address that the hooks saw of `path`; MAIL and RCPT must take it, in each of the ways."""
    seen: list[Address] = []
    octets = path.encode()
    lines = b"MAIL FROM:" + octets + b"\r\nRCPT TO:" + octets + b"\r\n"

    def look(address: Address, session: object) -> None:
        seen.append(address)

    ran = every_cut([EH, lines], Script(mail=look, rcpt=look), **options)
    assert ran.codes == ["220", "250", *MAILED]
    sender, recipient = seen[:2]
    assert sender == recipient
    assert sender.address == recipient.address == str(sender)
    assert sender.raw == recipient.raw == (path if path.startswith("<") else f"<{path.strip()}>")
    assert not sender.is_null
    return sender


def assert_refused(path: str, **options: object) -> None:
    """Neither MAIL nor RCPT takes `path`, no hook sees it, and the next command is in sync."""
    octets = path.encode()
    lines = b"MAIL FROM:" + octets + b"\r\n" + SENDER + b"RCPT TO:" + octets + b"\r\nNOOP\r\n"
    ran = every_cut([EH, lines], **options)
    assert ran.codes == ["220", "250", BAD_SENDER, "250 2.1.0", BAD_RECIPIENT, "250 2.0.0"]
    assert ran.recorder.named("mail") == ["<a@x.example>"]
    assert ran.recorder.named("rcpt") == []


# --- null path and Postmaster ---


@pytest.mark.row("ADDR-01")
def test_the_null_path_is_a_sender_and_no_recipient(run: Run) -> None:
    seen: list[Address] = []

    def look(address: Address, session: object) -> None:
        seen.append(address)

    ran = every_cut([EH, b"MAIL FROM:<>\r\nRCPT TO:<>\r\n"], Script(mail=look))
    assert ran.codes == ["220", "250", "250 2.1.0", BAD_RECIPIENT]
    assert (seen[0].address, seen[0].local_part, seen[0].domain) == ("", "", "")
    assert seen[0].raw == "<>"
    assert seen[0].is_null is True
    assert ran.recorder.named("rcpt") == []
    run(scenario.repeat_on_the_wire(ran))


@pytest.mark.row("ADDR-02")
@pytest.mark.parametrize("name", ["Postmaster", "postmaster", "postMASTER"])
def test_postmaster_needs_no_domain_as_a_recipient(name: str) -> None:
    seen: list[Address] = []

    def look(address: Address, session: object) -> None:
        seen.append(address)

    ran = every_cut([EH, SENDER + b"RCPT TO:<%s>\r\n" % name.encode()], Script(rcpt=look))
    assert ran.codes == ["220", "250", *MAILED]
    assert (seen[0].address, seen[0].local_part, seen[0].domain) == (name, name, "")
    refused = every_cut([EH, b"MAIL FROM:<%s>\r\n" % name.encode()])
    assert refused.codes == ["220", "250", BAD_SENDER]


@pytest.mark.row("ADDR-02")
@pytest.mark.parametrize("path", ["<Postmaster@>", "<postmasters>", '<"postmaster">', "<post>"])
def test_a_recipient_other_than_postmaster_needs_a_domain(path: str) -> None:
    assert_refused(path)


# --- what is accepted, verbatim ---

GOOD = {
    "ADDR-03": [
        '<"a b"@x>',
        r'<"a\"b"@x>',
        r'<"a\\"@x>',
        '<"@"@x>',
        '<""@x>',
        '<"a>b"@x>',
        '<"a@b,c:d"@x>',
    ],
    "ADDR-05": ["<u@[1.2.3.4]>", "<u@[IPv6:::1]>", "<u@[ipv6:::1]>", "<u@[IPv6:2001:DB8::1]>"],
    "ADDR-06": [
        "<" + "a" * 64 + "@x>",
        "<" + "a" * 65 + "@x>",
        "<" + "a" * 252 + "@x>",
        "<a@" + "b" * 63 + ">",
        "<a@" + ".".join(["b" * 63] * 4)[:252] + ">",
        "<a@" + "b." * 125 + "cd>",
    ],
    "ADDR-07": ["<AbC@X.eXample>"],
    "ADDR-08": ["<{id}@x>", "<-a@x>", "<a-@x>", "<a@1>", "<a@1.2.3.4>", "<a@x--y>"],
    "ADDR-10": ["<`id`@x>", "<|cmd@x>", "<a/b@x>", "<a'--@x>", "<{{7*7}}@x>", "<%s%n@x>"],
    "ADDR-11": ["<a+0D+0A@x>", "<a%0d%0a@x>"],
}


@pytest.mark.parametrize("path", [one for name, paths in GOOD.items() for one in row(name, *paths)])
def test_a_legal_path_reaches_the_hook_verbatim(path: str) -> None:
    address = taken(path)
    assert address.raw == path
    assert address.address == path[1:-1]
    assert address.local_part + "@" + address.domain == path[1:-1]


@pytest.mark.parametrize(
    "path, address",
    [
        pytest.param("<@h1,@h2:u@x>", "u@x", id="ADDR-04 two hosts"),
        pytest.param("<@h1:u@x>", "u@x", id="ADDR-04 one host"),
        pytest.param('<@h1:"@h2:a"@x>', '"@h2:a"@x', id="ADDR-04 quoted"),
    ],
)
@pytest.mark.row("ADDR-04")
def test_a_source_route_is_dropped(path: str, address: str) -> None:
    assert taken(path).address == address


# --- what is refused ---

BAD = {
    "ADDR-03": ['<"a@b">', '<"unterminated@x>', r'<"a\"@x>', '<a"b"@x>', '<"a"b@x>', '<"a"."b"@x>'],
    "ADDR-04": [
        "<@h1:>",
        "<@:u@x>",
        "<@a,b:u@x>",
        "<@a,:u@x>",
        "<@a@b:u@x>",
        "<@[192.0.2.1]:u@x>",
        "<@a u@x>",
    ],
    "ADDR-05": [
        "<u@[999.1.1.1]>",
        "<u@[1.2.3]>",
        "<u@[01.2.3.4]>",
        "<u@[IPv6:fe80::1%eth0]>",
        "<u@[IPv6:fe80::1%0]>",
        "<u@[IPv6:1.2.3.4]>",
        "<u@[::1]>",
        "<u@[]>",
        "<u@[1.2.3.4>",
        "<u@x]>",
        "<u@[tag:x]>",
        "<u@[1.2.3.4].x>",
    ],
    "ADDR-06": [
        "<" + "a" * 253 + "@x>",
        "<a@" + "b" * 64 + ">",
        "<a@" + ".".join(["b" * 63] * 4)[:253] + ">",
        "<a@" + ".".join(["b" * 63] * 4) + ">",
        "<a@" + ".".join(["b" * 63] * 4) + "c>",
        "<a@" + "b." * 999 + "b>",
    ],
    "ADDR-08": [
        "<a@x> <b@y>",
        "<a@x>b",
        "<a@x",
        "a@x>",
        "<<a@x>>",
        "<a@x>>",
        "<a@b@c>",
        "<a@>",
        "<@x>",
        "<a>",
        "< a@x>",
        "<a@x >",
        "<a @x>",
        "",
    ],
    "ADDR-09": [
        "<a@x.>",
        "<.a@x>",
        "<a.@x>",
        "<a..b@x>",
        "<a@-x>",
        "<a@x->",
        "<a@.x>",
        "<a@x..y>",
        "<a@x_y>",
        "<a@x.-y>",
    ],
    "ADDR-10": ["<;id;@x>", "<$(id)@x>", "<../../etc/passwd@x>"],
    "ADDR-13": [
        '<"' + r"\a" * 990 + '"@x>',
        "<" + "(" * 1000 + ")" * 990 + "@x>",
        "<" * 1000 + "a@x" + ">" * 990,
        "<@" + "a,@" * 600 + "a:u@x>",
        '<"' * 900 + ">",
    ],
}


@pytest.mark.parametrize("path", [one for name, paths in BAD.items() for one in row(name, *paths)])
def test_an_illegal_path_is_refused(path: str) -> None:
    assert_refused(path)


@pytest.mark.row("ADDR-11")
def test_a_cr_in_a_quoted_local_part_is_a_dirty_line() -> None:
    ran = every_cut([EH, b'MAIL FROM:<"a\rb"@x>\r\nNOOP\r\n'])
    assert ran.codes == ["220", "250", "500 5.5.2", "250 2.0.0"]
    assert ran.recorder.named("mail") == []


@pytest.mark.row("ADDR-07")
@pytest.mark.parametrize(
    "form, good",
    [
        ("%s:<a@x>", True),
        ("%s: <a@x>", True),
        ("%s :<a@x>", True),
        ("%s : <a@x>", True),
        ("%s:a@x", False),
        ("%s <a@x>", False),
        (" %s:<a@x>", False),
        ("%s", False),
        ("%s:", False),
        ("%s:<a@x>SIZE=1", False),
        ("X%s:<a@x>", False),
        ("", False),
    ],
)
@pytest.mark.parametrize("case", [str.upper, str.lower, str.title])
def test_other_words_before_the_path_are_refused(form: str, good: bool, case: type[str]) -> None:
    mail = case("mail " + form % "from" if form else "mail").replace("<A@X>", "<a@x>")
    rcpt = case("rcpt " + form % "to" if form else "rcpt").replace("<A@X>", "<a@x>")
    lines = f"{mail}\r\nRSET\r\n".encode() + SENDER + f"{rcpt}\r\n".encode()
    ran = every_cut([EH, lines])
    answers = MAILED if good else [BAD_SENDER, BAD_RECIPIENT]
    assert ran.codes == ["220", "250", answers[0], "250 2.0.0", "250 2.1.0", answers[1]]


# --- lenient_address_parsing: rule L of what is otherwise refused ---

LENIENT = ["<.a@x>", "<a.@x>", "<a..b@x>", "<$(id)@x>", "<a@-x>", "<a@x.>", "<a@x..y>", "<a@x_y>"]
NEVER = ["<a@b@c>", "<a@>", "<@x>", "<a>", "<a b@x>", "<a@x", "a@x>", "<a@x>b", "<@r1:>", "<<a@x>>"]
COMMON = ["<.a@x>", "<a.@x>", "<a..b@x>", "<a@x.>", "<a@x_y>"]
BARE = ["a@x", "a..b@x_y", "a@[192.0.2.1]"]
LEVELS = pytest.mark.parametrize("level", ["common", True])


@pytest.mark.parametrize("path", row("ADDR-09", *LENIENT))
def test_lenient_parsing_takes_what_has_one_at_with_something_on_both_sides(path: str) -> None:
    assert_refused(path)
    assert taken(path, lenient_address_parsing=True).address == path[1:-1]


@LEVELS
@pytest.mark.parametrize("path", row("ADDR-08", *NEVER))
def test_lenient_parsing_takes_nothing_else(path: str, level: object) -> None:
    assert_refused(path, lenient_address_parsing=level)


@pytest.mark.parametrize("path", row("ADDR-09", *LENIENT))
def test_the_level_common_takes_what_old_devices_send(path: str) -> None:
    if path in COMMON:
        assert taken(path, lenient_address_parsing="common").address == path[1:-1]
    else:
        assert_refused(path, lenient_address_parsing="common")


@LEVELS
@pytest.mark.parametrize("path", row("ADDR-07", *BARE))
def test_both_lenient_levels_take_paths_without_brackets(path: str, level: object) -> None:
    """Printers, RAID controllers and power supplies send them."""
    assert_refused(path)
    assert taken(path, lenient_address_parsing=level).raw == f"<{path}>"
    assert taken(" " + path, lenient_address_parsing=level).address == path


@LEVELS
def test_a_session_of_an_old_device_is_a_session_where_that_is_allowed(level: object) -> None:
    recipients = b"RCPT TO: postmaster\r\nRCPT TO:root@x.\r\n"
    steps = [
        b"EHLO ups\r\n",
        b"MAIL FROM: ups_1@plant_7 SIZE=12\r\n" + recipients + b"DATA\r\n",
        b"on battery\r\n.\r\n",
    ]
    ran = every_cut(steps, lenient_address_parsing=level)
    assert ran.codes == ["220", "250", *MAILED, "250 2.1.5", "354", "250 2.6.0"]
    assert ran.messages[0].sender == "<ups_1@plant_7>"
    assert ran.messages[0].recipients == ("<postmaster>", "<root@x.>")


@LEVELS
@pytest.mark.parametrize("argument", ["FROM:", "FROM: ", "FROM: SIZE=1"])
def test_an_empty_argument_is_never_the_null_path(argument: str, level: object) -> None:
    ran = every_cut(
        [EH, f"MAIL {argument}\r\nMAIL FROM:<>\r\n".encode()], lenient_address_parsing=level
    )
    assert ran.codes == ["220", "250", BAD_SENDER, "250 2.1.0"]


@LEVELS
def test_a_parameter_after_a_path_without_brackets_is_checked_like_any_other(
    level: object,
) -> None:
    lines = "MAIL FROM:a@x <b@y>\r\nMAIL FROM:a@x b\r\nMAIL FROM:é@x\r\nMAIL FROM:é@x SMTPUTF8\r\n"
    ran = every_cut([EH, lines.encode()], lenient_address_parsing=level)
    assert ran.codes == ["220", "250", BAD_SENDER, "555 5.5.4", "553 5.6.7", "250 2.1.0"]


def test_the_reply_to_a_refused_path_says_what_was_expected() -> None:
    with Conversation() as session:
        session.do(EH, b"MAIL FROM:a@x\r\n", TX, b"RCPT TO:b@y\r\n")
        wanted = [reply.lines[0] for reply in session.replies if reply.code == 501]
    assert wanted == [
        "Error: Bad sender address syntax, expected MAIL FROM:<user@domain>",
        "Error: Bad recipient address syntax, expected RCPT TO:<user@domain>",
    ]


# --- names in a greeting ---

NAMES = [
    "c.example",
    "[1.2.3.4]",
    "_x",
    "localhost",
    "<script>",
    "%s",
    "-x",
    "n" * 255,
    "A.Example",
]


@pytest.mark.row("ADDR-12")
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("verb", ["EHLO", "HELO", "LHLO"])
def test_any_one_word_is_a_greeting(verb: str, name: str) -> None:
    with Conversation(lmtp=verb == "LHLO") as session:
        assert session.do(f"{verb} {name}\r\n".encode()) == ["250"]
        assert session.wire.session.host_name_appears_as == name.lower()
        assert session.wire.session.opening_command == verb
        octets = session.written[-1]
    assert name.encode() not in octets


@pytest.mark.row("ADDR-12")
@pytest.mark.parametrize("name", [b"", b" ", b" a b", b" " + b"n" * 256, b" \xc3\xa9", b" a\xff"])
@pytest.mark.parametrize("verb", [b"EHLO", b"HELO", b"LHLO"])
def test_a_greeting_without_exactly_one_word_is_refused_and_changes_nothing(
    verb: bytes, name: bytes
) -> None:
    lmtp = verb == b"LHLO"
    greeting = LH if lmtp else EH
    ran = every_cut([verb + name + b"\r\n", TX, greeting, TX, verb + name + b"\r\n", TX], lmtp=lmtp)
    nested = ["503 5.5.1", "250 2.1.5"]
    assert ran.codes == ["220", "501", "503 5.5.1", "503 5.5.1", "250", *MAILED, "501", *nested]


# --- round trip ---

# Of printable ASCII; what the grammar makes of it is checked by what it accepts.
atoms = st.text(st.sampled_from("aZ09!#$%&'*+-/=?^_`{|}~."), min_size=1, max_size=8)
quoted = st.text(st.sampled_from(r' a"\@>,:;()<[]'), max_size=8).map(
    lambda text: '"' + text.replace("\\", r"\\").replace('"', r"\"") + '"'
)
domains = st.one_of(
    st.from_regex(r"[a-z0-9]([a-z0-9-]*[a-z0-9])?(\.[a-z]{1,3}){0,2}", fullmatch=True),
    st.ip_addresses(v=4).map(lambda ip: f"[{ip}]"),
    st.ip_addresses(v=6).map(lambda ip: f"[IPv6:{ip}]"),
)


@pytest.mark.row("ADDR-14")
@hypothesis.settings(deadline=None)
@hypothesis.given(addresses=st.lists(st.tuples(atoms | quoted, domains), min_size=1, max_size=8))
def test_an_accepted_path_formats_to_text_that_parses_the_same(
    addresses: list[tuple[str, str]],
) -> None:
    paths = [f"<{local}@{domain}>".encode() for local, domain in addresses]
    steps = [EH, b"".join(b"MAIL FROM:" + path + b"\r\nRSET\r\n" for path in paths)]
    first = one_way(steps, max_errors=None)
    accepted = first.recorder.named("mail")
    assert {path.decode() for path in paths if path.startswith(b'<"')} <= set(accepted)
    again = b"".join(b"MAIL FROM:%s\r\nRSET\r\n" % path.encode() for path in accepted)
    second = one_way([EH, again])
    assert second.recorder.named("mail") == accepted
    assert second.codes == ["220", "250", *["250 2.1.0", "250 2.0.0"] * len(accepted)]
