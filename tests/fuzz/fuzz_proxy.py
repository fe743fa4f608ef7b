"""PROXY headers: read as the oracle reads them, however they are cut; what follows is kept.

An invalid one is cut in silence, and leaves clean text only.

An input is one octet of choices and then what a balancer sends.
"""

from __future__ import annotations

import random
import zlib
from typing import Any

import scenario
from fuzz.clean import UNCLEAN, clean_log
from fuzz.fuzz_data import ways
from fuzz.inputs import Input
from proxy_kit import expected
from shared_loop import shared_loop, uncaught

from fastsmtp._wire.proxy_header import ProxyFault, ProxyHeader, ProxyReader
from fastsmtp.testing import Wire

MAX_OCTETS = 5000
BALANCER = ("10.0.0.7", 40000)


def read(segments: list[bytes]) -> tuple[Any, bytes | None]:
    """What the reader says, and what is after it; of a fault that depends on the cut."""
    reader = ProxyReader()
    for index, segment in enumerate(segments):
        found = reader.feed(segment)
        if isinstance(found, ProxyHeader):
            facts = found.version, found.command, found.source, found.destination
            after = reader.rest + b"".join(segments[index + 1 :])
            return (*facts, found.tlvs, found.ssl), after
        if found is not None:
            return ProxyFault(found), None
    return None, None


def check_connection(segments: list[bytes], accepted: bool) -> None:
    """The same octets to a server: it greets, or says nothing at all."""
    connected: list[Any] = []

    def on_connect(session: Any, callback: Any) -> None:
        connected.append(session.proxy)
        callback()

    options = {**scenario.DEFAULTS, "use_proxy": ["10.0.0.0/8"], "on_connect": on_connect}
    with Wire(peer=BALANCER, loop=shared_loop(), **options) as wire:
        written = wire.send(*segments)
        assert bool(connected) is accepted
        assert written.startswith(b"220 ") if accepted else not written
        if accepted:
            for name in ("alpn", "authority", "netns"):
                assert not UNCLEAN.search(connected[0].get(name, ""))
            ssl = connected[0].get("ssl") or {}
            assert not UNCLEAN.search("".join(filter(None, map(ssl.get, ("cn", "version")))))
        wire.advance(10)
        assert accepted or wire.transport.closed
    assert not uncaught, uncaught


def check(octets: bytes) -> None:
    """Assert the invariants for one input."""
    given = Input(octets[:MAX_OCTETS])
    kind = given.octet()
    rest = given.rest()
    source = random.Random(zlib.crc32(octets))
    oracle = expected(rest)
    whole = read([rest])
    if isinstance(oracle, tuple):
        *facts, size = oracle
        assert whole == (tuple(facts), rest[size:])
    elif oracle is False:
        assert isinstance(whole[0], ProxyFault)
    else:  # not yet decided for the oracle, which waits for the end of a line
        assert not isinstance(whole[0], tuple)
    cuts = list(ways(rest, source))
    for segments in cuts:
        assert read(segments) == whole
    with clean_log():
        check_connection(cuts[kind % len(cuts)], isinstance(oracle, tuple))
