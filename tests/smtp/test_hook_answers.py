"""What hooks may answer, and what they may not: types, codes, enhanced codes, texts.

An invalid answer becomes 451 4.3.0, at connect 421; a text becomes one reply, whatever it
holds (RFC 5321 §4.2, RFC 2034 §4, RFC 3463 §3).
"""

from __future__ import annotations

import enum
import logging
import re
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hook_kit import BODY, COMMANDS, END, MAIL, RCPT, STAGES, STYLES, AtHook, Call
from scenario import EH, Conversation, Script, one_way, parse_replies

from fastsmtp import SMTPError

pytestmark = pytest.mark.usefixtures("no_leaks")
each_hook = pytest.mark.parametrize("name", STAGES)
each_style = pytest.mark.parametrize("style", STYLES)
row = pytest.mark.row

NONSENSE = (True, False, 0, b"", (250,), {"code": 250}, object(), ["250 OK"], [])
# Nothing that a terminal or a log would take for more than text.
UNCLEAN = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]")


def gives(error: Any = None, result: Any = None) -> Callable[[Call], Any]:
    """Answer in the way of the style: by callback, by returning, by raising."""

    def act(call: Call) -> Any:
        if call.callback is not None:
            call.callback(error, result)
            return None
        if error is not None:
            raise error
        return result

    return act


# --- HOOK-06: the second argument, what a coroutine returns ---


@row("HOOK-06")
@each_hook
@each_style
def test_a_hook_that_returns_none_accepts(name: str, style: str) -> None:
    with AtHook(name, style, gives(None, None)) as met:
        assert met.reply == met.stage.accepted
        met.go_on()


@row("HOOK-06")
@each_style
def test_a_message_is_answered_with_a_text_or_nothing(style: str) -> None:
    for answer in NONSENSE:
        with AtHook("on_data", style, gives(None, answer)) as met:
            assert met.reply == "451 4.3.0", answer
            met.go_on()


@row("HOOK-06")
@pytest.mark.parametrize("name", ["on_mail_from", "on_rcpt_to"])
@pytest.mark.parametrize("style", ["callback", "coroutine with callback"])
def test_a_second_argument_is_ignored_where_the_answer_is_yes_or_no(name: str, style: str) -> None:
    for answer in ("250 OK", *NONSENSE):
        with AtHook(name, style, gives(None, answer)) as met:
            assert met.reply == met.stage.accepted, answer
            met.go_on()


@row("HOOK-06")
@each_style
def test_line_ends_in_a_text_make_lines_of_the_same_reply(style: str) -> None:
    with AtHook("on_data", style, gives(None, "250 OK\r\n250 EVIL")) as met:
        replies = parse_replies(met.written)
        assert [(reply.code, reply.enhanced) for reply in replies] == [(250, "2.6.0")]
        assert replies[0].lines == ("OK", "250 EVIL")
        met.go_on()


@row("HOOK-06")
@pytest.mark.parametrize("text", ["", "\r\n", "2.0.0", "2.0.0 "])
def test_an_empty_text_gets_the_default(text: str) -> None:
    with AtHook("on_data", "callback", gives(None, text)) as met:
        assert len(parse_replies(met.written)) == 1
        assert parse_replies(met.written)[0].code == 250
        assert parse_replies(met.written)[0].lines == ("OK: message queued",)


# --- HOOK-06: the first argument ---


@row("HOOK-06")
@each_hook
@pytest.mark.parametrize("style", ["callback", "coroutine with callback"])
def test_a_first_argument_that_is_not_an_exception_is_a_failure(name: str, style: str) -> None:
    for error in ("550 5.7.1 no", *NONSENSE):
        with AtHook(name, style, gives(error)) as met:
            assert met.reply == met.stage.failed, error
            if name != "on_connect":
                met.go_on()


@row("HOOK-06")
@each_hook
def test_any_exception_given_to_callback_rejects_with_the_default_code(name: str) -> None:
    with AtHook(name, "callback", gives(LookupError("no such thing"))) as met:
        assert met.reply == met.stage.rejected
        assert b"no such thing" in met.written
        assert not met.errors


BAD_CODES = [199, 200, 250, 354, 399, 600, 5500, 0, -1, 550.0, "abc", "550", True]


class WithCode(Exception):
    """A user's own error."""

    def __init__(self, response_code: Any) -> None:
        super().__init__("no")
        self.response_code = response_code


@pytest.mark.parametrize("code", BAD_CODES)
def test_a_code_that_refuses_nothing_is_an_error_where_an_smtp_error_is_made(code: Any) -> None:
    kind = ValueError if type(code) is int else TypeError
    with pytest.raises(kind, match="response_code: a refusal has an int from 400 to 599"):
        SMTPError("no", code)


@pytest.mark.parametrize("message", [550, 0, True])
def test_a_code_in_the_place_of_the_message_is_an_error(message: Any) -> None:
    with pytest.raises(TypeError, match=r"SMTPError\(text, code\)"):
        SMTPError(message)


@row("HOOK-06")
@each_hook
@each_style
def test_a_hook_that_makes_an_smtp_error_of_a_wrong_code_fails(name: str, style: str) -> None:
    def act(call: Call) -> None:
        raise SMTPError("no such user", 250)

    with AtHook(name, style, act) as met:
        assert met.reply == met.stage.failed
        assert [type(error) for error in met.errors] == [ValueError]


@row("HOOK-06")
@each_hook
@pytest.mark.parametrize("style", ["callback", "coroutine with callback"])
@pytest.mark.parametrize("code", BAD_CODES)
def test_a_code_that_refuses_nothing_is_a_failure_in_a_users_own_error(
    name: str, style: str, code: Any
) -> None:
    with AtHook(name, style, gives(WithCode(code))) as met:
        assert met.reply == met.stage.failed
        assert [(type(error), error.stage) for error in met.errors] == [(ValueError, name)]
        assert "400 to 599" in str(met.errors[0])
        if name != "on_connect":
            met.go_on()


@row("HOOK-06")
@each_hook
@each_style
def test_any_code_of_4xx_and_5xx_is_kept_as_it_is(name: str, style: str) -> None:
    for code in (400, 421, 459, 460, 499, 500, 559, 560, 571, 599):
        with AtHook(name, style, gives(SMTPError("no", response_code=code))) as met:
            assert met.reply.startswith(str(code))
            assert ("." in met.reply) == (name not in ("on_connect", "on_helo"))
            if code == 421 or name == "on_connect":
                assert met.wire.closed
            else:
                met.go_on()


class Code(enum.IntEnum):
    SPAM = 554


class Spam(SMTPError):
    response_code = 571
    enhanced_code = "5.7.25"


@row("HOOK-06")
@pytest.mark.parametrize("name", COMMANDS)
def test_codes_may_be_those_of_an_enumeration_or_of_a_subclass(name: str) -> None:
    with AtHook(name, "callback", gives(SMTPError("no", Code.SPAM))) as met:
        assert met.reply.startswith("554 ")
    with AtHook(name, "callback", gives(Spam("no"))) as met:
        assert met.reply == "571 5.7.25"
    with AtHook(name, "callback", gives(Spam("no", 450))) as met:
        assert met.reply.startswith("450 4.")


@row("HOOK-06")
@each_hook
@each_style
def test_a_missing_text_gets_the_default(name: str, style: str) -> None:
    for text in ("", "\r\n", "\n\n"):
        with AtHook(name, style, gives(SMTPError(text))) as met:
            assert met.reply == met.stage.rejected
            assert parse_replies(met.written)[0].lines[0].strip()


@row("HOOK-06")
@pytest.mark.parametrize("name", COMMANDS)
@each_style
def test_an_enhanced_code_without_text_gets_the_default_text(name: str, style: str) -> None:
    with AtHook(name, style, gives(SMTPError("5.7.25", response_code=550))) as met:
        assert met.reply == "550 5.7.25"
        assert parse_replies(met.written)[0].lines[0].strip()


@row("HOOK-06")
@pytest.mark.parametrize("name", COMMANDS)
def test_an_enhanced_code_that_does_not_fit_is_dropped_and_logged(
    name: str, caplog: pytest.LogCaptureFixture
) -> None:
    expected = {"on_mail_from": "5.7.1", "on_rcpt_to": "5.1.1", "on_data": "5.7.1"}
    wrong = ["4.7.1", "2.0.0", "5.7", "5.07.1", "5.1000.1", "5.7.1\r\n250 x", "", 5.71, b"5.7.1"]
    for enhanced in wrong:
        caplog.clear()
        error = SMTPError("no", response_code=550, enhanced_code=enhanced)  # type: ignore[arg-type]
        with AtHook(name, "callback", gives(error)) as met:
            assert met.reply == f"550 {expected[name]}"
            assert len(caplog.records) == 1
            met.go_on()


# RFC 3463 and RFC 5248, by the code of the application: MAIL, RCPT, message, message of LMTP.
ENHANCED = {
    421: ("4.7.0", "4.7.0", "4.7.0", "4.7.0"),
    432: ("4.7.0", "4.7.0", "4.7.0", "4.7.0"),
    450: ("4.7.1", "4.2.1", "4.7.1", "4.2.1"),
    451: ("4.3.0", "4.3.0", "4.3.0", "4.3.0"),
    452: ("4.3.1", "4.2.2", "4.3.1", "4.2.2"),
    454: ("4.7.0", "4.7.0", "4.7.0", "4.7.0"),
    455: ("4.0.0", "4.0.0", "4.0.0", "4.0.0"),
    530: ("5.7.0", "5.7.0", "5.7.0", "5.7.0"),
    534: ("5.7.0", "5.7.0", "5.7.0", "5.7.0"),
    535: ("5.7.0", "5.7.0", "5.7.0", "5.7.0"),
    538: ("5.7.0", "5.7.0", "5.7.0", "5.7.0"),
    550: ("5.7.1", "5.1.1", "5.7.1", "5.7.1"),
    551: ("5.7.1", "5.1.6", "5.7.1", "5.1.6"),
    552: ("5.3.4", "5.2.2", "5.3.4", "5.2.2"),
    553: ("5.1.7", "5.1.3", "5.6.0", "5.6.0"),
    554: ("5.7.1", "5.7.1", "5.6.0", "5.6.0"),
    555: ("5.0.0", "5.0.0", "5.0.0", "5.0.0"),
    556: ("5.1.10", "5.1.10", "5.1.10", "5.1.10"),
}


@row("HOOK-06")
@pytest.mark.parametrize("column", range(4), ids=["mail", "rcpt", "message", "lmtp"])
def test_a_code_alone_brings_the_enhanced_code_of_its_stage(column: int) -> None:
    name = (*COMMANDS, "on_data")[column]
    for code, row_of_codes in ENHANCED.items():
        error = SMTPError("no", response_code=code)
        with AtHook(name, "callback", gives(error), lmtp=column == 3) as met:
            assert met.reply == f"{code} {row_of_codes[column]}"


# --- HOOK-17: hostile texts ---

HOSTILE = {
    "controls": "a\x00b\x07c\x1b[2Jd\x7fe",
    "c1": "a\x80\x9b31m\x85b",
    "bidi": "a\u202eb\u202dc\u2066d\u2069",
    "separators": "a\u2028b\u2029c",
    "line ends": "a\r\nb\rc\nd\r\r\n\n\r",
    "only line ends": "\r\n\r\n\n",
    "replies": "250 OK\r\n354 go on\r\n221 bye\r\n",
    "continuation": "550-more\r\n550 last",
    "formats": "%s%n%x {0.__class__} ${x}",
    "dots": ".\r\n.\r\n",
    "long": "x" * 10_000,
    "long words": "word " * 3000,
    "many lines": "x\r\n" * 5000,
    "unicode": "é€😀" * 2000,
    "surrogate": "a\udc80b\ud83dc",
    "spaces": " \t \r\n\t",
}


@row("HOOK-17", "LINE-14", "HOOK-06")
@each_hook
@each_style
def test_any_text_of_a_hook_becomes_one_clean_reply(name: str, style: str) -> None:
    for text in HOSTILE.values():
        with AtHook(name, style, gives(SMTPError(text, response_code=554))) as met:
            assert met.reply[:3] == "554"
            assert len(parse_replies(met.written)) == 1
            assert met.written.isascii()
            assert not UNCLEAN.search("".join(parse_replies(met.written)[0].lines))
            if name != "on_connect":
                met.go_on()


@row("HOOK-17")
@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE)
def test_a_text_in_an_smtputf8_transaction_is_clean_too(text: str) -> None:
    mail = b"MAIL FROM:<a@x.example> SMTPUTF8\r\n"
    for hooks in (Script(mail=SMTPError(text)), Script(rcpt=SMTPError(text))):
        run = one_way([EH, mail, RCPT], hooks)
        for reply in run.replies:
            assert not UNCLEAN.search("".join(reply.lines))
    run = one_way([EH, mail + RCPT + b"DATA\r\n", BODY + END], Script(data=text))
    assert run.codes[-1] == ("451 4.3.0" if text == HOSTILE["continuation"] else "250 2.6.0")
    assert not UNCLEAN.search("".join(run.replies[-1].lines))
    if text == HOSTILE["unicode"]:
        assert "é€😀" in "".join(run.replies[-1].lines)


@row("HOOK-17")
def test_the_error_that_a_session_remembers_is_the_reply_as_it_was_sent() -> None:
    with Conversation(Script(rcpt=SMTPError("no\x1b[2J\r\nmore"))) as session:
        session.do(EH, MAIL + RCPT)
        assert session.wire.session.error == "550-5.1.1 no?[2J 550 5.1.1 more"


# --- HOOK-19: failures while a failure is reported ---


class UnprintableError(Exception):
    """An error that has neither `str` nor `repr`."""

    def __str__(self) -> str:
        raise ValueError("no text")

    __repr__ = __str__


class UnprintableRejection(SMTPError):
    __str__ = __repr__ = UnprintableError.__str__


class ReadOnlyError(Exception):
    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError(name)


class TrapError(Exception):
    @property
    def response_code(self) -> int:
        raise ValueError("no code")


@row("HOOK-19")
@each_hook
@each_style
@pytest.mark.parametrize(
    "error",
    [UnprintableError, UnprintableRejection, ReadOnlyError, TrapError],
    ids=lambda e: e.__name__,
)
def test_an_error_whose_attributes_raise_is_a_failure_like_any_other(
    name: str, style: str, error: type[Exception]
) -> None:
    def act(call: Call) -> None:
        raise error()

    for listen in (True, False):
        with AtHook(name, style, act, listen=listen) as met:
            assert met.reply == met.stage.failed
            if name != "on_connect":
                met.go_on()


@row("HOOK-19")
@each_hook
@pytest.mark.parametrize(
    "error", [UnprintableError, UnprintableRejection, TrapError], ids=lambda e: e.__name__
)
def test_an_error_given_to_callback_whose_attributes_raise_is_a_failure(
    name: str, error: type[Exception]
) -> None:
    with AtHook(name, "callback", gives(error())) as met:
        assert met.reply == met.stage.failed
        if name != "on_connect":
            met.go_on()


@row("HOOK-19")
@each_style
def test_an_answer_whose_repr_fails_is_a_failure(style: str) -> None:
    with AtHook("on_data", style, gives(None, UnprintableError())) as met:
        assert met.reply == "451 4.3.0"
        met.go_on()


class Broken(logging.Handler):
    """A handler that raises, as on a full disk."""

    def emit(self, record: logging.LogRecord) -> None:
        raise OSError("no space left")


@pytest.fixture
def broken_log() -> Iterator[None]:
    logger = logging.getLogger("fastsmtp")
    handler = Broken()
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.DEBUG)
    yield
    logger.setLevel(level)
    logger.removeHandler(handler)


@row("HOOK-19")
@pytest.mark.usefixtures("broken_log")
@each_hook
@each_style
def test_a_log_handler_that_raises_costs_nothing(name: str, style: str) -> None:
    def act(call: Call) -> None:
        raise ValueError("it fails")

    with AtHook(name, style, act, listen=False) as met:
        assert met.reply == met.stage.failed
        if name != "on_connect":
            assert met.say(b"FOO\r\n") == ["500 5.5.2"]
            met.go_on()


@row("HOOK-19")
@each_hook
@each_style
def test_an_event_listener_that_raises_costs_nothing(name: str, style: str) -> None:
    def act(call: Call) -> None:
        raise ValueError("it fails")

    def listener(*arguments: object) -> None:
        raise LookupError("so does the listener")

    with AtHook(name, style, act, bring=False) as met:
        met.server.on("error", listener).on("connect", listener)
        met.bring()
        assert met.reply == met.stage.failed
        assert len(met.errors) == 1
        if name != "on_connect":
            met.go_on()
