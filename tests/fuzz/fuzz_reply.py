"""Replies: whatever a hook answers becomes exactly one reply that parses, or one per recipient.

An input is six octets of choices and then the text, of LMTP several with 0xFF between them.
Asserted: the count, the code, lines of at most 512 octets, nothing in them that is no text, and
that the text is the hook's. RFC 5321 §4.2, RFC 2034 §4, RFC 2033 §4.2.
"""

from __future__ import annotations

import re
from typing import Any

import scenario
from fuzz.clean import UNCLEAN, clean_log
from fuzz.inputs import Input
from shared_loop import shared_loop, uncaught

from fastsmtp import SMTPError
from fastsmtp.testing import Wire

MAX_OCTETS = 9000
STAGES = ("rcpt", "mail", "data", "accepted", "connect")
CODES: tuple[object, ...] = (None, 550, 450, 421, 452, 199, 250, 354, 600, -1, "550", True, 5.5)
ENHANCED = (None, "5.7.1", "4.2.0", "2.0.0", "5.7", "5.07.1", "", "5.1000.1", "\r\n5.7.1", 57)
BEGINS_WITH_A_REPLY_CODE = re.compile(r"\s*([2-5][0-9][0-9])(?:-|(?=\s)|\Z)")
BEGINS_WITH_A_CODE = re.compile(r"[245]\.\d{1,3}\.\d{1,3}(\s|$)")
MAX_TEXT = 4096


def is_code(code: object) -> bool:
    return type(code) is int and 400 <= code <= 599


def error_of(text: str, code: object, enhanced_code: Any = None) -> SMTPError:
    """An error of a hook; a code that no constructor takes is set afterwards."""
    error = SMTPError(text, None, enhanced_code)
    error.response_code = code  # type: ignore[assignment]
    return error


def as_text(octets: bytes, kind: int) -> str:
    """What a hook may have made of these octets."""
    errors = "replace" if kind & 2 else "surrogateescape"
    return octets.decode("latin-1" if kind & 1 else "utf-8", errors)


def words(text: str, utf8: bool) -> str:
    """What must be left of a text on the wire: all but spaces and line ends."""
    text = re.sub("[\r\n]", "", text[:MAX_TEXT]).replace(" ", "")
    return UNCLEAN.sub("?", text) if utf8 else re.sub("[^\x20-\x7e]", "?", text)


def assert_said(reply: scenario.ParsedReply, text: str, utf8: bool) -> None:
    """The reply says what the hook said, with what cannot be said replaced."""
    for line in reply.lines:
        assert not UNCLEAN.search(line)
        assert utf8 or line.isascii()
    if text[:MAX_TEXT].strip("\r\n") and not BEGINS_WITH_A_CODE.match(text):
        assert "".join(reply.lines).replace(" ", "") == words(text, utf8)


class Answers:
    """Hooks of which one answers as the input says, and the others accept."""

    def __init__(self, stage: str, error: SMTPError | None, result: object) -> None:
        self.stage = stage
        self.error = error
        self.result = result

    def options(self) -> dict[str, Any]:
        """Return the hooks."""

        def hook(stage: str) -> Any:
            def answer(*arguments: Any) -> None:
                *_, callback = arguments
                callback(*((self.error, self.result) if stage == self.stage else ()))

            if stage == "connect":
                return lambda session, callback: answer(callback)
            return lambda subject, session, callback: answer(callback)

        names = {"on_connect": "connect", "on_mail_from": "mail", "on_rcpt_to": "rcpt"}
        return {name: hook(stage) for name, stage in names.items()} | {"on_data": hook("data")}


def replies_to(answers: Answers, lmtp: bool, utf8: bool, recipients: int, **options: Any) -> Any:
    """Run a session up to the reply in question; returns the replies to that step."""
    given = {**scenario.DEFAULTS, **answers.options(), "lmtp": lmtp, **options}
    with Wire(loop=shared_loop(), **given) as wire:
        last = wire.receive()
        parameter = b" SMTPUTF8" if utf8 else b""
        steps = [("", scenario.LH if lmtp else scenario.EH)]
        steps.append(("mail", b"MAIL FROM:<a@x.example>" + parameter + b"\r\n"))
        steps += [("rcpt", b"RCPT TO:<b@y.example>\r\n")] * recipients
        steps += [("", b"DATA\r\n"), ("data", b"text\r\n.\r\n")]
        if answers.stage != "connect":
            for stage, octets in steps:
                last = wire.send(octets)
                if stage == answers.stage:
                    break
        has_enhanced = answers.stage != "connect" and not options
        found = scenario.parse_replies(last, with_enhanced=has_enhanced)
        closes = any(reply.code == 421 for reply in found)
        assert wire.closed is (closes or answers.stage == "connect")
    assert not uncaught, uncaught
    return found


def check_error(given: Input) -> None:
    stage, kind = given.choice(("rcpt", "mail", "data", "connect")), given.octet()
    code = given.choice((*CODES, int.from_bytes(bytes([given.octet(), given.octet()]))))
    enhanced_code: Any = given.choice(ENHANCED)
    text = as_text(given.rest(), kind)
    utf8, lmtp, shows = bool(kind & 4), bool(kind & 8), not kind & 16
    error = error_of(text, code, enhanced_code)
    answers = Answers(stage, error, None)
    options = {} if lmtp or shows else {"hide_enhancedstatuscodes": True}
    recipients = 1 + (kind >> 5 & 3 if stage == "data" else 0)
    found = replies_to(answers, lmtp, utf8, recipients, **options)
    assert len(found) == (recipients if lmtp and stage == "data" else 1)
    default = {"rcpt": 550, "mail": 550, "data": 450, "connect": 554}[stage]
    failed = 421 if stage == "connect" else 451
    expected = default if code is None else code if is_code(code) else failed
    for reply in found:
        assert reply.code == expected
        assert (reply.enhanced is None) is (stage == "connect" or bool(options))
        if code is None or is_code(code):
            assert_said(reply, text, utf8 and stage != "connect")


def check_accepted(given: Input) -> None:
    """Texts of on_data; a list of them, errors among them, in LMTP."""
    kind = given.octet()
    lmtp, utf8 = bool(kind & 8), bool(kind & 4)
    code = given.choice(CODES)
    recipients = 1 + (kind >> 5 & 3)
    parts = [as_text(part, kind) for part in given.rest().split(b"\xff")]
    entries: list[Any] = [
        (part, None, error_of(part, code), part.encode("utf-8", "replace"))[(kind + at) % 4]
        for at, part in enumerate(parts)
    ]
    result = entries if kind & 16 else entries[0]
    found = replies_to(Answers("data", None, result), lmtp, utf8, recipients)
    assert len(found) == (recipients if lmtp else 1)
    if isinstance(result, list) and not lmtp:
        assert found[0].code == 451
        return
    answered = result if isinstance(result, list) else [result] * recipients
    missing: list[Any] = [b""] * recipients
    for reply, entry in zip(found, [*answered, *missing], strict=False):
        if isinstance(entry, str) and (began := BEGINS_WITH_A_REPLY_CODE.match(entry[:MAX_TEXT])):
            assert reply.code == (250 if began[1] == "250" else 451)
            entry = entry[:MAX_TEXT][began.end() :].lstrip()
        elif isinstance(entry, str) or entry is None:
            assert reply.code == 250
        elif isinstance(entry, SMTPError) and isinstance(result, list):
            assert reply.code == (450 if code is None else code if is_code(code) else 451)
        else:
            assert reply.code == 451
        if reply.code != 451 and entry is not None:
            assert_said(reply, str(entry), utf8)


def check(octets: bytes) -> None:
    """Assert the invariants for one input."""
    given = Input(octets[:MAX_OCTETS])
    with clean_log():
        (check_error, check_accepted)[given.octet() & 1](given)
