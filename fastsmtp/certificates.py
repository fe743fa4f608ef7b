"""Functions that read, check and make certificates, for programs around a server."""

from fastsmtp._tls.facts import TLSSocket
from fastsmtp._tls.pem import Pem, expired_at, leaf_of, read_pem
from fastsmtp._tls.self_signed import self_signed

__all__ = ["Pem", "TLSSocket", "expired_at", "leaf_of", "read_pem", "self_signed"]
