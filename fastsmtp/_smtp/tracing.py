"""The wire traces of clients: their commands, our replies and what else happens, as lines.

In: commands as they are executed, octets as they are written. Out: lines for the event `trace`.
They have no secret and no mail: what AUTH carries, content, and lines that may be either of them
are hidden, or shown as their size.
"""

from __future__ import annotations

from typing import Any, Final

from fastsmtp._counts.families import MECHANISMS
from fastsmtp._log import trace_logger
from fastsmtp._parser import Command, FaultKind, Verb
from fastsmtp.log_text import clean, escaped
from fastsmtp.networks import Networks

__all__ = ["Trace", "Tracing"]

LINES_PER_SECOND: Final = 500  # of all clients together; more are left out, and counted
MAX_TEXT: Final = 512  # characters of one line of the wire
HIDDEN: Final = "<hidden>"  # not even its size: that would tell the length of a password
MAX_WORD: Final = 12  # letters of an unknown verb that is shown

_ADDRESSED: Final = {Verb.MAIL: b"FROM:", Verb.RCPT: b"TO:"}  # how an argument that is shown begins
_SHOWN: Final = {
    *(Verb.HELO, Verb.EHLO, Verb.LHLO, Verb.BDAT, Verb.VRFY, Verb.EXPN),
    *(Verb.XCLIENT, Verb.XFORWARD),
}
# After one of these, a line without a meaning may be an answer to a 334 that was not sent, or the
# content of a message that was refused.
_DOUBTFUL: Final = {Verb.AUTH, Verb.DATA, Verb.BDAT}


class Tracing:
    """Which clients a server traces, and how many lines there may be."""

    def __init__(self, networks: Networks) -> None:
        self.networks = networks
        self._second = 0
        self._room = LINES_PER_SECOND

    def has_room(self, now: float) -> bool:
        """Whether there may be another line at the time `now`."""
        if int(now) != self._second:
            self._second = int(now)
            self._room = LINES_PER_SECOND
        self._room -= 1
        return self._room >= 0


class Trace:
    """The trace of one connection. dialogue: that of the connection, in all methods."""

    def __init__(self, tracing: Tracing) -> None:
        self._tracing = tracing
        self._content = 0  # octets of content before the current one
        self._left_out = 0
        self._is_doubtful = False

    def command(self, dialogue: Any, command: Command) -> None:
        """A command is executed, or refused."""
        self._line(dialogue, "C", self._shown(command))
        self._is_doubtful |= command.verb in _DOUBTFUL

    def fault(self, dialogue: Any, kind: int) -> None:
        """A line, or content, was malformed."""
        self._line(dialogue, "C", f"<malformed: {FaultKind(kind).name.lower().replace('_', ' ')}>")

    def content(self, dialogue: Any, octets: int) -> None:
        """The content of a message, or a chunk of it, is complete. octets: all of the connection"""
        self._line(dialogue, "C", f"<{octets - self._content} octets of content>")
        self._content = octets

    def output(self, dialogue: Any, octets: bytes) -> None:
        """Octets are written."""
        for line in octets.decode("utf-8", "surrogateescape").split("\r\n")[:-1]:
            if line.startswith("334"):  # a challenge
                line = _with("334", HIDDEN if line[4:] else "")
            self._line(dialogue, "S", escaped(line, MAX_TEXT, plain=" "))

    def note(self, dialogue: Any, text: str) -> None:
        """Something else has happened. text: of ours."""
        self._line(dialogue, "*", text)

    def end(self, dialogue: Any) -> None:
        """The connection has ended. This line is always there."""
        more = dialogue.parser.payload_octets - self._content
        content = f", after {more} octets of content" if more else ""
        self._tell_left_out(dialogue)
        self._tell(dialogue, "*", f"the connection has ended{content}")

    def _shown(self, command: Command) -> str:
        verb, argument = command.verb, command.argument
        if verb == Verb.AUTH_LINE:
            return "*" if argument == b"*" else HIDDEN
        if verb in (Verb.UNKNOWN, Verb.HTTP):
            word = command.word
            if self._is_doubtful or not word.isalpha() or len(word) > MAX_WORD:
                return "<unknown command>"
            return _with(word.decode(), _size(argument))
        name = Verb(verb).name
        if verb == Verb.AUTH:
            mechanism, _, response = argument.partition(b" ")
            shown = mechanism.upper().decode("latin-1")
            if shown not in MECHANISMS:
                return _with(name, HIDDEN if argument else "")
            return _with(f"{name} {shown}", HIDDEN if response else "")
        begins = _ADDRESSED.get(Verb(verb))
        if verb in _SHOWN or (begins and argument[: len(begins)].upper() == begins):
            text = argument.decode("utf-8", "surrogateescape")
            return _with(name, escaped(text, MAX_TEXT, plain=" "))
        return _with(name, _size(argument))

    def _line(self, dialogue: Any, side: str, text: str) -> None:
        if not self._tracing.has_room(dialogue.clock.now):
            self._left_out += 1
            return
        self._tell_left_out(dialogue)
        self._tell(dialogue, side, text)

    def _tell_left_out(self, dialogue: Any) -> None:
        if self._left_out:
            self._tell(dialogue, "*", f"{self._left_out} lines were left out here")
            self._left_out = 0

    def _tell(self, dialogue: Any, side: str, text: str) -> None:
        seconds = dialogue.clock.now - dialogue.began
        client = clean(dialogue.client())
        line = f"trace id={dialogue.session.id} client={client} at={seconds:.3f} {side}: {text}"
        observer = dialogue.tables.observer
        if observer.has_listener("trace"):
            observer.emit("trace", line, connection=dialogue)
        else:
            trace_logger.info("%s", line)


def _size(octets: bytes) -> str:
    return f"<{len(octets)} octets>" if octets else ""


def _with(verb: str, text: str) -> str:
    return f"{verb} {text}" if text else verb
