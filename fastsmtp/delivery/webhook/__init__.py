"""Delivery of messages to an HTTP endpoint before the 250."""

from fastsmtp.delivery.webhook.sink import Webhook

__all__ = ["Webhook"]
