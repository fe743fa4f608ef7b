"""Consumers of message bodies, in each way to read a stream, and wires on which a body begins."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hook_kit import MAIL, RCPT, Call, in_style
from scenario import COUNTERS_OFF, DEFAULTS, EH, PRE, codes

from fastsmtp import MessageAborted, MessageTooLarge, SMTPError, SMTPServer
from fastsmtp.testing import Wire

LINE = b"x" * 62 + b"\r\n"
READ = LINE * 1024  # 64 KiB, what one read may bring


class Consumer:
    """Reads a body in one way. `ends`: None for the true end, else the reason, once each.

    A body that is read as a whole is one piece, there at the true end or not at all.
    """

    def __init__(self, way: str, answer: Any = None) -> None:
        self.way = way
        self.answer = answer
        self.pieces: list[bytes] = []
        self.ends: list[str | None] = []
        self.stream: Any = None

    @property
    def body(self) -> bytes:
        return b"".join(self.pieces)

    def hook(self) -> Callable[..., Any]:
        """The `on_data`."""
        style = "callback" if self.way == "consume" else "coroutine"
        return in_style("on_data", style, self._consume if self.way == "consume" else self._read)

    def _consume(self, call: Call) -> None:
        self.stream = call.subject

        def on_end(error: MessageAborted | None) -> None:
            self.ends.append(error and error.reason)
            if isinstance(self.answer, Exception):
                call.callback(self.answer)
            else:
                call.callback(error, self.answer)

        call.subject.consume(self.pieces.append, on_end)

    async def _read(self, call: Call) -> Any:
        stream = self.stream = call.subject
        try:
            if self.way == "async for":
                async for piece in stream:
                    self.pieces.append(piece)
            elif body := await stream.read():
                self.pieces.append(body)
        except MessageAborted as error:
            self.ends.append(error.reason)
            raise
        except MessageTooLarge:
            self.ends.append("too large")
            raise
        self.ends.append(None)
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


each_way = pytest.mark.parametrize("way", ["consume", "read", "async for"])


def begun(hook: Callable[..., Any], **options: Any) -> Wire:
    """A wire after the 354."""
    wire = Wire(**{**DEFAULTS, **COUNTERS_OFF, "on_data": hook, **options})
    for group in PRE:
        wire.send(group)
    return wire


def segments(octets: bytes, size: int) -> Iterator[bytes]:
    return (octets[at : at + size] for at in range(0, len(octets), size))


def chunked(hook: Callable[..., Any], **options: Any) -> Wire:
    """A wire after the first chunk of a message."""
    wire = Wire(**{**DEFAULTS, **COUNTERS_OFF, "on_data": hook, **options})
    wire.send(EH)
    assert codes(wire.send(MAIL + RCPT + b"BDAT 5\r\nbegun"))[2:] == ["250 2.0.0"]
    return wire


class DiscardingList(list[Any]):
    """A list that stays empty, so that nothing it was given counts as held by the engine."""

    def append(self, item: Any) -> None:
        """Keep nothing."""


def server_in_style(style: str, **options: Any) -> SMTPServer:
    """A server whose hooks, all of one style, refuse the recipient "no" and keep nothing."""

    def act(call: Any) -> None:
        if getattr(call.subject, "local_part", "") == "no":
            raise SMTPError("no")
        if call.callback is not None:
            call.callback()

    hooks = {
        name: in_style(name, style, act) for name in ("on_connect", "on_mail_from", "on_rcpt_to")
    }
    consumer = Consumer("consume" if style == "callback" else "read")
    consumer.pieces, consumer.ends = DiscardingList(), DiscardingList()
    hooks["on_data"] = consumer.hook()
    return SMTPServer(**{**DEFAULTS, **hooks, **options})
