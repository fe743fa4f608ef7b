"""Values that mean nothing: no hook accepts with one, whatever habit from another server it is.

Where the return value is the answer (a coroutine without `callback`), `on_connect`, `on_secure`,
`on_mail_from` and `on_rcpt_to` accept with None and nothing else. `on_data` accepts with a text,
but not with one that begins with another reply code than 250 (RFC 5321 §4.2).
"""

from __future__ import annotations

import asyncio
import functools
import logging
from collections.abc import Callable
from typing import Any

import pytest
from hook_kit import STAGES, STYLES, AtHook, Call
from scenario import DEFAULTS, EH, codes, parse_replies
from tls_kit import KINDS, met

from fastsmtp import SMTPError, SMTPServer
from fastsmtp.testing import VirtualLoop, Wire

pytestmark = pytest.mark.usefixtures("no_leaks")
row = pytest.mark.row

YES_OR_NO = ("on_connect", "on_mail_from", "on_rcpt_to")


class Unprintable:
    def __repr__(self) -> str:
        raise ValueError("no repr")


VALUES = [
    *("550 no such user", "250 OK", "", False, True, 0, 550, 250, (550, "no"), ["550 no"], []),
    *({"code": 550}, {}, b"550 no", SMTPError("no", 550), ValueError("no"), object()),
    Unprintable(),
]


def returns(value: Any) -> Callable[[Call], Any]:
    return lambda call: value


@row("HOOK-06")
@pytest.mark.parametrize("name", YES_OR_NO)
@pytest.mark.parametrize("value", VALUES, ids=lambda value: type(value).__name__)
def test_a_coroutine_that_returns_a_value_has_failed_and_accepted_nothing(
    name: str, value: Any
) -> None:
    if name == "on_connect" and value == {}:
        return  # no options for the session
    with AtHook(name, "coroutine", returns(value)) as met_it:
        assert met_it.reply == met_it.stage.failed
        (error,) = met_it.errors
        assert isinstance(error, TypeError)
        assert error.stage == name  # type: ignore[attr-defined]
        assert str(error).startswith(f"{name} returned ")
        assert "raise SMTPError to reject" in str(error)
        if name != "on_connect":
            met_it.go_on()


@row("HOOK-06")
@pytest.mark.parametrize("name", YES_OR_NO)
def test_the_log_of_a_meaningless_value_names_session_client_hook_and_the_way_to_reject(
    name: str, caplog: pytest.LogCaptureFixture
) -> None:
    value = "550 no\r\nsuch user" + "x" * 5000
    with AtHook(name, "coroutine", returns(value), listen=False) as met_it:
        session_id = met_it.wire.session.id
    (line,) = [record.getMessage() for record in caplog.records]
    assert line.startswith(f"{session_id}: 192.0.2.1: {name} failed: TypeError: {name} returned ")
    assert "550 no" in line
    assert "raise SMTPError to reject" in line
    assert len(line) <= 512
    assert line.isprintable()


@row("HOOK-06")
@pytest.mark.parametrize("value", ["550 no", False, {}])
def test_a_value_of_a_coroutine_that_a_task_factory_runs_counts_likewise(value: Any) -> None:
    async def on_rcpt_to(address: Any, session: Any) -> Any:
        return value

    def factory(loop: Any, coroutine: Any, **named: Any) -> asyncio.Task[Any]:
        return asyncio.Task(coroutine, loop=loop, **named)

    loop = VirtualLoop()
    loop.set_task_factory(factory)
    server = SMTPServer(**DEFAULTS, on_rcpt_to=on_rcpt_to)
    with Wire(server, loop=loop) as wire:
        wire.send(EH)
        wire.send(b"MAIL FROM:<a@x.example>\r\n")
        assert codes(wire.send(b"RCPT TO:<b@y.example>\r\n")) == ["451 4.3.0"]
    loop.close()


@row("HOOK-06")
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("value", ["554 not with that cipher", False, {"code": 554}])
def test_on_secure_that_returns_a_value_closes_the_connection(kind: str, value: Any) -> None:
    async def on_secure(socket: Any, session: Any) -> Any:
        return value

    wire, client = met(kind, on_secure)
    with wire:
        greeting = client.hear()
        assert greeting[:4] == (b"421 " if kind == "implicit" else b"")
        assert wire.closed


@row("HOOK-06")
@pytest.mark.parametrize("value", VALUES, ids=lambda value: type(value).__name__)
def test_a_value_that_a_plain_function_returns_is_ignored(value: Any) -> None:
    def on_rcpt_to(address: Any, session: Any, callback: Any) -> Any:
        callback(SMTPError("no", 550) if address.local_part == "no" else None)
        return value

    with Wire(**DEFAULTS, on_rcpt_to=on_rcpt_to) as wire:
        wire.send(EH)
        wire.send(b"MAIL FROM:<a@x.example>\r\n")
        assert codes(wire.send(b"RCPT TO:<no@y.example>\r\n")) == ["550 5.1.1"]
        assert codes(wire.send(b"RCPT TO:<b@y.example>\r\n")) == ["250 2.1.5"]


# --- a coroutine that is never awaited ---


@pytest.mark.parametrize("name", STAGES)
def test_a_plain_function_that_returns_a_coroutine_fails_at_once(name: str) -> None:
    async def work(*given: Any) -> None:
        given[-1]()

    def hook(*given: Any) -> Any:
        return work(*given)

    with AtHook(name, "callback", lambda call: None, bring=False) as met_it:
        setattr(met_it.server, name, hook)
        met_it.bring()
        assert met_it.reply == met_it.stage.failed
        assert [type(error) for error in met_it.errors] == [TypeError]
        assert str(met_it.errors[0]).startswith(f"{name} is a plain function that returned a cor")
        if name != "on_connect":
            setattr(met_it.server, name, lambda *given: given[-1]())
            met_it.go_on()


def test_a_task_that_a_plain_function_returns_may_call_back_later() -> None:
    async def work(callback: Any) -> None:
        callback(SMTPError("no", 550))

    loop = VirtualLoop()
    with Wire(
        SMTPServer(
            **DEFAULTS,
            on_mail_from=lambda address, session, callback: loop.create_task(work(callback)),
        ),
        loop=loop,
    ) as wire:
        wire.send(EH)
        assert codes(wire.send(b"MAIL FROM:<a@x.example>\r\n")) == ["550 5.7.1"]
    loop.close()


# --- texts that begin with a reply code ---

REFUSALS = [
    *("550 spam", "451-greylisted", "554", "550\tspam", "421 ", " 550 spam", "\r\n550 spam"),
    *(
        "550-5.7.1 no\r\n550 5.7.1 no",
        "571 blocked",
        "599",
        "354 go on",
        "221 bye",
        "200 OK",
        "512 octets stored",
    ),
]


@row("HOOK-06")
@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("text", REFUSALS)
def test_a_text_that_begins_with_a_reply_code_accepts_no_message(style: str, text: str) -> None:
    def act(call: Call) -> Any:
        if call.callback is None:
            return text
        call.callback(None, text)
        return None

    with AtHook("on_data", style, act) as met_it:
        assert met_it.reply == "451 4.3.0"
        (error,) = met_it.errors
        assert (type(error), error.stage) == (ValueError, "on_data")  # type: ignore[attr-defined]
        assert "raise SMTPError(text, code)" in str(error)
        met_it.go_on()


@row("HOOK-06")
@pytest.mark.parametrize(
    ("text", "enhanced", "lines"),
    [
        ("250 stored", "2.6.0", ("stored",)),
        ("250-stored", "2.6.0", ("stored",)),
        ("250 2.0.0 stored", "2.0.0", ("stored",)),
        ("250  stored", "2.6.0", ("stored",)),
        ("250", "2.6.0", ("OK: message queued",)),
        ("250 ", "2.6.0", ("OK: message queued",)),
        ("250 2.0.0", "2.0.0", ("OK: message queued",)),
        ("250 one\r\n250 two", "2.6.0", ("one", "250 two")),
        ("2500 octets", "2.6.0", ("2500 octets",)),
        ("5.7 MB stored", "2.6.0", ("5.7 MB stored",)),
        ("550th message", "2.6.0", ("550th message",)),
        ("stored 512 octets", "2.6.0", ("stored 512 octets",)),
        ("100 octets", "2.6.0", ("100 octets",)),
        ("600 octets", "2.6.0", ("600 octets",)),
        ("stored as 550 spam", "2.6.0", ("stored as 550 spam",)),
    ],
)
def test_a_250_at_the_start_of_a_text_is_removed_and_numbers_that_are_not_codes_stay(
    text: str, enhanced: str, lines: tuple[str, ...]
) -> None:
    with AtHook("on_data", "coroutine", returns(text)) as met_it:
        (reply,) = parse_replies(met_it.written)
        assert (reply.code, reply.enhanced, reply.lines) == (250, enhanced, lines)
        met_it.go_on()


@row("LMTP-04")
def test_entries_of_a_list_are_checked_one_by_one_and_reported_once() -> None:
    answer = ["250 2.0.0 for b", "550 no", None, "451-later", 7]
    rcpts = b"".join(b"RCPT TO:<%c@y.example>\r\n" % name for name in b"bcdef")

    async def on_data(stream: Any, session: Any) -> Any:
        return answer

    server = SMTPServer(**{**DEFAULTS, "lmtp": True, "on_data": on_data})
    told: list[Any] = []
    server.on("error", told.append)
    with Wire(server) as wire:
        wire.send(b"LHLO c.example\r\n", b"MAIL FROM:<a@x.example>\r\n" + rcpts)
        replies = parse_replies(wire.send(b"BDAT 1 LAST\r\nx"))
    assert [str(reply) for reply in replies] == [
        *("250 2.0.0", "451 4.3.0", "250 2.6.0", "451 4.3.0", "451 4.3.0")
    ]
    assert replies[0].lines == ("for b",)
    assert [(type(error), error.stage) for error in told] == [(ValueError, "on_data")]


# --- callback with something else than an exception ---


@row("HOOK-06")
@pytest.mark.parametrize("name", STAGES)
@pytest.mark.parametrize("value", ["550 no such user", 550, SMTPError, False, Unprintable()])
def test_an_error_that_is_not_an_exception_is_a_failure_that_says_how_to_reject(
    name: str, value: Any
) -> None:
    def act(call: Call) -> None:
        call.callback(value)

    with AtHook(name, "callback", act) as met_it:
        assert met_it.reply == met_it.stage.failed
        (error,) = met_it.errors
        assert (type(error), error.stage) == (TypeError, name)  # type: ignore[attr-defined]
        assert "callback(SMTPError(text, code))" in str(error)


# --- given on purpose, or raised by mistake ---


@pytest.mark.parametrize("name", STAGES)
def test_an_exception_given_to_callback_rejects_and_one_that_is_raised_is_a_failure(
    name: str, caplog: pytest.LogCaptureFixture
) -> None:
    def gives(call: Call) -> None:
        call.callback(ValueError("no such user"))

    def raises(call: Call) -> None:
        raise ValueError("no such user")

    with AtHook(name, "callback", gives, listen=False) as met_it:
        assert met_it.reply == met_it.stage.rejected
        assert b"no such user" in met_it.written
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]
    with AtHook(name, "callback", raises, listen=False) as met_it:
        assert met_it.reply == met_it.stage.failed
        assert b"no such user" not in met_it.written
    (record,) = [record for record in caplog.records if record.levelno >= logging.ERROR]
    assert f"{name} failed: ValueError: no such user" in record.getMessage()
    assert "to reject, raise SMTPError or pass the error to callback" in record.getMessage()
    assert record.exc_info is not None


# --- hooks that could never run ---


def generator(address: Any, session: Any, callback: Any) -> Any:
    yield


async def async_generator(address: Any, session: Any, callback: Any) -> Any:
    yield


@pytest.mark.parametrize("hook", [generator, async_generator, functools.partial(generator)])
def test_a_generator_is_refused_when_it_is_set(hook: Any) -> None:
    with pytest.raises(TypeError, match="on_rcpt_to must not be a generator"):
        SMTPServer(on_rcpt_to=hook)
