"""LMTP, rows LMTP and BDAT-15: one reply per accepted recipient. RFC 2033."""

from __future__ import annotations

import asyncio
import socket
from typing import Any

import pytest
import scenario
from conftest import Run
from hook_kit import AcceptingError
from scenario import (
    DEFAULTS,
    FIN,
    LATE,
    LH,
    RST,
    Conversation,
    Recorder,
    Script,
    Step,
    every_cut,
    pause,
)

from fastsmtp import SMTPError, SMTPServer
from fastsmtp.testing import running

OK, ACCEPTED, SEQUENCE = "250 2.0.0", "250 2.6.0", "503 5.5.1"
FAILED, TOO_LARGE, BARE = "451 4.3.0", "552 5.3.4", "550 5.5.2"
BODY, NOOP = b"text\r\n.\r\n", b"NOOP\r\n"


def refuse_no(address: Any, session: Any) -> Any:
    """What the hook of RCPT answers: there is no user `no`."""
    return SMTPError("", 550) if address.local_part == "no" else None


def to(*names: str) -> bytes:
    """MAIL, and a RCPT for each name."""
    rcpts = "".join(f"RCPT TO:<{name}@y.example>\r\n" for name in names)
    return f"MAIL FROM:<a@x.example>\r\n{rcpts}".encode()


def accepting(*names: str) -> list[str]:
    """What `to` is answered with."""
    rcpts = ["550 5.1.1" if name == "no" else "250 2.1.5" for name in names]
    return ["250 2.1.0", *rcpts]


def check(
    steps: list[Step], expected: list[str], hooks: Script | None = None, **options: Any
) -> scenario.Conversation:
    """Behind LHLO, in each of the ways."""
    ran = every_cut([LH, *steps], hooks or Script(rcpt=refuse_no), lmtp=True, **options)
    assert ran.codes == ["220", "250", *expected]
    return ran


def verdicts(
    answer: Any, body: bytes = BODY, more: dict[str, Any] | None = None, **options: Any
) -> list[tuple[str, tuple[str, ...]]]:
    """The final replies to a message for b, c and d, for which `on_data` answers like that."""
    hooks = Script(data=answer, **(more or {}))
    steps = [LH, to("b", "c", "d") + b"DATA\r\n", body + NOOP]
    ran = every_cut(steps, hooks, lmtp=True, **options)
    assert ran.codes[:7] == ["220", "250", *accepting("b", "c", "d"), "354"]
    assert ran.codes[-1] == OK
    return [(str(reply), reply.lines) for reply in ran.replies[7:-1]]


def only_codes(finals: list[tuple[str, tuple[str, ...]]]) -> list[str]:
    return [code for code, _ in finals]


@pytest.mark.row("LMTP-01")
@pytest.mark.parametrize("verb", [b"HELO", b"EHLO"])
def test_helo_and_ehlo_are_unknown_in_lmtp(verb: bytes, run: Run) -> None:
    steps = [verb + b" c\r\n", to("b"), LH, verb + b" c\r\n", to("b")]
    ran = every_cut(steps, lmtp=True)
    greeted = ["250", "500", *accepting("b")]
    assert ran.codes == ["220", "500", SEQUENCE, SEQUENCE, *greeted]
    run(scenario.repeat_on_the_wire(ran))


@pytest.mark.row("LMTP-01")
def test_lhlo_is_unknown_in_smtp() -> None:
    ran = every_cut([b"LHLO c\r\nLHLO c\r\n", to("b")], max_unrecognized_commands=2)
    assert [reply.code for reply in ran.replies] == [220, 500, 421]


# --- one reply per recipient ---


@pytest.mark.row("LMTP-02")
def test_a_refused_recipient_has_no_final_reply(run: Run) -> None:
    names = "b", "no", "c"
    answer = [SMTPError("", 552), "for c"]
    hooks = Script(rcpt=refuse_no, data=answer)
    expected = [*accepting(*names), "354", "552 5.2.2", ACCEPTED, OK]
    ran = check([to(*names) + b"DATA\r\n", BODY + NOOP], expected, hooks)
    assert ran.messages[0].recipients == ("<b@y.example>", "<c@y.example>")
    assert ran.replies[-2].lines == ("for c",)
    run(scenario.repeat_on_the_wire(ran))


@pytest.mark.row("LMTP-03")
def test_equal_recipients_have_a_reply_each(run: Run) -> None:
    names = "b", "B", "b", "c", "b"
    answer = ["1", "2", "3", "4", "5"]
    expected = [*accepting(*names), "354", *[ACCEPTED] * 5]
    ran = check([to(*names) + b"DATA\r\n", BODY], expected, Script(data=answer))
    assert ran.recorder.named("rcpt") == [f"<{name}@y.example>" for name in names]
    assert [reply.lines[0] for reply in ran.replies[-5:]] == answer
    run(scenario.repeat_on_the_wire(ran))


@pytest.mark.row("LMTP-04")
def test_a_list_has_an_entry_for_each_recipient() -> None:
    finals = verdicts([SMTPError("5.2.1 gone", 550), None, "kept"])
    assert finals[0] == ("550 5.2.1", ("gone",))
    assert finals[1][0] == ACCEPTED
    assert finals[2] == (ACCEPTED, ("kept",))
    codes = only_codes(verdicts([SMTPError(""), SMTPError("", 452), SMTPError("", 554)]))
    assert codes == ["450 4.2.1", "452 4.2.2", "554 5.6.0"]


@pytest.mark.row("LMTP-04")
@pytest.mark.parametrize(
    "answer, expected",
    [
        ([], [FAILED] * 3),
        (["b"], [ACCEPTED, FAILED, FAILED]),
        ([SMTPError("", 550), "c"], ["550 5.7.1", ACCEPTED, FAILED]),
        (["b", "c", "d", "e"], [ACCEPTED] * 3),
        ([None, None, None, SMTPError("", 550)], [ACCEPTED] * 3),
    ],
)
def test_a_list_of_another_length_is_filled_or_cut_and_logged(
    answer: Any, expected: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    assert only_codes(verdicts(answer)) == expected
    assert [record for record in caplog.records if record.name.startswith("fastsmtp")]


@pytest.mark.row("LMTP-04")
@pytest.mark.parametrize(
    "entry",
    [7, 250, b"bytes", object(), ["list"], AcceptingError(), True, "550 no", "451-no", "554"],
)
def test_an_entry_of_another_type_fails_for_that_recipient(entry: Any) -> None:
    assert only_codes(verdicts(["b", entry, "d"])) == [ACCEPTED, FAILED, ACCEPTED]


@pytest.mark.row("LMTP-05")
@pytest.mark.parametrize(
    "answer, code, text",
    [
        (7, FAILED, None),
        (b"bytes", FAILED, None),
        ({"b": "x"}, FAILED, None),
        (RuntimeError("a hook that fails"), FAILED, None),
        (None, ACCEPTED, None),
        ("all the same", ACCEPTED, "all the same"),
        (SMTPError("no"), "450 4.2.1", "no"),
        (SMTPError("no", 550), "550 5.7.1", "no"),
        (SMTPError("no", 452, "4.3.1"), "452 4.3.1", "no"),
        (AcceptingError(), FAILED, None),
        ("550 no such user", FAILED, None),
        ("250 2.6.0 all the same", ACCEPTED, "all the same"),
    ],
)
@pytest.mark.parametrize("read", [True, False])
def test_one_answer_is_the_reply_to_all_recipients(
    answer: Any, code: str, text: str | None, read: bool
) -> None:
    finals = verdicts(answer, more={"read": read})
    assert only_codes(finals) == [code] * 3
    assert len({lines for _, lines in finals}) == 1
    if text is not None:
        assert finals[0][1] == (text,)


@pytest.mark.row("LMTP-04")
def test_a_421_in_a_list_closes_after_the_last_reply() -> None:
    answer = ["b", SMTPError("", 421), "d"]
    steps: list[Step] = [to("b", "c", "d") + b"DATA\r\n", BODY + NOOP]
    expected = [*accepting("b", "c", "d"), "354", ACCEPTED, "421 4.7.0", ACCEPTED]
    check(steps, expected, Script(data=answer))


@pytest.mark.row("LMTP-04", "I9")
@pytest.mark.parametrize("accepts", [True, False])
def test_the_last_error_that_is_allowed_takes_no_acceptance_away(accepts: bool) -> None:
    answer = ["b" if accepts else SMTPError(""), SMTPError("", 550)]
    steps: list[Step] = [b"RSET x\r\n", to("b", "c") + b"DATA\r\n", BODY]
    finals = [ACCEPTED, "550 5.7.1"] if accepts else ["421 4.7.0"]
    expected = ["501 5.5.4", *accepting("b", "c"), "354", *finals]
    check(steps, expected, Script(data=answer), max_errors=2)


@pytest.mark.row("LMTP-04")
def test_a_list_outside_of_lmtp_is_a_failure_that_says_so(caplog: pytest.LogCaptureFixture) -> None:
    ran = every_cut([*scenario.PRE, BODY], Script(data=["one"]))
    assert ran.codes == [*scenario.PREPARED, FAILED]
    assert "only LMTP has an answer for each recipient" in caplog.text


@pytest.mark.row("LMTP-06")
@pytest.mark.parametrize("names", [[], ["no"], ["no", "no"]])
def test_data_without_an_accepted_recipient_has_one_reply(names: list[str], run: Run) -> None:
    ran = check([to(*names) + b"DATA\r\n", NOOP], [*accepting(*names), SEQUENCE, OK])
    assert ran.recorder.named("data") == []
    run(scenario.repeat_on_the_wire(ran))


# --- what overrules an acceptance ---

OWN = [SMTPError("", 554), None, "kept"]
LARGE, UNCLEAN = b"0123456789\r\n.\r\n", b"a\nb\r\n.\r\n"


@pytest.mark.row("LMTP-07")
@pytest.mark.parametrize(
    "body, options, verdict",
    [(LARGE, {"size": 5}, TOO_LARGE), (UNCLEAN, {}, BARE)],
    ids=["over size", "bare LF"],
)
def test_a_refused_body_is_refused_for_all_but_for_the_hooks_own_errors(
    body: bytes, options: dict[str, Any], verdict: str
) -> None:
    stubborn = {"stubborn": True}
    assert only_codes(verdicts(None, body, **options)) == [verdict] * 3
    assert only_codes(verdicts("kept", body, stubborn, **options)) == [verdict] * 3
    assert only_codes(verdicts(7, body, stubborn, **options)) == [verdict] * 3
    assert only_codes(verdicts(None, body, {"read": False}, **options)) == [verdict] * 3
    assert only_codes(verdicts(OWN, body, stubborn, **options)) == ["554 5.6.0", verdict, verdict]
    short = verdicts(OWN[:1], body, stubborn, **options)
    assert only_codes(short) == ["554 5.6.0", verdict, verdict]
    error = SMTPError("", 550)
    assert only_codes(verdicts(error, body, stubborn, **options)) == ["550 5.7.1"] * 3


@pytest.mark.row("LMTP-07")
@pytest.mark.parametrize("end, reason", [(FIN, "disconnected"), (RST, "disconnected")])
def test_an_aborted_message_has_no_reply(end: Step, reason: str) -> None:
    steps: list[Step] = [to("b", "c") + b"DATA\r\n", BODY[:-1], end]
    ran = check(steps, [*accepting("b", "c"), "354"])
    assert [message.reason for message in ran.messages] == [reason]
    late = check([*steps[:2], pause(181)], [*accepting("b", "c"), "354", "421 4.4.2"])
    assert [message.reason for message in late.messages] == ["timeout"]


# --- chunks ---


@pytest.mark.row("BDAT-15")
def test_a_chunk_has_one_reply_and_the_last_one_per_recipient(run: Run) -> None:
    chunks = b"BDAT 2\r\nabBDAT 0\r\nBDAT 1 LAST\r\nc"
    ran = check(
        [to("b", "no", "c") + chunks + NOOP],
        [*accepting("b", "no", "c"), OK, OK, "554 5.6.0", ACCEPTED, OK],
        Script(rcpt=refuse_no, data=[SMTPError("", 554), None]),
    )
    assert [message.body for message in ran.messages] == [b"abc"]
    run(scenario.repeat_on_the_wire(ran))


@pytest.mark.row("BDAT-15")
@pytest.mark.parametrize("names", [[], ["no"]])
def test_a_chunk_without_an_accepted_recipient_has_one_reply_last_or_not(names: list[str]) -> None:
    last = b"BDAT 2 LAST\r\ncd"
    check([to(*names) + last + NOOP], [*accepting(*names), SEQUENCE, OK])
    check([to(*names) + b"BDAT 2\r\nab" + last + NOOP], [*accepting(*names), *[SEQUENCE] * 2, OK])
    check([last + NOOP], [SEQUENCE, OK])


@pytest.mark.row("BDAT-15")
@pytest.mark.parametrize(
    "data, failure",
    [
        (None, TOO_LARGE),
        (SMTPError("", 554), "554 5.6.0"),
        ([SMTPError("", 554), None], TOO_LARGE),
    ],
    ids=["accepts", "rejects", "list"],
)
def test_last_after_a_failed_chunk_repeats_its_reply_for_each_recipient(
    data: Any, failure: str
) -> None:
    chunks = b"BDAT 6\r\nabcdefBDAT 1\r\ngBDAT 0 LAST\r\n"
    expected = [*accepting("b", "c"), failure, failure, failure, failure, OK]
    check([to("b", "c") + chunks + NOOP], expected, Script(data=data), size=5)


# --- late answers, slow clients, options ---


@pytest.mark.row("LMTP-09")
def test_no_reply_is_sent_before_the_hook_has_finished() -> None:
    with Conversation(Script(data=LATE), lmtp=True) as session:
        session.do(LH, to("b", "c") + b"DATA\r\n")
        assert session.do(BODY + NOOP, NOOP, pause(100)) == []
        answer = [None, SMTPError("", 550)]
        assert session.answer(None, answer) == [ACCEPTED, "550 5.7.1", OK, OK]


@pytest.mark.row("LMTP-08", "LMTP-09")
def test_a_thousand_replies_reach_a_slow_client_in_order(run: Run) -> None:
    names = [f"r{number}" for number in range(1000)]
    texts = [f"{name} " + "x" * 400 for name in names]
    recorder = Recorder(Script(data=list(texts)))

    async def deliver() -> bytes:
        loop = asyncio.get_running_loop()
        server = SMTPServer(**{**DEFAULTS, **recorder.options(), "lmtp": True})
        async with asyncio.timeout(60), running(server) as address:
            with socket.socket() as client:
                client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
                client.setblocking(False)
                await loop.sock_connect(client, address)

                async def say(octets: bytes, until: bytes) -> bytes:
                    """Send, and read slowly at the same time."""
                    sending = loop.create_task(loop.sock_sendall(client, octets))
                    read = b""
                    while until not in read and (some := await loop.sock_recv(client, 300)):
                        read += some
                    await sending
                    return read

                await say(LH, b"\r\n250 LIMITS RCPTMAX=1000\r\n")
                await say(to(*names) + b"DATA\r\n", b"\r\n354 End data with <CR><LF>.<CR><LF>\r\n")
                return await say(BODY + b"QUIT\r\n", b"\r\n221 2.0.0 Bye\r\n")

    replies = scenario.parse_replies(run(deliver()))
    assert [reply.lines[0] for reply in replies[:-1]] == texts
    assert {str(reply) for reply in replies[:-1]} == {ACCEPTED}
    assert str(replies[-1]) == "221 2.0.0"


@pytest.mark.row("LMTP-10")
def test_lmtp_is_refused_on_port_25(run: Run) -> None:
    async def listen() -> None:
        server = SMTPServer(**{**DEFAULTS, "lmtp": True})
        with pytest.raises(ValueError):
            await server.listen(25, "127.0.0.1")
        await server.close()

    run(listen())


@pytest.mark.row("LMTP-10")
@pytest.mark.parametrize("option", ["hide_pipelining", "hide_enhancedstatuscodes"])
def test_lmtp_needs_pipelining_and_enhanced_codes(option: str) -> None:
    with pytest.raises(ValueError, match=option):
        SMTPServer(lmtp=True, **{option: True})
