"""The replies of one dialogue: counted, strikes applied, queued. All of them go through here.

In: replies of the handlers, with the stage that they are about. Out: octets in a queue. RFC 5321
§4.2.
"""

from __future__ import annotations

from fastsmtp import replies
from fastsmtp._counts.families import CODES, cell, stage_number
from fastsmtp._hooks.callback import Asker
from fastsmtp._log import logger
from fastsmtp._smtp.server_tables import ServerTables
from fastsmtp._smtp.strikes import Counters
from fastsmtp.replies import Reply
from fastsmtp.session import Session

__all__ = ["ReplyQueue"]

_TOO_MANY_ERRORS: Reply = replies.TOO_MANY_ERRORS
_REPLIES: int = cell("replies_total")
_MAIL: int = stage_number("mail")
_RCPT: int = stage_number("rcpt")
_CODES: int = len(CODES)


class ReplyQueue(Asker):
    """stage: what the next replies are about, as a number of `stage_number`. argument: of
    MAIL or RCPT. refused_by: the hook that has refused it, "" if none has.
    """

    def __init__(self, tables: ServerTables, session: Session) -> None:
        # Below, fields are read instead of the arguments, because fields have C types.
        self.tables = tables
        self.policy = self.tables.policy
        self.session = session
        self.tally = self.tables.tally
        self.counters = Counters(self.policy)
        self.stage = 0
        self.argument = b""
        self.refused_by = ""
        self.out: list[bytes] = []
        self.out_octets = 0
        self._enhanced = self.policy.enhanced

    def serve_by(self, tables: ServerTables) -> None:
        """Serve this session by `tables` from now on: before its greeting only."""
        self.tables = tables
        self.policy = tables.policy
        self.counters.count_by(self.policy)
        self._enhanced = self.policy.enhanced

    def begin_command(self, stage: int, argument: bytes) -> None:
        """The next replies are about a new command."""
        self.stage = stage
        self.argument = argument if stage in (_MAIL, _RCPT) else b""
        self.refused_by = ""

    def reply(self, reply: Reply) -> None:
        """Queue one reply, or the 421 that replaces it."""
        if reply.code >= 400:
            reply = self._refused(reply)
        self._queue(reply)

    def _queue(self, reply: Reply) -> None:
        octets = reply.wire if self._enhanced else reply.plain
        self.out.append(octets)
        self.out_octets += len(octets)
        self.tally.add(_REPLIES + self.stage * _CODES + reply.slot)
        if reply.code == 421:
            self.close()

    def tell_refused(self, recipient: int | None) -> None:
        """Emit the event `transaction` for a refusal. recipient: the position of the only one that
        it is about, None: all.
        """
        raise NotImplementedError

    def close(self) -> None:
        """Execute nothing more; the connection closes after the queued output."""
        raise NotImplementedError

    def refuse(self, reply: Reply, is_strike: bool) -> None:
        """Queue a refusal that the caller logs; is_strike: it counts as an error of the client."""
        if is_strike and self.counters.strike_error():
            reply = _TOO_MANY_ERRORS
        self._keep_error(reply)
        self.tell_refused(None)
        self._queue(reply)

    def reply_group(self, group: list[Reply]) -> None:
        """Queue the final replies of one message, which count as one error (RFC 2033 §4.2)."""
        if len(group) == 1:
            self.reply(group[0])
            return
        refused = [reply for reply in group if reply.code >= 400]
        # An accepted recipient must get its reply: with a 421 in place of all replies the client
        # would send its mail again.
        strikes = [reply for reply in refused if self._counts(reply)]
        if strikes and len(refused) == len(group) and self.counters.strike_error():
            self.reply(_TOO_MANY_ERRORS)
            return
        if refused:
            self._note(refused[-1], is_told=False)
            for position, reply in enumerate(group):
                if reply.code >= 400:
                    self.tell_refused(position if len(refused) < len(group) else None)
                    if len(refused) == len(group):
                        break
        for reply in group[:-1]:
            octets = reply.wire if self._enhanced else reply.plain
            self.out.append(octets)
            self.out_octets += len(octets)
            self.tally.add(_REPLIES + self.stage * _CODES + reply.slot)
        self._queue(group[-1])
        if [reply for reply in group if reply.code == 421]:
            self.close()

    def reply_and_close(self, reply: Reply) -> None:
        """Queue the last reply of this connection."""
        self.reply(reply)
        self.close()

    def _refused(self, reply: Reply) -> Reply:
        """Count an error; return its reply, or the 421 if there were too many."""
        if self._counts(reply) and self.counters.strike_error():
            reply = _TOO_MANY_ERRORS
        self._note(reply)
        return reply

    def _counts(self, reply: Reply) -> bool:
        """Whether this error counts against the client. Temporary refusals and failures of ours do
        not: every 4xx is one of them.
        """
        return reply.code >= 500

    def _note(self, reply: Reply, is_told: bool = True) -> None:
        self._keep_error(reply)
        if is_told:
            self.tell_refused(None)
        if logger.shows_debug:
            logger.debug("%s: %s", self, self.session.error)

    def _keep_error(self, reply: Reply) -> None:
        octets = reply.wire if self._enhanced else reply.plain
        self.session.error = octets.decode()[:-2].replace("\r\n", " ")
        limit = self.tables.limits.get(reply)
        if limit is not None:
            self.tally.add(limit)
