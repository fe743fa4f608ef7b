"""One and the same session in clear and through TLS, in any records and segments: the hooks see the
same, and the client is answered the same.
"""

from __future__ import annotations

import random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scenario import COUNTERS_OFF, EH, codes
from tls_kit import MemoryClient, certified, client_context, cuts

from fastsmtp import SMTPError
from fastsmtp.testing import Wire

row = pytest.mark.row
CONTEXT = client_context()

GROUPS = [
    b"NOOP\r\n",
    b"RSET\r\nVRFY x\r\n",
    b"WHAT\r\n",
    b"MAIL FROM:<a@x.example>\r\nRCPT TO:<b@y.example>\r\nRCPT TO:<no@y.example>\r\n",
    b"MAIL FROM:<a@x.example>\r\nRCPT TO:<b@y.example>\r\nBDAT 5\r\nabcdeBDAT 4 LAST\r\n\r\n.\r",
    b"BDAT 3 LAST\r\nxyz",
    b"NOOP \x00\r\n",
    EH,
]
MESSAGE = (
    b"MAIL FROM:<c@x.example>\r\nRCPT TO:<d@y.example>\r\nDATA\r\n",
    b"Subject: x\r\n\r\n..dot\r\n" + b"line\r\n" * 4000 + b".\r\n",
)


class Trace:
    """Hooks that write down what they see."""

    def __init__(self) -> None:
        self.seen: list[Any] = []

    def options(self) -> dict[str, Any]:
        return {"on_mail_from": self.address, "on_rcpt_to": self.address, "on_data": self.data}

    def address(self, address: Any, session: Any, callback: Any) -> None:
        self.seen.append(address.address)
        callback(SMTPError("no") if address.local_part == "no" else None)

    def data(self, stream: Any, session: Any, callback: Any) -> None:
        body: list[bytes] = []

        def on_end(error: Any) -> None:
            self.seen.append((b"".join(body), getattr(error, "reason", None)))
            callback(error)

        stream.consume(body.append, on_end)


def outcome(
    groups: list[bytes], dice: random.Random | None, secure: bool
) -> tuple[list[str], list[Any]]:
    """What the client is answered, and what the hooks see; dice: None for plaintext."""
    trace = Trace()
    given = certified(secure=secure and dice is not None, **COUNTERS_OFF, **trace.options())
    with Wire(**given) as wire:
        if dice is None:
            wire.receive()
            return codes(b"".join(wire.send(group) for group in groups)), trace.seen
        client = MemoryClient(wire, context=CONTEXT)
        if not secure:
            assert client.starttls() == "220 2.0.0"
        tls = client.handshake()
        client.hear()
        said = b""
        for group in groups:
            records = b"".join(
                tls.encrypt(piece) for piece in cuts(group, dice, [1, 9, 300, 20_000])
            )
            for segment in cuts(records, dice, [1, 50, 1400, 30_000, 100_000]):
                said += tls.decrypt(wire.send(segment))
        return codes(said), trace.seen


@row("NET-07", "TLS-15", "TLS-26")
@settings(max_examples=30)
@given(
    picks=st.lists(st.integers(0, len(GROUPS)), max_size=6),
    seed=st.integers(0, 2**32),
    secure=st.booleans(),
)
def test_a_session_is_the_same_in_clear_and_through_tls(
    picks: list[int], seed: int, secure: bool
) -> None:
    groups = [EH]
    for pick in picks:
        groups += [GROUPS[pick]] if pick < len(GROUPS) else MESSAGE
    assert outcome(groups, random.Random(seed), secure) == outcome(groups, None, secure)
