"""Which recipients the gateway accepts, and for which of them it discards the message.

The most specific rule decides: an address, a pattern with a local part (the longest first), a
domain, its parent domains (the longest first), and `*` last. Without any rule that accepts, all
others are accepted.
"""

from __future__ import annotations

import contextlib
import fnmatch
import re
import time
from collections.abc import Callable, Iterable, Iterator
from enum import Enum
from functools import partial
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from fastsmtp import Address
from fastsmtp.delivery import Delivery, Entry
from fastsmtp.delivery.arrival import record_of
from fastsmtp.delivery.log import entry_of
from fastsmtp.delivery.record import Record
from fastsmtp.errors import MessageAborted, SMTPError
from fastsmtp.gateway.config import Config, domain_key, is_pattern, local_key, split_rule
from fastsmtp.session import Session
from fastsmtp.stream import DataStream

if TYPE_CHECKING:
    from fastsmtp.hook_types import Callback, DataCallback

__all__ = ["Action", "Discarding", "Receiver", "Rules"]


class Action(Enum):
    """What becomes of mail for a recipient."""

    REJECT = "reject"
    DISCARD = "discard"
    ACCEPT = "accept"


# Looked up for each recipient, which an attribute of an Enum would make slower.
_ACCEPT: Final = Action.ACCEPT
_REJECT: Final = Action.REJECT
_DISCARD: Final = Action.DISCARD


class _Pattern(NamedTuple):
    """local: None for any. domain: with a dot in front for its subdomains, "" for any."""

    local: re.Pattern[str] | None
    domain: str
    action: Action


class Rules:
    """The rules of a configuration, as they are looked up for an address."""

    def __init__(self, config: Config) -> None:
        rules = {f"*@{domain}": Action.ACCEPT for domain in config.domains}
        rules |= dict.fromkeys(config.recipients, Action.ACCEPT)
        accepts_all = not rules
        rules |= dict.fromkeys(config.discard, Action.DISCARD)
        rules |= dict.fromkeys(config.reject, Action.REJECT)
        self.discards = bool(config.discard)
        self._is_open = accepts_all and not rules
        self._rest = rules.pop("*@*", Action.ACCEPT if accepts_all else None)
        exact = {rule: action for rule, action in rules.items() if not is_pattern(rule)}
        self._domains = {rule[2:]: exact.pop(rule) for rule in [*exact] if rule.startswith("*@")}
        self._addresses = exact
        patterns = [
            _pattern_of(rule, rules[rule]) for rule in _by_length(filter(is_pattern, rules))
        ]
        self._patterns = [each for each in patterns if each.local is not None]
        self._parents = [each for each in patterns if each.local is None]
        self._needs_local_part = bool(self._addresses or self._patterns)

    def action(self, address: Address) -> Action | None:
        """Return what becomes of mail for `address`, None if it is not one of ours."""
        if self._is_open or not address.domain:  # <Postmaster>, RFC 5321 §4.5.1
            return _ACCEPT
        domain = domain_key(address.domain)
        if self._needs_local_part:
            local = local_key(address.local_part)
            found = self._addresses.get(f"{local}@{domain}")
            found = found or _first(self._patterns, domain, local)
            if found is not None:
                return found
        found = self._domains.get(domain)
        return found or _first(self._parents, domain) or self._rest


def _by_length(rules: Iterable[str]) -> list[str]:
    """Sort rules: those with more characters that are not wild first."""
    return sorted(rules, key=lambda rule: (rule.count("*") + rule.count("?") - len(rule), rule))


def _pattern_of(rule: str, action: Action) -> _Pattern:
    local, domain = split_rule(rule)
    # Its regular expressions do not backtrack. A bracket is no set of characters here.
    expression = re.compile(fnmatch.translate(local.replace("[", "[[]")))
    return _Pattern(None if local == "*" else expression, domain.removeprefix("*"), action)


def _first(patterns: list[_Pattern], domain: str, local: str = "") -> Action | None:
    for pattern in patterns:
        wanted = pattern.domain
        if wanted and domain != wanted and not (wanted[0] == "." and domain.endswith(wanted)):
            continue
        if pattern.local is None or pattern.local.match(local):
            return pattern.action
    return None


class Receiver:
    """The hook `on_rcpt_to`. then: asked for recipients that the rules accept; None: nobody."""

    def __init__(
        self, rules: Rules, then: Callable[[Address, Session, Callback], None] | None = None
    ) -> None:
        self._rules = rules
        self._then = then

    def on_rcpt_to(self, address: Address, session: Session, callback: Callback) -> None:
        """Accept recipients as the rules say."""
        action = self._rules.action(address)
        if action is None:
            callback(SMTPError("No such recipient here, relay denied", 550, "5.1.1"))
        elif action is _REJECT:
            callback(SMTPError("Mail for this recipient is not accepted", 550, "5.7.1"))
        elif self._then is None or action is _DISCARD:
            callback(None)
        else:
            self._then(address, session, callback)


class Discarding:
    """The hook `on_data` where rules discard mail: their recipients get none of it, and one that is
    for nobody else is read and dropped. log: gets an entry for what was discarded.
    """

    def __init__(
        self, rules: Rules, delivery: Delivery, name: str, log: Callable[[Entry], object]
    ) -> None:
        self._rules = rules
        self._delivery = delivery
        self._name = name
        self._log = log

    def __call__(self, stream: DataStream, session: Session, callback: DataCallback) -> None:
        """Take one message: `on_data`."""
        recipients = session.envelope.rcpt_to
        keeps = [self._rules.action(each) is not Action.DISCARD for each in recipients]
        if all(keeps):
            self._delivery(stream, session, callback)
            return
        dropped = self._record(
            session, [each for each, keep in _pairs(recipients, keeps) if not keep]
        )
        message = _Message(stream, dropped, keeps, callback, self._log, session.notes)
        if not any(keeps):
            stream.consume(_drop, message.on_end)
            return
        with _recipients(session, [each for each, keep in _pairs(recipients, keeps) if keep]):
            self._delivery(stream, session, message.answer)

    def _record(self, session: Session, recipients: list[Address]) -> Record:
        with _recipients(session, recipients):
            return record_of(session, self._name, time.time())


_pairs: Final = partial(zip, strict=True)


@contextlib.contextmanager
def _recipients(session: Session, recipients: list[Address]) -> Iterator[None]:
    """Show others these recipients; the engine goes on with its own list."""
    envelope = session.envelope
    whole, envelope.rcpt_to = envelope.rcpt_to, recipients
    try:
        yield
    finally:
        envelope.rcpt_to = whole


class _Message:
    """One message that some recipients do not get. dropped: its record for these. keeps: for each
    recipient whether it gets it. notes: for the line about the whole message.
    """

    def __init__(
        self,
        stream: DataStream,
        dropped: Record,
        keeps: list[bool],
        callback: DataCallback,
        log: Callable[[Entry], object],
        notes: dict[str, str],
    ) -> None:
        self._stream = stream
        self._dropped = dropped
        self._keeps = keeps
        self._callback = callback
        self._log = log
        self._notes = notes

    def answer(self, error: Exception | None = None, result: Any = None, /) -> bool:
        """Answer for the delivery, and in LMTP for the other recipients too (RFC 2033 §4.2)."""
        if isinstance(result, list):
            kept = iter(result)
            result = [next(kept) if keep else self._text for keep in self._keeps]
        is_fine = error is None and not self._stream.size_exceeded
        if is_fine:
            self._notes["discarded"] = ",".join([each.address for each in self._dropped.rcpt_to])
        counts = self._callback(error, result)
        if counts and is_fine:
            self._say("discarded", "a rule")
        return counts

    def on_end(self, error: MessageAborted | None) -> None:
        """The message is for nobody, and was read to its end."""
        if error is not None:
            self._say("aborted", error.reason)
            self._callback(error)
        else:
            self.answer(None, [] if self._dropped.lmtp else self._text)

    @property
    def _text(self) -> str:
        return f"OK: message accepted, id {self._dropped.id}"

    def _say(self, what: str, reason: str) -> None:
        self._log(entry_of(what, self._dropped, self._stream.byte_length, "reason", reason))


def _drop(piece: bytes) -> None:
    """Take a piece of a message that nobody gets."""
