"""Messages as forms with parsed fields, and what hostile ones cannot do."""

from __future__ import annotations

import base64
import encodings
import json
import quopri
import time
from email.message import EmailMessage
from email.parser import BytesParser
from email.policy import HTTP, SMTP
from typing import Any

import pytest
from aiohttp import web
from hypothesis import given
from hypothesis import strategies as st
from on_loops import on_loops
from webhook_kit import Endpoint, Posted

from fastsmtp.delivery import Client, Recipient, Record
from fastsmtp.delivery.webhook import Webhook
from fastsmtp.delivery.webhook.form import form_of
from fastsmtp.delivery.webhook.mime import (
    MAX_DEPTH,
    MAX_PARTS,
    SLICE,
    TOP_HEADERS,
    TooComplex,
    leaves_of,
    text_of,
    unencoded,
)

ENVELOPE: dict[str, Any] = {
    "id": "session-1",
    "mail_from": "a@example.org",
    "rcpt_to": [{"address": "b@example.org"}, {"address": "c@example.org"}],
    "client": {"address": "192.0.2.7"},
}
SECONDS = 10  # of processor time that nothing here may come near


def fields_in(message: bytes) -> dict[str, Any]:
    """The form of a message as RFC 7578 has it: name -> text, or (file name, type, octets)."""
    content_type, body = form_of(message, ENVELOPE)
    mark = b"--" + content_type.partition("boundary=")[2].encode()
    first, *parts, last = body.split(mark)
    assert (first, last) == (b"", b"--\r\n")
    found: dict[str, Any] = {}
    for part in parts:
        # By `email` only the headers: for a message within it takes minutes.
        head, _, octets = part.removeprefix(b"\r\n").partition(b"\r\n\r\n")
        fields = BytesParser(policy=HTTP).parsebytes(head, headersonly=True)
        about = fields["content-disposition"].params
        assert about["name"] not in found
        octets = octets.removesuffix(b"\r\n")
        if "filename" in about:
            found[about["name"]] = (about["filename"], fields.get_content_type(), octets)
        else:
            found[about["name"]] = octets.decode()
    return found


def letter() -> EmailMessage:
    message = EmailMessage(policy=SMTP)
    message["From"] = "Ännë <a@example.org>"
    message["To"] = "b@example.org"
    message["Subject"] = "Grüße, 日本語 " * 5
    message.set_content("Hällo\n" * 3)
    message.add_alternative("<p>Hällo</p>\n", subtype="html")
    message.add_attachment(bytes(range(256)) * 100, "application", "pdf", filename="Prüfung.pdf")
    message.add_attachment("a,b\n", filename='../../etc/pass"wd\r\n.csv'.replace("\r\n", " "))
    return message


def test_a_letter_becomes_its_fields_and_attachments() -> None:
    found = fields_in(letter().as_bytes())
    assert found["from"] == "Ännë <a@example.org>"
    assert found["subject"].strip() == ("Grüße, 日本語 " * 5).strip()
    assert found["text"] == "Hällo\r\n" * 3
    assert found["html"] == "<p>Hällo</p>\r\n"
    assert found["sender_ip"] == "192.0.2.7"
    envelope = json.loads(found["envelope"])
    assert (envelope["from"], envelope["to"]) == (
        "a@example.org",
        ["b@example.org", "c@example.org"],
    )
    assert found["headers"].startswith("From: ")
    assert found["attachments"] == "2"
    name, type, octets = found["attachment1"]
    assert (name, type, octets) == ("Prüfung.pdf", "application/pdf", bytes(range(256)) * 100)
    assert "/" not in found["attachment2"][0]
    info = json.loads(found["attachment-info"])
    assert info["attachment1"]["filename"] == "Prüfung.pdf"
    assert found["parse_error"] == ""


@on_loops
async def test_a_server_of_aiohttp_reads_the_form() -> None:
    record = Record(
        "s-1",
        "a@example.org",
        (Recipient("b@example.org"),),
        letter().as_bytes(),
        client=Client("192.0.2.7"),
    )
    files: dict[str, bytes] = {}

    async def answer(posted: Posted) -> web.StreamResponse:
        for field in posted.form.values():
            if isinstance(field, web.FileField):
                with field.file as file:
                    files[field.filename] = file.read()
        return web.Response(status=202)

    async with Endpoint() as endpoint, Webhook(endpoint.url, form="multipart") as sink:
        endpoint.reads_form = True
        endpoint.answer = answer
        assert await sink.put(record) == "202"
    assert endpoint.posts[0].form["text"] == "Hällo\r\n" * 3
    assert files == {"Prüfung.pdf": bytes(range(256)) * 100, "pass%22wd .csv": b"a,b\r\n"}


@pytest.mark.parametrize(
    "charset, octets, text",
    [
        ("utf-8", "ä".encode(), "ä"),
        ("US-ASCII", "ä".encode(), "ä"),
        ("", b"\xff", "�"),
        ("windows-1252", b"\x80", "€"),
        ("ISO-8859-15", b"\xa4", "€"),
        ("shift_jis", "日本".encode("shift_jis"), "日本"),
        ("gb2312", "中".encode("gb2312"), "中"),
        ("utf-16", "ä".encode("utf-16"), "ä"),
        ("unicode_escape", rb"\x41", r"\x41"),
        ("utf-7", b"+AGE-", "+AGE-"),
        ("zlib", b"x", "x"),
        ("../../x", b"x", "x"),
    ],
)
def test_text_is_decoded_by_character_sets_of_text_alone(
    charset: str, octets: bytes, text: str
) -> None:
    assert text_of(octets, charset) == text


def test_character_sets_that_nobody_knows_leave_nothing_in_memory() -> None:
    known = 0
    for number in range(50):
        message = (
            b"Subject: =?x-%d?q?a?=\r\nContent-Type: text/plain; charset=y-%d\r\n"
            b"Content-Disposition: inline; filename*=z-%d''a\r\n\r\nx" % ((number,) * 3)
        )
        fields_in(message)
        # The first message brings what each message needs.
        known = known or len(encodings._cache)  # type: ignore[attr-defined]
    assert len(encodings._cache) == known  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    "encoded, octets",
    [
        (b"QUJD\r\nREVG", b"ABCDEF"),
        (b"Q U!J D R E=", b"ABCD"),
        (b"QUI=QUJD", b"AB"),
        (b"Q", b""),
        (b"", b""),
        (base64.encodebytes(bytes(range(256)) * 4000), bytes(range(256)) * 4000),
    ],
)
def test_base64_is_decoded_whatever_stands_in_it(encoded: bytes, octets: bytes) -> None:
    message = b"Content-Type: application/x-y\r\nContent-Transfer-Encoding: BASE64\r\n\r\n"
    (part,) = leaves_of(message + encoded)
    assert unencoded(part) == octets


@pytest.mark.parametrize("length", range(SLICE - 4, SLICE + 4))
def test_quoted_printable_is_decoded_as_a_whole_wherever_it_is_cut(length: int) -> None:
    encoded = (b"x" * length + b"=41=\r\n=C3=A4 =\r\n" + b"y=3D" * 100_000)[: 3 * SLICE]
    (part,) = leaves_of(b"Content-Transfer-Encoding: quoted-printable\r\n\r\n" + encoded)
    assert unencoded(part) == quopri.decodestring(encoded)


@pytest.mark.parametrize("shift", range(-6, 6))
def test_a_boundary_is_found_wherever_it_lies(shift: int) -> None:
    first = b"x" * (SLICE + shift)
    message = b"Content-Type: multipart/mixed; boundary=bou\r\n\r\n--bou\r\n\r\n"
    parts = list(leaves_of(message + first + b"\r\n--bou \t\r\n\r\nsecond\r\n--bou--"))
    assert [bytes(part.octets) for part in parts] == [first, b"second"]


def nested(depth: int) -> bytes:
    head = b"".join(
        b"Content-Type: multipart/mixed; boundary=b%d\r\n\r\n--b%d\r\n" % (n, n)
        for n in range(depth)
    )
    return head + b"\r\nin the middle\r\n"


def many(count: int) -> bytes:
    return b"Content-Type: multipart/mixed; boundary=b\r\n\r\n" + b"--b\r\n\r\nx\r\n" * count


HOSTILE = {
    "more levels than anybody needs": nested(MAX_DEPTH + 1),
    "a million levels": nested(100_000),
    "a million parts": many(1_000_000),
    "what looks like boundaries": b"Content-Type: multipart/x; boundary=b\r\n\r\n"
    + b"--b" * 6_000_000,
}


@pytest.mark.parametrize("message", HOSTILE.values(), ids=HOSTILE)
def test_a_message_of_too_many_parts_is_sent_whole(message: bytes) -> None:
    before = time.process_time()
    with pytest.raises(TooComplex):
        list(leaves_of(message))
    assert time.process_time() - before < SECONDS
    found = fields_in(message)
    assert found["attachments"] == "1"
    assert found["attachment1"] == ("message.eml", "message/rfc822", message)
    assert found["parse_error"]
    assert found["text"] == ""


def test_as_many_parts_and_levels_as_allowed_are_found() -> None:
    assert len(list(leaves_of(many(MAX_PARTS - 1)))) == MAX_PARTS - 1
    assert len(list(leaves_of(nested(MAX_DEPTH)))) == 1


QUADRATIC = {
    "a parameter of semicolons": b"Content-Type: multipart/mixed" + b";" * 200_000 + b"\r\n\r\nx",
    "quotes": b'Content-Type: a/b; x="' + b'\\"' * 100_000 + b"\r\n\r\nx",
    "continued parameters": b"Content-Type: a/b" + b"; x*0=y" * 100 + b"\r\n\r\nx",
    "one long header field": b"Subject: " + b"=?a?q?" * 40_000 + b"\r\n\r\nx",
    "headers without an end": b"A: b\r\n" * 3_000_000,
    "headers of one letter": b"a:\r\n" * 60_000 + b"\r\nx",
    "folded lines": b"Subject: x" + b"\r\n y" * 60_000 + b"\r\n\r\nx",
    "hyphens": b"Content-Type: multipart/x; boundary=-------------------------------b\r\n\r\n"
    + b"-" * 10_000_000,
    "base64 of rubbish": b"Content-Type: a/b\r\nContent-Transfer-Encoding: base64\r\n\r\n"
    + b"\xffA" * 5_000_000,
    "quoted-printable of signs": b"Content-Transfer-Encoding: quoted-printable\r\n\r\n"
    + b"=" * 5_000_000,
}


@pytest.mark.parametrize("message", QUADRATIC.values(), ids=QUADRATIC)
def test_no_message_takes_long(message: bytes) -> None:
    before = time.process_time()
    form_of(message, ENVELOPE)
    assert time.process_time() - before < SECONDS


def test_headers_longer_than_any_are_taken_for_the_body() -> None:
    found = fields_in(b"A: b\r\n" * (TOP_HEADERS // 6 + 1) + b"\r\nx")
    assert found["headers"] == ""
    assert found["text"].startswith("A: b")


UNREADABLE = {
    "an encoded word of one letter": b"Subject: =?utf-8?b?a?=\r\n\r\nthe text",
    "a parameter with and without numbers": b"Content-Type: text/plain; charset*=x; charset*1=y"
    b"\r\n\r\nthe text",
    "a file name with and without numbers": b"Content-Type: text/plain\r\n"
    b"Content-Disposition: inline; filename*=x; filename*1=y\r\n\r\nthe text",
}


@pytest.mark.parametrize("message", UNREADABLE.values(), ids=UNREADABLE)
def test_a_header_field_that_cannot_be_decoded_loses_no_message(message: bytes) -> None:
    found = fields_in(message)
    assert found["headers"].encode() + found["text"].encode() == message
    assert found["parse_error"] == ""


def test_an_encoded_word_that_cannot_be_decoded_is_sent_as_it_is() -> None:
    assert fields_in(b"Subject: =?utf-8?b?a?=\r\n\r\nx")["subject"] == "=?utf-8?b?a?="


SNIPPETS = [
    *(b"Content-Type: multipart/mixed; boundary=b\r\n", b"Content-Type: text/html; charset=x"),
    *(b"--b\r\n", b"--b--\r\n", b"\r\n", b"\n", b"--b", b"Content-Disposition: attachment; "),
    *(b"filename*0*=utf-8''%ff; filename*1=x", b"boundary*=x''b", b'"', b";", b"=", b"\xff\x00"),
    *(b"Content-Transfer-Encoding: base64\r\n", b"QUI=", b"=?utf-8?b?QQ?=", b'name="a\\"b"'),
    *(b"=?utf-8?b?a?=", b"; charset*=x", b"; charset*1=y", b"; boundary*1=b", b"; filename*=z"),
    *(b"Content-Transfer-Encoding: quoted-printable\r\n", b"=3D=\r\n", b"Subject: ", b" ", b"x"),
]


@given(st.lists(st.sampled_from(SNIPPETS), max_size=40))
def test_every_message_becomes_a_form(snippets: list[bytes]) -> None:
    found = fields_in(b"".join(snippets))
    assert {"headers", "text", "html", "envelope", "attachments"} <= found.keys()
    count = int(found["attachments"])
    assert sum(isinstance(value, tuple) for value in found.values()) == count
