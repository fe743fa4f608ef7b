"""Chunks, rows BDAT: octets are counted, a refused chunk is dropped whole. RFC 3030 §2, §4."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable
from typing import Any

import pytest
import scenario
from conftest import Run
from scenario import (
    EH,
    FIN,
    MAILED,
    RST,
    SMUG,
    TX,
    Conversation,
    Script,
    Step,
    every_cut,
    one_way,
    pause,
)

from fastsmtp import SMTPError

OK, ACCEPTED, TOO_LARGE, SEQUENCE = "250 2.0.0", "250 2.6.0", "552 5.3.4", "503 5.5.1"
NOOP, RSET = b"NOOP\r\n", b"RSET\r\n"
SENDER, RECIPIENT = b"MAIL FROM:<a@x.example>\r\n", b"RCPT TO:<b@y.example>\r\n"
BINARY = TX.replace(b"<a@x.example>", b"<a@x.example> BODY=BINARYMIME")
REJECT = Script(data=SMTPError("", 554), read=False)


def chunk(octets: bytes, last: bool = False) -> bytes:
    """BDAT and its octets."""
    return b"BDAT %d%s\r\n%s" % (len(octets), b" LAST" if last else b"", octets)


def check(
    steps: list[Step] | bytes, expected: list[str], hooks: Script | None = None, **options: Any
) -> scenario.Conversation:
    """Behind EHLO, in each of the ways."""
    steps = [steps] if isinstance(steps, bytes) else steps
    ran = every_cut([EH, *steps], hooks, **options)
    assert ran.codes == ["220", "250", *expected]
    return ran


def bodies(ran: scenario.Conversation) -> list[bytes]:
    return [message.body for message in ran.messages]


def reasons(ran: scenario.Conversation) -> list[str | None]:
    return [message.reason for message in ran.messages]


# --- the command ---


@pytest.mark.row("BDAT-01")
@pytest.mark.parametrize(
    "chunks, replies, body",
    [
        (b"BDAT 5\r\nhelloBDAT 0 LAST\r\n", [OK, ACCEPTED], b"hello"),
        (b"BDAT 5 LAST\r\nhello", [ACCEPTED], b"hello"),
        (b"BDAT 0 LAST\r\n", [ACCEPTED], b""),
        (b"bdat 5 last\r\nhello", [ACCEPTED], b"hello"),
        (b"BDAT 00000000000000000005 Last \r\nhello", [ACCEPTED], b"hello"),
        (b"BDAT 0\r\nBDAT 3\r\nabcBDAT 0\r\nBDAT 2 LAST\r\nde", [OK] * 3 + [ACCEPTED], b"abcde"),
    ],
)
def test_chunks_are_one_message(chunks: bytes, replies: list[str], body: bytes, run: Run) -> None:
    ran = check(TX + chunks + TX + chunks + NOOP, ([*MAILED, *replies] * 2) + [OK])
    assert bodies(ran) == [body, body]
    assert reasons(ran) == [None, None]
    run(scenario.repeat_on_the_wire(ran))


MALFORMED = [
    b"BDAT -1",
    b"BDAT +5",
    b"BDAT 5x",
    b"BDAT 0x5",
    b"BDAT",
    b"BDAT ",
    b"BDAT  5",
    b"BDAT 5  LAST",
    b"BDAT 5 LASTX",
    b"BDAT 5 LAST X",
    b"BDAT 5 LAST LAST",
    b"BDAT LAST",
    b"BDAT 5LAST",
    b"BDAT 5.0",
    b"BDAT 1_0",
    b"BDAT " + str(10**30).encode(),
    b"BDAT " + b"0" * 21,
    "BDAT \u0665".encode(),
    b"BDAT \xb2",
]


@pytest.mark.row("BDAT-02")
@pytest.mark.parametrize("line", MALFORMED)
@pytest.mark.parametrize("before", [b"", TX, TX + b"BDAT 1\r\nx"], ids=["", "RCPT", "BDAT"])
def test_a_malformed_chunk_closes(line: bytes, before: bytes) -> None:
    expected = ["501 5.5.4"]
    if before:
        expected = [*MAILED, *([OK] if before != TX else []), "501 5.5.4"]
    ran = check(before + line + b"\r\nNOOP\r\n", expected)
    assert reasons(ran) == (["disconnected"] if b"BDAT" in before else [])


@pytest.mark.row("BDAT-02")
@pytest.mark.parametrize("size", ["9" * 19, "9" * 20, str(2**63), str(2**64 + 5), "4294967296"])
@pytest.mark.parametrize("last", ["", " LAST"])
def test_a_chunk_larger_than_is_ever_dropped_closes_at_once(size: str, last: str) -> None:
    check(TX + f"BDAT {size}{last}\r\n".encode() + NOOP, [*MAILED, TOO_LARGE])
    if int(size) >= 2**63:
        check(TX + f"BDAT {size}{last}\r\n".encode(), [*MAILED, TOO_LARGE], size=0)


@pytest.mark.row("BDAT-02")
@pytest.mark.parametrize("size", ["9" * 18, str(2**63 - 1), "4294967296"])
def test_a_chunk_of_any_size_is_waited_for_when_there_is_no_limit(size: str) -> None:
    ran = check(TX + f"BDAT {size}\r\nhello".encode(), MAILED, size=0)
    assert bodies(ran) == [b"hello"]
    assert reasons(ran) == ["disconnected"]


# --- refused chunks ---

REFUSED = {
    "no MAIL": (b"", [], SEQUENCE, {}),
    "no RCPT": (SENDER, ["250 2.1.0"], SEQUENCE, {}),
    "RCPT refused": (TX, ["250 2.1.0", "550 5.1.1"], SEQUENCE, {}),
    "over size": (TX, MAILED, TOO_LARGE, {"size": 20}),
    "after a failure": (TX + chunk(b"x" * 21), [*MAILED, TOO_LARGE], TOO_LARGE, {"size": 20}),
}


@pytest.mark.row("BDAT-03")
@pytest.mark.parametrize("case", REFUSED)
def test_the_octets_of_a_refused_chunk_are_dropped_and_never_commands(case: str, run: Run) -> None:
    before, replies, refusal, options = REFUSED[case]
    hooks = Script(rcpt=SMTPError("", 550)) if case == "RCPT refused" else Script()
    octets = SMUG.ljust(200, b"\r")
    steps = before + chunk(octets) + chunk(octets) + NOOP
    ran = check(steps, [*replies, refusal, refusal, OK], hooks, **options)
    assert "<evil@x.example>" not in ran.recorder.named("mail")
    run(scenario.repeat_on_the_wire(ran))


@pytest.mark.row("BDAT-03")
def test_a_chunk_without_mail_leaves_the_state_as_it_is() -> None:
    check(
        chunk(b"abc") + chunk(b"abc", True) + TX + chunk(b"x", True),
        [SEQUENCE] * 2 + [*MAILED, ACCEPTED],
    )


ENDS = {
    "LAST": (chunk(b"abc", True), None),
    "RSET": (RSET, OK),
    "EHLO": (EH, "250"),
    "HELO": (b"HELO c\r\n", "250"),
}


@pytest.mark.row("BDAT-03")
@pytest.mark.parametrize("end", ENDS)
@pytest.mark.parametrize("case", ["no RCPT", "RCPT refused", "over size", "after a failure"])
def test_a_failed_transaction_stays_so_until_last_rset_or_a_greeting(case: str, end: str) -> None:
    before, replies, refusal, options = REFUSED[case]
    hooks = Script(rcpt=lambda address, session: REFUSAL if "b@" in address.raw else None)
    octets, answer = ENDS[end]
    if case in ("over size", "after a failure"):
        hooks = Script()
    commands = RECIPIENT + b"DATA\r\n"
    wrong = [SEQUENCE] * 3
    steps: list[Step] = [before + chunk(b"x" * 30), commands, SENDER + NOOP + octets]
    fresh = [SENDER + b"RCPT TO:<c@y.example>\r\n" + chunk(b"y", True)]
    expected = [*replies, refusal, *wrong, OK, answer or refusal]
    if end == "HELO":  # there is no BDAT after it
        fresh, rest = [SENDER], ["250 2.1.0"]
    else:
        rest = [*MAILED, ACCEPTED]
    check([*steps, *fresh], [*expected, *rest], hooks, **options)


REFUSAL = SMTPError("", 550)


@pytest.mark.row("BDAT-04")
def test_chunks_may_be_cut_everywhere(run: Run) -> None:
    stream = (
        TX + chunk(b"a\r\n.\r") + chunk(b"\nb") + chunk(b"", True) + TX + chunk(b"z", True) + NOOP
    )
    ran = check(stream, [*MAILED, OK, OK, ACCEPTED, *MAILED, ACCEPTED, OK])
    assert bodies(ran) == [b"a\r\n.\r\nb", b"z"]
    for cut in range(1, len(stream)):
        other = one_way([EH, stream], cut=lambda octets, at=cut: [octets[:at], octets[at:]])  # type: ignore[misc]
        assert (other.codes, other.messages) == (ran.codes, ran.messages)
    run(scenario.repeat_on_the_wire(ran))


@pytest.mark.row("BDAT-05")
def test_a_chunk_has_exactly_the_octets_that_it_announces(run: Run) -> None:
    ran = check(TX + b"BDAT 10\r\nhello" + RSET + NOOP, [*MAILED, OK, "500 5.5.2"])
    assert bodies(ran) == [b"helloRSET\r"]
    assert reasons(ran) == ["disconnected"]
    run(scenario.repeat_on_the_wire(ran))


# --- order ---


@pytest.mark.row("BDAT-06")
def test_a_transaction_takes_only_chunks_after_its_first_one() -> None:
    steps: list[Step] = [TX + chunk(b"a") + SENDER + RECIPIENT + b"DATA\r\n", NOOP + b"VRFY x\r\n"]
    ran = check(
        [*steps, chunk(b"b", True)],
        [*MAILED, OK, *[SEQUENCE] * 3, OK, "252 2.0.0", ACCEPTED],
    )
    assert bodies(ran) == [b"ab"]


@pytest.mark.row("BDAT-06")
@pytest.mark.parametrize("end", ["RSET", "EHLO", "HELO"])
def test_rset_or_a_greeting_aborts_the_message(end: str, run: Run) -> None:
    octets, answer = ENDS[end]
    ran = check([TX + chunk(b"ab") + octets, TX], [*MAILED, OK, str(answer), *MAILED])
    assert bodies(ran) == [b"ab"]
    assert reasons(ran) == ["reset"]
    run(scenario.repeat_on_the_wire(ran))


@pytest.mark.row("BDAT-06")
def test_quit_aborts_the_message() -> None:
    ran = check(TX + chunk(b"ab") + b"QUIT\r\n", [*MAILED, OK, "221 2.0.0"])
    assert reasons(ran) == ["disconnected"]


@pytest.mark.row("BDAT-06")
def test_a_chunk_after_last_belongs_to_no_transaction() -> None:
    octets = b"RSET\r\nNOOP\r\n"
    steps = TX + chunk(b"ab", True) + chunk(octets) + NOOP
    ran = check(steps, [*MAILED, ACCEPTED, SEQUENCE, OK])
    assert bodies(ran) == [b"ab"]


@pytest.mark.row("BDAT-07")
def test_a_binary_message_cannot_be_sent_by_data() -> None:
    steps: list[Step] = [BINARY + b"DATA\r\n", chunk(b"\0\r\n", True)]
    ran = check(steps, [*MAILED, SEQUENCE, ACCEPTED], hide_binarymime=False)
    assert bodies(ran) == [b"\0\r\n"]


@pytest.mark.row("BDAT-09")
def test_data_after_a_failed_last_chunk_has_no_transaction() -> None:
    steps: list[Step] = [TX + chunk(b"abcdef", True) + b"DATA\r\n", TX + b"DATA\r\n", b"x\r\n.\r\n"]
    check(steps, [*MAILED, TOO_LARGE, SEQUENCE, *MAILED, "354", ACCEPTED], size=5)
    rejected = check(steps[:1], [*MAILED, "554 5.6.0", SEQUENCE], Script(data=SMTPError("", 554)))
    assert bodies(rejected) == [b"abcdef"]


@pytest.mark.row("BDAT-08")
def test_chunks_after_a_failed_one_get_its_reply_again() -> None:
    chunks = chunk(b"a" * 9) + chunk(b"b" * 9) + chunk(b"") + chunk(b"c" * 3, True)
    steps: list[Step] = [TX + chunks + TX + chunk(b"d", True)]
    ran = check(steps, [*MAILED, *[TOO_LARGE] * 4, *MAILED, ACCEPTED], size=8)
    assert bodies(ran) == [b"a" * 8, b"d"]
    assert ran.messages[0].size_exceeded
    own = check(TX + chunks + NOOP, [*MAILED, *["554 5.6.0"] * 4, OK], REJECT, size=8)
    assert own.messages == []
    summed = TX + chunk(b"a" * 5) + chunk(b"b" * 5) + RSET + TX + chunk(b"c" * 5, True)
    check(summed, [*MAILED, OK, TOO_LARGE, OK, *MAILED, ACCEPTED], size=8)


@pytest.mark.row("BDAT-08")
def test_a_rejection_at_the_first_chunk_is_the_reply_to_the_last_one(run: Run) -> None:
    chunks = chunk(b"a") + chunk(b"b") + chunk(b"c", True)
    ran = check(TX + chunks + NOOP, [*MAILED, OK, OK, "554 5.6.0", OK], REJECT)
    run(scenario.repeat_on_the_wire(ran))


@pytest.mark.row("BDAT-09")
def test_an_empty_chunk_without_last_is_a_junk_command() -> None:
    empty = b"BDAT 0\r\n" * 3
    check(TX + empty, [*MAILED, OK, OK, "421 4.7.0"], max_junk_commands=4)  # EHLO was the first
    steps = TX + chunk(b"x" * 32, True) + TX + empty + NOOP
    expected = [*MAILED, ACCEPTED, *MAILED, OK, OK, OK, "421 4.7.0"]
    check(steps, expected, max_junk_commands=4)


# --- octets ---


@pytest.mark.row("BDAT-10")
@pytest.mark.parametrize("policy", ["reject", "accept", "normalize"])
def test_dots_mean_nothing_in_a_chunk(policy: str) -> None:
    octets = b".a\r\n..\r\n.\r\n\r\n.\r\nb\r\n"
    for cut in range(len(octets)):
        steps = TX + chunk(octets[:cut]) + chunk(octets[cut:], True)
        ran = check(steps, [*MAILED, OK, ACCEPTED], bare_newline=policy)
        assert bodies(ran) == [octets]


@pytest.mark.row("BDAT-11")
@pytest.mark.parametrize("policy", ["reject", "accept", "normalize"])
def test_a_line_end_may_stand_in_two_chunks(policy: str, run: Run) -> None:
    steps = TX + chunk(b"a\r") + chunk(b"") + chunk(b"\nb\r") + chunk(b"\nlast", True)
    ran = check(steps, [*MAILED, OK, OK, OK, ACCEPTED], bare_newline=policy)
    (message,) = ran.messages
    assert message.body == b"a\r\nb\r\nlast"
    assert message.bare_newline is False
    assert message.longest_line == 4
    run(scenario.repeat_on_the_wire(ran))


@pytest.mark.row("BDAT-11")
@pytest.mark.parametrize(
    "policy, verdict, body",
    [("reject", "550 5.5.2", b"a\r"), ("accept", ACCEPTED, b"a\r"), ("normalize", ACCEPTED, b"a ")],
)
def test_a_cr_at_the_very_end_is_a_bare_one(policy: str, verdict: str, body: bytes) -> None:
    for steps in (TX + chunk(b"a\r", True), TX + chunk(b"a\r") + chunk(b"", True)):
        replies = [OK] * (steps.count(b"BDAT") - 1)
        ran = check(steps, [*MAILED, *replies, verdict], bare_newline=policy)
        assert bodies(ran) == [body]
        assert reasons(ran) == ["bare_newline" if policy == "reject" else None]


# --- where there is no BDAT ---


@pytest.mark.row("BDAT-12")
def test_a_disabled_bdat_is_an_unknown_verb_and_closes() -> None:
    check(b"BDAT 5\r\nhello" + NOOP, ["500 5.5.2"], disabled_commands=["BDAT"])
    check(TX + b"BDAT 5\r\nNOOP\r\n", [*MAILED, "500 5.5.2"], disabled_commands=["bdat"])


@pytest.mark.row("BDAT-12")
@pytest.mark.parametrize("before, replies", [(b"", []), (TX, MAILED)], ids=["greeted", "RCPT"])
def test_a_hidden_bdat_is_not_implemented_but_its_octets_are_dropped(
    before: bytes, replies: list[str], run: Run
) -> None:
    steps = before + chunk(RSET) + chunk(RSET, True) + NOOP
    refused = [*replies, "502 5.5.1", "502 5.5.1", OK]
    hidden = check(
        [steps, before + b"RSET\r\n"], [*refused, *NESTED[bool(before)], OK], hide_chunking=True
    )
    assert hidden.messages == []
    after_helo = every_cut([b"HELO c\r\n", steps])
    assert after_helo.codes == ["220", "250", *refused]
    check(
        [b"HELO c\r\n", steps, EH, TX + chunk(b"a", True)],
        ["250", *refused, "250", *MAILED, ACCEPTED],
    )
    run(scenario.repeat_on_the_wire(hidden))
    run(scenario.repeat_on_the_wire(after_helo))


NESTED = {False: [], True: [SEQUENCE, "250 2.1.5"]}  # the transaction is still open


# --- bodies that never end, consumers that never read ---


@pytest.mark.row("BDAT-13")
@pytest.mark.parametrize("end, reason", [(FIN, "disconnected"), (RST, "disconnected")])
@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize("before", [b"", chunk(b"one\r\n")], ids=["first", "second"])
def test_a_chunk_that_is_cut_off_is_never_complete(
    before: bytes, last: bool, end: Step, reason: str, run: Run
) -> None:
    steps: list[Step] = [TX + before + chunk(b"two\r\nthree", last)[:-1], end]
    ran = check(steps, [*MAILED, *([OK] if before else [])])
    assert bodies(ran) == [b"one\r\ntwo\r\nthre"[0 if before else 5 :]]
    assert reasons(ran) == [reason]
    run(scenario.repeat_on_the_wire(ran))


@pytest.mark.row("BDAT-13")
def test_silence_within_a_chunk_ends_at_the_timeout_of_bodies() -> None:
    steps: list[Step] = [TX + b"BDAT 10 LAST\r\nhello", pause(179), pause(2)]
    ran = check(steps, [*MAILED, "421 4.4.2"])
    assert ran.written[3] == b""
    assert reasons(ran) == ["timeout"]


@pytest.mark.row("BDAT-13")
def test_silence_between_chunks_ends_at_the_timeout_of_commands() -> None:
    ran = check([TX + chunk(b"hello"), pause(299), pause(2)], [*MAILED, OK, "421 4.4.2"])
    assert ran.written[3] == b""
    assert reasons(ran) == ["timeout"]


@pytest.mark.row("BDAT-14")
@pytest.mark.parametrize("size", [0, 2_000_000_000])
def test_a_huge_chunk_is_read_only_as_far_as_the_hook_does(size: int) -> None:
    streams: list[Any] = []

    def on_data(stream: Any, session: Any, callback: Callable[..., object]) -> None:
        streams.append((stream, callback))

    with Conversation(on_data=on_data, size=size) as session:
        session.do(EH, TX)
        segment = b"x" * 20_000
        tracemalloc.start()
        try:
            session.do(b"BDAT 1000000000\r\n")
            _, peak = tracemalloc.get_traced_memory()
            assert peak < 64 * 1024
        finally:
            tracemalloc.stop()
        sent = 0
        while session.wire.transport.is_reading():
            session.wire.send(segment)
            sent += len(segment)
            assert sent <= 64 * 1024 + len(segment)
        assert sent > 64 * 1024
        stream, callback = streams[0]
        assert session.do(pause(239)) == []  # time stands still for the body, not for the hook
        taken: list[bytes] = []
        session.do(lambda one: one.wire.loop.step(lambda: stream.consume(taken.append, callback)))
        assert sum(map(len, taken)) == sent
        assert session.wire.transport.is_reading()
        session.wire.send(segment)
        assert sum(map(len, taken)) == sent + len(segment)
