"""Lets in clients whose certificate is not good, and says afterwards that it was not.

`request_cert` without `reject_unauthorized` asks for a certificate and reports what came. Python's
ssl knows no such mode: with a certificate that is not good the handshake ends. OpenSSL asks a
callback for its opinion, which Python does not offer; here it is set by ctypes, where the ssl
module lies open to that (its context begins with the pointer in all versions named below, and the
mode that OpenSSL reads behind the pointer is compared before it is used). Elsewhere a certificate
that is not good ends the handshake, none at all is let in, and one log line says so at start.
"""

from __future__ import annotations

import ctypes
import ssl
import sys
import threading
from typing import Any, Final

from fastsmtp._log import logger

__all__ = ["LenientContext", "Verdict", "verdict"]

KNOWN: Final = (3, 11) <= sys.version_info[:2] <= (3, 14)
VERIFY_PEER: Final = 1

type_check = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_int, ctypes.c_void_p)


class Verdict(threading.local):
    """What the handshake step of this thread has found. bad: a certificate was not good."""

    bad = False


verdict: Final = Verdict()


def _note(is_good: int, store: Any) -> int:
    """OpenSSL's opinion of one certificate of the chain; the answer 1 goes on."""
    if not is_good:
        verdict.bad = True
    return 1


_look: Final = type_check(_note)  # kept for as long as OpenSSL may call it


def _openssl() -> Any:
    """The library that the ssl module has loaded, None where it cannot be reached."""
    if not KNOWN or sys.implementation.name != "cpython":
        return None
    try:
        library = ctypes.CDLL(getattr(sys.modules["_ssl"], "__file__", None))
        library.SSL_CTX_get_verify_mode.argtypes = [ctypes.c_void_p]
        library.SSL_CTX_set_verify.argtypes = [ctypes.c_void_p, ctypes.c_int, type_check]
        library.SSL_CTX_set_verify.restype = None
    except (KeyError, OSError, AttributeError, TypeError):
        return None
    return library


class LenientContext(ssl.SSLContext):
    """A context that asks for a certificate and takes any; `verdict.bad` tells what it was."""

    def be_lenient(self) -> None:
        """Begin; no session is resumed, for a resumed one would not be looked at again."""
        self.verify_mode = ssl.CERT_OPTIONAL
        self.options |= ssl.OP_NO_TICKET
        self.num_tickets = 0
        library = _openssl()
        pointer = ctypes.c_void_p.from_address(id(self) + object.__basicsize__).value
        if library is None or library.SSL_CTX_get_verify_mode(pointer) != VERIFY_PEER:
            logger.warning(
                "this Python cannot let in clients whose certificate is not good: with request_cert"
                " such a certificate ends the handshake, whatever reject_unauthorized says"
            )
            return
        library.SSL_CTX_set_verify(pointer, VERIFY_PEER, _look)
