"""AUTH in the dialogue: the order of checks, each reply, and what is left behind (RFC 4954).

The mechanisms by themselves: test_mechanisms.py, test_scram.py. Hooks and secrets:
test_auth_hooks.py.
"""

from __future__ import annotations

import base64
import hmac
import json
from typing import Any

import pytest
from sasl_kit import (
    ANN,
    KEYS,
    OPEN,
    UNSET,
    AuthHooks,
    ScramClient,
    b64,
    exchange,
    last_challenge,
    reply_with,
)
from scenario import (
    COUNTERS_OFF,
    DEFAULTS,
    EH,
    FIN,
    LH,
    RST,
    TX,
    Conversation,
    codes,
    one_way,
    pause,
)

from fastsmtp import AuthResponse, SMTPError, replies
from fastsmtp.testing import Wire

pytestmark = pytest.mark.usefixtures("no_leaks")
row = pytest.mark.row

PLAIN = b"AUTH PLAIN " + b64("\0ann\0pw") + b"\r\n"
DONE, ABORTED, INVALID = "235 2.7.0", "501 5.7.0", "501 5.5.2"
WRONG = "535 5.7.8"
BEARER = b64("user=ann\x01auth=Bearer T\x01\x01")
OAUTH = b64("n,a=ann,\x01auth=Bearer T\x01\x01")


def line(text: bytes | str) -> bytes:
    """A continuation line: base64 of `text`."""
    return b64(text) + b"\r\n"


class TLS:
    """What the dialogue sees of a TLS connection that ends here."""

    def __init__(self, verified: bool = False) -> None:
        self.verified = verified
        self.certificate = {"subject": ((("commonName", "ann"),),)}

    def channel_binding(self, kind: str) -> bytes | None:
        return b"\x01" * 32 if kind == "tls-server-end-point" else None


def inside_tls(verified: bool = False, auth: Any = ANN, **options: Any) -> Conversation:
    """A greeted connection on which TLS was done."""
    given = {**OPEN, "allow_insecure_auth": False, **AuthHooks(auth).options(), **options}
    session = Conversation(**given)
    dialogue = session.wire.connection.protocol
    dialogue.secure = session.wire.session.secure = True
    dialogue.tls = TLS(verified)
    session.do(EH)
    return session


def offered(session: Conversation | Wire, greeting: bytes = EH) -> list[str]:
    """The mechanisms in the answer to a greeting; [] if there is no AUTH."""
    wire = session.wire if isinstance(session, Conversation) else session
    lines = [text[4:].split() for text in wire.send(greeting).decode().splitlines()]
    found = [words[1:] for words in lines if words[0] == "AUTH"]
    assert len(found) <= 1
    return found[0] if found else []


# --- what is offered ---


def test_ehlo_offers_auth_after_chunking_with_mechanisms_in_the_order_of_the_option() -> None:
    with Wire(**DEFAULTS, **AuthHooks().options(), allow_insecure_auth=True) as wire:
        wire.receive()
        assert wire.send(EH) == (
            b"250-srv.test Nice to meet you, [192.0.2.1]\r\n250-PIPELINING\r\n250-8BITMIME\r\n"
            b"250-SMTPUTF8\r\n250-ENHANCEDSTATUSCODES\r\n250-DSN\r\n250-CHUNKING\r\n"
            b"250-AUTH LOGIN PLAIN\r\n250-SIZE 26214400\r\n250 LIMITS RCPTMAX=1000\r\n"
        )


@row("AUTH-14")
@pytest.mark.parametrize(
    "options, expected",
    [
        ({}, [*OPEN["auth_methods"]][:6]),
        ({"auth_methods": ["login", "plain"]}, ["LOGIN", "PLAIN"]),
        ({"auth_methods": []}, []),
        ({"allow_insecure_auth": False}, []),
        ({"on_auth": None}, ["SCRAM-SHA-256"]),
        ({"on_scram": None}, [*OPEN["auth_methods"]][:5]),
        ({"on_auth": None, "on_scram": None}, []),
        ({"disabled_commands": ["AUTH"]}, []),
        ({"allow_insecure_auth": False, "secured": True}, [*OPEN["auth_methods"]][:6]),
    ],
)
def test_ehlo_offers_only_mechanisms_that_can_succeed(
    options: dict[str, Any], expected: list[str]
) -> None:
    with Conversation(**{**OPEN, **AuthHooks().options(), **options}) as session:
        assert offered(session) == expected


@pytest.mark.parametrize("verified", [False, True])
def test_tls_that_ends_here_allows_more_mechanisms(verified: bool) -> None:
    with inside_tls(verified) as session:
        assert offered(session) == [*OPEN["auth_methods"]][: 8 if verified else 7]


@row("AUTH-10")
def test_ehlo_offers_no_auth_to_a_client_that_is_authenticated() -> None:
    with Conversation(**OPEN, **AuthHooks().options()) as session:
        assert offered(session)
        assert session.do(PLAIN) == [DONE]
        assert offered(session) == []


def test_lmtp_offers_auth_too() -> None:
    with Conversation(lmtp=True, **OPEN, **AuthHooks().options()) as session:
        assert offered(session, LH)
        assert session.do(PLAIN) == [DONE]
        assert session.wire.session.transmission_type == "LMTPA"


# --- the order of checks ---


@row("TLS-10")
@pytest.mark.parametrize("argument", [b"", b" PLAIN", b" PLAIN AHUAcA==", b" FOO", b" PLAIN !!!!"])
def test_auth_without_tls_is_refused_with_any_argument(argument: bytes) -> None:
    run = exchange(b"AUTH" + argument + b"\r\n", allow_insecure_auth=False)
    assert run.codes == ["538 5.7.11"]
    assert run.asked == []
    text = run.session.replies[-2].lines
    assert text == ("Error: Encryption required for requested authentication mechanism",)


@row("AUTH-10")
def test_a_second_login_is_refused() -> None:
    run = exchange(PLAIN, PLAIN, b"AUTH\r\n")
    assert run.codes == [DONE, "503 5.5.1", "503 5.5.1"]
    assert len(run.asked) == 1


@row("AUTH-10")
def test_auth_is_refused_before_a_greeting_and_in_a_transaction() -> None:
    with Conversation(**OPEN, **AuthHooks().options()) as session:
        assert session.do(PLAIN) == ["503 5.5.1"]
    mail, chunk = b"MAIL FROM:<a@x.example>\r\n", b"BDAT 1\r\nx"
    run = exchange(mail, PLAIN, b"RSET\r\n", PLAIN)
    assert run.codes == ["250 2.1.0", "503 5.5.1", "250 2.0.0", DONE]
    assert exchange(TX, PLAIN).codes == ["250 2.1.0", "250 2.1.5", "503 5.5.1"]
    assert exchange(TX, chunk, PLAIN).codes[-1] == "503 5.5.1"
    assert exchange(mail, chunk, PLAIN).codes[-1] == "503 5.5.1"


@row("AUTH-10")
def test_auth_is_taken_after_helo() -> None:
    with Conversation(**OPEN, **AuthHooks().options()) as session:
        assert session.do(b"HELO c.example\r\n", PLAIN) == ["250", DONE]


@row("AUTH-09", "AUTH-02")
@pytest.mark.parametrize(
    "command, code",
    [
        (b"AUTH", "501 5.5.4"),
        (b"AUTH ", "501 5.5.4"),
        (b"AUTH FOO", "504 5.5.4"),
        (b"AUTH FOO AHUAcA==", "504 5.5.4"),
        (b"AUTH " + b"X" * 200, "504 5.5.4"),
        (b"AUTH PL\xc3\xa4IN", "504 5.5.4"),
        (b"AUTH PLA\x00IN", "500 5.5.2"),
        (b"AUTH EXTERNAL", "504 5.5.4"),
        (b"AUTH SCRAM-SHA-256-PLUS", "504 5.5.4"),
        (b"AUTH ANONYMOUS", "504 5.5.4"),
        (b"AUTH PLAIN a b", "501 5.5.4"),
        (b"AUTH LOGIN a b", "501 5.5.4"),
        (b"AUTH CRAM-MD5 a", "501 5.5.4"),
        (b"AUTH PLAIN *", "501 5.5.2"),
        (b"AUTH PLAIN AHUAcA== ", DONE),
        (b"auth plain AHUAcA==", DONE),
        (b"AUTH\tPlain\tAHUAcA==", DONE),
    ],
)
def test_auth_takes_one_mechanism_and_at_most_one_response(command: bytes, code: str) -> None:
    run = exchange(command + b"\r\n")
    assert run.codes == [code]
    assert len(run.asked) == (code == DONE)


@pytest.mark.parametrize(
    "command, text",
    [
        ("AUTH", "Error: syntax: AUTH mechanism"),
        ("AUTH PLAIN a b", "Error: syntax: AUTH PLAIN token"),
        ("AUTH LOGIN a b", "Error: syntax: AUTH LOGIN"),
        ("AUTH CRAM-MD5 a", "Error: syntax: AUTH CRAM-MD5"),
        ("AUTH SCRAM-SHA-256 a b", "Error: syntax: AUTH SCRAM-SHA-256 token"),
    ],
)
def test_a_malformed_auth_command_is_answered_with_its_syntax(command: str, text: str) -> None:
    session = one_way([EH, command.encode() + b"\r\n"], **OPEN, **AuthHooks().options())
    assert session.replies[-1].lines == (text,)


@row("AUTH-14")
@pytest.mark.parametrize("method", ["PLAIN", "LOGIN", "CRAM-MD5", "XOAUTH2", "OAUTHBEARER"])
def test_a_mechanism_without_its_hook_is_refused(method: str) -> None:
    run = exchange(f"AUTH {method}\r\n".encode(), auth=UNSET)
    assert run.codes == [WRONG]
    assert run.session.replies[-2].lines == ("Authentication not implemented",)
    assert exchange(b"AUTH SCRAM-SHA-256\r\n", scram=UNSET).codes == [WRONG]
    with inside_tls(True, UNSET, on_scram=None) as session:
        assert session.do(b"AUTH EXTERNAL\r\n", b"AUTH SCRAM-SHA-256-PLUS\r\n") == [WRONG, WRONG]


def test_a_disabled_auth_is_an_unknown_command() -> None:
    assert exchange(PLAIN, disabled_commands=["AUTH"]).codes == ["500 5.5.2"]


# --- responses ---


@row("AUTH-01")
@pytest.mark.parametrize(
    "bad", [b"!!!!", b"AAA", b"A===", b"AA=A", b"A-_A", b"AGEAYR==", b"\xc3\xa9AA", b"==", b"*A=="]
)
def test_a_response_that_is_not_base64_ends_only_the_exchange(bad: bytes) -> None:
    run = exchange(b"AUTH PLAIN " + bad + b"\r\n", b"AUTH PLAIN\r\n", bad + b"\r\n", PLAIN)
    assert run.codes == [INVALID, "334", INVALID, DONE]
    assert len(run.asked) == 1


@row("AUTH-01")
@pytest.mark.parametrize("bad", [b"AA AA", b"AAAA ", b" AAAA", b"AAAA\t"])
def test_a_blank_in_base64_is_a_syntax_error(bad: bytes) -> None:
    run = exchange(b"AUTH PLAIN AA AA\r\n", b"AUTH PLAIN\r\n", bad + b"\r\n", PLAIN)
    assert run.codes == ["501 5.5.4", "334", INVALID, DONE]


@row("AUTH-01")
@pytest.mark.parametrize("bad", [b"AA\x00==", b"AA\r==", b"\x7f"])
def test_a_control_octet_ends_the_exchange(bad: bytes) -> None:
    run = exchange(b"AUTH PLAIN\r\n", bad + b"\r\n", PLAIN, max_auth_failures=1)
    assert run.codes == ["334", "500 5.5.2", DONE]


@row("AUTH-01")
def test_a_bare_lf_ends_the_connection() -> None:
    assert exchange(b"AUTH PLAIN\r\n", b"AHUAcA==\n").codes == ["334", "500 5.5.2"]


@row("AUTH-02", "AUTH-03")
def test_the_empty_challenge_keeps_its_space() -> None:
    session = one_way([EH, b"AUTH PLAIN\r\n", b"*\r\n"], **OPEN, **AuthHooks().options())
    assert session.written[2] == b"334 \r\n"


@row("AUTH-02")
def test_an_equals_sign_is_the_empty_response_at_first_only() -> None:
    assert exchange(b"AUTH PLAIN =\r\n", PLAIN).codes == [INVALID, DONE]
    assert exchange(b"AUTH LOGIN =\r\n").codes == [INVALID]
    assert exchange(b"AUTH LOGIN =\r\n").session.replies[2].lines == ("Error: missing username",)
    assert exchange(b"AUTH PLAIN\r\n", b"=\r\n").codes == ["334", INVALID]


@row("AUTH-03", "AUTH-05")
@pytest.mark.parametrize(
    "steps",
    [
        [b"AUTH PLAIN\r\n"],
        [b"AUTH LOGIN\r\n"],
        [b"AUTH LOGIN\r\n", line("ann")],
        [b"AUTH LOGIN YW5u\r\n"],
        [b"AUTH CRAM-MD5\r\n"],
        [b"AUTH XOAUTH2\r\n"],
        [b"AUTH OAUTHBEARER\r\n"],
        [b"AUTH SCRAM-SHA-256\r\n"],
        [b"AUTH SCRAM-SHA-256 " + line("n,,n=ann,r=abc")],
    ],
)
def test_a_client_can_cancel_at_every_step(steps: list[bytes]) -> None:
    run = exchange(*steps, b"*\r\n", b"NOOP\r\n", PLAIN, max_auth_failures=1)
    assert run.codes == [*["334"] * len(steps), ABORTED, "250 2.0.0", DONE]
    assert not [one for one in run.asked[:-1] if not isinstance(one, str)]


@row("AUTH-04")
def test_plain_gives_the_hook_both_names() -> None:
    run = exchange(b"AUTH PLAIN\r\n", line("root\0ann\0p w"))
    assert run.codes == ["334", DONE]
    (auth,) = run.asked
    assert (auth.method, auth.username, auth.authcid, auth.authzid, auth.password) == (
        *("PLAIN", "ann", "ann", "root", "p w"),
    )
    assert run.user == "ann"


@row("AUTH-04", "LINE-07")
def test_a_long_password_is_read() -> None:
    token = "\0ann\0" + "x" * (9216 - 5)
    command = b"AUTH PLAIN\r\n"
    run = exchange(command, line(token))
    assert run.codes == ["334", DONE]
    assert len(run.asked[0].password) == 9211


@row("AUTH-05")
@pytest.mark.parametrize("initial", [True, False])
def test_login_asks_for_name_and_password_in_two_prompts(initial: bool) -> None:
    steps = [b"AUTH LOGIN YW5u\r\n"] if initial else [b"AUTH LOGIN\r\n", line("ann")]
    run = exchange(*steps, line("pw"))
    assert run.codes == [*["334"] * len(steps), DONE]
    assert run.session.written[-3] == b"334 UGFzc3dvcmQ6\r\n"
    if not initial:
        assert run.session.written[2] == b"334 VXNlcm5hbWU6\r\n"
    assert (run.asked[0].username, run.asked[0].password) == ("ann", "pw")


@row("AUTH-05")
@pytest.mark.parametrize("text", [b"EHLO x", b"NOOP x", b"", b"MAIL FROM:<a@x.example>"])
def test_a_command_within_an_exchange_is_read_as_its_answer(text: bytes) -> None:
    run = exchange(b"AUTH LOGIN YW5u\r\n", text + b"\r\n", PLAIN)
    assert run.codes == ["334", INVALID, DONE]
    run = exchange(b"AUTH LOGIN YW5u\r\n", line(text))
    assert run.codes == ["334", DONE if text else INVALID]
    assert [auth.password for auth in run.asked] == ([text.decode()] if text else [])


@row("AUTH-05")
@pytest.mark.parametrize("text", [b"QUIT", b"RSET", b"DATA"])
def test_a_command_that_is_base64_by_chance_is_the_password(text: bytes) -> None:
    run = exchange(b"AUTH LOGIN YW5u\r\n", text + b"\r\n", b"NOOP\r\n")
    assert run.codes == ["334", DONE, "250 2.0.0"]
    assert b64(run.asked[0].password.encode("utf-8", "surrogateescape")) == text


@row("AUTH-05", "AUTH-13")
@pytest.mark.parametrize("end", [FIN, RST])
def test_a_client_that_leaves_ends_the_exchange(end: Any) -> None:
    hooks = AuthHooks()
    with Conversation(**OPEN, **hooks.options()) as session:
        session.do(EH, b"AUTH LOGIN YW5u\r\n", end)
        assert session.closed
        assert session.wire.connection.protocol.attempt is None
    assert hooks.asked == []


@row("AUTH-06")
def test_cram_md5_is_a_challenge_and_a_proof() -> None:
    def checks(auth: Any, session: Any) -> Any:
        return ANN if auth.validate_password("tanstaaf") else None

    def respond(challenge: bytes) -> bytes:

        assert challenge.endswith(b"@srv.test>")
        return b"ann lee " + hmac.new(b"tanstaaf", challenge, "md5").hexdigest().encode()

    run = exchange(b"AUTH CRAM-MD5\r\n", reply_with(respond), auth=checks)
    assert run.codes == ["334", DONE]
    assert run.asked[0].username == "ann lee"
    wrong = reply_with(lambda challenge: b"ann " + b"0" * 32)
    assert exchange(b"AUTH CRAM-MD5\r\n", wrong, auth=checks).codes == ["334", WRONG]


@row("AUTH-06")
def test_no_two_challenges_are_equal() -> None:
    seen = set()
    with Conversation(**OPEN, **AuthHooks().options(), **COUNTERS_OFF) as session:
        session.do(EH)
        for _ in range(2000):
            session.do(b"AUTH CRAM-MD5\r\n")
            challenge = last_challenge(session)
            digits, _, rest = challenge[1:].partition(b".")
            assert len(digits) == 32
            assert set(digits) <= set(b"0123456789abcdef")
            assert rest.partition(b"@")[0].isdigit()
            seen.add(digits)
            session.do(b"*\r\n")
    assert len(seen) == 2000


# --- bearer tokens ---


@row("AUTH-08")
@pytest.mark.parametrize("method, token", [("XOAUTH2", BEARER), ("OAUTHBEARER", OAUTH)])
def test_a_token_is_taken_at_once_or_when_asked_for(method: str, token: bytes) -> None:
    start = f"AUTH {method}".encode()
    for steps in ([start + b" " + token + b"\r\n"], [start + b"\r\n", token + b"\r\n"]):
        run = exchange(*steps)
        assert run.codes == [*["334"] * (len(steps) - 1), DONE]
        assert (run.asked[0].username, run.asked[0].access_token) == ("ann", "T")


@row("AUTH-08", "AUTH-03")
@pytest.mark.parametrize("method, token", [("XOAUTH2", BEARER), ("OAUTHBEARER", OAUTH)])
@pytest.mark.parametrize("acknowledgement", [b"", b"AQ==", b"*", b"QUIT", b"!!", b"a b "])
@pytest.mark.parametrize("answer", [None, AuthResponse(), SMTPError("", 535), SMTPError()])
def test_a_refused_token_is_explained_first(
    method: str, token: bytes, acknowledgement: bytes, answer: Any
) -> None:
    command = f"AUTH {method} ".encode() + token + b"\r\n"
    run = exchange(command, acknowledgement + b"\r\n", b"NOOP\r\n", auth=answer)
    assert run.codes == ["334", WRONG, "250 2.0.0"]
    status = {"XOAUTH2": {"status": "401", "schemes": "bearer"}}
    told = json.loads(base64.b64decode(run.session.written[2][4:-2]))
    assert told == status.get(method, {"status": "invalid_token"})
    assert run.session.replies[3].lines == ("Error: Username and Password not accepted",)


@row("AUTH-08")
def test_a_hook_may_choose_the_reply_to_a_refused_token() -> None:
    data = {"status": "insufficient_scope", "scope": "x" * 2000}
    answer = AuthResponse(message="No scope", response_code=534, data=data)
    run = exchange(b"AUTH XOAUTH2 " + BEARER + b"\r\n", b"\r\n", auth=answer)
    assert run.codes == ["334", "534 5.7.9"]
    assert json.loads(base64.b64decode(run.session.written[2][4:-2])) == data
    assert run.session.replies[3].lines == ("No scope",)


@row("AUTH-08", "AUTH-14")
@pytest.mark.parametrize("data", [object(), "x" * 10000, {1j: 2}])
def test_response_data_that_cannot_be_encoded_is_a_failure_of_the_hook(data: Any) -> None:
    answer = AuthResponse(data=data)
    run = exchange(b"AUTH XOAUTH2 " + BEARER + b"\r\n", PLAIN, auth=answer, max_auth_failures=1)
    assert run.codes == ["451 4.3.0", "421 4.7.0"]


@row("AUTH-08")
def test_a_temporary_refusal_of_a_token_is_sent_without_a_challenge() -> None:
    answer = SMTPError("later", 454)
    run = exchange(b"AUTH XOAUTH2 " + BEARER + b"\r\n", auth=answer, max_auth_failures=1)
    assert run.codes == ["454 4.7.0"]


@row("AUTH-08", "LINE-07")
@pytest.mark.parametrize("octets, code", [(9000, DONE), (10240, "500 5.5.6")])
def test_a_long_token_is_read_up_to_the_limit_of_a_line(octets: int, code: str) -> None:
    token = "user=ann\x01auth=Bearer " + "t" * octets + "\x01\x01"
    run = exchange(b"AUTH XOAUTH2 " + line(token), b"NOOP\r\n")
    assert run.codes == [code, "250 2.0.0"]
    run = exchange(b"AUTH XOAUTH2\r\n", line(token), b"NOOP\r\n")
    assert run.codes == ["334", code, "250 2.0.0"]


@row("LINE-07")
@pytest.mark.parametrize("octets, code", [(12287, INVALID), (12288, DONE), (12289, "500 5.5.6")])
def test_a_line_of_the_exchange_has_a_limit_of_its_own(octets: int, code: str) -> None:
    text = b64("\0ann\0" + "x" * 9211) if octets == 12288 else b"A" * octets
    assert len(text) == octets
    run = exchange(b"AUTH PLAIN\r\n", text + b"\r\n", b"NOOP " + b"x" * 2042 + b"\r\n")
    assert run.codes == ["334", code, "500 5.5.2"]
    assert run.session.wire.connection.protocol.counters.auth_failures == (code != DONE)


@row("LINE-07")
def test_a_line_without_an_end_ends_the_connection() -> None:
    with Conversation(**OPEN, **AuthHooks().options()) as session:
        session.do(EH, b"AUTH PLAIN\r\n")
        assert session.do(b"A" * (16 * 12290)) == ["421 4.7.0"]
        assert session.closed


# --- SCRAM ---


def scram_steps(client: ScramClient, method: str = "SCRAM-SHA-256") -> list[Any]:
    """The steps of an exchange up to the empty line."""

    def acknowledge(session: Conversation) -> bytes:
        if session.written[-1].startswith(b"334"):
            assert last_challenge(session) == client.verifier
            return session.wire.send(*session.cut(b"\r\n"))
        return b""

    start = f"AUTH {method} ".encode() + line(client.first)
    return [start, reply_with(client.final), acknowledge]


@row("AUTH-07")
@pytest.mark.parametrize("auth", [UNSET, ANN])
def test_scram_needs_no_on_auth(auth: Any) -> None:
    run = exchange(*scram_steps(ScramClient("us=2Cer")), auth=auth)
    assert run.codes == ["334", "334", DONE]
    assert run.asked[0] == "us,er"
    assert run.user == ("us,er" if auth is UNSET else "ann")
    if auth is not UNSET:
        asked = run.asked[1]
        assert (asked.method, asked.username, asked.verified) == ("SCRAM-SHA-256", "us,er", True)


@row("AUTH-07")
@pytest.mark.parametrize("scram", [KEYS, None, SMTPError("who?"), SMTPError("who?", 550)])
def test_an_unknown_user_fails_at_the_same_step_as_a_wrong_password(scram: Any) -> None:
    password = "wrong" if scram is KEYS else "pencil"
    run = exchange(*scram_steps(ScramClient(password=password)), scram=scram)
    assert run.codes == ["334", WRONG]
    assert run.session.replies[-2].lines == ("Error: Authentication credentials invalid",)
    assert run.asked == ["user"]
    assert run.user is None


@row("AUTH-07")
def test_an_unknown_user_has_the_same_salt_at_each_try() -> None:
    salts = []
    for name in ("nobody", "nobody", "somebody"):
        given = {**OPEN, **AuthHooks(scram=None).options(), "scram_secret": b"s" * 16}
        with Conversation(**given, scram_iterations=5000) as session:
            session.do(EH, b"AUTH SCRAM-SHA-256 " + line(ScramClient(name).first))
            nonce, salt, iterations = last_challenge(session).split(b",")
            assert len(nonce) == 2 + 24 + 24
            assert len(base64.b64decode(salt[2:])) == 16
            assert iterations == b"i=5000"
            salts.append(salt)
    assert salts[0] == salts[1] != salts[2]


@row("AUTH-07")
def test_a_client_is_not_authenticated_before_the_last_line() -> None:
    client = ScramClient()
    for last, code in ((b"*\r\n", ABORTED), (b"AA==\r\n", INVALID), (b"=\r\n", INVALID)):
        run = exchange(*scram_steps(client)[:2], last)
        assert run.codes == ["334", "334", code]
        assert run.user is None


@row("AUTH-07")
@pytest.mark.parametrize(
    "first, code",
    [
        ("n,,n=user,r=", INVALID),
        ("n,,m=x,n=user,r=abc", INVALID),
        ("p=tls-server-end-point,,n=user,r=abc", INVALID),
        ("y,,n=user,r=abc", "334"),
    ],
)
def test_a_first_message_is_checked_before_any_hook(first: str, code: str) -> None:
    run = exchange(b"AUTH SCRAM-SHA-256 " + line(first))
    assert run.codes == [code]
    assert len(run.asked) == (code == "334")


@row("AUTH-07")
def test_a_client_from_which_plus_was_hidden_is_refused() -> None:
    with inside_tls() as session:
        assert session.do(b"AUTH SCRAM-SHA-256 " + line("y,,n=user,r=abc")) == [WRONG]
    with inside_tls(auth_methods=["SCRAM-SHA-256"]) as session:
        assert session.do(b"AUTH SCRAM-SHA-256 " + line("y,,n=user,r=abc")) == ["334"]


@row("AUTH-07")
@pytest.mark.parametrize("octets, code", [(b"\x01" * 32, "334"), (b"\x02" * 32, INVALID)])
def test_plus_is_bound_to_the_connection(octets: bytes, code: str) -> None:
    client = ScramClient(header=b"p=tls-server-end-point,,", binding=octets)
    steps = scram_steps(client, "SCRAM-SHA-256-PLUS")
    with inside_tls() as session:
        assert session.do(*steps[:2]) == ["334", code]
        if code == "334":
            assert session.do(steps[2]) == [DONE]
            assert session.wire.session.transmission_type == "ESMTPSA"
        assert session.do(b"QUIT\r\n") == ["221 2.0.0"]
    with inside_tls(max_auth_failures=None) as session:
        for flag in ("n", "y", "p=tls-unique", "p=tls-exporter"):
            command = b"AUTH SCRAM-SHA-256-PLUS " + line(f"{flag},,n=user,r=abc")
            assert session.do(command) == [INVALID]


# --- EXTERNAL ---


@pytest.mark.parametrize("identity", ["", "root"])
@pytest.mark.parametrize("initial", [True, False])
def test_external_gives_the_hook_the_certificate(identity: str, initial: bool) -> None:
    hooks = AuthHooks()
    with inside_tls(True, **hooks.options()) as session:
        response = b64(identity)
        if initial:
            assert session.do(b"AUTH EXTERNAL " + (response or b"=") + b"\r\n") == [DONE]
        else:
            assert session.do(b"AUTH EXTERNAL\r\n", response + b"\r\n") == ["334", DONE]
    (auth,) = hooks.asked
    assert (auth.method, auth.username, auth.authzid) == ("EXTERNAL", identity, identity)
    assert auth.certificate == TLS().certificate


# --- counters and clocks ---


@row("AUTH-11")
def test_the_third_failure_ends_the_connection() -> None:
    run = exchange(PLAIN, PLAIN, PLAIN, auth=None)
    assert run.codes == [WRONG, WRONG, "421 4.7.0"]
    assert run.session.replies[-1].lines == ("Error: too many failed authentications",)
    assert len(run.asked) == 3


@row("AUTH-11")
@pytest.mark.parametrize(
    "steps, code",
    [
        ([b"AUTH PLAIN !!!!\r\n"], INVALID),
        ([b"AUTH PLAIN AAAA\r\n"], INVALID),
        ([b"AUTH LOGIN =\r\n"], INVALID),
        ([b"AUTH PLAIN\r\n", b"AAAA\r\n"], INVALID),
        ([b"AUTH PLAIN " + b"A" * 12288 + b"\r\n"], "500 5.5.6"),
        ([b"AUTH PLAIN\r\n", b"A" * 12289 + b"\r\n"], "500 5.5.6"),
        ([PLAIN], WRONG),
    ],
)
def test_a_failed_exchange_of_any_kind_counts_as_a_failure(steps: list[bytes], code: str) -> None:
    run = exchange(*steps, *steps, auth=None, max_auth_failures=2)
    challenges = ["334"] * (len(steps) - 1)
    assert run.codes == [*challenges, code, *challenges, "421 4.7.0"]


@row("AUTH-11", "AUTH-08")
def test_a_refused_token_is_counted_when_it_is_refused_and_once() -> None:
    command = b"AUTH XOAUTH2 " + BEARER + b"\r\n"
    run = exchange(command, b"\r\n", command, b"\r\n", command, auth=None)
    assert run.codes == ["334", WRONG, "334", WRONG, "421 4.7.0"]
    assert exchange(command, auth=None, max_auth_failures=1).codes == ["421 4.7.0"]
    too_long = b"A" * 12289 + b"\r\n"
    run = exchange(command, too_long, PLAIN, auth=None, max_auth_failures=3)
    assert run.codes == ["334", "500 5.5.6", WRONG]


@row("AUTH-11")
@pytest.mark.parametrize(
    "steps",
    [
        [b"AUTH\r\n"],
        [b"AUTH FOO\r\n"],
        [b"AUTH PLAIN a b\r\n"],
        [b"AUTH PLAIN\r\n", b"*\r\n"],
        [b"AUTH PLAIN\r\n", b"\x01\r\n"],
    ],
)
def test_a_cancelled_or_unreadable_exchange_does_not_count_as_a_failure(
    steps: list[bytes],
) -> None:
    run = exchange(*steps * 3, PLAIN, max_auth_failures=1)
    assert run.codes[-1] == DONE


@row("AUTH-11")
@pytest.mark.parametrize("limit", [0, None])
def test_the_limit_can_be_switched_off(limit: int | None) -> None:
    run = exchange(*[PLAIN] * 30, auth=None, max_auth_failures=limit, max_errors=None)
    assert run.codes == [WRONG] * 30


@row("AUTH-11")
def test_a_failure_stays_counted_after_reset_greeting_and_message() -> None:
    steps = [PLAIN, b"RSET\r\n" + EH, PLAIN, TX + b"DATA\r\n", b".\r\n", PLAIN]
    run = exchange(*steps, auth=None)
    assert run.codes[0] == WRONG
    assert run.codes[-2:] == ["250 2.6.0", "421 4.7.0"]


@row("SLOW-07")
@pytest.mark.parametrize("start", [b"AUTH PLAIN\r\n", b"AUTH LOGIN YW5u\r\n"])
def test_a_response_to_a_challenge_may_take_a_minute(start: bytes) -> None:
    with Conversation(**OPEN, **AuthHooks().options()) as session:
        assert session.do(EH, start, pause(59.9)) == ["250", "334"]
        assert session.do(pause(0.2)) == ["421 4.4.2"]
        assert session.wire.connection.protocol.attempt is None
        assert session.closed


@row("SLOW-07")
def test_octets_of_an_answer_do_not_extend_its_timeout() -> None:
    with Conversation(**OPEN, **AuthHooks().options()) as session:
        session.do(EH, b"AUTH PLAIN\r\n")
        for _ in range(5):
            assert session.do(pause(10), b"A") == []
        assert session.do(pause(9.9)) == []
        assert session.do(pause(0.2)) == ["421 4.4.2"]


@row("SLOW-07")
def test_each_answer_has_its_own_timeout_and_so_has_the_next_command() -> None:
    with Conversation(**OPEN, **AuthHooks().options(), auth_timeout=10) as session:
        assert session.do(EH, b"AUTH LOGIN\r\n", pause(9), line("ann"), pause(9)) == [
            *("250", "334", "334"),
        ]
        assert session.do(line("pw"), pause(299.9)) == [DONE]
        assert session.do(pause(0.2)) == ["421 4.4.2"]


@row("SLOW-07")
@pytest.mark.parametrize("end", [b"*\r\n", b"!!\r\n", b"\x01\r\n", b"A" * 12289 + b"\r\n"])
def test_a_command_has_its_own_timeout_after_an_exchange_that_failed(end: bytes) -> None:
    with Conversation(**OPEN, **AuthHooks().options(), auth_timeout=10) as session:
        session.do(EH, b"AUTH PLAIN\r\n", end)
        assert session.do(pause(299.9)) == []
        assert session.do(pause(0.2)) == ["421 4.4.2"]


# --- synchronisation ---


@row("AUTH-16", "AUTH-11")
@pytest.mark.parametrize(
    "steps",
    [
        [PLAIN + b"MAIL FROM:<a@x.example>\r\n"],
        [PLAIN * 500],
        [b"AUTH PLAIN\r\n" + line("\0ann\0pw")],
        [b"AUTH PLAIN\r\n", line("\0ann\0pw") + b"NOOP\r\n"],
        [b"AUTH PLAIN\r\n", b"*\r\nNOOP\r\n"],
    ],
)
def test_a_client_that_does_not_wait_for_a_challenge_is_refused(steps: list[bytes]) -> None:
    hooks = AuthHooks()
    session = one_way([EH, *steps], **OPEN, **hooks.options())
    assert session.codes == ["220", "250", *["334"] * (len(steps) - 1), "554 5.5.0"]
    assert hooks.asked == []


@row("AUTH-16")
@pytest.mark.parametrize("late", [False, True])
def test_lines_sent_early_wait_for_their_turn_without_strict_pipelining(late: bool) -> None:
    octets = b"AUTH LOGIN\r\n" + line("ann") + line("pw") + b"MAIL FROM:<a@x.example>\r\nQUIT\r\n"
    expected = ["334", "334", DONE, "250 2.1.0", "221 2.0.0"]
    if not late:
        assert exchange(octets, strict_pipelining=False, auth_optional=False).codes == expected
        return
    waiting: list[Any] = []
    with Conversation(
        **OPEN,
        on_auth=lambda auth, session, callback: waiting.append(callback),
        strict_pipelining=False,
        auth_optional=False,
    ) as session:
        session.do(EH)
        assert session.do(octets) == expected[:2]
        callback = waiting.pop()
        session.wire.loop.step(lambda: callback(None, ANN))
        assert codes(session.wire.receive()) == expected[2:]


# --- what is demanded, what is left ---


@row("AUTH-14")
def test_mail_is_taken_from_a_client_that_is_authenticated() -> None:
    mail = b"MAIL FROM:<a@x.example> AUTH=b@x.example\r\n"
    run = exchange(mail, PLAIN, mail, b"RCPT TO:<b@y.example>\r\n", auth_optional=False)
    assert run.codes == ["530 5.7.0", DONE, "250 2.1.0", "250 2.1.5"]
    mailed = [entry for entry in run.session.trace if entry[0] == "mail"]
    assert [entry[-1] for entry in mailed] == ["b@x.example"]


def test_the_count_of_unauthenticated_commands_stops_at_login_and_restarts_after_it() -> None:
    with Conversation(**OPEN, **AuthHooks().options(), auth_optional=False) as session:
        assert session.do(*[b"NOOP\r\n"] * 8, EH) == [*["250 2.0.0"] * 8, "250"]
        assert session.do(PLAIN, *[b"NOOP\r\n"] * 20) == [DONE, *["250 2.0.0"] * 20]
        session.wire.connection.protocol.forget_user()
        assert session.do(*[b"NOOP\r\n"] * 10) == [*["250 2.0.0"] * 9, "421 4.7.0"]


@row("AUTH-11")
def test_lines_of_an_exchange_do_not_count_as_unauthenticated_commands() -> None:
    step = [b"AUTH LOGIN\r\n", line("ann"), b"*\r\n"]
    run = exchange(
        *step * 10, PLAIN, auth_optional=False, max_allowed_unauthenticated_commands=3,
        max_errors=None,
    )  # fmt: skip
    assert run.codes[-1] == DONE


@row("AUTH-15")
def test_a_user_stays_over_rset_and_a_second_greeting_until_forgotten() -> None:
    with Conversation(**OPEN, **AuthHooks().options(), auth_optional=False) as session:
        session.do(EH, PLAIN, b"RSET\r\n", EH)
        assert session.wire.session.user == "ann"
        assert session.wire.session.transmission_type == "ESMTPA"
        assert session.do(TX) == ["250 2.1.0", "250 2.1.5"]
        dialogue = session.wire.connection.protocol
        dialogue.reset_greeting()
        dialogue.forget_user()
        assert session.wire.session.user is None
        assert session.do(EH, TX) == ["250", "530 5.7.0", "530 5.7.0"]
        assert session.do(PLAIN, TX) == [DONE, "250 2.1.0", "250 2.1.5"]


@row("AUTH-15")
def test_a_client_whose_login_was_reset_has_to_log_in_again() -> None:
    with Conversation(**OPEN, **AuthHooks().options(), auth_optional=False) as session:
        session.do(EH, PLAIN)
        dialogue = session.wire.connection.protocol
        dialogue.authenticated = False
        dialogue.reset_greeting()
        assert session.do(EH, TX) == ["250", "530 5.7.0", "530 5.7.0"]


def test_every_reply_is_a_constant() -> None:
    assert replies.AUTHENTICATED.wire == b"235 2.7.0 Authentication successful\r\n"
    assert replies.AUTH_ABORTED.wire == b"501 5.7.0 Authentication aborted\r\n"
