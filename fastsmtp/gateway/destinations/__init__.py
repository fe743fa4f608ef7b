"""Where the gateway's mail goes: the sinks that `deliver` can name, and what stands before them."""

from fastsmtp.gateway.destinations.destination import Destination
from fastsmtp.gateway.destinations.errors import DestinationError
from fastsmtp.gateway.destinations.trial import promise_of

__all__ = ["Destination", "DestinationError", "promise_of"]
