"""Certificates that change while clients come: no client fails, all after a change see it, and
thousands of changes leave nothing.
"""

from __future__ import annotations

import asyncio
import gc
import sys
from collections import Counter
from functools import cache
from itertools import cycle
from pathlib import Path
from typing import Any

import pytest
from clients import until
from conftest import Run, open_files, opened_since
from memory import private_octets
from scenario import DEFAULTS, EH
from tls_kit import WATCHED, MemoryClient, Pair, TLSClient, client_context, der, issue

from fastsmtp import SMTPServer
from fastsmtp.testing import Wire

row = pytest.mark.row
NAMES = ("srv.test", "b.test")  # the default's, and one of its own


@cache
def pairs(count: int) -> tuple[dict[str, Pair], ...]:
    """So many sets of a certificate for each name."""
    return tuple({name: issue(name) for name in NAMES} for _ in range(count))


def options_of(made: dict[str, Pair]) -> dict[str, Any]:
    """What `update_secure_context` takes to use a set."""
    default, named = (made[name]._asdict() for name in NAMES)
    return {**default, "sni_options": {"b.test": named}}


class Rotation:
    """A server with two listeners and a number of sets, which it goes through in order."""

    def __init__(self, count: int) -> None:
        self.sets = pairs(count)
        self.number = 0
        self.place = {
            der(made[name]): number for number, made in enumerate(self.sets) for name in NAMES
        }
        self.server = SMTPServer(**DEFAULTS, **options_of(self.sets[0]))
        self.context = client_context()
        self.served: Counter[int] = Counter()

    def turn(self) -> None:
        """Take the next set; in between a bad one, which changes nothing."""
        self.number += 1
        good = self.sets[self.number]
        with pytest.raises(ValueError, match="is not the key"):
            self.server.update_secure_context(
                cert=good["srv.test"].cert, key=self.sets[0]["b.test"].key
            )
        self.server.update_secure_context(**options_of(good))

    async def visit(self, secure: bool, name: str) -> None:
        """One client; the set it sees is no older than that of the moment it came, and whole."""
        before = self.number
        address = self.server.addresses()[secure]
        if secure:
            client = await TLSClient.implicit(address, self.context, name)
            assert await client.reply() == "220"
            assert await client.ask(EH) == "250"
        else:
            client = await TLSClient.upgraded(address, self.context, name)
        async with client:
            shown = client.writer.get_extra_info("ssl_object").getpeercert(True)
            assert before <= self.place[shown] <= self.number
            self.served[self.place[shown]] += 1
            assert await client.ask(b"QUIT\r\n") == "221 2.0.0"

    async def start(self) -> None:
        await self.server.listen(0, "127.0.0.1")
        await self.server.listen(0, "127.0.0.1", secure=True)

    async def end(self) -> None:
        await until(lambda: not self.server.connections)
        await self.server.close()


@row("OPS-01")
def test_clients_after_a_change_see_the_new_certificate_and_none_fails(run: Run) -> None:
    last = 11
    rotation = Rotation(last + 1)
    kinds = cycle([(secure, name) for secure in (True, False) for name in NAMES])

    async def visits() -> None:
        while rotation.number < last:
            await rotation.visit(*next(kinds))
            if rotation.number < min(last, rotation.served.total() // 10):
                rotation.turn()

    async def main() -> None:
        await rotation.start()
        await asyncio.gather(*[visits() for _ in range(6)])
        await rotation.end()

    run(main())
    assert len(rotation.served) > 6


def test_a_server_that_listens_again_after_close_has_its_current_certificate(run: Run) -> None:
    rotation = Rotation(2)

    async def main() -> None:
        await rotation.start()
        rotation.turn()
        await rotation.end()
        await rotation.start()
        for secure in (True, False):
            await rotation.visit(secure, "srv.test")
        await rotation.end()

    run(main())
    assert rotation.served == {1: 2}


@pytest.mark.nightly
@row("OPS-01", "TLS-24")
def test_two_hundred_clients_a_second_never_notice_a_change(run: Run) -> None:
    rate, seconds = 200, 10
    rotation = Rotation(101)
    kinds = cycle([(secure, name) for secure in (True, False) for name in NAMES])

    async def main() -> None:
        loop = asyncio.get_running_loop()
        await rotation.start()
        begun = loop.time()
        visits = []
        for number in range(rate * seconds):
            # The load comes by the clock, however the server does: that is what is tested.
            await asyncio.sleep(max(0.0, begun + number / rate - loop.time()))
            visits.append(asyncio.ensure_future(rotation.visit(*next(kinds))))
            if number % 20 == 19:
                rotation.turn()
        await asyncio.gather(*visits)
        await rotation.end()

    run(main())
    assert rotation.served.total() == rate * seconds
    assert rotation.number == 100


def tls_objects() -> Counter[str]:
    """How many objects there are of each class that a certificate needs."""
    gc.collect()
    kinds = (type(found).__name__ for found in gc.get_objects())
    return Counter(kind for kind in kinds if kind in WATCHED)


@row("OPS-01")
def test_two_hundred_changes_leave_nothing() -> None:
    server = SMTPServer(**DEFAULTS, **options_of(pairs(2)[0]))
    server.update_secure_context()
    before, files = tls_objects(), open_files()
    for _ in range(200):
        server.update_secure_context()
    assert tls_objects() == before
    assert opened_since(files) == {}


@pytest.mark.nightly
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc/self")
@row("OPS-01")
def test_ten_thousand_changes_leave_nothing(tmp_path: Path) -> None:
    """With a connection that lives through all of them, and a client now and then."""
    sets = pairs(2)
    files = {name: tmp_path / name for name in ("cert", "key")}
    server = SMTPServer(**DEFAULTS, **{**options_of(sets[0]), **files_of(files, sets[0])})

    def turns(count: int) -> None:
        for number in range(count):
            made = sets[number % 2]
            files_of(files, made)
            server.update_secure_context(sni_options=options_of(made)["sni_options"])
            if number % 100 == 0:
                with Wire(server, loop=old.loop) as wire:
                    client = MemoryClient(wire)
                    client.greet()
                    assert client.handshake().tls.getpeercert(True) == der(made["srv.test"])

    with Wire(server) as old:
        lasting = MemoryClient(old)
        lasting.greet()
        lasting.handshake()
        turns(1000)
        before, opened, octets = tls_objects(), open_files(), private_octets()
        turns(10_000)
        after, more = tls_objects(), private_octets()
        assert opened_since(opened) == {}
        assert lasting.codes(EH) == ["250"]
    assert after == before
    assert more - octets < 1 << 20  # a set is 20 KiB: one in a hundred would be seen


def files_of(files: dict[str, Path], made: dict[str, Pair]) -> dict[str, Path]:
    """Write the default's pair, as an operator would; returns its options."""
    files["cert"].write_bytes(made["srv.test"].cert)
    files["key"].write_bytes(made["srv.test"].key)
    return files
