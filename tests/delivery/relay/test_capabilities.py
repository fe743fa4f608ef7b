"""What the next hop offers decides what is carried over, and what is refused."""

from __future__ import annotations

from typing import Any

import pytest
from clients import until
from next_hop_kit import KEYWORDS, NextHop, Talk, gateway, mail, relay_to
from on_loops import on_loops
from scenario import DEFAULTS

from fastsmtp import SMTPServer
from fastsmtp.delivery import Recipient, Record, Refused
from fastsmtp.testing import running

PLAIN = mail()
BASIC = ("PIPELINING",)


@pytest.mark.parametrize(
    "line",
    [
        "MAIL FROM:<a@x.example> SIZE=20 BODY=8BITMIME SMTPUTF8 RET=HDRS ENVID=a+2Bb",
        "MAIL FROM:<> BODY=8BITMIME",
        'MAIL FROM:<"a b"@x.example>',
        "MAIL FROM:<müller@x.example> SMTPUTF8",
    ],
)
@on_loops
async def test_mail_goes_over_with_its_parameters(line: str) -> None:
    async with NextHop() as hop, gateway(hop) as front, await Talk.greeted(front) as client:
        assert (await client.ask(line)).startswith("250")
        assert hop.lines[-1] == line


@pytest.mark.parametrize(
    "line",
    [
        "RCPT TO:<b@y.example> NOTIFY=SUCCESS,DELAY ORCPT=rfc822;b+3Dc@z.example",
        "RCPT TO:<b@y.example> NOTIFY=NEVER",
        "RCPT TO:<Postmaster>",
        'RCPT TO:<"b>c"@y.example>',
    ],
)
@on_loops
async def test_rcpt_goes_over_with_its_parameters(line: str) -> None:
    async with NextHop() as hop, gateway(hop) as front, await Talk.greeted(front) as client:
        await client.ask("MAIL FROM:<a@x.example>")
        assert (await client.ask(line)).startswith("250")
        assert hop.lines[-1] == line


@pytest.mark.parametrize(
    ("keywords", "line", "heard"),
    [
        (BASIC, "MAIL FROM:<a@x.example> BODY=8BITMIME", "554 5.6.3"),
        (BASIC, "MAIL FROM:<a@x.example> SMTPUTF8", "550 5.6.7"),
        (("SIZE 100",), "MAIL FROM:<a@x.example> SIZE=101", "552 5.3.4"),
        (("SIZE 100",), "MAIL FROM:<a@x.example> SIZE=100", "250 2.1.0"),
        (("SIZE",), "MAIL FROM:<a@x.example> SIZE=101", "250 2.1.0"),
        (BASIC, "MAIL FROM:<a@x.example> SIZE=101 RET=FULL ENVID=x", "250 2.1.0"),
    ],
)
@on_loops
async def test_a_sender_that_cannot_be_carried_over_is_refused(
    keywords: tuple[str, ...], line: str, heard: str
) -> None:
    async with (
        NextHop(keywords=keywords) as hop,
        gateway(hop) as front,
        await Talk.greeted(front) as client,
    ):
        assert (await client.ask(line))[:9] == heard
        assert (await client.ask("MAIL FROM:<a@x.example>")).startswith(("250", "503"))
        assert hop.starts == 1


@on_loops
async def test_reports_that_nobody_would_send_are_refused_and_the_others_left_out() -> None:
    async with (
        NextHop(keywords=BASIC) as hop,
        gateway(hop) as front,
        await Talk.greeted(front) as client,
    ):
        await client.ask("MAIL FROM:<a@x.example> RET=HDRS ENVID=x")
        reply = await client.ask("RCPT TO:<b@y.example> NOTIFY=SUCCESS,FAILURE")
        assert reply == "555 5.5.4 The next hop does not report successful delivery"
        for notify in ("NEVER", "FAILURE,DELAY"):
            await client.ask(f"RCPT TO:<b@y.example> NOTIFY={notify} ORCPT=rfc822;c@y.example")
        assert hop.lines[-3:] == ["MAIL FROM:<a@x.example>", *["RCPT TO:<b@y.example>"] * 2]


@on_loops
async def test_parameters_that_change_what_becomes_of_a_message_are_never_dropped() -> None:
    line = "MAIL FROM:<a@x.example> MT-PRIORITY=3"
    shown = {"hide_mt_priority": False, "hide_rrvs": False}
    async with NextHop(keywords=("MT-PRIORITY",)) as hop, relay_to(hop) as relay:
        server = SMTPServer(**{**DEFAULTS, **shown, **relay.hooks()})
        async with running(server) as front, await Talk.greeted(front) as client:
            await client.begin(mail=line)
            reply = await client.ask("RCPT TO:<b@y.example> RRVS=2014-04-03T23:01:00Z")
            assert reply == "555 5.5.4 The next hop is not sent RRVS"
            hop.cut()  # the transaction is begun again, with the same MAIL
            await until(lambda: not hop.open)
            assert (await client.data(PLAIN)).startswith("250")
            assert hop.mails[0].sender == line
            hop.keywords = ()
            hop.cut()
            await until(lambda: not hop.open)
            assert await client.ask(line) == "555 5.5.4 The next hop does not offer MT-PRIORITY"


@on_loops
async def test_eight_bits_go_to_no_next_hop_without_8bitmime() -> None:
    async with (
        NextHop(keywords=BASIC) as hop,
        gateway(hop) as front,
        await Talk.greeted(front) as client,
    ):
        assert (await client.send("grüße\r\n".encode())).startswith("554 5.6.3")
        assert (await client.send(PLAIN)).startswith("250")
        assert len(hop.mails) == 1


@pytest.mark.parametrize("code", [b"500", b"502"])
@on_loops
async def test_a_next_hop_without_ehlo_is_greeted_with_helo(code: bytes) -> None:
    async with NextHop() as hop:
        hop.answers["EHLO"] = code + b" What?\r\n"
        async with gateway(hop) as front, await Talk.greeted(front) as client:
            assert (await client.send(PLAIN)).startswith("250")
            assert hop.lines[1] == hop.lines[0].replace("EHLO", "HELO")
            assert hop.lines[2:4] == ["MAIL FROM:<a@x.example>", "RCPT TO:<b@y.example>"]


@pytest.mark.parametrize("keywords", [KEYWORDS, ()])
@on_loops
async def test_a_whole_message_is_put_with_or_without_pipelining(keywords: Any) -> None:
    answers = {"no": b"550 5.1.1 No\r\n", "b": b"250 Ok\r\n", "c": b"250 Ok\r\n"}
    async with NextHop(keywords=keywords) as hop, relay_to(hop) as relay:
        hop.answers["RCPT"] = lambda line: answers[line[9 : line.index("@")]]
        relay.gives_fates = True
        fates = await relay.put(record("b", "no", "c"))
        assert [str(fate).partition(": 5")[2] or fate for fate in fates] == [
            "250 2.0.0 Ok: queued",
            "50 5.1.1 No",
            "250 2.0.0 Ok: queued",
        ]
        assert hop.mails[0].recipients == ("RCPT TO:<b@y.example>", "RCPT TO:<c@y.example>")
        fates = await relay.put(record("no", "no"))
        assert [type(fate) for fate in fates] == [Refused, Refused]
        assert len(hop.mails) == 1
        hop.answers["MAIL"] = b"550 5.7.1 Not you\r\n"
        with pytest.raises(Refused, match="Not you"):
            await relay.put(record("b", "no"))
        hop.answers.clear()
        assert await relay.put(record("b")) == "250 2.0.0 Ok: queued"
        assert hop.starts <= 2  # the second while the first is reset


@on_loops
async def test_one_reply_for_all_recipients_is_given_for_all_or_none() -> None:
    async with NextHop() as hop, relay_to(hop) as relay:
        answers = iter([b"250 Ok\r\n", b"550 5.1.1 No\r\n", b"450 4.2.1 Later\r\n"])
        hop.answers["RCPT"] = lambda line: next(answers)
        with pytest.raises(Refused, match=r"4\.2\.1 Later"):
            await relay.put(record("b", "c", "d"))
        assert not hop.mails


@pytest.mark.parametrize(
    ("wrong", "code"),
    [
        ({"mail_from": "a@x.example>\r\nRSET"}, 553),
        ({"mail_from": "a@x.example> SIZE=1"}, 553),
        ({"mail_from": '"a"b>"@x.example> SIZE=1'}, 553),
        ({"mail_from": "müller@x.example"}, 553),
        ({"mail_from": "\udc80@x.example"}, 553),
        ({"envid": "x\r\nRSET"}, 0),  # xtext carries it
        ({"ret": "FULL\r\nRSET"}, 501),
        ({"body_type": "binarymime"}, 554),
    ],
)
@on_loops
async def test_a_record_of_another_program_injects_no_command(
    wrong: dict[str, Any], code: int
) -> None:
    async with NextHop() as hop, relay_to(hop) as relay:
        given = record("b")
        for name, value in wrong.items():
            setattr(given, name, value)
        if code:
            with pytest.raises(Refused) as refused:
                await relay.put(given)
            assert refused.value.reply.response_code == code
        else:
            await relay.put(given)
            assert hop.lines[1].endswith(" ENVID=x+0D+0ARSET")
        assert "RSET" not in hop.lines


@on_loops
async def test_a_quoted_local_part_may_have_what_ends_a_path() -> None:
    async with NextHop() as hop, relay_to(hop) as relay:
        given = record("b")
        given.mail_from = r'"a > \" b"@x.example'
        await relay.put(given)
        assert hop.lines[1].startswith(r'MAIL FROM:<"a > \" b"@x.example> ')


@pytest.mark.parametrize("body", [b"a\nb\r\n", b"a\rb\r\n", b"a\r\n.\nb\r\n", b"a\r", b"a\n"])
@on_loops
async def test_a_bare_line_end_is_refused_and_nothing_of_it_is_sent(body: bytes) -> None:
    async with NextHop() as hop, relay_to(hop) as relay:
        with pytest.raises(Refused, match="bare CR or LF"):
            await relay.put(record("b", body=body))
        assert "DATA" not in hop.lines


@on_loops
async def test_a_last_line_without_an_end_gets_one() -> None:
    async with NextHop() as hop, relay_to(hop) as relay:
        await relay.put(record("b", body=b"Subject: x\r\n\r\nend"))
        await relay.put(record("b", body=b""))
        assert [each.content for each in hop.mails] == [b"Subject: x\r\n\r\nend\r\n", b""]


def record(*names: str, body: bytes = PLAIN) -> Record:
    recipients = tuple(Recipient(f"{name}@y.example") for name in names)
    return Record("s-1", "a@x.example", recipients, body)
