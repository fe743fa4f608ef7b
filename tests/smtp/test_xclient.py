"""XCLIENT and XFORWARD: who may use them, what they change, and that a bad line changes nothing."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import hypothesis.strategies as st
import pytest
from clients import Client, Sink
from hook_kit import BODY, END, STYLES, AcceptingError, Call, in_style
from hypothesis import given
from proxy_kit import LINE
from scenario import (
    COUNTERS_OFF,
    DEFAULTS,
    EH,
    LATE,
    MAILED,
    PREPARED,
    TX,
    Conversation,
    Script,
    every_cut,
    parse_replies,
    pause,
)

from fastsmtp import SMTPError, SMTPServer
from fastsmtp.server import state_of
from fastsmtp.testing import VirtualLoop, Wire, running

pytestmark = pytest.mark.usefixtures("no_leaks")
row = pytest.mark.row

RELAY = ("10.0.0.7", 40000)
TRUSTED: dict[str, Any] = {"use_xclient": ["10.0.0.0/8"], "use_xforward": ["10.0.0.0/8"]}
BACK = "220"
NO = "550 5.7.0"
BAD = "501 5.5.4"
ADDR = b"XCLIENT ADDR=192.0.2.1 NAME=h.example\r\n"
MAIL = b"MAIL FROM:<a@x.example>\r\n"


def relay(hooks: Script | None = None, **options: Any) -> Conversation:
    """A connection from a network that is trusted."""
    return Conversation(hooks, peer=RELAY, **{**TRUSTED, **options})


def accepting(auth: Any, session: Any, callback: Callable[..., object]) -> None:
    callback(None, {"user": auth.username})


def facts(session: Conversation) -> dict[str, Any]:
    """All fields of the session but its id, and what the engine decides by."""
    told, dialogue = session.wire.session, session.wire.connection.protocol
    names = [name for name in type(told).__slots__ if not name.startswith("_")]
    names += ["data", "xclient", "xforward"]  # made when somebody looks
    found = {name: getattr(told, name) for name in names if name != "error"}
    for name in ("remote_address", "client_hostname", "authenticated", "state", "extended"):
        found[f"engine's {name}"] = getattr(dialogue, name)
    return found


# --- trusted clients ---


@row("XCL-01")
@pytest.mark.parametrize("command", [b"XCLIENT ADDR=192.0.2.1\r\n", b"XFORWARD ADDR=192.0.2.1\r\n"])
def test_a_client_that_is_not_trusted_is_refused_and_not_offered_xclient(command: bytes) -> None:
    with Conversation(**TRUSTED) as session:
        assert session.do(EH) == ["250"]
        assert b"XCLIENT" not in session.written[-1]
        assert b"XFORWARD" not in session.written[-1]
        before = facts(session)
        assert session.do(command, command.partition(b" ")[0] + b"\r\n") == [NO, NO]
        assert facts(session) == before
        assert session.do(TX, command) == [*MAILED, NO]  # trust is looked at before the state
    run = every_cut([EH, command * 20], **TRUSTED)
    assert run.codes == ["220", "250", *[NO] * 19, "421 4.7.0"]


def test_a_trusted_client_is_offered_xclient_and_xforward_at_the_end_of_the_list() -> None:
    with relay() as session:
        session.do(EH)
        lines = session.written[-1].splitlines()
        assert lines[-2:] == [
            b"250-XCLIENT NAME ADDR PORT PROTO HELO LOGIN DESTADDR DESTPORT",
            b"250 XFORWARD NAME ADDR PORT PROTO HELO IDENT SOURCE",
        ]
    with relay(use_xclient=[]) as session:
        session.do(EH)
        assert b"XCLIENT" not in session.written[-1]
        assert b"250 XFORWARD " in session.written[-1]


@row("XCL-01")
def test_a_unix_socket_is_trusted_by_the_word_unix(run: Any, tmp_path: Path) -> None:
    async def scenario() -> None:
        path = str(tmp_path / "socket")
        server = Sink().server(use_xclient=["unix"], use_xforward=["unix", "192.0.2.1"])
        async with running(server, path=path), await Client.greeted(path) as client:
            assert await client.ask(b"XCLIENT PORT=1\r\n") == BACK
            assert await client.ask(b"XCLIENT ADDR=192.0.2.1\r\n") == BACK
            # It is a client of that address now, and no longer of a UNIX socket.
            assert await client.ask(b"XCLIENT PORT=1\r\n") == NO
            assert await client.ask(b"XFORWARD PORT=1\r\n") == "250 2.0.0"

    run(scenario())


def test_a_disabled_xclient_or_xforward_is_neither_offered_nor_known() -> None:
    with relay(disabled_commands=["XCLIENT", "XFORWARD"]) as session:
        session.do(EH)
        assert b"XCLIENT" not in session.written[-1]
        assert b"XFORWARD" not in session.written[-1]
        assert session.do(ADDR, b"XFORWARD PORT=1\r\n") == ["500 5.5.2"] * 2


# --- what it changes ---


@row("XCL-02")
def test_xclient_changes_the_client_and_resets_its_greeting() -> None:
    seen: list[str] = []
    hooks = Script(connect=lambda _, session: seen.append(session.remote_address))
    line = (
        b"XCLIENT ADDR=192.0.2.1 NAME=H.example PORT=99 DESTADDR=IPV6:2001:DB8::1 DESTPORT=587\r\n"
    )
    with relay(hooks) as session:
        assert session.do(EH, line) == ["250", BACK]
        assert session.written[-1] == b"220 srv.test ESMTP\r\n"
        told = session.wire.session
        assert (told.remote_address, told.remote_port) == ("192.0.2.1", 99)
        assert (told.local_address, told.local_port) == ("2001:db8::1", 587)
        assert told.client_hostname == "h.example"
        assert (told.opening_command, told.host_name_appears_as) == ("", "")
        assert told.xclient == {
            "ADDR:DEFAULT": "10.0.0.7",
            "NAME:DEFAULT": "[10.0.0.7]",
            "PORT:DEFAULT": 40000,
            "ADDR": "192.0.2.1",
            "NAME": "h.example",
            "PORT": 99,
            "DESTADDR": "2001:db8::1",
            "DESTPORT": 587,
        }
        assert session.do(MAIL) == ["503 5.5.1"]
        assert session.do(EH) == ["250"]
        assert session.written[-1].startswith(b"250-srv.test Nice to meet you, h.example\r\n")
        assert b"XCLIENT" not in session.written[-1]
    assert seen == ["10.0.0.7", "192.0.2.1"]
    assert session.recorder.closes == 1


@row("XCL-02", "STATE-07")
def test_xclient_leaves_nothing_of_earlier_commands() -> None:
    with relay() as fresh:
        fresh.do(b"XCLIENT PORT=99\r\n")
        expected = facts(fresh)
    with relay() as session:
        session.do(EH, b"XFORWARD NAME=x.example\r\n", b"FOO\r\n", TX, b"RSET\r\n")
        assert session.do(b"XCLIENT PORT=99\r\n") == [BACK]
        assert session.wire.session.error is None
        assert facts(session) == expected


@row("XCL-02")
def test_on_connect_is_asked_again_for_another_address_or_name_only() -> None:
    for line, asked in ((b"PORT=9", 1), (b"NAME=h.example", 2), (b"ADDR=192.0.2.1", 2)):
        with relay() as session:
            assert session.do(b"XCLIENT " + line + b"\r\n") == [BACK]
            assert session.trace == [("connect",)] * asked


@row("XCL-02")
@pytest.mark.parametrize("error, code", [(SMTPError("no"), "554"), (ValueError("x"), "421")])
def test_a_client_that_on_connect_refuses_is_refused_in_the_greetings_place(
    error: Exception, code: str
) -> None:
    def connect(_: Any, session: Any) -> Any:
        return error if session.remote_address == "192.0.2.1" else None

    with relay(Script(connect=connect)) as session:
        session.wire.server.on("error", lambda error: None)
        assert session.do(EH, ADDR + EH) == ["250", code]
        assert session.closed
    assert session.trace == [("connect",), ("connect",), ("close",)]


@row("XCL-02")
def test_a_late_on_connect_is_waited_for() -> None:
    def connect(_: Any, session: Any) -> Any:
        return LATE if session.xclient else None

    with relay(Script(connect=connect), greet_delay=1) as session:
        session.do(pause(1.1), EH, ADDR, EH)
        assert session.codes == ["220", "250"]
        assert session.answer() == [BACK, "250"]
    with relay(Script(connect=connect)) as session:
        session.wire.server.on("error", lambda error: None)
        assert session.do(ADDR) == []
        session.recorder._running = ""
        assert session.do(pause(31)) == ["421"]


@row("XCL-03")
def test_trust_is_decided_again_by_the_new_address() -> None:
    run = every_cut([ADDR + ADDR, EH], peer=RELAY, **TRUSTED)
    assert run.codes == ["220", BACK, NO, "250"]
    other = b"XCLIENT ADDR=10.9.9.9\r\nXCLIENT ADDR=192.0.2.7\r\nXFORWARD NAME=x\r\n"
    run = every_cut([other], peer=RELAY, **TRUSTED)
    assert run.codes == ["220", BACK, BACK, NO]


@row("XCL-03", "XCL-05")
def test_an_unknown_address_is_never_trusted() -> None:
    everyone = ["0.0.0.0/0", "::/0", "unix"]
    with relay(use_xclient=everyone, use_xforward=everyone) as session:
        assert session.do(b"XCLIENT ADDR=[UNAVAILABLE] NAME=[TempUnavail]\r\n") == [BACK]
        told = session.wire.session
        assert (told.remote_address, told.client_hostname) == ("", "[UNAVAILABLE]")
        assert (told.xclient["ADDR"], told.xclient["NAME"]) == (None, None)
        assert session.do(b"XCLIENT PORT=1\r\n", b"XFORWARD PORT=1\r\n") == [NO, NO]


@row("XCL-04")
@pytest.mark.parametrize("command", [b"XCLIENT NAME=x\r\n", b"XFORWARD NAME=x\r\n", b"XCLIENT\r\n"])
def test_xclient_and_xforward_in_a_transaction_are_out_of_sequence(command: bytes) -> None:
    before = [EH, TX + command + b"DATA\r\n", BODY + END]
    run = every_cut(before, peer=RELAY, **TRUSTED)
    assert run.codes == ["220", "250", *MAILED, "503 5.5.1", "354", "250 2.6.0"]
    run = every_cut([EH, TX + b"BDAT 1\r\nx" + command], peer=RELAY, **TRUSTED)
    assert run.codes[-1] == "503 5.5.1"


MALFORMED = [
    b"",
    b"ADDR",
    b"=x",
    b"FOO=x",
    b"ADDR=192.0.2.1 addr=192.0.2.1",
    b"PORT=1 PORT=2",
    b"PORT=",
    b"NAME=",
    b"PORT=abc",
    b"PORT=0",
    b"PORT=65536",
    b"PORT=-1",
    b"PORT=+20",
    b"DESTPORT=65536",
    b"NAME=a+0D+0Ab",
    b"NAME=a+00b",
    b"NAME=a+20b",
    b"NAME=h\xc3\xa9",
    b"NAME=a/b",
    b"NAME=+2",
    b"NAME=a+2e",
    b"NAME=" + b"a" * 254,
    b"HELO=" + b"a" * 256,
    b"HELO=a+09b",
    b"HELO=a=b",
    b"LOGIN=" + b"a" * 256,
    b"LOGIN=a+7F",
    b"LOGIN=\xff",
    b"LOGIN=+C3",
    b"na\xc5\xbfe=x",
    b"\xffADDR=192.0.2.1",
]
BAD_ADDRESSES = [
    b"999.1.1.1",
    b"1.2.3",
    b"01.2.3.4",
    b"h.example",
    b"IPV6:1.2.3.4",
    b"IPV6:",
    b"fe80::1%25eth0",
    b"fe80::1%eth0",
    b"1::2::3",
    b"[192.0.2.1]",
]


@row("XCL-05")
@pytest.mark.parametrize("attributes", MALFORMED)
def test_a_malformed_xclient_changes_nothing(attributes: bytes) -> None:
    asked: list[Any] = []
    with relay(on_auth=lambda *arguments: asked.append(arguments)) as session:
        session.do(EH)
        before = facts(session)
        line = b"XCLIENT DESTADDR=192.0.2.9 LOGIN=u " + attributes
        assert session.do(b"XCLIENT " + attributes + b"\r\n") == [BAD]
        if attributes and not attributes.startswith(b"LOGIN"):
            assert session.do(line + b"\r\n") == [BAD]
        assert parse_replies(session.written[-1])[0].lines == (
            "Error: Bad command parameter syntax",
        )
        assert facts(session) == before
    assert asked == []


@row("XCL-05", "XCL-07")
@pytest.mark.parametrize(
    "attributes", [b"", b"ADDR", b"LOGIN=u", b"PORT=x", b"NAME=", b"SOURCE=X", b"NAME=a NAME=b"]
)
def test_a_malformed_xforward_changes_nothing(attributes: bytes) -> None:
    with relay() as session:
        before = facts(session)
        lines = [b"XFORWARD " + attributes, b"XFORWARD IDENT=x " + (attributes or b"FOO=x")]
        assert session.do(*[line + b"\r\n" for line in lines]) == [BAD, BAD]
        assert facts(session) == before


@row("XCL-05")
@pytest.mark.parametrize("verb", [b"XCLIENT", b"XFORWARD"])
@pytest.mark.parametrize("address", BAD_ADDRESSES)
def test_an_invalid_address_is_refused_with_its_own_text(verb: bytes, address: bytes) -> None:
    with relay() as session:
        session.do(EH)
        before = facts(session)
        assert session.do(verb + b" NAME=x ADDR=" + address + b"\r\n") == [BAD]
        text = "Error: Bad command parameter syntax. Invalid address"
        assert parse_replies(session.written[-1])[0].lines == (text,)
        assert facts(session) == before


@row("XCL-05")
@pytest.mark.parametrize(
    "given, address",
    [
        (b"192.0.2.1", "192.0.2.1"),
        (b"IPV6:::1", "::1"),
        (b"ipv6:2001:DB8:0::1", "2001:db8::1"),
        (b"2001:db8::1", "2001:db8::1"),
        (b"::ffff:192.0.2.1", "192.0.2.1"),
        (b"IPV6:+3A:1", "::1"),
    ],
)
def test_addresses_are_kept_in_canonical_form(given: bytes, address: str) -> None:
    with relay() as session:
        assert session.do(b"XFORWARD ADDR=" + given + b"\r\n") == ["250 2.0.0"]
        assert session.wire.session.xforward["ADDR"] == address
        assert session.do(b"XCLIENT addr=" + given + b"\r\n") == [BACK]
        assert session.wire.session.remote_address == address
        assert session.wire.session.client_hostname == f"[{address}]"


@row("XCL-05")
def test_an_unavailable_attribute_reads_as_none() -> None:
    line = b"XCLIENT PORT=[UNAVAILABLE] PROTO=[tempunavail] DESTADDR=[UNAVAILABLE] DESTPORT="
    with relay() as session:
        assert session.do(line + b"[UNAVAILABLE] HELO=[UNAVAILABLE]\r\n") == [BACK]
        told = session.wire.session
        assert (told.remote_port, told.local_address, told.local_port) == (0, "", 0)
        assert [told.xclient[name] for name in ("PORT", "PROTO", "DESTADDR")] == [None] * 3
        assert "HELO" not in told.xclient
        assert session.do(EH) == ["250"]
        assert told.host_name_appears_as == "c.example"


def test_keywords_are_taken_in_any_case_and_with_any_blanks() -> None:
    with relay() as session:
        assert session.do(b"xclient  PrOtO=esmtp \t NAME=a_b-C.example\r\n") == [BACK]
        assert session.wire.session.xclient["PROTO"] == "ESMTP"
        assert session.wire.session.client_hostname == "a_b-c.example"
        assert session.do(b"XCLIENT PROTO=X\r\n") == [BAD]


def test_a_helo_that_was_given_is_not_replaced_by_that_of_the_relay() -> None:
    with relay() as session:
        assert session.do(b"XCLIENT HELO=Client.Example\r\n") == [BACK]
        told = session.wire.session
        assert told.host_name_appears_as == "client.example"
        assert session.do(EH, b"RSET\r\n", b"HELO other\r\n") == ["250", "250 2.0.0", "250"]
        assert told.host_name_appears_as == "client.example"
        assert told.opening_command == "HELO"
        assert session.do(b"XCLIENT PORT=5\r\n") == [BACK]
        assert told.host_name_appears_as == "client.example"
        assert session.do(b"XCLIENT HELO=next.example\r\n", EH) == [BACK, "250"]
        assert told.host_name_appears_as == "next.example"


def test_a_name_that_was_looked_up_does_not_vouch_for_another_address() -> None:
    lookup = {"disable_reverse_lookup": False, "resolver": lambda address: ["relay.example"]}
    with relay(**lookup) as session:
        assert session.wire.session.client_hostname == "relay.example"
        assert session.do(b"XCLIENT PORT=9\r\n") == [BACK]
        assert session.wire.session.client_hostname == "relay.example"
        assert (
            session.do(b"XCLIENT NAME=h.example\r\n", b"XCLIENT ADDR=192.0.2.1\r\n") == [BACK] * 2
        )
        assert session.wire.session.client_hostname == "h.example"
    with relay(**lookup) as session:
        assert session.do(b"XCLIENT ADDR=192.0.2.1\r\n") == [BACK]
        assert session.wire.session.client_hostname == "[192.0.2.1]"
        assert session.wire.session.xclient["NAME:DEFAULT"] == "relay.example"


# --- LOGIN ---


@row("XCL-06")
@pytest.mark.parametrize("style", STYLES)
def test_a_login_goes_through_on_auth_in_every_style(style: str) -> None:
    asked: list[Any] = []

    def act(call: Call) -> Any:
        asked.append((call.subject.method, call.subject.username, call.subject.password))
        asked.append((call.session.remote_address, call.session.user))
        if call.callback is not None:
            call.callback(None, {"user": "Zoë"})
        return {"user": "Zoë"}

    with relay(on_auth=in_style("on_auth", style, act)) as session:
        session.do(EH)
        assert session.do(b"XCLIENT LOGIN=Zo+C3+AB ADDR=192.0.2.1\r\n") == [BACK]
        told = session.wire.session
        assert (told.user, told.remote_address) == ("Zoë", "192.0.2.1")
        assert session.wire.connection.protocol.authenticated
        assert told.xclient["LOGIN"] == "Zoë"
        assert session.do(EH) == ["250"]
        assert told.transmission_type == "ESMTPA"
    assert asked == [("XCLIENT", "Zoë", None), ("10.0.0.7", None)]


def answers(*answer: Any) -> Callable[..., None]:
    return lambda auth, session, callback: callback(*answer)


def fails(auth: Any, session: Any, callback: Callable[..., object]) -> None:
    raise ValueError("a hook that fails")


REFUSED: dict[str, tuple[Any, str]] = {
    "no hook": (None, "550 5.7.8"),
    "an error": (answers(SMTPError("no")), "550 5.7.8"),
    "an error with a code": (answers(SMTPError("no", response_code=454)), "454 4.7.0"),
    "an error with both codes": (answers(SMTPError("no", 554, "5.7.1")), "554 5.7.1"),
    "an invalid code": (answers(AcceptingError("no")), "451 4.3.0"),
    "no answer": (answers(), "550 5.7.8"),
    "an answer without a user": (answers(None, {"message": "no"}), "550 5.7.8"),
    "an answer with a code": (answers(None, {"response_code": 535}), "535 5.7.8"),
    "nonsense": (answers(None, 7), "451 4.3.0"),
    "a failure": (fails, "451 4.3.0"),
}


@row("XCL-06")
@pytest.mark.parametrize("name", REFUSED)
def test_a_login_that_is_refused_ends_the_connection_and_nothing_is_taken_over(name: str) -> None:
    hook, code = REFUSED[name]
    hooks = {} if hook is None else {"on_auth": hook}
    with relay(**hooks) as session:
        session.wire.server.on("error", lambda error: None)
        session.do(EH)
        before = facts(session)
        assert session.do(b"XCLIENT ADDR=192.0.2.1 LOGIN=u HELO=x\r\n" + EH) == [code]
        assert session.closed
        after = facts(session)
        assert {name for name in before if before[name] != after[name]} == {"engine's state"}
    assert session.trace == [("connect",), ("close",)]


@row("XCL-06")
def test_a_login_whose_hook_hangs_ends_the_connection() -> None:
    with relay(on_auth=lambda *arguments: None) as session:
        session.wire.server.on("error", lambda error: None)
        assert session.do(b"XCLIENT LOGIN=u\r\n", EH, pause(29)) == []
        assert session.do(pause(2)) == ["451 4.3.0"]
        assert session.closed


@row("XCL-06")
@pytest.mark.parametrize("out", [b"LOGIN=", b"LOGIN=[UNAVAILABLE]"])
def test_an_empty_login_logs_out_and_a_missing_one_keeps_the_user(out: bytes) -> None:
    with relay(on_auth=accepting) as session:
        told = session.wire.session
        dialogue = session.wire.connection.protocol
        assert session.do(b"XCLIENT LOGIN=u\r\n", b"XCLIENT PORT=1\r\n", EH) == [BACK, BACK, "250"]
        assert told.user == "u"
        assert dialogue.authenticated
        assert told.xclient["LOGIN"] == "u"
        assert session.do(b"XCLIENT " + out + b"\r\n") == [BACK]
        assert told.user is None
        assert not dialogue.authenticated
        assert told.xclient["LOGIN"] is None


@row("XCL-06")
def test_a_user_logged_in_by_auth_is_logged_out_by_xclient() -> None:
    with relay(on_auth=accepting) as session:
        told = session.wire.session
        dialogue = session.wire.connection.protocol
        told.user, dialogue.authenticated = "by AUTH", True
        assert session.do(b"XCLIENT PORT=1\r\n") == [BACK]
        assert told.user is None
        assert not dialogue.authenticated


@row("XCL-08")
def test_xclient_facts_of_the_connection_outlive_a_reset_of_the_greeting() -> None:
    """The reset is that of STARTTLS."""
    line = b"XCLIENT ADDR=192.0.2.1 NAME=h.example PORT=9 DESTADDR=192.0.2.2 DESTPORT=25"
    with relay(on_auth=accepting) as session:
        assert session.do(line + b" HELO=x PROTO=SMTP LOGIN=u\r\n") == [BACK]
        dialogue = session.wire.connection.protocol
        session.wire.loop.step(dialogue.reset_greeting)
        told = session.wire.session
        kept = ("ADDR", "NAME", "PORT", "DESTADDR", "DESTPORT")
        gone = ("HELO", "PROTO", "LOGIN")
        assert [name for name in (*kept, *gone) if name in told.xclient] == list(kept)
        assert (told.remote_address, told.client_hostname) == ("192.0.2.1", "h.example")
        assert told.host_name_appears_as == ""
        assert session.do(EH) == ["250"]
        assert told.host_name_appears_as == "c.example"


@row("XCL-09")
def test_commands_after_xclient_are_answered_in_order() -> None:
    steps = [ADDR + EH, TX + b"DATA\r\n", BODY + END]
    run = every_cut(steps, peer=RELAY, **TRUSTED)
    assert run.codes == ["220", BACK, *PREPARED[1:], "250 2.6.0"]
    assert run.trace[:2] == [("connect",), ("connect",)]


@row("XCL-09")
def test_commands_after_an_xclient_login_wait_for_the_hook() -> None:
    callbacks: list[Callable[..., object]] = []

    def on_auth(auth: Any, session: Any, callback: Callable[..., object]) -> None:
        callbacks.append(callback)

    with relay(on_auth=on_auth) as session:
        assert session.do(b"XCLIENT LOGIN=u\r\nNOOP\r\n", b"HELP\r\n") == []
        done = session.do(
            lambda session: session.wire.loop.step(lambda: callbacks[0](None, {"user": "u"}))
        )
        assert done == [BACK, "250 2.0.0", "214 2.0.0"]


def test_xforward_counts_as_junk_and_xclient_does_not() -> None:
    options = {**COUNTERS_OFF, "max_junk_commands": 3}
    run = every_cut([b"XCLIENT PORT=1\r\n" * 9], peer=RELAY, **{**TRUSTED, **options})
    assert run.codes == [*["220"] * 10]
    run = every_cut([b"XFORWARD PORT=1\r\n" * 9], peer=RELAY, **{**TRUSTED, **options})
    assert run.codes == ["220", "250 2.0.0", "250 2.0.0", "421 4.7.0"]


def test_counters_outlive_xclient() -> None:
    run = every_cut([b"FOO\r\n" * 9 + b"XCLIENT PORT=1\r\nFOO\r\n"], peer=RELAY, **TRUSTED)
    assert run.codes == ["220", *["500 5.5.2"] * 9, BACK, "421 4.7.0"]


def test_the_count_per_host_stays_with_the_address_that_was_counted() -> None:
    with relay(max_clients_per_host=1) as session:
        assert session.do(ADDR) == [BACK]
        assert dict(state_of(session.wire.server).registry._hosts) == {"10.0.0.7": 1}
    assert not state_of(session.wire.server).registry._hosts


# --- XFORWARD ---

UNSAID = dict.fromkeys(("NAME", "ADDR", "PORT", "PROTO", "HELO", "IDENT", "SOURCE"))
ORIGIN = (
    b"XFORWARD NAME=h.example ADDR=192.0.2.1 PORT=9 PROTO=X HELO=y IDENT=4+2BA SOURCE=remote\r\n"
)


@row("XCL-07")
def test_xforward_records_the_origin_of_a_message_and_changes_nothing_else() -> None:
    with relay() as session:
        session.do(EH)
        before = facts(session)
        assert session.do(ORIGIN) == ["250 2.0.0"]
        told = session.wire.session
        assert told.xforward == {
            "NAME": "h.example",
            "ADDR": "192.0.2.1",
            "PORT": 9,
            "PROTO": "X",
            "HELO": "y",
            "IDENT": "4+A",
            "SOURCE": "REMOTE",
        }
        assert {**facts(session), "xforward": {}} == before
        assert session.do(b"XFORWARD NAME=[UNAVAILABLE]\r\n") == ["250 2.0.0"]
        assert told.xforward["NAME"] is None
        assert told.xforward["PORT"] == 9
        assert session.do(b"XFORWARD PROTO=" + b"x" * 65 + b"\r\n") == [BAD]
        assert session.do(b"XFORWARD SOURCE=BOTH\r\n") == [BAD]


@row("XCL-07")
def test_the_first_xforward_of_a_transaction_clears_attributes_that_it_does_not_name() -> None:
    with relay() as session:
        session.do(b"XFORWARD PORT=9\r\n")
        assert session.wire.session.xforward == {**UNSAID, "PORT": 9}


@row("XCL-07")
@pytest.mark.parametrize(
    "steps, kept",
    [
        ([EH], True),
        ([b"HELO x\r\n"], True),
        ([b"RSET\r\n"], False),
        ([EH, b"RSET\r\n"], False),
        ([EH, TX], True),
        ([EH, TX, EH], True),
        ([EH, TX + b"RSET\r\n"], False),
        ([EH, TX + b"DATA\r\n", BODY + END], False),
        ([EH, TX + b"BDAT 1 LAST\r\nx"], False),
        ([EH, MAIL + b"BDAT 0 LAST\r\n"], False),
        ([b"XCLIENT PORT=1\r\n"], False),
    ],
)
def test_xforward_is_forgotten_with_the_transaction(steps: list[bytes], kept: bool) -> None:
    with relay() as session:
        session.do(ORIGIN, *steps)
        assert bool(session.wire.session.xforward) is kept
        assert (session.wire.connection.protocol.xforward is not None) is kept


@row("XCL-07")
def test_on_data_sees_where_the_message_came_from() -> None:
    seen: list[Any] = []

    def data(stream: Any, session: Any) -> None:
        seen.append(session.xforward.get("NAME"))

    with relay(Script(data=data)) as session:
        session.do(EH, ORIGIN + TX + b"DATA\r\n", BODY + END, TX + b"DATA\r\n", BODY + END)
    assert seen == ["h.example", None]


# --- any line ---

_WORDS = st.one_of(
    st.sampled_from([b"ADDR=192.0.2.1", b"ADDR=", b"NAME=h", b"PORT=25", b"HELO=x", b"=", b"+3D"]),
    st.from_regex(
        rb"(?i)(ADDR|NAME|PORT|HELO|PROTO|IDENT|SOURCE)=[0-9a-f:.+\[\]]{1,12}", fullmatch=True
    ),
    st.binary(max_size=12).map(lambda octets: bytes(o for o in octets if o >= 32 and o != 127)),
)


@row("XCL-05")
@given(st.sampled_from([b"XCLIENT", b"XFORWARD"]), st.lists(_WORDS, max_size=5))
def test_an_xclient_line_is_applied_as_a_whole_or_not_at_all(
    verb: bytes, words: list[bytes]
) -> None:
    line = verb + b" " + b" ".join(words)
    accepted = BACK if verb == b"XCLIENT" else "250 2.0.0"
    with relay() as session:
        session.do(EH)
        before = facts(session)
        (code,) = session.do(line + b"\r\n")
        assert code in (accepted, BAD)
        assert (facts(session) == before) is (code == BAD)


# --- the event `connect` ---


@pytest.mark.parametrize(
    "steps, told",
    [
        ([EH], []),
        ([ADDR], ["192.0.2.1"]),
        ([ADDR, ADDR, EH, TX], ["192.0.2.1"]),
        ([b"XCLIENT ADDR=[UNAVAILABLE]\r\n"], [""]),
        ([b"XCLIENT NAME=x\r\n"], []),
        ([b"XCLIENT NAME=x\r\n", b"XCLIENT ADDR=192.0.2.1\r\n"], ["192.0.2.1"]),
        ([b"XFORWARD NAME=x\r\n"], []),
        ([b"XFORWARD ADDR=192.0.2.1\r\n", EH, TX], ["10.0.0.7"]),
        ([EH, b"MAIL FROM:<no>\r\n"], []),
        ([EH, TX, b"RSET\r\n" + MAIL], ["10.0.0.7"]),
        ([b"XCLIENT ADDR=x\r\n", b"XFORWARD ADDR=x\r\n"], []),
    ],
)
def test_the_event_connect_waits_until_the_client_is_known(
    steps: list[bytes], told: list[str]
) -> None:
    events: list[Any] = []
    with relay() as session:
        session.wire.server.on("connect", events.append)
        session.do(*steps)
    assert [event["remote_address"] for event in events] == told


@pytest.mark.parametrize("networks", [[], ["192.0.2.0/24"]])
def test_the_event_connect_of_an_untrusted_client_does_not_wait(networks: list[str]) -> None:
    loop = VirtualLoop()
    server = SMTPServer(**DEFAULTS, use_xclient=networks)
    events: list[Any] = []
    server.on("connect", events.append)
    with Wire(server, loop=loop, peer=RELAY):
        assert [event["remote_address"] for event in events] == ["10.0.0.7"]
    loop.close()


def test_a_refusal_by_on_connect_emits_no_event_connect() -> None:
    def connect(_: Any, session: Any) -> Any:
        return SMTPError("no") if session.xclient else None

    events: list[Any] = []
    with relay(Script(connect=connect)) as session:
        session.wire.server.on("connect", events.append)
        assert session.do(ADDR) == ["554"]
    assert events == []


# --- with PROXY, and over sockets ---


@row("PROXY-11", "XCL-03")
def test_trust_behind_a_balancer_is_decided_by_the_client_that_it_names() -> None:
    options = {"use_proxy": ["10.0.0.0/8"], "use_xclient": ["192.0.2.0/24"]}
    with relay(**options) as session:
        assert session.do(LINE + b"XCLIENT ADDR=198.51.100.9\r\n" + EH) == ["220", BACK, "250"]
        told = session.wire.session
        assert told.remote_address == "198.51.100.9"
        assert told.xclient["ADDR:DEFAULT"] == "192.0.2.1"
        assert told.proxy["source"] == ("192.0.2.1", 56324)


@row("XCL-02", "XCL-07")
def test_xclient_and_xforward_change_addresses_over_sockets_too(run: Any) -> None:
    async def scenario() -> None:
        sink = Sink()
        seen: list[Any] = []

        async def on_connect(session: Any) -> None:
            seen.append((session.remote_address, session.client_hostname))

        lists = {"use_xclient": ["127.0.0.1"], "use_xforward": ["192.0.2.0/24"]}
        server = sink.server(on_connect=on_connect, **lists)
        async with running(server) as address, await Client.greeted(address) as client:
            client.send(ADDR + EH)
            assert await client.replies(2) == [BACK, "250"]
            assert await client.ask(ORIGIN) == "250 2.0.0"
            client.send(TX + b"DATA\r\n")
            assert await client.replies(3) == [*MAILED, "354"]
            assert await client.ask(BODY + END) == "250 2.6.0"
            assert await client.ask(b"QUIT\r\n") == "221 2.0.0"
        assert seen == [("127.0.0.1", "[127.0.0.1]"), ("192.0.2.1", "h.example")]
        assert len(sink.closed) == 1

    run(scenario())
