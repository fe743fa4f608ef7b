"""`Webhook`: a sink whose 250 means that an HTTP endpoint has answered 2xx.

Each message is a POST of its own, over connections that stay open. Redirects are not followed, and
of an answer no more than ANSWER octets are read. Large messages, and forms, are made in threads.
"""

from __future__ import annotations

import asyncio
import functools
import io
import re
import ssl
import time
import urllib.parse
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Final

from fastsmtp.delivery.bodies.store import BodyStore
from fastsmtp.delivery.body_writer import file_threads
from fastsmtp.delivery.errors import DeliveryError, Refused, Unavailable, Unclear, reason_of
from fastsmtp.delivery.handoff import RemoteSink
from fastsmtp.delivery.promise import Promise
from fastsmtp.delivery.record import Record
from fastsmtp.delivery.sink import BodyWriter, Receipt
from fastsmtp.delivery.webhook.answers import ANSWER, outcome_of, seconds_to_wait, without_query
from fastsmtp.delivery.webhook.request import ENVELOPE, FORMS, Request, request_of
from fastsmtp.delivery.webhook.signing import Signer
from fastsmtp.errors import SMTPError

if TYPE_CHECKING:
    import aiohttp

__all__ = ["Webhook"]

PARALLEL: Final = 16
DEADLINE: Final = 30.0  # seconds
TIMEOUT: Final = 10.0  # seconds for one request
CLOSING: Final = 1.0  # seconds for bodies that are not needed any more to be removed
MAX_RECORD: Final = 32 * 1024 * 1024  # octets of a body without a body store
LONG_ENVELOPE: Final = 4096  # octets; many servers take no header of more than 8 KiB
# Octets of a message that is signed on the event loop, in a fraction of a millisecond.
AT_ONCE: Final = 64 * 1024

_MISSING: Final = "the sink Webhook needs aiohttp: pip install 'fastsmtp-engine[http]'"
_HEADER: Final = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")  # RFC 9110 §5.1
_OURS: Final = ("content-", "webhook-", "fastsmtp-", "host", "transfer-encoding", "connection")


class Webhook(RemoteSink):
    """Posts messages to `url`.

    secret, previous_secret: sign requests, see `Signer`; None: they are not signed. form: "raw" for
    the message as it is, "multipart" for a form with its parsed fields. headers: further headers,
    such as Authorization. ca: authorities to trust beside the system's, PEM. proxy: URL of an HTTP
    proxy. parallel: requests at a time. timeout: seconds for one; deadline: for a message, with all
    tries. bodies: keeps bodies of more than a MiB while they wait; None: they wait in memory, and
    `max_record` is the largest. close closes it.

    Raises ImportError without aiohttp, ValueError for arguments that cannot be right.
    """

    receipt_key = "status"
    reads_bodies = True

    def __init__(
        self,
        url: str,
        *,
        secret: str | None = None,
        previous_secret: str | None = None,
        form: str = "raw",
        headers: Mapping[str, str] | None = None,
        ca: str | None = None,
        proxy: str | None = None,
        parallel: int = PARALLEL,
        timeout: float = TIMEOUT,
        deadline: float = DEADLINE,
        bodies: BodyStore | None = None,
    ) -> None:
        try:
            import aiohttp  # noqa: F401 - an error at construction, not with the first message
        except ImportError as error:
            raise ImportError(_MISSING) from error
        where = _checked_url("url", url)
        _check(form, parallel, timeout, proxy)
        super().__init__(where, deadline=deadline, parallel=parallel, max_items=1)
        self.url = url
        self._proxy = proxy
        self._form = form
        self._signer = Signer(secret, previous_secret)
        self._headers = _checked_headers(headers or {})
        self._tls = _context_of(ca)
        self._parallel = parallel
        self._timeout = timeout
        self._deadline = deadline
        # Not the base's, which is part of the promise: here the endpoint has the body at the 250.
        self._bodies = bodies
        self._threads = file_threads("fastsmtp-webhook", 2)
        self._session: aiohttp.ClientSession | None = None
        self._not_before = 0.0  # of the loop's clock: Retry-After
        if bodies is None:
            self.max_record = MAX_RECORD

    async def connect(self) -> Promise:
        """Ask the endpoint for its headers; see the base."""
        import aiohttp

        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=self._parallel + 1, ssl=self._tls),
            timeout=aiohttp.ClientTimeout(total=self._timeout),
            cookie_jar=aiohttp.DummyCookieJar(),
            auto_decompress=False,
            headers={
                "User-Agent": "fastsmtp",
                "Accept-Encoding": "identity",
                **self._headers,
            },
        )
        self._not_before = 0.0
        self._threads.start()
        if self._bodies is not None:
            await self._bodies.start()
        try:
            await self._look()
        except aiohttp.ClientConnectorCertificateError as error:
            reason = error.certificate_error
            raise ValueError(
                f"ca: the certificate of the endpoint is not trusted: {reason}"
            ) from error
        except aiohttp.ClientHttpProxyError as error:
            raise ValueError(f"proxy: it answers {error.status} {error.message}") from error
        if self.url.startswith("http://"):
            self.remarks = ("mail goes to the webhook unencrypted: its url begins with http://",)
        return Promise.REMOTE

    async def probe(self) -> None:
        """Ask the endpoint for its headers, unless it wants to be left alone for a while."""
        left = self._not_before - asyncio.get_running_loop().time()
        if left > 0:
            raise Unavailable(f"it has asked for {left:.0f} seconds without requests")
        await self._look()

    async def disconnect(self) -> None:
        """Close all connections; see the base."""
        session, self._session = self._session, None
        await self._threads.close(0)
        if self._bodies is not None:
            await self._bodies.close(CLOSING)
        if session is not None:
            await session.close()

    def octets_of(self, record: Record) -> int:
        """Return what a record takes in a batch, which has one."""
        return record.size

    def refusal(self) -> SMTPError | None:
        """Return 451 while the endpoint is down, or wants to be left alone beyond `deadline`."""
        found = super().refusal()
        if found is None and self._not_before:
            left = self._not_before - asyncio.get_running_loop().time()
            if left > self._deadline:
                return Unavailable("Retry-After").reply
        return found

    @property
    def max_body(self) -> int | None:
        """Return `max_record`, unless there is a store for larger bodies."""
        return self.max_record if self._bodies is None else None

    def begin(self, record: Record) -> BodyWriter:
        """Begin a body of more than `max_record` octets."""
        if self._bodies is None:
            raise NotImplementedError
        return self._bodies.begin(record)

    def put(self, record: Record) -> asyncio.Future[Receipt]:
        """Take one message; its receipt is the status of the answer."""
        future = super().put(record)
        if self._bodies is not None and not isinstance(record.body, bytes):
            # The endpoint has it, or the client sends it again.
            discard = functools.partial(self._bodies.discard, record.body)
            future.add_done_callback(lambda future: discard())
        return future

    async def send(self, records: list[Record]) -> Sequence[Receipt | BaseException]:
        """Post one message; see the base."""
        record = records[0]
        loop = asyncio.get_running_loop()
        left = self._not_before - loop.time()
        if left > self._deadline:
            return [Refused(Unavailable("").reply, f"Retry-After: {left:.0f} more seconds")]
        await asyncio.sleep(max(0.0, left))
        make = functools.partial(
            request_of, record, int(time.time()), form=self._form, signer=self._signer
        )
        is_small = self._form == "raw" and isinstance(record.body, bytes)
        if is_small and record.size <= AT_ONCE:
            request = make()
        else:
            request = await self._threads.add(make, record.size)
        addresses = [recipient.address for recipient in record.rcpt_to]
        return [await self._post(request, addresses)]

    # One request.

    async def _post(self, request: Request, addresses: Sequence[str]) -> Receipt | DeliveryError:
        import aiohttp

        assert self._session is not None
        try:
            async with self._session.post(
                self.url,
                data=io.BytesIO(request.body),
                headers=request.headers,
                allow_redirects=False,
                proxy=self._proxy,
            ) as answer:
                body = await _beginning_of(answer)
                status, headers = answer.status, answer.headers
        except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError) as error:
            raise Unavailable(_reason(error)) from error
        except aiohttp.ClientHttpProxyError as error:
            raise Unavailable(f"the proxy answers {error.status} {error.message}") from error
        except (aiohttp.ClientError, TimeoutError) as error:
            raise Unclear(_reason(error)) from error
        if status == 400 and len(request.headers.get(ENVELOPE, "")) > LONG_ENVELOPE:
            status = 431  # what servers answer that know only 400 for too long headers
        outcome = outcome_of(status, body, headers.get("Location", ""), addresses)
        if isinstance(outcome, (Unavailable, Unclear)) and "Retry-After" in headers:
            seconds = seconds_to_wait(headers["Retry-After"])
            self._not_before = asyncio.get_running_loop().time() + seconds
        return outcome

    async def _look(self) -> None:
        """Raise ValueError for a redirect, and what a POST would raise if nobody answers."""
        import aiohttp

        assert self._session is not None
        try:
            async with self._session.head(
                self.url, allow_redirects=False, proxy=self._proxy
            ) as answer:
                status, location = answer.status, answer.headers.get("Location", "")
        except (aiohttp.ClientConnectorCertificateError, aiohttp.ClientHttpProxyError):
            raise
        except (aiohttp.ClientError, TimeoutError) as error:
            raise Unavailable(f"no answer: {_reason(error)}") from error
        if status in (301, 308):
            where = without_query(location)
            raise ValueError(
                f"url: the endpoint is moved to {where!r:.200}, and redirects are not followed"
            )
        if status >= 500:
            raise Unavailable(f"it answers HTTP {status}")


async def _beginning_of(answer: aiohttp.ClientResponse) -> bytes:
    """Return the first octets of an answer, and give up its connection if there are more."""
    pieces: list[bytes] = []
    room = ANSWER
    while room > 0:
        piece = await answer.content.read(room)
        if not piece:
            return b"".join(pieces)
        pieces.append(piece)
        room -= len(piece)
    answer.close()
    return b"".join(pieces)


def _reason(error: BaseException) -> str:
    refused: OSError | None = getattr(error, "os_error", None)  # of one that could not connect
    if refused is not None:
        return reason_of(refused)
    if hasattr(error, "request_info"):  # its text has the URL, of which the query may be secret
        return f"{type(error).__name__}: {getattr(error, 'message', '')}"
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__


def _check(form: str, parallel: int, timeout: float, proxy: str | None) -> None:
    if form not in FORMS:
        raise ValueError(f"form takes {' or '.join(FORMS)}, got {form!r:.80}")
    if parallel < 1:
        raise ValueError(f"parallel takes a number of requests, 1 or more, got {parallel}")
    if not timeout > 0:
        raise ValueError(f"timeout takes a number of seconds above 0, got {timeout}")
    if proxy is not None:
        _checked_url("proxy", proxy, is_proxy=True)


def _checked_url(name: str, url: str, *, is_proxy: bool = False) -> str:
    """Return a URL as it may be shown: its query may be secret. Raises ValueError."""
    try:
        parts = urllib.parse.urlsplit(url)
        is_valid = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        is_valid = False
    if not is_valid or not url.isprintable() or " " in url:
        raise ValueError(f"{name} takes an https:// or http:// URL with a host")
    if parts.username is not None and not is_proxy:
        raise ValueError(f"{name} takes no credentials: set the header Authorization")
    if parts.fragment:
        raise ValueError(f"{name} takes no part after #, which is never sent")
    return f"{parts.scheme}://{parts.netloc}{parts.path}"


def _checked_headers(headers: Mapping[str, str]) -> dict[str, str]:
    for name, value in headers.items():
        if not _HEADER.fullmatch(name) or name.lower().startswith(_OURS):
            raise ValueError(f"headers cannot set {name!r:.80}")
        if not (value.isascii() and value.isprintable()):
            raise ValueError(f"headers: the value of {name} takes printable ASCII")
    return dict(headers)


def _context_of(ca: str | None) -> ssl.SSLContext:
    context = ssl.create_default_context()
    if ca is not None:
        try:
            context.load_verify_locations(cadata=ca)
        except (ssl.SSLError, ValueError) as error:
            raise ValueError("ca takes certificates in PEM") from error
    return context
