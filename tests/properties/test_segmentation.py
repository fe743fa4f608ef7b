"""Segmentation never matters: any split of the same octets gives the same hook calls and the same
reply octets. The one exception is inherent, whether a client waited where RFC 2920 §3.1 says so."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import pytest
import reference
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from scenario import COUNTERS_OFF, DEFAULTS, octet_by_octet, parse_replies, split
from shared_loop import close_shared_loop, quiet, shared_loop, uncaught

from fastsmtp.errors import MessageAborted, SMTPError
from fastsmtp.testing import Wire

DIALECTS = pytest.mark.parametrize("lmtp", [False, True], ids=["smtp", "lmtp"])
bounded = settings(
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
)


@pytest.fixture(scope="module", autouse=True)
def _one_loop_for_all_runs() -> Iterator[None]:
    with quiet():
        yield
    close_shared_loop()


# --- hooks that record ---------------------------------------------------------------------------

# What a hook answers is a function of the addresses, so that two runs of the same octets can be
# compared: local part `no` is refused with 550, `later` with 450, `bye` with 421, `boom` raises.
# What `on_data` answers is said by the sender's domain, likewise; under `early` it accepts before
# the first octet, under `list` it answers two entries.
CODES = {"no": 550, "later": 450, "bye": 421}


def refuse(kind: str, callback: Callable[..., object]) -> bool:
    """Answer as `kind` says, unless it says nothing of a refusal."""
    if kind == "boom":
        raise RuntimeError("a hook that fails")
    if kind in CODES:
        callback(SMTPError("refused\r\n" if kind == "no" else "", response_code=CODES[kind]))
        return True
    return False


class Recorder:
    """The trace of one connection; `hooks()` goes into the options of the server."""

    def __init__(self) -> None:
        self.trace: list[tuple[Any, ...]] = []

    def hooks(self) -> dict[str, Callable[..., object]]:
        """The hooks of the plain dialogue."""
        return {
            "on_connect": self.on_connect,
            "on_mail_from": self.on_mail_from,
            "on_rcpt_to": self.on_rcpt_to,
            "on_data": self.on_data,
            "on_close": self.on_close,
        }

    def _note(self, event: str, session: Any, *more: Any) -> None:
        greeting = session.opening_command, session.host_name_appears_as
        kind = session.transmission_type, session.transaction, session.error
        envelope = session.envelope
        sender = envelope.mail_from and envelope.mail_from.raw
        recipients = [recipient.raw for recipient in envelope.rcpt_to]
        asked = envelope.body_type, envelope.smtp_utf8, envelope.dsn.ret, envelope.dsn.envid
        self.trace.append((event, greeting, kind, sender, recipients, asked, *more))

    def on_connect(self, session: Any, callback: Callable[..., object]) -> None:
        self._note("connect", session)
        callback()

    def on_mail_from(self, address: Any, session: Any, callback: Callable[..., object]) -> None:
        self._note("mail", session, address.address, address.raw, dict(address.args))
        if not refuse(address.local_part, callback):
            callback()

    def on_rcpt_to(self, address: Any, session: Any, callback: Callable[..., object]) -> None:
        dsn = list(address.dsn.notify), address.dsn.orcpt
        self._note("rcpt", session, address.address, address.raw, dict(address.args), dsn)
        if not refuse(address.local_part, callback):
            callback()

    def on_data(self, stream: Any, session: Any, callback: Callable[..., object]) -> None:
        self._note("data", session)
        sender = session.envelope.mail_from
        kind = sender.domain.partition(".")[0]
        if kind == "early":
            callback()
            return
        pieces: list[bytes] = []

        def on_end(error: MessageAborted | None) -> None:
            body = b"".join(pieces)
            assert len(body) == stream.byte_length
            if error is not None:
                self.trace.append(("aborted", error.reason, body))
                callback(error)
                return
            flags: tuple[object, ...] = ()
            if not stream.size_exceeded:  # else the body has an end that was not seen yet
                flags = (stream.bare_newline, stream.has_nul, stream.has_8bit, stream.longest_line)
            self.trace.append(("body", body, stream.size_exceeded, flags))
            if not refuse(kind, callback):
                answer = [SMTPError("not this one", response_code=550), "ok"]
                callback(None, answer if kind == "list" else "queued")

        stream.consume(pieces.append, on_end)

    def on_close(self, session: Any) -> None:
        self._note("close", session)


class Recorded:
    """A connection of its own server; `trace` and `replies` are what is compared."""

    def __init__(self, **options: Any) -> None:
        self._recorder = Recorder()
        self.wire = Wire(loop=shared_loop(), **{**DEFAULTS, **self._recorder.hooks(), **options})
        self.wire.server.on("error", lambda error: None)  # hooks fail on purpose
        self.trace = self._recorder.trace
        self.replies = b""
        self.collect()

    def collect(self, written: bytes = b"") -> bytes:
        """What was written since the last call, also added to `replies`."""
        written += self.wire.receive()
        self.replies += written
        return written

    def send(self, segments: Iterable[bytes]) -> bytes:
        """Send segment by segment; returns the replies."""
        written = b""
        for segment in segments:
            if self.wire.closed:
                break
            written += self.collect(self.wire.send(segment))
        return written

    def finish(self) -> Recorded:
        """The client says that it is done; the connection must end, with `on_close` last."""
        if not self.wire.transport.closed:
            self.collect(self.wire.eof())
        assert self.wire.transport.closed
        assert [event[0] for event in self.trace].count("close") == 1
        assert self.trace[-1][0] == "close"
        parse_replies(self.replies)
        assert not uncaught, uncaught
        return self


# --- the grammar of sessions ---------------------------------------------------------------------

# What a body is made of, and what a session is mutated with.
ALPHABET = [b"\r", b"\n", b".", b"\x00", b"\r\n", b"\r\n.", b"\r\n.\r\n", b"a", b" ", b"\xe9"]

# Most of a session has to be accepted, or none would get as far as a message.
local_parts = st.sampled_from([*["ok"] * 24, "no", "later", "boom", "bye", '"a> b"', ".a"])
domains = st.sampled_from([*["x.example"] * 8, "early.x", "no.x", "later.x", "boom.x", "list.x"])
mail_parameters = st.sampled_from(
    [
        *[""] * 8,
        *[" SIZE=10", " BODY=8BITMIME RET=FULL ENVID=a+2Bb", " SMTPUTF8", " BODY=BINARYMIME"],
        *[" SIZE=99999999999", " FOO=1", " SIZE=", " RET=HDRS RET=HDRS"],
    ]
)
rcpt_parameters = st.sampled_from(
    [*[""] * 6, " NOTIFY=SUCCESS,DELAY ORCPT=rfc822;a+40b", " NOTIFY=NEVER,DELAY", " SIZE=1"]
)
bodies = st.lists(st.sampled_from(ALPHABET), max_size=12).map(b"".join)
words = st.text('aZ09<>@:=\t \x7f\xe9%-."\\', max_size=20).map(lambda text: text.encode("latin-1"))
# Verbs that end no group of commands.
verbs = st.sampled_from(
    [
        *[b"NOOP", b"RSET", b"RSET", b"VRFY", b"HELP", b"EXPN", b"STARTTLS", b"FOO"],
        *[b"XCLIENT", b"GET", b"QUIT", b"BDAT", b"MAIL", b"mail", b"RCPT"],
    ]
)


@st.composite
def chunks(draw: st.DrawFn) -> bytes:
    """One BDAT with its octets; seldom one whose size is not theirs."""
    octets = draw(bodies)
    size = len(octets) + draw(st.sampled_from([0, 0, 0, 0, 0, 0, 0, 1, -1]))
    last = draw(st.sampled_from([b"", b" LAST", b" last", b" LAST"]))
    return b"BDAT %d%s\r\n%s" % (max(0, size), last, octets)


@st.composite
def one_line(draw: st.DrawFn) -> bytes:
    """A line that ends no group of commands."""
    verb = draw(verbs)
    argument = draw(st.one_of(st.just(b""), words, words))
    if draw(st.integers(0, 9)) == 9:
        argument = b"x" * 510
    return (verb + b" " + argument).rstrip(b" ") + b"\r\n"


@st.composite
def path_lines(draw: st.DrawFn) -> list[bytes]:
    """MAIL and RCPTs."""
    sender = draw(st.sampled_from(["<>", f"<{draw(local_parts)}@{draw(domains)}>"]))
    lines = [f"MAIL FROM:{sender}{draw(mail_parameters)}\r\n".encode()]
    for _ in range(draw(st.sampled_from([1, 2, 3, 0]))):
        recipient = f"<{draw(local_parts)}@y.example>"
        lines.append(f"RCPT TO:{recipient}{draw(rcpt_parameters)}\r\n".encode())
    return lines


class Part:
    """Octets of one group: `waits` if the client has to wait after it, `is_body` for mail data."""

    def __init__(self, octets: bytes, waits: bool = False, is_body: bool = False) -> None:
        self.octets = octets
        self.waits = waits
        self.is_body = is_body

    def __repr__(self) -> str:
        return f"Part({self.octets!r}, {self.waits}, {self.is_body})"


@st.composite
def greetings(draw: st.DrawFn) -> list[Part]:
    verb = draw(st.sampled_from([b"EHLO", b"EHLO", b"LHLO", b"LHLO", b"HELO", b"lhlo"]))
    name = draw(st.sampled_from([b" c.example", b" c.example", b"", b" a b", b" \xe9"]))
    return [Part(verb + name + b"\r\n", waits=True)]


@st.composite
def messages(draw: st.DrawFn) -> list[Part]:
    parts = [Part(line) for line in draw(path_lines())]
    if draw(st.booleans()):
        wire = draw(bodies) + b"\r\n.\r\n"
        ended = reference.end_of_data(wire)
        assert ended is not None
        wire = wire[: len(wire) - len(ended[1])]  # what is after the first end would be commands
        return [*parts, Part(b"DATA\r\n", waits=True), Part(wire, is_body=True)]
    for _ in range(draw(st.integers(1, 3))):
        parts.append(Part(draw(chunks())))
    return [*parts, Part(b"BDAT 0 LAST\r\n")] if draw(st.booleans()) else parts


@st.composite
def sessions(draw: st.DrawFn) -> list[Part]:
    """A greeting, as a rule, then messages, further greetings and junk."""
    parts = [Part(b"EHLO c\r\n", waits=True)] if draw(st.integers(0, 5)) else []
    kinds = [messages(), messages(), messages(), greetings(), one_line().map(lambda x: [Part(x)])]
    for more in draw(st.lists(st.one_of(kinds), min_size=1, max_size=5)):
        parts += more
    return parts


@st.composite
def streams(draw: st.DrawFn) -> bytes:
    """The octets of a session, mutated, and perhaps cut short."""
    octets = b"".join(part.octets for part in draw(sessions()))
    octets = octets[: len(octets) - draw(st.sampled_from([0, 0, 0, 4, 5, 7, 12]))]
    for _ in range(draw(st.sampled_from([0, 0, 1, 2, 5]))):
        at = draw(st.integers(0, len(octets)))
        gone = draw(st.sampled_from([0, 0, 1, 2]))
        octets = octets[:at] + draw(st.sampled_from([*ALPHABET, b""])) + octets[at + gone :]
    return octets


cut_lists = st.lists(st.integers(0, 2000), max_size=8)
options = st.fixed_dictionaries(
    {"bare_newline": st.sampled_from(["reject", "accept", "normalize"])},
    optional={
        "size": st.sampled_from([0, 20, 3]),
        "hide_binarymime": st.just(False),
        "max_command_length": st.just(512),
        "max_errors": st.sampled_from([None, 5, 2]),
        "max_junk_commands": st.sampled_from([None, 5, 2]),
        "max_recipients": st.just(1),
        "max_messages": st.just(1),
        "allow_bare_lf_commands": st.just(["192.0.2.0/24"]),
        "lenient_address_parsing": st.sampled_from(["common", True]),
    },
)


def for_dialect(octets: bytes, lmtp: bool) -> bytes:
    """Most greetings are to be understood; the other spelling stays in for its refusal."""
    if lmtp:
        return octets.replace(b"EHLO c\r\n", b"LHLO c\r\n")
    return octets.replace(b"LHLO c", b"EHLO c")


TX = b"EHLO c\r\nMAIL FROM:<a@x.example>\r\nRCPT TO:<b@y.example>\r\n"

# --- the properties ------------------------------------------------------------------------------


def run(segments: list[bytes], **given_options: Any) -> Recorded:
    """One session, to its end."""
    session = Recorded(**given_options)
    session.send(segments)
    return session.finish()


@DIALECTS
@bounded
@given(stream=streams(), cuts=cut_lists, given_options=options)
@example(stream=TX + b"DATA\r\n..\r\n.\r\n", cuts=[], given_options={})
@example(stream=TX + b"DATA\r\nabcd", cuts=[], given_options={"size": 3})
@example(stream=TX + b"BDAT 4\r\nabcdBDAT 1\r\nxRSET\r\n", cuts=[], given_options={"size": 3})
@example(stream=TX + b"BDAT 2\r\na\rBDAT 1 LAST\r\n\n", cuts=[], given_options={})
@example(stream=TX + b"BDAT 9\r\nabc", cuts=[], given_options={"bare_newline": "normalize"})
def test_any_split_of_any_stream_gives_the_same_result(
    lmtp: bool, stream: bytes, cuts: list[int], given_options: dict[str, Any]
) -> None:
    stream = for_dialect(stream, lmtp)
    given_options = {"lmtp": lmtp, "strict_pipelining": False, **given_options}
    whole = run([stream], **given_options)
    for segments in (octet_by_octet(stream), split(stream, cuts)):
        parted = run(segments, **given_options)
        assert parted.replies == whole.replies
        assert parted.trace == whole.trace


def run_in_groups(parts: list[Part], how: Any, given_options: dict[str, Any]) -> Recorded:
    """Wait where a client has to; a body goes only after 354. `how` cuts a group into segments."""
    session = Recorded(**given_options)
    group = b""
    answer = b""
    for part in parts:
        if part.is_body:
            if not answer.endswith(b"354 End data with <CR><LF>.<CR><LF>\r\n"):
                continue
            session.send(how(part.octets))
            continue
        group += part.octets
        if part.waits:
            answer = session.send(how(group))
            group = b""
    session.send(how(group))
    return session.finish()


@DIALECTS
@bounded
@given(stream=streams(), marks=st.sets(st.integers(0, 40)), cuts=cut_lists, given_options=options)
@example(
    stream=TX + b"DATA\r\na\r\n.\r\nNOOP\r\n", marks={0, 1, 2, 3, 6}, cuts=[], given_options={}
)
def test_any_split_of_a_stream_with_bare_lf_gives_the_same_result_where_it_is_allowed(
    lmtp: bool, stream: bytes, marks: set[int], cuts: list[int], given_options: dict[str, Any]
) -> None:
    lines = for_dialect(stream, lmtp).split(b"\r\n")
    ends = [b"\n" if at in marks else b"\r\n" for at in range(len(lines) - 1)]
    octets = b"".join(line + end for line, end in zip(lines, [*ends, b""], strict=True))
    given_options = {
        **{"lmtp": lmtp, "strict_pipelining": False, **given_options},
        "allow_bare_lf_commands": ["192.0.2.0/24"],
    }
    whole = run([octets], **given_options)
    for segments in (octet_by_octet(octets), split(octets, cuts)):
        parted = run(segments, **given_options)
        assert parted.replies == whole.replies
        assert parted.trace == whole.trace


def line_by_line(octets: bytes) -> list[bytes]:
    """Lock-step: nothing is sent before the reply to what stands before it."""
    return re.findall(rb"(?s).*?\r\n|.+", octets)


@DIALECTS
@bounded
@given(parts=sessions(), cuts=cut_lists, given_options=options)
def test_legal_groups_give_the_same_result_however_they_are_cut(
    lmtp: bool, parts: list[Part], cuts: list[int], given_options: dict[str, Any]
) -> None:
    parts = [Part(for_dialect(p.octets, lmtp), p.waits, p.is_body) for p in parts]
    given_options = {"lmtp": lmtp, **given_options}
    pipelined = run_in_groups(parts, lambda group: [group], given_options)
    assert b"554 5.5.0" not in pipelined.replies
    for how in (
        line_by_line,
        octet_by_octet,
        lambda group: split(group, cuts),
    ):
        parted = run_in_groups(parts, how, given_options)
        assert parted.replies == pipelined.replies
        assert parted.trace == pipelined.trace


SYNCHRONIZATION = b"554 5.5.0 Error: SMTP synchronization, wait for the reply\r\n"


def without_end(trace: list[tuple[Any, ...]]) -> list[tuple[Any, ...]]:
    """What the hooks saw before the connection ended."""
    calls = [event for event in trace if event[0] != "close"]
    return calls[:-1] if calls and calls[-1][0] == "aborted" else calls


@DIALECTS
@bounded
@given(stream=streams(), cuts=cut_lists, given_options=options)
def test_illegal_groups_are_refused_or_served_never_a_third(
    lmtp: bool, stream: bytes, cuts: list[int], given_options: dict[str, Any]
) -> None:
    stream = for_dialect(stream, lmtp)
    given_options = {"lmtp": lmtp, **given_options, **COUNTERS_OFF}
    served = run([stream], strict_pipelining=False, **given_options)
    for segments in ([stream], octet_by_octet(stream), split(stream, cuts)):
        strict = run(segments, **given_options)
        if strict.replies == served.replies:
            assert strict.trace == served.trace
            continue
        assert strict.replies.endswith(SYNCHRONIZATION)
        before = strict.replies.removesuffix(SYNCHRONIZATION)
        assert served.replies.startswith(before)
        told = without_end(strict.trace)
        assert served.trace[: len(told)] == told
