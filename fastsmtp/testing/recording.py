"""A server for tests of programs that send mail: it runs in a thread, keeps what it receives, and
refuses or waits as the test has told it to.
"""

from __future__ import annotations

import asyncio
import os
import ssl
import threading
from collections import deque
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal, Self

from fastsmtp import (
    Address,
    Auth,
    AuthResponse,
    DataStream,
    MessageAborted,
    Session,
    SMTPError,
    SMTPServer,
)
from fastsmtp.blocking import call_in_thread
from fastsmtp.testing.authority import authority
from fastsmtp.testing.received import ReceivedMessage
from fastsmtp.testing.script import Script, Stage

if TYPE_CHECKING:
    from typing import Unpack

    from fastsmtp.server_options import ServerOptions

__all__ = ["RecordingServer"]

NOTES: Final = 40  # of clients, kept for the text of a failure
_OWN: Final = ("on_connect", "on_auth", "on_mail_from", "on_rcpt_to", "on_data", "on_close")


class RecordingServer:
    """A context manager: a server on a free port of 127.0.0.1, or on the UNIX socket `path`.

    users: names and passwords; with them clients have to authenticate. tls: "starttls", or
    "implicit" for TLS from the first octet (RFC 8314), with a certificate of `ca_pem`. options: of
    `SMTPServer`, such as `lmtp=True`; mail is taken without AUTH, and names of clients are not
    looked up. Raises TypeError for a hook that it sets itself, RuntimeError for `tls` without the
    library cryptography, and what `SMTPServer` and `listen` raise.
    """

    def __init__(
        self,
        *,
        users: Mapping[str, str] | None = None,
        tls: Literal["starttls", "implicit"] | None = None,
        port: int = 0,
        path: str | os.PathLike[str] | None = None,
        **options: Unpack[ServerOptions],
    ) -> None:
        for name in _OWN:
            if name in options:
                raise TypeError(
                    f"{name} is set by RecordingServer: script it with refuse() and delay(),"
                    " or use SMTPServer(…).threaded()"
                )
        if tls not in (None, "starttls", "implicit"):
            raise ValueError(f"tls: 'starttls' or 'implicit', got {tls!r:.40}")
        self._users = dict(users or {})
        self._tls = tls
        self._where: dict[str, Any] = {"port": port} if path is None else {"path": os.fspath(path)}
        self._script = Script()
        self._changed = threading.Condition()
        self._messages: list[ReceivedMessage] = []
        self._notes: deque[str] = deque(maxlen=NOTES)
        self._stack = ExitStack()
        self._address: tuple[str, int] | str | None = None
        self._ca_file: Path | None = None
        self._server = SMTPServer(**(self._defaults() | dict(options) | self._hooks()))

    def _defaults(self) -> dict[str, Any]:
        found: dict[str, Any] = {
            "name": "localhost",
            "disable_reverse_lookup": True,
            "auth_optional": not self._users,
            "allow_insecure_auth": self._tls is None,
            "close_timeout": 0.1,  # at the end of a test nobody waits for a reply
        }
        if self._tls is not None:
            made = authority()
            found |= {"key": made.key, "cert": made.cert, "secure": self._tls == "implicit"}
        return found

    def _hooks(self) -> dict[str, Any]:
        hooks = {
            "on_connect": self._on_connect,
            "on_mail_from": self._on_mail_from,
            "on_rcpt_to": self._on_rcpt_to,
            "on_data": self._on_data,
            "on_close": self._on_close,
        }
        return hooks | ({"on_auth": self._on_auth} if self._users else {})

    # Life.

    def __enter__(self) -> Self:
        """Serve."""
        self._address = self._stack.enter_context(self._server.threaded(**self._where))
        return self

    def __exit__(self, *exc_info: object) -> None:
        """Close the server; what it has received stays."""
        self._stack.close()
        self._ca_file = None

    @property
    def address(self) -> tuple[str, int] | str:
        """(host, port), or the path of a UNIX socket. RuntimeError before it has served."""
        if self._address is None:
            raise RuntimeError("the server is not started: with RecordingServer() as server: …")
        return self._address

    @property
    def host(self) -> str:
        """The host that it listens on, or the path of a UNIX socket."""
        return self.address if isinstance(self.address, str) else self.address[0]

    @property
    def port(self) -> int:
        """The port that it listens on, 0 for a UNIX socket."""
        return 0 if isinstance(self.address, str) else self.address[1]

    # TLS.

    @property
    def ca_pem(self) -> bytes:
        """The certificate to trust, as PEM; the same one in all of a process."""
        return authority().ca

    @property
    def ca_file(self) -> Path:
        """A file with `ca_pem`, for clients that take a path; it is there while the server runs."""
        from tempfile import TemporaryDirectory

        if self._ca_file is None:
            folder = self._stack.enter_context(TemporaryDirectory(prefix="fastsmtp-"))
            self._ca_file = Path(folder) / "ca.pem"
            self._ca_file.write_bytes(self.ca_pem)
        return self._ca_file

    def client_context(self) -> ssl.SSLContext:
        """Return a context for clients, which trusts `ca_pem` and nothing else."""
        return ssl.create_default_context(cadata=self.ca_pem.decode())

    # The script.

    def refuse(
        self,
        stage: Stage,
        code: int | None = None,
        text: str = "",
        *,
        only: str | None = None,
        times: int | None = None,
    ) -> None:
        """Refuse at `stage`: "connect", "auth", "mail_from", "rcpt_to" or "data".

        code: 400 to 599, None for the engine's default; 421 ends the connection. only: this address
        of a client, user, sender, or recipient (also at "data"; in LMTP for this one alone). times:
        so often, None for always. Raises ValueError and TypeError for a value that cannot be.
        """
        self._script.refuse(stage, code, text, only, times)

    def delay(
        self, stage: Stage, seconds: float, *, only: str | None = None, times: int | None = None
    ) -> None:
        """Wait at `stage` before the reply, for less than the option `hook_timeout`; as `refuse`
        otherwise.
        """
        self._script.delay(stage, seconds, only, times)

    def clear(self) -> None:
        """Forget messages, refusals and delays."""
        self._script.clear()
        with self._changed:
            self._messages.clear()
            self._notes.clear()

    # What has arrived.

    @property
    def messages(self) -> list[ReceivedMessage]:
        """The messages that were accepted, in order; a client has its 250 only after its message is
        here.
        """
        with self._changed:
            return self._messages.copy()

    def wait(self, n: int = 1, timeout: float = 5.0) -> list[ReceivedMessage]:
        """Wait until there are `n` messages, and return them all.

        Raises AssertionError after `timeout` seconds, with what has arrived. Raises RuntimeError in
        a running event loop, in which the client may run too, unless they are there already.
        """
        if len(self.messages) < n and _runs_here():
            raise RuntimeError("wait() would block the event loop: await server.wait_async(…)")
        return self._wait(n, timeout)

    async def wait_async(self, n: int = 1, timeout: float = 5.0) -> list[ReceivedMessage]:
        """Wait as `wait` does, in a loop of asyncio."""
        loop = asyncio.get_running_loop()
        found = await call_in_thread(loop, lambda: self._wait(n, timeout), "fastsmtp-wait")
        if isinstance(found, BaseException):
            raise found
        return found

    def _wait(self, n: int, timeout: float) -> list[ReceivedMessage]:
        with self._changed:
            if self._changed.wait_for(lambda: len(self._messages) >= n, timeout):
                return self._messages.copy()
            lines = [f"{len(self._messages)} of {n} messages have arrived in {timeout:g} s"]
            lines += [f"  {message!r}" for message in self._messages]
            lines += self._notes or ["no client has connected"]
        raise AssertionError("\n".join(lines))

    def _note(self, session: Session, text: str) -> None:
        with self._changed:
            self._notes.append(f"client {session.id[:6]} {session.remote_address}: {text}")

    # Hooks, in the thread of the server.

    async def _obey(self, stage: Stage, *subjects: str) -> SMTPError | None:
        seconds, refusal = self._script.apply(stage, *subjects)
        if seconds:
            await asyncio.sleep(seconds)
        return refusal

    async def _check(self, stage: Stage, *subjects: str) -> None:
        refusal = await self._obey(stage, *subjects)
        if refusal is not None:
            raise refusal

    async def _on_connect(self, session: Session) -> None:
        self._note(session, "connected")
        await self._check("connect", session.remote_address)

    async def _on_auth(self, auth: Auth, session: Session) -> AuthResponse:
        await self._check("auth", auth.username)
        password = self._users.get(auth.username)
        is_right = password is not None and auth.validate_password(password)
        if not is_right or auth.authzid not in ("", auth.username):
            return AuthResponse()
        return AuthResponse(user=auth.username)

    async def _on_mail_from(self, address: Address, session: Session) -> None:
        await self._check("mail_from", address.address)

    async def _on_rcpt_to(self, address: Address, session: Session) -> None:
        await self._check("rcpt_to", address.address)

    async def _on_data(self, stream: DataStream, session: Session) -> Any:
        try:
            content = await stream.read()
        except MessageAborted as error:
            self._note(session, f"its message was cut off: {error.reason}")
            raise
        recipients = [recipient.address for recipient in session.envelope.rcpt_to]
        if not self._server.options.lmtp:
            await self._check("data", *recipients)
            self._keep(ReceivedMessage(session, content, recipients))
            return None
        answers = [await self._obey("data", recipient) for recipient in recipients]
        fates = zip(recipients, answers, strict=True)
        accepted = [recipient for recipient, refusal in fates if refusal is None]
        if accepted:
            self._keep(ReceivedMessage(session, content, accepted))
        return answers

    def _keep(self, message: ReceivedMessage) -> None:
        with self._changed:
            self._messages.append(message)
            self._changed.notify_all()

    def _on_close(self, session: Session) -> None:
        last = f", after {session.error}" if session.error else ""
        self._note(session, f"disconnected{last}")


def _runs_here() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True
