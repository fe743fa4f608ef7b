"""The mail transaction: MAIL and RCPT, and the state that they keep until it ends. RFC 5321 §3.3,
§4.1.1.2, §4.1.1.3.
"""

from __future__ import annotations

from typing import Final

from fastsmtp import replies
from fastsmtp._counts.families import cell
from fastsmtp._hooks.callback import Answer
from fastsmtp._log import rcpt_logger
from fastsmtp._smtp.data import MailData
from fastsmtp._smtp.dialogue import Dialogue
from fastsmtp._smtp.hook_replies import Stage, rejection, reply_or_failure
from fastsmtp._smtp.parameters import MailFacts
from fastsmtp._smtp.states import State
from fastsmtp._wire.grammar import (
    Address,
    PathFault,
    has_parameter,
    parse_forward_path,
    parse_reverse_path,
)
from fastsmtp.log_text import clean, client_word
from fastsmtp.replies import Reply
from fastsmtp.session import Envelope, set_envelope

__all__ = ["handle_mail", "handle_rcpt", "log_unlogged"]

REFUSED_PER_ACCEPTED: Final = 4  # refused recipients per accepted one that do not count as errors
RECIPIENT: Final = 160  # octets of an `Address` besides those of its path
PARAMETERS: Final = 600  # octets of its `args` and `dsn` besides their contents, at most
MAX_SHOWN: Final = 128  # octets of a malformed recipient, in a log line

# As C has them.
_MAIL_GIVEN: int = int(State.MAIL_GIVEN)
_RCPT_GIVEN: int = int(State.RCPT_GIVEN)
_MAIL_ACCEPTED: Reply = replies.MAIL_ACCEPTED
_RCPT_ACCEPTED: Reply = replies.RCPT_ACCEPTED
_ACCEPTED: int = cell("recipients_total", "accepted")
_REFUSED: int = cell("recipients_total", "refused")
_RECIPIENT: int = RECIPIENT
_PARAMETERS: int = PARAMETERS


def handle_mail(dialogue: Dialogue, argument: bytes) -> None:
    """MAIL: RFC 5321 §4.1.1.2."""
    policy = dialogue.policy
    utf8 = has_parameter(argument, b"SMTPUTF8")
    parsed = parse_reverse_path(argument, utf8, policy.leniency)
    if not isinstance(parsed, tuple):
        bad = parsed == PathFault.BAD_SYNTAX
        dialogue.reply(replies.BAD_SENDER if bad else replies.NEEDS_SMTPUTF8)
        return
    address, rest = parsed
    envelope = Envelope()
    if rest:
        facts = _facts(dialogue, envelope, address, utf8)
        refusal = dialogue.tables.mail_parameters.apply(rest, facts, dialogue.extended)
        if refusal is not None:
            dialogue.reply(refusal)
            return
    if dialogue.counters.too_much_junk():
        dialogue.reply(replies.TOO_MANY_JUNK)
        return
    if dialogue.counters.too_many_messages(policy.max_messages):
        dialogue.reply(replies.TOO_MANY_MESSAGES)
        return
    transaction = dialogue.transaction
    transaction.address = address
    transaction.envelope = envelope
    transaction.rcpt_to = envelope.rcpt_to
    transaction.began = dialogue.clock.now
    if rest:
        transaction.smtp_utf8 = envelope.smtp_utf8
        transaction.binary = envelope.body_type == "binarymime"
    set_envelope(dialogue.session, envelope)
    hook = dialogue.hooks.on_mail_from
    if hook is None:
        _mail_accepted(dialogue)
        return
    answer = dialogue.asked("on_mail_from", hook, address, _mail_answered)
    if answer is not None:
        _mail_answered(dialogue, answer)
        answer.forget()


def _mail_answered(dialogue: Dialogue, answer: Answer) -> None:
    if answer.error is None and not answer.failed:
        _mail_accepted(dialogue)
        return
    reply = _rejected(dialogue, answer, Stage.MAIL, replies.SENDER_REJECTED)
    dialogue.forget_transaction()
    dialogue.reply(reply)


def _mail_accepted(dialogue: Dialogue) -> None:
    transaction = dialogue.transaction
    assert transaction.envelope is not None
    transaction.envelope.mail_from = transaction.sender = transaction.address
    dialogue.state = _MAIL_GIVEN
    mail_data: MailData = dialogue.mail_data  # type: ignore[assignment]  # it is one
    mail_data.forget_skipped()
    if not dialogue.announced:
        dialogue.announce()
    dialogue.reply(_MAIL_ACCEPTED)


def handle_rcpt(dialogue: Dialogue, argument: bytes) -> None:
    """RCPT: RFC 5321 §4.1.1.3."""
    policy = dialogue.policy
    transaction = dialogue.transaction
    transaction.tried += 1
    if 0 < policy.max_tried < transaction.tried and dialogue.counters.strike_junk():
        _refuse(dialogue, replies.TOO_MANY_JUNK, False, _shown(argument))
        return
    utf8 = transaction.smtp_utf8
    parsed = parse_forward_path(argument, utf8, policy.leniency)
    if not isinstance(parsed, tuple):
        bad = parsed == PathFault.BAD_SYNTAX
        fault = replies.BAD_RECIPIENT if bad else replies.NEEDS_SMTPUTF8
        _refuse(dialogue, fault, not policy.lmtp, _shown(argument))
        return
    address, rest = parsed
    if rest:
        assert transaction.envelope is not None
        facts = _facts(dialogue, transaction.envelope, address, utf8)
        refusal = dialogue.tables.rcpt_parameters.apply(rest, facts, dialogue.extended)
        if refusal is not None:
            _refuse(dialogue, refusal, not policy.lmtp, address.address)
            return
    transaction.cost = _RECIPIENT + len(argument) + (_PARAMETERS if rest else 0)
    if 0 < policy.max_recipients <= transaction.accepted or (
        0 < policy.max_recipient_octets < transaction.octets + transaction.cost
    ):
        _refuse(dialogue, replies.TOO_MANY_RECIPIENTS, False, address.address)
        return
    transaction.address = address
    hook = dialogue.hooks.on_rcpt_to
    if hook is None:
        _rcpt_accepted(dialogue)
        return
    answer = dialogue.asked("on_rcpt_to", hook, address, _rcpt_answered)
    if answer is not None:
        _rcpt_answered(dialogue, answer)
        answer.forget()


def _rcpt_answered(dialogue: Dialogue, answer: Answer) -> None:
    if answer.error is None and not answer.failed:
        _rcpt_accepted(dialogue)
    else:
        address = dialogue.transaction.address
        assert address is not None
        reply = _rejected(dialogue, answer, Stage.RCPT, replies.RECIPIENT_REJECTED)
        _refuse(dialogue, reply, _is_strike(dialogue, reply), address.address)


def _is_strike(dialogue: Dialogue, reply: Reply) -> bool:
    """Whether this refusal by the hook counts as an error of the client.

    A client that delivers to a long list has some refused recipients; one that guesses addresses
    has hardly any others. An LMTP client got its recipients from other clients (RFC 2033).
    """
    transaction = dialogue.transaction
    if reply.code < 500 or dialogue.policy.lmtp:
        return False
    transaction.refused += 1
    return transaction.refused > REFUSED_PER_ACCEPTED * transaction.accepted


def _refuse(dialogue: Dialogue, reply: Reply, is_strike: bool, recipient: str) -> None:
    """Refuse one RCPT, and log it with all facts that explain it; of many on one connection, only
    the first ones are logged.

    is_strike: it counts as an error of the client.
    """
    dialogue.tally.add(_REFUSED)
    dialogue.refuse(reply, is_strike)
    if rcpt_logger.shows_debug:
        counters = dialogue.counters
        counters.unlogged += 1
        if counters.unlogged <= 0:
            sender = dialogue.transaction.sender
            rcpt_logger.debug(
                "%s: RCPT refused: client=%s from=<%s> to=<%s> reply=%.512s",
                dialogue.session.id,
                _client(dialogue),
                "" if sender is None else clean(sender.address),
                clean(recipient),
                dialogue.session.error,  # the reply, or the 421 that replaced it
            )


def log_unlogged(dialogue: Dialogue) -> None:
    """The connection has ended: log how many refused recipients were not logged."""
    rcpt_logger.debug(
        "%s: RCPT refused: client=%s and %d more recipients, without a line each",
        dialogue.session.id,
        _client(dialogue),
        dialogue.counters.unlogged,
    )


def _client(dialogue: Dialogue) -> str:
    address, via, balancer = dialogue.client().partition(" via ")
    return client_word(dialogue.client_hostname, address) + via + balancer


def _shown(argument: bytes) -> str:
    """The argument of a RCPT without a valid address, for the log."""
    path = argument[argument.find(b":") + 1 :].strip(b" <>")
    return path[:MAX_SHOWN].decode("utf-8", "backslashreplace")


def _rcpt_accepted(dialogue: Dialogue) -> None:
    transaction = dialogue.transaction
    assert transaction.rcpt_to is not None
    assert transaction.address is not None
    transaction.rcpt_to.append(transaction.address)
    transaction.accepted += 1
    transaction.octets += transaction.cost
    dialogue.tally.add(_ACCEPTED)
    dialogue.state = _RCPT_GIVEN
    dialogue.reply(_RCPT_ACCEPTED)


def _rejected(dialogue: Dialogue, answer: Answer, stage: Stage, default: Reply) -> Reply:
    if answer.error is None or answer.failed:
        return replies.LOCAL_ERROR
    reply = rejection(
        answer,
        answer.error,
        stage,
        default,
        enhanced=dialogue.policy.enhanced,
        utf8=dialogue.transaction.smtp_utf8,
    )
    return reply_or_failure(answer, reply)


def _facts(dialogue: Dialogue, envelope: Envelope, address: Address, utf8: bool) -> MailFacts:
    return MailFacts(
        options=dialogue.tables.options,
        envelope=envelope,
        address=address,
        smtp_utf8=utf8,
        secure=dialogue.secure,
        authenticated=dialogue.authenticated,
        wall_time=dialogue.host.wall_time,
    )
