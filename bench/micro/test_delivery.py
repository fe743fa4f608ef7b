"""What a delivery costs beside the sink: the record, the trace headers, the line of the log.

    pytest bench/micro/test_delivery.py --benchmark-json=delivery.json

Headers and line together are meant to take at most 15 µs, whatever thread they are made in.
"""

from __future__ import annotations

import itertools
from typing import Any

import pytest

from fastsmtp import Address, Session

arrival = pytest.importorskip("fastsmtp.delivery.arrival")
log = pytest.importorskip("fastsmtp.delivery.log")
trace = pytest.importorskip("fastsmtp.delivery.trace")
delivery = pytest.importorskip("fastsmtp.delivery")

NAME = "mx.example.org"
NOW = 1_772_352_307.25
FILE = "1772352307.M119843P4711Rd0f6b2d6a1c0e95e.mx"


def session_of(number: int) -> Session:
    """A client in the middle of a message, every other one inside of TLS."""
    session = Session()
    session.opening_command = "EHLO"
    session.host_name_appears_as = session.client_hostname = f"client{number}.example.org"
    session.remote_address = f"192.0.2.{number}"
    if number % 2:
        session.secure = True
        session.tls_options = {"version": "TLSv1.3", "standard_name": "TLS_AES_256_GCM_SHA384"}
    session.envelope.mail_from = Address("<anne@sender.example>")
    session.envelope.rcpt_to = [Address("<bob@recipient.example>")]
    return session


SESSIONS = [session_of(number) for number in range(20)]


@pytest.fixture
def records() -> Any:
    """Records of twenty clients, over and over."""
    return itertools.cycle([arrival.record_of(each, NAME, NOW) for each in SESSIONS])


def test_record_of_a_session(benchmark: Any) -> None:
    sessions = itertools.cycle(SESSIONS)
    benchmark(lambda: arrival.record_of(next(sessions), NAME, NOW))


def test_trace_headers(benchmark: Any, records: Any) -> None:
    benchmark(lambda: trace.trace_headers(next(records), b"Subject"))


def test_log_entry_and_its_text(benchmark: Any, records: Any) -> None:
    benchmark(lambda: str(log.entry_of("delivered", next(records), 1024, "file", FILE)))


def test_trace_headers_and_log_entry_and_its_text(benchmark: Any, records: Any) -> None:
    def both() -> None:
        record = next(records)
        trace.trace_headers(record, b"Subject")
        str(log.entry_of("delivered", record, 1024, "file", FILE))

    benchmark(both)


@pytest.mark.parametrize("octets", [1024, 50 * 1024])
def test_encode_record(benchmark: Any, octets: int) -> None:
    record = arrival.record_of(SESSIONS[0], NAME, NOW)

    def encode() -> None:
        record.set_body(b"x" * octets)  # its hash is made anew
        delivery.encode_record(record)

    benchmark(encode)


@pytest.mark.parametrize("octets", [1024, 50 * 1024])
def test_parse_record(benchmark: Any, octets: int) -> None:
    record = arrival.record_of(SESSIONS[0], NAME, NOW)
    record.set_body(b"x" * octets)
    encoded = delivery.encode_record(record)
    benchmark(lambda: delivery.parse_record(encoded))
