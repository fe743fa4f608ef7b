"""The stages of a connection, one after the other, all with the same interface.

    proxy header -> handshake -> wait before the greeting -> dialogue -> lingering

The first three are skipped if they are not needed, and STARTTLS inserts a handshake into the
dialogue. A refused connection lingers from the start. Stages without state are one object each, for
all connections; the others are in modules of their own.
"""

from __future__ import annotations

from contextvars import Context
from typing import Final, Protocol

__all__ = ["GONE", "LINGERING", "LOST", "TALKING", "Client", "Stage", "Talking", "held"]


class Client(Protocol):
    """The interface of a connection for its stage. reads: how often octets have arrived. context:
    contextvars for its calls, None: any.
    """

    reads: int
    context: Context | None

    def receive(self, data: bytes) -> None:
        """Give octets to the dialogue."""

    def receive_eof(self) -> None:
        """Tell the dialogue that the client has sent FIN."""

    def holds_input(self) -> bool:
        """Whether some input is not processed yet."""

    def input_ended(self) -> None:
        """All input before the client's FIN is processed."""

    def go_on_later(self) -> None:
        """Process the rest of the input in a later turn of the loop."""

    def set_reading(self, reading: bool) -> None:
        """Continue or pause reading."""

    def introduced(self, address: str | None, rest: bytes) -> None:
        """The PROXY header is read. address: counted for `max_clients_per_host`; rest: the octets
        after the header.
        """

    def start(self, name: str | None, input_over: bool = False) -> None:
        """Begin the dialogue. name: of the client, None if unknown; input_over: it has sent FIN."""

    def expire(self, now: float) -> None:
        """The deadline of the dialogue has passed."""

    def say_closing(self) -> None:
        """The server is closing: have the dialogue send 421 as soon as it may."""

    def close(self) -> None:
        """End the connection after the written output."""

    def cut(self) -> None:
        """End it now."""


class Stage:
    """Base of the others, and the stage of a connection that is cut or not yet admitted: events
    have no effect.
    """

    __slots__ = ()

    def octets(self, client: Client, data: bytes) -> None:
        """Octets were read."""

    def eof(self, client: Client) -> None:
        """The client has sent FIN; it may still be reading."""

    def expired(self, client: Client, now: float) -> None:
        """The deadline has passed without input."""

    def server_closing(self, client: Client) -> None:
        """The server is closing; RFC 5321 §3.8 asks for a 421."""

    def may_read(self) -> bool:
        """Whether the transport may read on; if not, the stage resumes reading later."""
        return True

    def leave(self) -> None:
        """Another stage begins, or the connection is lost: stop waiting."""


def held(stage: Stage) -> Stage:
    """Return `stage` with a reference of the caller's own.

    A connection may enter another stage, and so drop this one, while a method of it runs. C calls
    that method without taking a reference.
    """
    return stage


class Lost(Stage):
    """The transport is gone; a hook may still be running."""

    __slots__ = ()

    def expired(self, client: Client, now: float) -> None:
        """The hook has taken too long."""
        client.expire(now)


class Lingering(Stage):
    """The last octet is written, or the client was refused: its further octets are dropped."""

    __slots__ = ()

    def eof(self, client: Client) -> None:
        """The expected end."""
        client.close()


class Talking(Stage):
    """The dialogue in plaintext, for which the connection calls `receive` directly."""

    __slots__ = ()

    def octets(self, client: Client, data: bytes) -> None:
        """Commands, or a message."""
        client.receive(data)

    def eof(self, client: Client) -> None:
        """Complete commands are still answered (RFC 5321 §3.8)."""
        client.receive_eof()

    def expired(self, client: Client, now: float) -> None:
        """The client, or a hook, has taken too long."""
        client.expire(now)

    def server_closing(self, client: Client) -> None:
        """The dialogue sends 421 when it may."""
        client.say_closing()

    def holds_input(self) -> bool:
        """Whether some input is not decrypted yet."""
        return False

    def wait_for_turn(self, client: Client) -> None:
        """Decrypt it in a later turn; until then nothing more is read."""

    def go_on(self, client: Client) -> None:
        """The turn has come, if one was needed."""


GONE: Final = Stage()
LOST: Final = Lost()
LINGERING: Final = Lingering()
TALKING: Final = Talking()
