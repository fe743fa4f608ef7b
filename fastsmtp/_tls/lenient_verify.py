"""Lets in clients whose certificate is not good, and says afterwards that it was not.

`request_cert` without `reject_unauthorized` asks for a certificate and reports what came. Python's
ssl knows no such mode: with a certificate that is not good the handshake ends. OpenSSL asks a
callback for its opinion, which Python does not offer; here it is set by ctypes, where this version
of Python is known (its context begins with the pointer, and the mode that OpenSSL reads at the
pointer is compared before it is used). Elsewhere a certificate that is not good ends the handshake,
none at all is let in, and one log line says so at start.
"""

from __future__ import annotations

import ssl
import sys
import threading
from collections.abc import Callable
from functools import cache
from typing import Any, Final

from fastsmtp._interpreter import IS_KNOWN
from fastsmtp._log import logger

__all__ = ["LenientContext", "Verdict", "verdict"]

VERIFY_PEER: Final = 1


class Verdict(threading.local):
    """What the handshake step of this thread has found. bad: a certificate was not good."""

    bad = False


verdict: Final = Verdict()


def _note(is_good: int, store: Any) -> int:
    """OpenSSL's opinion of one certificate of the chain; the answer 1 goes on."""
    if not is_good:
        verdict.bad = True
    return 1


@cache
def _setter() -> Callable[[ssl.SSLContext], bool]:
    """Return what sets our callback, and says whether it could: OpenSSL is asked as the library
    that the ssl module has loaded. Kept for as long as OpenSSL may call back.
    """
    if not IS_KNOWN:
        return lambda context: False
    try:
        import ctypes  # for servers with this rare pair of options: 1.5 ms of every import

        library = ctypes.CDLL(getattr(sys.modules["_ssl"], "__file__", None))
        type_check = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_int, ctypes.c_void_p)
        look = type_check(_note)
        library.SSL_CTX_get_verify_mode.argtypes = [ctypes.c_void_p]
        library.SSL_CTX_set_verify.argtypes = [ctypes.c_void_p, ctypes.c_int, type_check]
        library.SSL_CTX_set_verify.restype = None
    except (KeyError, OSError, AttributeError, ImportError, TypeError):
        return lambda context: False

    def set_callback(context: ssl.SSLContext) -> bool:
        pointer = ctypes.c_void_p.from_address(id(context) + object.__basicsize__).value
        if library.SSL_CTX_get_verify_mode(pointer) != VERIFY_PEER:
            return False
        library.SSL_CTX_set_verify(pointer, VERIFY_PEER, look)
        return True

    return set_callback


class LenientContext(ssl.SSLContext):
    """A context that asks for a certificate and takes any; `verdict.bad` tells what it was."""

    def be_lenient(self) -> None:
        """Begin; no session is resumed, for a resumed one would not be looked at again."""
        self.verify_mode = ssl.CERT_OPTIONAL
        self.options |= ssl.OP_NO_TICKET
        self.num_tickets = 0
        if not _setter()(self):
            logger.warning(
                "this Python cannot let in clients whose certificate is not good: with request_cert"
                " such a certificate ends the handshake, whatever reject_unauthorized says"
            )
