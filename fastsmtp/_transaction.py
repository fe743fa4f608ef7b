"""The mail transaction: MAIL and RCPT, and what they leave behind until it ends. RFC 5321 §3.3,
§4.1.1.2, §4.1.1.3.
"""

from __future__ import annotations

from typing import Final

from fastsmtp import replies
from fastsmtp._answers import Stage, rejection
from fastsmtp._content import Content
from fastsmtp._exchange import Exchange
from fastsmtp._extensions import MailFacts
from fastsmtp._grammar import (
    Address,
    PathFault,
    has_parameter,
    parse_forward_path,
    parse_reverse_path,
)
from fastsmtp._hooks import Answer
from fastsmtp._state import State
from fastsmtp.replies import Reply
from fastsmtp.session import Envelope

__all__ = ["handle_mail", "handle_rcpt"]

REFUSED_PER_ACCEPTED: Final = 4  # refused recipients for each accepted one that are no errors
RECIPIENT: Final = 160  # octets of an `Address` beside those of its path
PARAMETERS: Final = 600  # octets of its `args` and `dsn` beside what they hold, at the most

# As C has them.
_MAIL_GIVEN: int = int(State.MAIL_GIVEN)
_RCPT_GIVEN: int = int(State.RCPT_GIVEN)
_MAIL_ACCEPTED: Reply = replies.MAIL_ACCEPTED
_RCPT_ACCEPTED: Reply = replies.RCPT_ACCEPTED
_RECIPIENT: int = RECIPIENT
_PARAMETERS: int = PARAMETERS


def handle_mail(dialogue: Exchange, argument: bytes) -> None:
    """MAIL: RFC 5321 §4.1.1.2."""
    rules = dialogue.rules
    utf8 = has_parameter(argument, b"SMTPUTF8")
    parsed = parse_reverse_path(argument, utf8, rules.lenient)
    if not isinstance(parsed, tuple):
        bad = parsed == PathFault.BAD_SYNTAX
        dialogue.reply(replies.BAD_SENDER if bad else replies.NEEDS_SMTPUTF8)
        return
    address, rest = parsed
    envelope = Envelope()
    if rest:
        facts = _facts(dialogue, envelope, address, utf8)
        refusal = dialogue.service.mail_parameters.apply(rest, facts, dialogue.extended)
        if refusal is not None:
            dialogue.reply(refusal)
            return
    if dialogue.counters.too_much_junk():
        dialogue.reply(replies.TOO_MANY_JUNK)
        return
    if dialogue.counters.too_many_messages(rules.max_messages):
        dialogue.reply(replies.TOO_MANY_MESSAGES)
        return
    transaction = dialogue.transaction
    transaction.address = address
    transaction.envelope = envelope
    transaction.rcpt_to = envelope.rcpt_to
    if rest:
        transaction.smtp_utf8 = envelope.smtp_utf8
        transaction.binary = envelope.body_type == "binarymime"
    dialogue.session.begin_envelope(envelope)
    hook = dialogue.hooks.on_mail_from
    if hook is None:
        _mail_accepted(dialogue)
        return
    answer = dialogue.asked(hook, address, _mail_answered)
    if answer is not None:
        _mail_answered(dialogue, answer)
        answer.forget()


def _mail_answered(dialogue: Exchange, answer: Answer) -> None:
    if answer.error is None and not answer.failed:
        _mail_accepted(dialogue)
        return
    reply = _rejected(dialogue, answer, Stage.MAIL, replies.SENDER_REJECTED)
    dialogue.forget_transaction()
    dialogue.reply(reply)


def _mail_accepted(dialogue: Exchange) -> None:
    transaction = dialogue.transaction
    assert transaction.envelope is not None
    transaction.envelope.mail_from = transaction.address
    dialogue.state = _MAIL_GIVEN
    content: Content = dialogue.content
    content.forget_skipped()
    if not dialogue.announced:
        dialogue.announce()
    dialogue.reply(_MAIL_ACCEPTED)


def handle_rcpt(dialogue: Exchange, argument: bytes) -> None:
    """RCPT: RFC 5321 §4.1.1.3."""
    rules = dialogue.rules
    transaction = dialogue.transaction
    transaction.tried += 1
    if 0 < rules.max_tried < transaction.tried and dialogue.counters.strike_junk():
        dialogue.reply(replies.TOO_MANY_JUNK)
        return
    utf8 = transaction.smtp_utf8
    parsed = parse_forward_path(argument, utf8, rules.lenient)
    if not isinstance(parsed, tuple):
        bad = parsed == PathFault.BAD_SYNTAX
        fault = replies.BAD_RECIPIENT if bad else replies.NEEDS_SMTPUTF8
        dialogue.refuse(fault, not rules.lmtp)
        return
    address, rest = parsed
    if rest:
        assert transaction.envelope is not None
        facts = _facts(dialogue, transaction.envelope, address, utf8)
        refusal = dialogue.service.rcpt_parameters.apply(rest, facts, dialogue.extended)
        if refusal is not None:
            dialogue.refuse(refusal, not rules.lmtp)
            return
    transaction.cost = _RECIPIENT + len(argument) + (_PARAMETERS if rest else 0)
    if 0 < rules.max_recipients <= transaction.accepted or (
        0 < rules.max_recipient_octets < transaction.octets + transaction.cost
    ):
        dialogue.reply(replies.TOO_MANY_RECIPIENTS)
        return
    transaction.address = address
    hook = dialogue.hooks.on_rcpt_to
    if hook is None:
        _rcpt_accepted(dialogue)
        return
    answer = dialogue.asked(hook, address, _rcpt_answered)
    if answer is not None:
        _rcpt_answered(dialogue, answer)
        answer.forget()


def _rcpt_answered(dialogue: Exchange, answer: Answer) -> None:
    if answer.error is None and not answer.failed:
        _rcpt_accepted(dialogue)
    else:
        reply = _rejected(dialogue, answer, Stage.RCPT, replies.RECIPIENT_REJECTED)
        dialogue.refuse(reply, _is_strike(dialogue, reply))


def _is_strike(dialogue: Exchange, reply: Reply) -> bool:
    """Whether this refusal by the hook counts as an error of the client.

    A client that delivers to a long list has refused recipients in it; one that guesses addresses
    has little else. An LMTP client has its recipients from somebody else (RFC 2033).
    """
    transaction = dialogue.transaction
    if reply.code < 500 or dialogue.rules.lmtp:
        return False
    transaction.refused += 1
    return transaction.refused > REFUSED_PER_ACCEPTED * transaction.accepted


def _rcpt_accepted(dialogue: Exchange) -> None:
    transaction = dialogue.transaction
    assert transaction.rcpt_to is not None
    assert transaction.address is not None
    transaction.rcpt_to.append(transaction.address)
    transaction.accepted += 1
    transaction.octets += transaction.cost
    dialogue.state = _RCPT_GIVEN
    dialogue.reply(_RCPT_ACCEPTED)


def _rejected(dialogue: Exchange, answer: Answer, stage: Stage, default: Reply) -> Reply:
    if answer.error is None or answer.failed:
        return replies.LOCAL_ERROR
    reply = rejection(
        answer.error,
        stage,
        default,
        enhanced=dialogue.rules.enhanced,
        utf8=dialogue.transaction.smtp_utf8,
    )
    return replies.LOCAL_ERROR if reply is None else reply


def _facts(dialogue: Exchange, envelope: Envelope, address: Address, utf8: bool) -> MailFacts:
    return MailFacts(
        options=dialogue.service.options,
        envelope=envelope,
        address=address,
        smtp_utf8=utf8,
        secure=dialogue.secure,
        authenticated=dialogue.authenticated,
        wall_time=dialogue.host.wall_time,
    )
