"""Makes the stream of mail-stream.json, as `nats stream add --config` does: make_stream.py URL"""

import asyncio
import json
import sys
from pathlib import Path

import nats

STREAM = Path(__file__).with_name("mail-stream.json")
IS_THERE = 10058  # with other settings; with the same ones it is no error


async def make(servers):
    config = json.loads(STREAM.read_text())
    client = await nats.connect(servers.split(","))
    while True:
        try:
            reply = await client.request(
                f"$JS.API.STREAM.CREATE.{config['name']}", STREAM.read_bytes(), timeout=5
            )
        except nats.errors.Error:  # the servers have no leader yet
            await asyncio.sleep(0.2)
            continue
        error = json.loads(reply.data).get("error", {})
        if error.get("code") != 503:
            break
        await asyncio.sleep(0.2)
    await client.close()
    if error and error.get("err_code") != IS_THERE:
        sys.exit(f"the stream cannot be made: {error['description']}")


asyncio.run(make(sys.argv[1]))
