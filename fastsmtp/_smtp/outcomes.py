"""The outcome of a message or of a refused command, and the event `transaction` that tells it."""

from __future__ import annotations

from typing import Final

from fastsmtp._counts.families import STAGES, stage_number
from fastsmtp._hooks.stalls import STALL
from fastsmtp._smtp.dialogue import Dialogue
from fastsmtp._smtp.final_reply import Message
from fastsmtp._smtp.strikes import REFUSAL_LINES
from fastsmtp.log_text import text_of
from fastsmtp.replies import Reply
from fastsmtp.transactions import Outcome

__all__ = [
    "is_observed",
    "outcome_of",
    "tell_aborted",
    "tell_accepted",
    "tell_refused",
    "tell_untold",
]

MAX_SHOWN: Final = 512  # octets of an argument that is not an address

_MAIL: int = stage_number("mail")
_RCPT: int = stage_number("rcpt")
_MESSAGE: Final = stage_number("message")
_IDLE: Final = stage_number("idle")
_HAS_MESSAGE: Final = (_MESSAGE, stage_number("data"), stage_number("bdat"))


def is_observed(dialogue: Dialogue) -> bool:
    """Whether the event has a listener."""
    observer = dialogue.tables.observer
    return observer is not None and observer.is_observed


def tell_refused(dialogue: Dialogue, recipient: int | None) -> None:
    """Tell a refusal, of many refused commands of one connection only the first ones. recipient:
    the position of the only one that it is about, None: all.
    """
    if dialogue.stage != _MESSAGE:
        dialogue.told += 1
        if dialogue.told > REFUSAL_LINES:
            return
    _emit(dialogue, outcome_of(dialogue, "refused", dialogue.session.error or "", recipient))


def tell_untold(dialogue: Dialogue) -> None:
    """The connection has ended: tell how many refused commands had no outcome of their own."""
    more = dialogue.told - REFUSAL_LINES
    if more > 0 and is_observed(dialogue):
        dialogue.stage = _IDLE
        text = f"{more} more refusals, without a line each"
        _emit(dialogue, outcome_of(dialogue, "refused", text))


def tell_accepted(dialogue: Dialogue, group: list[Reply]) -> None:
    """Tell a message that was accepted, for some or for all of its recipients."""
    if not is_observed(dialogue):
        return
    enhanced = dialogue.policy.enhanced
    kept = [number for number, reply in enumerate(group) if reply.code < 400]
    first = group[kept[0]]
    octets = first.wire if enhanced else first.plain
    outcome = outcome_of(dialogue, "accepted", octets.decode()[:-2].replace("\r\n", " "))
    if len(kept) < len(group):
        names = outcome.recipients
        outcome = outcome._replace(recipients=tuple([names[number] for number in kept]))
    _emit(dialogue, outcome)


def tell_aborted(dialogue: Dialogue, reason: str) -> None:
    """Tell a message that will never be complete."""
    if is_observed(dialogue):
        dialogue.session.notes.setdefault("reason", reason)
        _emit(dialogue, outcome_of(dialogue, "aborted", ""))


def _emit(dialogue: Dialogue, outcome: Outcome) -> None:
    began = dialogue.time()
    dialogue.tables.observer.emit("transaction", outcome, connection=dialogue)
    if dialogue.time() - began > STALL:
        dialogue.tell_stall(began, "a listener of 'transaction'")


def outcome_of(
    dialogue: Dialogue, result: str, reply: str, recipient: int | None = None
) -> Outcome:
    """Return the outcome. recipient: the position of the only one that it is about, None: all."""
    session, transaction, stage = dialogue.session, dialogue.transaction, dialogue.stage
    sender, recipients = _addresses(dialogue)
    message: Message | None = dialogue.mail_data.message  # type: ignore[assignment]  # it is one
    size, began = 0, dialogue.began
    if transaction.envelope is not None:
        began = transaction.began
    if message is not None:
        size = message.stream.byte_length
    tls = session.tls_options if session.secure else None
    user = session.user
    address, balancer = dialogue.remote_address or dialogue.peer, ""
    if dialogue.via:
        address, _, balancer = dialogue.client().partition(" via ")
    facts = (
        result,
        f"{session.id}-{session.transaction}" if stage in _HAS_MESSAGE else session.id,
        dialogue.client_hostname,
        "" if address == "unix" else address,
        balancer,
        session.host_name_appears_as or "",
        session.transmission_type,
        f"{tls['version']} {tls['standard_name']}" if tls else "",
        "" if user is None else text_of(user),
        sender,
        recipients if recipient is None else recipients[recipient : recipient + 1],
        STAGES[stage],
        dialogue.refused_by if result == "refused" else "",
        reply,
        size,
        max(0.0, dialogue.clock.now - began),
        session.notes,
    )
    return tuple.__new__(Outcome, facts)  # as `Outcome` does, without a call of Python


def _addresses(dialogue: Dialogue) -> tuple[str, tuple[str, ...]]:
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
