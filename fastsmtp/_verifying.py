"""Lets clients in whose certificate is not good, and remembers that it was not.

`request_cert` without `reject_unauthorized` asks for a certificate and reports what came. Python's
ssl ends the handshake when the certificate is not good. (Placeholder.)
"""

from __future__ import annotations

import ssl

__all__ = ["accept_any_certificate"]


def accept_any_certificate(context: ssl.SSLContext) -> None:
    """Have `context` let in clients whose certificate is not good."""
