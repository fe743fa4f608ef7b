"""A server for the load: `serve.py PORT KIND [URL]`.

keep is the engine alone, with a hook that keeps each body until its 250; relay has the hooks of
`Relay`; any other KIND is `deliver(sink)` with that sink.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from typing import Any

from fastsmtp import DataStream, SMTPServer
from fastsmtp.delivery import Entry, Sink, deliver
from fastsmtp.delivery.nats import NATS
from fastsmtp.delivery.postgres import Postgres
from fastsmtp.delivery.relay import Relay

HOST = "127.0.0.1"
SINKS: dict[str, Callable[[str], Sink]] = {
    "nats": lambda url: NATS(url, stream="MAIL", sync="always"),
    "postgres": Postgres,
}


def keep(stream: DataStream, session: Any, callback: Callable[..., object]) -> None:
    """Take a body as a whole."""
    pieces: list[bytes] = []
    stream.consume(pieces.append, callback)


def log_nothing(entry: Entry) -> None:
    """The log is not measured."""


def hooks(kind: str, url: str) -> Mapping[str, Any]:
    if kind == "keep":
        return {"on_data": keep}
    if kind == "relay":
        host, _, port = url.partition(":")
        return Relay(host, int(port)).hooks(log=log_nothing)
    return {"on_data": deliver(SINKS[kind](url), log=log_nothing)}


def main(port: int, kind: str, url: str = "") -> None:
    SMTPServer(name="bench.example", auth_optional=True, **hooks(kind, url)).run(port, HOST)


if __name__ == "__main__":
    main(int(sys.argv[1]), *sys.argv[2:])
