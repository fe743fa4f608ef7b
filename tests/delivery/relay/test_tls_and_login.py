"""TLS to the next hop, logins there, and what it is told of the client. The next hop is a server of
ours, except where it has to misbehave.
"""

from __future__ import annotations

import base64
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from clients import until
from next_hop_kit import KEYWORDS, NextHop, Talk, mail, relay_to
from on_loops import on_loops
from scenario import DEFAULTS
from tls_kit import ca_pem, certified

from fastsmtp import Session, SMTPError, SMTPServer, scram_keys
from fastsmtp.delivery import Client, Recipient, Record, Unavailable
from fastsmtp.delivery.relay import Relay
from fastsmtp.delivery.relay.next_hop import NextHopOptions
from fastsmtp.testing import running

PLAIN = mail()
KEYS = scram_keys("geh\u00ebim")


@pytest.fixture(scope="module")
def ca(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("ca") / "ca.pem"
    path.write_bytes(ca_pem())
    return str(path)


class Hop:
    """A server that keeps the facts of each session that has sent a message."""

    def __init__(self) -> None:
        self.facts: list[dict[str, Any]] = []

    async def on_data(self, stream: Any, session: Session) -> None:
        async for _ in stream:
            pass
        self.facts.append(
            {
                "secure": session.secure,
                "user": session.user,
                "address": session.remote_address,
                "port": session.remote_port,
                "name": session.client_hostname,
                "helo": session.host_name_appears_as,
                "proxy": session.proxy,
                "xclient": dict(session.xclient),
            }
        )

    async def on_auth(self, auth: Any, session: Session) -> dict[str, str]:
        if (auth.username, auth.password) != ("relay", "gehëim"):
            raise SMTPError("Bad password", 535)
        return {"user": "relay"}


@asynccontextmanager
async def hop_with(secure: bool = False, **options: Any) -> AsyncIterator[tuple[Hop, Any]]:
    hop = Hop()
    server = SMTPServer(**{**certified(), "on_data": hop.on_data, "secure": secure, **options})
    async with running(server) as address:
        yield hop, address


@asynccontextmanager
async def front_of(relay: Relay, **options: Any) -> AsyncIterator[Any]:
    async with running(SMTPServer(**{**DEFAULTS, **relay.hooks(), **options})) as address:
        yield address


@pytest.mark.parametrize("tls", ["starttls", "implicit"])
@on_loops
async def test_mail_goes_over_verified_tls(tls: str, ca: str) -> None:
    async with hop_with(secure=tls == "implicit") as (hop, address):
        relay = Relay(*address, tls=tls, ca=ca, server_name="srv.test")
        async with front_of(relay) as front, await Talk.greeted(front) as client:
            assert (await client.send(PLAIN)).startswith("250")
            assert (await client.send(mail(b"x" * 70, 300_000))).startswith("250")
        assert [each["secure"] for each in hop.facts] == [True, True]


@pytest.mark.parametrize("tls", ["starttls", "implicit"])
@on_loops
async def test_a_certificate_that_is_not_trusted_fails_the_start(tls: str, ca: str) -> None:
    async with hop_with(secure=tls == "implicit") as (_, address):
        for options, reason in (
            (NextHopOptions(tls=tls), "self-signed certificate|unable to get local issuer"),
            (NextHopOptions(tls=tls, ca=ca, server_name="other.test"), "other.test"),
        ):
            relay = Relay(*address, **options)
            with pytest.raises(ValueError, match=reason) as error:
                await relay.start()
            assert "set ca, server_name or verify" in str(error.value)
            assert "\n" not in str(error.value)
        async with Relay(*address, tls=tls, verify=False) as relay:
            assert relay.promise is not None


@on_loops
async def test_tls_that_is_not_offered_fails_the_start(ca: str) -> None:
    async with NextHop() as hop:
        with pytest.raises(ValueError, match="does not offer STARTTLS: set tls to"):
            await relay_to(hop, tls="starttls", ca=ca).start()
        with pytest.raises(ValueError, match="is tls = 'implicit' right"):
            await relay_to(hop, tls="implicit", ca=ca).start()
        assert not any(line.startswith("MAIL") for line in hop.lines)


@on_loops
async def test_octets_before_the_handshake_are_not_taken_for_encrypted_ones(ca: str) -> None:
    async with NextHop(keywords=(*KEYWORDS, "STARTTLS")) as hop:
        hop.answers["STARTTLS"] = b"220 Go\r\n250-hop\r\n250 AUTH PLAIN\r\n"
        with pytest.raises(Unavailable, match=r"no command|octets after"):
            await relay_to(hop, tls="starttls", ca=ca).start()


@pytest.mark.parametrize("methods", [["PLAIN", "LOGIN"], ["LOGIN"]])
@on_loops
async def test_a_login_is_made_with_what_the_next_hop_offers(methods: list[str], ca: str) -> None:
    options: dict[str, Any] = {"auth_optional": False, "auth_methods": methods}
    async with hop_with(**options, on_auth=Hop().on_auth) as (hop, address):
        own: dict[str, Any] = {"tls": "starttls", "ca": ca, "server_name": "srv.test"}
        relay = Relay(*address, user="relay", password="gehëim", **own)
        async with front_of(relay) as front, await Talk.greeted(front) as client:
            assert (await client.send(PLAIN)).startswith("250")
        assert hop.facts[0]["user"] == "relay"
        with pytest.raises(ValueError, match="user and password are refused: 535"):
            await Relay(*address, user="relay", password="wrong", **own).start()


# The keys are those of its composed form, and SASLprep drops a soft hyphen (RFC 4013 §2.1).
@pytest.mark.parametrize("password", ["gehe\u0308im", "geh\u00ebi\u00adm"])
@on_loops
async def test_scram_is_preferred_to_a_password_in_plaintext(password: str) -> None:
    logins: list[Any] = []

    async def on_scram(username: str, session: Session) -> Any:
        return KEYS if username == "re,lay=" else None

    async def on_auth(auth: Any, session: Session) -> dict[str, str]:
        logins.append((auth.method, auth.username, auth.verified))
        return {"user": auth.username}

    hooks = {"on_scram": on_scram, "on_auth": on_auth}
    offered = ["PLAIN", "LOGIN", "SCRAM-SHA-256"]
    more: dict[str, Any] = {"allow_insecure_auth": True, "auth_methods": offered, **hooks}
    async with hop_with(auth_optional=False, **more) as (hop, address):
        relay = Relay(*address, tls="off", user="re,lay=", password=password)
        async with (
            front_of(relay) as front,
            await Talk.greeted(front) as one,
            await Talk.greeted(front) as other,
        ):
            await one.begin()
            assert (await other.send(PLAIN)).startswith("250")  # on a connection of its own
            assert (await one.data(PLAIN)).startswith("250")
        assert logins == [("SCRAM-SHA-256", "re,lay=", True)] * 2
        assert [each["user"] for each in hop.facts] == ["re,lay="] * 2
        with pytest.raises(ValueError, match="user and password are refused: 535"):
            await Relay(*address, tls="off", user="re,lay=", password="wrong").start()


def scram_answer(
    line: str, *, iterations: int = 4096, nonce: str = "more", salt: str = "AAAA"
) -> str:
    """What a server says to the first message."""
    words = base64.b64decode(line.split(" ")[2]).decode().partition("r=")[2]
    first = f"r={words if nonce else 'x'}{nonce},s={salt},i={iterations}"
    return base64.b64encode(first.encode()).decode()


@pytest.mark.parametrize(
    ("answers", "reason"),
    [
        ({"first": {"nonce": ""}}, "first message of SCRAM"),
        ({"first": {"salt": "A,m=x"}}, "first message of SCRAM"),
        ({"first": {"salt": "A"}}, "first message of SCRAM"),
        ({"first": {"iterations": 1}}, "1 iterations"),
        ({"first": {"iterations": 9_999_999}}, "9999999 iterations"),
        ({"first": b"334 \xff\xff\r\n"}, "first message of SCRAM"),
        ({"first": b"235 2.7.0 Come in\r\n"}, "first message of SCRAM"),
        ({"final": b"334 dj1BQUFB\r\n"}, "not proven"),
        ({"final": b"235 2.7.0 Come in\r\n"}, "not proven"),
    ],
    ids=str,
)
@on_loops
async def test_a_next_hop_that_cannot_do_its_part_of_scram_is_not_used(
    answers: dict[str, Any], reason: str
) -> None:
    async with NextHop(keywords=("AUTH SCRAM-SHA-256",)) as hop:
        first = answers.get("first", {})
        hop.answers["AUTH"] = (
            first
            if isinstance(first, bytes)
            else lambda line: f"334 {scram_answer(line, **first)}\r\n".encode()
        )
        hop.usual = answers.get("final", b"")
        with pytest.raises(ValueError, match=reason):
            await relay_to(hop, user="u", password="p").start()
        assert not any(line.startswith("MAIL") for line in hop.lines)


@on_loops
async def test_a_next_hop_that_wants_a_login_later_is_no_fault_of_the_message() -> None:
    async with NextHop() as hop, relay_to(hop) as relay, front_of(relay) as front:
        hop.answers["MAIL"] = b"530 5.7.0 Must issue a STARTTLS command first\r\n"
        async with await Talk.greeted(front) as client:
            assert (await client.ask("MAIL FROM:<a@x.example>")).startswith("451 4.3.0")


@on_loops
async def test_no_login_method_of_ours_fails_the_start() -> None:
    async with NextHop(keywords=("AUTH GSSAPI",)) as hop:
        with pytest.raises(ValueError, match="it offers AUTH GSSAPI, and the relay speaks SCRAM"):
            await relay_to(hop, user="u", password="p").start()
        hop.keywords = ()
        with pytest.raises(ValueError, match=r"it offers no AUTH, .* LOGIN: remove user"):
            await relay_to(hop, user="u", password="p").start()


@pytest.mark.parametrize(
    "wrong",
    [
        {"host": ""},
        {"port": 0},
        {"port": 70_000},
        {"tls": "maybe"},
        {"forward": "xforward"},
        {"user": "u"},
        {"password": "p"},
        {"host": "mx.example", "user": "u", "password": "p", "tls": "off"},
        {"tls": "off", "verify": False},
        {"tls": "starttls", "ca": "/nowhere"},
        {"tls": "starttls", "cert": "/nowhere"},
        {"tls": "starttls", "key": "/nowhere"},
        {"host": "/run/sock", "port": 25},
        {"max_connections": 0},
        {"idle_timeout": 0},
    ],
    ids=lambda wrong: " ".join(wrong),
)
def test_a_wrong_argument_is_named(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=f"^({'|'.join(wrong)}|cert, key|user and password)"):
        Relay(**{"host": "127.0.0.1", **wrong})


@pytest.mark.parametrize(
    ("host", "given", "port", "tls"),
    [
        ("127.0.0.1", {}, 25, "off"),
        ("::1", {"tls": "implicit"}, 465, "implicit"),
        ("localhost", {"lmtp": True}, 24, "off"),
        ("mx.example", {}, 25, "starttls"),
        ("192.0.2.1", {"port": 26}, 26, "starttls"),
    ],
)
def test_defaults_are_safe(host: str, given: Any, port: int, tls: str) -> None:
    hop = Relay(host, **given).next_hop
    assert (hop.port, hop.tls) == (port, tls)


# What the next hop is told of the client.


@on_loops
async def test_xclient_tells_the_client_and_a_connection_is_for_one_client() -> None:
    async with hop_with(use_xclient=["127.0.0.1"]) as (hop, address):
        relay = Relay(*address, forward="xclient", max_connections=2)
        async with front_of(relay, use_proxy=["127.0.0.1"]) as front:
            for source in ("192.0.2.1", "192.0.2.2", "192.0.2.1"):
                header = f"PROXY TCP4 {source} 198.51.100.1 4000 25\r\n".encode()
                async with await Talk.connected(front, header) as client:
                    assert (await client.send(PLAIN)).startswith("250")
                    assert (await client.send(PLAIN)).startswith("250")
        assert [each["address"] for each in hop.facts] == [
            *["192.0.2.1"] * 2,
            *["192.0.2.2"] * 2,
            *["192.0.2.1"] * 2,
        ]
        assert {each["helo"] for each in hop.facts} == {"c.example"}


@on_loops
async def test_a_proxy_header_tells_the_client() -> None:
    async with hop_with(use_proxy=["127.0.0.1"]) as (hop, address):
        relay = Relay(*address, forward="proxy")
        async with front_of(relay, use_proxy=["127.0.0.1"]) as front:
            for line in ("TCP4 192.0.2.1 198.51.100.1", "TCP6 2001:db8::1 2001:db8::2"):
                header = f"PROXY {line} 4000 25\r\n".encode()
                async with await Talk.connected(front, header) as client:
                    assert (await client.send(PLAIN)).startswith("250")
        found = [(each["address"], each["port"]) for each in hop.facts]
        assert found == [("192.0.2.1", 4000), ("2001:db8::1", 4000)]


@on_loops
async def test_the_greeting_after_xclient_is_that_of_the_client() -> None:
    async with NextHop(keywords=("XCLIENT ADDR HELO",)) as hop:
        hop.answers["XCLIENT"] = b"220 hop.example ESMTP\r\n"
        relay = relay_to(hop, forward="xclient", name="mx.example")
        async with front_of(relay) as front, await Talk.greeted(front) as client:
            assert (await client.send(PLAIN)).startswith("250")
        assert [line for line in hop.lines if line[:2] in ("EH", "XC")] == [
            *("EHLO mx.example", "EHLO mx.example"),
            *("XCLIENT ADDR=127.0.0.1 HELO=c.example", "EHLO c.example"),
        ]


@pytest.mark.parametrize("helo", ["a\r\nRSET", "\u00fc.example", "a b", ""])
@on_loops
async def test_a_greeting_that_no_line_can_carry_is_ours(helo: str) -> None:
    async with NextHop(keywords=("XCLIENT ADDR",)) as hop:
        hop.answers["XCLIENT"] = b"220 hop.example ESMTP\r\n"
        async with relay_to(hop, forward="xclient", name="mx.example") as relay:
            client = Client("192.0.2.1", "", helo, "ESMTP", "", "")
            await relay.put(
                Record("s-1", "a@x.example", (Recipient("b@y.example"),), PLAIN, client=client)
            )
        assert hop.lines[2:4] == ["XCLIENT ADDR=192.0.2.1", "EHLO mx.example"]


@pytest.mark.parametrize("step", ["XCLIENT", "EHLO"])
@on_loops
async def test_a_client_that_the_next_hop_refuses_hears_so_and_the_next_hop_is_not_down(
    step: str,
) -> None:
    async with NextHop(keywords=("XCLIENT ADDR",)) as hop:
        hop.answers["XCLIENT"] = b"220 hop.example ESMTP\r\n"
        relay = relay_to(hop, forward="xclient", name="mx.example")
        async with front_of(relay) as front, await Talk.greeted(front) as client:
            usual = hop._usual("EHLO")
            hop.answers[step] = lambda line: (
                usual if line == "EHLO mx.example" else b"554 5.7.1 You are on a list\r\n"
            )
            for _ in range(4):
                assert await client.ask("MAIL FROM:<a@x.example>") == "554 5.7.1 You are on a list"
            del hop.answers[step]
            hop.answers["XCLIENT"] = b"220 hop.example ESMTP\r\n"
            assert (await client.send(PLAIN)).startswith("250")


@on_loops
async def test_a_client_whose_greeting_is_a_refusal_hears_it() -> None:
    async def on_connect(session: Session) -> None:
        if session.remote_address == "192.0.2.66":
            raise SMTPError("You are on a list", 554, "5.7.1")

    async with hop_with(use_proxy=["127.0.0.1"], on_connect=on_connect) as (_, address):
        relay = Relay(*address, forward="proxy")
        async with front_of(relay, use_proxy=["127.0.0.1"]) as front:
            for source, heard in (("192.0.2.66", "554 5.7.1 You are on a list"), ("192.0.2.1", "")):
                header = f"PROXY TCP4 {source} 198.51.100.1 4000 25\r\n".encode()
                async with await Talk.connected(front, header) as client:
                    for _ in range(4):
                        reply = await client.ask("MAIL FROM:<a@x.example>")
                        assert reply == (heard or "250 2.1.0 Accepted")
                        await client.ask("RSET")


@on_loops
async def test_xclient_that_is_not_offered_fails_the_start() -> None:
    async with NextHop() as hop:
        with pytest.raises(ValueError, match="does not offer XCLIENT: set forward"):
            await relay_to(hop, forward="xclient").start()


# LMTP, and UNIX sockets.


@on_loops
async def test_lmtp_gives_each_recipient_its_own_fate(tmp_path: Path) -> None:
    path = str(tmp_path / "lmtp")
    async with NextHop(lmtp=True, path=path) as hop:
        hop.fates = {
            "full@y.example": b"452 4.2.2 Over quota\r\n",
            "no@y.example": b"550 5.7.1 Not wanted here\r\n",
        }
        relay = relay_to(hop)
        async with (
            front_of(relay, lmtp=True) as front,
            await Talk.greeted(front, "LHLO") as client,
        ):
            for size in (0, 200_000):
                await client.begin("b@y.example", "full@y.example", "no@y.example", "c@y.example")
                first = await client.data(mail(b"x" * 70, size))
                replies = [first, *[await client.reply() for _ in range(3)]]
                assert [reply[:9] for reply in replies] == [
                    *("250 2.0.0", "452 4.2.2", "550 5.7.1", "250 2.0.0")
                ]
                assert replies[2] == "550 5.7.1 Not wanted here"
        assert hop.lines[0].startswith("LHLO ")
        assert hop.starts == 1
        assert len(hop.mails) == 2


@on_loops
async def test_lmtp_answers_that_stop_in_the_middle_are_unclear_for_the_rest() -> None:
    async with NextHop(lmtp=True) as hop, relay_to(hop) as relay, front_of(relay, lmtp=True) as at:
        hop.fates = {"c@y.example": b"\0close"}
        async with await Talk.greeted(at, "LHLO") as client:
            await client.begin("b@y.example", "c@y.example", "d@y.example")
            replies = [await client.data(PLAIN), await client.reply(), await client.reply()]
            assert [reply[:9] for reply in replies] == ["250 2.0.0", "451 4.3.0", "451 4.3.0"]


@on_loops
async def test_an_smtp_client_gets_no_250_while_a_recipient_of_lmtp_got_nothing() -> None:
    async with NextHop(lmtp=True) as hop, relay_to(hop) as relay, front_of(relay) as front:
        hop.fates = {"c@y.example": b"452 4.2.2 Over quota\r\n"}
        async with await Talk.greeted(front) as client:
            assert await client.send(PLAIN, "b@y.example", "c@y.example") == "452 4.2.2 Over quota"


@on_loops
async def test_a_lmtp_client_gets_the_answer_of_an_smtp_next_hop_for_each_recipient() -> None:
    async with NextHop() as hop, relay_to(hop) as relay, front_of(relay, lmtp=True) as front:
        async with await Talk.greeted(front, "LHLO") as client:
            await client.begin("b@y.example", "c@y.example")
            replies = [await client.data(PLAIN), await client.reply()]
            assert [reply[:9] for reply in replies] == ["250 2.0.0", "250 2.0.0"]
            hop.answers["."] = b"554 5.6.0 No\r\n"
            await client.begin("b@y.example", "c@y.example")
            replies = [await client.data(PLAIN), await client.reply()]
            assert replies == ["554 5.6.0 No", "554 5.6.0 No"]
        await until(lambda: hop.open <= 1)
