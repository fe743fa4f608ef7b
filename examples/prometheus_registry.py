"""The counts of a mail server beside a program's own metrics, in one registry of prometheus_client.

    pip install 'fastsmtp-engine[metrics]'
    python examples/prometheus_registry.py [port] [port of the metrics]

`Collector` reads the counts when Prometheus asks: it costs the server nothing in between.
"""

import sys

from prometheus_client import REGISTRY, Counter, start_http_server

from fastsmtp import DataStream, Session, SMTPServer
from fastsmtp.metrics import Collector

INVOICES = Counter("invoices", "Messages with an invoice.")


async def on_data(stream: DataStream, session: Session) -> str:
    """Count in a metric of the program's own, as it has always done."""
    if b"invoice" in (await stream.read()).lower():
        INVOICES.inc()
    return "OK: read"


if __name__ == "__main__":
    numbers = [*map(int, sys.argv[1:]), 2525, 9100][: max(2, len(sys.argv) - 1)]
    server = SMTPServer(auth_optional=True, on_data=on_data)
    REGISTRY.register(Collector(server))
    pages, _ = start_http_server(numbers[1], "127.0.0.1")
    where = f"metrics on {pages.server_port}"
    server.on("listening", lambda address: print(f"listening on {address[1]}, {where}", flush=True))
    server.run(numbers[0], "127.0.0.1")
    pages.shutdown()
