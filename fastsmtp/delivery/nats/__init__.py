"""`NATS`: a stream of JetStream as the place for messages."""

from fastsmtp.delivery.nats.sink import NATS

__all__ = ["NATS"]
