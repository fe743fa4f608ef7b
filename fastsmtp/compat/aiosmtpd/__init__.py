"""aiosmtpd's handlers and controllers on this engine.

    from fastsmtp.compat.aiosmtpd.controller import Controller

A program that used aiosmtpd changes its imports: `aiosmtpd` becomes `fastsmtp.compat.aiosmtpd`.
docs/aiosmtpd.md says what differs.
"""

from fastsmtp.compat.aiosmtpd.controller import (
    Controller,
    UnixSocketController,
    UnixSocketUnthreadedController,
    UnthreadedController,
)
from fastsmtp.compat.aiosmtpd.handlers import (
    AsyncMessage,
    Debugging,
    Mailbox,
    Message,
    Proxy,
    Sink,
)
from fastsmtp.compat.aiosmtpd.hooks import server_of
from fastsmtp.compat.aiosmtpd.lmtp import LMTP
from fastsmtp.compat.aiosmtpd.results import MISSING, AuthResult, LoginPassword, auth_mechanism
from fastsmtp.compat.aiosmtpd.session import Envelope, ProxyData, Session
from fastsmtp.compat.aiosmtpd.smtp import SMTP

__all__ = [
    "LMTP",
    "MISSING",
    "SMTP",
    "AsyncMessage",
    "AuthResult",
    "Controller",
    "Debugging",
    "Envelope",
    "LoginPassword",
    "Mailbox",
    "Message",
    "ProxyData",
    "Proxy",
    "Session",
    "Sink",
    "UnixSocketController",
    "UnixSocketUnthreadedController",
    "UnthreadedController",
    "auth_mechanism",
    "server_of",
]
