"""Delivery of accepted messages: sinks, the promise of their 250, and a hook for them."""

from fastsmtp.delivery.arrival import TOO_LATE
from fastsmtp.delivery.batcher import Batcher
from fastsmtp.delivery.errors import (
    DeliveryError,
    Full,
    Refused,
    TooLarge,
    Unavailable,
    Unclear,
    delivery_error,
)
from fastsmtp.delivery.hook import Delivery, deliver
from fastsmtp.delivery.log import Entry
from fastsmtp.delivery.promise import Promise
from fastsmtp.delivery.record import (
    Client,
    Recipient,
    Record,
    StoredBody,
    encode_envelope,
    encode_record,
    parse_record,
)
from fastsmtp.delivery.sink import BodyWriter, Fate, Receipt, Sink

__all__ = [
    "TOO_LATE",
    "Batcher",
    "BodyWriter",
    "Client",
    "Delivery",
    "DeliveryError",
    "Entry",
    "Fate",
    "Full",
    "Promise",
    "Receipt",
    "Recipient",
    "Record",
    "Refused",
    "Sink",
    "StoredBody",
    "TooLarge",
    "Unavailable",
    "Unclear",
    "deliver",
    "delivery_error",
    "encode_envelope",
    "encode_record",
    "parse_record",
]
