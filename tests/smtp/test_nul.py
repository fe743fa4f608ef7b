"""`reject_nul`: a message with a NUL is refused at its true end, and no hook keeps it."""

from __future__ import annotations

from typing import Any

import pytest
import scenario
from conftest import Run
from scenario import EH, PRE, PREPARED, TX, Script, every_cut, one_way

from fastsmtp import SMTPError

REFUSED = "550 5.6.0"
ACCEPTED = "250 2.6.0"
MAILED = ["250 2.1.0", "250 2.1.5"]

BODIES = {
    "first": b"\0a\r\n",
    "last": b"a\r\n\0\r\n",
    "alone": b"\0\r\n",
    "in a long line": b"x" * 1000 + b"\0" + b"x" * 1000 + b"\r\n",
    "after a dot": b"..\0\r\n",
}


@pytest.mark.parametrize("body", BODIES.values(), ids=BODIES)
def test_a_message_with_nul_is_refused_and_its_hook_gets_the_reason(body: bytes, run: Run) -> None:
    ran = every_cut([*PRE, body + b".\r\nNOOP\r\n"], reject_nul=True)
    assert ran.codes == [*PREPARED, REFUSED, "250 2.0.0"]
    (message,) = ran.messages
    assert message.reason == "nul"
    run(scenario.repeat_on_the_wire(ran))


def test_a_message_with_nul_is_accepted_by_default_and_one_without_always() -> None:
    assert every_cut([*PRE, b"\0\r\n.\r\n"]).codes == [*PREPARED, ACCEPTED]
    ran = every_cut([*PRE, b"plain\r\n.\r\n", *TWO_LINES], reject_nul=True)
    assert ran.codes == [*PREPARED, ACCEPTED, *MAILED, "354", REFUSED]


TWO_LINES = [TX + b"DATA\r\n", b"a\0b\r\n.\r\n"]


def test_nul_in_one_message_does_not_refuse_the_next() -> None:
    steps = [*PRE, b"\0\r\n.\r\n", TX + b"DATA\r\n", b"plain\r\n.\r\n"]
    ran = every_cut(steps, reject_nul=True)
    assert ran.codes == [*PREPARED, REFUSED, *MAILED, "354", ACCEPTED]


def test_a_chunk_with_nul_is_refused_at_the_last_chunk(run: Run) -> None:
    chunks = b"BDAT 2\r\n\0aBDAT 3 LAST\r\nb\r\n"
    ran = every_cut([EH, TX + chunks + b"NOOP\r\n"], reject_nul=True)
    assert ran.codes == ["220", "250", *MAILED, "250 2.0.0", REFUSED, "250 2.0.0"]
    assert [message.reason for message in ran.messages] == ["nul"]
    run(scenario.repeat_on_the_wire(ran))


def test_binarymime_may_hold_nul() -> None:
    mail = TX.replace(b"<a@x.example>", b"<a@x.example> BODY=BINARYMIME")
    ran = every_cut([EH, mail + b"BDAT 3 LAST\r\n\0\n\r"], reject_nul=True, hide_binarymime=False)
    assert ran.codes == ["220", "250", *MAILED, ACCEPTED]
    assert [message.body for message in ran.messages] == [b"\0\n\r"]


def test_nul_in_lmtp_is_a_reply_for_each_recipient() -> None:
    steps: list[scenario.Step] = [
        b"LHLO c.example\r\n",
        TX + b"RCPT TO:<c@y.example>\r\nDATA\r\n",
        b"\0\r\n.\r\n",
    ]
    ran = every_cut(steps, lmtp=True, reject_nul=True)
    assert ran.codes[-2:] == [REFUSED, REFUSED]


@pytest.mark.parametrize(
    "body, options, code",
    [
        (b"\0\n\r\n", {}, "550 5.5.2"),
        (b"\0" * 100 + b"\r\n", {"size": 50}, "552 5.3.4"),
        (b"x" * 50 + b"\0\r\n", {"size": 50}, "552 5.3.4"),
        (b"\0\n\r\n", {"bare_newline": "normalize"}, REFUSED),
        (b"\0\n\r\n", {"bare_newline_exclusions": ["0.0.0.0/0"]}, REFUSED),
    ],
)
def test_size_and_bare_newlines_are_answered_before_nul(
    body: bytes, options: Any, code: str
) -> None:
    ran = every_cut([*PRE, body + b".\r\n"], reject_nul=True, **options)
    assert ran.codes == [*PREPARED, code]


def test_a_rejection_by_the_hook_is_answered_before_nul() -> None:
    hooks = Script(data=SMTPError(response_code=554), read=False)
    assert one_way([*PRE, b"\0\r\n.\r\n"], hooks, reject_nul=True).codes[-1] == "554 5.6.0"


def test_nul_overrules_a_hook_that_has_accepted_before_the_end() -> None:
    ran = one_way([*PRE, b"\0\r\n.\r\n"], Script(read=False), reject_nul=True)
    assert ran.codes[-1] == REFUSED
