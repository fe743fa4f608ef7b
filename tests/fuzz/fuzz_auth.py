"""AUTH: whatever a client answers, only a user that a hook has named is authenticated.

Asserted: mechanisms and their decoding raise for no octets; base64 is what the standard library
reads and writes back; each line has one reply; hooks are asked one at a time, with clean names, and
with a user still unknown; a user is there only by `on_auth`, or by a proof; nothing of the exchange
is left behind it; how octets were cut does not matter. RFC 4954 §4, RFC 5802 §7, RFC 7628 §3.

An input is two octets of choices, then what is done, each part after an 0xFE: `|` octets that are
sent, `b` a line in base64, `a` a mechanism by number and its initial response, `S` the proof of a
SCRAM client, a digit a pause, `F` FIN, `R` RST.
"""

from __future__ import annotations

import base64
import random
import re
import zlib
from collections.abc import Callable
from typing import Any

import scenario
from fuzz.clean import UNCLEAN, clean_log
from fuzz.inputs import Input, random_cuts
from sasl_kit import ALL_METHODS, KEYS, OPEN, ScramClient, b64, facts
from shared_loop import shared_loop, uncaught

from fastsmtp import SMTPError
from fastsmtp._sasl.exchange import Auth, Challenge, End, Mechanism, Question, decode_base64
from fastsmtp._sasl.mechanisms import CramMD5, External, Login, OAuthBearer, Plain, XOAuth2
from fastsmtp._sasl.scram import Scram
from fastsmtp.testing import Wire

MAX_OCTETS = 3000
TIMES = (0.5, 10.0, 59.0, 61.0, 400.0)
ANSWERS: tuple[Any, ...] = (
    *({"user": "ann"}, None, SMTPError("no"), SMTPError("later", 454), RuntimeError("a bug")),
    *("nonsense", {"message": "who?\r\n", "data": {"status": "x"}}, SMTPError("", 421)),
)
RECORDS: tuple[Any, ...] = (KEYS, None, SMTPError("who?"), SMTPError("later", 454), "nonsense")
MAKERS: tuple[Callable[[], Mechanism], ...] = (
    *(Plain, Login, XOAuth2, OAuthBearer),
    *(lambda: CramMD5("<1.2@x>"), lambda: External({}), lambda: Scram("SCRAM-SHA-256", "nonce")),
    lambda: Scram("SCRAM-SHA-256-PLUS", "nonce", binding=lambda kind: b"\x01" * 32),
)


class TLS:
    """A connection with a client certificate, as the dialogue sees it."""

    verified = True
    certificate: Any = None

    def channel_binding(self, kind: str) -> bytes | None:
        return b"\x01" * 32 if kind == "tls-server-end-point" else None


class Client:
    """One connection and its hooks."""

    def __init__(self, first: int, second: int) -> None:
        self.asked: list[Any] = []
        self.proven = False
        self.named = False
        self.answer = ANSWERS[second % len(ANSWERS)]
        self.record = RECORDS[second // len(ANSWERS) % len(RECORDS)]
        hooks = {"on_auth": self.on_auth, "on_scram": self.on_scram}
        if first & 8:
            del hooks["on_auth"]
        options = {
            "strict_pipelining": bool(first & 1),
            "auth_optional": bool(first & 2),
            "max_auth_failures": 20 if first & 16 else 3,
        }
        self.wire = Wire(loop=shared_loop(), **{**scenario.DEFAULTS, **OPEN, **hooks, **options})
        self.wire.server.on("error", lambda error: None)  # hooks fail on purpose
        self.dialogue = self.wire.connection.protocol
        if first & 4:
            self.dialogue.secure = True
            self.dialogue.tls = TLS()
        self.scram = ScramClient()
        self.line_ends = self.challenges = 0
        self.written = self.wire.receive()
        self.send([scenario.EH])

    def on_auth(self, auth: Auth, session: Any, callback: Callable[..., object]) -> None:
        assert session.user is None
        assert not self.named
        assert auth.method in ALL_METHODS
        assert not UNCLEAN.search(auth.username + auth.authzid + (auth.access_token or ""))
        assert auth.username or auth.method in ("OAUTHBEARER", "EXTERNAL")
        assert "\0" not in (auth.password or "")
        assert auth.verified == auth.method.startswith("SCRAM")
        self.asked.append(facts(auth))
        if isinstance(self.answer, RuntimeError):
            raise self.answer
        if isinstance(self.answer, SMTPError):
            callback(self.answer)
        else:
            self.named = isinstance(self.answer, dict) and "user" in self.answer
            callback(None, self.answer)

    def on_scram(self, username: str, session: Any, callback: Callable[..., object]) -> None:
        assert session.user is None
        assert username
        assert not UNCLEAN.search(username)
        self.asked.append(username)
        if isinstance(self.record, SMTPError):
            callback(self.record)
        else:
            callback(None, self.record)

    def send(self, segments: list[bytes]) -> None:
        octets = b"".join(segments)
        self.line_ends += octets.count(b"\n")
        written = self.wire.send(*segments)
        self.challenges += len(re.findall(rb"^334 ", written, re.MULTILINE))
        self.written += written

    def act(self, part: bytes, cut: Callable[[bytes], list[bytes]]) -> None:
        """Do what one part of an input says."""
        kind, rest = part[:1], part[1:]
        if kind == b"|":
            self.send(cut(rest))
        elif kind == b"b":
            self.send(cut(b64(rest) + b"\r\n"))
        elif kind == b"a":
            name = ALL_METHODS[(rest[:1] or b"\0")[0] % len(ALL_METHODS)].encode()
            response = b" " + b64(rest[1:]) if rest[1:] else b""
            self.send(cut(b"AUTH " + name + response + b"\r\n"))
        elif kind == b"S":
            self._prove(cut)
        elif kind.isdigit():
            self.written += self.wire.advance(TIMES[int(kind) % len(TIMES)])
        elif kind == b"F":
            self.written += self.wire.eof()
        elif kind == b"R":
            self.wire.reset()

    def _prove(self, cut: Callable[[bytes], list[bytes]]) -> None:
        """A whole exchange of a client that knows the password."""
        self.send(cut(b"AUTH SCRAM-SHA-256 " + b64(self.scram.first) + b"\r\n"))
        found = re.search(rb"334 ([A-Za-z0-9+/=]+)\r\n\Z", self.written)
        if found and self.dialogue.attempt is not None:
            challenge = base64.b64decode(found[1])
            if challenge.startswith(b"r=") and challenge.count(b",") == 2:
                self.proven = self.record is KEYS
                self.send(cut(b64(self.scram.final(challenge)) + b"\r\n"))
                self.send(cut(b"\r\n"))

    def assert_in_order(self) -> None:
        """What holds after each part."""
        replies = scenario.parse_replies(self.written)
        assert len(replies) <= 3 + self.line_ends  # a greeting, and a 421 for a clock or a shutdown
        user = self.wire.session.user
        assert self.dialogue.authenticated == (user is not None)
        if user is not None:
            assert self.named or self.proven
        if not self.dialogue.is_closing():
            waits = self.written.rsplit(b"\r\n", 2)[-2].startswith(b"334 ")
            assert waits == (self.dialogue.attempt is not None)
            timeout = self.dialogue.options.auth_timeout if waits else 300
            assert self.dialogue.clock.line_timeout == timeout
        else:
            assert self.dialogue.attempt is None
        assert self.dialogue.parser.buffered <= 12290


def play(octets: bytes, cut: Callable[[bytes], list[bytes]]) -> Client:
    """Do what an input says."""
    given = Input(octets)
    client = Client(given.octet(), given.octet())
    for part in given.rest().split(b"\xfe")[:60]:
        client.act(part, cut)
        client.assert_in_order()
    client.wire.close()
    assert not uncaught, uncaught
    return client


def check_mechanisms(octets: bytes) -> None:
    """No octets raise, whatever the step; each gives a step."""
    for make in MAKERS:
        for responses in ([octets], [None, octets, octets], octets.split(b"\xfe")[:4]):
            mechanism = make()
            step: Any = mechanism.start(responses[0])
            for response in responses[1:]:
                if isinstance(step, Question):
                    step = mechanism.take_keys(KEYS)
                if not isinstance(step, Challenge):
                    break
                assert response is not None
                step = mechanism.take(response)
            assert isinstance(step, Auth | Challenge | Question | End)


def check_base64(octets: bytes) -> None:
    """The oracle: what the standard library reads and writes back the same."""
    for text in (octets, *octets.split(b"\xfe"), b64(octets)):
        try:
            expected: bytes | None = base64.b64decode(text, validate=True)
        except ValueError:
            expected = None
        if expected is not None and b64(expected) != text:
            expected = None
        assert decode_base64(text) == expected


def check(octets: bytes) -> None:
    """Assert the invariants for one input."""
    octets = octets[:MAX_OCTETS]
    check_base64(octets)
    check_mechanisms(octets)
    with clean_log():
        whole = play(octets, lambda part: [part])
        if not octets[:1] or octets[0] & 1:
            return  # where it matters whether a client has waited
        source = random.Random(zlib.crc32(octets))
        other = play(octets, lambda part: random_cuts(part, source))
    assert scenario.codes(whole.written) == scenario.codes(other.written)
    assert whole.asked == other.asked
