"""Mail for other machines: what sinks share that hand messages over before the 250."""

from fastsmtp.delivery.handoff.availability import Availability
from fastsmtp.delivery.handoff.dispatcher import Dispatcher
from fastsmtp.delivery.handoff.sink import RemoteSink

__all__ = ["Availability", "Dispatcher", "RemoteSink"]
