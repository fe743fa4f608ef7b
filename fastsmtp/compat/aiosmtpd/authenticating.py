"""Plays an exchange that the engine has collected to a method `auth_…` or to `handle_AUTH`.

The engine sends the challenges and reads the responses; the method, which would do that itself,
gets the words of the command, and the responses from `server.challenge_auth`. RFC 4954 §4.
"""

from __future__ import annotations

import inspect
from base64 import b64encode
from typing import TYPE_CHECKING, Any

from fastsmtp import Auth, AuthResponse, SMTPError
from fastsmtp.compat.aiosmtpd.results import MISSING, AuthResult, LoginPassword
from fastsmtp.compat.aiosmtpd.statuses import accepted, refusal

if TYPE_CHECKING:
    from fastsmtp.compat.aiosmtpd.smtp import SMTP

__all__ = ["answer", "octets", "words_of"]


def octets(text: str | None) -> bytes:
    """Return what the client sent for `text` of an `Auth`."""
    return (text or "").encode("utf-8", "surrogateescape")


def words_of(auth: Auth) -> tuple[list[str], list[bytes]]:
    """Return the words of the AUTH command, and the responses to the challenges after it."""
    name = octets(auth.username)
    if auth.method == "LOGIN":
        return [auth.method], [name, octets(auth.password)]
    if auth.method == "XOAUTH2":
        response = b"user=%b\x01auth=Bearer %b\x01\x01" % (name, octets(auth.access_token))
    else:
        response = b"%b\0%b\0%b" % (octets(auth.authzid), name, octets(auth.password))
    return [auth.method, b64encode(response).decode()], []


async def answer(server: SMTP, auth: Auth) -> AuthResponse:
    """Return who the client is; raises SMTPError to refuse it."""
    words, server.responses = words_of(auth)
    hook = server.hooks.get("AUTH")
    if hook is not None:
        status = await _awaited(hook(server, server.session, server.envelope, words))
        if status is not MISSING:
            accepted("handle_AUTH", status)
            return _response(server, auth)
        server.responses = words_of(auth)[1]
    method = server.mechanisms.get(auth.method)
    if method is not None:
        result = await _awaited(method(server, words))
    elif auth.password is not None:
        result = authenticate(server, auth)
    else:
        result = False
    return _settled(server, auth, result)


def authenticate(server: SMTP, auth: Auth) -> Any:
    """Return the answer of the program's authenticator, or of its `auth_callback`."""
    pair = LoginPassword(octets(auth.username), octets(auth.password))
    if server.authenticator is not None:
        return server.authenticator(server, server.session, server.envelope, auth.method, pair)
    if server.accepts_password is not None and server.accepts_password(auth.method, *pair):
        return AuthResult(success=True, auth_data=pair)
    return False


async def _awaited(result: Any) -> Any:
    return await result if inspect.isawaitable(result) else result


def _settled(server: SMTP, auth: Auth, result: Any) -> AuthResponse:
    """Only what says so is a success: AuthResult, or in the old way the name of the user."""
    if isinstance(result, AuthResult):
        if result.success is not True:
            raise _invalid() if result.message is None else refusal("AUTH", result.message)
        server.session.auth_data = result.auth_data
        server.session.login_data = getattr(result.auth_data, "login", None)
    elif result is None or result is False or result is MISSING:
        raise _invalid()
    else:
        server.session.login_data = result
    return _response(server, auth)


def _response(server: SMTP, auth: Auth) -> AuthResponse:
    server.session.authenticated = True
    return AuthResponse(user=auth.username or auth.method)


def _invalid() -> SMTPError:
    return SMTPError("5.7.8 Authentication credentials invalid", 535)
