"""Trace headers: one of each, whatever the client says of itself. RFC 5321 §4.4, faults LOG-06."""

from __future__ import annotations

import email
import email.policy
import os
import re
import subprocess
import sys
from datetime import UTC, datetime, timedelta, timezone
from email.message import Message
from email.utils import format_datetime, parsedate_to_datetime
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastsmtp._wire.grammar import Address, parse_forward_path, parse_reverse_path
from fastsmtp.delivery.arrival import record_of
from fastsmtp.delivery.trace import trace_headers
from fastsmtp.session import Session

WHEN = datetime(2026, 3, 1, 9, 5, 7, tzinfo=timezone(timedelta(hours=1)))

HOSTILE = [
    "x) by evil (",
    "x)(by",
    "((((((",
    "))))))",
    "a\r\nReceived: from evil",
    "a\nX: y",
    "a\rX: y",
    "a; Thu, 1 Jan 1970 00:00:00 +0000",
    '"quoted"',
    "back\\slash",
    "<a@b>",
    "ü.example",
    "\u202egro.elpmaxe",
    "\x00\x07\x1b[2J\x7f\x9b",
    "=?utf-8?q?=29?=",
    "x" * 255,
    "(" * 255,
    "[" + "1" * 254,
    "[)(]",
    "-x-",
    ".",
    "%n%s{0.__class__}",
]


def address(mailbox: str) -> Address:
    """An address as the engine makes it from RCPT."""
    parsed = parse_forward_path(f"TO:<{mailbox}>".encode(), True, False)
    assert not isinstance(parsed, int), mailbox
    return parsed[0]


def sender(mailbox: str) -> Address:
    parsed = parse_reverse_path(f"FROM:<{mailbox}>".encode(), True, False)
    assert not isinstance(parsed, int), mailbox
    return parsed[0]


def session_of(
    mail_from: str = "a@x.example", rcpt_to: tuple[str, ...] = ("b@y.example",), **facts: object
) -> Session:
    session = Session(lmtp=bool(facts.pop("lmtp", False)))
    session.opening_command = "EHLO"
    session.host_name_appears_as = "c.example"
    session.client_hostname = "client.example"
    session.remote_address = "192.0.2.7"
    for name, value in facts.items():
        setattr(session, name, value)
    session.envelope.mail_from = sender(mail_from)
    session.envelope.rcpt_to = [address(mailbox) for mailbox in rcpt_to]
    return session


def made(session: Session, name: str, when: datetime = WHEN, first: bytes = b"") -> bytes:
    """The headers in front of a body that begins with `first`, with LF."""
    octets = trace_headers(record_of(session, name, when.timestamp()), first)
    assert octets.count(b"\n") == octets.count(b"\r\n") == octets.count(b"\r")
    return octets.replace(b"\r\n", b"\n")


def headers_of(session: Session, name: str = "mx.example") -> str:
    return made(session, name).decode()


def parsed(session: Session, name: str = "mx.example") -> Message:
    """The headers as a reader finds them in front of a message that begins at once."""
    message = email.message_from_bytes(made(session, name) + b"Subject: s\n\nbody\n")
    assert not message.defects
    assert message.get_payload() == "body\n"
    assert message["Subject"] == "s"
    return message


def unfolded(message: Message) -> str:
    return re.sub(r"\n[ \t]+", " ", message["Received"])


def date_of(when: datetime) -> str:
    """As the clock of this machine has it."""
    return format_datetime(when.astimezone())


def test_the_headers_stand_in_the_order_of_rfc_5321() -> None:
    session = session_of()
    assert headers_of(session) == (
        "Return-Path: <a@x.example>\n"
        "Delivered-To: b@y.example\n"
        "Received: from c.example (client.example [192.0.2.7])\n"
        f"\tby mx.example with ESMTP id {session.id}-1\n"
        f"\tfor <b@y.example>; {date_of(WHEN)}\n"
    )


@pytest.mark.parametrize(
    ("facts", "protocol"),
    [
        ({"opening_command": ""}, "SMTP"),
        ({"opening_command": "HELO"}, "SMTP"),
        ({}, "ESMTP"),
        ({"secure": True}, "ESMTPS"),
        ({"user": "u"}, "ESMTPA"),
        ({"secure": True, "user": "u"}, "ESMTPSA"),
        ({"opening_command": "LHLO"}, "LMTP"),
        ({"opening_command": "", "lmtp": True}, "LMTP"),
    ],
)
def test_the_with_clause_names_the_protocol_of_rfc_3848(
    facts: dict[str, object], protocol: str
) -> None:
    assert f"\n\tby mx.example with {protocol} id " in headers_of(session_of(**facts))  # type: ignore[arg-type] # facts of the session only


TLS = {"version": "TLSv1.3", "standard_name": "TLS_AES_128_GCM_SHA256", "name": "x"}


def test_tls_is_in_a_comment_and_the_user_is_left_out() -> None:
    session = session_of(secure=True, user="anne@secret.example", tls_options=TLS)
    text = headers_of(session)
    assert f" with ESMTPSA id {session.id}-1 (TLSv1.3 TLS_AES_128_GCM_SHA256)\n\tfor " in text
    assert "anne" not in text
    check_one_clean_header(session)


@pytest.mark.parametrize("facts", [{"tls_options": TLS}, {"secure": True}])
def test_a_session_without_tls_of_ours_has_no_comment_about_tls(facts: dict[str, object]) -> None:
    session = session_of(**facts)  # type: ignore[arg-type] # facts of the session only
    assert f" id {session.id}-1\n\tfor " in headers_of(session)


@pytest.mark.parametrize(
    ("opening_command", "protocol"), [("EHLO", "UTF8SMTP"), ("LHLO", "UTF8LMTP")]
)
def test_an_internationalised_message_has_utf8_in_its_protocol_and_keeps_its_addresses(
    opening_command: str, protocol: str
) -> None:
    session = session_of(
        "ü@bücher.example", ("例え@例え.example",), opening_command=opening_command
    )
    session.envelope.smtp_utf8 = True
    text = headers_of(session)
    assert text.startswith("Return-Path: <ü@bücher.example>\nDelivered-To: 例え@例え.example\n")
    assert f" with {protocol} id " in text
    assert "\n\tfor <例え@例え.example>; " in text


def test_the_null_path_is_kept() -> None:
    assert headers_of(session_of("")).startswith("Return-Path: <>\n")


def test_a_source_route_is_left_out_of_the_headers() -> None:
    text = headers_of(session_of("@relay.example:a@x.example", ("@r1,@r2:b@y.example",)))
    assert text.startswith("Return-Path: <a@x.example>\nDelivered-To: b@y.example\n")


def test_the_for_clause_is_there_with_exactly_one_recipient() -> None:
    message = parsed(session_of(rcpt_to=("b@y.example", "c@y.example", "b@y.example")))
    assert message.get_all("Delivered-To") == ["b@y.example", "c@y.example", "b@y.example"]
    assert " for " not in unfolded(message)


@pytest.mark.parametrize("recipient", ["postmaster", '"a;b"@y.example', '"a) (b"@y.example'])
def test_the_for_clause_is_left_out_where_simple_readers_would_stumble(recipient: str) -> None:
    message = parsed(session_of(rcpt_to=(recipient,)))
    assert message["Delivered-To"] == recipient
    assert " for " not in unfolded(message)


@pytest.mark.parametrize(
    ("facts", "client"),
    [
        ({"client_hostname": "[192.0.2.7]"}, "c.example ([192.0.2.7])"),
        ({"client_hostname": ""}, "c.example ([192.0.2.7])"),
        (
            {"remote_address": "2001:db8::7", "client_hostname": "[2001:db8::7]"},
            "c.example ([IPv6:2001:db8::7])",
        ),
        ({"remote_address": "", "client_hostname": "localhost"}, "c.example (localhost)"),
        ({"remote_address": "", "client_hostname": ""}, "c.example"),
        ({"host_name_appears_as": ""}, "[192.0.2.7] (client.example [192.0.2.7])"),
        (
            {"host_name_appears_as": "", "remote_address": "", "client_hostname": ""},
            "unknown",
        ),
        ({"host_name_appears_as": "[192.0.2.9]"}, "[192.0.2.9] (client.example [192.0.2.7])"),
        ({"host_name_appears_as": "MY_PC"}, "MY_PC (client.example [192.0.2.7])"),
        (
            {"host_name_appears_as": "x)by(evil"},
            "[192.0.2.7] (helo=x?by?evil client.example [192.0.2.7])",
        ),
    ],
)
def test_the_from_clause_has_what_is_known_of_the_client(
    facts: dict[str, str], client: str
) -> None:
    assert f"\nReceived: from {client}\n\tby " in headers_of(session_of(**facts))  # type: ignore[arg-type] # facts of the session only


def check_one_clean_header(session: Session, name: str = "mx.example") -> None:
    text = headers_of(session, name)
    lines = text.splitlines()
    assert text.splitlines() == text.split("\n")[:-1]
    assert all(len(line.encode()) <= 998 for line in lines)
    assert all(line.isprintable() for line in (line.replace("\t", "") for line in lines))
    message = parsed(session, name)
    assert message.keys() == ["Return-Path", "Delivered-To", "Received", "Subject"]
    received = unfolded(message)
    depth = 0
    for character in received:
        depth += {"(": 1, ")": -1}.get(character, 0)
        assert 0 <= depth <= 1
    assert depth == 0
    assert received.count(";") == 1
    assert received.count(" by ") == 1
    assert parsedate_to_datetime(received.rpartition("; ")[2]) == WHEN


@pytest.mark.parametrize("where", ["host_name_appears_as", "client_hostname", "remote_address"])
@pytest.mark.parametrize("text", HOSTILE)
def test_log_06_a_hostile_name_makes_no_second_header_and_no_second_clause(
    where: str, text: str
) -> None:
    check_one_clean_header(session_of(**{where: text}))


@pytest.mark.parametrize("text", HOSTILE)
def test_log_06_our_own_name_is_not_trusted_either(text: str) -> None:
    check_one_clean_header(session_of(), text)


@given(st.text(max_size=300), st.text(max_size=300))
def test_log_06_any_name_is_harmless(greeted_as: str, host_name: str) -> None:
    check_one_clean_header(session_of(host_name_appears_as=greeted_as, client_hostname=host_name))


@pytest.mark.parametrize(
    "text", ["a\r\nBcc: x@y", "a\nb", "a\x00b", "a\u202eb", "a\u2028b", "a\ud800b"]
)
def test_log_06_an_address_that_the_grammar_should_have_refused_is_harmless(text: str) -> None:
    session = session_of()
    strange = SimpleNamespace(address=text, args={})
    session.envelope.mail_from = strange  # type: ignore[assignment] # what no grammar would give
    session.envelope.rcpt_to = [strange]  # type: ignore[list-item] # the same
    check_one_clean_header(session)


def test_the_longest_names_and_addresses_stay_within_a_line() -> None:
    mailbox = "l" * 64 + "@" + ".".join(["d" * 47] * 3)
    session = session_of(
        mailbox, (mailbox,), host_name_appears_as="h" * 255, client_hostname="r" * 253
    )
    check_one_clean_header(session, "m" * 255)


def printed_by_another_process(when: datetime, **variables: str) -> str:
    """The headers of a process with an environment of its own."""
    script = (
        "import locale, sys\n"
        "from fastsmtp.delivery import Record\n"
        "from fastsmtp.delivery.trace import trace_headers\n"
        "try:\n"
        "    locale.setlocale(locale.LC_ALL, '')\n"
        "except locale.Error:\n"
        "    pass\n"  # not installed here: the variables alone must not matter either
        f"record = Record('i', '', (), received={when.timestamp()})\n"
        "print(trace_headers(record, b'').decode())\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script],
        env=os.environ | variables,
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout


@pytest.mark.parametrize("zone, offset", [("XYZ12", -12), ("UTC0", 0), ("NPT-5:45", 5.75)])
def test_the_date_has_the_offset_of_the_clock_of_the_machine(zone: str, offset: float) -> None:
    text = printed_by_another_process(WHEN, TZ=zone).rpartition("; ")[2].strip()
    assert parsedate_to_datetime(text) == WHEN
    assert parsedate_to_datetime(text).utcoffset() == timedelta(hours=offset)


@pytest.mark.parametrize("month", range(1, 13))
def test_ops_09_dates_are_english_in_every_locale(month: int) -> None:
    german = {"LC_ALL": "de_DE.UTF-8", "LANG": "de_DE.UTF-8", "LANGUAGE": "de"}
    text = printed_by_another_process(datetime(2026, month, 3, 12, tzinfo=UTC), **german)
    day, name = re.search(r"; ([A-Z][a-z]{2}), 03 ([A-Z][a-z]{2}) 2026 ", text).groups()  # type: ignore[union-attr] # no match fails the test
    months = "Jan Feb Mar Apr May Jun Jul Aug Sep Oct Nov Dec"
    assert name == months[4 * month - 4 : 4 * month - 1]
    assert day in ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")


@pytest.mark.parametrize("days", [-1, 1, -15_000, 15_000])
def test_ops_09_a_clock_that_jumps_gives_the_date_that_it_shows(days: int) -> None:
    when = datetime.now(UTC).replace(microsecond=0) + timedelta(days=days)
    text = made(session_of(), "mx.example", when).decode()
    assert parsedate_to_datetime(text.rpartition("; ")[2].strip()) == when


@pytest.mark.parametrize("first", [b" ", b"\tx", b" by evil with ESMTP; x"])
def test_smug_34_a_body_that_begins_with_a_space_gets_an_empty_line_before_it(first: bytes) -> None:
    assert made(session_of(), "mx.example", first=first).endswith(b"\n\n")
    assert not made(session_of(), "mx.example", first=b"X" + first).endswith(b"\n\n")


def test_headers_of_one_client_contain_nothing_of_another() -> None:
    one, other = (
        session_of(),
        session_of(host_name_appears_as="d.example", rcpt_to=("c@y.example",)),
    )
    assert "from c.example " in headers_of(one)
    assert "from d.example " in headers_of(other)
    assert "for <c@y.example>" in headers_of(other)
    assert headers_of(one) == headers_of(one)


@pytest.mark.parametrize(
    "mailbox",
    ["`id`@x", "|cmd@x", "a/b@x", "a'--@x", "{{7*7}}@x", "%s%n@x", "$HOME@x", '"../../x"@x'],
)
def test_addr_10_an_address_goes_into_the_headers_as_it_is(mailbox: str) -> None:
    message = parsed(session_of(mailbox, (mailbox,)))
    assert message["Return-Path"] == f"<{mailbox}>"
    assert message["Delivered-To"] == mailbox
