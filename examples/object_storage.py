"""Messages into object storage, in pieces while they arrive: memory does not depend on their size.

    pip install 'fastsmtp-engine[s3]'
    python examples/object_storage.py s3://bucket/prefix [port]

obstore takes any store of Amazon, Google, Azure or a directory (`file:///var/mail`), with keys from
the environment. The 250 comes when the store has acknowledged the whole object; a message that is
cut off leaves no object.
"""

import sys
import uuid
from datetime import UTC, datetime

import obstore
from obstore.exceptions import BaseError
from obstore.store import ObjectStore, from_url

from fastsmtp import DataStream, Session, SMTPError, SMTPServer

PART = 5 * 1024 * 1024  # octets, the least that S3 takes


class Archive(SMTPServer):
    """store: where messages are kept."""

    def __init__(self, store: ObjectStore) -> None:
        super().__init__(auth_optional=True, size=1024**3)
        self.store = store

    async def on_data(self, stream: DataStream, session: Session) -> str:
        """Pass the pieces on. The name is ours, so that no client can choose it."""
        name = f"{datetime.now(UTC):%Y/%m/%d}/{uuid.uuid4()}.eml"
        upload = obstore.open_writer_async(self.store, name, buffer_size=PART, max_concurrency=1)
        try:
            async with upload:  # an exception in it, as when the client is gone, aborts the upload
                async for piece in stream:
                    await upload.write(piece)
                if stream.size_exceeded:  # the pieces end early, without an exception
                    raise SMTPError("This message is too large", 552, "5.3.4")
        except (BaseError, OSError):
            raise SMTPError("The message could not be stored, try again later", 451) from None
        return f"OK: stored as {name}"


if __name__ == "__main__":
    server = Archive(from_url(sys.argv[1]))
    server.on("listening", lambda address: print(f"listening on {address[1]}", flush=True))
    server.run(int(sys.argv[2]) if len(sys.argv) > 2 else 2525, "127.0.0.1")
