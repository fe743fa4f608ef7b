"""`Session` and `Envelope`: the facts that hooks see.

The engine writes them and never bases a decision on them, so a hook that changes or deletes an
attribute harms only itself. Fields are grouped by how long they live.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from fastsmtp._wire.grammar import Address

if TYPE_CHECKING:
    from datetime import datetime

__all__ = ["ClientGreeting", "DeliverBy", "Envelope", "EnvelopeDSN", "Session", "ValidSince"]

_DIGITS: Final = "0123456789abcdefghijklmnopqrstuv"
_PAIRS: Final = tuple(first + second for first in _DIGITS for second in _DIGITS)


class EnvelopeDSN:
    """The parameters of MAIL for delivery status notifications (RFC 3461 §4.3, §4.4)."""

    # Not a dataclass: `dataclasses` would be one more module to import for every program.
    __slots__ = ("envid", "ret")
    ret: str | None  # "FULL" or "HDRS"
    envid: str | None  # decoded

    def __init__(self, ret: str | None = None, envid: str | None = None) -> None:
        self.ret = ret
        self.envid = envid

    __hash__ = None  # type: ignore[assignment]  # mutable

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, EnvelopeDSN):
            return NotImplemented
        return (self.ret, self.envid) == (other.ret, other.envid)

    def __repr__(self) -> str:
        return f"EnvelopeDSN(ret={self.ret!r}, envid={self.envid!r})"


class DeliverBy(NamedTuple):
    """The BY parameter of MAIL (RFC 2852 §4)."""

    seconds: int
    mode: str  # "N" or "R"
    trace: bool


class ValidSince(NamedTuple):
    """The RRVS parameter of RCPT (RFC 7293 §3.1): the client knows that the mailbox belonged to the
    recipient at this time.
    """

    since: datetime
    action: str  # where the next server has no RRVS: "C" continue, "R" reject, "" not given


class ClientGreeting(NamedTuple):
    """The HELO, EHLO or LHLO of a client, for `on_helo` (RFC 5321 §4.1.1.1).

    keywords: the lines of our answer after the first one, `("PIPELINING", "SIZE 26214400")`; empty
    for HELO.
    """

    command: str
    name: str
    keywords: tuple[str, ...]


class Envelope:
    """One mail transaction: sender, recipients and the parameters of MAIL (RFC 5321 §2.3.1).

    mail_from: None until MAIL was accepted. rcpt_to: the accepted recipients in order, duplicates
    too. body_type: "7bit", "8bitmime" or "binarymime". auth: RFC 4954 §5. mt_priority: RFC 6710.
    hold_for (seconds), hold_until: RFC 4865.
    """

    __slots__ = (
        "_dsn",
        "auth",
        "body_type",
        "deliver_by",
        "hold_for",
        "hold_until",
        "mail_from",
        "mt_priority",
        "rcpt_to",
        "require_tls",
        "smtp_utf8",
    )

    def __init__(self) -> None:
        self.mail_from: Address | None = None
        self.rcpt_to: list[Address] = []
        self.body_type = "7bit"
        self.smtp_utf8 = False
        self.require_tls = False
        self._dsn: EnvelopeDSN | None = None
        self.auth: str | None = None
        self.mt_priority: int | None = None
        self.deliver_by: DeliverBy | None = None
        self.hold_for: int | None = None
        self.hold_until: datetime | None = None

    @property
    def dsn(self) -> EnvelopeDSN:
        """RET and ENVID of MAIL."""
        if self._dsn is None:
            self._dsn = EnvelopeDSN()
        return self._dsn

    @dsn.setter
    def dsn(self, value: EnvelopeDSN) -> None:
        self._dsn = value

    @dsn.deleter
    def dsn(self) -> None:
        raise AttributeError("dsn can be replaced, not deleted")

    def __repr__(self) -> str:
        return f"<Envelope from {self.mail_from!r} to {len(self.rcpt_to)} recipients>"


# (greeted with, transaction has SMTPUTF8) -> prefix; RFC 3848, RFC 6531 §4.3.
_EXTENDED_TYPES: Mapping[tuple[str, bool], str] = {
    ("EHLO", False): "ESMTP",
    ("EHLO", True): "UTF8SMTP",
    ("LHLO", False): "LMTP",
    ("LHLO", True): "UTF8LMTP",
}


class Session:
    """The facts of one connection, for hooks to read. `data` is the application's own dict.

    Most connections need none of the dicts, so each is made on first access.
    """

    __slots__ = (
        "_data",
        "_envelope",
        "_id",
        "_lmtp",
        "_notes",
        "_xclient",
        "_xforward",
        "client_hostname",
        "error",
        "host_name_appears_as",
        "local_address",
        "local_port",
        "opening_command",
        "proxy",
        "remote_address",
        "remote_port",
        "secure",
        "servername",
        "tls_options",
        "transaction",
        "user",
    )

    def __init__(self, *, lmtp: bool = False, secure: bool = False) -> None:
        # connection
        self._id: str | None = None
        self._lmtp = lmtp
        self.local_address = ""
        self.local_port = 0
        self.remote_address = ""
        self.remote_port = 0
        self.client_hostname = ""
        self.proxy: dict[str, Any] | None = None
        self.secure = secure
        self.servername = ""
        self.tls_options: Any = None
        self.transaction = 1
        self._data: dict[str, Any] | None = None
        # greeting
        self.opening_command = ""
        self.host_name_appears_as = ""
        self.user: Any = None
        self.error: str | None = None
        self._xclient: dict[str, Any] | None = None
        # transaction
        self._xforward: dict[str, Any] | None = None
        self._envelope: Envelope | None = None
        self._notes: dict[str, str] | None = None

    @property
    def id(self) -> str:
        """16 characters of 0-9 and a-v, 80 random bits: names this connection in logs."""
        if self._id is None:
            number = int.from_bytes(os.urandom(10))
            self._id = "".join([_PAIRS[number >> shift & 1023] for shift in range(0, 80, 10)])
        return self._id

    @property
    def data(self) -> dict[str, Any]:
        """The application's own values: the engine neither reads nor writes them."""
        if self._data is None:
            self._data = {}
        return self._data

    @data.setter
    def data(self, value: dict[str, Any] | None) -> None:
        self._data = value

    @data.deleter
    def data(self) -> None:
        self._data = None

    @property
    def xclient(self) -> dict[str, Any]:
        """The attributes that XCLIENT set."""
        if self._xclient is None:
            self._xclient = {}
        return self._xclient

    @xclient.setter
    def xclient(self, value: dict[str, Any] | None) -> None:
        self._xclient = value

    @xclient.deleter
    def xclient(self) -> None:
        self._xclient = None

    @property
    def xforward(self) -> dict[str, Any]:
        """The attributes that XFORWARD set for the current message."""
        if self._xforward is None:
            self._xforward = {}
        return self._xforward

    @xforward.setter
    def xforward(self, value: dict[str, Any] | None) -> None:
        self._xforward = value

    @xforward.deleter
    def xforward(self) -> None:
        self._xforward = None

    @property
    def notes(self) -> dict[str, str]:
        """What hooks add to the log line of the current transaction; empty for the next one."""
        if self._notes is None:
            self._notes = {}
        return self._notes

    @property
    def envelope(self) -> Envelope:
        """The current mail transaction; replaced, never reused, when it ends."""
        if self._envelope is None:
            self._envelope = Envelope()
        return self._envelope

    @envelope.setter
    def envelope(self, value: Envelope) -> None:
        self._envelope = value

    @envelope.deleter
    def envelope(self) -> None:
        raise AttributeError("envelope can be replaced, not deleted")

    @property
    def transmission_type(self) -> str:
        """The `with` of a Received header: "SMTP", "ESMTPS", "LMTP", "UTF8SMTPSA" … (RFC 3848, RFC
        6531).
        """
        greeted = self.opening_command or ("LHLO" if self._lmtp else "")
        kind = _EXTENDED_TYPES.get((greeted, self.envelope.smtp_utf8))
        if kind is None:
            return "SMTP"
        return f"{kind}{'S' if self.secure else ''}{'A' if self.user is not None else ''}"

    def __repr__(self) -> str:
        return f"<Session {self.id} from {self.remote_address!r}>"


def set_envelope(session: Session, envelope: Envelope | None) -> None:
    """For the engine: set the envelope of the new transaction; None: the next access makes a new
    one.
    """
    session._envelope = envelope
    session._notes = None
