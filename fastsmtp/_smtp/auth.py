"""AUTH on the wire: the verb, the client's answers to our 334, and the answers of hooks.

In: lines and answers. Out: replies, and in the end the user of the session. The mechanism checks
what the client sends (`_sasl.exchange`); only the user name is ever logged. RFC 4954 §4, §6.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any, Final, NamedTuple

from fastsmtp import replies
from fastsmtp._counts.families import cell
from fastsmtp._hooks.callback import Answer
from fastsmtp._log import logger
from fastsmtp._sasl.exchange import (
    Auth,
    AuthResponse,
    Challenge,
    End,
    Mechanism,
    Question,
    decode_base64,
    encode_base64,
    response_of,
    type_step,
)
from fastsmtp._sasl.mechanisms import CramMD5, External, Login, OAuthBearer, Plain, XOAuth2
from fastsmtp._sasl.scram import BINDINGS, Scram, are_usable_keys, decoy_keys
from fastsmtp._smtp.dialogue import Dialogue
from fastsmtp._smtp.hook_replies import Stage, rejection, reply_or_failure
from fastsmtp._smtp.server_tables import ServerTables
from fastsmtp.errors import SMTPError
from fastsmtp.log_text import clean
from fastsmtp.options import Options
from fastsmtp.replies import Reply

__all__ = [
    "fail_auth",
    "forget_auth",
    "handle_auth",
    "handle_auth_line",
    "is_auth_possible",
    "login_verdict",
    "usable_mechanisms",
]

NONCE_OCTETS: Final = 18  # 24 characters of base64


# --- mechanisms ---


class Offer(NamedTuple):
    """make: begins an exchange. hook: the hook that it needs. words: how many words may follow
    AUTH. syntax: the reply to more words.
    """

    make: Callable[[Dialogue], Mechanism]
    hook: str
    words: int
    syntax: Reply


def _offer(
    name: str, make: Callable[[Dialogue], Mechanism], hook: str = "on_auth", words: int = 2
) -> Offer:
    token = "" if name in ("LOGIN", "CRAM-MD5") else " token"
    return Offer(make, hook, words, replies.AUTH_SYNTAX.formatted(f"{name}{token}"))


def _cram(dialogue: Dialogue) -> Mechanism:
    now = int(dialogue.host.wall_time())
    return CramMD5(f"<{os.urandom(16).hex()}.{now}@{dialogue.options.name}>")


def _nonce() -> str:
    return encode_base64(os.urandom(NONCE_OCTETS)).decode()


def _scram(dialogue: Dialogue) -> Mechanism:
    plus = "SCRAM-SHA-256-PLUS" in usable_mechanisms(dialogue)
    return Scram("SCRAM-SHA-256", _nonce(), plus_offered=plus)


def _scram_plus(dialogue: Dialogue) -> Mechanism:
    binding = dialogue.tls.channel_binding
    return Scram("SCRAM-SHA-256-PLUS", _nonce(), binding=binding)


_OFFERS: Final[dict[str, Offer]] = {
    "PLAIN": _offer("PLAIN", lambda dialogue: Plain()),
    "LOGIN": _offer("LOGIN", lambda dialogue: Login()),
    "CRAM-MD5": _offer("CRAM-MD5", _cram, words=1),
    "XOAUTH2": _offer("XOAUTH2", lambda dialogue: XOAuth2()),
    "OAUTHBEARER": _offer("OAUTHBEARER", lambda dialogue: OAuthBearer()),
    "SCRAM-SHA-256": _offer("SCRAM-SHA-256", _scram, "on_scram"),
    "SCRAM-SHA-256-PLUS": _offer("SCRAM-SHA-256-PLUS", _scram_plus, "on_scram"),
    "EXTERNAL": _offer("EXTERNAL", lambda dialogue: External(dialogue.tls.certificate)),
}


def usable_mechanisms(dialogue: Dialogue) -> list[str]:
    """Return the mechanisms that this client can use now, in the order of the option."""
    hooks = dialogue.hooks
    if (hooks.on_auth is None and hooks.on_scram is None) or not _is_protected(dialogue):
        return []
    return [
        name
        for name in dialogue.options.auth_methods
        if _is_supported(dialogue, name) and getattr(hooks, _OFFERS[name].hook) is not None
    ]


def is_auth_possible(tables: ServerTables) -> bool:
    """Whether any client can ever authenticate."""
    options = tables.options
    ends_tls = options.secure or tables.starttls_available
    if not (ends_tls or options.secured or _is_allowed_in_plaintext(options)):
        return False
    return any(
        getattr(tables.hooks, _OFFERS[name].hook) is not None
        and (ends_tls or name not in ("EXTERNAL", "SCRAM-SHA-256-PLUS"))
        for name in options.auth_methods
    )


def _is_allowed_in_plaintext(options: Options) -> bool:
    return options.allow_insecure_auth and not options.needs_upgrade


def _is_protected(dialogue: Dialogue) -> bool:
    return dialogue.secure or _is_allowed_in_plaintext(dialogue.options)


def _is_supported(dialogue: Dialogue, name: str) -> bool:
    """Whether this connection has what the mechanism needs: TLS that ends here, with a certificate
    of the client, or with data for channel binding (RFC 5802 §6).
    """
    tls = dialogue.tls
    if name == "EXTERNAL":
        return tls is not None and tls.verified
    if name == "SCRAM-SHA-256-PLUS":
        return tls is not None and any(tls.channel_binding(kind) for kind in BINDINGS)
    return True


# --- lines ---


class Attempt:
    """One exchange: from AUTH to its final reply.

    username: "" while unknown. user: the answer of `on_auth`. refusal: the reply after the client
    has acknowledged why its token was refused; the failure is counted already.
    """

    __slots__ = ("mechanism", "refusal", "user", "username")

    def __init__(self, mechanism: Mechanism) -> None:
        self.mechanism = mechanism
        self.username = ""
        self.user: Any = None
        self.refusal: Reply | None = None


def handle_auth(dialogue: Dialogue, argument: bytes) -> None:
    """AUTH: RFC 4954 §4."""
    words = argument.split()
    method = words[0].upper().decode("latin-1") if words else ""
    refusal = _refusal(dialogue, method, len(words))
    if refusal is not None:
        dialogue.reply(refusal)
        return
    mechanism = _OFFERS[method].make(dialogue)
    dialogue.attempt = Attempt(mechanism)
    if len(words) == 1:
        _go_on(dialogue, mechanism.start(None))
        return
    response = b"" if words[1] == b"=" else decode_base64(words[1])
    if response is None:
        fail_auth(dialogue, replies.INVALID_USERDATA)
    else:
        _go_on(dialogue, mechanism.start(response))


def _refusal(dialogue: Dialogue, method: str, words: int) -> Reply | None:
    if not _is_protected(dialogue):
        has_starttls = dialogue.tables.starttls_available
        return replies.AUTH_NEEDS_STARTTLS if has_starttls else replies.AUTH_NEEDS_ENCRYPTION
    if dialogue.authenticated:
        return replies.ALREADY_AUTHENTICATED
    if not method:
        return replies.AUTH_SYNTAX.formatted("mechanism")
    if method not in dialogue.options.auth_methods or not _is_supported(dialogue, method):
        return replies.UNKNOWN_MECHANISM
    offer = _OFFERS[method]
    if getattr(dialogue.hooks, offer.hook) is None:
        return replies.AUTH_NOT_IMPLEMENTED
    return offer.syntax if words > offer.words else None


def handle_auth_line(dialogue: Dialogue, line: bytes) -> None:
    """The client's answer to a 334."""
    mechanism = dialogue.attempt.mechanism
    if mechanism.is_refused:
        _go_on(dialogue, End.REFUSED)
    elif line == b"*":
        _finish(dialogue, replies.AUTH_ABORTED)
    else:
        response = decode_base64(line)
        if response is None:
            fail_auth(dialogue, replies.INVALID_USERDATA)
        else:
            _go_on(dialogue, mechanism.take(response))


# --- steps of an exchange ---


def _go_on(dialogue: Dialogue, step: type_step) -> None:
    attempt = dialogue.attempt
    if isinstance(step, Challenge):
        line = b"334 " + encode_base64(step.octets) + b"\r\n"
        dialogue.clock.line_timeout = dialogue.options.auth_timeout
        dialogue.parser.expect_auth_line()
        dialogue.reply(Reply(334, None, "", octets=line))
    elif isinstance(step, Question):
        attempt.username = step.username
        _ask(dialogue, "on_scram", dialogue.hooks.on_scram, step.username, _keys_answered)
    elif isinstance(step, Auth):
        attempt.username = step.username
        if step.verified and dialogue.hooks.on_auth is None:
            attempt.user = step.username
            _go_on(dialogue, attempt.mechanism.accept())
        else:
            _ask(dialogue, "on_auth", dialogue.hooks.on_auth, step, _auth_answered)
    elif step is End.ACCEPTED:
        dialogue.authenticate(attempt.user)
        _finish(dialogue, replies.AUTHENTICATED)
    elif step is End.REFUSED:
        fail_auth(dialogue, attempt.refusal)
    else:
        fail_auth(dialogue, _FAILURES[step])


_FAILURES: Final = {
    End.INVALID: replies.INVALID_USERDATA,
    End.NO_USERNAME: replies.MISSING_USERNAME,
    End.WRONG: replies.INVALID_CREDENTIALS,
}


def _ask(
    dialogue: Dialogue,
    name: str,
    hook: Any,
    subject: object,
    then: Callable[[Dialogue, Answer], None],
) -> None:
    if hook is None:  # removed after the exchange began
        _finish(dialogue, replies.AUTH_NOT_IMPLEMENTED)
    else:
        dialogue.ask(name, hook, subject, then)


def _keys_answered(dialogue: Dialogue, answer: Answer) -> None:
    """`on_scram` has answered. An unknown user continues with decoy keys and fails at the proof."""
    attempt = dialogue.attempt
    keys = answer.result
    if answer.failed:
        _finish(dialogue, replies.LOCAL_ERROR)
        return
    if answer.error is not None:
        reply = _rejection(dialogue, answer, answer.error, replies.INVALID_CREDENTIALS)
        if reply.code < 500:
            _finish(dialogue, reply)
            return
        keys = None
    if keys is None:
        options = dialogue.options
        keys = decoy_keys(attempt.username, options.scram_secret, options.scram_iterations)
    elif not are_usable_keys(keys):
        answer.report(TypeError(f"on_scram answered with unusable ScramKeys: {type(keys)}"))
        _finish(dialogue, replies.LOCAL_ERROR)
        return
    _go_on(dialogue, attempt.mechanism.take_keys(keys))


def _auth_answered(dialogue: Dialogue, answer: Answer) -> None:
    """`on_auth` has answered."""
    attempt = dialogue.attempt
    response, refusal = login_verdict(dialogue, answer, attempt.mechanism.default_refusal)
    if refusal is not None:
        _refuse(dialogue, refusal, response.data)
    else:
        attempt.user = response.user
        _go_on(dialogue, attempt.mechanism.accept())


def login_verdict(
    dialogue: Dialogue, answer: Answer, default: Reply
) -> tuple[AuthResponse, Reply | None]:
    """Return the answer of `on_auth`, and the reply that refuses, None for an accepted user."""
    nothing = AuthResponse()
    if answer.failed:
        return nothing, replies.LOCAL_ERROR
    response = response_of(answer.result)
    if answer.error is not None:
        return response or nothing, _rejection(dialogue, answer, answer.error, default)
    if response is None:
        answer.report(
            TypeError(
                f"on_auth answered with {type(answer.result)}: AuthResponse(user) or a mapping with"
                " a user accepts; to reject, raise SMTPError or pass the error to callback"
            )
        )
        return nothing, replies.LOCAL_ERROR
    if response.has_user:
        return response, None
    error = SMTPError(response.message or "")
    error.response_code = response.response_code  # checked below, like that of any error
    return response, _rejection(dialogue, answer, error, default)


def _rejection(dialogue: Dialogue, answer: Answer, error: BaseException, default: Reply) -> Reply:
    enhanced = dialogue.policy.enhanced
    reply = rejection(answer, error, Stage.AUTH, default, enhanced=enhanced, utf8=False)
    return reply_or_failure(answer, reply)


def _refuse(dialogue: Dialogue, reply: Reply, data: Any) -> None:
    """Refuse, temporarily or permanently; a bearer token gets a challenge with the reason first."""
    if reply.code < 500:
        _finish(dialogue, reply)
        return
    try:
        challenge = dialogue.attempt.mechanism.refuse(data)
    except Exception as error:  # `data` is the application's
        dialogue.report(error, "on_auth")
        _finish(dialogue, replies.LOCAL_ERROR)
        return
    if challenge is None:
        fail_auth(dialogue, reply)
    elif dialogue.counters.strike_auth_failure():
        _finish(dialogue, replies.TOO_MANY_AUTH_FAILURES)
    else:
        dialogue.attempt.refusal = reply
        _go_on(dialogue, challenge)


# --- the end ---


def fail_auth(dialogue: Dialogue, reply: Reply) -> None:
    """The exchange, if one has begun, has failed: count it, and reply."""
    is_counted = dialogue.attempt is not None and dialogue.attempt.refusal is not None
    if not is_counted and dialogue.counters.strike_auth_failure():
        reply = replies.TOO_MANY_AUTH_FAILURES
    _finish(dialogue, reply)


def forget_auth(dialogue: Dialogue) -> None:
    """Forget the exchange with its secrets."""
    dialogue.attempt = None
    dialogue.clock.line_timeout = dialogue.options.socket_timeout


def _finish(dialogue: Dialogue, reply: Reply) -> None:
    attempt = dialogue.attempt
    if attempt is not None:
        result = "accepted" if reply.code < 400 else "failed" if reply.code < 500 else "refused"
        dialogue.tally.add(cell("auth_total", attempt.mechanism.name, result))
        logger.info(
            "%s: AUTH %s of %s at %s: %d",
            dialogue.session.id,
            attempt.mechanism.name,
            clean(attempt.username) or "-",
            dialogue.client(),
            reply.code,
        )
    forget_auth(dialogue)
    dialogue.reply(reply)
