"""Several servers of one process, each in a thread of its own: none sees another's mail.

What the engine shares between servers of a process are caches and counters. A switch of threads at
every chance would show where they are not safe; without a GIL it is the same test.
"""

from __future__ import annotations

import contextlib
import smtplib
import sys
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from scenario import DEFAULTS

from fastsmtp import SMTPServer

SERVERS = 4
CLIENTS = 3  # of each server
MESSAGES = 100  # of each client


@pytest.fixture(autouse=True)
def _threads_switch_at_every_chance() -> Iterator[None]:
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


class Mailbox:
    """A server's hooks, and what it has received."""

    def __init__(self, number: int) -> None:
        self.domain = f"server{number}.example"
        self.received: list[tuple[str, list[str], bytes]] = []

    async def on_rcpt_to(self, address: Any, session: Any) -> None:
        assert address.domain == self.domain

    async def on_data(self, stream: Any, session: Any) -> str:
        body = await stream.read()
        envelope = session.envelope
        recipients = [each.address for each in envelope.rcpt_to]
        self.received.append((envelope.mail_from.address, recipients, body))
        return f"by {self.domain}"


def send(address: tuple[str, int], domain: str, number: int, failures: list[BaseException]) -> None:
    try:
        with smtplib.SMTP(*address) as client:
            for message in range(MESSAGES):
                name = f"c{number}m{message}"
                client.ehlo_or_helo_if_needed()
                assert client.mail(f"{name}@x.example")[0] == 250
                assert client.rcpt(f"{name}@{domain}")[0] == 250
                code, text = client.data(message_of(name))
                assert (code, text) == (250, f"2.6.0 by {domain}".encode())
    except BaseException as error:
        failures.append(error)


def message_of(name: str) -> bytes:
    return f"Subject: {name}\r\n\r\n{'x' * 900}\r\n".encode()


def test_servers_in_threads_of_their_own_get_their_own_mail_and_count_it() -> None:
    boxes = [Mailbox(number) for number in range(SERVERS)]
    servers = [
        SMTPServer(**DEFAULTS, on_rcpt_to=box.on_rcpt_to, on_data=box.on_data) for box in boxes
    ]
    failures: list[BaseException] = []
    with contextlib.ExitStack() as stack:
        addresses = [stack.enter_context(server.threaded()) for server in servers]
        clients = [
            threading.Thread(target=send, args=(address, box.domain, number, failures))
            for address, box in zip(addresses, boxes, strict=True)
            for number in range(CLIENTS)
        ]
        for client in clients:
            client.start()
        for client in clients:
            client.join()
    assert failures == []
    names = {f"c{number}m{message}" for number in range(CLIENTS) for message in range(MESSAGES)}
    for box, server in zip(boxes, servers, strict=True):
        assert {sender for sender, _, _ in box.received} == {f"{name}@x.example" for name in names}
        assert len(box.received) == len(names)
        for sender, recipients, body in box.received:
            name = sender.partition("@")[0]
            assert recipients == [f"{name}@{box.domain}"]
            assert body == message_of(name)
        assert server.stats()["messages"]["accepted"] == len(names)
