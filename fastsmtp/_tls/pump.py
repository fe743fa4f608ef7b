"""TLS of one connection without a socket: the handshake, and then the records of `_tls.records`.

In: octets read from the transport. Out: plaintext, and octets to write. The context is chosen by
the server name before OpenSSL gets an octet. No input of a peer makes it raise.

Bounded: a call works on a few slices of a handshake; `more` means that some are left for the next
one. OpenSSL gets a ClientHello, also that after a HelloRetryRequest, when it is complete and not
too long, because it reserves as much memory as the header claims. It gets other records when they
are complete, because it reserves room for the longest one at the first octet.
"""

from __future__ import annotations

import ssl
from collections.abc import Callable
from typing import Final

from fastsmtp._tls.client_hello import BAD, HANDSHAKE, MAX_HELLO_RECORDS, MORE, NO_TLS, read_hello
from fastsmtp._tls.lenient_verify import LenientContext, verdict
from fastsmtp._tls.records import Records

__all__ = ["Pump"]

SLICE: Final = 2 * 1024  # octets of a handshake that OpenSSL gets at a time
SLICES: Final = 8  # per call
# Octets that a client may send before the handshake has ended; certificates may take 100 KiB, which
# is OpenSSL's own limit.
MAX_FLIGHT: Final = 160 * 1024
# Octets of a record before the handshake has ended: if no certificate is asked for, and otherwise.
MAX_SHORT_RECORD: Final = 4 * 1024
MAX_RECORD: Final = 5 + 16384 + 2048  # RFC 5246 §6.2.3

# The random of a ServerHello that is a HelloRetryRequest (RFC 8446 §4.1.3), and its offset.
RETRY: Final = bytes.fromhex("CF21AD74E59A6111BE1D8C021E65B891C2A211167ABB8C5E079E09E2C8A8339C")
RANDOM_AT: Final = 11
ILLEGAL_PARAMETER: Final = b"\x15\x03\x03\x00\x02\x02\x2f"  # an alert in clear, RFC 8446 §6.2

type_choose = Callable[[str], ssl.SSLContext]


class Pump(Records):
    """The server's end of TLS. choose: returns the context for a server name, "" without one.

    taken: octets of the handshake so far. established: the handshake is done. ended: the client has
    sent close_notify. error: why TLS has failed. servername: the name that the client asked for.
    trusted: the client has a certificate, and it is trusted. more: octets are left for the next
    call of `shake`, or of `receive` once the handshake is done.
    """

    def __init__(self, choose: type_choose) -> None:
        self.servername = ""
        self.trusted = False
        self.context: ssl.SSLContext | None = None
        self._choose: type_choose | None = choose
        self._hello_due = True  # a ClientHello comes next
        self._answer_due = False  # OpenSSL is getting it
        self._waiting = b""  # octets that OpenSSL has not got yet
        self._wanted = 0  # octets needed before it makes sense to look at them
        self._admitted = 0  # octets that OpenSSL may have: a complete ClientHello, or a record
        self._alert = b""
        self._suspect = False
        self.taken = 0

    def overflows(self, count: int) -> bool:
        """Whether `count` more octets are too many for a handshake."""
        most = MAX_HELLO_RECORDS if self.tls is None else MAX_FLIGHT
        return self.taken + count > most

    def shake(self, octets: bytes) -> bytes | None:
        """Continue the handshake by one step; returns the plaintext after it when it is done, else
        None. The output has to be taken after each step.
        """
        if self.error is not None:
            return None
        if self.overflows(len(octets)):
            self._refuse("the handshake is too long")
            return None
        self.taken += len(octets)
        self.more = False
        octets = self._waiting + octets
        self._waiting = b""
        try:
            return self._shake(octets)
        except (ssl.SSLError, OSError, ValueError) as error:
            self._give_up(error)
            return None

    def take_output(self) -> bytes:
        """Return the octets that TLS itself sends: handshake, tickets, key updates, alerts."""
        octets = Records.take_output(self)
        if not self.established:
            if self._alert:
                octets, self._alert = self._alert, b""
            elif octets[RANDOM_AT : RANDOM_AT + len(RETRY)] == RETRY:
                self._hello_due = True
        return octets

    def _shake(self, octets: bytes) -> bytes | None:
        at = 0
        for _ in range(SLICES):
            if not self._admitted:
                octets, at = octets[at:], 0
                self._admit(octets)
                if not self._admitted:
                    self._waiting = octets if self.error is None else b""
                    return None
            size = min(self._admitted, SLICE)
            verdict.bad = False
            done = self.step(octets[at : at + size])
            self._suspect = self._suspect or verdict.bad
            at += size
            self._admitted -= size
            if done:
                self.trusted = self._is_trusted()
                return self.receive(self.take_unread() + octets[at:])
            if self._answer_due and not self._admitted:
                self._answer_due = False
                break  # our answer to a ClientHello decides what may come next
        self._waiting = octets[at:]
        self.more = len(self._waiting) > 0
        return None

    def _admit(self, octets: bytes) -> None:
        """Set how many of `octets` OpenSSL may have: 0 until there are more, or after an error."""
        if not octets or len(octets) < self._wanted:
            return
        self._wanted = 0
        if self.tls is None or (self._hello_due and octets[0] == HANDSHAKE):
            self._admit_hello(octets)
        else:
            self._admit_record(octets)

    def _admit_hello(self, octets: bytes) -> None:
        name, count = read_hello(octets)
        if name == MORE:
            self._wanted = count
        elif name == NO_TLS:
            self._give_up(ssl.SSLError(ssl.SSL_ERROR_SSL, "the client does not speak TLS"))
        elif name == BAD:
            self._refuse("the ClientHello is too long, or its records are malformed")
        else:
            self._admitted = count
            self._hello_due = False
            self._answer_due = True
            if self.tls is None:
                self._begin(name)

    def _admit_record(self, octets: bytes) -> None:
        """Admit records, also those that may come before a second ClientHello: an alert,
        ChangeCipherSpec. A slice full at a time: a call in which OpenSSL wants more is expensive.
        """
        at, end = 0, len(octets)
        while at + 5 <= end:
            size = 5 + (octets[at + 3] << 8 | octets[at + 4])
            if at + size > end or (at and at + size > SLICE):
                break
            at += size
            if self._hello_due:
                break
        self._admitted = at
        if not at:
            self._admit_none(octets)

    def _admit_none(self, octets: bytes) -> None:
        """The first record is not complete: check the length that it will have."""
        if len(octets) < 5:
            self._wanted = 5
            return
        context = self.context
        assert context is not None
        asked = context.verify_mode != ssl.CERT_NONE
        self._wanted = 5 + (octets[3] << 8 | octets[4])
        if self._wanted > (MAX_RECORD if asked else MAX_SHORT_RECORD):
            self._refuse("a record of the handshake is too long")

    def _begin(self, name: str) -> None:
        choose, self._choose = self._choose, None
        assert choose is not None
        self.servername = name
        self.context = choose(name)
        self.begin(self.context)

    def _is_trusted(self) -> bool:
        context, tls = self.context, self.tls
        assert context is not None
        assert tls is not None
        if self._suspect or tls.getpeercert(True) is None:
            return False
        if isinstance(context, LenientContext) and tls.session_reused:
            return False  # this handshake has not verified the certificate
        return context.verify_mode != ssl.CERT_NONE

    def _refuse(self, reason: str) -> None:
        """Fail the handshake before OpenSSL sees the octets, with the alert that it would send."""
        if self._hello_due:
            self._alert = ILLEGAL_PARAMETER
        self._give_up(ssl.SSLError(ssl.SSL_ERROR_SSL, reason))

    def _give_up(self, error: Exception) -> None:
        self.fail(error)
        self._choose = None
        self._waiting = b""
