"""Walks the fields of a connection, and compares them with those of one that has just greeted.

A new field is compared without anyone remembering it; what may differ is listed here, with why.
"""

from __future__ import annotations

import functools
import types
from collections import deque
from enum import Enum
from typing import Any

from model_tables import State
from side_by_side import SideBySide

# Class -> fields that outlive a transaction and a greeting.
KEPT = {
    "Session": {
        *{"_id", "id", "transaction", "data", "_data", "error"},
        *{"envelope", "transmission_type"},  # made of other fields
        *{"_notes", "_xclient", "_xforward"},  # made when somebody looks at those that are compared
    },
    "Envelope": {"dsn"},  # made of another field
    "SMTPProtocol": {
        *{"counters", "_transactions", "stage", "began", "told", "content_at"},
        *{"argument", "refused_by"},  # of the last command, set anew by the next one
        *{"first_line", "watch"},  # no greeting is needed to be the first line
        *{"tables", "options", "policy", "hooks", "host"},  # not of one connection, or not changed
    },
    "Clock": {"now", "deadline", "_credit", "_payload_seen", "_policy"},
    "MailData": {
        "_skipped",  # counted from the last MAIL on, which resets it
    },
    "Parser": {
        "payload_octets",  # of the connection
        # facts of the last message, reset by `begin_message`
        *{"bare_newline", "body_octets", "has_8bit", "has_nul", "longest_line", "size_exceeded"},
    },
}
_FIELDS = (types.MemberDescriptorType, types.GetSetDescriptorType)
_PLAIN = (bool, int, float, str, bytes, type(None), Enum)


def _fields(value: object) -> dict[str, object]:
    """Attributes by `__dict__`, by slots, and those that a compiled class shows."""
    names = set(getattr(value, "__dict__", ()))
    for cls in type(value).__mro__:
        names.update(name for name, kind in cls.__dict__.items() if isinstance(kind, _FIELDS))
    # To look at a property may make what it shows.
    names -= {"__dict__", "__weakref__", *KEPT.get(type(value).__name__, ())}
    found = {name: getattr(value, name) for name in sorted(names) if hasattr(value, name)}
    return {name: field for name, field in found.items() if not callable(field)}


def snapshot(value: Any, path: str, shots: dict[str, object], seen: set[int]) -> dict[str, object]:
    """Put everything that can be reached from `value` within the engine into `shots`."""
    kind = type(value)
    if isinstance(value, _PLAIN):
        shots[path] = value
    elif isinstance(value, (list, tuple, deque)):
        shots[path] = len(value)
        for index, item in enumerate(value):
            snapshot(item, f"{path}[{index}]", shots, seen)
    elif isinstance(value, dict):
        shots[path] = sorted(map(repr, value))
        for key, item in value.items():
            snapshot(item, f"{path}[{key!r}]", shots, seen)
    elif not kind.__module__.startswith("fastsmtp") or callable(value):
        shots[path] = kind.__qualname__
    elif id(value) not in seen:
        seen.add(id(value))
        shots[path] = kind.__qualname__
        for name, field in _fields(value).items():
            snapshot(field, f"{path}.{name}", shots, seen)
    return shots


def _state_of(both: SideBySide) -> dict[str, object]:
    """All fields of the dialogue of one connection, its session among them."""
    dialogue = both.wire.connection.protocol
    assert dialogue.session.envelope is not None  # it is made when it is looked at
    return snapshot(dialogue, "dialogue", {}, set())


# Some that must be among what the walk has seen, or it would compare nothing.
_SEEN = (
    *("dialogue.state", "dialogue.extended", "dialogue.waiting", "dialogue.parser.buffered"),
    *(
        "dialogue.transaction.accepted",
        "dialogue.transaction.tried",
        "dialogue.transaction.octets",
        "dialogue.transaction.refused",
        "dialogue.mail_data.message",
    ),
    *("dialogue.session.opening_command", "dialogue.session._envelope.rcpt_to"),
)


@functools.cache
def _fresh_state(options: tuple[tuple[str, Any], ...], greeting: str) -> dict[str, object]:
    fresh = SideBySide(**dict(options))
    if greeting:
        fresh.command(greeting)
    state = _state_of(fresh)
    fresh.finish()
    assert not set(_SEEN) - set(state), sorted(state)
    return state


def assert_reset(both: SideBySide) -> None:
    """Nothing is left of a transaction where none is open."""
    model = both.model
    if model.closed or model.closing or model.pending or model.state > State.GREETED:
        return
    found = _state_of(both)
    expected = _fresh_state(tuple(sorted(both.options.items())), model.greeted_with)
    different = {
        path: (found.get(path), expected.get(path))
        for path in sorted(found.keys() | expected.keys())
        if found.get(path) != expected.get(path)
    }
    assert not different, different
