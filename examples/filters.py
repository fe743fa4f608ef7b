"""A mail exchanger that asks Rspamd and ClamAV before it accepts a message.

    pip install aiohttp
    python examples/filters.py http://127.0.0.1:11333 127.0.0.1:3310 [port]

Both look at the message at the same time, within the SMTP dialogue: what is refused here causes no
bounce. A filter that does not answer has the client try again later, with nothing let through.
"""

import asyncio
import struct
import sys

import aiohttp

from fastsmtp import DataStream, Session, SMTPError, SMTPServer

REFUSALS = {
    "reject": SMTPError("This message looks like spam", 554, "5.7.1"),
    "soft reject": SMTPError("Try again later", 451, "4.7.1"),
    "greylist": SMTPError("Greylisted, try again later", 451, "4.7.1"),
}
PIECE = 64 * 1024


class Exchanger(SMTPServer):
    def __init__(self, rspamd: str, clamd: tuple[str, int]) -> None:
        super().__init__(auth_optional=True)
        self.rspamd, self.clamd = rspamd, clamd

    async def on_data(self, stream: DataStream, session: Session) -> str:
        """Have both filters look at the message, which would then be delivered here."""
        body = await stream.read()
        try:
            async with asyncio.timeout(60), asyncio.TaskGroup() as group:
                spam = group.create_task(self.ask_rspamd(body, session))
                virus = group.create_task(self.ask_clamd(body))
        except (TimeoutError, ExceptionGroup):
            raise SMTPError("The filters do not answer, try again later", 451, "4.3.0") from None
        if virus.result():
            raise SMTPError(f"This message contains {virus.result()}", 554, "5.7.1")
        if refusal := REFUSALS.get(spam.result()):
            raise refusal
        print(f"{len(body)} octets, Rspamd says {spam.result()!r}", flush=True)
        return "OK: accepted"

    async def ask_rspamd(self, body: bytes, session: Session) -> str:
        """Return the action that Rspamd recommends, by its HTTP protocol."""
        headers = [("IP", session.remote_address), ("Helo", session.host_name_appears_as)]
        headers += [("From", str(session.envelope.mail_from))]
        headers += [("Rcpt", str(address)) for address in session.envelope.rcpt_to]
        async with (
            aiohttp.ClientSession(raise_for_status=True) as client,
            client.post(f"{self.rspamd}/checkv2", data=body, headers=headers) as response,
        ):
            return str((await response.json())["action"])

    async def ask_clamd(self, body: bytes) -> str:
        """Return the name of a virus, "" for none, by the command INSTREAM of clamd."""
        reader, writer = await asyncio.open_connection(*self.clamd)
        try:
            writer.write(b"zINSTREAM\0")
            for start in range(0, len(body), PIECE):
                piece = body[start : start + PIECE]
                writer.write(struct.pack("!I", len(piece)) + piece)
                await writer.drain()
            writer.write(struct.pack("!I", 0))
            found = (await reader.readuntil(b"\0")).decode().rstrip("\0")
        finally:
            writer.close()
        if not found.endswith((" OK", " FOUND")):
            raise OSError(found)
        return found.removeprefix("stream: ").removesuffix("FOUND").removesuffix("OK").strip()


if __name__ == "__main__":
    host, _, number = sys.argv[2].rpartition(":")
    server = Exchanger(sys.argv[1], (host, int(number)))
    server.on("listening", lambda address: print(f"listening on {address[1]}", flush=True))
    server.run(int(sys.argv[3]) if len(sys.argv) > 3 else 2525, "127.0.0.1")
