"""What became of each message and of each refused command, with all that explains it in one line.

`server.on("transaction", f)` calls `f(outcome)`. `str(outcome)` is its line as text; `logfmt` and
`json` are for programs that read logs. Texts of clients are escaped and bounded in all three.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final, NamedTuple

from fastsmtp.log_text import clean, client_word, escaped, text_of

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
        if len(self.recipients) <= 1:
            return iter([write(self, self.recipients)])
        return self._lines_of_many(write)

    def _lines_of_many(self, write: Callable[[Outcome, tuple[str, ...]], str]) -> Iterator[str]:
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


def _pairs(outcome: Outcome, recipients: tuple[str, ...]) -> dict[str, Any]:
    """Return the fields for programs; empty ones are left out."""
    found, ident, name, address, via, helo, protocol, tls, user = outcome[:9]
    sender, everyone, stage, hook, reply, size, seconds, notes = outcome[9:]
    client = client_word(name, address)
    pairs: dict[str, Any] = {
        "result": found,
        "id": ident,
        "client": f"{client} via {clean(via)}" if via else client,
    }
    if helo:
        pairs["helo"] = _short(helo)
    pairs["with"] = protocol
    if tls:
        pairs["tls"] = tls
    if user:
        pairs["user"] = _short(user)
    pairs["from"] = f"<{_short(sender)}>"
    if recipients:
        pairs["to"] = [f"<{_short(each)}>" for each in recipients]
    pairs["recipients"] = len(everyone)
    pairs["stage"] = stage
    if hook:
        pairs["hook"] = hook
    pairs["size"] = size
    pairs["seconds"] = round(seconds, 3)
    for key, value in list(notes.items())[:MAX_NOTES] if notes else ():
        if (text := text_of(value)) != "":
            pairs[f"note_{clean(text_of(key), 32)}"] = _short(text)
    if reply:
        pairs["reply"] = _short(reply, MAX_REPLY)
    return pairs


def _strings(outcome: Outcome, recipients: tuple[str, ...]) -> dict[str, str]:
    return {
        name: ",".join(value) if isinstance(value, list) else str(value)
        for name, value in _pairs(outcome, recipients).items()
    }


def _as_text(outcome: Outcome, recipients: tuple[str, ...]) -> str:
    # Unpacked at once: to read a field by its name takes longer than to escape its text.
    found, ident, name, address, via, helo, protocol, tls, user = outcome[:9]
    sender, everyone, stage, hook, reply, size, seconds, notes = outcome[9:]
    to = ",".join([f"<{clean(each, MAX_TEXT)}>" for each in recipients])
    if notes and found == "accepted":  # notes of a message are those of its refused recipients too
        found = text_of(notes.get("done") or found)
    client = client_word(name, address)
    if via:
        client = f"{client} via {clean(via)}"
    text = (
        f"{clean(found)} id={ident} from=<{clean(sender, MAX_TEXT)}> to={to or '-'}"
        f" recipients={len(everyone)} client={client} helo={clean(helo)} with={protocol}"
    )
    if tls:
        text += f" tls={clean(tls.replace(' ', '/'))}"
    if user:
        text += f" user={clean(user.replace(' ', '/'))}"
    text += f" stage={stage}"
    if hook:
        text += f" hook={hook}"
    text += f" size={size} seconds={seconds:.3f}"
    for key, value in list(notes.items())[:MAX_NOTES] if notes else ():
        if key != "done":
            text += f" {clean(text_of(key), 32)}={clean(text_of(value), MAX_TEXT)}"
    return f"{text} reply={_short(reply, MAX_REPLY) or '-'}"


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
    return json.dumps(_pairs(outcome, recipients))


FORMATS: Final[dict[str, Callable[[Outcome, tuple[str, ...]], str]]] = {
    "text": _as_text,
    "logfmt": _as_logfmt,
    "json": _as_json,
}
