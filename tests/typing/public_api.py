"""The public API as a program uses it. Type checkers read this file; nothing runs it."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import assert_type

from fastsmtp import (
    Address,
    Auth,
    AuthResponse,
    DataStream,
    Envelope,
    MessageAborted,
    MessageTooLarge,
    ScramKeys,
    Session,
    SMTPError,
    SMTPServer,
    saslprep,
    scram_keys,
)
from fastsmtp.blocking import read_at_once
from fastsmtp.certificates import TLSSocket, expired_at, leaf_of, read_pem, self_signed
from fastsmtp.descriptors import max_lingering
from fastsmtp.log_text import clean, client_word
from fastsmtp.networks import Networks, host_key


async def on_connect(session: Session) -> None:
    """A coroutine: returning accepts."""
    assert_type(session.id, str)
    assert_type(session.remote_address, str)
    assert_type(session.remote_port, int)
    assert_type(session.secure, bool)
    assert_type(session.envelope, Envelope)
    assert_type(session.transmission_type, str)
    session.data["seen"] = True


async def on_auth(auth: Auth, session: Session) -> AuthResponse | dict[str, object]:
    """An answer with a user lets the client in; a mapping may stand for one."""
    assert_type(auth.method, str)
    assert_type(auth.username, str)
    assert_type(auth.authzid, str)
    assert_type(auth.password, str | None)
    assert_type(auth.access_token, str | None)
    assert_type(auth.port, int | None)
    assert_type(auth.verified, bool)
    if auth.validate_password("secret"):
        return AuthResponse(user=auth.username)
    return {"message": "no", "response_code": 535}


async def on_scram(username: str, session: Session) -> ScramKeys | None:
    """None is nobody."""
    keys = scram_keys("pencil", iterations=4096)
    assert_type(keys.salt, bytes)
    return keys if username else None


def on_mail_from(
    address: Address, session: Session, callback: Callable[[Exception | None], object]
) -> None:
    """A plain function: the answer is a call."""
    assert_type(address.address, str)
    assert_type(address.local_part, str)
    assert_type(address.domain, str)
    assert_type(address.is_null, bool)
    assert_type(address.dsn.orcpt, str | None)
    assert_type(address.dsn.notify, list[str])
    error = SMTPError("no", response_code=550, enhanced_code="5.7.1")
    assert_type(error.response_code, int | None)
    assert_type(error.enhanced_code, str | None)
    callback(error if address.is_null else None)


async def on_rcpt_to(address: Address, session: Session) -> None:
    """A coroutine: raising rejects."""
    assert_type(session.envelope.mail_from, Address | None)
    assert_type(session.envelope.rcpt_to, list[Address])
    assert_type(session.envelope.smtp_utf8, bool)
    if not address.domain:
        raise SMTPError("no such user", 550)


async def on_data(stream: DataStream, session: Session) -> str:
    """Ways to read a body; the result is the text of the reply."""
    async for piece in stream:
        assert_type(piece, bytes)
    try:
        assert_type(await stream.read(), bytes)
        assert_type(await stream.read(1024), bytes)
    except MessageTooLarge as error:
        assert_type(error.limit, int)
        stream.discard()
    assert_type(stream.byte_length, int)
    assert_type(stream.size_exceeded, bool)
    assert_type(stream.bare_newline, bool)
    assert_type(stream.has_nul, bool)
    assert_type(stream.has_8bit, bool)
    assert_type(stream.longest_line, int)
    return f"{stream.byte_length} octets"


def consume(stream: DataStream) -> None:
    """The third way, without a Task."""
    pieces: list[bytes] = []

    def on_end(error: MessageAborted | None) -> None:
        if error is not None:
            assert_type(error.reason, str)

    stream.consume(pieces.append, on_end)
    assert_type(stream.pause(), None)
    assert_type(stream.resume(), None)


async def serve() -> None:
    """A server with options and hooks, in and out of service."""
    server = SMTPServer(
        name="mx.example",
        size=1024,
        hide_starttls=True,
        on_connect=on_connect,
        on_auth=on_auth,
        on_scram=on_scram,
        on_mail_from=on_mail_from,
        on_rcpt_to=on_rcpt_to,
        on_data=on_data,
    )
    await server.listen(2525, host="127.0.0.1")
    await server.listen(4650, host="127.0.0.1", secure=True)
    server.update_secure_context(key="key.pem", cert="cert.pem")
    await server.close()


def on_secure(
    socket: TLSSocket, session: Session, callback: Callable[[Exception | None], object]
) -> None:
    """The facts of TLS."""
    assert_type(socket.verified, bool)
    callback(None)


def around(session: Session) -> None:
    """What a program has beside its server."""
    assert_type(client_word(session.client_hostname, session.remote_address), str)
    assert_type(clean("text"), str)
    assert_type(host_key(session.remote_address), str)
    assert_type(Networks(["192.0.2.0/24"]).match(session.remote_address), bool)
    assert_type(expired_at(leaf_of(read_pem("cert", "cert.pem"))), datetime | None)
    assert_type(self_signed("mx.example"), bytes | None)
    assert_type(read_at_once("users", 1024), tuple[bytes, int])
    assert_type(max_lingering(), int)
    assert_type(saslprep("name", stored=True), str | None)
