"""Connections to PostgreSQL, by asyncpg: where to, how they are secured, and what they warn of.

Nothing is kept in a session, and no statement is prepared under a name, so a pooler may give each
transaction another session (pgbouncer's `pool_mode = transaction`).
"""

from __future__ import annotations

import asyncio
import ipaddress
import os
import ssl
from typing import Any, Final
from urllib.parse import parse_qs, urlsplit

from fastsmtp.delivery.errors import Unavailable
from fastsmtp.delivery.postgres.errors import connect_error
from fastsmtp.delivery.postgres.server import Link

__all__ = ["Connection", "Server"]

SCHEMES: Final = ("postgresql", "postgres")
_FILES: Final = ("sslrootcert", "sslcert", "sslkey")  # options that name one
CONNECT_SECONDS: Final = 5.0
# Sent by `RAISE WARNING` in a function of the table's owner; all other warnings are the server's.
_RAISED: Final = "exec_stmt_raise"


class Connection:
    """One connection. warning: what the server has warned of since it was set to ""."""

    def __init__(self, link: Any) -> None:
        self.link: Link = link
        self.warning = ""
        link.add_log_listener(self._note)

    def _note(self, link: object, message: Any) -> None:
        if message.severity_en == "WARNING" and message.server_source_function != _RAISED:
            self.warning = str(message.message)


class _Loop:
    """The event loop for asyncpg, whose futures say nothing when nobody retrieves their exception.

    COPY of asyncpg leaves such a future when the server has just ended the session.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop

    def __getattr__(self, name: str) -> Any:
        return getattr(self._loop, name)

    def create_future(self) -> asyncio.Future[Any]:
        future: asyncio.Future[Any] = self._loop.create_future()
        future.add_done_callback(_retrieve)
        return future


def _retrieve(future: asyncio.Future[Any]) -> None:
    if not future.cancelled():
        future.exception()


class Server:
    """Where a URL leads: `postgresql://user:password@host:port/database?option=value`, in which a
    list of hosts is possible. What it does not say is taken from PGHOST and so on, and ~/.pgpass.

    password: instead of the URL's. name: for texts, without password. Raises ValueError, and
    OSError for a file of a certificate or key that cannot be read.
    """

    def __init__(self, url: str, password: str | None = None) -> None:
        try:
            parts = urlsplit(url)
            query = parse_qs(parts.query, strict_parsing=bool(parts.query))
        except ValueError:
            raise ValueError(_NOT_USABLE) from None  # its text may show the password
        if parts.scheme not in SCHEMES:
            raise ValueError(
                f"a URL of PostgreSQL begins with {SCHEMES[0]}://, not {parts.scheme:.20}:"
            )
        hosts = parts.netloc.rpartition("@")[2]
        options = {name: values[-1] for name, values in query.items()}
        given = hosts or options.get("host") or os.environ.get("PGHOST", "")
        places = [each for each in given.split(",") if each]
        for path in filter(None, map(options.get, _FILES)):
            with open(path, "rb"):
                pass
        self.name = f"{SCHEMES[0]}://{given}{parts.path}"
        self._url = url
        self._options: dict[str, Any] = {} if password is None else {"password": password}
        is_given = "sslmode" in options or "PGSSLMODE" in os.environ or "service" in options
        if not is_given and not all(map(_is_local, places)):
            # The default of PostgreSQL's clients would be any certificate, or none.
            self._options["ssl"] = True
        if len(places) > 1 and "target_session_attrs" not in options:
            self._options["target_session_attrs"] = "read-write"

    async def connect(self) -> Connection:
        """Connect. Raises ValueError for what an operator has to change, else `Unavailable`."""
        connect = _asyncpg_connect()
        try:
            link = await connect(
                self._url,
                timeout=CONNECT_SECONDS,
                loop=_Loop(asyncio.get_running_loop()),
                statement_cache_size=0,
                server_settings={"application_name": "fastsmtp"},
                **self._options,
            )
        except asyncio.CancelledError:
            raise
        except ssl.SSLCertVerificationError as error:
            raise ValueError(
                f"the certificate of the server is not trusted ({error.verify_message}):"
                " name its authority with sslrootcert in the URL"
            ) from error
        except TimeoutError as error:
            raise Unavailable(f"no answer within {CONNECT_SECONDS:g} seconds") from error
        except Exception as error:
            raise _reason(error) from error
        return Connection(link)


_NOT_USABLE: Final = (
    "the URL is not usable: are special characters of user and password percent-encoded?"
)


def _reason(error: Exception) -> Exception:
    if type(error) is ValueError:  # of a parser: its text may show the password
        return ValueError(_NOT_USABLE)
    if isinstance(error, OSError):
        text = str(error)
        if "rejected SSL upgrade" in text:
            return ValueError("the server has no TLS: sslmode=disable in the URL sends plaintext")
        return Unavailable(os.strerror(error.errno) if error.errno and error.errno > 0 else text)
    return connect_error(error)


def _is_local(host: str) -> bool:
    """Whether nobody is between us and that host; port and brackets are ignored."""
    if host.startswith(("/", "%2F", "%2f")):  # the directory of a UNIX socket
        return True
    name = host.partition("]")[0][1:] if host.startswith("[") else host.partition(":")[0]
    if name == "localhost":
        return True
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False


def _asyncpg_connect() -> Any:
    try:
        from asyncpg import connect
    except ImportError as error:
        raise ValueError(
            "the sink Postgres needs asyncpg: pip install 'fastsmtp-engine[postgres]'"
        ) from error
    return connect
