"""What clients get for each way in which a delivery fails, and what the log gets."""

from __future__ import annotations

import errno

import pytest

from fastsmtp import SMTPError
from fastsmtp.delivery import (
    DeliveryError,
    Full,
    Refused,
    TooLarge,
    Unavailable,
    Unclear,
    delivery_error,
)


@pytest.mark.parametrize(
    "kind, code, enhanced_code",
    [
        (Unavailable, 451, "4.3.0"),
        (Unclear, 451, "4.3.0"),
        (Full, 452, "4.3.1"),
        (TooLarge, 552, "5.3.4"),
    ],
)
def test_each_failure_has_its_reply_and_keeps_its_reason_out_of_it(
    kind: type[DeliveryError], code: int, enhanced_code: str
) -> None:
    error = kind("/var/mail is on fire")
    assert (error.reply.response_code, error.reply.enhanced_code) == (code, enhanced_code)
    assert "fire" not in error.reply.message
    assert str(error) == "/var/mail is on fire"


def test_the_reply_of_another_server_is_passed_on() -> None:
    reply = SMTPError("no such user", 550, "5.1.1")
    assert Refused(reply).reply is reply
    assert str(Refused(reply)) == "no such user"
    assert str(Refused(reply, "next hop: 550")) == "next hop: 550"


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG])
def test_no_room_for_a_file_is_full(number: int) -> None:
    assert isinstance(delivery_error(OSError(number, "x")), Full)


def test_another_error_of_the_system_is_unavailable_and_is_named() -> None:
    error = delivery_error(OSError(errno.EIO, "x"))
    assert isinstance(error, Unavailable)
    assert str(error) == "EIO:Input/output error"


def test_an_unexpected_exception_is_an_unclear_delivery() -> None:
    error = delivery_error(KeyError("x"))
    assert isinstance(error, Unclear)
    assert str(error) == "KeyError: 'x'"


def test_an_error_that_is_a_delivery_error_is_returned_unchanged() -> None:
    error = Full("x")
    assert delivery_error(error) is error
