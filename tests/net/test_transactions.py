"""Each message and each refusal is one outcome, whose line answers why mail was refused."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sasl_kit import OPEN, b64
from scenario import DEFAULTS, EH, LH, TX

from fastsmtp import AuthResponse, SMTPError, SMTPServer
from fastsmtp.testing import Wire
from fastsmtp.transactions import FORMATS, MAX_RECIPIENTS, MAX_TEXT, Outcome

FROM, TO = "<a@x.example>", "<b@y.example>"
MAIL, RCPT = TX[: TX.index(b"RCPT")], TX[TX.index(b"RCPT") :]
CANARY = "c4n4ry-s3cret"


def refusing(name: str) -> Callable[..., None]:
    def hook(*arguments: Any) -> None:
        arguments[-1](SMTPError("policy", 550))

    return hook


def failing(*arguments: Any) -> None:
    raise LookupError("ours")


def accept(stream: Any, session: Any, callback: Any) -> None:
    stream.consume(lambda piece: None, callback)


class Observed:
    """A connection, and the outcomes that its server has told."""

    def __init__(self, **options: Any) -> None:
        self.wire = Wire(**{**DEFAULTS, "on_data": accept, **options})
        self.outcomes: list[Outcome] = []
        self.wire.server.on("transaction", self.outcomes.append)
        self.wire.server.on("error", lambda error: None)

    def __enter__(self) -> Observed:
        return self

    def __exit__(self, *exception: object) -> None:
        self.wire.close()


BODY = b"hello\r\n.\r\n"
# What refuses -> options, octets, stage, hook, the beginning of the reply.
REFUSALS: dict[str, tuple[dict[str, Any], list[bytes], str, str, str]] = {
    "sender by the hook": (
        {"on_mail_from": refusing("on_mail_from")}, [EH, MAIL], "mail", "on_mail_from", "550 "
    ),
    "sender without a valid address": (
        {}, [EH, b"MAIL FROM:<a@x.example\r\n"], "mail", "", "501 5.1.7"
    ),
    "sender by its size": (
        {"size": 10}, [EH, b"MAIL FROM:<a@x.example> SIZE=11\r\n"], "mail", "", "552 5.3.4"
    ),
    "sender without STARTTLS": ({"needs_upgrade": True}, [EH, MAIL], "mail", "", "530 5.7.0"),
    "sender without a login": (
        {"auth_optional": False, "on_auth": refusing("on_auth"), "allow_insecure_auth": True},
        [EH, MAIL], "mail", "", "530 5.7.0",
    ),
    "sender without a greeting": ({}, [MAIL], "mail", "", "503 5.5.1"),
    "recipient by the hook": (
        {"on_rcpt_to": refusing("on_rcpt_to")}, [EH, TX], "rcpt", "on_rcpt_to", "550 "
    ),
    "recipient by a hook that fails": (
        {"on_rcpt_to": failing}, [EH, TX], "rcpt", "on_rcpt_to", "451 4.3.0"
    ),
    "recipient beyond the limit": (
        {"max_recipients": 1}, [EH, MAIL, b"RCPT TO:<c@y.example>\r\n", RCPT], "rcpt", "",
        "452 4.5.3",
    ),
    "recipient without a sender": ({}, [EH, RCPT], "rcpt", "", "503 5.5.1"),
    "message by the hook": (
        {"on_data": refusing("on_data")}, [EH, TX, b"DATA\r\n", BODY], "message", "on_data", "550 "
    ),
    "message by a hook that fails": (
        {"on_data": failing}, [EH, TX, b"DATA\r\n", BODY], "message", "on_data", "451 4.3.0"
    ),
    "message by its size": (
        {"size": 3}, [EH, TX, b"DATA\r\n", BODY], "message", "", "552 5.3.4"
    ),
    "message by a bare newline": (
        {}, [EH, TX, b"DATA\r\n", b"a\nb\r\n.\r\n"], "message", "", "550 5.5.2"
    ),
    "message by a NUL": (
        {"reject_nul": True}, [EH, TX, b"DATA\r\n", b"a\0b\r\n.\r\n"], "message", "", "550 5.6.0"
    ),
    "message without a hook": ({"on_data": None}, [EH, TX, b"DATA\r\n"], "data", "", "451 4.3.0"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSALS)
def test_why_a_message_was_refused_is_one_grep_for_its_sender_or_recipient(case: str) -> None:
    options, octets, stage, hook, reply = REFUSALS[case]
    options = {name: value for name, value in options.items() if value is not None}
    with Observed(**options) as it:
        if REFUSALS[case][0].get("on_data", it) is None:
            del it.wire.server.on_data
        it.wire.send(*octets)
    (outcome,) = [each for each in it.outcomes if each.result == "refused"]
    assert (outcome.stage, outcome.hook) == (stage, hook)
    assert outcome.reply.startswith(reply)
    for form in FORMATS:
        lines = list(outcome.lines(form))
        if stage != "rcpt" or MAIL in octets or TX in octets:
            assert [line for line in lines if "a@x.example" in line]
        if stage != "mail":
            assert [line for line in lines if TO in line]


def test_a_client_that_does_not_wait_for_a_reply_is_refused_with_an_outcome() -> None:
    wire = Wire(**DEFAULTS)
    found: list[Outcome] = []
    wire.server.on("transaction", found.append)
    wire.send(b"EHLO c.example\r\nNOOP\r\n")
    wire.close()
    assert [(each.result, each.stage) for each in found] == [("refused", "helo")]


@pytest.mark.parametrize(
    ("hook", "reply"), [(refusing("on_connect"), "550 policy"), (failing, "421 ")]
)
def test_a_client_that_on_connect_refuses_has_one_outcome_with_its_address(
    hook: Callable[..., None], reply: str
) -> None:
    server = SMTPServer(**DEFAULTS, on_connect=hook)
    found: list[Outcome] = []
    server.on("transaction", found.append)
    server.on("error", lambda error: None)
    wire = Wire(server)
    sent = wire.receive().decode()
    wire.close()
    (outcome,) = found
    assert (outcome.result, outcome.stage, outcome.hook) == ("refused", "connect", "on_connect")
    assert outcome.reply.startswith(reply)
    assert sent == f"{outcome.reply}\r\n"
    for form in FORMATS:
        assert [line for line in outcome.lines(form) if "192.0.2.1" in line and reply in line]


def test_an_accepted_message_has_one_outcome_with_all_that_is_known() -> None:
    with Observed() as it:
        it.wire.send(EH, MAIL)
        it.wire.advance(2)
        it.wire.send(RCPT, b"DATA\r\n", BODY)
        (outcome,) = it.outcomes
        assert outcome.id == f"{it.wire.session.id}-1"
    assert outcome.result == "accepted"
    assert (outcome.sender, outcome.recipients) == ("a@x.example", ("b@y.example",))
    assert (outcome.helo, outcome.address, outcome.protocol) == ("c.example", "192.0.2.1", "ESMTP")
    assert (outcome.size, outcome.stage, outcome.hook) == (7, "message", "")
    assert outcome.reply == "250 2.6.0 OK: message queued"
    assert outcome.seconds == pytest.approx(2)


def test_a_message_that_is_cut_is_aborted_and_told_once() -> None:
    with Observed() as it:
        it.wire.send(EH, TX, b"DATA\r\n", b"half")
        it.wire.reset()
    (outcome,) = it.outcomes
    assert (outcome.result, outcome.notes["reason"]) == ("aborted", "disconnected")


def test_each_refused_recipient_of_lmtp_has_a_line_and_the_others_one() -> None:
    def on_data(stream: Any, session: Any, callback: Any) -> None:
        stream.consume(lambda p: None, lambda e: callback(None, ["ok", SMTPError("full", 452)]))

    with Observed(lmtp=True, on_data=on_data) as it:
        it.wire.send(LH, MAIL, RCPT, b"RCPT TO:<c@y.example>\r\n", b"DATA\r\n", BODY)
    found = {(each.result, each.recipients) for each in it.outcomes}
    assert found == {("refused", ("c@y.example",)), ("accepted", ("b@y.example",))}


def test_a_refused_recipient_is_refused_in_its_line_when_the_others_are_delivered() -> None:
    notes = {"done": "delivered"}  # of the message, which the other recipients have
    refused = outcome("a")._replace(result="refused", notes=notes)
    assert str(refused).startswith("refused id=")
    assert str(refused._replace(result="accepted")).startswith("delivered id=")


def test_a_hook_can_add_to_the_line_of_its_transaction_only() -> None:
    def on_mail_from(address: Any, session: Any, callback: Any) -> None:
        if "spam" in address.address:
            session.notes["score"] = "7 of 10"
        callback()

    with Observed(on_mail_from=on_mail_from) as it:
        for sender in (b"spam@x.example", b"a@x.example"):
            it.wire.send(EH, b"MAIL FROM:<" + sender + b">\r\n", RCPT, b"DATA\r\n", BODY)
    assert [dict(each.notes) for each in it.outcomes] == [{"score": "7 of 10"}, {}]
    assert " score=7\\x20of\\x2010 " in str(it.outcomes[0])


def test_of_the_refused_commands_of_a_connection_only_the_first_have_a_line() -> None:
    with Observed(max_errors=None, max_unrecognized_commands=None) as it:
        it.wire.send(EH, b"FOO\r\n" * 50)
    assert len(it.outcomes) == 11
    assert it.outcomes[-1].reply == "40 more refusals, without a line each"


def test_no_secret_of_a_client_is_in_an_outcome() -> None:
    def on_auth(auth: Any, session: Any, callback: Any) -> None:
        callback(SMTPError("no", 535))

    with Observed(on_auth=on_auth, **{**OPEN, "max_auth_failures": None}) as it:
        it.wire.send(EH, b"AUTH PLAIN " + b64(f"\0user\0{CANARY}") + b"\r\n")
        it.wire.send(b"AUTH LOGIN\r\n", b64("user") + b"\r\n", b64(CANARY) + b"\r\n")
        it.wire.send(b"AUTH NOPE " + CANARY.encode() + b"\r\n")
        assert CANARY.encode() not in it.wire.connection.protocol.argument
    shown = repr(it.outcomes)
    assert len(it.outcomes) == 3
    assert CANARY not in shown
    assert b64(CANARY).decode() not in shown


def test_a_listener_that_fails_harms_nobody(log: list[str]) -> None:
    with Observed() as it:
        it.wire.server.on("transaction", failing)
        assert b"250 2.6.0" in it.wire.send(EH, TX, b"DATA\r\n", BODY)
    assert [line for line in log if "a listener of 'transaction' failed" in line]


# --- lines ---

HOSTILE = st.text(max_size=40) | st.sampled_from(
    ["\x1b[2J\x1b]0;x\x07", "\u202egro.elpmaxe", 'a" b=c \\', "x\r\nfrom=<y>", "\0", "LONG"]
)


def outcome(text: str) -> Outcome:
    text = "A" * 65536 if text == "LONG" else text
    return Outcome(
        *("refused", "id-1", text, "192.0.2.1", "", text, "ESMTP", "", text, text, (text, text)),
        *("rcpt", "on_rcpt_to", f"550 {text}", 3, 0.5, {"note": text}),
    )


def harmless(line: str) -> bool:
    return line.isprintable() and len(line) < 6000


@given(HOSTILE)
def test_a_line_of_text_has_its_fields_whatever_a_client_sends(text: str) -> None:
    (line,) = outcome(text).lines("text")
    assert harmless(line)
    words, _, reply = line.partition(" reply=")
    assert reply.startswith("550 ")
    names = [word.partition("=")[0] for word in words.split(" ")]
    assert [name for name in names if name != "user"] == [
        *("refused", "id", "from", "to", "recipients", "client", "helo", "with", "stage"),
        *("hook", "size", "seconds", "note"),
    ]


def pairs_of(line: str) -> Iterator[tuple[str, str]]:
    reader = shlex.shlex(line, posix=True)
    reader.whitespace, reader.whitespace_split, reader.commenters = " ", True, ""
    reader.quotes = '"'
    for word in reader:
        name, _, value = word.partition("=")
        yield name, value


@given(HOSTILE)
def test_logfmt_and_json_are_read_back_to_the_same_fields(text: str) -> None:
    (line,) = outcome(text).lines("logfmt")
    (other,) = outcome(text).lines("json")
    assert harmless(line)
    assert harmless(other)
    assert other.isascii()
    found, read = dict(pairs_of(line)), json.loads(other)
    assert found["stage"] == read["stage"] == "rcpt"
    assert found["reply"] == read["reply"]
    assert found["from"] == read["from"]
    assert len(read["from"]) <= MAX_TEXT + 2
    assert all(value.isprintable() for value in found.values())


@pytest.mark.parametrize(
    ("name", "address", "word"),
    [
        ("[2001:db8::1]", "2001:db8::1", "[2001:db8::1]"),
        ("mail.x.example", "2001:db8::1", "mail.x.example[2001:db8::1]"),
        ("localhost", "", "localhost[unix]"),
        ("", "192.0.2.1", "[192.0.2.1]"),  # refused before its name was looked up
    ],
)
def test_the_client_is_one_word_with_its_address(name: str, address: str, word: str) -> None:
    found = outcome("x")._replace(client=name, address=address)
    assert f" client={word} " in str(found)
    assert json.loads(found.json)["client"] == word
    assert f" client={word} " in found.logfmt


def test_a_message_for_many_has_lines_with_all_of_its_recipients() -> None:
    many = tuple(f"r{number}@y.example" for number in range(3 * MAX_RECIPIENTS))
    lines = list(outcome("x")._replace(recipients=many).lines("text"))
    assert len(lines) == 3
    assert all(any(f"<{each}>" in line for line in lines) for each in many)


class Nameless:
    """An object of a hook that has no text."""

    def __str__(self) -> str:
        raise LookupError("ours")


@pytest.mark.parametrize("form", FORMATS)
def test_notes_that_are_not_texts_are_logged_as_their_texts(form: str) -> None:
    notes: Any = {"done": 7, "score": 7.5, 5: None, "symbols": ["a", "b"], "more": Nameless()}
    line = "".join(outcome("a")._replace(notes=notes).lines(form))
    assert "7.5" in line
    assert "Nameless" in line
    assert CANARY not in line


def test_a_user_without_a_text_ends_no_connection() -> None:
    """As an object of a database whose session has ended may be."""

    def on_auth(auth: Any, session: Any, callback: Any) -> None:
        callback(None, AuthResponse(user=Nameless()))

    with Observed(on_auth=on_auth, allow_insecure_auth=True) as it:
        it.wire.send(EH, b"AUTH PLAIN " + b64(b"\0a\0b") + b"\r\n", MAIL, RCPT, b"DATA\r\n", BODY)
        (accepted,) = it.outcomes
        assert accepted.user == "<Nameless>"
        assert it.wire.send(b"NOOP\r\n").startswith(b"250 ")
        assert not it.wire.closed
