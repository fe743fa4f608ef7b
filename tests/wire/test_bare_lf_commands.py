"""`allow_bare_lf_commands`: listed clients may end commands with LF alone, and nothing else.

RFC 5321 §2.3.8 knows CR LF only, and a message of any client ends with CR LF . CR LF.
"""

from __future__ import annotations

import asyncio
import base64
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import reference
import scenario
from clients import Client, Sink
from conftest import Run
from hypothesis import given
from hypothesis import strategies as st
from parser_cases import Event, Mode, check, cuts, describe, lines
from scenario import (
    EH,
    GREETED,
    MAILED,
    PREPARED,
    TX,
    Conversation,
    Script,
    codes,
    every_cut,
    one_way,
)
from tls_kit import MemoryClient, certified

from fastsmtp import AuthResponse, SMTPError
from fastsmtp._parser import END_OF_DATA, Parser
from fastsmtp.testing import Wire, running

row = pytest.mark.row

ALLOWED: dict[str, Any] = {"allow_bare_lf_commands": ["127.0.0.0/8"]}
OK, ACCEPTED, BARE, BROKEN = "250 2.0.0", "250 2.6.0", "500 5.5.2", "554 5.5.0"


def with_lf(octets: bytes) -> bytes:
    return octets.replace(b"\r\n", b"\n")


# --- what is allowed ---


@row("SMUG-29")
def test_a_listed_client_may_end_its_commands_with_lf(run: Run) -> None:
    steps = [EH, TX + b"DATA\r\n", b"text\r\n.\r\n", b"NOOP\r\nVRFY a\r\n", b"QUIT\r\n"]
    expected = one_way(steps)
    ran = every_cut(
        [with_lf(EH), with_lf(steps[1]), *steps[2:3], *map(with_lf, steps[3:])], **ALLOWED
    )
    assert ran.written == expected.written
    assert ran.trace == expected.trace
    mixed = every_cut([with_lf(EH), steps[1], steps[2], b"NOOP\nVRFY a\r\n", b"QUIT\n"], **ALLOWED)
    assert mixed.written == expected.written
    run(scenario.repeat_on_the_wire(ran))


@row("SMUG-29")
@pytest.mark.parametrize("networks", [[], ["192.0.2.0/24", "::/0", "unix"]], ids=["none", "others"])
def test_a_bare_lf_of_any_other_client_closes_and_nothing_is_executed(networks: list[str]) -> None:
    steps = [EH, b"NOOP\nMAIL FROM:<evil@x.example>\r\n"]
    ran = every_cut(steps, allow_bare_lf_commands=networks)
    assert ran.codes == [*GREETED, BARE]
    assert ran.recorder.named("mail") == []


@row("SMUG-29")
@pytest.mark.parametrize("policy", ["reject", "accept", "normalize"])
def test_the_policy_for_messages_allows_nothing_in_commands(policy: str) -> None:
    options = {"bare_newline": policy, "bare_newline_exclusions": ["127.0.0.0/8"]}
    assert every_cut([EH, b"NOOP\n"], **options).codes == [*GREETED, BARE]


@row("AUTH-01")
def test_the_answers_of_a_listed_client_to_auth_may_end_with_lf_too() -> None:
    def on_auth(auth: Any, session: Any, callback: Callable[..., object]) -> None:
        assert (auth.username, auth.password) == ("anne", "pass")
        callback(None, AuthResponse(user="anne"))

    name, password = (base64.b64encode(text) + b"\n" for text in (b"anne", b"pass"))
    options = {**ALLOWED, "on_auth": on_auth, "allow_insecure_auth": True}
    steps = [with_lf(EH), b"AUTH LOGIN\n", name, password, b"NOOP\n"]
    ran = every_cut(steps, **options)
    assert ran.codes == [*GREETED, "334", "334", "235 2.7.0", OK]


@pytest.mark.parametrize(
    ("octets", "replies"),
    [
        (b"\n", [BARE]),
        (b"NOOP\n\nNOOP\r\n", [OK, BARE, OK]),
        (b"NO\rOP\nNOOP\n", [BARE, OK]),
        (b"NOOP\r\r\nNOOP\n", [BARE, OK]),
        (b"NOOP \x00\nNOOP\n", [BARE, OK]),
        (b"NOOP " + b"x" * 3000 + b"\nNOOP\n", [BARE, OK]),
        (b"NOOP " + b"x" * 3000 + b"\r\nNOOP\n", [BARE, OK]),
        (b"NOOP \t \nNOOP", [OK]),
    ],
)
def test_a_line_that_ends_with_lf_is_judged_like_one_that_ends_with_crlf(
    octets: bytes, replies: list[str]
) -> None:
    assert every_cut([EH, octets], **ALLOWED).codes == [*GREETED, *replies]


def test_the_limit_of_a_line_counts_its_lf() -> None:
    for octets, reply in ((512, OK), (513, BARE)):
        line = b"NOOP " + b"x" * (octets - 6) + b"\n"
        assert len(line) == octets
        ran = every_cut([EH, line + b"NOOP\n"], **ALLOWED, max_command_length=512)
        assert ran.codes == [*GREETED, reply, OK]


# --- clients whose commands may end with LF ---


def test_the_client_that_xclient_names_is_looked_up() -> None:
    xclient = {"use_xclient": ["127.0.0.1"], "allow_bare_lf_commands": ["192.0.2.0/24"]}
    with Conversation(**xclient) as session:
        session.do(EH, b"XCLIENT ADDR=192.0.2.7\r\n")
        assert session.do(b"NOOP\n") == [OK]
    with Conversation(**xclient) as session:
        assert session.do(EH, b"NOOP\n")[-1] == BARE
    listed = {"use_xclient": ["127.0.0.1"], **ALLOWED}
    with Conversation(**listed) as session:
        # In one segment: the line after XCLIENT is one of the other client.
        assert session.do(EH, b"NOOP\nXCLIENT ADDR=192.0.2.7\nNOOP\n")[1:] == [OK, "220", BARE]
        assert session.closed


def test_the_client_that_a_balancer_names_is_looked_up() -> None:
    options = {"use_proxy": ["127.0.0.1"], "allow_bare_lf_commands": ["192.0.2.0/24"]}
    header = b"PROXY TCP4 %s 192.0.2.254 4000 25\r\n"
    for address, reply in ((b"192.0.2.7", OK), (b"198.51.100.7", BARE)):
        with Conversation(**options) as session:
            assert session.do(header % address, EH, b"NOOP\n") == ["220", "250", reply]
    with Conversation(**{**options, **ALLOWED}) as session:
        assert session.do(b"PROXY UNKNOWN\r\n", EH, b"NOOP\n") == ["220", "250", BARE]


def test_the_header_of_a_listed_balancer_ends_with_crlf_only() -> None:
    options = {"use_proxy": ["127.0.0.1"], "allow_bare_lf_commands": ["127.0.0.1", "192.0.2.7"]}
    with Conversation(**options) as session:
        assert session.do(b"PROXY TCP4 192.0.2.7 192.0.2.254 4000 25\nEHLO c\n")[:1] != ["220"]
        assert session.closed


def test_clients_of_a_unix_socket_are_listed_as_unix(run: Run, tmp_path: Path) -> None:
    async def scenario() -> None:
        for networks, reply in ((["unix"], OK), (["0.0.0.0/0", "::/0"], BARE)):
            path = str(tmp_path / f"socket{len(networks)}")
            server = Sink().server(allow_bare_lf_commands=networks)
            async with (
                asyncio.timeout(60),
                running(server, path=path),
                await Client.greeted(path) as client,
            ):
                assert await client.ask(b"NOOP\n") == reply

    run(scenario())


# --- what stays as it is: the end of a message, chunks, TLS, waiting ---


@row("SMUG-29")
def test_lf_dot_lf_does_not_end_a_message() -> None:
    ran = one_way([with_lf(EH), with_lf(TX) + b"DATA\n", b"text\n.\nQUIT\n"], **ALLOWED)
    assert ran.codes == PREPARED
    (message,) = ran.messages
    assert (message.body, message.reason) == (b"text\n.\nQUIT\n", "disconnected")


@row("SMUG-27")
@pytest.mark.parametrize("line", [b"EHLO c.example\n", b"DATA\n", b"STARTTLS\n", b"AUTH PLAIN\n"])
def test_a_client_has_to_wait_for_the_replies_that_others_wait_for(line: bytes) -> None:
    options = {
        **ALLOWED,
        **certified(),
        "allow_insecure_auth": True,
        "on_auth": lambda *given: None,
    }
    before = with_lf(TX) if line == b"DATA\n" else b""
    ran = one_way([EH, before + line + b"NOOP\n"], **options)
    assert ran.codes == [*GREETED, *(MAILED if before else []), BROKEN]


@row("TLS-01")
@pytest.mark.parametrize("after", [b"NOOP\n", b"\n", b"\r\n", b"N"])
def test_octets_after_starttls_end_the_connection(after: bytes) -> None:
    options = certified(strict_pipelining=False, **ALLOWED)
    ran = one_way([EH, b"STARTTLS\n" + after], **options)
    assert ran.codes == [*GREETED, BROKEN]


def test_commands_inside_tls_may_end_with_lf_too() -> None:
    hooks = scenario.Recorder(Script()).options()
    with Wire(**certified(allow_bare_lf_commands=["192.0.2.0/24"], **hooks)) as wire:
        client = MemoryClient(wire)
        assert codes(wire.send(with_lf(EH), b"STARTTLS\n"))[-1] == "220 2.0.0"
        client.handshake()
        assert client.codes(with_lf(EH)) == ["250"]
        assert client.codes(with_lf(TX) + b"DATA\n") == [*MAILED, "354"]
        assert client.codes(b"text\n.\n") == []
        assert client.codes(b"\r\n.\r\nNOOP\n") == ["550 5.5.2", OK]


def test_a_body_right_after_data_is_a_body_for_clients_that_need_not_wait() -> None:
    ran = every_cut(
        [with_lf(EH), with_lf(TX) + b"DATA\n.\r\nNOOP\n", with_lf(TX) + b"DATA\n\n.\nx\r\n.\r\n"],
        **ALLOWED,
        strict_pipelining=False,
        bare_newline="accept",
    )
    assert ran.codes == [*PREPARED, ACCEPTED, OK, *MAILED, "354", ACCEPTED]
    assert [message.body for message in ran.messages] == [b"", b"\n.\nx\r\n"]


def test_the_octets_of_a_chunk_are_counted_from_the_one_after_the_lf() -> None:
    chunks = b"BDAT 3\n\n\r\nBDAT 4\r\nNOOPBDAT 2 LAST\n.\n"
    ran = every_cut(
        [with_lf(EH), with_lf(TX) + chunks + b"NOOP\n"], **ALLOWED, bare_newline="accept"
    )
    assert ran.codes == [*GREETED, *MAILED, OK, OK, ACCEPTED, OK]
    assert ran.messages[0].body == b"\n\r\nNOOP.\n"
    refused = every_cut([with_lf(EH), b"BDAT 6\nNOOP\nxNOOP\n"], **ALLOWED)
    assert refused.codes == [*GREETED, "503 5.5.1", OK]


def test_a_body_that_did_not_wait_for_a_refused_data_is_not_taken_for_commands() -> None:
    hooks = Script(rcpt=SMTPError("", 550))
    ran = one_way([EH, with_lf(TX) + b"DATA\nMAIL FROM:<evil@x>\n"], hooks, **ALLOWED)
    assert ran.codes[-1] == BROKEN
    assert ran.recorder.named("mail") == ["<a@x.example>"]


# --- the parser against the oracle ---

PIECES = st.sampled_from(
    [b"\n", b"\r\n", b"\r", b"NOOP", b" x", b"\t", b"\x00", b"\xe9", b"y" * 40]
)


def events_of(feeds: list[bytes], allowed: bool) -> list[Event]:
    parser = Parser(64)
    parser.lf_ends_lines = allowed
    events: list[Event] = []
    for feed in feeds:
        parser.feed(feed)
        while (event := parser.next_event()) is not None:
            events.append(describe(event))
    return events


def as_event(line: bytes | str) -> Event:
    """What the parser has to say of a line of the oracle; a verb that it knows is NOOP."""
    if isinstance(line, str):
        return ("fault", line)
    word, *more = re.split(rb"[ \t]", line, maxsplit=1)
    argument = b"".join(more)
    if word == b"NOOP":
        return ("command", "NOOP", argument, b"")
    return ("command", "UNKNOWN", argument, word)


@given(octets=st.lists(PIECES, max_size=12).map(b"".join))
def test_lines_are_those_of_the_oracle_however_they_are_cut(octets: bytes) -> None:
    octets = b"x" + octets  # the very first octet may mean another protocol
    for allowed in (False, True):
        expected = [as_event(line) for line in reference.command_lines(octets, 64, allowed)]
        for feeds in cuts(octets):
            assert events_of(feeds, allowed) == expected, feeds


@given(octets=st.lists(PIECES, max_size=12).map(b"".join))
def test_mail_data_is_that_of_the_oracle_all_the_same(octets: bytes) -> None:
    wire = octets + b"\r\n.\r\n"
    ended = reference.end_of_data(wire)
    assert ended is not None
    body, rest, _ = ended
    for feeds in cuts(wire[: len(wire) - len(rest)]):
        parser = Parser()
        parser.lf_ends_lines = True
        parser.begin_message(0, 0, False)
        parser.expect_mail_data()
        found = b""
        for feed in feeds:
            parser.feed(feed)
            while isinstance(event := parser.next_event(), bytes):
                found += event
        assert event is END_OF_DATA
        assert found == body


def auth_line_with_lf() -> Mode:
    def start(parser: Parser) -> None:
        parser.lf_ends_lines = True
        parser.expect_auth_line()

    return Mode(start, 0)


@row("AUTH-01", "LINE-07")
def test_a_line_of_auth_is_read_as_it_is() -> None:
    def line(argument: bytes) -> Event:
        return ("command", "AUTH_LINE", argument, b"")

    noop = ("command", "NOOP", b"", b"")
    check(auth_line_with_lf(), b"AA==\nNOOP\n", [line(b"AA=="), noop])
    check(auth_line_with_lf(), b"AA== \t\nNOOP\r\n", [line(b"AA== \t"), noop])
    check(auth_line_with_lf(), b"\nNOOP\n", [line(b""), noop])
    check(auth_line_with_lf(), b"A\rA\nNOOP\n", [("fault", "CONTROL_CHARACTER"), noop])
    octets = b"=" * 12290 + b"\nNOOP\n"
    places = [1, 12289, 12290, 12291, len(octets) - 1]
    check(auth_line_with_lf(), octets, [("fault", "AUTH_LINE_TOO_LONG"), noop], places=places)


def test_a_parser_takes_a_bare_lf_for_a_line_end_only_when_allowed() -> None:
    assert Parser().lf_ends_lines is False
    check(lines(), b"NOOP\n", [("fault", "BARE_LF")], trailing=b"")
