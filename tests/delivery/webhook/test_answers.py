"""What an answer of an endpoint means, without a network."""

from __future__ import annotations

import json
import time
from datetime import UTC, datetime
from email.utils import format_datetime, formatdate
from typing import Any

import pytest

from fastsmtp.delivery import DeliveryError, Refused, TooLarge, Unavailable, Unclear
from fastsmtp.delivery.webhook.answers import ANSWER, MOST_WAIT, outcome_of, seconds_to_wait
from fastsmtp.delivery.webhook.signing import Signer


@pytest.mark.parametrize("status", [200, 201, 204, 299])
def test_each_2xx_accepts_whatever_its_body_says(status: int) -> None:
    assert outcome_of(status, b'{"code": 550}', "", ("b@y.example",)) == str(status)


@pytest.mark.parametrize(
    "status, body, reply",
    [
        (
            400,
            {"code": 550, "enhanced_code": "5.1.1", "text": "No such user"},
            (550, "5.1.1", "No such user"),
        ),
        (404, {"code": 452, "text": "over\r\nquota\x00 ünï"}, (452, None, "over quota ?n?")),
        (422, {"code": 421, "text": "busy"}, (451, None, "busy")),
        (422, {"code": 550, "enhanced_code": "5.1.1\r\n250 ok"}, (550, None, "")),
        (422, {"code": 550, "enhanced_code": "2.0.0", "text": ["x"]}, (550, None, "")),
        (422, {"code": 599, "text": "x" * 10_000}, (599, None, "x" * 300)),
        (406, None, (550, "5.7.1", "Message was refused by its destination")),
        (431, None, (554, "5.5.3", "Too many recipients")),
    ],
)
def test_a_4xx_may_carry_the_reply(
    status: int, body: Any, reply: tuple[int, str | None, str]
) -> None:
    outcome = outcome_of(status, json.dumps(body).encode(), "", ("b@y.example",))
    assert isinstance(outcome, Refused)
    found = outcome.reply
    assert (found.response_code, found.enhanced_code, found.message) == reply


@pytest.mark.parametrize(
    "status, body, kind",
    [
        (500, b'{"code": 550}', Unclear),
        (503, b"", Unclear),
        (101, b"", Unclear),
        (400, b"bad signature", Unclear),
        (400, b'{"code": 250}', Unclear),
        (400, b'{"code": true}', Unclear),
        (400, b'{"code": "550"}', Unclear),
        (400, b"[550]", Unclear),
        (400, b"[" * 16_000, Unclear),
        (400, b'{"code": ' + b"9" * 16_000 + b"}", Unclear),
        (401, b"", Unavailable),
        (404, b"\xff\x00\x1b[2J\r\n", Unavailable),
        (408, b"", Unavailable),
        (429, b"", Unavailable),
        (302, b"", Unavailable),
        (413, b"", TooLarge),
    ],
)
def test_all_other_answers_refuse_for_now_or_for_the_size(
    status: int, body: bytes, kind: type[DeliveryError]
) -> None:
    outcome = outcome_of(status, body, "/\x7f" + "x" * 10_000, ())
    assert type(outcome) is kind
    assert str(outcome).isprintable()
    assert len(str(outcome)) < 500


BOTH = ("b@y.example", "ünï@y.example")


def test_an_answer_of_2xx_may_refuse_some_recipients_with_the_reply_of_each() -> None:
    body = {
        "recipients": {
            "ünï@y.example": {"code": 452, "enhanced_code": "4.2.2", "text": "Mailbox\r\nis full"},
            "another@y.example": {"code": 550},
        }
    }
    first, second = outcome_of(200, json.dumps(body).encode(), "", BOTH)  # type: ignore[misc]
    assert first == "200"
    assert isinstance(second, Refused)
    assert (second.reply.response_code, second.reply.message) == (452, "Mailbox is full")
    assert str(second).isprintable()


@pytest.mark.parametrize(
    "found",
    [
        {"recipients": ["b@y.example"]},
        {"recipients": {"b@y.example": 550}},
        {"recipients": {"b@y.example": {"code": 250}}},
        {"recipients": {"b@y.example": {"code": "550"}}},
        {"recipients": {"B@y.example": {"code": 550}}},
        {"recipients": None},
        [{"recipients": {}}],
    ],
)
def test_an_answer_of_2xx_that_refuses_nobody_has_one_fate(found: Any) -> None:
    assert outcome_of(200, json.dumps(found).encode(), "", BOTH) == "200"


def test_fates_that_were_not_read_to_their_end_are_not_taken_for_a_250() -> None:
    answer = b'{"recipients": {"b@y.example": {"code": 550}, "x": "' + b"x" * ANSWER
    assert isinstance(outcome_of(200, answer[:ANSWER], "", BOTH), Unclear)
    assert outcome_of(200, b"x" * ANSWER, "", BOTH) == "200"


def test_retry_after_is_read_as_seconds_and_as_a_date_and_bounded() -> None:
    assert seconds_to_wait(" 7 ") == 7.0
    assert 0 < seconds_to_wait(formatdate(time.time() + 100, usegmt=True)) <= 100
    assert seconds_to_wait(formatdate(time.time() - 100, usegmt=True)) == 0.0
    assert seconds_to_wait(format_datetime(datetime(9999, 1, 1, tzinfo=UTC))) == MOST_WAIT
    assert seconds_to_wait("9" * 400) == MOST_WAIT
    for nonsense in ("", "-1", "soon", "1e9", "²", "Mon, 99 Foo 99999 99:99:99 GMT"):
        assert seconds_to_wait(nonsense) == 0.0


def test_a_signature_is_that_of_the_specification() -> None:
    # The example of the libraries of Standard Webhooks.
    signer = Signer("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", None)
    signature = signer.sign("msg_p5jXN8AQM9LWM0D4loKWxJek", 1614265330, b'{"test": 2432232314}')
    assert signature == "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="


def test_without_a_secret_there_is_no_signature() -> None:
    assert not Signer(None, None)
