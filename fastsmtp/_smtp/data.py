"""Message content: from DATA or BDAT to the final reply.

DATA and BDAT are one path: octets come from the parser and go to the stream, and the reply is
written after both the true end and the hook's answer. A failed chunk is remembered until LAST, RSET
or a greeting command. RFC 5321 §4.1.1.4, RFC 3030 §2, RFC 2033 §4.2, RFC 1870 §6.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from fastsmtp import replies
from fastsmtp._counts.families import cell, stage_number
from fastsmtp._hooks.callback import NO_ANSWER, WAITING, Answer, ends_process
from fastsmtp._smtp.dialogue import Dialogue, Intake
from fastsmtp._smtp.final_reply import Message, final_replies
from fastsmtp._smtp.outcomes import tell_aborted, tell_accepted
from fastsmtp._smtp.states import State
from fastsmtp._wire.grammar import parse_bdat_argument
from fastsmtp.replies import Reply
from fastsmtp.stream import (
    DataStream,
    abort_stream,
    drop_stream,
    end_stream,
    feed_stream,
    is_finished,
    is_full,
)

__all__ = ["MailData", "handle_data"]

MAX_CHUNK: Final = 2**63 - 1
# Octets of a chunk that is not the last one. Real clients do not send shorter ones, and each costs
# as much as a command.
LEAST_CHUNK: Final = 64
# Octets of a message with a header field and a line; every message has two fields, Date and From
# (RFC 5322 §3.6). Shorter ones make no progress.
LEAST_MESSAGE: Final = 16

# As C has them.
_WAITING: int = WAITING
_LEAST_CHUNK: int = LEAST_CHUNK
_LEAST_MESSAGE: int = LEAST_MESSAGE
_MAIL_GIVEN: int = int(State.MAIL_GIVEN)
_RCPT_GIVEN: int = int(State.RCPT_GIVEN)
_BDAT_FAILED: int = int(State.BDAT_FAILED)
_IN_MAIL_DATA: int = int(State.IN_MAIL_DATA)
_IN_BDAT: int = int(State.IN_BDAT)
_MESSAGE: int = stage_number("message")
_ABORTED: int = cell("messages_total", "aborted")
_START_MAIL_INPUT: Reply = replies.START_MAIL_INPUT


class MailData(Intake):
    """The content side of one dialogue."""

    def __init__(self, dialogue: Dialogue) -> None:
        self._dialogue = dialogue
        self.message: Message | None = None
        # The chunk that is being received: (size, last, refusal).
        self._chunk: tuple[int, bool, Reply | None] | None = None
        self._failure: Reply | None = None
        self._skipped = 0
        # Made for the first message, and used for all.
        self._on_room: Callable[[], object] | None = None
        self._on_failure: Callable[[DataStream, BaseException], object] | None = None

    def reset(self) -> None:
        """The transaction has ended: forget its state."""
        self.message = None
        self._chunk = None
        self._failure = None

    def release(self) -> None:
        """Break reference cycles: the dialogue is over. A running consumer still reads fields."""
        self._on_room = self._on_failure = None  # bound methods of this object
        self._dialogue.mail_data = None  # type: ignore[assignment]  # as this is

    def forget_skipped(self) -> None:
        """On MAIL: octets of refused chunks are counted from here."""
        self._skipped = 0

    # Framing.

    def begin_data(self) -> None:
        """DATA was accepted: queue the 354 and call the hook."""
        dialogue = self._dialogue
        message = self._begin()
        dialogue.parser.expect_mail_data()
        dialogue.state = _IN_MAIL_DATA
        dialogue.reply(_START_MAIL_INPUT)
        self._call_hook(message)

    def begin_chunk(self, argument: bytes, refusal: Reply | None) -> None:
        """BDAT: receive or skip its octets; the reply comes after them (RFC 3030 §2)."""
        dialogue = self._dialogue
        parsed = parse_bdat_argument(argument)
        if parsed is None:
            dialogue.reply_and_close(replies.BDAT_SYNTAX)
            return
        size, last = parsed
        bound = dialogue.policy.drop_limit
        if size > MAX_CHUNK or (bound and size > bound):
            dialogue.reply_and_close(dialogue.tables.too_large)
            return
        if refusal is None:
            refusal = self._refusal()
        self._chunk = (size, last, refusal)
        if refusal is not None:
            self._skipped += size
            if bound and self._skipped > bound:
                dialogue.reply(replies.TOO_MUCH_DATA)
                return
            dialogue.begin_receiving()
            dialogue.parser.skip_octets(size)
            return
        message = self.message
        if message is None:
            message = self._begin()
            message.by_chunks = True
            dialogue.state = _IN_BDAT
            dialogue.parser.expect_chunk(size, last)
            message.last = last
            self._call_hook(message)
        else:
            message.last = last
            dialogue.begin_receiving()
            dialogue.parser.expect_chunk(size, last)

    def _refusal(self) -> Reply | None:
        """The reply that refuses a chunk in the right state, None to accept it."""
        if self._dialogue.state == _BDAT_FAILED:
            return self._failure
        if self._dialogue.hooks.on_data is None:
            return replies.LOCAL_ERROR
        return None

    def _begin(self) -> Message:
        dialogue = self._dialogue
        bare_newlines = dialogue.newline_policy()
        policy = dialogue.policy
        dialogue.parser.begin_message(policy.size, policy.drop_limit, bare_newlines == "normalize")
        transaction = dialogue.transaction
        answer = dialogue.make_answer("on_data", hook_answered)
        if self._on_room is None or self._on_failure is None:
            self._on_room = self._room
            self._on_failure = self._stream_failed
        stream = DataStream(self._on_room, self._on_failure)
        octets = dialogue.parser.payload_octets
        message = Message(stream, answer, transaction.accepted, octets)
        message.reject_bare = bare_newlines == "reject"
        message.reject_nul = policy.reject_nul and not transaction.binary
        message.utf8 = transaction.smtp_utf8
        self.message = message
        dialogue.clock.begin_body()
        dialogue.begin_receiving()
        return message

    def _call_hook(self, message: Message) -> None:
        self._dialogue.call(self._dialogue.hooks.on_data, message.stream, message.answer)
        if message.answer.state != _WAITING and not message.at_end:
            self._discard(message)
        elif message.answer.begins_later:
            # The rest of this read may end the transaction, which the hook has yet to see.
            self._dialogue.more = self._dialogue.parser.buffered > 0

    # Octets.

    def piece(self, octets: bytes) -> None:
        """Hand a piece of the body to the consumer."""
        message = self.message
        if message is None or message.answer.state != _WAITING:
            return
        stream = message.stream
        try:
            feed_stream(stream, octets)
        except BaseException as error:  # the consumer's on_chunk is foreign code
            self._consumer_failed(message, error)
            return
        if self._dialogue.parser.size_exceeded:
            self._end_stream(message)
        if message.answer.state != _WAITING:
            self._discard(message)
        elif is_full(stream) and not self._dialogue.clock.lagging:
            self._dialogue.clock.begin_lag()

    def notice_size(self) -> None:
        """End the stream as soon as `size` is exceeded, which may be between two pieces."""
        message = self.message
        if message is not None and not is_finished(message.stream):
            self._end_stream(message)

    def end_of_data(self) -> None:
        """The dot line, or the last octet of the LAST chunk."""
        message = self.message
        self._dialogue.end_receiving()
        if message is None:
            return
        message.at_end = True
        self._dialogue.content_at = self._dialogue.clock.now
        message.answer.began = self._dialogue.time()
        self._dialogue.stage = _MESSAGE
        self._end_stream(message)
        if message.answer.state != _WAITING:
            self.conclude()
        else:
            self._dialogue.wait(message.answer, self._dialogue.policy.data_hook_timeout)

    def end_of_chunk(self) -> None:
        """All octets of a chunk have arrived, received or skipped."""
        dialogue = self._dialogue
        assert self._chunk is not None
        size, last, refusal = self._chunk
        if refusal is not None:
            self._chunk = None
            dialogue.end_receiving()
            self._chunk_refused(refusal, last)
        elif last or dialogue.parser.size_exceeded:
            self.end_of_data()
        else:
            self._chunk = None
            dialogue.end_receiving()
            if size < _LEAST_CHUNK and dialogue.counters.strike_junk():
                dialogue.reply(replies.TOO_MANY_JUNK)
                return
            dialogue.reply(replies.CHUNK_RECEIVED.formatted(size))
        dialogue.stop_if_asked()

    def _chunk_refused(self, refusal: Reply, last: bool) -> None:
        dialogue = self._dialogue
        in_transaction = dialogue.state in (
            _MAIL_GIVEN,
            _RCPT_GIVEN,
            _BDAT_FAILED,
        )
        if not in_transaction or refusal is replies.NOT_IMPLEMENTED:
            dialogue.reply(refusal)
            return
        count = dialogue.transaction.accepted if last and dialogue.policy.lmtp else 1
        dialogue.reply_group([refusal] * max(1, count))
        if last:
            dialogue.end_transaction()
        else:
            self._fail(refusal)

    def _fail(self, reply: Reply) -> None:
        """The message has failed before LAST; further chunks get the same reply."""
        self.message = None
        self._failure = reply
        if self._dialogue.state != State.CLOSING:
            self._dialogue.state = State.BDAT_FAILED

    # The stream.

    def _room(self) -> None:
        """The consumer has caught up."""
        if self._dialogue.clock.lagging:
            self._dialogue.end_lag()

    def _discard(self, message: Message) -> None:
        """The hook has answered before the end: the rest is read, checked and dropped."""
        self._dialogue.parser.discard_body()
        self._end_consumer(message, True)
        self._room()

    def _end_stream(self, message: Message) -> None:
        stream, parser = message.stream, self._dialogue.parser
        stream.size_exceeded = parser.size_exceeded
        if message.at_end:
            # Only at the end: how far beyond `size` the parser has scanned depends on the read.
            stream.bare_newline = parser.bare_newline
            stream.has_nul = parser.has_nul
            stream.has_8bit = parser.has_8bit
            stream.longest_line = parser.longest_line
        if is_finished(stream):
            return
        if message.at_end and not parser.size_exceeded:
            # A hook must not keep a message that is refused to its sender.
            if message.reject_bare and parser.bare_newline:
                self._abort_stream(message, "bare_newline")
                return
            if message.reject_nul and parser.has_nul:
                self._abort_stream(message, "nul")
                return
        self._end_consumer(message, False)

    def _end_consumer(self, message: Message, answered: bool) -> None:
        """Report an end to the consumer; its `on_end` is foreign code. answered: the hook has
        answered, so the pieces that it has not taken are dropped.
        """
        try:
            if answered:
                drop_stream(message.stream)
            else:
                end_stream(message.stream)
        except BaseException as error:
            self._dialogue.raised(message.answer, error)

    def _abort_stream(self, message: Message, reason: str) -> None:
        try:
            abort_stream(message.stream, reason)
        except BaseException as error:  # as above
            self._dialogue.raised(message.answer, error)

    def _stream_failed(self, stream: DataStream, error: BaseException) -> None:
        """A callable of the consumer has raised while `consume` or `resume` was called."""
        message, dialogue = self.message, self._dialogue
        if message is None or message.stream is not stream:  # its message is done
            if ends_process(error):
                raise error
            dialogue.report(error, "on_data")
            return
        busy, dialogue.busy = dialogue.busy, True
        waited = message.answer.state == _WAITING
        try:
            self._consumer_failed(message, error)
        finally:
            dialogue.busy = busy
            if waited and not busy:
                dialogue.wake(message.answer)

    def _consumer_failed(self, message: Message, error: BaseException) -> None:
        try:
            self._dialogue.raised(message.answer, error)
        finally:
            if not message.at_end:
                self._dialogue.parser.discard_body()
            self._abort_stream(message, "hook_failed")
            self._room()

    def abort(self, reason: str) -> None:
        """Report to the consumer that the body will never be complete, unless it is complete."""
        message = self.message
        if message is not None and not message.at_end:
            if not message.is_aborted:
                message.is_aborted = True
                self._dialogue.stage = _MESSAGE
                self._dialogue.tally.add(_ABORTED)
                tell_aborted(self._dialogue, reason)
            self._abort_stream(message, reason)
            if message.answer.state == _WAITING:
                self._dialogue.host.orphan_task(message.answer)

    def hook_timed_out(self) -> None:
        """`data_hook_timeout`: the answer is 451, at the true end."""
        message = self.message
        assert message is not None
        message.answer.report(TimeoutError(NO_ANSWER % "on_data"))
        self._abort_stream(message, "hook_timeout")
        if message.answer.state == _WAITING:
            message.answer.expire()
            message.answer.failed = True
            self._dialogue.host.cancel_task(message.answer)
        if message.at_end:
            self.conclude()
        else:
            self._dialogue.parser.discard_body()
            drop_stream(message.stream)
            self._room()

    # The verdict.

    def answered(self, answer: Answer) -> None:
        """The hook has answered, later than inside its call."""
        message = self.message
        if message is None or message.answer is not answer:
            return
        if message.at_end:
            self.conclude()
        else:
            self._discard(message)

    def conclude(self) -> None:
        """The true end has come and the hook has answered: write the final reply or replies."""
        message, dialogue = self.message, self._dialogue
        assert message is not None
        dialogue.measure(message.answer)
        # The hook will not take the remaining pieces, so they must not hold up the client.
        self._end_consumer(message, True)
        self._room()
        replies_due = final_replies(dialogue, message)
        if message.by_chunks and not message.last:
            failure = replies_due[0]
            self._chunk = None
            dialogue.reply(failure)
            dialogue.count_transaction(False)
            self._fail(failure)
        else:
            accepted = False
            for reply in replies_due:
                accepted = accepted or reply.code < 400
            dialogue.reply_group(replies_due)
            if accepted:
                tell_accepted(dialogue, replies_due)
            octets = dialogue.parser.payload_octets - message.began_at
            dialogue.message_done(accepted, octets < _LEAST_MESSAGE)
        message.answer.forget()
        dialogue.stop_if_asked()


def hook_answered(dialogue: Dialogue, answer: Answer) -> None:
    """`on_data` has answered, later than inside its call."""
    mail_data: MailData = dialogue.mail_data  # type: ignore[assignment]  # it is one
    mail_data.answered(answer)


def handle_data(dialogue: Dialogue, argument: bytes) -> None:
    """DATA: RFC 5321 §4.1.1.4."""
    if dialogue.transaction.binary:
        dialogue.reply(replies.BINARYMIME_NEEDS_BDAT)
    elif argument:
        dialogue.reply(replies.DATA_SYNTAX)
    elif dialogue.hooks.on_data is None:
        dialogue.reply(replies.LOCAL_ERROR)
    else:
        mail_data: MailData = dialogue.mail_data  # type: ignore[assignment]  # it is one
        mail_data.begin_data()
