"""Which recipients the gateway takes."""

from __future__ import annotations

import pytest

from fastsmtp._wire.grammar import Address, parse_forward_path
from fastsmtp.errors import SMTPError
from fastsmtp.gateway.receiver import Receiver
from fastsmtp.session import Session


def receiver(*domains: str) -> Receiver:
    return Receiver(frozenset(domains))


def address(mailbox: str) -> Address | None:
    parsed = parse_forward_path(f"TO:<{mailbox}>".encode(), True, False)
    return None if isinstance(parsed, int) else parsed[0]


def answer_for(hooks: Receiver, mailbox: str) -> Exception | None:
    answers: list[Exception | None] = []
    recipient = address(mailbox)
    assert recipient is not None
    hooks.on_rcpt_to(recipient, Session(), answers.append)
    (answer,) = answers
    return answer


def test_without_domains_every_recipient_is_taken() -> None:
    for mailbox in ("b@y.example", "b@[192.0.2.1]", "postmaster", "ü@ü.example"):
        assert answer_for(receiver(), mailbox) is None


@pytest.mark.parametrize(
    "mailbox",
    [
        *["b@y.example", "B@Y.EXAMPLE", '"a@b"@y.example', "postmaster", "POSTMASTER"],
        *["b@bücher.example", "b@BÜCHER.example", "b@xn--bcher-kva.example"],
        "@evil.example:b@y.example",
    ],
)
def test_recipients_of_our_domains_are_taken(mailbox: str) -> None:
    hooks = receiver("y.example", "xn--bcher-kva.example")
    assert answer_for(hooks, mailbox) is None


@pytest.mark.parametrize(
    "mailbox",
    [
        *["b@x.example", "b@sub.y.example", "b@y.example.org", "b@y", "b@[192.0.2.1]"],
        *['"b@y.example"@x.example', "b%y.example@x.example", "postmaster@x.example"],
        "b@ÿ.example",
    ],
)
def test_recipients_elsewhere_are_refused_as_relaying(mailbox: str) -> None:
    refused = answer_for(receiver("y.example"), mailbox)
    assert isinstance(refused, SMTPError)
    assert (refused.response_code, refused.enhanced_code) == (550, "5.1.1")
    assert "relay denied" in refused.message
