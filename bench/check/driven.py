"""What callgrind counts: the scripts that `driven.py` plays to an engine in memory.

It runs in the environment of either revision, so it uses public names of fastsmtp only. No socket,
no kernel and no clock of the loop is in the way: two runs are the same to the instruction.
"""

from __future__ import annotations

import gc
import os
from collections.abc import Callable
from typing import Any

from fastsmtp import SMTPServer
from fastsmtp.testing import VirtualLoop, Wire

GREETING = b"HELO client.example\r\n"
MAIL = b"MAIL FROM:<someone@example.com>\r\n"
RCPT = b"RCPT TO:<other@example.org>\r\n"
DATA = b"DATA\r\n"
LINE = b"x" * 76 + b"\r\n"
SMALL = LINE * 13 + b".\r\n"
LARGE = LINE * 656 + b".\r\n"
QUIT = b"QUIT\r\n"


def accept(address: Any, session: Any, callback: Any) -> None:
    callback()


def take(stream: Any, session: Any, callback: Any) -> None:
    stream.consume(len, callback)


async def accept_in_a_task(address: Any, session: Any) -> None:
    pass


async def take_in_a_task(stream: Any, session: Any) -> None:
    async for _ in stream:
        pass


CALLBACKS = {"on_mail_from": accept, "on_rcpt_to": accept, "on_data": take}
COROUTINES = {
    "on_mail_from": accept_in_a_task,
    "on_rcpt_to": accept_in_a_task,
    "on_data": take_in_a_task,
}


class Loop(VirtualLoop):
    """A wire's step costs a turn of the loop; within one turn of our own it is a call."""

    def step(self, action: Callable[[], Any]) -> None:
        if self.is_running():
            action()
        else:
            super().step(action)


def server(hooks: dict[str, Any]) -> SMTPServer:
    return SMTPServer(
        auth_optional=True, disable_reverse_lookup=True, max_junk_commands=None, **hooks
    )


def on_one_connection(times: int, hooks: dict[str, Any], *reads: bytes) -> None:
    """Deliver the same reads again and again to a client that has greeted."""
    wire = Wire(server(hooks), loop=Loop())
    wire.send(GREETING)
    written = wire.transport.writes
    receive = wire.connection.data_received

    def play() -> None:
        for _ in range(times):
            for read in reads:
                receive(read)
            last = written[-1]
            written.clear()
            if not last.startswith((b"250", b"354")):
                raise RuntimeError(f"unexpected: {last!r}")

    wire.loop.step(play)


def connections(times: int) -> None:
    """From the greeting to the client's FIN. A connection is gone at the end of its turn."""
    loop, common = Loop(), server(CALLBACKS)

    def play() -> None:
        for _ in range(10):
            wire = Wire(common, loop=loop)
            heard = wire.send(GREETING, MAIL, RCPT, DATA, SMALL, QUIT)
            wire.eof()
            if heard.splitlines()[-1][:3] != b"221":
                raise RuntimeError(f"unexpected: {heard!r}")

    for _ in range(times):
        loop.step(play)


def commands(times: int) -> None:
    """A transaction of ten commands, without a message."""
    on_one_connection(times, CALLBACKS, MAIL, *[RCPT] * 8, b"RSET\r\n")


def messages(times: int) -> None:
    on_one_connection(times, CALLBACKS, MAIL, RCPT, DATA, SMALL)


def messages_of_coroutines(times: int) -> None:
    on_one_connection(times, COROUTINES, MAIL, RCPT, DATA, SMALL)


def messages_in_a_pipeline(times: int) -> None:
    """RFC 2920: the commands of a message come in one read."""
    on_one_connection(times, CALLBACKS, MAIL + RCPT + DATA, SMALL)


def large_messages(times: int) -> None:
    on_one_connection(times, CALLBACKS, MAIL, RCPT, DATA, LARGE)


# The script, how often it is played (N), and how many units one play of it is.
MEASURES: dict[str, tuple[Callable[[int], None], int, int]] = {
    "command": (commands, 100, 10),
    "message of 1 KiB": (messages, 300, 1),
    "message of 1 KiB, coroutines": (messages_of_coroutines, 200, 1),
    "message of 1 KiB, pipelined": (messages_in_a_pipeline, 300, 1),
    "message of 50 KiB": (large_messages, 200, 1),
    "connection": (connections, 20, 10),
}


def main() -> None:
    """Play each script N times and 2 N times, with a mark before and after each: callgrind writes
    its count at every call of getppid. A line is printed for each: its name and of how many units N
    consists, or what failed; that one has no marks.
    """
    for name, (play, times, units) in MEASURES.items():
        try:
            play(20)  # caches of the interpreter and of ours, and what is made at first use
        except Exception as error:
            print(f"failed\t{name}\t{type(error).__name__}: {error}")
            continue
        print(f"counted\t{name}\t{times * units}")
        gc.collect()
        gc.freeze()  # a later collection does not walk through what there was before
        os.getppid()
        play(times)
        os.getppid()
        play(2 * times)
        os.getppid()


if __name__ == "__main__":
    main()
