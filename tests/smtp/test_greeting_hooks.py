"""`on_helo`, `on_vrfy`, and the options of one session that `on_connect` answers with.

RFC 5321 §4.1.1.1, §4.1.4, §3.5; what all hooks have in common is in the tests of hooks.
"""

from __future__ import annotations

from typing import Any

import pytest
from hook_kit import STYLES, in_style
from sasl_kit import b64
from scenario import DEFAULTS, EH, LH, codes

from fastsmtp import ClientGreeting, SMTPError, SMTPServer
from fastsmtp._options.names import PER_SESSION
from fastsmtp._smtp.server_tables import MAX_CHOICES
from fastsmtp.options import OPTIONS
from fastsmtp.server_options import ServerOptions, SessionOptions
from fastsmtp.testing import Wire

pytestmark = pytest.mark.usefixtures("no_leaks")

MAIL = b"MAIL FROM:<a@x.example>\r\n"
RCPT = b"RCPT TO:<b@y.example>\r\n"


def keywords(octets: bytes) -> list[str]:
    """The lines of a reply to EHLO after the first one."""
    return [line[4:] for line in octets.decode().splitlines() if line.startswith("250")][1:]


# --- on_helo ---


def test_on_helo_gets_the_verb_the_name_and_the_keywords() -> None:
    met: list[ClientGreeting] = []

    def on_helo(greeting: Any, session: Any, callback: Any) -> None:
        met.append(greeting)
        callback()

    with Wire(**DEFAULTS, on_helo=on_helo) as wire:
        told = keywords(wire.send(b"EHLO Client.Example\r\n"))
        wire.send(b"HELO other.example\r\n")
        assert wire.session.host_name_appears_as == "other.example"
    assert met == [("EHLO", "client.example", tuple(told)), ("HELO", "other.example", ())]
    with Wire(**DEFAULTS, on_helo=on_helo, lmtp=True) as wire:
        wire.send(LH)
    assert met[-1].command == "LHLO"


@pytest.mark.parametrize("verb", [b"EHLO", b"HELO"])
def test_a_refused_greeting_leaves_the_client_where_it_was(verb: bytes) -> None:
    def on_helo(greeting: Any, session: Any, callback: Any) -> None:
        callback(SMTPError("5.7.1 not you", 550) if greeting.name == "bad.example" else None)

    with Wire(**DEFAULTS, on_helo=on_helo) as wire:
        assert wire.send(verb + b" bad.example\r\n").endswith(b"550 5.7.1 not you\r\n")
        assert codes(wire.send(MAIL)) == ["503 5.5.1"]
        wire.send(EH)
        wire.send(MAIL)
        assert codes(wire.send(verb + b" bad.example\r\n")) == ["550 5.7.1"]
        assert wire.session.host_name_appears_as == "c.example"
        assert codes(wire.send(RCPT)) == ["250 2.1.5"]  # the transaction goes on


@pytest.mark.parametrize("style", STYLES)
def test_the_answer_of_on_helo_is_the_list_of_keywords(style: str) -> None:
    def act(call: Any) -> Any:
        chosen = [line for line in call.subject.keywords if line != "PIPELINING"]
        chosen.append("XBATCH a=1 b")
        return call.callback(None, chosen) if call.callback else chosen

    with Wire(**DEFAULTS, on_helo=in_style("on_helo", style, act)) as wire:
        told = keywords(wire.send(EH))
        assert told[-1] == "XBATCH a=1 b"
        assert "PIPELINING" not in told
        assert "8BITMIME" in told
        # After HELO there are none (RFC 5321 §4.1.1.1), so an answer for all greetings fits.
        assert codes(wire.send(b"HELO c.example\r\n")) == ["250"]


def test_no_keyword_may_be_left() -> None:
    with Wire(**DEFAULTS, on_helo=lambda greeting, session, callback: callback(None, [])) as wire:
        assert wire.send(EH).splitlines()[-1].startswith(b"250 srv.test ")


@pytest.mark.parametrize(
    "answer",
    [
        *("SIZE", {"SIZE": 1}, [b"SIZE"], ["SIZE\r\n250 X"], ["", "SIZE"], ["SI_ZE"], ["é"]),
        *(["X  Y"], ["X "], ["X" * 507], ["X"] * 101, False),
    ],
    ids=lambda answer: ascii(answer)[:20],
)
def test_what_is_not_a_list_of_keywords_is_a_failure(answer: Any) -> None:
    errors: list[Exception] = []

    async def on_helo(greeting: Any, session: Any) -> Any:
        return answer

    server = SMTPServer(**DEFAULTS, on_helo=on_helo)
    server.on("error", errors.append)
    with Wire(server) as wire:
        assert wire.send(EH).endswith(b"451 Error: local error in processing\r\n")
        assert codes(wire.send(MAIL)) == ["503 5.5.1"]
    (error,) = errors
    assert isinstance(error, TypeError | ValueError)


def test_the_longest_keyword_is_one_line_of_the_reply() -> None:
    longest = "X " + "y" * 504
    with Wire(
        **DEFAULTS, on_helo=lambda greeting, session, callback: callback(None, [longest])
    ) as w:
        assert max(map(len, w.send(EH).splitlines(keepends=True))) == 512


# --- on_vrfy ---


def vrfy(answer: Any, line: bytes = b"VRFY anne", **options: Any) -> bytes:
    async def on_vrfy(query: str, session: Any) -> Any:
        if isinstance(answer, Exception):
            raise answer
        return answer(query) if callable(answer) else answer

    server = SMTPServer(**{**DEFAULTS, **options}, on_vrfy=on_vrfy)
    server.on("error", lambda error: None)
    with Wire(server) as wire:
        wire.send(EH)
        return wire.send(line + b"\r\n")


def test_vrfy_answers_what_its_hook_says() -> None:
    assert vrfy(None)[:10] == b"252 2.0.0 "
    assert vrfy("Anne <anne@x.example>") == b"250 2.1.5 Anne <anne@x.example>\r\n"
    assert vrfy(SMTPError("which one?", 553)) == b"553 5.1.3 which one?\r\n"
    assert vrfy(SMTPError("")) == b"550 5.1.1 Error: no such user\r\n"


@pytest.mark.parametrize("answer", ["Anne", "250 OK", "550 no", False, True, ["<a@b>"], b"<a@b>"])
def test_an_answer_without_a_mailbox_is_a_failure(answer: Any) -> None:
    assert vrfy(answer)[:10] == b"451 4.3.0 "


def test_vrfy_asks_for_what_was_sent() -> None:
    def echo(query: str) -> str:
        return f"{query} <a@b>"

    assert vrfy(echo, b"VRFY  <Anne@X.example> ") == b"250 2.1.5 <Anne@X.example> <a@b>\r\n"
    assert vrfy(echo, b"VRFY") == b"501 5.5.4 Error: syntax: VRFY string\r\n"
    assert vrfy(echo, "VRFY ånne".encode())[:10] == b"553 5.6.7 "
    assert vrfy(echo, b"VRFY \xff SMTPUTF8")[:10] == b"501 5.5.4 "
    told = vrfy(echo, "VRFY ånne smtputf8".encode())
    assert told.decode() == "250 2.1.5 ånne <a@b>\r\n"
    hidden = vrfy(echo, b"VRFY anne SMTPUTF8", hide_smtputf8=True)
    assert hidden == b"250 2.1.5 anne SMTPUTF8 <a@b>\r\n"


def test_without_a_hook_vrfy_tells_nothing() -> None:
    with Wire(**DEFAULTS) as wire:
        assert codes(wire.send(b"VRFY x\r\n"))[-1] == "252 2.0.0"


# --- options of one session ---


def served(answer: Any, *lines: bytes, **options: Any) -> list[bytes]:
    """The replies to EHLO and lines of a client whose `on_connect` has this answer."""

    async def on_connect(session: Any) -> Any:
        return answer

    server = SMTPServer(**{**DEFAULTS, **options}, on_connect=on_connect)
    server.on("error", lambda error: None)
    with Wire(server) as wire:
        greeting = wire.receive()
        return [greeting, wire.send(EH), *(wire.send(line) for line in lines)]


def test_size_and_commands_are_those_of_the_session() -> None:
    answer = {"size": 99, "disabled_commands": ["vrfy"], "max_recipients": 1, "hide_dsn": True}
    _, ehlo, vrfy, mail, *rcpts = served(
        answer, b"VRFY x\r\n", MAIL.replace(b">", b"> SIZE=100"), MAIL + RCPT + RCPT
    )
    assert {"SIZE 99", "LIMITS RCPTMAX=1"} <= set(keywords(ehlo))
    assert "DSN" not in keywords(ehlo)
    assert (codes(vrfy), codes(mail)) == (["500 5.5.2"], ["552 5.3.4"])
    assert codes(rcpts[0]) == ["250 2.1.0", "250 2.1.5", "452 4.5.3"]


def test_tls_and_auth_are_those_of_the_session() -> None:
    accepts = {"on_auth": lambda auth, session, callback: callback(None, {"user": "anne"})}
    answer = {"auth_optional": False, "auth_methods": ["PLAIN"], "allow_insecure_auth": True}
    login = b"AUTH PLAIN " + b64("\0anne\0x") + b"\r\n"
    _, ehlo, mail, auth, again = served(answer, MAIL, login, MAIL, **accepts)
    assert "AUTH PLAIN" in keywords(ehlo)
    assert codes(mail + auth + again) == ["530 5.7.0", "235 2.7.0", "250 2.1.0"]
    assert codes(served({"needs_upgrade": True}, MAIL)[-1]) == ["530 5.7.0"]


def test_texts_and_deadlines_and_limits_are_those_of_the_session() -> None:
    answer = {"name": "mx2.example", "banner": "hello", "hide_enhancedstatuscodes": True}
    greeting, ehlo, *replies = served({**answer, "max_errors": 2}, RCPT, RCPT)
    assert greeting == b"220 mx2.example ESMTP hello\r\n"
    assert ehlo.startswith(b"250-mx2.example ")
    assert [reply[:9] for reply in replies] == [b"503 Error", b"421 Error"]

    async def on_connect(session: Any) -> SessionOptions:
        return {"socket_timeout": 7}

    with Wire(**DEFAULTS, on_connect=on_connect) as wire:
        wire.receive()
        assert wire.advance(6) == b""
        assert codes(wire.advance(1)) == ["421 4.4.2"]


def test_other_sessions_keep_the_options_of_the_server() -> None:
    def on_connect(session: Any, callback: Any) -> None:
        callback(None, {"size": 7} if session.remote_port == 1 else None)

    server = SMTPServer(**DEFAULTS, on_connect=on_connect)
    with Wire(server, peer=("192.0.2.1", 1)) as wire:
        assert "SIZE 7" in keywords(wire.send(EH))
    with Wire(server, peer=("192.0.2.1", 2)) as wire:
        assert "SIZE 26214400" in keywords(wire.send(EH))


def test_an_empty_answer_changes_nothing() -> None:
    assert "SIZE 26214400" in keywords(served({})[1])


@pytest.mark.parametrize(
    "answer, told",
    [
        ({"secure": True}, "option 'secure' is one of the whole server"),
        ({"max_command_length": 99}, "option 'max_command_length' is one of the whole server"),
        ({"sizes": 99}, "unknown option 'sizes', did you mean 'size'"),
        ({"size": -1}, "option 'size' takes"),
        ({"code": 550}, "unknown option 'code'"),
        ({1: 2}, "unknown option 1"),
        ([("size", 1)], "which means nothing"),
    ],
    ids=lambda each: ascii(each)[:30],
)
def test_an_option_that_a_session_cannot_have_is_a_failure_that_names_it(
    answer: Any, told: str
) -> None:
    errors: list[Exception] = []

    def on_connect(session: Any, callback: Any) -> None:
        callback(None, answer)

    server = SMTPServer(**DEFAULTS, on_connect=on_connect)
    server.on("error", errors.append)
    with Wire(server) as wire:
        assert wire.receive()[:4] == b"421 "
    (error,) = errors
    assert told in str(error)
    assert str(error).startswith("on_connect returned ")


def test_options_that_exclude_each_other_are_a_failure() -> None:
    assert served({"hide_pipelining": True}, lmtp=True)[0][:4] == b"421 "


def test_xclient_has_on_connect_decide_again() -> None:
    def on_connect(session: Any, callback: Any) -> None:
        callback(None, {"size": 7} if session.remote_address == "192.0.2.1" else None)

    with Wire(**DEFAULTS, on_connect=on_connect, use_xclient=["192.0.2.1"]) as wire:
        assert "SIZE 7" in keywords(wire.send(EH))
        wire.send(b"XCLIENT ADDR=198.51.100.1\r\n")
        assert "SIZE 26214400" in keywords(wire.send(EH))


def test_choices_are_prepared_once_and_only_the_last_ones_are_kept() -> None:
    with Wire(**DEFAULTS, on_connect=lambda session, callback: callback(None, {"size": 1})) as wire:
        tables = wire.connection.protocol.tables.base
        first = tables.for_session({"size": 1})
        assert wire.connection.protocol.tables is first
        assert tables.for_session({"size": 1}) is first
        for size in range(2, MAX_CHOICES + 2):
            tables.for_session({"size": size})
        assert tables.for_session({"size": 1}) is not first


def test_the_type_of_the_options_of_a_session_has_those_that_can_be_set() -> None:
    assert SessionOptions.__optional_keys__ == PER_SESSION
    assert OPTIONS.keys() > PER_SESSION
    assert SessionOptions.__optional_keys__ < ServerOptions.__optional_keys__
