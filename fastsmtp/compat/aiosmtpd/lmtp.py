"""`LMTP`: the same for the protocol of RFC 2033."""

from __future__ import annotations

from fastsmtp.compat.aiosmtpd.smtp import SMTP

__all__ = ["LMTP"]


class LMTP(SMTP):
    """The settings of a server that speaks LMTP.

    Each recipient gets a reply. A status with as many lines as there are recipients, none of which
    is continued (`"250 OK\\r\\n550 full"`), has one for each; any other one is repeated.
    """

    lmtp = True
