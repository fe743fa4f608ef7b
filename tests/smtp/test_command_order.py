"""What has been said and what may follow: the rows on state, and what is left of nothing.

The exhaustive part, all sequences against a model, is in properties/test_model.py
(RFC 5321 §3.3, §4.1.4).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import shared_loop
from hook_kit import BODY, END, MAIL, RCPT
from resets import assert_reset
from scenario import (
    COUNTERS_OFF,
    EH,
    GREETED,
    LATE,
    LH,
    MAILED,
    PREPARED,
    RST,
    TX,
    Conversation,
    Script,
    Step,
    every_cut,
    pause,
)
from side_by_side import SideBySide

from fastsmtp import SMTPError

pytestmark = pytest.mark.usefixtures("no_leaks")
row = pytest.mark.row

DATA = b"DATA\r\n"
TEXT = BODY + END
REFUSES = SMTPError("no", response_code=554)


@pytest.fixture(scope="module", autouse=True)
def _one_loop_for_all_comparisons() -> Iterator[None]:
    shared_loop.shared_loop()
    yield
    shared_loop.close_shared_loop()


def by_address(**answers: Any) -> Callable[[Any, Any], Any]:
    """Answer by the local part of the address; the others are accepted."""
    return lambda address, session: answers.get(address.local_part)


@row("STATE-01")
def test_a_message_refused_at_its_last_chunk_leaves_no_transaction() -> None:
    run = every_cut([EH, TX + b"BDAT 4 LAST\r\ntext" + DATA], Script(data=REFUSES))
    assert run.codes == [*GREETED, *MAILED, "554 5.6.0", "503 5.5.1"]


@row("STATE-02")
def test_a_refused_message_leaves_no_recipients_for_a_second_one() -> None:
    run = every_cut(
        [EH, TX + DATA, TEXT, b"RCPT TO:<c@y.example>\r\n" + DATA], Script(data=REFUSES)
    )
    assert run.codes == [*PREPARED, "554 5.6.0", "503 5.5.1", "503 5.5.1"]
    assert len(run.messages) == 1


@row("STATE-03", "STATE-04")
def test_a_refused_command_leaves_the_transaction_as_it_was() -> None:
    run = every_cut(
        [
            EH,
            MAIL + b"MAIL FROM:<\xc3\xa9@x.example>\r\n" + RCPT,
            b"MAIL FROM:<c@x.example>\r\nVRFY \xc3\xa9\r\n" + DATA,
            TEXT,
        ]
    )
    assert run.codes == [
        *GREETED,
        *["250 2.1.0", "503 5.5.1", "250 2.1.5", "503 5.5.1", "252 2.0.0", "354", "250 2.6.0"],
    ]
    assert run.recorder.named("mail") == ["<a@x.example>"]
    message = run.messages[0]
    assert (message.sender, message.recipients) == ("<a@x.example>", ("<b@y.example>",))


@row("STATE-05")
@pytest.mark.parametrize("error", [REFUSES, SMTPError("later", response_code=450), ValueError()])
def test_a_refused_sender_begins_no_transaction(error: Exception) -> None:
    hooks = Script(mail=by_address(a=error))
    ended = every_cut([EH, MAIL + RCPT + b"MAIL FROM:<c@x.example>\r\n" + RCPT], hooks)
    refusal = ended.codes[2]
    assert refusal[:3] in ("554", "450", "451")
    assert ended.codes == [*GREETED, refusal, "503 5.5.1", *MAILED]
    assert ended.recorder.named("rcpt") == ["<b@y.example>"]


@row("STATE-06")
def test_a_transaction_whose_recipients_were_all_refused_stays_open_until_it_is_reset() -> None:
    steps = [EH, TX + RCPT + MAIL + DATA, b"RSET\r\n" + MAIL]
    run = every_cut(steps, Script(rcpt=REFUSES))
    assert run.codes == [
        *[*GREETED, "250 2.1.0", "554 5.7.1", "554 5.7.1", "503 5.5.1", "503 5.5.1"],
        *["250 2.0.0", "250 2.1.0"],
    ]


# --- STATE-07, -08: resets ---

# What leads to each state; the second entry is what a model of the dialogue calls it.
STATES: dict[str, list[str]] = {
    "not greeted": [],
    "greeted": ["EHLO"],
    "mail": ["EHLO", "MAIL with parameters"],
    "rcpt": ["EHLO", "MAIL with SMTPUTF8", "RCPT"],
    "bdat": ["EHLO", "MAIL", "RCPT", "BDAT"],
    "bdat failed": ["EHLO", "MAIL", "BDAT"],
    "after a message": ["EHLO", "MAIL", "RCPT", "DATA"],
    "after chunks": ["EHLO", "MAIL", "RCPT", "BDAT", "BDAT LAST"],
    "after errors": ["EHLO", "MAIL", "RCPT with a bad path", "FOO", "DATA", "control octet"],
}


@row("STATE-07")
@pytest.mark.parametrize("lmtp", [False, True], ids=["smtp", "lmtp"])
@pytest.mark.parametrize("state", STATES)
@pytest.mark.parametrize("command", ["RSET", "EHLO", "HELO"])
def test_a_reset_leaves_nothing_in_any_state(state: str, command: str, lmtp: bool) -> None:
    if lmtp and command == "HELO":
        command = "LHLO"
    both = SideBySide(lmtp=lmtp)
    for name in STATES[state]:
        both.command("LHLO" if lmtp and name == "EHLO" else name)
    both.command("LHLO" if lmtp and command == "EHLO" else command)
    assert_reset(both)
    both.wire.reset()


@row("STATE-08")
@pytest.mark.parametrize("command", [b"EHLO\r\n", b"EHLO a b\r\n", b"HELO \xe9\r\n", b"EHLO \r\n"])
def test_a_greeting_that_is_refused_changes_nothing(command: bytes) -> None:
    run = every_cut([EH, TX, command, DATA, TEXT])
    assert run.codes == [*GREETED, *MAILED, "501", "354", "250 2.6.0"]
    assert run.messages[0].recipients == ("<b@y.example>",)
    chunked = every_cut([EH, TX + b"BDAT 4\r\ntext", command, b"BDAT 0 LAST\r\n"])
    assert chunked.codes == [*GREETED, *MAILED, "250 2.0.0", "501", "250 2.6.0"]
    assert chunked.messages[0].body == b"text"


# --- STATE-09, -12: nothing after the end ---


@row("STATE-09")
@pytest.mark.parametrize("error, code", [(SMTPError("no"), "554"), (ValueError(), "421")])
def test_commands_after_a_refusal_at_connect_are_not_executed(error: Exception, code: str) -> None:
    run = every_cut([EH + TX], Script(connect=error))
    assert run.codes == [code]
    assert run.trace == [("connect",), ("close",)]


@row("STATE-09")
def test_commands_sent_while_on_connect_works_are_dropped_when_it_refuses() -> None:
    with Conversation(Script(connect=LATE)) as session:
        assert session.do(EH, TX) == []
        assert session.answer(SMTPError("no", response_code=550)) == ["550"]
        assert session.do(EH, TX) == []
        assert session.closed
    assert session.trace == [("connect",), ("close",)]


BYE = SMTPError("bye", response_code=421)
# What ends in a 421: hooks, options, what is sent; the trace goes no further than the last reply.
ENDINGS: dict[str, tuple[Script, dict[str, Any], list[Step]]] = {
    "a hook at MAIL": (Script(mail=BYE), {}, [EH, TX]),
    "a hook at RCPT": (Script(rcpt=BYE), {}, [EH, TX + RCPT]),
    "a hook at DATA": (Script(data=BYE), {}, [EH, TX + DATA, TEXT + TX]),
    "unknown commands": (Script(), {}, [EH, b"FOO\r\n" * 10 + TX]),
    "errors": (Script(), {}, [EH, RCPT * 20 + TX]),
    "junk": (Script(), {}, [EH, b"NOOP\r\n" * 100 + TX]),
    "an endless line": (Script(), {}, [EH, b"x" * 2048 * 17 + b"\r\n" + TX]),
    "http": (Script(), {}, [EH, b"GET / HTTP/1.1\r\n" + TX]),
    "recipients": (
        Script(),
        {"max_recipients": 1, "max_junk_commands": 3},
        [EH, TX + RCPT * 11 + TX],
    ),
    "messages": (
        Script(),
        {"max_messages": 1},
        [EH, TX + b"BDAT 1 LAST\r\nx" + MAIL + RCPT],
    ),
    "a body": (Script(), {"size": 10}, [EH, TX + DATA, b"x" * 11_000_000 + b"\r\n.\r\n" + TX]),
    "time": (Script(), {}, [EH, pause(301)]),
}


@row("STATE-12")
@pytest.mark.parametrize("ending", ENDINGS)
def test_commands_after_a_421_are_not_executed(ending: str) -> None:
    hooks, options, steps = ENDINGS[ending]
    with Conversation(hooks, **options) as session:
        session.do(*steps)
        assert session.codes[-1][:3] == "421"
        told, trace = session.codes, list(session.trace)
        session.do(TX, TEXT, b"QUIT\r\n", pause(1), EH)
        assert session.codes == told
        assert session.trace == trace
        assert session.closed


# --- STATE-10, -11, -13 ---


@row("STATE-10")
@pytest.mark.parametrize("where", ["declared", "sent", "chunk"])
def test_a_message_that_is_too_large_is_followed_by_one_that_is_not(where: str) -> None:
    large: list[Step] = {
        "declared": [b"MAIL FROM:<a@x.example> SIZE=101\r\n"],
        "sent": [TX + DATA, b"x" * 100 + b"\r\n" + END],
        "chunk": [TX + b"BDAT 101\r\n" + b"x" * 101 + b"RSET\r\n"],
    }[where]
    run = every_cut([EH, *large, TX + DATA, TEXT], size=100)
    assert "552 5.3.4" in run.codes
    assert run.codes[-4:] == [*MAILED, "354", "250 2.6.0"]
    assert run.messages[-1].body == BODY


@row("STATE-11", "HOOK-02")
def test_a_hook_that_hangs_at_one_recipient_costs_that_recipient_only() -> None:
    recipients = b"".join(b"RCPT TO:<%c@y.example>\r\n" % local for local in b"abcd")
    with Conversation(Script(rcpt=by_address(c=LATE))) as session:
        session.wire.server.on("error", lambda error: None)
        assert session.do(EH, MAIL + recipients + DATA) == ["250", "250 2.1.0", *["250 2.1.5"] * 2]
        assert session.do(pause(29.9)) == []
        session.recorder._running = ""  # what hangs is over, for the engine and for us
        assert session.do(pause(0.2)) == ["451 4.3.0", "250 2.1.5", "354"]
        assert session.do(TEXT) == ["250 2.6.0"]
        assert session.messages[0].recipients == tuple(f"<{local}@y.example>" for local in "abd")


@row("STATE-13", "PARM-11")
def test_extensions_end_with_helo_and_come_back_with_ehlo() -> None:
    helo = b"HELO c.example\r\n"
    parameters = b"MAIL FROM:<a@x.example> BODY=8BITMIME\r\n"
    notify = b"RCPT TO:<b@y.example> NOTIFY=NEVER\r\n"
    chunk = b"BDAT 5\r\nNOOP\n"
    run = every_cut([EH, helo, parameters + MAIL + notify + RCPT + chunk + b"RSET\r\n"])
    assert run.codes[2:] == [
        *["250", "555 5.5.4", "250 2.1.0", "555 5.5.4", "250 2.1.5", "502 5.5.1", "250 2.0.0"]
    ]
    back = every_cut([helo, EH, parameters + notify + b"BDAT 4 LAST\r\ntext"])
    assert back.codes == [*["220", "250", "250"], *MAILED, "250 2.6.0"]


@row("STATE-13")
@pytest.mark.parametrize("greeting, kind", [(EH, "ESMTP"), (b"HELO c.example\r\n", "SMTP")])
def test_the_greeting_decides_the_transmission_type(greeting: bytes, kind: str) -> None:
    with Conversation() as session:
        session.do(greeting)
        assert session.wire.session.transmission_type == kind
        assert session.wire.session.opening_command == greeting[:4].decode()
        session.do(EH)
        assert session.wire.session.transmission_type == "ESMTP"
    with Conversation(lmtp=True) as session:
        assert session.wire.session.transmission_type == "LMTP"
        session.do(LH, RST)
        assert session.wire.session.transmission_type == "LMTP"


@row("STATE-07")
def test_commands_without_a_transaction_are_answered_before_and_after_the_greeting() -> None:
    harmless = b"NOOP x\r\nVRFY a\r\nHELP\r\nRSET\r\n"
    codes = ["250 2.0.0", "252 2.0.0", "214 2.0.0", "250 2.0.0"]
    run = every_cut([harmless, EH, harmless, TX, harmless], **COUNTERS_OFF)
    assert run.codes == ["220", *codes, "250", *codes, *MAILED, *codes]
