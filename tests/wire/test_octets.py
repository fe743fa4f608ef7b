"""Octets, rows BYTE: controls reach no hook, UTF-8 only where it was asked for, bodies verbatim.

RFC 5321 §2.3.8, §4.1.2; RFC 6531 §3.
"""

from __future__ import annotations

from typing import Any

import pytest
import scenario
from conftest import Run
from scenario import COUNTERS_OFF, EH, MAILED, PRE, PREPARED, TX, Conversation, Script, every_cut

from fastsmtp import SMTPError

DIRTY, OK = "500 5.5.2", "250 2.0.0"
CONTROLS = [*range(0x20), 0x7F]
PLACES = {
    "verb": (b"NO", b"OP"),
    "argument": (b"NOOP a", b"b"),
    "sender": (b"MAIL FROM:<a", b"b@x.example>"),
    "quoted sender": (b'MAIL FROM:<"a', b'b"@x.example>'),
    "parameter": (b"MAIL FROM:<a@x.example> ENVID=a", b"b"),
    "greeting": (b"EHLO a", b"b"),
    "end": (b"NOOP", b""),
    "start": (b"", b"NOOP"),
}
# What a TAB does there: it separates words, is dropped before CR LF, and stands in no path.
TABS = {
    "verb": "500 5.5.2",
    "argument": OK,
    "sender": "501 5.1.7",
    "quoted sender": "501 5.1.7",
    "parameter": "555 5.5.4",  # two parameters, the second is unknown
    "greeting": "501",
    "end": OK,
    "start": "500 5.5.2",
}


@pytest.mark.row("BYTE-01")
@pytest.mark.parametrize("place", PLACES)
def test_a_control_octet_in_a_command_reaches_no_hook(place: str, run: Run) -> None:
    before, after = PLACES[place]
    lines = [
        before + bytes([octet]) + after + b"\r\n" for octet in CONTROLS if octet not in b"\t\n"
    ]
    steps: list[scenario.Step] = [EH]
    for line in lines:
        steps += [line, b"NOOP\r\n"]
    ran = every_cut(steps, **COUNTERS_OFF)
    expected = [DIRTY, OK] * len(lines)
    if place == "end":  # CR CR LF: the first is bare
        assert b"NOOP\r\r\n" in lines
    assert ran.codes == ["220", "250", *expected]
    assert ran.trace == [("connect",), ("close",)]
    run(scenario.repeat_on_the_wire(ran))


@pytest.mark.row("BYTE-01")
@pytest.mark.parametrize("place", PLACES)
def test_a_tab_in_a_command_is_a_space_between_words(place: str) -> None:
    before, after = PLACES[place]
    ran = every_cut([EH, before + b"\t" + after + b"\r\n"])
    assert ran.codes == ["220", "250", TABS[place]]
    assert ran.trace == [("connect",), ("close",)]


@pytest.mark.row("BYTE-01")
def test_tabs_separate_words_like_spaces() -> None:
    lines = b"MAIL\tFROM:<a@x.example>\tRET=FULL\t\r\nRCPT\tTO:<b@y.example>\tNOTIFY=NEVER \t\r\n"
    chunk = b"BDAT\t1\tLAST\r\nx"
    ran = every_cut([b"EHLO\tc.example\t\r\n", lines + chunk])
    assert ran.codes == ["220", "250", *MAILED, "250 2.6.0"]


@pytest.mark.row("BYTE-01")
@pytest.mark.parametrize("place", PLACES)
def test_a_lf_in_a_command_closes(place: str) -> None:
    before, after = PLACES[place]
    ran = every_cut([EH, before + b"\n" + after + b"\r\nNOOP\r\n"])
    assert ran.codes == ["220", "250", DIRTY]
    assert ran.trace == [("connect",), ("close",)]


@pytest.mark.row("BYTE-02")
@pytest.mark.parametrize(
    "line", [b"MAIL FROM:<a@x\x00@evil>\r\n", b"MAIL FROM:<a@x>\x00 SIZE=1\r\n", b"MAIL\x00\r\n"]
)
def test_a_nul_ends_neither_command_nor_path(line: bytes) -> None:
    ran = every_cut([EH, line + b"RCPT TO:<b@y.example>\r\n"])
    assert ran.codes == ["220", "250", DIRTY, "503 5.5.1"]
    assert ran.recorder.named("mail") == []


# --- UTF-8 in addresses ---


def utf8_mail(path: bytes, parameters: bytes = b" SMTPUTF8") -> bytes:
    return b"MAIL FROM:" + path + parameters + b"\r\n"


@pytest.mark.row("BYTE-03")
@pytest.mark.parametrize("path", [b"<\xc3\xa9@x.example>", b"<a@\xc3\xa9.example>"])
def test_a_refused_utf8_sender_leaves_nothing(path: bytes, run: Run) -> None:
    rest = b"RCPT TO:<b@y.example>\r\nDATA\r\n"
    ran = every_cut([EH, utf8_mail(path, b"") + rest])
    assert ran.codes == ["220", "250", "553 5.6.7", "503 5.5.1", "503 5.5.1"]
    assert ran.trace == [("connect",), ("close",)]
    run(scenario.repeat_on_the_wire(ran))


VALID = {
    "two octets": "é",
    "three octets": "€",
    "four octets": "\U0001f4e7",
    "last": "\U0010ffff",
    "NFD": "e\u0301",
    "ZWJ": "a\u200db",
    "ZWNJ": "a\u200cb",
}
INVALID = {
    "FF": b"\xff",
    "overlong": b"\xc0\xaf",
    "overlong in three": b"\xe0\x80\xaf",
    "overlong in four": b"\xf0\x80\x80\xaf",
    "surrogate": b"\xed\xa0\x80",
    "beyond": b"\xf4\x90\x80\x80",
    "cut off": b"\xe2\x82",
    "continuation": b"\x80",
    "U+0080": b"\xc2\x80",
    "U+0085": b"\xc2\x85",
    "U+009F": b"\xc2\x9f",
    "U+200B": "\u200b".encode(),
    "U+2028": "\u2028".encode(),
    "U+2029": "\u2029".encode(),
    "U+202A": "\u202a".encode(),
    "U+202E": "\u202e".encode(),
    "U+2060": "\u2060".encode(),
    "U+2066": "\u2066".encode(),
    "U+2069": "\u2069".encode(),
    "BOM": "\ufeff".encode(),
}
WHERE = pytest.mark.parametrize(
    "form", [b"<%s@x.example>", b'<"%s"@x.example>', b"<a@%s.example>", b"<a@x.b%sc>"]
)


@pytest.mark.row("BYTE-04")
@pytest.mark.parametrize("name", VALID)
@WHERE
def test_utf8_is_kept_as_sent(form: bytes, name: str) -> None:
    path = form % VALID[name].encode()
    ran = every_cut([EH, utf8_mail(path) + b"RCPT TO:" + path + b"\r\n"])
    assert ran.codes == ["220", "250", *MAILED]
    assert ran.recorder.named("mail") == ran.recorder.named("rcpt") == [path.decode()]


@pytest.mark.row("BYTE-04")
@pytest.mark.parametrize("name", INVALID)
@WHERE
def test_malformed_utf8_and_deceptive_characters_are_refused(form: bytes, name: str) -> None:
    path = form % INVALID[name]
    rcpt = utf8_mail(b"<a@x.example>") + b"RCPT TO:" + path + b"\r\n"
    ran = every_cut([EH, utf8_mail(path) + rcpt])
    assert ran.codes == ["220", "250", "501 5.1.7", "250 2.1.0", "501 5.1.3"]
    assert ran.recorder.named("rcpt") == []


@pytest.mark.parametrize(
    "parameters, options, expected",
    [
        pytest.param(b" SMTPUTF8=1", {}, "501 5.5.4", id="BYTE-05 value"),
        pytest.param(b" SMTPUTF8=", {}, "501 5.5.4", id="BYTE-05 empty value"),
        pytest.param(b" SMTPUTF8 SMTPUTF8", {}, "501 5.5.4", id="BYTE-05 twice"),
        pytest.param(b" smtputf8", {}, "250 2.1.0", id="BYTE-05 lower case"),
        pytest.param(b" SMTPUTF8", {"hide_smtputf8": True}, "555 5.5.4", id="BYTE-05 hidden"),
        pytest.param(b" SMTPUTF8", {"hide_8bitmime": True}, "555 5.5.4", id="BYTE-05 no 8BITMIME"),
    ],
)
@pytest.mark.row("BYTE-05")
def test_smtputf8_is_a_flag(parameters: bytes, options: dict[str, Any], expected: str) -> None:
    ran = every_cut([EH, utf8_mail(b"<a@x.example>", parameters)], **options)
    assert ran.codes == ["220", "250", expected]


@pytest.mark.row("BYTE-06")
def test_a_utf8_recipient_needs_a_sender_with_smtputf8(run: Run) -> None:
    rcpt = "RCPT TO:<\u00e9@y.example>\r\n".encode()
    steps = [EH, utf8_mail(b"<a@x.example>") + rcpt + b"RSET\r\n" + TX + rcpt]
    ran = every_cut(steps)
    assert ran.codes == ["220", "250", *MAILED, OK, *MAILED, "553 5.6.7"]
    assert ran.recorder.named("rcpt") == ["<\u00e9@y.example>", "<b@y.example>"]
    run(scenario.repeat_on_the_wire(ran))


@pytest.mark.row("BYTE-07")
@pytest.mark.parametrize(
    "path",
    [
        "<a@b\u00fccher.example>",
        "<a@B\u00dcCHER.example>",
        "<a@xn--bcher-kva.example>",
        "<a@xn--99zzzz.example>",
        "<a@x\uff0eexample>",
        "<a\uff0eb@x>",
        "<a\uff20b@x>",
    ],
)
def test_names_are_not_converted_and_fullwidth_signs_are_letters(path: str) -> None:
    ran = every_cut([EH, utf8_mail(path.encode())])
    assert ran.codes == ["220", "250", "250 2.1.0"]
    assert ran.recorder.named("mail") == [path]


@pytest.mark.row("BYTE-07")
@pytest.mark.parametrize("path", ["<a\uff20x>", "\uff1ca@x\uff1e", "<a@\uff3b192.0.2.1\uff3d>x"])
def test_fullwidth_signs_do_not_separate(path: str) -> None:
    ran = every_cut([EH, utf8_mail(path.encode())])
    assert ran.codes == ["220", "250", "501 5.1.7"]


# --- bodies and names ---


@pytest.mark.row("BYTE-08")
@pytest.mark.parametrize(
    "body, has_nul, has_8bit",
    [
        (b"plain\r\n", False, False),
        (b"nul \x00 here\r\n", True, False),
        (b"\xe9t\xe9\r\n", False, True),
        ("Subject: \u00e9\r\n\r\n\u20ac\r\n".encode(), False, True),
        (bytes(set(range(256)) - {10, 13}) + b"\r\n", True, True),
    ],
)
def test_eight_bits_and_nul_are_delivered_verbatim_and_reported(
    body: bytes, has_nul: bool, has_8bit: bool, run: Run
) -> None:
    ran = every_cut([*PRE, body + b".\r\n"])
    assert ran.codes == [*PREPARED, "250 2.6.0"]
    (message,) = ran.messages
    assert (message.body, message.has_nul, message.has_8bit) == (body, has_nul, has_8bit)
    chunk = b"BDAT %d LAST\r\n" % len(body)
    assert every_cut([EH, TX + chunk + body]).messages == ran.messages
    run(scenario.repeat_on_the_wire(ran))


def strings(value: Any, seen: set[int]) -> list[str]:
    """All str that can be reached from the public attributes of `value`."""
    if isinstance(value, str):
        return [value]
    if id(value) in seen or isinstance(value, (int, float, bytes, type(None))):
        return []
    seen.add(id(value))
    if isinstance(value, dict):
        children = [*value, *value.values()]
    elif isinstance(value, (list, tuple)):
        children = list(value)
    else:
        names = [name for name in dir(value) if not name.startswith("_")]
        children = [getattr(value, name) for name in names]
        children = [child for child in children if not callable(child)]
    return [text for child in children for text in strings(child, seen)]


@pytest.mark.row("BYTE-09")
def test_every_text_that_a_hook_sees_is_strict_utf8_and_clean() -> None:
    seen: list[str] = []

    def look(address: Any, session: Any) -> Any:
        seen.extend(strings(address, set()) + strings(session, set()))
        return SMTPError("caf\u00e9 closed\0") if address.local_part == "no" else None

    with Conversation(Script(mail=look, rcpt=look)) as session:
        session.do(b"EHLO \xff\r\n", b"EHLO <c>%s\r\n", b"\xff\xfe\r\n", b"VRFY \xed\xa0\x80\r\n")
        session.do("MAIL FROM:<\u00e9@\u00fc.example> SMTPUTF8 ENVID=\u00e9+2B\r\n".encode())
        session.do(b"RCPT TO:<no@y.example>\r\n")
        session.do("RCPT TO:<\u20ac@y.example> ORCPT=utf-8;\u20ac+2B\r\n".encode())
        session.do(b"RSET\r\nMAIL FROM:<no@x.example> ENVID=a\r\n")
        assert session.codes[-2:] == [OK, "550 5.7.1"]
    assert {"<\u00e9@\u00fc.example>", "\u00e9+", "utf-8;\u20ac+", "<c>%s"} <= set(seen)
    for text in seen:
        assert text.encode().decode() == text
        assert text.isprintable()
