"""Accepts clients with an untrusted certificate, and reports afterwards that it is not trusted.

`request_cert` without `reject_unauthorized` asks for a certificate and reports the result. Python's
ssl has no such mode: an untrusted certificate ends the handshake. OpenSSL has a verify callback,
which Python does not offer; here ctypes sets it on known versions of Python (the context object
begins with OpenSSL's pointer, and the verify mode read through that pointer is compared before it
is used). On other versions an untrusted certificate ends the handshake, clients without a
certificate are accepted, and a log line at start states this.
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
    """The result of this thread's handshake step. bad: a certificate is not trusted."""

    bad = False


verdict: Final = Verdict()


def _note(is_good: int, store: Any) -> int:
    """Note OpenSSL's verdict on one certificate of the chain; returning 1 continues."""
    if not is_good:
        verdict.bad = True
    return 1


@cache
def _setter() -> Callable[[ssl.SSLContext], bool]:
    """Return a function that sets our callback and returns whether it could. It uses the OpenSSL
    that the ssl module has loaded, and must live as long as OpenSSL may call back.
    """
    if not IS_KNOWN:
        return lambda context: False
    try:
        import ctypes  # only for this rare pair of options: it would add 1.5 ms to every import

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
    """A context that asks for a certificate and accepts any; `verdict.bad` has the result."""

    def be_lenient(self) -> None:
        """Set the callback; disable resumption, because a resumed session is not verified again."""
        self.verify_mode = ssl.CERT_OPTIONAL
        self.options |= ssl.OP_NO_TICKET
        self.num_tickets = 0
        if not _setter()(self):
            logger.warning(
                "this Python cannot accept clients with an untrusted certificate: with request_cert"
                " such a certificate ends the handshake, whatever reject_unauthorized is"
            )
