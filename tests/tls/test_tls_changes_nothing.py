"""A session with logins, XCLIENT and XFORWARD is the same in clear, inside TLS of either kind, and
inside TLS behind a balancer: the client gets the same replies, the hooks the same calls.

Sessions without these: properties/test_tls_segmentation.py.
"""

from __future__ import annotations

import random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from proxy_kit import binary
from sasl_kit import KEYS, b64
from scenario import COUNTERS_OFF, EH, codes
from tls_kit import MemoryClient, certified, client_context, cuts

from fastsmtp import SMTPError
from fastsmtp.testing import Wire

row = pytest.mark.row
CONTEXT = client_context()

CLIENT = ("192.0.2.1", 56324)  # the client that `binary()` names
BALANCER = ("10.0.0.7", 40000)
TRUSTED = ["192.0.2.0/24"]

PLAIN = b"AUTH PLAIN " + b64("\0ann\0pw") + b"\r\n"
WRONG = b"AUTH PLAIN " + b64("\0bob\0pw") + b"\r\n"
# Each entry is legal groups: the client waits after each.
GROUPS: dict[str, list[bytes]] = {
    "EHLO": [EH],
    "HELO": [b"HELO c.example\r\n"],
    "plain": [PLAIN],
    "wrong": [WRONG],
    "login": [b"AUTH LOGIN\r\n", b64("ann") + b"\r\n", b64("pw") + b"\r\n"],
    "cancelled": [b"AUTH LOGIN\r\n", b"*\r\n"],
    "token": [b"AUTH XOAUTH2 " + b64("user=bob\x01auth=Bearer T\x01\x01") + b"\r\n", b"\r\n"],
    "bad": [b"AUTH PLAIN !!!!\r\n", b"AUTH FOO\r\n", b"AUTH\r\n"],
    "scram, no proof": [b"AUTH SCRAM-SHA-256 " + b64("n,,n=ann,r=abc") + b"\r\n", b"QQ==\r\n"],
    "long": [b"AUTH PLAIN\r\n", b"A" * 12289 + b"\r\n"],
    "moved": [b"XCLIENT ADDR=192.0.2.9 NAME=n.example PORT=9\r\n", EH],
    "moved away": [b"XCLIENT ADDR=198.51.100.9 NAME=[UNAVAILABLE]\r\n" + EH],
    "named": [b"XCLIENT LOGIN=zoe HELO=h.example PROTO=ESMTP\r\n", EH],
    "nameless": [b"XCLIENT LOGIN=\r\n", EH],
    "refused": [b"XCLIENT LOGIN=bob ADDR=192.0.2.9\r\n"],
    "malformed": [b"XCLIENT ADDR=192.0.2.9 PORT=x\r\n"],
    "forwarded": [b"XFORWARD NAME=f.example ADDR=203.0.113.1\r\n"],
    "sender": [b"MAIL FROM:<a@x.example> AUTH=ann\r\n"],
    "begun": [b"MAIL FROM:<a@x.example>\r\nRCPT TO:<b@y.example>\r\n" + PLAIN],
    "message": [
        b"MAIL FROM:<a@x.example>\r\nRCPT TO:<b@y.example>\r\nDATA\r\n",
        b"Subject: x\r\n\r\n..dot\r\n.\r\n",
    ],
    "chunks": [b"MAIL FROM:<a@x.example>\r\nRCPT TO:<b@y.example>\r\nBDAT 3 LAST\r\nx\r\n"],
    "reset": [b"RSET\r\n"],
}
WAYS = ["STARTTLS", "implicit", "STARTTLS behind a balancer", "implicit behind a balancer"]


def about(session: Any) -> tuple[Any, ...]:
    """What a hook sees of the session; S says that there is TLS, and is left out."""
    kind = session.transmission_type.replace("PS", "P")
    where = session.remote_address, session.remote_port, session.client_hostname
    xclient = {name: value for name, value in session.xclient.items() if ":" not in name}
    return kind, session.user, session.host_name_appears_as, where, xclient, session.xforward


class Trace:
    """Hooks that write down what they see. Every login but bob's is accepted."""

    def __init__(self) -> None:
        self.seen: list[Any] = []

    def options(self) -> dict[str, Any]:
        names = ("connect", "auth", "scram", "mail_from", "rcpt_to", "data", "close")
        return {f"on_{name}": getattr(self, f"on_{name}") for name in names}

    def on_connect(self, session: Any, callback: Any) -> None:
        self.seen.append(("connect", *about(session)))
        callback()

    def on_auth(self, auth: Any, session: Any, callback: Any) -> None:
        told = auth.method, auth.username, auth.password, auth.access_token
        self.seen.append((*told, *about(session)))
        if auth.username == "bob":
            callback(SMTPError("not bob"))
        else:
            callback(None, {"user": auth.username})

    def on_scram(self, username: str, session: Any, callback: Any) -> None:
        self.seen.append(("scram", username, *about(session)))
        callback(None, KEYS)

    def on_mail_from(self, address: Any, session: Any, callback: Any) -> None:
        self.seen.append(("mail", address.address, session.envelope.auth, *about(session)))
        callback()

    def on_rcpt_to(self, address: Any, session: Any, callback: Any) -> None:
        self.seen.append(("rcpt", address.address))
        callback()

    def on_data(self, stream: Any, session: Any, callback: Any) -> None:
        body: list[bytes] = []

        def on_end(error: Any) -> None:
            self.seen.append((b"".join(body), getattr(error, "reason", None), *about(session)))
            callback(error)

        stream.consume(body.append, on_end)

    def on_close(self, session: Any) -> None:
        self.seen.append(("close", *about(session)))


def outcome(
    groups: list[bytes], way: str, dice: random.Random, required: bool
) -> tuple[list[str], list[Any], bool]:
    """What the client is answered, what the hooks see, and whether it is let go. way: "" for
    plaintext.
    """
    trace = Trace()
    balanced = way.endswith("balancer")
    options = certified(
        secure=way.startswith("implicit"),
        auth_methods=["PLAIN", "LOGIN", "XOAUTH2", "SCRAM-SHA-256"],
        allow_insecure_auth=True,
        auth_optional=not required,
        max_allowed_unauthenticated_commands=None,
        use_xclient=TRUSTED,
        use_xforward=TRUSTED,
        use_proxy=[BALANCER[0]],
        **COUNTERS_OFF,
        **trace.options(),
    )
    with Wire(peer=BALANCER if balanced else CLIENT, **options) as wire:
        header = binary() if balanced else b""
        if not way:
            wire.receive()
            said = b"".join(wire.send(group) for group in groups)
            return codes(said), trace.seen, wire.closed
        client = MemoryClient(wire, context=CONTEXT)
        if way.startswith("STARTTLS"):
            if header:
                wire.send(header)
            assert client.starttls() == "220 2.0.0"
            header = b""
        tls = client.handshake(dice.choice([0, 0, 60]), before=header)
        client.hear()
        said = b""
        for group in groups:
            if wire.closed:  # a client in clear is not heard any more either
                break
            pieces = cuts(group, dice, [1, 9, 300, 20_000])
            records = b"".join(tls.encrypt(piece) for piece in pieces)
            for segment in cuts(records, dice, [1, 50, 1400, 30_000]):
                said += tls.decrypt(wire.send(segment))
        return codes(said), trace.seen, wire.closed


def assert_same(picks: list[str], way: str, dice: random.Random, required: bool) -> None:
    groups = [group for pick in picks for group in GROUPS[pick]]
    expected = outcome(groups, "", dice, required)
    assert outcome(groups, way, dice, required) == expected


@row("AUTH-10", "AUTH-15", "XCL-02", "XCL-06", "XCL-07", "PROXY-08", "TLS-07")
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("required", [True, False])
def test_a_long_session_is_the_same_in_clear_and_within_tls(way: str, required: bool) -> None:
    picks = ["EHLO", "sender", "plain", "message", "forwarded", "message", "begun", "reset"]
    picks += ["moved", "sender", "reset", "login", "chunks", "named", "message", "plain"]
    picks += ["nameless", "wrong", "cancelled", "token", "plain", "HELO", "message", "EHLO"]
    picks += ["malformed", "moved away", "moved", "forwarded", "sender", "begun", "plain"]
    for seed in range(3):
        assert_same(picks, way, random.Random(seed), required)


@row("AUTH-10", "AUTH-15", "XCL-02", "XCL-06", "PROXY-08", "NET-07")
@settings(max_examples=60)
@given(
    picks=st.lists(st.sampled_from(sorted(GROUPS)), max_size=9),
    way=st.sampled_from(WAYS),
    seed=st.integers(0, 2**32),
    required=st.booleans(),
)
def test_any_session_is_the_same_in_clear_and_within_tls(
    picks: list[str], way: str, seed: int, required: bool
) -> None:
    assert_same(["EHLO", *picks], way, random.Random(seed), required)


class Whole(random.Random):
    """Cuts nothing."""

    def choice(self, seq: Any) -> Any:
        return max(seq)


@row("AUTH-16", "TLS-01")
@pytest.mark.parametrize("way", ["", *WAYS])
def test_a_client_that_does_not_wait_is_refused_in_clear_and_within_tls(way: str) -> None:
    found, _, closed = outcome([EH, PLAIN + b"NOOP\r\n"], way, Whole(), True)
    assert found[-1] == "554 5.5.0"
    assert closed
