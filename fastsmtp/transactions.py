"""What became of each message and of each refused command, with all that explains it in one line.

`server.on("transaction", f)` calls `f(outcome)`. `str(outcome)` is its line as text; `logfmt` and
`json` are for programs that read logs. Texts of clients are escaped and bounded in all three.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final, NamedTuple

from fastsmtp.log_text import clean, client_word, escaped

__all__ = ["FORMATS", "Outcome", "quoted"]

MAX_RECIPIENTS: Final = 20  # in one line; a message with more has several
MAX_LIST: Final = 1024  # characters of these recipients, unless one alone has more
MAX_TEXT: Final = 256  # characters of one text; an address has at most 254 (RFC 5321 §4.5.3.1.3)
MAX_REPLY: Final = 512
MAX_NOTES: Final = 16

_PLAIN: Final = " "
_QUOTED: Final = frozenset(' "=\\')  # characters that need quotes in logfmt


class Outcome(NamedTuple):
    """One message, or one refused command.

    result: "accepted", "refused", or "aborted": the message was never complete. id: of the session
    and, for a message, the number of the transaction. client, address: name and address; via: the
    balancer, "" without one. helo: the name that the client has given. protocol: as in Received.
    tls: version and cipher. user: who has logged in. sender, recipients: as far as they are known,
    those of a refused command included. stage: what was refused, as in the metrics. hook: the hook
    that has refused, "" if the engine has. reply: code and text, "" if none was sent. size: octets
    of the body that arrived. seconds: since MAIL, or without it since the client has connected.
    notes: what hooks have added in `session.notes`.
    """

    result: str
    id: str
    client: str
    address: str
    via: str
    helo: str
    protocol: str
    tls: str
    user: str
    sender: str
    recipients: tuple[str, ...]
    stage: str
    hook: str
    reply: str
    size: int
    seconds: float
    notes: Mapping[str, str]

    def __str__(self) -> str:
        return "\n".join(self.lines("text"))

    @property
    def logfmt(self) -> str:
        """Its lines as `key=value` pairs, quoted where necessary."""
        return "\n".join(self.lines("logfmt"))

    @property
    def json(self) -> str:
        """Its lines as JSON objects of ASCII characters."""
        return "\n".join(self.lines("json"))

    def lines(self, form: str) -> Iterator[str]:
        """Return the lines in one of FORMATS; a message with many recipients has several."""
        write = FORMATS[form]
        some: list[str] = []
        for each in [recipient[: MAX_TEXT + 1] for recipient in self.recipients]:
            octets = sum(map(len, some)) + len(each)
            if some and (len(some) >= MAX_RECIPIENTS or octets > MAX_LIST):
                yield write(self, tuple(some))
                some = []
            some.append(each)
        yield write(self, tuple(some))

    def fields(self) -> dict[str, str]:
        """Return the fields that are not empty, as texts that are escaped and bounded."""
        return _strings(self, self.recipients[:MAX_RECIPIENTS])


def _short(text: str, limit: int = MAX_TEXT) -> str:
    return escaped(text, limit, plain=_PLAIN)


def _pairs(outcome: Outcome, recipients: tuple[str, ...]) -> Iterator[tuple[str, Any]]:
    """Yield the fields for programs; empty ones are left out."""
    yield "result", outcome.result
    yield "id", outcome.id
    client = client_word(outcome.client, outcome.address)
    yield "client", f"{client} via {clean(outcome.via)}" if outcome.via else client
    yield "helo", _short(outcome.helo)
    yield "with", outcome.protocol
    yield "tls", outcome.tls
    yield "user", _short(outcome.user)
    yield "from", f"<{_short(outcome.sender)}>"
    yield "to", [f"<{_short(each)}>" for each in recipients]
    yield "recipients", len(outcome.recipients)
    yield "stage", outcome.stage
    yield "hook", outcome.hook
    yield "size", outcome.size
    yield "seconds", round(outcome.seconds, 3)
    for name, value in list(outcome.notes.items())[:MAX_NOTES]:
        yield f"note_{clean(name, 32)}", _short(str(value))
    yield "reply", _short(outcome.reply, MAX_REPLY)


def _strings(outcome: Outcome, recipients: tuple[str, ...]) -> dict[str, str]:
    return {
        name: ",".join(value) if isinstance(value, list) else str(value)
        for name, value in _pairs(outcome, recipients)
        if value not in ("", [])
    }


def _as_text(outcome: Outcome, recipients: tuple[str, ...]) -> str:
    client = client_word(outcome.client, outcome.address)
    via = f" via {clean(outcome.via)}" if outcome.via else ""
    to = ",".join([f"<{clean(each, MAX_TEXT)}>" for each in recipients])
    found = outcome.result
    if found == "accepted":  # the notes of a message are those of its refused recipients too
        found = outcome.notes.get("done") or found
    pieces = [
        f"{clean(found)} id={outcome.id} from=<{clean(outcome.sender, MAX_TEXT)}> to={to or '-'}"
        f" recipients={len(outcome.recipients)} client={client}{via} helo={clean(outcome.helo)}"
        f" with={outcome.protocol}"
    ]
    for name, value in (("tls", outcome.tls), ("user", outcome.user)):
        if value:
            pieces.append(f"{name}={clean(value.replace(' ', '/'))}")
    pieces.append(f"stage={outcome.stage}")
    if outcome.hook:
        pieces.append(f"hook={outcome.hook}")
    pieces.append(f"size={outcome.size} seconds={outcome.seconds:.3f}")
    for name, value in list(outcome.notes.items())[:MAX_NOTES]:
        if name != "done":
            pieces.append(f"{clean(name, 32)}={clean(str(value), MAX_TEXT)}")
    pieces.append(f"reply={_short(outcome.reply, MAX_REPLY) or '-'}")
    return " ".join(pieces)


def _as_logfmt(outcome: Outcome, recipients: tuple[str, ...]) -> str:
    pairs = _strings(outcome, recipients).items()
    return " ".join([f"{name}={quoted(value)}" for name, value in pairs])


def quoted(value: str) -> str:
    """Return a value of logfmt, in quotes if necessary. value: without control characters."""
    # `escaped` has replaced what is not printable, the backslash included, by escapes.
    if value and _QUOTED.isdisjoint(value):
        return value
    return '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'


def _as_json(outcome: Outcome, recipients: tuple[str, ...]) -> str:
    found = {name: value for name, value in _pairs(outcome, recipients) if value not in ("", [])}
    return json.dumps(found)


FORMATS: Final[dict[str, Callable[[Outcome, tuple[str, ...]], str]]] = {
    "text": _as_text,
    "logfmt": _as_logfmt,
    "json": _as_json,
}
