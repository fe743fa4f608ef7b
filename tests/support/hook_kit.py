"""One hook with a fault, in any of the three styles, and a connection that is brought to it.

    with AtHook("on_rcpt_to", "coroutine", fails) as met:
        assert met.reply == "451 4.3.0"
        met.go_on()

The fault comes at the first call of that hook; later calls, and all other hooks, accept.
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable
from typing import Any, NamedTuple

from scenario import DEFAULTS, EH, LH, codes

from fastsmtp import SMTPError
from fastsmtp.server import SMTPServer
from fastsmtp.testing import VirtualLoop, Wire

STYLES = ("callback", "coroutine", "coroutine with callback")
MAIL = b"MAIL FROM:<a@x.example>\r\n"
RCPT = b"RCPT TO:<b@y.example>\r\n"
BODY = b"Subject: x\r\n\r\ntext\r\n"
END = b".\r\n"


class OddException(BaseException):
    """An exception that is neither an `Exception` nor the end of the process."""


class AcceptingError(SMTPError):
    """An error whose code accepts; set on the class, where no constructor sees it."""

    response_code = 250


class Call(NamedTuple):
    """One call of a hook. `subject`: address or stream; `callback`: None in style "coroutine"."""

    subject: Any
    session: Any
    callback: Any


Act = Callable[[Call], Any]


class Stage(NamedTuple):
    """How a connection comes to a hook, and what the hook's answers are on the wire."""

    before: tuple[bytes, ...]
    trigger: tuple[bytes, ...]
    accepted: str
    rejected: str  # by an SMTPError without a code
    failed: str


STAGES = {
    "on_connect": Stage((), (), "220", "554", "421"),
    "on_helo": Stage((), (EH,), "250", "550", "451"),
    "on_vrfy": Stage((EH,), (b"VRFY x\r\n",), "252 2.0.0", "550 5.1.1", "451 4.3.0"),
    "on_mail_from": Stage((EH,), (MAIL,), "250 2.1.0", "550 5.7.1", "451 4.3.0"),
    "on_rcpt_to": Stage((EH, MAIL), (RCPT,), "250 2.1.5", "550 5.1.1", "451 4.3.0"),
    "on_data": Stage(
        (EH, MAIL + RCPT), (b"DATA\r\n", BODY + END), "250 2.6.0", "450 4.7.1", "451 4.3.0"
    ),
}
# Hooks that answer a command: what goes wrong there costs the command, not the connection.
COMMANDS = ("on_mail_from", "on_rcpt_to", "on_data")


async def forever() -> None:
    """Never answer."""
    await asyncio.Event().wait()


def accept(call: Call) -> None:
    """What an honest hook does."""
    if call.callback is not None:
        call.callback()


def hold(loop: VirtualLoop, seconds: float) -> None:
    """What `time.sleep` in a hook is to the clocks: time passes, and nothing else can happen."""
    loop._virtual.time += seconds
    loop._virtual.until = max(loop._virtual.until, loop._virtual.time)


async def _awaited(result: Any) -> Any:
    return await result if inspect.isawaitable(result) else result


def in_style(name: str, style: str, act: Act) -> Callable[..., Any]:
    """Make hook `name` of `act`, which may be a coroutine function where the style allows that."""
    if name == "on_connect":

        def plain_connect(session: Any, callback: Any) -> None:
            act(Call(None, session, callback))

        async def coroutine_connect(session: Any) -> Any:
            return await _awaited(act(Call(None, session, None)))

        async def both_connect(session: Any, callback: Any) -> None:
            await _awaited(act(Call(None, session, callback)))

        return dict(zip(STYLES, (plain_connect, coroutine_connect, both_connect), strict=True))[
            style
        ]

    def plain(subject: Any, session: Any, callback: Any) -> None:
        act(Call(subject, session, callback))

    async def coroutine(subject: Any, session: Any) -> Any:
        return await _awaited(act(Call(subject, session, None)))

    async def both(subject: Any, session: Any, callback: Any) -> None:
        await _awaited(act(Call(subject, session, callback)))

    return dict(zip(STYLES, (plain, coroutine, both), strict=True))[style]


class AtHook:
    """A connection that was brought to hook `name`.

    reply: what the hook's answer became on the wire, "" while there is none. codes: all replies,
    those before it too. errors: what the event `error` reported, unless `listen` is False.
    """

    def __init__(
        self,
        name: str,
        style: str,
        act: Act,
        *,
        listen: bool = True,
        bring: bool = True,
        **options: Any,
    ) -> None:
        self.stage = STAGES[name]
        self.greeting = LH if options.get("lmtp") else EH
        self.errors: list[BaseException] = []
        self.loop_errors: list[dict[str, Any]] = []
        self.codes: list[str] = []
        self.written = b""
        self.reply = ""
        self.calls = self.closes = 0
        self._act = act
        hooks: dict[str, Any] = {"on_data": lambda stream, session, callback: callback()}
        hooks |= {name: in_style(name, style, self._once), "on_close": self._on_close}
        self.loop = VirtualLoop()
        self.loop.set_exception_handler(lambda loop, about: self.loop_errors.append(about))
        self.server = SMTPServer(**{**DEFAULTS, **hooks, **options})
        if listen:
            self.server.on("error", self.note)
        self.wire = Wire.__new__(Wire)  # it is there even if `on_connect` ends the process
        if bring:
            try:
                self.bring()
            except BaseException:
                self.close()
                raise

    def __enter__(self) -> AtHook:
        return self

    def __exit__(self, kind: type[BaseException] | None, *exc_info: object) -> None:
        try:
            if kind is None:
                self.finish()
        finally:
            self.close()

    def note(self, error: BaseException) -> None:
        """Keep what a hook did; that a client was lost is no fault of a hook."""
        if getattr(error, "stage", "") != "socket":
            self.errors.append(error)

    def bring(self) -> None:
        """Connect, and go on until the hook was called."""
        self.wire.__init__(self.server, loop=self.loop)  # type: ignore[misc]
        replies = self.told(self.wire.receive())
        for group in self.stage.before:
            self.say(self.greeting if group == EH else group)
        if self.stage.trigger:
            replies = [code for group in self.stage.trigger for code in self.say(group)]
        self.reply = next((code for code in replies if code != "354"), "")

    def _once(self, call: Call) -> Any:
        self.calls += 1
        return self._act(call) if self.calls == 1 else accept(call)

    def _on_close(self, session: Any) -> None:
        self.closes += 1

    def say(self, *segments: bytes) -> list[str]:
        """Send, and return the codes of the replies."""
        return self.told(self.wire.send(*segments))

    def wait(self, seconds: float) -> list[str]:
        """Let time pass, and return the codes of the replies."""
        return self.told(self.wire.advance(seconds))

    def step(self, action: Callable[[], object]) -> list[str]:
        """Do something inside the loop, and return the codes of the replies."""
        self.wire.loop.step(action)
        return self.told(self.wire.receive())

    def told(self, octets: bytes) -> list[str]:
        """Note what was written."""
        self.written = octets
        found = codes(octets)
        self.codes += found
        return found

    def go_on(self) -> None:
        """The connection must be in order: a whole transaction can be made."""
        assert self.say(b"RSET\r\n") == ["250 2.0.0"]
        assert self.say(self.greeting) == ["250"]
        assert self.say(MAIL + RCPT + b"DATA\r\n") == ["250 2.1.0", "250 2.1.5", "354"]
        assert self.say(BODY + END) == ["250 2.6.0"]
        assert self.say(b"QUIT\r\n") == ["221 2.0.0"]

    def finish(self) -> None:
        """The client leaves: nothing of the connection may be left."""
        wire, loop = self.wire, self.loop
        if not wire.transport.closed:
            wire.eof()
        if not wire.transport.closed:
            wire.reset()
        assert self.closes == 1
        assert not self.server.connections
        assert not self.loop_errors
        assert not asyncio.all_tasks(loop)
        assert not [timer for timer in loop._scheduled if not timer.cancelled()]

    def close(self) -> None:
        """Whatever is left, the loop has to go."""
        left = asyncio.all_tasks(self.loop)
        for task in left:
            task.cancel()
        if left:
            self.loop.run_until_complete(asyncio.wait(left, timeout=0))
        self.loop.run_until_complete(self.loop.shutdown_asyncgens())
        self.loop.close()
