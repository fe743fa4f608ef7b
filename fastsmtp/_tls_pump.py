"""TLS of one connection without a socket: octets in, octets out.

In: what was read from the transport, and what is to be sent. Out: plaintext, and what is to be
written to the transport. Nothing that a peer sends makes it raise: a failure is `error`, and from
then on nothing goes in or out. What comes behind close_notify is dropped. RFC 8446 §6.1.

A `MemoryBIO` keeps four thirds of the largest that was ever written to it, so ciphertext goes in by
slices: 16 KiB are held behind a burst, and smaller slices cost more calls.
Plaintext is decrypted into one buffer of this thread, and leaves it as one `bytes` object.
"""

from __future__ import annotations

import ssl
import threading
from collections.abc import Callable
from typing import Final, cast

from fastsmtp._client_hello import MORE, NO_TLS, read_hello
from fastsmtp._verifying import LenientContext, verdict

__all__ = ["Pump"]

RECORD: Final = 16 * 1024  # octets of plaintext in a record at most (RFC 8446 §5.1)
SLICE: Final = 12 * 1024
SCRATCH: Final = 96 * 1024  # more than comes out of what is received at a time
MAX_FLIGHT: Final = 256 * 1024  # octets that a client may send before the handshake has ended

type_choose = Callable[[str], ssl.SSLContext]


class _Scratch(threading.local):
    """One buffer for each thread, so for each event loop."""

    def __init__(self) -> None:
        self.view = memoryview(bytearray(SCRATCH))


_scratch: Final = _Scratch()


class Pump:
    """One end of TLS, the server's. choose: gives the context for a server name, "" for none.

    taken: octets of the handshake so far. established: the handshake is done. ended: the client has
    sent close_notify. error: why there is no TLS any more. servername: what the client asked for.
    trusted: a certificate of the client, if there is one, is good.
    """

    def __init__(self, choose: type_choose) -> None:
        self.established = False
        self.ended = False
        self.error: Exception | None = None
        self.servername = ""
        self.trusted = False  # a certificate of the client, if there is one, is good
        self.context: ssl.SSLContext | None = None
        self.tls: ssl.SSLObject | None = None
        self._choose: type_choose | None = choose
        self._early = b""  # the beginning of a ClientHello
        self._wanted = 0  # octets of it before which there is no use in looking at it
        self._suspect = False
        self.taken = 0  # octets of the handshake so far
        self._incoming: ssl.MemoryBIO | None = None
        self._outgoing: ssl.MemoryBIO | None = None

    # The handshake.

    def shake(self, octets: bytes) -> bytes | None:
        """Go one step on with the handshake; returns the plaintext that followed it when it is
        done, None before and when it has failed.
        """
        if self.error is not None:
            return None
        self.taken += len(octets)
        if self.taken > MAX_FLIGHT:
            self._fail(ssl.SSLError("the handshake is too long"))
            return None
        try:
            if self.tls is None:
                octets = self._early + octets
                if not self._begin(octets):
                    self._early = octets if self.error is None else b""
                    return None
                self._early = b""
            return self._shake(octets)
        except (ssl.SSLError, OSError, ValueError) as error:
            self._fail(error)
            return None

    def _begin(self, octets: bytes) -> bool:
        """Choose the context; False: more octets are needed, or there is no TLS."""
        if len(octets) < self._wanted:
            return False
        name, self._wanted = read_hello(octets)
        if name == MORE:
            return False
        if name == NO_TLS:
            self._fail(ssl.SSLError("the client does not speak TLS"))
            return False
        choose, self._choose = self._choose, None
        assert choose is not None
        context = choose(name)
        self.servername = name
        self.context = context
        self._incoming = ssl.MemoryBIO()
        self._outgoing = ssl.MemoryBIO()
        self.tls = context.wrap_bio(self._incoming, self._outgoing, server_side=True)
        return True

    def _shake(self, octets: bytes) -> bytes | None:
        incoming, tls = self._incoming, self.tls
        assert incoming is not None
        assert tls is not None
        view = memoryview(octets)
        for start in range(0, len(view), SLICE):
            incoming.write(view[start : start + SLICE])
            verdict.bad = False
            try:
                tls.do_handshake()
            except ssl.SSLWantReadError:
                self._suspect = self._suspect or verdict.bad
                continue
            self.established = True
            self.trusted = self._is_trusted(self._suspect or verdict.bad)
            # What the client has sent behind its Finished is in the BIO, and in what is left.
            return self.receive(bytes(view[start + SLICE :]))
        return None

    def _is_trusted(self, suspect: bool) -> bool:
        context, tls = self.context, self.tls
        assert context is not None
        assert tls is not None
        if isinstance(context, LenientContext) and tls.session_reused:
            return False  # nobody has looked at the certificate in this handshake
        return not suspect and context.verify_mode != ssl.CERT_NONE

    # Octets.

    def receive(self, octets: bytes) -> bytes:
        """Return the plaintext of what was read, as far as it is whole."""
        if self.error is not None or self.ended:
            return b""
        incoming = self._incoming
        assert incoming is not None
        parts: list[bytes] = []
        used = 0
        size = len(octets)
        if size <= SLICE:
            incoming.write(octets)
            used = self._decrypt(0, parts)
        else:
            view = memoryview(octets)
            start = 0
            while start < size and not self.ended and self.error is None:
                incoming.write(view[start : start + SLICE])
                start += SLICE
                used = self._decrypt(used, parts)
        last = bytes(_scratch.view[:used])
        if not parts:
            return last
        parts.append(last)
        return b"".join(parts)

    def _decrypt(self, used: int, parts: list[bytes]) -> int:
        """Read records into the buffer behind `used`; a full one goes to `parts`. Returns how much
        of the buffer is used.
        """
        incoming, tls, view = self._incoming, self.tls, _scratch.view
        assert incoming is not None
        assert tls is not None
        try:
            # Asked first, for the exception that says "no more" costs as much as a small record.
            while incoming.pending or tls.pending():
                if used > SCRATCH - RECORD:
                    parts.append(bytes(view[:used]))
                    used = 0
                # With a buffer it returns a number, whatever its types say.
                count = cast("int", tls.read(RECORD, view[used:]))
                if not count:
                    self.ended = True
                    break
                used += count
        except ssl.SSLWantReadError:
            pass
        except ssl.SSLZeroReturnError:
            self.ended = True
        except (ssl.SSLError, OSError, ValueError) as error:
            self._fail(error)
        return used

    def send(self, octets: bytes) -> bytes:
        """Return what is to be written for `octets`; nothing before the handshake is done and
        behind a failure.
        """
        if not self.established or self.error is not None:
            return b""
        tls, outgoing = self.tls, self._outgoing
        assert tls is not None
        assert outgoing is not None
        try:
            if len(octets) <= RECORD:
                tls.write(octets)
                return outgoing.read()
            view = memoryview(octets)
            parts: list[bytes] = []
            for start in range(0, len(view), RECORD):
                tls.write(view[start : start + RECORD])
                parts.append(outgoing.read())
            return b"".join(parts)
        except (ssl.SSLError, OSError, ValueError) as error:
            self._fail(error)
            return b""

    def take_output(self) -> bytes:
        """Return what TLS has to say of its own: handshake, tickets, key updates, alerts."""
        outgoing = self._outgoing
        if outgoing is None or not outgoing.pending:
            return b""
        return outgoing.read()

    def close(self) -> bytes:
        """Return close_notify, the last octets: nothing can be sent any more."""
        if not self.established or self.error is not None:
            return b""
        tls = self.tls
        assert tls is not None
        try:
            tls.unwrap()
        except (ssl.SSLError, OSError, ValueError):
            pass  # the client's close_notify is not waited for
        octets = self.take_output()
        self._fail(ssl.SSLError("TLS is closed"))
        return octets

    def _fail(self, error: Exception) -> None:
        self.error = error.with_traceback(None)  # it would hold frames, and they this object
        self._choose = None
        self._early = b""
