"""What a dialogue knows of itself: where it is, and its transaction. RFC 5321 §3.3, §4.1.4."""

from __future__ import annotations

from enum import IntEnum
from typing import Final

from fastsmtp._wire.grammar import Address
from fastsmtp.session import Envelope

__all__ = ["DEMANDED", "WATCHED", "Flag", "State", "Transaction"]


class State(IntEnum):
    """What has happened so far. The first six are the columns of the command table."""

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
    """What dispatch has to look at before a command; it looks at those bits that its watch mask
    holds. Plain ints: a table is looked up for every command.
    """

    NONE: Final = 0
    JUNK: Final = 1  # counted as a command that brings no message nearer
    ENDS_GROUP: Final = 2  # ends a group: nothing may be behind it yet, RFC 2920 §3.1
    UNKNOWN: Final = 4
    BDAT: Final = 8  # its octets follow whatever the answer is
    CLOSE: Final = 16  # the connection ends behind the refusal
    NEEDS_AUTH: Final = 32  # refused while authentication is required and missing
    # Counts as a line while authentication is required and missing.
    COUNTS_UNAUTHENTICATED: Final = 64
    LINE: Final = 128  # every line: watched for the first one of a connection
    NEEDS_TLS: Final = 256  # refused until TLS while `needs_upgrade` is set, RFC 3207 §4
    # Nothing may ever follow it in the same read, for that would be plaintext, RFC 3207 §4.2.
    STARTS_TLS: Final = 512


# The bits that matter as long as authentication is required and missing.
DEMANDED: Final = Flag.NEEDS_AUTH | Flag.COUNTS_UNAUTHENTICATED
# The bits that matter once the first line has passed and no authentication is missing.
WATCHED: Final = Flag.JUNK | Flag.ENDS_GROUP | Flag.UNKNOWN | Flag.BDAT | Flag.CLOSE


class Transaction:
    """What the engine knows of one mail transaction; a new object for each, so that nothing is
    left over.

    The envelope is for the hooks to look at. What the engine decides by stands here.
    """

    # `None`, 0 and False in a new object.
    envelope: Envelope | None
    rcpt_to: list[Address] | None  # that of the envelope
    address: Address | None  # of the command that a hook looks at
    sender: Address | None  # once MAIL was accepted
    accepted: int  # recipients
    refused: int  # recipients, by the hook and for good
    tried: int  # RCPT commands, accepted or not
    octets: int  # that the accepted recipients take, about
    cost: int  # octets of the recipient that a hook looks at
    smtp_utf8: bool
    binary: bool  # BODY=BINARYMIME
