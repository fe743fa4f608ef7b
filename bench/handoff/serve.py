"""A server for the load: `serve.py PORT KIND [URL]`.

keep is the engine alone, with a hook that keeps each body until its 250; any other KIND is
`deliver(sink)` with that sink.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

from fastsmtp import DataStream, SMTPServer
from fastsmtp.delivery import Sink, deliver
from fastsmtp.delivery.nats import NATS
from fastsmtp.delivery.postgres import Postgres

HOST = "127.0.0.1"
SINKS: dict[str, Callable[[str], Sink]] = {
    "nats": lambda url: NATS(url, stream="MAIL", sync="always"),
    "postgres": Postgres,
}


def keep(stream: DataStream, session: Any, callback: Callable[..., object]) -> None:
    """Take a body as a whole."""
    pieces: list[bytes] = []
    stream.consume(pieces.append, callback)


def main(port: int, kind: str, url: str = "") -> None:
    hook = keep if kind == "keep" else deliver(SINKS[kind](url), log=lambda entry: None)
    SMTPServer(name="bench.example", auth_optional=True, on_data=hook).run(port, HOST)


if __name__ == "__main__":
    main(int(sys.argv[1]), *sys.argv[2:])
