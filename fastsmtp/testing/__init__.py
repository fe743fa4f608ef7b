"""For tests of gateways, and of programs that send mail: an in-memory wire with a clock of its own,
and servers on a free port.

`Wire` drives the whole engine, connection and flow control included, over a transport that is a
list of bytes; time passes only when the test advances it. `running` is a real server in the loop of
the test. `RecordingServer` is one in a thread of its own, which keeps what it receives.
"""

from fastsmtp.testing.received import ReceivedMessage
from fastsmtp.testing.recording import RecordingServer
from fastsmtp.testing.wire import MemoryTransport, VirtualLoop, Wire, running

__all__ = [
    "MemoryTransport",
    "ReceivedMessage",
    "RecordingServer",
    "VirtualLoop",
    "Wire",
    "running",
]
