"""Which promise is enough for which demand."""

from __future__ import annotations

import pytest

from fastsmtp.delivery import Promise

P = Promise


@pytest.mark.parametrize("promise", Promise)
def test_each_promise_covers_itself_and_memory_unless_it_is_less(promise: Promise) -> None:
    assert promise.covers(promise)
    assert promise.covers(P.MEMORY)


@pytest.mark.parametrize(
    "promise, required, enough",
    [
        (P.MEMORY, P.DISK, False),
        (P.QUORUM, P.DISK, False),
        (P.DISK, P.QUORUM, False),
        (P.DISK, P.QUORUM_DISK, False),
        (P.QUORUM_DISK, P.DISK, True),
        (P.QUORUM_DISK, P.QUORUM, True),
        (P.NEXT_HOP, P.DISK, True),
        (P.NEXT_HOP, P.QUORUM_DISK, False),
        (P.REMOTE, P.DISK, False),
        (P.DISK, P.REMOTE, False),
    ],
)
def test_a_promise_covers_what_it_includes_and_nothing_else(
    promise: Promise, required: Promise, enough: bool
) -> None:
    assert promise.covers(required) is enough


def test_the_value_is_the_word_for_users() -> None:
    assert Promise("disk") is Promise.DISK


@pytest.mark.parametrize(
    "one, other, both",
    [
        (P.QUORUM_DISK, P.DISK, P.DISK),
        (P.DISK, P.DISK, P.DISK),
        (P.MEMORY, P.QUORUM_DISK, P.MEMORY),
        (P.QUORUM, P.DISK, P.MEMORY),
        (P.REMOTE, P.DISK, P.MEMORY),
    ],
)
def test_a_message_in_two_places_has_what_both_promise(
    one: Promise, other: Promise, both: Promise
) -> None:
    assert one.weaker(other) is both
    assert other.weaker(one) is both
