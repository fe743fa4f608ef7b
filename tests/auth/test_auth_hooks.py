"""`on_auth` and `on_scram`: three styles, every way to fail, and secrets that stay where they are.

The dialogue around them: auth/test_auth_command.py.
"""

from __future__ import annotations

import asyncio
import base64
import logging
import traceback
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hook_kit import AcceptingError
from sasl_kit import ANN, KEYS, OPEN, ScramClient, b64
from scenario import DEFAULTS, EH, codes

from fastsmtp import AuthResponse, MessageAborted, SMTPError, SMTPServer
from fastsmtp.testing import VirtualLoop, Wire

pytestmark = pytest.mark.usefixtures("no_leaks")
row = pytest.mark.row

STYLES = ("callback", "later", "coroutine", "coroutine with callback")
DONE, WRONG, FAILED = "235 2.7.0", "535 5.7.8", "451 4.3.0"
CANARY = "c4nary-Pencil"
# A login by each mechanism whose secret is the canary.
LOGINS = {
    "PLAIN": [b"AUTH PLAIN " + b64("\0ann\0" + CANARY)],
    "PLAIN, asked": [b"AUTH PLAIN", b64("\0ann\0" + CANARY)],
    "LOGIN": [b"AUTH LOGIN", b64("ann"), b64(CANARY)],
    "XOAUTH2": [b"AUTH XOAUTH2 " + b64(f"user=ann\x01auth=Bearer {CANARY}\x01\x01")],
    "OAUTHBEARER": [b"AUTH OAUTHBEARER " + b64(f"n,a=ann,\x01auth=Bearer {CANARY}\x01\x01")],
}
PLAIN = LOGINS["PLAIN"]


def in_style(style: str, act: Callable[[Any, Any], Any]) -> Callable[..., Any]:
    """A hook of this style that answers with what `act` returns, and rejects with an exception."""

    def answer(result: Any, callback: Callable[..., object]) -> None:
        if isinstance(result, BaseException):
            callback(result)
        else:
            callback(None, result)

    def plain(subject: Any, session: Any, callback: Any) -> None:
        answer(act(subject, session), callback)

    def later(subject: Any, session: Any, callback: Any) -> None:
        asyncio.get_running_loop().call_soon(answer, act(subject, session), callback)

    async def coroutine(subject: Any, session: Any) -> Any:
        await asyncio.sleep(0)
        result = act(subject, session)
        if isinstance(result, BaseException):
            raise result
        return result

    async def both(subject: Any, session: Any, callback: Any) -> None:
        await asyncio.sleep(0)
        answer(act(subject, session), callback)

    return dict(zip(STYLES, (plain, later, coroutine, both), strict=True))[style]


class Login:
    """A greeted connection; `errors` has what the event `error` reported."""

    def __init__(self, **options: Any) -> None:
        self.errors: list[BaseException] = []
        self.loop = VirtualLoop()
        self.server = SMTPServer(**{**DEFAULTS, **OPEN, **options})
        if options.get("listen", True):
            self.server.on("error", self.errors.append)
        self.wire = Wire(self.server, loop=self.loop)
        self.written = self.wire.send(EH)

    def __enter__(self) -> Login:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.wire.close()
        left = asyncio.all_tasks(self.loop)
        for task in left:
            task.cancel()
        if left:
            self.loop.run_until_complete(asyncio.wait(left, timeout=0))
        self.loop.close()

    def say(self, *lines: bytes) -> list[str]:
        """Send each line, wait for what comes at once; returns the codes."""
        found = []
        for line in lines:
            octets = self.wire.send(line + b"\r\n")
            self.written += octets
            found += codes(octets)
        return found

    def wait(self, seconds: float) -> list[str]:
        octets = self.wire.advance(seconds)
        self.written += octets
        return codes(octets)

    def scram(self, password: str = CANARY) -> list[str]:
        """A SCRAM login, as far as the server goes along."""
        client = ScramClient(password=password)
        found = self.say(b"AUTH SCRAM-SHA-256 " + b64(client.first))
        if found == ["334"]:
            challenge = self.written.rsplit(b"334 ", 1)[1]
            found += self.say(b64(client.final(base64.b64decode(challenge))))
            if found[-1] == "334":
                found += self.say(b"")
        return found


# --- styles and answers ---


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("user", ["ann", 7, {"id": 7}])
def test_a_hook_of_each_style_names_the_user(style: str, user: Any) -> None:
    for result in (AuthResponse(user), {"user": user}):
        with Login(on_auth=in_style(style, lambda auth, session, result=result: result)) as login:
            assert login.say(*PLAIN) == [DONE]
            assert login.wire.session.user == user
            assert login.say(b"AUTH PLAIN") == ["503 5.5.1"]


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize(
    "result, code, text",
    [
        (None, WRONG, b"Error: Authentication credentials invalid"),
        ({}, WRONG, b"Error: Authentication credentials invalid"),
        (AuthResponse(message="Not you"), WRONG, b"Not you"),
        ({"message": "5.7.9 Not so", "response_code": 534}, "534 5.7.9", b"Not so"),
        ({"user": "", "response_code": 454, "message": "Later"}, "454 4.7.0", b"Later"),
        (SMTPError("No"), WRONG, b"No"),
        (SMTPError("Too weak", 534), "534 5.7.9", b"Too weak"),
        (SMTPError("Change it", 432), "432 4.7.12", b"Change it"),
        (SMTPError("Later", 454, "4.3.0"), "454 4.3.0", b"Later"),
        (SMTPError("a\nb", 535), WRONG, b"a"),
        (MessageAborted("disconnected"), WRONG, b"the message was aborted"),
    ],
)
def test_a_hook_of_each_style_can_refuse(style: str, result: Any, code: str, text: bytes) -> None:
    with Login(on_auth=in_style(style, lambda auth, session: result)) as login:
        assert login.say(*PLAIN, b"NOOP") == [code, "250 2.0.0"]
        assert text in login.written
        assert login.wire.session.user is None
        assert login.errors == []
        counters = login.wire.connection.protocol.counters
        assert counters.auth_failures == (code[0] == "5")


def test_a_hook_that_rejects_with_421_ends_the_connection() -> None:
    with Login(on_auth=in_style("callback", lambda auth, session: SMTPError("", 421))) as login:
        assert login.say(*PLAIN) == ["421 4.7.0"]
        assert login.wire.closed


@row("AUTH-07")
@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize(
    "answer, expected",
    [
        (KEYS, ["334", "334", DONE]),
        (None, ["334", WRONG]),
        (SMTPError("who?"), ["334", WRONG]),
        (SMTPError("later", 454), ["454 4.7.0"]),
        ("keys", [FAILED]),
        (True, [FAILED]),
        ({"salt": b"s" * 16, "iterations": 4096}, [FAILED]),
        (AcceptingError(), [FAILED]),
        ((b"s" * 16, 4096, b"x" * 32, b"x" * 32), [FAILED]),
    ],
)
def test_on_scram_returns_keys_in_each_style(style: str, answer: Any, expected: list[str]) -> None:
    hook = in_style(style, lambda username, session: answer)
    with Login(on_scram=hook, on_auth=in_style(style, lambda auth, session: ANN)) as login:
        assert login.scram("pencil") == expected
        assert len(login.errors) == (expected == [FAILED])
        assert login.say(b"NOOP") == ["250 2.0.0"]


@row("AUTH-07", "AUTH-14")
@pytest.mark.parametrize("result", [None, SMTPError("locked"), {"user": None}])
def test_on_auth_may_refuse_a_proof_that_is_right(result: Any) -> None:
    with Login(
        on_scram=in_style("callback", lambda username, session: KEYS),
        on_auth=in_style("callback", lambda auth, session: result),
    ) as login:
        assert login.scram("pencil") == ["334", WRONG]
        assert login.wire.session.user is None


# --- failing ---


def raises(auth: Any, session: Any) -> None:
    raise RuntimeError("boom")


@row("AUTH-14")
@pytest.mark.parametrize("style", ["callback", "coroutine", "coroutine with callback"])
@pytest.mark.parametrize("hook", ["on_auth", "on_scram"])
def test_a_hook_that_raises_authenticates_no_client(style: str, hook: str) -> None:
    with Login(**{hook: in_style(style, raises)}, max_auth_failures=1) as login:
        assert (login.say(*PLAIN) if hook == "on_auth" else login.scram()) == [FAILED]
        assert [str(error) for error in login.errors] == ["boom"]
        assert login.wire.session.user is None
        assert login.say(b"NOOP") == ["250 2.0.0"]


@row("AUTH-14")
@pytest.mark.parametrize("result", [True, "ann", 1, ["ann"], ("ann",), AcceptingError(), object()])
def test_a_meaningless_result_authenticates_no_client(result: Any) -> None:
    with Login(on_auth=in_style("callback", lambda auth, session: result)) as login:
        assert login.say(*PLAIN, b"NOOP") == [FAILED, "250 2.0.0"]
        assert login.wire.session.user is None


@row("AUTH-14")
@pytest.mark.parametrize("hook", ["on_auth", "on_scram"])
def test_a_hook_without_an_answer_authenticates_no_client_and_a_late_one_is_ignored(
    hook: str,
) -> None:
    waiting: list[Any] = []
    with Login(**{hook: lambda subject, session, callback: waiting.append(callback)}) as login:
        assert (login.say(*PLAIN) if hook == "on_auth" else login.scram()) == []
        assert login.wait(29.9) == []
        assert login.wait(0.2) == [FAILED]
        assert [type(error) for error in login.errors] == [TimeoutError]
        login.loop.step(lambda: waiting[0](None, ANN if hook == "on_auth" else KEYS))
        assert login.wire.receive() == b""
        assert login.wire.session.user is None
        assert login.say(b"NOOP") == ["250 2.0.0"]


@row("AUTH-14")
def test_a_second_answer_changes_nothing() -> None:
    caught: list[BaseException] = []

    def twice(auth: Any, session: Any, callback: Any) -> None:
        callback(SMTPError("no"))
        try:
            callback(None, ANN)
        except RuntimeError as error:
            caught.append(error)

    with Login(on_auth=twice) as login:
        assert login.say(*PLAIN) == [WRONG]
        assert login.wire.session.user is None
    assert len(caught) == 1


@row("AUTH-05", "AUTH-14")
@pytest.mark.parametrize("leave", ["eof", "reset"])
def test_a_client_that_leaves_while_the_hook_works_is_not_authenticated(leave: str) -> None:
    waiting: list[Any] = []
    with Login(on_auth=lambda auth, session, callback: waiting.append(callback)) as login:
        assert login.say(*PLAIN) == []
        getattr(login.wire, leave)()
        login.loop.step(lambda: waiting[0](None, ANN))
        assert login.wire.connection.protocol.attempt is None
        if leave == "reset":
            assert login.wire.session.user is None
        else:  # it has sent all of its command, and still reads
            assert codes(login.wire.receive()) == [DONE]


@row("AUTH-14")
@pytest.mark.parametrize("steps", [PLAIN, LOGINS["LOGIN"]])
def test_a_hook_can_be_removed_during_an_exchange(steps: list[bytes]) -> None:
    with Login(on_auth=in_style("callback", lambda auth, session: ANN)) as login:
        login.say(b"AUTH PLAIN")
        login.server.on_auth = None
        assert login.say(b64("\0ann\0pw")) == [WRONG]
        assert login.say(*steps[:1]) == [WRONG]


def test_a_login_under_way_has_its_reply_before_the_421_of_a_closing_server() -> None:
    waiting: list[Any] = []
    with Login(on_auth=lambda auth, session, callback: waiting.append(callback)) as login:
        login.say(*PLAIN)
        login.loop.step(login.wire.connection.shut_down)
        assert login.wire.receive() == b""
        login.loop.step(lambda: waiting[0](None, ANN))
        assert codes(login.wire.receive()) == [DONE, "421 4.3.2"]
    with Login(on_auth=in_style("callback", lambda auth, session: ANN)) as login:
        login.say(b"AUTH PLAIN")
        login.loop.step(login.wire.connection.shut_down)
        assert codes(login.wire.receive()) == ["421 4.3.2"]


# --- secrets ---


class Everything(logging.Handler):
    """All that is logged, at every level, with tracebacks."""

    def __init__(self) -> None:
        super().__init__(logging.DEBUG)
        self.text = ""

    def emit(self, record: logging.LogRecord) -> None:
        self.text += logging.Formatter("%(message)s").format(record) + repr(record.args) + "\n"


@pytest.fixture
def everything() -> Iterator[Everything]:
    handler = Everything()
    root = logging.getLogger()
    loggers = [root, logging.getLogger("fastsmtp")]
    before = [logger.level for logger in loggers]
    root.addHandler(handler)
    for logger in loggers:
        logger.setLevel(logging.DEBUG)
    yield handler
    root.removeHandler(handler)
    for logger, level in zip(loggers, before, strict=True):
        logger.setLevel(level)


def hangs(auth: Any, session: Any, callback: Any) -> None:
    """Never answer."""


async def hangs_in_a_task(auth: Any, session: Any) -> None:
    await asyncio.Event().wait()


ENDS: dict[str, Any] = {
    "accepts": in_style("callback", lambda auth, session: ANN),
    "refuses": in_style("callback", lambda auth, session: None),
    "rejects": in_style("coroutine", lambda auth, session: SMTPError("no")),
    "is nonsense": in_style("callback", lambda auth, session: auth),
    "rejects with nonsense": in_style("callback", lambda auth, session: SMTPError("no", 5)),
    "raises": in_style("callback", raises),
    "raises in a task": in_style("coroutine", raises),
    "hangs": hangs,
    "hangs in a task": hangs_in_a_task,
}


def traces(secret: str, text: str) -> list[str]:
    """In which form the secret is in the text."""
    octets = secret.encode()
    forms = [secret, repr(octets), octets.hex()]
    # base64 of the secret at each of its three alignments, without what the neighbours change
    forms += [b64(b"x" * pad + octets)[(pad * 8 + 5) // 6 : -4].decode() for pad in range(3)]
    return [form for form in forms if form in text]


def test_the_search_for_secrets_finds_a_planted_one() -> None:
    for before in ("", "x", "xy"):
        assert traces(CANARY, b64(before + CANARY + "tail").decode())
    assert traces(CANARY, f"a {CANARY} b")
    assert not traces(CANARY, b64("something else").decode())


@row("AUTH-13")
@pytest.mark.parametrize("end", ENDS)
@pytest.mark.parametrize("login_by", LOGINS)
@pytest.mark.parametrize("listens", [True, False])
def test_a_secret_is_in_no_log_reply_or_traceback(
    login_by: str, end: str, listens: bool, everything: Everything
) -> None:
    with Login(on_auth=ENDS[end]) as login:
        if not listens:
            login.server.off("error", login.errors.append)
        login.say(*LOGINS[login_by])
        login.wait(31)
        login.say(b"", b"NOOP")
        seen = "".join(
            "".join(traceback.TracebackException.from_exception(e, capture_locals=True).format())
            for e in login.errors
        )
        texts = [everything.text, login.written.decode(), seen, str(login.wire.session.error)]
        texts += [repr(login.wire.session), repr(login.wire.connection.protocol)]
    for text in texts:
        assert traces(CANARY, text) == []
    assert "AUTH" in everything.text


@row("AUTH-13")
@pytest.mark.parametrize("bad", [b"!", b"=", b" ", b"\x00"])
def test_a_secret_that_cannot_be_read_is_not_shown_either(
    bad: bytes, everything: Everything
) -> None:
    with Login(on_auth=ENDS["accepts"]) as login:
        for line in (
            PLAIN[0] + bad,
            b"AUTH PLAIN " + b64(CANARY),
            b"AUTH " + CANARY.encode(),
            b"AUTH PLAIN " + b64(CANARY) + b" " + b64(CANARY),
        ):
            login.say(line)
        assert traces(CANARY, everything.text + login.written.decode()) == []


@row("AUTH-13", "TLS-10")
def test_a_secret_sent_in_plaintext_is_not_even_decoded(everything: Everything) -> None:
    with Login(on_auth=ENDS["accepts"], allow_insecure_auth=False) as login:
        assert login.say(*PLAIN) == ["538 5.7.11"]
        assert traces(CANARY, everything.text + login.written.decode()) == []


@row("LOG-02", "AUTH-13")
def test_a_name_is_one_word_of_one_line_of_the_log(everything: Everything) -> None:
    name = "ann \u200b2026-01-01 accepted " + "x" * 500
    with Login(on_auth=ENDS["refuses"]) as login:
        assert login.say(b"AUTH PLAIN " + b64(f"\0{name}\0pw")) == [WRONG]
    (line,) = [one for one in everything.text.splitlines() if "AUTH PLAIN of" in one]
    assert "\u200b" not in line
    assert "of ann\\x20\\u200b2026-01-01\\x20accepted\\x20xxx" in line
    assert line.partition(" at ")[0].endswith("...")
    assert line.partition("(")[0].endswith(": 535")


@row("AUTH-13")
def test_the_repr_of_auth_and_session_shows_no_secret() -> None:
    seen: list[Any] = []

    def on_auth(auth: Any, session: Any, callback: Any) -> None:
        seen.extend([repr(auth), repr(session), auth])
        callback(None, ANN)

    with Login(on_auth=on_auth) as login:
        login.say(*PLAIN)
    assert seen[0] == "<Auth PLAIN ann>"
    assert not traces(CANARY, seen[1])
    assert not hasattr(seen[2], "__dict__")
