"""Mail into a Maildir: a 250 means that the message is on disk, synced.

    python examples/delivery.py [folder] [port]

`deliver(sink)` is the whole hook: trace headers, large messages through files, and the sink is
started before the server listens and closed at its end. `on_mail_from` refuses mail early while it
could not be kept.
"""

import sys

from fastsmtp import SMTPServer
from fastsmtp.delivery import deliver
from fastsmtp.delivery.maildir import Maildir


def main(folder: str, port: int) -> None:
    """Serve until SIGTERM or Ctrl-C."""
    delivery = deliver(Maildir(folder))
    server = SMTPServer(auth_optional=True, on_mail_from=delivery.on_mail_from, on_data=delivery)
    server.on("listening", lambda address: print(f"listening on {address[1]}", flush=True))
    server.run(port, "127.0.0.1")
    print(f"{delivery.traffic.delivered} messages delivered", flush=True)


if __name__ == "__main__":
    given = sys.argv[1:]
    main(given[0] if given else "./mail", int(given[1]) if len(given) > 1 else 2525)
