"""One session for `fuzz_session`: a case read from octets, hooks that record, a client that acts.

A case is three octets of options and then what the client sends, with 0xFE before an operation:

    |        a new segment              m r d + octet   from now on that hook answers so
    B b      70 000, 500 octets         a A + octet     a late hook answers; it answers again
    0 to 9   time passes                H G             the consumer stops reading; goes on
    F R      FIN, RST                   S T t           the client takes no output; all; a little
    X        the server closes
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, NamedTuple

import scenario
from fuzz.inputs import Input
from shared_loop import shared_loop

from fastsmtp import MessageAborted, SMTPError
from fastsmtp._smtp.states import State
from fastsmtp.testing import VirtualLoop, Wire

MAX_READ = 200_000  # octets of one segment; a loop reads about so many at once
MOST_MESSAGES = 300  # in the octets of one input
TIMES = (1, 5, 29, 31, 59, 61, 179, 181, 241, 301)
OUTCOMES = (
    *("accept", "550", "450", "421", "raise", "nonsense", "late"),
    *("text", "list", "early", "early 550"),
)
FILLERS = {b"B": (b"x" * 98 + b"\r\n") * 700, b"b": b"x" * 500}
WITH_ARGUMENT = b"mrdaA"
OPERATIONS = b"|0123456789FRSTtXBbGH" + WITH_ARGUMENT
SIZES = (26_214_400, 0, 20, 100_000)
LIMITS: tuple[dict[str, Any], ...] = (
    {},
    scenario.COUNTERS_OFF,
    {"max_errors": 2, "max_recipients": 1, "max_messages": 1},
    {"max_unrecognized_commands": 2, "max_junk_commands": 2},
)
EXTENSIONS: tuple[dict[str, Any], ...] = (
    {},
    {"hide_binarymime": False, "allow_unknown_params": True},
    {"hide_chunking": True, "hide_dsn": True, "hide_smtputf8": True},
    {"disabled_commands": ["BDAT", "VRFY"], "hide_size": True},
)

Action = tuple[bytes, Any]


class Case(NamedTuple):
    """Options of the server and of its hooks, and what is done."""

    options: dict[str, Any]
    style: str  # of the hooks: callback, coroutine, both
    pulls: bool  # on_data is a coroutine that reads
    connect: str  # what on_connect answers
    actions: list[Action]

    @property
    def is_lmtp(self) -> bool:
        """Whether it is LMTP."""
        return bool(self.options["lmtp"])


def read_case(octets: bytes) -> Case:
    """Read a case; every input is one."""
    given = Input(octets)
    first, second, third = given.octet(), given.octet(), given.octet()
    options = {
        "bare_newline": ("reject", "accept", "normalize", "reject")[first & 3],
        "lmtp": bool(first & 4),
        "strict_pipelining": bool(first & 8),
        "size": SIZES[second & 3],
        "close_timeout": 20.0,
        **LIMITS[second >> 2 & 3],
        **EXTENSIONS[second >> 4 & 3],
    }
    if second & 64:
        options["max_command_length"] = 512
    if second & 128 and not first & 4:
        options["hide_enhancedstatuscodes"] = True
    if third & 16:
        options["allow_bare_lf_commands"] = ["192.0.2.0/24"]
    options["lenient_address_parsing"] = (False, "common", True, False)[third >> 5 & 3]
    style = ("callback", "coroutine", "both", "callback")[first >> 4 & 3]
    connect = OUTCOMES[third % 16] if third % 16 in (1, 3, 4, 5, 6) else "accept"
    return Case(options, style, bool(first & 64), connect, read_actions(given.rest()))


def read_actions(octets: bytes) -> list[Action]:
    """Cut into runs of segments, `(b"", segments)`, and operations with their arguments."""
    text, *parts = octets.split(b"\xfe")
    segments = [text]
    actions: list[Action] = []

    for part in parts:
        name = part[:1]
        if not name or name not in OPERATIONS:
            segments[-1] += b"\xfe" + part
            continue
        text = part[1:]
        if name == b"|":
            segments.append(text)
        elif name in FILLERS:
            segments[-1] += FILLERS[name] + text
        else:
            argument = 0
            if name in WITH_ARGUMENT:
                argument, text = (part[1:2] or b"\x00")[0], part[2:]
            actions += [(b"", [segment for segment in segments if segment]), (name, argument)]
            segments = [text]
    return [*actions, (b"", [segment for segment in segments if segment])]


class Body(NamedTuple):
    """How the consumer saw a body end; what an aborted one had brought depends on time."""

    reason: str | None
    octets: bytes | None
    flags: tuple[object, ...] = ()


class Recorder:
    """The hooks of one connection: what they are told, and whether they may be called."""

    def __init__(self, case: Case, loop: VirtualLoop) -> None:
        self.loop = loop
        self.answers = {"connect": case.connect, "mail": "accept", "rcpt": "accept"}
        self.answers["data"] = "accept"
        self.trace: list[tuple[Any, ...]] = []
        self.bodies: dict[int, Body] = {}
        self.late: list[Callable[..., object]] = []
        self.answered: list[Callable[..., object]] = []
        self.accepted: list[str] = []
        self.messages_accepted = 0
        self.most_recipients = 1
        self.connects = self.closes = 0
        self.gate: asyncio.Event | None = None
        self._pending: tuple[str, float] | None = None
        self._style = case.style
        self._pulls = case.pulls

    def hooks(self) -> dict[str, Any]:
        """Return the hooks as the server takes them."""
        plain = {
            "on_connect": lambda session, callback: self.on_connect(callback),
            "on_mail_from": self.on_mail_from,
            "on_rcpt_to": self.on_rcpt_to,
        }
        if self._style == "coroutine":
            plain["on_connect"] = lambda session: self._wait(self.on_connect)
            plain = {name: self._as_coroutine(name, hook) for name, hook in plain.items()}
        elif self._style == "both":
            plain = {name: self._as_both(name, hook) for name, hook in plain.items()}
        on_data: Any = self.on_data_pulling if self._pulls else self.on_data
        return {**plain, "on_data": on_data, "on_close": self.on_close}

    async def _wait(self, hook: Callable[..., object], *arguments: Any) -> None:
        future = self.loop.create_future()

        def callback(error: BaseException | None = None, result: object = None) -> None:
            if not future.done():
                future.set_result(None) if error is None else future.set_exception(error)

        hook(*arguments, callback)
        await future

    def _as_coroutine(self, name: str, hook: Any) -> Any:
        async def on_connect(session: Any) -> None:
            await hook(session)

        async def on_address(address: Any, session: Any) -> None:
            await self._wait(hook, address, session)

        return on_connect if name == "on_connect" else on_address

    def _as_both(self, name: str, hook: Any) -> Any:
        async def on_connect(session: Any, callback: Any) -> None:
            hook(session, callback)
            self._pending = None  # a coroutine that ends without having called has failed

        async def on_address(address: Any, session: Any, callback: Any) -> None:
            hook(address, session, callback)
            self._pending = None

        return on_connect if name == "on_connect" else on_address

    def _begins(self, name: str) -> None:
        assert not self.closes, f"{name} was called after on_close"
        if self._pending is not None:
            before, began = self._pending
            assert self.loop.time() - began >= 30, f"{name} was called while {before} is at work"
        self._pending = (name, self.loop.time())

    def give(self, outcome: str, callback: Callable[..., object], then: Any = None) -> None:
        """Answer a hook; `then` is called if that accepts."""
        if outcome == "late":
            self.late.append(lambda outcome: self.give(outcome, callback, then))
            return
        self._pending = None
        self.answered.append(callback)
        if outcome == "raise":
            raise RuntimeError("a hook that fails")
        if outcome == "nonsense":
            callback(SMTPError("", 250))
        elif outcome[-3:].isdigit():
            callback(SMTPError("no\r\nnever", int(outcome[-3:])))
        else:
            if then is not None:
                then()
            texts = {"text": "yes\r\nalways", "list": ["ok", SMTPError("", 450)]}
            callback(None, texts.get(outcome))

    def on_connect(self, callback: Callable[..., object]) -> None:
        self.connects += 1
        self._begins("on_connect")
        self.give(self.answers["connect"], callback)

    def on_mail_from(self, address: Any, session: Any, callback: Callable[..., object]) -> None:
        self._begins("on_mail_from")
        envelope = session.envelope
        assert envelope.mail_from is None
        assert envelope.rcpt_to == []
        self.accepted = []
        asked = envelope.body_type, envelope.smtp_utf8, envelope.dsn.ret, envelope.dsn.envid
        self.trace.append(("mail", address.raw, dict(address.args), asked))
        self.give(self.answers["mail"], callback)

    def on_rcpt_to(self, address: Any, session: Any, callback: Callable[..., object]) -> None:
        self._begins("on_rcpt_to")
        assert session.envelope.mail_from is not None
        dsn = tuple(address.dsn.notify), address.dsn.orcpt
        self.trace.append(("rcpt", address.raw, dict(address.args), dsn))
        self.give(self.answers["rcpt"], callback, lambda: self.accepted.append(address.raw))

    def _begin_body(self, session: Any) -> tuple[int, str]:
        assert not self.closes
        assert self._pending is None or self.loop.time() - self._pending[1] >= 30
        recipients = [recipient.raw for recipient in session.envelope.rcpt_to]
        assert recipients
        assert all(recipients.count(raw) <= self.accepted.count(raw) for raw in recipients)
        self.most_recipients = max(self.most_recipients, len(recipients))
        sender = session.envelope.mail_from.raw
        self.trace.append(("data", sender, tuple(recipients), session.transaction))
        return len(self.trace), self.answers["data"]

    def _accepts(self) -> None:
        self.messages_accepted += 1

    def _end_body(self, key: int, error: MessageAborted | None, octets: bytes, stream: Any) -> None:
        assert key not in self.bodies, "a body ended twice"
        if error is not None:
            self.bodies[key] = Body(error.reason, None)
            return
        assert len(octets) == stream.byte_length
        flags: tuple[object, ...] = (stream.size_exceeded,)
        if not stream.size_exceeded:  # else what is known depends on how much has come by now
            flags += stream.bare_newline, stream.has_nul, stream.has_8bit, stream.longest_line
        self.bodies[key] = Body(None, octets, flags)

    def on_data(self, stream: Any, session: Any, callback: Callable[..., object]) -> None:
        key, outcome = self._begin_body(session)
        if outcome.startswith("early"):
            self.give(outcome, callback, self._accepts)
            return
        pieces: list[bytes] = []

        def on_end(error: MessageAborted | None) -> None:
            self._end_body(key, error, b"".join(pieces), stream)
            if error is not None:
                callback(error)
            else:
                self.give(outcome, callback, self._accepts)

        stream.consume(pieces.append, on_end)

    async def on_data_pulling(self, stream: Any, session: Any) -> object:
        key, outcome = self._begin_body(session)
        pieces: list[bytes] = []
        try:
            while not outcome.startswith("early"):
                if self.gate is not None:
                    await self.gate.wait()
                piece = await anext(stream, None)
                if piece is None:
                    self._end_body(key, None, b"".join(pieces), stream)
                    break
                pieces.append(piece)
        except MessageAborted as error:
            self._end_body(key, error, b"", stream)
            raise
        future: asyncio.Future[object] = self.loop.create_future()

        def callback(error: BaseException | None = None, result: object = None) -> None:
            if not future.done():
                future.set_result(result) if error is None else future.set_exception(error)

        self.give(outcome, callback, self._accepts)
        return await future

    def on_close(self, session: Any) -> None:
        self.closes += 1


class Client:
    """The client of one case; after each action the invariants of that moment are looked at."""

    def __init__(self, case: Case) -> None:
        self.case = case
        self.loop = shared_loop()
        self.loop._virtual.time = 0.0  # each case the same, whatever came before it
        self.recorder = Recorder(case, self.loop)
        hooks = self.recorder.hooks()
        self.wire = Wire(loop=self.loop, **{**scenario.DEFAULTS, **hooks, **case.options})
        self.wire.server.on("error", lambda error: None)  # hooks fail on purpose
        self.transport: Any = self.wire.transport
        self.written = self.wire.receive()
        self.sent_line_ends = 0
        self._queue: list[bytes | None] = []  # None is FIN
        self._closing: asyncio.Task[None] | None = None
        resume = self.transport.resume_reading

        def resume_reading() -> None:
            resume()
            self.loop.call_soon(self._pump)

        self.transport.resume_reading = resume_reading

    def _pump(self) -> None:
        """Deliver one segment, as a loop does: not while reading is paused."""
        if not self._queue or not self.transport.is_reading():
            return
        segment = self._queue.pop(0)
        if segment is None:
            self._queue.clear()
            self.wire.connection.eof_received()
            return
        self.sent_line_ends += segment.count(b"\n")
        self.wire.connection.data_received(segment)
        if self._queue:
            self.loop.call_soon(self._pump)

    def act(self, action: Action) -> None:
        """Do one thing, and let everything happen that is due now."""
        name, argument = action
        if name == b"":
            for segment in argument:
                ends = range(0, len(segment), MAX_READ)
                self._queue += [segment[at : at + MAX_READ] for at in ends]
            self.loop.step(self._pump)
        elif name.isdigit():
            self.loop.advance(TIMES[int(name)])
        elif name == b"F":
            self._queue.append(None)
            self.loop.step(self._pump)
        elif name == b"R":
            self._queue.clear()
            self.wire.reset()
        else:
            self._act_on_hooks(name, argument)
        self.written += self.wire.receive()
        self._look()

    def _act_on_hooks(self, name: bytes, argument: int) -> None:
        recorder = self.recorder
        if name in b"mrd":
            hook = {b"m": "mail", b"r": "rcpt", b"d": "data"}[name]
            recorder.answers[hook] = OUTCOMES[argument % len(OUTCOMES)]
        elif name == b"a" and recorder.late:
            late, outcome = recorder.late.pop(0), OUTCOMES[argument % 4]
            self.loop.step(lambda: self._guarded(late, outcome))
        elif name == b"A" and recorder.answered:
            again = recorder.answered[argument % len(recorder.answered)]
            self.loop.step(lambda: self._guarded(again))
        elif name == b"S":
            self.wire.stop_reading()
        elif name in b"Tt" and not self.transport.takes_output:
            self.wire.take(None if name == b"T" else 1000)
        elif name == b"H" and recorder.gate is None:
            recorder.gate = asyncio.Event()
        elif name == b"G" and recorder.gate is not None:
            self.loop.step(recorder.gate.set)
            recorder.gate = None
        elif name == b"X" and self._closing is None:
            self._closing = self.loop.create_task(self.wire.server.close())
            self.loop.advance()

    @staticmethod
    def _guarded(callback: Callable[..., object], *arguments: object) -> None:
        """A second answer raises in the hook, or does nothing where the first came too late."""
        try:
            callback(*arguments)
        except RuntimeError as error:
            if "second time" not in str(error):
                raise

    @property
    def dialogue(self) -> Any:
        """The dialogue of the connection."""
        return self.wire.connection.protocol

    def _look(self) -> None:
        """What one connection holds is bounded, whatever came in."""
        held = self.transport.get_write_buffer_size()
        dialogue = self.dialogue
        if dialogue is not None and dialogue.mail_data is not None:  # they are dropped at the end
            message = dialogue.mail_data.message
            held += dialogue.parser.buffered + (0 if message is None else message.stream._buffered)
        assert held < 400 * 1024, f"{held} octets are held"
        assert self.recorder.closes <= 1

    @property
    def is_idle(self) -> bool:
        """Greeted, no transaction open, nothing waited for and nothing left to do."""
        if self.wire.closed or self._queue or self._closing or not self.transport.takes_output:
            return False
        dialogue = self.dialogue
        if dialogue is None or dialogue.waiting is not None or dialogue.parser.buffered:
            return False
        if dialogue.clock.receiving:  # of a refused chunk, too
            return False
        return bool(dialogue.state == State.GREETED and dialogue.mail_data.message is None)

    def finish(self) -> None:
        """The client leaves, and long enough after that nothing of the connection is there."""
        if not self.transport.closed:
            if not self.transport.takes_output:
                self.transport.takes_output = True
                self.wire.take()
            self._queue.append(None)
            self.loop.step(self._pump)
            for _ in range(MOST_MESSAGES):  # each may have a hook that never answers
                self.loop.advance(300)
                if self.transport.closed:
                    break
            self.written += self.wire.receive()
            assert self.transport.closed, "the server does not let go"
        self.loop.advance(300)
        recorder = self.recorder
        assert recorder.closes == recorder.connects
        assert not self.wire.server.connections
        if self._closing is not None:
            assert self._closing.done()
            self._closing.result()
        left = asyncio.all_tasks(self.loop)
        assert not left, f"tasks still running: {left}"
        timers = [timer for timer in self.loop._scheduled if not timer.cancelled()]  # type: ignore[attr-defined]
        assert not timers, f"timers still armed: {timers}"
