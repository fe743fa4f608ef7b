"""OpenSMTPD as the client: many recipients in one transaction, some refused, some deferred, and the
fate of each at the first attempt. They stand mixed in its list, since it gives up by itself after
25 refusals in a row. It may begin to send before it has read the whole list; then there are two
transactions.

Over SMTP alone. Over LMTP it takes one reply per read after the message, and says of all others in
the same segment "Remote host sent too much data" to any server.
"""

from __future__ import annotations

import asyncio

import pytest
from clients import Sink
from conftest import Run
from opensmtpd_kit import sent, why_no_opensmtpd
from recipients_kit import answer_by_name, mixed, named
from tls_kit import certified

from fastsmtp.testing import running

REASON = why_no_opensmtpd()
pytestmark = [pytest.mark.interop, pytest.mark.skipif(bool(REASON), reason=REASON)]
SCHEMES = pytest.mark.parametrize(
    ("scheme", "kind"),
    [("smtp", "ESMTPS"), ("smtp+notls", "ESMTP")],
)


def sent_by_opensmtpd(
    run: Run, scheme: str, kind: str, recipients: list[str]
) -> tuple[dict[str, str], list[str]]:
    """The fate of each recipient at the first attempt, and those that got the message."""
    sink = Sink()

    async def main() -> dict[str, str]:
        server = sink.server(**certified(on_rcpt_to=answer_by_name))
        async with running(server) as address:
            return await asyncio.to_thread(sent, address, scheme, recipients)

    fates = run(main())
    assert {told.kind for told in sink.arrived} == {kind}
    return fates, sorted(name for told in sink.arrived for name in told.recipients)


@SCHEMES
def test_opensmtpd_delivers_to_accepted_recipients_beside_as_many_deferred_ones(
    run: Run, scheme: str, kind: str
) -> None:
    good, deferred = named("good", 25), named("deferred", 25)
    fates, arrived = sent_by_opensmtpd(run, scheme, kind, mixed(good, deferred))
    assert fates == dict.fromkeys(good, "delivered") | dict.fromkeys(deferred, "deferred")
    assert arrived == sorted(good)


@SCHEMES
def test_opensmtpd_knows_the_fate_of_500_recipients_of_which_200_are_refused(
    run: Run, scheme: str, kind: str
) -> None:
    good, deferred, failed = named("good", 300), named("deferred", 100), named("failed", 100)
    fates, arrived = sent_by_opensmtpd(run, scheme, kind, mixed(failed, deferred, good))
    told = {"delivered": good, "deferred": deferred, "failed": failed}
    assert fates == {name: fate for fate, names in told.items() for name in names}
    assert arrived == sorted(good)
