"""Whole sessions: octets, answers of hooks, clocks, FIN, RST, a server that closes, in any order.

Asserted: replies parse and are no more than there were lines; hooks are called when they may be,
one at a time, `on_close` last; what is held is bounded; nothing is left of a transaction that has
ended, nor of a connection; the log is clean; and where the client may talk when it likes, all ways
to cut its octets give the same replies and the same calls. RFC 5321 §2.3.8, §4.1.4; RFC 2920 §3.1.
"""

from __future__ import annotations

import random
import zlib

import scenario
from fuzz.clean import clean_log
from fuzz.inputs import random_cuts
from fuzz.session_kit import Action, Case, Client, read_case
from resets import snapshot
from shared_loop import uncaught

MAX_OCTETS = 4096
MAX_OCTET_BY_OCTET = 1500


def assert_reset(client: Client) -> None:
    """A dialogue without a transaction is like one that has just been greeted the same way."""
    session = client.wire.session
    fresh = Client(client.case._replace(connect="accept", actions=[]))
    greeting = f"{session.opening_command} {session.host_name_appears_as}\r\n".encode()
    fresh.act((b"", [greeting]))
    found = snapshot(client.dialogue, "dialogue", {}, set())
    expected = snapshot(fresh.dialogue, "dialogue", {}, set())
    fresh.finish()
    different = {
        path: (found.get(path), expected.get(path))
        for path in sorted(found.keys() | expected.keys())
        if found.get(path) != expected.get(path)
    }
    assert not different, different


def play(case: Case, actions: list[Action]) -> Client:
    """Run a session to its end."""
    client = Client(case)
    for action in actions:
        client.act(action)
    if client.is_idle:
        client.wire.session.data.clear()
        assert_reset(client)
    client.finish()
    assert not uncaught, uncaught
    return client


def assert_counted(client: Client) -> None:
    """No reply without a command, and no acceptance that no hook has given."""
    replies = scenario.parse_replies(client.written)
    most = 3 + client.sent_line_ends  # a greeting, and a 421 for a clock and for a shutdown
    if client.case.is_lmtp:
        most *= client.recorder.most_recipients
    assert len(replies) <= most
    if not client.case.is_lmtp:
        accepted = [reply for reply in replies if reply.enhanced == "2.6.0"]
        assert len(accepted) <= client.recorder.messages_accepted
    closing = [at for at, reply in enumerate(replies) if reply.code in (221, 421)]
    if closing:
        after = replies[closing[0] + 1 :]
        assert not after or (client.case.is_lmtp and replies[closing[0]].code == 421)


def is_comparable(case: Case) -> bool:
    """Whether cutting must not matter: not where waiting does, nor where reading replies does."""
    return not case.options["strict_pipelining"] and (b"S", 0) not in case.actions


def cut_again(actions: list[Action], source: random.Random) -> list[Action]:
    """The same octets in other segments."""
    again: list[Action] = []
    for name, argument in actions:
        if name == b"":
            octets = b"".join(argument)
            if source.random() < 0.5 and len(octets) <= MAX_OCTET_BY_OCTET:
                argument = [octets[at : at + 1] for at in range(len(octets))]
            else:
                argument = random_cuts(octets, source) if source.random() < 0.7 else [octets]
            argument = [segment for segment in argument if segment]
        again.append((name, argument))
    return again


def check(octets: bytes) -> None:
    """Assert the invariants for one input."""
    octets = octets[:MAX_OCTETS]
    case = read_case(octets)
    with clean_log():
        first = play(case, case.actions)
        assert_counted(first)
        if is_comparable(case):
            source = random.Random(zlib.crc32(octets))
            other = play(case, cut_again(case.actions, source))
            assert other.written == first.written
            assert other.recorder.trace == first.recorder.trace
            assert other.recorder.bodies == first.recorder.bodies
