"""fastsmtp: an SMTP and LMTP server engine. Hooks in Python, framing and parsing in compiled
code.
"""

from fastsmtp._sasl.exchange import Auth, AuthResponse
from fastsmtp._sasl.saslprep import saslprep
from fastsmtp._sasl.scram import ScramKeys, scram_keys
from fastsmtp._wire.grammar import Address, AddressDSN
from fastsmtp.errors import MessageAborted, MessageTooLarge, SMTPError
from fastsmtp.server import SMTPServer
from fastsmtp.session import DeliverBy, Envelope, EnvelopeDSN, Session
from fastsmtp.stream import DataStream

__all__ = [
    "Address",
    "AddressDSN",
    "Auth",
    "AuthResponse",
    "DataStream",
    "DeliverBy",
    "Envelope",
    "EnvelopeDSN",
    "MessageAborted",
    "MessageTooLarge",
    "SMTPError",
    "SMTPServer",
    "ScramKeys",
    "Session",
    "saslprep",
    "scram_keys",
]
