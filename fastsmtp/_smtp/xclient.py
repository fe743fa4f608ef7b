"""XCLIENT and XFORWARD: a trusted client acts for another one.

Both are lines of attributes, checked as a whole before any of them applies. XCLIENT replaces the
client, for hooks, trusted networks and the log, and leads back to the greeting; XFORWARD changes
only `session.xforward`. Described in the XCLIENT and XFORWARD documents of Postfix; values are
xtext, RFC 3461 §4.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from ipaddress import IPv4Address, IPv6Address
from typing import Any, Final

from fastsmtp import replies
from fastsmtp._hooks.callback import Answer
from fastsmtp._log import logger
from fastsmtp._sasl.exchange import Auth, AuthResponse
from fastsmtp._smtp.auth import login_verdict
from fastsmtp._smtp.dialogue import Dialogue
from fastsmtp._smtp.simple_verbs import connect
from fastsmtp._smtp.states import State
from fastsmtp._wire.grammar import decode_xtext
from fastsmtp.log_text import clean
from fastsmtp.replies import Reply

__all__ = ["handle_xclient", "handle_xforward", "xclient_offer", "xforward_offer"]

type_attributes = dict[str, Any]
# From a decoded value to the value to keep, None if malformed.
type_reader = Callable[[str], Any]

MAX_VALUE: Final = 255  # octets, decoded
MAX_NAME: Final = 253  # RFC 1035 §2.3.4
MAX_PROTOCOL: Final = 64
NOT_AVAILABLE: Final = ("[UNAVAILABLE]", "[TEMPUNAVAIL]")  # permanently, temporarily

_NAME: Final = r"[A-Za-z0-9._-]+"
_PORT: Final = r"[1-9][0-9]{0,4}"


def _address(value: str) -> str | None:
    """IPv4, or IPv6 with or without the tag of RFC 5321 §4.1.3; in canonical form."""
    tagged = value[:5].upper() == "IPV6:"
    text = value[5:] if tagged else value
    try:
        if ":" not in text:
            return None if tagged else str(IPv4Address(text))
        address = IPv6Address(text)
    except ValueError:
        return None
    return None if address.scope_id is not None else str(address.ipv4_mapped or address)


def _port(value: str) -> int | None:
    return int(value) if re.fullmatch(_PORT, value) and int(value) <= 65535 else None


def _name(value: str) -> str | None:
    return value.lower() if len(value) <= MAX_NAME and re.fullmatch(_NAME, value) else None


def _as_it_is(value: str) -> str:
    return value


def _protocol(value: str) -> str | None:
    return value if len(value) <= MAX_PROTOCOL else None


def _one_of(*words: str) -> type_reader:
    return lambda value: value.upper() if value.upper() in words else None


_XCLIENT: Final[dict[str, type_reader]] = {
    "NAME": _name,
    "ADDR": _address,
    "PORT": _port,
    "PROTO": _one_of("SMTP", "ESMTP", "LMTP"),
    "HELO": _as_it_is,
    "LOGIN": _as_it_is,
    "DESTADDR": _address,
    "DESTPORT": _port,
}
_XFORWARD: Final[dict[str, type_reader]] = {
    "NAME": _name,
    "ADDR": _address,
    "PORT": _port,
    "PROTO": _protocol,
    "HELO": _as_it_is,
    "IDENT": _as_it_is,
    "SOURCE": _one_of("LOCAL", "REMOTE"),
}


def xclient_offer(dialogue: Dialogue) -> str:
    """The line of EHLO."""
    trusted = dialogue.trusts(dialogue.options.use_xclient)
    return f"XCLIENT {' '.join(_XCLIENT)}" if trusted else ""


def xforward_offer(dialogue: Dialogue) -> str:
    """The line of EHLO."""
    trusted = dialogue.trusts(dialogue.options.use_xforward)
    return f"XFORWARD {' '.join(_XFORWARD)}" if trusted else ""


# --- attributes ---


def _read(argument: bytes, readers: Mapping[str, type_reader]) -> type_attributes | Reply:
    """Read `NAME=value *( SP NAME=value )`; the reply is for the first fault, from the left."""
    found: type_attributes = {}
    for word in argument.split():
        key, _, text = word.partition(b"=")
        name = key.decode("latin-1").upper() if key.isascii() else ""
        if name not in readers or name in found or b"=" not in word:
            return replies.BAD_ATTRIBUTE
        value = _decoded(text, utf8=name == "LOGIN")
        if value is None or (not value and name != "LOGIN"):
            return replies.BAD_ATTRIBUTE
        if value.upper() in NOT_AVAILABLE:
            found[name] = None
            continue
        found[name] = readers[name](value)
        if found[name] is None:
            bad_address = name in ("ADDR", "DESTADDR")
            return replies.BAD_ATTRIBUTE_ADDRESS if bad_address else replies.BAD_ATTRIBUTE
    return found or replies.BAD_ATTRIBUTE


def _decoded(text: bytes, *, utf8: bool) -> str | None:
    try:
        value = decode_xtext(text.decode(), utf8)
    except UnicodeDecodeError:
        return None
    if value is None or " " in value or len(value.encode()) > MAX_VALUE:
        return None
    return value


def _refusal(dialogue: Dialogue, trusted: bool) -> Reply | None:
    if not trusted:
        return replies.NOT_ALLOWED
    in_transaction = dialogue.state not in (State.CONNECTED, State.GREETED)
    return replies.IN_TRANSACTION if in_transaction else None


# --- XCLIENT ---


def handle_xclient(dialogue: Dialogue, argument: bytes) -> None:
    """XCLIENT: all attributes of the line apply, or none."""
    refusal = _refusal(dialogue, dialogue.trusts(dialogue.options.use_xclient))
    found = refusal or _read(argument, _XCLIENT)
    if isinstance(found, Reply):
        dialogue.reply(found)
        return
    login = found.get("LOGIN")
    if not login:
        _apply(dialogue, found, None)
        return
    hook = dialogue.hooks.on_auth
    if hook is None:
        dialogue.reply_and_close(replies.LOGIN_NOT_IMPLEMENTED)
        return
    auth = Auth(method="XCLIENT", username=login, password=None)
    dialogue.ask("on_auth", hook, auth, lambda owner, answer: _login_answered(owner, answer, found))


def _login_answered(dialogue: Dialogue, answer: Answer, found: type_attributes) -> None:
    """`on_auth` has answered: if it refuses the LOGIN, the client is not served at all."""
    response, refusal = login_verdict(dialogue, answer, replies.LOGIN_REFUSED)
    if refusal is None:
        _apply(dialogue, found, response)
    else:
        dialogue.reply_and_close(refusal)


def _apply(dialogue: Dialogue, found: type_attributes, response: AuthResponse | None) -> None:
    session = dialogue.session
    if found.get("HELO", "") is None:
        del found["HELO"]
    known = dict(dialogue.xclient or _defaults(dialogue))
    login_before = dialogue.user_from_xclient
    dialogue.reset_greeting()
    known.update(found)
    if "LOGIN" in known:
        known["LOGIN"] = known["LOGIN"] or None
    dialogue.xclient = known
    session.xclient = dict(known)
    session.host_name_appears_as = known.get("HELO", "").lower()
    if "LOGIN" in found or not login_before:
        _log_in(dialogue, response)
    else:
        dialogue.user_from_xclient = True
    _move(dialogue, found, known)
    if logger.shows_debug:
        shown = " ".join(f"{name}={clean(str(value))}" for name, value in found.items())
        logger.debug("%s: XCLIENT %s", dialogue, shown)
    if "ADDR" in found or "NAME" in found:
        if dialogue.tables.base is not None:  # `on_connect` decides again on the options
            dialogue.serve_by(dialogue.tables.base)
        connect(dialogue)
    else:
        dialogue.greet()


def _defaults(dialogue: Dialogue) -> type_attributes:
    """The attributes before the first XCLIENT."""
    session = dialogue.session  # an application may have deleted attributes
    return {
        "ADDR:DEFAULT": getattr(session, "remote_address", ""),
        "NAME:DEFAULT": dialogue.client_hostname,
        "PORT:DEFAULT": getattr(session, "remote_port", 0),
    }


def _log_in(dialogue: Dialogue, response: AuthResponse | None) -> None:
    """From now on the client is the user of LOGIN, or none; an earlier AUTH does not count."""
    dialogue.user_from_xclient = response is not None
    if response is None:
        dialogue.forget_user()
    else:
        dialogue.authenticate(response.user)


def _move(dialogue: Dialogue, found: type_attributes, known: type_attributes) -> None:
    """Apply addresses, ports and the name."""
    session = dialogue.session
    if "ADDR" in found:
        dialogue.is_unix = False
        session.remote_address = dialogue.remote_address = found["ADDR"] or ""
        if not found["ADDR"] and not dialogue.via:
            dialogue.via = f" via {dialogue.peer}"  # so that the log names both relay and client
    if "PORT" in found:
        session.remote_port = found["PORT"] or 0
    if "DESTADDR" in found:
        session.local_address = found["DESTADDR"] or ""
    if "DESTPORT" in found:
        session.local_port = found["DESTPORT"] or 0
    if "NAME" in found or "ADDR" in found:
        # The name from the lookup belongs to another address, and must not be trusted for this one.
        name = known.get("NAME")
        if name is None:
            address = dialogue.remote_address
            name = f"[{address}]" if address else NOT_AVAILABLE[0]
        session.client_hostname = dialogue.client_hostname = name
    if "ADDR" in found:
        dialogue.find_trace()


# --- XFORWARD ---


def handle_xforward(dialogue: Dialogue, argument: bytes) -> None:
    """XFORWARD: the origin of a message, for the log only."""
    refusal = _refusal(dialogue, dialogue.trusts(dialogue.options.use_xforward))
    found = refusal or _read(argument, _XFORWARD)
    if isinstance(found, Reply):
        dialogue.reply(found)
        return
    known = dialogue.xforward or dict.fromkeys(_XFORWARD)
    dialogue.xforward = known | found
    dialogue.session.xforward = dict(dialogue.xforward)
    if "ADDR" in found:
        dialogue.announce()
    dialogue.reply(replies.OK)
