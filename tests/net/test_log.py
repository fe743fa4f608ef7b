"""What goes to the log and to the screen: clean, bounded, and nothing of it in a reply.

What a client says is data, never a line of its own and never a format (RFC 5321 §7.8).
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable
from typing import Any

import pytest
from hook_kit import BODY, END, MAIL, RCPT
from scenario import (
    COUNTERS_OFF,
    DEFAULTS,
    EH,
    TX,
    Conversation,
    Script,
    codes,
    one_way,
    parse_replies,
    pause,
)

from fastsmtp import SMTPError, SMTPServer
from fastsmtp.testing import Wire

pytestmark = pytest.mark.usefixtures("no_leaks")
row = pytest.mark.row

UNCLEAN = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
# What a client may say in the place of a name.
HOSTILE = {
    "escape": b"\x1b[2J",
    "c1": b"\x9b31m",
    "format": b"%n%s%d{0.__class__}",
    "long": b"x" * 1500,
    "bidi": "\u202egpj.exe".encode(),
    "bell": b"\x07",
    "utf-8": "é\u0085\u2028".encode(),
    "bad utf-8": b"\xff\xc0\xaf",
    "forged": b"\\n2026-01-01 accepted",
}


def assert_clean(lines: list[str]) -> None:
    for line in lines:
        # A reply of several lines is logged with its line ends.
        assert not UNCLEAN.search(line.replace("\n", "")), repr(line)
        assert len(line) <= 1024


@row("LOG-01", "LOG-02", "I11")
@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE)
def test_text_of_a_client_leaves_the_log_clean(text: bytes, log: list[str]) -> None:
    for line in (
        *[b"EHLO %s", b"HELO %s", b"MAIL FROM:<%s@x.example>", b"RCPT TO:<%s@y.example>"],
        *[b"%s", b"%s %s", b"VRFY %s", b"XCLIENT NAME=%s", b"GET %s HTTP/1.0", b"BDAT %s"],
        *[b"MAIL FROM:<a@x.example> %s=1", b"MAIL FROM:<a@x.example> ENVID=%s", b"PROXY %s"],
    ):
        octets = line.replace(b"%s", text) + b"\r\n"
        for steps in ([octets], [EH, octets], [EH, TX, octets]):
            one_way(steps, **COUNTERS_OFF)
    assert log
    assert_clean(log)
    # The line of a refused RCPT has its recipient, as one word in brackets.
    others = [re.sub(r" to=<\S*> ", " ", told) for told in log]
    assert not [told for told in others if "accepted" in told]


@row("LOG-02", "PARM-03")
def test_a_line_cannot_be_forged_through_xtext(log: list[str]) -> None:
    forged = b"MAIL FROM:<a@x.example> ENVID=+0A2026-01-01+20accepted\r\n"
    run = one_way([EH, forged])
    assert run.codes[-1] == "501 5.5.4"
    assert run.recorder.named("mail") == []
    assert_clean(log)


@row("LOG-01")
@pytest.mark.parametrize("hook", ["connect", "mail", "rcpt", "data"])
def test_text_of_a_hook_leaves_the_log_clean(hook: str, log: list[str]) -> None:
    for text in ("a\x1b[2Jb", "a\r\nb", "\u202eevil", "%s%n{0}", "x" * 5000, "\udc80"):
        one_way([EH, TX + b"BDAT 1 LAST\r\nx"], Script(**{hook: SMTPError(text)}))
    assert log
    assert not [told for told in log if UNCLEAN.search(told.replace("\n", ""))]
    assert all(len(told) <= 8192 for told in log)  # the reply, as it was sent


@row("LOG-01")
def test_the_log_names_the_connection_and_not_the_client(log: list[str]) -> None:
    with Conversation() as session:
        session.do(EH, b"FOO\r\n")
        name = session.wire.session.id
        assert re.fullmatch("[0-9a-v]{16}", name)
        assert any(name in told for told in log)


@row("LOG-04")
@pytest.mark.parametrize("hook", ["connect", "mail", "rcpt", "data"])
def test_the_text_of_an_exception_never_reaches_a_client(hook: str, log: list[str]) -> None:
    secret = "/etc/secret: permission denied"
    run = one_way([EH, TX + b"BDAT 1 LAST\r\nx"], Script(**{hook: OSError(13, secret)}))
    written = b"".join(run.written)
    assert b"secret" not in written
    assert b"Error: local error" in written or hook == "connect"
    assert b"Traceback" not in written
    assert b"OSError" not in written


# --- LOG-05: what we say of ourselves ---


@row("LOG-05")
def test_the_greeting_names_no_program_and_no_version() -> None:
    with Wire(disable_reverse_lookup=True, name="mx.example", auth_optional=True) as wire:
        assert wire.receive() == b"220 mx.example ESMTP\r\n"
    with Wire(disable_reverse_lookup=True, name="mx.example", lmtp=True) as wire:
        assert wire.receive() == b"220 mx.example LMTP\r\n"
    with Wire(disable_reverse_lookup=True, name="mx.example", banner="hello there") as wire:
        assert wire.receive() == b"220 mx.example ESMTP hello there\r\n"


@row("LOG-05")
@pytest.mark.parametrize("option", ["name", "banner"])
def test_a_name_or_banner_that_no_greeting_may_hold_is_refused(option: str) -> None:
    for text in ("a\r\nb", "a\nb", "a\rb", "a\x00b", "a\x1bb", "a\x7fb", "a\x85b", "é"):
        with pytest.raises(ValueError, match=option):
            SMTPServer(**{option: text})


@row("LOG-05")
def test_the_reply_to_help_is_the_same_for_every_argument() -> None:
    run = one_way([EH, b"HELP\r\n", b"HELP MAIL\r\n"])
    replies = parse_replies(b"".join(run.written))
    assert replies[2] == replies[3]
    assert "fastsmtp" not in b"".join(run.written).decode()


# --- what is reported when something is wrong ---


@row("HOOK-19", "LOG-04")
@pytest.mark.parametrize("hook", ["mail", "rcpt", "data"])
def test_a_failing_hook_is_reported_once_with_its_stage(hook: str) -> None:
    told: list[Any] = []
    session = Conversation(Script(**{hook: ValueError("it fails")}))
    session.wire.server.on("error", told.append)
    with session:
        session.do(EH, TX + b"BDAT 1 LAST\r\nx")
    assert [str(error) for error in told] == ["it fails"]
    assert told[0].remote_address == "127.0.0.1"
    assert isinstance(told[0].stage, str)


@row("LOG-01")
def test_an_ordinary_session_is_silent_above_the_level_of_debug(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO, "fastsmtp")
    one_way([EH, TX + b"DATA\r\n", BODY + END, b"FOO\r\n", b"QUIT\r\n"])
    one_way([EH, TX + b"DATA\r\n", BODY, pause(200)])
    one_way([EH, lambda session: session.wire.reset()])
    assert not caplog.records


def raises_at(stage: str) -> Callable[..., object]:
    def hook(*given: Any) -> None:
        raise ValueError(stage)

    return hook


@row("LOG-04", "I10")
def test_a_client_gets_a_fixed_text_for_any_failure() -> None:
    texts = set()
    for name in ("on_mail_from", "on_rcpt_to", "on_data"):
        hooks = {"on_data": lambda *given: given[-1](), name: raises_at(name)}
        with Wire(**DEFAULTS, **hooks) as wire:
            wire.server.on("error", lambda error: None)
            wire.send(EH)
            octets = wire.send(MAIL) + wire.send(RCPT) + wire.send(b"BDAT 1 LAST\r\nx")
            failed = [reply for reply in parse_replies(octets) if reply.code == 451]
            assert codes(octets)
            texts.update(reply.lines for reply in failed)
    assert len(texts) == 1
