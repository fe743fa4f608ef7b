"""The values of the gateway's configuration: every form that is taken, and one line for others."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from fastsmtp.gateway.config import (
    DEFAULT_LISTEN,
    Config,
    Kind,
    Listener,
    domain_key,
    load,
    parse_domain,
    parse_listener,
)
from fastsmtp.gateway.config.values import octets_of

LISTENERS = {
    "127.0.0.1:2525": Listener(host="127.0.0.1", port=2525),
    "0.0.0.0:25": Listener(host="0.0.0.0", port=25),
    "2525": Listener(host="127.0.0.1", port=2525),
    "0": Listener(host="127.0.0.1", port=0),
    "localhost:0": Listener(host="localhost", port=0),
    "mx-1.example.org:65535": Listener(host="mx-1.example.org", port=65535),
    "[::1]:25": Listener(host="::1", port=25),
    "[::]:25": Listener(host="::", port=25),
    "[fe80::1%eth0]:25": Listener(host="fe80::1%eth0", port=25),
    "lmtp:/run/fastsmtp.sock": Listener(path="/run/fastsmtp.sock", kind=Kind.LMTP),
    "smtp:/run/fastsmtp.sock": Listener(path="/run/fastsmtp.sock"),
    "SMTP:./smtp.sock": Listener(path="./smtp.sock"),
    "smtp:25": Listener(host="smtp", port=25),
    "LMTP:./lmtp.sock": Listener(path="./lmtp.sock", kind=Kind.LMTP),
    "lmtp:127.0.0.1:2424": Listener(host="127.0.0.1", port=2424, kind=Kind.LMTP),
    "lmtp:[::1]:2424": Listener(host="::1", port=2424, kind=Kind.LMTP),
    "lmtp:2424": Listener(host="127.0.0.1", port=2424, kind=Kind.LMTP),
    "smtps://mx.example.org": Listener(host="mx.example.org", port=465, kind=Kind.SMTPS),
    "SMTPS://[::1]": Listener(host="::1", port=465, kind=Kind.SMTPS),
    "smtps://[::1]:4650": Listener(host="::1", port=4650, kind=Kind.SMTPS),
    "smtps://127.0.0.1:0": Listener(host="127.0.0.1", port=0, kind=Kind.SMTPS),
    "submission://0.0.0.0": Listener(host="0.0.0.0", port=587, kind=Kind.SUBMISSION),
    "submission://localhost:5870": Listener(host="localhost", port=5870, kind=Kind.SUBMISSION),
}

NO_LISTENERS = {
    "": "host:port",
    "lmtp": "host:port",
    "lmtp:": "host:port",
    "127.0.0.1": "host:port",
    "localhost:": "host:port",
    "localhost:smtp": "host:port",
    "localhost:-1": "host:port",
    "localhost:٢٥": "host:port",
    " 127.0.0.1:25": "host:port",
    "127.0.0.1:25\n": "host:port",
    "a b:25": "host:port",
    "user@host:25": "host:port",
    ":25": "0.0.0.0",
    "65536": "65535",
    "localhost:99999": "65535",
    "::1:25": "brackets",
    "::1": "brackets",
    "[]:25": "IPv6",
    "[127.0.0.1]:25": "IPv6",
    "[::g]:25": "IPv6",
    "[::1]": "host:port",
    "/run/fastsmtp.sock": "smtp: or lmtp:",
    "smtps:/run/fastsmtp.sock": "host:port",
    "submission:/run/fastsmtp.sock": "host:port",
    "smtp:/run/": "socket",
    "smtp:/" + "x" * 107: "107 octets",
    "smtp://localhost:25": "smtps://",
    "lmtp://localhost:24": "lmtp:",
    "smtps:localhost:465": "smtps://",
    "smtps://": "0.0.0.0",
    "smtps://465": "smtps://host:port",
    "smtps://٤٦٥": "smtps://host:port",
    "smtps://:465": "0.0.0.0",
    "smtps://localhost:": "host:port",
    "smtps://localhost/": "host:port",
    "smtps://localhost:465/x": "host:port",
    "smtps://a b": "host:port",
    "smtps://user@localhost": "host:port",
    "smtps://::1": "brackets",
    "smtps://[::g]": "IPv6",
    "smtps:///run/x.sock": "host:port",
    "submission:587": "submission://",
    "submission://localhost:65536": "65535",
    "lmtp:/": "socket",
    "lmtp:/run/": "socket",
    "lmtp:/a\0b": "socket",
    "lmtp:/" + "x" * 107: "107 octets",
    "lmtp:25": "RFC 2033",
    "lmtp:localhost:25": "RFC 2033",
}


@pytest.mark.parametrize("text", LISTENERS)
def test_an_address_to_listen_on_is_understood(text: str) -> None:
    assert parse_listener(text) == LISTENERS[text]


@pytest.mark.parametrize("text", NO_LISTENERS)
def test_an_invalid_address_to_listen_on_is_refused_with_the_reason(text: str) -> None:
    with pytest.raises(ValueError, match="not an address to listen on") as refused:
        parse_listener(text)
    assert NO_LISTENERS[text] in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    "text",
    [
        *["127.0.0.1:2525", "[::1]:25", "lmtp:/run/x.sock", "lmtp:127.0.0.1:24", "lmtp:[::]:24"],
        "smtp:/run/x.sock",
        *["smtps://127.0.0.1:465", "submission://[::1]:587"],
    ],
)
def test_an_address_is_shown_as_it_is_typed(text: str) -> None:
    assert str(parse_listener(text)) == text


def test_a_host_name_that_is_shortened_is_shown_in_full() -> None:
    assert str(parse_listener("2525")) == "127.0.0.1:2525"


@pytest.mark.parametrize(
    ("text", "octets"),
    [
        ("0", 0),
        ("1", 1),
        ("26214400", 26214400),
        ("500k", 512000),
        ("25M", 26214400),
        ("25m", 26214400),
        ("1G", 1 << 30),
        ("0G", 0),
        (26214400, 26214400),
        (str(2**62 - 1), 2**62 - 1),
    ],
)
def test_a_size_may_have_a_unit(text: str | int, octets: int) -> None:
    assert octets_of(text) == octets


@pytest.mark.parametrize(
    "text",
    [
        *["", "k", "-1", "+1", "1.5M", "1 M", "1MB", "1T", "0x10", "1e6", "٣", "1\n"],
        *[str(2**62), "9" * 30, "9223372036854775807k"],
    ],
)
def test_an_invalid_size_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="takes octets such as"):
        octets_of(text)


@pytest.mark.parametrize(
    ("text", "key"),
    [
        ("example.org", "example.org"),
        ("Example.ORG", "example.org"),
        ("example.org.", "example.org"),
        ("localhost", "localhost"),
        ("a-b.1c", "a-b.1c"),
        ("bücher.example", "xn--bcher-kva.example"),
        ("xn--bcher-kva.example", "xn--bcher-kva.example"),
        ("BÜCHER.example", "xn--bcher-kva.example"),
        ("[192.0.2.1]", "[192.0.2.1]"),
        ("[IPv6:2001:DB8::1]", "[ipv6:2001:db8::1]"),
    ],
)
def test_a_domain_is_compared_by_its_key(text: str, key: str) -> None:
    assert parse_domain(text) == key
    assert domain_key(key.upper()) == key


@pytest.mark.parametrize("domain", ["example\uff0eorg", "example\u3002org", "stra\u00dfe.example"])
def test_a_domain_is_not_rewritten_into_another_one(domain: str) -> None:
    assert domain_key(domain) == domain


@pytest.mark.parametrize(
    "text",
    [
        *["", ".", "..", "-a", "a-", "a..b", ".a", "a_b", "a b", "a/b", "a\nb", "a\n"],
        *[
            "example\uff0eorg",
            "example\u3002org",
            "*.example.org",
            "@example.org",
            "user@example.org",
            "\u202egro.example",
        ],
        *["a" * 64, ".".join(["a" * 60] * 5), "ü" * 300, "1" * 300],
        *["[300.1.1.1]", "[]", "[IPv6:::g]"],
    ],
)
def test_an_invalid_domain_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is not a") as refused:
        parse_domain(text)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("domain", ["", "ü" * 300, "\ud800", "a..ü", "x\0", "." * 255])
def test_a_domain_of_a_client_always_has_a_key(domain: str) -> None:
    assert isinstance(domain_key(domain), str)


def config(**flags: object) -> Config:
    return load(flags, {}, "/dev/null").config


def test_a_maildir_is_named_by_its_whole_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert config(maildir="./mail").maildir == str(tmp_path / "mail")
    assert os.path.isabs(config(maildir="../mail").maildir)


@pytest.mark.parametrize("name", ["", "a b", "a\nb", "ü", "x" * 300])
def test_a_host_without_a_fit_name_is_localhost(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("socket.gethostname", lambda: name)
    assert config().name == "localhost"


def test_all_listeners_and_domains_are_taken() -> None:
    both = config(listen=["25", "lmtp:24"], domains=["a.example", "B.example", "b.example"])
    assert [str(listener) for listener in both.listeners] == ["127.0.0.1:25", "lmtp:127.0.0.1:24"]
    assert both.domains == {"a.example", "b.example"}


def test_a_free_port_may_be_asked_for_twice() -> None:
    assert len(config(listen=["0", "0"]).listeners) == 2


def test_without_flags_the_gateway_listens_on_the_loopback_address() -> None:
    assert [str(listener) for listener in config().listeners] == [DEFAULT_LISTEN]


@pytest.mark.parametrize(
    "flags",
    [
        {"listen": ["25", "127.0.0.1:25"]},
        {"listen": ["smtps://[::1]", "smtps://[::1]:465"]},
        {"listen": [""]},
        {"listen": ["submission://localhost"]},
        {"maildir": ""},
        {"maildir": "a\0b"},
        {"key": "key.pem"},
        {"cert": ""},
        {"cert": "c.pem", "key": ""},
        {"client_ca": ""},
        {"users": ""},
        {"users": "a\0b"},
        {"ciphers": "ECDHE\n"},
        {"ciphers": "\u00e9"},
        {"spool": "mail", "maildir": "./mail"},
        {"certificates": ["mx.example.org=mx.pem"]},
        {"reject_unauthorized": True},
        {"reload": True},
        {"listen": ["lmtp:24"], "hide_pipelining": True},
    ],
)
def test_flags_that_make_no_sense_together_are_refused(flags: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r"^--") as refused:
        config(**flags)
    assert "\n" not in str(refused.value)


def test_files_are_named_by_their_whole_paths(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    found = config(cert="mx.pem", key="./mx.key", client_ca="../ca.pem", users="users")
    folder = str(tmp_path)
    assert (found.cert, found.key) == (f"{folder}/mx.pem", f"{folder}/mx.key")
    assert (found.client_ca, found.users) == (f"{tmp_path.parent}/ca.pem", f"{folder}/users")


def test_options_of_files_that_are_not_given_are_empty() -> None:
    found = config()
    assert (found.cert, found.key, found.client_ca, found.users) == ("", "", "", "")
