"""Servers and hooks, each with one mistake. Nothing runs this file: each line must be an error to
each type checker, for a comment that suppresses nothing is an error itself.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

from fastsmtp import Address, Auth, DataStream, Session, SMTPError, SMTPServer
from fastsmtp.hook_types import Callback, DataCallback
from fastsmtp.server_options import ServerOptions, SessionOptions, TLSOptions
from fastsmtp.testing import Wire

# --- names ---

SMTPServer(auth_optinal=True)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
SMTPServer(maxClients=10)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
SMTPServer(on_ehlo=None)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
SMTPServer(True)  # type: ignore[call-arg, arg-type]  # pyright: ignore[reportCallIssue]
Wire(auth_optinal=True)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
options: ServerOptions = {"auth_optinal": True}  # type: ignore[typeddict-unknown-key]  # pyright: ignore[reportAssignmentType]
session_options: SessionOptions = {"secure": True}  # type: ignore[typeddict-unknown-key]  # pyright: ignore[reportAssignmentType]
tls: TLSOptions = {"size": 10}  # type: ignore[typeddict-unknown-key]  # pyright: ignore[reportAssignmentType]
SMTPServer().update_secure_context(size=10)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
SMTPServer().on("listning", print)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]

# --- values ---

SMTPServer(size="10M")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
SMTPServer(size=1.5)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
SMTPServer(secure="yes")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
SMTPServer(name=b"mx.example")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
SMTPServer(socket_timeout=None)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
SMTPServer(socket_timeout="60s")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
SMTPServer(auth_methods="PLAIN")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
SMTPServer(disabled_commands="VRFY")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
SMTPServer(use_proxy=True)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
SMTPServer(use_proxy="10.0.0.0/8")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
SMTPServer(bare_newline="ignore")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
SMTPServer(lenient_address_parsing="all")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
SMTPServer(min_version="SSLv3")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
SMTPServer(scram_secret="secret")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
SMTPServer(sni_options={"mx.example": {"size": 1}})  # type: ignore[dict-item]  # pyright: ignore[reportArgumentType]
SMTPServer(resolver="dns")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]

SMTPServer().run(handle_signals="no")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
SMTPServer().close_listener(25)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]

# --- lifespans of a wrong shape ---


async def only_a_coroutine(server: SMTPServer) -> None: ...
async def only_a_generator(server: SMTPServer) -> AsyncGenerator[None, None]:
    yield


@asynccontextmanager
async def without_server() -> AsyncGenerator[None, None]:
    yield


SMTPServer(lifespan=True)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
SMTPServer(lifespan=only_a_coroutine)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
SMTPServer(lifespan=only_a_generator)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
SMTPServer(lifespan=without_server)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]

# --- hooks of a wrong shape ---


def too_few(address: Address) -> None: ...
def too_many(address: Address, session: Session, callback: Callback, more: int) -> None: ...
def swapped(session: Session, address: Address, callback: Callback) -> None: ...
def without_callback(address: Address, session: Session) -> None: ...
def of_another_hook(stream: DataStream, session: Session, callback: Callback) -> None: ...
def with_value(address: Address, session: Session, callback: Callback) -> int:
    return 250


async def too_few_later(address: Address) -> None: ...
async def swapped_later(session: Session, address: Address) -> None: ...
async def with_value_later(address: Address, session: Session) -> bool:
    return True


SMTPServer(on_rcpt_to=too_few)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
SMTPServer(on_rcpt_to=too_many)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
SMTPServer(on_rcpt_to=swapped)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
SMTPServer(on_rcpt_to=without_callback)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
SMTPServer(on_rcpt_to=of_another_hook)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
SMTPServer(on_rcpt_to=with_value)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
SMTPServer(on_rcpt_to=too_few_later)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
SMTPServer(on_rcpt_to=swapped_later)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
SMTPServer(on_rcpt_to=with_value_later)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
SMTPServer(on_rcpt_to="reject")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


def data_with_number(stream: DataStream, session: Session, callback: DataCallback) -> int:
    return 250


async def data_with_number_later(stream: DataStream, session: Session) -> int:
    return 250


async def data_with_tuple(stream: DataStream, session: Session) -> tuple[str, ...]:
    return ("OK",)


async def data_with_numbers(stream: DataStream, session: Session) -> list[int]:
    return [250]


async def user_as_text(auth: Auth, session: Session) -> str:
    return auth.username


async def scram_of_bytes(username: bytes, session: Session) -> None: ...


SMTPServer(on_data=data_with_number)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
SMTPServer(on_data=data_with_number_later)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
SMTPServer(on_data=data_with_tuple)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
SMTPServer(on_data=data_with_numbers)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
SMTPServer(on_auth=user_as_text)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
SMTPServer(on_scram=scram_of_bytes)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
SMTPServer().on_rcpt_to = too_few  # type: ignore[assignment]  # pyright: ignore[reportAttributeAccessIssue]
SMTPServer().on_rctp_to = without_callback  # type: ignore[attr-defined]  # pyright: ignore[reportAttributeAccessIssue]


def with_more(tag: str, address: Address, session: Session) -> None: ...


SMTPServer().on_rcpt_to = with_more  # type: ignore[assignment]  # pyright: ignore[reportAttributeAccessIssue]


class Wrong(SMTPServer):
    def on_mail_from(self, address: Address, session: Session) -> None: ...  # type: ignore[override]  # pyright: ignore[reportIncompatibleVariableOverride]

    async def on_auth(self, auth: Auth) -> None: ...  # type: ignore[override]  # pyright: ignore[reportIncompatibleVariableOverride]

    def on_rcpt_to(self, session: Session, address: Address) -> None: ...  # type: ignore[override]  # pyright: ignore[reportIncompatibleVariableOverride]

    async def on_data(self, stream: DataStream, session: Session) -> int:  # type: ignore[override]  # pyright: ignore[reportIncompatibleVariableOverride]
        return 250


# --- answers ---


def answers(stream: DataStream, session: Session, callback: DataCallback) -> None:
    callback("550 no")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    callback(SMTPError)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    callback(None, 250)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    callback(None, [250])  # type: ignore[list-item]  # pyright: ignore[reportArgumentType]


def too_much(address: Address, session: Session, callback: Callback) -> None:
    callback(None, "OK")  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    callback(error=None)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
