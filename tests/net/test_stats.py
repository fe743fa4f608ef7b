"""What a server has counted is what its clients have seen, whatever they send."""

from __future__ import annotations

import asyncio
import mmap
import re
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from clients import Sink, until
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families
from scenario import DEFAULTS, EH, PRE, TX

from fastsmtp import SMTPError, SMTPServer
from fastsmtp._counts.families import CODES, FAMILIES, STAGES
from fastsmtp.delivery import deliver
from fastsmtp.delivery.maildir import Maildir
from fastsmtp.delivery.spool import Spool
from fastsmtp.metrics import Collector, Stats, Tally, cell, clear_gauges, exposition, stats_of
from fastsmtp.testing import Wire

LOOSE: dict[str, Any] = {**DEFAULTS, "strict_pipelining": False}
REPLY = re.compile(rb"^([2-5][0-9][0-9]) ", re.MULTILINE)


def codes_of(stats: Stats) -> Counter[str]:
    found: Counter[str] = Counter()
    for by_code in stats["replies"].values():
        found.update(by_code)
    return found


def samples_of(text: str) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


async def talk(server: SMTPServer, octets: bytes) -> bytes:
    """Send all octets at once, and return all that comes until the server closes."""
    reader, writer = await asyncio.open_connection(*server.addresses()[0])
    writer.write(octets)
    await writer.drain()
    received = await reader.read()
    writer.close()
    return received


SESSION = b"".join(
    [EH, TX, b"RCPT TO:<no@y.example>\r\nDATA\r\nhello\r\n.\r\nBOGUS\r\nNOOP\r\n", TX, b"QUIT\r\n"]
)


def test_octets_replies_and_messages_are_those_that_a_client_counts(run: Any) -> None:
    async def main() -> None:
        def on_rcpt_to(address: Any, session: Any, callback: Any) -> None:
            callback(SMTPError("no", 550) if address.address.startswith("no") else None)

        server = Sink().server(on_rcpt_to=on_rcpt_to, strict_pipelining=False)
        await server.listen(0, "127.0.0.1")
        received = [await talk(server, SESSION) for _ in range(3)]
        await until(lambda: server.stats()["connections"]["now"] == 0)
        stats = server.stats()
        assert stats["octets"] == {"in": 3 * len(SESSION), "out": sum(map(len, received))}
        seen = Counter(code.decode() for each in received for code in REPLY.findall(each))
        assert codes_of(stats) == seen
        assert stats["connections"]["total"] == 3
        assert stats["messages"] == {"accepted": 3, "refused": 0, "aborted": 0}
        assert stats["recipients"] == {"accepted": 6, "refused": 3}
        assert stats["replies"]["rcpt"] == {"250": 6, "550": 3}
        assert stats["replies"]["message"] == {"250": 3}
        assert stats["hooks"]["seconds"]["on_rcpt_to"]["count"] == 9
        assert stats["process"]["ready"] == 1
        await server.close()
        assert server.stats()["process"]["ready"] == 0

    run(main())


def test_prometheus_reads_the_text_and_finds_the_same_numbers() -> None:
    with Wire(**DEFAULTS) as wire:
        wire.send(*PRE)
        text = exposition(wire.server.stats())
    samples = samples_of(text)
    assert samples["fastsmtp_connections_total", ()] == 1
    labels = (("code", "250"), ("stage", "mail"))
    assert samples["fastsmtp_replies_total", labels] == 1
    assert len(samples) == len([line for line in text.splitlines() if not line.startswith("#")])


def test_a_registry_of_prometheus_client_takes_a_server_by_one_line() -> None:
    registry = CollectorRegistry()
    with Wire(**DEFAULTS) as wire:
        registry.register(Collector(wire.server))
        wire.send(*PRE)
        expected = samples_of(exposition(wire.server.stats()))
        found = samples_of(generate_latest(registry).decode())
    assert found == expected


HOSTILE = [
    b"\x00\x03\x16\r\n",
    b"GET / HTTP/1.1\r\n\r\n",
    EH + b'MAIL FROM:<"\\"}{,=\\\\"@x.example>\r\nRCPT TO:<a@' + b"x" * 900 + b">\r\n",
    EH + b"X" * 4000 + b"\r\n" * 30,
    EH + b"AUTH \x1b[31m\r\nAUTH PLAIN =\r\n" + "XCLIENT NAME=\u202e\r\n".encode() * 3,
]


@pytest.mark.parametrize("octets", HOSTILE)
def test_no_octet_of_a_client_becomes_a_name_or_a_label(octets: bytes) -> None:
    names = {f"fastsmtp_{family.name}" for family in FAMILIES} | {"fastsmtp_build_info"}
    values = {value for family in FAMILIES for label in family.labels for value in label.values}
    with Wire(**DEFAULTS) as wire:
        wire.send(octets)
        text = exposition(wire.server.stats())
    for name, labels in samples_of(text):
        assert re.sub("_(bucket|sum|count)$", "", name) in names
        if name != "fastsmtp_build_info":
            assert {value for key, value in labels if key != "le"} <= values


@pytest.mark.parametrize("code", [400, 450, 499, 500, 549, 599])
def test_a_code_of_a_hook_is_counted_even_if_no_rfc_has_it(code: int) -> None:
    def on_mail_from(address: Any, session: Any, callback: Any) -> None:
        callback(SMTPError("no", code))

    with Wire(on_mail_from=on_mail_from, **DEFAULTS) as wire:
        wire.send(EH, b"MAIL FROM:<a@x.example>\r\n")
        expected = str(code) if str(code) in CODES else f"other {code // 100}xx"
        assert wire.server.stats()["replies"]["mail"] == {expected: 1}


def test_a_limit_that_ends_a_connection_is_counted_by_its_option() -> None:
    with Wire(max_unrecognized_commands=2, **DEFAULTS) as wire:
        wire.send(EH, b"FOO\r\nFOO\r\nFOO\r\n")
        assert wire.server.stats()["limits"]["max_unrecognized_commands"] == 1
    with Wire(size=10, **{**DEFAULTS, "on_data": lambda *a: a[-1]()}) as wire:
        wire.send(EH, b"MAIL FROM:<a@x.example> SIZE=11\r\n")
        assert wire.server.stats()["limits"]["size"] == 1


def test_a_client_that_is_too_slow_is_counted_as_a_timeout_of_the_stage_idle() -> None:
    with Wire(**DEFAULTS) as wire:
        wire.send(EH)
        wire.advance(600)
        stats = wire.server.stats()
        assert stats["limits"]["timeout"] == 1
        assert stats["replies"]["idle"] == {"421": 1}


def test_a_message_that_is_cut_is_aborted_once() -> None:
    with Wire(**DEFAULTS, on_data=lambda stream, session, callback: None) as wire:
        wire.send(*PRE, b"half")
        wire.reset()
        assert wire.server.stats()["messages"] == {"accepted": 0, "refused": 0, "aborted": 1}


def test_a_failing_hook_is_counted_by_its_name() -> None:
    def on_rcpt_to(address: Any, session: Any, callback: Any) -> None:
        raise LookupError("ours")

    with Wire(on_rcpt_to=on_rcpt_to, **DEFAULTS) as wire:
        wire.server.on("error", lambda error: None)
        wire.send(EH, TX)
        assert wire.server.stats()["hooks"]["failures"]["on_rcpt_to"] == 1


def test_the_time_that_clients_wait_for_a_hook_is_measured() -> None:
    waiting: list[Any] = []
    with Wire(on_mail_from=lambda a, s, callback: waiting.append(callback), **DEFAULTS) as wire:
        wire.send(EH, b"MAIL FROM:<a@x.example>\r\n")
        wire.advance(3)
        waiting[0]()
        found = wire.server.stats()["hooks"]["seconds"]["on_mail_from"]
    assert found["count"] == 1
    assert found["sum"] == pytest.approx(3)
    assert (found["buckets"]["2.5"], found["buckets"]["5"]) == (0, 1)


def test_the_delivery_of_a_server_is_in_its_stats(run: Any, tmp_path: Path) -> None:
    async def main() -> None:
        server = SMTPServer(**LOOSE, on_data=deliver(Maildir(tmp_path / "mail")))
        async with server:
            await server.listen(0, "127.0.0.1")
            await talk(server, b"".join([*PRE, b"hello\r\n.\r\nQUIT\r\n"]))
            found = server.stats()["delivery"]
        assert found["outcomes"]["delivered"] == 1
        assert found["promise"] == {"disk": 1}
        assert found["up"] == 1
        assert found["batch"]["count"] == found["seconds"]["count"] == 1
        assert found["in_flight"] == {"messages": 0, "octets": 0}

    run(main())


def test_a_spool_counts_what_waits_in_it_and_what_was_drained(run: Any, tmp_path: Path) -> None:
    async def main() -> None:
        waiting = Spool(str(tmp_path / "spool"), quota=10**9)
        server = SMTPServer(**LOOSE, on_data=deliver(waiting))
        async with server:
            await server.listen(0, "127.0.0.1")
            await talk(server, b"".join([*PRE, b"hello\r\n.\r\nQUIT\r\n"]))
            await until(lambda: server.stats()["spool"]["oldest"] > 0)
            found = server.stats()["spool"]
            assert (found["messages"], found["quota"]) == (1, 10**9)
            assert 0 < found["octets"] < 10_000
        drained = Spool(str(tmp_path / "spool"), drain_into=Maildir(tmp_path / "mail"))
        server = SMTPServer(**LOOSE, on_data=deliver(drained))
        async with server:
            await server.listen(0, "127.0.0.1")
            await until(lambda: server.stats()["spool"]["messages"] == 0)
            assert server.stats()["spool"]["drained"]["delivered"] == 1

    run(main())


def test_servers_can_share_a_tally_in_memory_that_outlives_them() -> None:
    page = mmap.mmap(-1, Tally.SIZE)
    for _ in range(2):
        server = SMTPServer(**DEFAULTS)
        server.count_in(Tally(page))
        with Wire(server) as wire:
            wire.send(*PRE)
            with pytest.raises(RuntimeError, match="listens already"):
                server.count_in(Tally())
    assert stats_of(Tally(page))["connections"]["total"] == 2


def test_gauges_count_only_for_processes_that_run_and_counters_for_all() -> None:
    first, second = Tally(), Tally()
    for number, tally in enumerate((first, second), 1):
        tally.set(cell("start_time_seconds"), number * 10**9)
        tally.set(cell("open_connections"), number)
        tally.set(cell("delivery_up"), 1)
        tally.set(cell("ready"), 1)
        tally.add(cell("connections_total"), number)
    both = stats_of(first, second)
    assert both["connections"]["now"] == both["connections"]["total"] == 3
    assert both["process"]["started"] == 1.0
    clear_gauges(second)
    left = stats_of(first, second)
    assert (left["connections"]["now"], left["connections"]["total"]) == (1, 3)
    assert left["delivery"]["up"] == 1


def test_every_stage_of_the_command_table_is_one_that_is_counted() -> None:
    with Wire(**DEFAULTS) as wire:
        wire.send(EH, b"NOOP\r\n")
        assert {*wire.server.stats()["replies"]} == {*STAGES}


@pytest.mark.parametrize("memory", [b"", bytearray(8), memoryview(bytes(Tally.SIZE))])
def test_memory_that_cannot_hold_a_tally_is_an_error(memory: Any) -> None:
    with pytest.raises((ValueError, BufferError)):
        Tally(memory)


def test_a_cell_outside_of_the_memory_is_an_index_error() -> None:
    tally = Tally()
    for number in (-1, Tally.SIZE // 8):
        with pytest.raises(IndexError):
            tally.add(number)
        with pytest.raises(IndexError):
            tally.set(number, 1)
        with pytest.raises(IndexError):
            tally.observe(number, 1.0)
        with pytest.raises(IndexError):
            tally.observe_size(number, 1)
