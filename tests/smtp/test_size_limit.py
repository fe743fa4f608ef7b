"""The size of messages, rows SIZE: declared, real, at the limit, beyond all bounds. RFC 1870."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import scenario
from conftest import Run
from scenario import EH, MAILED, PRE, PREPARED, TX, Conversation, Script, every_cut, one_way

from fastsmtp import SMTPError

LIMIT = 26_214_400
MIB = 1024 * 1024
DROPPED = (
    10_485_760  # octets beyond `size` that are dropped before the connection is, for a small `size`
)
OK, ACCEPTED, TOO_LARGE, TOO_MUCH, BAD = (
    "250 2.0.0",
    "250 2.6.0",
    "552 5.3.4",
    "421 4.7.0",
    "501 5.5.4",
)


@pytest.mark.row("SIZE-01")
@pytest.mark.parametrize(
    "value, expected",
    [
        (f"={LIMIT}", "250 2.1.0"),
        (f"={LIMIT + 1}", TOO_LARGE),
        ("=0", "250 2.1.0"),
        ("=00001", "250 2.1.0"),
        (f"={LIMIT:020}", "250 2.1.0"),
        (f"={LIMIT + 1:020}", TOO_LARGE),
        ("=-1", BAD),
        ("=+1", BAD),
        ("=1e3", BAD),
        ("=0x10", BAD),
        ("=1_0", BAD),
        ("=\u0665", BAD),
        ("=", BAD),
        ("", BAD),
        ("=" + "9" * 20, TOO_LARGE),
        ("=" + str(2**64), TOO_LARGE),
        ("=" + "9" * 21, BAD),
        ("=" + "0" * 21, BAD),
    ],
)
def test_a_declared_size_is_digits_within_the_limit(value: str, expected: str, run: Run) -> None:
    lines = f"MAIL FROM:<a@x.example> SIZE{value}\r\nRCPT TO:<b@y.example>\r\n".encode()
    ran = every_cut([EH, lines])
    good = expected.startswith("250")
    assert ran.codes == ["220", "250", expected, "250 2.1.5" if good else "503 5.5.1"]
    assert len(ran.recorder.named("mail")) == good
    run(scenario.repeat_on_the_wire(ran))


@pytest.mark.row("SIZE-01")
@pytest.mark.parametrize("options", [{"size": 0}, {"size": None}, {"size": 10, "hide_size": True}])
def test_any_declared_size_is_accepted_when_there_is_no_limit_to_show(
    options: dict[str, Any],
) -> None:
    ran = every_cut([EH, b"MAIL FROM:<a@x.example> SIZE=99999999999999999999\r\n"], **options)
    assert ran.codes == ["220", "250", "250 2.1.0"]
    assert ran.replies[1].lines[-2] == "SIZE"


@pytest.mark.row("SIZE-02")
def test_a_declared_size_is_only_a_hint() -> None:
    lines = TX.replace(b"<a@x.example>", b"<a@x.example> SIZE=10")
    body = (b"x" * 78 + b"\r\n") * 65536
    ran = one_way([EH, lines + b"DATA\r\n", body + b".\r\n"], cut=scenario.random_cuts)
    assert ran.codes == [*PREPARED, ACCEPTED]
    (message,) = ran.messages
    assert len(message.body) == 5 * MIB
    assert message.body == body


LINES = b"..one\r\n..two\r\nthree\r\n"  # 19 octets without the dots that are stuffed
BODY = b".one\r\n.two\r\nthree\r\n"
ANSWERS = {
    "accepts": (Script(), TOO_LARGE),
    "answers a text": (Script(data="fine"), TOO_LARGE),
    "accepts without reading": (Script(read=False), TOO_LARGE),
    "rejects": (Script(data=SMTPError("", 554)), "554 5.6.0"),
    "rejects without reading": (Script(data=SMTPError("", 554), read=False), "554 5.6.0"),
    "rejects by default": (Script(data=SMTPError("")), "450 4.7.1"),
    "fails": (Script(data=RuntimeError("a hook that fails")), TOO_LARGE),
    "answers nonsense": (Script(data=7), TOO_LARGE),
}


@pytest.mark.row("SIZE-03")
@pytest.mark.parametrize("answer", ANSWERS)
@pytest.mark.parametrize("size", [1, 5, 18])
def test_one_octet_too_many_is_refused_at_the_true_end(answer: str, size: int) -> None:
    hooks, expected = ANSWERS[answer]
    lines = TX.replace(b"<a@x.example>", b"<a@x.example> SIZE=1")
    ran = every_cut([EH, lines + b"DATA\r\n", LINES, b".\r\nNOOP\r\n"], hooks, size=size)
    assert ran.codes == [*PREPARED, expected, OK]
    assert ran.written[3] == b""
    if hooks.read:
        (message,) = ran.messages
        assert message.body == BODY[:size]
        assert message.size_exceeded
        assert message.reason is None


@pytest.mark.row("SIZE-03")
def test_an_answer_over_size_is_the_same_over_sockets(run: Run) -> None:
    for hooks, expected in ANSWERS.values():
        ran = one_way([*PRE, LINES + b".\r\nNOOP\r\n"], hooks, size=18)
        assert ran.codes == [*PREPARED, expected, OK]
        run(scenario.repeat_on_the_wire(ran))


@pytest.mark.row("SIZE-04")
@pytest.mark.parametrize("lines", [0, 1, 7, 100])
@pytest.mark.parametrize("policy", ["reject", "accept", "normalize"])
def test_the_limit_counts_octets_without_stuffing_and_without_the_end(
    lines: int, policy: str, run: Run
) -> None:
    wire, body = b"..x\r\n" * lines + b"y\r\n", b".x\r\n" * lines + b"y\r\n"
    options = {"size": len(body), "bare_newline": policy}
    ran = every_cut([*PRE, wire + b".\r\nNOOP\r\n"], **options)
    assert ran.codes == [*PREPARED, ACCEPTED, OK]
    assert [message.body for message in ran.messages] == [body]
    for more in (b"z" + wire, wire + b"\r\n", wire[:-2] + b"z\r\n"):
        beyond = every_cut([*PRE, more + b".\r\nNOOP\r\n"], **options)
        assert beyond.codes == [*PREPARED, TOO_LARGE, OK]
        assert [len(message.body) for message in beyond.messages] == [len(body)]
    run(scenario.repeat_on_the_wire(ran))


@pytest.mark.row("SIZE-04")
def test_the_limit_counts_before_line_ends_are_normalized() -> None:
    wire = b"a\nb\nc\rd\r\n"
    ran = every_cut([*PRE, wire + b".\r\n"], bare_newline="normalize", size=len(wire))
    assert ran.codes == [*PREPARED, ACCEPTED]
    assert [message.body for message in ran.messages] == [b"a\r\nb\r\nc d\r\n"]
    beyond = every_cut([*PRE, wire + b".\r\n"], bare_newline="normalize", size=len(wire) - 1)
    assert beyond.codes == [*PREPARED, TOO_LARGE]


@pytest.mark.row("SIZE-04")
def test_a_message_at_the_limit_goes_in_chunks_too() -> None:
    chunks = b"BDAT 6\r\n.one\r\nBDAT 13 LAST\r\n.two\r\nthree\r\nNOOP\r\n"
    ran = every_cut([EH, TX + chunks], size=19)
    assert ran.codes == ["220", "250", *MAILED, OK, ACCEPTED, OK]
    beyond = every_cut([EH, TX + chunks], size=18)
    assert beyond.codes == ["220", "250", *MAILED, OK, TOO_LARGE, OK]
    (message,) = beyond.messages
    assert message.body == BODY[:18]
    assert message.size_exceeded


# --- what is dropped, and for how long ---


def flood(session: Conversation, octets: int) -> bytes:
    """Send so many octets of body."""
    segment = b"x" * 100_000
    answers = [session.wire.send(segment) for _ in range(octets // len(segment))]
    return b"".join([*answers, session.wire.send(segment[: octets % len(segment)])])


@pytest.mark.row("SIZE-05")
@pytest.mark.parametrize("read", [True, False], ids=["reads", "has answered"])
@pytest.mark.parametrize("data", [None, SMTPError("", 554)], ids=["accepts", "rejects"])
def test_octets_beyond_the_bound_close_the_connection(read: bool, data: Any) -> None:
    size = 1000
    with Conversation(Script(data=data, read=read), size=size) as session:
        session.do(*PRE)
        assert flood(session, size + DROPPED - 2) == b""
        assert session.do(b"\r\n.\r\n") == ["554 5.6.0" if data else TOO_LARGE]
        session.do(TX + b"DATA\r\n")
        assert flood(session, size + DROPPED) == b""
        assert session.do(b"xx") == [TOO_MUCH]
        assert session.closed
        assert flood(session, 1_000_000) == b""


@pytest.mark.row("SIZE-05")
def test_a_message_of_any_size_is_accepted_without_a_limit() -> None:
    lengths: list[int] = []

    def on_data(stream: Any, session: Any, callback: Callable[..., object]) -> None:
        def on_end(error: Exception | None) -> None:
            lengths.append(stream.byte_length)
            callback(error)

        stream.consume(lambda piece: None, on_end)

    with Conversation(on_data=on_data, size=0) as session:
        session.do(*PRE)
        assert flood(session, 60 * MIB) == b""
        assert session.do(b"\r\n.\r\n") == [ACCEPTED]
    assert lengths == [60 * MIB + 2]


@pytest.mark.row("SIZE-05")
@pytest.mark.nightly
def test_a_hundred_gigabytes_are_dropped_and_the_connection_at_twice_the_size() -> None:
    with Conversation(Script(read=False), size=50 * 1024 * MIB) as session:
        session.do(*PRE)
        segment = b"x" * 256_000
        for _ in range(100 * 1024 * MIB // len(segment)):
            assert session.wire.send(segment) == b""
        assert session.do(segment) == [TOO_MUCH]


@pytest.mark.row("SIZE-05")
def test_octets_of_refused_chunks_are_counted_since_mail() -> None:
    size, chunk = 1000, 5_000_000
    octets = b"x" * chunk
    command = b"BDAT %d\r\n" % chunk
    with Conversation(Script(rcpt=SMTPError("", 550)), size=size) as session:
        session.do(EH)
        for _ in range(2):  # RSET does not take back what was sent, the next MAIL does
            assert session.do(TX) == ["250 2.1.0", "550 5.1.1"]
            assert session.do(command + octets, command + octets) == ["503 5.5.1"] * 2
            assert session.do(b"RSET\r\n") == [OK]
        assert session.do(TX) == ["250 2.1.0", "550 5.1.1"]
        session.do(command + octets, command + octets)
        left = size + DROPPED - 2 * chunk
        assert session.do(b"BDAT %d\r\n" % left + octets[:left]) == ["503 5.5.1"]
        codes = session.do(b"BDAT 1\r\nx")
        assert codes == [TOO_MUCH]
        assert session.closed


@pytest.mark.row("SIZE-06")
def test_a_sender_refused_for_lack_of_space_leaves_no_transaction(run: Run) -> None:
    ran = every_cut([EH, TX + b"DATA\r\n"], Script(mail=SMTPError("no room", 452)))
    assert ran.codes == ["220", "250", "452 4.3.1", "503 5.5.1", "503 5.5.1"]
    run(scenario.repeat_on_the_wire(ran))
