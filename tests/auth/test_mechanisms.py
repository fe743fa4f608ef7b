"""AUTH mechanisms without a connection: each exchange step by step (RFC 4616, RFC 7628, RFC 2195).

What the server says to them, line by line: auth/test_auth_command.py. SCRAM: auth/test_scram.py.
"""

from __future__ import annotations

import base64
import hmac
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastsmtp._sasl.exchange import (
    Auth,
    AuthResponse,
    Challenge,
    End,
    Mechanism,
    decode_base64,
    decode_name,
    encode_base64,
    response_of,
)
from fastsmtp._sasl.mechanisms import CramMD5, External, Login, OAuthBearer, Plain, XOAuth2

row = pytest.mark.row

CANARY = "c4nary-s3cret"
# NUL is left out: each mechanism has an opinion of its own of it.
NOT_IN_A_NAME = ["\x01", "\r", "\n", "\t", "\x1b", "\x7f", "\x80", "\x9b", "\u2028", "\u202e"]


def asked(step: object) -> Auth:
    """The step is a question to `on_auth`."""
    assert isinstance(step, Auth), step
    return step


# --- base64 ---


@row("AUTH-01")
@pytest.mark.parametrize(
    "text",
    [
        *[b"!!!!", b"AAA", b"A===", b"AA=A", b"AA AA", b"A-_A", b"AGEAYR==", b"AAA=AAAA"],
        *[b"\xc3\xa9AA", b"=", b"==", b"====", b"AA==\r\n", b"AAAA====", b"AAAA=", b" AAAA"],
        *[b"AAAA\n", b"AA\nAA", b"AB==", b"AAB="],
    ],
)
def test_text_that_is_not_strict_base64_is_not_decoded(text: bytes) -> None:
    assert decode_base64(text) is None


@row("AUTH-01")
@given(st.binary(max_size=80))
def test_base64_is_read_back(octets: bytes) -> None:
    assert decode_base64(base64.b64encode(octets)) == octets
    assert encode_base64(octets) == base64.b64encode(octets)


@row("AUTH-01")
@given(st.binary(max_size=12) | st.text("Aa9+/=_- \r\n", max_size=12).map(str.encode))
def test_base64_has_only_one_text_for_the_same_octets(text: bytes) -> None:
    octets = decode_base64(text)
    assert octets is None or base64.b64encode(octets) == text


@row("AUTH-04")
@given(st.binary(max_size=12))
def test_a_name_is_utf8_without_control_characters(octets: bytes) -> None:
    name = decode_name(octets)
    if name is None:
        try:
            text = octets.decode()
        except UnicodeDecodeError:
            return
        assert any(
            ord(c) < 0x20 or 0x7F <= ord(c) < 0xA0 or 0x2028 <= ord(c) < 0x206A for c in text
        )
    else:
        assert name.encode() == octets


# --- PLAIN ---


@row("AUTH-04")
@pytest.mark.parametrize(
    "response, authzid, username, password",
    [
        (b"\0u\0p", "", "u", "p"),
        (b"z\0u\0p", "z", "u", "p"),
        (b"\0u\0 ", "", "u", " "),
        ("\0jos\u00e9\0gr\u00fcn".encode(), "", "jos\u00e9", "gr\u00fcn"),
        (b"\0u v\0\x01\r\n\xff", "", "u v", "\x01\r\n\udcff"),
    ],
)
def test_plain_gives_user_password_and_authorization_identity(
    response: bytes, authzid: str, username: str, password: str
) -> None:
    auth = asked(Plain().start(response))
    assert (auth.method, auth.username, auth.authcid) == ("PLAIN", username, username)
    assert (auth.authzid, auth.password) == (authzid, password)
    assert auth.validate_password(password)
    assert not auth.validate_password(password + "x")


@row("AUTH-04")
@pytest.mark.parametrize(
    "response",
    [
        *[b"", b"\0", b"u\0p", b"\0u\0p\0", b"\0u\0p\0x", b"\0\0p", b"\0u\0", b"z\0\0p", b"\0\0"],
        *[b"\0\xff\0p", b"\xff\0u\0p", b"\0\xed\xa0\x80\0p"],
        *[f"\0u{bad}\0p".encode() for bad in NOT_IN_A_NAME],
        *[f"z{bad}\0u\0p".encode() for bad in NOT_IN_A_NAME],
    ],
)
def test_plain_that_is_not_two_names_and_a_password_reaches_no_hook(response: bytes) -> None:
    assert Plain().start(response) is End.INVALID


@row("AUTH-02")
def test_plain_without_an_initial_response_is_asked_for_one() -> None:
    plain = Plain()
    assert plain.start(None) == Challenge(b"")
    assert asked(plain.take(b"\0u\0p")).username == "u"
    assert plain.accept() is End.ACCEPTED
    assert plain.refuse({}) is None


# --- LOGIN ---


@row("AUTH-05")
@pytest.mark.parametrize("initial", [True, False])
def test_login_prompts_only_for_missing_values(initial: bool) -> None:
    login = Login()
    if initial:
        step = login.start(b"ann")
    else:
        assert login.start(None) == Challenge(b"Username:")
        step = login.take(b"ann")
    assert step == Challenge(b"Password:")
    auth = asked(login.take(b"EHLO x"))
    assert (auth.username, auth.password, auth.authzid, auth.authcid) == ("ann", "EHLO x", "", None)


@row("AUTH-05")
def test_login_without_a_name_ends_as_a_missing_name() -> None:
    assert Login().start(b"") is End.NO_USERNAME
    login = Login()
    login.start(None)
    assert login.take(b"") is End.NO_USERNAME


@row("AUTH-04", "AUTH-05")
@pytest.mark.parametrize("name", [b"a\0b", b"\xff", *[f"u{bad}".encode() for bad in NOT_IN_A_NAME]])
def test_login_takes_no_name_with_control_characters(name: bytes) -> None:
    assert Login().start(name) is End.INVALID


@row("AUTH-05")
@pytest.mark.parametrize("password", [b"", b"\0", b"a\0b"])
def test_login_takes_no_empty_password_and_none_with_a_nul(password: bytes) -> None:
    login = Login()
    login.start(b"ann")
    assert login.take(password) is End.INVALID


# --- CRAM-MD5 ---


@row("AUTH-06")
def test_cram_md5_checks_the_example_of_its_rfc() -> None:
    cram = CramMD5("<1896.697170952@postoffice.reston.mci.net>")
    assert cram.start(None) == Challenge(b"<1896.697170952@postoffice.reston.mci.net>")
    auth = asked(cram.take(b"tim b913a602c7eda7a495b4e6e7334d3890"))
    assert auth.username == "tim"
    assert auth.validate_password("tanstaaftanstaaf")
    assert auth.validate_password(b"tanstaaftanstaaf")
    assert not auth.validate_password("tanstaaftanstaaF")
    assert not auth.validate_password("")


@row("AUTH-06")
@given(
    st.text(st.characters(exclude_categories=["Cc", "Cf", "Cs", "Zl", "Zp"]), min_size=1), st.text()
)
def test_cram_md5_splits_at_the_last_space(username: str, password: str) -> None:
    secret = password.encode()
    digest = hmac.new(secret, b"<1.2@x>", "md5").hexdigest()
    auth = asked(CramMD5("<1.2@x>").take(f"{username} {digest}".encode()))
    assert auth.username == username
    assert auth.validate_password(secret)


@row("AUTH-06")
@pytest.mark.parametrize(
    "response",
    [
        *[b"", b"ann", b"0" * 32, b" " + b"0" * 32, b"ann " + b"0" * 31, b"ann " + b"0" * 33],
        *[b"ann " + b"A" * 32, b"ann " + b"g" * 32, b"\xff " + b"0" * 32],
        *[b"a\x07 " + b"0" * 32, b"ann " + b"0" * 32 + b"\n", b"ann " + b"0" * 32 + b" "],
    ],
)
def test_cram_md5_without_a_name_and_a_digest_reaches_no_hook(response: bytes) -> None:
    assert CramMD5("<1.2@x>").take(response) is End.INVALID


# --- bearer tokens ---


@row("AUTH-08")
@pytest.mark.parametrize("scheme", [b"Bearer", b"bearer", b"BEARER"])
def test_xoauth2_gives_user_and_token(scheme: bytes) -> None:
    auth = asked(XOAuth2().start(b"user=ann@x.example\x01auth=" + scheme + b" T.o-k/e=n\x01\x01"))
    assert (auth.username, auth.access_token) == ("ann@x.example", "T.o-k/e=n")
    assert (auth.authzid, auth.host, auth.port) == ("", None, None)


@row("AUTH-08")
@pytest.mark.parametrize(
    "response",
    [
        *[
            b"",
            b"\x01\x01",
            b"user=a\x01\x01",
            b"auth=Bearer T\x01\x01",
            b"user=a\x01auth=Bearer T",
        ],
        *[b"user=a\x01auth=Bearer T\x01", b"user=a\x01auth=Bearer \x01\x01"],
        *[b"user=a\x01auth=Basic T\x01\x01", b"user=a\x01auth=\x01\x01"],
        *[b"user=a\x01user=b\x01auth=Bearer T\x01\x01"],
        *[b"user=a\x01auth=Bearer T\x01auth=Bearer U\x01\x01", b"user=\x01auth=Bearer T\x01\x01"],
        *[b"user=a\x01\x01auth=Bearer T\x01\x01", b"user=a\x01auth=BearerT\x01\x01"],
        *[b"user=a\nb\x01auth=Bearer T\x01\x01", b"user=a\x01auth=Bearer T\x02\x01\x01"],
        *[b"user=\xff\x01auth=Bearer T\x01\x01", b"user=a\x01auth=Bearer \xff\x01\x01"],
        *[b"user=a\x01x\x01auth=Bearer T\x01\x01", b"user=a\x01=b\x01auth=Bearer T\x01\x01"],
    ],
)
def test_xoauth2_that_is_not_one_user_and_one_token_reaches_no_hook(response: bytes) -> None:
    assert XOAuth2().start(response) is End.INVALID


@row("AUTH-08")
@pytest.mark.parametrize(
    "response, username, host, port",
    [
        (b"n,,\x01auth=Bearer T\x01\x01", "", None, None),
        (b"y,,\x01auth=bearer T\x01\x01", "", None, None),
        (
            b"n,a=ann,\x01host=h.example\x01port=587\x01auth=Bearer T\x01\x01",
            "ann",
            "h.example",
            587,
        ),
        (b"n,a=a=2Cb=3D=2C,\x01auth=Bearer T\x01x=y\x01\x01", "a,b=,", None, None),
        (b"n,a=a=3D2C,\x01auth=Bearer T\x01\x01", "a=2C", None, None),
    ],
)
def test_oauthbearer_gives_identity_host_and_port(
    response: bytes, username: str, host: str | None, port: int | None
) -> None:
    auth = asked(OAuthBearer().start(response))
    assert (auth.username, auth.authzid, auth.access_token) == (username, username, "T")
    assert (auth.host, auth.port) == (host, port)


@row("AUTH-08")
@pytest.mark.parametrize(
    "response",
    [
        *[b"", b"n,,", b"n,,\x01", b"n,,\x01\x01", b"auth=Bearer T\x01\x01"],
        *[b"p=tls-unique,,\x01auth=Bearer T\x01\x01", b"x,,\x01auth=Bearer T\x01\x01"],
        *[b"n,\x01auth=Bearer T\x01\x01", b"n,,x\x01auth=Bearer T\x01\x01"],
        *[b"n,ann,\x01auth=Bearer T\x01\x01", b"n,a=,\x01auth=Bearer T\x01\x01"],
        *[b"n,a=b=2D,\x01auth=Bearer T\x01\x01", b"n,a=b=,\x01auth=Bearer T\x01\x01"],
        *[b"n,a=b\x07,\x01auth=Bearer T\x01\x01", b"n,,\x01auth=Bearer T\x01auth=Bearer T\x01\x01"],
        *[b"n,,\x01host=h\x01\x01", b"n,,\x01port=x\x01auth=Bearer T\x01\x01"],
        *[b"n,,\x01host=\xff\x01auth=Bearer T\x01\x01", b"n,,\x01auth=Bearer T\x01"],
    ],
)
def test_oauthbearer_in_another_form_reaches_no_hook(response: bytes) -> None:
    assert OAuthBearer().start(response) is End.INVALID


@row("AUTH-08")
@pytest.mark.parametrize(
    "mechanism, told",
    [
        (XOAuth2, {"status": "401", "schemes": "bearer"}),
        (OAuthBearer, {"status": "invalid_token"}),
    ],
)
def test_a_refused_token_is_explained_before_it_is_refused(
    mechanism: type[Mechanism], told: dict[str, str]
) -> None:
    for data in (None, {"status": "invalid_request", "scope": "mail"}):
        one = mechanism()
        assert not one.is_refused
        challenge = one.refuse(data)
        assert challenge is not None
        assert json.loads(challenge.octets) == (data or told)
        assert one.is_refused
        assert one.take(b"\x01") is End.REFUSED
    with pytest.raises(ValueError, match="9216"):
        mechanism().refuse("x" * 9217)
    with pytest.raises(TypeError):
        mechanism().refuse(object())


# --- EXTERNAL ---


def test_external_has_the_certificate_and_perhaps_an_identity() -> None:
    certificate = {"subject": ()}
    for response in (b"", b"ann"):
        auth = asked(External(certificate).take(response))
        assert (auth.username, auth.authzid) == (response.decode(), response.decode())
        assert auth.certificate is certificate
        assert not auth.validate_password("")
    assert External(certificate).start(None) == Challenge(b"")
    assert External(certificate).take(b"a\0b") is End.INVALID


# --- what hooks are given, and what they answer ---


class Broken(dict[str, object]):
    """A mapping that fails."""

    def get(self, *given: object) -> Any:
        raise RuntimeError("broken")


@row("AUTH-14")
@pytest.mark.parametrize("result", [1, "ann", True, [], ("user", "ann"), object(), Broken()])
def test_an_answer_that_is_not_a_response_is_refused(result: object) -> None:
    assert response_of(result) is None


@row("AUTH-14")
@pytest.mark.parametrize("result", [{"message": 1}, AuthResponse(message=b"no")])  # type: ignore[arg-type]
def test_a_response_whose_message_is_not_text_is_refused(result: object) -> None:
    assert response_of(result) is None


@row("AUTH-14")
@pytest.mark.parametrize("user", [None, False, ""])
def test_a_response_without_a_user_authenticates_no_client(user: object) -> None:
    for result in (AuthResponse(user), {"user": user}, {}, None):
        response = response_of(result)
        assert response is not None
        assert not response.has_user


@pytest.mark.parametrize("user", ["ann", 7, 0, ("x",), {"id": 7}])
def test_any_other_value_is_taken_as_the_user(user: object) -> None:
    for result in (AuthResponse(user), {"user": user, "other": 1}):
        response = response_of(result)
        assert response is not None
        assert response.has_user
        assert response.user == user


@row("AUTH-13")
def test_no_repr_shows_a_secret() -> None:
    steps = [
        Plain().start(b"z\0u\0" + CANARY.encode()),
        Login().start(CANARY.encode()),
        XOAuth2().start(b"user=u\x01auth=Bearer " + CANARY.encode() + b"\x01\x01"),
        CramMD5(CANARY).take(b"u " + b"0" * 32),
        CramMD5(CANARY).start(None),
        AuthResponse(user={"password": CANARY}),
    ]
    login = Login()
    login.start(b"u")
    steps += [login, login.take(CANARY.encode())]
    assert not [step for step in steps if CANARY in repr(step)]
    assert repr(Auth("PLAIN", "a\x1b b")) == "<Auth PLAIN a\\x1b\\x20b>"
