"""The octets of a message: however it is cut into pieces, the same goes over the wire."""

from __future__ import annotations

import itertools

import pytest
from clients import stuffed
from hypothesis import given
from hypothesis import strategies as st

from fastsmtp.delivery import Refused
from fastsmtp.delivery.relay.content import Content

TOKENS = [b".", b"\r\n", b"\r\n.", b"a", b"\xe9", b"Received: x\r\n", b"\r\n\r\n"]
LINES = st.lists(st.sampled_from(TOKENS), max_size=20).map(b"".join)
CUTS = st.lists(st.integers(0, 60), max_size=8).map(sorted)


def sent(body: bytes, cuts: list[int], **options: int) -> bytes:
    """What goes over the wire, without the final dot."""
    content = Content(max_hops=options.get("max_hops", 100), takes_8bit=True)
    places = [0, *cuts, len(body)]
    pieces = [body[start:end] for start, end in itertools.pairwise(places)]
    octets = b"".join(map(content.encode, pieces)) + content.end()
    assert octets.endswith(b".\r\n")
    return octets[:-3]


@given(LINES, CUTS)
def test_dots_are_doubled_wherever_the_message_is_cut(body: bytes, cuts: list[int]) -> None:
    whole = body if body.endswith(b"\r\n") or not body else body + b"\r\n"
    assert sent(body, cuts) == stuffed(whole)


@given(st.lists(st.sampled_from([*TOKENS, b"\r", b"\n"]), max_size=20).map(b"".join), CUTS)
def test_a_bare_line_end_is_found_wherever_the_message_is_cut(body: bytes, cuts: list[int]) -> None:
    rest = body.replace(b"\r\n", b"")
    if b"\r" in rest or b"\n" in rest:
        with pytest.raises(Refused, match="bare CR or LF"):
            sent(body, cuts)
    else:
        sent(body, cuts)


@given(st.integers(0, 4), CUTS, st.booleans())
def test_hops_are_counted_in_the_header_alone(count: int, cuts: list[int], in_body: bool) -> None:
    head = b"rEceived: by a\r\n" * count + b"X-Received: no\r\n"
    body = head + b"\r\n" + b"Received: no\r\n" * (5 if in_body else 0)
    if count > 2:
        with pytest.raises(Refused) as refused:
            sent(body, cuts, max_hops=2)
        assert refused.value.reply.enhanced_code == "5.4.6"
    else:
        sent(body, cuts, max_hops=2)


def test_a_message_without_a_header_has_no_hops() -> None:
    sent(b"\r\nReceived: a\r\n", [], max_hops=0)
