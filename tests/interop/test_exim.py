"""Exim over GnuTLS as the client, inside STARTTLS: many recipients in one transaction of SMTP and
LMTP, and the fate of each.

Exim reads 4 KiB at a time and polls its socket in between. What its TLS library holds of a longer
record is not seen there, so a burst of replies must not lie in one.
"""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from clients import Sink
from conftest import Run
from exim_kit import exim, why_no_exim
from recipients_kit import LONG, answer_by_name, mixed, named
from tls_kit import certified

from fastsmtp import SMTPError
from fastsmtp.testing import running

REASON = why_no_exim()
pytestmark = [pytest.mark.interop, pytest.mark.skipif(bool(REASON), reason=REASON)]
PROTOCOLS = pytest.mark.parametrize("protocol", ["SMTP", "LMTP"])
VERBS = pytest.mark.parametrize(
    "verb", ["DATA", "BDAT"]
)  # with BDAT Exim does not wait before QUIT


def sent_by_exim(
    run: Run, protocol: str, verb: str, recipients: list[str], **options: Any
) -> tuple[dict[str, str], list[list[str]]]:
    """The fate of each recipient at the first attempt, and the recipients of each message."""
    sink = Sink()

    async def main() -> dict[str, str]:
        server = sink.server(
            **certified(lmtp=protocol == "LMTP", on_rcpt_to=answer_by_name, **options)
        )
        async with running(server) as address:
            with exim(address, protocol, verb) as client:
                return await asyncio.to_thread(client.send, recipients)

    fates = run(main())
    assert {told.kind for told in sink.arrived} <= {"LMTPS" if protocol == "LMTP" else "ESMTPS"}
    return fates, [told.recipients for told in sink.arrived]


@PROTOCOLS
@VERBS
def test_exim_delivers_to_250_recipients_in_one_transaction(
    run: Run, protocol: str, verb: str
) -> None:
    recipients = named("good", 250)
    fates, arrived = sent_by_exim(run, protocol, verb, recipients)
    assert fates == dict.fromkeys(recipients, "delivered")
    assert [sorted(each) for each in arrived] == [sorted(recipients)]


@PROTOCOLS
@VERBS
def test_exim_understands_100_refused_recipients_with_long_replies(
    run: Run, protocol: str, verb: str
) -> None:
    good, failed = named("good", 150), named("failed", 100)
    fates, arrived = sent_by_exim(run, protocol, verb, [*failed, *good], max_errors=None)
    assert fates == dict.fromkeys(good, "delivered") | dict.fromkeys(failed, "failed")
    assert [sorted(each) for each in arrived] == [sorted(good)]


@VERBS
def test_exim_understands_long_replies_for_each_of_250_recipients(run: Run, verb: str) -> None:
    good, failed = named("good", 200), named("kept", 50)

    async def on_data(stream: Any, session: Any) -> list[object]:
        async for _ in stream:
            pass
        return [
            SMTPError(f"full {LONG}", 552) if one.local_part.startswith("kept") else f"as {LONG}"
            for one in session.envelope.rcpt_to
        ]

    fates, _ = sent_by_exim(run, "LMTP", verb, [*good, *failed], on_data=on_data)
    assert fates == dict.fromkeys(good, "delivered") | dict.fromkeys(failed, "failed")


@PROTOCOLS
@VERBS
def test_exim_delivers_to_accepted_recipients_beside_as_many_deferred_ones(
    run: Run, protocol: str, verb: str
) -> None:
    good, deferred = named("good", 25), named("deferred", 25)
    fates, arrived = sent_by_exim(run, protocol, verb, [*deferred, *good])
    assert fates == dict.fromkeys(good, "delivered") | dict.fromkeys(deferred, "deferred")
    assert [sorted(each) for each in arrived] == [sorted(good)]


@PROTOCOLS
def test_exim_knows_the_fate_of_500_recipients_of_which_200_are_refused(
    run: Run, protocol: str
) -> None:
    good, deferred, failed = named("good", 300), named("deferred", 100), named("failed", 100)
    fates, arrived = sent_by_exim(run, protocol, "DATA", mixed(good, deferred, failed))
    told = {"delivered": good, "deferred": deferred, "failed": failed}
    assert fates == {name: fate for fate, names in told.items() for name in names}
    assert [sorted(each) for each in arrived] == [sorted(good)]
