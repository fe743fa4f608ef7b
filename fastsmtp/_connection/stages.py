"""What a connection is doing: one stage after the other, each answering the same questions.

    proxy header -> handshake -> wait before the greeting -> dialogue -> lingering

The first three are left out where they are not needed, and STARTTLS puts a handshake into the
dialogue. A connection that is refused lingers from the start. Those that keep nothing are one
object each, for all connections; the others are in modules of their own.
"""

from __future__ import annotations

from contextvars import Context
from typing import Final, Protocol

__all__ = ["GONE", "LINGERING", "LOST", "TALKING", "Client", "Stage", "Talking", "held"]


class Client(Protocol):
    """What a stage asks of its connection. reads: how often something has come in. context: that it
    is called in, None: any.
    """

    reads: int
    context: Context | None

    def receive(self, data: bytes) -> None:
        """Give octets to the dialogue."""

    def receive_eof(self) -> None:
        """Tell the dialogue that the client sends no more."""

    def holds_input(self) -> bool:
        """Whether some of what was read is not worked on yet."""

    def input_ended(self) -> None:
        """All that was read before the client's FIN is worked on."""

    def go_on_later(self) -> None:
        """Have what is left of the input worked on in a later turn of the loop."""

    def set_reading(self, reading: bool) -> None:
        """Go on reading, or stop it."""

    def introduced(self, address: str | None, rest: bytes) -> None:
        """The PROXY header is read. address: what counts for `max_clients_per_host`; rest: what was
        read after the header.
        """

    def start(self, name: str | None, input_over: bool = False) -> None:
        """Begin the dialogue. name: of the client, None for none; input_over: it sends no more."""

    def expire(self, now: float) -> None:
        """The deadline of the dialogue has passed."""

    def say_closing(self) -> None:
        """The server is closing: have the dialogue say 421 as soon as it may."""

    def close(self) -> None:
        """End the connection after what is written."""

    def cut(self) -> None:
        """End it now."""


class Stage:
    """Base of the others, and a connection that is cut or not yet let in: nothing happens."""

    __slots__ = ()

    def octets(self, client: Client, data: bytes) -> None:
        """Something was read."""

    def eof(self, client: Client) -> None:
        """The client sends no more; it may still be reading."""

    def expired(self, client: Client, now: float) -> None:
        """The deadline has passed, and nothing came in."""

    def server_closing(self, client: Client) -> None:
        """The server is closing; RFC 5321 §3.8 asks for a 421."""

    def may_read(self) -> bool:
        """Whether the transport may deliver more; if not, the stage sees to it later."""
        return True

    def leave(self) -> None:
        """Another stage begins, or the connection is lost: let go of what this one waits for."""


def held(stage: Stage) -> Stage:
    """Return `stage` with a reference of the caller's own.

    A connection may enter another stage, and so give up this one, while a method of it runs. C
    calls that method without taking a reference.
    """
    return stage


class Lost(Stage):
    """The transport is gone; a hook may still be at work."""

    __slots__ = ()

    def expired(self, client: Client, now: float) -> None:
        """The hook has taken too long."""
        client.expire(now)


class Lingering(Stage):
    """The last octet is written, or the client refused: what it still sends is dropped."""

    __slots__ = ()

    def eof(self, client: Client) -> None:
        """The end that was waited for."""
        client.close()


class Talking(Stage):
    """The dialogue in plaintext, for which the connection takes a shorter way to `receive`."""

    __slots__ = ()

    def octets(self, client: Client, data: bytes) -> None:
        """Commands, or a message."""
        client.receive(data)

    def eof(self, client: Client) -> None:
        """What is complete is still answered (RFC 5321 §3.8)."""
        client.receive_eof()

    def expired(self, client: Client, now: float) -> None:
        """The client, or a hook, has taken too long."""
        client.expire(now)

    def server_closing(self, client: Client) -> None:
        """The dialogue knows when it may say so."""
        client.say_closing()

    def holds_input(self) -> bool:
        """Whether some of what was read is still to be decrypted."""
        return False

    def wait_for_turn(self, client: Client) -> None:
        """Have that go on in a later turn; till then nothing more is read."""

    def go_on(self, client: Client) -> None:
        """The turn has come, if one was waited for."""


GONE: Final = Stage()
LOST: Final = Lost()
LINGERING: Final = Lingering()
TALKING: Final = Talking()
