"""fastsmtp: an SMTP and LMTP server engine. Hooks in Python, framing and parsing in compiled
code.
"""

try:
    from fastsmtp._sasl.exchange import Auth, AuthResponse
    from fastsmtp._sasl.saslprep import saslprep
    from fastsmtp._sasl.scram import ScramKeys, scram_keys
    from fastsmtp._wire.grammar import Address, AddressDSN
    from fastsmtp.errors import MessageAborted, MessageTooLarge, SMTPError
    from fastsmtp.server import SMTPServer
    from fastsmtp.session import (
        ClientGreeting,
        DeliverBy,
        Envelope,
        EnvelopeDSN,
        Session,
        ValidSince,
    )
    from fastsmtp.stream import DataStream
except ModuleNotFoundError as error:
    from fastsmtp._unbuilt import explained

    raise explained(error) from None

__version__ = "0.1.0"

__all__ = [
    "Address",
    "AddressDSN",
    "Auth",
    "AuthResponse",
    "ClientGreeting",
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
    "ValidSince",
    "__version__",
    "saslprep",
    "scram_keys",
]
