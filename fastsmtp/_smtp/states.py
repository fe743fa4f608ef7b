"""The state of a dialogue, and its transaction. RFC 5321 §3.3, §4.1.4."""

from __future__ import annotations

from enum import IntEnum
from typing import Final

from fastsmtp._wire.grammar import Address
from fastsmtp.session import Envelope

__all__ = ["DEMANDED", "WATCHED", "Flag", "State", "Transaction"]


class State(IntEnum):
    """How far the dialogue has come. The first six are the columns of the command table."""

    CONNECTED = 0  # greeted by us, not by the client
    GREETED = 1
    MAIL_GIVEN = 2
    RCPT_GIVEN = 3
    IN_BDAT = 4
    BDAT_FAILED = 5
    OPENING = 6  # before our greeting
    IN_MAIL_DATA = 7
    CLOSING = 8


class Flag:
    """Checks before a command; dispatch makes those whose bits are in its watch mask. Plain ints,
    because the table is read for every command.
    """

    NONE: Final = 0
    JUNK: Final = 1  # counts as a command that makes no progress
    ENDS_GROUP: Final = 2  # ends a group: no input may follow it yet, RFC 2920 §3.1
    UNKNOWN: Final = 4
    BDAT: Final = 8  # its octets follow even if it is refused
    CLOSE: Final = 16  # the connection closes after the refusal
    NEEDS_AUTH: Final = 32  # refused while authentication is required and missing
    # Counts as a line while authentication is required and missing.
    COUNTS_UNAUTHENTICATED: Final = 64
    LINE: Final = 128  # every line: watched for the first one of a connection
    NEEDS_TLS: Final = 256  # refused until TLS while `needs_upgrade` is set, RFC 3207 §4
    # No input may follow it in the same read, since that would be plaintext, RFC 3207 §4.2.
    STARTS_TLS: Final = 512


# The bits that matter as long as authentication is required and missing.
DEMANDED: Final = Flag.NEEDS_AUTH | Flag.COUNTS_UNAUTHENTICATED
# The bits that matter once the first line has passed and no authentication is missing.
WATCHED: Final = Flag.JUNK | Flag.ENDS_GROUP | Flag.UNKNOWN | Flag.BDAT | Flag.CLOSE


class Transaction:
    """The engine's state of one mail transaction; a new object for each, so that nothing remains
    from the last one.

    The envelope is for hooks; the engine's decisions use only this object.
    """

    # `None`, 0 and False in a new object.
    envelope: Envelope | None
    rcpt_to: list[Address] | None  # that of the envelope
    address: Address | None  # of the command whose hook is at work
    sender: Address | None  # once MAIL was accepted
    accepted: int  # recipients
    refused: int  # recipients, by the hook and permanently
    tried: int  # RCPT commands, accepted or not
    octets: int  # of memory, about, for the accepted recipients
    cost: int  # the same for the recipient whose hook is at work
    began: float  # when MAIL came
    smtp_utf8: bool
    binary: bool  # BODY=BINARYMIME
