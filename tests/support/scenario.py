"""What the row tests share: constants of the catalogue, hooks that record, sessions cut four ways.

A session is a list of steps. Octets are one group of commands, sent without waiting; the replies to
it are awaited before the next step, as a client must at EHLO, AUTH, STARTTLS and DATA. Anything
else is called with the conversation: `FIN`, `RST`, `pause(seconds)`, or what a test needs.
`every_cut` runs the steps with each group whole, octet by octet, and twice cut at random places,
demands one and the same trace of the hooks and the same replies, and returns the first run.

    hooks = Script(data=SMTPError(response_code=554))
    run = every_cut([*PRE, b"text\\r\\n.\\r\\n"], hooks)
    assert run.codes == [*PREPARED, "554 5.6.0"]
    assert [message.body for message in run.messages] == [b"text\\r\\n"]
"""

from __future__ import annotations

import asyncio
import itertools
import random
import re
import socket
import struct
import zlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from fastsmtp.errors import MessageAborted, SMTPError
from fastsmtp.server import SMTPServer
from fastsmtp.testing import Wire, running

EH = b"EHLO c.example\r\n"
LH = b"LHLO c.example\r\n"
TX = b"MAIL FROM:<a@x.example>\r\nRCPT TO:<b@y.example>\r\n"
SMUG = b"MAIL FROM:<evil@x.example>\r\nRCPT TO:<victim@y.example>\r\nDATA\r\nsmuggled\r\n.\r\n"
PRE = (EH, TX + b"DATA\r\n")  # two groups, after which the body begins
LPRE = (LH, TX + b"DATA\r\n")

# What those are answered with, in the form of `Conversation.codes`.
GREETED = ["220", "250"]
MAILED = ["250 2.1.0", "250 2.1.5"]
PREPARED = [*GREETED, *MAILED, "354"]

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

_REPLY_LINE = re.compile(rb"([23][0-5][0-9]|[45][0-9][0-9])([ -])([^\r\n\x00]*)")
_ENHANCED = re.compile(r"([245]\.(?:0|[1-9][0-9]{0,2})\.(?:0|[1-9][0-9]{0,2})) ")
_CONTROLS = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


class ParsedReply(NamedTuple):
    """One reply; `lines` are its texts without code and enhanced code."""

    code: int
    enhanced: str | None
    lines: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.code} {self.enhanced}" if self.enhanced else str(self.code)


def parse_replies(octets: bytes, *, with_enhanced: bool = True) -> list[ParsedReply]:
    """Cut `octets` into whole replies; fails for anything else (RFC 5321 §4.2, RFC 2034 §4).

    with_enhanced: False where no enhanced codes are sent, and a text may begin like one.
    """
    replies: list[ParsedReply] = []
    lines = octets.split(b"\r\n")
    assert lines.pop() == b"", f"a reply is cut off: {octets[-200:]!r}"
    texts: list[str] = []
    first: tuple[bytes, str | None] | None = None
    for line in lines:
        found = _REPLY_LINE.fullmatch(line)
        assert found is not None, f"no reply line: {line!r}"
        assert len(line) <= 510 or line.startswith(b"334 ")  # a challenge, RFC 4954 §4
        text = found[3].decode()
        enhanced = _ENHANCED.match(text) if with_enhanced else None
        facts = found[1], enhanced[1] if enhanced else None
        assert first is None or first == facts, f"two codes in one reply: {lines!r}"
        assert facts[1] is None or facts[1][0] == text[0] == chr(line[0]), line
        first = facts
        texts.append(text[enhanced.end() :] if enhanced else text)
        if found[2] == b" ":
            replies.append(ParsedReply(int(facts[0]), facts[1], tuple(texts)))
            texts, first = [], None
    assert first is None, f"a reply is cut off: {octets[-200:]!r}"
    return replies


def codes(octets: bytes) -> list[str]:
    """Code and enhanced code of each reply, as "250 2.1.0" or "354"."""
    return [str(reply) for reply in parse_replies(octets)]


# --- hooks that record ---


class ReceivedMessage(NamedTuple):
    """What a consumer saw of one message. `reason`: None at the end, else why it was aborted.

    The flags are those at the end. An aborted body and one that passed `size` may go on, so theirs
    are None.
    """

    body: bytes
    reason: str | None = None
    size_exceeded: bool = False
    bare_newline: bool | None = None
    has_nul: bool | None = None
    has_8bit: bool | None = None
    longest_line: int | None = None
    sender: str = ""
    recipients: tuple[str, ...] = ()


LATE = object()  # an answer that the test gives itself, by `Conversation.answer`


@dataclass(frozen=True)
class Script:
    """What the hooks answer: None accepts, an SMTPError rejects, another exception is raised.

    For `LATE` the test answers, by `Conversation.answer`. A callable is asked with (address or
    stream, session). `data` may also be a text or a list; it is answered at the end of the body,
    or, with `read=False`, at once. An aborted body is answered with its MessageAborted, with
    `stubborn` like any other. A hook that is named in `unset` is not given to the server.
    """

    connect: Any = None
    mail: Any = None
    rcpt: Any = None
    data: Any = None
    read: bool = True
    stubborn: bool = False
    unset: tuple[str, ...] = ()


class Recorder:
    """The hooks of one connection. Asserts what holds of every call."""

    def __init__(self, hooks: Script) -> None:
        self.hooks = hooks
        self.trace: list[tuple[Any, ...]] = []
        self.messages: list[ReceivedMessage] = []
        self.late: list[Callable[..., object]] = []
        self.closes = 0
        self._connected = False
        self._running = ""
        self._accepted: list[str] | None = None  # recipients, None without a sender

    def options(self) -> dict[str, Callable[..., object]]:
        """The hooks as the server takes them."""
        names = ("on_connect", "on_mail_from", "on_rcpt_to", "on_data", "on_close")
        return {name: getattr(self, name) for name in names if name not in self.hooks.unset}

    def named(self, event: str) -> list[Any]:
        """What one hook was called for: paths of "mail" and "rcpt", bodies of "message"."""
        return [entry[1] for entry in self.trace if entry[0] == event]

    def _begins(self, hook: str) -> None:
        assert not self._running, f"{hook} was called while {self._running} is at work"
        assert not self.closes, f"{hook} was called after on_close"
        self._running = hook

    def _give(
        self, answer: Any, callback: Callable[..., object], accepted: Any = lambda: None
    ) -> None:
        if answer is LATE:

            def later(*given: object) -> None:
                self._running = ""
                if not given or given[0] is None:
                    accepted()
                callback(*given)

            self.late.append(later)
            return
        self._running = ""
        if isinstance(answer, SMTPError):
            callback(answer)
        elif isinstance(answer, BaseException):
            raise answer
        else:
            accepted()
            callback(None, answer)

    @staticmethod
    def _chosen(answer: Any, about: Any, session: Any) -> Any:
        return answer(about, session) if callable(answer) else answer

    def on_connect(self, session: Any, callback: Callable[..., object]) -> None:
        self._begins("on_connect")
        self._connected = True
        self.trace.append(("connect",))
        self._give(self._chosen(self.hooks.connect, None, session), callback)

    def on_mail_from(self, address: Any, session: Any, callback: Callable[..., object]) -> None:
        self._begins("on_mail_from")
        assert session.envelope.mail_from is None
        assert session.envelope.rcpt_to == []
        assert not _CONTROLS.search(address.raw + repr(address.args))
        envelope = session.envelope
        asked = (envelope.body_type, envelope.smtp_utf8, envelope.dsn.ret, envelope.dsn.envid)
        self.trace.append(("mail", address.raw, dict(address.args), asked, envelope.auth))
        self._accepted = None

        def accepted() -> None:
            self._accepted = []

        self._give(self._chosen(self.hooks.mail, address, session), callback, accepted)

    def on_rcpt_to(self, address: Any, session: Any, callback: Callable[..., object]) -> None:
        self._begins("on_rcpt_to")
        assert session.envelope.mail_from is not None
        assert self._accepted is not None or "on_mail_from" in self.hooks.unset
        assert not _CONTROLS.search(address.raw + repr(address.args))
        dsn = tuple(address.dsn.notify), address.dsn.orcpt
        self.trace.append(("rcpt", address.raw, dict(address.args), dsn))

        def accepted() -> None:
            if self._accepted is not None:
                self._accepted.append(address.raw)

        self._give(self._chosen(self.hooks.rcpt, address, session), callback, accepted)

    def on_data(self, stream: Any, session: Any, callback: Callable[..., object]) -> None:
        self._begins("on_data")
        sender = session.envelope.mail_from.raw
        recipients = tuple(recipient.raw for recipient in session.envelope.rcpt_to)
        assert recipients
        assert self._accepted is None or list(recipients) == self._accepted
        self.trace.append(("data", sender, recipients, session.transaction))
        answer = self._chosen(self.hooks.data, stream, session)
        if not self.hooks.read:
            self._give(answer, callback)
            return
        pieces: list[bytes] = []

        def on_end(error: MessageAborted | None) -> None:
            body = b"".join(pieces)
            assert len(body) == stream.byte_length
            flags: tuple[Any, ...] = (None, None, None, None)
            if error is None and not stream.size_exceeded:
                flags = stream.bare_newline, stream.has_nul, stream.has_8bit, stream.longest_line
            reason = None if error is None else error.reason
            told = ReceivedMessage(body, reason, stream.size_exceeded, *flags, sender, recipients)
            self.messages.append(told)
            self.trace.append(("message", *told))
            self._running = ""
            if error is not None and not self.hooks.stubborn:
                callback(error)
            else:
                self._give(answer, callback)

        stream.consume(pieces.append, on_end)

    def on_close(self, session: Any) -> None:
        assert self._connected or "on_connect" in self.hooks.unset
        self.closes += 1
        self.trace.append(("close",))


# --- sessions ---


def whole(octets: bytes) -> list[bytes]:
    """One segment."""
    return [octets]


def octet_by_octet(octets: bytes) -> list[bytes]:
    """One octet per segment."""
    return [octets[at : at + 1] for at in range(len(octets))]


def split(octets: bytes, cuts: Iterable[int]) -> list[bytes]:
    """Cut at `cuts`, each taken modulo the length; two that are equal give an empty segment."""
    places = sorted(cut % (len(octets) + 1) for cut in cuts)
    return [octets[a:b] for a, b in zip([0, *places], [*places, len(octets)], strict=True)]


def random_cuts(octets: bytes, seed: int = 0) -> list[bytes]:
    """A few cuts, the same at each run; most stand at line ends and dots, where it matters."""
    source = random.Random(zlib.crc32(octets) + seed)
    marks = [] if len(octets) > 65536 else [at.end() for at in re.finditer(rb"[\r\n.]", octets)]
    places = {source.randint(0, len(octets)) for _ in range(source.randint(1, 6))}
    if marks:
        places.update(source.sample(marks, min(len(marks), source.randint(1, 8))))
    ends = [0, *sorted(places), len(octets)]
    return [octets[a:b] for a, b in itertools.pairwise(ends)]


Step = bytes | Callable[["Conversation"], object]
WAYS: dict[str, Callable[[bytes], list[bytes]]] = {
    "whole": whole,
    "octets": octet_by_octet,
    "random": random_cuts,
    "random again": lambda octets: random_cuts(octets, seed=1),
}


class Conversation:
    """One connection over the in-memory wire.

    written: the octets that answered each step, the greeting first.
    """

    def __init__(
        self,
        hooks: Script | None = None,
        cut: Callable[[bytes], list[bytes]] = whole,
        *,
        peer: Any = ("127.0.0.1", 40000),
        **options: Any,
    ) -> None:
        self.recorder = Recorder(hooks or Script())
        self.options = options
        self.cut = cut
        self.steps: list[Step] = []
        self.wire = Wire(peer=peer, **{**DEFAULTS, **self.recorder.options(), **options})
        self.written = [self.wire.receive()]

    def __enter__(self) -> Conversation:
        return self

    def __exit__(self, kind: type[BaseException] | None, *exc_info: object) -> None:
        if kind is None:
            self.finish()
        else:
            self.wire.close()

    @property
    def trace(self) -> list[tuple[Any, ...]]:
        """What the hooks were told, in order."""
        return self.recorder.trace

    @property
    def messages(self) -> list[ReceivedMessage]:
        """What the consumers of mail data were told."""
        return self.recorder.messages

    @property
    def replies(self) -> list[ParsedReply]:
        """All replies so far, the greeting first."""
        return parse_replies(b"".join(self.written))

    @property
    def codes(self) -> list[str]:
        """Code and enhanced code of all replies so far."""
        return [str(reply) for reply in self.replies]

    @property
    def closed(self) -> bool:
        """The server has written its last octet, or dropped the connection."""
        return self.wire.closed

    def do(self, *steps: Step) -> list[str]:
        """Take steps; returns the codes of the replies to them."""
        count = len(self.written)
        for step in steps:
            self.steps.append(step)
            if isinstance(step, bytes):
                self.written.append(self.wire.send(*self.cut(step)))
            else:
                written = step(self)
                known = written if isinstance(written, bytes) else b""
                self.written.append(known + self.wire.receive())
        return codes(b"".join(self.written[count:]))

    def answer(self, *answer: object) -> list[str]:
        """Have the hook that waits (see `LATE`) answer; returns the codes of the replies."""
        callback = self.recorder.late.pop(0)
        return self.do(lambda session: session.wire.loop.step(lambda: callback(*answer)))

    def finish(self) -> Conversation:
        """The client sends FIN, unless it is closed; the connection must end, `on_close` last."""
        try:
            if not self.closed:
                self.do(FIN)
            assert self.closed, "the server does not close"
            if not self.wire.transport.closed:  # the server lingers until the client closes as well
                assert self.wire.eof() == b"", "a reply after the last one"
            assert self.wire.transport.closed, "the server does not let go"
            parse_replies(b"".join(self.written))
            if "on_close" not in self.recorder.hooks.unset and self.trace:
                assert self.recorder.closes == 1
                assert self.trace[-1] == ("close",)
        finally:
            self.wire.close()
        return self


def FIN(session: Conversation) -> bytes:  # noqa: N802 - the name of the segment
    """The client sends FIN, and still reads."""
    return session.wire.eof()


def RST(session: Conversation) -> None:  # noqa: N802
    """The client sends RST."""
    session.wire.reset()


def pause(seconds: float) -> Callable[[Conversation], object]:
    """Let time pass."""
    return lambda session: session.wire.advance(seconds)


def one_way(
    steps: Sequence[Step],
    hooks: Script | None = None,
    cut: Callable[[bytes], list[bytes]] = whole,
    **options: Any,
) -> Conversation:
    """Run one session to its end."""
    with Conversation(hooks, cut, **options) as session:
        session.do(*steps)
    return session


def every_cut(steps: Sequence[Step], hooks: Script | None = None, **options: Any) -> Conversation:
    """Run the steps in each of the ways; all must give the same. Returns the first session."""
    first = one_way(steps, hooks, **options)
    for name, cut in WAYS.items():
        if cut is not whole:
            other = one_way(steps, hooks, cut, **options)
            assert other.written == first.written, f"other replies: {name}"
            assert other.trace == first.trace, f"another trace: {name}"
    return first


async def repeat_on_the_wire(run: Conversation) -> None:
    """Do over a socket what `run` did in memory; replies and trace must be the same.

    Its steps are octets, `FIN` and `RST`. How many octets answer one is known from `run`, so that
    nothing has to be guessed from time.
    """
    recorder = Recorder(run.recorder.hooks)
    server = SMTPServer(**{**DEFAULTS, **recorder.options(), **run.options})
    async with asyncio.timeout(60), running(server) as (host, port):
        reader, writer = await asyncio.open_connection(host, port)
        try:
            assert await reader.readexactly(len(run.written[0])) == run.written[0]
            for step, expected in zip(run.steps, run.written[1:], strict=True):
                if isinstance(step, bytes):
                    writer.write(step)
                elif step is FIN:
                    writer.write_eof()
                else:
                    assert step is RST, "only octets, FIN and RST can be repeated"
                    reset = struct.pack("ii", 1, 0)
                    peer = writer.get_extra_info("socket")
                    peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, reset)
                    writer.transport.abort()
                    break
                assert await reader.readexactly(len(expected)) == expected
            else:
                assert await reader.read() == b""
        finally:
            writer.close()
    assert recorder.trace == run.trace
