"""TLS of one connection without a socket: the handshake, and then the records of `_tls_records`.

In: what was read from the transport. Out: plaintext, and what is to be written. The context is
chosen by the server name before OpenSSL sees an octet. Nothing that a peer sends makes it raise.
"""

from __future__ import annotations

import ssl
from collections.abc import Callable
from typing import Final

from fastsmtp._client_hello import MORE, NO_TLS, read_hello
from fastsmtp._tls_records import Records
from fastsmtp._verifying import LenientContext, verdict

__all__ = ["Pump"]

SLICE: Final = 12 * 1024  # octets of a handshake that OpenSSL gets at a time
MAX_FLIGHT: Final = 256 * 1024  # octets that a client may send before the handshake has ended

type_choose = Callable[[str], ssl.SSLContext]


class Pump(Records):
    """One end of TLS, the server's. choose: gives the context for a server name, "" for none.

    taken: octets of the handshake so far. established: the handshake is done. ended: the client has
    sent close_notify. error: why there is no TLS any more. servername: what the client asked for.
    trusted: there is a certificate of the client, and it is good.
    """

    def __init__(self, choose: type_choose) -> None:
        self.servername = ""
        self.trusted = False
        self.context: ssl.SSLContext | None = None
        self._choose: type_choose | None = choose
        self._early = b""  # the beginning of a ClientHello
        self._wanted = 0  # octets of it before which there is no use in looking at it
        self._suspect = False
        self.taken = 0

    def shake(self, octets: bytes) -> bytes | None:
        """Go one step on with the handshake; returns the plaintext that followed it when it is
        done, None before and when it has failed.
        """
        if self.error is not None:
            return None
        self.taken += len(octets)
        if self.taken > MAX_FLIGHT:
            self._give_up(ssl.SSLError("the handshake is too long"))
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
            self._give_up(error)
            return None

    def _begin(self, octets: bytes) -> bool:
        """Choose the context; False: more octets are needed, or there is no TLS."""
        if len(octets) < self._wanted:
            return False
        name, self._wanted = read_hello(octets)
        if name == MORE:
            return False
        if name == NO_TLS:
            self._give_up(ssl.SSLError("the client does not speak TLS"))
            return False
        choose, self._choose = self._choose, None
        assert choose is not None
        context = choose(name)
        self.servername = name
        self.context = context
        self.begin(context)
        return True

    def _shake(self, octets: bytes) -> bytes | None:
        for start in range(0, len(octets), SLICE):
            verdict.bad = False
            done = self.step(octets[start : start + SLICE])
            self._suspect = self._suspect or verdict.bad
            if done:
                self.trusted = self._is_trusted()
                # What the client has sent behind its Finished.
                return self.receive(self.take_unread() + octets[start + SLICE :])
        return None

    def _is_trusted(self) -> bool:
        context, tls = self.context, self.tls
        assert context is not None
        assert tls is not None
        if self._suspect or tls.getpeercert(True) is None:
            return False
        if isinstance(context, LenientContext) and tls.session_reused:
            return False  # nobody has looked at the certificate in this handshake
        return context.verify_mode != ssl.CERT_NONE

    def _give_up(self, error: Exception) -> None:
        self.fail(error)
        self._choose = None
        self._early = b""
