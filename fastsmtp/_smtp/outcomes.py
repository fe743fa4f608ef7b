"""Makes the outcome of a message or of a refused command, for the event `transaction`."""

from __future__ import annotations

from typing import Any, Final

from fastsmtp._counts.families import STAGES, stage_number
from fastsmtp.transactions import Outcome

__all__ = ["outcome_of"]

MAX_SHOWN: Final = 512  # octets of an argument that is not an address

_MAIL: int = stage_number("mail")
_RCPT: int = stage_number("rcpt")
_MESSAGE: Final = stage_number("message")
_HAS_MESSAGE: Final = (_MESSAGE, stage_number("data"), stage_number("bdat"))


def outcome_of(dialogue: Any, result: str, reply: str, recipient: int | None = None) -> Outcome:
    """Return the outcome. recipient: the position of the only one that it is about, None: all."""
    session, transaction, stage = dialogue.session, dialogue.transaction, dialogue.stage
    sender, recipients = _addresses(dialogue)
    message = dialogue.mail_data.message
    size, began = 0, dialogue.began
    if transaction.envelope is not None:
        began = transaction.began
    if message is not None:
        size = message.stream.byte_length
    tls = session.tls_options if session.secure else None
    user = session.user
    address, via, balancer = dialogue.client().partition(" via ")
    return Outcome(
        result,
        f"{session.id}-{session.transaction}" if stage in _HAS_MESSAGE else session.id,
        dialogue.client_hostname,
        "" if address == "unix" else address,
        balancer if via else "",
        session.host_name_appears_as or "",
        session.transmission_type,
        f"{tls['version']} {tls['standard_name']}" if tls else "",
        "" if user is None else str(user),
        sender,
        recipients if recipient is None else recipients[recipient : recipient + 1],
        STAGES[stage],
        dialogue.refused_by if result == "refused" else "",
        reply,
        size,
        max(0.0, dialogue.clock.now - began),
        session.notes,
    )


def _addresses(dialogue: Any) -> tuple[str, tuple[str, ...]]:
    """Return sender and recipients; those of a command that is refused are in its argument."""
    transaction, stage = dialogue.transaction, dialogue.stage
    known = transaction.sender
    sender = "" if known is None else known.address
    if stage == _MAIL:
        sender = _shown(dialogue.argument)
    if stage == _RCPT:
        return sender, (_shown(dialogue.argument),)
    return sender, tuple([each.address for each in transaction.rcpt_to or ()])


def _shown(argument: bytes) -> str:
    """The address in the argument of MAIL or RCPT, valid or not: parameters come after it."""
    path = argument[argument.find(b":") + 1 :].strip()
    end = path.find(b">")
    path = path[1 : None if end < 0 else end] if path.startswith(b"<") else path
    return path[:MAX_SHOWN].decode("utf-8", "backslashreplace")
