"""Which recipients the gateway takes, and which get nothing of what is sent to them."""

from __future__ import annotations

import smtplib
from pathlib import Path

import pytest
from serving import PATIENCE, Gateway, messages

from fastsmtp._wire.grammar import Address, parse_forward_path
from fastsmtp.errors import SMTPError
from fastsmtp.gateway.config import ConfigError, load
from fastsmtp.gateway.receiver import Action, Receiver, Rules
from fastsmtp.session import Session

pytest_plugins = ["gateway_fixtures"]


def rules(**lists: list[str]) -> Rules:
    return Rules(load(lists, {}, "/dev/null").config)


def receiver(*domains: str) -> Receiver:
    return Receiver(rules(domains=list(domains)) if domains else rules())


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


def action(found: Rules, mailbox: str) -> Action | None:
    recipient = address(mailbox)
    assert recipient is not None
    return found.action(recipient)


ALL_RULES = {
    "domains": ["y.example"],
    "recipients": [
        "anne@x.example",
        "sales-*@x.example",
        "boss@*",
        "*.z.example",
        '"a b"@x.example',
    ],
    "discard": ["noreply@y.example", "no-?@y.example", "drop.z.example", "*@bücher.example"],
    "reject": [
        "old-*@y.example",
        "sales-old*@x.example",
        "*@bad.drop.z.example",
        "bob@drop.z.example",
    ],
}


@pytest.mark.parametrize(
    "mailbox, expected",
    [
        ("anne@x.example", Action.ACCEPT),
        ("ANNE@X.Example", Action.ACCEPT),
        ('"anne"@x.example', Action.ACCEPT),
        ('"an\\ne"@x.example', Action.ACCEPT),
        ('"a b"@x.example', Action.ACCEPT),
        ("ann@x.example", None),
        ("anne@sub.x.example", None),
        ("sales-@x.example", Action.ACCEPT),
        ("sales-de@x.example", Action.ACCEPT),
        ("sales-older@x.example", Action.REJECT),
        ("sales@x.example", None),
        ("boss@anywhere.example", Action.ACCEPT),
        ("any@y.example", Action.ACCEPT),
        ("noreply@y.example", Action.DISCARD),
        ('"NoReply"@Y.example', Action.DISCARD),
        ("no-1@y.example", Action.DISCARD),
        ("no-12@y.example", Action.ACCEPT),
        ("old-1@y.example", Action.REJECT),
        ("any@z.example", None),
        ("any@a.z.example", Action.ACCEPT),
        ("any@a.b.z.example", Action.ACCEPT),
        ("any@drop.z.example", Action.DISCARD),
        ("bob@drop.z.example", Action.REJECT),
        ("boss@bad.drop.z.example", Action.ACCEPT),
        ("any@bad.drop.z.example", Action.REJECT),
        ("any@xn--bcher-kva.example", Action.DISCARD),
        ("any@BÜCHER.example", Action.DISCARD),
        ("postmaster", Action.ACCEPT),
    ],
)
def test_the_most_specific_rule_decides(mailbox: str, expected: Action | None) -> None:
    assert action(rules(**ALL_RULES), mailbox) is expected


def test_rules_that_accept_nobody_leave_all_others_accepted() -> None:
    found = rules(discard=["noreply@y.example"], reject=["*.z.example"])
    assert action(found, "any@x.example") is Action.ACCEPT
    assert action(found, "any@a.z.example") is Action.REJECT


@pytest.mark.parametrize("key", ["recipients", "discard", "reject"])
def test_a_star_is_for_all_that_no_other_rule_matches(key: str) -> None:
    lists = {"recipients": ["anne@y.example"], key: ["*", "anne@y.example"]}
    if key != "recipients":
        lists["recipients"], lists[key] = ["anne@y.example"], ["*"]
    found = rules(**lists)
    assert action(found, "anne@y.example") is Action.ACCEPT
    assert action(found, "any@x.example") is Action({"recipients": "accept"}.get(key, key))


def test_a_pattern_with_many_stars_is_compared_without_backtracking() -> None:
    found = rules(reject=["a*a*a*a*a*a*a*a*a*a*a*a*b@y.example"])
    assert action(found, "a" * 60 + "@y.example") is Action.ACCEPT


@pytest.mark.parametrize(
    "rule",
    [
        *["", "@", "@y.example", "a b@y.example", "a@b@y.example", "a@", "a@y..example"],
        *[
            '"*"@y.example',
            "a@*y.example",
            "a@y.*",
            "<a@y.example>",
            "x" * 65 + "@y.example",
            '"a@y.example',
            "a\n",
        ],
    ],
)
def test_a_rule_that_is_no_recipient_is_refused(rule: str) -> None:
    with pytest.raises(ConfigError, match=r"^--reject: "):
        rules(reject=["b@y.example", rule])


@pytest.mark.parametrize(
    "lists, message",
    [
        ({"recipients": ["a@y.example"], "reject": ["A@Y.example"]}, "a@y.example is one of recip"),
        ({"domains": ["y.example"], "discard": ["*@y.example"]}, "*@y.example is one of domains"),
        ({"discard": ["*"], "reject": ["*@*"]}, "*@* is one of discard"),
    ],
)
def test_a_rule_in_two_lists_is_an_error(lists: dict[str, list[str]], message: str) -> None:
    with pytest.raises(ConfigError) as refused:
        rules(**lists)
    assert message in str(refused.value)


def test_too_many_patterns_are_refused_but_any_number_of_recipients_is_taken() -> None:
    assert rules(reject=[f"a{number}@y.example" for number in range(5000)])
    with pytest.raises(ConfigError, match="1000 patterns"):
        rules(reject=[f"a{number}-*@y.example" for number in range(1001)])


# --- discarded mail ---

DISCARDING = ("--discard=noreply@y.example", "--reject=bad@y.example")
MESSAGE = b"Subject: hello\r\n\r\nhello\r\n"


def test_a_message_for_discarded_recipients_alone_is_accepted_logged_and_not_stored(
    maildir: Path,
) -> None:
    with Gateway(maildir, *DISCARDING) as gateway:
        gateway.send(MESSAGE, "noreply@y.example", "NOREPLY@y.example")
        line = gateway.out.wait("discarded ")[0]
        whole = next(each for each in gateway.out.all if line in each)
        assert "to=<noreply@y.example> recipients=2" in whole
        assert "size=25 reason=a\\x20rule" in whole
        assert gateway.stop() == 0
    assert messages(maildir) == []


def test_a_discarded_recipient_is_not_named_in_the_message_of_the_others(maildir: Path) -> None:
    with Gateway(maildir, *DISCARDING) as gateway:
        gateway.send(MESSAGE, "noreply@y.example", "anne@y.example")
        gateway.out.wait("delivered .*<anne@y.example>.* discarded=noreply@y.example ")
        assert gateway.stop() == 0
    assert any("discarded " in line and "recipients=1" in line for line in gateway.out.all)
    (message,) = messages(maildir)
    assert b"noreply" not in message
    assert b"for <anne@y.example>" in message


def test_a_message_without_an_end_is_not_said_to_be_discarded(maildir: Path) -> None:
    with Gateway(maildir, *DISCARDING) as gateway:
        client = gateway.client()
        client.mail("a@x.example")
        client.rcpt("noreply@y.example")
        client.docmd("DATA")
        client.sock.sendall(b"Subject: x\r\n")
        client.close()
        gateway.out.wait("aborted .* to=<noreply@y.example>")
        assert gateway.stop() == 0
    assert not [line for line in gateway.out.all if " discarded id=" in line]


def test_a_discarded_message_that_is_too_large_is_refused(maildir: Path) -> None:
    with Gateway(maildir, *DISCARDING, "--size=1k") as gateway:
        with gateway.client() as client:
            client.mail("a@x.example")
            client.rcpt("noreply@y.example")
            assert client.data((b"y" * 70 + b"\r\n") * 30)[0] == 552
        assert gateway.stop() == 0
    assert not [line for line in gateway.out.all if " discarded id=" in line]


def test_a_rejected_recipient_gets_550_and_the_others_their_mail(maildir: Path) -> None:
    with Gateway(maildir, *DISCARDING) as gateway, gateway.client() as client:
        refused = client.sendmail("a@x.example", ["bad@y.example", "anne@y.example"], MESSAGE)
        assert refused == {"bad@y.example": (550, b"5.7.1 Mail for this recipient is not accepted")}
    assert len(messages(maildir)) == 1


def test_in_lmtp_discarded_recipients_get_a_reply_of_their_own(maildir: Path) -> None:
    with Gateway(maildir, *DISCARDING, listen=("lmtp:127.0.0.1:0",)) as gateway:
        with smtplib.LMTP("127.0.0.1", gateway.ports[0], timeout=PATIENCE) as client:
            client.ehlo("c.example")
            client.mail("a@x.example")
            for recipient in ("noreply@y.example", "anne@y.example", "noreply@y.example"):
                client.rcpt(recipient)
            client.docmd("DATA")
            client.send(MESSAGE + b".\r\n")
            replies = [client.getreply() for _ in range(3)]
        assert [b"accepted" in text for _, text in replies] == [True, False, True]
        assert [code for code, _ in replies] == [250, 250, 250]
    (message,) = messages(maildir)
    assert b"noreply" not in message
