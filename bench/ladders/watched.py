"""A server that tells how long its loop was held: `python bench watched PORT [NAME=VALUE ...]`.

A callback that asks to be called again in the next turn of the loop sees how much CPU time its
thread has spent since the last one: whatever ran in between, parser, hooks and the loop itself. CPU
time, for what else the machine did in that moment is not the server's doing. For each line on
standard input the longest one, in milliseconds, is printed as JSON, and forgotten.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time

import uvloop
from peers.serve import HOST, server_of


class Heart:
    """Beats once in each turn of the loop."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self.last = time.thread_time_ns()
        self.longest = 0

    def beat(self) -> None:
        now = time.thread_time_ns()
        self.longest = max(self.longest, now - self.last)
        self.last = now
        self.loop.call_soon(self.beat)

    def tell(self) -> None:
        """Somebody asks; at the end of the input nobody is left to ask."""
        if not os.read(sys.stdin.fileno(), 100):
            self.loop.stop()
            return
        print(json.dumps({"longest_ms": self.longest / 1e6}), flush=True)
        self.longest = 0
        self.last = time.thread_time_ns()


async def serve(port: int, options: list[str]) -> None:
    loop = asyncio.get_running_loop()
    heart = Heart(loop)
    loop.add_reader(sys.stdin.fileno(), heart.tell)
    await server_of("callback", options).listen(port, HOST)
    heart.beat()
    await loop.create_future()


def main(arguments: list[str]) -> int:
    uvloop.run(serve(int(arguments[0]), arguments[1:]))
    return 0
