"""kill -9 at any moment: acknowledged mail is there and whole, leftovers go. Faults OPS-05, §9.5.

What the page cache keeps is safe from kill -9, though not from a power cut: for that the order of
calls is tested in gateway/test_disk_faults.py.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import random
import re
import smtplib
import sys
import threading
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path

import pytest
from disk_faults import Faults
from serving import PATIENCE, Gateway, body_of, leftovers, messages

pytest_plugins = ["gateway_fixtures"]

CALLS = ("open", "write", "fsync", "link", "fsync_directory", "unlink", "reply")
# None lost in N cycles means at most 3/N at 95 %: the thousand of a night is 0.3 %.
NIGHTLY_CYCLES = int(os.environ.get("FASTSMTP_KILL_CYCLES", "1000"))

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="/proc and LD_PRELOAD")


class Ledger:
    """What clients sent, and what was acknowledged to them."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._numbers = itertools.count()
        self.acknowledged: set[str] = set()
        self.on_acknowledged: Callable[[int], None] = lambda _count: None

    def message(self, chance: random.Random) -> tuple[str, bytes]:
        """Make a message that says what it is: an id, a payload, and the hash of that."""
        with self._lock:
            name = f"id{next(self._numbers)}"
            length = chance.choice([0, 1, 1000, 70_000, 200_000])
            seed = chance.randbytes(38).hex().encode()
        payload = (seed + b"\r\n") * (length // 78 + 1)
        return name, b"X-Id: %s\r\nX-Hash: %s\r\n\r\n%s" % (
            name.encode(),
            sha256(payload).hexdigest().encode(),
            payload,
        )

    def acknowledge(self, name: str) -> None:
        with self._lock:
            self.acknowledged.add(name)
            count = len(self.acknowledged)
        self.on_acknowledged(count)

    def send_until_it_dies(self, gateway: Gateway, chance: random.Random) -> None:
        """Be a client that sends as fast as it can."""
        died = (OSError, smtplib.SMTPException)
        with contextlib.suppress(*died), contextlib.closing(gateway.client()) as client:
            while True:
                name, message = self.message(chance)
                client.sendmail("a@x.example", ["b@y.example"], message)
                self.acknowledge(name)

    def found(self, maildir: Path) -> list[str]:
        """Return the ids of what is in the Maildir; fail when one is not whole."""
        names = []
        for message in messages(maildir):
            body = body_of(message)
            head = re.match(rb"X-Id: (\w+)\r\nX-Hash: (\w+)\r\n\r\n", body)
            assert head is not None, "a message is cut in its header"
            assert sha256(body[head.end() :]).hexdigest().encode() == head[2], "not whole"
            names.append(head[1].decode())
        return names

    def check(self, maildir: Path) -> tuple[int, int]:
        """Compare; return how many were acknowledged, and found without that."""
        found = self.found(maildir)
        assert len(found) == len(set(found)), "one sent once is there twice"
        assert self.acknowledged <= set(found), self.acknowledged - set(found)
        return len(self.acknowledged), len(found) - len(self.acknowledged)


def run_and_check_again(maildir: Path, ledger: Ledger) -> None:
    """A new run keeps what the dead one had in the Maildir, and removes its leftovers."""
    before = ledger.check(maildir)
    with Gateway(maildir) as gateway:
        assert leftovers(maildir) == []
        gateway.send(b"X-Id: last\r\nX-Hash: %s\r\n\r\n" % sha256(b"").hexdigest().encode())
        assert gateway.stop() == 0
    assert ledger.check(maildir) == (before[0], before[1] + 1)


@pytest.mark.parametrize("moment", ["before", "after"])
@pytest.mark.parametrize("call", CALLS)
def test_ops_05_a_process_killed_at_any_call_has_lost_nothing_acknowledged(
    faults: Faults, call: str, moment: str
) -> None:
    ledger = Ledger()
    with faults.start() as gateway:
        faults.order(call, f"kill-{moment}", 4)
        ledger.send_until_it_dies(gateway, random.Random(4))
        assert gateway.wait() == -9
    assert faults.fired
    acknowledged, unacknowledged = ledger.check(faults.maildir)
    assert acknowledged >= 1
    assert unacknowledged <= 1
    run_and_check_again(faults.maildir, ledger)


def kill_once(gateway: Gateway, ledger: Ledger, chance: random.Random, clients: int) -> None:
    """Load the gateway with clients, and kill it when a random number was acknowledged."""
    limit = len(ledger.acknowledged) + chance.randint(1, 40 * clients)
    reached = threading.Event()
    ledger.on_acknowledged = lambda count: reached.set() if count >= limit else None
    threads = [
        threading.Thread(
            target=ledger.send_until_it_dies, args=(gateway, random.Random(chance.random()))
        )
        for _ in range(clients)
    ]
    for thread in threads:
        thread.start()
    assert reached.wait(PATIENCE)
    gateway.kill()
    for thread in threads:
        thread.join(PATIENCE)


# Each is killed at another moment.
CYCLES = [*range(3), *(pytest.param(each, marks=pytest.mark.nightly) for each in range(3, 15))]


@pytest.mark.parametrize("cycle", CYCLES)
def test_ops_05_a_process_killed_under_load_has_lost_nothing_acknowledged(
    tmp_path: Path, cycle: int
) -> None:
    maildir = tmp_path / "mail"
    ledger = Ledger()
    chance = random.Random(cycle)
    with Gateway(maildir) as gateway:
        kill_once(gateway, ledger, chance, clients=4)
    run_and_check_again(maildir, ledger)


@pytest.mark.nightly
def test_ops_05_a_process_killed_a_thousand_times_has_lost_nothing_acknowledged(
    tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    maildir = tmp_path / "mail"
    chance = random.Random()
    acknowledged = duplicates = 0
    for _ in range(NIGHTLY_CYCLES):
        ledger = Ledger()
        with Gateway(maildir) as gateway:
            assert leftovers(maildir) == []
            kill_once(gateway, ledger, chance, clients=8)
        counts = ledger.check(maildir)
        acknowledged += counts[0]
        duplicates += counts[1]
        for path in (maildir / "new").iterdir():
            path.unlink()
    for name, value in (("acknowledged", acknowledged), ("duplicates", duplicates)):
        record_property(name, value)
    print(f"{NIGHTLY_CYCLES} cycles: {acknowledged} acknowledged, 0 lost, 0 broken,")
    print(f"{duplicates} delivered without a reply")
