"""The load inside of TLS: `sender.py KIND PORT COUNT CONNECTIONS OCTETS [plain]`.

handshakes: connect, shake hands, read the greeting, say goodbye on both sides; nothing is resumed.
mail: messages of OCTETS on connections that are kept, with HELO, and a wait for each reply. Threads
with blocking sockets: most of their time is spent in OpenSSL and in the kernel. A reply that is not
what it should be ends it with an error. Who has started it sets its time.
"""

from __future__ import annotations

import socket
import ssl
import sys
from concurrent.futures import ThreadPoolExecutor

HOST = "127.0.0.1"
LINE = b"x" * 76 + b"\r\n"
CHUNK = 256 * 1024  # octets of one call


def client_context() -> ssl.SSLContext:
    """TLS 1.3, any certificate: that of the server was made a moment ago."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


def connect(port: int, context: ssl.SSLContext | None) -> socket.socket:
    """Return a connection that was greeted."""
    client = socket.create_connection((HOST, port))
    client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    if context is not None:
        client = context.wrap_socket(client)
    expect(client, b"220 ")
    return client


def expect(client: socket.socket, code: bytes) -> None:
    """Read one reply of one line."""
    reply = client.recv(512)
    while reply and not reply.endswith(b"\n"):
        reply += client.recv(512)
    if not reply.startswith(code):
        raise ValueError(f"{reply!r} in place of {code!r}")


def handshakes(port: int, count: int, context: ssl.SSLContext) -> None:
    for _ in range(count):
        client = connect(port, context)
        assert isinstance(client, ssl.SSLSocket)
        client.unwrap().close()


def mail(port: int, count: int, context: ssl.SSLContext | None, octets: int) -> None:
    chunks, rest = divmod(octets // len(LINE), CHUNK // len(LINE))
    chunk = LINE * (CHUNK // len(LINE))
    # The end of data goes with a line of its message, so that a read, or a record, holds both.
    last = LINE * rest + LINE + b".\r\n"
    client = connect(port, context)
    with client:
        client.sendall(b"HELO client.example\r\n")
        expect(client, b"250 ")
        for _ in range(count):
            for command, code in (
                (b"MAIL FROM:<a@x.example>\r\n", b"250 "),
                (b"RCPT TO:<b@y.example>\r\n", b"250 "),
                (b"DATA\r\n", b"354 "),
            ):
                client.sendall(command)
                expect(client, code)
            for _ in range(chunks):
                client.sendall(chunk)
            client.sendall(last)
            expect(client, b"250 ")
        client.sendall(b"QUIT\r\n")
        expect(client, b"221 ")


def main(kind: str, *numbers: int, plain: bool) -> None:
    port, count, connections, octets = numbers
    context = None if plain else client_context()
    shares = [
        count // connections + (number < count % connections) for number in range(connections)
    ]
    with ThreadPoolExecutor(connections) as pool:
        if kind == "handshakes":
            assert context is not None
            done = [pool.submit(handshakes, port, share, context) for share in shares]
        else:
            done = [pool.submit(mail, port, share, context, octets) for share in shares]
        for future in done:
            future.result()


if __name__ == "__main__":
    numbers = [int(number) for number in sys.argv[2:6]]
    main(sys.argv[1], *numbers, plain=sys.argv[6:] == ["plain"])
