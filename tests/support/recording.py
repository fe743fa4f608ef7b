"""Hooks that record what they are told, and a run of one session over the in-memory wire.

What a hook answers is a function of the addresses, so that two runs of the same octets can be
compared: local part `no` is refused with 550, `later` with 450, `bye` with 421, `boom` raises. What
`on_data` answers is said by the sender's domain, likewise; under `early` it accepts before the
first octet, under `list` it answers two entries.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from fastsmtp.errors import MessageAborted, SMTPError
from fastsmtp.testing import VirtualLoop, Wire

DEFAULTS: dict[str, Any] = {
    "name": "srv.test",
    "auth_optional": True,
    "disable_reverse_lookup": True,
}
COUNTERS_OFF: dict[str, Any] = {
    "max_unrecognized_commands": None,
    "max_errors": None,
    "max_junk_commands": None,
}
CODES = {"no": 550, "later": 450, "bye": 421}

_loops: list[VirtualLoop] = []
uncaught: list[dict[str, Any]] = []  # what a callback of the shared loop has raised: nothing

_REPLY_LINE = re.compile(rb"([23][0-5][0-9]|[45][0-9][0-9])([ -])([\x20-\x7e]*)")


def shared_loop() -> VirtualLoop:
    """One loop for all runs of a test file: thousands of runs would open as many selectors."""
    if not _loops:
        _loops.append(VirtualLoop())
        _loops[0].set_exception_handler(lambda loop, context: uncaught.append(context))
    return _loops[0]


@contextmanager
def quiet() -> Iterator[None]:
    """Hooks that fail on purpose, a million times, are not worth a line of log each."""
    logger = logging.getLogger("fastsmtp")
    before, logger.disabled = logger.disabled, True
    try:
        yield
    finally:
        logger.disabled = before


def close_shared_loop() -> None:
    """The file is done."""
    while _loops:
        _loops.pop().close()
    uncaught.clear()


def parse_replies(octets: bytes) -> list[bytes]:
    """Cut `octets` into whole replies (their lines joined by LF); anything else fails."""
    replies = []
    lines = octets.split(b"\r\n")
    assert lines.pop() == b"", f"a reply is cut off: {octets!r}"
    reply: list[bytes] = []
    for line in lines:
        found = _REPLY_LINE.fullmatch(line)
        assert found is not None, f"no reply line: {line!r}"
        assert len(line) <= 510
        assert not reply or reply[0][:3] == found[1], f"two codes in one reply: {lines!r}"
        reply.append(line)
        if found[2] == b" ":
            replies.append(b"\n".join(reply))
            reply = []
    assert not reply, f"a reply is cut off: {octets!r}"
    return replies


def refuse(kind: str, callback: Callable[..., object]) -> bool:
    """Answer as `kind` says, unless it says nothing of a refusal."""
    if kind == "boom":
        raise RuntimeError("a hook that fails")
    if kind in CODES:
        callback(SMTPError("refused\r\n" if kind == "no" else "", response_code=CODES[kind]))
        return True
    return False


class Recorder:
    """The trace of one connection; `hooks()` goes into the options of the server."""

    def __init__(self) -> None:
        self.trace: list[tuple[Any, ...]] = []

    def hooks(self) -> dict[str, Callable[..., object]]:
        """The hooks of the plain dialogue."""
        return {
            "on_connect": self.on_connect,
            "on_mail_from": self.on_mail_from,
            "on_rcpt_to": self.on_rcpt_to,
            "on_data": self.on_data,
            "on_close": self.on_close,
        }

    def _note(self, event: str, session: Any, *more: Any) -> None:
        greeting = session.opening_command, session.host_name_appears_as
        kind = session.transmission_type, session.transaction, session.error
        envelope = session.envelope
        sender = envelope.mail_from and envelope.mail_from.raw
        recipients = [recipient.raw for recipient in envelope.rcpt_to]
        asked = envelope.body_type, envelope.smtp_utf8, envelope.dsn.ret, envelope.dsn.envid
        self.trace.append((event, greeting, kind, sender, recipients, asked, *more))

    def on_connect(self, session: Any, callback: Callable[..., object]) -> None:
        self._note("connect", session)
        callback()

    def on_mail_from(self, address: Any, session: Any, callback: Callable[..., object]) -> None:
        self._note("mail", session, address.address, address.raw, dict(address.args))
        if not refuse(address.local_part, callback):
            callback()

    def on_rcpt_to(self, address: Any, session: Any, callback: Callable[..., object]) -> None:
        dsn = list(address.dsn.notify), address.dsn.orcpt
        self._note("rcpt", session, address.address, address.raw, dict(address.args), dsn)
        if not refuse(address.local_part, callback):
            callback()

    def on_data(self, stream: Any, session: Any, callback: Callable[..., object]) -> None:
        self._note("data", session)
        sender = session.envelope.mail_from
        kind = sender.domain.partition(".")[0]
        if kind == "early":
            callback()
            return
        pieces: list[bytes] = []

        def on_end(error: MessageAborted | None) -> None:
            body = b"".join(pieces)
            assert len(body) == stream.byte_length
            if error is not None:
                self.trace.append(("aborted", error.reason, body))
                callback(error)
                return
            flags: tuple[object, ...] = ()
            if not stream.size_exceeded:  # else the body has an end that was not seen yet
                flags = (stream.bare_newline, stream.has_nul, stream.has_8bit, stream.longest_line)
            self.trace.append(("body", body, stream.size_exceeded, flags))
            if not refuse(kind, callback):
                answer = [SMTPError("not this one", response_code=550), "ok"]
                callback(None, answer if kind == "list" else "queued")

        stream.consume(pieces.append, on_end)

    def on_close(self, session: Any) -> None:
        self._note("close", session)


class Run:
    """A connection of its own server; `trace` and `replies` are what is compared."""

    def __init__(self, **options: Any) -> None:
        self._recorder = Recorder()
        self.wire = Wire(loop=shared_loop(), **{**DEFAULTS, **self._recorder.hooks(), **options})
        self.wire.server.on("error", lambda error: None)  # hooks fail on purpose
        self.trace = self._recorder.trace
        self.replies = b""
        self.collect()

    def collect(self, written: bytes = b"") -> bytes:
        """What was written since the last call, also added to `replies`."""
        written += self.wire.receive()
        self.replies += written
        return written

    def send(self, segments: Iterable[bytes]) -> bytes:
        """Send segment by segment; returns the replies."""
        written = b""
        for segment in segments:
            if self.wire.closed:
                break
            written += self.collect(self.wire.send(segment))
        return written

    def finish(self) -> Run:
        """The client says that it is done; the connection must end, with `on_close` last."""
        if not self.wire.transport.closed:
            self.collect(self.wire.eof())
        assert self.wire.transport.closed
        assert [event[0] for event in self.trace].count("close") == 1
        assert self.trace[-1][0] == "close"
        parse_replies(self.replies)
        assert not uncaught, uncaught
        return self


def split(octets: bytes, cuts: Iterable[int]) -> list[bytes]:
    """Cut at `cuts`, each taken modulo the length; two that are equal give an empty segment."""
    places = sorted(cut % (len(octets) + 1) for cut in cuts)
    return [octets[a:b] for a, b in zip([0, *places], [*places, len(octets)], strict=True)]


def octet_by_octet(octets: bytes) -> list[bytes]:
    """One octet per segment."""
    return [octets[at : at + 1] for at in range(len(octets))]
