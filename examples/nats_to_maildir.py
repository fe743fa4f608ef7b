"""A consumer: takes the mail out of a stream of JetStream, and files it into a Maildir for each
recipient. Several may run at once, on any machines; each message goes to one of them.

    nats_to_maildir.py nats://127.0.0.1:4222 MAIL ./mail

It needs nats-py, and nothing of fastsmtp.
"""

import asyncio
import json
import os
import sys
import zlib
from typing import Any
from urllib.parse import quote

import nats
import nats.errors
from nats.aio.msg import Msg

AT_ONCE = 100


def read(octets: bytes) -> tuple[dict[str, Any], bytes]:
    """Return envelope and message of a record; raises ValueError for one that it cannot read."""
    head, _, rest = octets.partition(b"\n")
    word, version, *sizes, check = head.split(b" ")
    if (word, version) != (b"fastsmtp-record", b"1"):
        raise ValueError("not a record, or one of a newer version")
    envelope_size, message_size = map(int, sizes)
    if len(rest) != envelope_size + message_size or zlib.crc32(rest) != int(check, 16):
        raise ValueError("a damaged record")
    envelope = json.loads(rest[:envelope_size])
    if "body" in envelope:  # then the message here is the gateway's headers alone
        raise ValueError(f"its body is in the body store, as {envelope['body']}")
    return envelope, rest[envelope_size:]


def sync(path: str) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    os.fsync(descriptor)
    os.close(descriptor)


def file_into(directory: str, envelope: dict[str, Any], message: bytes) -> None:
    """Write a message for each recipient. One that comes again has the name that it had before."""
    # An id is unique; the sender has chosen nothing of it.
    name = f"{int(envelope['received'])}.{quote(envelope['id'], safe='')}.fastsmtp"
    for recipient in envelope["rcpt_to"]:
        # No name of a directory can lead elsewhere: "/" is quoted, and "x." comes first.
        box = os.path.join(directory, "x." + quote(recipient["address"].lower(), safe="@"))
        for part in ("tmp", "new", "cur"):
            os.makedirs(os.path.join(box, part), exist_ok=True)
        written = os.path.join(box, "tmp", name)
        with open(written, "wb") as file:
            file.write(message.replace(b"\r\n", b"\n"))
            file.flush()
            os.fsync(file.fileno())
        os.rename(written, os.path.join(box, "new", name))
        sync(os.path.join(box, "new"))


async def consume(servers: str, stream: str, directory: str) -> None:
    client = await nats.connect(servers.split(","), max_reconnect_attempts=-1)
    mail = await client.jetstream().pull_subscribe("", durable="maildir", stream=stream)
    print("ready", flush=True)
    while True:
        try:
            for message in await mail.fetch(AT_ONCE, timeout=5):
                await take(message, directory)
        except nats.errors.Error as error:
            # Nothing new, or servers without a leader for some seconds. A message that is not
            # acknowledged comes again.
            if not isinstance(error, nats.errors.TimeoutError):
                print(f"tried again: {error}", file=sys.stderr, flush=True)
            await asyncio.sleep(0.2)


async def take(message: Msg, directory: str) -> None:
    """File a message, then acknowledge it: after that the stream may drop it."""
    try:
        envelope, content = read(message.data)
        await asyncio.to_thread(file_into, directory, envelope, content)
    except (OSError, ValueError) as error:
        print(f"kept in the stream: {error}", file=sys.stderr, flush=True)
        await message.nak(delay=60)
    else:
        await message.ack()


if __name__ == "__main__":
    asyncio.run(consume(*sys.argv[1:]))
