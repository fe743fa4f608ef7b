"""One connection to the servers, made anew whenever it is lost.

The library can reconnect by itself, but before that it flushes what it has written to the server
that it leaves: measured with 15 MB on the way to a server that was stopped, it was stuck until that
server went on. So each of its clients has one connection here, and a new one takes its place.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import ssl
from collections import deque
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Final, NoReturn, TypeAlias

from fastsmtp.delivery.errors import DeliveryError, Unavailable, Unclear
from fastsmtp.delivery.log import logger
from fastsmtp.delivery.nats.settings import Settings

if TYPE_CHECKING:
    from nats.aio.client import Client
    from nats.aio.msg import Msg

__all__ = ["Answer", "Link"]

Answer: TypeAlias = dict[str, Any]  # an object of JSON

CONNECTING: Final = 5.0  # seconds for one server, its TLS and login included
STEP: Final = 2.0  # seconds for each step of that
# A server that stands still is left after three of these.
PING: Final = 2.0  # seconds
PINGS: Final = 2
LOOKING: Final = 0.2  # seconds until a loss is seen that the library does not report
FIRST_PAUSE: Final = 0.1  # seconds until the servers are tried again, doubled up to MOST_PAUSE
MOST_PAUSE: Final = 2.0
# Private methods of the library's client: docs/internals.md, "Platform tricks".
WRITING: Final = ("_send_command", "_flush_pending")
CLOSING: Final = 1.0  # seconds for a connection to end
LOST: Final = "the connection to the server was lost"
# Parts of what a server says when it refuses a login. Those of an operator, not of the moment.
_RIGHTS: Final = "permissions violation"
_LOGIN: Final = ("authorization", "authentication", "credentials", "nonce", "signature")


class Link:
    """The connection. settings: of the servers and the login.

    on_up: called after each connection but the first. reason: why there is none, "" if there is.
    """

    def __init__(self, settings: Settings, on_up: Callable[[], object]) -> None:
        self.reason = "not connected yet"
        self._settings = settings
        self._on_up = on_up
        self._servers = deque(settings.servers)
        # Gateways that start together must not all have the same server.
        self._servers.rotate(random.randrange(len(self._servers)))
        self._client: Client | None = None
        self._context = None if not settings.needs_tls else settings.context()
        self._inbox = ""
        self._number = 0  # of the latest question
        self._waiting: dict[str, asyncio.Future[Answer]] = {}
        self._look = asyncio.Event()  # the library has reported an error
        self._error: Exception | None = None  # the latest
        self._keeper: asyncio.Task[None] | None = None
        self._ending: set[asyncio.Task[None]] = set()

    # Connections.

    async def open(self) -> None:
        """Connect to a server. Raises ValueError with the name of the setting for what an operator
        has to change, `Unavailable` if no server answers.
        """
        errors = {}
        for server in [*self._servers]:
            try:
                client = await self._connect(server)
                break
            except ValueError:
                raise
            except OSError as error:
                errors[server] = str(error)
        else:
            text = ", ".join(f"{server}: {error}" for server, error in errors.items())
            raise Unavailable(f"no server can be reached: {text}")
        self._use(client)
        self._keeper = asyncio.get_running_loop().create_task(self._keep(client))

    async def close(self) -> None:
        """Close the connection; a question without an answer gets `Unclear`."""
        if self._client is not None:
            self._drop(self._client)
        self._client = None
        self.reason = "closed"
        self._fail_all("the sink is closing")
        try:
            if self._keeper is not None:
                self._keeper.cancel()
                await asyncio.wait([self._keeper])
                self._keeper = None
            if self._ending:
                await asyncio.wait([*self._ending], timeout=CLOSING)
        finally:  # also if the caller waits no longer
            for task in self._ending:
                task.cancel()
        await asyncio.gather(*self._ending, return_exceptions=True)

    async def _keep(self, client: Client) -> None:
        """Replace each connection that is lost."""
        while True:
            await self._loss_of(client)
            self._client = None
            self.reason = LOST if self._error is None else f"{LOST}: {self._error}"
            self._fail_all(self.reason)
            self._drop(client)
            client = await self._connect_again()
            self._use(client)
            self._on_up()

    async def _loss_of(self, client: Client) -> None:
        while client.is_connected:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(LOOKING):
                    await self._look.wait()
            if self._look.is_set():
                # Not every error ends the connection; one that does is handled in this turn.
                self._look.clear()
                await asyncio.sleep(0)

    async def _connect_again(self) -> Client:
        pause = FIRST_PAUSE
        while True:
            for server in [*self._servers]:
                try:
                    return await self._connect(server)
                except (ValueError, OSError) as error:
                    self.reason = f"{server}: {error}"
                    logger.debug("cannot connect to %s: %s", server, error)
            await asyncio.sleep(pause)
            pause = min(2 * pause, MOST_PAUSE)

    async def _connect(self, server: str) -> Client:
        """Connect to one server, which is the last to be tried next time.

        Raises ValueError for what an operator has to change, else OSError.
        """
        from nats.aio.client import Client
        from nats.errors import Error

        self._servers.remove(server)
        self._servers.append(server)
        self._error = None
        options = self._options()
        client = Client()
        try:
            async with asyncio.timeout(CONNECTING):
                await client.connect([server], **options)
                self._check_tls()
                self._inbox = client.new_inbox()
                self._number = 0
                await client.subscribe(f"{self._inbox}.*", cb=self._answered)
        # TimeoutError is an OSError; RuntimeError is uvloop's, for a connection that has ended.
        except (Error, OSError, RuntimeError) as error:
            self._drop(client)
            _raise_of(self._error or error)
        except Exception as error:  # of the library, about what it cannot read
            self._drop(client)
            raise OSError(f"it does not answer as a server of NATS does: {error}") from error
        except BaseException:
            self._drop(client)
            raise
        return client

    def _options(self) -> dict[str, Any]:
        """Return the options of the library."""
        from nats.aio.client import RawCredentials

        login, settings = self._settings.login, self._settings
        credentials = settings.credentials()
        if self._context is not None:
            self._context.is_used = False
        return {
            "error_cb": self._note,
            "name": "fastsmtp",
            "allow_reconnect": False,
            "max_reconnect_attempts": 1,
            "reconnect_time_wait": 0,
            "connect_timeout": STEP,
            "ping_interval": PING,
            "max_outstanding_pings": PINGS,
            # Nothing is kept for a connection to come: the sink sends it again.
            "pending_size": 0,
            "tls": self._context,
            "user": self._guarded(login.user),
            "password": self._guarded(login.password),
            "token": self._guarded(login.token),
            "user_credentials": RawCredentials(credentials) if credentials else None,
            "nkeys_seed_str": settings.seed() or None,
        }

    def _guarded(self, secret: str) -> Callable[[], str] | None:
        """Return what the library calls for a secret, just before it is sent."""

        def give() -> str:
            self._check_tls()
            return secret

        return give if secret else None

    def _check_tls(self) -> None:
        if self._context is not None and not self._context.is_used:
            raise ssl.SSLError("the server offers none")

    async def _note(self, error: Exception) -> None:
        self._error = error
        self._look.set()

    def _use(self, client: Client) -> None:
        self._client = client
        self.reason = ""

    def _drop(self, client: Client) -> None:
        """Close a client, which may take any time: its server may have stopped."""
        task = asyncio.get_running_loop().create_task(_close(client))
        self._ending.add(task)
        task.add_done_callback(self._ending.discard)

    # Messages and answers.

    @property
    def max_payload(self) -> int:
        """Octets of a message, its headers included, that the server accepts."""
        return self._up().max_payload

    async def publish(
        self, subject: str, octets: bytes, headers: dict[str, str], reply: str = ""
    ) -> None:
        """Send a message. Raises `Unavailable` if it was certainly not sent."""
        from nats.errors import Error

        try:
            await self._up().publish(subject, octets, reply, headers)
        except Error as error:
            raise Unavailable(str(error)) from error

    async def publish_together(
        self, subject: str, messages: Sequence[tuple[str, bytes]], reply: str
    ) -> None:
        """Send messages in one write: the lines of their headers, and their octets. reply: subject
        for the answer to the last one. Raises `Unavailable` if they were certainly not sent.
        """
        client = self._up()
        send, flush = [getattr(client, name, None) for name in WRITING]
        if send is None or flush is None:
            for number, (lines, octets) in enumerate(messages, 1):
                headers = dict(line.split(": ", 1) for line in lines.splitlines())
                is_last = number == len(messages)
                await self.publish(subject, octets, headers, reply if is_last else "")
        elif not client.is_connected:
            raise Unavailable(LOST)
        else:
            await send(_commands(subject, messages, reply))
            await flush()

    def expect(self) -> tuple[str, asyncio.Future[Answer]]:
        """Return a subject for an answer, and a future for it. It raises `Unclear` when the
        connection is lost, `Unavailable` when nobody is there who could answer.
        """
        self._number += 1
        token = str(self._number)
        future: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        self._waiting[token] = future
        future.add_done_callback(lambda _: self._waiting.pop(token, None))
        return f"{self._inbox}.{token}", future

    async def ask(self, subject: str, question: Answer, patience: float) -> Answer:
        """Return the answer to a question of the API. Raises `Unavailable`."""
        self._error = None
        reply, answer = self.expect()
        try:
            await self.publish(subject, json.dumps(question).encode(), {}, reply)
            async with asyncio.timeout(patience):
                return await answer
        except (TimeoutError, Unclear) as error:
            self.check_rights()
            text = str(error) or f"no answer to {subject} within {patience:g} seconds"
            raise Unavailable(text) from error
        finally:
            answer.cancel()

    async def ask_all(
        self, subject: str, question: Answer, enough: int, patience: float
    ) -> list[Answer]:
        """Return the answers of several servers, those that come in time, at most `enough`."""
        from nats.errors import Error

        self._error = None
        client = self._up()
        found: list[Answer] = []
        try:
            inbox = client.new_inbox()
            answers = await client.subscribe(inbox)
            try:
                await client.publish(subject, json.dumps(question).encode(), inbox)
                async with asyncio.timeout(patience):
                    while len(found) < enough:
                        message = await answers.next_msg(patience)
                        found.append(_answer_of(message))
            finally:
                await answers.unsubscribe()
        except (Error, TimeoutError, DeliveryError) as error:
            logger.debug("%s: %s", subject, error)
        return found

    def check_rights(self) -> None:
        """Raise ValueError if the server has said that the login lacks a right."""
        text = _text_of(self._error) if self._error is not None else ""
        if _RIGHTS in text.lower():
            raise ValueError(f"user, credentials: the login lacks a right: {text}")

    def _up(self) -> Client:
        if self._client is None:
            raise Unavailable(self.reason)
        return self._client

    async def _answered(self, message: Msg) -> None:
        future = self._waiting.get(message.subject.rpartition(".")[2])
        if future is None or future.done():
            return
        try:
            future.set_result(_answer_of(message))
        except DeliveryError as error:
            _fail(future, error)

    def _fail_all(self, reason: str) -> None:
        for future in [*self._waiting.values()]:
            if not future.done():
                _fail(future, Unclear(reason))


def _commands(subject: str, messages: Sequence[tuple[str, bytes]], reply: str) -> bytes:
    """Return messages as the protocol of NATS has them: HPUB."""
    parts: list[bytes] = []
    last = len(messages)
    for number, (lines, octets) in enumerate(messages, 1):
        head = f"NATS/1.0\r\n{lines}\r\n".encode()
        to = subject if number < last else f"{subject} {reply}"
        start = f"HPUB {to} {len(head)} {len(head) + len(octets)}\r\n".encode()
        parts += (start, head, octets, b"\r\n")
    return b"".join(parts)


def _fail(future: asyncio.Future[Answer], error: DeliveryError) -> None:
    future.set_exception(error)
    future.exception()  # retrieved: its waiter may be gone


def _answer_of(message: Msg) -> Answer:
    """Return the object of an answer. Raises `Unavailable` if nobody is there who could answer."""
    if not message.data:
        raise Unavailable("no server is in charge of the stream now")
    try:
        answer = json.loads(message.data)
    except ValueError:
        answer = None
    if not isinstance(answer, dict):
        raise Unclear(f"an answer that is not an object: {message.data[:100]!r}")
    return answer


async def _close(client: Client) -> None:
    try:
        await client.close()
    except Exception as error:  # a library's, about a connection that nobody uses
        logger.debug("the end of a connection: %s", error)


def _text_of(error: Exception) -> str:
    return str(error).removeprefix("nats: ").strip("'") or type(error).__name__


def _raise_of(error: Exception) -> NoReturn:
    """Raise what a failed connection means."""
    text = _text_of(error)
    if isinstance(error, ssl.SSLCertVerificationError):
        raise ValueError(f"ca: the certificate is not trusted: {error.verify_message}") from error
    if isinstance(error, ssl.SSLError):
        raise ValueError(f"servers, cert: TLS has failed: {text}") from error
    if any(word in text.lower() for word in _LOGIN):
        raise ValueError(
            f"user, password, token, credentials or nkey: the server refuses the login: {text}"
        ) from error
    raise OSError(text) from error
