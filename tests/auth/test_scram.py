"""SCRAM-SHA-256 and -PLUS without a connection (RFC 5802, RFC 7677), SASLprep (RFC 4013)."""

from __future__ import annotations

import base64
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sasl_kit import ScramClient
from scramp import ScramClient as OtherClient
from scramp import ScramException
from scramp.utils import saslprep as other_saslprep

from fastsmtp._sasl.exchange import Auth, Challenge, End, Question
from fastsmtp._sasl.saslprep import saslprep
from fastsmtp._sasl.scram import (
    Scram,
    ScramKeys,
    are_usable_keys,
    decoy_keys,
    derive_keys,
    scram_keys,
)

row = pytest.mark.row

PLAIN, PLUS = "SCRAM-SHA-256", "SCRAM-SHA-256-PLUS"
# RFC 7677 §3.
SALT = base64.b64decode("W22ZaJ0SNY7soEsUEjb6gQ==")
KEYS = derive_keys(b"pencil", SALT, 4096)
NONCE = "%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0"
FIRST = b"n,,n=user,r=rOprNGfwEbeRWgbNEkqO"
SERVER_FIRST = (
    b"r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096"
)
FINAL = (
    b"c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,"
    b"p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ="
)
SERVER_FINAL = b"v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4="


def at_the_proof(first: bytes = FIRST, keys: ScramKeys = KEYS) -> Scram:
    """An exchange that waits for the client's proof."""
    scram = Scram(PLAIN, NONCE)
    assert isinstance(scram.start(first), Question)
    assert isinstance(scram.take_keys(keys), Challenge)
    return scram


@row("AUTH-07")
@pytest.mark.parametrize("initial", [True, False])
def test_the_exchange_of_the_rfc_goes_byte_for_byte(initial: bool) -> None:
    scram = Scram(PLAIN, NONCE)
    if not initial:
        assert scram.start(None) == Challenge(b"")
    assert (scram.start if initial else scram.take)(FIRST) == Question("user")
    assert scram.take_keys(KEYS) == Challenge(SERVER_FIRST)
    auth = scram.take(FINAL)
    assert isinstance(auth, Auth)
    assert (auth.method, auth.username, auth.authzid, auth.verified) == (PLAIN, "user", "", True)
    assert scram.accept() == Challenge(SERVER_FINAL)
    assert scram.take(b"") is End.ACCEPTED


@row("AUTH-07")
def test_only_an_empty_line_after_our_signature_completes_the_exchange() -> None:
    scram = at_the_proof()
    scram.take(FINAL)
    scram.accept()
    assert scram.take(b"v=") is End.INVALID


@row("AUTH-07")
@pytest.mark.parametrize(
    "first",
    [
        *[b"", b"n", b"n,", b"n,,", b"n,,n=user", b"n,,r=abc,n=user", b"n,,n=user,r="],
        *[
            b"n,,m=x,n=user,r=abc",
            b"n,,n=user,r=abc,m=x",
            b"n,,n=user,r=abc,,",
            b"n,,n=user,r=abc,x",
        ],
        *[b"n,,n=,r=abc", b"n,,n=us=er,r=abc", b"n,,n=us=2D,r=abc", b"x,,n=user,r=abc"],
        *[b"n,user,n=user,r=abc", b"n,a=,n=user,r=abc", b"n,,n=user,r=a b", b"n,,n=user,r=a\xff"],
        *[b"n,,n=us\x07er,r=abc", b"n,,n=\xff,r=abc", b"n,,n=\xc2\xa0\xd8\xa71,r=abc"],
        *[b"n,,N=user,r=abc", b"p=,,n=user,r=abc", b"p=tls-unique,,n=user,r=abc"],
        *["n,,n=\u0627\u0031,r=abc".encode(), "n,,n=\u00ad,r=abc".encode()],
    ],
)
def test_a_first_message_in_another_form_reaches_no_hook(first: bytes) -> None:
    assert Scram(PLAIN, NONCE).start(first) is End.INVALID


@pytest.mark.parametrize(
    "first, username",
    [
        (b"n,,n=a=2Cb=3D,r=x", "a,b="),
        ("n,,n=\u2168\u00ad,r=x".encode(), "IX"),
        (b"y,a=other,n=user,r=x,e=tension", "user"),
    ],
)
def test_a_name_is_decoded_and_prepared(first: bytes, username: str) -> None:
    assert Scram(PLAIN, NONCE).start(first) == Question(username)


@row("AUTH-07")
@pytest.mark.parametrize(
    "old, new",
    [
        (b"c=biws", b"c=eSws"),
        (b"c=biws", b"c=biwt"),
        (b"c=biws", b"x=biws"),
        (b"c=biws,", b""),
        (b"k0,p=", b"k1,p="),
        (b"r=rOpr", b"r=Opr"),
        (b"k0,p=", b"k0,m=x,p="),
        (b"k0,p=", b"k0,x,p="),
        (b",p=", b",q="),
        (b"VQ=", b"VQ"),
        (b"dHzb", b"====dHzb"),
        (b"p=dHzb", b"p="),
        (b"VQ=", b"VQ=,x=y"),
    ],
)
def test_a_final_message_in_another_form_is_invalid(old: bytes, new: bytes) -> None:
    assert FINAL.count(old) == 1
    assert at_the_proof().take(FINAL.replace(old, new)) is End.INVALID


@row("AUTH-07")
def test_a_wrong_proof_is_refused() -> None:
    assert at_the_proof().take(FINAL.replace(b"dHzb", b"dHzc")) is End.WRONG
    other = derive_keys(b"pencil2", SALT, 4096)
    assert at_the_proof(keys=other).take(FINAL) is End.WRONG


@row("AUTH-07")
def test_a_change_in_a_signed_message_makes_the_proof_wrong() -> None:
    final = FINAL.replace(b",p=", b",x=y,p=")
    assert at_the_proof().take(final) is End.WRONG
    assert at_the_proof(FIRST + b",x=y").take(FINAL) is End.WRONG


def changed(keys: ScramKeys, **change: object) -> ScramKeys:
    """The same record but for `change`."""
    fields = ("salt", "iterations", "stored_key", "server_key")
    values: dict[str, Any] = {name: getattr(keys, name) for name in fields} | change
    return ScramKeys(**values)


@row("AUTH-07")
def test_an_unknown_user_has_the_same_salt_each_time_and_no_password_that_works() -> None:
    one, two = (decoy_keys("nobody", b"s" * 32, 4096) for _ in range(2))
    assert one.salt == two.salt
    assert len(one.salt) == 16
    assert one.stored_key != two.stored_key
    assert are_usable_keys(one)
    assert decoy_keys("somebody", b"s" * 32, 4096).salt != one.salt
    assert decoy_keys("nobody", b"t" * 32, 4096).salt != one.salt
    assert at_the_proof(keys=changed(one, salt=SALT)).take(FINAL) is End.WRONG


# --- channel binding ---


def bindings(kind: str) -> bytes | None:
    """The bindings of a connection with TLS 1.3."""
    return {"tls-server-end-point": b"\x01" * 32, "tls-exporter": b"\x02" * 32}.get(kind)


def client(
    mechanism: str, password: str = "pencil", binding: tuple[str, bytes] | None = None
) -> OtherClient:
    return OtherClient([mechanism], "user", password, channel_binding=binding)


def run(scram: Scram, other: OtherClient, keys: ScramKeys = KEYS) -> object:
    """Let both talk as long as they can; returns our last step."""
    step: object = scram.start(other.get_client_first().encode())
    if isinstance(step, Question):
        challenge = scram.take_keys(keys)
        assert isinstance(challenge, Challenge)
        other.set_server_first(challenge.octets.decode())
        step = scram.take(other.get_client_final().encode())
    if isinstance(step, Auth):
        last = scram.accept()
        assert isinstance(last, Challenge)
        other.set_server_final(last.octets.decode())
        step = scram.take(b"")
    return step


@row("AUTH-07")
def test_plus_is_bound_to_the_certificate() -> None:
    here = client(PLUS, binding=("tls-server-end-point", b"\x01" * 32))
    assert run(Scram(PLUS, "nonce", binding=bindings), here) is End.ACCEPTED
    elsewhere = client(PLUS, binding=("tls-server-end-point", b"\x03" * 32))
    assert run(Scram(PLUS, "nonce", binding=bindings), elsewhere) is End.INVALID


@row("AUTH-07")
@pytest.mark.parametrize("octets, is_here", [(b"\x02" * 32, True), (b"\x01" * 32, False)])
def test_plus_is_bound_to_the_connection(octets: bytes, is_here: bool) -> None:
    scram = Scram(PLUS, "nonce", binding=bindings)
    other = ScramClient(header=b"p=tls-exporter,,", binding=octets)
    assert scram.start(other.first) == Question("user")
    challenge = scram.take_keys(KEYS)
    assert isinstance(challenge, Challenge)
    step = scram.take(other.final(challenge.octets))
    assert isinstance(step, Auth) if is_here else step is End.INVALID
    if is_here:
        assert step.method == PLUS
        assert scram.accept() == Challenge(other.verifier)


@row("AUTH-07")
@pytest.mark.parametrize("kind", ["tls-unique", "tls-unknown", "", "tls-exporter\xff"])
def test_plus_takes_no_binding_that_the_connection_does_not_have(kind: str) -> None:
    first = f"p={kind},,n=user,r=abc".encode()
    assert Scram(PLUS, "nonce", binding=bindings).start(first) is End.INVALID


@row("AUTH-07")
@pytest.mark.parametrize("flag", [b"n", b"y"])
def test_plus_needs_a_binding(flag: bytes) -> None:
    first = flag + b",,n=user,r=abc"
    assert Scram(PLUS, "nonce", binding=bindings).start(first) is End.INVALID


@row("AUTH-07")
def test_a_client_from_which_plus_was_hidden_is_refused() -> None:
    first = b"y,,n=user,r=abc"
    assert Scram(PLAIN, "nonce", plus_offered=True).start(first) is End.WRONG
    assert Scram(PLAIN, "nonce", plus_offered=False).start(first) == Question("user")
    assert Scram(PLAIN, "nonce", plus_offered=True).start(b"n,,n=user,r=abc") == Question("user")


# --- against another implementation ---


@row("AUTH-07")
@given(
    password=st.text(st.characters(min_codepoint=0x20, max_codepoint=0x17F), min_size=1, max_size=8)
)
def test_another_client_is_understood(password: str) -> None:
    if not saslprep(password, stored=True):
        with pytest.raises(ValueError, match="password"):
            scram_keys(password)
        return
    keys = scram_keys(password)
    assert run(Scram(PLAIN, "nonce"), client(PLAIN, password), keys) is End.ACCEPTED
    assert run(Scram(PLAIN, "nonce"), client(PLAIN, password + "x"), keys) is End.WRONG


# --- records ---


def test_a_record_has_a_salt_of_its_own_and_not_the_password() -> None:
    one, two = scram_keys("pencil"), scram_keys("pencil", iterations=5000)
    assert (len(one.salt), one.iterations, two.iterations) == (16, 4096, 5000)
    assert one.salt != two.salt
    assert are_usable_keys(one)
    assert one == derive_keys(b"pencil", one.salt, 4096)


@row("AUTH-13")
def test_no_repr_shows_the_keys() -> None:
    keys = scram_keys("pencil")
    assert repr(keys) == f"ScramKeys(salt={keys.salt!r}, iterations=4096)"
    scram = at_the_proof(keys=keys)
    assert repr(scram) == "<Scram>"


@pytest.mark.parametrize("iterations", [4095, 1_000_001, True, 4096.0, "4096"])
def test_a_record_needs_a_sound_number_of_iterations(iterations: object) -> None:
    with pytest.raises(ValueError, match="iterations"):
        scram_keys("pencil", iterations=iterations)  # type: ignore[arg-type]


@row("AUTH-13")
@pytest.mark.parametrize("password", ["", "can\x07ary", "canary\u0221", "canary\ue000"])
def test_a_password_that_cannot_be_prepared_is_not_shown(password: str) -> None:
    with pytest.raises(ValueError) as raised:
        scram_keys(password)
    assert "canary" not in str(raised.value)
    with pytest.raises(TypeError):
        scram_keys(password.encode())  # type: ignore[arg-type]


@row("AUTH-14")
@pytest.mark.parametrize(
    "change",
    [
        {"salt": b"1234567"},
        {"salt": b"1" * 65},
        {"salt": "12345678"},
        {"iterations": 4095},
        {"iterations": 1_000_001},
        {"iterations": 4096.0},
        {"stored_key": b"x" * 31},
        {"server_key": b"x" * 33},
        {"server_key": None},
    ],
)
def test_a_record_that_is_unusable_is_detected(change: dict[str, object]) -> None:
    keys = scram_keys("pencil")
    assert not are_usable_keys(changed(keys, **change))


@pytest.mark.parametrize("keys", [None, "keys", (b"s" * 16, 4096, b"x" * 32, b"x" * 32)])
def test_a_value_that_is_not_scram_keys_is_not_usable(keys: object) -> None:
    assert not are_usable_keys(keys)


# --- SASLprep ---


@pytest.mark.parametrize(
    "text, prepared",
    [
        ("I\u00adX", "IX"),
        ("user", "user"),
        ("USER", "USER"),
        ("\u00aa", "a"),
        ("\u2168", "IX"),
        ("a\u00a0b", "a b"),
        ("\u0627\u0628", "\u0627\u0628"),
        ("\u0007", None),
        ("\u06271", None),
        ("\u0627a\u0628", None),
        ("a\u0085b", None),
        ("\ufffd", None),
        (chr(0xD800), None),
        ("\U000e0001", None),
        ("", ""),
    ],
)
def test_saslprep_agrees_with_the_examples_and_tables_of_the_rfc(
    text: str, prepared: str | None
) -> None:
    assert saslprep(text, stored=False) == prepared
    assert saslprep(text, stored=True) == prepared


def test_unassigned_code_points_are_allowed_in_queries_but_not_in_stored_strings() -> None:
    assert saslprep("\u0221", stored=False) == "\u0221"
    assert saslprep("\u0221", stored=True) is None


@given(text=st.text(max_size=8))
def test_another_implementation_prepares_the_same(text: str) -> None:
    try:
        expected: str | None = other_saslprep(text)
    except ScramException:
        expected = None
    if any("\ud800" <= c <= "\udfff" for c in text):
        expected = None
    assert saslprep(text, stored=True) == expected
