"""A sink that passes mail on to the next mail server, by SMTP or LMTP."""

from fastsmtp.delivery.relay.next_hop import Patience
from fastsmtp.delivery.relay.sink import Relay

__all__ = ["Patience", "Relay"]
