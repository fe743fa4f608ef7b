"""One process, two protocols: a FastAPI application that shows arriving mail as server-sent events.

    pip install fastapi uvicorn
    uvicorn --app-dir examples fastapi_events:app

The lifespan of the application starts the mail server on the same event loop and ends it.
`GET /events` sends a line of JSON for each message, as long as the browser stays.
"""

import asyncio
import json
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI
from fastapi.responses import StreamingResponse

from fastsmtp import DataStream, Session, SMTPError, SMTPServer

BROWSERS = 100
EVENTS = 100  # that a slow browser may be behind; then it loses the oldest
PORT = int(os.environ.get("SMTP_PORT", "2525"))

listeners: set[asyncio.Queue[str]] = set()
ended = asyncio.Event()


async def on_data(stream: DataStream, session: Session) -> str:
    """Tell everyone who listens. What has to be kept is stored here, before the 250."""
    event = {
        "from": str(session.envelope.mail_from),
        "to": [str(address) for address in session.envelope.rcpt_to],
        "octets": len(await stream.read()),
    }
    if not listeners:
        raise SMTPError("Nobody listens", 450)
    for queue in listeners:
        if queue.full():
            queue.get_nowait()
        queue.put_nowait(json.dumps(event))
    return f"OK: told {len(listeners)}"


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    """Serve mail as long as the application serves pages."""
    async with SMTPServer(auth_optional=True, on_data=on_data) as server:
        server.on("listening", lambda address: print(f"listening on {address[1]}", flush=True))
        await server.listen(PORT, "127.0.0.1")
        yield


app = FastAPI(lifespan=lifespan)


@app.get("/events")
async def events() -> StreamingResponse:
    """Answer with events that end when the browser leaves."""
    if len(listeners) >= BROWSERS:
        return StreamingResponse(iter([""]), status_code=503)
    return StreamingResponse(_events(), media_type="text/event-stream")


async def _events() -> AsyncIterator[str]:
    queue: asyncio.Queue[str] = asyncio.Queue(EVENTS)
    listeners.add(queue)
    try:
        yield ": hello\n\n"
        while True:
            yield f"data: {await queue.get()}\n\n"
    finally:
        listeners.discard(queue)
