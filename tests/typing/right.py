"""Servers and hooks in every style, as they are right. Type checkers read this file; nothing runs
it, and each of them finds nothing.
"""

from __future__ import annotations

import asyncio
import functools
import os
import ssl
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from ipaddress import IPv4Network
from pathlib import Path
from typing import Unpack, assert_type

from fastsmtp import (
    Address,
    Auth,
    AuthResponse,
    ClientGreeting,
    DataStream,
    ScramKeys,
    Session,
    SMTPError,
    SMTPServer,
)
from fastsmtp.certificates import TLSSocket
from fastsmtp.delivery import (
    Promise,
    Receipt,
    Record,
    Sink,
    deliver,
    encode_envelope,
    encode_record,
    parse_record,
)
from fastsmtp.delivery.maildir import Maildir
from fastsmtp.delivery.spool import Spool
from fastsmtp.hook_types import (
    AuthCallback,
    Callback,
    ConnectCallback,
    DataAnswer,
    DataCallback,
    HeloCallback,
    LifespanFactory,
    LMTPAnswer,
    OnData,
    OnRcptTo,
    ScramCallback,
    VrfyCallback,
)
from fastsmtp.networks import Networks
from fastsmtp.server_options import ServerOptions, SessionOptions, TLSOptions
from fastsmtp.testing import Wire

# --- a plain function that takes callback ---


def connect(session: Session, callback: Callback) -> None:
    asyncio.get_running_loop().call_later(0.01, callback)


def connect_with_options(session: Session, callback: ConnectCallback) -> None:
    callback(None, {"size": 1000, "disabled_commands": ["VRFY"]} if session.secure else None)


def helo(greeting: ClientGreeting, session: Session, callback: HeloCallback) -> None:
    callback(None, [*greeting.keywords, "XBATCH"]) if greeting.command != "HELO" else callback()


def vrfy(query: str, session: Session, callback: VrfyCallback) -> None:
    callback(None, f"{query} <{query}@example.org>")


async def connect_with_options_later(session: Session) -> SessionOptions:
    return {"auth_methods": ["PLAIN"], "needs_upgrade": True}


async def helo_later(greeting: ClientGreeting, session: Session) -> list[str]:
    return list(greeting.keywords)


async def vrfy_later(query: str, session: Session) -> str | None:
    return None


def secure(socket: TLSSocket, session: Session, callback: Callback) -> None:
    callback(None if socket.verified else SMTPError("no certificate", 550))


def auth(auth: Auth, session: Session, callback: AuthCallback) -> None:
    if auth.validate_password("secret"):
        callback(None, AuthResponse(user=auth.username))
    elif auth.username:
        callback(None, {"message": "no", "response_code": 535})
    else:
        callback(SMTPError("no", 535))


def scram(username: str, session: Session, callback: ScramCallback) -> None:
    callback(None, None)


def mail_or_rcpt(address: Address, session: Session, callback: Callback) -> None:
    callback(ValueError("no such user")) if address.is_null else callback()


def data(stream: DataStream, session: Session, callback: DataCallback) -> None:
    stream.consume(lambda piece: None, lambda error: callback(error, "OK: stored"))


def data_that_undoes(stream: DataStream, session: Session, callback: DataCallback) -> None:
    if not callback(None, "OK: stored"):
        print("too late: undo")


def mail_or_rcpt_in_one_line(address: Address, session: Session, callback: Callback) -> bool:
    return callback()


def close(session: Session) -> None:
    print(session.id)


# --- a coroutine function ---


async def connect_later(session: Session) -> None:
    await asyncio.sleep(0)


async def secure_later(socket: TLSSocket, session: Session) -> None:
    if not socket.verified:
        raise SMTPError("no certificate")


async def auth_later(auth: Auth, session: Session) -> AuthResponse:
    return AuthResponse(user=auth.username)


async def auth_as_mapping(auth: Auth, session: Session) -> Mapping[str, str]:
    return {"user": auth.username}


async def auth_refused(auth: Auth, session: Session) -> None:
    return None


async def scram_later(username: str, session: Session) -> ScramKeys | None:
    return None


async def mail_or_rcpt_later(address: Address, session: Session) -> None:
    raise SMTPError("no such user", 550, "5.1.1")


async def data_later(stream: DataStream, session: Session) -> str:
    return f"OK: {len(await stream.read())} octets"


async def data_without_text(stream: DataStream, session: Session) -> None:
    stream.discard()


async def close_later(session: Session) -> None:
    await asyncio.sleep(0)


# --- both ---


async def mail_or_rcpt_both(address: Address, session: Session, callback: Callback) -> None:
    callback(SMTPError("no", 550))


async def data_both(stream: DataStream, session: Session, callback: DataCallback) -> None:
    callback(None, f"OK: {len(await stream.read())} octets")


# --- LMTP: one answer for each recipient ---


async def lmtp(stream: DataStream, session: Session) -> DataAnswer:
    stream.discard()
    return ["OK: stored", None, SMTPError("full", 452)]


async def lmtp_by_loop(stream: DataStream, session: Session) -> list[LMTPAnswer]:
    return [None if rcpt.domain else SMTPError("full") for rcpt in session.envelope.rcpt_to]


async def lmtp_of_texts(stream: DataStream, session: Session) -> list[str]:
    return [f"OK: for {rcpt.local_part}" for rcpt in session.envelope.rcpt_to]


async def lmtp_with_errors(stream: DataStream, session: Session) -> list[str | SMTPError]:
    return ["OK", SMTPError("full", 452)]


def lmtp_by_callback(stream: DataStream, session: Session, callback: DataCallback) -> None:
    stream.discard()
    callback(None, ["OK", SMTPError("full", 452)])


# --- hooks by keyword ---

SMTPServer(on_connect=connect, on_secure=secure, on_auth=auth, on_scram=scram)
SMTPServer(on_connect=connect_with_options, on_helo=helo, on_vrfy=vrfy)
SMTPServer(on_connect=connect_with_options_later, on_helo=helo_later, on_vrfy=vrfy_later)
SMTPServer(on_mail_from=mail_or_rcpt, on_rcpt_to=mail_or_rcpt, on_data=data, on_close=close)
SMTPServer(on_rcpt_to=mail_or_rcpt_in_one_line, on_data=data_that_undoes)
SMTPServer(on_connect=connect_later, on_secure=secure_later, on_auth=auth_later)
SMTPServer(on_auth=auth_as_mapping, on_scram=scram_later, on_close=close_later)
SMTPServer(on_auth=auth_refused, on_mail_from=mail_or_rcpt_later, on_rcpt_to=mail_or_rcpt_later)
SMTPServer(on_data=data_later)
SMTPServer(on_data=data_without_text)
SMTPServer(on_mail_from=mail_or_rcpt_both, on_rcpt_to=mail_or_rcpt_both, on_data=data_both)
SMTPServer(lmtp=True, on_data=lmtp)
SMTPServer(lmtp=True, on_data=lmtp_by_loop)
SMTPServer(lmtp=True, on_data=lmtp_of_texts)
SMTPServer(lmtp=True, on_data=lmtp_with_errors)
SMTPServer(lmtp=True, on_data=lmtp_by_callback)
SMTPServer(on_rcpt_to=lambda address, session, callback: callback(), on_data=None)


def tagged(tag: str, address: Address, session: Session, callback: Callback) -> None:
    callback(SMTPError(tag))


SMTPServer(on_rcpt_to=functools.partial(tagged, "no"))


# --- hooks by assignment, events ---

server = SMTPServer()
server.on_data = data
server.on_data = data_later
server.on_data = None
server.on_rcpt_to = lambda address, session, callback: callback()
server.on_close = close
del server.on_close
server.on("listening", print).once("error", print).off("listening", print)

stored: OnData = data_later
known: OnRcptTo = mail_or_rcpt
SMTPServer(on_data=stored, on_rcpt_to=known)


# --- hooks as methods ---


class Callbacks(SMTPServer):
    def on_connect(self, session: Session, callback: Callback) -> None:
        callback()

    def on_rcpt_to(self, address: Address, session: Session, callback: Callback) -> None:
        callback(None if address.domain else SMTPError("no"))

    def on_data(self, stream: DataStream, session: Session, callback: DataCallback) -> None:
        stream.discard()
        callback(None, "OK")

    def on_close(self, session: Session) -> None: ...


class Coroutines(SMTPServer):
    def __init__(self, folder: Path, **options: Unpack[ServerOptions]) -> None:
        super().__init__(**options)
        self.folder = folder

    async def on_auth(self, auth: Auth, session: Session) -> AuthResponse:
        return AuthResponse(user=auth.username)

    async def on_scram(self, username: str, session: Session) -> ScramKeys | None:
        return None

    async def on_mail_from(self, address: Address, session: Session) -> None: ...

    async def on_data(self, stream: DataStream, session: Session) -> str:
        return f"OK: {len(await stream.read())} octets in {self.folder}"

    @staticmethod
    async def on_secure(socket: TLSSocket, session: Session) -> None: ...


Coroutines(Path("mail"), size=1024, on_rcpt_to=mail_or_rcpt)


# --- options ---

SMTPServer(
    name="mx.example",
    banner=None,
    greet_delay=6,
    auth_methods=["PLAIN", "SCRAM-SHA-256"],
    auth_optional=True,
    scram_secret=os.urandom(32),
    lenient_address_parsing="common",
    disabled_commands={"VRFY", "HELP"},
    size=None,
    max_clients=0,
    socket_timeout=60.5,
    bare_newline="normalize",
    bare_newline_exclusions=["192.0.2.0/24", "unix"],
    allow_bare_lf_commands=[IPv4Network("192.0.2.0/24"), "unix"],
    use_proxy=False,
    use_xclient=("10.0.0.1",),
    use_xforward=Networks(["10.0.0.0/8"]),
    resolver="system",
    key=Path("key.pem"),
    cert=b"-----BEGIN CERTIFICATE-----",
    min_version="TLSv1.3",
    sni_options={
        "mx.example": {"key": "key.pem", "cert": "cert.pem"},
        "*.example": ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER),
    },
)


async def reverse(address: str) -> list[str]:
    return [address]


class Resolver:
    def reverse(self, address: str) -> list[str]:
        return [address]


SMTPServer(resolver=reverse)
SMTPServer(resolver=Resolver())
SMTPServer(resolver=lambda address: None)

tls: TLSOptions = {"key": "key.pem", "cert": "cert.pem"}
common: ServerOptions = {"auth_optional": True, "on_data": data_later}
SMTPServer(**common)
SMTPServer(auth_optional=True, on_data=data, **tls)
server.update_secure_context(**tls)
server.update_secure_context(key="key.pem", cert="cert.pem")
Wire(auth_optional=True, on_data=data_later)
Wire(server)

# --- lifespans, and running ---


class Mine(SMTPServer):
    pool: object = None


@asynccontextmanager
async def lifespan(server: SMTPServer) -> AsyncGenerator[None, None]:
    yield


@asynccontextmanager
async def lifespan_of_mine(server: Mine) -> AsyncGenerator[str, None]:
    server.pool = object()
    yield "open"


made: LifespanFactory = lifespan
SMTPServer(lifespan=made, auth_optional=True, on_data=data)
Mine(lifespan=lifespan_of_mine, **common)


async def serve() -> None:
    async with Mine(**common) as mine:
        await mine.listen(25, None, reuse_port=True)
        mine.pool = None
        for address in mine.addresses():
            mine.close_listener(address)
        await mine.serve_forever()
    if not await server.serve_until_stopped(server.listen(path="s"), handle_signals=False):
        server.run(25, None, reuse_port=True, handle_signals=False)


class Journal(Sink):
    async def start(self) -> Promise:
        self.promise = Promise.DISK
        return self.promise

    def put(self, record: Record) -> asyncio.Future[Receipt]:
        assert_type(record.rcpt_to[0].address, str)
        assert_type(record.fingerprint, str)
        return asyncio.get_running_loop().create_future()

    async def close(self, patience: float) -> None: ...


delivery = deliver(Journal(), name="mx.example", log=lambda entry: print(entry.id, entry.size))
SMTPServer(on_connect=delivery.on_connect, on_mail_from=delivery.on_mail_from, on_data=delivery)
assert_type(delivery.traffic.in_flight, int)
assert_type(delivery.refusal(), SMTPError | None)
assert_type(parse_record(encode_record(Record("i", "", ()))), Record)
assert_type(encode_envelope(Record("i", "", ())), bytes)
deliver(Spool("spool", drain_into=Maildir("mail")))
