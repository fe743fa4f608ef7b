"""The smallest server: it accepts every message and prints its size. Hooks in callback style.

    python examples/accept_all.py [port]

A plain function gets a `callback` as its last argument and answers by calling it, now or later:
`callback()` accepts, `callback(error)` rejects. No Task is needed.
"""

import sys

from fastsmtp import DataStream, MessageAborted, Session, SMTPServer
from fastsmtp.hook_types import DataCallback


def on_data(stream: DataStream, session: Session, callback: DataCallback) -> None:
    """Count the octets while they arrive; answer at the end."""
    recipients = ", ".join(str(address) for address in session.envelope.rcpt_to)

    def on_chunk(chunk: bytes) -> None:
        """Use the chunk, a piece of the message without dot-stuffing."""

    def on_end(error: MessageAborted | None) -> None:
        if error is None:
            print(f"{stream.byte_length} octets for {recipients}", flush=True)
        callback(error)

    stream.consume(on_chunk, on_end)


def main(port: int) -> None:
    """Serve until SIGTERM or Ctrl-C."""
    server = SMTPServer(auth_optional=True, on_data=on_data)
    server.on("listening", lambda address: print(f"listening on {address[1]}", flush=True))
    server.run(port, "127.0.0.1")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 2525)
