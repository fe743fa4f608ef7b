"""A model of the dialogue: which reply each command gets, and what is open after it.

Plaintext SMTP and LMTP, no AUTH, no proxy, counters off. Written as tables from the rules of the
RFCs (RFC 5321 §4.1.4, RFC 3030 §2, RFC 2033 §4.2), and from nothing of the engine, so that the two
can be compared. A hook's answer is one of:

accept, 450, 550, 421 (a rejection by that code), raise, list (of on_data: an error 550 and "ok"),
and late: not yet; what it says then is given to `answer`.
"""

from __future__ import annotations

from model_tables import BODIES, HOOK_ENHANCED, LINES, REPLIES, SIZE, TABLE, ModelReply, State


class Model:
    """One connection: `start`, then `command`, `answer` while `pending`, and what ends it."""

    def __init__(
        self,
        lmtp: bool = False,
        policy: str = "reject",
        max_recipients: int = 1000,
        max_messages: int = 0,
    ) -> None:
        self.lmtp = lmtp
        self.policy = policy
        self.max_recipients = max_recipients
        self.max_messages = max_messages
        self.state = State.NONE
        self.greeted_with = ""
        self.closed = False  # the connection is to end after the replies
        self.closing = False  # the server is
        self.half_closed = False  # the client sends no more, but still reads
        self.pending = ""  # "connect", "_mail", "_rcpt", "body" (unfinished), "message", "chunk"
        self.messages = 0
        self.transaction = 1
        self.error = ""  # how the last reply >= 400 begins
        self._fresh()

    def _fresh(self) -> None:
        self.line = LINES["MAIL"]  # that of this transaction
        self.recipients = 0
        self.octets = 0
        self.bare = False
        self.failure = ModelReply(0)
        self.data_outcome = ""  # "" while on_data was not called

    # --- what the test does ---

    def start(self, outcome: str = "accept") -> list[ModelReply]:
        """Connect."""
        self.pending = "connect"
        return [] if outcome == "late" else self.answer(outcome)

    def command(self, name: str, outcome: str = "accept", body: str = "plain") -> list[ModelReply]:
        """A line of `LINES`, with its chunk or, after 354, its body and the dot line."""
        assert not self.closed
        assert not self.pending
        return self._told(self._dispatch(name, outcome, body))

    def open_data(self, outcome: str = "accept") -> list[ModelReply]:
        """DATA in state RCPT, and a body that is not finished yet."""
        assert self.state is State.RCPT
        assert self.line.body_type != "binarymime"
        self.pending = "body"
        self.data_outcome = outcome
        return [REPLIES["R60"]]

    def end_data(self, body: str) -> list[ModelReply]:
        """What was missing, and the dot line."""
        assert self.pending == "body"
        self.pending = ""
        return self._told(self._message(body))

    def answer(self, outcome: str) -> list[ModelReply]:
        """The hook that was `late` answers."""
        stage, self.pending = self.pending, ""
        if stage == "connect":
            self.closed = outcome != "accept"
            if outcome == "raise":
                return [REPLIES["R05"]]
            return [REPLIES["R00"] if outcome == "accept" else ModelReply(int(outcome))]
        if stage in ("_mail", "_rcpt"):
            return self._told(self._decided(stage, outcome))
        self.data_outcome = outcome
        return self._told(self._final() if stage == "message" else self._chunk_failed())

    def clock(self) -> list[ModelReply]:
        """The clock that runs comes due."""
        if self.pending in ("", "body"):
            self.closed = True
            return self._told([REPLIES["R46"]])
        return self.answer("raise")

    def leave(self) -> None:
        """The connection is reset: nothing is answered any more."""
        self.closed = True

    def half_close(self) -> list[ModelReply]:
        """The client has sent FIN: what is complete is answered, what is not is dropped."""
        assert not self.closing
        self.half_closed = True
        self.closed = self.pending == "body"
        return self._told([])

    def shutdown(self) -> list[ModelReply]:
        """The server closes; what is open goes on to its reply."""
        self.closing = True
        if self.pending == "connect":
            self.closed = True
            return [REPLIES["R06"]]
        return self._told([])

    def _told(self, replies: list[ModelReply]) -> list[ModelReply]:
        if self.closing and not (self.closed or self.pending or self.state is State.BDAT):
            self.closed = True
            replies = [*replies, REPLIES["R47"]]
        if self.half_closed and not self.pending:
            self.closed = True
        for reply in replies:
            if reply.code >= 400:
                self.error = f"{reply.code} {reply.enhanced} ".replace("  ", " ")
        return replies

    # --- one command ---

    def _dispatch(self, name: str, outcome: str, body: str) -> list[ModelReply]:
        line = LINES[name]
        entry = TABLE[line.verb][self.state]
        if line.verb in ("HELO", "EHLO") and self.lmtp:
            return [REPLIES["R16"]]
        if line.verb == "LHLO" and not self.lmtp:
            return [REPLIES["R20"]]
        if line.verb == "BDAT":
            if line.fault:  # where its octets end is unknown, or too far away
                self.closed = True
                return [REPLIES[line.fault]]
            if self.greeted_with == "HELO":
                return [REPLIES["R21"]]
        if entry in REPLIES:
            return [REPLIES[entry]]
        if entry == "_data" and self.line.body_type == "binarymime":
            return [REPLIES["R38"]]
        if line.parameters and self.greeted_with == "HELO":
            return [REPLIES["P02"]]
        if line.fault:
            return [REPLIES[line.fault]]
        if entry == "_rcpt" and self.recipients >= self.max_recipients:
            return [REPLIES["R56"]]
        if entry == "_mail" and 0 < self.max_messages <= self.messages:
            self.closed = True
            return [REPLIES["R57"]]
        if entry in ("_mail", "_rcpt"):
            if entry == "_mail":
                self.line = line
            if outcome == "late":
                self.pending = entry
                return []
            return self._decided(entry, outcome)
        if entry == "_data":
            self.data_outcome = outcome
            return [REPLIES["R60"], *self._message(body)]
        if entry in ("_chunk", "_no_recipient", "_repeat"):
            last = name == "BDAT LAST"
            return self._bdat(entry, last, outcome, body)
        return self._simple(entry, line.verb)

    def _simple(self, entry: str, verb: str) -> list[ModelReply]:
        if entry == "_quit":
            self.closed = True
            return [REPLIES["R29"]]
        if entry == "_vrfy":
            return [REPLIES["R28"]]
        self._fresh()
        if entry == "_greet":
            self.state = State.GREETED
            self.greeted_with = verb
            return [REPLIES["R23"]]
        self.state = min(self.state, State.GREETED)
        return [REPLIES["R26"]]

    def _decided(self, stage: str, outcome: str) -> list[ModelReply]:
        if outcome == "accept":
            if stage == "_mail":
                self.state = State.MAIL
                return [REPLIES["R50"]]
            self.state = State.RCPT
            self.recipients += 1
            return [REPLIES["R51"]]
        if stage == "_mail":
            self._fresh()
        return [self._rejection(stage, outcome)]

    def _rejection(self, stage: str, outcome: str) -> ModelReply:
        if outcome == "raise":
            return REPLIES["R65"]
        code = int(outcome)
        self.closed = code == 421
        return ModelReply(code, HOOK_ENHANCED[stage][code])

    # --- messages ---

    def _take(self, body: str) -> None:
        self.octets += len(BODIES[body].octets)
        self.bare = self.bare or BODIES[body].bare

    def _message(self, body: str) -> list[ModelReply]:
        self._take(body)
        return self._final()

    def _bdat(self, entry: str, last: bool, outcome: str, body: str) -> list[ModelReply]:
        if entry == "_chunk":
            self.data_outcome = self.data_outcome or outcome
            self._take(body)
            if last:
                return self._final()
            if self.octets > SIZE:
                return self._chunk_failed()
            self.state = State.BDAT
            return [REPLIES["B04"]]
        if entry == "_no_recipient":
            self.failure = REPLIES["R35"]
            self.state = State.FAILED
        replies = [self.failure]
        if last:
            replies = replies * self.recipients if self.lmtp and self.recipients else replies
            self._fresh()
            self.state = State.GREETED
        return replies

    def _chunk_failed(self) -> list[ModelReply]:
        if self.data_outcome == "late":
            self.pending = "chunk"
            return []
        self.failure = REPLIES["R55"]
        if self.data_outcome in ("450", "550", "421"):
            stage = "message, LMTP" if self.lmtp else "message"
            self.failure = self._rejection(stage, self.data_outcome)
        self.transaction += 1  # that was the end of the message; LAST only ends the transaction
        self.state = State.FAILED
        return [self.failure]

    def _final(self) -> list[ModelReply]:
        if self.data_outcome == "late":
            self.pending = "message"
            return []
        replies = self._verdicts() if self.lmtp else self._verdicts()[:1]
        self.messages += replies[0].code == 250
        self.transaction += 1
        self._fresh()
        self.state = State.GREETED
        return replies

    def _verdicts(self) -> list[ModelReply]:
        """The first that applies, for each recipient."""
        outcome = self.data_outcome
        stage = "message, LMTP" if self.lmtp else "message"
        if outcome in ("450", "550", "421"):
            return [self._rejection(stage, outcome)] * self.recipients
        overruled = None
        if self.octets > SIZE:
            overruled = REPLIES["R55"]
        elif self.bare and self.policy == "reject" and self.line.body_type != "binarymime":
            overruled = REPLIES["R64"]
        if outcome == "list" and self.lmtp:
            answered = [ModelReply(550, "5.7.1"), overruled or REPLIES["R61"]]
            missing = [overruled or REPLIES["R65"]] * self.recipients
            return (answered + missing)[: self.recipients]
        failed = outcome in ("raise", "list")
        return [overruled or REPLIES["R65" if failed else "R61"]] * self.recipients
