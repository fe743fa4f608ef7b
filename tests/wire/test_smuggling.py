"""SMTP smuggling, rows SMUG: only CR LF `.` CR LF ends mail data, only CR LF a command line.

RFC 5321 §2.3.8, §4.1.1.4, §4.5.2; RFC 3030 §2.
"""

from __future__ import annotations

import re
from typing import Any, NamedTuple

import pytest
import reference
import scenario
from clients import stuffed
from conftest import Run
from scenario import EH, MAILED, PRE, PREPARED, SMUG, TX, Script, every_cut, one_way

from fastsmtp import SMTPError

POLICIES = pytest.mark.parametrize("policy", ["reject", "accept", "normalize"])
ACCEPTED, BARE = "250 2.6.0", "550 5.5.2"


class Attempt(NamedTuple):
    """A would-be end after `a`: the body up to there under "accept", what "reject" says."""

    octets: bytes
    body: bytes
    verdict: str
    has_nul: bool = False


# V that is no end of data.
FALSE_ENDS = {
    "SMUG-02": Attempt(b"\n.\n", b"a\n.\n", BARE),
    "SMUG-03": Attempt(b"\n.\r\n", b"a\n.\r\n", BARE),
    "SMUG-04": Attempt(b"\r\n.\n", b"a\r\n\n", BARE),
    "SMUG-05": Attempt(b"\r.\r", b"a\r.\r", BARE),
    "SMUG-06": Attempt(b"\r.\n", b"a\r.\n", BARE),
    "SMUG-07": Attempt(b"\n.\r", b"a\n.\r", BARE),
    "SMUG-08": Attempt(b"\r.\r\n", b"a\r.\r\n", BARE),
    "SMUG-09": Attempt(b"\r\n.\r", b"a\r\n\r", BARE),
    "SMUG-10": Attempt(b"\r\n.\r\r\n", b"a\r\n\r\r\n", BARE),
    "SMUG-11": Attempt(b"\r\r\n.\r\r\n", b"a\r\r\n\r\r\n", BARE),
    "SMUG-13": Attempt(b"\r\n\x00.\r\n", b"a\r\n\0.\r\n", ACCEPTED, True),
    "SMUG-14": Attempt(b"\r\n.\x00\r\n", b"a\r\n\0\r\n", ACCEPTED, True),
    "SMUG-16 space": Attempt(b"\r\n. \r\n", b"a\r\n \r\n", ACCEPTED),
    "SMUG-16 tab": Attempt(b"\r\n.\t\r\n", b"a\r\n\t\r\n", ACCEPTED),
    "SMUG-16 before": Attempt(b"\r\n .\r\n", b"a\r\n .\r\n", ACCEPTED),
    "SMUG-17 nul": Attempt(b"\r\x00\n.\r\x00\n", b"a\r\x00\n.\r\x00\n", BARE, True),
    "SMUG-17 vt": Attempt(b"\x0b.\x0b", b"a\x0b.\x0b", ACCEPTED),
    "SMUG-17 ff": Attempt(b"\x0c.\x0c", b"a\x0c.\x0c", ACCEPTED),
    "SMUG-17 nel": Attempt(b"\x85.\x85", b"a\x85.\x85", ACCEPTED),
    "SMUG-17 ls": Attempt(b"\xe2\x80\xa8.\xe2\x80\xa8", b"a\xe2\x80\xa8.\xe2\x80\xa8", ACCEPTED),
}
# V that is one.
TRUE_ENDS = {
    "SMUG-01": Attempt(b"\r\n.\r\n", b"a\r\n", ACCEPTED),
    "SMUG-12": Attempt(b"\r\r\n.\r\n", b"a\r\r\n", BARE),
    "SMUG-15": Attempt(b"\x00\r\n.\r\n", b"a\0\r\n", ACCEPTED, True),
    "SMUG-18": Attempt(b"\r\n\r\n.\r\n", b"a\r\n\r\n", ACCEPTED),
}


def rows_of(attempts: dict[str, Attempt]) -> Any:
    """One parameter set per attempt, marked by its row."""
    return pytest.mark.parametrize(
        "attempt",
        [
            pytest.param(attempt, id=name, marks=pytest.mark.row(name[:7]))
            for name, attempt in attempts.items()
        ],
    )


def delivered(body: bytes, policy: str) -> bytes:
    """What the consumer sees of `body`."""
    if policy != "normalize":
        return body
    return re.sub(rb"\r\n|\n|\r", lambda end: b" " if end[0] == b"\r" else b"\r\n", body)


def is_bare(body: bytes) -> bool:
    return re.sub(rb"\r\n", b"", body) != re.sub(rb"[\r\n]", b"", body)


def assert_one_message(
    message: scenario.ReceivedMessage, body: bytes, policy: str, attempt: Attempt
) -> None:
    """The consumer saw `body` as the policy shows it, whole unless the policy refuses it."""
    assert message.body == delivered(body, policy)
    assert message.recipients == ("<b@y.example>",)
    if policy == "reject" and attempt.verdict == BARE:
        assert message.reason == "bare_newline"
    else:
        assert message.reason is None
        assert message.bare_newline is is_bare(body)
        assert message.has_nul is attempt.has_nul


@POLICIES
@rows_of(FALSE_ENDS)
def test_a_false_end_of_data_and_all_after_it_is_text(attempt: Attempt, policy: str) -> None:
    wire = b"a" + attempt.octets + SMUG
    ran = every_cut([*PRE, wire], bare_newline=policy)
    assert ran.codes == [*PREPARED, attempt.verdict if policy == "reject" else ACCEPTED]
    assert ran.recorder.named("mail") == ["<a@x.example>"]
    assert ran.recorder.named("rcpt") == ["<b@y.example>"]
    body = attempt.body + SMUG.removesuffix(b".\r\n")
    ended = reference.end_of_data(wire)
    assert ended is not None
    assert ended[:2] == (body, b"")
    assert len(ran.messages) == 1
    assert_one_message(ran.messages[0], body, policy, attempt)


@POLICIES
@rows_of(TRUE_ENDS)
def test_an_end_of_data_is_found_wherever_the_segments_are_cut(
    attempt: Attempt, policy: str
) -> None:
    verdict = attempt.verdict if policy == "reject" else ACCEPTED
    steps = [*PRE, b"a" + attempt.octets + SMUG]
    ran = every_cut(steps, bare_newline=policy, strict_pipelining=False)
    assert ran.codes == [*PREPARED, verdict, *MAILED, "354", ACCEPTED]
    assert ran.recorder.named("mail") == ["<a@x.example>", "<evil@x.example>"]
    first, second = ran.messages
    assert_one_message(first, attempt.body, policy, attempt)
    assert second.body == b"smuggled\r\n"
    assert second.recipients == ("<victim@y.example>",)

    strict = one_way(steps, bare_newline=policy)
    assert strict.codes == [*PREPARED, verdict, *MAILED, "554 5.5.0"]
    assert len(strict.messages) == 1


@POLICIES
@pytest.mark.row(*sorted({name[:7] for name in [*FALSE_ENDS, *TRUE_ENDS]}))
def test_the_ends_over_sockets_are_the_same(policy: str, run: Run) -> None:
    options = {"bare_newline": policy, "strict_pipelining": False}
    for attempt in [*FALSE_ENDS.values(), *TRUE_ENDS.values()]:
        ran = one_way([*PRE, b"a" + attempt.octets + SMUG], **options)
        run(scenario.repeat_on_the_wire(ran))


@pytest.mark.parametrize(
    "wire, body",
    [
        pytest.param(b".\r\n", b"", id="SMUG-19 no line"),
        pytest.param(b"\r\n.\r\n", b"\r\n", id="SMUG-19 an empty line"),
        pytest.param(b"..\r\nhello\r\n.\r\n", b".\r\nhello\r\n", id="SMUG-20 SMUG-21"),
        pytest.param(b"...\r\nz\r\n.\r\n", b"..\r\nz\r\n", id="SMUG-22"),
        pytest.param(b"\r\n.foo\r\n.\r\n", b"\r\nfoo\r\n", id="SMUG-23 second line"),
        pytest.param(b".foo\r\n.\r\n", b"foo\r\n", id="SMUG-23 first line"),
        pytest.param(b"x\n..x\r\n.\r\n", b"x\n..x\r\n", id="SMUG-24"),
        pytest.param(b"\r\n.\rX\r\n.\r\n", b"\r\n\rX\r\n", id="SMUG-25"),
    ],
)
@pytest.mark.row("SMUG-19", "SMUG-20", "SMUG-21", "SMUG-22", "SMUG-23", "SMUG-24", "SMUG-25")
def test_one_leading_dot_goes_and_no_more_at_every_cut(wire: bytes, body: bytes) -> None:
    for cut in range(len(wire) + 1):
        ran = one_way([*PRE, wire[:cut], wire[cut:] + b"NOOP\r\n"], bare_newline="accept")
        assert ran.codes == [*PREPARED, ACCEPTED, "250 2.0.0"]
        assert [message.body for message in ran.messages] == [body]
    ran = every_cut([*PRE, wire], bare_newline="accept")
    assert [message.body for message in ran.messages] == [body]


@pytest.mark.row("SMUG-26")
@pytest.mark.parametrize("name", FALSE_ENDS)
def test_a_body_beyond_size_ends_no_sooner_and_is_refused_once(name: str) -> None:
    text = b"0123456789" * 10
    wire = text + FALSE_ENDS[name].octets + SMUG
    ran = every_cut([*PRE, wire + b"NOOP\r\n"], size=50)
    assert ran.codes == [*PREPARED, "552 5.3.4", "250 2.0.0"]
    assert ran.recorder.named("mail") == ["<a@x.example>"]
    (message,) = ran.messages
    assert message.body == text[:50]
    assert message.size_exceeded
    assert message.reason is None


@pytest.mark.row("SMUG-27")
@pytest.mark.parametrize("name", FALSE_ENDS)
def test_a_hook_that_rejected_before_it_had_read_is_quoted_once_at_the_true_end(name: str) -> None:
    hooks = Script(data=SMTPError(response_code=554), read=False)
    wire = b"a" + FALSE_ENDS[name].octets + SMUG
    ran = every_cut([*PRE, wire[:-3], b".\r\nNOOP\r\n"], hooks)
    assert ran.written[3] == b""
    assert ran.codes == [*PREPARED, "554 5.6.0", "250 2.0.0"]
    assert ran.recorder.named("mail") == ["<a@x.example>"]


REFUSED = Script(rcpt=SMTPError(response_code=550))
TEXT = b"NOOP\r\nhello\r\n.\r\n"


@pytest.mark.row("SMUG-28")
def test_a_body_right_after_a_data_without_recipients_is_not_executed(run: Run) -> None:
    ran = one_way([EH, TX + b"DATA\r\n" + TEXT], REFUSED)
    assert ran.codes == ["220", "250", "250 2.1.0", "550 5.1.1", "554 5.5.0"]
    run(scenario.repeat_on_the_wire(ran))


@pytest.mark.row("SMUG-28")
@pytest.mark.parametrize(
    "steps, options",
    [
        ([EH, TX + b"DATA\r\n" + TEXT], {"strict_pipelining": False}),
        ([EH, TX + b"DATA\r\n", TEXT], {}),
    ],
    ids=["not strict", "after our reply"],
)
def test_a_body_after_a_refused_data_is_commands_each_with_its_reply(
    steps: list[scenario.Step], options: dict[str, Any]
) -> None:
    ran = every_cut(steps, REFUSED, **options)
    refused = ["250 2.1.0", "550 5.1.1", "503 5.5.1"]
    assert ran.codes == ["220", "250", *refused, "250 2.0.0", "500 5.5.2", "500 5.5.2"]


@pytest.mark.row("SMUG-29")
@POLICIES
@pytest.mark.parametrize("excluded", [[], ["127.0.0.0/8"]], ids=["not excluded", "excluded"])
def test_a_bare_lf_in_a_command_closes_and_nothing_is_executed(
    policy: str, excluded: list[str], run: Run
) -> None:
    options = {"bare_newline": policy, "bare_newline_exclusions": excluded}
    ran = every_cut([EH, b"NOOP\nMAIL FROM:<evil@x.example>\r\n"], **options)
    assert ran.codes == ["220", "250", "500 5.5.2"]
    assert ran.recorder.named("mail") == []
    run(scenario.repeat_on_the_wire(ran))


LISTED: dict[str, Any] = {"allow_bare_lf_commands": ["127.0.0.0/8"]}
WITH_LF = [step.replace(b"\r\n", b"\n") for step in PRE]


@rows_of(FALSE_ENDS)
@POLICIES
def test_a_false_end_of_data_is_text_for_a_client_whose_commands_end_with_lf_too(
    attempt: Attempt, policy: str
) -> None:
    wire = b"a" + attempt.octets + SMUG
    ran = every_cut([*WITH_LF, wire], **LISTED, bare_newline=policy)
    assert ran.codes == [*PREPARED, attempt.verdict if policy == "reject" else ACCEPTED]
    assert ran.recorder.named("mail") == ["<a@x.example>"]
    (message,) = ran.messages
    assert message.body == delivered(attempt.body + SMUG.removesuffix(b".\r\n"), policy)


@rows_of(TRUE_ENDS)
def test_an_end_is_the_same_for_a_client_whose_commands_end_with_lf(attempt: Attempt) -> None:
    wire = b"a" + attempt.octets + b"NOOP\nRSET\n"
    ran = every_cut([*WITH_LF, wire], **LISTED, bare_newline="accept")
    assert ran.codes == [*PREPARED, ACCEPTED, "250 2.0.0", "250 2.0.0"]
    assert ran.messages[0].body == attempt.body


@pytest.mark.row("SMUG-30")
@POLICIES
def test_a_bare_cr_in_a_command_is_refused_and_the_session_stays_in_sync(
    policy: str, run: Run
) -> None:
    line = b"RCPT TO:<b@y.example>\rRCPT TO:<c@y.example>\r\n"
    ran = every_cut([EH, TX + line + b"NOOP\r\n"], bare_newline=policy)
    assert ran.codes == ["220", "250", *MAILED, "500 5.5.2", "250 2.0.0"]
    assert ran.recorder.named("rcpt") == ["<b@y.example>"]
    run(scenario.repeat_on_the_wire(ran))


CHUNKED = b"a\nb\rc\n.\n"


@pytest.mark.row("SMUG-31")
@POLICIES
def test_bare_newlines_in_chunks_of_text_are_refused_at_the_last_chunk(
    policy: str, run: Run
) -> None:
    chunks = b"BDAT 4\r\na\nb\rBDAT 4 LAST\r\nc\n.\n"
    ran = every_cut([EH, TX + chunks], bare_newline=policy)
    verdict = BARE if policy == "reject" else ACCEPTED
    assert ran.codes == ["220", "250", *MAILED, "250 2.0.0", verdict]
    (message,) = ran.messages
    assert message.body == delivered(CHUNKED, policy)
    assert message.reason == ("bare_newline" if policy == "reject" else None)
    run(scenario.repeat_on_the_wire(ran))


@pytest.mark.row("SMUG-31")
@POLICIES
def test_binarymime_is_verbatim_under_every_policy(policy: str) -> None:
    mail = TX.replace(b"<a@x.example>", b"<a@x.example> BODY=BINARYMIME")
    chunks = b"BDAT 4\r\na\nb\rBDAT 4 LAST\r\nc\n.\n"
    ran = every_cut([EH, mail + chunks], bare_newline=policy, hide_binarymime=False)
    assert ran.codes == ["220", "250", *MAILED, "250 2.0.0", ACCEPTED]
    (message,) = ran.messages
    assert message.body == CHUNKED
    assert message.reason is None


@pytest.mark.row("SMUG-32")
def test_a_chunk_that_holds_an_end_of_data_is_data(run: Run) -> None:
    octets = b"..a\r\n.b\r\n.\r\n" + SMUG
    ran = every_cut([EH, TX + b"BDAT %d LAST\r\n" % len(octets) + octets + b"NOOP\r\n"])
    assert ran.codes == ["220", "250", *MAILED, ACCEPTED, "250 2.0.0"]
    assert ran.recorder.named("mail") == ["<a@x.example>"]
    assert [message.body for message in ran.messages] == [octets]
    run(scenario.repeat_on_the_wire(ran))


# --- what we send ---


@pytest.mark.row("SMUG-33")
@pytest.mark.parametrize(
    "body",
    [
        *[b"", b"a\r\n", b"a\r\n.\r\n", b".\r\n", b"..\r\n", b"\r\n.\r\n", b".a\r\n..\r\n.\r\n"],
        *[b"a\r\n.\r\n" + SMUG, b"\r\n\r\n", b"a\0.\x0b.\x85\r\n", b"a\r\n .\r\n. \r\n"],
    ],
)
def test_a_message_sent_by_our_client_is_read_back_as_it_was(body: bytes) -> None:
    sent = stuffed(body)
    assert not re.search(rb"(?<!\r)\n|\r(?!\n)", sent)
    assert b"\r\n.\r\n" not in b"\r\n" + sent
    ran = every_cut([*PRE, sent + b".\r\n"])
    assert ran.codes == [*PREPARED, ACCEPTED]
    assert [message.body for message in ran.messages] == [body]


@pytest.mark.row("SMUG-33")
@pytest.mark.parametrize(
    "body",
    [
        *[b"a\n.\n", b"a\r.\r", b"a\n.\r\n", b"a\r\n.\n", b"a\r.\r\n", b"a\r\n.\r", b"a\r\r\n"],
        *[b"\n", b"\r", b"\n\r\n", b"\r\n\r", b"a", b"a\r\n."],
    ],
)
def test_our_client_refuses_a_message_that_data_cannot_carry(body: bytes) -> None:
    with pytest.raises(ValueError):
        stuffed(body)
