"""Final delivery behind a mail queue: LMTP on a UNIX socket, one file per recipient and message.

    python examples/lmtp_gateway.py socket folder

In LMTP there is one reply per recipient, so that one full mailbox does not affect the others:
`on_data` returns a list, in the order of `envelope.rcpt_to`, of texts and errors.
"""

import asyncio
import os
import sys
from pathlib import Path

from fastsmtp import Address, DataStream, Session, SMTPError, SMTPServer


class Delivery:
    """The hooks; methods work like functions."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def mailbox(self, address: Address) -> Path | None:
        """The recipient's folder. Only existing names match, so no address leads elsewhere."""
        for entry in self.folder.iterdir():
            if entry.is_dir() and entry.name == address.local_part.lower():
                return entry
        return None

    async def on_rcpt_to(self, address: Address, session: Session) -> None:
        """Reject recipients without a mailbox."""
        if self.mailbox(address) is None:
            raise SMTPError("no such mailbox", response_code=550, enhanced_code="5.1.1")

    async def on_data(self, stream: DataStream, session: Session) -> list[str | SMTPError]:
        """Read the message once; deliver it to each recipient in a thread, because disks block."""
        body = await stream.read()
        results: list[str | SMTPError] = []
        for number, address in enumerate(session.envelope.rcpt_to):
            name = f"{session.id}.{session.transaction}.{number}"
            try:
                await asyncio.to_thread(self.store, address, name, body)
                results.append(f"stored as {name}")
            except OSError as error:
                results.append(SMTPError(error.strerror or "failed", response_code=452))
        return results

    def store(self, address: Address, name: str, body: bytes) -> None:
        """Return when the message is on disk under its final name; only then is it accepted."""
        mailbox = self.mailbox(address)
        if mailbox is None:
            raise FileNotFoundError(2, "the mailbox is gone")
        with open(mailbox / f".{name}", "xb") as file:
            file.write(body)
            file.flush()
            os.fsync(file.fileno())
        os.rename(mailbox / f".{name}", mailbox / name)
        descriptor = os.open(mailbox, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def main(path: str, folder: str) -> None:
    """Serve until SIGTERM or Ctrl-C."""
    delivery = Delivery(Path(folder))
    server = SMTPServer(
        lmtp=True, auth_optional=True, on_rcpt_to=delivery.on_rcpt_to, on_data=delivery.on_data
    )
    server.on("listening", lambda address: print(f"listening on {address}", flush=True))
    server.run(path=path)


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(f"usage: {sys.argv[0]} socket folder")
    main(*sys.argv[1:])
